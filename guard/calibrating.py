"""Calibrating: from labelled rows, judged, to a profile whose thresholds are certified.

    rows ── groups drawn by lot ──┬─ fit part ──────► calibrator, and where to begin the search
                                  └─ certified part ► thresholds and certificate

No row serves both, or the promise would be made on rows that the calibrator has seen.
"""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import numpy as np

from guard._extras import require_extra
from guard._require import require_number, require_one_of
from guard.calibration import KINDS
from guard.certificate import Certified, NotCertifiable
from guard.certification import Score, certify, require_rate
from guard.dataset import Row
from guard.decision import Reason
from guard.errors import UNMEASURED_KINDS, ConfigError, UnmeasuredKind
from guard.fitting import LEAST_ROWS, Fitted, fit
from guard.judgement import Judgement
from guard.policy import Policy
from guard.profile import Probability, Profile
from guard.thresholds import Thresholds
from guard.verdict import Verdict

LEAST_OF_A_LANGUAGE = 10
"""Certified rows; a profile is not for languages of fewer, nor for more windows than they had."""

UNDETERMINED = "und"
"""BCP 47's tag for rows that name no language."""

FIT_SHARE = 0.3
"""Of the groups, for the calibrator: it has two numbers to find, the certificate has a promise."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What came of labelled rows.

    Attributes:
        fitted: the calibrator, and how well it does.
        outcome: thresholds with a promise, or why there are none.
        profile: both in one, to be saved; ``None`` where nothing could be certified.
        fit_rows: judgements that the calibrator was fitted to, those without a score left out.
        certified_rows: judgements that the thresholds were certified on, one of each group.
        unmeasured: how many of the certified part have no score: they were not measured, or by
            another signal than most, so that the profile will not apply to their like.
    """

    fitted: Fitted
    outcome: Certified | NotCertifiable
    profile: Profile | None
    fit_rows: int
    certified_rows: int
    unmeasured: int


def calibrate(
    judgements: Sequence[Judgement],
    policy: Policy,
    *,
    max_leak: float,
    max_false_refusal: float,
    confidence: float = 0.95,
    kind: str = "auto",
    fit_share: float = FIT_SHARE,
    certifiable: Collection[str] | None = None,
    data_version: str | None = None,
    pin_backend: bool = False,
    seed: int = 0,
) -> Calibration:
    """A calibrator and two certified thresholds, for the judge that the judgements are of.

    Args:
        judgements: of one judge, labelled.
        policy: where it sends what is not measured; its thresholds do not matter.
        max_leak: P(insufficient | answered) at most, in (0, 1).
        max_false_refusal: P(refused | sufficient) at most, in (0, 1).
        confidence: probability in (0, 1) that both hold, over the draw of rows.
        kind: of calibrator; see `guard.fitting.fit`.
        fit_share: of the groups, for the calibrator, in (0, 1).
        certifiable: ids of the rows that are a random sample of what is to come; the others, picked
            because they were worth labelling, serve the calibrator alone. ``None`` = all are.
        data_version: of the labelled rows, for the profile.
        pin_backend: whether the profile is for the provider's backends that were seen alone
            (``system_fingerprint``). Hosted ones change every few weeks, and then it is stale.
        seed: of the lots and folds. Do not try several until one suits: the promise would be lost.

    Raises:
        ConfigError: an unlabelled row, judgements of several judges, too few rows to fit or to
            certify on, a number out of range; or scikit-learn or scipy is not installed.
    """
    require_settings(max_leak, max_false_refusal, confidence, kind, fit_share)
    fingerprint = _one_judge(judgements)
    fitting, certifying = _parts(judgements, certifiable, fit_share, seed)
    draft = _draft(judgements, fingerprint, data_version, pin_backend=pin_backend)
    draft = replace(
        draft,
        languages=_languages(certifying, draft.signal),
        windows=_windows(certifying, draft.signal),
    )
    fitted = _fitted(draft, fitting, kind, seed)
    draft = replace(draft, calibrator=fitted.calibrator)
    scores = [_score(draft, each) for each in certifying]
    outcome = certify(
        scores,
        [bool(each.sufficient) for each in certifying],
        max_leak=max_leak,
        max_false_refusal=max_false_refusal,
        confidence=confidence,
        groups=[each.group for each in certifying],
        on_unmeasured=[_route(policy, draft, each) for each in certifying],
        pilot=[_score(draft, each) for each in fitting],
        pilot_sufficient=[bool(each.sufficient) for each in fitting],
        seed=seed,
    )
    profile = None
    if isinstance(outcome, Certified):
        routes = tuple(policy.routes_unmeasured().items())
        outcome = replace(outcome, certificate=replace(outcome.certificate, routes=routes))
        profile = replace(
            draft,
            thresholds=outcome.thresholds,
            certificate=outcome.certificate,
            created=datetime.now(UTC),
        )
    return Calibration(
        fitted=fitted,
        outcome=outcome,
        profile=profile,
        fit_rows=fitted.n,
        certified_rows=len({each.group for each in certifying}),
        unmeasured=sum(score is None for score in scores),
    )


