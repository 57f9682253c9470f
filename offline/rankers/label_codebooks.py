"""The closed vocabularies that SAILRec's user profiles are written in, and which labels fit an item.

Codebooks come from a file that is written once for a domain, or from what a catalogue says (`catalog_codebooks`).
Items are labelled by their categories, as the file says which speak for a label; or by a language model that knows
words, by the cosine of what it makes of the item and of the label.

Shapes: N items, C labels, H hidden size.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from model_store.catalog import Catalog
from model_store.errors import TesseraError
from model_store.rankers.sail_rec import CODEBOOKS
from model_store.rankers.soft_prompt_model import SoftPromptModel
from model_store.rankers.text_vectors import text_vectors, title_texts
from offline.rankers.catalog_codebooks import catalog_codebooks

FROM_CATALOG = "catalog"
LABELLED_BY = ("categories", "language-model")
_FOLDER = Path(__file__).parent / "codebooks"
_FORMAT = 1
_TEMPERATURE = 0.1


@dataclass(frozen=True, eq=False)
class Codebook:
    """One vocabulary.

    Attributes:
        name: what its labels are about.
        labels: C, all different.
        scores_NC: how much of each item is in each label, float32; rows sum to 1, or to 0 where nothing is known.
    """

    name: str
    labels: tuple[str, ...]
    scores_NC: NDArray[np.float32]

    @property
    def texts(self) -> list[str]:
        """What a language model reads of each label."""
        return [f"{self.name}: {label}" for label in self.labels]


def read_codebooks(
    name_or_file: str, catalog: Catalog, labelled_by: str, model: SoftPromptModel
) -> tuple[Codebook, ...]:
    """Three codebooks, with every item of the catalogue labelled.

    Args:
        name_or_file: `catalog`, a name of those that come with Tessera (`movies`), or a TOML file.
        catalog: whose items are labelled.
        labelled_by: `categories`, or `language-model`; `catalog` is always by what the catalogue says.
        model: that language model.

    Raises:
        TesseraError: no such file, not three codebooks, or no item that any label fits.
    """
    if name_or_file == FROM_CATALOG:
        found = [Codebook(name, labels, _shares(hits)) for name, labels, hits in catalog_codebooks(catalog, CODEBOOKS)]
    else:
        found = []
        for name, labels in _read(name_or_file).items():
            if labelled_by == "categories":
                scores = _shares(_by_categories(catalog, labels))
            else:
                scores = _by_language_model(catalog, name, tuple(labels), model)
            found.append(Codebook(name, tuple(labels), scores))
    for codebook in found:
        if not codebook.scores_NC.any():
            raise TesseraError(
                f"codebook {codebook.name!r} of {name_or_file!r} fits no item; set codebooks={FROM_CATALOG}, "
                "or labelled_by=language-model with a pretrained language model"
            )
    return tuple(found)


def _read(name_or_file: str) -> dict[str, dict[str, list[str]]]:
    path = Path(name_or_file) if name_or_file.endswith(".toml") else _FOLDER / f"{name_or_file}.toml"
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join([FROM_CATALOG, *sorted(file.stem for file in _FOLDER.glob("*.toml"))])
        raise TesseraError(f"codebooks {name_or_file!r}: no file {path}; known: {known}") from None
    except tomllib.TOMLDecodeError as error:
        raise TesseraError(f"{path}: not TOML: {error}") from None
    books = content.get("codebooks")
    if content.get("version") != _FORMAT or not isinstance(books, dict) or len(books) != CODEBOOKS:
        raise TesseraError(f"{path}: expected version = {_FORMAT} and {CODEBOOKS} tables [codebooks.NAME]")
    for name, labels in books.items():
        lists = labels.values() if isinstance(labels, dict) else []
        if len(lists) < 2 or not all(isinstance(one, list) and all(isinstance(s, str) for s in one) for one in lists):
            raise TesseraError(f'{path}: codebook {name!r}: expected "label" = ["category", ...], two or more')
    return books


def _by_categories(catalog: Catalog, labels: dict[str, list[str]]) -> NDArray[np.float32]:
    hits = np.zeros((len(catalog), len(labels)), np.float32)
    for column, categories in enumerate(labels.values()):
        wanted = set(categories)
        hits[:, column] = [len(wanted.intersection(own)) for own in catalog.categories]
    return hits


def _shares(hits_NC: NDArray[np.float32]) -> NDArray[np.float32]:
    shares: NDArray[np.float32] = hits_NC / np.maximum(hits_NC.sum(1, keepdims=True), 1)
    return shares


def _by_language_model(
    catalog: Catalog, name: str, labels: tuple[str, ...], model: SoftPromptModel
) -> NDArray[np.float32]:
    titles = title_texts(catalog, range(len(catalog)))
    items = [
        f"{title} ({', '.join(own)})" if own else title for title, own in zip(titles, catalog.categories, strict=True)
    ]
    items_NH = functional.normalize(text_vectors(model, items), dim=-1)
    labels_CH = functional.normalize(text_vectors(model, [f"{name}: {label}" for label in labels]), dim=-1)
    scores: NDArray[np.float32] = torch.softmax(items_NH @ labels_CH.T / _TEMPERATURE, dim=-1).numpy()
    return scores
