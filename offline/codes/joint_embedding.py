"""One vector an item from what it says and who takes it: two encoders that must agree.

Each side goes through a small encoder to a shared space. A symmetric in-batch InfoNCE pulls the two halves of an item
together, and both sides are reconstructed from the mean of the halves, so that neither is forgotten. Matched latents
with two reconstructions are A-LLMRec's (arXiv:2404.11343, stage 1); what we changed: InfoNCE in place of a squared
distance, frozen inputs, and no recommendation loss.

Shapes: N items, X text size, Y behaviour size, D joint size.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from offline.progress import progress


@dataclass(frozen=True, kw_only=True)
class JointConfig:
    """Settings of the joint embedding."""

    size: int = 64
    """D, the length of a joint vector."""
    hidden: int = 128
    epochs: int = 30
    batch: int = 256
    learning_rate: float = 2e-3
    temperature: float = 0.1
    contrast_weight: float = 0.2


class JointEncoder(nn.Module):
    """Text and behaviour vectors to unit-length joint halves, and back.

    The means and scales it standardises by are buffers, so that its state is all that a new item's vector needs.
    """

    text_mean: Tensor
    text_scale: Tensor
    behaviour_mean: Tensor
    behaviour_scale: Tensor

    def __init__(self, text_size: int, behaviour_size: int, config: JointConfig) -> None:
        super().__init__()
        for side, size in (("text", text_size), ("behaviour", behaviour_size)):
            self.register_buffer(f"{side}_mean", torch.zeros(size))
            self.register_buffer(f"{side}_scale", torch.ones(()))

        def two_layers(size_in: int, size_out: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(size_in, config.hidden), nn.GELU(), nn.Linear(config.hidden, size_out))

        self.text_encoder = two_layers(text_size, config.size)
        self.behaviour_encoder = two_layers(behaviour_size, config.size)
        self.text_decoder = two_layers(config.size, text_size)
        self.behaviour_decoder = two_layers(config.size, behaviour_size)

    def standardise_by(self, text_NX: Tensor, behaviour_NY: Tensor) -> None:
        """Centre every coordinate, and scale all of a side alike to unit variance on average, by these items."""
        self.text_mean.copy_(text_NX.mean(0))
        self.text_scale.copy_(text_NX.std(correction=0).clamp(min=1e-6))
        self.behaviour_mean.copy_(behaviour_NY.mean(0))
        self.behaviour_scale.copy_(behaviour_NY.std(correction=0).clamp(min=1e-6))

    def standardised(self, text_NX: Tensor, behaviour_NY: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides as the encoders read them and the decoders write them."""
        return (
            (text_NX - self.text_mean) / self.text_scale,
            (behaviour_NY - self.behaviour_mean) / self.behaviour_scale,
        )

    def halves(self, text_NX: Tensor, behaviour_NY: Tensor) -> tuple[Tensor, Tensor]:
        """The two unit-length views of each item, of standardised sides; 2 x [N, D]."""
        return (
            functional.normalize(self.text_encoder(text_NX), dim=-1),
            functional.normalize(self.behaviour_encoder(behaviour_NY), dim=-1),
        )


def train_joint_embedding(
    text_NX: NDArray[np.float32],
    behaviour_NY: NDArray[np.float32],
    known_N: NDArray[np.bool_],
    config: JointConfig,
    seed: int,
) -> tuple[JointEncoder, NDArray[np.float32]]:
    """Train the encoders; returns them and the joint vectors, unit length, float32 [N, D].

    Args:
        text_NX: text vectors.
        behaviour_NY: collaborative vectors.
        known_N: items with training events. The others have no behaviour to speak of: they do not train the encoders,
            and their vector is the text half alone.
        config: settings.
        seed: of initialisation and batches.
    """
    torch.manual_seed(seed)
    model = JointEncoder(text_NX.shape[1], behaviour_NY.shape[1], config)
    model.standardise_by(torch.from_numpy(text_NX[known_N]), torch.from_numpy(behaviour_NY[known_N]))
    text, behaviour = model.standardised(torch.from_numpy(text_NX), torch.from_numpy(behaviour_NY))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    train = torch.from_numpy(np.flatnonzero(known_N))
    with progress("joint embedding", config.epochs, "epochs") as advance:
        for _ in range(config.epochs):
            shuffled = train[torch.randperm(len(train))]
            for start in range(0, len(shuffled), config.batch):
                rows = shuffled[start : start + config.batch]
                loss = _loss(model, text[rows], behaviour[rows], config)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            advance(1, f"loss {loss.item():.3f}")
    with torch.inference_mode():
        text_half, behaviour_half = model.eval().halves(text, behaviour)
        both = torch.where(torch.from_numpy(known_N)[:, None], text_half + behaviour_half, text_half)
        joint: NDArray[np.float32] = functional.normalize(both, dim=-1).numpy()
    return model, joint


def _loss(model: JointEncoder, text: Tensor, behaviour: Tensor, config: JointConfig) -> Tensor:
    text_half, behaviour_half = model.halves(text, behaviour)
    mean = (text_half + behaviour_half) / 2
    rebuilt = functional.mse_loss(model.text_decoder(mean), text) + functional.mse_loss(
        model.behaviour_decoder(mean), behaviour
    )
    similarity = text_half @ behaviour_half.T / config.temperature
    own = torch.arange(len(text))
    contrast = (functional.cross_entropy(similarity, own) + functional.cross_entropy(similarity.T, own)) / 2
    return rebuilt + config.contrast_weight * contrast
