"""SASRec and, in training, what the catalogue says.

With `item_features` an item's vector is its own, plus a small network's reading of its text vector
as UniSRec's transductive setting adds the two (Hou et al., arXiv:2206.05941), plus the vectors of its categories and
attributes; after training the sum is the table.

Shapes: B sequences, T items, D vector size, N items, P supervised positions, X text size.
"""

import math

import torch
from torch import Tensor, nn

from model_store.collaborative.configs import SASRecConfig
from model_store.collaborative.sasrec import SASRec
from offline.collaborative.item_features import ItemFeatures
from offline.collaborative.train_next_item import train_next_item
from offline.leave_one_out import EvaluationCases, Histories

_INIT_STD = 0.02
_TEXT_DIRECTIONS = 128
"""Principal directions of the text vectors that are read, and width of the network that reads them."""


class _ReadingSASRec(SASRec):
    """A SASRec in training whose item vectors read what the catalogue says."""

    def __init__(self, items: int, config: SASRecConfig, features: ItemFeatures) -> None:
        super().__init__(items, config)
        text_NX = torch.from_numpy(features.text_NX)
        centred = text_NX - text_NX.mean(dim=0)
        left, strength, _ = torch.linalg.svd(centred, full_matrices=False)
        kept = min(_TEXT_DIRECTIONS, len(strength))
        # Variance 1/4 along the strongest direction: a fresh network's output is then as small as a fresh vector.
        scaled = left[:, :kept] * strength[:kept] * (0.5 * math.sqrt(items) / strength[0])
        self.register_buffer("text_NX", scaled, persistent=False)
        last = nn.Linear(_TEXT_DIRECTIONS, config.size)
        nn.init.normal_(last.weight, std=_INIT_STD)
        nn.init.zeros_(last.bias)
        self.read_text = nn.Sequential(nn.Linear(kept, _TEXT_DIRECTIONS), nn.GELU(), last)
        self.register_buffer("labels", torch.from_numpy(features.labels), persistent=False)
        self.register_buffer("offsets_N", torch.from_numpy(features.offsets), persistent=False)
        self.read_labels = nn.EmbeddingBag(features.label_count, config.size, mode="sum")
        nn.init.normal_(self.read_labels.weight, std=_INIT_STD)

    def vectors(self) -> Tensor:
        read = self.read_text(self.text_NX) + self.read_labels(self.labels, self.offsets_N)
        return self.item_vectors.weight + read  # type: ignore[no-any-return]

    @torch.no_grad()
    def as_plain(self) -> SASRec:
        """The same encoder with the sums as its item vectors."""
        plain = SASRec(len(self.item_vectors.weight), self.config)
        shared = {name: value for name, value in self.state_dict().items() if not name.startswith("read_")}
        plain.load_state_dict({**shared, "item_vectors.weight": self.vectors()})
        return plain.to(self.item_vectors.weight.device)


def train_sasrec(
    train: Histories,
    validation: EvaluationCases,
    items: int,
    config: SASRecConfig,
    seed: int,
    device: torch.device | str = "cpu",
    features: ItemFeatures | None = None,
) -> tuple[SASRec, dict[str, float]]:
    """Train on `train`, keep the epoch with the best NDCG@10 on `validation`; returns it and its metrics.

    `features` are what `item_features` asks for.
    """
    torch.manual_seed(seed)
    if config.item_features:
        assert features is not None, "item_features needs what the catalogue says"
        model: SASRec = _ReadingSASRec(items, config, features).to(device)
    else:
        model = SASRec(items, config).to(device)
    metrics = train_next_item(model, train, validation, config, seed)
    if isinstance(model, _ReadingSASRec):
        model = model.as_plain()
    return model.eval(), metrics
