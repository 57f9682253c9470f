"""Held-out items ranked in bulk, by whatever ranks them: a decoder's lists, or scores of all items."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from model_store.decoders.protocol import Decoded, Decoder, DecodeRequest
from offline.leave_one_out import Histories
from offline.per_position_decode import PerPositionDecoder
from offline.progress import progress
from offline.ranking_metrics import ranks_in_scores

_CHUNK = 512

Scores = Callable[[list[NDArray[np.int32]]], NDArray[np.float32]]
"""Histories -> a score of every item after each of them; [len(histories), N], to be written to."""


def decoded_lists(decoder: Decoder, requests: Sequence[DecodeRequest], what: str) -> list[list[int]]:
    """The items of each request's answer, best first; `what` names the work in its progress."""
    return [[one.item for one in answer] for answer in decoded_answers(decoder, requests, what)]


def decoded_answers(decoder: Decoder, requests: Sequence[DecodeRequest], what: str) -> list[list[Decoded]]:
    """Each request's answer, best first; `what` names the work in its progress."""
    found: list[list[Decoded]] = []
    with progress(f"decode ({what})", len(requests), "users") as advance:
        for start in range(0, len(requests), _CHUNK):
            answers = decoder.decode(requests[start : start + _CHUNK])
            found += answers
            advance(len(answers))
    return found


def decoded_sequences(
    decoder: PerPositionDecoder, histories: Histories, count: int, what: str
) -> list[NDArray[np.uint8]]:
    """The codes returned after each of the first `count` histories, best first; uint8 [K, L] each."""
    found: list[NDArray[np.uint8]] = []
    with progress(f"decode ({what})", count, "users") as advance:
        for start in range(0, count, _CHUNK):
            answers = decoder.decode([histories[row] for row in range(start, min(start + _CHUNK, count))])
            found += [answer.codes_KL for answer in answers]
            advance(len(answers))
    return found


def scored_ranks(
    scores: Scores,
    histories: Histories | list[NDArray[np.int32]],
    targets: NDArray[np.integer],
    *,
    seen_excluded: bool,
    closed_N: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """1-based rank of each target by score, 0 where it may not be ranked; int64 [len(targets)].

    Args:
        scores: what ranks.
        histories: one for each target.
        targets: the items to find.
        seen_excluded: whether items of the history are out of the ranking.
        closed_N: items that are out of every ranking.
    """
    ranks = [np.empty(0, np.int64)]
    for start in range(0, len(targets), _CHUNK):
        chunk = [histories[row] for row in range(start, min(start + _CHUNK, len(targets)))]
        scores_UN = scores(chunk)
        if closed_N is not None:
            scores_UN[:, closed_N] = -np.inf
        if seen_excluded:
            exclude_seen(scores_UN, chunk)
        ranks.append(ranks_in_scores(scores_UN, targets[start : start + _CHUNK]))
    return np.concatenate(ranks)


def exclude_seen(scores_UN: NDArray[np.floating], histories: list[NDArray[np.int32]]) -> None:
    """Set the scores of the items of each history to -inf, in place."""
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    scores_UN[rows, np.concatenate(histories)] = -np.inf
