"""The file of hashed API keys: reading it, and following it while the server runs.

One key a line, `#` begins a comment:

    read+write:sha256=HEX name=shop expires=2027-01-31 rate=50
"""

import asyncio
import logging
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from pydantic import SecretStr

from app.api_keys import ApiKeys, Grant, joined, read_digest, read_scopes
from app.structured_logging import FIELDS
from model_store.errors import TesseraError

_POLL_S = 1.0
_MAX_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")

_logger = logging.getLogger(__name__)


class KeyFileInvalid(TesseraError):
    """The file cannot be read, or a line of it; the message has the line's number and nothing of its text."""


def read_key_file(path: Path) -> ApiKeys:
    """Read a file of hashed keys.

    Raises:
        KeyFileInvalid: it cannot be read, has no key, or a line is malformed or holds a key in clear.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise KeyFileInvalid(f"{path}: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise KeyFileInvalid(f"{path}: larger than {_MAX_BYTES} bytes")
    grants: dict[bytes, Grant] = {}
    for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
        try:
            grant = read_line(line)
        except ValueError as error:
            raise KeyFileInvalid(f"{path}:{number}: {error}") from None
        if grant is None:
            continue
        if grants.setdefault(grant.digest, grant) is not grant:
            raise KeyFileInvalid(f"{path}:{number}: the same key as on a line before")
    if not grants:
        raise KeyFileInvalid(f"{path}: no key in it; `tessera keys new` makes one")
    return ApiKeys(tuple(grants.values()))


def read_line(line: str) -> Grant | None:
    """What a line of the file grants, None for one without an entry.

    Raises:
        ValueError: it is malformed, or holds a key in clear; nothing of it is in the message.
    """
    entry = line.partition("#")[0].split()
    if not entry:
        return None
    names, _, key = entry[0].partition(":")
    scopes = read_scopes(names)
    digest = read_digest(key)
    if digest is None or not scopes:
        raise ValueError(
            "expected scope[+scope]:sha256=HEX with scopes read, write or admin; a key in clear is not accepted here"
        )
    options: dict[str, str] = {}
    for option in entry[1:]:
        name, separator, value = option.partition("=")
        if not separator or name not in ("name", "expires", "rate") or name in options:
            raise ValueError("after the digest may follow, each once: name=NAME expires=YYYY-MM-DD rate=NUMBER")
        options[name] = value
    return Grant(
        digest, scopes, _name(options.get("name")), _expires(options.get("expires")), _rate(options.get("rate"))
    )


def read_keys(configured: SecretStr | None, path: Path | None) -> ApiKeys:
    """All keys of a deployment: of the variable and of the file.

    Raises:
        KeyFileInvalid: the file is not as it must be, or repeats a key of the variable.
        ValueError: the variable is malformed.
    """
    of_variable = ApiKeys.parse(configured)
    if path is None:
        return of_variable
    try:
        return joined((of_variable, read_key_file(path)))
    except ValueError:
        raise KeyFileInvalid(f"{path}: holds a key that TESSERA_API_KEYS has too") from None


async def follow(path: Path, read: Callable[[], ApiKeys], use: Callable[[ApiKeys], None]) -> None:
    """Give the keys to `use` whenever the file has changed. A file that cannot be used is logged, and changes nothing.

    Args:
        path: the file.
        read: reads all keys; raises KeyFileInvalid.
        use: takes them.
    """
    # Not what the file is like now: it may have changed since the keys in use were read.
    seen: object = None
    while True:
        found = await asyncio.to_thread(_fingerprint, path)
        if found != seen:
            seen = found
            try:
                keys = await asyncio.to_thread(read)
            except KeyFileInvalid as error:
                _logger.error("keys not changed", extra={FIELDS: {"reason": str(error)}})
            else:
                use(keys)
                _logger.info("keys read", extra={FIELDS: {"keys": len(keys.grants)}})
        await asyncio.sleep(_POLL_S)


def _fingerprint(path: Path) -> object:
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    return found.st_mtime_ns, found.st_size, found.st_ino


def _name(text: str | None) -> str | None:
    if text is not None and not _NAME.fullmatch(text):
        raise ValueError("name: at most 64 letters, digits, '.', '_', '-' and '@'")
    return text


def _expires(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return _end_of(date.fromisoformat(text))
    except (ValueError, OverflowError):
        raise ValueError("expires: expected a date, YYYY-MM-DD") from None


def _end_of(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() + timedelta(days=1).total_seconds()


def _rate(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 <= rate < math.inf:
        raise ValueError("rate: expected requests per second, 0 for no limit")
    return rate
