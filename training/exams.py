"""Exams: held-out rows by what they measure."""

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from data import ONLY_MEASURED, Row, Split, plain, trainable
from pairs import MULTI_HOP, Near, Pair, distracted, evidence
from passages import Read, unread

CALIBRATED_ON = ("squad2", "near_single", "cut_single", "among_four", "among_39", "multi_hop")
"""Exams whose calibration half the shipped judge is calibrated on, all alike."""
LONG = 40
"""Passages in a long set."""
MOST_LONG = 120
"""So many long pairs are built at most; each takes seconds to judge."""
_SPANS = ("squad1_", "nq_", "qed_", "quoref_", "covidqa", "boolq_")
_ADVERSARIAL = "squad2_devhalf"
_CALIBRATING_ARTICLES = 1 / 3  # Of the few held-out ones of SQuAD 2; more are needed to measure.

Half = Literal["calibration", "exam"]


class Halves:
    """Held-out families in two: some to calibrate on, the others to measure on.

    A family (`data.Split.family`) is in one as a whole, by a lot that hangs on its name alone. Of
    the few articles of SQuAD 2, a third calibrates.
    """

    def __init__(self, sets: Mapping[str, list[Row]], split: Split) -> None:
        self._split = split
        held = {split.family(row) for row in sets.get(_ADVERSARIAL, ()) if split.holds_out(row)}
        drawn = sorted(held, key=_lot)
        self._calibrating = {*drawn[: round(len(drawn) * _CALIBRATING_ARTICLES)]}
        self._measuring = {*drawn} - self._calibrating

    def of(self, row: Row) -> Half:
        """The half of a held-out row."""
        family = self._split.family(row)
        if family in self._calibrating:
            return "calibration"
        if family in self._measuring:
            return "exam"
        return "calibration" if _lot(family) < 0.5 else "exam"


def _lot(name: str) -> float:
    digest = hashlib.sha256(f"half:{name}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def exams(
    sets: dict[str, list[Row]], split: Split, half: Half, *, seed: int = 0
) -> dict[str, list[Row]]:
    """Held-out rows of one half by name of the exam, each exam in an order drawn by ``seed``.

    No row has a passage that may have been seen in training (`passages.unread`), and none of the
    exam half one that stands in the calibration half.
    """
    return _exams(unread_halves(sets, split, trained_on(sets, split))[half], seed)


def examination(sets: dict[str, list[Row]], split: Split, *, seed: int = 0) -> dict[str, list[Row]]:
    """Everything that the finished judge is measured on: `exams` of the exam half, and more."""
    trained, rng = trained_on(sets, split), random.Random(seed)
    held = unread_halves(sets, split, trained)["exam"]
    more = {
        "two_needed": _two_needed(held),
        "among_two": _among(held, rng, 3),
        **{
            name: unread(rows, trained)
            for name, rows in sets.items()
            if name.startswith(ONLY_MEASURED)
        },
    }
    return _exams(held, seed) | _shuffled(more, seed)


def trained_on(sets: Mapping[str, list[Row]], split: Split) -> Read:
    """The passages of all rows that may be trained on."""
    return Read(row for row in _english(sets) if not split.holds_out(row))


def unread_halves(
    sets: Mapping[str, list[Row]], split: Split, trained: Read
) -> dict[Half, list[Row]]:
    """The held-out English rows of both halves that neither training nor the other half shows."""
    halves = Halves(sets, split)
    of: dict[Half, list[Row]] = {"calibration": [], "exam": []}
    for row in _english(sets):
        if split.holds_out(row):
            of[halves.of(row)].append(row)
    calibration = unread(of["calibration"], trained)
    exam = unread(of["exam"], trained, Read(calibration))
    return {"calibration": with_near(calibration), "exam": with_near(exam)}


