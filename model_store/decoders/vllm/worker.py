"""What runs inside vLLM's own worker process, given to vLLM as `worker_extension_cls`.

vLLM mixes the class into its worker and makes the methods callable by name; their names must not be any of vLLM's.
"""

import os
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_store.decoders.decode_stats import DecodeStats
from model_store.decoders.vllm.adapters import adapter_of, unusable
from model_store.decoders.vllm.wire import RequestReader, unpack_items
from model_store.errors import TesseraError
from model_store.manifest import Manifest

if TYPE_CHECKING:
    from model_store.decoders.torch_decoder import TorchDecoder

_POLL_S = 1.0
_VERSIONS_KEPT = 8


@dataclass(frozen=True, slots=True)
class _Version:
    decoder: "TorchDecoder"
    reader: RequestReader
    manifest: Manifest


class VLLMWorkerExtension:
    """Decodes versions that share the worker's language model; the versions used last stay open."""

    def tessera_end_with(self, process_id: int) -> None:
        """Kill this worker, and so its engine, once that process is gone.

        vLLM notices when a child dies, not when its parent does; without this a killed decoder leaves an engine that
        holds its memory for ever.
        """
        threading.Thread(target=_watch, args=(process_id,), name="lifeline", daemon=True).start()

    def tessera_open(self, folder: str, batch_size: int) -> str | None:
        """Open a version; why it cannot be decoded, or None."""
        try:
            self._tessera_version(folder, batch_size)
        except TesseraError as error:
            return f"{error}; the torch engine may run it"
        # What vLLM raises at an adapter that it cannot use is as it comes.
        except Exception as error:
            return f"{unusable(Path(folder), f'vLLM cannot use this version: {error!r}')}"
        return None

    def tessera_decode(
        self, folder: str, batch_size: int, requests: Sequence[dict[str, Any]], masks: Sequence[bytes]
    ) -> tuple[list[list[tuple[int, float]]], list[dict[str, Any]]]:
        """See `protocol.Decoder.decode`; as `wire` packs requests. With what it cost, as `DecodeStats`."""
        version = self._tessera_version(folder, batch_size)
        stats: list[DecodeStats] = []
        version.decoder.observer = stats.append
        answers = version.decoder.decode(version.reader.read(requests, masks))
        return [[(one.item, one.score) for one in answer] for answer in answers], [asdict(one) for one in stats]

    def tessera_score_items(
        self, folder: str, batch_size: int, history: bytes, items: bytes, query: str | None
    ) -> list[float]:
        """See `protocol.Decoder.score_items`."""
        decoder = self._tessera_version(folder, batch_size).decoder
        scores: list[float] = decoder.score_items(unpack_items(history), unpack_items(items), query).tolist()
        return scores

    def tessera_legal_mass(self, folder: str, batch_size: int, history: bytes, item: int) -> list[float]:
        """See `TorchDecoder.legal_mass`."""
        decoder = self._tessera_version(folder, batch_size).decoder
        masses: list[float] = decoder.legal_mass(unpack_items(history), item).tolist()
        return masses

    def _tessera_version(self, folder: str, batch_size: int) -> "_Version":
        from model_store.bundle import ModelStore
        from model_store.decoders.torch_decoder import TorchDecoder
        from model_store.decoders.vllm.model import VLLMModel

        # The worker's class is vLLM's, so there is no constructor to make these in.
        versions: OrderedDict[str, _Version] = self.__dict__.setdefault("_tessera_versions", OrderedDict())
        numbers: dict[str, int] = self.__dict__.setdefault("_tessera_adapters", {})
        if folder in versions:
            versions.move_to_end(folder)
            return versions[folder]
        path = Path(folder)
        # Whoever started the engine has verified the files.
        bundle = ModelStore(path.parent).open(path.name, skip=("",))
        like = next((one for one in versions.values() if one.manifest.same_language_model(bundle.manifest)), None)
        if like is None:
            model = VLLMModel(self, adapter_of(bundle, numbers))
            decoder = TorchDecoder.of_bundle(bundle, model, batch_size=batch_size)
        else:
            decoder = like.decoder.for_version(bundle)
        versions[folder] = _Version(decoder, RequestReader(bundle.trie), bundle.manifest)
        if len(versions) > _VERSIONS_KEPT:
            versions.popitem(last=False)
        return versions[folder]


def _watch(process_id: int) -> None:
    while _lives(process_id):
        time.sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _lives(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True
