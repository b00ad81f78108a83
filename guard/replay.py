"""A replay: past verdicts, routed anew by another policy; no judge is asked."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product

from guard.audit_file import Record
from guard.decision import Reason, Route
from guard.outcomes import Outcome
from guard.policy import Policy
from guard.rate import Change, Rate, Shift
from guard.routing import Routed, route_unmeasured, route_verdict
from guard.thresholds import Thresholds
from guard.verdict import Verdict

UNDECIDED = "undecided"
"""In place of a route: the policy was, or would be, to raise."""

ROUTES = (*(route.value for route in Route), UNDECIDED)


@dataclass(frozen=True, slots=True)
class Replayed:
    """One record, and what would have become of it.

    Attributes:
        record: as it was kept.
        routed: where it would have gone.
    """

    record: Record
    routed: Routed

    @property
    def before(self) -> str:
        """The route that was recorded, or `UNDECIDED`."""
        return self.record.route or UNDECIDED

    @property
    def after(self) -> str:
        """The route that it would have taken, or `UNDECIDED`."""
        return UNDECIDED if self.routed.route is None else self.routed.route.value

    @property
    def changed(self) -> bool:
        """Whether it would have gone elsewhere."""
        return self.before != self.after

    @property
    def is_without_unknown(self) -> bool:
        """Whether it would be asked back for its suspects, without which nobody judged it."""
        verdict = self.record.verdict
        of_suspects = self.routed.reason is Reason.SUSPECT_PASSAGES
        return of_suspects and verdict is not None and verdict.low_without is None

    def to_dict(self) -> dict[str, object]:
        """It as JSON-ready values."""
        found = self.routed.probability
        return {
            "id": self.record.id,
            "time": self.record.time.isoformat(),
            "before": self.before,
            "after": self.after,
            "reason_before": self.record.reason,
            "reason_after": self.routed.reason.value,
            "probability_before": self.record.probability,
            "probability_after": None if found is None else found.p,
            "question_hash": self.record.question_hash,
        }


Router = Callable[[Verdict, str | None], Routed]
"""From a verdict and the question's language to a route, as `guard.Gate.route`."""


def replay(
    records: Iterable[Record],
    policy: Policy,
    route: Router | None = None,
    *,
    as_recorded: bool = False,
) -> Iterator[Replayed]:
    """Routes records anew, one by one, through the very lines that route live queries.

    With the gate that ran, every route, reason and probability is what the record has. A verdict is
    what it was: what another judge, prompt or cache would have said is not known. Nor is what a
    query is worth without its suspects where it was not judged so: it is asked back where it would
    be answered with them. A conversation that had asked back as often as it may stays settled where
    it would ask back again.

    Args:
        records: of decisions, e.g. those of a `guard.audit_file.Audit`.
        policy: thresholds, and where to send what was not measured.
        route: of what was measured, e.g. a gate's `route`; ``None`` = by the policy's thresholds.
        as_recorded: whether queries without a verdict keep their route, whatever the policy says.
    """
    route = route or partial(route_verdict, policy, None)
    for record in records:
        yield Replayed(record, _routed(record, policy, route, as_recorded))


def _routed(record: Record, policy: Policy, route: Router, as_recorded: bool) -> Routed:
    if record.verdict is not None:
        routed = route(record.verdict, record.lang)
        settled = record.reason == Reason.CLARIFICATIONS_SPENT
        if settled and routed.route is Route.CLARIFY and record.route is not None:
            return replace(routed, route=Route(record.route), reason=Reason(record.reason))
        return routed
    if as_recorded:
        went = None if record.route is None else Route(record.route)
        cuts = Thresholds(record.answer_at, record.refuse_below)
        return Routed(went, Reason(record.reason), cuts)
    return route_unmeasured(policy, Reason(record.reason))