def with_near(rows: Sequence[Row]) -> list[Row]:
    """The rows, and for evidence whose near passages were all read before, one that was not."""
    asked = {row.question for row in rows if not row.sufficient and row.kind.startswith("near")}
    made = list[Row]()
    for part, near in _by_set(rows):
        lone = [row for row in part if row.question not in asked]
        pairs = ((row, near.to(row, 1)) for row in lone)
        made += [
            replace(row, id=f"{row.id}-near", kind="near", contexts=tuple(found), sufficient=False)
            for row, found in pairs
            if found
        ]
    return [*rows, *made]


def _exams(held: list[Row], seed: int) -> dict[str, list[Row]]:
    found = {
        "squad2": [row for row in held if row.origin == _ADVERSARIAL],
        "near_single": _single(held, "near"),
        "cut_single": _single(held, "cut"),
        "among_four": _among(held, random.Random(seed), 5),
        "among_39": _long(held, random.Random(seed)),
        "multi_hop": [row for row in held if row.origin in MULTI_HOP],
        "selqa": [row for row in held if row.origin == "selqa_ass"],
        "qnli": [row for row in held if row.origin == "qnli_dev"],
    }
    return _shuffled(found, seed)


def few(rows: Sequence[Row], count: int) -> list[Row]:
    """The first ``count`` sufficient rows and the first ``count`` others."""
    good = [row for row in rows if row.sufficient]
    bad = [row for row in rows if not row.sufficient]
    return [*good[:count], *bad[:count]]


def as_many(rows: Sequence[Row], most: int) -> list[Row]:
    """As many sufficient rows as others, at most ``most`` of each."""
    good = sum(row.sufficient for row in rows)
    return few(rows, min(most, good, len(rows) - good))


def _shuffled(found: dict[str, list[Row]], seed: int) -> dict[str, list[Row]]:
    for rows in found.values():
        random.Random(seed).shuffle(rows)
    return found


def _english(sets: Mapping[str, list[Row]]) -> list[Row]:
    """All English rows that might be trained on."""
    return [row for rows in sets.values() for row in rows if row.lang == "en" and trainable(row)]


def _single(held: Sequence[Row], kind: str) -> list[Row]:
    """One passage: the evidence against passages of that kind."""
    return [
        row
        for row in held
        if row.origin.startswith(_SPANS)
        and len(row.contexts) == 1
        and (row.sufficient or row.kind.startswith(kind))
    ]


def _among(held: Sequence[Row], rng: random.Random, passages: int) -> list[Row]:
    """Evidence among near passages against as many near ones alone."""
    found = list[Pair]()
    for part, near in _by_set(held):
        found += distracted(part, near, rng, words=10**6, passages=passages)
    return [row for pair in found for row in pair]


def _by_set(held: Sequence[Row]) -> Iterable[tuple[list[Row], Near]]:
    rows = evidence(held)
    for name in sorted({row.origin for row in rows}):
        part = [row for row in rows if row.origin == name]
        yield part, Near([row for row in held if row.origin == name])


def _long(held: Sequence[Row], rng: random.Random) -> list[Row]:
    """Evidence among thirty-nine near passages against forty near ones."""
    found = list[Row]()
    for part, near in _by_set(held):
        for row in rng.sample(part, min(len(part), MOST_LONG)):
            others = near.to(row, LONG)
            if len(others) == LONG:
                good = rng.sample([row.contexts[0], *others[:-1]], LONG)
                made = replace(row, id=f"{row.id}-long", kind="long")
                found.append(replace(made, contexts=tuple(good)))
                bad = tuple(rng.sample(others, LONG))
                found.append(replace(made, contexts=bad, sufficient=False))
    return found


def _two_needed(held: Sequence[Row]) -> list[Row]:
    """Two passages are needed: both are there, or one of them with the answer in it."""
    rows = [row for row in held if row.origin in MULTI_HOP]
    asked = {row.question for row in rows if row.sufficient and row.golds == 2}
    of_two = [row for row in rows if row.question in asked]
    return [row for row in of_two if row.sufficient or _answer_is_left(row)]


def _answer_is_left(row: Row) -> bool:
    text = f" {plain(' '.join(row.contexts))} "
    words = [plain(answer) for answer in row.answers]
    return any(f" {word} " in text for word in words if word not in ("", "yes", "no"))
