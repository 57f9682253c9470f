"""API keys with scopes: how they are written down, kept and compared. `docs/decisions/0026-api-keys.md`."""

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

from pydantic import SecretStr

from model_store.errors import TesseraError

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
MIN_KEY_LENGTH = 16
_HASHED = re.compile(r"sha256=([0-9a-fA-F]{64})")


class OpenBindRefused(TesseraError):
    """The server would be reachable from other machines without any key."""


@dataclass(frozen=True)
class Grant:
    """What one key may do.

    Attributes:
        digest: SHA-256 of the key.
        scopes: `admin` includes the others.
        name: whose key it is.
        expires: Unix seconds from which it is not good any more; None for never.
        rate: requests per second, in place of the limit of the deployment; 0 for no limit.
    """

    digest: bytes
    scopes: frozenset[Scope]
    name: str | None = None
    expires: float | None = None
    rate: float | None = None


@dataclass(frozen=True)
class ApiKeys:
    """The known keys, kept as digests: a memory dump or a repr shows no key.

    Raises:
        ValueError: two grants of one key.
    """

    grants: tuple[Grant, ...]
    _by_digest: dict[bytes, Grant] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_digest: dict[bytes, Grant] = {}
        for position, grant in enumerate(self.grants, start=1):
            if by_digest.setdefault(grant.digest, grant) is not grant:
                raise ValueError(f"API key {position}: given before; one entry with all its scopes")
        object.__setattr__(self, "_by_digest", by_digest)

    @classmethod
    def parse(cls, configured: SecretStr | None) -> "ApiKeys":
        """Read `scope[+scope]:key,...`; in place of a key `sha256=` and the 64 hexadecimal digits of its digest.

        Raises:
            ValueError: an entry is malformed; the message gives its position and never its text.
        """
        grants = []
        text = configured.get_secret_value() if configured is not None else ""
        for position, entry in enumerate((part.strip() for part in text.split(",") if part.strip()), start=1):
            names, _, key = entry.partition(":")
            scopes = read_scopes(names)
            if not scopes or not key:
                raise ValueError(f"API key {position}: expected scope[+scope]:key with scopes read, write or admin")
            grants.append(Grant(_digest_of_entry(key, position), scopes))
        return cls(tuple(grants))

    def find(self, key: bytes) -> Grant | None:
        """The grant of a key as it was sent, None for an unknown one.

        Takes the same time whichever key it is: the search is by the digest, in a table whose order nobody outside
        can know.
        """
        return self._by_digest.get(hashlib.sha256(key).digest())


def read_scopes(names: str) -> frozenset[Scope]:
    """Scopes joined by '+', with what they include; empty if one of them is not known."""
    given = set(names.split("+"))
    scopes = frozenset(scope for scope in SCOPES if scope in given)
    if len(scopes) != len(given):
        return frozenset()
    return frozenset(SCOPES) if "admin" in scopes else scopes


def read_digest(text: str) -> bytes | None:
    """The digest of `sha256=HEX`, None for anything else."""
    found = _HASHED.fullmatch(text)
    return bytes.fromhex(found[1]) if found else None


def refuse_open_bind(keys: ApiKeys, host: str) -> None:
    """Check an address before the server listens on it.

    Raises:
        OpenBindRefused: other machines could reach it and no key is configured.
    """
    if not keys.grants and not (host == "localhost" or is_local(host)):
        raise OpenBindRefused(
            f"--host {host} answers other machines, and no API key is configured: set TESSERA_API_KEYS_FILE or "
            f"TESSERA_API_KEYS (`tessera keys new` makes one), or use --host 127.0.0.1"
        )


def is_local(address: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return parsed.is_loopback or (mapped is not None and mapped.is_loopback)


def joined(parts: Iterable[ApiKeys]) -> ApiKeys:
    """The keys of several places as one.

    Raises:
        ValueError: two places have the same key.
    """
    return ApiKeys(tuple(grant for part in parts for grant in part.grants))


def _digest_of_entry(key: str, position: int) -> bytes:
    if key.startswith("sha256="):
        if (digest := read_digest(key)) is None:
            raise ValueError(f"API key {position}: expected 64 hexadecimal digits after sha256=")
        return digest
    if len(key) < MIN_KEY_LENGTH:
        raise ValueError(f"API key {position}: shorter than {MIN_KEY_LENGTH} characters")
    return hashlib.sha256(key.encode()).digest()
