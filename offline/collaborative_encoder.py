"""Read a bundle's collaborative encoder back."""

import json

from safetensors.torch import load_file

from model_store.bundle import Bundle
from model_store.errors import BundleCorrupt
from offline.sasrec import SASRec, SASRecConfig


def load_encoder(bundle: Bundle, items: int) -> SASRec:
    """The SASRec that was trained with this version, in eval mode.

    Raises:
        BundleCorrupt: the bundle holds another kind of encoder.
    """
    folder = bundle.path / "encoder"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = config.pop("kind")
    if kind != "sasrec":
        raise BundleCorrupt(f"{folder / 'config.json'}: collaborative encoder of kind {kind!r}, expected sasrec")
    model = SASRec(items, SASRecConfig(**config))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()
