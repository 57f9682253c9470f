"""The API of Gorse 0.5 over this service, the same functions, keys and guarantees under other names: where it is."""

from enum import Enum

PREFIX = "/api"
TAGS: list[str | Enum] = ["gorse"]
