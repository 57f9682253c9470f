"""The codes of a catalogue, and what they came from.

Shapes: N items, L levels, C entries a level, D size of what is quantized, H size of the text it was aligned to.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.code_assignment import nearest_codes
from model_store.item_codes import LEVEL_LETTERS

_SERVING = "serving."


@dataclass(frozen=True)
class Quantization:
    """Codes and what they came from.

    Attributes:
        codes_NL: uint8 [N, L], unique rows.
        codebooks_LCD: float32 [L, C, D], rows beyond the entries in use are zero.
        vectors_ND: what the codebooks quantize, one row an item: the input itself, or what an encoder made of it.
        report: collisions before resolution, items moved, entries used and perplexity per level, and more.
        token_vectors_LCH: float32 [L, C, H], each entry as the projection into the text's space sees it; its length
            means nothing, rows beyond the entries in use are zero. None where no projection was trained.
        serving: the arrays beside the codebooks that a new item's code needs (see `model_store.quantizer`).
    """

    codes_NL: NDArray[np.uint8]
    codebooks_LCD: NDArray[np.float32]
    vectors_ND: NDArray[np.float32]
    report: dict[str, Any]
    token_vectors_LCH: NDArray[np.float32] | None = None
    serving: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def quantized(self) -> NDArray[np.float32]:
        """What the codes say of `vectors_ND`: the sum of each item's entries; float32 [N, D]."""
        quantized: NDArray[np.float32] = self.codebooks_LCD[np.arange(len(LEVEL_LETTERS)), self.codes_NL].sum(axis=1)
        return quantized

    def as_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as named arrays, for a file of them."""
        arrays: dict[str, NDArray[Any]] = {
            "codes": self.codes_NL,
            "codebooks": self.codebooks_LCD,
            "vectors": self.vectors_ND,
            "report": np.array(json.dumps(self.report)),
        }
        if self.token_vectors_LCH is not None:
            arrays["token_vectors"] = self.token_vectors_LCH
        return arrays | {_SERVING + name: array for name, array in self.serving.items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> "Quantization":
        """The inverse of `as_arrays`."""
        return cls(
            codes_NL=arrays["codes"],
            codebooks_LCD=arrays["codebooks"],
            vectors_ND=arrays["vectors"],
            report=json.loads(str(arrays["report"])),
            token_vectors_LCH=arrays.get("token_vectors"),
            serving={name.removeprefix(_SERVING): array for name, array in arrays.items() if name.startswith(_SERVING)},
        )


def collision_report(
    raw_NL: NDArray[np.uint8], codes_NL: NDArray[np.uint8], entries: int, moved: int
) -> dict[str, Any]:
    """Figures of codes before (`raw`) and after collisions were resolved."""
    count, levels = codes_NL.shape
    return {
        "items": count,
        "entries": entries,
        "share_of_items_colliding_before": float((_bucket_sizes(raw_NL) > 1).mean()),
        "largest_bucket_before": int(_bucket_sizes(raw_NL).max()),
        "share_of_items_sharing_all_but_the_last_level": float((_bucket_sizes(raw_NL[:, :-1]) > 1).mean()),
        "items_moved": moved,
        "distinct_prefixes": [len(np.unique(codes_NL[:, : depth + 1], axis=0)) for depth in range(levels)],
        "perplexity": [_perplexity(codes_NL[:, level]) for level in range(levels)],
        **level_sizes(codes_NL),
    }


def level_sizes(codes_NL: NDArray[np.uint8]) -> dict[str, Any]:
    """Per level, the fewest and the most items of an entry in use, and the share of prefixes with a single child.

    A prefix of the levels before with a single child leaves this level nothing to decide when codes are read off the
    trie.
    """
    items_per_entry, single = [], []
    for level in range(codes_NL.shape[1]):
        counts = np.bincount(codes_NL[:, level])
        items_per_entry.append([int(counts[counts > 0].min()), int(counts.max())])
        prefixes = np.unique(codes_NL[:, : level + 1], axis=0)[:, :level]
        children = np.unique(prefixes, axis=0, return_counts=True)[1] if level else np.array([len(prefixes)])
        single.append(float((children == 1).mean()))
    return {"items_per_entry": items_per_entry, "single_child_nodes": single}


def at_nearest_entry(
    codes_NL: NDArray[np.uint8], vectors_ND: NDArray[np.float32], codebooks_LCD: NDArray[np.float32], entries: int
) -> list[float]:
    """Per level, the share of items whose entries up to there are those that a new item like them would get."""
    same_NL = codes_NL == nearest_codes(vectors_ND, codebooks_LCD, entries)
    return [float(share) for share in np.logical_and.accumulate(same_NL, axis=1).mean(axis=0)]


def unexplained(
    errors_ND: NDArray[np.float32], vectors_ND: NDArray[np.float32], known_N: NDArray[np.bool_] | None
) -> float:
    """Squared error over squared distance from the mean, of the known items (all when None); 0 is perfect."""
    rows = slice(None) if known_N is None else known_N
    spread = vectors_ND[rows] - vectors_ND[rows].mean(axis=0)
    return float((errors_ND[rows] ** 2).sum() / max(float((spread**2).sum()), 1e-12))


def _bucket_sizes(codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Of each item, how many items have its (partial) code."""
    _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    sizes: NDArray[np.int64] = counts[inverse.ravel()]
    return sizes


def _perplexity(entries_N: NDArray[np.uint8]) -> float:
    share = np.bincount(entries_N) / len(entries_N)
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))
