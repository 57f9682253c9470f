"""Queries people might type to find an item, written without a language model.

LC-Rec (arXiv:2311.09049) has a language model write intentions from reviews. What we changed: a query is a few telling
words of the title, a category, the brand, or a mix of them, and never all words of the title, so that a model cannot
learn to wait for whole titles. A title in a script without blanks is one word; such items are found by category and
brand alone.

Shapes: N items.
"""

import numpy as np
from numpy.typing import NDArray

from model_store.catalog import Catalog
from offline.tasks.salient_words import salience, words_of

_FEWEST_WORDS, _MOST_WORDS = 2, 6
"""Words of the title in a query; shorter titles give all but one."""
_EXTRA = 0.5
"""Chance of a category, and of the brand, beside words of the title."""
_ATTEMPTS = 16
"""Draws after which a query may be the one held out; an item with two possible queries takes two on average."""


class QueryWriter:
    """Writes queries for the items of a catalogue.

    Attributes:
        writable: bool [N]; items that a query can be written for.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._titles = [words_of(title) for title in catalog.titles]
        worth = salience(self._titles)
        self._worth = [np.array([worth[word] for word in title]) for title in self._titles]
        self._categories = [
            self._hints(title, names) for title, names in zip(self._titles, catalog.categories, strict=True)
        ]
        self._brands = [
            self._hints(title, [attributes.get("brand", "")])
            for title, attributes in zip(self._titles, catalog.attributes, strict=True)
        ]
        self.writable: NDArray[np.bool_] = np.array(
            [
                len(title) > 1 or bool(categories or brands)
                for title, categories, brands in zip(self._titles, self._categories, self._brands, strict=True)
            ],
            dtype=np.bool_,
        )

    def draw(self, item: int, rng: np.random.Generator) -> str:
        """A query for an item, lower case; another than `evaluation_query` where the item's text allows others.

        The item must be `writable`.
        """
        held_out = set(self.evaluation_query(item).split())
        for _ in range(_ATTEMPTS):
            words = self._draw(item, rng)
            if set(words) != held_out:
                break
        return " ".join(words)

    def evaluation_query(self, item: int) -> str:
        """The one query to measure serving with: the narrowest category and the most telling word of the title.

        The brand stands in for a missing category, a second word for a missing brand. Empty when not `writable`.
        """
        order = np.argsort(-self._worth[item], kind="stable")
        telling = [self._titles[item][at] for at in order[: len(order) - 1]]
        hints = self._categories[item][-1:] or self._brands[item]
        if not hints:
            return " ".join(telling[:2])
        return " ".join(self._join(item, telling[:1], hints[0], words_first=False))

    def _draw(self, item: int, rng: np.random.Generator) -> list[str]:
        title, worth = self._titles[item], self._worth[item]
        categories, brands = self._categories[item], self._brands[item]
        extra_category, extra_brand, spread, which, order = rng.random(5).tolist()
        hints: list[str] = []
        if categories and extra_category < _EXTRA:
            hints += categories[int(which * len(categories))]
        if brands and extra_brand < _EXTRA:
            hints += brands[0]
        most = min(_MOST_WORDS, len(title) - 1)
        if most < 1:
            names = [*categories, *brands]
            return list(dict.fromkeys(hints)) or names[int(which * len(names))]
        fewest = min(_FEWEST_WORDS, most)
        # Weighted sampling without replacement: the smallest of exponential waiting times (Efraimidis and Spirakis).
        waits = rng.standard_exponential(len(title)) / worth
        chosen = np.sort(np.argsort(waits)[: fewest + int(spread * (most - fewest + 1))])
        return self._join(item, [title[at] for at in chosen], hints, words_first=order < 0.5)

    def _join(self, item: int, words: list[str], hints: list[str], *, words_first: bool) -> list[str]:
        """Both, each word once; or the words alone, where together they would hold the whole title."""
        both = list(dict.fromkeys([*words, *hints] if words_first else [*hints, *words]))
        return words if words and set(self._titles[item]) <= set(both) else both

    @staticmethod
    def _hints(title: list[str], names: tuple[str, ...] | list[str]) -> list[list[str]]:
        """The words of each name; names that hold the whole title are left out, they would give it away."""
        split = [words_of(name) for name in names]
        return [words for words in split if words and not (title and set(title) <= set(words))]
