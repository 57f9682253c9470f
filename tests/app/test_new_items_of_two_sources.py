"""An item put over the API into a version whose codes are made from text and behaviour apart. With a real decoder."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from app.settings import Settings
from model_store.bundle import Bundle
from model_store.item_codes import code_text
from tests.app.conftest import RunningApp
from tests.app.running_decoder import RunningDecoder, ready_decoder, settings_beside
from tests.trained_version import train_version

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return train_version(tmp_path, "codes.kind=dual", "codes.input=concat")


@pytest.fixture
async def decoder(store: Path, bundle: Bundle, tmp_path: Path) -> AsyncIterator[RunningDecoder]:
    async with ready_decoder(store, tmp_path / "decoder.sock") as decoder:
        yield decoder


@pytest.fixture
def settings(store: Path, bundle: Bundle, home: Path, decoder: RunningDecoder) -> Settings:
    return settings_beside(decoder, store, home)


async def test_a_put_item_gets_a_code_that_nobody_has_next_to_the_items_whose_text_it_shares(
    api: RunningApp, bundle: Bundle
) -> None:
    catalog, codes_NL = bundle.catalog, bundle.item_codes.codes_NL
    taken = {code_text(code_L) for code_L in codes_NL}
    same_first = []
    for item in range(0, len(catalog), 6):
        twin = {
            "title": catalog.titles[item],
            "text": catalog.texts[item],
            "categories": list(catalog.categories[item]),
        }
        put = await api.client.put(f"/items/twin-{item}", json=twin | {"attributes": catalog.attributes[item]})
        assert put.status_code == 201, put.text
        code = put.json()["code"]
        assert code not in taken
        taken.add(code)
        same_first.append(code.startswith(f"<u_{codes_NL[item, 0]}>"))
    # Of 60 items in 8 text clusters one in eight would by chance.
    assert np.mean(same_first) >= 0.6
