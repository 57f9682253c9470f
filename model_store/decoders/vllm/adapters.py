"""LoRA adapters as vLLM takes them: what an engine must have room for, and how a pass names its own."""

import json
from pathlib import Path
from typing import Any, get_args

from model_store.bundle import Bundle
from model_store.errors import BundleCorrupt, DecoderUnusable
from model_store.manifest import ADAPTER_WEIGHTS

_MERGE = "train it again with training.lora.merge=true, or use the torch engine"


def engine_arguments(folder: Path, at_once: int) -> dict[str, Any]:
    """What an engine must be told at its start.

    Args:
        folder: of one adapter; the others have the same rank.
        at_once: how many are kept ready; more take turns.

    Raises:
        BundleCorrupt: the adapter's configuration cannot be read.
        DecoderUnusable: its rank is beyond what vLLM takes.
    """
    return {
        "enable_lora": True,
        "max_lora_rank": _room_for(folder),
        "max_loras": at_once,
        # During a switch the new version is there before the old one goes.
        "max_cpu_loras": at_once + 1,
    }


def adapter_of(bundle: Bundle, numbers: dict[str, int]) -> Any:
    """What a version's passes go with (a `LoRARequest`); None where it has no adapter.

    Args:
        bundle: the version.
        numbers: the number of each adapter of this engine, by the digest of its weights; a new one is added.
    """
    folder = bundle.adapter_path
    if folder is None:
        return None
    from vllm.lora.request import LoRARequest

    digest = bundle.manifest.files[ADAPTER_WEIGHTS].sha256
    number = numbers.setdefault(digest, len(numbers) + 1)
    # Its own folder, though an extension's is a copy of its base's: vLLM may want to read it again.
    return LoRARequest(lora_name=digest, lora_int_id=number, lora_path=str(folder.resolve()))


def refuses_adapters(arguments: Any) -> str | None:
    """The architecture's name if vLLM knows it and cannot run it with an adapter; `arguments` are the engine's."""
    from vllm.model_executor.model_loader import get_model_architecture
    from vllm.model_executor.models import supports_lora

    try:
        model_class, name = get_model_architecture(arguments.create_engine_config().model_config)
    # Asked about a model that did not start: the trouble may be any other, and then this is not the one to report it.
    except Exception:
        return None
    return None if supports_lora(model_class) else str(name)


def unusable(source: Path, what: str) -> DecoderUnusable:
    """The error that tells how to get on without adapters in vLLM."""
    return DecoderUnusable(f"{source}: {what}; {_MERGE}")


def _room_for(folder: Path) -> int:
    """The smallest rank that vLLM reserves room for and the adapter fits in."""
    from vllm.config.lora import MaxLoRARanks

    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        rank = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleCorrupt(f"{path}: does not say the adapter's rank: {error!r}") from error
    fitting = [room for room in get_args(MaxLoRARanks) if room >= rank]
    if not fitting:
        raise unusable(folder, f"vLLM takes adapters up to rank {max(get_args(MaxLoRARanks))}, this one has {rank}")
    return int(min(fitting))
