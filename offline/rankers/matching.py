"""A-LLMRec's first stage: latents of items that carry what people do and what texts say.

With e a frozen item vector, Q the vector of its text, z and w their latents, x a user's frozen state,

    L = match * MSE(z, w) + item_reconstruction * MSE(dec(z), e) + text_reconstruction * MSE(dec(w), stop(Q))
        + recommendation * (- log s(x . dec(z+)) - log(1 - s(x . dec(z-))))

The first three are summed over the item that came next and one that the user does not have; s is the sigmoid, and the
product is divided by D as in the paper's code (`product`). The text encoder is fine-tuned, or stays and its vectors are
computed once (`tune_text_encoder`): what a small machine does, and a row of the paper's ablation.

Shapes: B rows, N items, D size of an item's vector, X of a text vector, Z of a latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model_store.collaborative.encoder import CollaborativeEncoder
from model_store.errors import TesseraError
from model_store.rankers.history_states import history_states
from model_store.rankers.joint_autoencoders import JointAutoencoders
from model_store.rankers.trainable_text_encoder import TrainableTextEncoder
from model_store.text_encoder import TextConfig
from offline.embed_items import embed_items
from offline.rankers.fitting import FitConfig, Trained, fit
from offline.rankers.next_item_rows import NegativeItems, next_item_rows
from offline.rankers.ranking_data import RankingData

_VALIDATION_ROWS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class MatchingConfig(FitConfig):
    """Settings of the first stage; the defaults are published."""

    epochs: int = 10
    batch: int = 32
    at_once: int = 32
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    warmup_share: float = 0.0
    patience: int = 10
    size: int = 128
    """Z."""
    match: float = 1.0
    item_reconstruction: float = 0.5
    text_reconstruction: float = 0.5
    """The paper has 0.5 for Movies and Games, 0.2 for Beauty and Toys; its code always has 0.2."""
    recommendation: float = 1.0
    product: str = "mean"
    """Of a user's state and an item: `mean` over the dimensions, as in the paper's code, or `dot`."""
    positions: str = "last"
    """Of a history that are trained on: the `last`, or `all`."""
    tune_text_encoder: bool = True
    """Whether the text encoder is trained too, and published with the ranker."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("product", ("mean", "dot")), ("positions", ("last", "all"))):
            if getattr(self, name) not in known:
                raise TesseraError(f"recipe: matching.{name} must be {' or '.join(known)}, not {getattr(self, name)!r}")
        if self.size < 1:
            raise TesseraError(f"recipe: matching.size must be at least 1, not {self.size}")


@dataclass(frozen=True)
class Matched:
    """What the stage leaves.

    Attributes:
        autoencoders: trained.
        text_encoder: trained; None where its vectors were fixed.
        texts_NX: text vectors of all items, by it.
        report: what happened.
    """

    autoencoders: JointAutoencoders
    text_encoder: TrainableTextEncoder | None
    texts_NX: Tensor
    report: dict[str, Any]


@dataclass(frozen=True)
class MatchingTerms:
    """The four losses, means over rows and dimensions."""

    match: Tensor
    item_reconstruction: Tensor
    text_reconstruction: Tensor
    recommendation: Tensor

    def weighted(self, config: MatchingConfig) -> Tensor:
        """Their sum, as the settings weigh them."""
        return (
            config.match * self.match
            + config.item_reconstruction * self.item_reconstruction
            + config.text_reconstruction * self.text_reconstruction
            + config.recommendation * self.recommendation
        )


def matching_terms(
    autoencoders: JointAutoencoders,
    states_BD: Tensor,
    vectors: Sequence[Tensor],
    texts: Sequence[Tensor],
    product: str,
) -> MatchingTerms:
    """The losses of rows.

    Args:
        autoencoders: what is trained.
        states_BD: the users'.
        vectors: of the items that came next, and of negatives; [B, D] each.
        texts: their text vectors; [B, X] each.
        product: `mean` or `dot`.
    """
    zero = states_BD.new_zeros(())
    match, item_reconstruction, text_reconstruction = zero, zero, zero
    products = []
    for vectors_BD, texts_BX in zip(vectors, texts, strict=True):
        z, w = autoencoders.of_vectors(vectors_BD), autoencoders.of_texts(texts_BX)
        decoded_BD = autoencoders.item_decoder(z)
        match = match + functional.mse_loss(z, w)
        item_reconstruction = item_reconstruction + functional.mse_loss(decoded_BD, vectors_BD)
        decoded_BX = autoencoders.text_decoder(w)
        text_reconstruction = text_reconstruction + functional.mse_loss(decoded_BX, texts_BX.detach())
        own = states_BD * decoded_BD
        products.append(own.mean(-1) if product == "mean" else own.sum(-1))
    liked_B, others_B = products
    recommendation = (functional.softplus(-liked_B) + functional.softplus(others_B)).mean()
    return MatchingTerms(match, item_reconstruction, text_reconstruction, recommendation)


