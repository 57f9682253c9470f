"""`tessera keys`: what it makes is what the server takes."""

from hashlib import sha256
from pathlib import Path

from typer.testing import CliRunner

import tessera
from app.key_file import read_key_file

NEW = [
    "keys",
    "new",
    "--scope",
    "read",
    "--scope",
    "write",
    "--name",
    "shop",
    "--expires",
    "2027-01-31",
    "--rate",
    "50",
]


def test_the_key_is_shown_once_and_only_its_hash_is_for_the_file(tmp_path: Path) -> None:
    made = CliRunner().invoke(tessera.app, NEW)
    assert made.exit_code == 0
    key = made.stderr.split()[-1]
    file = tmp_path / "keys"
    file.write_text(made.stdout)
    (grant,) = read_key_file(file).grants
    assert grant.digest == sha256(key.encode()).digest()
    assert (grant.scopes, grant.name, grant.rate) == ({"read", "write"}, "shop", 50)
    # 32 random bytes in base64.
    assert len(key.removeprefix("tessera_")) == 43
    assert key not in made.stdout


def test_no_two_keys_are_alike() -> None:
    made = {CliRunner().invoke(tessera.app, ["keys", "new", "--scope", "admin"]).stdout for _ in range(20)}
    assert len(made) == 20


def test_options_that_the_file_could_not_hold_are_refused() -> None:
    for wrong in (["--name", "a b"], ["--expires", "soon"], ["--rate", "-1"]):
        made = CliRunner().invoke(tessera.app, ["keys", "new", "--scope", "read", *wrong])
        assert (made.exit_code, made.stdout) == (1, "")
        assert wrong[0].strip("-") in made.stderr


def test_check_lists_what_a_file_grants(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    digest = "ab" * 32
    file.write_text(f"read:sha256={digest} name=shop expires=2020-01-31\nadmin:sha256={'cd' * 32} rate=5\n")
    checked = CliRunner().invoke(tessera.app, ["keys", "check", str(file)])
    assert checked.exit_code == 0
    assert checked.stdout.splitlines() == [
        "read sha256=abababab... name=shop EXPIRED=2020-01-31",
        "admin sha256=cdcdcdcd... rate=5",
    ]


def test_check_refuses_a_key_in_clear_without_showing_it(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("read:a-key-in-clear-of-some-length\n")
    checked = CliRunner().invoke(tessera.app, ["keys", "check", str(file)])
    assert checked.exit_code == 1
    assert "keys:1" in checked.stderr
    assert "a-key-in-clear" not in checked.output
