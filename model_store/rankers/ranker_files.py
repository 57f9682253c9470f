"""A bundle's ranker: settings as JSON, weights as safetensors, the language model as a Hugging Face checkpoint.

ranker/ranker.json           format, kind, settings
       modules.safetensors   all that is the ranker's own
       llm/                  checkpoint and tokenizer; adapters are merged
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from model_store.catalog import Catalog
from model_store.errors import BundleCorrupt, UnsupportedBundleFormat
from model_store.rankers.a_llmrec import ALLMRecRanker
from model_store.rankers.ranker import Ranker
from model_store.rankers.sail_rec import SailRecRanker
from model_store.rankers.sella_rec import SellaRecRanker
from model_store.rankers.soft_prompt_model import SoftPromptModel
from model_store.rankers.text_only import TextOnlyRanker

FORMAT = 1
CONFIG_NAME = "ranker.json"
WEIGHTS_NAME = "modules.safetensors"
LANGUAGE_MODEL_NAME = "llm"

RANKERS: dict[str, type[Ranker]] = {
    ranker.kind: ranker for ranker in (TextOnlyRanker, SellaRecRanker, SailRecRanker, ALLMRecRanker)
}
"""Kind -> the ranker that is loaded."""


def save_ranker(folder: Path, ranker: Ranker) -> None:
    """Write a ranker to a new folder. Its language model must be a plain checkpoint, adapters merged."""
    folder.mkdir()
    content = {"format": FORMAT, "kind": ranker.kind, "config": dataclasses.asdict(ranker.config)}
    (folder / CONFIG_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in ranker.state_dict().items()}
    save_file(weights, folder / WEIGHTS_NAME)
    ranker.language_model.model.save_pretrained(folder / LANGUAGE_MODEL_NAME, safe_serialization=True)
    ranker.language_model.tokenizer.save_pretrained(folder / LANGUAGE_MODEL_NAME)


def load_ranker(folder: Path, catalog: Catalog, device: torch.device | str = "cpu") -> Ranker:
    """The ranker of a bundle's folder, in eval mode; bfloat16 on a GPU, else float32.

    Args:
        folder: `Bundle.ranker_path`.
        catalog: the bundle's; it may have grown since the ranker was trained.

    Raises:
        BundleCorrupt: the folder holds no ranker, or another kind of one than is known here.
        UnsupportedBundleFormat: written by a newer Tessera.
    """
    path = folder / CONFIG_NAME
    content = _read(path)
    if content.get("format") != FORMAT:
        raise UnsupportedBundleFormat(f"{path}: ranker format {content.get('format')}, this Tessera reads {FORMAT}")
    kind = content.get("kind")
    if kind not in RANKERS:
        raise BundleCorrupt(f"{path}: a ranker of kind {kind!r}, expected one of {', '.join(sorted(RANKERS))}")
    try:
        config = _dataclass(RANKERS[kind].config_type, content["config"])
        model = SoftPromptModel(*_language_model(folder / LANGUAGE_MODEL_NAME, torch.device(device)))
        ranker = RANKERS[kind](config, model, catalog)
        ranker.load_state_dict(load_file(folder / WEIGHTS_NAME))
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise BundleCorrupt(f"{folder}: not a {kind} ranker: {error}") from error
    ranker.to(device).eval()
    ranker.adopt(catalog)
    return ranker


def _language_model(folder: Path, device: torch.device) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
        attn_implementation="sdpa",
        local_files_only=True,
    )
    return model.to(device).eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleCorrupt(f"{path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise BundleCorrupt(f"{path}: not the settings of a ranker")
    return content


def _dataclass(kind: type[Any], content: dict[str, Any]) -> Any:
    """A dataclass from its JSON; lists become tuples, sections their own dataclasses."""
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    return kind(**{name: _value(types[name], value) for name, value in content.items()})


def _value(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value)  # type: ignore[arg-type]
    return tuple(value) if isinstance(value, list) else value