def train_matching(
    data: RankingData,
    encoder: CollaborativeEncoder,
    text: TextConfig,
    config: MatchingConfig,
    seed: int,
    device: torch.device | str = "cpu",
) -> Matched:
    """Train the autoencoders, and the text encoder where the settings say so.

    Args:
        data: without labels.
        encoder: trained on its training part; not changed.
        text: the text encoder.
        config: settings.
        seed: of every random start and draw.
        device: where to compute.
    """
    rows, lists = next_item_rows(data, config.positions), data.lists["valid"]
    documents = [data.catalog.document(item) for item in range(len(data.catalog))]
    torch.manual_seed(seed)
    text_encoder = TrainableTextEncoder(text).to(device) if config.tune_text_encoder else None
    fixed_NX = None if text_encoder else torch.from_numpy(embed_items(data.catalog, text)).to(device)
    vectors_ND = encoder.vectors().detach().float()
    text_size = text_encoder.encode(documents[:1]).shape[1] if fixed_NX is None else fixed_NX.shape[1]  # type: ignore[union-attr]
    autoencoders = JointAutoencoders(vectors_ND.shape[1], text_size, config.size).to(device)
    negatives = NegativeItems(data, seed)
    states_SD = history_states(encoder, [rows.history(row) for row in range(len(rows))])
    states_nD = history_states(encoder, [lists.histories[row] for row in range(len(lists))])

    def texts_of(items_B: Tensor) -> Tensor:
        if fixed_NX is not None:
            return fixed_NX[items_B]
        assert text_encoder is not None
        distinct, places_B = torch.unique(items_B, return_inverse=True)
        read: Tensor = text_encoder([documents[item] for item in distinct.tolist()])
        return read[places_B]

    def terms(states_BD: Tensor, items: Sequence[NDArray[np.int32]]) -> MatchingTerms:
        both = torch.from_numpy(np.concatenate(items).astype(np.int64)).to(device)
        count = len(states_BD)
        vectors, texts = torch.split(vectors_ND[both], count), torch.split(texts_of(both), count)
        return matching_terms(autoencoders, states_BD, vectors, texts, config.product)

    def loss(some: NDArray[np.int64]) -> Tensor:
        drawn = negatives.of(rows.users[some], 1)[:, 0]
        return terms(states_SD[torch.from_numpy(some).to(device)], (rows.items[some], drawn)).weighted(config)

    def validate() -> float:
        if text_encoder is not None:
            text_encoder.eval()
        total, count = 0.0, min(len(lists), config.validation_rows)
        for start in range(0, count, _VALIDATION_ROWS_AT_ONCE):
            at = slice(start, min(start + _VALIDATION_ROWS_AT_ONCE, count))
            found = terms(states_nD[at], (lists.candidates[at, 0], lists.candidates[at, 1])).weighted(config)
            total += float(found) * (at.stop - at.start)
        return -total / count

    trained = [Trained(autoencoders.parameters())]
    if text_encoder is not None:
        trained.append(Trained(text_encoder.parameters()))
    report = fit(
        "item and text autoencoders",
        len(rows),
        loss,
        trained,
        config,
        seed,
        validate=validate,
        training=text_encoder.train if text_encoder is not None else lambda: None,
    )
    autoencoders.eval().requires_grad_(False)
    if fixed_NX is not None:
        return Matched(autoencoders, None, fixed_NX, report)
    assert text_encoder is not None
    text_encoder.eval().requires_grad_(False)
    return Matched(autoencoders, text_encoder, text_encoder.encode(documents), report)
