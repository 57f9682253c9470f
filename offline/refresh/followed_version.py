"""The version that is served, opened for refreshes; another one when another is activated."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from model_store.bundle import Bundle, ModelStore
from model_store.cache_keys import Keys
from model_store.decoders.protocol import Decoder
from model_store.errors import BundleNotFound, TesseraError
from offline.refresh.config import RefreshConfig
from offline.refresh.registered_caches import served_version
from offline.refresh.user_refresh import UserRefresh

_RETRY_UNUSABLE_S = 30.0


@dataclass(frozen=True)
class OpenVersion:
    """A version and what refreshes its users."""

    bundle: Bundle
    decoder: Decoder
    refresh: UserRefresh


class FollowedVersion:
    """Holds the open version.

    Args:
        redis: from `offline.redis_connection`.
        keys: key names.
        store: where versions are.
        open_decoder: loads the model of one.
        config: of the refreshes.
    """

    def __init__(
        self,
        redis: Any,
        keys: Keys,
        store: ModelStore,
        open_decoder: Callable[[Bundle], Decoder],
        config: RefreshConfig,
    ) -> None:
        self._redis, self._keys, self._store = redis, keys, store
        self._open_decoder, self._config = open_decoder, config
        self._open: OpenVersion | None = None
        self._unusable = ""
        self._retry_at = 0.0

    @property
    def open(self) -> OpenVersion:
        """The version to refresh."""
        assert self._open is not None, "start() was not called"
        return self._open

    def start(self) -> None:
        """Open the active version.

        Raises:
            RedisError: Redis fails.
            TesseraError: nothing is active, or it cannot be opened.
        """
        version = served_version(self._redis, self._keys, self._store)
        if version is None:
            raise BundleNotFound(
                f"{self._store.root}: no active version; train one, or `tessera models activate VERSION`"
            )
        self._open = self._opened(version)

    def follow(self) -> bool:
        """Change to the active version if it is another one. Returns whether it changed.

        Both models are in memory for a moment: the old one goes when the new one is there.

        Raises:
            RedisError: Redis fails.
            TesseraError: it cannot be opened. The old one goes on, and the other is tried again some time later.
        """
        version = served_version(self._redis, self._keys, self._store)
        if version is None or version == self.open.bundle.version:
            return False
        if version == self._unusable and time.monotonic() < self._retry_at:
            return False
        before = self.open
        try:
            self._open = self._opened(version)
        except TesseraError:
            self._unusable, self._retry_at = version, time.monotonic() + _RETRY_UNUSABLE_S
            raise
        before.decoder.close()
        return True

    def close(self) -> None:
        """Give back the model's memory and processes."""
        if self._open is not None:
            self._open.decoder.close()

    def _opened(self, version: str) -> OpenVersion:
        bundle = self._store.open(version)
        if self._config.candidates is not None:
            from offline.reranking import ranker_record

            # Before a model is loaded for nothing.
            ranker_record(bundle)
        decoder = self._open_decoder(bundle)
        try:
            return OpenVersion(bundle, decoder, UserRefresh(self._redis, self._keys, bundle, decoder, self._config))
        except TesseraError:
            # Its ranker cannot be loaded.
            decoder.close()
            raise
