"""How well items are recommended that were added after training: hide some, train, add them, and rank them.

A share of the items is hidden with all its events, a version is trained on the rest and extended by the hidden items.
Cases are the held-out next items of the whole data that are hidden ones; a case's history is what the user met of the
known items before, and users who met none are counted and left out. Everything is ranked under two protocols: `all`
items of the extended catalogue, and `new`, the added ones alone, which the decoder is told by its filter. Items of the
history are left out of both, as in serving.

Beside the version: popularity, which is 0 for every new item; the text's nearest neighbours, by the mean text vector of
the newest items of the history; and a random order.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.bundle import Bundle, ModelStore
from model_store.catalog import Catalog
from model_store.decoders.protocol import Decoder, DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.errors import TesseraError
from model_store.prefix_trie import EligibleItems
from model_store.text_encoder import text_config
from offline.add_items import add_items
from offline.embed_items import embed_items
from offline.evaluate import SplitName
from offline.held_out_ranking import Scores, decoded_lists, scored_ranks
from offline.interactions import Dataset
from offline.leave_one_out import leave_one_out
from offline.progress import say
from offline.ranking_metrics import ranking_metrics, ranks_in_lists
from offline.recipe import Recipe
from offline.train import Run, train

CUTOFFS = (10, 20)
NEIGHBOUR_HISTORY = 5
"""Newest items of a history that the text's neighbours are looked for around."""


@dataclass(frozen=True)
class NewItemEvaluation:
    """Metrics by protocol and system, and of how many they are.

    Attributes:
        dataset: its name.
        base: the version trained without the hidden items.
        version: its extension by them.
        split: which held-out items were ranked.
        items: of the extended catalogue.
        new_items: hidden from training and added.
        users: cases; each is one user whose next item is a new one.
        targets: new items that are the next item of somebody.
        without_history: cases left out, because the user had met no known item.
        protocols: protocol -> system -> metric -> value.
    """

    dataset: str
    base: str
    version: str
    split: SplitName
    items: int
    new_items: int
    users: int
    targets: int
    without_history: int
    protocols: dict[str, dict[str, dict[str, float]]]

    def as_dict(self) -> dict[str, Any]:
        """The object that `tessera evaluate-new-items --json` prints."""
        return dict(vars(self))


@dataclass(frozen=True, eq=False)
class _Cases:
    """Histories and targets as item indices of the extended catalogue."""

    histories: list[NDArray[np.int32]]
    targets: NDArray[np.int64]
    without_history: int


def train_and_evaluate_new_items(
    dataset: Dataset, recipe: Recipe, home: Path, *, share: float, seed: int, split: SplitName, beam_width: int
) -> NewItemEvaluation:
    """Hide, train with the recipe, add and measure; what was trained stays in `home/new-items/store`.

    A version that was trained there before, with the same settings on the same part of the data, is measured again.

    Raises:
        TesseraError: the data cannot be trained on, or hiding leaves no case.
    """
    reduced, hidden = hide_items(dataset, share, seed)
    folder = home / "new-items"
    store = ModelStore(folder / "store")
    bundle = _trained_before(store, reduced, recipe)
    if bundle is None:
        say(f"{dataset.name}: {len(hidden)} of {len(dataset.catalog)} items hidden from training")
        bundle = train(Run.create(reduced, recipe, folder), store)
    return evaluate_new_items(store, bundle, dataset, hidden, split=split, beam_width=beam_width, seed=seed)


def hide_items(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Catalog]:
    """The data without a random share of the items and without all their events, and the hidden items' rows.

    Items are drawn evenly, whether anybody met them or not; both catalogues keep the order of the data's. Users whose
    every event was about hidden items are gone.

    Raises:
        TesseraError: the share leaves no hidden or no known item.
    """
    count = len(dataset.catalog)
    hide = round(share * count)
    if not 0 < hide < count:
        raise TesseraError(f"{dataset.name}: a share of {share} hides {hide} of {count} items; hide some, and not all")
    chosen = np.random.default_rng(seed).permutation(count)[:hide]
    known = np.ones(count, dtype=np.bool_)
    known[chosen] = False
    new_index = np.cumsum(known) - 1
    kept = known[dataset.items]
    events = np.concatenate([[0], np.cumsum(kept)])[dataset.offsets]
    lengths = np.diff(events)
    users = np.flatnonzero(lengths)
    secret = hashlib.sha256(f"{dataset.fingerprint} without {np.sort(chosen).tolist()}".encode())
    reduced = replace(
        dataset,
        catalog=dataset.catalog.select(np.flatnonzero(known)),
        user_ids=tuple(dataset.user_ids[user] for user in users.tolist()),
        offsets=np.concatenate([[0], np.cumsum(lengths[users])]).astype(np.int64),
        items=new_index[dataset.items[kept]].astype(np.int32),
        timestamps=dataset.timestamps[kept],
        fingerprint=secret.hexdigest(),
    )
    return reduced, dataset.catalog.select(np.flatnonzero(~known))


