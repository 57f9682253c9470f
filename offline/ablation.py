"""An ablation study: a recipe, and the same recipe with one thing changed, trained and measured by one command.

The rows come from a TOML file, each a name and the settings it overrides:

    [rows."text-only codes"]
    set = ["codes.input=text"]

A row may start from another recipe than the study's: `recipe = "semantic-convergence"`.

Every row is trained from the same data with the same budget and measured on the same users, beside the collaborative
encoder and popularity of the same run. Rows share the stages whose settings they share. Each finished row is written to
the study's folder at once, so a study that was stopped goes on where it was.
"""

import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from model_store.bundle import Bundle, ModelStore
from model_store.decoders.torch_decoder import TorchDecoder
from model_store.errors import TesseraError
from offline.evaluate import ALONE, SplitName, evaluate
from offline.interactions import Dataset
from offline.progress import say
from offline.recipe import RECIPES_FOLDER, Recipe, load_recipe
from offline.study_records import markdown_table, mean_cell, write_record
from offline.train import Run, train

_ROWS_FOLDER = RECIPES_FOLDER / "ablations"
_SHOWN = ("recall@10", "ndcg@10")
_PROTOCOLS = {"all": "seen kept", "unseen": "seen excluded"}


@dataclass(frozen=True)
class Row:
    """One line of the table: a name, what it changes of the recipe, and of which where it is not the study's."""

    name: str
    overrides: tuple[str, ...]
    recipe: str | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """What to train and how to measure it.

    Attributes:
        recipe: name or file of the recipe that every row starts from.
        overrides: `key=value` settings of every row.
        rows: what to compare.
        seeds: every row is trained once with each.
        split: which held-out items to rank.
        beam_width: of the constrained decode.
    """

    recipe: str
    overrides: tuple[str, ...]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    split: SplitName
    beam_width: int


def read_rows(name_or_file: str, only: Sequence[str] = (), folder: Path = _ROWS_FOLDER) -> tuple[Row, ...]:
    """The rows of a study that comes with Tessera (in `folder`), or of a TOML file; `only` picks some by name.

    Raises:
        TesseraError: no such file, not TOML, not rows, or a name in `only` that is not among them.
    """
    path = Path(name_or_file) if name_or_file.endswith(".toml") else folder / f"{name_or_file}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
        raise TesseraError(f"rows {name_or_file!r}: no file {path}; studies that come with Tessera: {known}") from None
    except tomllib.TOMLDecodeError as error:
        raise TesseraError(f"{path}: not TOML: {error}") from None
    rows = {}
    for name, row in content.get("rows", {}).items():
        readable = isinstance(row, dict) and "set" in row and set(row) <= {"set", "recipe"}
        settings, recipe = (row["set"], row.get("recipe")) if readable else (None, None)
        if (
            not isinstance(settings, list)
            or not all(isinstance(one, str) for one in settings)
            or not isinstance(recipe, str | None)
        ):
            raise TesseraError(
                f'{path}: row {name!r}: expected set = ["key=value", ...], at most a recipe = "NAME", and nothing else'
            )
        rows[name] = Row(name, tuple(settings), recipe)
    if not rows:
        raise TesseraError(f'{path}: no rows; write [rows."name"] and set = ["key=value", ...]')
    unknown = [name for name in only if name not in rows]
    if unknown:
        raise TesseraError(f"{path}: no row {unknown[0]!r}; it has {', '.join(map(repr, rows))}")
    return tuple(row for name, row in rows.items() if not only or name in only)


