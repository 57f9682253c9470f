"""Codes for a catalogue, of the kind and from the vectors that the settings name.

Shapes: N items, D size of what is quantized, L levels, C entries a level, H size of the text to align to.
"""

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from model_store.code_assignment import make_unique, nearest_codes
from model_store.item_codes import CODEBOOK_SIZE, LEVEL_LETTERS
from model_store.quantizer import encode, random_codes
from offline.codes.cascaded_codebooks import CascadedCodebooks
from offline.codes.config import CodesConfig
from offline.codes.dual_source import dual_source_codes
from offline.codes.item_vectors import ItemVectors
from offline.codes.mixed_codes import mixed_codes
from offline.codes.quantization import Quantization, collision_report, unexplained
from offline.codes.residual_kmeans import quantize
from offline.codes.sinkhorn import separate_colliding
from offline.codes.train_cascade import train_cascade


def make_codes(
    vectors: ItemVectors,
    text_NH: NDArray[np.float32] | None,
    config: CodesConfig,
    seed: int,
    device: torch.device | str = "cpu",
) -> Quantization:
    """Give every item a unique code.

    Args:
        vectors: of the items.
        text_NH: the items' text to align to (see `text_targets`); read by the trained cascade alone.
        config: settings.
        seed: everything drawn depends on it alone.
        device: where a cascade is trained.

    Raises:
        TesseraError: vectors of balanced clusters are not finite.
    """
    chosen_ND, arrays = vectors.chosen(config)
    if config.kind == "kmeans":
        quantization = quantize(chosen_ND, config, seed, vectors.known_N)
    elif config.kind == "codebooks":
        quantization = _by_cascade(chosen_ND, text_NH, vectors.known_N, config, seed, device)
    elif config.kind == "dual":
        quantization = dual_source_codes(chosen_ND, arrays["input.text_axes"].shape[1], config, seed)
    elif config.kind == "mixed":
        sizes = vectors.joint_ND.shape[1], arrays["input.text_axes"].shape[1]
        quantization = mixed_codes(chosen_ND, *sizes, vectors.known_N, config, seed)
    else:
        quantization = _at_random(chosen_ND, config, seed)
    return dataclasses.replace(
        quantization,
        report={"kind": config.kind, "input": config.input, **quantization.report},
        serving={**arrays, **quantization.serving},
    )


def _by_cascade(
    vectors_ND: NDArray[np.float32],
    text_NH: NDArray[np.float32] | None,
    known_N: NDArray[np.bool_],
    config: CodesConfig,
    seed: int,
    device: torch.device | str,
) -> Quantization:
    model, training = train_cascade(vectors_ND, text_NH, known_N, config, seed, device)
    entries = model.codebooks_LCZ.shape[1]
    serving = {
        f"cascade.{name}": tensor.numpy()
        for name, tensor in model.state_dict().items()
        if name.startswith(("mean", "scale", "encoder."))
    }
    # Encoded and assigned by the code that serves, so that the same vector gets the same code there.
    encoded = encode(serving, vectors_ND)
    codebooks = _all_rows(model.codebooks_LCZ.detach().numpy())
    raw = nearest_codes(encoded, codebooks, entries)
    balanced, spread = separate_colliding(raw, encoded, codebooks, entries)
    codes, moved = make_unique(balanced, encoded, codebooks, entries)
    with torch.no_grad():
        inputs = model.standardised(torch.from_numpy(vectors_ND))
        rebuilt = model.decoder(torch.from_numpy(codebooks[np.arange(len(LEVEL_LETTERS)), codes].sum(axis=1)))
    return Quantization(
        codes_NL=codes,
        codebooks_LCD=codebooks,
        vectors_ND=encoded,
        report={
            **collision_report(raw, codes, entries, moved + spread),
            "unexplained_variance": unexplained((inputs - rebuilt).numpy(), inputs.numpy(), known_N),
            "training": training,
        },
        token_vectors_LCH=_token_vectors(model),
        serving=serving,
    )


def _at_random(vectors_ND: NDArray[np.float32], config: CodesConfig, seed: int) -> Quantization:
    """Codes and entries that know nothing of the vectors; of these only the number and the size count."""
    count, size = vectors_ND.shape
    levels, entries = len(LEVEL_LETTERS), config.entries_for(count)
    draw = np.random.default_rng(seed)
    codebooks = _all_rows((draw.normal(size=(levels, entries, size)) / np.sqrt(size)).astype(np.float32))
    raw = random_codes(count, levels, entries, seed)
    drawn = codebooks[np.arange(levels), raw].sum(axis=1)
    codes, moved = make_unique(raw, drawn, codebooks, entries)
    return Quantization(
        codes_NL=codes,
        codebooks_LCD=codebooks,
        vectors_ND=vectors_ND,
        report=collision_report(raw, codes, entries, moved),
    )


def _token_vectors(model: CascadedCodebooks) -> NDArray[np.float32] | None:
    """Each entry through the projection, as if it were a whole item; float32 [L, CODEBOOK_SIZE, H]."""
    if model.projection is None:
        return None
    with torch.inference_mode():
        return _all_rows(model.projection(model.codebooks_LCZ).numpy())


def _all_rows(entries_LCD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Zero rows behind the entries in use, up to CODEBOOK_SIZE a level."""
    return np.pad(entries_LCD, ((0, 0), (0, CODEBOOK_SIZE - entries_LCD.shape[1]), (0, 0)))
