"""A language model that counts what it computes: what a floor is made of."""

from torch import Tensor

from model_store.decoders.language_model import AppendOnlyLayer, HuggingFaceModel


class CountedModel(HuggingFaceModel):
    """Counts over all calls.

    Attributes:
        positions: tokens that went through the layers.
        states: hidden states that went through the head.
    """

    positions = 0
    states = 0

    def hidden(
        self, tokens_UT: Tensor, positions_UT: Tensor, visible_UTK: Tensor | None, cache: list[AppendOnlyLayer] | None
    ) -> Tensor:
        """See `LanguageModel`."""
        self.positions += tokens_UT.numel()
        return super().hidden(tokens_UT, positions_UT, visible_UTK, cache)

    def logits(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        """See `LanguageModel`."""
        self.states += hidden.shape[:-1].numel()
        return super().logits(hidden, token_ids)
