"""Rows, a judge's word on them, and records of an audit, drawn by a seeded lot: for reports."""

import random
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from guard import (
    Gate,
    JudgeUnavailable,
    Policy,
    Profile,
    Query,
    Retry,
    Thresholds,
    Verdict,
    Windows,
)
from guard.audit import AuditLog
from guard.audit_file import Audit
from guard.calibration import Platt
from guard.certificate import Bound, Certificate
from guard.dataset import Dataset, Row
from guard.errors import UnmeasuredKind
from guard.evaluation import Evaluation, evaluate
from guard.judgement import Judgement
from guard.outcomes import OutcomeFile, Said, Word
from guard.overlap import overlap
from guard.report import Report, of_evaluation
from guard.testing import Scripted, ScriptedJudge

FINGERPRINT = "scripted:report"
MADE = datetime(2026, 11, 21, 14, 3, tzinfo=UTC)
_PLACES = ("mill", "lock", "weir", "ferry", "pump house", "tannery", "granary", "kiln")
_ASKED = ("When was the {} of {} built?", "Who owned the {} of {}?", "What became of the {} of {}?")
_TOWNS = ("Anrode", "Belsen", "Corvey", "Dersum", "Elzach", "Fladen", "Gnotz", "Hallig")

CERTIFICATE = Certificate(
    leak=Bound(0.05, 3, 130),
    false_refusal=Bound(0.10, 8, 150),
    confidence=0.95,
    n=280,
    groups=280,
    method="fixed-sequence testing with exact binomial tails",
)
PROFILE = Profile(
    Thresholds(answer_at=0.8320183851339245, refuse_below=0.31002551887238755),
    fingerprint=FINGERPRINT,
    calibrator=Platt(slope=0.8, intercept=-0.1),
    certificate=CERTIFICATE,
    languages=("en", "nl"),
    name="mills",
)
POLICY = Policy(on_unmeasured={"timeout": "clarify", "low_mass": "answer", "default": "refuse"})


@dataclass(frozen=True)
class Sample:
    """Rows, what a judge said of them, and what routes them."""

    dataset: Dataset
    judgements: Sequence[Judgement]
    policy: Policy
    profile: Profile | None

    def evaluation(self, thresholds: Thresholds | None = None, resamples: int = 100) -> Evaluation:
        """The evaluation, at other thresholds if given."""
        policy, profile = self.policy, self.profile
        if thresholds is not None:
            policy = replace(policy, thresholds=thresholds)
            profile = profile and replace(profile, thresholds=thresholds)
        return evaluate(self.judgements, policy, profile, resamples=resamples)

    def failing(self, reason: str) -> "Sample":
        """The same rows, of which none was measured."""
        failed = [
            replace(one, verdict=None, reason=one.reason if one.reason == "no_contexts" else reason)
            for one in self.judgements
        ]
        return replace(self, judgements=failed)

    def report(self, *, texts: bool = False, name: str | None = "Town guide") -> Report:
        """The report of it."""
        return of_evaluation(
            self.evaluation(),
            self.judgements,
            self.dataset,
            self.policy,
            self.profile,
            name=name,
            texts=texts,
            made=MADE,
        )


def sample(
    count: int = 400, *, seed: int = 7, profile: Profile | None = PROFILE, rows_a_group: float = 1.3
) -> Sample:
    """Rows of which some were not measured, some in part, some in another language."""
    lot = random.Random(seed)
    rows = [_row(lot, number, rows_a_group) for number in range(count)]
    judgements = [_judgement(lot, row) for row in rows]
    return Sample(Dataset.of(rows), judgements, POLICY, profile)


def _row(lot: random.Random, number: int, rows_a_group: float) -> Row:
    place, town = lot.choice(_PLACES), lot.choice(_TOWNS)
    question = lot.choice(_ASKED).format(place, town) + f" (no. {number})"
    good = lot.random() < 0.55
    known = f"The {place} of {town} was built in {lot.randint(1500, 1900)} by the parish."
    vague = f"The {place} of {town} is mentioned in several letters, without a date."
    contexts = [known if good else vague, f"{town} lies on the river."]
    if not good and lot.random() < 0.08:
        contexts = []
    return Row(
        id=f"row-{number}",
        query=Query(
            question, tuple(contexts), lang=lot.choices(("en", "nl", "de"), (84, 14, 2))[0]
        ),
        sufficient=good,
        group=f"document {int(number / rows_a_group)}",
        answers=(),
        place="made up",
    )


