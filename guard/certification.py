"""Certification: two thresholds whose leaks and false refusals are bounded, both at once.

The promise is about new queries drawn as the rows were, a random one of a random group, routed by
the deployed rule: with the given
confidence, P(insufficient | answered) and P(refused | sufficient) both stay at or below what was
asked for.

Each rate is a share of rows, so that at one fixed threshold its upper tail is exactly binomial.
Thresholds are searched by fixed-sequence testing: each candidate, in an order that no label
influences, is tested at the full level, and the search ends at the first that fails. Its error is
that of the first false candidate alone, however long the sequence (Bauer 1991, "Multiple testing in
clinical trials", Statistics in Medicine 10; as risk control: Angelopoulos, Bates, Candès, Jordan
and Lei 2021, "Learn then Test", arXiv 2110.01052, section 4). Each of the two searches has half of
the error, since either may go wrong (Bonferroni).
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from guard._extras import require_extra
from guard._require import require_number, require_one_of
from guard.certificate import Bound, Certificate, Certified, NotCertifiable
from guard.errors import ConfigError
from guard.odds import expit
from guard.thresholds import Thresholds

Score = float | tuple[float, float] | None
"""A calibrated P(sufficient), or its (low, high) bounds; ``None`` = not measured.

What was judged in part only can be answered but not refused: write ``(low, 1.0)``.
"""

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

GRID: tuple[float, ...] = tuple(expit(step / 10) for step in range(-140, 141))
"""Candidate thresholds, a tenth of a nat apart; fixed before anything is seen."""

METHOD = (
    "fixed-sequence testing with exact binomial tails, half of the error for each bound, "
    "one random row a group"
)

_LABELS = (bool, np.bool_)
_NOTHING = (np.nan, np.nan)
_SCORE_HINT = "Pass a probability, (low, high) bounds, or None for what could not be measured."
_BEYOND = {"answer": (2.0, 2.0), "refuse": (-1.0, -1.0)}
_ROUTES = ("answer", "clarify", "refuse", "raise")
_NONE_WOULD = "No number of rows would do: the rate itself is above the bound"
_LEAK = "leak rate P(insufficient | answered)"
_FALSE_REFUSAL = "false-refusal rate P(refused | sufficient)"
_LIKELY = 0.8  # Probability with which `needed_n` rows would do.
_ALIKE = 0.01  # Of probabilities to pass; closer ones are not told apart.
_MOST_ROWS = 1_000_000
_FEW = 100  # Rows; a rate seen on fewer may be off by several points.
_TRIED = 64  # Numbers of rows, around what the normal approximation says.


def certify(
    scores: Sequence[Score] | Floats,
    sufficient: Sequence[bool] | Flags,
    *,
    max_leak: float,
    max_false_refusal: float,
    confidence: float = 0.95,
    groups: Sequence[Hashable] | None = None,
    on_unmeasured: str | Sequence[str] = "refuse",
    pilot: Sequence[Score] | Floats | None = None,
    pilot_sufficient: Sequence[bool] | Flags | None = None,
    seed: int = 0,
) -> Certified | NotCertifiable:
    """Two thresholds with a promise, or why there is none.

        result = certify(scores, sufficient, max_leak=0.05, max_false_refusal=0.10)
        if isinstance(result, Certified):
            policy = Policy(thresholds=result.thresholds)

    Of all that can be promised, ``answer_at`` is the lowest and ``refuse_below`` the highest: as
    few clarifications as the two bounds allow. Thresholds that answer nothing, or refuse nothing,
    are never certified.

    Args:
        scores: one a row, see `Score`; or an array of bounds, shape (rows, 2), NaN where a row was
            not measured.
        sufficient: the labels. The rows must be a random sample of what is to come, and no
            calibrator may have been fitted to them.
        max_leak: P(insufficient | answered) at most, in (0, 1).
        max_false_refusal: P(refused | sufficient) at most, in (0, 1).
        confidence: probability in (0, 1) that both hold, over the draw of rows.
        groups: which rows belong together (same document, same user). One random row of each is
            used, so that the promise is about a question of a random group. ``None`` = every row
            is a group of its own.
        on_unmeasured: where the policy sends what was not measured; one for all, or one a row.
        pilot: scores of other rows, e.g. those that the calibrator was fitted to. The search begins
            at the candidate most likely to pass: by these rows' own scores, and as much by how
            often the pilot leaked there. That looks at no label of the rows certified, so
            that the bound holds for the mean risk at the scores seen (Hoeffding 1956, Annals of
            Mathematical Statistics 27: a sum of unequal chances is no likelier to be small than a
            binomial one).
        pilot_sufficient: the pilot's labels; needed with ``pilot``.
        seed: chooses the row of a group. Do not try several.

    Returns:
        `Certified`, or `NotCertifiable` with the reason and the number of rows that would do.

    Raises:
        ConfigError: arguments of unequal length, a score that is no probability, a label that is
            neither true nor false, an unknown route, a rate or a confidence that is not inside
            (0, 1); or scipy is not installed.
    """
    rates = {"max_leak": max_leak, "max_false_refusal": max_false_refusal}
    for name, value in {**rates, "confidence": confidence}.items():
        require_rate(name, value)
    require_number("seed", seed, 0, 2**32 - 1, whole=True)
    rows = _Rows.of(scores, sufficient, on_unmeasured)
    names = range(len(rows.sufficient)) if groups is None else _names(groups, rows)
    chosen = _one_a_group(names, seed)
    search = _Search(rows.take(chosen), confidence, max_leak, max_false_refusal)
    result = search.result(_pilot(pilot, pilot_sufficient))
    if isinstance(result, NotCertifiable) and len(chosen) < len(rows.sufficient):
        counted = f"{len(rows.sufficient)} rows are {len(chosen)} groups; one row of each counts."
        return NotCertifiable(f"{counted} {result.reason}", result.needed_n)
    return result


def _pilot(
    scores: Sequence[Score] | Floats | None, sufficient: Sequence[bool] | Flags | None
) -> "_Rows | None":
    if (scores is None) != (sufficient is None):
        raise ConfigError(
            "Of `pilot` and `pilot_sufficient`, one is given without the other.",
            hint="Pass both: scores of other rows, and their labels.",
        )
    if scores is None or sufficient is None:
        return None
    return _Rows.of(scores, sufficient, "clarify")


# ── Rows ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Rows:
    """Rows as the deployed rule sees them.

    Attributes:
        low, high: bounds; of what was not measured, those that route it as the policy does.
        measured: which were.
        sufficient: their labels.
    """

    low: Floats
    high: Floats
    measured: Flags
    sufficient: Flags

    @classmethod
    def of(
        cls,
        scores: Sequence[Score] | Floats,
        sufficient: Sequence[bool] | Flags,
        on_unmeasured: str | Sequence[str],
    ) -> "_Rows":
        bounds = _array(scores) if isinstance(scores, np.ndarray) else _bounds(scores)
        n = len(bounds)
        if n == 0:
            raise ConfigError("There is no score.", hint="Pass one for each labelled row.")
        labels = _labels(sufficient, n)
        low, high = bounds.T
        measured = ~np.isnan(low)
        low, high = _routed(low, high, measured, on_unmeasured)
        return cls(low, high, measured, labels)

    def take(self, rows: Sequence[int]) -> "_Rows":
        """Some of them."""
        at = np.array(rows, dtype=int)
        return _Rows(self.low[at], self.high[at], self.measured[at], self.sufficient[at])

    def answered(self, of: Flags) -> Counts:
        """How many of these rows are answered at each candidate, shape (candidates,)."""
        return int(of.sum()) - np.searchsorted(np.sort(self.low[of]), GRID, side="left")

    def expected_leaks(self) -> Floats:
        """Leaks at each candidate as the scores have it, shape (candidates,).

        What is answered without a score is taken for as good as the mean of those that have one.
        """
        scores = np.where(self.measured, self.low, self.low[self.measured].mean())
        leaks = 1 - scores[np.argsort(-self.low)]
        return np.concatenate([[0.0], np.cumsum(leaks)])[self.answered(self.all)]

    def refused(self, of: Flags) -> Counts:
        """How many of these rows are refused at each candidate, shape (candidates,)."""
        return np.searchsorted(np.sort(self.high[of]), GRID, side="left")

    @property
    def all(self) -> Flags:
        """Every row."""
        return np.ones_like(self.sufficient)


def _labels(given: Sequence[bool] | Flags, n: int) -> Flags:
    if len(given) != n:
        why = f"There are {n} scores, but {len(given)} of `sufficient`."
        raise ConfigError(why, hint="Pass one a row, in the same order.")
    for place, label in enumerate(cast("Sequence[object]", given)):
        if not isinstance(label, _LABELS):
            why = f"sufficient[{place}] is {label!r:.40}; it must be True or False."
            raise ConfigError(why, hint="Leave out rows that are not labelled.")
    return np.array(given, dtype=np.bool_)


def _bounds(scores: Sequence[Score]) -> Floats:
    """One row each, NaN where nothing was measured."""
    pairs = [_pair(place, score) for place, score in enumerate(scores)]
    return np.array(pairs, dtype=float).reshape(len(pairs), 2)


def _pair(place: int, score: object) -> tuple[float, float]:
    if score is None:
        return _NOTHING
    pair = _low_and_high(score)
    if len(pair) == 2:
        low, high = map(_probability, pair)
        # A NaN of the caller's own must not pass for "not measured".
        if low is not None and high is not None and low <= high:
            return low, high
    raise _no_score(place, score)


def _low_and_high(score: object) -> tuple[object, ...]:
    return cast("tuple[object, ...]", score) if isinstance(score, tuple) else (score, score)


def _probability(value: object) -> float | None:
    """``value`` if it is a number in [0, 1]; NaN is in no range."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    return float(cast("float", value)) if 0 <= cast("float", value) <= 1 else None


