"""The parts of a report: what its page draws of rows, whether of an evaluation or of an audit."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np

from guard import metrics
from guard.certificate import Bound, Certified
from guard.decision import Reason, Route
from guard.evaluation import HISTOGRAM_BINS, Figure, percent
from guard.metrics import Bin, Scored
from guard.page import embedded
from guard.points import Fixed, Point, Points
from guard.profile import Profile
from guard.query import Query
from guard.rate import Rate
from guard.thresholds import Thresholds
from guard.verdict import Verdict

WORST = 20
"""Mistakes of each kind that are shown."""
CURVE_POINTS = 200
LONGEST_QUESTION, LONGEST_CONTEXT, MOST_CONTEXTS = 600, 1200, 5
"""Characters, characters, passages: of the texts shown."""
MISTAKE_BYTES = 600_000
"""Of the list of mistakes in the file: beside 10,000 rows, it leaves the page below a megabyte."""
_MOST_BINS = 400  # Days, then weeks, that are drawn one by one.

ROUTES = {"answer": "answered", "clarify": "asked back", "refuse": "refused"}
_TILES = {"coverage": Route.ANSWER, "clarify_rate": Route.CLARIFY, "refuse_rate": Route.REFUSE}

DEFINITIONS = (
    ("Leak", "answered although the passages do not hold the answer."),
    ("False refusal", "refused although the passages hold the answer."),
    ("P(True)", "how sure the judge is that the passages hold the answer, from 0 to 1."),
)

Table = tuple[str, Sequence[str], list[list[str]]]
"""Caption, heads, rows."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data set, or one record of an audit.

    Attributes:
        id: of the row or record.
        point: what thresholds see of it.
        p: its probability; ``None`` = not measured, or the profile is not for it.
        missing: why there is none (`guard.Reason`).
        route: what was done with it; ``None`` = undecided.
        hashes: of question and contexts; empty = not known.
        group, lang: ``None`` = not known.
        day: in UTC, ISO 8601; ``None`` = of no account.
    """

    id: str
    point: Point
    p: float | None
    missing: str | None
    route: Route | None
    hashes: tuple[str, ...] = ()
    group: str | None = None
    lang: str | None = None
    day: str | None = None

    @property
    def is_leak(self) -> bool:
        """Whether it was answered, but insufficient."""
        return self.route is Route.ANSWER and self.point.sufficient is False

    @property
    def is_false_refusal(self) -> bool:
        """Whether it was refused, but sufficient."""
        return self.route is Route.REFUSE and self.point.sufficient is True


def fixed(route: Route | None) -> Fixed:
    """A route that no threshold moves, for a `guard.points.Point`."""
    return "undecided" if route is None else route.value


class Parts:
    """What the page draws of rows.

    Args:
        rows: at least one.
        certified: thresholds with a promise; ``None`` = there are none.
        void: why that promise does not hold for these rows, in sentences; empty = it may.

    Attributes:
        points: the rows, as thresholds move them.
        measured: how many rows have a probability.
    """

    def __init__(
        self, rows: Sequence[Row], certified: Certified | None, void: Sequence[str] = ()
    ) -> None:
        self.points = Points(row.point for row in rows)
        self.measured = sum(row.p is not None for row in rows)
        self._rows, self._certified, self._void = rows, certified, void

    def content(self, texts: Mapping[str, Query] | None) -> dict[str, object]:
        """JSON-ready values.

        Args:
            texts: of mistakes, by id; ``None`` = they are not to be shown.
        """
        scored = self._scored()
        return {
            "labelled": bool(self.points.labelled.any()),
            "all_labelled": bool(self.points.labelled.all()),
            "certified": _promised(self._certified) if self._certified and not self._void else None,
            "uncertified": _VOID if self._void else _UNCERTIFIED,
            "definitions": DEFINITIONS,
            "measured": self.measured > 0,
            "not_measured": self._tiles(),
            "histogram": self._histogram(),
            "curve": _curve(scored),
            "reliability": _reliability(metrics.reliability(scored), len(scored)),
            "mistakes": self._mistakes(texts),
            "unmeasured": self._unmeasured(),
        }

    def _measured(self) -> list[tuple[float, bool | None]]:
        return [(row.p, row.point.sufficient) for row in self._rows if row.p is not None]

    def _scored(self) -> Scored:
        known = [(p, label) for p, label in self._measured() if label is not None]
        return Scored([p for p, _ in known], [label for _, label in known])

    def _histogram(self) -> list[list[int]]:
        """By tenth of P(True): insufficient, sufficient, without a label."""
        edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
        columns = [
            np.histogram([p for p, label in self._measured() if label is wanted], edges)[0].tolist()
            for wanted in (False, True, None)
        ]
        return [list(counts) for counts in zip(*columns, strict=True)]

    # ── What must be known first, and done next ──────────────────────────────────────────────────

    def alerts(self, calibrated: bool, *, enforced: bool = True) -> Iterable[str]:
        """What must be said first of probabilities that are none, or not calibrated."""
        if not self.measured:
            yield self._nothing_measured(enforced)
        elif not calibrated:
            yield (
                "Not calibrated: P(True) is the judge's own number, and may be far from the share "
                "of queries that are sufficient. rag-guard calibrate mends that."
            )
        yield from self._void

    def _nothing_measured(self, enforced: bool) -> str:
        asked = [row for row in self._rows if row.missing != Reason.NO_CONTEXTS]
        if not asked:
            return "Nothing was retrieved for any query, so the judge was never asked."
        kinds = Counter(reason_words(row.missing or "unknown") for row in asked)
        told = ", ".join(f"{kind}: {count:,}" for kind, count in kinds.most_common())
        which = "the one query" if len(asked) == 1 else f"any of the {queries(len(asked))}"
        those = "" if len(asked) == len(self._rows) else " that it was asked about"
        usable = " to go by" if Reason.STALE_PROFILE in (row.missing for row in asked) else ""
        went = "They went" if enforced else "Where the gate is enforced they go"
        return (
            f"The judge gave no verdict{usable} on {which}{those} ({told}). "
            f"{went} where {_senders(asked)} them: {_sent(asked)}."
        )

    def next_step(self, calibrated: bool) -> str | None:
        """What to do next; ``None`` = thresholds are certified, and nothing speaks against them."""
        if not self.measured:
            return self._to_measure()
        if not calibrated or self._certified is None:
            return (
                "Calibrate on labelled queries (rag-guard label makes them): rag-guard calibrate "
                "makes P(True) a probability, and looks for thresholds that can be certified."
            )
        if self._void:
            return (
                "Judge and route as when it was certified, or certify anew (rag-guard calibrate): "
                "the promise is void, see above."
            )
        certificate = self._certified.certificate
        shares = self.points.shares(self._certified.thresholds)
        promised = {"leak": certificate.leak, "false_refusal": certificate.false_refusal}
        if any(_above(shares[name], bound) for name, bound in promised.items()):
            return (
                "Enforce no more than now: these queries show more than is promised. Label new "
                "ones (rag-guard label), and certify anew (rag-guard calibrate)."
            )
        return None

    def _to_measure(self) -> str:
        reasons = {row.missing for row in self._rows}
        if reasons == {Reason.NO_CONTEXTS.value}:
            return "Look at the retriever, which found nothing."
        if Reason.STALE_PROFILE.value in reasons:
            return "Make a profile for this judge: rag-guard calibrate."
        return "Find out what the judge's endpoint answers: rag-guard doctor."

    def not_measured(self, route: Route | None) -> str:
        """How many of a route have no probability, in words; empty = none."""
        missing = [row.missing for row in self._rows if row.route is route and row.missing]
        empty = missing.count(Reason.NO_CONTEXTS.value)
        counts = {"not measured": len(missing) - empty, "with nothing retrieved": empty}
        told = ", ".join(f"{count:,} {words}" for words, count in counts.items() if count)
        return f"of them {told}" if told else ""

    def _tiles(self) -> dict[str, str]:
        return {name: self.not_measured(route) for name, route in _TILES.items()}

    # ── Mistakes ─────────────────────────────────────────────────────────────────────────────────

    def mistakes(self) -> list[tuple[str, str, list[Row]]]:
        """Both kinds, the surest first: title, words, rows."""
        leaks = [row for row in self._rows if row.is_leak]
        refusals = [row for row in self._rows if row.is_false_refusal]
        leaks.sort(key=lambda row: (row.p is None, -(row.p or 0.0)))
        refusals.sort(key=lambda row: (row.p is None, row.p or 0.0))
        return [
            ("Leaks, the surest first", _how_many(leaks), leaks[:WORST]),
            ("False refusals, the surest first", _how_many(refusals), refusals[:WORST]),
        ]

    def _mistakes(self, texts: Mapping[str, Query] | None) -> dict[str, object]:
        stand = ", wherever the sliders stand" if self.measured else ""
        words = [f"Mistakes as the gate routed them{stand}."]
        if texts is None:
            words.append("Texts are left out; --texts puts questions and passages in.")
        lists, part = self._lists(texts, 1.0), 1.0
        while texts and (size := len(embedded({"lists": lists}).encode())) > MISTAKE_BYTES:
            part *= 0.95 * MISTAKE_BYTES / size
            lists = self._lists(texts, part)
        return {"words": [*words, *self._left_out(texts or {}, part)], "lists": lists}

    def _lists(self, texts: Mapping[str, Query] | None, part: float) -> list[dict[str, object]]:
        """Both kinds, with no more than ``part`` of the longest texts that are shown."""
        return [
            {"title": title, "words": told, "list": [_shown(row, texts, part) for row in rows]}
            for title, told, rows in self.mistakes()
        ]

    def _left_out(self, texts: Mapping[str, Query], part: float) -> Iterable[str]:
        ids = {row.id for _, _, rows in self.mistakes() for row in rows}
        shown = [query for id, query in texts.items() if id in ids]
        total = sum(len(query.question) + sum(map(len, query.contexts)) for query in shown)
        if left_out := total - sum(_kept(query, part) for query in shown):
            yield (
                f"Of {total:,} characters of their questions and passages, {left_out:,} are left "
                "out, so that the page stays small."
            )

    # ── What was not measured ────────────────────────────────────────────────────────────────────

    def _unmeasured(self) -> dict[str, object]:
        caption, heads, rows = self.unmeasured_table()
        total = sum(row.missing not in (None, Reason.NO_CONTEXTS) for row in self._rows)
        words = [
            f"Of {queries(len(self._rows))}, the judge was asked about {total:,} "
            f"({percent(total / len(self._rows))}) in vain, or its profile is not for them. No "
            "threshold moves them: the policy says where they go."
            if total
            else "Every query that the judge was asked about was measured."
        ]
        kinds = {"caption": caption, "heads": heads, "rows": rows}
        return {"words": words, "kinds": kinds, "days": self._days()}

    def unmeasured_table(self) -> Table:
        """By reason: how many rows, and where they went."""
        reasons = Counter(row.missing for row in self._rows if row.missing is not None)
        rows = [
            [
                reason_words(reason),
                f"{count:,}",
                percent(count / len(self._rows)),
                self._went(reason),
            ]
            for reason, count in reasons.most_common()
        ]
        return "Queries without a probability", ["why", "queries", "share", "where they go"], rows

    def _went(self, reason: str) -> str:
        routes = Counter(row.route for row in self._rows if row.missing == reason)
        return ", ".join(
            f"{count:,} {'undecided' if route is None else ROUTES[route.value]}"
            for route, count in routes.most_common()
        )

    def _days(self) -> dict[str, object] | None:
        """Rows by day and kind, only days that have some; ``None`` where there are no days.

        Over long times by week or month: one wrong clock would make a million of empty days.
        """
        dated = [(date.fromisoformat(row.day), row.missing) for row in self._rows if row.day]
        if not dated:
            return None
        unit = _unit([day for day, _ in dated])
        placed = [(*_bin_of(day, unit), missing) for day, missing in dated]
        bins = sorted({(at, name) for at, name, _ in placed})
        totals = Counter(at for at, _, _ in placed)
        counts = Counter((at, missing) for at, _, missing in placed)
        kinds = Counter(missing for _, _, missing in placed if missing is not None)
        series: list[object] = [{"name": "all", "counts": [totals[at] for at, _ in bins]}]
        series += [
            {"name": reason_words(kind), "counts": [counts[at, kind] for at, _ in bins]}
            for kind, _ in kinds.most_common()
        ]
        first = bins[0][0]
        return {
            "unit": unit,
            "length": bins[-1][0] - first + 1,
            "at": [at - first for at, _ in bins],
            "dates": [name for _, name in bins],
            "series": series,
        }


def _unit(days: Sequence[date]) -> str:
    span = (max(days) - min(days)).days + 1
    return "day" if span <= _MOST_BINS else "week" if span <= 7 * _MOST_BINS else "month"


def _bin_of(day: date, unit: str) -> tuple[int, str]:
    """The number and the name of the day, week or month that a day is in."""
    if unit == "month":
        return 12 * day.year + day.month, day.isoformat()[:7]
    if unit == "week":
        monday = day.toordinal() - day.weekday()
        return monday // 7, date.fromordinal(monday).isoformat()
    return day.toordinal(), day.isoformat()


def reason_words(reason: str) -> str:
    """A `guard.Reason` in words."""
    return "nothing retrieved" if reason == Reason.NO_CONTEXTS else reason.replace("_", " ")


def _how_many(rows: Sequence[Row]) -> str:
    if not rows:
        return "None."
    without = sum(row.p is None for row in rows)
    shown = f"{len(rows):,} in all" + (f", {WORST} shown" if len(rows) > WORST else "")
    return f"{shown}; {without:,} of them not measured." if without else f"{shown}."


def _shown(row: Row, texts: Mapping[str, Query] | None, part: float) -> dict[str, object]:
    query = None if texts is None else texts.get(row.id)
    return {
        "name": f"P(True) {row.p:.4f}" if row.p is not None else _unknown(row),
        "facts": [*_facts(row), *(_digests(row) if query is None else ())],
        "question": None if query is None else _shortened(query.question, _longest(part)[0]),
        "contexts": [] if query is None else _contexts(query.contexts, _longest(part)[1]),
    }


def _longest(part: float) -> tuple[int, int]:
    """Characters of a question and of a passage."""
    return int(part * LONGEST_QUESTION), int(part * LONGEST_CONTEXT)


def _kept(query: Query, part: float) -> int:
    """How many characters are shown."""
    question, context = _longest(part)
    passages = query.contexts[:MOST_CONTEXTS]
    return min(len(query.question), question) + sum(min(len(each), context) for each in passages)


def _unknown(row: Row) -> str:
    return f"Without P(True): {reason_words(row.missing or 'unknown')}"


def _facts(row: Row) -> Iterable[str]:
    if row.p is not None and row.point.low < row.point.high:
        yield f"between {row.point.low:.4f} and {row.point.high:.4f}"
    yield f"id {_shortened(row.id, 100)}"
    if row.group is not None:
        yield f"group {_shortened(row.group, 100)}"
    if row.lang is not None:
        yield f"language {_shortened(row.lang, 40)}"
    if row.day is not None:
        yield row.day


def _digests(row: Row) -> Iterable[str]:
    for what, digest in zip(("question", "contexts"), row.hashes, strict=False):
        yield f"{what} SHA-256 {digest[:16]}…"


def _contexts(contexts: Sequence[str], most: int) -> list[str]:
    shown = [_shortened(text, most) for text in contexts[:MOST_CONTEXTS]]
    more = len(contexts) - len(shown)
    told = f"[{counted(more, 'more passage')} {are(more)} left out.]"
    return [*shown, told] if more else shown


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} … [cut, {len(text):,} characters]"


class Extents:
    """How much of their contexts verdicts are of, and in how many something is suspect: counts.

    Attributes:
        verdicts: how many were counted.
        suspect: those of queries that hold a passage, or a turn, that speaks to the judge.
    """

    def __init__(self) -> None:
        self.verdicts = self.suspect = 0
        self._windows = self._partial = self._unseen = 0

    @classmethod
    def of(cls, verdicts: Iterable[Verdict | None]) -> "Extents":
        """Of all verdicts that there are."""
        counts = cls()
        for verdict in verdicts:
            counts.add(verdict)
        return counts

    def add(self, verdict: Verdict | None) -> None:
        """Counts one more; ``None`` = not measured."""
        if verdict is not None:
            self.verdicts += 1
            self.suspect += verdict.has_suspects
            self._windows += verdict.windows > 1
            self._partial += verdict.coverage < 1
            self._unseen += verdict.seen < 1

    def about(self) -> Iterable[tuple[str, str]]:
        """Name and words, only of what there is."""
        told = {
            "judged in several windows": self._windows,
            "with less than all contexts judged at once": self._partial,
            "with contexts that were never judged": self._unseen,
        }
        if words := [f"{count:,} {what}" for what, count in told.items() if count]:
            yield "Long sets", f"Of {self._measured}: {'; '.join(words)}"
        if self.suspect:
            what = "with passages or turns that speak to the judge"
            yield "Suspects", f"Of {self._measured}: {self.suspect:,} {what}"

    @property
    def _measured(self) -> str:
        return counted(self.verdicts, "measured query", "measured queries")


# ── Charts ───────────────────────────────────────────────────────────────────────────────────────


def cuts(thresholds: Thresholds) -> dict[str, float]:
    """Two thresholds, JSON-ready."""
    return {"answer_at": thresholds.answer_at, "refuse_below": thresholds.refuse_below}


_UNCERTIFIED = (
    "No thresholds are certified here, so nothing is promised of any; rag-guard calibrate looks "
    "for some that can be."
)
_VOID = "The promise is void here, see the top of the page: nothing is promised of any thresholds."
_NOTHING = ["No query with a label was measured."]


def _curve(scored: Scored) -> dict[str, object]:
    """Coverage, risk and threshold, the highest threshold first; and what it says."""
    if not len(scored):
        return {"points": [], "words": _NOTHING}
    area = float(metrics.aurc(scored))
    words = [
        "Each point is a threshold: how many of the measured queries it would answer, and how many "
        f"of those lack the evidence. Lower is better; the area under it is {area:.4f}.",
        f"All that is drawn here is of the {_measured_with_label(len(scored))}: no threshold moves "
        "the others, so shares of all queries, above, are others.",
        " ".join(_coverage(scored, risk) for risk in (0.05, 0.10)),
    ]
    return {"points": _curve_points(scored), "words": words}


def _measured_with_label(number: int) -> str:
    return counted(number, "measured query with a label", "measured queries with a label")


def _coverage(scored: Scored, risk: float) -> str:
    share = float(metrics.coverage_at_risk(scored, risk))
    return f"Where {percent(risk)} may lack evidence, {percent(share)} can be answered."


def _curve_points(scored: Scored) -> list[list[float]]:
    ties = scored.ties(None)
    coverage = np.cumsum(ties.all) / len(scored)
    every = np.column_stack([coverage, ties.risk, np.unique(scored.scores)[::-1]])
    kept = np.unique(np.linspace(0, len(every) - 1, CURVE_POINTS).round().astype(np.intp))
    points: list[list[float]] = every[kept].round(6).tolist()
    return points


def _reliability(bins: Sequence[Bin], rows: int) -> dict[str, object]:
    if not bins:
        return {"bins": [], "words": _NOTHING}
    error = sum(each.rows * abs(each.probability - each.sufficient) for each in bins) / rows
    words = [
        f"{counted(rows, 'measured query', 'measured queries')} in "
        f"{counted(len(bins), 'bin')} of about equal size. On the dashed line, eight in ten "
        f"queries with P(True) .8 are sufficient; the mean distance from it is {error:.3f}."
    ]
    return {"bins": [list(_bin(each)) for each in bins], "words": words}


def _bin(each: Bin) -> Iterable[float]:
    """Rows, mean probability, share that is sufficient, and that share's interval."""
    low, high = Rate(round(each.sufficient * each.rows), each.rows).interval or (0.0, 1.0)
    return each.rows, each.probability, each.sufficient, low, high


