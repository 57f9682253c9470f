"""How much of its attention each layer gives to soft tokens, with a ranker's steering and without.

Two numbers a layer, means over heads and prompts: at `answer`, the place whose state is read, and at `prompt`, all
places that can see a soft token. `even` is what attention that knows no difference between keys would give.

Shapes: B prompts, T tokens of the longest, L layers.
"""

from typing import Any

import numpy as np
import torch

from model_store.errors import TesseraError
from model_store.rankers.attention_steering import AttentionSteering, model_layers
from model_store.rankers.ranker import Ranker, RankRequest
from model_store.rankers.soft_prompt_model import SoftPromptModel
from offline.rankers.ranking_data import Part, RankingData

_PROMPTS_A_PASS = 32


def attention_shares(ranker: Ranker, data: RankingData, part: Part, *, most: int, seed: int = 0) -> dict[str, Any]:
    """Shares by layer.

    Args:
        ranker: any; one without steering has the same numbers twice.
        data, part: samples whose prompts are read.
        most: how many of them, drawn by the seed.
        seed: of that.

    Returns:
        biases (L numbers), prompts (how many were read), and for each of `steered` and `unsteered` the lists `answer`
        and `prompt` of L numbers; `even` with one number for each of both.

    Raises:
        TesseraError: the ranker has no soft tokens, or the part no samples.
    """
    samples = data.samples[part]
    rows = np.sort(np.random.default_rng(seed).permutation(len(samples))[:most])
    requests = data.sample_requests(samples, rows)
    if not requests:
        raise TesseraError(f"{data.dataset.name}: the {part} part has no samples to read attention from")
    model = ranker.language_model
    own = model.steering.biases if isinstance(model.steering, AttentionSteering) else (0.0,) * model_layers(model.model)
    unsteered, even = _measure(ranker, requests, (0.0,) * len(own))
    steered = _measure(ranker, requests, own)[0] if any(own) else unsteered
    return {"biases": list(own), "prompts": len(requests), "steered": steered, "unsteered": unsteered, "even": even}


@torch.inference_mode()
def _measure(
    ranker: Ranker, requests: list[RankRequest], biases: tuple[float, ...]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    model = ranker.language_model
    ranker.eval()
    model.model.eval()
    steering = AttentionSteering(model.model, biases)
    reader = SoftPromptModel(model.model, model.tokenizer, steering)
    totals: dict[str, list[torch.Tensor]] = {"answer": [], "prompt": []}
    for start in range(0, len(requests), _PROMPTS_A_PASS):
        some = requests[start : start + _PROMPTS_A_PASS]
        users, parts = ranker.whole_prompts(some, range(len(some)), [int(one.candidates[0]) for one in some])
        prompts = [user + part for user, part in zip(users, parts, strict=True)]
        batch = reader.embed(prompts, ranker.soft_tokens(some, prompts))
        if not bool(batch.soft_BT.any()):
            raise TesseraError("the ranker puts no soft tokens into its prompts")
        with steering.recording() as shares:
            reader.hidden(batch)
        seen_BT = batch.soft_BT.cumsum(1)
        places = torch.arange(1, seen_BT.shape[1] + 1, device=seen_BT.device)
        # Row 0 is even attention, the others are the layers.
        shares_LBT = torch.stack([seen_BT / places, *(shares[layer] for layer in range(len(biases)))])
        ends_B = batch.real_BT.sum(1) - 1
        totals["answer"].append(shares_LBT[:, torch.arange(len(some), device=ends_B.device), ends_B])
        totals["prompt"].append(shares_LBT[:, batch.real_BT & (seen_BT > 0)])
    means = {name: torch.cat(found, dim=1).double().mean(1).tolist() for name, found in totals.items()}
    return {name: of[1:] for name, of in means.items()}, {name: of[0] for name, of in means.items()}
