"""`tessera rank ablate` and `tessera rank attention`: what parts of a ranker bring, and what its layers attend to."""

import json
from pathlib import Path
from typing import Annotated

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
from command_line.training import Overrides, SplitOption, held_out


@reports_errors
def ablate(
    data: DataFolder,
    recipe: Annotated[str, typer.Option("--recipe", help="What every row starts from: a name, or a TOML file.")] = (
        "sail-rec"
    ),
    rows: Annotated[
        str | None,
        typer.Option(help="Name of a study that comes with Tessera, or a TOML file; the recipe's by default."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--row", help="Only this row. Repeatable.")] = None,
    overrides: Overrides = None,
    seeds: Annotated[str, typer.Option(help="Each row is trained once with each; comma separated.")] = "0",
    baselines: Annotated[
        str, typer.Option(help="Trained beside the first row: mf, sasrec, both (comma separated) or none.")
    ] = "mf,sasrec",
    split: SplitOption = "test",
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Train a ranker's recipe and its variants, and compare them with the baselines of the same run in one table."""
    part = held_out(split)
    names = tuple(name for name in baselines.split(",") if name and name != "none")
    try:
        numbers = tuple(int(seed) for seed in seeds.split(","))
    except ValueError:
        raise typer.BadParameter("integers, comma separated", param_hint="--seeds") from None
    quiet_libraries()
    from model_store.default_device import default_device
    from offline.ablation import read_rows
    from offline.rankers.kinds import load_ranker_recipe
    from offline.rankers.ranker_ablation import ROWS_FOLDER, RankerAblation, ablation_table, run_ranker_ablation
    from offline.rankers.ranker_study import BASELINES
    from offline.rankers.ranking_data import ranking_data

    if unknown := set(names) - set(BASELINES):
        raise typer.BadParameter(f"no baseline {', '.join(sorted(unknown))}", param_hint="--baselines")

    study = RankerAblation(
        recipe=recipe,
        overrides=tuple(overrides or ()),
        rows=read_rows(rows or recipe, tuple(only or ()), ROWS_FOLDER),
        seeds=numbers,
        part=part,
        baselines=names,
    )
    negatives = load_ranker_recipe(recipe, overrides).negatives
    samples = ranking_data(read_data(data, columns), data, column_names(columns), negatives=negatives)
    records = run_ranker_ablation(samples, study, read_settings().home, default_device())
    typer.echo(json.dumps({"records": records}) if as_json else ablation_table(records))


@reports_errors
def attention(
    data: DataFolder,
    version: Version = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it, too: an SVG file.")] = None,
    most: Annotated[int, typer.Option("--most", min=1, help="Prompts that are read.")] = 256,
    split: SplitOption = "test",
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """The share of attention that a version's ranker gives to its soft tokens, layer by layer."""
    part = held_out(split)
    quiet_libraries()
    from model_store.default_device import default_device
    from model_store.errors import TesseraError
    from model_store.rankers.ranker_files import load_ranker
    from offline.rankers.attention_picture import draw_attention
    from offline.rankers.attention_shares import attention_shares
    from offline.rankers.publish_ranker import check_base
    from offline.rankers.ranking_data import ranking_data

    bundle = open_bundle(read_settings(), version)
    if bundle.ranker_path is None:
        raise TesseraError(f"version {bundle.version} has no ranker; `tessera rank train` publishes one")
    dataset = read_data(data, columns)
    check_base(bundle, dataset)
    ranker = load_ranker(bundle.ranker_path, bundle.catalog, default_device())
    found = attention_shares(ranker, ranking_data(dataset, data, column_names(columns)), part, most=most)
    if plot is not None:
        draw_attention(plot, found, f"{ranker.kind}, version {bundle.version}, {dataset.name}, {part} part")
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(
        f"{ranker.kind}, version {bundle.version}, {found['prompts']} prompts; share of attention on soft tokens"
    )
    typer.echo("layer  bias   answer: plain  steered   all places: plain  steered")
    for layer, bias in enumerate(found["biases"]):
        numbers = [found[how][place][layer] for place in ("answer", "prompt") for how in ("unsteered", "steered")]
        typer.echo(f"{layer + 1:5}  {bias:+.2f}  " + "  ".join(f"{number:13.4f}" for number in numbers))
    typer.echo(f"even          {found['even']['answer']:13.4f}                 {found['even']['prompt']:13.4f}")
