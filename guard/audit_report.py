"""A report of an audit: what was decided, and what people later said of it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from math import isclose

from guard.audit_file import Audit, Record
from guard.decision import Reason, Route
from guard.errors import ConfigError
from guard.evaluation import BASELINES
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
    Extents,
    Parts,
    Row,
    Table,
    are,
    certificate_words,
    certified_by,
    counted,
    fixed,
    interval,
    moment,
    other_routes,
    queries,
    reason_words,
    share,
    texts_told,
    told,
    were,
)
from guard.thresholds import Thresholds

_RAISED = "raised as errors"

_ADD_OUTCOMES = (
    "Note what people found: rag-guard outcome ID sufficient|insufficient --audit FILE, or many at "
    "once with --from FILE; then make this report again."
)

_JUDGED = {
    "passed": "that passed the gate",
    "stopped": "that the gate would have refused or asked back",
    "raised": "that the gate would have raised as errors",
}
"""Answers that were written, by what the gate made of them."""


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
        profile: whose certificate is shown; records hold none. Its promise is void where records
            were judged, calibrated or routed otherwise.
        texts: whether mistakes are shown with the texts that the audit keeps of them, if it does.
        made: when; ``None`` = now.

    Raises:
        ConfigError: there is no record.
    """
    log = _Log(audit.records(), audit.outcomes(), profile)
    if not log.rows:
        raise ConfigError(
            "The audit holds no such query.", hint="Name another file, or a longer time."
        )
    void = list(log.void())
    parts = Parts(log.rows, certified_by(profile), void)
    return Report(
        title=f"{name or 'Audit'}: what was decided",
        points=parts.points,
        thresholds=log.thresholds,
        content={
            **parts.content(_texts(audit, parts) if texts else None),
            "subtitle": f"Audit of {queries(len(log.rows))}, {log.first} to {log.last}",
            "alerts": [
                *parts.alerts(log.calibrated, enforced=log.all_enforced),
                *log.alerts(),
                *_broken(audit.broken),
            ],
            "headline": [
                *log.headline(parts),
                *log.answers(),
                *log.asked_back(),
                *log.suspects(),
            ],
            "asked_back": log.asked_back_drawn(),
            "next": _next(log, parts, profile),
            "would": not log.all_enforced,
            "certificate": _certificate(profile, void),
            "baselines": _baselines(log.labelled),
            "interval_note": _interval_note(log, parts.points),
            "about": [*log.about(), ("Made", moment(made)), texts_told(texts)],
        },
        tables=[log.table(), log.asked_back_table(), parts.unmeasured_table()],
    )


def _texts(audit: Audit, parts: Parts) -> dict[str, Query]:
    ids = [row.id for _, _, rows in parts.mistakes() for row in rows]
    kept = audit.texts(ids)
    return {id: Query(question, contexts) for id, (question, contexts) in kept.items()}


def _certificate(profile: Profile | None, void: Sequence[str]) -> list[str]:
    if profile is None:
        return [
            "Nothing is promised of these thresholds here: rag-guard calibrate looks for some that "
            "can be certified, and --profile FILE shows the certificate of a profile that has one."
        ]
    certified = certified_by(profile)
    if certified is None:
        return [
            "There is none, so nothing is promised: the profile's thresholds were set, not "
            "certified; rag-guard calibrate looks for some that can be."
        ]
    return certificate_words(certified, void)


def _next(log: "_Log", parts: Parts, profile: Profile | None) -> str:
    if parts.measured and not log.labelled:
        return _ADD_OUTCOMES
    if parts.measured and log.calibrated and profile is None:
        return "See what is promised: make this report again with --profile FILE."
    if parts.measured and log.judged_otherwise:
        return (
            "Name the profile that these queries were routed with (--profile), and only the time "
            "in which they were (--since, --until)."
        )
    if found := parts.next_step(log.calibrated):
        return found
    if log.all_enforced:
        return "Keep noting outcomes, and make this report again: what is promised is of the past."
    if log.none_enforced:
        return "Enforce the gate for a few with canary = 0.1 in its configuration, then for all."
    return "Raise canary step by step, as long as what people find is within the promise."


def _broken(lines: int) -> Iterable[str]:
    if lines:
        half = counted(lines, "half line")
        yield f"{half}, which a crash left, {are(lines)} not counted."


