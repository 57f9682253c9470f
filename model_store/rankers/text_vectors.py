"""What a causal language model makes of a short text: its last hidden state at the last token."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model_store.catalog import Catalog
from model_store.rankers.soft_prompt import SoftPrompt
from model_store.rankers.soft_prompt_model import SoftPromptModel

_TEXTS_A_PASS = 64
_MAX_TOKENS = 64


@torch.no_grad()
def text_vectors(model: SoftPromptModel, texts: Sequence[str]) -> Tensor:
    """Vectors of texts, on the CPU; float32 [M, H]. Of a long text the beginning is read."""
    model.model.eval()
    found = []
    for start in range(0, len(texts), _TEXTS_A_PASS):
        some = [
            SoftPrompt.of(model.start(), model.text(text)[:_MAX_TOKENS] or model.text("."))
            for text in texts[start : start + _TEXTS_A_PASS]
        ]
        # Padded in front, every text ends at the last place.
        found.append(model.prefill(model.embed(some, {}, pad_left=True)).last_BH.float().cpu())
    return torch.cat(found) if found else torch.empty(0, model.hidden_size)


def title_texts(catalog: Catalog, items: Sequence[int]) -> list[str]:
    """What is read of items: their titles."""
    return [f"Item: {catalog.titles[item] or catalog.item_ids[item]}" for item in items]
