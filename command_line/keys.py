"""`tessera keys`: API keys, of which the server knows only the hashes."""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from command_line.common import reports_errors
from model_store.errors import TesseraError

keys = typer.Typer(help="API keys.", no_args_is_help=True)


class _Scope(StrEnum):
    """As options are told; a list of literals is more than typer takes."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@keys.command("new")
@reports_errors
def new(
    scope: Annotated[list[_Scope], typer.Option(help="What it may do; repeatable. admin is all.")],
    name: Annotated[str | None, typer.Option(help="Whose it is.")] = None,
    expires: Annotated[str | None, typer.Option(help="Last day on which it is good (UTC), YYYY-MM-DD.")] = None,
    rate: Annotated[float | None, typer.Option(help="Requests per second, in place of TESSERA_RATE_LIMIT.")] = None,
) -> None:
    """Make a key: its line for TESSERA_API_KEYS_FILE on stdout, and on stderr, this once, the key for the client."""
    import hashlib
    import secrets

    from app.key_file import read_line

    key = "tessera_" + secrets.token_urlsafe(32)
    options = {"name": name, "expires": expires, "rate": None if rate is None else f"{rate:g}"}
    line = " ".join(
        (
            "+".join(dict.fromkeys(scope)) + ":sha256=" + hashlib.sha256(key.encode()).hexdigest(),
            *(f"{option}={value}" for option, value in options.items() if value is not None),
        )
    )
    try:
        read_line(line)
    except ValueError as error:
        raise TesseraError(str(error)) from None
    typer.echo(f"The key, shown this once: {key}", err=True)
    typer.echo(line)


@keys.command("check")
@reports_errors
def check(file: Annotated[Path, typer.Argument(help="As TESSERA_API_KEYS_FILE names it.")]) -> None:
    """Read a file of keys as the server would, and list what it grants. Exit code 1 if the server would refuse it."""
    from app.api_keys import SCOPES
    from app.key_file import read_key_file

    now = datetime.now(UTC).timestamp()
    for grant in read_key_file(file).grants:
        words = ["admin" if len(grant.scopes) == len(SCOPES) else "+".join(s for s in SCOPES if s in grant.scopes)]
        words.append(f"sha256={grant.digest.hex()[:8]}...")
        words += [] if grant.name is None else [f"name={grant.name}"]
        words += [] if grant.rate is None else [f"rate={grant.rate:g}"]
        if grant.expires is not None:
            # The moment is the first one after the last day.
            last_day = datetime.fromtimestamp(grant.expires - 1, UTC).date()
            words.append(f"{'EXPIRED' if grant.expires <= now else 'expires'}={last_day}")
        typer.echo(" ".join(words))
