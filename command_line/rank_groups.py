"""`tessera rank groups`: where a ranker is strong, with little or foreign data to learn from."""

import json
from pathlib import Path
from typing import Annotated

import typer

from command_line.common import AsJson, Columns, DataFolder, column_names, quiet_libraries, read_data, reports_errors
from command_line.training import Overrides, SplitOption, held_out, print_table


@reports_errors
def groups(
    data: DataFolder,
    recipe: Annotated[str, typer.Option("--recipe", help="Name of a ranker's recipe, or a TOML file.")] = "a-llmrec",
    overrides: Overrides = None,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", help="all, warm-items, cold-items or cold-users. Repeatable; all by default."),
    ] = None,
    cold_share: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share of the items, by training count, that are cold or warm.")
    ] = 0.35,
    cold_user_events: Annotated[int, typer.Option(min=3, help="Events of a cold user, held-out ones included.")] = 3,
    train_users: Annotated[
        int | None, typer.Option(min=1, help="Few-shot: train on so many users, drawn by the recipe's seed.")
    ] = None,
    other: Annotated[
        Path | None, typer.Option("--on", help="Cross-domain: rank the lists of this folder, trained on --data.")
    ] = None,
    split: SplitOption = "test",
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Train a recipe's ranker, publish nothing, and measure Hit@1 of cold and warm items and of cold users."""
    part = held_out(split)
    quiet_libraries()
    from model_store.default_device import default_device
    from offline.rankers.cross_domain import cross_domain_scorer
    from offline.rankers.evaluation_groups import GROUPS, evaluate_groups, group_rows
    from offline.rankers.few_users import with_few_users
    from offline.rankers.kinds import load_ranker_recipe, train_ranker
    from offline.rankers.ranking_data import ranking_data

    if unknown := set(group or ()) - set(GROUPS):
        raise typer.BadParameter(
            f"no group {', '.join(sorted(unknown))}; known: {', '.join(GROUPS)}", param_hint="--group"
        )
    chosen = load_ranker_recipe(recipe, overrides)
    names = column_names(columns)
    trained_on = ranking_data(read_data(data, columns), data, names, negatives=chosen.negatives, seed=chosen.seed)
    measured = trained_on
    if other is not None:
        measured = ranking_data(read_data(other, columns), other, names)
    if train_users is not None:
        trained_on = with_few_users(trained_on, train_users, chosen.seed)
        measured = measured if other is not None else trained_on
    # Groups that are not there are found before hours of training, not after them.
    rows = group_rows(measured, part, wanted=group or (), cold_share=cold_share, cold_user_events=cold_user_events)
    trained = train_ranker(chosen, trained_on, default_device())
    if other is None:
        scorers = {**trained.baselines, chosen.name: trained.ranker.rank}
    else:
        # What is trained beside a ranker knows its own items only.
        name = measured.dataset.name
        scorers = {chosen.name: cross_domain_scorer(trained.ranker, measured.catalog, name)}
    found = {
        system: evaluate_groups(scorer, measured, part, rows, f"{system}, {part}") for system, scorer in scorers.items()
    }
    if as_json:
        said = {"trained_on": trained_on.dataset.name, "dataset": measured.dataset.name, "part": part}
        typer.echo(json.dumps({**said, "train_users": train_users, "seed": chosen.seed, "systems": found}))
        return
    typer.echo(f"trained on {trained_on.dataset.name}, measured on {measured.dataset.name}, {part} part")
    for name in rows:
        typer.echo(f"{name}:")
        print_table({system: metrics[name] for system, metrics in found.items()})
