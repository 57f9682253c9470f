"""One forward pass over rows of several examples each, which must not see one another.

Position ids that restart are not enough: some architectures (OPT, Falcon, BLOOM) do not read borders from them, and
silently let examples see their neighbours. A block-diagonal causal mask is either applied or refused, and a model is
asked which once, before training.

Shapes: R rows, T tokens, H hidden size.
"""

from typing import Any

import torch
from torch import Tensor

from model_store.errors import TesseraError

_TOLERANCE = 1e-3


def packed_states(model: Any, input_ids_RT: Tensor, position_ids_RT: Tensor, example_RT: Tensor) -> Tensor:
    """Last hidden states, [R, T, H]. Tokens see earlier ones of the same number in `example_RT`."""
    length = input_ids_RT.shape[1]
    causal_TT = torch.ones(length, length, dtype=torch.bool, device=input_ids_RT.device).tril()
    # Padding is an example of its own: a token that sees nothing at all would be a division by zero.
    visible_RTT = (example_RT[:, :, None] == example_RT[:, None, :]) & causal_TT
    states: Tensor = model.base_model(
        input_ids=input_ids_RT,
        position_ids=position_ids_RT,
        attention_mask=visible_RTT[:, None],
        use_cache=False,
    ).last_hidden_state
    return states


@torch.inference_mode()
def check_isolation(model: Any) -> None:
    """Make sure that an example has the same states beside another one as alone.

    Raises:
        TesseraError: it has not; this architecture cannot train on tasks.
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    first, second = torch.tensor([[0, 1, 2]], device=device), torch.tensor([[3, 0, 1, 2]], device=device)
    columns = torch.arange(7, device=device)[None]
    try:
        together = packed_states(
            model,
            torch.cat([first, second], dim=1),
            torch.where(columns < 3, columns, columns - 3),
            (columns >= 3).long(),
        )[:, 3:]
        alone = model.base_model(input_ids=second, use_cache=False).last_hidden_state
        difference = (together - alone).abs().max().item() / max(1.0, alone.abs().max().item())
        reason = "" if difference <= _TOLERANCE else f"examples of one row see each other (difference {difference:.3g})"
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error)
    model.train(training)
    if reason:
        raise TesseraError(
            f"{type(model).__name__} cannot train on tasks, which lie several in a row: {reason}; "
            "set tasks.share=0 or choose another language_model.llm"
        )
