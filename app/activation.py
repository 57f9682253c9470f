"""Switching the served version over HTTP, as `tessera models activate` and `rollback` do on the command line."""

import asyncio
from dataclasses import dataclass

from app.active_version import ActiveVersion
from app.admin_problems import ModelNotFound, ModelUnusable, NoEarlierModel, StoreReadOnly
from app.cache_survey import count_entries
from app.problems import StorageUnavailable
from app.recommendation_cache import CacheUnavailable, RecommendationCache
from model_store.bundle import ModelStore
from model_store.cache_keys import EntryLayout
from model_store.errors import BundleCorrupt, BundleNotFound, UnsupportedBundleFormat


@dataclass(frozen=True)
class Activated:
    """A version that is served from now on.

    Attributes:
        version: which.
        before: the one that was.
        cached_lists: users with a list of this version; 0 means that users are decoded live until a refresh.
        cached_lists_estimated: whether that number is reckoned from a part of the cache.
    """

    version: str
    before: str
    cached_lists: int
    cached_lists_estimated: bool


async def activate(
    store: ModelStore, cache: RecommendationCache, active: ActiveVersion, version: str | None
) -> Activated:
    """Serve a version, None for the one before. Every file is verified first, which takes as long as reading them.

    Raises:
        ModelNotFound, ModelUnusable, NoEarlierModel, StoreReadOnly: nothing was changed.
        StorageUnavailable: Redis cannot be reached; its message says what was changed.
    """
    before = active.served.version
    try:
        # Redis first: a version that running services cannot follow must not become the one they restart with.
        await cache.ping()
    except CacheUnavailable:
        raise StorageUnavailable("Redis cannot be reached, and services follow it. Nothing was changed.") from None
    version = await asyncio.to_thread(_switch, store, version)
    try:
        await cache.activate(version)
    except CacheUnavailable:
        raise StorageUnavailable(
            f"{version} is active in the store, but Redis cannot be reached, so running services have not heard of it; "
            "send the request again."
        ) from None
    active.noticed(version)
    manifest = await asyncio.to_thread(store.manifest, version)
    lists, estimated = await cached_lists(cache, manifest.entry_layout)
    return Activated(version, before, lists, estimated)


async def cached_lists(cache: RecommendationCache, layout: EntryLayout) -> tuple[int, bool]:
    """How many lists of a version are cached, and whether that is an estimate; none where no entry was ever written.

    Raises:
        StorageUnavailable: Redis cannot be reached.
    """
    try:
        (known,) = await cache.execute("survey", lambda p: p.hexists(cache.keys.caches, layout.cache_version))
        return await count_entries(cache, layout) if known else (0, False)
    except CacheUnavailable:
        raise StorageUnavailable from None


def _switch(store: ModelStore, version: str | None) -> str:
    try:
        if version is None:
            return store.rollback()
        store.activate(version)
        return version
    except BundleNotFound:
        if version is None:
            raise NoEarlierModel from None
        raise ModelNotFound from None
    except (BundleCorrupt, UnsupportedBundleFormat) as error:
        # Without the path: the answer may go to another machine.
        reason = str(error).replace(f"{store.root}/", "")
        raise ModelUnusable(f"{reason}. Nothing was changed.") from None
    except OSError as error:
        raise StoreReadOnly(f"{error.strerror}. {StoreReadOnly.detail}") from None