# ── Words ────────────────────────────────────────────────────────────────────────────────────────


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and what it counts: ``"1 query"``, ``"2,000 queries"``."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def queries(number: int) -> str:
    """So many queries."""
    return counted(number, "query", "queries")


def are(number: int) -> str:
    """``"is"`` of one, ``"are"`` of others."""
    return "is" if number == 1 else "are"


def were(number: int) -> str:
    """``"was"`` of one, ``"were"`` of others."""
    return "was" if number == 1 else "were"


def _senders(rows: Sequence[Row]) -> str:
    """The settings that send rows without a probability somewhere."""
    stale = sum(row.missing == Reason.STALE_PROFILE for row in rows)
    if stale:
        return "on_stale sends" if stale == len(rows) else "on_unmeasured and on_stale send"
    return "on_unmeasured sends"


def _sent(rows: Sequence[Row]) -> str:
    """The routes of rows, with their counts where there are several."""
    routes = Counter("raise" if row.route is None else row.route.value for row in rows)
    if len(routes) == 1:
        return next(iter(routes))
    return ", ".join(f"{route} ({count:,})" for route, count in routes.most_common())


def _above(seen: Rate, promised: Bound) -> bool:
    """Whether more was seen than a promise allows, and not by chance."""
    return seen.interval is not None and seen.interval[0] > promised.most


