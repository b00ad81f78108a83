"""Surveying: what ``eval`` and ``calibrate`` share: a judge asked about every row."""

import hashlib
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from guard import judges
from guard.cli.text import one_line

if TYPE_CHECKING:
    from rich.progress import Progress

    from guard.dataset import Dataset
    from guard.gate import Gate
    from guard.judgement import Judgement

STOPPED = 130
"""The exit code after Ctrl-C."""


def default_path(data: Sequence[str], fingerprint: str) -> Path:
    """Where verdicts are kept unless told: in this folder, by the data's name and the judge."""
    more = f"+{len(data) - 1}" if len(data) > 1 else ""
    judge = hashlib.sha256(fingerprint.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return Path(f"{Path(data[0]).stem}{more}-{judge}.verdicts.jsonl")


@contextmanager
def surveyed(
    gate: "Gate",
    dataset: "Dataset",
    path: Path,
    *,
    workers: int,
    retry_unmeasured: bool = False,
) -> Generator["list[Judgement]"]:
    """Every row's judgement, with a progress bar; closes the judge.

    Ctrl-C, then or while they are worked with, ends the command, which says how to go on.
    """
    from guard.survey import survey

    bar = _Bar(len(dataset.rows))
    with _stoppable(bar, path):
        try:
            with bar.shown():
                judgements = survey(
                    gate,
                    dataset,
                    path=path,
                    workers=workers,
                    progress=bar,
                    retry_unmeasured=retry_unmeasured,
                )
        finally:
            judges.close(gate.judge)
        yield judgements


class _Bar:
    """How far a survey is; shown on a terminal, elsewhere only known.

    Attributes:
        done: rows that need not be asked again.
        total: rows.
    """

    def __init__(self, total: int) -> None:
        self.done, self.total = 0, total
        self._bar: Progress | None = None
        self._start: tuple[int, float] | None = None

    def __call__(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        if self._start is None:
            # What an earlier run measured says nothing about how fast this one is.
            self._start = done, time.perf_counter()
        if self._bar is not None:
            self._update(self._bar, self._start)

    def _update(self, bar: "Progress", start: tuple[int, float]) -> None:
        if not bar.task_ids:
            bar.add_task("rows", total=self.total, completed=self.done, rate="")
            return
        rate = (self.done - start[0]) / max(time.perf_counter() - start[1], 1e-9)
        bar.update(bar.task_ids[0], completed=self.done, rate=f"{rate:.1f}/s")

    @contextmanager
    def shown(self) -> Generator[None]:
        """Shows a bar on standard error, with rate and time left, if that is a terminal."""
        from rich import progress as parts
        from rich.console import Console

        console = Console(stderr=True)
        if not console.is_terminal:
            yield
            return
        columns = (
            parts.BarColumn(),
            parts.MofNCompleteColumn(),
            parts.TextColumn("{task.fields[rate]}"),
            parts.TimeRemainingColumn(),
        )
        with parts.Progress(*columns, console=console, transient=True) as self._bar:
            yield


@contextmanager
def _stoppable(bar: _Bar, path: Path) -> Generator[None]:
    """After Ctrl-C it says how to go on, and ends."""
    try:
        yield
    except KeyboardInterrupt:
        kept = one_line(f"{bar.done} of {bar.total} rows are kept in {path}.")
        typer.echo(f"rag-guard: stopped. {kept}", err=True)
        typer.echo("Run the same command again to go on from there.", err=True)
        raise typer.Exit(STOPPED) from None
