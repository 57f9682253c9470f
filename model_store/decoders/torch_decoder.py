"""The built-in decoder: item codes by tree attention, on any Hugging Face causal language model.

A beam search takes one pass for the prompt and one for each level; given candidates are scored in a single pass.

Shapes: U users, B beams, C children (padded to the level's largest family), H hidden size, N items, M trie nodes.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from model_store.bundle import Bundle
from model_store.code_tokens import CodeTokens
from model_store.decoders.collaborative_score import CollaborativeScore
from model_store.decoders.decode_stats import Observer
from model_store.decoders.item_tree import item_tree
from model_store.decoders.open_leaves import OpenLeaves
from model_store.decoders.protocol import Decoded, DecodeRequest, render
from model_store.decoders.stats_recorder import StatsRecorder
from model_store.decoders.tree_attention import TreePass, whole_tree
from model_store.decoders.trie_tensors import TrieTensors
from model_store.errors import DecoderUnusable
from model_store.prefix_trie import PrefixTrie
from model_store.prompts import PromptEncoder

_CLOSED = float("-inf")
# Items of one user in one pass: attention is computed between all their nodes, seen or not.
_SCORED_TOGETHER = 256
_HEAD_TOLERANCE = 1e-3


class TorchDecoder:
    """Decodes batches of users with one prefill and one pass per level (see `protocol.Decoder`).

    Args:
        model: a causal language model; put in eval mode.
        code_tokens: where its vocabulary holds the code tokens.
        prompts: renders histories.
        trie: the catalogue's codes.
        batch_size: users per forward pass. On 2 CPU cores 8 to 16 were fastest; a GPU wants more.
        score: what a level's log-softmax runs over, as in the manifest.
        collaborative: the collaborative encoder's say in the ranking, or None.

    Raises:
        DecoderUnusable: the model's logits are not a linear map of its last hidden state (soft-capped or rescaled
            logits), which the restricted projection here relies on.
    """

    name = "torch"
    observer: Observer | None = None
    alive = True
    """It runs in this very process."""

    def __init__(
        self,
        model: Any,
        code_tokens: CodeTokens,
        prompts: PromptEncoder,
        trie: PrefixTrie,
        *,
        batch_size: int | None = None,
        score: str = "children",
        collaborative: CollaborativeScore | None = None,
    ) -> None:
        self._model = model.eval()
        self._device = next(model.parameters()).device
        self._batch_size = batch_size or (16 if self._device.type == "cpu" else 256)
        self._score_over = score
        self._collaborative = collaborative
        self._prompts = prompts
        self._trie = trie
        self._trie_arrays = TrieTensors(trie, self._device)
        self._code_ids_LC = torch.as_tensor(code_tokens.ids_LC, dtype=torch.int64, device=self._device)
        self._check_head()

    @classmethod
    def from_bundle(cls, bundle: Bundle, *, device: str | None = None, batch_size: int | None = None) -> "TorchDecoder":
        """Load a bundle's model; on CUDA when there is one, in bfloat16 there, in float32 elsewhere.

        Raises:
            DecoderUnusable: the model reads fewer tokens than the longest prompt and a code take, or see above.
        """
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if chosen.startswith("cuda") else torch.float32
        tokenizer = AutoTokenizer.from_pretrained(bundle.llm_path, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            bundle.llm_path, dtype=dtype, attn_implementation="sdpa", local_files_only=True
        )
        code_tokens = CodeTokens.from_vocabulary(tokenizer, bundle.llm_path)
        prompts = PromptEncoder.create(tokenizer, code_tokens, bundle.item_codes, bundle.manifest.max_history)
        needed = prompts.max_length + bundle.trie.levels
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and limit < needed:
            raise DecoderUnusable(
                f"{bundle.llm_path}: the model reads {limit} tokens, a query after a full history takes {needed}; "
                "train with a lower max_history"
            )
        return cls(
            model.to(chosen),
            code_tokens,
            prompts,
            bundle.trie,
            batch_size=batch_size,
            score=bundle.manifest.score,
            collaborative=CollaborativeScore.of_bundle(bundle, chosen),
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

    def alone(self) -> "TorchDecoder":
        """This decoder without a collaborative encoder's say; the language model is shared."""
        other = copy.copy(self)
        other._collaborative = None
        return other

    @torch.inference_mode()
    def decode(self, requests: Sequence[DecodeRequest]) -> list[list[Decoded]]:
        """See `protocol.Decoder`. Requests with and without a query share a batch; candidates are ranked apart."""
        stats = StatsRecorder(self._device)
        prompts = [render(self._prompts, request.history, request.query) for request in requests]
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
        return self._score([request], [render(self._prompts, history, query)], [items])[0]

    def close(self) -> None:
        """Nothing is held outside the process; memory goes with the object."""

    def _batches(self, requests: Sequence[DecodeRequest], prompts: Sequence[NDArray[np.int32]]) -> Iterator[list[int]]:
        """Group requests of one kind and width and of like length, so that little of a batch is padding."""
        kinds = [
            # Beams are all as many as the width says; trees of about as many candidates are padded to the largest.
            (False, request.width) if request.candidates is None else (True, request.width.bit_length())
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
            keep = min(width, candidates.shape[1] * candidates.shape[2])
            mixed_UB, flat_UB = mixed.flatten(1).topk(keep, dim=1)
            scores_UB = candidates.flatten(1).gather(1, flat_UB)
            parents_UB = flat_UB // candidates.shape[2]
            nodes_UB = children_UBC.flatten(1).gather(1, flat_UB)
            if depth + 1 < levels:
                tokens_UB = self._code_ids_LC[depth][trie.token[nodes_UB]]
                stats.lap("select")
                hidden_UBH = tree.advance(tokens_UB, parents_UB if depth else None)
                stats.lap("beams", steps=1)
        leaves_UB = (nodes_UB - int(self._trie.level_begin[-2])).cpu().numpy()
        scores = mixed_UB.float().cpu().numpy()
        answers = [self._best(leaves_UB[row], scores[row], request.n) for row, request in enumerate(requests)]
        stats.search_ended()
        stats.lap("select")
        return answers

    def _rank(
        self, requests: Sequence[DecodeRequest], prompts: Sequence[NDArray[np.int32]], stats: StatsRecorder
    ) -> list[list[Decoded]]:
        """The best of each request's candidates."""
        items = [request.open_candidates() for request in requests]
        if not any(len(some) for some in items):
            return [[] for _ in requests]
        scores = self._score(requests, prompts, items)
        stats.lap("candidates", steps=math.ceil(max(map(len, items)) / _SCORED_TOGETHER))
        return [
            self._best(self._trie.item_leaf[some], found, request.n)
            for request, some, found in zip(requests, items, scores, strict=True)
        ]

    def _best(self, leaves_K: NDArray[np.integer], scores_K: NDArray[np.floating], n: int) -> list[Decoded]:
        alive = np.flatnonzero(np.isfinite(scores_K))
        # Equal scores in the order of the codes, so that every engine returns the same list.
        order = alive[np.lexsort((leaves_K[alive], -scores_K[alive]))][:n]
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
            self._score_trees(prompts, [some[start : start + _SCORED_TOGETHER] for some in items])
            for start in range(0, max(map(len, items)), _SCORED_TOGETHER)
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
        trie = self._trie_arrays
        trees = [item_tree(self._trie, some, skip_certain=self._score_over == "children") for some in items]
        levels = list(zip(*trees, strict=True))
        nodes, continued = [], []
        for depth, level in enumerate(levels):
            # The root is there whether anything is decided at it or not.
            width = max(1 if depth == 0 else 0, *(len(one.nodes) for one in level))
            # Any node of the depth will do as padding; nobody asks for what it gives.
            nodes.append(self._padded([one.nodes for one in level], width, fill=int(self._trie.level_begin[depth])))
            if depth:
                tokens_UB = self._code_ids_LC[depth - 1][trie.token[nodes[depth]]]
                continued.append((tokens_UB, self._padded([one.parents for one in level], width, fill=0)))
        hidden = whole_tree(self._model, *self._prompt_batch(prompts), continued)
        totals_UK = torch.zeros(len(trees), max(map(len, items)), dtype=torch.float64, device=self._device)
        for depth, (level, nodes_UB, hidden_UBH) in enumerate(zip(levels, nodes, hidden, strict=True)):
            log_probs_UBC = self._child_log_probs(hidden_UBH, *trie.children(nodes_UB, depth), depth)
            owners = np.repeat(np.arange(len(level)), [len(one.items) for one in level])
            users, rows, slots, children = (
                torch.from_numpy(part).to(self._device)
                for part in (
                    owners,
                    np.concatenate([one.items for one in level]),
                    np.concatenate([one.slots for one in level]),
                    np.concatenate([one.children for one in level]),
                )
            )
            totals_UK[users, rows] += log_probs_UBC[users, slots, children].double()
        totals = totals_UK.cpu().numpy()
        return [totals[row, : len(some)] for row, some in enumerate(items)]

    def _padded(self, rows: Sequence[NDArray[np.integer]], width: int, fill: int) -> Tensor:
        padded = np.full((len(rows), width), fill, dtype=np.int64)
        for number, row in enumerate(rows):
            padded[number, : len(row)] = row
        return torch.from_numpy(padded).to(self._device)

    def _child_log_probs(self, hidden_UBH: Tensor, children_UBC: Tensor, real_UBC: Tensor, depth: int) -> Tensor:
        """Log-probability of each child, normalised over the node's children in the whole trie; float32 [U, B, C]."""
        logits = self._logits(hidden_UBH, self._code_ids_LC[depth])
        entries_UBC = self._trie_arrays.token[children_UBC]
        child_logits = logits.gather(-1, entries_UBC).masked_fill(~real_UBC, _CLOSED)
        if self._score_over == "vocabulary":
            return child_logits - self._vocabulary_normaliser(hidden_UBH)
        return child_logits.log_softmax(-1)

    def _logits(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        head = self._model.get_output_embeddings()
        bias = None if head.bias is None else head.bias[token_ids]
        return torch.nn.functional.linear(hidden, head.weight[token_ids], bias).float()

    def _vocabulary_normaliser(self, hidden_UBH: Tensor) -> Tensor:
        head = self._model.get_output_embeddings()
        return torch.stack([head(rows).float().logsumexp(-1, keepdim=True) for rows in hidden_UBH])

    def _prompt_batch(self, prompts: Sequence[NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
        """Prompts padded on the right, [U, T], and their lengths, [U]."""
        lengths = [len(prompt) for prompt in prompts]
        return self._padded(prompts, max(lengths), fill=0), torch.tensor(lengths, device=self._device)

    @torch.inference_mode()
    def _check_head(self) -> None:
        probe = self._code_ids_LC[:, :1].T
        hidden = self._model.base_model(input_ids=probe, use_cache=False).last_hidden_state
        expected = self._model(input_ids=probe, use_cache=False).logits[..., self._code_ids_LC[0]].float()
        difference = (self._logits(hidden, self._code_ids_LC[0]) - expected).abs().max().item()
        if not difference <= _HEAD_TOLERANCE * max(1.0, expected.abs().max().item()):
            raise DecoderUnusable(
                f"{type(self._model).__name__}: its logits are not a plain projection of the last hidden state "
                f"(difference {difference:.3g}); models that cap or rescale logits are not supported"
            )
