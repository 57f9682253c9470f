"""What goes over the wire between the API and the decoder process for texts of items: POST /encode, JSON both ways."""

import base64

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

MAX_DOCUMENTS = 1000
"""Texts one request may hold."""
MAX_CHARACTERS = 20_000
"""Of one text; an encoder reads only the beginning of a long one."""


class EncodeBody(BaseModel):
    """Texts to encode."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(description="the model version whose text encoder is meant")
    documents: list[str] = Field(min_length=1, max_length=MAX_DOCUMENTS)
    deadline_ms: int = Field(ge=1, description="an answer later than this is of no use")


class EncodeReply(BaseModel):
    """Their vectors, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    size: int = Field(ge=1, description="numbers of one vector")
    vectors: str = Field(description="base64 of float32, little endian, one vector after the other")


def pack_vectors(vectors: NDArray[np.float32]) -> str:
    """Write vectors for a reply.

    >>> pack_vectors(np.zeros((1, 1), np.float32))
    'AAAAAA=='
    """
    return base64.b64encode(np.ascontiguousarray(vectors, dtype="<f4").tobytes()).decode("ascii")


def unpack_vectors(text: str, size: int) -> NDArray[np.float32]:
    """Read what `pack_vectors` wrote; float32 [M, size].

    Raises:
        ValueError: not base64, or not whole vectors of finite numbers.
    """
    vectors = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
    if not len(vectors) or len(vectors) % size or not np.isfinite(vectors).all():
        raise ValueError(f"{len(vectors)} numbers are no vectors of {size}")
    return vectors.reshape(-1, size)
