"""Settings of every kind of collaborative encoder: of its shape, and of its training."""

from dataclasses import dataclass, field

from model_store.errors import TesseraError


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Settings every kind of encoder has. A kind adds its own, and chooses its own defaults."""

    kind: str = field(init=False)
    size: int = 64
    """D, the length of an item vector."""
    epochs: int
    learning_rate: float
    validation_users: int = 5000
    """Users sampled to choose the best epoch by NDCG@10."""


@dataclass(frozen=True, kw_only=True)
class SequentialConfig(EncoderConfig):
    """Settings of the encoders that read a history in its order."""

    epochs: int = 20
    learning_rate: float = 3e-3
    dropout: float = 0.3
    max_length: int = 50
    """Items of a history it reads."""
    items_per_batch: int = 1024
    weight_decay: float = 0.1
    item_dropout: float = 0.0
    """Share of a history's items left out at random in each epoch."""


@dataclass(frozen=True, kw_only=True)
class SASRecConfig(SequentialConfig):
    """Settings of SASRec."""

    kind: str = field(default="sasrec", init=False)
    layers: int = 2
    heads: int = 2
    item_features: bool = False
    """Whether item vectors also read what the catalogue says: the items' text, categories and attributes."""
    repeats: bool = False
    """Whether it learns how much likelier an item becomes by having been taken before, and how long ago."""


@dataclass(frozen=True, kw_only=True)
class GRU4RecConfig(SequentialConfig):
    """Settings of GRU4Rec."""

    kind: str = field(default="gru4rec", init=False)
    layers: int = 1
    hidden: int = 128
    """Size of the recurrent state."""

    def __post_init__(self) -> None:
        for name in ("layers", "hidden"):
            if getattr(self, name) < 1:
                raise TesseraError(f"recipe: {name} of a gru4rec encoder must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class NextItNetConfig(SequentialConfig):
    """Settings of NextItNet."""

    kind: str = field(default="nextitnet", init=False)
    blocks: int = 2
    """Of two convolutions each, dilated by 4^b and twice that: two see 31 items."""
    kernel: int = 3

    def __post_init__(self) -> None:
        for name in ("blocks", "kernel"):
            if getattr(self, name) < 1:
                raise TesseraError(
                    f"recipe: {name} of a nextitnet encoder must be at least 1, not {getattr(self, name)}"
                )


@dataclass(frozen=True, kw_only=True)
class RunningMeanConfig(EncoderConfig):
    """Settings of the encoders that are item vectors and nothing else."""

    size: int = 128
    epochs: int = 16
    learning_rate: float = 5e-3
    pairs_per_batch: int = 2048
    """Training interactions of a step."""
    negatives: int = 256
    """Items drawn for a step that its users do not have. With one, the loss is that of BPR."""
    temperature: float = 0.2
    """What cosines are divided by to make logits."""
    validate_every: int = 4
    """Epochs between validations."""

    def __post_init__(self) -> None:
        for name in ("epochs", "pairs_per_batch", "negatives", "validate_every"):
            if getattr(self, name) < 1:
                raise TesseraError(
                    f"recipe: {name} of a {self.kind} encoder must be at least 1, not {getattr(self, name)}"
                )
        if self.temperature <= 0:
            raise TesseraError(f"recipe: temperature of a {self.kind} encoder must be above 0, not {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class MatrixFactorizationConfig(RunningMeanConfig):
    """Settings of matrix factorization."""

    kind: str = field(default="mf", init=False)
    temperature: float = 0.15


@dataclass(frozen=True, kw_only=True)
class NCFConfig(EncoderConfig):
    """Settings of neural collaborative filtering."""

    kind: str = field(default="ncf", init=False)
    size: int = 128
    """D; half of it for the product, half for the network."""
    epochs: int = 16
    learning_rate: float = 5e-3
    weight_decay: float = 0.01
    hidden: int = 32
    """Of the network."""
    pairs_per_batch: int = 2048
    negatives: int = 128
    """Items drawn for a step that its users do not have."""
    validate_every: int = 4
    """Epochs between validations."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("hidden", 1), ("pairs_per_batch", 1), ("negatives", 1), ("size", 2)):
            if getattr(self, name) < least:
                raise TesseraError(
                    f"recipe: {name} of a {self.kind} encoder must be at least {least}, not {getattr(self, name)}"
                )


@dataclass(frozen=True, kw_only=True)
class GraphConfig(RunningMeanConfig):
    """Settings of the encoders whose vectors travel along a graph."""

    layers: int = 2
    """How far they travel, in edges."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers < 1:
            raise TesseraError(f"recipe: layers of a {self.kind} encoder must be at least 1, not {self.layers}")


@dataclass(frozen=True, kw_only=True)
class LightGCNConfig(GraphConfig):
    """Settings of LightGCN."""

    kind: str = field(default="lightgcn", init=False)


@dataclass(frozen=True, kw_only=True)
class DCCFConfig(GraphConfig):
    """Settings of DCCF."""

    kind: str = field(default="dccf", init=False)
    intents: int = 64
    """K, prototypes of users and as many of items."""
    contrast_weight: float = 0.01
    contrast_temperature: float = 0.2
    contrast_nodes: int = 256
    """Users, and items, of a step that are contrasted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("intents", "contrast_nodes"):
            if getattr(self, name) < 1:
                raise TesseraError(f"recipe: {name} of a dccf encoder must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class DINConfig(EncoderConfig):
    """Settings of the encoder that reads a history from where a candidate stands."""

    kind: str = field(default="din", init=False)
    epochs: int = 8
    learning_rate: float = 1e-3
    """The highest, at the end of the warm-up."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises. It falls by a factor e in three times as many."""
    dropout: float = 0.1
    batch: int = 256
    """Prefixes of histories in a step."""
    negatives: int = 60
    """Items drawn for each of them."""
    validation_users: int = 1000

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "negatives"):
            if getattr(self, name) < 1:
                raise TesseraError(f"recipe: {name} of a din encoder must be at least 1, not {getattr(self, name)}")
        if not 0 < self.warmup <= 1:
            raise TesseraError(f"recipe: warmup of a din encoder must be above 0 and at most 1, not {self.warmup}")


CONFIGS: dict[str, type[EncoderConfig]] = {
    config.kind: config
    for config in (
        SASRecConfig,
        GRU4RecConfig,
        NextItNetConfig,
        DINConfig,
        NCFConfig,
        MatrixFactorizationConfig,
        LightGCNConfig,
        DCCFConfig,
    )
}
"""Kind -> its settings."""
