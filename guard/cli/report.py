"""``rag-guard report``: an evaluation or an audit as one HTML file that people open."""

import json
import shlex
import webbrowser
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guard._json import as_map
from guard.cli.measuring import deployed_gate, evaluated, rows_of
from guard.cli.options import (
    AnswerAt,
    ApiKeyEnv,
    ApiVersion,
    BaseUrl,
    Config,
    Deadline,
    DeploymentName,
    Judge,
    ModelFamily,
    OnStale,
    OnUnmeasured,
    ProfileFile,
    RefuseBelow,
    RetryUnmeasured,
    Verdicts,
    given,
    time_of,
)
from guard.cli.paths import is_same, looked_at, require_place
from guard.cli.surveying import closed_if_wrong, default_path, surveyed
from guard.cli.text import plain
from guard.errors import ConfigError
from guard.judge import Profiled

if TYPE_CHECKING:
    from guard.dataset import Dataset
    from guard.evaluation import Evaluation
    from guard.gate import Gate
    from guard.judgement import Judgement
    from guard.report import Report


_WORKERS, _SEED, _RESAMPLES = 8, 0, 1000
"""Where an option is not given, which is told from one that is: with --audit, none may be."""


def report(
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA",
            help="JSON lines: question, contexts, sufficient; optionally group, lang, id.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write.")
    ] = Path("report.html"),
    audit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="In place of DATA: the records of a deployment's audit."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="With --audit: from then on, e.g. 2026-11-01 (UTC)."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="With --audit: before then, e.g. 2026-12-01 (UTC)."),
    ] = None,
    texts: Annotated[
        bool,
        typer.Option("--texts", help="Put questions and passages of the worst mistakes in."),
    ] = False,
    open_it: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser as well.")
    ] = False,
    judge: Judge = None,
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = None,
    model_family: ModelFamily = None,
    api_version: ApiVersion = None,
    config: Config = None,
    deployment: DeploymentName = None,
    answer_at: AnswerAt = None,
    refuse_below: RefuseBelow = None,
    profile: ProfileFile = None,
    deadline: Deadline = None,
    on_unmeasured: OnUnmeasured = None,
    on_stale: OnStale = None,
    verdicts: Verdicts = None,
    retry_unmeasured: RetryUnmeasured = False,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1024,
            help="Queries in flight at most.",
            show_default=str(_WORKERS),
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only the first N rows.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=2**63 - 1,
            help="Of the intervals' resamples.",
            show_default=str(_SEED),
        ),
    ] = None,
    resamples: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=100_000,
            help="For the intervals.",
            show_default=str(_RESAMPLES),
        ),
    ] = None,
) -> None:
    """Writes a page that shows what a judge and its thresholds do, and what others would do.

    One HTML file, which opens from disk, loads nothing and sends nothing: how much can be answered
    at which risk, whether P(True) means what it says, the worst mistakes, what was not measured,
    the certificate, and two sliders that work out leaks and false refusals for other thresholds.

    Of labelled rows, options and kept verdicts are those of rag-guard eval: what it has asked is
    not asked again. Of an audit, leaks and false refusals are of the records with an outcome
    (rag-guard outcome); --deployment takes only that deployment's records, --profile shows the
    certificate of a profile.

    Texts are left out unless --texts is given: with it, questions and passages of the worst
    mistakes are in the page, where the audit keeps them too. The file is private to this user. A
    report is written over an older one, and over nothing else.

    The exit code is 0; 2 for misuse; 130 after Ctrl-C.
    """
    from guard.report import require_writable

    options = given(
        judge=judge,
        base_url=base_url,
        api_key_env=api_key_env,
        model_family=model_family,
        api_version=api_version,
        answer_at=answer_at,
        refuse_below=refuse_below,
        profile=profile,
        deadline=deadline,
        on_unmeasured=on_unmeasured,
        on_stale=on_stale,
    )
    with looked_at("--output", output):
        require_writable(output)
    require_place("--output", output)
    if audit is not None:
        _require_alone(
            data,
            options,
            given(
                config=config,
                verdicts=verdicts,
                limit=limit,
                seed=seed,
                resamples=resamples,
                workers=workers,
                retry_unmeasured=retry_unmeasured or None,
            ),
        )
        made = _of_audit(audit, _span(since, until), deployment, profile, texts=texts)
    else:
        _require_rows(data, since, until)
        dataset = rows_of(data or (), limit)
        gate, aside = deployed_gate(config, deployment, options, as_deployed=profile is not None)
        with closed_if_wrong(gate):
            path = verdicts or default_path(data or (), gate.judge.fingerprint)
            _require_other(output, path)
        survey = surveyed(
            gate, dataset, path, workers=workers or _WORKERS, retry_unmeasured=retry_unmeasured
        )
        with survey as judgements:
            evaluation = evaluated(gate, judgements, seed or _SEED, resamples or _RESAMPLES)
            made = _of_evaluation(gate, evaluation, judgements, dataset, aside, texts=texts)
    made.write(output)
    typer.echo(plain(f"The report is in {output}."))
    if open_it:
        webbrowser.open(output.resolve().as_uri())