def require_settings(
    max_leak: float, max_false_refusal: float, confidence: float, kind: str, fit_share: float
) -> None:
    """Raises the `ConfigError` that `calibrate` would, before a judge has been paid for."""
    require_rate("max_leak", max_leak)
    require_rate("max_false_refusal", max_false_refusal)
    require_rate("confidence", confidence)
    require_one_of("kind", kind, ("auto", *KINDS))
    require_number("fit_share", fit_share, 0.01, 0.99)
    for module in ("sklearn", "scipy"):
        require_extra(module, "calibrate")


def require_labels(sufficient: Collection[bool]) -> None:
    """Raises `ConfigError` where so few rows, or of one label alone, can calibrate nothing."""
    if len(sufficient) < LEAST_ROWS:
        raise ConfigError(
            f"{len(sufficient)} rows are too few to calibrate on; {LEAST_ROWS} is the least.",
            hint="Label more rows: a few hundred are worth it.",
        )
    if len(set(sufficient)) < 2:
        label = "sufficient" if True in sufficient else "insufficient"
        raise ConfigError(
            f"All {len(sufficient)} rows are {label}.",
            hint="Label rows of both kinds: what tells them apart is what is calibrated.",
        )


def require_parts(
    rows: Sequence[Row], certifiable: Collection[str] | None, fit_share: float, seed: int
) -> None:
    """Raises the `ConfigError` that `calibrate` would for rows as the lot divides them.

    However well they are measured: too few of them, or of one label alone, are for the calibrator,
    or none of their languages has enough rows to certify on.
    """
    fitting, certifying = _parts(rows, certifiable, fit_share, seed)
    if len(fitting) < LEAST_ROWS:
        raise ConfigError(
            f"{len(rows)} rows in {len({row.group for row in rows})} groups leave {len(fitting)} "
            f"for the calibrator (--fit-share {fit_share:g}); {LEAST_ROWS} are the least.",
            hint=f"Label at least {math.ceil(LEAST_ROWS / fit_share)} rows, each of a group of its "
            "own: rag-guard label. A bound of 5 % takes 450 to 700.",
        )
    if len({row.sufficient for row in fitting}) < 2:
        raise ConfigError(
            f"All {len(fitting)} rows that the lot gives to the calibrator have one label.",
            hint="Label more rows of both kinds: what tells them apart is what is calibrated.",
        )
    langs = [(row.query.lang or "").strip() for row in certifying]
    if all(langs):
        _require_language(Counter(langs))


def _one_judge(judgements: Sequence[Judgement]) -> str:
    if unlabelled := [each.id for each in judgements if each.sufficient is None]:
        why = f"{len(unlabelled)} rows are not labelled, e.g. {unlabelled[0]!r:.60}."
        raise ConfigError(why, hint="Label them: rag-guard label.")
    # Of a chain, the verdicts' fingerprints are its links'; those of the judgements its own.
    asked = {each.fingerprint for each in judgements}
    found = sorted({each.verdict.fingerprint for each in judgements if each.verdict is not None})
    if len(asked) == len(found) == 1:
        return found[0]
    if not found:
        why = "No row could be measured, so that there is nothing to calibrate."
        raise ConfigError(why, hint="See what the judge answers: rag-guard doctor.")
    raise ConfigError(
        f"The judgements are those of {max(len(asked), len(found))} judges, e.g. {found[0]!r:.60}.",
        hint="A profile is for one judge. Calibrate each judge of a chain by itself.",
    )


class _Drawn(Protocol):
    """What is drawn by lot: a row, or its judgement."""

    @property
    def id(self) -> str: ...
    @property
    def group(self) -> str: ...


Drawn = TypeVar("Drawn", bound=_Drawn)


def _parts(
    rows: Sequence[Drawn], certifiable: Collection[str] | None, fit_share: float, seed: int
) -> tuple[list[Drawn], list[Drawn]]:
    """Those to fit and those to certify on; no group is in both."""
    random = [each for each in rows if certifiable is None or each.id in certifiable]
    groups = sorted({each.group for each in random})
    if len(groups) < 2:
        why = f"There are {len(groups)} groups of rows to certify on."
        raise ConfigError(why, hint="Label rows on more documents; see `group` in the data.")
    order = np.random.default_rng(seed).permutation(len(groups))
    count = min(len(groups) - 1, max(1, round(fit_share * len(groups))))
    for_fit: set[str] = {groups[int(place)] for place in order[:count]}
    held = set(groups) - for_fit
    fitting = [each for each in rows if each.group not in held]
    return fitting, [each for each in random if each.group in held]


