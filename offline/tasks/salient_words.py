"""Words of titles and how telling each is: rare in the catalogue means telling (inverse document frequency)."""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable


def words_of(text: str) -> list[str]:
    """The words of a text: lower case, between blanks, without the punctuation around them; in order, each once."""
    return list(dict.fromkeys(bare for word in text.lower().split() if (bare := _without_punctuation(word))))


def salience(documents: Iterable[list[str]], least_holders: int = 1) -> dict[str, float]:
    """Natural log of 1 + documents per document that holds the term, for terms that at least so many hold; above 0.

    The terms of a document must be distinct.
    """
    count = 0
    holders: Counter[str] = Counter()
    for document in documents:
        count += 1
        holders.update(document)
    return {term: math.log1p(count / held) for term, held in holders.items() if held >= least_holders}


def _without_punctuation(word: str) -> str:
    if word.isalnum():
        return word
    # By category and not by a list: combining marks, which end words in many scripts, must stay.
    kept = [at for at, sign in enumerate(word) if unicodedata.category(sign)[0] in "LNM"]
    return word[kept[0] : kept[-1] + 1] if kept else ""
