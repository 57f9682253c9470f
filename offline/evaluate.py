"""Ranking metrics of a published version on held-out items, beside its collaborative encoder and popularity.

Every user of the split is ranked over all items, under two protocols: `all` leaves the items of the history in the
ranking, `unseen` takes them out. Published numbers use either; compare only within one.

Beside the metrics stands how many of the codes that a decoder returned name an item: under the trie all of them. With
the per-position constraint, which exists only here, a system more shows what the same language model does without one.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model_store.bundle import Bundle
from model_store.collaborative.encoder_files import load_encoder
from model_store.decoders.protocol import Decoder, DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.errors import TesseraError
from offline.code_validity import code_validity, spelled
from offline.held_out_ranking import Scores, decoded_lists, decoded_sequences, scored_ranks
from offline.interactions import Dataset
from offline.leave_one_out import EvaluationCases, leave_one_out
from offline.per_position_decode import PerPositionDecoder
from offline.ranking_metrics import CUTOFFS, ranking_metrics, ranks_in_lists

SplitName = Literal["valid", "test"]
Constraint = Literal["trie", "position"]
ALONE = "language model"
"""The row of a version's language model without its collaborative encoder, where that has a say."""

PER_POSITION = "per position"
"""The row of a version's language model without its encoder and without a trie (see `per_position_decode`)."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics by protocol and system, and `code_validity` by protocol and decoder."""

    dataset: str
    version: str
    split: SplitName
    users: int
    protocols: dict[str, dict[str, dict[str, float]]]
    codes: dict[str, dict[str, dict[str, float]]]

    def as_dict(self) -> dict[str, Any]:
        """The object that `tessera evaluate --json` prints."""
        return dict(vars(self))


def evaluate(
    bundle: Bundle,
    decoder: TorchDecoder,
    dataset: Dataset,
    split: SplitName,
    beam_width: int,
    *,
    constraint: Constraint = "trie",
) -> Evaluation:
    """Measure a version.

    Args:
        bundle: the version.
        decoder: of its language model.
        dataset: what it was trained on.
        split: whose items are to be found.
        beam_width: of the search under the trie.
        constraint: with `position`, a search under the per-position constraint is measured too.

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
    sequences = None
    if constraint == "position":
        per_position = PerPositionDecoder.of_bundle(bundle, decoder.language_model)
        sequences = decoded_sequences(per_position, cases.histories, len(cases.targets), PER_POSITION)
    protocols: dict[str, dict[str, dict[str, float]]] = {}
    codes: dict[str, dict[str, dict[str, float]]] = {}
    for name, seen_excluded in (("all", False), ("unseen", True)):
        answers = {
            system: _under_the_trie(one, bundle, cases, beam_width, seen_excluded, f"{system}, {name}")
            for system, one in decoders.items()
        }
        if sequences is not None:
            answers[PER_POSITION] = _Answers(sequences, _items_of(sequences, bundle, cases, seen_excluded))
        protocols[name] = {
            **{system: ranking_metrics(ranks_in_lists(one.lists, cases.targets)) for system, one in answers.items()},
            **{system: _scored(cases, seen_excluded, one) for system, one in scores.items()},
        }
        codes[name] = {
            system: code_validity(one.sequences, one.lists, bundle.item_codes) for system, one in answers.items()
        }
    return Evaluation(dataset.name, bundle.version, split, len(cases.targets), protocols, codes)


@dataclass(frozen=True)
class _Answers:
    """The codes a decoder returned to each user, uint8 [K, L], and the items of the list made of them."""

    sequences: list[NDArray[np.uint8]]
    lists: list[list[int]]


def _under_the_trie(
    decoder: Decoder, bundle: Bundle, cases: EvaluationCases, beam_width: int, seen_excluded: bool, what: str
) -> _Answers:
    nothing = np.empty(0, dtype=np.int32)
    requests = [
        DecodeRequest(
            history=history, n=max(CUTOFFS), beam_width=beam_width, excluded=history if seen_excluded else nothing
        )
        for history in (cases.histories[row] for row in range(len(cases.targets)))
    ]
    lists = decoded_lists(decoder, requests, what)
    return _Answers([spelled(bundle.trie, items) for items in lists], lists)


def _items_of(
    sequences: list[NDArray[np.uint8]], bundle: Bundle, cases: EvaluationCases, seen_excluded: bool
) -> list[list[int]]:
    """What is left of each answer without the sequences that name no item, and without seen items.

    Without a trie there is nothing to leave items out of beforehand: what is seen is dropped afterwards.
    """
    lists = []
    for row, codes_KL in enumerate(sequences):
        items = bundle.item_codes.items_of(codes_KL)
        kept = items >= 0
        if seen_excluded:
            kept &= ~np.isin(items, cases.histories[row])
        lists.append(items[kept].tolist())
    return lists


def _scored(cases: EvaluationCases, seen_excluded: bool, scores: Scores) -> dict[str, float]:
    return ranking_metrics(scored_ranks(scores, cases.histories, cases.targets, seen_excluded=seen_excluded))
