"""Tree attention decodes at least 6 times faster than Hugging Face `generate` for one user, 10 times offline.

Measured, on one CPU core in float32: `TorchDecoder` against `generate(num_beams, prefix_allowed_tokens_fn)` with a dict
of prefixes, on the same random models (a Qwen3 of 8 layers and the GPT-NeoX of `scratch:small`), the same trie of
12,000 items, the same users, histories of 16 and 50 items, beams of 20 and 50, top 20. Both score by the whole
vocabulary, so that scores are the same quantity, and before anything is timed the lists are compared: equal but for
neighbours within 1e-4. Offline, `generate` is taken at its better of one by one and batches of 4.
Floor: the multiplications that any exact decode needs, 2 N (T + 3 B) + 2 V H (1 + 3 B) with N weights outside the
embeddings, T prompt tokens, B beams, V tokens, H hidden size, at the matrix product rate of the same run; attention
itself is left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks import harness
from benchmarks.harness import Claim, Report, Spread, Table
from benchmarks.random_models import opinionated, random_codes, scratch_model
from model_store.code_tokens import CodeTokens
from model_store.decoders.language_model import HuggingFaceModel
from model_store.decoders.protocol import Decoded, DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.item_codes import CODEBOOK_SIZE, LEVEL_LETTERS, ItemCodes
from model_store.prefix_trie import PrefixTrie
from model_store.prompts import PromptEncoder

_ITEMS = 12_000
_LEVELS = len(LEVEL_LETTERS)
_TOP = 20
_GENERATE_BATCH = 4
_TREE_BATCH = 16
_TIE = 1e-4

_TIMES_ONE_USER = 6.0
_TIMES_OFFLINE = 10.0

_GENERATE_ONE, _TREE_ONE = "generate, one user", "tree, one user"
_GENERATE_MANY, _TREE_MANY, _TREE_CHILDREN = "generate, batch", "tree, batch", "tree, batch, children"
_MATMUL = "matrix product"


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting: items in a history, beams."""

    history: int
    beams: int


_CELLS = (Cell(16, 20), Cell(16, 50), Cell(50, 20), Cell(50, 50))
_CLAIMED = Cell(50, 20)


class Bench:
    """One model under both decoders.

    Args:
        name: what to call it.
        model: random weights.
        codes: the catalogue.
        text_tokens: vocabulary before the code tokens; the first is the padding, the second opens a prompt.
    """

    def __init__(self, name: str, model: Any, codes: ItemCodes, text_tokens: int) -> None:
        self.name = name
        self.model = opinionated(model)
        trie = PrefixTrie.build(codes)
        ids = text_tokens + np.arange(_LEVELS * CODEBOOK_SIZE, dtype=np.int32)
        tokens = CodeTokens(ids.reshape(_LEVELS, CODEBOOK_SIZE))
        self.prompts = PromptEncoder((1,), tokens.of_items(codes), max_history=max(cell.history for cell in _CELLS))
        self.tree, self.tree_children = (
            TorchDecoder(HuggingFaceModel(self.model), tokens, self.prompts, trie, batch_size=_TREE_BATCH, score=score)
            for score in ("vocabulary", "children")
        )
        self._item_of = {tuple(row): item for item, row in enumerate(self.prompts.item_tokens_NL.tolist())}
        self._children: dict[tuple[int, ...], list[int]] = {}
        for code in sorted(self._item_of):
            for depth in range(_LEVELS):
                children = self._children.setdefault(code[:depth], [])
                if not children or children[-1] != code[depth]:
                    children.append(code[depth])

    @torch.inference_mode()
    def generate(self, histories: Sequence[NDArray[np.int32]], beams: int) -> list[list[Decoded]]:
        """The usual way. Histories of one length, so that nothing is padded."""
        prompts = torch.from_numpy(np.stack([self.prompts.sequential(history) for history in histories])).long()
        prompt_tokens = prompts.shape[1]

        def allowed(_: int, ids: torch.Tensor) -> list[int]:
            return self._children[tuple(ids[prompt_tokens:].tolist())]

        out = self.model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            num_beams=beams,
            num_return_sequences=_TOP,
            max_new_tokens=_LEVELS,
            do_sample=False,
            # The default divides scores by length; without output_scores there are none.
            length_penalty=0.0,
            output_scores=True,
            return_dict_in_generate=True,
            prefix_allowed_tokens_fn=allowed,
            pad_token_id=0,
            eos_token_id=None,
        )
        codes = out.sequences[:, prompt_tokens:].reshape(len(histories), _TOP, _LEVELS).tolist()
        scores = out.sequences_scores.reshape(len(histories), _TOP).tolist()
        return [
            [Decoded(self._item_of[tuple(code)], score) for code, score in zip(*user, strict=True)]
            for user in zip(codes, scores, strict=True)
        ]

    def decode(
        self, histories: Sequence[NDArray[np.int32]], beams: int, decoder: TorchDecoder | None = None
    ) -> list[list[Decoded]]:
        """Ours."""
        requests = [DecodeRequest(history=history, n=_TOP, beam_width=beams) for history in histories]
        return (decoder or self.tree).decode(requests)

    def floor_flops(self, cell: Cell) -> float:
        """Multiplications and additions that one user needs at least."""
        embeddings = self.model.get_input_embeddings().weight
        weights = sum(parameter.numel() for parameter in self.model.parameters()) - embeddings.numel()
        prompt_tokens, slots = 1 + _LEVELS * cell.history, (_LEVELS - 1) * cell.beams
        return 2.0 * weights * (prompt_tokens + slots) + 2.0 * embeddings.numel() * (1 + slots)


