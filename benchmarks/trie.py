"""The prefix trie of ten million items is built in under 10 seconds and takes under 120 bytes an item.

Measured: building `PrefixTrie` from a code array, the uniqueness check included; its bytes; the children of a decoder's
beams, level by level, as one vectorised look-up and one call per node; and the pass over the catalogue that turns an
eligibility mask into a prefix sum. Codes are random and unique, the hardest case: hardly any item shares a prefix.
Beside it: a Python dict from prefix to child tokens, the usual way to constrain a decode (up to a million items).
Floor: one `np.sort` of the packed codes, 4 bytes of code an item, and one copy of the mask.
"""

import sys
import tracemalloc
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks import harness
from benchmarks.harness import Claim, Report, Spread, Table
from model_store.item_codes import ItemCodes
from model_store.prefix_trie import EligibleItems, PrefixTrie

_THOUSAND, _MILLION = 1_000, 1_000_000
_LARGEST_DICT = _MILLION
_BEAMS = 16 * 50
"""Nodes a decoder looks up at once: 16 users with 50 beams."""
_LEVELS = 4

_BUILD_S = 10.0
_BYTES_PER_ITEM = 120.0
_TIMES_DICT_BUILD = 5.0
_TIMES_DICT_BYTES = 5.0
_MASK_MS_PER_MILLION = 20.0

Prefixes = dict[bytes, list[int]]


def measure(quick: bool) -> Report:
    """Build and look up at each size."""
    sizes = (10 * _THOUSAND, _MILLION) if quick else (10 * _THOUSAND, _MILLION, 10 * _MILLION)
    build, lookup, mask, claims = [], [], [], []
    for size in sizes:
        harness.progress(f"{size:,} items")
        codes = _unique_codes(size)
        rounds = 3 if quick or size > _MILLION else 7
        times = _build_times(codes, rounds)
        trie = PrefixTrie.build(ItemCodes(codes))
        trie_bytes = _trie_bytes(trie) / size
        prefixes = _dict_of_prefixes(codes) if size <= _LARGEST_DICT else None
        dict_bytes = _dict_bytes(prefixes) / size if prefixes else None
        build.append(
            (
                f"{size:,}",
                *(times.get(name, "-") for name in ("trie", "dict", "sort")),
                trie_bytes,
                _peak_bytes(codes) / size,
                dict_bytes or "-",
            )
        )
        lookup += _lookup_rows(trie, codes, prefixes, rounds)
        found = _mask_times(trie, rounds)
        mask.append((f"{size:,}", *(spread.times(1000) for spread in found.values())))
        if size == sizes[-1]:
            claims += [
                Claim.at_most(f"build, {size:,} items", times["trie"].median, "s", _BUILD_S),
                Claim.at_most(f"memory, {size:,} items", trie_bytes, "bytes/item", _BYTES_PER_ITEM),
                Claim.at_most(
                    "eligibility pass for a million items",
                    found["mask to prefix sum"].median * 1000 / (size / _MILLION),
                    "ms",
                    _MASK_MS_PER_MILLION,
                ),
            ]
        if size == _LARGEST_DICT and dict_bytes:
            claims += [
                Claim.at_least(
                    f"build against a dict, {size:,} items",
                    times["dict"].median / times["trie"].median,
                    "x",
                    _TIMES_DICT_BUILD,
                ),
                Claim.at_least(
                    f"memory against a dict, {size:,} items", dict_bytes / trie_bytes, "x", _TIMES_DICT_BYTES
                ),
            ]
    return Report(
        tables=[
            Table(
                "build: seconds, median (min..max), and bytes an item, kept and at the peak of building",
                ("items", "trie, s", "dict, s", "np.sort, s", "trie, bytes", "peak, bytes", "dict, bytes"),
                build,
            ),
            Table(
                f"children of {_BEAMS} nodes: microseconds for all, median (min..max)",
                ("items, depth", "trie, one call", "trie, node by node", "dict"),
                lookup,
            ),
            Table(
                "eligibility: milliseconds, median (min..max)",
                ("items", "mask to prefix sum", "copy of the mask"),
                mask,
            ),
        ],
        claims=claims,
    )


