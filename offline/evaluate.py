"""Ranking metrics of a published version on held-out items, beside its collaborative encoder and popularity.

Every user of the split is ranked over all items, under two protocols: `all` leaves the items of the history in the
ranking, `unseen` takes them out. Published numbers use either; compare only within one.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model_store.bundle import Bundle
from model_store.decoders.protocol import Decoder, DecodeRequest
from model_store.errors import TesseraError
from offline.collaborative.encoder import CollaborativeEncoder
from offline.collaborative.encoder_files import load_encoder
from offline.collaborative.validation import exclude_seen
from offline.interactions import Dataset
from offline.leave_one_out import EvaluationCases, leave_one_out
from offline.progress import progress
from offline.ranking_metrics import CUTOFFS, ranking_metrics, ranks_in_lists, ranks_in_scores

SplitName = Literal["valid", "test"]
_CHUNK = 512


@dataclass(frozen=True)
class Evaluation:
    """Metrics by protocol and system."""

    dataset: str
    version: str
    split: SplitName
    users: int
    protocols: dict[str, dict[str, dict[str, float]]]

    def as_dict(self) -> dict[str, Any]:
        """The object that `tessera evaluate --json` prints."""
        return dict(vars(self))


def evaluate(bundle: Bundle, decoder: Decoder, dataset: Dataset, split: SplitName, beam_width: int) -> Evaluation:
    """Measure a version.

    Raises:
        TesseraError: the version was trained on other data, so that this split may hold its training events.
    """
    if dataset.fingerprint != bundle.manifest.data_fingerprint:
        raise TesseraError(
            f"version {bundle.version} was trained on {bundle.manifest.dataset!r} "
            f"({bundle.manifest.data_fingerprint[:12]}), this is {dataset.name!r} ({dataset.fingerprint[:12]}); "
            "evaluate it on its own data, or pass --version"
        )
    cases = leave_one_out(dataset).evaluation_cases(split)
    if len(cases.targets) == 0:
        raise TesseraError(f"{dataset.name}: no user has the 3 events an evaluation needs")
    encoder = load_encoder(bundle, len(dataset.catalog))
    protocols = {
        name: {
            "tessera": _decoded(decoder, cases, beam_width, seen_excluded, name),
            encoder.kind: _scored(cases, seen_excluded, encoder, None),
            "popular": _scored(cases, seen_excluded, None, np.asarray(bundle.popularity)),
        }
        for name, seen_excluded in (("all", False), ("unseen", True))
    }
    return Evaluation(dataset.name, bundle.version, split, len(cases.targets), protocols)


def _decoded(
    decoder: Decoder, cases: EvaluationCases, beam_width: int, seen_excluded: bool, protocol: str
) -> dict[str, float]:
    nothing = np.empty(0, dtype=np.int32)
    lists: list[list[int]] = []
    with progress(f"decode ({protocol})", len(cases.targets), "users") as advance:
        for start in range(0, len(cases.targets), _CHUNK):
            histories = [cases.histories[row] for row in range(start, min(start + _CHUNK, len(cases.targets)))]
            answers = decoder.decode(
                [
                    DecodeRequest(
                        history=history,
                        n=max(CUTOFFS),
                        beam_width=beam_width,
                        excluded=history if seen_excluded else nothing,
                    )
                    for history in histories
                ]
            )
            lists += [[decoded.item for decoded in answer] for answer in answers]
            advance(len(histories))
    return ranking_metrics(ranks_in_lists(lists, cases.targets))


def _scored(
    cases: EvaluationCases,
    seen_excluded: bool,
    encoder: CollaborativeEncoder | None,
    popularity: NDArray[np.float32] | None,
) -> dict[str, float]:
    ranks = []
    for start in range(0, len(cases.targets), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(cases.targets)))
        histories = [cases.histories[row] for row in rows]
        if encoder is not None:
            scores = encoder.next_item_logits(histories).numpy()
        else:
            assert popularity is not None
            scores = np.tile(popularity, (len(histories), 1))
        if seen_excluded:
            exclude_seen(scores, histories)
        ranks.append(ranks_in_scores(scores, cases.targets[list(rows)]))
    return ranking_metrics(np.concatenate(ranks))
