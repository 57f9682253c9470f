"""Which model versions the decoder process has in memory: opened on demand, checked, and let go.

Versions with the same language model, such as one and its extensions, share one copy of it.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from app.decode_wire import unpack_mask
from app.decoder.engine_restarts import EngineRestarts
from app.decoder.engines import Engine
from app.decoder.metrics import DecoderMetrics
from app.decoder.settings import DecoderSettings
from app.decoder.version_errors import EngineRestarting, VersionMissing, VersionUnusable
from app.structured_logging import FIELDS
from model_store.bundle import Bundle, ModelStore
from model_store.decoders.protocol import Decoder, DecodeRequest
from model_store.decoders.vllm.engine import EngineDied
from model_store.errors import BundleNotFound, DecoderUnusable, TesseraError
from model_store.manifest import LANGUAGE_MODEL_FOLDER, Manifest
from model_store.prefix_trie import EligibleItems

if TYPE_CHECKING:
    from model_store.decoders.torch_decoder import TorchDecoder
    from model_store.decoders.vllm.decoder import VLLMDecoder

_FILTERS_KEPT = 16
_TROUBLES_KEPT = 16
_WATCH_S = 0.2
_UNREAD_FOLDERS = ("quantizer/", "ranker/")

_logger = logging.getLogger(__name__)


@dataclass(eq=False)
class SharedEngine:
    """The language model that one or several versions decode with; in vLLM each may have an adapter of its own.

    Attributes:
        holders: versions that need it open; it is closed when the last lets go.
    """

    holders: int = 0


@dataclass(eq=False)
class LoadedModel:
    """One version in memory.

    Attributes:
        bundle: where it comes from.
        decoder: decodes it.
        engine: what its decoder shares with those of other versions.
        legal_mass: per level, what the self-check measured; empty where it measures none.
        loaded_at: by the monotonic clock.
    """

    bundle: Bundle
    decoder: Decoder
    engine: SharedEngine = field(default_factory=SharedEngine)
    legal_mass: tuple[float, ...] = ()
    loaded_at: float = field(default_factory=time.monotonic)
    _filter: Callable[[str], EligibleItems] = field(init=False)
    _users: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._idle.set()
        self._filter = lru_cache(_FILTERS_KEPT)(self._counted)

    def eligible(self, packed: str | None) -> EligibleItems | None:
        """The filter of a request; recent ones are kept, because all users share a few.

        Raises:
            ValueError: it does not fit the catalogue.
        """
        return None if packed is None else self._filter(packed)

    def _counted(self, packed: str) -> EligibleItems:
        return EligibleItems.from_mask(self.bundle.trie, unpack_mask(packed, self.bundle.manifest.items))

    def item_indices(self, items: list[int], name: str) -> NDArray[np.int32]:
        """The items of a request, int32.

        Raises:
            ValueError: one is outside the catalogue.
        """
        count = self.bundle.manifest.items
        if any(not 0 <= item < count for item in items):
            raise ValueError(f"{name}: item indices of version {self.bundle.version} are 0 to {count - 1}")
        return np.array(items, dtype=np.int32)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the engine open for the duration."""
        self._users += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._idle.set()

    async def retire(self) -> None:
        """Let go of the engine once nothing uses this version, and close it if no other version needs it."""
        await self._idle.wait()
        self.engine.holders -= 1
        if not self.engine.holders:
            await asyncio.to_thread(self.decoder.close)


