"""A decode under the trie takes as long for a million items as for ten thousand, with a filter as without one.

Measured, on one CPU core in float32: `TorchDecoder` on one batch of 16 users with 50 items of history, 20 beams, top
20, what they have seen left out, for catalogues of 10 thousand to 10 million items (to a million with --quick) with
codes of skewed frequency, on one random GPT-NeoX of the shape of `scratch:small`; without a filter and with one that
leaves 1 % of the items. Every list is checked: 20 distinct items, each eligible, none seen. Scores run over the whole
vocabulary, so that every size computes every beam; with the usual scores beams whose next code is certain are left out,
of which a small catalogue has more: those decodes are timed beside, without a filter. And the constraint alone: the
same walk down the same trie with random logits and no model, in its parts. Sizes and sides take turns, and ratios are
taken within a turn, so that what else the machine does meets both.
Floor: the same batch through the model with no constraint at all, prompts and beams as wide: what is above it is the
constraint's. The trie's branching grows with the catalogue, to at most 256 children a node, so that the part alone
grows by a bounded factor; what must not happen is work for every item.
"""

import itertools
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks import harness
from benchmarks.harness import Claim, Report, Spread, Table
from benchmarks.line_chart import Chart
from benchmarks.random_models import opinionated, scratch_model, skewed_codes
from model_store.code_tokens import CodeTokens
from model_store.decoders.language_model import HuggingFaceModel
from model_store.decoders.open_leaves import OpenLeaves
from model_store.decoders.protocol import Decoded, DecodeRequest
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.decoders.tree_attention import TreePass
from model_store.decoders.trie_tensors import TrieTensors
from model_store.float32_products import use_fast_float32_products
from model_store.item_codes import CODEBOOK_SIZE, LEVEL_LETTERS
from model_store.prefix_trie import EligibleItems, PrefixTrie
from model_store.prompts import PromptEncoder

_SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
_QUICK_SIZES = _SIZES[:3]
_SMALL, _LARGE = 10_000, 1_000_000
_USERS, _BEAMS, _HISTORY = 16, 20, 50
_ELIGIBLE_SHARE = 0.01
_HIDDEN, _LAYERS, _TEXT_TOKENS = 128, 2, 2051
_LEVELS = len(LEVEL_LETTERS)
_LOGIT_STD = 2.5
_CPU = torch.device("cpu")
_CLOSED = float("-inf")

_TIMES_SMALL = 1.10
_TIMES_UNFILTERED = 1.05
_SHARE = 0.05

_FREE, _FILTERED, _USUAL = "no filter", "1 % eligible", "usual scores"
_SIDES = (_FREE, _FILTERED, _USUAL)
_PARTS = ("children", "scores", "open nodes", "top-k")
_MODEL = "model alone"


