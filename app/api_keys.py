"""API keys with scopes: how they are configured, kept and compared."""

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from pydantic import SecretStr

from model_store.errors import TesseraError

Scope = Literal["read", "write", "admin"]
_SCOPES: tuple[Scope, ...] = get_args(Scope)
MIN_KEY_LENGTH = 16


class OpenBindRefused(TesseraError):
    """The server would be reachable from other machines without any key."""


@dataclass(frozen=True)
class ApiKeys:
    """The configured keys, kept as digests: a memory dump or a repr shows no key.

    Attributes:
        grants: SHA-256 of each key and the scopes it has. `admin` includes the others.
    """

    grants: tuple[tuple[bytes, frozenset[Scope]], ...]

    @classmethod
    def parse(cls, configured: SecretStr | None) -> "ApiKeys":
        """Read `scope[+scope]:key,...`.

        Raises:
            ValueError: an entry is malformed; the message gives its position and never its text.
        """
        grants = []
        text = configured.get_secret_value() if configured is not None else ""
        for position, entry in enumerate((part.strip() for part in text.split(",") if part.strip()), start=1):
            names, separator, key = entry.partition(":")
            scopes = frozenset(scope for scope in _SCOPES if scope in names.split("+"))
            if not separator or len(scopes) != len(set(names.split("+"))):
                raise ValueError(f"API key {position}: expected scope[+scope]:key with scopes read, write or admin")
            if len(key) < MIN_KEY_LENGTH:
                raise ValueError(f"API key {position}: shorter than {MIN_KEY_LENGTH} characters")
            grants.append((_digest(key), frozenset(_SCOPES) if "admin" in scopes else scopes))
        return cls(tuple(grants))

    def scopes_of(self, key: str) -> frozenset[Scope] | None:
        """The scopes of a key, None for an unknown one; takes the same time whichever key it is."""
        wanted = _digest(key)
        found: frozenset[Scope] | None = None
        for digest, scopes in self.grants:
            if hmac.compare_digest(digest, wanted):
                found = scopes
        return found


def refuse_open_bind(keys: ApiKeys, host: str) -> None:
    """Check an address before the server listens on it.

    Raises:
        OpenBindRefused: other machines could reach it and no key is configured.
    """
    if not keys.grants and not (host == "localhost" or is_local(host)):
        raise OpenBindRefused(
            f"--host {host} answers other machines, and no API key is configured: set TESSERA_API_KEYS "
            f"(for example read+write:KEY with a key of {MIN_KEY_LENGTH} characters or more), or use --host 127.0.0.1"
        )


@lru_cache(maxsize=1024)
def is_local(address: str | None) -> bool:
    """Whether an address is this machine's own; None, a Unix socket's peer, is."""
    if address is None:
        return True
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return parsed.is_loopback or (mapped is not None and mapped.is_loopback)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
