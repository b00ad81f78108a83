"""``rag-guard calibrate``: from labelled rows to a profile whose thresholds are certified."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guard._json import as_map
from guard.cli.options import (
    ApiKeyEnv,
    ApiVersion,
    BaseUrl,
    Config,
    DeploymentName,
    Judge,
    ModelFamily,
    RetryUnmeasured,
    Verdicts,
    Workers,
    given,
)
from guard.cli.paths import is_same, looked_at, require_place
from guard.cli.surveying import closed_if_wrong, default_path, say, share, surveyed
from guard.cli.text import one_line, plain
from guard.errors import UNMEASURED_KINDS, ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from guard.calibrating import Calibration
    from guard.certificate import Bound, Certified
    from guard.dataset import Dataset
    from guard.judgement import Judgement
    from guard.policy import Policy
    from guard.profile import Profile

BAR_NOT_MET = 6
"""The exit code where nothing can be certified."""


def calibrate(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA",
            help="JSON lines: question, contexts, sufficient; optionally group, lang, id.",
        ),
    ],
    max_leak: Annotated[
        float, typer.Option(metavar="P", parser=share, help="P(insufficient | answered) at most.")
    ],
    max_false_refusal: Annotated[
        float, typer.Option(metavar="P", parser=share, help="P(refused | sufficient) at most.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The profile to write.")
    ],
    confidence: Annotated[
        float, typer.Option(metavar="P", help="Probability that both hold.")
    ] = 0.95,
    judge: Judge = None,
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = None,
    model_family: ModelFamily = None,
    api_version: ApiVersion = None,
    config: Config = None,
    deployment: DeploymentName = None,
    verdicts: Verdicts = None,
    retry_unmeasured: RetryUnmeasured = False,
    workers: Workers = 8,
    kind: Annotated[
        str,
        typer.Option(metavar="KIND", help="auto, identity, temperature, platt or isotonic."),
    ] = "auto",
    fit_share: Annotated[
        float, typer.Option(metavar="P", help="Of the groups, for the calibrator.")
    ] = 0.3,
    pin_backend: Annotated[
        bool,
        typer.Option(
            "--pin-backend",
            help="Stale also when the provider's backend (system_fingerprint) is another.",
        ),
    ] = False,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=2**32 - 1,
            help="Of the lots. Trying several voids the promise.",
        ),
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what came of it as JSON and nothing else.")
    ] = False,
) -> None:
    """Fits a calibrator, certifies two thresholds together, and writes them as a profile.

    A part of the groups, drawn by lot, fits the calibrator; the thresholds are certified on the
    others, one random row of each group, through the deployed rule: bounds, rows judged in part,
    and rows without a verdict, which go where the policy sends them. Where rows say how they were
    picked (`sampling`, as `rag-guard label` writes it), only the random ones are certified on.

    Write the profile into guard.toml: profile = "FILE". It is for this judge, prompt, model and
    signal alone, and goes stale by itself when one of them changes. Languages are compared where
    rows have `lang`, and where the application passes one; nothing detects them.

    The exit code is 0; 6 if nothing can be certified, and then no file is written; 130 after
    Ctrl-C; 2 for misuse.
    """
    from guard import calibrating
    from guard.config import load_gate
    from guard.dataset import read

    options = given(
        judge=judge,
        base_url=base_url,
        api_key_env=api_key_env,
        model_family=model_family,
        api_version=api_version,
    )
    dataset = read(data)
    # Whatever can be wrong is said before the judge is asked, which takes time and money.
    calibrating.require_settings(max_leak, max_false_refusal, confidence, kind, fit_share)
    calibrating.require_labels([bool(row.sufficient) for row in dataset.rows])
    calibrating.require_parts(dataset.rows, _random_rows(dataset), fit_share, seed)
    _require_writable(output, [*data, *([] if verdicts is None else [verdicts])])
    # Without the profile of the deployment: the one that is to be written anew.
    gate = load_gate(config, deployment=deployment, options=options, audit=False, profiles=False)
    with closed_if_wrong(gate):
        path = verdicts or default_path(data, gate.judge.fingerprint)
        _require_writable(output, [path])
    survey = surveyed(gate, dataset, path, workers=workers, retry_unmeasured=retry_unmeasured)
    with survey as judgements:
        found = calibrating.calibrate(
            judgements,
            gate.policy,
            max_leak=max_leak,
            max_false_refusal=max_false_refusal,
            confidence=confidence,
            kind=kind,
            fit_share=fit_share,
            certifiable=_random_rows(dataset),
            data_version=dataset.version,
            pin_backend=pin_backend,
            seed=seed,
        )
    if found.profile is not None:
        replaced = _replaced(output)
        found.profile.save(output)
        _tell(found.profile, replaced)
    if as_json:
        record = _as_json(found, judgements, path, output)
        typer.echo(json.dumps(record, allow_nan=False))
    else:
        _show(found, judgements, gate.policy, path, output)
    if found.profile is None:
        raise typer.Exit(BAR_NOT_MET)


def _require_writable(output: Path, others: Sequence[str | Path]) -> None:
    """Raises `ConfigError` where no profile can be written, or one would replace something else."""
    require_place("--output", output)
    if any(is_same("--output", output, each) for each in others):
        why = f"--output: {str(output)!r} holds rows or verdicts, which a profile would replace."
        raise ConfigError(why, hint=_OTHER_HINT)
    with looked_at("--output", output):
        if output.exists() and not _is_profile(output):
            why = f"--output: {str(output)!r} is there and is no profile of rag-guard."
            raise ConfigError(f"{why} It is left as it is.", hint=_OTHER_HINT)


_OTHER_HINT = "Name another file, e.g. support-bot.profile.json."


def _is_profile(path: Path) -> bool:
    """Whether a file was written as a profile, be it damaged since, or another version's."""
    from guard._profile_file import FORMAT

    if not path.is_file():  # A pipe would never end.
        return False
    try:
        return as_map(json.loads(path.read_bytes())).get("format") == FORMAT
    except (ValueError, RecursionError):
        return False


