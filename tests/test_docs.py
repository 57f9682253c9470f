"""What the documentation says is there, is there; and no file says where it was written."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

import tessera
from app.decoder.settings import DecoderSettings
from app.settings import Settings
from tests.app.openapi_document import document

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
MAX_LINES = 400

# Written so that none matches itself.
MACHINE_PATH = re.compile(
    r"(?<![\w.~-])/(?:work|root|home|opt/(?:pypi|wheels))(?=/|\b)(?!-)|(?<![\w.])/tmp/(?!tessera)\w"
)
INDEX_URL = re.compile(r"(?:https?|file)://[^\s'\"`)]*(?:/simple\b|/whl\b|download\.pytorch|/wheels?\b)")


@cache
def files() -> tuple[Path, ...]:
    """What git tracks, and what it would with the next `git add`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())


def pages() -> list[Path]:
    return [path for path in files() if path.suffix == ".md"]


def manual() -> list[Path]:
    return [README, *sorted((ROOT / "docs").glob("*.md"))]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


# Commands


def commands(page: Path) -> Iterator[list[str]]:
    """The words behind each `tessera` at the start of a line of code, or of code within a sentence."""
    text = page.read_text(encoding="utf-8")
    fences = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    blocks = "\n".join(fences.findall(text)).replace("\\\n", " ").splitlines()
    outside = fences.sub("", text).splitlines()
    indented = [line for line in outside if line.startswith("    ")]
    spans = re.findall(r"`([^`]+)`", "\n".join(line for line in outside if not line.startswith("    ")))
    for code in [*blocks, *indented, *spans]:
        # A remark, or a column of remarks, is no part of the command; brackets mark what may be left out.
        line = re.split(r"\s#|\s{2,}|[|&;<>:]\s|:$", " ".join(code.split("\n")).strip())[0]
        line = re.sub(r"\[|\]|\.\.\.", " ", line)
        if found := re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\S+/)?tessera\s+([a-z].*)", line):
            yield shlex.split(found[1])


def unknown_in(words: list[str]) -> list[str]:
    """The subcommands and options among the words that the command line does not have."""
    command: Any = get_command(tessera.app)
    while words and hasattr(command, "commands"):
        choices = words[0].split("|")
        missing = [choice for choice in choices if choice not in command.commands]
        if missing:
            return missing
        command, words = command.commands[choices[0]], words[1:]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return [word for word in words if word.startswith("-") and word.split("=")[0] not in options | {"--help"}]


def test_manual_shows_commands() -> None:
    shown = {words[0] for page in manual() for words in commands(page)}
    assert {"train", "evaluate", "refresh", "serve"} <= shown


def test_every_command_and_option_in_the_manual_exists() -> None:
    unknown = [
        f"{named(page)}: tessera {shlex.join(words)}: {', '.join(missing)}"
        for page in manual()
        for words in commands(page)
        if (missing := unknown_in(words))
    ]
    assert unknown == []


@pytest.mark.parametrize("line", ["models lost", "train --dta DIR", "nothing", "events import FILE --jsn"])
def test_a_command_that_does_not_exist_is_noticed(line: str) -> None:
    assert unknown_in(line.split())


def test_every_make_target_in_the_manual_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    used = {
        target
        for page in manual()
        for target in re.findall(r"(?:^ {4}|`|^\$ )make ([a-z]+)", page.read_text(), re.MULTILINE)
    }
    assert "test" in used
    assert used - targets == set()


def test_every_setting_in_the_manual_exists() -> None:
    known = {f"TESSERA_{name.upper()}" for name in Settings.model_fields} | {
        str(option.validation_alias or f"TESSERA_DECODER_{name.upper()}")
        for name, option in DecoderSettings.model_fields.items()
    }
    used = {name for page in manual() for name in re.findall(r"\bTESSERA_[A-Z_]*[A-Z]\b", page.read_text())}
    assert used
    assert used - known == set()


def test_every_compose_service_in_the_manual_exists() -> None:
    services = set(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])
    used = {
        name
        for page in [*manual(), ROOT / "docker-compose.yml"]
        for name in re.findall(r"docker compose run (?:--\S+ )*([a-z]+)", page.read_text())
    }
    assert used <= services


def test_every_benchmark_in_the_readme_exists() -> None:
    text = README.read_text(encoding="utf-8")
    listed = re.findall(r"benchmarks[./]\{([^}]*)\}", text)
    used = {name.strip() for names in listed for name in names.split(",")}
    used |= set(re.findall(r"benchmarks[./]([a-z_]+)\b", text))
    assert used
    assert {name for name in used if not (ROOT / "benchmarks" / f"{name}.py").is_file()} == set()


def test_every_address_in_the_readme_is_an_operation() -> None:
    paths = {re.sub(r"\{\w+\}", "{id}", path) for path in document()["paths"]}
    # The item follows the address.
    known = paths | {path.removesuffix("/{id}") for path in paths} | {"/", "/api"}
    text = README.read_text(encoding="utf-8")
    used = {re.sub(r"\{\w+\}", "{id}", path) for path in re.findall(r"`(?:[A-Z]+ )?(/[^`\s?]*)", text)}
    assert "/recommend" in used
    assert used - known == set()


# Links


def anchors(page: Path) -> set[str]:
    """The names a forge gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_relative_link_leads_somewhere() -> None:
    broken = []
    for page in {README, *pages()}:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            if not there.exists() or (anchor and anchor not in anchors(there)):
                broken.append(f"{named(page)}: {target}")
    assert broken == []


def test_the_readme_leads_to_every_page_of_the_manual() -> None:
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)", README.read_text(encoding="utf-8")))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - linked == set()


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    numbered = sorted(path.name for path in folder.glob("*.md") if path.name != "README.md")
    assert numbered
    assert [name[:4] for name in numbered] == [f"{number:04}" for number in range(1, len(numbered) + 1)]
    assert re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text()) == numbered


# Every file


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    found = [
        f"{named(path)}:{number}: {match[0]}"
        for path in files()
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if (match := MACHINE_PATH.search(line))
    ]
    assert found == []


def test_no_file_names_a_package_index() -> None:
    found = [
        f"{named(path)}:{number}: {match[0]}"
        for path in files()
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if (match := INDEX_URL.search(line))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (MACHINE_PATH, "open('" + "/".join(("", "work", "main")) + "')"),
        (MACHINE_PATH, "see " + "/".join(("", "tmp", "out.txt"))),
        (MACHINE_PATH, "HOME=" + "/".join(("", "root"))),
        (INDEX_URL, "https://" + "pypi.example/simple"),
        (INDEX_URL, "https://" + "download.pytorch.org/whl/cpu"),
    ],
)
def test_such_a_place_would_be_noticed(pattern: re.Pattern[str], text: str) -> None:
    assert pattern.search(text)


def test_no_python_file_is_too_long_to_read() -> None:
    lengths = {named(path): len(text_of(path).splitlines()) for path in files() if path.suffix == ".py"}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}