def run_study(dataset: Dataset, study: Study, home: Path) -> list[dict[str, Any]]:
    """Train and measure what is not done yet; returns one record for each row and seed, in order.

    A record holds the row's name and seed, `protocols` (see `offline.evaluate`), parameters, tokens read in training,
    seconds of training and the version. The bundles stay in the study's own store, `home/studies/<digest>/store`.
    """
    # Settings that cannot be are found before the first hour of training, not after it.
    recipes = {
        (row.name, seed): load_recipe(row.recipe or study.recipe, [*study.overrides, *row.overrides, f"seed={seed}"])
        for row in study.rows
        for seed in study.seeds
    }
    folder = home / "studies" / hashlib.sha256(dataset.fingerprint.encode()).hexdigest()[:12]
    store = ModelStore(folder / "store")
    records = []
    for (name, seed), recipe in recipes.items():
        settings = json.dumps([recipe.as_dict(), study.split, study.beam_width], sort_keys=True)
        path = folder / f"{hashlib.sha256(settings.encode()).hexdigest()[:16]}.json"
        if path.exists():
            say(f"{name}, seed {seed}: measured before, {path}")
        else:
            bundle = _trained(dataset, recipe, folder, store, f"{name}, seed {seed}")
            write_record(path, _measure(bundle, dataset, study))
        records.append({"row": name, "seed": seed, **json.loads(path.read_text(encoding="utf-8"))})
    return records


def _trained(dataset: Dataset, recipe: Recipe, folder: Path, store: ModelStore, what: str) -> Bundle:
    """The version of a recipe: that of another split or beam width, where the study has measured one."""
    run = Run.create(dataset, recipe, folder, shared=folder / "stages")
    path = folder / f"{run.folder.name}.version"
    if path.exists():
        version = json.loads(path.read_text(encoding="utf-8"))["version"]
        say(f"{what}: trained before, version {version}")
        return store.open(version)
    say(f"{what}: training")
    bundle = train(run, store)
    write_record(path, {"version": bundle.version})
    return bundle


def _measure(bundle: Bundle, dataset: Dataset, study: Study) -> dict[str, Any]:
    result = evaluate(bundle, TorchDecoder.from_bundle(bundle), dataset, study.split, study.beam_width)
    metrics = bundle.manifest.metrics
    epochs = [record for phase in ("language_model", "annealing") for record in metrics.get(phase, {}).get("curve", ())]
    return {
        "version": bundle.version,
        "dataset": result.dataset,
        "split": result.split,
        "users": result.users,
        "protocols": result.protocols,
        "parameters": metrics["parameters"],
        "tokens": int(sum(epoch.get("tokens", 0) + epoch.get("task_tokens", 0) for epoch in epochs)),
        "train_seconds": metrics["train_seconds"],
    }


def as_table(records: list[dict[str, Any]]) -> str:
    """The study as a Markdown table: means over seeds, with the sample standard deviation where there are several."""
    header = [
        "row",
        *(
            f"{metric.replace('recall', 'R').replace('ndcg', 'N')} {said}"
            for said in _PROTOCOLS.values()
            for metric in _SHOWN
        ),
        "parameters",
        "tokens",
        "minutes",
    ]
    # Rows may differ in their encoders; each system is shown as the first row that has it measured it.
    baselines: dict[str, str] = {}
    for record in records:
        for system in reversed(record["protocols"]["all"]):
            if system not in ("tessera", ALONE):
                baselines.setdefault(system, record["row"])
    lines = [
        _line(system, [record["protocols"] for record in records if record["row"] == row], system, ["", "", ""])
        for system, row in baselines.items()
    ]
    for name in dict.fromkeys(record["row"] for record in records):
        mine = [record for record in records if record["row"] == name]
        cost = [
            f"{mine[0]['parameters'] / 1e6:.2f} M",
            f"{mean(record['tokens'] for record in mine) / 1e6:.1f} M",
            f"{mean(record['train_seconds'] for record in mine) / 60:.1f}",
        ]
        protocols = [record["protocols"] for record in mine]
        lines.append(_line(name, protocols, "tessera", cost))
        if all(ALONE in one["all"] for one in protocols):
            lines.append(_line(f"{name}: {ALONE} alone", protocols, ALONE, ["", "", ""]))
    return markdown_table(header, lines)


def _line(name: str, protocols: list[dict[str, Any]], system: str, cost: list[str]) -> list[str]:
    cells = [
        mean_cell([one[protocol][system][metric] for one in protocols]) for protocol in _PROTOCOLS for metric in _SHOWN
    ]
    return [name, *cells, *cost]
