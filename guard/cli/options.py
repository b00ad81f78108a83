"""Options that several subcommands have, each written once."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from guard import judges
from guard.cli.text import one_line
from guard.errors import ConfigError

Judge = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"{', '.join(judges.KNOWN)} or one of your own; else the configuration's.",
    ),
]
Verdicts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Keeps the verdicts, and those in it are not asked for again; else a file in this "
        "folder that is named after data and judge. Rows that failed by the endpoint or the key "
        "are asked again.",
    ),
]
RetryUnmeasured = Annotated[
    bool,
    typer.Option(
        "--retry-unmeasured",
        help="Ask again wherever there was no verdict; else only where the endpoint or the key was "
        "at fault (timeout, unavailable, rate_limited, rejected).",
    ),
]
Workers = Annotated[
    int, typer.Option(metavar="N", min=1, max=1024, help="Queries in flight at most.")
]
BaseUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="The judge's endpoint; else OPENAI_BASE_URL.")
]
ModelFamily = Annotated[
    str | None, typer.Option(metavar="FAMILY", help="The model behind a name that does not tell.")
]
ApiVersion = Annotated[
    str | None, typer.Option(metavar="DATE", help="Azure's; else OPENAI_API_VERSION.")
]
ApiKeyEnv = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The variable that holds the key; else OPENAI_API_KEY."),
]
Config = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="The configuration (TOML); else RAG_GUARD_CONFIG."),
]
DeploymentName = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Which of its deployments; else RAG_GUARD_DEPLOYMENT."),
]
AnswerAt = Annotated[
    float | None, typer.Option(metavar="P", help="Answer from this probability on.")
]
RefuseBelow = Annotated[
    float | None, typer.Option(metavar="P", help="Refuse below this probability.")
]
ProfileFile = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="A profile, in place of thresholds; else RAG_GUARD_PROFILE."),
]
Deadline = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="For one query, retries included.")
]
OnUnmeasured = Annotated[
    str | None,
    typer.Option(
        metavar="ROUTE",
        help="answer, clarify, refuse or raise: what to do if the judge gives no verdict.",
    ),
]
OnStale = Annotated[
    str | None,
    typer.Option(
        metavar="ROUTE",
        help="answer, clarify, refuse or raise: what to do if the profile is for something else.",
    ),
]


def given(**options: object) -> dict[str, object]:
    """Those options that were given, by the configuration's key."""
    return {key: value for key, value in options.items() if value is not None}


def time_of(option: str, text: str | None) -> datetime | None:
    """The time that an option is given, in UTC unless it says otherwise.

    Raises:
        ConfigError: it is no time (ISO 8601).
    """
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        why = f"{option}: {one_line(text)[:40]!r} is no time."
        raise ConfigError(why, hint="Write 2026-11-01 or 2026-11-01T08:30 (UTC).") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
