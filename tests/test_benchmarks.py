"""Benchmarks state what they claim, and print what their readers parse."""

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.harness import Claim, Spread
from benchmarks.line_chart import Chart, draw

ROOT = Path(__file__).parents[1]
# Names with an underscore are helpers.
BENCHMARKS = sorted(
    path for path in (ROOT / "benchmarks").glob("*.py") if "_" not in path.stem and path.stem != "harness"
)


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_states_its_claim_and_its_floor(path):
    documentation = ast.get_docstring(ast.parse(path.read_text()))
    assert documentation is not None
    claim, _, rest = documentation.partition("\n")
    assert claim.endswith(".")
    assert "Floor:" in rest
    assert "Measured" in rest


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_runs_alone(path):
    assert path.read_text().endswith('if __name__ == "__main__":\n    harness.run(__file__, __doc__, measure)\n')


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(path):
    assert callable(importlib.import_module(f"benchmarks.{path.stem}").measure)


def test_make_bench_runs_every_benchmark():
    (listed,) = re.findall(r"^BENCHMARKS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(listed.split()) == [path.stem for path in BENCHMARKS]


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "name",
    [
        "trie",
        pytest.param(
            "startup",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of processes in /proc"),
        ),
    ],
)
def test_json_is_one_object_of_claims_and_nothing_else(name):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert set(said) == {"benchmark", "machine", "claims"}
    assert said["benchmark"] == name
    assert set(said["machine"]) == set(harness.machine())
    assert said["claims"]
    for claim in said["claims"]:
        assert set(claim) == {"claim", "value", "unit", "target", "holds"}
        assert isinstance(claim["value"], float | int)
        assert isinstance(claim["holds"], bool)
        assert claim["target"].partition(" ")[0] in ("<=", ">=")


def test_a_claim_holds_up_to_its_bound():
    assert Claim.at_most("a", 2.0, "s", 2.0).holds
    assert not Claim.at_most("a", 2.1, "s", 2.0).holds
    assert Claim.at_least("a", 2.0, "x", 2.0).holds
    assert not Claim.at_least("a", 1.9, "x", 2.0).holds
    assert Claim.at_least("a", 123456.0, "x", 2.0) == Claim("a", 123500.0, "x", ">= 2", True)


def test_sides_take_turns():
    order = []

    def side(name, value):
        return lambda: order.append(name) or value

    found = harness.interleaved({"a": side("a", 1.0), "b": side("b", 2.0)}, rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": Spread(1.0, 1.0, 1.0), "b": Spread(2.0, 2.0, 2.0)}


def test_a_spread_in_other_units():
    spread = Spread.of([0.5, 0.25, 1.0])
    assert spread.times(1000) == Spread(500.0, 250.0, 1000.0)
    assert spread.per_second(2) == Spread(4.0, 2.0, 8.0)
    assert str(spread) == "0.5 (0.25..1)"


def test_a_chart_names_its_lines_and_is_the_same_file_each_time(tmp_path):
    points = [(10.0, 2.0, 1.0, 4.0), (1000.0, 3.0, 2.5, 3.5)]
    chart = Chart("items", "ms", {"whole": {"free": points}, "part": {"free": points, "filtered": points[:1]}})
    for name in ("a.svg", "b.svg"):
        draw(chart, tmp_path / name)
    drawn = (tmp_path / "a.svg").read_text()
    assert all(text in drawn for text in ("items", "ms", "whole", "part", "free", "filtered"))
    assert drawn == (tmp_path / "b.svg").read_text()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.01234, "0.0123"),
        (0.5, "0.5"),
        (1.0, "1"),
        (2.345, "2.35"),
        (12.34, "12.3"),
        (1234567.0, "1,234,567"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert harness.number(value) == text
