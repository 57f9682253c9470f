"""`tessera train` and what measures its results."""

import json
from typing import Annotated, Literal

import typer

from command_line.common import (
    AsJson,
    Columns,
    DataFolder,
    Version,
    open_bundle,
    quiet_libraries,
    read_data,
    read_settings,
    reports_errors,
)

commands = typer.Typer()

DEFAULT_RECIPE = "semantic-convergence"
RecipeOption = Annotated[str, typer.Option(help="Name of a recipe, or a TOML file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a setting: training.epochs=5. Repeatable.")
]
SplitOption = Annotated[str, typer.Option(help="test or valid.")]
BeamOption = Annotated[int, typer.Option(min=20, max=1000, help="Beams of the constrained decode.")]

ConstraintOption = Annotated[
    str,
    typer.Option(
        help="trie, or position to measure beside it a search by 20 beams without a trie, where each level allows all "
        "its code tokens, and the share of codes that name no item."
    ),
]


def held_out(split: str) -> Literal["valid", "test"]:
    """The split of that name; there are two."""
    if split not in ("test", "valid"):
        raise typer.BadParameter("test or valid", param_hint="--split")
    return split  # type: ignore[return-value]


def _constraint(name: str) -> Literal["trie", "position"]:
    if name not in ("trie", "position"):
        raise typer.BadParameter("trie or position", param_hint="--constraint")
    return name  # type: ignore[return-value]


def print_table(rows: dict[str, dict[str, float]]) -> None:
    """One line for each system, one column for each metric."""
    names = list(next(iter(rows.values())))
    typer.echo(f"  {'':15}" + "".join(f"{name:>18}" for name in names))
    for row, metrics in rows.items():
        typer.echo(f"  {row:15}" + "".join(f"{metrics[name]:18.4f}" for name in names))


@commands.command()
@reports_errors
def train(
    data: DataFolder,
    recipe: RecipeOption = DEFAULT_RECIPE,
    overrides: Overrides = None,
    columns: Columns = None,
) -> None:
    """Train and publish a version; the last line on stdout is its name. A killed run continues where it was."""
    quiet_libraries()
    from model_store.bundle import ModelStore
    from offline.recipe import load_recipe
    from offline.train import Run
    from offline.train import train as run_training

    settings = read_settings()
    chosen = load_recipe(recipe, overrides)
    store = ModelStore(settings.store)
    bundle = run_training(Run.create(read_data(data, columns), chosen, settings.home), store)
    if store.active() is None:
        store.activate(bundle.version)
        typer.echo(f"published and active: {bundle.path}", err=True)
    else:
        typer.echo(
            f"published: {bundle.path}; version {store.active()} stays active until "
            f"`tessera refresh --version {bundle.version}` has filled the cache",
            err=True,
        )
    typer.echo(bundle.version)


