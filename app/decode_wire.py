"""What goes over the wire between the API and the decoder process: POST /decode, JSON both ways."""

import base64
import binascii
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from model_store.item_codes import LEVEL_LETTERS

MAX_ITEMS = 1000
"""Items, beams, or candidates one request may ask for."""

MAX_QUERY = 500
"""Characters of a query."""

MAX_PREFIX_LEVELS = len(LEVEL_LETTERS) - 1
"""Codes of a prefix that items can share: whole codes are unique."""


class DecodeBody(BaseModel):
    """One decode request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(description="the model version to decode with")
    history: list[int] = Field(description="item indices, oldest first; with a query there may be none")
    query: str | None = Field(
        default=None, min_length=1, max_length=MAX_QUERY, description="what is asked for in words, as plain text"
    )
    n: int = Field(ge=1, le=MAX_ITEMS, description="items wanted")
    beam_width: int = Field(ge=1, le=MAX_ITEMS, description="beams kept at each level")
    excluded: list[int] = Field(default=[], description="item indices that must not be returned, any order")
    eligible: str | None = Field(
        default=None,
        description="base64 of one bit per item index, lowest bit first; null when every item may be shown",
    )
    candidates: list[int] | None = Field(
        default=None,
        max_length=MAX_ITEMS,
        description="item indices, any order; rank exactly these, without a beam; null for the whole catalogue",
    )
    max_per_prefix: int | None = Field(
        default=None,
        ge=1,
        le=MAX_ITEMS,
        description="items at most whose codes begin with the same `prefix_levels` codes; null for any number",
    )
    prefix_levels: int = Field(default=1, ge=1, le=MAX_PREFIX_LEVELS, description="codes that make a prefix")
    deadline_ms: int = Field(ge=1, description="an answer later than this is of no use")

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.history and self.query is None:
            raise ValueError("without a query, a history must hold at least one item")
        return self


class DecodeReply(BaseModel):
    """The decoded items, best first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    generator: str = Field(description="the engine that decoded, one of cache_entries.GENERATORS")
    items: list[int] = Field(description="item indices, best first")
    scores: list[float] = Field(description="natural-log probabilities under constrained decoding")
    decode_ms: float = Field(description="time in the decoder, waiting included")


def pack_mask(mask: NDArray[np.bool_]) -> str:
    """Write a mask of items for `DecodeBody.eligible`.

    >>> pack_mask(np.array([True, False, True]))
    'BQ=='
    """
    return base64.b64encode(np.packbits(mask, bitorder="little").tobytes()).decode("ascii")


def unpack_mask(text: str, items: int) -> NDArray[np.bool_]:
    """Read what `pack_mask` wrote; bool [items].

    Raises:
        ValueError: not base64, or not the bits of `items` items.

    >>> unpack_mask("BQ==", 3)
    array([ True, False,  True])
    """
    try:
        packed = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"eligible: not base64 ({error})") from None
    if len(packed) != -(-items // 8):
        raise ValueError(f"eligible: {len(packed)} bytes; {items} items take {-(-items // 8)}")
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=items, bitorder="little")
    return bits.astype(np.bool_)
