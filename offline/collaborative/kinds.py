"""The kinds of collaborative encoder a recipe can name, and how each is trained."""

from typing import Any

import torch

from model_store.collaborative.configs import (
    CONFIGS,
    DCCFConfig,
    DINConfig,
    EncoderConfig,
    LightGCNConfig,
    MatrixFactorizationConfig,
    NCFConfig,
    RunningMeanConfig,
    SASRecConfig,
    SequentialConfig,
)
from model_store.collaborative.encoder import CollaborativeEncoder
from model_store.collaborative.encoder_files import build_encoder
from model_store.errors import TesseraError
from offline.collaborative.bipartite_graph import BipartiteGraph
from offline.collaborative.dccf import DCCF
from offline.collaborative.item_features import ItemFeatures
from offline.collaborative.item_vector_training import ItemVectorModel, train_item_vectors
from offline.collaborative.lightgcn import LightGCN
from offline.collaborative.matrix_factorization import MatrixFactorization
from offline.collaborative.train_din import train_din
from offline.collaborative.train_ncf import train_ncf
from offline.collaborative.train_next_item import train_next_item
from offline.collaborative.train_sasrec import train_sasrec
from offline.leave_one_out import EvaluationCases, Histories


def config_of_kind(section: dict[str, Any], where: str) -> tuple[type[EncoderConfig], dict[str, Any]]:
    """The settings class that `kind` of a recipe's section asks for, and the rest of the section.

    Args:
        section: a recipe's settings of an encoder; of sasrec unless it says another kind.
        where: the section's name with a dot behind it, for messages.

    Raises:
        TesseraError: no such kind.
    """
    kind = section.get("kind", SASRecConfig.kind)
    if not isinstance(kind, str) or kind not in CONFIGS:
        raise TesseraError(f"recipe: {where}kind {kind!r} is unknown; known kinds: {', '.join(sorted(CONFIGS))}")
    return CONFIGS[kind], {key: value for key, value in section.items() if key != "kind"}


def train_encoder(
    train: Histories,
    validation: EvaluationCases,
    items: int,
    config: EncoderConfig,
    seed: int,
    device: torch.device | str = "cpu",
    features: ItemFeatures | None = None,
) -> tuple[CollaborativeEncoder, dict[str, float]]:
    """Train an encoder of the config's kind on `train` alone; `features` are for kinds that read them.

    Returns:
        The epoch with the best NDCG@10 on `validation`, seen items excluded, and its metrics.
    """
    if isinstance(config, SASRecConfig):
        return train_sasrec(train, validation, items, config, seed, device, features)
    if isinstance(config, DINConfig):
        return train_din(train, validation, items, config, seed, device)
    if isinstance(config, SequentialConfig):
        torch.manual_seed(seed)
        encoder = build_encoder(items, config).to(device)
        metrics = train_next_item(encoder, train, validation, config, seed)
        return encoder.eval(), metrics
    graph = BipartiteGraph.from_histories(train, items, device)
    if isinstance(config, NCFConfig):
        return train_ncf(graph, validation, config, seed)
    assert isinstance(config, RunningMeanConfig)
    torch.manual_seed(seed)
    return train_item_vectors(_model(graph, config).to(device), graph, validation, config, seed)


def _model(graph: BipartiteGraph, config: RunningMeanConfig) -> ItemVectorModel:
    if isinstance(config, LightGCNConfig):
        return LightGCN(graph, config)
    if isinstance(config, DCCFConfig):
        return DCCF(graph, config)
    assert isinstance(config, MatrixFactorizationConfig)
    return MatrixFactorization(graph.items, config)
