"""Judged: labelled rows, asked of a judge through a gate, as an application would ask."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from data import Row
from tqdm import tqdm

from guard.gate import Gate
from guard.judge import Judge
from guard.odds import logit
from guard.policy import Policy
from guard.retry import Retry
from guard.windows import Windows

AT_MOST = 40
"""Windows of one query."""
_DEADLINE = 3600.0  # Seconds: what is measured is the judge, not this machine.


@dataclass(frozen=True, slots=True)
class Judged:
    """One row and what came of it.

    Attributes:
        p: P(sufficient) in (0, 1); ``None`` = not measured, which is never a number.
        why: the decision's reason.
        route: ``answer``, ``clarify`` or ``refuse``, by the judge's own profile if it has one.
    """

    row: Row
    p: float | None
    why: str
    route: str

    @property
    def odds(self) -> float:
        """The log-odds of a measured row, in nats."""
        assert self.p is not None
        return logit(self.p)


def measured_of(judged: Sequence[Judged]) -> list[Judged]:
    """Those that were measured."""
    return [each for each in judged if each.p is not None]


def gate_of(judge: Judge) -> Gate:
    """The gate that all figures come from: nothing is tried again, and no text is suspected."""
    policy = Policy(deadline=_DEADLINE, leave_out_suspects=False)
    return Gate(judge, policy, retry=Retry(attempts=1), windows=Windows(at_most=AT_MOST))


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
    p = None if decision.verdict is None else decision.verdict.p_true
    return Judged(row, p, decision.reason.value, str(decision.route))