def _unique_codes(count: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(0)
    packed = np.unique(random.integers(0, 1 << 32, count + count // 100 + 100, dtype=np.uint32))
    return random.permutation(packed)[:count].astype(">u4").view(np.uint8).reshape(count, _LEVELS)


def _build_times(codes: NDArray[np.uint8], rounds: int) -> dict[str, Spread]:
    packed = ItemCodes(codes).packed
    sides: dict[str, Callable[[], float]] = {
        "trie": lambda: harness.seconds(lambda: PrefixTrie.build(ItemCodes(codes))),
        "sort": lambda: harness.seconds(lambda: np.sort(packed)),
    }
    if len(codes) <= _LARGEST_DICT:
        sides["dict"] = lambda: harness.seconds(lambda: _dict_of_prefixes(codes))
    return harness.interleaved(sides, rounds)


def _dict_of_prefixes(codes: NDArray[np.uint8]) -> Prefixes:
    """The children of every prefix. In code order, so that a child is new exactly when it is not the last one."""
    found: Prefixes = {}
    for code in sorted(map(bytes, codes)):
        for depth in range(_LEVELS):
            children = found.setdefault(code[:depth], [])
            if not children or children[-1] != code[depth]:
                children.append(code[depth])
    return found


def _trie_bytes(trie: PrefixTrie) -> int:
    arrays = (trie.first_child, trie.token, trie.leaf_begin, trie.leaf_end, trie.leaf_item, trie.item_leaf)
    return sum(array.nbytes for array in arrays)


def _peak_bytes(codes: NDArray[np.uint8]) -> int:
    """The most memory that building takes, result included; NumPy tells tracemalloc of every array."""
    tracemalloc.start()
    PrefixTrie.build(ItemCodes(codes))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def _dict_bytes(prefixes: Prefixes) -> int:
    """The table, its keys and its lists; the small integers in them are shared by all."""
    return sys.getsizeof(prefixes) + sum(
        sys.getsizeof(prefix) + sys.getsizeof(children) for prefix, children in prefixes.items()
    )


def _lookup_rows(
    trie: PrefixTrie, codes: NDArray[np.uint8], prefixes: Prefixes | None, rounds: int
) -> list[tuple[object, ...]]:
    random = np.random.default_rng(1)
    size = len(codes)
    items = random.integers(0, size, _BEAMS)
    rows = []
    for depth in range(1, _LEVELS):
        nodes = trie.paths(items)[:, depth - 1]
        listed = nodes.tolist()
        keys = [bytes(code[:depth]) for code in codes[items]]
        sides: dict[str, Callable[[], object]] = {
            "vectorised": lambda nodes=nodes: _children(trie, nodes),
            "single": lambda listed=listed: [trie.children(node) for node in listed],
        }
        if prefixes:
            sides["dict"] = lambda keys=keys: [prefixes[key] for key in keys]
        timed = {name: lambda call=call: harness.seconds(call) * 1e6 for name, call in sides.items()}
        found = harness.interleaved(timed, 20 * rounds)
        rows.append(
            (
                f"{size:,}, {depth}",
                *(found.get(name, "-") for name in ("vectorised", "single", "dict")),
            )
        )
    return rows


def _children(trie: PrefixTrie, nodes: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """The children of all nodes, one after the other: how many each has, and their tokens."""
    first = trie.first_child[nodes]
    counts = trie.first_child[nodes + 1] - first
    ends = np.cumsum(counts)
    children = np.arange(ends[-1]) + np.repeat(first - ends + counts, counts)
    return counts, trie.token[children]


def _mask_times(trie: PrefixTrie, rounds: int) -> dict[str, Spread]:
    mask = np.random.default_rng(2).random(trie.item_count) < 0.5
    return harness.interleaved(
        {
            "mask to prefix sum": lambda: harness.seconds(lambda: EligibleItems.from_mask(trie, mask)),
            "copy": lambda: harness.seconds(mask.copy),
        },
        3 * rounds,
    )


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure)
