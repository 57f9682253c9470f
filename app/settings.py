"""Facts about the deployment, read once from the environment (`TESSERA_*`) and passed on.

Experiments are configured in recipes, and what belongs to a model is in its bundle's manifest; neither is here.
"""

import re
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.api_keys import ApiKeys
from model_store.cache_keys import DEFAULT_NAMESPACE

_HOUR_S = 3600
_DAY_S = 24 * _HOUR_S
_NO_ADDRESS = ("embedded", "none")
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


class Settings(BaseSettings):
    """The deployment. Every field is the environment variable `TESSERA_` + its name in capitals.

    `docs/operations.md` lists them all; a test compares the two.
    """

    model_config = SettingsConfigDict(env_prefix="TESSERA_", frozen=True, env_ignore_empty=True)

    store: Path = Field(default=Path("store"), description="Folder of published model versions.")
    home: Path = Field(default=Path(".tessera"), description="Folder of the embedded Redis: its data, log and lock.")

    redis_url: SecretStr | None = Field(
        default=None,
        description="redis://, rediss://, unix://, redis+cluster://, rediss+cluster:// or redis+sentinel:// address. "
        "Unset: an embedded Redis under TESSERA_HOME.",
    )
    namespace: str = Field(default=DEFAULT_NAMESPACE, description="Prefix of every Redis key.")
    redis_timeout_ms: int = Field(
        default=100, ge=1, description="How long a recommendation waits for Redis before it answers without it."
    )
    redis_write_timeout_ms: int = Field(
        default=1000, ge=1, description="How long recording events or forgetting a user may take in Redis."
    )
    redis_cooldown_ms: int = Field(
        default=1000, ge=0, description="After a Redis failure, how long requests do without it before one tries again."
    )
    redis_max_connections: int = Field(default=64, ge=1, description="Redis connections of one worker.")

    decoder_address: str | None = Field(
        default=None,
        description="The decoder process: http://host:port or unix:///path; none for no live decoding. "
        "Unset or embedded: `tessera serve` starts one.",
    )
    live_deadline_ms: int = Field(
        default=500, ge=1, description="How long a request waits for a live decode before it is answered without one."
    )
    beam_width: int = Field(
        default=50, ge=1, le=1000, description="Beams of a live decode, and so the items of an entry it writes back."
    )
    live_max_items: int = Field(
        default=200, ge=1, le=1000, description="Most items one live decode is asked for; neighbours fill up the rest."
    )
    encode_deadline_ms: int = Field(
        default=10_000, ge=1, description="How long a write of new items waits for the vectors of their texts."
    )
    item_publish_delay_ms: int = Field(
        default=2000,
        ge=0,
        description="Quiet time after a new item before a version with it is published; at most five times that after "
        "the first.",
    )
    refresh_deadline_ms: int = Field(
        default=5000, ge=1, description="How long the background refresh of one user may take to decode."
    )
    refresh_queue: int = Field(
        default=1000, ge=1, description="Users of one worker that may wait for a background refresh; more are dropped."
    )
    event_refresh_debounce_ms: int = Field(
        default=2000,
        ge=0,
        description="Quiet time after a user's latest event before the user is refreshed; at most five times that "
        "after the first.",
    )

    cache_max_age_s: int = Field(
        default=_DAY_S, ge=0, description="Age from which an entry is served as stale_cache and refreshed."
    )
    entry_ttl_s: int = Field(
        default=14 * _DAY_S, ge=1, description="Lifetime of an entry written back by a live decode."
    )
    history_length: int = Field(default=200, ge=1, le=10_000, description="Newest events kept of each user.")
    history_ttl_s: int = Field(default=90 * _DAY_S, ge=1, description="Lifetime of a history after the last event.")

    api_keys: SecretStr | None = Field(
        default=None,
        description="Comma-separated scope:key pairs, scopes joined by '+': read:K1,read+write:K2,admin:K3. "
        "Unset: only clients on this machine are answered.",
    )
    max_body_bytes: int = Field(default=1 << 20, ge=1024, description="Largest request body; a larger one is a 413.")
    active_poll_ms: int = Field(
        default=500,
        ge=10,
        description="How often a worker looks for a newly activated model version, and for changed items, unasked.",
    )
    overlay_items: int = Field(
        default=200_000, ge=1, description="Items that may have changed since their catalogue was published."
    )
    filter_cache_mb: int = Field(
        default=64, ge=1, description="Memory of one worker for the item masks of recent filters."
    )
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")
    access_log: bool = Field(default=False, description="Log one line for every request, not only for failed ones.")

    @field_validator("namespace")
    @classmethod
    def _namespace_is_a_plain_prefix(cls, value: str) -> str:
        if not _NAMESPACE.fullmatch(value):
            raise ValueError("at most 64 letters, digits, '.', '_', ':' and '-', the first a letter or digit")
        return value

    @field_validator("decoder_address")
    @classmethod
    def _decoder_address_is_known(cls, value: str | None) -> str | None:
        if value is None or value in _NO_ADDRESS or value.startswith(("http://", "https://", "unix:///")):
            return value
        raise ValueError("http://host:port, unix:///path, embedded or none")

    @field_validator("log_level")
    @classmethod
    def _log_level_is_known(cls, value: str) -> str:
        if value.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError("DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @model_validator(mode="after")
    def _keys_can_be_read(self) -> Self:
        ApiKeys.parse(self.api_keys)
        return self

    @property
    def live_address(self) -> str | None:
        """Where a decoder listens; None where there is none, or none was started yet."""
        return None if self.decoder_address in _NO_ADDRESS else self.decoder_address

    def to_environment(self) -> dict[str, str]:
        """The variables from which a worker process builds these settings again; secrets in clear."""
        values: dict[str, str] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is None:
                continue
            values[f"TESSERA_{name.upper()}"] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        return values
