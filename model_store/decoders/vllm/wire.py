"""Decode requests on their way into vLLM's worker: plain values, since vLLM's own wire knows no arrays of ours."""

from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.decoders.protocol import DecodeRequest
from model_store.prefix_trie import EligibleItems, PrefixTrie

_FILTERS_KEPT = 16
_ELIGIBLE = "eligible"


def pack_items(items: NDArray[np.integer]) -> bytes:
    """Item indices as bytes."""
    return np.ascontiguousarray(items, dtype=np.int32).tobytes()


def unpack_items(packed: bytes) -> NDArray[np.int32]:
    """What `pack_items` wrote."""
    return np.frombuffer(packed, dtype=np.int32)


def pack_requests(requests: Sequence[DecodeRequest]) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The requests, and the filters they name by number: users share a few."""
    numbers: dict[int, int] = {}
    masks: list[bytes] = []
    packed = []
    for request in requests:
        values: dict[str, Any] = {}
        for field in fields(request):
            value = getattr(request, field.name)
            if isinstance(value, EligibleItems):
                if id(value) not in numbers:
                    numbers[id(value)] = len(masks)
                    masks.append(np.packbits(value.mask).tobytes())
                value = numbers[id(value)]
            values[field.name] = pack_items(value) if isinstance(value, np.ndarray) else value
        packed.append(values)
    return packed, masks


class RequestReader:
    """Reads requests of one version; recent filters are kept, because counting one is a pass over the catalogue.

    Args:
        trie: the version's.
    """

    def __init__(self, trie: PrefixTrie) -> None:
        self._trie = trie
        self._filter = lru_cache(_FILTERS_KEPT)(self._counted)

    def read(self, packed: Sequence[dict[str, Any]], masks: Sequence[bytes]) -> list[DecodeRequest]:
        """What `pack_requests` wrote."""
        filters = [self._filter(mask) for mask in masks]
        requests = []
        for values in packed:
            read: dict[str, Any] = {
                name: unpack_items(value) if isinstance(value, bytes) else value for name, value in values.items()
            }
            if read[_ELIGIBLE] is not None:
                read[_ELIGIBLE] = filters[read[_ELIGIBLE]]
            requests.append(DecodeRequest(**read))
        return requests

    def _counted(self, packed: bytes) -> EligibleItems:
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=self._trie.item_count)
        return EligibleItems.from_mask(self._trie, bits.astype(np.bool_))
