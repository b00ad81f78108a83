"""Exams: held-out rows by what they measure."""

import random
from collections.abc import Sequence

from data import Row, Split
from pairs import MULTI_HOP, Near, Pair, distracted, evidence

OUTSIDE = ("nomiracl_en", "wikiqa_test", "fitzgov", "ada_lovelace")
"""Sets that no row is trained on."""
_SPANS = ("squad1_", "nq_", "qed_", "quoref_", "covidqa", "boolq_")


def exams(sets: dict[str, list[Row]], split: Split, *, seed: int = 0) -> dict[str, list[Row]]:
    """Held-out rows by name of the exam, each exam in an order drawn by ``seed``."""
    held = [row for rows in sets.values() for row in rows if _english(row) and split.holds_out(row)]
    found = {
        "squad2": [row for row in held if row.origin == "squad2_devhalf"],
        "near_single": _single(held, "near"),
        "cut_single": _single(held, "cut"),
        "among_four": _among_four(held, random.Random(seed)),
        "multi_hop": [row for row in held if row.origin in MULTI_HOP],
        "selqa": [row for row in held if row.origin == "selqa_ass"],
        "qnli": [row for row in held if row.origin == "qnli_dev"],
        **{name: list(sets[name]) for name in OUTSIDE if name in sets},
    }
    for rows in found.values():
        random.Random(seed).shuffle(rows)
    return found


def few(rows: Sequence[Row], count: int) -> list[Row]:
    """The first ``count`` sufficient rows and the first ``count`` others."""
    good = [row for row in rows if row.sufficient]
    bad = [row for row in rows if not row.sufficient]
    return [*good[:count], *bad[:count]]


def _english(row: Row) -> bool:
    return row.lang == "en" and not row.origin.startswith(OUTSIDE)


def _single(held: Sequence[Row], kind: str) -> list[Row]:
    """One passage: the evidence against passages of that kind."""
    return [
        row
        for row in held
        if row.origin.startswith(_SPANS)
        and len(row.contexts) == 1
        and (row.sufficient or row.kind.startswith(kind))
    ]


def _among_four(held: Sequence[Row], rng: random.Random) -> list[Row]:
    rows = evidence(held)
    near = {name: Near([r for r in held if r.origin == name]) for name in {r.origin for r in rows}}
    found = list[Pair]()
    for name in sorted(near):
        part = [row for row in rows if row.origin == name]
        found += distracted(part, near[name], rng, words=10**6, passages=5)
    return [row for pair in found for row in pair]
