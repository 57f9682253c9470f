"""What a text query does to recommendations, measured on the held-out items of users who did not type any.

The query is written from the target (`QueryWriter.evaluation_query`): its narrowest category and one telling word. Each
user is decoded three ways, which differ in nothing but what is asked:

    history         the next item, no query
    history_query   the same history, and the query
    query           the query alone, as of a user nobody has met

Two questions: does the list keep to what was asked for (the share of its items in the target's narrowest category, over
targets that have one), and is the target found sooner. Items of the history are left out of all three, so that the same
items are ranked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.bundle import Bundle
from model_store.catalog import Catalog
from model_store.decoders.protocol import Decoder, DecodeRequest
from model_store.errors import TesseraError
from offline.evaluate import SplitName
from offline.held_out_ranking import decoded_lists
from offline.interactions import Dataset
from offline.leave_one_out import leave_one_out
from offline.ranking_metrics import ranking_metrics, ranks_in_lists
from offline.tasks.queries import QueryWriter

LIST_LENGTH = 10
WAYS = ("history", "history_query", "query")


@dataclass(frozen=True)
class QueryEvaluation:
    """Metrics of each way of asking.

    Attributes:
        dataset: its name.
        version: what was measured.
        split: which held-out items were the targets.
        users: cases; those of `skipped` are not among them.
        skipped: users for whose target no query can be written.
        with_category: cases whose target has a category; category shares are means over these.
        chance: the share of the catalogue's items in the target's category: what a random list would keep to. None
            where no target has one.
        ways: way -> metric -> value: `recall@10`, `ndcg@10`, and where there are categories `category_share@10`.
    """

    dataset: str
    version: str
    split: SplitName
    users: int
    skipped: int
    with_category: int
    chance: float | None
    ways: dict[str, dict[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """The object that `tessera evaluate-queries --json` prints."""
        return dict(vars(self))


@dataclass(frozen=True)
class QueryCase:
    """A user, what they met next, and the query for it."""

    history: NDArray[np.int32]
    target: int
    category: str | None
    query: str


def evaluate_queries(
    bundle: Bundle, decoder: Decoder, dataset: Dataset, split: SplitName, beam_width: int, users: int | None = None
) -> QueryEvaluation:
    """Measure a version.

    Args:
        bundle: the version; an extension of one trained on this data will do.
        decoder: decodes it.
        dataset: what it was trained on.
        split: which held-out items to ask for.
        beam_width: of the constrained decode.
        users: measure this many, drawn by the version's seed; all by default.

    Raises:
        TesseraError: the version was trained on other data, or no query can be written for any target.
    """
    if dataset.fingerprint != bundle.manifest.data_fingerprint:
        raise TesseraError(
            f"version {bundle.version} was trained on {bundle.manifest.dataset!r}, not on this {dataset.name!r}; "
            "measure it on its own data, or pass --version"
        )
    cases, skipped = query_cases(dataset, split)
    if not cases:
        raise TesseraError(
            f"{dataset.name}: no query can be written for any target of the {split} split; "
            "queries are measured on catalogues with titles of several words, categories or brands"
        )
    if users is not None:
        chosen = np.random.default_rng(bundle.manifest.seed).permutation(len(cases))[:users]
        cases = [cases[row] for row in np.sort(chosen).tolist()]
    members = _members(bundle.catalog)
    sizes = [len(members[case.category]) / len(bundle.catalog) for case in cases if case.category is not None]
    return QueryEvaluation(
        dataset=dataset.name,
        version=bundle.version,
        split=split,
        users=len(cases),
        skipped=skipped,
        with_category=len(sizes),
        chance=float(np.mean(sizes)) if sizes else None,
        ways={way: _measure(decoder, cases, way, beam_width, members) for way in WAYS},
    )


def query_cases(dataset: Dataset, split: SplitName) -> tuple[list[QueryCase], int]:
    """The cases of a split in the order of its users, and how many users make none."""
    writer = QueryWriter(dataset.catalog)
    held_out = leave_one_out(dataset).evaluation_cases(split)
    cases = []
    for row, target in enumerate(held_out.targets.tolist()):
        if writer.writable[target]:
            categories = dataset.catalog.categories[target]
            query = writer.evaluation_query(target)
            cases.append(QueryCase(held_out.histories[row], target, categories[-1] if categories else None, query))
    return cases, len(held_out.targets) - len(cases)


def request_of(case: QueryCase, way: str, beam_width: int) -> DecodeRequest:
    """One of the three ways to ask; only `history` and `query` of the requests of a case differ."""
    return DecodeRequest(
        history=case.history[:0] if way == "query" else case.history,
        n=LIST_LENGTH,
        beam_width=beam_width,
        excluded=case.history,
        query=None if way == "history" else case.query,
    )


def category_share(items: Sequence[int], members: frozenset[int]) -> float:
    """Which share of a list is in a category; 0 for an empty list."""
    return sum(item in members for item in items) / len(items) if items else 0.0


def _measure(
    decoder: Decoder, cases: Sequence[QueryCase], way: str, beam_width: int, members: dict[str, frozenset[int]]
) -> dict[str, float]:
    lists = decoded_lists(decoder, [request_of(case, way, beam_width) for case in cases], way)
    targets = np.array([case.target for case in cases], dtype=np.int64)
    metrics = ranking_metrics(ranks_in_lists(lists, targets), [LIST_LENGTH])
    shares = [
        category_share(items, members[case.category])
        for items, case in zip(lists, cases, strict=True)
        if case.category is not None
    ]
    return metrics | ({f"category_share@{LIST_LENGTH}": float(np.mean(shares))} if shares else {})


def _members(catalog: Catalog) -> dict[str, frozenset[int]]:
    found: dict[str, set[int]] = {}
    for item, categories in enumerate(catalog.categories):
        for category in categories:
            found.setdefault(category, set()).add(item)
    return {category: frozenset(items) for category, items in found.items()}
