"""Calibrates an exported judge: P(sufficient) in ``judge.json``, thresholds in ``profile.json``.

``python training/calibrate.py --data DIR --model FOLDER``; `export.py` does the same at its end.
Both are fitted to the calibration half of the held-out families (`exams.Halves`), on rows of which
half are sufficient, in each exam.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from data import Row, Split, read
from exams import CALIBRATED_ON, as_many, exams
from judged import Judged, judged, measured_of
from sklearn.linear_model import LogisticRegression

from guard.bootstrap import exact
from guard.judges.embedded import PROFILE, EmbeddedJudge
from guard.profile import Profile
from guard.thresholds import Thresholds
from guard.weights import DESCRIPTION

WRONG = 0.10
"""Of the rows answered, and of those refused, at most so many may be wrong,"""
WRONG_SURELY = 0.12
"""and by the upper end of their 95 % interval at most so many."""
LEAST = 0.10
"""Where no cut is as good as that: the share of their rows that are answered, or refused."""
WINDOWS = 1000
"""The profile is for sets of any length."""


class Cut(NamedTuple):
    """One threshold, and whether it keeps what is asked of it on the rows that it was found on."""

    at: float
    kept: bool


def platt(odds: Sequence[float], truths: Sequence[bool]) -> tuple[float, float]:
    """Slope and intercept of P(True) = sigmoid(slope · odds + intercept) (Platt 1999).

    Both labels weigh alike: how often contexts suffice is for the user's own rows to say.
    """
    fitted = LogisticRegression(C=1e6, class_weight="balanced").fit(
        np.array(odds).reshape(-1, 1), np.array(truths)
    )
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def answering(scores: Sequence[float], truths: Sequence[bool]) -> Cut:
    """The lowest score from which on few enough of the rows lack evidence.

    Where there is none: the one from which on a tenth of the sufficient rows are answered.

    Args:
        scores: P(sufficient) in [0, 1] of each row.
        truths: whether it is sufficient.
    """
    good, bad = _split(scores, truths)
    ordered = sorted({*scores})
    for at, score in enumerate(ordered):
        wrong, right = (bad >= score).sum(), (good >= score).sum()
        if _few_enough(int(wrong), int(right)):
            return Cut((ordered[max(0, at - 1)] + score) / 2, True)
    return Cut(float(np.quantile(good, 1 - LEAST)), False)


def refusing(scores: Sequence[float], truths: Sequence[bool]) -> Cut:
    """The highest score below which few enough of the rows had evidence; see `answering`."""
    mirrored = answering([1 - score for score in scores], [not truth for truth in truths])
    return Cut(1 - mirrored.at, mirrored.kept)


def _split(scores: Sequence[float], truths: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    values, is_good = np.array(scores), np.array(truths, dtype=bool)
    return values[is_good], values[~is_good]


def _few_enough(wrong: int, right: int) -> bool:
    share, rows = wrong / max(1, wrong + right), wrong + right
    if not rows or share > WRONG:
        return False
    high = exact(share, rows).high
    return high is not None and high <= WRONG_SURELY


def thresholds_of(answer: Cut, refuse: Cut) -> Thresholds:
    """The pair, in thousandths; one in the middle where a judge so good leaves nothing between."""
    answer_at, refuse_below = answer.at, refuse.at
    if refuse_below > answer_at:
        answer_at = refuse_below = (answer_at + refuse_below) / 2
    return Thresholds(answer_at=round(answer_at, 3), refuse_below=round(refuse_below, 3))


def calibration_rows(sets: dict[str, list[Row]], split: Split, most: int) -> dict[str, list[Row]]:
    """Of each exam as many rows of each label, from the calibration half."""
    found = exams(sets, split, half="calibration")
    return {name: as_many(found[name], most) for name in CALIBRATED_ON}


def calibrated(folder: Path, rows: dict[str, list[Row]]) -> dict[str, Any]:
    """Fits and writes both files; what was chosen, and on how many rows."""
    describe(folder, calibration={"slope": 1.0, "intercept": 0.0})
    found = _judged(folder, rows, "for the slope")
    slope, intercept = platt([each.odds for each in found], [each.row.sufficient for each in found])
    calibration = {"slope": slope, "intercept": intercept, "rows": len(found)}
    describe(folder, calibration=calibration)
    # Once more: which passages of long sets are judged together hangs on probabilities.
    found = _judged(folder, rows, "for thresholds")
    scores = [each.p for each in found if each.p is not None]
    truths = [each.row.sufficient for each in found]
    answer, refuse = answering(scores, truths), refusing(scores, truths)
    thresholds = thresholds_of(answer, refuse)
    _profile(folder, thresholds, rows).save(folder / PROFILE)
    kept = {"answer_at_kept": answer.kept, "refuse_below_kept": refuse.kept}
    return {**calibration, **asdict(thresholds), **kept}


def describe(folder: Path, **fields: object) -> None:
    """Changes some fields of ``judge.json``; a profile of what it was before goes."""
    (folder / PROFILE).unlink(missing_ok=True)
    file = folder / DESCRIPTION
    known = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    file.write_text(json.dumps(known | fields, indent=2) + "\n", "utf-8")


def _judged(folder: Path, rows: dict[str, list[Row]], what: str) -> list[Judged]:
    judge = EmbeddedJudge(folder, threads=1)
    found = measured_of([each for part in judged(judge, rows, what=what).values() for each in part])
    judge.close()
    return found


def _profile(folder: Path, thresholds: Thresholds, rows: dict[str, list[Row]]) -> Profile:
    """Thresholds alone: P is calibrated in the judge, and promised is nothing."""
    judge = EmbeddedJudge(folder)
    names = "\n".join(f"{name} {row.id}" for name, part in rows.items() for row in part)
    judge.close()
    return Profile(
        thresholds,
        fingerprint=judge.fingerprint,
        signal="encoder",
        languages=("en",),
        windows=WINDOWS,
        data_version=hashlib.sha256(names.encode()).hexdigest()[:16],
    )


def main() -> None:
    options = _options()
    sets = read(options.data)
    rows = calibration_rows(sets, Split(sets), options.few)
    print(json.dumps(calibrated(options.model, rows)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the labelled sets")
    parser.add_argument("--model", type=Path, required=True, help="folder that export.py wrote")
    parser.add_argument("--few", type=int, default=300, help="rows of each label and exam")
    return parser.parse_args()


if __name__ == "__main__":
    main()
