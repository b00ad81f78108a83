"""The command ``rag-guard``: one file in this folder for each subcommand.

A subcommand's file imports at its top only what is light (typer, the core); pydantic, openai, rich
and models are imported inside its functions, so that ``rag-guard --help`` stays quick.
"""

import io
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from guard import __version__
from guard.cli import (
    attack,
    calibrate,
    check,
    demo,
    doctor,
    eval,
    label,
    outcome,
    replay,
    report,
    why,
)
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
BROKEN_PIPE = 141
"""As a shell says it of a program that was ended by SIGPIPE: ``rag-guard … | head -1``."""


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
app.command()(attack.attack)
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
        _run(args)
    except SystemExit as ended:
        broken = _is_broken_pipe(ended)
        if not broken and _flushed():
            raise
        _let_go_of_output()
        # What was found before counts: a bar that is not met, say.
        sys.exit(BROKEN_PIPE if broken else ended.code or BROKEN_PIPE)


def _run(args: Sequence[str] | None) -> None:
    try:
        app(args=args, prog_name="rag-guard")
    except GuardError as error:
        with suppress(BrokenPipeError):
            typer.echo(f"rag-guard: {one_line(error.message)}", err=True)
            if error.hint:
                typer.echo(one_line(error.hint), err=True)
        sys.exit(MISUSE if isinstance(error, ConfigError) else UNDECIDED)
    except BrokenPipeError:  # While typer told of a misuse.
        sys.exit(BROKEN_PIPE)


def _is_broken_pipe(ended: SystemExit) -> bool:
    """Whether a run ended since nobody reads on: typer and rich make that an exit with 1."""
    cause = ended.__context__ if ended.code == 1 else None
    while cause is not None and not isinstance(cause, BrokenPipeError):
        cause = cause.__context__
    return cause is not None


def _flushed() -> bool:
    """Writes what is left to be written; ``False`` = nobody reads it any more."""
    try:
        for err in (False, True):
            typer.echo(nl=False, err=err)
    except BrokenPipeError:
        return False
    return True


def _let_go_of_output() -> None:
    """What is left in buffers goes nowhere; else Python would complain when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _survive_any_text() -> None:
    """A terminal that cannot show a character gets a stand-in, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
