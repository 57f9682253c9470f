"""What a bundle's codes are like, as figures: `report/codes_report.json`, and `codes_report.html` for reading.

Shapes: N items, L levels, D size of what is quantized.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from model_store.catalog import Catalog
from model_store.item_codes import LEVEL_LETTERS, code_text
from offline.codes.code_report_page import code_report_page
from offline.codes.quantization import Quantization, level_sizes

JSON_NAME = "codes_report.json"
HTML_NAME = "codes_report.html"
CATEGORY_ITEMS = 10
"""Items a category must have to be an item's category here."""
_CATEGORY = f"the most specific category that at least {CATEGORY_ITEMS} items have, or else the broadest"
_NEIGHBOURS = 10
_QUERIES = 2000
_POPULAR_ITEMS = 10
_RELATIVES = 2


def write_code_report(
    folder: Path, catalog: Catalog, popularity_N: NDArray[np.float32], quantization: Quantization
) -> None:
    """Write both files into the folder, which is made if it is not there."""
    folder.mkdir(exist_ok=True)
    report = code_report(catalog, popularity_N, quantization)
    (folder / JSON_NAME).write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / HTML_NAME).write_text(code_report_page(report), encoding="utf-8")


def code_report(catalog: Catalog, popularity_N: NDArray[np.float32], quantization: Quantization) -> dict[str, Any]:
    """The figures; shares and accuracies are between 0 and 1."""
    codes, figures = quantization.codes_NL, quantization.report
    brands = [attributes.get("brand") for attributes in catalog.attributes]
    used = [len(np.unique(codes[:, level])) for level in range(codes.shape[1])]
    _, sizes = np.unique(codes, axis=0, return_counts=True)
    by_level = level_sizes(codes)
    return {
        "kind": figures["kind"],
        "input": figures["input"],
        "items": len(codes),
        "levels": [
            {
                "level": letter,
                "entries": figures["entries"],
                "used": used[level],
                "perplexity": figures["perplexity"][level],
                "distinct_prefixes": figures["distinct_prefixes"][level],
                "items_per_entry": by_level["items_per_entry"][level],
                "single_child_nodes": by_level["single_child_nodes"][level],
            }
            for level, letter in enumerate(LEVEL_LETTERS)
        ],
        "collisions": {
            "share_of_items_before": figures["share_of_items_colliding_before"],
            "largest_bucket_before": figures["largest_bucket_before"],
            "items_moved": figures["items_moved"],
            "share_of_items_after": float(sizes[sizes > 1].sum() / len(codes)),
            "largest_bucket_after": int(sizes.max()),
        },
        "unexplained_variance": figures.get("unexplained_variance"),
        "training": figures.get("training"),
        "category": _prediction(codes, categories_of(catalog), _CATEGORY),
        "brand": _prediction(codes, brands, "the brand"),
        "neighbours": neighbours_kept(quantization.vectors_ND, quantization.quantized),
        "popular_items": _popular_items(catalog, popularity_N, codes),
    }


def categories_of(catalog: Catalog) -> list[str | None]:
    """Each item's most specific category that at least `CATEGORY_ITEMS` items have, or else its broadest one."""
    counts = Counter(name for names in catalog.categories for name in set(names))
    return [
        next((name for name in reversed(names) if counts[name] >= CATEGORY_ITEMS), names[0] if names else None)
        for names in catalog.categories
    ]


def _prediction(codes_NL: NDArray[np.uint8], labels: list[str | None], what: str) -> dict[str, Any] | None:
    """How well prefixes of each length tell the label, over the items that have one; None where none has.

    Where nobody shares an item's prefix, the longest shorter one that somebody shares answers.
    """
    labelled = np.array([bool(label) for label in labels])
    if not labelled.any():
        return None
    _, classes = np.unique([label for label in labels if label], return_inverse=True)
    counts = np.bincount(classes)
    answered = (classes == counts.argmax()).astype(np.float64)
    lengths = []
    for length in range(1, codes_NL.shape[1] + 1):
        _, prefixes = np.unique(codes_NL[labelled, :length], axis=0, return_inverse=True)
        credit, company = majority_votes(prefixes.ravel(), classes)
        answered = np.where(company, credit, answered)
        lengths.append(
            {
                "length": length,
                "accuracy": float(answered.mean()),
                "share_with_company": float(company.mean()),
                "accuracy_with_company": float(credit[company].mean()) if company.any() else None,
            }
        )
    return {
        "what": what,
        "items": int(labelled.sum()),
        "classes": len(counts),
        "majority_baseline": float(counts.max() / counts.sum()),
        "by_prefix_length": lengths,
    }


