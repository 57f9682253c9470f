"""Makes a shop: a catalogue, and the purchases of users who have plans, as RecBole atomic files or as CSV.

    python -m offline.generate_catalogue --out DIR --users 2000 --items 800 --seed 0
    tessera demo --write-data DIR    # the same as interactions.csv and items.csv

Users work through projects. A project belongs to a department and takes its steps in order (printer, ink, paper,
album); what is bought at a step mostly matches the brand and series the project began with, even when another purchase
came between. Between projects tastes drift, and users return to brands they know. Departments, brands and series differ
in popularity, and some purchases are whims. So what comes next depends on what came last, and on little else.
"""

import argparse
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_store.catalog import Catalog
from offline.shop_vocabulary import DEPARTMENTS, MAKERS, SERIES, STEPS
from offline.write_csv import write_csv
from offline.write_recbole import write_recbole

NAME = "shop"
"""The data set's name: `shop.inter`, `shop.item`."""
MIN_ITEMS = 20
MIN_EVENTS, MAX_EVENTS = 8, 20
"""Purchases of a user."""

# Chances of: a purchase out of turn, going on with the project, matching its brand, and its series, at the next step,
# and starting the next project with a brand known from that department.
_WHIM, _NEXT_STEP, _SAME_BRAND, _SAME_SERIES, _LOYALTY = 0.1, 0.88, 0.88, 0.75, 0.6
_DRAWS = 8
"""Random numbers an event may use."""
_DRIFT = 0.5
"""Standard deviation of a taste's random walk between two projects; tastes are log weights of departments."""
_START = 1_672_531_200
"""Earliest purchase, Unix seconds (2023-01-01)."""
_DAY = 86_400


@dataclass(frozen=True)
class _Shop:
    """The catalogue, and where its items stand."""

    catalog: Catalog
    shelves: Sequence[Sequence[dict[tuple[int, int], int]]]
    """By department and step: (brand, series) -> item index, popular first."""
    brand_weights: Sequence[float]
    """Cumulative, up to 1; brand 0 of a department is its most popular."""
    series_weights: Sequence[float]
    item_weights: Sequence[float]
    """Cumulative, by item index: popularity among whims."""


def generate(folder: Path, *, users: int, items: int, seed: int, as_csv: bool = False) -> None:
    """Writes `shop.inter` and `shop.item`, or `interactions.csv` and `items.csv`; the same arguments give the same
    bytes.

    Raises:
        ValueError: fewer than 1 user or than `MIN_ITEMS` items.
    """
    if users < 1 or items < MIN_ITEMS:
        raise ValueError(f"a shop has at least 1 user and {MIN_ITEMS} items, not {users} and {items}")
    rng = np.random.default_rng(seed)
    shop = _build_shop(items, rng)
    lengths = rng.integers(MIN_EVENTS, MAX_EVENTS + 1, users)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    bought: list[int] = []
    days: list[float] = []
    for length in lengths.tolist():
        shopper = _Shopper(shop, rng)
        for draws in rng.random((length, _DRAWS)).tolist():
            item, wait_days = shopper.buy(draws)
            bought.append(item)
            days.append(wait_days)
    write = write_csv if as_csv else partial(write_recbole, name=NAME)
    write(
        folder,
        catalog=shop.catalog,
        user_ids=[f"u{user:0{len(str(users))}d}" for user in range(1, users + 1)],
        offsets=offsets,
        items=np.array(bought, np.int32),
        timestamps=_timestamps(np.array(days), offsets, rng),
    )


