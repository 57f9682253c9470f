"""Forward pass and loss of one batch, as one module: what several processes run in parallel.

    loss = mean over items of the sequential task + task_weight * mean over examples of the other tasks
           + the global contrast of the sequential task's items, where a recipe asks for it

An item costs its negative log-likelihood under the trie, wherever it is the answer; an answer in words costs the mean
cross-entropy of its tokens over the whole vocabulary. Prompts cost nothing. An example of a task counts as much as any
other, so that the mix of the recipe is the mix in the loss.

Shapes: B sequences, T items or tokens, L levels, H hidden size, N items, R rows, F task families, C code answers,
P tokens of text answers, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.code_tokens import CodeTokens
from model_store.collaborative.encoder import PADDING
from model_store.prefix_trie import PrefixTrie
from model_store.prompts import PromptEncoder
from offline.language_model_training.global_contrast import GlobalContrast
from offline.language_model_training.packed_forward import packed_states
from offline.tasks.packing import PackedBatch
from offline.tasks.task_mix import FAMILIES
from offline.trie_loss import TrieLoss

Teacher = Callable[[Tensor], Tensor]
"""Items int64 [B, T] padded with -1 -> how likely each item was at each place (`CollaborativeEncoder.likelihoods`)."""


class BatchLosses(NamedTuple):
    """What a batch costs.

    Attributes:
        total: the loss to minimise; float32 []. What it is made of comes without gradients:
        sequential: mean over the items of the histories; float32 [].
        contrast: weighted, as it is in the total; float32 [].
        task_sums_F: the sum of the examples' losses of each family of `FAMILIES`; float32 [F].
    """

    total: Tensor
    sequential: Tensor
    contrast: Tensor
    task_sums_F: Tensor


class StepLoss(nn.Module):
    """The loss of a batch of histories and a batch of task examples.

    Args:
        model: a causal language model.
        code_tokens, prompts, trie: how items become tokens.
        teacher: the collaborative encoder's opinion on histories, or None.
        distillation: share of the sequential loss that follows the teacher.
        task_weight: of the tasks' loss beside the sequential one.
        autocast: whether matrices are multiplied in bfloat16.
        contrast: of items' states against their vectors, or None.
        softmax: what an item's log-probabilities are normalised over (see `TrieLoss`).
    """

    def __init__(
        self,
        model: Any,
        code_tokens: CodeTokens,
        prompts: PromptEncoder,
        trie: PrefixTrie,
        teacher: Teacher | None,
        *,
        distillation: float,
        task_weight: float,
        autocast: bool,
        contrast: GlobalContrast | None = None,
        softmax: str = "children",
    ) -> None:
        super().__init__()
        self.model, self.contrast = model, contrast
        self._teacher = teacher if distillation > 0 else None
        self._distillation, self._task_weight, self._autocast = distillation, task_weight, autocast
        self._device = next(model.parameters()).device
        code_ids = torch.as_tensor(code_tokens.ids_LC, dtype=torch.int64, device=self._device)
        self._trie_loss = TrieLoss(trie, code_ids, self._device, softmax)
        self._item_tokens_NL = torch.as_tensor(prompts.item_tokens_NL, dtype=torch.int64, device=self._device)
        self._preamble = torch.tensor(prompts.preamble, device=self._device)

    def forward(self, items_BT: Tensor, tasks: PackedBatch | None) -> BatchLosses:
        """The losses of histories, and of the task examples beside them."""
        teacher_PN = None if self._teacher is None else self._teacher(items_BT)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._autocast):
            sequential, contrast = self._sequential(items_BT, teacher_PN)
            total, sums_F = sequential + contrast, sequential.new_zeros(len(FAMILIES))
            if tasks is not None:
                sums_F = self._tasks(tasks)
                total = total + self._task_weight * sums_F.sum() / len(tasks.examples)
        return BatchLosses(total, sequential.detach(), contrast.detach(), sums_F.detach())

    def _sequential(self, items_BT: Tensor, teacher_PN: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mean loss of the items, and their contrast; float32 [] each."""
        batch, length = items_BT.shape
        levels = self._item_tokens_NL.shape[1]
        real_BT = items_BT != PADDING
        tokens = self._item_tokens_NL[items_BT.clamp(min=0)].flatten(1)
        at_end = self.contrast is not None and self.contrast.config.state == "end"
        # Nothing is predicted from the last token; only a contrast at its state makes it worth reading.
        inputs = torch.cat([self._preamble.expand(batch, -1), tokens if at_end else tokens[:, :-1]], dim=1)
        hidden = self.model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
        # The state that predicts a token is the one before it.
        first = len(self._preamble) - 1
        states_BTLH = hidden[:, first : first + length * levels].reshape(batch, length, levels, -1)
        head = self.model.get_output_embeddings()
        loss_P = self._trie_loss.by_position(
            states_BTLH[real_BT], items_BT[real_BT], head.weight, teacher_PN, self._distillation, head.bias
        )
        if self.contrast is None:
            return loss_P.mean(), loss_P.new_zeros(())
        states_BTH = hidden[:, first + levels :: levels] if at_end else states_BTLH[:, :, 0]
        return loss_P.mean(), self.contrast(states_BTH[real_BT], items_BT[real_BT])

    def _tasks(self, batch: PackedBatch) -> Tensor:
        states_RTH = packed_states(
            self.model, self._put(batch.input_ids), self._put(batch.position_ids), self._put(batch.example_RT)
        )
        states = states_RTH.flatten(0, 1)
        head = self.model.get_output_embeddings()
        weight_VH, bias_V = head.weight, head.bias
        sums_F = torch.zeros(len(FAMILIES), device=self._device)
        if len(batch.code_item):
            loss_C = self._trie_loss.by_position(
                states[self._put(batch.code_places)], self._put(batch.code_item), weight_VH, None, 0.0, bias_V
            )
            sums_F = sums_F.index_add(0, self._put(batch.code_family), loss_C)
        if len(batch.text_targets):
            logits_PV = functional.linear(states[self._put(batch.text_places)], weight_VH, bias_V).float()
            loss_P = functional.cross_entropy(logits_PV, self._put(batch.text_targets), reduction="none")
            tokens_E = np.bincount(batch.text_example)
            share_P = torch.from_numpy((1 / tokens_E[batch.text_example]).astype(np.float32)).to(self._device)
            sums_F = sums_F.index_add(0, self._put(batch.text_family), loss_P * share_P)
        return sums_F

    def _put(self, indices: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
        return torch.from_numpy(indices).to(self._device, non_blocking=True)
