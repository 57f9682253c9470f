"""A ranker's recipe, and the same with one thing changed, trained and measured on the same samples by one command.

Rows come from a TOML file as in `offline.ablation`. Every row is trained with every seed, and baselines once a seed.
Each finished row is written to the study's folder at once, so a study that was stopped goes on where it was.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from offline.ablation import Row
from offline.progress import say
from offline.rankers.kinds import load_ranker_recipe
from offline.rankers.ranker_study import study_ranker
from offline.rankers.ranking_data import Part, RankingData
from offline.study_records import markdown_table, mean_cell, write_record

ROWS_FOLDER = Path(__file__).parent / "recipes" / "ablations"


@dataclass(frozen=True, kw_only=True)
class RankerAblation:
    """What to train and how to measure it.

    Attributes:
        recipe: name or file of the recipe that every row starts from.
        overrides: `key=value` settings of every row.
        rows: what to compare.
        seeds: every row is trained once with each.
        part: which held-out part to measure on.
        baselines: see `ranker_study`; they are measured beside the first row.
    """

    recipe: str
    overrides: tuple[str, ...]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    part: Part
    baselines: tuple[str, ...]


def run_ranker_ablation(
    data: RankingData, study: RankerAblation, home: Path, device: torch.device | str
) -> list[dict[str, Any]]:
    """Train and measure what is not done yet.

    Returns:
        One record for each row and seed: row, seed, `metrics` of the row's ranker, and `beside` with those of the
        baselines, and of what the recipe trains on its way, by name.
    """
    # Settings that cannot be are found before the first training, not after it.
    recipes = {
        (row.name, seed): load_ranker_recipe(
            row.recipe or study.recipe, [*study.overrides, *row.overrides, f"seed={seed}"]
        )
        for seed in study.seeds
        for row in study.rows
    }
    folder = home / "studies" / "rankers" / hashlib.sha256(data.dataset.fingerprint.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for (name, seed), recipe in recipes.items():
        baselines = study.baselines if name == study.rows[0].name else ()
        settings = json.dumps([recipe.as_dict(), study.part, baselines], sort_keys=True)
        path = folder / f"{hashlib.sha256(settings.encode()).hexdigest()[:16]}.json"
        if path.exists():
            say(f"{name}, seed {seed}: measured before, {path}")
        else:
            say(f"{name}, seed {seed}: training")
            found, trained = study_ranker(recipe, data, study.part, device, baselines=baselines)
            metrics = found.systems.pop(recipe.name)
            record = {"metrics": metrics, "beside": found.systems, "attention": trained.reports.get("attention")}
            write_record(path, record)
        records.append({"row": name, "seed": seed, **json.loads(path.read_text(encoding="utf-8"))})
    return records


def ablation_table(records: list[dict[str, Any]]) -> str:
    """The study as a Markdown table: means over seeds, with the sample standard deviation where there are several."""
    names = list(records[0]["metrics"])
    first = [record for record in records if record["row"] == records[0]["row"]]
    systems = {system: [record["beside"][system] for record in first] for system in first[0]["beside"]}
    for row in dict.fromkeys(record["row"] for record in records):
        systems[row] = [record["metrics"] for record in records if record["row"] == row]
    lines = [
        [system, *(mean_cell([one[name] for one in found]) for name in names)] for system, found in systems.items()
    ]
    return markdown_table(["system", *names], lines)
