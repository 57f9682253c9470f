"""Gives a new item a code and a joint vector, from its text and, where there is one, its behaviour vector. NumPy alone.

    quantizer = ItemQuantizer.open(bundle)
    codes = quantizer.code_of(text_MX, None, taken=bundle.item_codes.packed)

On disk, in a bundle's `quantizer/`:

    config.json              format, kind, input, entries, seed, and the settings of the text encoder that X comes from
    quantizer.safetensors    `codebooks`, and by prefix: `joint.` the joint encoder, `input.` how text and behaviour
                             become what is quantized (unless that is the joint vector), `cascade.` the encoder of a
                             trained cascade

A vector that was there in training gets the code that training would give it if that were free; otherwise it moves the
way training moves items that collide (see `model_store.code_assignment`). Not so the balanced levels of `dual` and
`mixed`: there training moves items on from a full cluster, while a new one gets the nearest entry, full or not.

Shapes: M items, X text size, Y behaviour size, D joint size, L levels.
"""

import itertools
import json
import math
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from model_store.bundle import Bundle
from model_store.code_assignment import make_unique, nearest_codes, packed_codes
from model_store.errors import BundleCorrupt, TesseraError

FOLDER = "quantizer"
CONFIG_NAME = "config.json"
ARRAYS_NAME = "quantizer.safetensors"
FORMAT = 2

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class ItemQuantizer:
    """What turns text and behaviour into codes.

    Attributes:
        kind: `kmeans`, `codebooks`, `dual`, `mixed` or `random`.
        source: what is quantized: `joint`, `behaviour`, `text`, `concat` or `all`.
        entries: codebook entries in use a level.
        seed: of `random` codes.
        arrays: see the module's docstring.
    """

    kind: str
    source: str
    entries: int
    seed: int
    arrays: Arrays

    @classmethod
    def open(cls, bundle: Bundle) -> "ItemQuantizer":
        """Read a bundle's quantizer.

        Raises:
            BundleCorrupt: the bundle has none, or one of another format.
        """
        return cls.read(bundle.path / FOLDER)

    @classmethod
    def read(cls, folder: Path) -> "ItemQuantizer":
        """Read a quantizer's folder; as `open`."""
        try:
            config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
            if config.get("format") != FORMAT:
                raise BundleCorrupt(
                    f"{folder / CONFIG_NAME}: format {config.get('format')}, expected {FORMAT}; "
                    "train again to give new items codes"
                )
            return cls(
                config["kind"],
                config["input"],
                config["entries"],
                config["seed"],
                load_file(folder / ARRAYS_NAME),
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise BundleCorrupt(f"{folder}: no quantizer that can be read ({error})") from error

    def vectors_of(
        self, text_MX: NDArray[np.float32], behaviour_MY: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Joint vectors, unit length, comparable with the bundle's `item_embeddings`; float32 [M, D].

        Args:
            text_MX: text vectors, by the text encoder that the bundle's config names.
            behaviour_MY: collaborative vectors; None, or a row of NaN, where an item has none.

        Raises:
            TesseraError: vectors of another size than this version was trained with.
        """
        text, behaviour, known = self._checked(text_MX, behaviour_MY)
        joint = _joint_half(self.arrays, "text", text)
        if known.any():
            joint[known] += _joint_half(self.arrays, "behaviour", behaviour[known])
        return _unit(joint)

    def code_of(
        self,
        text_MX: NDArray[np.float32],
        behaviour_MY: NDArray[np.float32] | None,
        taken: Set[int] | NDArray[np.uint32],
    ) -> NDArray[np.uint8]:
        """Codes that nobody has: not in `taken`, and no two alike; uint8 [M, L].

        Args:
            text_MX: as in `vectors_of`.
            behaviour_MY: as in `vectors_of`. Where codes quantize behaviour, text predicts what is missing.
            taken: packed codes (`ItemCodes.packed`) of every item that has one.

        Raises:
            TesseraError: vectors of another size, or 65,536 items share the first codes of one of them.
        """
        text, behaviour, known = self._checked(text_MX, behaviour_MY)
        codebooks = self.arrays["codebooks"]
        if self.kind == "random":
            codes = random_codes(len(text), codebooks.shape[0], self.entries, (self.seed, 1 + len(taken)))
            vectors = codebooks[np.arange(codes.shape[1]), codes].sum(axis=1)
        else:
            if self.source == "joint":
                vectors = self.vectors_of(text_MX, behaviour_MY)
            else:
                vectors = input_vectors(self.arrays, text, behaviour, known)
            if self.source == "all":
                vectors = np.concatenate([self.vectors_of(text_MX, behaviour_MY), vectors], axis=1)
            vectors = encode(self.arrays, vectors)
            codes = nearest_codes(vectors, codebooks, self.entries)
        if isinstance(taken, np.ndarray):
            # Nobody moves further than to another code of the same two levels.
            near = np.isin(taken >> 16, packed_codes(codes) >> 16)
            taken = set(taken[near].tolist())
        return make_unique(codes, vectors, codebooks, self.entries, taken)[0]

    def _checked(
        self, text_MX: NDArray[np.float32], behaviour_MY: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        sizes = {side: len(self.arrays[f"joint.{side}_mean"]) for side in ("text", "behaviour")}
        if behaviour_MY is None:
            behaviour_MY = np.full((len(text_MX), sizes["behaviour"]), np.nan, dtype=np.float32)
        for side, vectors in (("text", text_MX), ("behaviour", behaviour_MY)):
            if vectors.shape != (len(text_MX), sizes[side]):
                raise TesseraError(
                    f"{side} vectors: expected [{len(text_MX)}, {sizes[side]}], got {list(vectors.shape)}; they must "
                    "come from the encoder this version was trained with"
                )
        known = np.asarray(~np.isnan(behaviour_MY).any(axis=1))
        return text_MX.astype(np.float32), behaviour_MY.astype(np.float32), known


def input_vectors(
    arrays: Arrays, text_NX: NDArray[np.float32], behaviour_NY: NDArray[np.float32], known_N: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """What is quantized where that is not the joint vector: the principal axes of text, behaviour, or both; [N, D].

    Args:
        arrays: those with the prefix `input.`; which ones are there says which sides are taken.
        text_NX: text vectors.
        behaviour_NY: collaborative vectors.
        known_N: items whose behaviour counts; of the others text predicts it.
    """
    sides: list[NDArray[np.floating]] = []
    text = text_NX - arrays["input.text_mean"]
    if "input.text_axes" in arrays:
        sides.append(text @ arrays["input.text_axes"])
    if "input.behaviour_mean" in arrays:
        behaviour = behaviour_NY - arrays["input.behaviour_mean"]
        behaviour[~known_N] = text[~known_N] @ arrays["input.text_to_behaviour"]
        sides.append(behaviour * arrays["input.behaviour_scale"])
    return np.concatenate(sides, axis=1, dtype=np.float32)


def encode(arrays: Arrays, vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the codebooks quantize: the vectors themselves, or what a trained cascade's encoder makes of them."""
    if "cascade.mean" not in arrays:
        return vectors_ND
    standardised = (vectors_ND - arrays["cascade.mean"]) / arrays["cascade.scale"]
    return _layers(arrays, "cascade.encoder", standardised, lambda hidden: np.maximum(hidden, 0))


def random_codes(count: int, levels: int, entries: int, seed: int | tuple[int, ...]) -> NDArray[np.uint8]:
    """Codes by chance alone, not necessarily distinct; uint8 [count, levels]."""
    return np.random.default_rng(seed).integers(0, entries, (count, levels), dtype=np.uint8)


def _joint_half(arrays: Arrays, side: str, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    standardised = (vectors - arrays[f"joint.{side}_mean"]) / arrays[f"joint.{side}_scale"]
    return _unit(_layers(arrays, f"joint.{side}_encoder", standardised, _gelu))


def _layers(arrays: Arrays, prefix: str, vectors: NDArray[np.float32], activation: Any) -> NDArray[np.float32]:
    """A torch `Sequential` of linear layers with an activation after each but the last: weights 0, 2, 4 ..."""
    for layer in itertools.count(0, 2):
        if f"{prefix}.{layer}.weight" not in arrays:
            break
        if layer:
            vectors = activation(vectors)
        vectors = vectors @ arrays[f"{prefix}.{layer}.weight"].T + arrays[f"{prefix}.{layer}.bias"]
    return vectors


_erf: Callable[[Any], Any] = np.frompyfunc(math.erf, 1, 1)


def _gelu(hidden: NDArray[np.float32]) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = (hidden * (1 + _erf(hidden / math.sqrt(2)).astype(np.float32)) / 2).astype(np.float32)
    return scaled


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = vectors / np.maximum(lengths, 1e-12)
    return scaled