@commands.command()
@reports_errors
def evaluate(
    data: DataFolder,
    version: Version = None,
    split: SplitOption = "test",
    beam: BeamOption = 50,
    constraint: ConstraintOption = "trie",
    rank: Annotated[
        bool, typer.Option("--rank", help="Measure the version's ranker too, on the decoder's candidates.")
    ] = False,
    candidates: Annotated[int | None, typer.Option(min=20, max=1000, help="Of --rank: items it orders; 50.")] = None,
    rank_weight: Annotated[
        list[float] | None,
        typer.Option(min=0, max=1, help="Of --rank: its share of the order, a row for each; 1 by default. Repeatable."),
    ] = None,
    users: Annotated[int | None, typer.Option(min=1, help="Measure this many users; all by default.")] = None,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Recall and NDCG over all items, seen ones kept and excluded, beside the run's encoder (SASRec) and popularity."""
    chosen_split, chosen_constraint = held_out(split), _constraint(constraint)
    quiet_libraries()
    from model_store.decoders.torch_decoder import TorchDecoder
    from offline.evaluate import Reranking
    from offline.evaluate import evaluate as run_evaluation
    from offline.reranking import ranker_record

    if not rank and (rank_weight or candidates):
        raise typer.BadParameter("only with --rank", param_hint="--rank-weight" if rank_weight else "--candidates")
    bundle = open_bundle(read_settings(), version)
    reranking = None
    if rank:
        ranker_record(bundle)
        reranking = Reranking(candidates=candidates or Reranking.candidates, weights=tuple(rank_weight or (1.0,)))
    dataset = read_data(data, columns)
    decoder = TorchDecoder.from_bundle(bundle)
    result = run_evaluation(
        bundle,
        decoder,
        dataset,
        chosen_split,
        beam,
        constraint=chosen_constraint,
        reranking=reranking,
        users=users,
    )
    if as_json:
        typer.echo(json.dumps(result.as_dict()))
        return
    typer.echo(
        f"{result.dataset}, {result.split} split, {result.users} users, version {result.version}, all items ranked"
    )
    for protocol, systems in result.protocols.items():
        typer.echo({"all": "\nseen items kept", "unseen": "\nseen items excluded"}[protocol])
        print_table(systems)
        if chosen_constraint == "position":
            print_table(result.codes[protocol])
        if reranking is not None:
            share = result.among_candidates[protocol]
            typer.echo(f"  the {reranking.candidates} candidates hold the item of {share:.4f} of the users")


@commands.command("evaluate-queries")
@reports_errors
def evaluate_queries(
    data: DataFolder,
    version: Version = None,
    split: SplitOption = "test",
    beam: BeamOption = 50,
    users: Annotated[int | None, typer.Option(min=1, help="Measure this many users; all by default.")] = None,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """What a text query does to recommendations: with and without one, for held-out items."""
    chosen_split = held_out(split)
    quiet_libraries()
    from model_store.decoders.torch_decoder import TorchDecoder
    from offline.evaluate_queries import evaluate_queries as measure

    bundle = open_bundle(read_settings(), version)
    decoder = TorchDecoder.from_bundle(bundle)
    result = measure(bundle, decoder, read_data(data, columns), chosen_split, beam, users)
    if as_json:
        typer.echo(json.dumps(result.as_dict()))
        return
    typer.echo(f"{result.dataset}, {result.split} split, {result.users} users, {result.skipped} without a query")
    print_table(result.ways)
    if result.chance is not None:
        typer.echo(f"a random list keeps to the category with {result.chance:.4f} of its items")


@commands.command("evaluate-new-items")
@reports_errors
def evaluate_new_items(
    data: DataFolder,
    recipe: RecipeOption = DEFAULT_RECIPE,
    overrides: Overrides = None,
    share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the items to hide from training.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Of the choice of hidden items.")] = 0,
    split: SplitOption = "test",
    beam: BeamOption = 50,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """How well items added after training are recommended: hide some, train, add them, rank them."""
    chosen_split = held_out(split)
    quiet_libraries()
    from offline.evaluate_new_items import train_and_evaluate_new_items
    from offline.recipe import load_recipe

    chosen = load_recipe(recipe, overrides)
    dataset, home = read_data(data, columns), read_settings().home
    result = train_and_evaluate_new_items(
        dataset,
        chosen,
        home,
        share=share,
        seed=seed,
        split=chosen_split,
        beam_width=beam,
    )
    if as_json:
        typer.echo(json.dumps(result.as_dict()))
        return
    typer.echo(
        f"{result.dataset}, {result.split} split: {result.users} users whose next item is one of "
        f"{result.new_items} added items; {result.items} items in all"
    )
    for protocol, systems in result.protocols.items():
        typer.echo({"all": "\nall items ranked", "new": "\nnew items ranked"}[protocol])
        print_table(systems)


@commands.command()
@reports_errors
def ablate(
    data: DataFolder,
    recipe: RecipeOption = DEFAULT_RECIPE,
    rows: Annotated[
        str | None, typer.Option(help="Rows by recipe name, or a TOML file; the recipe's by default.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--row", help="Only this row. Repeatable.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting in every row: training.epochs=5. Repeatable.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Each row is trained once with each; comma separated.")] = "0",
    split: SplitOption = "test",
    beam: BeamOption = 50,
    columns: Columns = None,
    as_json: AsJson = False,
) -> None:
    """Train a recipe and its variants, and compare them with the baselines of the same run in one table."""
    chosen_split = held_out(split)
    try:
        numbers = tuple(int(seed) for seed in seeds.split(","))
    except ValueError:
        raise typer.BadParameter("integers, comma separated", param_hint="--seeds") from None
    quiet_libraries()
    from offline.ablation import Study, as_table, read_rows, run_study

    study = Study(
        recipe=recipe,
        overrides=tuple(overrides or ()),
        rows=read_rows(rows or recipe, tuple(only or ())),
        seeds=numbers,
        split=chosen_split,
        beam_width=beam,
    )
    records = run_study(read_data(data, columns), study, read_settings().home)
    typer.echo(json.dumps({"records": records}) if as_json else as_table(records))
