"""Measuring: what ``eval`` and ``report`` share: rows, a deployment's gate, an evaluation."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from guard import judges
from guard.cli.text import one_line
from guard.errors import ConfigError
from guard.judge import Profiled

if TYPE_CHECKING:
    from guard.dataset import Dataset
    from guard.evaluation import Evaluation
    from guard.gate import Gate
    from guard.judgement import Judgement


def rows_of(files: Sequence[str], limit: int | None) -> "Dataset":
    """The labelled rows of files, or the first ``limit`` of them."""
    from guard.dataset import Dataset, read

    dataset = read(files)
    return dataset if limit is None else Dataset.of(dataset.rows[:limit])


def deployed_gate(
    config: str | None, deployment: str | None, options: Mapping[str, object], *, as_deployed: bool
) -> "tuple[Gate, str | None]":
    """The deployment's gate; and, where its profile was left aside, why.

    ``as_deployed``: it is never left aside; what would stop the deployment is an error.
    """
    from guard.config import load_gate

    if as_deployed:
        return load_gate(config, deployment=deployment, options=options, audit=False), None
    try:
        gate = load_gate(config, deployment=deployment, options=options, audit=False)
        _require_fresh(gate)
    except ConfigError as error:
        # Whatever else is wrong is wrong without the profile as well, and raised here.
        gate = load_gate(
            config, deployment=deployment, options=options, audit=False, profiles=False
        )
        typer.echo(f"rag-guard: profile left aside: {one_line(error.message)}", err=True)
        return gate, error.message
    return gate, None


def _require_fresh(gate: "Gate") -> None:
    """Raises `ProfileMismatch`, and frees the judge, where ``on_stale`` let one pass."""
    from guard.judges.several import Chain, Link

    judge = gate.judge
    links = judge.links if isinstance(judge, Chain) else (Link(judge, gate.profile),)
    try:
        for link in links:
            if link.profile is not None:
                link.profile.require_for(link.judge.fingerprint)
    except ConfigError:
        judges.close(judge)
        raise


def evaluated(
    gate: "Gate", judgements: "Sequence[Judgement]", seed: int, resamples: int
) -> "Evaluation":
    """The evaluation of what a gate's judge said."""
    from guard.evaluation import evaluate

    return evaluate(
        judgements,
        gate.policy,
        gate.profile,
        profile_of=gate.profile_of if isinstance(gate.judge, Profiled) else None,
        seed=seed,
        resamples=resamples,
    )
