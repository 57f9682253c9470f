"""Examples of unequal length laid into rows, so that little of a batch is padding.

An example is never split, and its positions count from 0, so a row stands for its examples only under an attention mask
that keeps them apart (`example_RT` says which tokens belong together).

Shapes: R rows, T tokens, E examples, C code responses, L levels, P tokens of text responses.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offline.tasks.examples import TaskExample
from offline.tasks.task_mix import FAMILIES

NO_EXAMPLE = -1
"""In `example_RT`: padding."""


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Rows of examples, and where their responses are predicted.

    A *place* is row * T + column: an index into any [R, T] array laid flat. The state at a place predicts the token
    after it, so the places of a response start one before it.

    Attributes:
        input_ids: int64 [R, T].
        position_ids: int64 [R, T]; restart at 0 with each example, 0 on padding.
        example_RT: int64 [R, T]; which of `examples` a token belongs to, NO_EXAMPLE on padding.
        examples: as they came.
        starts: int64 [E, 2]; row and column of each example's first token.
        code_example, code_item, code_family: int64 [C]; the example, its target item, its index in `FAMILIES`.
        code_places: int64 [C, L]; whose state predicts each code token.
        text_example, text_family: int64 [P]; the example and its index in `FAMILIES`, for each token of text.
        text_places, text_targets: int64 [P]; whose state predicts the token, and the token.
    """

    input_ids: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    example_RT: NDArray[np.int64]
    examples: list[TaskExample]
    starts: NDArray[np.int64]
    code_example: NDArray[np.int64]
    code_item: NDArray[np.int64]
    code_family: NDArray[np.int64]
    code_places: NDArray[np.int64]
    text_example: NDArray[np.int64]
    text_family: NDArray[np.int64]
    text_places: NDArray[np.int64]
    text_targets: NDArray[np.int64]


def pack(examples: list[TaskExample], row_length: int, pad_token: int) -> PackedBatch:
    """Lay examples into as few rows as best fit finds; T is the longest row, at most `row_length`.

    Raises:
        ValueError: an example is longer than a row.
    """
    lengths = np.array([len(example.tokens) for example in examples], dtype=np.int64)
    starts = _best_fit(lengths, row_length)
    ends = starts[:, 1] + lengths
    width = int(ends.max(initial=0))
    firsts = starts[:, 0] * width + starts[:, 1]
    rows = int(starts[:, 0].max(initial=-1)) + 1

    # Every token of every example, end to end: whose it is, where in the example, where in the batch.
    example = np.repeat(np.arange(len(examples)), lengths)
    offsets = np.cumsum(lengths) - lengths
    position = np.arange(len(example)) - offsets[example]
    place = firsts[example] + position
    tokens = np.concatenate([e.tokens for e in examples]).astype(np.int64) if examples else np.zeros(0, np.int64)

    def spread(values: NDArray[np.int64], padding: int) -> NDArray[np.int64]:
        flat = np.full(rows * width, padding, dtype=np.int64)
        flat[place] = values
        return flat.reshape(rows, width)

    family = np.array([FAMILIES.index(e.family) for e in examples], dtype=np.int64)
    item = np.array([e.item for e in examples], dtype=np.int64)
    response = np.array([e.response_start for e in examples], dtype=np.int64)
    code_example = np.flatnonzero(item >= 0)
    levels = int((lengths - response)[code_example].max(initial=0))
    of_text = (position >= response[example]) & (item[example] < 0)
    return PackedBatch(
        input_ids=spread(tokens, pad_token),
        position_ids=spread(position, 0),
        example_RT=spread(example, NO_EXAMPLE),
        examples=examples,
        starts=starts,
        code_example=code_example,
        code_item=item[code_example],
        code_family=family[code_example],
        code_places=(firsts + response)[code_example, None] - 1 + np.arange(levels),
        text_example=example[of_text],
        text_family=family[example[of_text]],
        text_places=place[of_text] - 1,
        text_targets=tokens[of_text],
    )


def _best_fit(lengths: NDArray[np.int64], row_length: int) -> NDArray[np.int64]:
    """Row and column of each example, longest first, each into the fullest row that takes it; int64 [E, 2]."""
    if lengths.max(initial=0) > row_length:
        raise ValueError(f"an example of {lengths.max()} tokens does not fit a row of {row_length}")
    starts = np.zeros((len(lengths), 2), dtype=np.int64)
    free: list[tuple[int, int]] = []
    rows = 0
    for example in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[example])
        at = bisect_left(free, (length, -1))
        if at == len(free):
            left, row = row_length, rows
            rows += 1
        else:
            left, row = free.pop(at)
        starts[example] = row, row_length - left
        insort(free, (left - length, row))
    return starts
