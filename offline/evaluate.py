"""Ranking metrics of a published version on held-out items, beside its collaborative encoder and popularity.

Every user of the split is ranked over all items, under two protocols: `all` leaves the items of the history in the
ranking, `unseen` takes them out. Published numbers use either; compare only within one.

Beside the metrics stands how many of the codes that a decoder returned name an item: under the trie all of them. With
the per-position constraint, which exists only here, a system more shows what the same language model does without one.
A version's ranker is measured on the generator's own candidates: what the two rows differ in is the order alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model_store.bundle import Bundle
from model_store.collaborative.encoder_files import load_encoder
from model_store.decoders.protocol import Decoded, Decoder, DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.errors import TesseraError
from offline.code_validity import code_validity, spelled
from offline.held_out_ranking import Scores, decoded_answers, decoded_sequences, scored_ranks
from offline.interactions import Dataset
from offline.leave_one_out import EvaluationCases, leave_one_out
from offline.per_position_decode import PerPositionDecoder
from offline.progress import progress
from offline.ranking_metrics import CUTOFFS, ranking_metrics, ranks_in_lists
from offline.reranking import Reranker, ranker_record, reordered

SplitName = Literal["valid", "test"]
ALONE = "language model"
"""The row of a version's language model without its collaborative encoder, where that has a say."""
Constraint = Literal["trie", "position"]
PER_POSITION = "per position"
"""The row of a version's language model without its encoder and without a trie (see `per_position_decode`)."""

_USERS_AT_A_TIME = 256


@dataclass(frozen=True, kw_only=True)
class Reranking:
    """How a version's ranker is measured."""

    candidates: int = 50
    """Of each user, from the generator."""
    weights: tuple[float, ...] = (1.0,)
    """The ranker's shares of the order, a row each."""

    def __post_init__(self) -> None:
        if self.candidates < max(CUTOFFS):
            raise TesseraError(f"evaluate --rank: {self.candidates} candidates; at least {max(CUTOFFS)} are measured")


@dataclass(frozen=True)
class Evaluation:
    """Metrics by protocol and system.

    Attributes:
        dataset, version, split: what was measured on what.
        users: how many.
        protocols: protocol -> row -> metric -> value.
        codes: protocol -> decoder -> its `code_validity`.
        among_candidates: by protocol, the share of users whose item is among the candidates that the ranker ordered:
            no order of them can exceed it. Empty without a ranker.
    """

    dataset: str
    version: str
    split: SplitName
    users: int
    protocols: dict[str, dict[str, dict[str, float]]]
    codes: dict[str, dict[str, dict[str, float]]]
    among_candidates: dict[str, float] = field(default_factory=dict)

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
    reranking: Reranking | None = None,
    users: int | None = None,
) -> Evaluation:
    """Measure a version.

    Args:
        bundle: the version.
        decoder: of its language model.
        dataset: what it was trained on.
        split: whose items are to be found.
        beam_width: of the search under the trie; at least the candidates of a ranker, for the generator's own rows too.
        constraint: with `position`, a search under the per-position constraint is measured too.
        reranking: measure its ranker beside it; None for the generator alone.
        users: measure this many, drawn by the version's seed; all by default.

    Raises:
        TesseraError: the version was trained on other data, so that this split may hold its training events. Or it has
            no ranker to be measured.
    """
    if dataset.fingerprint != bundle.manifest.data_fingerprint:
        raise TesseraError(
            f"version {bundle.version} was trained on {bundle.manifest.dataset!r} "
            f"({bundle.manifest.data_fingerprint[:12]}), this is {dataset.name!r} ({dataset.fingerprint[:12]}); "
            "evaluate it on its own data, or pass --version"
        )
    ranking = None if reranking is None else _Ranking(bundle, dataset, reranking)
    cases = leave_one_out(dataset).evaluation_cases(split)
    if len(cases.targets) == 0:
        raise TesseraError(f"{dataset.name}: no user has the 3 events an evaluation needs")
    if users is not None:
        cases = cases.select(np.random.default_rng(bundle.manifest.seed).permutation(len(cases.targets))[:users])
    most = max(CUTOFFS) if reranking is None else reranking.candidates
    width = max(beam_width, most)
    decoders = {"tessera": (decoder, most)}
    if bundle.manifest.collaborative_weight:
        decoders[ALONE] = (decoder.alone(), max(CUTOFFS))
    sequences = None
    if constraint == "position":
        per_position = PerPositionDecoder.of_bundle(bundle, decoder.language_model)
        sequences = decoded_sequences(per_position, cases.histories, len(cases.targets), PER_POSITION)
    scores = _scores_of(bundle)
    protocols: dict[str, dict[str, dict[str, float]]] = {}
    codes: dict[str, dict[str, dict[str, float]]] = {}
    among_candidates: dict[str, float] = {}
    for name, seen_excluded in (("all", False), ("unseen", True)):
        found = {
            system: _decoded(one, cases, count, width, seen_excluded, f"{system}, {name}")
            for system, (one, count) in decoders.items()
        }
        answers = {
            system: _Answers([spelled(bundle.trie, items) for items in _items(lists)], _items(lists))
            for system, lists in found.items()
        }
        if sequences is not None:
            answers[PER_POSITION] = _Answers(sequences, _items_of(sequences, bundle, cases, seen_excluded))
        rows = {system: ranking_metrics(ranks_in_lists(one.lists, cases.targets)) for system, one in answers.items()}
        if ranking is not None:
            generated = rows.pop("tessera")
            rows = {"tessera": generated} | ranking.rows(cases, found["tessera"], name) | rows
            among_candidates[name] = float((ranks_in_lists(answers["tessera"].lists, cases.targets) > 0).mean())
        protocols[name] = rows | {system: _scored(cases, seen_excluded, one) for system, one in scores.items()}
        codes[name] = {
            system: code_validity(one.sequences, one.lists, bundle.item_codes) for system, one in answers.items()
        }
    return Evaluation(dataset.name, bundle.version, split, len(cases.targets), protocols, codes, among_candidates)


