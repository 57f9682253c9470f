"""What a user likes, in words, read off the items they took.

LC-Rec (arXiv:2311.09049) has a language model sum up a user's preference. What we changed: no model. The categories,
brands and title words of the user's items are scored by how many of the items have them, times how rare they are in the
catalogue, and the best are named. Terms that few items have are left out, since they name an item and not a taste, and
so are sizes, numbers and snippets.
"""

import numpy as np
from numpy.typing import NDArray

from model_store.catalog import Catalog
from offline.tasks.salient_words import salience, words_of

_TERMS = 5
"""Terms of a preference."""
_LEAST_HOLDERS, _LEAST_SHARE = 2, 0.001
"""Items, and share of all items, that must have a term."""


class PreferenceWriter:
    """Puts preferences into words; the same items always give the same words.

    Attributes:
        has_terms: bool [N]; items that say something about taste.
    """

    def __init__(self, catalog: Catalog) -> None:
        documents = [_terms_of(catalog, item) for item in range(len(catalog))]
        worth = salience(documents, max(_LEAST_HOLDERS, int(_LEAST_SHARE * len(documents))))
        self._terms = list(worth)
        self._worth = np.array(list(worth.values()))
        number = {term: at for at, term in enumerate(self._terms)}
        kept = [[number[term] for term in document if term in number] for document in documents]
        self._offsets = np.cumsum([0, *map(len, kept)])
        self._item_terms = np.array([term for terms in kept for term in terms], dtype=np.int64)
        self.has_terms: NDArray[np.bool_] = np.diff(self._offsets) > 0

    def write(self, items: NDArray[np.integer]) -> str:
        """The best terms of these items, best first; empty when they have none. Ties go to the term seen first.

        A term whose words were all named already adds nothing and is passed over.
        """
        spans = [self._item_terms[self._offsets[item] : self._offsets[item + 1]] for item in items.tolist()]
        terms, counts = np.unique(np.concatenate([self._item_terms[:0], *spans]), return_counts=True)
        named: list[str] = []
        words: set[str] = set()
        for term in terms[np.argsort(-counts * self._worth[terms], kind="stable")].tolist():
            if not words.issuperset(new := self._terms[term].split()):
                named.append(self._terms[term])
                words.update(new)
            if len(named) == _TERMS:
                break
        return ", ".join(named)


def _terms_of(catalog: Catalog, item: int) -> list[str]:
    names = (*catalog.categories[item], catalog.attributes[item].get("brand", ""))
    whole_names = [" ".join(words_of(name)) for name in names]
    return list(filter(_may_name_a_taste, dict.fromkeys((*whole_names, *words_of(catalog.titles[item])))))


def _may_name_a_taste(term: str) -> bool:
    # In scripts other than Latin a word of one or two signs is often a whole one.
    return not any(sign.isdecimal() for sign in term) and (len(term) > 2 or not term.isascii())
