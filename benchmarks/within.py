"""Ranking a user's cached items anew takes three quarters of the time of a beam search, or less.

Measured, on one CPU core in float32: `TorchDecoder` given K cached items as candidates (`within=cache`) against its
beam search of the catalogue with K beams, for K = 20 and 50, on the same random GPT-NeoX models (`scratch:small` and
`scratch:large`), the same trie of 12,000 items and the same histories of 50 items; for one user, who is what the first
line is about, and for 32 handed over together (4 with --quick), where less is saved because the prompt is most of the
work. The candidates are what 50 beams found before the newest event. Before anything is timed their scores are compared
with those that a beam search gives the same items: equal within 1e-3. The prompts alone are timed too: nothing that
reads the history can take less.
Floor: the multiplications of the positions that each side computes, 2 N (T + S) with N weights outside the embeddings,
T prompt tokens and S further positions (on both sides nodes that have several children, or lead to one that has), at
the matrix product rate of the same run. Attention and the projection onto code tokens are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import harness
from benchmarks.counted_model import CountedModel
from benchmarks.harness import Claim, Report, Spread, Table
from benchmarks.random_models import opinionated, random_codes, scratch_model
from model_store.code_tokens import CodeTokens
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.float32_products import use_fast_float32_products
from model_store.item_codes import CODEBOOK_SIZE, LEVEL_LETTERS
from model_store.prefix_trie import PrefixTrie
from model_store.prompts import PromptEncoder

_ITEMS = 12_000
_HISTORY = 50
_USERS, _QUICK_USERS = 32, 4
_BATCH = 16
_KEPT = (20, 50)
_ENTRY_BEAMS = 50
_LEVELS = len(LEVEL_LETTERS)
_TEXT_TOKENS = 2051
_MODELS = {"scratch:small": (128, 2), "scratch:large": (512, 6)}
_TOLERANCE = 1e-3

_TIMES_ONE_USER = 4 / 3
_TIMES_TOGETHER = 1.1

_PROMPT, _WITHIN, _BEAM = "prompt alone", "within", "beam"
_ONE, _TOGETHER = "one user", "together"
_MATMUL = "matrix product"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Positions that go through the model, beyond the prompt: the mean over users."""

    within: float
    beam: float


class Bench:
    """One model, its users, and what is cached for them."""

    def __init__(self, hidden: int, layers: int, users: int) -> None:
        torch.manual_seed(0)
        vocabulary = _TEXT_TOKENS + _LEVELS * CODEBOOK_SIZE
        self.model: Any = opinionated(scratch_model(hidden=hidden, layers=layers, vocabulary=vocabulary))
        codes = random_codes(_ITEMS)
        self.trie = PrefixTrie.build(codes)
        ids = _TEXT_TOKENS + np.arange(_LEVELS * CODEBOOK_SIZE, dtype=np.int32)
        tokens = CodeTokens(ids.reshape(_LEVELS, CODEBOOK_SIZE))
        self.prompts = PromptEncoder((1,), tokens.of_items(codes), max_history=_HISTORY)
        self._counted = CountedModel(self.model)
        self.decoder = TorchDecoder(self._counted, tokens, self.prompts, self.trie, batch_size=_BATCH)
        random = np.random.default_rng(1)
        self.users = [random.integers(0, _ITEMS, _HISTORY).astype(np.int32) for _ in range(users)]
        before = [DecodeRequest(history=user[:-1], n=max(_KEPT), beam_width=_ENTRY_BEAMS) for user in self.users]
        self.cached = [np.array([one.item for one in answer], dtype=np.int32) for answer in self.decoder.decode(before)]

    def beam(self, kept: int) -> list[DecodeRequest]:
        """Every user's beam search."""
        return [DecodeRequest(history=user, n=kept, beam_width=kept) for user in self.users]

    def within(self, kept: int) -> list[DecodeRequest]:
        """Every user's cached items to be ranked."""
        return [
            DecodeRequest(history=user, n=kept, beam_width=kept, candidates=cached[:kept])
            for user, cached in zip(self.users, self.cached, strict=True)
        ]

    @torch.inference_mode()
    def read_prompts(self, users: list[NDArray[np.int32]]) -> None:
        """Only the part that both share."""
        for start in range(0, len(users), _BATCH):
            prompts = np.stack([self.prompts.sequential(user) for user in users[start : start + _BATCH]])
            self.model.base_model(input_ids=torch.from_numpy(prompts).long(), use_cache=False)

    def sizes(self, kept: int) -> Sizes:
        """Positions that the two sides compute."""
        return Sizes(*(self._positions(requests) for requests in (self.within(kept), self.beam(kept))))

    def _positions(self, requests: list[DecodeRequest]) -> float:
        before = self._counted.positions
        self.decoder.decode(requests)
        return (self._counted.positions - before) / len(requests) - (1 + _LEVELS * _HISTORY)

    def flops(self, positions: float) -> float:
        """Multiplications and additions of one user with so many positions beyond the prompt."""
        embeddings = self.model.get_input_embeddings().weight.numel()
        weights = sum(parameter.numel() for parameter in self.model.parameters()) - embeddings
        return 2.0 * weights * (1 + _LEVELS * _HISTORY + positions)

    def assert_same(self, kept: int) -> None:
        """Scores of candidates are those that a beam search gives the same items."""
        for ranked, found in zip(
            self.decoder.decode(self.within(kept)), self.decoder.decode(self.beam(max(_KEPT))), strict=True
        ):
            scores = {one.item: one.score for one in found}
            both = [one for one in ranked if one.item in scores]
            if len(ranked) != kept or any(abs(one.score - scores[one.item]) > _TOLERANCE for one in both):
                raise AssertionError("candidates are not scored as in a beam search")


