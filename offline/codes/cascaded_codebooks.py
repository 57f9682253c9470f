"""Cascaded codebooks: an autoencoder whose middle is the sum of one codebook entry a level, near the item's text.

Follows the tokenization stage of Semantic Convergence (arXiv:2412.13771): a residual cascade started by clustering, and
a loss that relates what was quantized to the language model's reading of the item. Encoder, decoder and losses are
those of RQ-VAE tokenizers (Rajput et al., arXiv:2305.05065; LC-Rec, arXiv:2311.09049). The form of the alignment is not
published; ours mirrors LETTER (arXiv:2405.07314), which contrasts quantized text with behaviour.

Shapes: B items, D input size, Z size of what is quantized, L levels, C entries a level, H text size.
"""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.item_codes import LEVEL_LETTERS
from offline.codes.config import CascadeConfig


class Quantized(NamedTuple):
    """What the cascade made of encoded items.

    Attributes:
        codes_BL: int64, the nearest entry at each level.
        residual_BLZ: what entered each level; carries gradients to the encoder.
        chosen_BLZ: the entries taken; carries gradients to the codebooks.
    """

    codes_BL: Tensor
    residual_BLZ: Tensor
    chosen_BLZ: Tensor


class Losses(NamedTuple):
    """The three parts of the loss, unweighted."""

    reconstruction: Tensor
    quantization: Tensor
    alignment: Tensor


class CascadedCodebooks(nn.Module):
    """Vectors to codes and back; `projection`, where there is one, takes the quantized middle into the text's space."""

    mean: Tensor
    scale: Tensor

    def __init__(self, size: int, entries: int, text_size: int | None, config: CascadeConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(()))
        self.encoder: nn.Module = nn.Identity()
        self.decoder: nn.Module = nn.Identity()
        quantized = size
        if config.encoder == "mlp":
            quantized = config.size
            widths = [size, *_halving(config.hidden, config.size), config.size]
            self.encoder, self.decoder = _mlp(widths), _mlp(widths[::-1])
        self.codebooks_LCZ = nn.Parameter(torch.zeros(len(LEVEL_LETTERS), entries, quantized))
        self.projection: nn.Module | None = None
        if text_size is not None:
            self.projection = nn.Sequential(
                nn.Linear(quantized, config.projection), nn.GELU(), nn.Linear(config.projection, text_size)
            )

    @torch.no_grad()
    def standardise_by(self, vectors_ND: Tensor) -> None:
        """Centre every coordinate, and scale all alike to unit variance on average, by these vectors."""
        self.mean.copy_(vectors_ND.mean(0))
        self.scale.copy_((vectors_ND - self.mean).square().mean().sqrt().clamp(min=1e-6))

    def standardised(self, vectors_BD: Tensor) -> Tensor:
        """Inputs as the encoder reads them and the decoder writes them; [B, D]."""
        return (vectors_BD - self.mean) / self.scale

    def quantize(self, encoded_BZ: Tensor) -> Quantized:
        """Take the nearest entry at each level, and what it leaves over to the next."""
        residual = encoded_BZ
        codes, residuals, chosen = [], [], []
        for codebook_CZ in self.codebooks_LCZ:
            with torch.no_grad():
                distance_BC = codebook_CZ.square().sum(-1) - 2 * residual @ codebook_CZ.T
            codes.append(distance_BC.argmin(-1))
            residuals.append(residual)
            chosen.append(codebook_CZ[codes[-1]])
            # A level answers for its own entry only, so the next level's loss must not move it.
            residual = residual - chosen[-1].detach()
        return Quantized(torch.stack(codes, 1), torch.stack(residuals, 1), torch.stack(chosen, 1))

    def losses(self, inputs_BD: Tensor, text_BH: Tensor | None, alignment: str) -> tuple[Losses, Tensor]:
        """Losses of a batch of standardised inputs, and the codes they were quantized to; int64 [B, L].

        Args:
            inputs_BD: standardised vectors.
            text_BH: unit-length text targets, as `projection` is to name them; None where there is no projection.
            alignment: `infonce`, `cosine` or `none`.
        """
        encoded_BZ = self.encoder(inputs_BD)
        quantized = self.quantize(encoded_BZ)
        total_BZ = quantized.chosen_BLZ.sum(1)
        straight_through_BZ = encoded_BZ + (total_BZ - encoded_BZ).detach()
        reconstruction = functional.mse_loss(self.decoder(straight_through_BZ), inputs_BD)
        pull = functional.mse_loss(quantized.chosen_BLZ, quantized.residual_BLZ.detach())
        commitment = functional.mse_loss(quantized.residual_BLZ, quantized.chosen_BLZ.detach())
        quantization = len(LEVEL_LETTERS) * (pull + self.config.commitment * commitment)
        if self.projection is None or text_BH is None:
            return Losses(reconstruction, quantization, reconstruction.new_zeros(())), quantized.codes_BL
        # Unlike the reconstruction it also moves the entries themselves: an identity encoder has nothing else to move.
        aligned_BH = self.projection(total_BZ + encoded_BZ - encoded_BZ.detach())
        return Losses(reconstruction, quantization, self._alignment(aligned_BH, text_BH, alignment)), quantized.codes_BL

    def weighted(self, losses: Losses) -> Tensor:
        """The sum that is minimised."""
        return (
            losses.reconstruction
            + self.config.quantization_weight * losses.quantization
            + self.config.alignment_weight * losses.alignment
        )

    def reconstruction_loss(self, inputs_BD: Tensor) -> Tensor:
        """The reconstruction without quantization."""
        return functional.mse_loss(self.decoder(self.encoder(inputs_BD)), inputs_BD)

    def _alignment(self, aligned_BH: Tensor, text_BH: Tensor, alignment: str) -> Tensor:
        aligned_BH = functional.normalize(aligned_BH, dim=-1)
        if alignment == "cosine":
            return 1 - (aligned_BH * text_BH).sum(-1).mean()
        own = torch.arange(len(text_BH), device=text_BH.device)
        return functional.cross_entropy(aligned_BH @ text_BH.T / self.config.temperature, own)


def _halving(first: int, last: int) -> list[int]:
    """Layer widths from `first` down to more than `last`."""
    return list(itertools.takewhile(lambda width: width > last, (first >> step for step in range(first.bit_length()))))


def _mlp(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size_in, size_out in itertools.pairwise(widths):
        layers += [nn.Linear(size_in, size_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
