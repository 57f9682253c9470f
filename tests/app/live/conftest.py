"""An API whose decoder ranks by a rule that a test can read."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from model_store.bundle import Bundle
from tests.app.conftest import Cache, RunningApp, running
from tests.app.plain_decoder import PlainDecoder, plain_decoder

ITEMS = 50


@pytest.fixture
def decoder(bundle: Bundle, tmp_path: Path) -> Iterator[PlainDecoder]:
    with plain_decoder(bundle.item_codes.codes_NL, tmp_path / "decoder.sock") as decoder:
        yield decoder


@pytest.fixture
async def api(settings: Settings, cache: Cache, decoder: PlainDecoder) -> AsyncIterator[RunningApp]:
    with_decoder = settings.model_copy(update={"decoder_address": decoder.address, "beam_width": 20})
    async with running(with_decoder) as app:
        yield app


def names(items: list[int]) -> list[str]:
    return [f"item-{item}" for item in items]