def _scores_of(bundle: Bundle) -> dict[str, Scores]:
    """What is measured beside the version, by name: its teacher, its collaborative encoder, and popularity."""
    encoder = load_encoder(bundle.encoder_path)
    scores: dict[str, Scores] = {}
    if bundle.teacher_path != bundle.encoder_path:
        teacher = load_encoder(bundle.teacher_path)
        scores["teacher"] = lambda some: teacher.next_item_logits(some).numpy()
    scores[encoder.kind] = lambda some: encoder.next_item_logits(some).numpy()
    scores["popular"] = lambda some: np.tile(bundle.popularity, (len(some), 1))
    return scores


@dataclass(frozen=True)
class _Answers:
    """The codes a decoder returned to each user, uint8 [K, L], and the items of the list made of them."""

    sequences: list[NDArray[np.uint8]]
    lists: list[list[int]]


class _Ranking:
    """Measures a version's ranker."""

    def __init__(self, bundle: Bundle, dataset: Dataset, config: Reranking) -> None:
        self._name, self._user_ids, self._config = ranker_record(bundle).recipe, dataset.user_ids, config
        self._reranker = Reranker.of_version(bundle)

    def rows(
        self, cases: EvaluationCases, found: Sequence[list[Decoded]], protocol: str
    ) -> dict[str, dict[str, float]]:
        """A row for each weight; candidates and scores are the same in all of them."""
        scores = []
        with progress(f"rank ({self._name}, {protocol})", len(found), "users") as advance:
            for start in range(0, len(found), _USERS_AT_A_TIME):
                some = found[start : start + _USERS_AT_A_TIME]
                rows = range(start, start + len(some))
                users = [self._user_ids[cases.users[row]] for row in rows]
                scores += self._reranker.scores(users, [cases.histories[row] for row in rows], some)
                advance(len(some))
        return {
            self._name if weight == 1 else f"{self._name} x {weight:g}": _metrics(
                [reordered(items, scores_K, weight) for items, scores_K in zip(found, scores, strict=True)], cases
            )
            for weight in self._config.weights
        }


def _decoded(
    decoder: Decoder, cases: EvaluationCases, most: int, beam_width: int, seen_excluded: bool, what: str
) -> list[list[Decoded]]:
    nothing = np.empty(0, dtype=np.int32)
    requests = [
        DecodeRequest(history=history, n=most, beam_width=beam_width, excluded=history if seen_excluded else nothing)
        for history in (cases.histories[row] for row in range(len(cases.targets)))
    ]
    return decoded_answers(decoder, requests, what)


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


def _items(found: Sequence[list[Decoded]]) -> list[list[int]]:
    return [[one.item for one in items] for items in found]


def _metrics(found: Sequence[list[Decoded]], cases: EvaluationCases) -> dict[str, float]:
    return ranking_metrics(ranks_in_lists(_items(found), cases.targets))


def _scored(cases: EvaluationCases, seen_excluded: bool, scores: Scores) -> dict[str, float]:
    return ranking_metrics(scored_ranks(scores, cases.histories, cases.targets, seen_excluded=seen_excluded))
