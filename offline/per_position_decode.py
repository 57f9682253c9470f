"""Beam search under the per-position constraint: at each level any code token that some item has there, whatever came
before it. There is no trie, so most sequences it can return name no item.

It is how the released code of EAGER-LLM (arXiv:2502.14735) decodes, kept to compare with and for nothing else. Whether
that code normalises over the allowed tokens or over the whole vocabulary is not established; here it is over the
allowed ones, as constrained decoding under the trie normalises over a node's children. It asks for an end token after
the last level, where nothing else is allowed: our codes all have L tokens and no such token. `generate` of transformers
returns the same sequences (tested), six times slower.

Shapes: U users, B beams, C code tokens in use at a level, H hidden size, K sequences, L levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer

from model_store.bundle import Bundle
from model_store.code_tokens import CodeTokens
from model_store.decoders.language_model import LanguageModel
from model_store.decoders.tree_attention import TreePass
from model_store.item_codes import ItemCodes
from model_store.prompts import PromptEncoder

BEAMS = 20
"""Beams, and sequences returned, of the released code."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """What one user's beams ended in, best first, all different.

    Attributes:
        codes_KL: uint8 [K, L]; K is the number of beams, or of all sequences where there are fewer.
        scores_K: log-probability of each, natural; float32 [K].
    """

    codes_KL: NDArray[np.uint8]
    scores_K: NDArray[np.float32]


class PerPositionDecoder:
    """Decodes batches of histories.

    Args:
        model: the language model.
        code_tokens: where its vocabulary holds the code tokens.
        prompts: renders histories.
        codes: the catalogue's, which say what tokens are in use at each level.
        beams: kept at each level, and returned.
        batch_size: users per forward pass.
    """

    def __init__(
        self,
        model: LanguageModel,
        code_tokens: CodeTokens,
        prompts: PromptEncoder,
        codes: ItemCodes,
        *,
        beams: int = BEAMS,
        batch_size: int | None = None,
    ) -> None:
        self._model, self._prompts, self._beams = model, prompts, beams
        self._device = model.device
        self._batch_size = batch_size or (16 if self._device.type == "cpu" else 256)
        self._used = [np.unique(codes.codes_NL[:, level]) for level in range(codes.levels)]
        self._ids = [
            torch.as_tensor(code_tokens.ids_LC[level, entries], dtype=torch.int64, device=self._device)
            for level, entries in enumerate(self._used)
        ]

    @classmethod
    def of_bundle(cls, bundle: Bundle, model: LanguageModel) -> "PerPositionDecoder":
        """A bundle's, where something has loaded its language model already."""
        tokenizer = AutoTokenizer.from_pretrained(bundle.llm_path, local_files_only=True)
        code_tokens = CodeTokens.from_vocabulary(tokenizer, bundle.llm_path)
        prompts = PromptEncoder.create(tokenizer, code_tokens, bundle.item_codes, bundle.manifest.max_history)
        return cls(model, code_tokens, prompts, bundle.item_codes)

    @torch.inference_mode()
    def decode(self, histories: Sequence[NDArray[np.int32]]) -> list[Sequences]:
        """The best sequences after each history."""
        prompts = [self._prompts.sequential(history) for history in histories]
        # Batches of like length, so that little of each is padding.
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        found: dict[int, Sequences] = {}
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            found |= zip(rows, self._search([prompts[row] for row in rows]), strict=True)
        return [found[row] for row in range(len(prompts))]

    def _search(self, prompts: Sequence[NDArray[np.int32]]) -> list[Sequences]:
        prompts_UT = pad_sequence([torch.from_numpy(one).long() for one in prompts], batch_first=True)
        lengths_U = torch.tensor([len(one) for one in prompts])
        levels = len(self._ids)
        tree = TreePass(
            self._model, prompts_UT.to(self._device), lengths_U.to(self._device), self._beams * (levels - 1)
        )
        hidden_UBH = tree.prompt_hidden_UH[:, None]
        scores_UB = torch.zeros(len(prompts), 1, device=self._device)
        chosen_UBD = scores_UB.new_empty(len(prompts), 1, 0, dtype=torch.int64)
        for level, ids_C in enumerate(self._ids):
            log_probs_UBC = self._model.logits(hidden_UBH, ids_C).log_softmax(-1)
            scores_UB, parents_UB, columns_UB = _best(scores_UB[:, :, None] + log_probs_UBC, self._beams)
            above_UBD = chosen_UBD.gather(1, parents_UB[:, :, None].expand(-1, -1, level))
            chosen_UBD = torch.cat([above_UBD, columns_UB[:, :, None]], dim=2)
            if level + 1 < levels:
                tree.follow(parents_UB, ids_C[columns_UB])
                hidden_UBH = tree.states(torch.ones_like(columns_UB, dtype=torch.bool))
        columns_UBL, scores = chosen_UBD.cpu().numpy(), scores_UB.cpu().numpy()
        codes_UBL = np.stack([used[columns_UBL[:, :, level]] for level, used in enumerate(self._used)], axis=-1)
        return [Sequences(codes_KL, scores_K) for codes_KL, scores_K in zip(codes_UBL, scores, strict=True)]


def _best(reached_UBC: Tensor, beams: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best continuations of all beams: scores, the beam and the column of each; [U, beams] or all there are."""
    count = reached_UBC.shape[2]
    flat = reached_UBC.flatten(1)
    scores_UB, at_UB = flat.topk(min(beams, flat.shape[1]))
    return scores_UB, at_UB // count, at_UB % count