def certified_by(profile: Profile | None) -> Certified | None:
    """A profile's thresholds with their certificate; ``None`` = it has none."""
    if profile is None or profile.certificate is None:
        return None
    return Certified(profile.thresholds, profile.certificate)


def _promised(found: Certified) -> dict[str, object]:
    """Certified thresholds and what is promised of them, JSON-ready."""
    certificate = found.certificate
    most = {"leak": certificate.leak.most, "false_refusal": certificate.false_refusal.most}
    return {**cuts(found.thresholds), "most": most}


def other_routes(kinds: Sequence[str]) -> str:
    """Why a promise is void where kinds without a verdict go elsewhere than it reckoned with."""
    return (
        "The promise does not hold here: it was certified with other routes for "
        f"{', '.join(map(reason_words, kinds))}. Certify with this policy, or send these where "
        "they went then."
    )


def certificate_words(found: Certified, void: Sequence[str] = ()) -> list[str]:
    """What is promised, and on which evidence; that it is void comes first, if it is."""
    certificate, thresholds = found.certificate, found.thresholds
    leak, refusal = certificate.leak, certificate.false_refusal
    return [
        *([_VOID] if void else []),
        f"Certified: answer at {thresholds.answer_at:.4f}, "
        f"refuse below {thresholds.refuse_below:.4f}.",
        f"With {certificate.confidence * 100:g} % confidence, of new queries drawn as the labelled "
        f"ones were, a random one of a random group, at most {percent(leak.most)} of the answered "
        f"ones lack evidence, and at most {percent(refusal.most)} of the sufficient ones are "
        "refused. Both hold together.",
        f"Seen on {queries(certificate.n)}, one of each group: {_seen(leak)} answered ones "
        f"leaked, {_seen(refusal)} sufficient ones were refused. Method: {certificate.method}.",
        "Refusing below a lower threshold keeps the promise on false refusals: nothing else is "
        "refused. Answering from a higher one keeps that on leaks where a higher P(True) does not "
        "mean more leaks, which was not tested by itself. Once questions, documents, judge or "
        "prompt are others, nothing is promised.",
    ]