def _judgement(lot: random.Random, row: Row) -> Judgement:
    centre = 3.4 if row.sufficient else -3.0
    odds = lot.gauss(centre, 2.2)
    failed = None if row.query.contexts else "no_contexts"
    if failed is None and lot.random() < 0.03:
        failed = lot.choice(("timeout", "low_mass", "content_filter", "rate_limited"))
    return Judgement(
        id=row.id,
        group=row.group,
        sufficient=row.sufficient,
        lang=row.query.lang,
        verdict=None if failed else _verdict(lot, odds),
        reason=failed,
        detail="It failed." if failed else "",
        elapsed_seconds=lot.uniform(0.1, 0.9),
        characters=sum(map(len, row.query.contexts)),
        overlap=overlap(row.query.question, row.query.contexts),
        fingerprint=FINGERPRINT,
    )


def _verdict(lot: random.Random, odds: float) -> Verdict:
    p = 1 / (1 + 2.718281828459045**-odds)
    unseen = lot.choice((0.0, 0.0, 0.02, 0.1))
    return Verdict(
        p_true=p,
        low=p * (1 - unseen),
        high=min(1.0, p * (1 - unseen) + unseen) if unseen else p,
        mass=1 - unseen,
        emitted=None,
        signal="scripted",
        fingerprint=FINGERPRINT,
        coverage=0.7 if lot.random() < 0.05 else 1.0,
    )


# ── An audit ─────────────────────────────────────────────────────────────────────────────────────


def audited(
    path: Path,
    count: int = 300,
    *,
    texts: bool = False,
    labelled: float = 0.5,
    policy: Policy = POLICY,
    about: Collection[str] = ("contexts", "answers"),
    failing: UnmeasuredKind | None = None,
) -> Audit:
    """An audit of as many decisions over twenty days.

    Args:
        path: of the file.
        count: how many decisions.
        texts: whether it keeps them.
        labelled: the share that has outcomes.
        policy: what routed.
        about: what the outcomes are about.
        failing: how every query that the judge was asked about failed, if it did.
    """
    found = sample(count) if failing is None else sample(count).failing(failing)
    said = {row.query: one for row, one in zip(found.dataset.rows, found.judgements, strict=True)}

    def script(query: Query) -> Scripted:
        one = said[query]
        if one.verdict is not None:
            return one.verdict
        return JudgeUnavailable("It failed.", kind=cast("UnmeasuredKind", one.reason))

    gate = Gate(
        ScriptedJudge(script, name="report"),
        policy,
        retry=Retry(attempts=1),
        profile=PROFILE,
        deployment="town guide",
        windows=Windows(1),  # What was judged in part stays so.
    )
    lot, outcomes = random.Random(3), list[Said]()
    with AuditLog(path, texts=texts) as log:
        for number, row in enumerate(found.dataset.rows):
            made = gate.check(row.query.question, row.query.contexts, lang=row.query.lang)
            time = datetime(2026, 11, 1, 12, tzinfo=UTC) + timedelta(days=20 * number // count)
            log.observe(replace(made, time=time))
            if lot.random() < labelled:
                words: dict[str, Word] = {
                    "contexts": "sufficient" if row.sufficient else "insufficient",
                    "answers": "helpful" if lot.random() < 0.8 else "wrong",
                }
                outcomes += [Said(made.id, words[each]) for each in about]
    if outcomes:
        OutcomeFile(path).add(outcomes)
    return Audit(path)


def wrong_clock(audit: Audit, day: str) -> Audit:
    """The same audit, whose first record is of another day."""
    first, *others = audit.path.read_text("ascii").splitlines(keepends=True)
    path = audit.path.with_name(f"wrong-{day}.jsonl")
    path.write_text(re.sub(r"2026-11-01", day, first) + "".join(others), "ascii")
    return Audit(path)