# ── Work ─────────────────────────────────────────────────────────────────────────────────────────


def _of_evaluation(
    gate: "Gate",
    evaluation: "Evaluation",
    judgements: "Sequence[Judgement]",
    dataset: "Dataset",
    left_aside: str | None,
    *,
    texts: bool,
) -> "Report":
    from guard.report import of_evaluation

    return of_evaluation(
        evaluation,
        judgements,
        dataset,
        gate.policy,
        gate.profile,
        profile_of=gate.profile_of if isinstance(gate.judge, Profiled) else None,
        name=None if gate.deployment == "default" else gate.deployment,
        texts=texts,
        left_aside=left_aside,
    )


def _of_audit(
    path: Path,
    span: tuple[datetime | None, datetime | None],
    deployment: str | None,
    profile: str | None,
    *,
    texts: bool,
) -> "Report":
    from guard.audit_file import Audit
    from guard.audit_report import of_audit
    from guard.profile import Profile

    audit = Audit(path, since=span[0], until=span[1], deployment=deployment)
    if next(audit.records(), None) is None:
        raise _no_records(path, deployment)
    shown = None if profile is None else Profile.load(profile)
    return of_audit(audit, name=deployment, profile=shown, texts=texts)


def _no_records(path: Path, deployment: str | None) -> ConfigError:
    from guard.audit_file import Audit

    known = {record.deployment for record in Audit(path).records()}
    if not known:
        return ConfigError(
            f"{path} is empty: no decision has been recorded yet.",
            hint="Send the deployment a query, or name the file that its audit is written to.",
        )
    if deployment is not None and deployment not in known:
        names = ", ".join(sorted(repr(name) for name in known if name is not None))
        return ConfigError(
            f"{path} holds nothing of a deployment {deployment!r:.100}.",
            hint=f"It holds {names}." if names else "Leave --deployment out: it names none.",
        )
    return ConfigError(
        f"{path} holds nothing of that time.", hint="Leave --since or --until out, or widen them."
    )


# ── What is asked for ────────────────────────────────────────────────────────────────────────────


def _require_alone(
    data: Sequence[str] | None, deciding: Mapping[str, object], measuring: Mapping[str, object]
) -> None:
    """Records are of verdicts that are there: no judge, no policy, no rows, no resamples."""
    options = [name for name in (*deciding, *measuring) if name != "profile"]
    if data:
        raise ConfigError(
            f"--audit, and {data[0]!r} as well.", hint="Name an audit or labelled rows, not both."
        )
    if options:
        raise ConfigError(
            f"--{options[0].replace('_', '-')} does nothing with --audit: no judge is asked, and "
            "all its records are shown, routed as they were.",
            hint=_INSTEAD.get(options[0], "Leave it out; rag-guard replay routes records anew."),
        )


_INSTEAD = {
    "limit": "Leave it out; --since and --until take a part of the records.",
    "seed": "Leave it out; intervals of an audit are Wilson's, without resamples.",
    "resamples": "Leave it out; intervals of an audit are Wilson's, without resamples.",
}


def _require_rows(data: Sequence[str] | None, since: str | None, until: str | None) -> None:
    if not data:
        raise ConfigError(
            "It is not said of what to report.", hint="Name labelled rows, or --audit FILE."
        )
    for path in filter(_is_audit, data):
        raise ConfigError(
            f"This is an audit: rag-guard report --audit {shlex.quote(path)}",
            hint="DATA are rows with a question, contexts and a label.",
        )
    if since is not None or until is not None:
        raise ConfigError("--since and --until go with --audit only.", hint="Leave them out.")


def _is_audit(path: str) -> bool:
    """Whether a file begins with a record; what cannot be read is told by who reads it."""
    try:
        if not Path(path).is_file():  # A pipe can be read once.
            return False
        with open(path, "rb") as file:
            first = as_map(json.loads(file.readline()))
    except (OSError, ValueError, RecursionError):
        return False
    return {"id", "question_hash"} <= first.keys() and "question" not in first


def _require_other(output: Path, verdicts: Path) -> None:
    """The file of verdicts may not be there yet, so that it would not be seen as another's."""
    if is_same("--output", output, verdicts):
        raise ConfigError("-o names the file of verdicts.", hint="Name another file with -o.")


def _span(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    return time_of("--since", since), time_of("--until", until)
