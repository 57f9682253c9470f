"""Titles and descriptions of items as tokens, each tokenised once, when it is first needed."""

import numpy as np
from numpy.typing import NDArray

from model_store.catalog import Catalog
from model_store.instructions import FIELDS
from model_store.prompts import MAX_INSTRUCTION_TOKENS, PromptEncoder

TITLE, DESCRIPTION, BOTH = FIELDS

_LISTED_TITLE_TOKENS = 16
"""Of each title in a list; the rest is cut, so that a list holds several."""


class ItemTexts:
    """The tokens of an item's text.

    Attributes:
        fields: by item, what of `FIELDS` it has.
    """

    def __init__(self, catalog: Catalog, prompts: PromptEncoder) -> None:
        self._prompts = prompts
        self._sources = {TITLE: catalog.titles, DESCRIPTION: catalog.texts}
        self._tokens: dict[tuple[str, int], NDArray[np.int32]] = {}
        self._full_stop, self._semicolon = prompts.text("."), prompts.text(";")
        self.fields: list[tuple[str, ...]] = [
            _fields(bool(title.strip()), bool(text.strip()))
            for title, text in zip(catalog.titles, catalog.texts, strict=True)
        ]

    def tokens(self, item: int, field: str) -> list[int]:
        """The tokens of a field of an item, at most MAX_INSTRUCTION_TOKENS for each part of it."""
        if field == BOTH:
            return [*self.tokens(item, TITLE), *self._full_stop, *self.tokens(item, DESCRIPTION)]
        if (field, item) not in self._tokens:
            tokens = self._prompts.phrase(self._sources[field][item])[:MAX_INSTRUCTION_TOKENS]
            self._tokens[field, item] = np.array(tokens, dtype=np.int32)
        found: list[int] = self._tokens[field, item].tolist()
        return found

    def titles(self, history: NDArray[np.integer], room: int) -> list[int]:
        """The titles of the newest items, oldest first, as many whole ones as fit into `room` tokens, at least one."""
        listed: list[int] = []
        for item in reversed(history.tolist()):
            title = self.tokens(item, TITLE)[:_LISTED_TITLE_TOKENS]
            longer = [*title, *self._semicolon, *listed] if listed else title
            if listed and len(longer) > room:
                break
            if title:
                listed = longer
        return listed


def _fields(has_title: bool, has_description: bool) -> tuple[str, ...]:
    if has_title and has_description:
        return FIELDS
    return (TITLE,) * has_title + (DESCRIPTION,) * has_description
