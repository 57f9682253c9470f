"""Ranking metrics of a published version on held-out items, beside its collaborative encoder and popularity.

Every user of the split is ranked over all items, under two protocols: `all` leaves the items of the history in the
ranking, `unseen` takes them out. Published numbers use either; compare only within one.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from model_store.bundle import Bundle
from model_store.collaborative.encoder_files import load_encoder
from model_store.decoders.protocol import Decoder, DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.errors import TesseraError
from offline.held_out_ranking import Scores, decoded_lists, scored_ranks
from offline.interactions import Dataset
from offline.leave_one_out import EvaluationCases, leave_one_out
from offline.ranking_metrics import CUTOFFS, ranking_metrics, ranks_in_lists

SplitName = Literal["valid", "test"]
ALONE = "language model"
"""The row of a version's language model without its collaborative encoder, where that has a say."""


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


def evaluate(bundle: Bundle, decoder: TorchDecoder, dataset: Dataset, split: SplitName, beam_width: int) -> Evaluation:
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
    encoder = load_encoder(bundle.encoder_path)
    decoders = {"tessera": decoder}
    scores: dict[str, Scores] = {}
    if bundle.manifest.collaborative_weight:
        decoders[ALONE] = decoder.alone()
    if bundle.teacher_path != bundle.encoder_path:
        teacher = load_encoder(bundle.teacher_path)
        scores["teacher"] = lambda some: teacher.next_item_logits(some).numpy()
    scores[encoder.kind] = lambda some: encoder.next_item_logits(some).numpy()
    scores["popular"] = lambda some: np.tile(bundle.popularity, (len(some), 1))
    protocols = {
        name: {
            **{
                system: _decoded(one, cases, beam_width, seen_excluded, f"{system}, {name}")
                for system, one in decoders.items()
            },
            **{system: _scored(cases, seen_excluded, one) for system, one in scores.items()},
        }
        for name, seen_excluded in (("all", False), ("unseen", True))
    }
    return Evaluation(dataset.name, bundle.version, split, len(cases.targets), protocols)


def _decoded(
    decoder: Decoder, cases: EvaluationCases, beam_width: int, seen_excluded: bool, what: str
) -> dict[str, float]:
    nothing = np.empty(0, dtype=np.int32)
    requests = [
        DecodeRequest(
            history=history, n=max(CUTOFFS), beam_width=beam_width, excluded=history if seen_excluded else nothing
        )
        for history in (cases.histories[row] for row in range(len(cases.targets)))
    ]
    return ranking_metrics(ranks_in_lists(decoded_lists(decoder, requests, what), cases.targets))


def _scored(cases: EvaluationCases, seen_excluded: bool, scores: Scores) -> dict[str, float]:
    return ranking_metrics(scored_ranks(scores, cases.histories, cases.targets, seen_excluded=seen_excluded))
