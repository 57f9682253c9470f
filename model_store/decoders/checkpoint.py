"""A bundle's language model in torch, with its adapter where that is kept apart."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from model_store.bundle import Bundle
from model_store.errors import BundleCorrupt
from model_store.manifest import ADAPTER_WEIGHTS


def load_language_model(bundle: Bundle, dtype: torch.dtype) -> Any:
    """The whole model, on the CPU.

    An adapter is merged in memory: a torch decoder serves one version, and two matrix products where one will do would
    be all that it gained from keeping them apart.

    Raises:
        BundleCorrupt: there is an adapter that is not one of this checkpoint.
    """
    adapter = bundle.adapter_path
    model = AutoModelForCausalLM.from_pretrained(
        bundle.llm_path,
        # Merged at full precision and rounded once, like weights that were merged when they were published.
        dtype=dtype if adapter is None else torch.float32,
        attn_implementation="sdpa",
        local_files_only=True,
    )
    return model if adapter is None else _merged(model, adapter).to(dtype)


def _merged(model: Any, adapter: Path) -> Any:
    # Imported here: it takes seconds, and few versions need it.
    import peft

    try:
        tuned = peft.get_peft_model(model, peft.LoraConfig.from_pretrained(str(adapter)))
        weights = load_file(adapter / Path(ADAPTER_WEIGHTS).name)
        found: Any = peft.set_peft_model_state_dict(tuned, weights)
    # Peft and safetensors raise whatever a strange file provokes in them.
    except Exception as error:
        raise BundleCorrupt(f"{adapter}: not an adapter of {type(model).__name__}: {error}") from error
    missing = [name for name in found.missing_keys if "lora_" in name]
    if missing or found.unexpected_keys:
        raise BundleCorrupt(
            f"{adapter}: not an adapter of {type(model).__name__}: "
            f"{len(missing)} weights are missing, {len(found.unexpected_keys)} are of no layer"
        )
    return tuned.merge_and_unload()
