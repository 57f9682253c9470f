"""Every command of docs/tutorial.md runs as it stands, in one shell and in order, and says what the page shows.

The page's conventions: `sh` blocks are commands, `python` blocks whole programs; a line `# => TEXT` is part of the
output of what stands above it, where `...` is anything; a free port takes the place of 8000; `console` blocks (the
installation) are not run.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app import embedded_redis
from tests.app.running_server import free_port

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
SHOWN = "# => "
LIMIT_S = 500


@dataclass
class Step:
    """Commands up to where the page shows output, and what it shows."""

    code: str = ""
    shown: list[str] = field(default_factory=list)


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def steps(page: str) -> Iterator[Step]:
    """What is run."""
    for language, text in blocks(page):
        if language == "python":
            shown = [found for line in text.splitlines() if (found := _shown(line)) is not None]
            yield Step(f"python - <<'PROGRAM'\n{text}PROGRAM\n", shown)
        elif language == "sh":
            step = Step()
            for line in text.splitlines():
                if (expected := _shown(line)) is not None:
                    step.shown.append(expected)
                    continue
                if step.shown:
                    yield step
                    step = Step()
                step.code += f"{line}\n"
            yield step


def _shown(line: str) -> str | None:
    stripped = line.strip()
    return stripped.removeprefix(SHOWN) if stripped.startswith(SHOWN) else None


def missing(output: str, shown: list[str]) -> str | None:
    """The first of the shown lines that the output does not have, after those before it."""
    at = 0
    for line in shown:
        pattern = ".*?".join(re.escape(part.strip()) for part in line.split("..."))
        found = re.compile(pattern, re.DOTALL).search(output, at)
        if found is None:
            return line
        at = found.end()
    return None


def test_only_the_installation_is_not_run() -> None:
    languages = [language for language, _ in blocks(PAGE.read_text(encoding="utf-8"))]
    assert languages.count("console") == 1
    assert set(languages) == {"console", "sh", "python"}


@pytest.mark.parametrize(
    ("output", "shown", "lost"),
    [
        ('{"a":1,"b":[2]}', ['"a":1 ... [2]'], None),
        ('{"a":1}\n{"b":2}', ['"a":1', '"b":2'], None),
        ('{"b":2}\n{"a":1}', ['"a":1', '"b":2'], '"b":2'),
        ("", ["p... is gone"], "p... is gone"),
    ],
)
def test_output_that_is_not_as_shown_is_noticed(output: str, shown: list[str], lost: str | None) -> None:
    assert missing(output, shown) == lost


def test_the_tutorial_runs_as_it_stands(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8").replace("8000", str(free_port()))
    run = list(steps(page))
    folder, outputs = tmp_path / "shop", tmp_path / "outputs"
    folder.mkdir()
    outputs.mkdir()
    script = "set -e\n" + "".join(
        f"{{\n{step.code}}} > '{outputs / str(number)}' 2>&1\n" for number, step in enumerate(run)
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TESSERA_")} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        # The page is written for a machine that does nothing else.
        "TESSERA_LIVE_DEADLINE_MS": "20000",
    }
    with subprocess.Popen(
        ["bash", "-c", script], cwd=folder, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
    ) as shell:
        try:
            code = shell.wait(LIMIT_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGTERM)
            embedded_redis.stop(folder / ".tessera")
    log = (folder / "serve.log").read_text()[-2000:] if (folder / "serve.log").exists() else ""
    for number, step in enumerate(run):
        path = outputs / str(number)
        output = path.read_text(encoding="utf-8") if path.exists() else None
        lost = "anything" if output is None else missing(output, step.shown)
        assert lost is None, f"{step.code}\nshould say {lost!r}; exit code {code}; it said:\n{output}\n{log}"
    assert code == 0