def _interval_note(log: "_Log", points: Points) -> str:
    note = WILSON
    different = len(log.questions)
    if different < len(log.rows):
        note += (
            f" Only {different:,} of these {queries(len(log.rows))} {are(different)} "
            "different, so they are too narrow."
        )
    if labelled := int(points.labelled.sum()):
        note += (
            f" Leaks and false refusals are of the {queries(labelled)} with a label: unless drawn "
            "by lot, they are not the rates of all."
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
    words = ["A gate must beat what costs nothing. Word overlap needs texts, which an audit lacks."]
    caption = "Of the queries with a label"
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


def _thresholds(record: Record) -> Thresholds:
    return Thresholds(record.answer_at, record.refuse_below)


def _otherwise(profile: Profile, record: Record) -> str | None:
    """How a measured record differs from what the profile makes of it; ``None`` = in nothing."""
    verdict, probability = record.verdict, record.probability
    if verdict is None or probability is None:
        return None
    if difference := profile.difference(verdict, record.lang):
        return difference
    used, own = _thresholds(record), profile.thresholds
    if used != own:
        return (
            f"routed at {used.answer_at:.6g} and {used.refuse_below:.6g}, not at "
            f"{own.answer_at:.6g} and {own.refuse_below:.6g}"
        )
    if not isclose(profile.calibrated(verdict).p, probability, abs_tol=1e-6):
        return "another calibrator"
    return None


def _seen(record: Record) -> str:
    """What the user saw."""
    if not record.enforced:
        return ROUTES["answer"]
    return _RAISED if record.route is None else ROUTES[record.route]


def _written(record: Record) -> str | None:
    """What the gate made of an answer that was written, of `_JUDGED`; ``None`` = none was."""
    if record.route == Route.ANSWER:
        return "passed"
    if record.enforced:
        return None
    return "raised" if record.route is None else "stopped"


class _Log:
    """Records as rows, and what they have in common.

    Attributes:
        rows: in the order of the records.
        questions: their hashes, each once.
    """

    def __init__(
        self,
        records: Iterator[Record],
        outcomes: Mapping[str, Outcome],
        profile: Profile | None,
    ) -> None:
        self.rows: list[Row] = []
        self.questions = set[str]()
        self._judges, self._profiles = Counter[str](), Counter[str | None]()
        self._pairs = Counter[Thresholds]()
        self._profile, self._otherwise = profile, Counter[str]()
        self._unmeasured = set[tuple[str, str]]()
        self._seen = Counter[str]()
        self._judged = Counter[tuple[str | None, bool]]()
        self._extents, self._asked_back, self._spent = Extents(), Counter[str](), 0
        self._enforced = self._calibrated = self._measured = 0
        for record in records:
            outcome = outcomes.get(record.id)
            self._add(record, _row(record, outcome))
            self._seen[_seen(record)] += 1
            if outcome is not None and outcome.helpful is not None:
                self._judged[_written(record), outcome.helpful] += 1

    def _add(self, record: Record, row: Row) -> None:
        self.rows.append(row)
        self.questions.add(record.question_hash)
        self._judges[record.fingerprint] += 1
        self._enforced += record.enforced
        self._extents.add(record.verdict)
        if record.route == Route.CLARIFY:
            self._asked_back[record.reason] += 1
        self._spent += record.reason == Reason.CLARIFICATIONS_SPENT
        if row.p is not None:
            self._measured += 1
            self._calibrated += record.calibrated
            self._profiles[record.profile] += 1
            self._pairs[_thresholds(record)] += 1
            if self._profile is not None and (why := _otherwise(self._profile, record)):
                self._otherwise[why] += 1
        else:
            self._unmeasured.add((record.reason, record.route or "raise"))

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
    def all_enforced(self) -> bool:
        """Whether every route was acted on."""
        return self._enforced == len(self.rows)

    @property
    def none_enforced(self) -> bool:
        """Whether no route was acted on."""
        return not self._enforced

    @property
    def calibrated(self) -> bool:
        """Whether a calibrator stands behind all that was measured."""
        return self._calibrated == self._measured

    @property
    def judged_otherwise(self) -> int:
        """Measured records of which the profile promises nothing: another made them."""
        return self._otherwise.total()

    @property
    def labelled(self) -> list[Row]:
        """Records with a label."""
        return [row for row in self.rows if row.point.sufficient is not None]

    def void(self) -> Iterable[str]:
        """Why the profile's promise does not hold for these records."""
        if others := self.judged_otherwise:
            yield (
                f"{self._of_measured(others)} {were(others)} not judged and routed as the profile "
                f"does it, so that it promises nothing of them: {_most(self._otherwise)}."
            )
        certified = certified_by(self._profile)
        if certified is None:
            return
        broken = {
            kind
            for reason, route in self._unmeasured
            for kind in certified.certificate.broken_by({reason: route})
        }
        if broken:
            yield other_routes(sorted(broken))

    def alerts(self) -> Iterable[str]:
        """What else must be known first."""
        profile = self._profile
        if not self.labelled:
            yield self._unlabelled()
        if self.none_enforced:
            yield "Nothing was enforced (shadow mode): every answer was let through."
        elif not self.all_enforced:
            yield (
                f"The gate was enforced for {self._enforced:,} of {queries(len(self.rows))}; the "
                "others were answered whatever it said."
            )
        if others := self._measured - self._pairs[self.thresholds]:
            yield (
                f"{self._of_measured(others)} {were(others)} routed by other thresholds than the "
                "sliders begin at; the sliders apply one pair to all."
            )
        if profile is not None and (others := self._measured - self._profiles[profile.name]):
            yield (
                f"{self._of_measured(others)} {were(others)} not routed with the profile whose "
                "certificate is shown."
            )

    def _of_measured(self, some: int) -> str:
        return f"{some:,} of {counted(self._measured, 'measured query', 'measured queries')}"

    def _unlabelled(self) -> str:
        if judged := self._judged.total():
            return (
                f"{counted(judged, 'outcome')} {are(judged)} about answers, none about contexts; "
                "leaks and false refusals need sufficient or insufficient (rag-guard outcome)."
            )
        return "No query has an outcome yet, so nobody can see here how often the gate was wrong."

    def headline(self, parts: Parts) -> Iterable[str]:
        """What users saw, what the gate did or would have done, and how often it was wrong."""
        total = len(self.rows)
        routes = ", ".join(self._told(parts))
        if self.all_enforced:
            yield f"Of {queries(total)}: {routes}."
        elif self.none_enforced:
            all_of_them = f"all {total:,} were" if total > 1 else "the one query was"
            yield f"Had the gate been enforced: {routes}. In fact {all_of_them} answered."
        else:
            yield f"Users saw: {', '.join(self._saw())}. {self._would(parts)}"
        if rows := self.labelled:
            yield self._wrong(rows)

    def _told(self, parts: Parts) -> Iterable[str]:
        """Routes with their shares."""
        for (name, rate), route in zip(self._routes().items(), (*Route, None), strict=True):
            if rate.events:
                missing = parts.not_measured(route) if route is not None else ""
                inside = [share(rate.value), *([missing] if missing else [])]
                yield f"{rate.events:,} {name} ({'; '.join(inside)})"

    def _saw(self) -> Iterable[str]:
        for name in ("refused", "asked back", _RAISED, "answered"):
            if self._seen[name] or name in ("refused", "asked back"):
                yield f"{self._seen[name]:,} {name}"

    def _would(self, parts: Parts) -> str:
        """What would have been seen, had all been enforced."""
        told = list[str]()
        for route in (Route.REFUSE, Route.CLARIFY, Route.ANSWER):
            missing = parts.not_measured(route)
            inside = f" ({missing})" if missing else ""
            told.append(f"{ROUTES[route]} {_count(self.rows, route):,}{inside}")
        if undecided := _count(self.rows, None):
            told.append(f"raised {undecided:,} as errors")
        return f"The gate would have {', '.join(told[:-1])} and {told[-1]}."

    def _wrong(self, rows: Sequence[Row]) -> str:
        """How often people found it wrong."""
        leaks, refusals = _leaks(rows), _false_refusals(rows)
        whose, verb = ("Of those answered", "are refused")
        if not self.all_enforced:
            whose, verb = "Of those the gate would answer", "would be refused"
        parts = [f"People judged the contexts of {queries(len(rows))}."]
        if leaks.n:
            parts.append(f"{whose}, {told(leaks)} lack the evidence.")
        if refusals.n:
            parts.append(f"Of those with sufficient contexts, {told(refusals)} {verb}.")
        return " ".join(parts)

    def asked_back(self) -> Iterable[str]:
        """Why the gate asked back, or would have; and where it could not any more."""
        if back := self._asked_back.total():
            reasons = self._asked_back.most_common()
            listed = ", ".join(f"{reason_words(reason)} {count:,}" for reason, count in reasons)
            yield f"Why {queries(back)} {self._were(back)} asked back: {listed}."
        if spent := self._spent:
            yield (
                f"{queries(spent)} more would have been, but {were(spent)} refused: in a "
                "conversation only so many questions back are asked."
            )

    def asked_back_table(self) -> Table:
        """The same by reason, as shares of all queries."""
        total = len(self.rows)
        rows = [
            [reason_words(reason), f"{count:,}", share(Rate(count, total).value)]
            for reason, count in self._asked_back.most_common()
        ]
        return f"Why queries {self._were(2)} asked back", ["why", "queries", "share of all"], rows

    def asked_back_drawn(self) -> dict[str, object] | None:
        """The table as the page draws it; ``None`` where nobody was asked back."""
        caption, heads, rows = self.asked_back_table()
        return {"caption": caption, "heads": heads, "rows": rows} if rows else None

    def _were(self, number: int) -> str:
        return were(number) if self.all_enforced else "would have been"

    def answers(self) -> Iterable[str]:
        """What people said of answers, by what the gate made of these."""
        for written, words in _JUDGED.items():
            helpful, wrong = (self._judged[written, each] for each in (True, False))
            if count := helpful + wrong:
                yield (
                    f"{counted(count, 'answer')} {words} {were(count)} judged: "
                    f"{helpful:,} helpful, {wrong:,} wrong."
                )
        if others := self._judged[None, True] + self._judged[None, False]:
            yield (
                f"{counted(others, 'outcome')} on answers {are(others)} left out: the gate "
                "had refused those queries or asked back, so that no answer was written."
            )

    def suspects(self) -> Iterable[str]:
        """In how many queries something speaks to the judge, and what came of it."""
        if found := self._extents.suspect:
            back = self._asked_back[Reason.SUSPECT_PASSAGES]
            yield (
                f"Passages or turns that speak to the judge were found in {found:,} of "
                f"{queries(len(self.rows))}; {back:,} {self._were(back)} asked back because of "
                "them."
            )

    def _routes(self) -> dict[str, Rate]:
        total = len(self.rows)
        counts = {name: _count(self.rows, Route(route)) for route, name in ROUTES.items()}
        counts[_RAISED] = _count(self.rows, None)
        return {name: Rate(count, total) for name, count in counts.items()}

    def table(self) -> Table:
        """Routes as they were recorded."""
        rows = [
            [name, f"{rate.events:,}", share(rate.value), interval(rate) or "–"]
            for name, rate in self._routes().items()
        ]
        caption = "As routed" if self.all_enforced else "As routed, had the gate been enforced"
        return caption, ["route", "queries", "share", "95 % interval (Wilson)"], rows

    def about(self) -> list[tuple[str, str]]:
        """What the report is made of."""
        profiles = {str(name or "none"): count for name, count in self._profiles.items()}
        thresholds = self.thresholds
        state = "yes" if self.calibrated else "no (calibrated: false)"
        return [
            ("Judges", _most(self._judges)),
            ("Profiles", _most(profiles)),
            (
                "Calibrated",
                f"{state}: {self._of_measured(self._calibrated)}",
            ),
            ("Answer at", repr(thresholds.answer_at)),
            ("Refuse below", repr(thresholds.refuse_below)),
            (
                "Queries",
                f"{len(self.rows):,}, {len(self.questions):,} of them different, {self.first} to "
                f"{self.last}; {self._measured:,} measured, {len(self.labelled):,} with a label",
            ),
            *self._extents.about(),
        ]


def _most(counts: Mapping[str, int]) -> str:
    """The five most frequent, with their counts."""
    listed = [f"{name} ({count:,})" for name, count in Counter(counts).most_common(5)]
    return "; ".join(listed) or "none"
