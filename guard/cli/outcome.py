"""``rag-guard outcome``: what people later said of a decision, noted next to the audit."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from guard._json import as_map
from guard.cli.text import one_line
from guard.errors import ConfigError

if TYPE_CHECKING:
    from guard.audit_file import Audit
    from guard.outcomes import Said, Word

_WORDS = "sufficient|insufficient|helpful|wrong"


def outcome(
    id: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="The decision's id, or the first digits of it."),
    ] = None,
    word: Annotated[
        str | None, typer.Argument(metavar=_WORDS, help="Of the contexts, or of the answer.")
    ] = None,
    audit: Annotated[
        str | None, typer.Option(metavar="FILE", help="The audit that holds the decision.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help='JSON lines instead, - for standard input: {"id": "…", "outcome": "helpful"}.',
        ),
    ] = None,
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Who says it.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was noted as JSON and nothing else.")
    ] = False,
) -> None:
    """Notes what people later said of a decision.

    sufficient or insufficient is about the contexts: did they hold the answer? helpful or wrong is
    about the answer that was written. They are kept apart, since a model can misread good contexts.
    Whoever thinks again says so again: the last word of each kind counts.

    They are kept next to the audit, in NAME.outcomes.jsonl; replay and report use them. Of a file,
    all lines are checked before one is noted; its ids must be whole.

    The exit code is 0; 2 for misuse.
    """
    from guard.audit_file import Audit
    from guard.outcomes import OutcomeFile

    if audit is None:
        raise ConfigError("--audit is missing.", hint="Name the audit: --audit audit.jsonl.")
    records = Audit(audit)
    said = _named(records, id, word) if source is None else _listed(records, source, id)
    said = [one._replace(by=one.by or by) for one in said]
    file = OutcomeFile(records.path)
    file.add(said)
    if as_json:
        noted = [{"id": one.id, "outcome": one.word, "by": one.by} for one in said]
        typer.echo(json.dumps({"noted": noted, "file": str(file.path)}))
        return
    typer.echo(one_line(f"{_told(said)}, in {file.path}."))


def _told(said: "Sequence[Said]") -> str:
    if len(said) == 1:
        return f"{said[0].id} is noted as {said[0].word}"
    return f"{len(said)} outcomes of {len({one.id for one in said})} decisions are noted"


def _named(audit: "Audit", id: str | None, word: str | None) -> "list[Said]":
    """The one outcome of the command line."""
    if id is None or word is None:
        raise ConfigError(
            "An id and an outcome are needed.",
            hint=f"Write rag-guard outcome ID {_WORDS}, or --from a file.",
        )
    known = _known(word)
    if known is None:
        raise ConfigError(f"{word!r:.40} is no outcome.", hint=f"Say one of {_WORDS}.")
    from guard.outcomes import Said

    return [Said(audit.find(id).id, known)]


def _known(word: object) -> "Word | None":
    from guard.outcomes import WORDS

    return word if word in WORDS else None


# ── From a file ──────────────────────────────────────────────────────────────────────────────────


class _Line(NamedTuple):
    place: str
    said: "Said"


def _listed(audit: "Audit", source: str, id: str | None) -> "list[Said]":
    """The outcomes of a file, once every line is known to be sound and of a decision."""
    if id is not None:
        raise ConfigError("Both an id and --from were given.", hint="Give one of them.")
    lines = [_line(f"{source}, line {n}", line) for n, line in _read(source) if line.strip()]
    if not lines:
        raise ConfigError(f"{source} holds no outcome.", hint=_LINE_HINT)
    wanted = {line.said.id for line in lines}
    known = {record.id for record in audit.records() if record.id in wanted}
    unknown = [line for line in lines if line.said.id not in known]
    if unknown:
        more = f" {len(unknown)} lines are like it." if len(unknown) > 1 else ""
        place, (id, *_) = unknown[0]
        raise ConfigError(
            f"{place}: {id!r:.50} is no decision in {str(audit.path)!r}.",
            hint=f"Nothing was noted.{more} Give whole ids, and the audit that holds them.",
        )
    return [line.said for line in lines]


_LINE_HINT = f'Write {{"id": "…", "outcome": "{_WORDS}"}} on each line. Nothing was noted.'


def _read(source: str) -> list[tuple[int, bytes]]:
    try:
        content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        return list(enumerate(content.split(b"\n"), start=1))
    except OSError as error:
        problem = f"{source} cannot be read: {error.strerror}."
        raise ConfigError(problem, hint="Name a file of JSON lines.") from error


def _line(place: str, line: bytes) -> _Line:
    from guard.outcomes import Said

    try:
        values = as_map(json.loads(line))
    except (ValueError, RecursionError):
        raise ConfigError(f"{place}: not valid JSON.", hint=_LINE_HINT) from None
    id, said, by = (values.get(key) for key in ("id", "outcome", "by"))
    if not isinstance(id, str) or not isinstance(said, str):
        raise ConfigError(f"{place}: `id` or `outcome` is missing.", hint=_LINE_HINT)
    if (word := _known(said)) is None:
        raise ConfigError(f"{place}: {said!r:.40} is no outcome.", hint=_LINE_HINT)
    if not isinstance(by, str | None):
        raise ConfigError(f"{place}: `by` is no name.", hint=_LINE_HINT)
    return _Line(place, Said(id, word, by))
