"""`tessera rank`: train and measure what scores given items."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from command_line.common import (
    AsJson,
    Columns,
    DataFolder,
    Version,
    column_names,
    open_bundle,
    quiet_libraries,
    read_data,
    read_settings,
    reports_errors,
)
from command_line.rank_groups import groups
from command_line.training import Overrides, SplitOption, held_out, print_table

if TYPE_CHECKING:
    from offline.interactions import Dataset
    from offline.rankers.ranking_data import RankingData

rank = typer.Typer(help="Rankers: what scores items that are given to it.", no_args_is_help=True)
rank.command()(groups)

RankerRecipe = Annotated[str, typer.Option("--recipe", help="Name of a ranker's recipe, or a TOML file.")]
Most = Annotated[int | None, typer.Option("--most", min=1, help="Measure so many samples or lists; all by default.")]


@rank.command()
@reports_errors
def train(
    data: DataFolder,
    recipe: RankerRecipe = "sella-rec",
    version: Version = None,
    overrides: Overrides = None,
    columns: Columns = None,
) -> None:
    """Train a ranker beside a version's generator and publish both; the last line on stdout is the new version."""
    quiet_libraries()
    from model_store.bundle import ModelStore
    from model_store.default_device import default_device
    from offline.rankers.kinds import load_ranker_recipe
    from offline.rankers.publish_ranker import check_base, publish_ranker
    from offline.rankers.ranker_study import language_model_of, study_ranker

    settings = read_settings()
    chosen = load_ranker_recipe(recipe, overrides)
    base = open_bundle(settings, version)
    dataset = read_data(data, columns)
    check_base(base, dataset)
    ranking = _ranking_data(dataset, data, columns, chosen.negatives, chosen.seed)
    study, trained = study_ranker(chosen, ranking, "valid", default_device(), baselines=())
    bundle = publish_ranker(
        ModelStore(settings.store),
        base,
        chosen,
        language_model_of(chosen),
        trained,
        {"valid": study.systems[chosen.name]},
    )
    typer.echo(f"published: {bundle.path}; `tessera models activate {bundle.version}` lets POST /rank use it", err=True)
    typer.echo(bundle.version)


@rank.command()
@reports_errors
def evaluate(
    data: DataFolder,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="Train this recipe's ranker, and baselines; publish nothing.")
    ] = None,
    version: Version = None,
    overrides: Overrides = None,
    baselines: Annotated[
        str, typer.Option(help="Trained beside a recipe's ranker: mf, sasrec, both (comma separated) or none.")
    ] = "mf,sasrec",
    split: SplitOption = "test",
    most: Most = None,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """AUC and UAUC on labelled data, Hit@1 among 20 candidates elsewhere: of a version's ranker, or of a recipe's."""
    part = held_out(split)
    names = tuple(name for name in baselines.split(",") if name and name != "none")
    quiet_libraries()
    from model_store.default_device import default_device
    from offline.rankers.kinds import load_ranker_recipe
    from offline.rankers.ranker_study import BASELINES, study_published, study_ranker

    if unknown := set(names) - set(BASELINES):
        raise typer.BadParameter(f"no baseline {', '.join(sorted(unknown))}", param_hint="--baselines")
    if recipe is None and overrides:
        raise typer.BadParameter("needs --recipe: a published ranker is what it is", param_hint="--set")
    if recipe is None:
        bundle = open_bundle(read_settings(), version)
        dataset = read_data(data, columns)
        study = study_published(bundle, _ranking_data(dataset, data, columns), part, default_device(), most=most)
    else:
        chosen = load_ranker_recipe(recipe, overrides)
        dataset = read_data(data, columns)
        ranking = _ranking_data(dataset, data, columns, chosen.negatives, chosen.seed)
        study, _ = study_ranker(chosen, ranking, part, default_device(), baselines=names, most=most)
    if as_json:
        typer.echo(json.dumps(study.as_dict()))
        return
    typer.echo(
        f"{study.dataset}, {study.protocol}, {part} part, language model {study.language_model}, seed {study.seed}"
    )
    print_table(study.systems)


def _ranking_data(
    dataset: "Dataset", folder: Path, columns: list[str] | None, negatives: int = 1, seed: int = 0
) -> "RankingData":
    from offline.rankers.ranking_data import ranking_data

    return ranking_data(dataset, folder, column_names(columns), negatives=negatives, seed=seed)
