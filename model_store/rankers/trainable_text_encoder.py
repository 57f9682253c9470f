"""A sentence-transformers model as a module: its weights are trained, and stored with a ranker's own.

Shapes: M texts, X of a vector.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.text_encoder import TextConfig, load_sentence_transformer

_TEXTS_A_PASS = 64


class TrainableTextEncoder(nn.Module):
    """Unit-length vectors of texts, with gradients.

    Args:
        config: which model; the weights it starts from are those of `TextEncoder`.

    Raises:
        TesseraError: it cannot be found.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.model = load_sentence_transformer(config)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """[M, X]."""
        device = next(self.model.parameters()).device
        features = self.model.preprocess(list(texts))
        moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in features.items()}
        return functional.normalize(self.model(moved)["sentence_embedding"].float(), dim=-1)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """[M, X] of any number of texts, in passes, without gradients and without dropout."""
        before = self.training
        self.eval()
        starts = range(0, len(texts), _TEXTS_A_PASS)
        found = torch.cat([self(texts[start : start + _TEXTS_A_PASS]) for start in starts])
        self.train(before)
        return found