def _replaced(output: Path) -> str | None:
    """What is in the way, in a few words, if anything is."""
    from guard.profile import Profile

    if not output.exists():
        return None
    with suppress(ConfigError):
        created = Profile.load(output).created
        if created is not None:
            return f"{output} (created {created:%Y-%m-%d %H:%M} UTC)"
    return f"{output} (no profile that can be read)"


def _tell(profile: "Profile", replaced: str | None) -> None:
    if replaced is not None:
        say(f"replaced {replaced}.")
    if not profile.languages:
        say("no row has `lang`: this profile never goes stale by language.")


def _random_rows(dataset: "Dataset") -> set[str] | None:
    """Ids of the rows drawn at random; ``None`` where no row says how it was picked."""
    if all(row.sampling is None for row in dataset.rows):
        return None
    return {row.id for row in dataset.rows if row.sampling == "random"}


# ── Output ───────────────────────────────────────────────────────────────────────────────────────


def _unmeasured(judgements: "Sequence[Judgement]") -> dict[str, int]:
    """Rows that the judge was asked about in vain, by reason, most frequent first."""
    reasons = Counter(one.reason for one in judgements)
    return {kind: count for kind, count in reasons.most_common() if kind in UNMEASURED_KINDS}


def _as_json(
    found: "Calibration", judgements: "Sequence[Judgement]", path: Path, output: Path
) -> dict[str, object]:
    from dataclasses import asdict

    fitted = found.fitted
    certified = found.profile is not None
    return {
        "certified": certified,
        **asdict(found.outcome),
        "calibrator": fitted.calibrator.to_dict(),
        "losses": {name: asdict(loss) for name, loss in fitted.losses.items()},
        "ece_before": asdict(fitted.ece_before),
        "ece_after": asdict(fitted.ece_after),
        "note": fitted.note,
        "fit_rows": found.fit_rows,
        "certified_rows": found.certified_rows,
        "unmeasured": found.unmeasured,
        "unmeasured_by_reason": _unmeasured(judgements),
        "verdicts": str(path),
        "profile": str(output) if certified else None,
    }


