"""A bundle's collaborative encoder: settings as JSON, weights as safetensors."""

import dataclasses
import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from model_store.bundle import Bundle
from model_store.errors import BundleCorrupt
from offline.collaborative.encoder import CollaborativeEncoder
from offline.collaborative.kinds import CONFIGS, build_encoder


def save_encoder(folder: Path, encoder: CollaborativeEncoder) -> None:
    """Write an encoder to a new folder."""
    folder.mkdir()
    save_file(
        {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(encoder.config), indent=2), encoding="utf-8")


def load_encoder(bundle: Bundle, items: int) -> CollaborativeEncoder:
    """The encoder that was trained with this version, in eval mode.

    Raises:
        BundleCorrupt: the bundle holds another kind of encoder.
    """
    folder = bundle.path / "encoder"
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = settings.pop("kind")
    if kind not in CONFIGS:
        raise BundleCorrupt(
            f"{folder / 'config.json'}: collaborative encoder of kind {kind!r}, expected one of "
            + ", ".join(sorted(CONFIGS))
        )
    encoder = build_encoder(items, CONFIGS[kind](**settings))
    encoder.load_state_dict(load_file(folder / "model.safetensors"))
    return encoder.eval()
