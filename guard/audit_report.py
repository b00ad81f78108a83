"""A report of an audit: what was decided, and what people later said of it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from guard.audit_file import Audit, Record
from guard.decision import Reason, Route
from guard.errors import ConfigError
from guard.evaluation import BASELINES, percent
from guard.outcomes import Outcome
from guard.points import Point, Points
from guard.policy import DEFAULT_THRESHOLDS
from guard.profile import Profile
from guard.query import Query
from guard.rate import Rate
from guard.report import Report
from guard.report_parts import (
    ROUTES,
    WILSON,
    Parts,
    Row,
    Table,
    certificate_words,
    certified_by,
    fixed,
    interval,
    moment,
    share,
    texts_told,
    told,
    uncalibrated,
)
from guard.thresholds import Thresholds

_ADD_OUTCOMES = (
    "No record has a label yet, so nobody can see here how often the gate was wrong. Add what "
    "people found: rag-guard outcome ID sufficient|insufficient --audit FILE, or many at once with "
    "--from FILE; then make the report again."
)


def of_audit(
    audit: Audit,
    *,
    name: str | None = None,
    profile: Profile | None = None,
    texts: bool = False,
    made: datetime | None = None,
) -> Report:
    """A report of what was decided.

    A record has a label where an outcome says whether its contexts were sufficient.

    Args:
        audit: the records.
        name: what it is called: the deployment, say.
        profile: whose certificate is shown; records hold none.
        texts: whether mistakes are shown with the texts that the audit keeps of them, if it does.
        made: when; ``None`` = now.

    Raises:
        ConfigError: there is no record.
    """
    log = _Log(audit.records(), audit.outcomes())
    if not log.rows:
        raise ConfigError(
            "The audit holds no such record.", hint="Name another file, or a longer time."
        )
    parts = Parts(log.rows, certified_by(profile))
    return Report(
        title=f"{name or 'Audit'}: what was decided",
        points=parts.points,
        thresholds=log.thresholds,
        content={
            **parts.content(_texts(audit, parts) if texts else None),
            "subtitle": f"Audit of {len(log.rows):,} decisions, {log.first} to {log.last}",
            "alerts": [*log.alerts(profile), *_broken(audit.broken)],
            "headline": list(log.headline()),
            "certificate": _certificate(profile),
            "baselines": _baselines(log.labelled),
            "interval_note": _interval_note(log, parts.points),
            "about": [*log.about(), ("Made", moment(made)), texts_told(texts)],
        },
        tables=[log.table(), parts.unmeasured_table()],
    )


def _texts(audit: Audit, parts: Parts) -> dict[str, Query]:
    ids = [row.id for _, _, rows in parts.mistakes() for row in rows]
    kept = audit.texts(ids)
    return {id: Query(question, contexts) for id, (question, contexts) in kept.items()}


def _certificate(profile: Profile | None) -> list[str]:
    if profile is None:
        return ["Records hold no certificate; --profile FILE shows that of a profile."]
    certified = certified_by(profile)
    if certified is None:
        return ["There is none: the profile's thresholds were set, not certified."]
    return certificate_words(certified)


def _broken(lines: int) -> Iterable[str]:
    if lines:
        yield f"{lines:,} half lines, which a crash left, are not counted."


def _interval_note(log: "_Log", points: Points) -> str:
    note = WILSON
    if len(log.questions) < len(log.rows):
        note += (
            f" These {len(log.rows):,} records are of {len(log.questions):,} questions, so they "
            "are too narrow."
        )
    if labelled := int(points.labelled.sum()):
        note += (
            f" Leaks and false refusals are of the {labelled:,} records with a label: unless those "
            "were drawn by lot, they are not the rates of all."
        )
    return note


def _baselines(rows: Sequence[Row]) -> dict[str, object]:
    good = sum(row.point.sufficient is True for row in rows)
    table = [
        ["this gate", told(_leaks(rows)), told(_false_refusals(rows))],
        [BASELINES[0], told(Rate(len(rows) - good, len(rows))), told(Rate(0, good))],
        [BASELINES[1], told(Rate(0, 0)), told(Rate(good, good))],
    ]
    heads = ["who decides", "leaks", "false refusals"]
    words = ["A gate must beat what costs nothing. Word overlap needs texts, which records lack."]
    caption = "Of the records with a label"
    return {"words": words, "table": {"caption": caption, "heads": heads, "rows": table}}


def _leaks(rows: Sequence[Row]) -> Rate:
    return Rate(sum(row.is_leak for row in rows), _count(rows, Route.ANSWER))


def _false_refusals(rows: Sequence[Row]) -> Rate:
    good = sum(row.point.sufficient is True for row in rows)
    return Rate(sum(row.is_false_refusal for row in rows), good)


def _count(rows: Sequence[Row], route: Route | None) -> int:
    return sum(row.route is route for row in rows)


def _row(record: Record, outcome: Outcome | None) -> Row:
    label = None if outcome is None else outcome.sufficient
    route = None if record.route is None else Route(record.route)
    low, high, verdict = record.low, record.high, record.verdict
    stale = record.reason == Reason.STALE_PROFILE
    if low is None or high is None or stale:
        point = Point(fixed=fixed(route), sufficient=label)
    else:
        partial = verdict is not None and verdict.coverage < 1
        point = Point(low, high, partial=partial, sufficient=label)
    return Row(
        id=record.id,
        point=point,
        p=record.probability if point.fixed is None else None,
        missing=None if point.fixed is None else record.reason,
        route=route,
        hashes=(record.question_hash, record.contexts_hash),
        lang=record.lang,
        day=record.time.astimezone(UTC).date().isoformat(),
    )


class _Log:
    """Records as rows, and what they have in common.

    Attributes:
        rows: in the order of the records.
        questions: their hashes, each once.
    """

    def __init__(self, records: Iterator[Record], outcomes: Mapping[str, Outcome]) -> None:
        self.rows: list[Row] = []
        self.questions = set[str]()
        self._judges, self._profiles = Counter[str](), Counter[str | None]()
        self._pairs = Counter[Thresholds]()
        self._outcomes = list[Outcome]()
        self._enforced = self._calibrated = self._measured = 0
        for record in records:
            outcome = outcomes.get(record.id)
            self._outcomes += [] if outcome is None else [outcome]
            self._add(record, _row(record, outcome))

    def _add(self, record: Record, row: Row) -> None:
        self.rows.append(row)
        self.questions.add(record.question_hash)
        self._judges[record.fingerprint] += 1
        self._enforced += record.enforced
        if row.p is not None:
            self._measured += 1
            self._calibrated += record.calibrated
            self._profiles[record.profile] += 1
            self._pairs[Thresholds(record.answer_at, record.refuse_below)] += 1

    @property
    def thresholds(self) -> Thresholds:
        """Those that most records were decided by."""
        most = self._pairs.most_common(1)
        return most[0][0] if most else DEFAULT_THRESHOLDS

    @property
    def first(self) -> str:
        """The first day."""
        return min(row.day or "" for row in self.rows)

    @property
    def last(self) -> str:
        """The last day."""
        return max(row.day or "" for row in self.rows)

    @property
    def labelled(self) -> list[Row]:
        """Records with a label."""
        return [row for row in self.rows if row.point.sufficient is not None]

    def alerts(self, profile: Profile | None) -> Iterable[str]:
        """What must be known first."""
        yield from uncalibrated(self._calibrated == self._measured, self._measured)
        if not self.labelled:
            yield _ADD_OUTCOMES
        if not self._enforced:
            yield "Nothing was enforced (shadow mode): every answer was let through."
        elif self._enforced < len(self.rows):
            yield f"{self._enforced:,} of {len(self.rows):,} decisions were enforced, no others."
        if others := self._measured - self._pairs[self.thresholds]:
            yield (
                f"{others:,} of {self._measured:,} measured records were decided by other "
                "thresholds than the sliders begin at; the sliders apply one pair to all."
            )
        if profile is not None and (others := self._measured - self._profiles[profile.name]):
            yield (
                f"{others:,} of {self._measured:,} measured records were not decided with the "
                "profile whose certificate is shown."
            )

    def headline(self) -> Iterable[str]:
        """What was decided, and how often people found it wrong."""
        total = len(self.rows)
        routes = ", ".join(
            f"{rate.events:,} {name} ({percent(rate.events / total)})"
            for name, rate in self._routes().items()
            if rate.events
        )
        yield f"Of {total:,} decisions: {routes}."
        if rows := self.labelled:
            yield (
                f"People looked at the contexts of {len(rows):,}. Of those answered, "
                f"{told(_leaks(rows))} lack the evidence; of those sufficient, "
                f"{told(_false_refusals(rows))} are refused."
            )
        helpful = [each.helpful for each in self._outcomes if each.helpful is not None]
        if helpful:
            wrong = helpful.count(False)
            yield f"Of {len(helpful):,} answers that people judged, {wrong:,} were called wrong."

    def _routes(self) -> dict[str, Rate]:
        total = len(self.rows)
        counts = {name: _count(self.rows, Route(route)) for route, name in ROUTES.items()}
        counts["raised as errors"] = _count(self.rows, None)
        return {name: Rate(count, total) for name, count in counts.items()}

    def table(self) -> Table:
        """Routes as they were recorded."""
        rows = [
            [name, f"{rate.events:,}", share(rate.value), interval(rate) or "–"]
            for name, rate in self._routes().items()
        ]
        return "As recorded", ["route", "records", "share", "95 % interval (Wilson)"], rows

    def about(self) -> list[tuple[str, str]]:
        """What the report is made of."""
        profiles = {str(name or "none"): count for name, count in self._profiles.items()}
        thresholds = self.thresholds
        state = "yes" if self._calibrated == self._measured else "no (calibrated: false)"
        return [
            ("Judges", _most(self._judges)),
            ("Profiles", _most(profiles)),
            (
                "Calibrated",
                f"{state}: {self._calibrated:,} of {self._measured:,} measured records",
            ),
            ("Answer at", repr(thresholds.answer_at)),
            ("Refuse below", repr(thresholds.refuse_below)),
            (
                "Records",
                f"{len(self.rows):,} on {len(self.questions):,} questions, {self.first} to "
                f"{self.last}; {self._measured:,} measured, {len(self.labelled):,} with a label",
            ),
        ]


def _most(counts: Mapping[str, int]) -> str:
    """The five most frequent, with their counts."""
    listed = [f"{name} ({count:,})" for name, count in Counter(counts).most_common(5)]
    return "; ".join(listed) or "none"