# ── What changes ─────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Tally:
    """Counts over a replay, in memory that does not grow with it.

    Attributes:
        moves: how many queries by route before and after.
        unmeasured: how many of them had no verdict to rely on, as recorded.
        without_unknown: how many would be asked back since something in them speaks to the judge,
            and they were not judged without it: they would not have been answered then.
        judges: how many by the fingerprint of the judge that measured them.
        sufficient, insufficient: the moves of those with such an outcome.
        wrong, helpful: the moves of those whose answer was written, and called so. In shadow an
            answer is written whatever the route.
        deployments: how many by deployment.
    """

    moves: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    unmeasured: int = 0
    without_unknown: int = 0
    judges: Counter[str] = field(default_factory=Counter[str])
    sufficient: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    insufficient: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    wrong: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    helpful: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    deployments: Counter[str | None] = field(default_factory=Counter[str | None])

    def add(self, replayed: Replayed, outcome: Outcome | None = None) -> None:
        """Counts one query, with what was later said of it."""
        move = replayed.before, replayed.after
        self.moves[move] += 1
        record = replayed.record
        self.unmeasured += Reason(record.reason).unmeasured
        self.without_unknown += replayed.is_without_unknown
        self.deployments[record.deployment] += 1
        if record.verdict is not None:
            self.judges[record.verdict.fingerprint] += 1
        if outcome is None:
            return
        if outcome.sufficient is not None:
            (self.sufficient if outcome.sufficient else self.insufficient)[move] += 1
        if outcome.helpful is not None:
            (self.helpful if outcome.helpful else self.wrong)[move] += 1

    @property
    def n(self) -> int:
        """How many queries."""
        return self.moves.total()

    @property
    def changed(self) -> int:
        """How many would have gone elsewhere."""
        return sum(count for (before, after), count in self.moves.items() if before != after)

    def share(self, route: str) -> tuple[Rate, Rate, Change]:
        """Of all queries, those that take a route: before, after, and the change."""
        before, after = (self._count(self.moves, route, place) for place in (0, 1))
        stayed = self.moves[route, route]
        change = Change(after - stayed, before - stayed, self.n)
        return Rate(before, self.n), Rate(after, self.n), change

    def leak(self) -> tuple[Rate, Rate, Shift]:
        """P(insufficient | answered) before and after, over answered queries with such outcomes."""
        return self._of_answered(self.insufficient, self.sufficient)

    def false_refusal(self) -> tuple[Rate, Rate, Change]:
        """P(refused | sufficient) before and after, over queries with such outcomes."""
        total = self.sufficient.total()
        before, after = (self._count(self.sufficient, "refuse", place) for place in (0, 1))
        stayed = self.sufficient["refuse", "refuse"]
        change = Change(after - stayed, before - stayed, total)
        return Rate(before, total), Rate(after, total), change

    def wrong_answers(self) -> tuple[Rate, Rate, Shift]:
        """P(wrong | answered) before and after, over answers that somebody judged.

        Of an answer that was never written nobody knows whether it would have been wrong.
        """
        return self._of_answered(self.wrong, self.helpful)

    def helpful_lost(self) -> tuple[Rate, Rate, Change]:
        """P(not answered | helpful) before and after, over answers that were called helpful.

        In shadow these were written all the same: users whom the gate would have turned away.
        """
        total = self.helpful.total()
        before, after = (self._count(self.helpful, "answer", place) for place in (0, 1))
        stayed = self.helpful["answer", "answer"]
        change = Change(before - stayed, after - stayed, total)
        return Rate(total - before, total), Rate(total - after, total), change

    def _of_answered(
        self, bad: Counter[tuple[str, str]], good: Counter[tuple[str, str]]
    ) -> tuple[Rate, Rate, Shift]:
        rates = list[Rate]()
        for place in (0, 1):
            events = self._count(bad, "answer", place)
            rates.append(Rate(events, events + self._count(good, "answer", place)))
        cells = [
            (count, event, tuple(route == "answer" for route in move))
            for event, moves in ((True, bad), (False, good))
            for move, count in moves.items()
        ]
        return rates[0], rates[1], Shift.of(rates[0], rates[1], cells)

    @staticmethod
    def _count(moves: Counter[tuple[str, str]], route: str, place: int) -> int:
        pairs = product(ROUTES, ROUTES)
        return sum(moves[pair] for pair in pairs if pair[place] == route)

    def to_dict(self) -> dict[str, object]:
        """All of it as JSON-ready values."""
        rates: dict[str, tuple[Rate, Rate, Change | Shift]] = {
            "leak": self.leak(),
            "false_refusal": self.false_refusal(),
            "wrong_answers": self.wrong_answers(),
            "helpful_lost": self.helpful_lost(),
        }
        return {
            "n": self.n,
            "changed": self.changed,
            "unmeasured": self.unmeasured,
            "without_unknown": self.without_unknown,
            "judges": dict(self.judges),
            "deployments": {name or "none": n for name, n in self.deployments.items()},
            "routes": {
                route: dict(
                    zip(("before", "after", "change"), _dicts(self.share(route)), strict=True)
                )
                for route in ROUTES
            },
            "moves": [
                {"before": before, "after": after, "n": count}
                for (before, after), count in sorted(self.moves.items())
            ],
            **{
                name: dict(zip(("before", "after", "change"), _dicts(found), strict=True))
                for name, found in rates.items()
            },
        }


def _dicts(values: Iterable[Rate | Change | Shift]) -> list[dict[str, object]]:
    return [value.to_dict() for value in values]