def _no_score(place: int, score: object) -> ConfigError:
    why = f"scores[{place}] is {score!r:.60}: no probability, nor bounds on one."
    return ConfigError(why, hint=_SCORE_HINT)


def _array(bounds: Floats) -> Floats:
    if bounds.ndim != 2 or bounds.shape[1] != 2 or bounds.dtype.kind != "f":
        why = f"The scores' array holds {bounds.dtype} in the shape {bounds.shape}."
        raise ConfigError(why, hint="Pass floats, shape (rows, 2): the low and the high bound.")
    low, high = bounds.T
    nothing = np.isnan(low) & np.isnan(high)
    good = nothing | ((0 <= low) & (low <= high) & (high <= 1))  # False for one NaN.
    if not good.all():
        place = int(np.argmin(good))
        raise _no_score(place, tuple(bounds[place].tolist()))
    return bounds


def _routed(
    low: Floats, high: Floats, measured: Flags, on_unmeasured: str | Sequence[str]
) -> tuple[Floats, Floats]:
    """Bounds beyond every candidate, so that no threshold changes what the policy does."""
    n = len(low)
    routes = [on_unmeasured] * n if isinstance(on_unmeasured, str) else list(on_unmeasured)
    if len(routes) != n:
        why = f"There are {n} scores, but {len(routes)} of `on_unmeasured`."
        raise ConfigError(why, hint="Pass one a row, in the same order.")
    for route in dict.fromkeys(routes):
        require_one_of("on_unmeasured", route, _ROUTES)
    low, high = low.copy(), high.copy()
    for place in np.flatnonzero(~measured).tolist():
        low[place], high[place] = _BEYOND.get(routes[place], (-1.0, 2.0))
    return low, high


