"""Beam search over item codes with the model inside a vLLM engine.

vLLM's own beam search takes no constraint, so the loop is ours: each live beam is a request for one token that returns
the log-probabilities of its node's children. Prefix caching computes the prompt once; continuous batching runs the
beams of all users together.

Shapes: B beams, C children of one node, K candidates (the children of all beams), N items, L levels.
"""

import asyncio
import copy
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from model_store.bundle import Bundle
from model_store.code_tokens import CodeTokens
from model_store.decoders.collaborative_score import CollaborativeScore
from model_store.decoders.decode_stats import Observer
from model_store.decoders.item_tree import item_tree
from model_store.decoders.protocol import Decoded, Decoder, DecodeRequest, render
from model_store.decoders.stats_recorder import StatsRecorder
from model_store.decoders.trie_tensors import TrieTensors
from model_store.decoders.vllm_engine import VLLMEngine, gather
from model_store.errors import DecoderUnusable
from model_store.item_codes import CODEBOOK_SIZE
from model_store.prefix_trie import open_nodes
from model_store.prompts import PromptEncoder

# Scores that agree to this many digits count as equal: engines add in different orders.
_TIE_DIGITS = 6
_TOLERANCE_FLOAT32 = 1e-3
# A bfloat16 logit of size 10 is off by up to 0.04, and a score adds one for each level.
_TOLERANCE_REDUCED = 0.2
# Each sequence takes a row of logits, 0.6 MB with a vocabulary of 150,000.
_MAX_SEQUENCES = 256
_CHECKED_HISTORIES = 3
_CHECKED_ITEMS = 16


@dataclass(frozen=True)
class SelfCheck:
    """What `VLLMDecoder.self_check` found.

    Attributes:
        legal_mass: per level, the share of the whole vocabulary's probability that falls on the node's children, along
            the best item's path; the mean over the checked prompts. Near 1 once a model has learned the codes.
        largest_difference: the largest difference between two scores of the same item.
        compared: how many scores were compared.
    """

    legal_mass: tuple[float, ...]
    largest_difference: float
    compared: int


