"""A bundle's collaborative encoder: settings as JSON, weights as safetensors."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from model_store.collaborative.configs import (
    CONFIGS,
    DINConfig,
    EncoderConfig,
    GRU4RecConfig,
    NCFConfig,
    NextItNetConfig,
    RunningMeanConfig,
    SASRecConfig,
)
from model_store.collaborative.din import DIN
from model_store.collaborative.encoder import CollaborativeEncoder
from model_store.collaborative.gru4rec import GRU4Rec
from model_store.collaborative.ncf import NCF
from model_store.collaborative.nextitnet import NextItNet
from model_store.collaborative.running_mean import RunningMeanEncoder
from model_store.collaborative.sasrec import SASRec
from model_store.errors import BundleCorrupt


def save_encoder(folder: Path, encoder: CollaborativeEncoder) -> None:
    """Write an encoder to a new folder."""
    folder.mkdir()
    save_file(
        {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(encoder.config), indent=2), encoding="utf-8")


def load_encoder(folder: Path) -> CollaborativeEncoder:
    """The encoder that was saved in a bundle's folder, in eval mode.

    Raises:
        BundleCorrupt: the folder holds another kind of encoder.
    """
    path = folder / "config.json"
    config = encoder_config(json.loads(path.read_text(encoding="utf-8")), path)
    weights = load_file(folder / "model.safetensors")
    vectors = next(value for name, value in weights.items() if name.startswith("item_vectors"))
    encoder = build_encoder(len(vectors), config)
    encoder.load_state_dict(weights)
    return encoder.eval()


def encoder_config(settings: Mapping[str, Any], path: Path) -> EncoderConfig:
    """Settings from the JSON that `path` has of them, the kind among them.

    Raises:
        BundleCorrupt: another kind than is known here.
    """
    kind = settings.get("kind")
    if kind not in CONFIGS:
        raise BundleCorrupt(
            f"{path}: collaborative encoder of kind {kind!r}, expected one of " + ", ".join(sorted(CONFIGS))
        )
    return CONFIGS[kind](**{name: value for name, value in settings.items() if name != "kind"})


def build_encoder(items: int, config: EncoderConfig) -> CollaborativeEncoder:
    """An encoder of N items without what it learned, for weights to be loaded into."""
    if isinstance(config, SASRecConfig):
        return SASRec(items, config)
    if isinstance(config, DINConfig):
        return DIN(items, config)
    if isinstance(config, GRU4RecConfig):
        return GRU4Rec(items, config)
    if isinstance(config, NextItNetConfig):
        return NextItNet(items, config)
    if isinstance(config, NCFConfig):
        return NCF(items, config)
    assert isinstance(config, RunningMeanConfig)
    return RunningMeanEncoder(items, config)
