"""Facts about the deployment, read once from the environment (`TESSERA_*`) and passed on.

Experiments are configured in recipes, and what belongs to a model is in its bundle's manifest; neither is here.
"""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.api_keys import ApiKeys
from model_store.cache_keys import DEFAULT_NAMESPACE

_HOUR_S = 3600
_DAY_S = 24 * _HOUR_S
_NO_ADDRESS = ("embedded", "none")
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?")
EVENT_TYPE = r"^[A-Za-z0-9_.:-]{1,32}$"
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
    rank_deadline_ms: int = Field(
        default=2000, ge=1, description="How long POST /rank waits for a version's ranker; scores of codes do not."
    )
    ranker_max_items: int = Field(
        default=200, ge=1, le=1000, description="Most items that a ranker is given at once; more are a 422."
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

    jobs: Literal["embedded", "none"] = Field(
        default="embedded",
        description="Whether `tessera serve` starts a `tessera worker` for refreshes asked for over HTTP. embedded: "
        "where the model extra is installed.",
    )

    cache_max_age_s: int = Field(
        default=_DAY_S, ge=0, description="Age from which an entry is served as stale_cache and refreshed."
    )
    entry_ttl_s: int = Field(
        default=14 * _DAY_S, ge=1, description="Lifetime of an entry written back by a live decode."
    )
    history_length: int = Field(default=200, ge=1, le=10_000, description="Newest events kept of each user.")
    history_ttl_s: int = Field(default=90 * _DAY_S, ge=1, description="Lifetime of a history after the last event.")

    withheld_items: int = Field(
        default=1000, ge=1, le=10_000, description="Newest reads kept of each user; those items are not shown."
    )
    read_types: str = Field(
        default="read",
        description="Comma-separated types of events that say an item was read: it is not shown again, and the model "
        "does not hear of it.",
    )
    event_id_ttl_s: int = Field(
        default=_DAY_S, ge=1, description="How long an event's id is known, so that it is not recorded twice."
    )
    event_queue: int = Field(
        default=20_000, ge=1, description="Events that one worker writes at once; beyond it POST /events is a 429."
    )
    attribution_share: float = Field(
        default=1.0, ge=0, le=1, description="Share of the answers whose events are counted, for online quality."
    )
    attribution_window_s: int = Field(
        default=_HOUR_S, ge=1, description="How long after an answer an event counts as led to by it."
    )

    scenarios_file: Path | None = Field(
        default=None, description="TOML file of scenarios: named defaults of recommendations, read at the start."
    )

    api_keys: SecretStr | None = Field(
        default=None,
        description="Comma-separated scope:key pairs, scopes joined by '+': read:K1,read+write:sha256=HEX,admin:K3. "
        "Unset, and no file: only clients on this machine are answered.",
    )
    api_keys_file: Path | None = Field(
        default=None, description="File of hashed keys, one a line, read again when it changes."
    )
    rate_limit: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Requests per second of one key, or of one address where there are no keys; more are a 429. "
        "0: no limit.",
    )
    rate_burst: int | None = Field(
        default=None, ge=1, description="Requests of one key that may come at once. Unset: those of one second."
    )
    cors_origins: str | None = Field(
        default=None,
        description="Comma-separated origins (https://shop.example) whose pages may use the API from a browser.",
    )
    max_body_bytes: int = Field(default=1 << 20, ge=1024, description="Largest request body; a larger one is a 413.")
    body_timeout_ms: int = Field(
        default=10_000, ge=1, description="How long a request's body may take to arrive; a slower one is a 408."
    )
    max_address_bytes: int = Field(
        default=1 << 15, ge=1024, le=3 << 14, description="Longest path and query together; a longer one is a 414."
    )
    max_in_flight: int = Field(
        default=1000, ge=1, description="Requests that one worker answers at once; more are a 503. Not for /health."
    )
    workers: int = Field(
        default=1, ge=1, description="API processes that share the rate limits; `tessera serve --workers` sets it."
    )
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
    traces_endpoint: str | None = Field(
        default=None,
        description="OTLP/HTTP collector that traces are sent to: http://host:4318. Unset: no traces.",
    )
    traces_share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of the requests without a traceparent header that are traced; others follow their caller.",
    )

    @field_validator("namespace")
    @classmethod
    def _namespace_is_a_plain_prefix(cls, value: str) -> str:
        if not _NAMESPACE.fullmatch(value):
            raise ValueError("at most 64 letters, digits, '.', '_', ':' and '-', the first a letter or digit")
        return value

    @field_validator("read_types")
    @classmethod
    def _read_types_are_types(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",")]
        if not all(re.fullmatch(EVENT_TYPE, name) for name in names):
            raise ValueError("types of events, separated by commas: letters, digits, '_', '.', ':' and '-'")
        return ",".join(names)

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

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_origins(cls, value: str | None) -> str | None:
        if not all(map(_ORIGIN.fullmatch, _parts(value))):
            raise ValueError("comma-separated origins like https://shop.example or http://localhost:3000, no '*'")
        return value

    @field_validator("traces_endpoint")
    @classmethod
    def _traces_endpoint_is_http(cls, value: str | None) -> str | None:
        if value is None or value.startswith(("http://", "https://")):
            return value
        raise ValueError("http://host:port or https://host:port of a collector")

    @model_validator(mode="after")
    def _keys_can_be_read(self) -> Self:
        ApiKeys.parse(self.api_keys)
        return self

    @property
    def allowed_origins(self) -> frozenset[str]:
        """The origins of `cors_origins`, in small letters."""
        return frozenset(_parts(self.cors_origins))

    @property
    def types_of_reads(self) -> frozenset[str]:
        """The types of events that say an item was read."""
        return frozenset(self.read_types.split(","))

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


def _parts(text: str | None) -> list[str]:
    return [part.strip().lower() for part in (text or "").split(",") if part.strip()]
