"""What is deployed keeps its rules: the images and the compose file.

No Docker engine is needed. The installation steps of the small image are run for real, in folders of a test.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr
from typer.main import get_command

import tessera
from app.api_keys import ApiKeys, refuse_open_bind
from app.decoder.settings import DecoderSettings
from app.settings import Settings
from model_store.cache_keys import Keys

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
IMAGES = ("api", "decoder")
KEYS = "read+write:0123456789abcdef"


# The Dockerfile


@dataclass(frozen=True)
class Stage:
    """One stage of the Dockerfile: its base (image or stage) and its instructions in order."""

    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [text for name, text in self.instructions if name == instruction]


def read_stages() -> dict[str, Stage]:
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    stages: dict[str, Stage] = {}
    current = Stage("")
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, _, text = line.strip().partition(" ")
        if instruction == "FROM":
            base, _, name = text.partition(" AS ")
            stages[name] = current = Stage(base)
        elif instruction:
            current.instructions.append((instruction, text.strip()))
    return stages


STAGES = read_stages()


def lineage(name: str) -> list[Stage]:
    """A stage and those it is built on, the first one first."""
    stage = STAGES[name]
    return [*lineage(stage.base), stage] if stage.base in STAGES else [stage]


def contributors(name: str) -> set[str]:
    """Every stage from which something can get into a stage."""
    stage = STAGES[name]
    sources = {stage.base} | {source for _, text in stage.instructions for source in re.findall(r"from=([\w-]+)", text)}
    found = {name}
    for source in sources & set(STAGES):
        found |= contributors(source)
    return found


@pytest.mark.parametrize("image", IMAGES)
def test_image_runs_as_a_numbered_user_that_is_not_root(image: str) -> None:
    users = [user for stage in lineage(image) for user in stage.all("USER")]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


@pytest.mark.parametrize("image", IMAGES)
def test_image_checks_its_health_without_asking_others(image: str) -> None:
    (check,) = STAGES[image].all("HEALTHCHECK")
    (port,) = STAGES[image].all("EXPOSE")
    assert f"http://127.0.0.1:{port}/health/live" in check


def test_api_image_installs_no_model_extra() -> None:
    steps = [text for name in contributors("api") for text in STAGES[name].all("RUN")]
    installing = [step for step in steps if " pip install " in step]
    assert len(installing) >= 2
    assert not [
        step
        for step in installing
        if re.search(r"--extra (?!tracing)|--extra=|--all-extras|torch|transformers|vllm|\[", step)
    ]
    assert contributors("api").isdisjoint({"decoder", "decoder-build"})


@pytest.mark.parametrize("image", IMAGES)
def test_image_installs_only_what_the_lock_pins(image: str) -> None:
    steps = [text for name in contributors(image) for text in STAGES[name].all("RUN")]
    for step in steps:
        for command in re.split(r"&&|;|\bthen\b|\belse\b", step):
            # The CUDA build of vLLM needs other versions than the lock's; see docs/decisions.
            if "uv pip install" in command and "--extra vllm" not in command:
                assert re.search(r"--no-deps|--constraints requirements\.lock", command), command
            assert "pip install --quiet --no-cache-dir" not in command or re.search(
                r"uv==\d+\.\d+\.\d+$", command.strip()
            )


def copied_sources() -> Iterator[str]:
    for stage in STAGES.values():
        for text in stage.all("COPY"):
            if "--from=" not in text:
                yield from text.split()[:-1]


def test_every_copied_source_exists() -> None:
    assert [source for source in copied_sources() if not (ROOT / source).exists()] == []


def test_build_context_holds_what_is_copied_and_nothing_else() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == set(copied_sources())


def test_images_start_from_a_pinned_python() -> None:
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.\d+-slim$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert {stage.base for stage in STAGES.values()} - set(STAGES) == {"${PYTHON_IMAGE}"}


# The compose file


COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()


def fill_in(value: Any, environment: Mapping[str, str]) -> Any:
    """Replace ${NAME}, ${NAME-default}, ${NAME:-default} and ${NAME:?message} as compose does."""
    if isinstance(value, dict):
        return {key: fill_in(entry, environment) for key, entry in value.items()}
    if isinstance(value, list):
        return [fill_in(entry, environment) for entry in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"\$\{(\w+)(?::?-([^}]*)|:\?[^}]*)?\}", lambda m: environment.get(m[1], m[2] or ""), value)


RAW: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
COMPOSE: dict[str, Any] = fill_in(RAW, {"TESSERA_API_KEYS": KEYS})
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
JOBS = {name for name, service in SERVICES.items() if "jobs" in service.get("profiles", [])}
MONITORING = {name for name, service in SERVICES.items() if "monitoring" in service.get("profiles", [])}
OURS = {name for name, service in SERVICES.items() if "build" in service}


def test_compose_file_holds_the_service_and_its_jobs() -> None:
    assert set(SERVICES) == {"redis", "decoder", "api", "worker"} | JOBS | MONITORING
    assert {"train", "refresh"} == JOBS
    assert {"prometheus", "grafana"} == MONITORING


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_not_root_on_a_read_only_root_without_capabilities(name: str) -> None:
    service = SERVICES[name]
    assert service["user"].split(":")[0] not in ("", "0", "root")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert "no-new-privileges:true" in service["security_opt"]
    assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp"]


@pytest.mark.parametrize("name", SERVICES)
def test_service_cannot_start_processes_without_end(name: str) -> None:
    assert 0 < SERVICES[name]["pids_limit"] <= 4096


def test_memory_of_what_answers_other_machines_is_bounded() -> None:
    assert re.fullmatch(r"[1-9]\d*g", SERVICES["api"]["mem_limit"])


@pytest.mark.parametrize("name", SERVICES)
def test_service_has_a_health_check_unless_it_is_a_job(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check == {"disable": True} if name in JOBS else check["test"][0] in ("CMD", "CMD-SHELL")


@pytest.mark.parametrize("name", SERVICES)
def test_service_has_an_image_of_one_version(name: str) -> None:
    _, _, tag = SERVICES[name]["image"].rpartition(":")
    assert re.match(r"v?\d+\.\d+", tag)
    if name in OURS:
        assert tag == PROJECT["project"]["version"]
        assert SERVICES[name]["build"]["target"] in IMAGES
        assert set(SERVICES[name]["build"].get("args", {})) <= {
            text.split("=")[0] for stage in STAGES.values() for text in stage.all("ARG")
        }


def test_only_api_and_grafana_are_published_and_only_on_this_machine() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {"api": ["127.0.0.1:8000:8000"], "grafana": ["127.0.0.1:3000:3000"]}


def test_decoder_is_reached_by_the_api_and_the_monitoring_alone() -> None:
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert all(COMPOSE["networks"][network]["internal"] for network in networks["decoder"] | networks["redis"])
    assert {name for name, theirs in networks.items() if theirs & networks["decoder"]} == {
        "api",
        "decoder",
        "prometheus",
    }
    assert {name for name, theirs in networks.items() if theirs & networks["redis"]} == {
        "api",
        "refresh",
        "redis",
        "worker",
    }


def test_compose_variables_are_real_settings() -> None:
    known = {f"TESSERA_{name.upper()}" for name in Settings.model_fields} | {
        str(option.validation_alias or f"TESSERA_DECODER_{name.upper()}")
        for name, option in DecoderSettings.model_fields.items()
    }
    used = set(re.findall(r"TESSERA_\w+", COMPOSE_TEXT)) | set(
        re.findall(r"TESSERA_\w+", (ROOT / "Dockerfile").read_text())
    )
    assert used
    assert used - known == set()


def test_worker_says_that_it_is_there_where_its_health_check_looks() -> None:
    environment = SERVICES["worker"]["environment"]
    assert environment["TESSERA_REDIS_URL"] == SERVICES["api"]["environment"]["TESSERA_REDIS_URL"]
    assert f'"{Keys().refresh_worker}"' in SERVICES["worker"]["healthcheck"]["test"][-1]


def test_compose_asks_for_api_keys_and_holds_no_secret() -> None:
    assert RAW["services"]["api"]["environment"]["TESSERA_API_KEYS"].startswith("${TESSERA_API_KEYS:?")
    for service in RAW["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"KEY|SECRET|TOKEN|PASSWORD", name):
                pattern = r"/run/secrets/\w+" if name.endswith("__FILE") else r"\$\{\w+:\?[^}]+\}"
                assert re.fullmatch(pattern, value), name
            assert not re.search(r"://[^/]*@", value), name


def environment_of(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [variable for variable in os.environ if variable.startswith("TESSERA_")]:
        monkeypatch.delenv(variable)
    for variable, value in SERVICES[name].get("environment", {}).items():
        monkeypatch.setenv(variable, value)


def test_decoder_accepts_its_settings_of_the_compose_file(monkeypatch: pytest.MonkeyPatch) -> None:
    environment_of("decoder", monkeypatch)
    host, port = DecoderSettings().host_and_port
    assert (host, STAGES["decoder"].all("EXPOSE")) == ("0.0.0.0", [str(port)])
    assert SERVICES["api"]["environment"]["TESSERA_DECODER_ADDRESS"] == f"http://decoder:{port}"


def test_api_accepts_its_settings_of_the_compose_file(monkeypatch: pytest.MonkeyPatch) -> None:
    environment_of("api", monkeypatch)
    settings = Settings()
    assert settings.redis_url == SecretStr("redis://redis:6379/0")
    refuse_open_bind(ApiKeys.parse(settings.api_keys), "0.0.0.0")


@pytest.mark.parametrize("name", sorted(OURS))
def test_command_of_a_service_is_one_of_the_command_line(name: str) -> None:
    words: list[str] = SERVICES[name]["command"]
    with get_command(tessera.app).make_context("tessera", list(words)) as context:
        command = get_command(tessera.app).get_command(context, words[0])  # type: ignore[attr-defined]
        with command.make_context(words[0], words[1:], parent=context) as parsed:
            assert parsed.args == []


def test_secrets_are_files_that_git_leaves_out() -> None:
    for name, secret in COMPOSE["secrets"].items():
        assert secret == {"file": f"./monitoring/secrets/{name}"}
    assert "/monitoring/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    assert {secret for service in SERVICES.values() for secret in service.get("secrets", [])} == set(COMPOSE["secrets"])


def test_mounted_files_of_the_monitoring_exist() -> None:
    binds = [
        mount["source"] for name in MONITORING for mount in SERVICES[name]["volumes"] if not isinstance(mount, str)
    ]
    assert len(binds) == 4
    assert [source for source in binds if not (ROOT / source).exists()] == []


def test_volumes_are_declared_and_models_are_written_by_jobs_and_the_api() -> None:
    writers = set()
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            if isinstance(volume, str):
                source, target, *mode = volume.split(":")
                assert source in COMPOSE["volumes"]
                if source == "store":
                    assert target == "/var/lib/tessera/store"
                    writers |= set() if mode == ["ro"] else {name}
            else:
                assert (volume["type"], volume["read_only"]) == ("bind", True)
    assert writers == JOBS | {"api"}


# The small image, installed as its Dockerfile says


def run(*command: str, cwd: Path, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def replay(names: list[str], root: Path) -> Path:
    """Run the COPY and RUN steps of stages in order, /opt and the working folder being below `root`.

    The installer's own cache is used, so that nothing is fetched twice.
    """
    source = root / "src"
    source.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    def placed(text: str) -> str:
        return text.replace("/opt/", f"{root}/opt/")

    for instruction, text in [step for name in names for step in STAGES[name].instructions]:
        if instruction == "ENV":
            pairs = (pair.split("=", 1) for pair in shlex.split(text))
            environment |= {name: placed(value) for name, value in pairs if name != "UV_CACHE_DIR"}
        elif instruction == "COPY":
            *files, _ = text.split()
            for name in files:
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, source / name)
        elif instruction == "RUN":
            run("sh", "-c", placed(re.sub(r"--mount=\S+", "", text)), cwd=source, environment=environment)
    return root / "opt" / "tessera" / "bin"


@pytest.mark.end_to_end
def test_api_image_has_all_that_serving_needs_and_no_torch(tmp_path: Path) -> None:
    binaries = replay(["build", "wheel", "api-build"], tmp_path / "image")
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    assert "serve" in run(str(binaries / "tessera"), "--help", cwd=outside)
    run(
        str(binaries / "python"),
        "-c",
        "import importlib.util, sys\n"
        "import app.main, app.decoder.child\n"
        "from importlib.resources import files\n"
        "shown = {file.name for file in (files('app') / 'dashboard').iterdir()}\n"
        "assert {'index.html', 'style.css', 'main.js'} <= shown, shown\n"
        "assert str(sys.prefix) in app.main.__file__, app.main.__file__\n"
        "assert not [name for name in ('torch', 'transformers', 'vllm') if importlib.util.find_spec(name)]\n",
        cwd=outside,
    )
    # As far as a service without a model gets.
    nowhere = {"TESSERA_REDIS_URL": f"unix://{outside}/none.sock", "PATH": os.environ["PATH"]}
    served = subprocess.run(
        [binaries / "tessera", "serve", "--decoder", "none"],
        cwd=outside,
        env=nowhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (served.returncode, "no active version" in served.stderr) == (1, True), served.stderr
