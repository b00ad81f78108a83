"""The command ``rag-guard``: one file in this folder for each subcommand.

A subcommand's file imports at its top only what is light (typer, the core); pydantic, openai, rich
and models are imported inside its functions, so that ``rag-guard --help`` stays quick.
"""

import io
import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from guard import __version__
from guard.cli import calibrate, check, demo, doctor, eval, label, outcome, replay, report, why
from guard.cli.text import one_line
from guard.errors import ConfigError, GuardError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    # Theirs prints local variables, and one of them may be a key.
    pretty_exceptions_enable=False,
    # Plain help: it quotes TOML and JSON, whose brackets are markup to rich.
    rich_markup_mode=None,
)

MISUSE, UNDECIDED = 2, 5


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rag-guard {__version__}")
        raise typer.Exit


_Version = Annotated[
    bool,
    typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True),
]


@app.callback()
def rag_guard(version: _Version = False) -> None:
    """Asks whether retrieved contexts hold the answer, before the answer is written."""


# Each further subcommand is one import and one line here.
app.command()(check.check)
app.command()(calibrate.calibrate)
app.command()(demo.demo)
app.command()(doctor.doctor)
app.command("eval")(eval.evaluate_files)
app.command()(label.label)
app.command()(replay.replay)
app.command()(report.report)
app.command()(outcome.outcome)
app.command()(why.why)


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line; always ends in ``SystemExit``, unless there is a bug.

    Args:
        args: the arguments; ``sys.argv`` unless given.
    """
    _survive_any_text()
    # The command's own output says what the log would say again.
    logging.getLogger("guard").addHandler(logging.NullHandler())
    try:
        app(args=args, prog_name="rag-guard")
    except GuardError as error:
        typer.echo(f"rag-guard: {one_line(error.message)}", err=True)
        if error.hint:
            typer.echo(one_line(error.hint), err=True)
        sys.exit(MISUSE if isinstance(error, ConfigError) else UNDECIDED)


def _survive_any_text() -> None:
    """A terminal that cannot show a character gets a stand-in, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
