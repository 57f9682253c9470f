"""The built-in decoder: beam search over item codes by tree attention, on any Hugging Face causal language model.

Shapes: U users, B beams, C children (padded to the level's largest family), H hidden size, N items, M trie nodes.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from model_store.bundle import Bundle
from model_store.code_tokens import CodeTokens
from model_store.decoders.protocol import Decoded, DecodeRequest
from model_store.decoders.tree_attention import TreePass
from model_store.decoders.trie_tensors import TrieTensors
from model_store.errors import DecoderUnusable
from model_store.prefix_trie import EligibleItems, PrefixTrie
from model_store.prompts import PromptEncoder

_CLOSED = float("-inf")
_SCORED_TOGETHER = 1024
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

    Raises:
        DecoderUnusable: the model's logits are not a linear map of its last hidden state (soft-capped or rescaled
            logits), which the restricted projection here relies on.
    """

    name = "torch"

    def __init__(
        self,
        model: Any,
        code_tokens: CodeTokens,
        prompts: PromptEncoder,
        trie: PrefixTrie,
        *,
        batch_size: int | None = None,
        score: str = "children",
    ) -> None:
        self._model = model.eval()
        self._device = next(model.parameters()).device
        self._batch_size = batch_size or (16 if self._device.type == "cpu" else 256)
        self._score = score
        self._prompts = prompts
        self._trie = trie
        self._trie_arrays = TrieTensors(trie, self._device)
        self._code_ids_LC = torch.as_tensor(code_tokens.ids_LC, dtype=torch.int64, device=self._device)
        self._check_head()

    @classmethod
    def from_bundle(cls, bundle: Bundle, *, device: str | None = None, batch_size: int | None = None) -> "TorchDecoder":
        """Load a bundle's model; on CUDA when there is one, in bfloat16 there, in float32 elsewhere."""
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if chosen.startswith("cuda") else torch.float32
        tokenizer = AutoTokenizer.from_pretrained(bundle.llm_path, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            bundle.llm_path, dtype=dtype, attn_implementation="sdpa", local_files_only=True
        )
        code_tokens = CodeTokens.from_vocabulary(tokenizer, bundle.llm_path)
        prompts = PromptEncoder.create(tokenizer, code_tokens, bundle.item_codes, bundle.manifest.max_history)
        return cls(
            model.to(chosen),
            code_tokens,
            prompts,
            bundle.trie,
            batch_size=batch_size,
            score=bundle.manifest.score,
        )

    @torch.inference_mode()
    def decode(self, requests: Sequence[DecodeRequest]) -> list[list[Decoded]]:
        """See `protocol.Decoder`."""
        answers: list[list[Decoded]] = [[] for _ in requests]
        for batch in self._batches(requests):
            for index, answer in zip(batch, self._decode_batch([requests[i] for i in batch]), strict=True):
                answers[index] = answer
        return answers

    @torch.inference_mode()
    def score_items(self, history: NDArray[np.int32], items: NDArray[np.int32]) -> NDArray[np.float64]:
        """See `protocol.Decoder`; the prompt is computed once, shared prefixes of the items too."""
        scores = [
            self._score_chunk(history, items[start : start + _SCORED_TOGETHER])
            for start in range(0, len(items), _SCORED_TOGETHER)
        ]
        return np.concatenate(scores) if scores else np.empty(0)

    def close(self) -> None:
        """Nothing is held outside the process; memory goes with the object."""

    def _batches(self, requests: Sequence[DecodeRequest]) -> Iterator[list[int]]:
        """Group requests of one width and like length, so that little of a batch is padding."""
        for request in requests:
            if len(request.history) == 0:
                raise ValueError("a history must hold at least one item")
        order = sorted(range(len(requests)), key=lambda i: (requests[i].width, len(requests[i].history)))
        start = 0
        for at in range(1, len(order) + 1):
            full = at - start == self._batch_size
            if at == len(order) or full or requests[order[at]].width != requests[order[start]].width:
                yield order[start:at]
                start = at

    def _decode_batch(self, requests: Sequence[DecodeRequest]) -> list[list[Decoded]]:
        width = requests[0].width
        trie, levels = self._trie_arrays, self._trie.levels
        tree = self._prefill([r.history for r in requests], width * (levels - 1))
        open_leaves = _OpenLeaves(self._trie, requests, self._device)

        hidden_UBH = tree.prompt_hidden_UH[:, None]
        nodes_UB = torch.zeros(len(requests), 1, dtype=torch.int64, device=self._device)
        scores_UB = torch.zeros(len(requests), 1, device=self._device)
        for depth in range(levels):
            children_UBC, real_UBC = trie.children(nodes_UB, depth)
            log_probs_UBC = self._child_log_probs(hidden_UBH, children_UBC, real_UBC, depth)
            candidates = (scores_UB[:, :, None] + log_probs_UBC).masked_fill(
                ~(real_UBC & open_leaves.below(trie, children_UBC)), _CLOSED
            )
            keep = min(width, candidates.shape[1] * candidates.shape[2])
            scores_UB, flat_UB = candidates.flatten(1).topk(keep, dim=1)
            parents_UB = flat_UB // candidates.shape[2]
            nodes_UB = children_UBC.flatten(1).gather(1, flat_UB)
            if depth + 1 < levels:
                tokens_UB = self._code_ids_LC[depth][trie.token[nodes_UB]]
                hidden_UBH = tree.advance(tokens_UB, parents_UB if depth else None)
        return self._ranked(requests, nodes_UB, scores_UB)

    def _ranked(self, requests: Sequence[DecodeRequest], nodes_UB: Tensor, scores_UB: Tensor) -> list[list[Decoded]]:
        leaves_UB = (nodes_UB - int(self._trie.level_begin[-2])).cpu().numpy()
        scores = scores_UB.float().cpu().numpy()
        answers = []
        for row, request in enumerate(requests):
            alive = np.flatnonzero(np.isfinite(scores[row]))
            # Equal scores in the order of the codes, so that every engine returns the same list.
            order = alive[np.lexsort((leaves_UB[row, alive], -scores[row, alive]))][: request.n]
            items = self._trie.leaf_item[leaves_UB[row, order]].tolist()
            pairs = zip(items, scores[row, order].tolist(), strict=True)
            answers.append([Decoded(item, score) for item, score in pairs])
        return answers

    def _child_log_probs(self, hidden_UBH: Tensor, children_UBC: Tensor, real_UBC: Tensor, depth: int) -> Tensor:
        """Log-probability of each child, normalised over the node's children in the whole trie; float32 [U, B, C]."""
        logits = self._logits(hidden_UBH, self._code_ids_LC[depth])
        entries_UBC = self._trie_arrays.token[children_UBC]
        child_logits = logits.gather(-1, entries_UBC).masked_fill(~real_UBC, _CLOSED)
        if self._score == "vocabulary":
            return child_logits - self._vocabulary_normaliser(hidden_UBH)
        return child_logits.log_softmax(-1)

    def _logits(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        head = self._model.get_output_embeddings()
        bias = None if head.bias is None else head.bias[token_ids]
        return torch.nn.functional.linear(hidden, head.weight[token_ids], bias).float()

    def _vocabulary_normaliser(self, hidden_UBH: Tensor) -> Tensor:
        head = self._model.get_output_embeddings()
        return torch.stack([head(rows).float().logsumexp(-1, keepdim=True) for rows in hidden_UBH])

    def _prefill(self, histories: Sequence[NDArray[np.int32]], slots: int) -> TreePass:
        prompts = [self._prompts.sequential(history) for history in histories]
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        padded = np.zeros((len(prompts), max(len(prompt) for prompt in prompts)), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            padded[row, : len(prompt)] = prompt
        return TreePass(self._model, torch.from_numpy(padded).to(self._device), lengths, slots)

    def _score_chunk(self, history: NDArray[np.int32], items: NDArray[np.int32]) -> NDArray[np.float64]:
        trie, levels = self._trie_arrays, self._trie.levels
        paths_KL = self._trie.paths(items).astype(np.int64)
        tree = self._prefill([history], len(items) * (levels - 1))
        hidden_UBH = tree.prompt_hidden_UH[:, None]
        nodes = np.zeros(1, dtype=np.int64)
        slot_of_item = np.zeros(len(items), dtype=np.int64)
        total = np.zeros(len(items))
        for depth in range(levels):
            children_UBC, real_UBC = trie.children(torch.from_numpy(nodes).to(self._device)[None], depth)
            log_probs_BC = self._child_log_probs(hidden_UBH, children_UBC, real_UBC, depth)[0].double().cpu().numpy()
            # Children are contiguous, so a child's column is its distance from the first one.
            columns = paths_KL[:, depth] - self._trie.first_child[nodes[slot_of_item]]
            total += log_probs_BC[slot_of_item, columns]
            if depth + 1 < levels:
                parent_slots = slot_of_item
                nodes, first_use, slot_of_item = np.unique(paths_KL[:, depth], return_index=True, return_inverse=True)
                tokens = self._code_ids_LC[depth][trie.token[torch.from_numpy(nodes).to(self._device)]]
                parents = torch.from_numpy(parent_slots[first_use]).to(self._device)
                hidden_UBH = tree.advance(tokens[None], parents[None] if depth else None)
        return total

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


class _OpenLeaves:
    """Which subtrees still hold an item that each user may see."""

    def __init__(self, trie: PrefixTrie, requests: Sequence[DecodeRequest], device: torch.device) -> None:
        filters: dict[int, int] = {}
        counts: list[NDArray[np.int32]] = []
        rows = []
        excluded = []
        for request in requests:
            leaves = trie.excluded_leaves(request.excluded)
            if request.eligible is not None:
                # A leaf that the filter already closed must not be subtracted a second time.
                leaves = leaves[request.eligible.mask[trie.leaf_item[leaves]]]
            excluded.append(leaves)
            if id(request.eligible) not in filters:
                filters[id(request.eligible)] = len(counts)
                counts.append(_eligible_counts(trie, request.eligible))
            rows.append(filters[id(request.eligible)])
        self._counts_FN = torch.as_tensor(np.stack(counts), dtype=torch.int64, device=device)
        self._filter_U = torch.tensor(rows, device=device)
        # Padding lies beyond the last leaf, where no subtree begins or ends after it.
        width = max(1, *(len(leaves) for leaves in excluded))
        padded = np.full((len(requests), width), trie.item_count + 1, dtype=np.int64)
        for row, leaves in enumerate(excluded):
            padded[row, : len(leaves)] = leaves
        self._excluded_UX = torch.from_numpy(padded).to(device)

    def below(self, trie: TrieTensors, nodes_UBC: Tensor) -> Tensor:
        """Whether each node leads to an item that may be shown; bool [U, B, C]."""
        shape = nodes_UBC.shape
        begin, end = trie.leaf_begin[nodes_UBC].flatten(1), trie.leaf_end[nodes_UBC].flatten(1)
        counts = self._counts_FN[self._filter_U[:, None], end] - self._counts_FN[self._filter_U[:, None], begin]
        counts -= torch.searchsorted(self._excluded_UX, end) - torch.searchsorted(self._excluded_UX, begin)
        return (counts > 0).view(shape)


def _eligible_counts(trie: PrefixTrie, eligible: EligibleItems | None) -> NDArray[np.int32]:
    return np.arange(trie.item_count + 1, dtype=np.int32) if eligible is None else eligible.counts
