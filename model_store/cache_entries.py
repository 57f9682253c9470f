"""One user's decoded list, as bytes.

offset  size  field
0       1     format (ENTRY_FORMAT)
1       1     generator, an index into GENERATORS
2       2     K, little endian
4       4     decoded_at, Unix seconds, little endian
8       4     digest of the history it was decoded from, little endian
12      4*K   codes, one byte a level, best first
12+4*K  2*K   scores, float16, little endian, natural-log probabilities

The order is the generator's, so that scores descend, or a ranker's, where the generator's name says so: each item keeps
the score that its generator gave it.
"""

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_store.errors import CacheEntryUnreadable

ENTRY_FORMAT = 2
_RANKED = "+ranker"
GENERATORS = ("unknown", "torch", "vllm", "torch" + _RANKED, "vllm" + _RANKED)
_IS_RANKED = np.array([name.endswith(_RANKED) for name in GENERATORS])

_HEADER = struct.Struct("<BBHII")
_HEADER_FIELDS = np.dtype(
    [("format", "u1"), ("generator", "u1"), ("count", "<u2"), ("decoded_at", "<u4"), ("history_digest", "<u4")]
)
_CODE_BYTES = 4
_SCORE_BYTES = 2
_ITEM_BYTES = _CODE_BYTES + _SCORE_BYTES


def ranked(generator: str) -> str:
    """The name in entries of a generator whose lists a ranker has reordered.

    >>> ranked("torch")
    'torch+ranker'
    """
    return generator + _RANKED


def history_digest(items: Iterable[bytes]) -> int:
    """What tells one history from another: CRC-32 of its item ids, as Redis has them, oldest first.

    An entry whose digest is not that of the user's history was decoded from another one. No clock and no mark is
    needed to see it, under whatever version (docs/decisions/0019-history-digest.md).
    """
    return zlib.crc32(b"\n".join(items))


@dataclass(frozen=True)
class CacheEntry:
    """One user's decoded list, best first.

    Attributes:
        codes_KL: uint8 [K, L].
        scores: float16 [K], the items' log-probabilities under constrained decoding; they descend unless it was ranked.
        history_digest: of the history it was decoded from.
        decoded_at: Unix seconds.
        generator: what decoded it, one of GENERATORS; it ends with "+ranker" where a ranker has reordered the list.
    """

    codes_KL: NDArray[np.uint8]
    scores: NDArray[np.float16]
    history_digest: int
    decoded_at: int
    generator: str

    def pack(self) -> bytes:
        """The bytes to store."""
        digests = np.array([self.history_digest])
        return pack_entries(self.codes_KL[None], self.scores[None], digests, self.decoded_at, self.generator)[0]

    @classmethod
    def unpack(cls, value: bytes) -> "CacheEntry":
        """Read stored bytes.

        Raises:
            CacheEntryUnreadable: another format, or a length that does not fit the header.
        """
        generator, count, decoded_at, digest = _header(value)
        codes_end = _HEADER.size + _CODE_BYTES * count
        return cls(
            codes_KL=np.frombuffer(value, np.uint8, _CODE_BYTES * count, _HEADER.size).reshape(count, _CODE_BYTES),
            scores=np.frombuffer(value, "<f2", count, codes_end),
            history_digest=digest,
            decoded_at=decoded_at,
            generator=GENERATORS[generator],
        )


class PlainEntry(NamedTuple):
    """What of an entry a cached answer needs, as plain numbers: for a few items NumPy takes longer than the rest.

    Attributes:
        codes: each code as one big-endian number (`ItemCodes.packed`), best first.
        score_bits: the items' log-probabilities, each a float16 as a number of 16 bits.
        history_digest: of the history it was decoded from.
        decoded_at: Unix seconds.
    """

    codes: tuple[int, ...]
    score_bits: tuple[int, ...]
    history_digest: int
    decoded_at: int

    @classmethod
    def unpack(cls, value: bytes) -> "PlainEntry":
        """Read stored bytes.

        Raises:
            CacheEntryUnreadable: another format, or a length that does not fit the header.
        """
        _, count, decoded_at, digest = _header(value)
        codes, bits = _lists(count)
        return cls(
            codes.unpack_from(value, _HEADER.size),
            bits.unpack_from(value, _HEADER.size + codes.size),
            digest,
            decoded_at,
        )


def packed_bytes(count: int) -> int:
    """The length of an entry of so many items."""
    return _HEADER.size + _ITEM_BYTES * count


@lru_cache(maxsize=256)
def _lists(count: int) -> tuple[struct.Struct, struct.Struct]:
    """How so many codes and scores are read."""
    return struct.Struct(f">{count}I"), struct.Struct(f"<{count}H")


