"""Facts about the decoder process, read once from the environment (`TESSERA_DECODER_*`) and passed on."""

import ipaddress
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from model_store.errors import TesseraError

UNIX_SCHEME = "unix://"


class DecoderSettings(BaseSettings):
    """The decoder process. A field is the environment variable `TESSERA_DECODER_` + its name in capitals.

    Five are shared with the API and so lack `DECODER_`: TESSERA_STORE, TESSERA_BEAM_WIDTH, TESSERA_LOG_LEVEL,
    TESSERA_TRACES_ENDPOINT and TESSERA_TRACES_SHARE.
    """

    model_config = SettingsConfigDict(
        env_prefix="TESSERA_DECODER_", frozen=True, env_ignore_empty=True, populate_by_name=True
    )

    store: Path = Field(
        default=Path("store"), validation_alias="TESSERA_STORE", description="Folder of published model versions."
    )
    listen: str = Field(
        default="http://127.0.0.1:8081", description="Where to listen: http://host:port or unix:///path."
    )
    allow_remote: bool = Field(
        default=False,
        description="Listen on an address that other machines reach. The decoder asks for no key: only on a private "
        "network.",
    )
    engine: Literal["auto", "torch", "vllm"] = Field(
        default="auto",
        description="What runs the model. auto: vLLM where it is installed and there is a GPU, else torch.",
    )
    replicas: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes behind the address, each with its own copy of the model and its own queue.",
    )
    queue: int = Field(
        default=64, ge=1, description="Decodes that may wait in each replica; more are refused with 429."
    )
    batch: int = Field(default=8, ge=1, le=256, description="Waiting decodes that go through the model together.")
    beam_width: int = Field(
        default=50,
        ge=1,
        le=1000,
        validation_alias="TESSERA_BEAM_WIDTH",
        description="Beams the API usually asks for; the warm-up decodes with as many.",
    )
    keep_versions: int = Field(
        default=2, ge=1, le=8, description="Versions kept loaded, so that a switch or a rollback costs no waiting."
    )
    active_poll_ms: int = Field(
        default=1000, ge=10, description="How often the store is looked at for a newly activated version."
    )
    retry_unusable_s: float = Field(
        default=30.0,
        ge=0,
        description="How long a version that could not be loaded is refused before it is tried again.",
    )
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of the torch engine; unset: as many as torch chooses."
    )
    niceness: int = Field(
        default=5, ge=0, le=19, description="CPU priority below that of the API, so that cached answers stay fast."
    )
    log_level: str = Field(
        default="INFO", validation_alias="TESSERA_LOG_LEVEL", description="DEBUG, INFO, WARNING or ERROR."
    )
    traces_endpoint: str | None = Field(
        default=None,
        validation_alias="TESSERA_TRACES_ENDPOINT",
        description="OTLP/HTTP collector that traces are sent to: http://host:4318. Unset: no traces.",
    )
    traces_share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        validation_alias="TESSERA_TRACES_SHARE",
        description="Share of the requests without a traceparent header that are traced; others follow their caller.",
    )

    @field_validator("log_level")
    @classmethod
    def _log_level_is_known(cls, value: str) -> str:
        if value.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError("DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @field_validator("traces_endpoint")
    @classmethod
    def _traces_endpoint_is_http(cls, value: str | None) -> str | None:
        if value is None or value.startswith(("http://", "https://")):
            return value
        raise ValueError("http://host:port or https://host:port of a collector")

    @model_validator(mode="after")
    def _listens_where_it_may(self) -> Self:
        if self.socket_path is not None:
            return self
        host, _ = self.host_and_port
        if not self.allow_remote and not _is_loopback(host):
            raise ValueError(
                f"{self.listen} can be reached from other machines and the decoder asks for no key; "
                "use 127.0.0.1 or a unix:// path, or set TESSERA_DECODER_ALLOW_REMOTE=true on a private network"
            )
        return self

    @property
    def socket_path(self) -> Path | None:
        """The Unix socket to listen on, None when it is TCP."""
        return Path(self.listen.removeprefix(UNIX_SCHEME)) if self.listen.startswith(UNIX_SCHEME) else None

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The TCP address to listen on.

        Raises:
            ValueError: `listen` is no such address.
        """
        parts = urlsplit(self.listen)
        if parts.scheme != "http" or parts.hostname is None or parts.port is None or parts.path not in ("", "/"):
            raise ValueError(f"{self.listen!r}: expected http://host:port or unix:///path")
        return parts.hostname, parts.port

    def to_environment(self) -> dict[str, str]:
        """The variables from which a child process builds these settings again."""
        values: dict[str, str] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value is not None:
                values[str(field.validation_alias or f"TESSERA_DECODER_{name.upper()}")] = str(value)
        return values


def decoder_settings(**chosen: Any) -> DecoderSettings:
    """Settings from the environment; what is chosen here and not None wins. `address` is another name of `listen`.

    Raises:
        TesseraError: a value makes no sense; the message names the variable.
    """
    if "address" in chosen:
        chosen["listen"] = chosen.pop("address")
    try:
        return DecoderSettings(**{name: value for name, value in chosen.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper() or "LISTEN"
        raise TesseraError(
            f"{name if name.startswith('TESSERA_') else f'TESSERA_DECODER_{name}'}: {first['msg']}"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
