"""Answers as JSON, by orjson, dataclasses and NumPy scalars included."""

from typing import Any

import orjson
from fastapi import Response


def json_bytes(content: Any) -> bytes:
    """The bytes of a JSON value."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


class Json(Response):
    """A JSON response. The content is trusted: routes build it from typed parts."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Give the body's bytes."""
        return json_bytes(content)