def _header(value: bytes) -> tuple[int, int, int, int]:
    """Generator, items, decoded_at and history digest of an entry whose length fits."""
    if len(value) < _HEADER.size:
        raise CacheEntryUnreadable(f"cache entry: {len(value)} bytes, too short for a header")
    entry_format, generator, count, decoded_at, digest = _HEADER.unpack_from(value)
    if entry_format != ENTRY_FORMAT or generator >= len(GENERATORS):
        raise CacheEntryUnreadable(f"cache entry: format {entry_format}.{generator}, this version reads {ENTRY_FORMAT}")
    if len(value) != packed_bytes(count):
        raise CacheEntryUnreadable(f"cache entry: {len(value)} bytes do not hold {count} items")
    return generator, count, decoded_at, digest


def pack_entries(
    codes_UKL: NDArray[np.uint8],
    scores_UK: NDArray[np.floating[Any]],
    history_digests: NDArray[np.integer[Any]],
    decoded_at: int,
    generator: str,
) -> list[bytes]:
    """The bytes to store for U users with as many items each.

    Args:
        codes_UKL: uint8 [U, K, L], best first.
        scores_UK: [U, K], natural-log probabilities; stored as float16.
        history_digests: [U], of the histories they were decoded from.
        decoded_at: Unix seconds.
        generator: one of GENERATORS.
    """
    users, count, _ = codes_UKL.shape
    heads = np.empty(users, _HEADER_FIELDS)
    heads["format"], heads["generator"], heads["count"] = ENTRY_FORMAT, GENERATORS.index(generator), count
    heads["decoded_at"], heads["history_digest"] = decoded_at, history_digests
    parts = (
        heads.view(np.uint8).reshape(users, _HEADER.size),
        codes_UKL.reshape(users, count * _CODE_BYTES),
        np.ascontiguousarray(scores_UK, dtype="<f2").view(np.uint8).reshape(users, count * _SCORE_BYTES),
    )
    return [row.tobytes() for row in np.concatenate(parts, axis=1)]


@dataclass(frozen=True)
class EntryTable:
    """Entries of U users side by side; K is the length of the longest.

    Attributes:
        readable: bool [U]; where it is not, everything else is 0.
        counts: int64 [U], items of each.
        decoded_at: int64 [U], Unix seconds.
        history_digests: int64 [U], of the histories they were decoded from.
        codes_UKL: uint8 [U, K, L], best first, zeros behind the last item.
        scores_UK: float16 [U, K], -inf behind the last item.
        ranked: bool [U], whether a ranker has reordered the list.
    """

    readable: NDArray[np.bool_]
    counts: NDArray[np.int64]
    decoded_at: NDArray[np.int64]
    history_digests: NDArray[np.int64]
    codes_UKL: NDArray[np.uint8]
    scores_UK: NDArray[np.float16]
    ranked: NDArray[np.bool_]

    @classmethod
    def unpack(cls, values: Sequence[bytes]) -> "EntryTable":
        """Read stored bytes, those of equal length in one go."""
        lengths = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
        items = (lengths - _HEADER.size) // _ITEM_BYTES
        most = int(max(items.max(initial=0), 0))
        table = cls(
            readable=np.zeros(len(values), dtype=bool),
            counts=np.zeros(len(values), dtype=np.int64),
            decoded_at=np.zeros(len(values), dtype=np.int64),
            history_digests=np.zeros(len(values), dtype=np.int64),
            codes_UKL=np.zeros((len(values), most, _CODE_BYTES), dtype=np.uint8),
            scores_UK=np.full((len(values), most), -np.inf, dtype=np.float16),
            ranked=np.zeros(len(values), dtype=bool),
        )
        for length in np.unique(lengths):
            count, left = divmod(int(length) - _HEADER.size, _ITEM_BYTES)
            if count < 0 or left:
                continue
            rows = np.flatnonzero(lengths == length)
            bytes_RB = np.frombuffer(b"".join(values[row] for row in rows), np.uint8).reshape(len(rows), length)
            heads = np.frombuffer(bytes_RB[:, : _HEADER.size].tobytes(), _HEADER_FIELDS)
            fits = (
                (heads["format"] == ENTRY_FORMAT) & (heads["generator"] < len(GENERATORS)) & (heads["count"] == count)
            )
            rows, bytes_RB = rows[fits], bytes_RB[fits]
            codes_end = _HEADER.size + count * _CODE_BYTES
            table.readable[rows] = True
            table.counts[rows] = count
            table.decoded_at[rows] = heads["decoded_at"][fits]
            table.history_digests[rows] = heads["history_digest"][fits]
            table.ranked[rows] = _IS_RANKED[heads["generator"][fits]]
            table.codes_UKL[rows, :count] = bytes_RB[:, _HEADER.size : codes_end].reshape(len(rows), count, _CODE_BYTES)
            scores = np.frombuffer(bytes_RB[:, codes_end:].tobytes(), "<f2")
            table.scores_UK[rows, :count] = scores.reshape(len(rows), count)
        return table
