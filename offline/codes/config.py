"""Settings of the item codes: which vectors are quantized, how, and how the trained cascade is trained."""

import math
from dataclasses import dataclass, field

from model_store.errors import TesseraError
from model_store.item_codes import CODEBOOK_SIZE

_CHOICES = {
    "codes.kind": ("kmeans", "codebooks", "dual", "mixed", "random"),
    "codes.input": ("joint", "behaviour", "text", "concat", "all"),
    "codes.order": ("text-first", "behaviour-first", "interleaved", "text", "behaviour"),
    "codes.labels": ("matched", "random"),
    "codes.alignment": ("infonce", "cosine", "none"),
    "codes.align_to": ("encoder", "llm"),
    "codes.cascade.encoder": ("mlp", "identity"),
}
_ITEMS_PER_ENTRY = 8
_INPUT_OF_KIND = {"dual": "concat", "mixed": "all"}
"""Kinds whose levels quantize parts of the vector, and the input that has these parts."""


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
    """`kmeans`: residual k-means; `codebooks`: a trained cascade; `dual`: two tokens of text and two of behaviour, by
    balanced k-means (`input` must be `concat`); `mixed`: two of joint vectors by residual k-means, and one of text and
    one of behaviour by balanced k-means (`input` must be `all`); `random`: codes that know nothing of the items."""
    input: str = "joint"
    """What is quantized: `joint` vectors, `behaviour` or `text` alone, or `concat`, both side by side without training
    them to agree, or `all`, joint vector, text and behaviour side by side."""
    order: str = "text-first"
    """Of the tokens of `dual` codes: a source's two after the other's, or `interleaved` (text, behaviour, text,
    behaviour); `text` or `behaviour`: only that source, and two levels that say nothing."""
    labels: str = "matched"
    """What a second token of `dual` codes means under another first one: something similar (`matched`), or nothing
    (`random`)."""
    text_size: int = 64
    """Principal components that text keeps in `text`, `concat` and `all`."""
    entries: int = CODEBOOK_SIZE
    """Codebook entries a level, at most. Small catalogues use one entry per 8 items: more would give every item an
    entry of its own, and nothing shared for the model to learn from. Of `dual`, branches of a tree's node: 256, or the
    root of the number of items where these are 256 or fewer."""
    iterations: int = 50
    """Rounds of k-means a level."""
    alignment: str = "infonce"
    """How `codebooks` are pulled to the items' text: `infonce` against the rest of the batch, `cosine`, or `none`."""
    align_to: str = "encoder"
    """Whose reading of the text: the sentence `encoder`'s, or the hidden states of the `llm` that will emit codes."""
    cascade: CascadeConfig = field(default_factory=CascadeConfig)

    def __post_init__(self) -> None:
        for key in ("kind", "input", "order", "labels", "alignment", "align_to"):
            _check(f"codes.{key}", getattr(self, key))
        if not 2 <= self.entries <= CODEBOOK_SIZE:
            raise TesseraError(f"codes.entries must be between 2 and {CODEBOOK_SIZE}, not {self.entries}")

        needed = _INPUT_OF_KIND.get(self.kind, self.input)
        if self.input != needed:
            raise TesseraError(f"codes.kind={self.kind} needs codes.input={needed}, not {self.input!r}")

    @property
    def aligned(self) -> bool:
        """Whether the codes need text to be aligned to."""
        return self.kind == "codebooks" and self.alignment != "none"

    def entries_for(self, items: int) -> int:
        """C, the entries a level that so many items can fill."""
        return min(self.entries, max(2, items // _ITEMS_PER_ENTRY))

    def branching_for(self, items: int) -> int:
        """K, the branches of a node in the trees of `dual` codes."""
        wanted = CODEBOOK_SIZE if items > CODEBOOK_SIZE else math.isqrt(max(items, 2) - 1) + 1
        return min(self.entries, wanted)


def _check(key: str, value: str) -> None:
    if value not in _CHOICES[key]:
        raise TesseraError(f"{key} must be one of {', '.join(_CHOICES[key])}, not {value!r}")
