"""Writes a bundle's `quantizer/`: what `model_store.quantizer` needs to give a new item a code."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from model_store.quantizer import ARRAYS_NAME, CONFIG_NAME, FORMAT
from model_store.text_encoder import TextConfig
from offline.codes.joint_embedding import JointEncoder
from offline.codes.quantization import Quantization


def export_quantizer(
    folder: Path, joint_encoder: JointEncoder, quantization: Quantization, text: TextConfig, seed: int
) -> None:
    """Write it.

    Args:
        folder: made here.
        joint_encoder: how joint vectors were made.
        quantization: how codes were made.
        text: how the text vectors were made.
        seed: of the run; random codes go on from it.
    """
    folder.mkdir()
    joint = {name: tensor.cpu().numpy() for name, tensor in joint_encoder.state_dict().items() if "decoder" not in name}
    arrays = {
        "codebooks": quantization.codebooks_LCD,
        **{f"joint.{name}": array for name, array in joint.items()},
        **quantization.serving,
    }
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / ARRAYS_NAME)
    config = {
        "format": FORMAT,
        "kind": quantization.report["kind"],
        "input": quantization.report["input"],
        "entries": quantization.report["entries"],
        "seed": seed,
        "text": dataclasses.asdict(text),
    }
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2), encoding="utf-8")
