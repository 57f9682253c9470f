"""Settings of the item codes: which vectors are quantized, how, and how the trained cascade is trained."""

from dataclasses import dataclass, field

from model_store.errors import TesseraError
from model_store.item_codes import CODEBOOK_SIZE

_CHOICES = {
    "codes.kind": ("kmeans", "codebooks", "random"),
    "codes.input": ("joint", "behaviour", "text", "concat"),
    "codes.alignment": ("infonce", "cosine", "none"),
    "codes.align_to": ("encoder", "llm"),
    "codes.cascade.encoder": ("mlp", "identity"),
}
_ITEMS_PER_ENTRY = 8


@dataclass(frozen=True, kw_only=True)
class CascadeConfig:
    """How the trained cascade (`codes.kind = "codebooks"`) is built and trained."""

    encoder: str = "mlp"
    """`mlp`: vectors pass an encoder whose layers halve from `hidden` to `size`, and a mirrored decoder. `identity`:
    the codebooks quantize the vectors themselves."""
    hidden: int = 256
    """Width of the encoder's first layer."""
    size: int = 64
    """Z, the length of what an `mlp` encoder gives."""
    projection: int = 256
    """Hidden width of the projection into the text's space."""
    epochs: int = 150
    """At most; training stops on a plateau."""
    warmup_epochs: int = 100
    """Epochs of encoder and decoder alone before the codebooks start from what they give: the clusters of an untrained
    encoder's output are a bad start."""
    patience: int = 10
    """Epochs without a better loss that make a plateau: the first cuts the learning rate, the second ends training."""
    batch: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    commitment: float = 0.25
    """Beta: weight of pulling the encoder to the codebooks, beside 1 for pulling the codebooks to the encoder."""
    quantization_weight: float = 1.0
    """Mu, beside 1 for the reconstruction."""
    alignment_weight: float = 0.1
    """Lambda, beside 1 for the reconstruction."""
    temperature: float = 0.07
    """Of the InfoNCE alignment."""

    def __post_init__(self) -> None:
        _check("codes.cascade.encoder", self.encoder)


@dataclass(frozen=True, kw_only=True)
class CodesConfig:
    """Settings of the item codes."""

    kind: str = "kmeans"
    """`kmeans`: residual k-means; `codebooks`: a trained cascade; `random`: codes that know nothing of the items."""
    input: str = "joint"
    """What is quantized: `joint` vectors, `behaviour` or `text` alone, or `concat`, both side by side without training
    them to agree."""
    text_size: int = 64
    """Principal components that text keeps in `text` and `concat`."""
    entries: int = CODEBOOK_SIZE
    """Codebook entries a level, at most. Small catalogues use one entry per 8 items: more would give every item an
    entry of its own, and nothing shared for the model to learn from."""
    iterations: int = 50
    """Rounds of k-means a level."""
    alignment: str = "infonce"
    """How `codebooks` are pulled to the items' text: `infonce` against the rest of the batch, `cosine`, or `none`."""
    align_to: str = "encoder"
    """Whose reading of the text: the sentence `encoder`'s, or the hidden states of the `llm` that will emit codes."""
    cascade: CascadeConfig = field(default_factory=CascadeConfig)

    def __post_init__(self) -> None:
        for key in ("kind", "input", "alignment", "align_to"):
            _check(f"codes.{key}", getattr(self, key))
        if not 2 <= self.entries <= CODEBOOK_SIZE:
            raise TesseraError(f"codes.entries must be between 2 and {CODEBOOK_SIZE}, not {self.entries}")

    @property
    def aligned(self) -> bool:
        """Whether the codes need text to be aligned to."""
        return self.kind == "codebooks" and self.alignment != "none"

    def entries_for(self, items: int) -> int:
        """C, the entries a level that so many items can fill."""
        return min(self.entries, max(2, items // _ITEMS_PER_ENTRY))


def _check(key: str, value: str) -> None:
    if value not in _CHOICES[key]:
        raise TesseraError(f"{key} must be one of {', '.join(_CHOICES[key])}, not {value!r}")
