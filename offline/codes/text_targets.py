"""What the codes are aligned to: each item's text as the sentence encoder reads it, or as the language model does.

Shapes: N items, X size of the text encoder's vectors, H hidden size of the language model.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model_store.catalog import Catalog
from model_store.errors import TesseraError
from offline.codes.config import CodesConfig
from offline.progress import progress

_BATCH = 16
_SCRATCH_PREFIX = "scratch:"


def check_alignment(config: CodesConfig, llm: str) -> None:
    """Refuse to align codes to a language model that has not read anything yet.

    Raises:
        TesseraError: `codes.align_to` is `llm`, and the model is built from a config.
    """
    if config.aligned and config.align_to == "llm" and llm.startswith(_SCRATCH_PREFIX):
        raise TesseraError(
            f"codes.align_to=llm needs a pretrained language model; {llm} starts from random weights, and its hidden "
            "states say nothing of an item's text. Set codes.align_to=encoder, or language_model.llm to a checkpoint"
        )


def text_targets(
    catalog: Catalog,
    text_NX: NDArray[np.float32],
    config: CodesConfig,
    llm: str,
    max_tokens: int,
    device: torch.device | str,
) -> NDArray[np.float32] | None:
    """The text vectors that `config.align_to` names; float32 [N, X or H], None where nothing is aligned.

    Args:
        catalog: the items.
        text_NX: the sentence encoder's vectors.
        config: settings.
        llm: Hugging Face name or folder of the language model.
        max_tokens: what the language model reads of a text.
        device: where it reads.

    Raises:
        TesseraError: the language model is built from a config, or cannot be loaded.
    """
    if not config.aligned:
        return None
    if config.align_to == "encoder":
        return text_NX
    check_alignment(config, llm)
    # Imported here: it takes seconds, and only this choice needs it.
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(llm)
        model = AutoModel.from_pretrained(llm, dtype="auto")
    except (OSError, ValueError) as error:
        raise TesseraError(f"language_model.llm {llm!r}: {error}") from error
    return llm_text_vectors(model, tokenizer, catalog, max_tokens, device)


@torch.inference_mode()
def llm_text_vectors(
    model: Any, tokenizer: Any, catalog: Catalog, max_tokens: int, device: torch.device | str
) -> NDArray[np.float32]:
    """Mean of the last hidden states over the tokens of each item's document; float32 [N, H].

    Args:
        model: a Hugging Face causal LM, with or without its head; left on `device` in eval mode.
        tokenizer: its tokenizer.
        catalog: the items; one without text is read by its id.
        max_tokens: text beyond this is cut.
        device: where to compute.
    """
    model = model.to(device).eval()
    documents = [catalog.document(item) or catalog.item_ids[item] for item in range(len(catalog))]
    tokens = [ids[:max_tokens] for ids in tokenizer(documents)["input_ids"]]
    # Longest first, so that a batch is all of one length and memory peaks at once.
    order = sorted(range(len(tokens)), key=lambda item: -len(tokens[item]))
    vectors = np.empty((len(tokens), model.config.get_text_config().hidden_size), dtype=np.float32)
    with progress("language model's text vectors", len(tokens), "items") as advance:
        for start in range(0, len(order), _BATCH):
            chunk = order[start : start + _BATCH]
            rows = [torch.tensor(tokens[item], dtype=torch.long, device=device) for item in chunk]
            # Padding stands behind the text, where no causal model sees it; which token it is makes no difference.
            ids_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            mask_BT = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
            states_BTH = model.base_model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state.float()
            means_BH = (states_BTH * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True)
            vectors[chunk] = means_BH.cpu().numpy()
            advance(len(chunk))
    return vectors