def measure(quick: bool) -> Report:
    """Both sides, and what they share, on both models."""
    # Operations this small gain little from a second thread, and wait for it whenever something else has its core.
    torch.set_num_threads(1)
    # Both sides gain.
    use_fast_float32_products()
    users = _QUICK_USERS if quick else _USERS
    report = Report()
    for name, (hidden, layers) in _MODELS.items():
        bench = Bench(hidden, layers, users)
        rows = []
        for kept in _KEPT:
            harness.progress(f"{name}, {kept} items")
            bench.assert_same(kept)
            found, rate = _timed(bench, kept, 5 if quick else 9)
            sizes = bench.sizes(kept)
            floors = [bench.flops(positions) / rate * 1000 for positions in (sizes.within, sizes.beam)]
            for where, count in ((_ONE, 1), (_TOGETHER, users)):
                label = f"{name}, {kept} cached items, {_ONE if count == 1 else f'{users} users together'}"
                prompt, within, beam = (
                    found[f"{side}, {where}"].times(1000 / count) for side in (_PROMPT, _WITHIN, _BEAM)
                )
                ratio, target = beam.median / within.median, _TIMES_ONE_USER if count == 1 else _TIMES_TOGETHER
                report.claims.append(Claim.at_least(f"less time than a beam search: {label}", ratio, "x", target))
                rows.append(
                    (
                        label.partition(", ")[2],
                        prompt,
                        within,
                        beam,
                        f"{ratio:.2f}",
                        f"{sizes.within:.0f} : {sizes.beam:.0f}",
                        f"{floors[0]:.2f} : {floors[1]:.2f} = {floors[1] / floors[0]:.2f}",
                        f"{within.median / floors[0]:.1f}",
                    )
                )
        report.tables.append(
            Table(
                f"{name}: ms a user, median (min..max)",
                ("", "prompt", "within", "beam", "beam/within", "positions", "floors, ms", "within/floor"),
                rows,
            )
        )
    report.notes.append(
        f"{_ITEMS:,} items, prompts of {1 + _LEVELS * _HISTORY} tokens, batches of {_BATCH} at most, one thread; "
        "positions are those behind the prompt, within : beam"
    )
    return report


def _timed(bench: Bench, kept: int, rounds: int) -> tuple[dict[str, Spread], float]:
    beam, within = bench.beam(kept), bench.within(kept)
    turn = iter(range(1_000_000))

    def one(requests: list[DecodeRequest]) -> list[DecodeRequest]:
        return [requests[next(turn) % len(requests)]]

    hidden, rows = bench.model.config.hidden_size, 4096
    left, right = torch.randn(rows, hidden), torch.randn(hidden, 4 * hidden)
    sides: dict[str, Callable[[], object]] = {
        f"{_PROMPT}, {_ONE}": lambda: bench.read_prompts(bench.users[:1]),
        f"{_WITHIN}, {_ONE}": lambda: bench.decoder.decode(one(within)),
        f"{_BEAM}, {_ONE}": lambda: bench.decoder.decode(one(beam)),
        f"{_PROMPT}, {_TOGETHER}": lambda: bench.read_prompts(bench.users),
        f"{_WITHIN}, {_TOGETHER}": lambda: bench.decoder.decode(within),
        f"{_BEAM}, {_TOGETHER}": lambda: bench.decoder.decode(beam),
        _MATMUL: lambda: torch.mm(left, right),
    }
    timed = {name: lambda call=call: harness.seconds(call) for name, call in sides.items()}
    found = harness.interleaved(timed, rounds)
    return found, 2.0 * rows * hidden * 4 * hidden / found[_MATMUL].median


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure)