class VLLMDecoder:
    """Decodes with vLLM (see `protocol.Decoder`); `decode` may be called from several threads at once.

    Args:
        bundle: the published version.
        beam_width: beams that requests usually ask for; sizes the engine, larger requests still work.
        kv_cache_gib: memory for keys and values.
        max_concurrent: users decoded at once; more wait.

    Raises:
        DecoderUnusable: vLLM is not installed, cannot run the checkpoint, or the checkpoint is not a Tessera model.
    """

    name = "vllm"
    observer: Observer | None = None

    def __init__(self, bundle: Bundle, *, beam_width: int, kv_cache_gib: float = 1.0, max_concurrent: int = 4) -> None:
        self._trie = bundle.trie
        self._normalised = bundle.manifest.score == "children"
        self._source = bundle.llm_path
        tokenizer = AutoTokenizer.from_pretrained(bundle.llm_path, local_files_only=True)
        code_tokens = CodeTokens.from_vocabulary(tokenizer, bundle.llm_path)
        self._code_ids_LC = code_tokens.ids_LC
        self._prompts = PromptEncoder.create(tokenizer, code_tokens, bundle.item_codes, bundle.manifest.max_history)
        self._collaborative = CollaborativeScore.of_bundle(bundle)
        self._trie_tensors = TrieTensors(bundle.trie, torch.device("cpu"))
        self._users = asyncio.Semaphore(max_concurrent)
        self._engine = VLLMEngine(
            bundle.llm_path,
            # The prompt, every code token but the last, and the token that each request generates.
            max_tokens=self._prompts.max_length + self._trie.levels,
            max_sequences=min(beam_width * max_concurrent, _MAX_SEQUENCES),
            # Not what this trie needs: another version's may have larger families, see `for_version`.
            most_ids=CODEBOOK_SIZE,
            kv_cache_gib=kv_cache_gib,
        )

    def for_version(self, bundle: Bundle) -> "VLLMDecoder":
        """A decoder of another version with the same language model: both share one engine, which `close` ends."""
        other = copy.copy(self)
        item_tokens_NL = CodeTokens(self._code_ids_LC).of_items(bundle.item_codes)
        other._prompts = replace(self._prompts, item_tokens_NL=item_tokens_NL)
        other._trie = bundle.trie
        other._collaborative = CollaborativeScore.of_bundle(bundle)
        other._trie_tensors = TrieTensors(bundle.trie, torch.device("cpu"))
        return other

    @property
    def alive(self) -> bool:
        """See `protocol.Decoder`."""
        return self._engine.alive

    def decode(self, requests: Sequence[DecodeRequest]) -> list[list[Decoded]]:
        """See `protocol.Decoder`.

        Raises:
            EngineDied: the engine's process ended.
        """
        return self._engine.submit(gather([self._decode_one(request) for request in requests])).result()

    def submit(self, request: DecodeRequest) -> "Future[list[Decoded]]":
        """Start one decode; cancelling the future takes its beams out of the engine."""
        return self._engine.submit(self._decode_one(request))

    def score_items(
        self, history: NDArray[np.int32], items: NDArray[np.int32], query: str | None = None
    ) -> NDArray[np.float64]:
        """See `protocol.Decoder`; prefixes that items share are computed once."""

        async def score() -> NDArray[np.float64]:
            # In the engine's loop like every other rendering: a tokenizer belongs to one thread.
            request = DecodeRequest(history=history, n=1, beam_width=1, query=query)
            prompt = render(self._prompts, history, query).tolist()
            return await self._score_items(request, prompt, items, StatsRecorder())

        return self._engine.submit(score()).result()

    def self_check(self, reference: Decoder | None = None) -> SelfCheck:
        """Compare the scores of decoded items with `score_items` of `reference`, or of this decoder without one.

        Warms the engine up as well.

        Raises:
            DecoderUnusable: they differ, or are no numbers.
        """
        scorer: Decoder = reference or self
        differences: list[float] = []
        masses: list[NDArray[np.float64]] = []
        for history in self._sample_histories():
            decoded = self.decode([DecodeRequest(history=history, n=_CHECKED_ITEMS, beam_width=_CHECKED_ITEMS)])[0]
            items = np.array([one.item for one in decoded], dtype=np.int32)
            scores = np.array([one.score for one in decoded])
            differences += np.abs(scores - scorer.score_items(history, items)).tolist()
            masses.append(self._engine.submit(self._legal_mass_along(history, int(items[0]))).result())
        largest = float(np.max(differences))
        tolerance = _TOLERANCE_FLOAT32 if self._engine.on_cpu else _TOLERANCE_REDUCED
        # Written so that NaN fails too.
        if not largest <= tolerance:
            raise DecoderUnusable(
                f"{self._source}: vLLM's scores differ by {largest:.3g} from those of the {scorer.name} engine "
                f"(allowed: {tolerance:g}); vLLM does not run this model faithfully, use the torch engine"
            )
        return SelfCheck(tuple(np.mean(masses, axis=0).tolist()), largest, len(differences))

    def close(self) -> None:
        """End vLLM's processes."""
        self._engine.close()

    async def _decode_one(self, request: DecodeRequest) -> list[Decoded]:
        stats = StatsRecorder()
        prompt = render(self._prompts, request.history, request.query).tolist()
        stats.lap("render")
        async with self._users:
            stats.lap(None)
            run = self._search if request.candidates is None else self._rank
            answer = await run(request, prompt, stats)
        if self.observer is not None:
            self.observer(stats.finish())
        return answer

    async def _search(self, request: DecodeRequest, prompt: list[int], stats: StatsRecorder) -> list[Decoded]:
        """Beam search: the best of the whole catalogue."""
        trie = self._trie
        excluded = trie.excluded_leaves(request.excluded)
        opinions = self._collaborative.opinions([request]) if self._collaborative else None
        nodes_B = np.zeros(1, dtype=np.int64)
        scores_B = mixed_B = np.zeros(1)
        prefixes: list[list[int]] = [[]]
        for depth in range(trie.levels):
            # Only the root can be closed here: deeper beams were open when they were kept.
            if not open_nodes(trie, nodes_B, request.eligible, excluded).any():
                stats.masked_counts(torch.tensor([len(trie.children(0))]), torch.tensor([0]))
                stats.search_ended()
                return []
            stats.lap("select")
            answers = await gather(
                [
                    self._child_log_probs([*prompt, *prefix], int(node), depth)
                    for prefix, node in zip(prefixes, nodes_B, strict=True)
                ]
            )
            stats.lap("beams" if depth else "prompt", steps=self._requests_for(nodes_B))
            children_K = np.concatenate([np.asarray(trie.children(int(node))) for node in nodes_B])
            parents_K = np.repeat(np.arange(len(nodes_B)), [len(answer) for answer in answers])
            scores_K = scores_B[parents_K] + np.concatenate(answers)

            mixed_K = scores_K
            if opinions is not None:
                scores, children = (torch.from_numpy(array)[None, None] for array in (scores_K, children_K))
                mixed_K = opinions.mixed(scores, children, self._trie_tensors)[0, 0].numpy()
            open_K = np.flatnonzero(open_nodes(trie, children_K, request.eligible, excluded))
            stats.masked_counts(torch.tensor([len(children_K)]), torch.tensor([len(open_K)]))
            best = open_K[self._best_first(mixed_K[open_K], children_K[open_K])[: request.width]]
            nodes_B, scores_B, mixed_B = children_K[best], scores_K[best], mixed_K[best]
            tokens = self._code_ids_LC[depth][trie.token[nodes_B]].tolist()
            prefixes = [[*prefixes[parent], token] for parent, token in zip(parents_K[best], tokens, strict=True)]
        items = trie.leaf_item[trie.leaf_begin[nodes_B]].tolist()
        stats.search_ended()
        stats.lap("select")
        return [Decoded(item, score) for item, score in zip(items, mixed_B.tolist(), strict=True)][: request.n]

    async def _rank(self, request: DecodeRequest, prompt: list[int], stats: StatsRecorder) -> list[Decoded]:
        """The best of the request's candidates."""
        items = request.open_candidates()
        scores = await self._score_items(request, prompt, items, stats)
        best = self._best_first(scores, self._trie.item_leaf[items] + self._trie.level_begin[-2])[: request.n]
        pairs = zip(items[best].tolist(), scores[best].tolist(), strict=True)
        return [Decoded(item, score) for item, score in pairs]

    def _best_first(self, scores_K: NDArray[np.float64], nodes_K: NDArray[np.int64]) -> NDArray[np.int64]:
        """Order candidates by score; equal ones by leaf position, so that every engine returns the same list."""
        order: NDArray[np.int64] = np.lexsort((self._trie.leaf_begin[nodes_K], -scores_K.round(_TIE_DIGITS)))
        return order

    async def _child_log_probs(self, tokens: Sequence[int], node: int, depth: int) -> NDArray[np.float64]:
        """What each child of a node adds to the score; float64 [C]. `tokens` are the prompt and the node's own code."""
        if self._normalised and len(self._trie.children(node)) == 1:
            return np.zeros(1)
        raw_C = await self._raw_log_probs(tokens, node, depth)
        return raw_C - np.logaddexp.reduce(raw_C) if self._normalised else raw_C

    def _requests_for(self, nodes_B: NDArray[np.integer]) -> int:
        """How many requests `_child_log_probs` of these nodes take together."""
        children_B = self._trie.first_child[nodes_B + 1] - self._trie.first_child[nodes_B]
        asked = children_B[children_B > 1] if self._normalised else children_B
        return int(self._engine.requests_for(asked).sum())

    async def _raw_log_probs(self, tokens: Sequence[int], node: int, depth: int) -> NDArray[np.float64]:
        children = self._trie.children(node)
        wanted = self._code_ids_LC[depth][self._trie.token[children.start : children.stop]].tolist()
        return await self._engine.log_probs(tokens, wanted)

    async def _score_items(
        self, request: DecodeRequest, prompt: list[int], items: NDArray[np.int32], stats: StatsRecorder
    ) -> NDArray[np.float64]:
        trie = self._trie
        tokens_KL = self._code_ids_LC[np.arange(trie.levels), trie.token[trie.paths(items)]]
        tree = item_tree(trie, items, skip_certain=self._normalised)

        def asked(depth: int) -> list[Coroutine[Any, Any, NDArray[np.float64]]]:
            # Any item below a node spells the way to it.
            rows = tree[depth].items[np.unique(tree[depth].slots, return_index=True)[1]]
            return [
                self._child_log_probs([*prompt, *tokens_KL[row, :depth].tolist()], int(node), depth)
                for node, row in zip(tree[depth].nodes, rows, strict=True)
            ]

        # The root first, so that the others find the prompt in the prefix cache. They need not wait for each other.
        answers = await gather(asked(0))
        answers += await gather([one for depth in range(1, trie.levels) for one in asked(depth)])
        stats.lap("candidates", steps=sum(self._requests_for(level.nodes) for level in tree))
        total = np.zeros(len(items))
        left = iter(answers)
        for level in tree:
            of_node = [next(left) for _ in level.nodes]
            total[level.items] += [
                of_node[slot][child] for slot, child in zip(level.slots, level.children, strict=True)
            ]
        opinions = self._collaborative.opinions([request]) if self._collaborative else None
        return total if opinions is None else opinions.mixed_items(0, total, trie.item_leaf[items])

    async def _legal_mass_along(self, history: NDArray[np.int32], item: int) -> NDArray[np.float64]:
        path_L = self._trie.paths(np.array([item]))[0].tolist()
        tokens_L = self._code_ids_LC[np.arange(len(path_L)), self._trie.token[path_L]].tolist()
        prompt = self._prompts.sequential(history).tolist()
        answers = await gather(
            [
                self._raw_log_probs([*prompt, *tokens_L[:depth]], node, depth)
                for depth, node in enumerate([0, *path_L[:-1]])
            ]
        )
        return np.array([np.exp(raw_C).sum() for raw_C in answers])

    def _sample_histories(self) -> list[NDArray[np.int32]]:
        """One short history, one of full length, and lengths between; the same ones every time."""
        random = np.random.default_rng(0)
        lengths = np.linspace(1, self._prompts.max_history, _CHECKED_HISTORIES).astype(int)
        return [random.integers(0, self._trie.item_count, length).astype(np.int32) for length in lengths]
