"""The dashboard and the alerts ask for what is there, and Prometheus can read them."""

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.decoder.settings import DecoderSettings
from offline.refresh.metrics import FullRefreshMetrics, WatchMetrics, serve_metrics
from tests.app.conftest import Cache, RunningApp
from tests.app.running_decoder import running_decoder
from tests.app.running_server import free_port

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "grafana" / "tessera.json").read_text())
ALERTS: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Every expression of the dashboard, by panel."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"].replace("$__rate_interval", "5m")
        for panel in panels()
        for target in panel["targets"]
    }


def alert_expressions() -> dict[str, str]:
    return {rule["alert"]: rule["expr"] for rule in ALERTS}


@dataclass
class Exposed:
    """What a scrape of everything finds."""

    names: set[str] = field(default_factory=set)
    families: set[str] = field(default_factory=set)
    labels: dict[str, set[str]] = field(default_factory=dict)

    def add(self, text: str) -> None:
        for family in text_string_to_metric_families(text):
            self.families.add(family.name)
            endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
            self.names |= {family.name + ending for ending in endings}
            for sample in family.samples:
                self.labels.setdefault(sample.name, set()).update(sample.labels)


@pytest.fixture
async def exposed(
    api: RunningApp,
    cache: Cache,
    tmp_path: Path,
) -> Exposed:
    found = Exposed()
    cache.put_entry("ann", [9, 8, 7])
    events = [{"user_id": "ann", "item_id": "item-4"}]
    for answer in (await api.client.get("/recommend/ann?n=5"), await api.client.post("/events", json=events)):
        answer.raise_for_status()
    found.add((await api.client.get("/metrics")).text)
    decoding = DecoderSettings(store=tmp_path / "nothing")
    async with running_decoder(decoding, tmp_path / "decoder.sock") as decoder:
        found.add((await decoder.client.get("/metrics")).text)
    for registry in (WatchMetrics(0.95).registry, FullRefreshMetrics().registry):
        port = free_port()
        serve_metrics(registry, port)
        found.add(httpx.get(f"http://127.0.0.1:{port}/metrics").text)
    return found


def asked_for(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics of an expression, each with the labels it is selected by."""
    for name, selectors in re.findall(r"\b(tessera_\w+)(?:\{([^}]*)\})?", expression):
        yield name, set(re.findall(r"(\w+)\s*[=!]", selectors))


@pytest.mark.anyio
async def test_every_metric_and_label_asked_for_exists(exposed: Exposed) -> None:
    asked = {**expressions(), **alert_expressions()}
    found = [(where, name, labels) for where, text in asked.items() for name, labels in asked_for(text)]
    assert len(found) > 60
    missing = {name for _, name, _ in found} - exposed.names
    assert missing == set()
    by_prometheus = {"job", "instance"}
    wrong = [
        (where, name, labels)
        for where, name, labels in found
        if name in exposed.labels and not labels <= exposed.labels[name] | by_prometheus
    ]
    assert wrong == []


@pytest.mark.anyio
async def test_every_metric_in_the_manual_exists(exposed: Exposed) -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {name for page in pages for name in re.findall(r"`(tessera_\w+)[`{]", page.read_text())}
    # The package.
    named.discard("tessera_client")
    assert len(named) > 30
    assert named - exposed.names - exposed.families == set()


def test_panels_have_their_own_ids_places_and_queries() -> None:
    ids = Counter(panel["id"] for panel in DASHBOARD["panels"])
    assert max(ids.values()) == 1
    titles = Counter(panel["title"] for panel in panels())
    assert max(titles.values()) == 1
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells
    for panel in panels():
        references = [target["refId"] for target in panel["targets"]]
        assert references
        assert len(references) == len(set(references))


@pytest.mark.parametrize(
    "subject",
    [
        *("tessera_requests_total", "tessera_request_seconds_bucket", "tessera_stage_seconds_bucket"),
        *("tessera_cache_age_seconds_bucket", "tessera_personal_answers_total", "tessera_decoder_queue_depth"),
        *("tessera_decoder_batch_size_sum", "tessera_decoder_stage_seconds_bucket", "tessera_refresh_users_done"),
        *("tessera_events_total", "tessera_cache_unavailable_total", "tessera_process_resident_bytes"),
        "tessera_recommended_items_with_event_total",
    ],
)
def test_dashboard_shows(subject: str) -> None:
    assert any(subject in text for text in expressions().values())


def test_every_alert_says_how_bad_it_is_and_what_to_look_at() -> None:
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS) >= 9
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert "for" in rule


def test_alerts_go_by_jobs_that_are_scraped() -> None:
    scraped = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    jobs = {job["job_name"] for job in scraped["scrape_configs"]}
    (pattern,) = {found for rule in ALERTS for found in re.findall(r'job=~"([^"]+)"', rule["expr"])}
    assert all(re.fullmatch(pattern, job) for job in jobs)
    assert scraped["rule_files"] == ["/etc/prometheus/alerts.yml"]


def promtool(*arguments: str | Path) -> str:
    """Run it; skip where there is none."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool, of Prometheus, is not on the PATH")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_alerts() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", MONITORING / "alerts.yml")


def test_alerts_fire_when_they_should_and_not_otherwise() -> None:
    tried = (MONITORING / "alerts_test.yml").read_text()
    assert [rule["alert"] for rule in ALERTS if tried.count(rule["alert"]) < 2] == []
    assert "SUCCESS" in promtool("test", "rules", MONITORING / "alerts_test.yml")


def test_prometheus_can_parse_every_panel(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": text, "labels": {"panel": where}}
        for number, (where, text) in enumerate(expressions().items())
    ]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", path)