def _draft(
    judgements: Sequence[Judgement],
    fingerprint: str,
    data_version: str | None,
    *,
    pin_backend: bool,
) -> Profile:
    """The profile as it will be, but for calibrator, thresholds and promise."""
    verdicts = [each.verdict for each in judgements if each.verdict is not None]
    return Profile(
        Thresholds(1.0, 0.0),
        fingerprint,
        # An endpoint may list fewer tokens at times; what it does seldom is stale when deployed.
        signal=Counter(verdict.signal for verdict in verdicts).most_common(1)[0][0],
        model=_one_model(verdicts),
        system_fingerprints=_backends(verdicts) if pin_backend else (),
        data_version=data_version,
    )


def _one_model(verdicts: Sequence[Verdict]) -> str | None:
    """The model that served them, by its own word; some replies may not say it."""
    served = sorted({verdict.model for verdict in verdicts if verdict.model is not None})
    if len(served) > 1:
        raise ConfigError(
            f"The verdicts are of {len(served)} served models, e.g. {served[0]!r:.60} and "
            f"{served[1]!r:.60}.",
            hint="A profile is for one: name a fixed version of the model, and ask it anew.",
        )
    return served[0] if served else None


def _backends(verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    found = {each.system_fingerprint for each in verdicts if each.system_fingerprint is not None}
    return tuple(sorted(found))


def _languages(certifying: Sequence[Judgement], signal: str | None) -> tuple[str, ...]:
    """Those that enough certified rows, measured as the profile asks, are of.

    Where some rows name a language and none is named by enough, it is `UNDETERMINED` alone: the
    profile is then for queries that name none. Empty = no row names one, and none is compared.
    """
    named = [((each.lang or "").strip(), each.verdict) for each in certifying]
    if not any(lang for lang, _ in named):
        return ()
    counts = Counter(lang for lang, said in named if lang and said and said.signal == signal)
    enough = {lang for lang, rows in counts.items() if rows >= LEAST_OF_A_LANGUAGE}
    if not enough and all(lang for lang, _ in named):
        raise ConfigError(
            f"No language has {LEAST_OF_A_LANGUAGE} rows to certify on: {len(counts)} have fewer.",
            hint="Label more rows of those that you serve, or leave `lang` away from the rows: "
            "then none is compared.",
        )
    return tuple(sorted(enough)) or (UNDETERMINED,)


def _windows(certifying: Sequence[Judgement], signal: str | None) -> int:
    """The most that enough certified rows had, or more.

    The best of eight requests is above the best of one: thresholds fitted to single requests leak
    where sets are judged in windows.
    """
    said = (each.verdict for each in certifying)
    counts = sorted((one.windows for one in said if one and one.signal == signal), reverse=True)
    return counts[LEAST_OF_A_LANGUAGE - 1] if len(counts) >= LEAST_OF_A_LANGUAGE else 1


def _require_language(rows: Counter[str]) -> None:
    if max(rows.values(), default=0) < LEAST_OF_A_LANGUAGE:
        raise ConfigError(
            f"No language has {LEAST_OF_A_LANGUAGE} rows to certify on: {len(rows)} have fewer.",
            hint="Label more rows of those that you serve, or leave `lang` away from the rows: "
            "then none is compared.",
        )


def _fitted(draft: Profile, rows: Sequence[Judgement], kind: str, seed: int) -> Fitted:
    measured = [
        (each, each.verdict)
        for each in rows
        if each.verdict is not None and draft.difference(each.verdict, each.lang) is None
    ]
    return fit(
        [verdict.p_true for _, verdict in measured],
        [bool(each.sufficient) for each, _ in measured],
        [each.group for each, _ in measured],
        kind=kind,
        seed=seed,
    )


def _score(draft: Profile, judgement: Judgement) -> Score:
    """A row as the deployed rule sees it; ``None`` where it will not be measured, or be stale."""
    verdict = judgement.verdict
    if verdict is None or draft.difference(verdict, judgement.lang) is not None:
        return None
    found: Probability = draft.calibrated(verdict)
    # What was judged in part only is never refused.
    return found.low, found.high if verdict.coverage == 1 else 1.0


def _route(policy: Policy, draft: Profile, judgement: Judgement) -> str:
    """Where a row goes that has no score; of the others nothing is asked."""
    if judgement.reason == Reason.NO_CONTEXTS:
        return "refuse"
    kind: UnmeasuredKind | None = next(
        (one for one in UNMEASURED_KINDS if one == judgement.reason), None
    )
    said = judgement.verdict
    divided = said is not None and draft.is_only_too_divided(said, judgement.lang)
    route = policy.route_unmeasured(kind) if kind else policy.route_stale(divided=divided)
    return "raise" if route is None else route.value
