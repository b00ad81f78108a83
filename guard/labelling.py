"""Labelling: which rows are worth a person's time, and which of them may be certified on."""

import math
import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from guard._require import require_number
from guard.dataset import Sampling
from guard.judgement import Judgement
from guard.thresholds import Thresholds
from guard.verdict import Verdict

STRATA = 10
"""Equally wide strata of P(True); each is as likely as any other to be looked into."""
NEAR, WIDTH = 4.0, 0.05
"""A row on a threshold is 1 + NEAR times as likely as one far off; WIDTH is the e-folding."""


@dataclass(frozen=True, slots=True)
class Pick:
    """One row to be labelled: its id, and how it came to be picked."""

    id: str
    sampling: Sampling


def pick(
    judgements: Sequence[Judgement],
    n: int,
    *,
    thresholds: Thresholds,
    random_share: float = 0.5,
    seed: int = 0,
) -> tuple[Pick, ...]:
    """The rows to label, in the order to ask them in.

    The random part is drawn first and from all rows, judged or not: groups by lot, then one row of
    each by lot, and second rows of a group only once every group has given one. Every group counts
    the same, whatever its number of rows. The lot looks at no probability and no label; that alone
    makes an exact binomial bound on these rows one on new queries (Clopper and Pearson 1934), and
    adding targeted rows would break it.

    The targeted part is drawn from the measured rows that are left, without replacement, by weight
    (Efraimidis and Spirakis 2006): strata of P(True) weigh the same, rows whose bounds lie near
    the threshold they are compared with weigh more, and groups not yet in are preferred.

    Both parts are mixed, the random one in the order of its lot, so that a person who stops early
    has a random part that still is one. With the same seed a larger ``n`` draws the same random
    rows, and more after them. Where rows cannot be
    targeted (no judge, or too few were measured) the random part takes their place; where ``n``
    reaches all rows, all are ``random``: nothing was left out.

    Args:
        judgements: of all rows, in the order of the file.
        n: how many rows to label, at least 1.
        thresholds: the cut-offs in use.
        random_share: share in [0, 1] of ``n`` to draw at random.
        seed: makes the draw repeatable.

    Raises:
        ConfigError: a number is out of range.
    """
    require_number("n", n, 1, math.inf, whole=True)
    require_number("random_share", random_share, 0, 1)
    lot = random.Random(seed)
    by_lot, by_weight = _by_lot(judgements, lot), _by_weight(judgements, thresholds, lot)
    size = _random_size(by_lot, n, math.ceil(n * random_share))
    drawn = by_lot[:size]
    left = _others(by_weight, drawn)[: n - len(drawn)]
    turns = [True] * len(drawn) + [False] * len(left)
    lot.shuffle(turns)
    first, others = iter(drawn), iter(left)
    return tuple(
        Pick(next(first).id, "random") if turn else Pick(next(others).id, "targeted")
        for turn in turns
    )


def _by_lot(judgements: Sequence[Judgement], lot: random.Random) -> list[Judgement]:
    """All rows: one of each group in random order, then a second of each that has one, …"""
    places = {group: lot.random() for group in dict.fromkeys(each.group for each in judgements)}
    shuffled = lot.sample(judgements, len(judgements))
    ranked = zip(_rounds(shuffled), shuffled, strict=True)
    return [each for _, each in sorted(ranked, key=lambda pair: (pair[0], places[pair[1].group]))]


def _rounds(judgements: Iterable[Judgement], taken: Iterable[Judgement] = ()) -> list[int]:
    """Of each row, how many of its group come before it, those ``taken`` included."""
    seen = Counter(each.group for each in taken)
    rounds = list[int]()
    for each in judgements:
        rounds.append(seen[each.group])
        seen[each.group] += 1
    return rounds


def _by_weight(
    judgements: Iterable[Judgement], cuts: Thresholds, lot: random.Random
) -> list[Judgement]:
    """The measured rows, drawn one after another by weight."""
    verdicts = [(each, each.verdict) for each in judgements if each.verdict is not None]
    sizes = Counter(_stratum(verdict) for _, verdict in verdicts)
    # An exponential waiting time at each row's own rate: the soonest are the weighted draw.
    waits = [
        (lot.expovariate(_weight(verdict, cuts) / sizes[_stratum(verdict)]), each)
        for each, verdict in verdicts
    ]
    return [each for _, each in sorted(waits, key=lambda pair: pair[0])]


def _stratum(verdict: Verdict) -> int:
    return min(STRATA - 1, int(verdict.p_true * STRATA))


def _weight(verdict: Verdict, cuts: Thresholds) -> float:
    # What the route compares: the lower bound when answering, the upper one when refusing.
    off = min(abs(verdict.low - cuts.answer_at), abs(verdict.high - cuts.refuse_below))
    return 1 + NEAR * math.exp(-off / WIDTH)


def _random_size(by_lot: Sequence[Judgement], n: int, wanted: int) -> int:
    """How many rows to draw by lot: more than wanted where too few are left to be targeted."""
    if n >= len(by_lot):
        return len(by_lot)
    left = sum(each.verdict is not None for each in by_lot[wanted:])
    size = wanted
    # An unmeasured row fills a place; a measured one only moves from one part to the other.
    while size + left < n:
        left -= by_lot[size].verdict is not None
        size += 1
    return size


def _others(by_weight: Iterable[Judgement], drawn: Collection[Judgement]) -> list[Judgement]:
    """Those not drawn yet, new groups first."""
    ids = {each.id for each in drawn}
    left = [each for each in by_weight if each.id not in ids]
    ranked = zip(_rounds(left, drawn), left, strict=True)
    return [each for _, each in sorted(ranked, key=lambda pair: pair[0])]