def evaluate_new_items(
    store: ModelStore,
    base: Bundle,
    dataset: Dataset,
    hidden: Catalog,
    *,
    split: SplitName,
    beam_width: int,
    seed: int,
) -> NewItemEvaluation:
    """Add the hidden items to a version that was trained without them, and measure how they are recommended.

    Args:
        store: where the base is published, and its extension will be.
        base: trained on what `hide_items` left.
        dataset: the whole data.
        hidden: from `hide_items`.
        split: which held-out items of the whole data to rank.
        beam_width: of the constrained decode.
        seed: of the random order.

    Raises:
        TesseraError: the version was trained on something else, or no user's next item is a hidden one.
    """
    found = {*base.catalog.item_ids}
    if found | {*hidden.item_ids} != {*dataset.catalog.item_ids} or found & {*hidden.item_ids}:
        raise TesseraError(
            f"version {base.version} and {len(hidden)} hidden items do not make up the catalogue of {dataset.name!r}; "
            "train on what hide_items left of this data"
        )
    extended = add_items(store, base, hidden)
    cases = _cases(dataset, extended, len(base.catalog), split)
    if not cases.histories:
        raise TesseraError(
            f"{dataset.name}: the next item of no user of the {split} split is among the {len(hidden)} hidden ones; "
            "hide a larger share"
        )
    is_new = np.arange(len(extended.catalog)) >= len(base.catalog)
    decoder = TorchDecoder.from_bundle(extended)
    systems: dict[str, Scores] = {
        "popular": lambda histories: np.tile(np.asarray(extended.popularity), (len(histories), 1)),
        "text_neighbours": _text_neighbours(extended),
        "random": _random_order(len(extended.catalog), seed),
    }
    protocols = {}
    for protocol, eligible in (("all", None), ("new", EligibleItems.from_mask(extended.trie, is_new))):
        measured = {"tessera": _decoded(decoder, cases, eligible, beam_width, protocol)}
        closed = np.zeros(len(is_new), dtype=np.bool_) if eligible is None else ~is_new
        protocols[protocol] = measured | {name: _scored(cases, scores, closed) for name, scores in systems.items()}
    return NewItemEvaluation(
        dataset=dataset.name,
        base=base.version,
        version=extended.version,
        split=split,
        items=len(extended.catalog),
        new_items=len(hidden),
        users=len(cases.histories),
        targets=len(np.unique(cases.targets)),
        without_history=cases.without_history,
        protocols=protocols,
    )


def _trained_before(store: ModelStore, dataset: Dataset, recipe: Recipe) -> Bundle | None:
    for version in reversed(store.versions()):
        manifest = store.manifest(version)
        if (
            manifest.extends is None
            and manifest.data_fingerprint == dataset.fingerprint
            and manifest.config == recipe.as_dict()
        ):
            say(f"{dataset.name}: trained before, as {version}")
            return store.open(version)
    return None


def _cases(dataset: Dataset, extended: Bundle, known_items: int, split: SplitName) -> _Cases:
    index_of = np.array([extended.catalog.index_of(item_id) for item_id in dataset.catalog.item_ids], dtype=np.int32)
    cases = leave_one_out(dataset).evaluation_cases(split)
    histories, targets, without_history = [], [], 0
    for row in np.flatnonzero(index_of[cases.targets] >= known_items).tolist():
        met = index_of[cases.histories[row]]
        history = met[met < known_items]
        if len(history):
            histories.append(history)
            targets.append(int(index_of[cases.targets[row]]))
        else:
            without_history += 1
    return _Cases(histories, np.array(targets, dtype=np.int64), without_history)


def _decoded(
    decoder: Decoder, cases: _Cases, eligible: EligibleItems | None, beam_width: int, protocol: str
) -> dict[str, float]:
    requests = [
        DecodeRequest(history=history, n=max(CUTOFFS), beam_width=beam_width, excluded=history, eligible=eligible)
        for history in cases.histories
    ]
    return ranking_metrics(ranks_in_lists(decoded_lists(decoder, requests, protocol), cases.targets), CUTOFFS)


def _scored(cases: _Cases, scores: Scores, closed_N: NDArray[np.bool_]) -> dict[str, float]:
    ranks = scored_ranks(scores, cases.histories, cases.targets, seen_excluded=True, closed_N=closed_N)
    return ranking_metrics(ranks, CUTOFFS)


def _text_neighbours(bundle: Bundle) -> Scores:
    text_NX = embed_items(bundle.catalog, text_config(bundle))

    def scores(histories: list[NDArray[np.int32]]) -> NDArray[np.float32]:
        wanted_UX = np.stack([text_NX[history[-NEIGHBOUR_HISTORY:]].mean(axis=0) for history in histories])
        found: NDArray[np.float32] = wanted_UX @ text_NX.T
        return found

    return scores


def _random_order(items: int, seed: int) -> Scores:
    random = np.random.default_rng(seed)
    return lambda histories: random.random((len(histories), items), dtype=np.float32)
