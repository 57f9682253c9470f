"""Histories to prompts: the only place where they are rendered, for training and for serving.

A prompt ends right before the first code token of the answer. Version 1 has one template, the sequential task:

    <|history|> code code ... code        (oldest first; each code is four tokens)

Nothing separates the codes: their levels already say where one ends, and a token saved is a position less in every
forward pass. Because the template only ever grows to the right, one rendered history holds a training example for each
of its items.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.code_tokens import CodeTokens, Vocabulary
from model_store.errors import DecoderUnusable
from model_store.item_codes import ItemCodes

PROMPT_VERSION = 1
HISTORY_TOKEN = "<|history|>"


@dataclass(frozen=True)
class PromptEncoder:
    """Turns histories into token ids.

    Attributes:
        preamble: token ids before the first code.
        item_tokens_NL: int32 [N, L], the tokens that spell each item.
        max_history: how many of the newest items a prompt holds.
    """

    preamble: tuple[int, ...]
    item_tokens_NL: NDArray[np.int32]
    max_history: int

    @classmethod
    def create(
        cls, tokenizer: Vocabulary, code_tokens: CodeTokens, codes: ItemCodes, max_history: int
    ) -> "PromptEncoder":
        """Make the encoder of one model.

        Raises:
            DecoderUnusable: the tokenizer has no history token.
        """
        marker = tokenizer.get_vocab().get(HISTORY_TOKEN)
        if marker is None:
            raise DecoderUnusable(f"the tokenizer lacks {HISTORY_TOKEN}; it does not belong to a Tessera model")
        return cls((marker,), code_tokens.of_items(codes), max_history)

    @property
    def max_length(self) -> int:
        """Tokens of the longest prompt."""
        return len(self.preamble) + self.max_history * int(self.item_tokens_NL.shape[1])

    def sequential(self, history: NDArray[np.integer]) -> NDArray[np.int32]:
        """The prompt that asks for the next item; int32 [len(preamble) + L * min(H, max_history)]."""
        codes = self.item_tokens_NL[history[-self.max_history :]].ravel()
        return np.concatenate([np.array(self.preamble, dtype=np.int32), codes])
