"""What is in Redis: every key name and every value's bytes, for the side that writes and the side that reads.

Keys carry the namespace, and the model version where they depend on it. Any of them may be missing at any time.

An entry is one user's decoded list:

    offset  size  field
    0       1     format (ENTRY_FORMAT)
    1       1     generator, an index into GENERATORS
    2       2     K, little endian
    4       4     decoded_at, Unix seconds, little endian
    8       4*K   codes, one byte a level, best first
    8+4*K   2*K   scores, float16, little endian, natural-log probabilities
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.errors import CacheEntryUnreadable

ENTRY_FORMAT = 1
GENERATORS = ("unknown", "torch", "vllm")
DEFAULT_NAMESPACE = "tessera"

_HEADER = struct.Struct("<BBHI")
_CODE_BYTES = 4


@dataclass(frozen=True)
class Keys:
    """Key names of one namespace."""

    namespace: str = DEFAULT_NAMESPACE

    @property
    def active(self) -> str:
        """String: the version whose entries are served."""
        return f"{self.namespace}:active"

    @property
    def dirty(self) -> str:
        """Sorted set: users with events since their entry was decoded, scored by the time of the first such event."""
        return f"{self.namespace}:dirty"

    def entry(self, cache_version: str, user_id: str) -> str:
        """String: one user's packed list, under the manifest's `cache_version`."""
        return f"{self.namespace}:rec:{cache_version}:{user_id}"

    def history(self, user_id: str) -> str:
        """List: one user's item ids, oldest first, bounded."""
        return f"{self.namespace}:hist:{user_id}"

    def histories(self) -> str:
        """Glob pattern of every history key; glob characters of the namespace escaped."""
        return "".join(f"\\{c}" if c in "*?[]^\\" else c for c in self.namespace) + ":hist:*"

    def user_of_history(self, key: str) -> str:
        """The user a history key belongs to."""
        return key[len(self.namespace) + len(":hist:") :]

    def refresh_ledger(self, version: str, *, partial: bool = False) -> str:
        """Hash: the plan of a refresh, of all users or of some, and the shards it has finished, for resume."""
        return f"{self.namespace}:refresh:{version}{':partial' if partial else ''}"


@dataclass(frozen=True)
class CacheEntry:
    """One user's decoded list, best first.

    Attributes:
        codes_KL: uint8 [K, L].
        scores: float16 [K], the items' log-probabilities under constrained decoding.
        decoded_at: Unix seconds.
        generator: what decoded it, one of GENERATORS.
    """

    codes_KL: NDArray[np.uint8]
    scores: NDArray[np.float16]
    decoded_at: int
    generator: str

    def pack(self) -> bytes:
        """The bytes to store."""
        count = len(self.codes_KL)
        header = _HEADER.pack(ENTRY_FORMAT, GENERATORS.index(self.generator), count, self.decoded_at)
        return b"".join((header, self.codes_KL.tobytes(), self.scores.astype("<f2").tobytes()))

    @classmethod
    def unpack(cls, value: bytes) -> "CacheEntry":
        """Read stored bytes.

        Raises:
            CacheEntryUnreadable: another format, or a length that does not fit the header.
        """
        if len(value) < _HEADER.size:
            raise CacheEntryUnreadable(f"cache entry: {len(value)} bytes, too short for a header")
        entry_format, generator, count, decoded_at = _HEADER.unpack_from(value)
        if entry_format != ENTRY_FORMAT or generator >= len(GENERATORS):
            raise CacheEntryUnreadable(f"cache entry: format {entry_format}.{generator}, this version reads 1")
        codes_end = _HEADER.size + _CODE_BYTES * count
        if len(value) != codes_end + 2 * count:
            raise CacheEntryUnreadable(f"cache entry: {len(value)} bytes do not hold {count} items")
        return cls(
            codes_KL=np.frombuffer(value, np.uint8, _CODE_BYTES * count, _HEADER.size).reshape(count, _CODE_BYTES),
            scores=np.frombuffer(value, "<f2", count, codes_end),
            decoded_at=decoded_at,
            generator=GENERATORS[generator],
        )
