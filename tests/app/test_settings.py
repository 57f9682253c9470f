"""Each setting has one name, one default and a line in the documentation."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from app.decoder.settings import DecoderSettings
from app.settings import Settings

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


@pytest.mark.parametrize("settings", [Settings, DecoderSettings])
def test_every_setting_is_documented_with_its_default(settings: type[Settings] | type[DecoderSettings]) -> None:
    rows = dict(re.findall(r"^\| `(TESSERA_[A-Z_]+)` \| ([^|]*) \|", OPERATIONS.read_text(), re.MULTILINE))
    prefix = settings.model_config["env_prefix"]
    defaults = {
        str(field.validation_alias or prefix + name.upper()): "unset" if field.default is None else f"`{field.default}`"
        for name, field in settings.model_fields.items()
    }
    assert {name: rows.get(name, "missing").strip() for name in defaults} == defaults
    assert all(field.description for field in settings.model_fields.values())


def test_environment_gives_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_STORE", "/srv/store")
    monkeypatch.setenv("TESSERA_REDIS_URL", "redis://:swordfish@host/0")
    monkeypatch.setenv("TESSERA_BEAM_WIDTH", "20")
    monkeypatch.setenv("TESSERA_DECODER_ADDRESS", "")
    settings = Settings()
    assert settings.store == Path("/srv/store")
    assert settings.beam_width == 20
    assert settings.decoder_address is None
    assert "swordfish" not in repr(settings)


def test_workers_build_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        store=Path("/srv/store"),
        redis_url=SecretStr("redis://:swordfish@host/0"),
        api_keys=SecretStr("read:" + "k" * 16),
        access_log=True,
        log_level="debug",
    )
    for name, value in settings.to_environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


@pytest.mark.parametrize(
    ("given", "address"),
    [(None, None), ("none", None), ("embedded", None), ("unix:///a", "unix:///a"), ("http://a:1", "http://a:1")],
)
def test_address_of_the_decoder(given: str | None, address: str | None) -> None:
    assert Settings(decoder_address=given).live_address == address


@pytest.mark.parametrize(
    "wrong",
    [
        {"decoder_address": "host:1"},
        {"namespace": "a b"},
        {"namespace": ""},
        {"log_level": "LOUD"},
        {"redis_timeout_ms": 0},
        {"unknown": 1},
    ],
)
def test_values_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)  # type: ignore[arg-type]


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().beam_width = 3  # type: ignore[misc]
