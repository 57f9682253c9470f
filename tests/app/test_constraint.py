"""Everything that is served is decoded under the trie: nothing of the service can choose another constraint."""

import dataclasses
import json

from typer.main import get_command

import tessera
from app.decoder.settings import DecoderSettings
from app.settings import Settings
from model_store.decoders.protocol import DecodeRequest
from tests.app.openapi_document import document


def test_no_setting_and_no_request_names_a_constraint() -> None:
    names = {
        *Settings.model_fields,
        *DecoderSettings.model_fields,
        *(field.name for field in dataclasses.fields(DecodeRequest)),
    }
    assert "beam_width" in names
    assert not [name for name in names if "constraint" in name or "position" in name]
    words = json.dumps(document())
    assert '"max_per_prefix"' in words
    assert '"constraint"' not in words


def test_evaluate_alone_takes_one() -> None:
    commands = get_command(tessera.app).commands  # type: ignore[attr-defined]
    taking = [name for name, one in commands.items() if any(option.name == "constraint" for option in one.params)]
    assert taking == ["evaluate"]