def _names(groups: Sequence[Hashable], rows: _Rows) -> list[Hashable]:
    names = list(groups)
    if len(names) != len(rows.sufficient):
        why = f"There are {len(rows.sufficient)} scores, but {len(names)} of `groups`."
        raise ConfigError(why, hint="Pass one a row, in the same order.")
    try:
        hash(tuple(names))
    except TypeError as error:
        why = f"A group cannot be compared ({error})."
        raise ConfigError(why, hint="Pass a text or a number for each row.") from None
    return names


def _one_a_group(groups: Sequence[Hashable], seed: int) -> list[int]:
    """A random row of each group; drawn before anything is known of scores and labels."""
    order = np.random.default_rng(seed).permutation(len(groups))
    first = dict[Hashable, int]()
    for place in order.tolist():
        first.setdefault(groups[place], place)
    return sorted(first.values())


# ── The two searches ─────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Search:
    """The search for both thresholds, on one row a group."""

    rows: _Rows
    confidence: float
    max_leak: float
    max_false_refusal: float

    @property
    def level(self) -> float:
        """The error that each of the two may make."""
        return (1 - self.confidence) / 2

    def result(self, pilot: _Rows | None) -> Certified | NotCertifiable:
        """The best that can be promised."""
        first = self.first(pilot) if self.answers_some.any() else 0
        answer, refuse = self._answer_at(first), self._refuse_below()
        if answer is None or refuse is None:
            parts = list[tuple[str, int | None]]()
            if answer is None:
                parts.append(_why_leak(self, first, piloted=pilot is not None))
            if refuse is None:
                parts.append(_why_refusal(self))
            return _why_not(parts)
        # What is below both passed too: refused rows are nested.
        refuse = min(refuse, answer)
        if not self.refuses_some[refuse]:
            return _why_trivial(self, answer)
        return Certified(Thresholds(GRID[answer], GRID[refuse]), self._certificate(answer, refuse))

    def _certificate(self, answer: int, refuse: int) -> Certificate:
        n = len(self.rows.sufficient)
        leaks, answered = self.leaks
        lost = int(self.false_refusals[refuse])
        return Certificate(
            leak=Bound(self.max_leak, int(leaks[answer]), int(answered[answer])),
            false_refusal=Bound(self.max_false_refusal, lost, self.all_sufficient),
            confidence=self.confidence,
            n=n,
            groups=n,
            method=METHOD,
        )

    @cached_property
    def leaks(self) -> tuple[Counts, Counts]:
        """Leaks and answered rows at each candidate."""
        return self.rows.answered(~self.rows.sufficient), self.rows.answered(self.rows.all)

    @cached_property
    def false_refusals(self) -> Counts:
        """Refused rows that are sufficient, at each candidate."""
        return self.rows.refused(self.rows.sufficient)

    @cached_property
    def answers_some(self) -> Flags:
        """At which candidates a measured row is answered."""
        return self.rows.answered(self.rows.measured) > 0

    @cached_property
    def refuses_some(self) -> Flags:
        """At which candidates a measured row is refused."""
        return self.rows.refused(self.rows.measured) > 0

    @property
    def all_sufficient(self) -> int:
        """How many rows are sufficient."""
        return int(self.rows.sufficient.sum())

    def _answer_at(self, first: int) -> int | None:
        """Down from the first candidate, as far as each one passes."""
        events, shares = self.leaks
        passes = _tails(events, shares, self.max_leak) <= self.level
        found: int | None = None
        for place in range(first, -1, -1):
            if not passes[place]:
                break
            found = place
        if found is None or not self.answers_some[found]:
            return None
        # Of those that passed and answer the same rows, the middle one: scores drift either way.
        alike = np.flatnonzero(shares[found : first + 1] == shares[found])
        return found + int(alike[len(alike) // 2])

    def first(self, pilot: _Rows | None) -> int:
        """The candidate that is likeliest to pass; of many that nearly are, the middle one.

        What these rows' scores say and what the pilot has seen count alike.
        """
        answered = self.rows.answered(self.rows.all)
        risk = (self.rows.expected_leaks() + 0.5) / (answered + 1)
        if pilot is not None:
            leaks, rows = pilot.answered(~pilot.sufficient), pilot.answered(pilot.all)
            risk = (risk + (leaks + risk) / (rows + 1)) / 2
        chances = _power(answered, risk, self.max_leak, self.level)
        likely = np.flatnonzero(chances >= chances.max() - _ALIKE)
        return int(likely[len(likely) // 2])

    def _refuse_below(self) -> int | None:
        """Up from the lowest candidate, as far as each one passes; refused sets are nested."""
        events = self.false_refusals
        rows = np.full_like(events, self.all_sufficient)
        passes = _tails(events, rows, self.max_false_refusal) <= self.level
        count = len(GRID) if passes.all() else int(np.argmin(passes))
        if count == 0 or not self.refuses_some[count - 1]:
            return None
        # Of those that passed and refuse the same rows, the middle one.
        refused = self.rows.refused(self.rows.all)
        alike = np.flatnonzero(refused[:count] == refused[count - 1])
        return int(alike[len(alike) // 2])


def _binomial() -> Any:
    return require_extra("scipy.stats", "calibrate").binom


def _tails(events: Counts, rows: Counts, rate: float) -> Floats:
    """P(at most so many events) if the rate were just above what is promised; no rows give 1."""
    tails: Floats = _binomial().cdf(events, rows, rate)
    return tails


def _power(rows: Counts, risk: Floats, rate: float, level: float) -> Floats:
    """Probability to pass with so many rows of such a risk."""
    binomial = _binomial()
    numbers, places = np.unique(rows, return_inverse=True)
    most: Floats = binomial.ppf(level, numbers, rate)
    # The greatest number of events that passes; -1 = not even none.
    most = np.where(binomial.cdf(most, numbers, rate) > level, most - 1, most)[places]
    chances: Floats = binomial.cdf(most, rows, np.clip(risk, 0, 1))
    return np.where(most >= 0, chances, 0.0)


# ── Why not ──────────────────────────────────────────────────────────────────────────────────────


def _why_not(parts: Sequence[tuple[str, int | None]]) -> NotCertifiable:
    needed = [n for _, n in parts if n is not None]
    return NotCertifiable(
        " ".join(reason for reason, _ in parts), max(needed) if len(needed) == len(parts) else None
    )


def _why_leak(search: _Search, first: int, *, piloted: bool) -> tuple[str, int | None]:
    events, rows = search.leaks
    if not search.answers_some.any():
        return "No row reaches the lowest threshold: nothing would be answered.", None
    seen = np.column_stack([events, rows])
    passing = _tails(events, rows, search.max_leak) <= search.level
    if not passing[search.answers_some].any():
        return _lacking(search, _LEAK, "answered", seen[search.answers_some], search.max_leak)
    if not rows[first]:
        return (
            f"The {_LEAK} cannot be bounded by {search.max_leak:g}: the scores promise it nowhere, "
            f"and no row reaches {GRID[first]:.3f}, where the search began.",
            None,
        )
    # It would pass elsewhere; but to have looked at several places is to have looked for luck.
    reason, needed = _lacking(search, _LEAK, "answered", seen[[first]], search.max_leak)
    began = (
        f"The search began at {GRID[first]:.3f}, where the scores promised most, and no other "
        "threshold may be tried on the same rows."
    )
    if not piloted:
        began += (
            " The scores are not calibrated on them: fit a calibrator to other rows, and pass "
            "those as the pilot."
        )
    return f"{reason} {began}", needed


def _why_trivial(search: _Search, answer: int) -> NotCertifiable:
    events, rows = (int(counts[answer]) for counts in search.leaks)
    return NotCertifiable(
        f"Leaks stay within {search.max_leak:g} ({events} of {rows} answered rows) even where so "
        "much is answered that no measured row is left to refuse: such thresholds do nothing. Ask "
        "for fewer leaks, or certify on rows that are as often insufficient as yours will be.",
        None,
    )


def _why_refusal(search: _Search) -> tuple[str, int | None]:
    events, total = search.false_refusals, search.all_sufficient
    if not search.refuses_some.any():
        return "No measured row is below the highest threshold: nothing would be refused.", None
    if total == 0:
        return "No row is labelled sufficient: a rate of false refusals has no meaning.", None
    return _lacking(
        search,
        _FALSE_REFUSAL,
        "sufficient",
        np.column_stack([events, np.full_like(events, total)])[search.refuses_some],
        search.max_false_refusal,
    )


def _lacking(
    search: _Search, what: str, of: str, seen: Counts, most: float
) -> tuple[str, int | None]:
    """Which bound failed, where it came nearest, and what would do."""
    tails = _tails(seen[:, 0], seen[:, 1], most)
    events, rows = (int(number) for number in seen[int(np.argmin(tails))])
    upper = _upper(events, rows, search.level)
    reason = (
        f"The {what} cannot be bounded by {most:g}: at best {events} of {rows} {of} rows, "
        f"which could be {upper:.3f}."
    )
    n = len(search.rows.sufficient)
    needed = _needed(seen, n, most, search.level)
    if needed is None and (_tails(seen[:, 1] - seen[:, 0], seen[:, 1], 1 - most) < 0.05).all():
        return f"{reason} {_NONE_WOULD}.", None
    least = _least(most, search.level)
    about = "how many would do cannot be told from so few"
    if needed is not None:
        about = f"about {needed} would do if rates stay as seen"
        about += ", which so few hardly tell" if rows < _FEW else ""
    return (
        f"{reason} {least} {of} rows without one are the least; they take about "
        f"{math.ceil(least * n / rows)} rows in all, one a group; {about}."
    ), needed


def _least(most: float, level: float) -> int:
    """The fewest rows that show a rate to be at most ``most``, if it happens in none of them."""
    return math.ceil(math.log(level) / math.log1p(-most))


def _upper(events: int, rows: int, level: float) -> float:
    """The upper end of the exact one-sided interval (Clopper and Pearson 1934)."""
    if events >= rows:
        return 1.0
    beta = require_extra("scipy.stats", "calibrate").beta
    return float(beta.ppf(1 - level, events + 1, rows - events))


def _needed(seen: Counts, n: int, most: float, level: float) -> int | None:
    """About the fewest rows with which some candidate would probably pass."""
    # A little worse than seen, or one lucky row would promise too much.
    rates = (seen[:, 0] + 0.5) / (seen[:, 1] + 1)
    shares = seen[:, 1] / n
    at = (rates < most) & (shares > 0)
    if not at.any():
        return None
    rates, shares = rates[at], shares[at]
    # By the normal approximation first, which tells the candidate that needs the fewest.
    normal = require_extra("scipy.stats", "calibrate").norm
    spread = -normal.ppf(level) * np.sqrt(most * (1 - most))
    spread = spread + normal.ppf(_LIKELY) * np.sqrt(rates * (1 - rates))
    needed = (spread / (most - rates)) ** 2 / shares
    best = int(np.argmin(needed))
    tried = np.ceil(needed[best] * np.linspace(0.5, 3.0, _TRIED))
    tried = np.unique(tried[tried <= _MOST_ROWS].astype(np.int64))
    answered = np.floor(tried * shares[best]).astype(np.int64)
    enough = _power(answered, np.full(len(tried), rates[best]), most, level) >= _LIKELY
    return int(tried[int(np.argmax(enough))]) if enough.any() else None


def require_rate(name: str, value: object) -> None:
    """Raises `ConfigError` unless ``value`` is a number inside (0, 1)."""
    require_number(name, value, 0, 1)
    if value in (0, 1):
        raise ConfigError(
            f"`{name}` is {value!r}; it must be between 0 and 1, not at an end.",
            hint="No finite number of rows can promise that.",
        )