def measure(quick: bool) -> Report:
    """Both decoders on both models."""
    # Operations this small gain little from a second thread, and wait for it whenever something else has its core.
    torch.set_num_threads(1)
    codes = random_codes(_ITEMS)
    report = Report()
    for bench in _benches(codes):
        large = bench.name.startswith("qwen3")
        rows = []
        for cell in (_CELLS[0], _CLAIMED) if quick else _CELLS:
            harness.progress(f"{bench.name}, {cell}")
            found, rate = _measure_cell(bench, cell, quick, large)
            generate_offline = max(
                found[_GENERATE_ONE].per_second(),
                found[_GENERATE_MANY].per_second(_GENERATE_BATCH),
                key=lambda spread: spread.median,
            )
            tree_offline = found[_TREE_MANY].per_second(_TREE_BATCH)
            latency_ratio = found[_GENERATE_ONE].median / found[_TREE_ONE].median
            offline_ratio = tree_offline.median / generate_offline.median
            floor_ms = bench.floor_flops(cell) / rate * 1000
            rows.append(
                (
                    f"{cell.history} items, {cell.beams} beams",
                    found[_GENERATE_ONE].times(1000),
                    found[_TREE_ONE].times(1000),
                    f"{latency_ratio:.1f}",
                    generate_offline,
                    tree_offline,
                    f"{offline_ratio:.1f}",
                    found[_TREE_CHILDREN].per_second(_TREE_BATCH),
                    f"{bench.floor_flops(cell) / 1e9:.2f} = {floor_ms:.1f}",
                    f"{1000 / tree_offline.median / floor_ms:.1f}",
                )
            )
            where = f"{bench.name}, {cell.history} items, {cell.beams} beams"
            if large:
                report.claims.append(Claim.at_least(f"one user: {where}", latency_ratio, "x", _TIMES_ONE_USER))
            if large and cell == _CLAIMED:
                report.claims.append(Claim.at_least(f"offline: {where}", offline_ratio, "x", _TIMES_OFFLINE))
        report.tables.append(
            Table(
                f"{bench.name}: median (min..max); every list compared is the same on both sides",
                (
                    "",
                    "generate, one user, ms",
                    "tree, ms",
                    "x",
                    "generate, users/s",
                    "tree, users/s",
                    "x",
                    "tree, children score",
                    "floor, GFLOP = ms",
                    "tree / floor",
                ),
                rows,
            )
        )
    trie = PrefixTrie.build(codes)
    report.notes.append(
        f"trie: {_ITEMS:,} items, nodes per level {np.diff(trie.level_begin)[1:].tolist()}; one thread; "
        f"batches of {_TREE_BATCH} (tree) and {_GENERATE_BATCH} (generate, where faster than one by one)"
    )
    return report


def _benches(codes: ItemCodes) -> list[Bench]:
    torch.manual_seed(0)
    qwen3 = Qwen3Config(
        vocab_size=8192,
        hidden_size=256,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        intermediate_size=1024,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=None,
    )
    neox = scratch_model(hidden=128, layers=2, vocabulary=3075)
    return [
        Bench("qwen3, 9.4M", Qwen3ForCausalLM(qwen3), codes, 8192 - _LEVELS * CODEBOOK_SIZE),
        Bench("gpt-neox, scratch:small", neox, codes, 3075 - _LEVELS * CODEBOOK_SIZE),
    ]


def _measure_cell(bench: Bench, cell: Cell, quick: bool, large: bool) -> tuple[dict[str, Spread], float]:
    random = np.random.default_rng(1)
    users = [random.integers(0, _ITEMS, cell.history).astype(np.int32) for _ in range(_TREE_BATCH)]
    compared = users[: 1 if quick and large else _GENERATE_BATCH]
    expected = [bench.generate([user], cell.beams)[0] for user in compared]
    _assert_same(expected, [bench.decode([user], cell.beams)[0] for user in compared])
    _assert_same(expected, bench.decode(users, cell.beams)[: len(compared)])

    turn = iter(range(1_000_000))

    def one() -> list[NDArray[np.int32]]:
        return [users[next(turn) % len(users)]]

    rows, hidden = 4096, bench.model.config.hidden_size
    left, right = torch.randn(rows, hidden), torch.randn(hidden, 4 * hidden)
    sides: dict[str, Callable[[], object]] = {
        _GENERATE_ONE: lambda: bench.generate(one(), cell.beams),
        _TREE_ONE: lambda: bench.decode(one(), cell.beams),
        _GENERATE_MANY: lambda: bench.generate(users[:_GENERATE_BATCH], cell.beams),
        _TREE_MANY: lambda: bench.decode(users, cell.beams),
        _TREE_CHILDREN: lambda: bench.decode(users, cell.beams, bench.tree_children),
        _MATMUL: lambda: torch.mm(left, right),
    }
    timed = {name: lambda call=call: harness.seconds(call) for name, call in sides.items()}
    found = harness.interleaved(timed, (2 if large else 3) if quick else 5)
    return found, 2.0 * rows * hidden * 4 * hidden / found[_MATMUL].median


def _assert_same(expected: list[list[Decoded]], got: list[list[Decoded]]) -> None:
    """The same items at the same ranks with the same scores, but for items whose scores nearly tie."""
    for theirs, ours in zip(expected, got, strict=True):
        assert len(theirs) == len(ours) == _TOP
        for a, b in zip(theirs, ours, strict=True):
            if abs(a.score - b.score) > _TIE:
                raise AssertionError(f"scores differ: {a} and {b}")
            if a.item != b.item:
                twin = next((one for one in ours if one.item == a.item), None)
                # A tie may straddle the last rank.
                if abs((twin or ours[-1]).score - a.score) > _TIE:
                    raise AssertionError(f"lists differ: {a} and {twin}")


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure)
