"""A judgement: one row of a data set, as a judge measured it, or why it could not be measured."""

from dataclasses import dataclass

from guard.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of one row.

    Attributes:
        id: the row's, unique in its data set.
        group: rows of one group are not independent: same document, same user.
        sufficient: the label; ``None`` = not labelled.
        lang: BCP 47, or ``None``.
        verdict: what was measured; ``None`` = not measured.
        reason: in one word (`guard.Reason`), why there is no verdict: a kind of failure, or
            ``no_contexts``; ``None`` where there is one.
        detail: the same in a sentence; holds no text of the row.
        elapsed_seconds: of the whole trip.
        characters: of all contexts together.
        overlap: share in [0, 1] of the question's words that the best context holds: a baseline
            that needs no judge.
        fingerprint: of the judge that was asked.
    """

    id: str
    group: str
    sufficient: bool | None
    lang: str | None
    verdict: Verdict | None
    reason: str | None
    detail: str
    elapsed_seconds: float
    characters: int
    overlap: float
    fingerprint: str
