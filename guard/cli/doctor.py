"""``rag-guard doctor``: what an endpoint can do as a judge, and the lines to write for it."""

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from guard import judges
from guard.cli.options import (
    ApiKeyEnv,
    ApiVersion,
    BaseUrl,
    Config,
    DeploymentName,
    ModelFamily,
    given,
)
from guard.cli.text import plain

if TYPE_CHECKING:
    from rich.console import Console

    from guard.doctor import Report

EXIT_CODES = {"can judge": 0, "only with": 0, "not known": 5, "cannot": 6}
"""Exit code by conclusion."""

_MARKS = {
    "ok": ("green", "ok"),
    "warn": ("yellow", "warn"),
    "bad": ("red", "bad"),
    "unknown": ("dim", "?"),
}
_COLOURS = {"can judge": "green", "only with": "yellow", "cannot": "red", "not known": "magenta"}


def doctor(
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"{', '.join(judges.KNOWN)} or one of your own.",
        ),
    ] = None,
    base_url: BaseUrl = None,
    model_family: ModelFamily = None,
    api_version: ApiVersion = None,
    api_key_env: ApiKeyEnv = None,
    config: Config = None,
    deployment: DeploymentName = None,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.1, max=3600, help="For each of its judgements."),
    ] = 30.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as JSON and nothing else.")
    ] = False,
) -> None:
    """Finds out what an endpoint can do as a judge, and prints the lines to put into guard.toml.

    It makes about a dozen calls with texts of its own: is it reachable, does it return logprobs,
    how many, does it tell two known cases apart, does the order of the labels matter, what does it
    do with long prompts. Where it gives no logprobs, what else works at that address is tried.

    The exit code is 0 if this judge can judge, as it is or with what is printed; 6 if it cannot,
    even where lines for another one are printed; 5 if that could not be found out (not reachable,
    key refused, unknown model); 2 for misuse.
    """
    from rich.console import Console

    from guard.config import load_gate, resolve
    from guard.doctor import examine

    options = given(
        judge=judge,
        base_url=base_url,
        model_family=model_family,
        api_version=api_version,
        api_key_env=api_key_env,
    )
    name, keys = resolve(config, deployment, options=options)
    gate = load_gate(config, deployment=deployment, options=options, audit=False)
    try:
        with _progress(Console(stderr=True)) as progress:
            report = examine(
                gate.judge,
                keys,
                route=lambda verdict: gate.route(verdict, None),
                name=name,
                time_limit=timeout,
                progress=progress,
            )
    except KeyboardInterrupt:
        typer.echo("rag-guard: stopped; nothing was established.", err=True)
        raise typer.Exit(130) from None
    finally:
        judges.close(gate.judge)
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    else:
        _show(report, Console(emoji=False, highlight=False, markup=False))
    raise typer.Exit(EXIT_CODES[report.conclusion])


@contextmanager
def _progress(console: "Console") -> Generator[Callable[[str], None]]:
    """Shows on a terminal what is being done; elsewhere nothing."""
    if not console.is_terminal:
        yield lambda _what: None
        return
    with console.status("starting") as status:
        yield lambda what: status.update(plain(what))


def _show(report: "Report", console: "Console") -> None:
    """Prints a report for people: a table of findings, the conclusion, the lines to paste."""
    from rich.table import Table
    from rich.text import Text

    where = f" at {report.address}" if report.address else ""
    console.print(plain(f"{report.judge}{where}"), style="bold")
    table = Table.grid(padding=(0, 2, 0, 0))
    for finding in report.findings:
        colour, mark = _MARKS[finding.state]
        name = finding.name.replace("_", " ")
        table.add_row(Text(mark, colour), Text(name), Text(plain(finding.detail)))
    console.print(table)
    console.print()
    colour = _COLOURS[report.conclusion]
    said = (report.conclusion.upper(), f"bold {colour}")
    console.print(Text.assemble(said, "  ", plain(report.because)))
    for need in report.needs:
        console.print(Text(f"- {plain(need)}"))
    if report.known is not None:
        console.print(Text(f"\nHearsay (docs/judges.md): {plain(report.known)}", "dim"))
    _show_lines(report, console)


def _show_lines(report: "Report", console: "Console") -> None:
    from rich.text import Text

    if report.instead is not None:
        console.print(Text(f"Use instead: {plain(report.instead)}"))
    if report.toml is not None:
        console.print(Text("\nFor guard.toml:\n"))
        # Not wrapped: these lines are there to be pasted.
        console.print(Text(plain(report.toml)), soft_wrap=True)
