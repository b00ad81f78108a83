"""Surveying: what ``eval``, ``calibrate`` and ``label`` share: a judge asked about every row."""

import hashlib
import json
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from guard import judges
from guard.cli.paths import looked_at
from guard.cli.text import one_line

if TYPE_CHECKING:
    from rich.progress import Progress

    from guard.dataset import Dataset, Row
    from guard.gate import Gate
    from guard.judgement import Judgement

STOPPED = 130
"""The exit code after Ctrl-C."""

SAID_EVERY_SECONDS = 30.0
"""How often it is said how far a survey is, where there is no terminal for a bar."""


def share(text: str) -> float:
    """The number in [0, 1] that an option is given, e.g. ``.05``."""
    with suppress(ValueError):
        if 0 <= (found := float(text)) <= 1:
            return found
    raise typer.BadParameter(f"{one_line(text)!r} is no number from 0 to 1: 5 % is .05.")


def default_path(data: Sequence[str], fingerprint: str) -> Path:
    """Where verdicts are kept unless told: in this folder, by the data's files and the judge.

    Raises:
        ConfigError: a file of the data cannot be looked at.
    """
    more = f"+{len(data) - 1}" if len(data) > 1 else ""
    stem = Path(data[0]).stem[:_LONGEST_STEM]
    rows, judge = _digest(list(map(_own_path, data))), _digest(fingerprint)
    return Path(f"{stem}{more}-{rows}-{judge}.verdicts.jsonl")


_LONGEST_STEM = 50  # Characters of up to four bytes; a name has 255.


def _own_path(file: str) -> str:
    """Files of one name are told apart; a pipe's own path is another at each call."""
    with looked_at("DATA", file):
        path = Path(file)
        return str(path.resolve()) if path.is_file() else file


def _digest(value: str | list[str]) -> str:
    # JSON escapes lone surrogates, which UTF-8 cannot hold.
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]


@contextmanager
def closed_if_wrong(gate: "Gate") -> Generator[None]:
    """Closes the judge where what comes between it and a survey fails."""
    try:
        yield
    except BaseException:
        judges.close(gate.judge)
        raise


@contextmanager
def surveyed(
    gate: "Gate",
    dataset: "Dataset",
    path: Path | None,
    *,
    workers: int = 8,
    retry_unmeasured: bool = False,
    starting: "Callable[[Sequence[Row]], object] | None" = None,
) -> Generator["list[Judgement]"]:
    """Every row's judgement, with a progress bar; closes the judge.

    Ctrl-C, then or while they are worked with, ends the command, which says how to go on.

    Args:
        path: keeps the judgements; ``None`` = nothing does.
        workers, retry_unmeasured, starting: see `guard.survey.survey`.
    """
    from guard.survey import survey

    bar = Bar(len(dataset.rows), path)
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
                    starting=starting,
                )
        finally:
            judges.close(gate.judge)
        yield judgements


class Bar:
    """How far a survey is: a bar on a terminal, elsewhere a line every half a minute.

    Args:
        total: rows.
        path: what keeps them, if anything.
        clock: seconds.

    Attributes:
        done: rows that need not be asked again.
    """

    def __init__(
        self, total: int, path: Path | None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.done, self.total, self.path = 0, total, path
        self._clock = clock
        self._bar: Progress | None = None
        self._start: tuple[int, float] | None = None
        self._said = 0.0

    def __call__(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        if self._start is None:
            # What an earlier run measured says nothing about how fast this one is.
            self._start = done, self._clock()
            self._said = self._start[1]
            self._begin()
        if self._bar is not None:
            self._update(self._bar, self._start)
        elif self._clock() - self._said >= SAID_EVERY_SECONDS:
            self._said = self._clock()
            left = (self.total - done) / max(self._rate(self._start), 1e-9)
            say(f"{done:,} of {self.total:,}, about {_minutes(left)} left")

    def _begin(self) -> None:
        if self.done and self.path is not None:
            left = self.total - self.done
            asking = f"asking {left:,}" if left else "nothing is left to ask"
            say(f"{self.done:,} of {self.total:,} rows kept in {self.path}; {asking}.")

    def _update(self, bar: "Progress", start: tuple[int, float]) -> None:
        if not bar.task_ids:
            bar.add_task("rows", total=self.total, completed=self.done, rate="")
            return
        bar.update(bar.task_ids[0], completed=self.done, rate=f"{self._rate(start):.1f}/s")

    def _rate(self, start: tuple[int, float]) -> float:
        """Rows a second."""
        return (self.done - start[0]) / max(self._clock() - start[1], 1e-9)

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


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def say(text: str) -> None:
    """Tells whoever runs the command, beside its output."""
    typer.echo(f"rag-guard: {one_line(text)}", err=True)


@contextmanager
def _stoppable(bar: Bar, path: Path | None) -> Generator[None]:
    """After Ctrl-C it says how to go on, and ends."""
    try:
        yield
    except KeyboardInterrupt:
        if path is None:
            say("stopped. Nothing is kept: name a file with --verdicts.")
        else:
            say(f"stopped. {bar.done} of {bar.total} rows are kept in {path}.")
            typer.echo("Run the same command again to go on from there.", err=True)
        raise typer.Exit(STOPPED) from None
