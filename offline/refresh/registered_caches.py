"""The caches that Redis knows of, and which versions answer from each."""

from dataclasses import dataclass
from typing import Any

from model_store.bundle import ModelStore
from model_store.cache_keys import EntryLayout, Keys
from model_store.errors import TesseraError


@dataclass(frozen=True)
class RegisteredCache:
    """One cache.

    Attributes:
        layout: where its entries are.
        versions: those that answer from it, as far as the store knows: the one it is named after, and its extensions.
        active: whether the served version is one of them.
    """

    layout: EntryLayout
    versions: tuple[str, ...]
    active: bool


def registered_caches(redis: Any, keys: Keys, store: ModelStore) -> list[RegisteredCache]:
    """Every cache that entries were written to and that was not purged, by name.

    Raises:
        RedisError: Redis fails.
    """
    stored, served = redis.hgetall(keys.caches), served_version(redis, keys, store)
    active = None if served is None else cache_version_of(store, served)
    return [
        RegisteredCache(EntryLayout(name, int(buckets)), _line(store, name), name == active)
        for name, buckets in sorted((raw.decode(), buckets) for raw, buckets in stored.items())
    ]


def registered_cache(redis: Any, keys: Keys, store: ModelStore, version: str) -> RegisteredCache:
    """The cache that is named after a version.

    Raises:
        TesseraError: there is none, or the version answers from that of another.
        RedisError: Redis fails.
    """
    caches = {cache.layout.cache_version: cache for cache in registered_caches(redis, keys, store)}
    if version in caches:
        return caches[version]
    base = cache_version_of(store, version)
    if base != version:
        raise TesseraError(f"{version} extends {base} and has no entries of its own: it answers from those of {base}")
    raise TesseraError(f"nothing is cached of {version}; there are entries of: {', '.join(caches) or 'no version'}")


def served_version(redis: Any, keys: Keys, store: ModelStore) -> str | None:
    """The version in Redis, else the store's ACTIVE, as in the API (docs/decisions/0007); None without either.

    Raises:
        RedisError: Redis fails.
    """
    pointer = redis.get(keys.active)
    return pointer.decode() if pointer else store.active()


def cache_version_of(store: ModelStore, version: str) -> str:
    """The version whose entries a version answers from; told by its name where it was published elsewhere."""
    try:
        return store.manifest(version).cache_version
    except TesseraError:
        return version.rpartition("+")[0] or version


def _line(store: ModelStore, cache_version: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((cache_version, *(bundle.version for bundle in store.line_of(cache_version)))))