class LoadedModels:
    """The versions in memory, the most recently used last.

    Args:
        store: where versions are published.
        settings: engine, memory, how many to keep.
        engine: what runs the models (see `engines.choose_engine`).
        metrics: what is counted.
    """

    def __init__(self, store: ModelStore, settings: DecoderSettings, engine: Engine, metrics: DecoderMetrics) -> None:
        self._store = store
        self._settings = settings
        self._engine = engine
        self._metrics = metrics
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()
        self._loading: dict[str, asyncio.Task[LoadedModel]] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._unusable: dict[str, tuple[float, str]] = {}
        self._one_at_a_time = asyncio.Lock()
        self._restarts = EngineRestarts(
            self._load_once, lambda: len(self._loaded) < self._settings.keep_versions, metrics
        )

    @property
    def versions(self) -> list[str]:
        """Versions in memory."""
        return list(self._loaded)

    @property
    def troubles(self) -> list[str]:
        """Why versions cannot be decoded: those that could not be loaded, and those whose engine has died."""
        restarting = self._restarts.troubles
        unusable = [message for version, (_, message) in self._unusable.items() if version not in restarting]
        return [*unusable, *restarting.values()]

    def is_restarting(self, version: str | None) -> bool:
        """Whether the version's engine has died and is not back yet."""
        return version in self._restarts.troubles

    async def get(self, version: str) -> LoadedModel:
        """The version, loaded if it is not. Cancelling the call does not cancel the loading.

        Raises:
            VersionUnusable: it is not in the store or cannot be decoded, now or a moment ago.
            EngineRestarting: its engine has died; nobody is made to wait until it is back.
        """
        if version in self._loaded:
            self._loaded.move_to_end(version)
            return self._loaded[version]
        if (trouble := self._restarts.troubles.get(version)) is not None:
            raise EngineRestarting(trouble)
        until, message = self._unusable.get(version, (0.0, ""))
        if time.monotonic() < until:
            raise VersionUnusable(message)
        return await self._load_once(version)

    def engine_died(self, model: LoadedModel) -> None:
        """Let go of a model whose engine has died, and of those that share it, and have them loaded anew.

        Calling it again does nothing: every decode that the engine took with it may tell.
        """
        # The one used last comes back first.
        fallen = [other for other in reversed(self._loaded.values()) if other.engine is model.engine]
        if fallen:
            self._metrics.errors.labels("engine_died").inc()
        for sharing in fallen:
            self._let_go(sharing)
            self._restarts.begin(sharing.bundle.version, time.monotonic() - sharing.loaded_at)

    async def watch(self) -> None:
        """Notice, until cancelled, that an engine has died, whether anything is being decoded or not."""
        while True:
            for model in list(self._loaded.values()):
                if not model.decoder.alive:
                    self.engine_died(model)
            await asyncio.sleep(_WATCH_S)

    async def close(self) -> None:
        """Close every engine."""
        await self._restarts.close()
        for loading in list(self._loading.values()):
            # A load runs in a thread and cannot be stopped half-way; what it opens must be closed.
            await asyncio.gather(loading, return_exceptions=True)
        for model in list(self._loaded.values()):
            self._let_go(model)
        await asyncio.gather(*self._retiring, return_exceptions=True)

    async def _load_once(self, version: str) -> LoadedModel:
        """Load the version, together with whoever else waits for it."""
        if version not in self._loading:
            task = self._loading[version] = asyncio.create_task(self._load(version), name=f"load-{version}")
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._loading[version])

    async def _load(self, version: str) -> LoadedModel:
        try:
            async with self._one_at_a_time:
                begin = time.monotonic()
                model = await self._open(version)
        # Not remembered: looking again costs nothing, and its files may arrive any moment.
        except BundleNotFound as error:
            raise VersionMissing(str(error)) from error
        # The model libraries raise whatever a broken checkpoint provokes in them.
        except Exception as error:
            self._metrics.errors.labels("load").inc()
            self._remember_unusable(version, str(error))
            expected = isinstance(error, TesseraError)
            about = {FIELDS: {"version": version}}
            _logger.error("version cannot be decoded: %s", error, exc_info=not expected, extra=about)
            raise VersionUnusable(str(error)) from error
        finally:
            del self._loading[version]
        seconds = time.monotonic() - begin
        self._unusable.pop(version, None)
        self._metrics.load_seconds.observe(seconds)
        for level, mass in enumerate(model.legal_mass):
            self._metrics.legal_mass.labels(version, level).set(mass)
        fields = {"version": version, "engine": self._engine, "s": round(seconds, 2), "legal_mass": model.legal_mass}
        _logger.info("version loaded", extra={FIELDS: fields})
        self._loaded[version] = model
        while len(self._loaded) > self._settings.keep_versions:
            self._let_go(next(iter(self._loaded.values())))
        self._metrics.loaded.set(len(self._loaded))
        return model

    async def _open(self, version: str) -> LoadedModel:
        manifest = await asyncio.to_thread(self._store.manifest, version)
        like = next((one for one in self._loaded.values() if self._can_share(one.bundle.manifest, manifest)), None)
        if like is None:
            model = await asyncio.to_thread(open_model, self._store, version, self._settings, self._engine)
            model.engine.holders += 1
            # From now on: warming up is not what is measured.
            model.decoder.observer = self._metrics.observe_decode
            return model
        # Held from now on, so that it is not closed while the version is opened.
        like.engine.holders += 1
        try:
            return await asyncio.to_thread(open_sharing, self._store, version, like)
        except EngineDied:
            # Found out here, because nobody may ask for the versions that shared it any more.
            self._retire(like)
            self.engine_died(like)
            return await self._open(version)
        except BaseException:
            self._retire(like)
            raise

    def _can_share(self, loaded: Manifest, wanted: Manifest) -> bool:
        # vLLM is given the adapter with each request; torch has merged it into its copy of the model.
        return loaded.same_base_model(wanted) if self._engine == "vllm" else loaded.same_language_model(wanted)

    def _remember_unusable(self, version: str, message: str) -> None:
        self._unusable.pop(version, None)
        self._unusable[version] = (time.monotonic() + self._settings.retry_unusable_s, message)
        if len(self._unusable) > _TROUBLES_KEPT:
            del self._unusable[next(iter(self._unusable))]

    def _let_go(self, model: LoadedModel) -> None:
        del self._loaded[model.bundle.version]
        self._metrics.loaded.set(len(self._loaded))
        self._retire(model)

    def _retire(self, model: LoadedModel) -> None:
        task = asyncio.create_task(model.retire(), name="retire")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


