"""Item codes by tree attention, whatever runs the language model.

A beam search takes one pass for the prompt and at most one for each level, which beams enter only where the model has a
choice to make; given candidates are scored in a single pass.

Shapes: U users, B beams, C children (padded to the level's largest family), H hidden size, N items, M trie nodes.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer

from model_store.bundle import Bundle
from model_store.code_tokens import CodeTokens
from model_store.decoders.checkpoint import load_language_model
from model_store.decoders.collaborative_score import CollaborativeScore
from model_store.decoders.decode_stats import Observer
from model_store.decoders.diversity import BeamChoice
from model_store.decoders.item_tree import TreeLevel, item_tree
from model_store.decoders.language_model import HuggingFaceModel, LanguageModel
from model_store.decoders.open_leaves import OpenLeaves
from model_store.decoders.protocol import Decoded, DecodeRequest, render
from model_store.decoders.stats_recorder import StatsRecorder
from model_store.decoders.tree_attention import TreePass, whole_tree
from model_store.decoders.trie_tensors import TrieTensors
from model_store.default_device import default_device
from model_store.errors import DecoderUnusable
from model_store.float32_products import use_fast_float32_products
from model_store.prefix_cap import PrefixCap
from model_store.prefix_trie import PrefixTrie
from model_store.prompts import PromptEncoder

_CLOSED = float("-inf")
# Items of one user in one pass: attention is computed between all their nodes, seen or not.
SCORED_TOGETHER = 256


class TorchDecoder:
    """Decodes batches of users with one prefill and one pass per level (see `protocol.Decoder`).

    Args:
        model: the language model.
        code_tokens: where its vocabulary holds the code tokens.
        prompts: renders histories.
        trie: the catalogue's codes.
        batch_size: users per forward pass. On 2 CPU cores 8 to 16 were fastest; a GPU wants more.
        score: what a level's log-softmax runs over, as in the manifest.
        collaborative: the collaborative encoder's say in the ranking, or None.
    """

    name = "torch"
    observer: Observer | None = None
    alive = True
    """It runs in this very process."""

    def __init__(
        self,
        model: LanguageModel,
        code_tokens: CodeTokens,
        prompts: PromptEncoder,
        trie: PrefixTrie,
        *,
        batch_size: int | None = None,
        score: str = "children",
        collaborative: CollaborativeScore | None = None,
    ) -> None:
        self._model = model
        self._device = model.device
        self._batch_size = batch_size or (16 if self._device.type == "cpu" else 256)
        self._score_over = score
        self._collaborative = collaborative
        self._prompts = prompts
        self._trie = trie
        self._trie_arrays = TrieTensors(trie, self._device)
        self._code_ids_LC = torch.as_tensor(code_tokens.ids_LC, dtype=torch.int64, device=self._device)

    @classmethod
    def from_bundle(cls, bundle: Bundle, *, device: str | None = None, batch_size: int | None = None) -> "TorchDecoder":
        """Load a bundle's model; on CUDA when there is one, in bfloat16 there, in float32 elsewhere.

        Raises:
            DecoderUnusable: the model reads fewer tokens than the longest prompt and a code take, or see
                `HuggingFaceModel`.
        """
        chosen = device or default_device()
        use_fast_float32_products()
        dtype = torch.bfloat16 if chosen.startswith("cuda") else torch.float32
        model = load_language_model(bundle, dtype)
        decoder = cls.of_bundle(bundle, HuggingFaceModel(model.to(chosen)), batch_size=batch_size)
        needed = decoder._prompts.max_length + bundle.trie.levels
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and limit < needed:
            raise DecoderUnusable(
                f"{bundle.llm_path}: the model reads {limit} tokens, a query after a full history takes {needed}; "
                "train with a lower max_history"
            )
        return decoder

    @classmethod
    def of_bundle(cls, bundle: Bundle, model: LanguageModel, *, batch_size: int | None = None) -> "TorchDecoder":
        """A bundle's decoder, where something has loaded its language model already."""
        tokenizer = AutoTokenizer.from_pretrained(bundle.llm_path, local_files_only=True)
        code_tokens = CodeTokens.from_vocabulary(tokenizer, bundle.llm_path)
        return cls(
            model,
            code_tokens,
            PromptEncoder.create(tokenizer, code_tokens, bundle.item_codes, bundle.manifest.max_history),
            bundle.trie,
            batch_size=batch_size,
            score=bundle.manifest.score,
            collaborative=CollaborativeScore.of_bundle(bundle, model.device),
        )

    def for_version(self, bundle: Bundle) -> "TorchDecoder":
        """A decoder of another version with the same language model, which is shared: nothing is loaded or computed."""
        other = copy.copy(self)
        code_tokens = CodeTokens(self._code_ids_LC.cpu().numpy().astype(np.int32))
        other._prompts = replace(self._prompts, item_tokens_NL=code_tokens.of_items(bundle.item_codes))
        other._trie = bundle.trie
        other._trie_arrays = TrieTensors(bundle.trie, self._device)
        other._collaborative = CollaborativeScore.of_bundle(bundle, self._device)
        return other

    @property
    def language_model(self) -> LanguageModel:
        """The model, for others to share."""
        return self._model

    def alone(self) -> "TorchDecoder":
        """This decoder without a collaborative encoder's say; the language model is shared."""
        other = copy.copy(self)
        other._collaborative = None
        return other

    @torch.inference_mode()
    def decode(self, requests: Sequence[DecodeRequest]) -> list[list[Decoded]]:
        """See `protocol.Decoder`. Requests with and without a query share a batch; candidates are ranked apart."""
        stats = StatsRecorder(self._device)
        prompts = [render(self._prompts, request) for request in requests]
        stats.lap("render")
        answers: list[list[Decoded]] = [[] for _ in requests]
        for batch in self._batches(requests, prompts):
            chosen = [requests[i] for i in batch]
            run = self._search if chosen[0].candidates is None else self._rank
            for index, answer in zip(batch, run(chosen, [prompts[i] for i in batch], stats), strict=True):
                answers[index] = answer
        if self.observer is not None:
            self.observer(stats.finish())
        return answers

    @torch.inference_mode()
    def score_items(
        self, history: NDArray[np.int32], items: NDArray[np.int32], query: str | None = None
    ) -> NDArray[np.float64]:
        """See `protocol.Decoder`; the prompt is computed once, shared prefixes of the items too."""
        request = DecodeRequest(history=history, n=1, beam_width=1, query=query)
        return self._score([request], [render(self._prompts, request)], [items])[0]

    @torch.inference_mode()
    def legal_mass(self, history: NDArray[np.int32], item: int) -> NDArray[np.float64]:
        """The share of the whole vocabulary's probability on the children of each node on an item's path; [L]."""
        request = DecodeRequest(history=history, n=1, beam_width=1)
        path = [[level] for level in item_tree(self._trie, np.array([item]), skip_certain=False)]
        masses = []
        for depth, (nodes_UB, hidden_UBH) in enumerate(
            zip(*self._tree_states([render(self._prompts, request)], path), strict=True)
        ):
            children_UBC, real_UBC = self._trie_arrays.children(nodes_UB, depth)
            logits_UBC = self._child_logits(hidden_UBH, children_UBC, real_UBC, depth)
            masses.append((logits_UBC - self._model.normaliser(hidden_UBH)).exp().sum().item())
        return np.array(masses)

    def close(self) -> None:
        """Nothing is held outside the process; memory goes with the object."""

    def _batches(self, requests: Sequence[DecodeRequest], prompts: Sequence[NDArray[np.int32]]) -> Iterator[list[int]]:
        """Group requests of one kind, width and cap and of like length, so that little of a batch is padding."""
        kinds = [
            # Beams are all as many as the width says; trees of about as many candidates are padded to the largest.
            (False, request.width, request.max_per_prefix or 0, request.prefix_levels)
            if request.candidates is None
            else (True, request.width.bit_length())
            for request in requests
        ]
        order = sorted(range(len(requests)), key=lambda i: (kinds[i], len(prompts[i])))
        start = 0
        for at in range(1, len(order) + 1):
            full = at - start == self._batch_size
            if at == len(order) or full or kinds[order[at]] != kinds[order[start]]:
                yield order[start:at]
                start = at

    def _search(
        self, requests: Sequence[DecodeRequest], prompts: Sequence[NDArray[np.int32]], stats: StatsRecorder
    ) -> list[list[Decoded]]:
        """Beam search: the best of the whole catalogue."""
        width = requests[0].width
        trie, levels = self._trie_arrays, self._trie.levels
        tree = TreePass(self._model, *self._prompt_batch(prompts), width * (levels - 1))
        stats.lap("prompt", steps=1)
        open_leaves = OpenLeaves(self._trie, requests, self._device)
        opinions = self._collaborative.opinions(requests) if self._collaborative else None
        choice = BeamChoice(self._trie, trie, requests)

        hidden_UBH = tree.prompt_hidden_UH[:, None]
        nodes_UB = torch.zeros(len(requests), 1, dtype=torch.int64, device=self._device)
        scores_UB = torch.zeros(len(requests), 1, device=self._device)
        mixed_UB = scores_UB
        for depth in range(levels):
            children_UBC, real_UBC = trie.children(nodes_UB, depth)
            log_probs_UBC = self._child_log_probs(hidden_UBH, children_UBC, real_UBC, depth)
            reached = scores_UB[:, :, None] + log_probs_UBC
            candidates = reached.masked_fill(~(real_UBC & open_leaves.below(trie, children_UBC)), _CLOSED)
            stats.masked(reached, candidates)
            mixed = opinions.mixed(candidates, children_UBC, trie) if opinions else candidates
            mixed_UB, flat_UB = choice.best(mixed.flatten(1), children_UBC.flatten(1), width, depth + 1)
            scores_UB = candidates.flatten(1).gather(1, flat_UB)
            parents_UB = flat_UB // candidates.shape[2]
            nodes_UB = children_UBC.flatten(1).gather(1, flat_UB)
            if depth + 1 < levels:
                tree.follow(parents_UB, self._code_ids_LC[depth][trie.token[nodes_UB]])
                wanted_UB = self._undecided(nodes_UB) & mixed_UB.isfinite()
                stats.lap("select")
                passes = tree.passes
                hidden_UBH = tree.states(wanted_UB)
                stats.lap("beams", steps=tree.passes - passes)
        leaves_UB = (nodes_UB - int(self._trie.level_begin[-2])).cpu().numpy()
        scores = mixed_UB.float().cpu().numpy()
        answers = [self._best(leaves_UB[row], scores[row], request) for row, request in enumerate(requests)]
        stats.search_ended()
        stats.lap("select")
        return answers

    def _undecided(self, nodes_UB: Tensor) -> Tensor:
        """Whether the model has a say in what follows each node: an only child is certain."""
        if self._score_over == "vocabulary":
            return torch.ones_like(nodes_UB, dtype=torch.bool)
        first = self._trie_arrays.first_child
        return first[nodes_UB + 1] - first[nodes_UB] > 1

    def _rank(
        self, requests: Sequence[DecodeRequest], prompts: Sequence[NDArray[np.int32]], stats: StatsRecorder
    ) -> list[list[Decoded]]:
        """The best of each request's candidates."""
        items = [request.open_candidates() for request in requests]
        if not any(len(some) for some in items):
            return [[] for _ in requests]
        scores = self._score(requests, prompts, items)
        stats.lap("candidates", steps=math.ceil(max(map(len, items)) / SCORED_TOGETHER))
        return [
            self._best(self._trie.item_leaf[some], found, request)
            for request, some, found in zip(requests, items, scores, strict=True)
        ]

    def _best(
        self, leaves_K: NDArray[np.integer], scores_K: NDArray[np.floating], request: DecodeRequest
    ) -> list[Decoded]:
        alive = np.flatnonzero(np.isfinite(scores_K))
        # Equal scores in the order of the codes, so that every engine returns the same list.
        order = alive[np.lexsort((leaves_K[alive], -scores_K[alive]))]
        if request.max_per_prefix is not None:
            cap = PrefixCap(self._trie, request.prefix_levels, request.max_per_prefix)
            order = order[cap.within(leaves_K[order])]
        order = order[: request.n]
        items = self._trie.leaf_item[leaves_K[order]].tolist()
        return [Decoded(item, score) for item, score in zip(items, scores_K[order].tolist(), strict=True)]

    def _score(
        self,
        requests: Sequence[DecodeRequest],
        prompts: Sequence[NDArray[np.int32]],
        items: Sequence[NDArray[np.int32]],
    ) -> list[NDArray[np.float64]]:
        """The score of each user's items."""
        parts = [
            self._score_trees(prompts, [some[start : start + SCORED_TOGETHER] for some in items])
            for start in range(0, max(map(len, items)), SCORED_TOGETHER)
        ]
        scores = [np.concatenate(mine) for mine in zip(*parts, strict=True)] or [np.empty(0) for _ in items]
        opinions = self._collaborative.opinions(requests) if self._collaborative else None
        if opinions is None:
            return scores
        leaves = [self._trie.item_leaf[some] for some in items]
        return [opinions.mixed_items(user, mine, leaves[user]) for user, mine in enumerate(scores)]

    def _score_trees(
        self, prompts: Sequence[NDArray[np.int32]], items: Sequence[NDArray[np.int32]]
    ) -> list[NDArray[np.float64]]:
        """One pass over the prompts and trees of all users."""
        trees = [item_tree(self._trie, some, skip_certain=self._score_over == "children") for some in items]
        levels = list(zip(*trees, strict=True))
        nodes, hidden = self._tree_states(prompts, levels)
        totals_UK = torch.zeros(len(trees), max(map(len, items)), dtype=torch.float64, device=self._device)
        for depth, (level, nodes_UB, hidden_UBH) in enumerate(zip(levels, nodes, hidden, strict=True)):
            children = self._trie_arrays.children(nodes_UB, depth)
            log_probs_UBC = self._child_log_probs(hidden_UBH, *children, depth)
            owners = np.repeat(np.arange(len(level)), [len(one.items) for one in level])
            users, rows, slots, chosen = (
                torch.from_numpy(part).to(self._device)
                for part in (
                    owners,
                    np.concatenate([one.items for one in level]),
                    np.concatenate([one.slots for one in level]),
                    np.concatenate([one.children for one in level]),
                )
            )
            totals_UK[users, rows] += log_probs_UBC[users, slots, chosen].double()
        totals = totals_UK.cpu().numpy()
        return [totals[row, : len(some)] for row, some in enumerate(items)]

    def _tree_states(
        self, prompts: Sequence[NDArray[np.int32]], levels: Sequence[Sequence[TreeLevel]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Of each depth the nodes of all users, padded, [U, B], and their hidden states, [U, B, H], from one pass."""
        trie = self._trie_arrays
        nodes, continued = [], []
        for depth, level in enumerate(levels):
            # The root is there whether anything is decided at it or not.
            width = max(1 if depth == 0 else 0, *(len(one.nodes) for one in level))
            # Any node of the depth will do as padding; nobody asks for what it gives.
            nodes.append(self._padded([one.nodes for one in level], width, fill=int(self._trie.level_begin[depth])))
            if depth:
                tokens_UB = self._code_ids_LC[depth - 1][trie.token[nodes[depth]]]
                continued.append((tokens_UB, self._padded([one.parents for one in level], width, fill=0)))
        return nodes, whole_tree(self._model, *self._prompt_batch(prompts), continued)

    def _padded(self, rows: Sequence[NDArray[np.integer]], width: int, fill: int) -> Tensor:
        padded = np.full((len(rows), width), fill, dtype=np.int64)
        for number, row in enumerate(rows):
            padded[number, : len(row)] = row
        return torch.from_numpy(padded).to(self._device)

    def _child_log_probs(self, hidden_UBH: Tensor, children_UBC: Tensor, real_UBC: Tensor, depth: int) -> Tensor:
        """Log-probability of each child, normalised over the node's children in the whole trie; float32 [U, B, C]."""
        logits_UBC = self._child_logits(hidden_UBH, children_UBC, real_UBC, depth)
        if self._score_over == "vocabulary":
            return logits_UBC - self._model.normaliser(hidden_UBH)
        return logits_UBC.log_softmax(-1)

    def _child_logits(self, hidden_UBH: Tensor, children_UBC: Tensor, real_UBC: Tensor, depth: int) -> Tensor:
        logits = self._model.logits(hidden_UBH, self._code_ids_LC[depth])
        return logits.gather(-1, self._trie_arrays.token[children_UBC]).masked_fill(~real_UBC, _CLOSED)

    def _prompt_batch(self, prompts: Sequence[NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
        """Prompts padded on the right, [U, T], and their lengths, [U]."""
        lengths = [len(prompt) for prompt in prompts]
        return self._padded(prompts, max(lengths), fill=0), torch.tensor(lengths, device=self._device)
