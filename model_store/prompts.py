"""Histories, queries and instructions to prompts: the only place where they are rendered, for training and for serving.

A prompt ends right before the first token of the answer. Version 2:

    <|history|> code code ... code                                      the next item (the sequential task)
    [<|history|> code ... code] <|ask|> instruction <|answer|>          any other task

Codes go oldest first, each is four tokens, and nothing separates them: their levels already say where one ends, and a
token saved is a position less in every forward pass. Because the sequential template only ever grows to the right, one
rendered history holds a training example for each of its items, and an instruction after a history reuses its prefix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from string import Formatter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.code_tokens import CodeTokens
from model_store.errors import DecoderUnusable
from model_store.instructions import QUERY
from model_store.item_codes import ItemCodes

PROMPT_VERSION = 2
HISTORY_TOKEN = "<|history|>"
ASK_TOKEN = "<|ask|>"
ANSWER_TOKEN = "<|answer|>"
MARKERS = (HISTORY_TOKEN, ASK_TOKEN, ANSWER_TOKEN)

MAX_INSTRUCTION_TOKENS = 96
"""Tokens between <|ask|> and <|answer|>; the text in an instruction is cut to fit."""

_TEXT_SLOT, _ITEMS_SLOT = "text", "items"


@dataclass(frozen=True)
class PromptEncoder:
    """Turns histories and instructions into token ids.

    Attributes:
        preamble: token ids before the first code.
        item_tokens_NL: int32 [N, L], the tokens that spell each item.
        max_history: how many of the newest items a prompt holds.
        tokenizer: Hugging Face tokenizer of the text in instructions; None for a model that only knows histories.
    """

    preamble: tuple[int, ...]
    item_tokens_NL: NDArray[np.int32]
    max_history: int
    tokenizer: Any = None

    @classmethod
    def create(cls, tokenizer: Any, code_tokens: CodeTokens, codes: ItemCodes, max_history: int) -> "PromptEncoder":
        """Make the encoder of one model.

        Raises:
            DecoderUnusable: the tokenizer lacks a marker.
        """
        vocabulary = tokenizer.get_vocab()
        missing = [marker for marker in MARKERS if marker not in vocabulary]
        if missing:
            raise DecoderUnusable(
                f"the tokenizer lacks {', '.join(missing)}; it does not belong to this Tessera version"
            )
        return cls((vocabulary[HISTORY_TOKEN],), code_tokens.of_items(codes), max_history, tokenizer)

    @property
    def max_length(self) -> int:
        """Tokens of the longest prompt."""
        history = len(self.preamble) + self.max_history * int(self.item_tokens_NL.shape[1])
        return history if self.tokenizer is None else history + MAX_INSTRUCTION_TOKENS + 2

    def sequential(self, history: NDArray[np.integer]) -> NDArray[np.int32]:
        """The prompt that asks for the next item; int32 [len(preamble) + L * min(H, max_history)]."""
        codes = self.item_tokens_NL[history[-self.max_history :]].ravel()
        return np.concatenate([np.array(self.preamble, dtype=np.int32), codes])

    def query(self, history: NDArray[np.integer], query: str) -> NDArray[np.int32]:
        """The prompt that asks for the item meant by `query`, by a user with this history (which may be empty)."""
        return self.instruction(history, self.fill(QUERY, text=self.query_text(query)))

    def instruction(self, history: NDArray[np.integer], tokens: Sequence[int]) -> NDArray[np.int32]:
        """A prompt with an instruction after the history; int32. Instructions too long lose their end."""
        ask, answer = self._ask_and_answer
        asked = np.array([ask, *tokens[:MAX_INSTRUCTION_TOKENS], answer], dtype=np.int32)
        return np.concatenate([self.sequential(history), asked]) if len(history) else asked

    def fill(self, template: str, *, text: Sequence[int] = (), items: Sequence[int] = ()) -> list[int]:
        """Token ids of an instruction, for `instruction`.

        Args:
            template: one of `model_store.instructions`; may have the slots `{text}` and `{items}`, each once.
            text: token ids, as of `phrase`; they lose their end where they are too many.
            items: item indices, spelled as codes.

        Raises:
            ValueError: the template has another slot.
        """
        room = max(0, self.room(template, len(items)))
        filled: list[int] = []
        for literal, slot in self._pieces(template):
            filled += literal
            if slot == _TEXT_SLOT:
                filled += text[:room]
            elif slot == _ITEMS_SLOT:
                filled += self.item_tokens_NL[np.asarray(items, dtype=np.int64)].ravel().tolist()
            elif slot is not None:
                raise ValueError(f"instruction {template!r} has a slot {slot!r}, which nothing fills")
        return filled

    def room(self, template: str, items: int = 0) -> int:
        """How many tokens of text fit a template, beside its own words and the codes of so many items.

        Below 0 when not even the codes fit; `instruction` would cut them.
        """
        words = sum(len(literal) for literal, _ in self._pieces(template))
        return MAX_INSTRUCTION_TOKENS - words - items * int(self.item_tokens_NL.shape[1])

    def text(self, text: str) -> list[int]:
        """Token ids of plain text; markers and code tokens written out in it are read as text, not as tokens."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return ids

    def phrase(self, text: str) -> list[int]:
        """Token ids of text that fills a slot or is an answer; empty for blank text.

        It is read behind a blank, as in the middle of a sentence, so that a word is the same tokens wherever it stands.
        """
        words = " ".join(text.split())
        return self.text(f" {words}") if words else []

    def query_text(self, query: str) -> list[int]:
        """Token ids of a query; capitals are not told apart, since people who search rarely use them."""
        return self.phrase(query.lower())

    @cached_property
    def _ask_and_answer(self) -> tuple[int, int]:
        # Looking a token up copies the whole vocabulary, which takes milliseconds.
        vocabulary = self.tokenizer.get_vocab()
        return vocabulary[ASK_TOKEN], vocabulary[ANSWER_TOKEN]

    def _pieces(self, template: str) -> list[tuple[list[int], str | None]]:
        """The tokens of a template's own words, each with the slot behind them; tokenised once."""
        if template not in self._templates:
            self._templates[template] = [
                (self.text(literal.rstrip(" ") if slot else literal) if literal.strip() else [], slot)
                for literal, slot, _, _ in Formatter().parse(template)
            ]
        return self._templates[template]

    @cached_property
    def _templates(self) -> dict[str, list[tuple[list[int], str | None]]]:
        return {}