class Catalogue:
    """One size: its trie, its decoder, and one batch of requests for each side."""

    def __init__(self, size: int, model: Any) -> None:
        random = np.random.default_rng(1)
        codes = skewed_codes(size)
        self.trie = PrefixTrie.build(codes)
        ids = _TEXT_TOKENS + np.arange(_LEVELS * CODEBOOK_SIZE, dtype=np.int32)
        tokens = CodeTokens(ids.reshape(_LEVELS, CODEBOOK_SIZE))
        prompts = PromptEncoder((1,), tokens.of_items(codes), max_history=_HISTORY)
        wrapped = HuggingFaceModel(model)
        usual, every_beam = (
            TorchDecoder(wrapped, tokens, prompts, self.trie, batch_size=_USERS, score=score)
            for score in ("children", "vocabulary")
        )
        self.decoders = {_FREE: every_beam, _FILTERED: every_beam, _USUAL: usual}
        self.tensors = TrieTensors(self.trie, _CPU)
        histories = [random.integers(0, size, _HISTORY).astype(np.int32) for _ in range(_USERS)]
        eligible = EligibleItems.from_mask(self.trie, random.random(size) < _ELIGIBLE_SHARE)
        self.requests = {
            name: [
                DecodeRequest(history=history, n=_BEAMS, beam_width=_BEAMS, excluded=history, eligible=chosen)
                for history in histories
            ]
            for name, chosen in ((_FREE, None), (_FILTERED, eligible), (_USUAL, None))
        }

    def assert_full(self, name: str) -> None:
        """Every user of that side gets a whole list of items that may be shown."""
        requests = self.requests[name]
        for request, answer in zip(requests, self.decode(name), strict=True):
            items = {one.item for one in answer}
            allowed = request.eligible is None or request.eligible.mask[sorted(items)].all()
            if len(answer) != _BEAMS or len(items) != _BEAMS or not allowed or items & set(request.excluded.tolist()):
                raise AssertionError(f"{self.trie.item_count:,} items, {name}: not a full list of items to be shown")

    def decode(self, name: str) -> list[list[Decoded]]:
        """The whole decode of that side's batch."""
        return self.decoders[name].decode(self.requests[name])

    @torch.inference_mode()
    def constrain(self, name: str, logits: Sequence[torch.Tensor]) -> dict[str, float]:
        """What the decoder does beside the model, for that side's batch: seconds in each part.

        Args:
            name: the side.
            logits: of each level's code tokens, [U, B, 256]; in the model's place.
        """
        took = dict.fromkeys(_PARTS, 0.0)
        trie, clock = self.tensors, _Stopwatch(took)
        open_leaves = OpenLeaves(self.trie, self.requests[name], _CPU)
        clock.charge("open nodes")
        nodes_UB = torch.zeros(_USERS, 1, dtype=torch.int64)
        scores_UB = torch.zeros(_USERS, 1)
        for depth in range(_LEVELS):
            children_UBC, real_UBC = trie.children(nodes_UB, depth)
            clock.charge("children")
            logits_UBC = logits[depth][:, : nodes_UB.shape[1]].gather(-1, trie.token[children_UBC])
            log_probs_UBC = logits_UBC.masked_fill(~real_UBC, _CLOSED).log_softmax(-1)
            candidates = scores_UB[:, :, None] + log_probs_UBC
            clock.charge("scores")
            candidates.masked_fill_(~(real_UBC & open_leaves.below(trie, children_UBC)), _CLOSED)
            clock.charge("open nodes")
            keep = min(_BEAMS, candidates.shape[1] * candidates.shape[2])
            scores_UB, flat_UB = candidates.flatten(1).topk(keep, dim=1)
            nodes_UB = children_UBC.flatten(1).gather(1, flat_UB)
            clock.charge("top-k")
        return took


class _Stopwatch:
    """Adds the time since it was last asked to one of several sums."""

    def __init__(self, sums: dict[str, float]) -> None:
        self._sums, self._last = sums, perf_counter()

    def charge(self, name: str) -> None:
        now = perf_counter()
        self._sums[name] += now - self._last
        self._last = now


def measure(quick: bool) -> Report:
    """All sizes, both sides."""
    # Operations this small gain little from a second thread, and wait for it whenever something else has its core.
    torch.set_num_threads(1)
    use_fast_float32_products()
    torch.manual_seed(0)
    model = opinionated(
        scratch_model(hidden=_HIDDEN, layers=_LAYERS, vocabulary=_TEXT_TOKENS + _LEVELS * CODEBOOK_SIZE)
    )
    catalogues = {}
    for size in _QUICK_SIZES if quick else _SIZES:
        harness.progress(f"{size:,} items")
        catalogues[size] = Catalogue(size, model)
        for name in _SIDES:
            catalogues[size].assert_full(name)
    harness.progress("taking turns")
    return _report(catalogues, *_timed(catalogues, model, 11 if quick else 41))


Side = tuple[int, str]
Samples = dict[Side, list[float]]


def _timed(
    catalogues: dict[int, Catalogue], model: Any, rounds: int
) -> tuple[Samples, dict[Side, list[dict[str, float]]], Spread]:
    """Seconds of each whole decode, of each constraint alone by part, and of the model alone."""
    logits = [torch.randn(_USERS, _BEAMS, CODEBOOK_SIZE) * _LOGIT_STD for _ in range(_LEVELS)]
    decodes: Samples = {}
    parts: dict[Side, list[dict[str, float]]] = {}

    def decode(size: int, name: str) -> float:
        decodes.setdefault((size, name), []).append(harness.seconds(lambda: catalogues[size].decode(name)))
        return decodes[size, name][-1]

    def constrain(size: int, name: str) -> float:
        parts.setdefault((size, name), []).append(catalogues[size].constrain(name, logits))
        return sum(parts[size, name][-1].values())

    sides: dict[str, Callable[[], float]] = {_MODEL: lambda: harness.seconds(lambda: _model_alone(model))}
    for size, name in itertools.product(catalogues, _SIDES):
        sides[f"{size}, {name}, decode"] = lambda size=size, name=name: decode(size, name)
        if name == _USUAL:
            continue
        sides[f"{size}, {name}, constraint"] = lambda size=size, name=name: constrain(size, name)
    harness.interleaved(sides, 1)
    decodes.clear()
    parts.clear()
    found = harness.interleaved(sides, rounds)
    return decodes, parts, found[_MODEL]


