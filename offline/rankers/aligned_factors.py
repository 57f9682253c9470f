"""Matrix factorization on judged samples, and its alignment to a language model: SeLLa-Rec's second step.

    L = L_collab + weight * L_align

L_collab is the binary cross-entropy of e_u . e_i, or its squared error. L_align draws a projection of each item vector
to what the language model made of the item's title, and both move. With a weight of 0 it is plain factorization, the
baseline MF. An item that stands twice in a batch is no negative of itself.

Shapes: B samples of a batch, D vector size, H hidden size, N items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model_store.errors import TesseraError
from model_store.rankers.factor_tables import FactorTables
from model_store.rankers.ranker import RankRequest
from model_store.rankers.sella_rec import projector
from offline.rankers.evaluate_ranker import Scorer
from offline.rankers.fitting import FitConfig, Trained, fit
from offline.rankers.judgement_loss import validation_score
from offline.rankers.ranking_data import RankingData

_ROBUST_Q, _ROBUST_LAMBDA = 0.01, 0.1


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig(FitConfig):
    """Settings of the factorization. Published: Adam with rate 1e-2, batch 512, at most 3000 epochs, patience 100."""

    epochs: int = 20
    batch: int = 512
    at_once: int = 512
    learning_rate: float = 3e-3
    weight_decay: float = 3.0
    """Decoupled, of tables alone. On the labelled films .1 overfits within two epochs and 10 learns little."""
    patience: int = 5
    validation_rows: int = 20_000
    size: int = 256
    """D."""
    width: int = 1024
    """Of the projector's hidden layer."""
    weight: float = 1.0
    """Of the alignment, beside the collaborative loss."""
    temperature: float = 0.2
    loss: str = "bce"
    """`bce`, as in SeLLa-Rec's code, or `squared`, as a summary of the paper has it."""
    contrast: str = "infonce"
    """`infonce`, as in the paper's summaries, or `robust`, as in its code (RINCE)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("loss", ("bce", "squared")), ("contrast", ("infonce", "robust"))):
            if getattr(self, name) not in known:
                raise TesseraError(
                    f"recipe: alignment.{name} must be {' or '.join(known)}, not {getattr(self, name)!r}"
                )
        if self.temperature <= 0:
            raise TesseraError(f"recipe: alignment.temperature must be above 0, not {self.temperature}")


@dataclass(frozen=True)
class AlignedFactors:
    """What the step leaves.

    Attributes:
        tables: vectors of users and items.
        projector: from item vectors to the language model; [D] to [H].
        title_vectors: what titles became; float32 [N, H].
        report: what happened.
    """

    tables: FactorTables
    projector: nn.Sequential
    title_vectors: Tensor
    report: dict[str, Any]


def train_factors(
    data: RankingData,
    title_vectors_NH: Tensor,
    config: AlignmentConfig,
    seed: int,
    device: torch.device | str = "cpu",
    what: str = "aligned factorization",
) -> AlignedFactors:
    """Train tables, projector and title vectors together.

    Args:
        data: judged samples.
        title_vectors_NH: what the language model makes of each title; not changed.
        config: settings.
        seed: of every random start.
        device: where to compute.
        what: shown as progress.
    """
    torch.manual_seed(seed)
    samples = data.samples["train"]
    tables = user_tables(data, config.size).to(device)
    count, hidden = title_vectors_NH.shape
    titles = nn.Embedding(count, hidden, _weight=title_vectors_NH.clone()).to(device)
    projection = projector(config.size, config.width, title_vectors_NH.shape[1]).to(device)
    rows_U = tables.rows_of(data.user_keys.tolist())
    users = rows_U[torch.from_numpy(samples.users).to(device)]
    items = torch.from_numpy(samples.items.astype(np.int64)).to(device)
    labels = torch.from_numpy(samples.labels.astype(np.float32)).to(device)

    def loss(rows: NDArray[np.int64]) -> Tensor:
        chosen = torch.from_numpy(rows).to(device)
        logits_B = tables(users[chosen], items[chosen])
        if config.loss == "bce":
            collaborative = functional.binary_cross_entropy_with_logits(logits_B, labels[chosen])
        else:
            collaborative = functional.mse_loss(logits_B, labels[chosen])
        if not config.weight:
            return collaborative
        own = items[chosen]
        aligned = alignment_loss(projection(tables.items(own)), titles(own), own, config.temperature, config.contrast)
        return collaborative + config.weight * aligned

    trained = [Trained(tables.parameters())]
    if config.weight:
        # Decay is for vectors that few samples pull at; title vectors begin where they should stay near to.
        trained += [Trained(projection.parameters(), weight_decay=0.0), Trained(titles.parameters(), weight_decay=0.0)]
    report = fit(
        what,
        len(samples),
        loss,
        trained,
        config,
        seed,
        validate=lambda: validation_score(factor_scorer(tables), data, config.validation_rows, seed),
    )
    return AlignedFactors(tables.eval(), projection.eval(), titles.weight.detach().cpu(), report)


def alignment_loss(
    projected_BH: Tensor, titles_BH: Tensor, items_B: Tensor, temperature: float, contrast: str
) -> Tensor:
    """How far projections are from their own titles, against the other titles of the batch.

    `infonce`: - log softmax of the cosine over the temperature. `robust`: ((0.1 (p + n))^q - p^q) / q with q = 0.01, p
    the exponential of the own pair and n the sum over all titles.
    """
    cosines_BB = functional.normalize(projected_BH, dim=-1) @ functional.normalize(titles_BH, dim=-1).T
    same_BB = items_B[:, None] == items_B[None, :]
    others_BB = same_BB & ~torch.eye(len(items_B), dtype=torch.bool, device=items_B.device)
    logits_BB = (cosines_BB / temperature).masked_fill(others_BB, -torch.inf)
    own_B = logits_BB.diagonal()
    if contrast == "infonce":
        return (logits_BB.logsumexp(1) - own_B).mean()
    p_B, n_B = own_B.exp(), logits_BB.exp().sum(1)
    powers = (_ROBUST_LAMBDA * (p_B + n_B)) ** _ROBUST_Q - p_B**_ROBUST_Q
    return powers.mean() / _ROBUST_Q


def user_tables(data: RankingData, size: int) -> FactorTables:
    """Untrained tables of a data set's users and items."""
    keys = sorted(data.user_keys.tolist())
    tables = FactorTables(len(keys), len(data.catalog), size)
    tables.name_users(keys)
    return tables


def factor_scorer(tables: FactorTables) -> Scorer:
    """Candidates by the product of vectors."""

    @torch.inference_mode()
    def score(requests: Sequence[RankRequest]) -> list[NDArray[np.float32]]:
        counts = [len(request.candidates) for request in requests]
        rows = tables.rows_of([request.user_key for request in requests])
        users = rows.repeat_interleave(torch.tensor(counts, device=rows.device))
        items = torch.from_numpy(np.concatenate([request.candidates for request in requests]).astype(np.int64))
        scores = tables(users, items.to(rows.device)).float().cpu().numpy()
        return list(np.split(scores, np.cumsum(counts)[:-1]))

    return score