def _build_shop(count: int, rng: np.random.Generator) -> _Shop:
    departments = DEPARTMENTS[: max(1, min(len(DEPARTMENTS), count // MIN_ITEMS))]
    kinds = [(d, s) for d in range(len(departments)) for s in range(STEPS)]
    per_kind = -(-count // len(kinds))
    brands = min(len(MAKERS), max(2, round(per_kind**0.5)))
    # (department, step, brand, series) of every item; then shuffled, so that an index tells nothing.
    places = [(*kinds[n % len(kinds)], n // len(kinds) % brands, n // len(kinds) // brands) for n in range(count)]
    places = [places[n] for n in rng.permutation(count).tolist()]
    price_factors = rng.lognormal(0.0, 0.15, count).tolist()
    in_stock = rng.random(count) >= 0.03

    titles, texts, categories, prices, attributes, weights = [], [], [], [], [], []
    shelves: list[list[dict[tuple[int, int], int]]] = [[{} for _ in range(STEPS)] for _ in departments]
    for (d, s, b, k), factor in zip(places, price_factors, strict=True):
        step = departments[d].steps[s]
        brand, series = MAKERS[(d * 5 + b) % len(MAKERS)], _series_name(k)
        titles.append(f"{brand} {series} {step.noun}")
        texts.append(f"{step.description} Matches the rest of the {brand} {series} line.")
        categories.append((departments[d].name, step.category))
        prices.append(max(1, round(step.price * factor * (0.8 + 0.1 * (b % 5)))) - 0.01)
        attributes.append({"brand": brand})
        weights.append(_weight(d) * _weight(b) * _weight(k))
        shelves[d][s][b, k] = len(titles) - 1
    width = len(str(count))
    catalog = Catalog(
        item_ids=tuple(f"p{n:0{width}d}" for n in range(1, count + 1)),
        titles=tuple(titles),
        texts=tuple(texts),
        categories=tuple(categories),
        prices=np.array(prices, np.float32),
        attributes=tuple(attributes),
        available=in_stock,
    )
    return _Shop(
        catalog=catalog,
        shelves=[[dict(sorted(shelf.items())) for shelf in steps] for steps in shelves],
        brand_weights=_cumulative([_weight(b) for b in range(brands)]),
        series_weights=_cumulative([_weight(k) for k in range(-(-per_kind // brands))]),
        item_weights=_cumulative(weights),
    )


def _series_name(number: int) -> str:
    name, generation = SERIES[number % len(SERIES)], number // len(SERIES) + 1
    return name if generation == 1 else f"{name} {generation}"


def _weight(rank: int) -> float:
    return float((rank + 1) ** -0.7)


def _cumulative(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    return [part / total for part in accumulate(weights)]


def _draw(cumulative: Sequence[float], uniform: float) -> int:
    # Rounding may leave the last sum a little under 1.
    return min(bisect_right(cumulative, uniform), len(cumulative) - 1)


class _Shopper:
    """One user's state between purchases."""

    def __init__(self, shop: _Shop, rng: np.random.Generator) -> None:
        self._shop = shop
        departments = len(shop.shelves)
        # A user starts a project every few events, at most one an event.
        steps = rng.normal(0, _DRIFT, (MAX_EVENTS + 1, departments))
        steps[0] = rng.normal(0, 1.5, departments) + np.log([_weight(d) for d in range(departments)])
        self._tastes = iter(np.exp(np.cumsum(steps, axis=0)).tolist())
        self._bought: set[int] = set()
        self._known_brand: dict[int, int] = {}
        self._department = self._brand = self._series = 0
        self._step = STEPS

    def buy(self, draws: Sequence[float]) -> tuple[int, float]:
        """The next item, and the days since the last one; uses up to `_DRAWS` uniform numbers."""
        whim, goes_on, department, loyal, brand, series, matching, wait = draws
        if whim < _WHIM:
            # What is left of the number is uniform again.
            item = _draw(self._shop.item_weights, whim / _WHIM)
            if item not in self._bought:
                return self._take(item), wait
        if self._step + 1 < STEPS and goes_on < _NEXT_STEP:
            self._step += 1
            place = (
                self._brand if loyal < _SAME_BRAND else _draw(self._shop.brand_weights, brand),
                self._series if matching < _SAME_SERIES else _draw(self._shop.series_weights, series),
            )
            return self._pick(place), 0.05 + 6 * wait
        self._step = 0
        self._department = _draw(_cumulative(next(self._tastes)), department)
        known = self._known_brand.get(self._department)
        self._brand = known if known is not None and loyal < _LOYALTY else _draw(self._shop.brand_weights, brand)
        self._series = _draw(self._shop.series_weights, series)
        self._known_brand[self._department] = self._brand
        return self._pick((self._brand, self._series)), 5 + 50 * wait

    def _pick(self, place: tuple[int, int]) -> int:
        """The item at a place of the current shelf; else one of its brand, else any, first those not bought yet."""
        shelf = self._shop.shelves[self._department][self._step]
        if place in shelf and shelf[place] not in self._bought:
            return self._take(shelf[place])
        fresh = {other: item for other, item in shelf.items() if item not in self._bought} or shelf
        return self._take(
            next((item for (brand, _), item in fresh.items() if brand == place[0]), next(iter(fresh.values())))
        )

    def _take(self, item: int) -> int:
        self._bought.add(item)
        return item


def _timestamps(days: NDArray[np.float64], offsets: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Waits in days to Unix seconds, strictly growing within a user; users start within half a year."""
    waits = np.maximum(60, np.round(days * _DAY))
    waits[offsets[:-1]] = rng.integers(0, 180 * _DAY, len(offsets) - 1)
    total = np.cumsum(waits)
    before = np.concatenate([[0.0], total])[offsets[:-1]]
    return np.asarray(_START + total - np.repeat(before, np.diff(offsets)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a shop with users who have plans, as RecBole atomic files.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write shop.inter and shop.item to")
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--items", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.users < 1 or args.items < MIN_ITEMS:
        parser.error(f"at least 1 user and {MIN_ITEMS} items")
    generate(args.out, users=args.users, items=args.items, seed=args.seed)


if __name__ == "__main__":
    main()
