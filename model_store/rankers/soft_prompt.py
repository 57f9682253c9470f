"""Prompts in which some places are vectors instead of words: soft tokens.

A prompt is token ids and slots. What a slot's vector is made of is the ranker's business; a slot only says of which
kind it is and of what: an item by its index, a user by the number of the request in its batch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, int64, tensor


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one vector.

    Attributes:
        kind: which of a ranker's soft tokens; `user` and `item`, for example.
        key: an item's index, or for what belongs to the user the number of the request in its batch.
    """

    kind: str
    key: int


@dataclass(frozen=True, slots=True)
class SoftPrompt:
    """A piece of a prompt: token ids, and slots between them."""

    parts: tuple[int | Slot, ...]

    @classmethod
    def of(cls, *pieces: "Iterable[int] | Slot | SoftPrompt") -> "SoftPrompt":
        """Put pieces in a row: token ids, slots, and other prompts."""
        parts: list[int | Slot] = []
        for piece in pieces:
            if isinstance(piece, Slot):
                parts.append(piece)
            else:
                parts += piece.parts if isinstance(piece, SoftPrompt) else piece
        return cls(tuple(parts))

    def __len__(self) -> int:
        return len(self.parts)

    def __add__(self, other: "SoftPrompt") -> "SoftPrompt":
        return SoftPrompt(self.parts + other.parts)


def slot_keys(prompts: Sequence[SoftPrompt], kind: str) -> Tensor:
    """Keys of all slots of a kind, prompt by prompt and from left to right; int64 [S].

    It is the order in which `SoftPromptModel.embed` wants the vectors.
    """
    keys = [part.key for prompt in prompts for part in prompt.parts if isinstance(part, Slot) and part.kind == kind]
    return tensor(keys, dtype=int64)
