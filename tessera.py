"""The command line of Tessera.

Each command imports what it needs when it runs, so that `tessera serve` never loads torch and `--help` is quick.
Exit codes: 0 done, 1 could not (one line says what, where and what to do), 2 usage.
"""

import typer

from command_line import (
    backup,
    cache,
    events,
    export,
    items,
    keys,
    models,
    rank,
    rank_studies,
    refresh,
    serving,
    training,
    worker,
)

app = typer.Typer(
    help="Recommendations written by a language model, served in a millisecond.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (training, refresh, serving, backup, worker):
    app.add_typer(group.commands)
app.add_typer(cache.cache, name="cache")
app.add_typer(events.events, name="events")
app.add_typer(export.export, name="export")
app.add_typer(items.items, name="items")
app.add_typer(keys.keys, name="keys")
app.add_typer(models.models, name="models")
app.add_typer(rank.rank, name="rank")
rank.rank.command()(rank_studies.ablate)
rank.rank.command()(rank_studies.attention)


def main() -> None:
    """Run the command line."""
    app(prog_name="tessera")


if __name__ == "__main__":
    main()
