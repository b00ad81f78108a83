"""Judged: labelled rows, asked of a judge through a gate, as an application would ask."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from data import Row
from tqdm import tqdm

from guard.certification import Score
from guard.gate import Gate
from guard.judge import Judge
from guard.odds import logit
from guard.policy import Policy

_DEADLINE = 3600.0  # Seconds: what is measured is the judge, not this machine.


@dataclass(frozen=True, slots=True)
class Judged:
    """One row and what came of it.

    Attributes:
        p: P(sufficient) in (0, 1); ``None`` = not measured, which is never a number.
        why: the decision's reason.
        route: ``answer``, ``clarify`` or ``refuse``, by the judge's own profile if it has one.
        windows: into how many the contexts were divided.
        bounds: what decides about an answer, and about a refusal: P, and 1 where the judge has not
            seen all, so that nothing is refused; ``None`` = P is both.
    """

    row: Row
    p: float | None
    why: str
    route: str
    windows: int = 1
    bounds: tuple[float, float] | None = None

    @property
    def score(self) -> Score:
        """It as `guard.certification` takes it."""
        return self.p if self.bounds is None else self.bounds

    @property
    def odds(self) -> float:
        """The log-odds of a measured row, in nats."""
        assert self.p is not None
        return logit(self.p)


def measured_of(judged: Sequence[Judged]) -> list[Judged]:
    """Those that were measured."""
    return [each for each in judged if each.p is not None]


def gate_of(judge: Judge) -> Gate:
    """The gate that all figures come from: as it comes, but for its patience."""
    return Gate(judge, Policy(deadline=_DEADLINE))


def judged(
    judge: Judge, exams: Mapping[str, Sequence[Row]], *, at_once: int = 2, what: str = "rows"
) -> dict[str, list[Judged]]:
    """All rows, each exam by a gate of its own and in its own order.

    What a gate has learnt of how much its judge takes decides how it divides the next query, so
    that only then do figures not hang on which exams there are, and how many at once.
    """
    total = sum(words_of(row) for rows in exams.values() for row in rows)
    with tqdm(total=total, unit="word", unit_scale=True, desc=what, mininterval=1.0) as bar:
        ask = partial(_asked, judge, bar.update)
        with ThreadPoolExecutor(at_once) as pool:
            # The longest exam first, or one thread would end long after the other.
            order = sorted(exams, key=lambda name: -sum(map(words_of, exams[name])))
            found = dict(zip(order, pool.map(ask, (exams[name] for name in order)), strict=True))
    return {name: found[name] for name in exams}


def words_of(row: Row) -> int:
    """Words of a row, about what judging it takes."""
    return sum(len(text.split()) for text in (row.question, *row.contexts))


def seconds_for(judge: Judge, exams: Mapping[str, Sequence[Row]], *, at_once: int = 2) -> float:
    """About how long `judged` will take: by a row of each exam, and the words of all."""
    return sum(_seconds_for(judge, rows) for rows in exams.values() if rows) / at_once


def _seconds_for(judge: Judge, rows: Sequence[Row]) -> float:
    started = time.perf_counter()
    _asked(judge, lambda words: None, rows[:1])
    each = (time.perf_counter() - started) / max(1, words_of(rows[0]))
    return each * sum(map(words_of, rows))


def _asked(judge: Judge, tell: Callable[[int], object], rows: Sequence[Row]) -> list[Judged]:
    gate, found = gate_of(judge), list[Judged]()
    for row in rows:
        found.append(_one(gate, row))
        tell(words_of(row))
    return found


def _one(gate: Gate, row: Row) -> Judged:
    decision = gate.check(row.question, row.contexts)
    found, why, route = decision.verdict, decision.reason.value, str(decision.route)
    if found is None:
        return Judged(row, None, why, route)
    bounds = found.low, found.high if found.coverage == 1 else 1.0
    return Judged(row, found.p_true, why, route, found.windows, bounds)