def open_model(store: ModelStore, version: str, settings: DecoderSettings, engine: Engine) -> LoadedModel:
    """Open a version, warm its engine up and check it. Takes seconds; call it off the event loop.

    Raises:
        TesseraError: the bundle is missing or damaged, or cannot be decoded by this engine.
    """
    bundle = store.open(version, skip=_UNREAD_FOLDERS)
    if engine == "vllm":
        from model_store.decoders.vllm.decoder import VLLMDecoder

        decoder, check = VLLMDecoder.checked(bundle, batch_size=settings.batch, max_adapters=settings.keep_versions)
        return LoadedModel(bundle, decoder, legal_mass=check.legal_mass)
    import torch

    from model_store.decoders.torch_decoder import TorchDecoder

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch_decoder = TorchDecoder.from_bundle(bundle, batch_size=settings.batch)
    _warm_up(torch_decoder, bundle, settings.beam_width)
    return LoadedModel(bundle, torch_decoder)


def open_sharing(store: ModelStore, version: str, like: LoadedModel) -> LoadedModel:
    """Open a version whose language model another one has in memory, warm and checked already. Takes no model's time.

    With an adapter of its own it is checked as if it were the first, on the engine that runs.

    Raises:
        TesseraError: the bundle is missing or damaged, or vLLM cannot use its adapter.
    """
    checked = like.bundle.manifest.same_language_model(store.manifest(version))
    # The files of a language model that is in memory are not read, so their digests need not be.
    bundle = store.open(version, skip=(*_UNREAD_FOLDERS, LANGUAGE_MODEL_FOLDER) if checked else _UNREAD_FOLDERS)
    if checked:
        decoder = cast("TorchDecoder | VLLMDecoder", like.decoder).for_version(bundle)
        return LoadedModel(bundle, decoder, like.engine, like.legal_mass)
    with_adapter = cast("VLLMDecoder", like.decoder).for_version(bundle)
    return LoadedModel(bundle, with_adapter, like.engine, with_adapter.self_check().legal_mass)


def _warm_up(decoder: Decoder, bundle: Bundle, beam_width: int) -> None:
    """Decode once at full size, so that no request pays for first-use costs, and see that numbers come out."""
    history = np.arange(bundle.manifest.max_history, dtype=np.int32) % bundle.manifest.items
    request = DecodeRequest(history=history, n=beam_width, beam_width=beam_width)
    decoded = decoder.decode([request])[0]
    if len(decoded) != min(beam_width, bundle.manifest.items):
        raise DecoderUnusable(
            f"{bundle.llm_path}: a warm-up decode gave {len(decoded)} items of {beam_width}; its weights may hold NaN"
        )