def majority_votes(
    groups_N: NDArray[np.integer], classes_N: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Let the others of an item's group vote on its class.

    Returns:
        How right the vote is, between 0 and 1: with a tie, one over the number of classes that lead if the item's own
        is among them. And whether there was anyone to vote.
    """
    pairs, pair_of_item, counts = np.unique(
        np.stack([groups_N, classes_N]), axis=1, return_inverse=True, return_counts=True
    )
    # Within a group the most frequent class comes first.
    order = np.lexsort((-counts, pairs[0]))
    group_of, ordered = pairs[0][order], counts[order]
    starts = np.flatnonzero(np.diff(group_of, prepend=-1))
    sizes = np.diff(np.append(starts, len(order)))
    first = ordered[starts]
    second = np.where(sizes > 1, ordered[np.minimum(starts + 1, len(order) - 1)], 0)
    row = np.searchsorted(group_of[starts], groups_N)
    runners_up = np.add.reduceat(ordered == np.repeat(second, sizes), starts)
    own = counts[pair_of_item.ravel()]
    # Without the item, its class can only lead where it led alone with it.
    leads = (own == first[row]) & (first[row] > second[row])
    tied = leads & (own - 1 == second[row])
    credit = np.where(tied, 1 / (1 + runners_up[row]), leads)
    return credit, np.add.reduceat(ordered, starts)[row] > 1


def neighbours_kept(vectors_ND: NDArray[np.float32], quantized_ND: NDArray[np.float32]) -> dict[str, Any]:
    """How many of an item's nearest others are still its nearest when all are quantized; of a sample if there are many.

    Both by Euclidean distance: among what is quantized, and among what the codes say of it.
    """
    count = len(vectors_ND)
    wanted = min(_NEIGHBOURS, count - 1)
    queries = np.random.default_rng(0).permutation(count)[:_QUERIES]
    before, after = (_nearest_others(vectors, queries, wanted) for vectors in (vectors_ND, quantized_ND))
    kept = [len(np.intersect1d(ours, theirs)) for ours, theirs in zip(before, after, strict=True)]
    return {
        "neighbours": wanted,
        "items_asked": len(queries),
        "recall": float(np.mean(kept) / wanted),
        "recall_by_chance": wanted / (count - 1),
    }


def _nearest_others(
    vectors_ND: NDArray[np.float32], queries: NDArray[np.integer], wanted: int
) -> list[NDArray[np.int64]]:
    index = faiss.IndexFlatL2(vectors_ND.shape[1])
    index.add(np.ascontiguousarray(vectors_ND))
    found = index.search(np.ascontiguousarray(vectors_ND[queries]), wanted + 1)[1]
    return [row[row != query][:wanted] for row, query in zip(found, queries, strict=True)]


def _popular_items(
    catalog: Catalog, popularity_N: NDArray[np.float32], codes_NL: NDArray[np.uint8]
) -> list[dict[str, Any]]:
    """The most popular items, each with the most popular of those that share most of its code."""

    def described(item: int) -> dict[str, Any]:
        return {
            "item_id": catalog.item_ids[item],
            "title": catalog.titles[item],
            "code": code_text(codes_NL[item]),
            "popularity": float(popularity_N[item]),
        }

    shown = []
    for item in np.argsort(-popularity_N, kind="stable")[:_POPULAR_ITEMS].tolist():
        shared_N = np.cumprod(codes_NL == codes_NL[item], axis=1).sum(axis=1)
        nearest = np.lexsort((-popularity_N, -shared_N))
        relatives = [other for other in nearest.tolist() if other != item][:_RELATIVES]
        related = [described(other) | {"shared_levels": int(shared_N[other])} for other in relatives]
        shown.append(described(item) | {"relatives": related})
    return shown