@torch.inference_mode()
def _model_alone(model: Any) -> None:
    """The passes of one batch's decode, beams as many as there may be, with no trie."""
    prompt_tokens = 1 + _LEVELS * _HISTORY
    prompts = torch.full((_USERS, prompt_tokens), _TEXT_TOKENS)
    tree = TreePass(HuggingFaceModel(model), prompts, torch.full((_USERS,), prompt_tokens), _BEAMS * (_LEVELS - 1))
    beams = torch.full((_USERS, _BEAMS), _TEXT_TOKENS)
    parents = torch.arange(_BEAMS).expand(_USERS, -1)
    for depth in range(_LEVELS - 1):
        tree.follow(parents if depth else torch.zeros_like(parents), beams)
        tree.states(torch.ones_like(beams, dtype=torch.bool))


def _report(
    catalogues: dict[int, Catalogue],
    decodes: Samples,
    parts: dict[Side, list[dict[str, float]]],
    alone: Spread,
) -> Report:
    decode_ms = {side: Spread.of(samples).times(1000) for side, samples in decodes.items()}
    parts_ms = {
        side: {part: Spread.of(sample[part] for sample in samples).times(1000) for part in _PARTS}
        for side, samples in parts.items()
    }
    sums_ms = {
        side: Spread.of(sum(sample.values()) for sample in samples).times(1000) for side, samples in parts.items()
    }
    largest = max(catalogues)
    claims = [
        Claim.at_most(
            f"decode, {size:,} items against {_SMALL:,}, {_FREE}",
            _ratio(decodes[size, _FREE], decodes[_SMALL, _FREE]).median,
            "x",
            _TIMES_SMALL,
        )
        for size in sorted({_LARGE, largest})
    ]
    claims += [
        Claim.at_most(
            f"decode, {_FILTERED} against {_FREE}, {size:,} items",
            _ratio(decodes[size, _FILTERED], decodes[size, _FREE]).median,
            "x",
            _TIMES_UNFILTERED,
        )
        for size in sorted({_LARGE, largest})
    ]
    claims += [
        Claim.at_most(
            f"the constraint's share of a decode, {size:,} items, {name}",
            sums_ms[size, name].median / decode_ms[size, name].median,
            "",
            _SHARE,
        )
        for size in sorted({_LARGE, largest})
        for name in (_FREE, _FILTERED)
    ]
    panels = {
        title: {
            name: [_point(size, values[size, name]) for size in catalogues]
            for name in _SIDES
            if (_SMALL, name) in values
        }
        for title, values in ((f"one decode of {_USERS} users", decode_ms), ("the constraint alone", sums_ms))
    }
    return Report(
        tables=[
            Table(
                f"one decode of {_USERS} users: ms, median (min..max), and against {_SMALL:,} items in the same turn",
                (
                    "items",
                    *(f"{name}{suffix}" for name in _SIDES for suffix in (", ms", ", x")),
                    "filter, x",
                ),
                [
                    (
                        f"{size:,}",
                        *itertools.chain.from_iterable(
                            (decode_ms[size, name], _ratio(decodes[size, name], decodes[_SMALL, name]))
                            for name in _SIDES
                        ),
                        _ratio(decodes[size, _FILTERED], decodes[size, _FREE]),
                    )
                    for size in catalogues
                ],
            ),
            Table(
                "the constraint alone: ms, median (min..max)",
                ("items, side", "all", *_PARTS),
                [
                    (f"{size:,}, {name}", sums_ms[size, name], *found.values())
                    for (size, name), found in parts_ms.items()
                ],
            ),
            Table(
                "the trie",
                ("items", "most children, by level", "tensors, bytes an item"),
                [
                    (f"{size:,}", " ".join(map(str, one.trie.max_children)), one.tensors.nbytes / size)
                    for size, one in catalogues.items()
                ],
            ),
        ],
        claims=claims,
        notes=[
            f"the model alone, for the same batch: {alone.times(1000)} ms",
            f"every list is full: {_BEAMS} distinct items that pass the filter and were not seen",
            "on a CPU the tensors are the trie's own memory, and take none beside it",
        ],
        chart=Chart("items in the catalogue", "ms: median, lowest to highest", panels),
    )


def _point(size: int, spread: Spread) -> tuple[float, float, float, float]:
    return size, spread.median, spread.low, spread.high


def _ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """One side's time over another's, turn by turn."""
    return Spread.of(one / other for one, other in zip(over, under, strict=True))


if __name__ == "__main__":
    harness.run(__file__, __doc__, measure)
