"""Points: rows as two thresholds see them, and the shares that any two thresholds make of them."""

import base64
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np

from guard.metrics import Bools, Floats, Ints
from guard.rate import Rate
from guard.thresholds import Thresholds

Fixed = Literal["answer", "clarify", "refuse", "undecided"]
"""The route of a row that no threshold moves; ``undecided`` = the policy is to raise."""

_MEASURED, _PARTIAL, _FIRST_FIXED = 0, 1, 2
_FIXED: tuple[Fixed, ...] = ("answer", "clarify", "refuse", "undecided")
_INSUFFICIENT, _SUFFICIENT, _UNLABELLED = 0, 1, 2
_TRUTHS: Mapping[bool | None, int] = {
    False: _INSUFFICIENT,
    True: _SUFFICIENT,
    None: _UNLABELLED,
}


class Point(NamedTuple):
    """One row.

    Attributes:
        low, high: bounds on its calibrated probability; of no account where ``fixed`` is given.
        partial: whether the judge was shown only a part of the contexts: then it is not refused.
        fixed: its route where nothing was measured, or the profile is not for it.
        sufficient: the label; ``None`` = none.
    """

    low: float = 0.0
    high: float = 0.0
    partial: bool = False
    fixed: Fixed | None = None
    sufficient: bool | None = None


class Points:
    """Rows, column by column.

    Attributes:
        low, high: (rows,), see `Point`.
        kinds: (rows,): 0 measured, 1 measured in part, then the fixed routes.
        truths: (rows,): 0 insufficient, 1 sufficient, 2 without a label.
    """

    def __init__(self, points: Iterable[Point]) -> None:
        rows = list(points)
        self.low: Floats = np.array([row.low for row in rows], dtype=np.float64)
        self.high: Floats = np.array([row.high for row in rows], dtype=np.float64)
        self.kinds: Ints = np.array([_kind(row) for row in rows], dtype=np.intp)
        self.truths: Ints = np.array([_TRUTHS[row.sufficient] for row in rows], dtype=np.intp)

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def labelled(self) -> Bools:
        """(rows,), which have a label."""
        labelled: Bools = self.truths != _UNLABELLED
        return labelled

    def took(self, thresholds: Thresholds) -> dict[str, Bools]:
        """By route (and ``undecided``), which rows take it: as `guard.Policy.route` has it."""
        measured = self.kinds < _FIRST_FIXED
        answered = measured & (self.low >= thresholds.answer_at)
        below = measured & ~answered & (self.high < thresholds.refuse_below)
        refused = below & (self.kinds != _PARTIAL)
        moved = {"answer": answered, "clarify": measured & ~answered & ~refused, "refuse": refused}
        nothing = np.zeros(len(self), dtype=np.bool_)
        return {
            name: moved.get(name, nothing) | (self.kinds == _FIRST_FIXED + at)
            for at, name in enumerate(_FIXED)
        }

    def shares(self, thresholds: Thresholds) -> dict[str, Rate]:
        """What two thresholds make of the rows.

        Returns:
            ``leak`` = P(insufficient | answered), ``false_refusal`` = P(refused | sufficient), both
            of rows with a label; ``coverage`` (answered), ``clarify_rate``, ``refuse_rate`` and
            ``undecided`` of all rows.
        """
        took = self.took(thresholds)
        bad, good = self.truths == _INSUFFICIENT, self.truths == _SUFFICIENT
        every = np.ones(len(self), dtype=np.bool_)
        return {
            "leak": _share(bad, took["answer"] & self.labelled),
            "false_refusal": _share(took["refuse"], good),
            "clarify_rate": _share(took["clarify"], every),
            "coverage": _share(took["answer"], every),
            "refuse_rate": _share(took["refuse"], every),
            "undecided": _share(took["undecided"], every),
        }

    def packed(self) -> dict[str, str]:
        """The columns as text, exact to the last bit.

        ``low`` and ``high`` are base64 of doubles, the lowest byte first; in ``kinds`` each row is
        the letter ``"a" + 3 kind + truth``.
        """
        letters = self.kinds * 3 + self.truths + ord("a")
        return {
            "low": _base64(self.low),
            "high": _base64(self.high),
            "kinds": letters.astype(np.uint8).tobytes().decode("ascii"),
        }


def _kind(row: Point) -> int:
    if row.fixed is not None:
        return _FIRST_FIXED + _FIXED.index(row.fixed)
    return _PARTIAL if row.partial else _MEASURED


def _share(part: Bools, whole: Bools) -> Rate:
    return Rate(int((part & whole).sum()), int(whole.sum()))


def _base64(numbers: Floats) -> str:
    return base64.b64encode(numbers.astype("<f8").tobytes()).decode("ascii")
