"""vLLM decodes codes under the trie as fast as its own beam search, which takes no constraint, and twice as fast at 50.

Measured, on one CPU core in float32: `VLLMDecoder` against `vllm.LLM.beam_search` over four free tokens and against
`TorchDecoder`, each with an engine of its own, on the same random Qwen3 checkpoint, prompts of 16 and 50 items, beams
of 20 and 50, for one user and for 16 together. Every prompt is new to every engine, as a live user's is.
`VLLMDecoder` and `TorchDecoder` return the same lists, which is checked; vLLM's beam search cannot, since it has no
constraint: what it does return that no item has is counted.
Floor: that of `benchmarks.decode`, the multiplications of the decode's positions.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from benchmarks import harness
from benchmarks.harness import Claim, Report, Spread, Table
from benchmarks.random_models import CELLS, Cell, random_codes
from model_store.bundle import Bundle
from model_store.code_tokens import CodeTokens
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.decoders.vllm.decoder import VLLMDecoder
from model_store.item_codes import LEVEL_LETTERS
from model_store.prompts import PromptEncoder
from tests.tiny_bundle import build_tiny_bundle

_ITEMS = 12_000
_HIDDEN, _LAYERS = 256, 8
_LEVELS = len(LEVEL_LETTERS)
_TOGETHER = 16
_TOP = 20
_TIE = 1e-3
_CACHE_GIB = 1

_TIMES_OWN = {20: 1.0, 50: 2.0}
_OF_TORCH = 1 / 1.5

_OWN, _VLLM, _TORCH = "vLLM's beam search", "vLLM decoder", "torch decoder"


class Bench:
    """Three decoders of one checkpoint."""

    def __init__(self, bundle: Bundle) -> None:
        from vllm import LLM

        tokenizer = AutoTokenizer.from_pretrained(bundle.llm_path, local_files_only=True)
        code_tokens = CodeTokens.from_vocabulary(tokenizer, bundle.llm_path)
        self.prompts = PromptEncoder.create(tokenizer, code_tokens, bundle.item_codes, bundle.manifest.max_history)
        self._codes = {tuple(code) for code in self.prompts.item_tokens_NL.tolist()}
        self.torch = TorchDecoder.from_bundle(bundle, device="cpu", batch_size=_TOGETHER)
        self.vllm = VLLMDecoder(bundle, batch_size=_TOGETHER)
        self._own: Any = LLM(
            str(bundle.llm_path),
            dtype="float32",
            enforce_eager=True,
            max_model_len=self.prompts.max_length + _LEVELS,
            # The smallest block, since whole blocks are all that it shares between beams.
            block_size=32,
            max_num_seqs=_TOGETHER * max(cell.beams for cell in CELLS),
            max_logprobs=2 * max(cell.beams for cell in CELLS),
            kv_cache_memory_bytes=_CACHE_GIB << 30,
            enable_prefix_caching=True,
            generation_config="vllm",
            disable_log_stats=True,
        )
        self._histories = np.random.default_rng(1)
        self.illegal = self.returned = 0

    def histories(self, items: int, users: int) -> list[NDArray[np.int32]]:
        """Histories that nobody has seen yet."""
        return [self._histories.integers(0, _ITEMS, items).astype(np.int32) for _ in range(users)]

    def own(self, histories: Sequence[NDArray[np.int32]], beams: int) -> None:
        """What vLLM offers: as many tokens as a code has, of the whole vocabulary."""
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import BeamSearchParams

        prompts = [TokensPrompt(prompt_token_ids=self.prompts.sequential(history).tolist()) for history in histories]
        asked = BeamSearchParams(beam_width=beams, max_tokens=_LEVELS, ignore_eos=True)
        for prompt, answer in zip(prompts, self._own.beam_search(prompts, asked), strict=True):
            length = len(prompt["prompt_token_ids"])
            codes = [tuple(sequence.tokens[length:]) for sequence in answer.sequences]
            self.returned += len(codes)
            self.illegal += sum(code not in self._codes for code in codes)

    def assert_same(self, cell: Cell) -> None:
        """Both constrained decoders return the same lists."""
        asked = requests(self.histories(cell.history, 4), cell.beams)
        for ours, theirs in zip(self.vllm.decode(asked), self.torch.decode(asked), strict=True):
            assert len(ours) == len(theirs) == _TOP
            for a, b in zip(ours, theirs, strict=True):
                if abs(a.score - b.score) > _TIE:
                    raise AssertionError(f"scores differ: {a} and {b}")

    def close(self) -> None:
        """End the engines."""
        self.vllm.close()
        self._own.llm_engine.engine_core.shutdown()


def requests(histories: Sequence[NDArray[np.int32]], beams: int) -> list[DecodeRequest]:
    """One decode for each."""
    return [DecodeRequest(history=history, n=_TOP, beam_width=beams) for history in histories]


def measure(quick: bool) -> Report:
    """The three in turn."""
    # Before vLLM is imported: its processes take their cores from here. One core for each side.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bundle = build_tiny_bundle(
            Path(folder),
            items=_ITEMS,
            codes=random_codes(_ITEMS).codes_NL,
            max_history=max(cell.history for cell in CELLS),
            architecture="qwen3",
            hidden=_HIDDEN,
            layers=_LAYERS,
        )
        harness.progress("starting the engines")
        bench = Bench(bundle)
        try:
            return _measured(bench, quick)
        finally:
            bench.close()


def _measured(bench: Bench, quick: bool) -> Report:
    report = Report()
    rows = []
    for cell in CELLS[2:3] if quick else CELLS:
        harness.progress(str(cell))
        bench.assert_same(cell)
        for users in (1, _TOGETHER):
            found = _timed(bench, cell, users, 2 if quick else 5)
            own, ours, torch_s = (found[side] for side in (_OWN, _VLLM, _TORCH))
            label = f"{cell.history} items, {cell.beams} beams, {'one user' if users == 1 else f'{users} users'}"
            per_user = [spread.times(1000 / users) for spread in (own, ours, torch_s)]
            faster, of_torch = own.median / ours.median, torch_s.median / ours.median
            rows.append((label, *per_user, f"{faster:.1f}", f"{of_torch:.2f}"))
            report.claims += [
                Claim.at_least(f"than vLLM's beam search: {label}", faster, "x", _TIMES_OWN[cell.beams]),
                Claim.at_least(f"than the torch decoder: {label}", of_torch, "x", _OF_TORCH),
            ]
    report.tables.append(
        Table("ms a user, median (min..max)", ("", _OWN, _VLLM, _TORCH, "own/vLLM decoder", "torch/vLLM decoder"), rows)
    )
    report.notes.append(
        f"{_ITEMS:,} items; one thread for each side; of what vLLM's own beam search returned, "
        f"{bench.illegal / max(bench.returned, 1):.0%} were codes of no item"
    )
    return report


def _timed(bench: Bench, cell: Cell, users: int, rounds: int) -> dict[str, Spread]:
    # Not among what is timed: drawing them. Each side gets others, so that no cache holds any of it.
    def fresh() -> list[NDArray[np.int32]]:
        return bench.histories(cell.history, users)

    calls: dict[str, Callable[[list[NDArray[np.int32]]], object]] = {
        _OWN: lambda histories: bench.own(histories, cell.beams),
        _VLLM: lambda histories: bench.vllm.decode(requests(histories, cell.beams)),
        _TORCH: lambda histories: bench.torch.decode(requests(histories, cell.beams)),
    }

    def timed(call: Callable[[list[NDArray[np.int32]]], object]) -> Callable[[], float]:
        def once() -> float:
            histories = fresh()
            return harness.seconds(lambda: call(histories))

        return once

    return harness.interleaved({name: timed(call) for name, call in calls.items()}, rounds)


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure)
