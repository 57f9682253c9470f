"""Where new code tokens start in a model's vocabulary.

Near items should start as near tokens. Codebook entries are such a geometry; so are those that an alignment has put
into the language model's own space, which need no rotation (Semantic Convergence, arXiv:2412.13771, starts its tokens
from aligned codebooks).

Shapes: L levels, C entries a level, D size of the vectors to start from, H hidden size.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.item_codes import CODEBOOK_SIZE, code_token_names

_NOISE = 0.1
"""Length of the noise, per length of a token: tells apart tokens whose vectors coincide."""


def start_from_codebooks(
    model: Any, tokenizer: Any, codebooks_LCD: NDArray[np.float32], length: float, seed: int
) -> None:
    """Put each code token at its centroid, through one random rotation; first-level tokens get `length` on average.

    Levels keep their relative sizes: coarse ones are longer than corrections.
    """
    generator = torch.Generator().manual_seed(seed)
    vectors = _rotated(torch.from_numpy(codebooks_LCD), _hidden_size(model), generator)
    used_LC = vectors.norm(dim=-1) > 0
    first_level = vectors[0][used_LC[0]].norm(dim=-1).mean()
    _write(model, tokenizer, vectors * (length / first_level), used_LC, length, generator)


def start_from_projection(
    model: Any, tokenizer: Any, vectors_LCD: NDArray[np.float32], used_LC: NDArray[np.bool_], length: float, seed: int
) -> None:
    """Put each code token at its projected entry, `length` long on average over all levels.

    Args:
        model, tokenizer: with the code tokens in them.
        vectors_LCD: projected entries. Where D is H they stay as they are but for their scale; else one random
            rotation takes them to H.
        used_LC: entries in use; the others keep the start of any new token.
        length: of a token of the vocabulary.
        seed: of the noise and the rotation.
    """
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.from_numpy(vectors_LCD)
    if vectors.shape[-1] != _hidden_size(model):
        vectors = _rotated(vectors, _hidden_size(model), generator)
    used = torch.from_numpy(used_LC)
    _write(model, tokenizer, vectors * (length / vectors[used].norm(dim=-1).mean()), used, length, generator)


def _hidden_size(model: Any) -> int:
    size: int = model.get_input_embeddings().weight.shape[1]
    return size


def _rotated(vectors_LCD: Tensor, hidden: int, generator: torch.Generator) -> Tensor:
    levels, entries, size = vectors_LCD.shape
    wide = max(hidden, size)
    rotation = torch.linalg.qr(torch.randn(wide, wide, generator=generator)).Q[:size, :hidden]
    rotated: Tensor = vectors_LCD.reshape(levels * entries, size) @ rotation
    return rotated.view(levels, entries, hidden)


def _write(
    model: Any, tokenizer: Any, vectors_LCH: Tensor, used_LC: Tensor, length: float, generator: torch.Generator
) -> None:
    levels, _, hidden = vectors_LCH.shape
    vectors, used = vectors_LCH.flatten(0, 1), used_LC.flatten()
    vectors = vectors + torch.randn(vectors.shape, generator=generator) * (_NOISE * length / math.sqrt(hidden))
    ids = torch.tensor(tokenizer.convert_tokens_to_ids(code_token_names(levels, CODEBOOK_SIZE)))
    with torch.no_grad():
        for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
            embedding.weight[ids[used]] = vectors[used].to(embedding.weight)