def _show(
    found: "Calibration",
    judgements: "Sequence[Judgement]",
    policy: "Policy",
    path: Path,
    output: Path,
) -> None:
    """Prints what came of it for people, at any width from 60 on."""
    from rich.console import Console

    from guard.certificate import Certified

    console = Console(emoji=False, highlight=False, markup=False)
    for line in _about_fit(found):
        console.print(plain(line))
    console.print(_losses(found))
    if isinstance(found.outcome, Certified):
        _show_certified(found, found.outcome, judgements, policy, console)
        console.print(plain(f"The profile is in {output}. In guard.toml:"), soft_wrap=True)
        console.print(f"\n  profile = {json.dumps(str(output))}\n", soft_wrap=True)
    else:
        console.print("NOT CERTIFIED, and no profile is written.", style="bold red")
        for line in _about_unmeasured(judgements, policy):
            console.print(one_line(line), style="yellow")
        console.print(plain(found.outcome.reason))
        if found.outcome.needed_n is not None:
            console.print(
                f"{found.certified_rows} rows, one a group, were there to certify on; the "
                "calibrator takes its share besides (--fit-share). Label more: rag-guard label."
            )
    console.print(plain(f"The verdicts are kept in {path}."), soft_wrap=True)


def _about_unmeasured(judgements: "Sequence[Judgement]", policy: "Policy") -> Iterator[str]:
    """How many rows have no verdict, why, and what that does: it may not be the judge's fault."""
    counts = _unmeasured(judgements)
    if not counts:
        return
    details: dict[str | None, str] = {}
    for one in judgements:
        details.setdefault(one.reason, one.detail)
    whys = "; ".join(f"{count:,} {kind}: {details[kind]}" for kind, count in counts.items())
    routes = [policy.route_unmeasured(kind) for kind in UNMEASURED_KINDS if kind in counts]
    names = dict.fromkeys("raise" if route is None else route.value for route in routes)
    yield (
        f"{sum(counts.values()):,} of {len(judgements):,} rows have no verdict ({whys}) and count "
        f"as the policy routes them: {', '.join(names)}."
    )
    yield "The same command asks again where the endpoint or the key was at fault."


def _about_fit(found: "Calibration") -> Iterator[str]:
    fitted = found.fitted
    before, after = fitted.ece_before, fitted.ece_after
    yield (
        f"Calibrator: {fitted.calibrator.name}, fitted to {found.fit_rows} rows in "
        f"{fitted.groups} groups."
    )
    yield (
        f"Expected calibration error {before.value:.3f} ({before.low:.3f} to {before.high:.3f}) "
        f"before, {after.value:.3f} ({after.low:.3f} to {after.high:.3f}) after."
    )
    if fitted.note is not None:
        yield f"Note: {fitted.note}"


def _losses(found: "Calibration") -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for heading in ("calibrator", "log loss, nats", "standard error"):
        table.add_column(heading)
    for name, loss in found.fitted.losses.items():
        table.add_row(one_line(name), f"{loss.mean:.4f}", f"{loss.standard_error:.4f}")
    return table


def _show_certified(
    found: "Calibration",
    outcome: "Certified",
    judgements: "Sequence[Judgement]",
    policy: "Policy",
    console: "Console",
) -> None:
    cuts, certificate = outcome.thresholds, outcome.certificate
    console.print(
        f"CERTIFIED: answer at {cuts.answer_at:.4f}, refuse below {cuts.refuse_below:.4f}.",
        style="bold green",
    )
    console.print(
        f"With {certificate.confidence:.0%} confidence, of new queries drawn as these were, a "
        f"random one of a random group, at most {certificate.leak.most:.1%} of the answered ones "
        "lack evidence, and at most "
        f"{certificate.false_refusal.most:.1%} of the sufficient ones are refused."
    )
    console.print(
        f"Seen on {certificate.n} rows, one a group: {_seen(certificate.leak)} answered ones "
        f"leaked; {_seen(certificate.false_refusal)} sufficient ones were refused; "
        f"{found.unmeasured} of all rows in that part had no verdict."
    )
    assert found.profile is not None
    console.print(_routes(found, judgements, policy))


def _seen(bound: "Bound") -> str:
    return f"{bound.events} of {bound.rows}"


def _routes(found: "Calibration", judgements: "Sequence[Judgement]", policy: "Policy") -> str:
    """What these thresholds do with all rows, those that were fitted to included."""
    from guard.evaluation import evaluate

    routes = evaluate(judgements, policy, found.profile, resamples=1).routes
    total = max(1, sum(routes.values()))
    shares = ", ".join(f"{count / total:.0%} {name}" for name, count in routes.items() if count)
    return f"All rows by route: {shares}."
