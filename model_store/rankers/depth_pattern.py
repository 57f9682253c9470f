"""SAILRec's steering by depth: soft tokens are suppressed in shallow layers, left alone in the middle, then favoured.

suppress  -b_s in every layer of the segment
neutral    0
enhance   +b_d (l - first + 1) / n, rising through the n layers of the segment
"""

import math
from dataclasses import dataclass

from model_store.errors import TesseraError

_LETTERS = "SNE"


@dataclass(frozen=True, kw_only=True)
class DepthPatternConfig:
    """What happens where. The shares are the paper's; how strong biases are is not known of it."""

    pattern: str = "SNE"
    """A letter each for shallow, middle and deep layers: S suppress, N neutral, E enhance. `NNN` steers nothing."""
    suppress: float = 1.0
    """b_s: the odds of attending to a soft token are divided by its exponential."""
    enhance: float = 1.0
    """b_d: and multiplied by that of this, in a segment's last layer."""
    shallow_share: float = 0.3
    deep_share: float = 0.2

    def __post_init__(self) -> None:
        if len(self.pattern) != 3 or set(self.pattern) - set(_LETTERS):
            raise TesseraError(
                f"recipe: steering.pattern must be three of S(uppress), N(eutral), E(nhance), not {self.pattern!r}"
            )
        if min(self.suppress, self.enhance, self.shallow_share, self.deep_share) < 0:
            raise TesseraError("recipe: steering has a number below 0")
        if self.shallow_share + self.deep_share > 1:
            raise TesseraError("recipe: steering.shallow_share and deep_share are more than 1 together")


def segments(layers: int, config: DepthPatternConfig) -> tuple[range, range, range]:
    """Shallow, middle and deep layers.

    Shallow is rounded down, deep to the nearest, the middle is the rest. A model of few layers, where that leaves none,
    has one shallow and one deep layer nevertheless, as long as it has two.
    """
    least = 1 if layers > 1 else 0
    shallow = max(math.floor(config.shallow_share * layers), least)
    deep = layers - max(round(config.deep_share * layers), least)
    return range(shallow), range(shallow, deep), range(deep, layers)


def depth_biases(layers: int, config: DepthPatternConfig) -> tuple[float, ...]:
    """The bias of each layer.

    >>> depth_biases(10, DepthPatternConfig())
    (-1.0, -1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 1.0)
    """
    biases = []
    for letter, segment in zip(config.pattern, segments(layers, config), strict=True):
        for number in range(1, len(segment) + 1):
            rising = config.enhance * number / len(segment)
            biases.append({"S": -config.suppress, "N": 0.0, "E": rising}[letter])
    return tuple(biases)