def _seen(bound: Bound) -> str:
    return f"{bound.events:,} of {bound.rows:,}"


WILSON = "Intervals in this part are Wilson's (1927), of 95 %, which take queries for independent."


def between(found: Figure | Rate) -> str:
    """A 95 % interval in brackets; nothing where there is none."""
    told = interval(found)
    return "" if told is None else f" (95 % interval {told})"


def interval(found: Figure | Rate) -> str | None:
    """A 95 % interval in percent; ``None`` where there is none."""
    low, high = (found.interval or (None, None)) if isinstance(found, Rate) else _ends(found)
    return None if low is None or high is None else f"{percent(low)} to {percent(high)}"


def _ends(figure: Figure) -> tuple[float | None, float | None]:
    return figure.low, figure.high


def share(value: float | None) -> str:
    """A share in percent; a dash where it is undefined."""
    return "–" if value is None else percent(value)


def told(rate: Rate) -> str:
    """A rate with its interval."""
    return f"{share(rate.value)}{between(rate)}"


def texts_told(texts: bool) -> tuple[str, str]:
    """Whether the file holds texts."""
    if texts:
        return "Texts", "Of the worst mistakes, questions and passages are in this file."
    return (
        "Texts",
        "None: mistakes are named by id and hash. --texts puts questions and passages in.",
    )


def moment(made: datetime | None) -> str:
    """A time in UTC, now unless given."""
    when = (made or datetime.now(UTC)).astimezone(UTC)
    return f"{when.day} {when:%B %Y, %H:%M} UTC"
