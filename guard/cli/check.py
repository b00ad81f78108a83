"""``rag-guard check``: from a question and passages, or a file of many, to routes."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guard import judges
from guard._json import as_list, as_map, as_text
from guard.breaker import breakers_ignored
from guard.cli.extent import extent
from guard.cli.options import (
    AnswerAt,
    ApiKeyEnv,
    ApiVersion,
    BaseUrl,
    Config,
    Deadline,
    DeploymentName,
    ModelFamily,
    OnStale,
    OnUnmeasured,
    ProfileFile,
    RefuseBelow,
    given,
)
from guard.cli.text import one_line, plain
from guard.dataset import history_of
from guard.decision import Decision, Reason, Route
from guard.errors import ConfigError, JudgeError
from guard.gate import Gate
from guard.profile import Profile
from guard.query import Query
from guard.verdict import Verdict

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

EXIT_CODES: dict[Route | None, int] = {
    Route.ANSWER: 0,
    Route.CLARIFY: 3,
    Route.REFUSE: 4,
    None: 5,
}
"""Exit code by route; ``None`` is undecided. The higher, the worse."""

_MEANING: dict[Route | None, tuple[str, str]] = {
    Route.ANSWER: ("green", "the contexts suffice; write the answer"),
    Route.CLARIFY: ("yellow", "not sure enough; ask the user back"),
    Route.REFUSE: ("red", "do not answer from these contexts"),
    None: ("magenta", "the policy is to raise"),
}


STDIN = "-"


def check(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="More files, as after --context."),
    ] = None,
    question: Annotated[
        str | None, typer.Option("--question", "-q", metavar="TEXT", help="The user's question.")
    ] = None,
    context: Annotated[
        list[str] | None,
        typer.Option(
            "--context",
            "-c",
            metavar="FILE",
            help="A file that holds one passage; repeat it for more. - is standard input. "
            "A .jsonl file holds one passage a line: a JSON text, or an object with `text` or "
            "`content`.",
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", "-t", metavar="TEXT", help="A passage itself; may be repeated."),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"{', '.join(judges.KNOWN)} or one of your own; scripted:0.9 always says 0.9, for "
            "trying things. See also: rag-guard doctor.",
        ),
    ] = None,
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
    lang: Annotated[
        str | None,
        typer.Option(
            metavar="TAG",
            help='The language asked in, e.g. "de": a profile goes stale by it, and messages '
            "follow it. Nothing detects it. In a .jsonl file `lang` on a line comes first.",
        ),
    ] = None,
    audit: Annotated[
        bool,
        typer.Option(help="Whether decisions go to the audit of the deployment, if it has one."),
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the decision record and nothing else.")
    ] = False,
) -> None:
    """Decides whether a question may be answered from retrieved passages.

    Without --question, each line of a .jsonl file (or of -, standard input) is a query of its own:
    {"question": "…", "contexts": ["…"]}. Earlier turns of a conversation go beside these, oldest
    first: "history": [["user", "…"], ["assistant", "…"]]. With --json there is then one record a
    line.

    The exit code is 0 for answer, 3 for clarify, 4 for refuse, 5 for undecided (on_unmeasured is
    raise); of many queries the worst counts: 5, else 4, else 3, else 0. Misuse is 2, a bug is 1.
    In shadow mode it still follows the route. The key is taken from the variable that --api-key-env
    or the configuration names, else from OPENAI_API_KEY.
    """
    from guard.config import load_gate

    cases = _cases(question, [*(context or []), *(files or [])], text or [], lang)
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
    gate = load_gate(config, deployment=deployment, options=options, audit=audit)
    try:
        decisions = _print_json(gate, cases) if as_json else _print_tables(gate, cases)
    finally:
        judges.close(gate.judge)
    raise typer.Exit(max(EXIT_CODES[decision.route] for decision in decisions))


def decide(gate: Gate, query: Query) -> Decision:
    """One query's decision; undecided (route ``None``) where the policy is to raise."""
    try:
        # Of many, one after the other, each is to be asked.
        with breakers_ignored():
            return gate.check(
                query.question, query.contexts, history=query.history, lang=query.lang
            )
    except JudgeError as error:
        if isinstance(error.decision, Decision):
            return error.decision
        raise


# ── Input ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Case:
    """One query and, where there are many, where it comes from."""

    query: Query
    place: str | None = None


def _cases(
    question: str | None, files: Sequence[str], texts: Sequence[str], lang: str | None
) -> list[_Case]:
    if files.count(STDIN) > 1:
        raise ConfigError("--context: standard input (-) can be read only once.", hint=_JSONL_HINT)
    if question is None:
        return _many(files, texts, lang)
    if not files and not texts:
        raise ConfigError(
            "No passage is given.",
            hint="Name files with --context FILE, or pass passages with --text TEXT.",
        )
    passages = [passage for file in files for passage in _passages(file)]
    return [_Case(Query.of(question, [*passages, *texts], lang=lang))]


_JSONL_HINT = "A .jsonl file gives many passages, one a line."
_QUERY_HINT = 'Write {"question": "…", "contexts": ["…", "…"]} on each line.'
_PASSAGE_HINT = 'Write a JSON text, or {"text": "…"}; queries with passages go without --question.'


def _many(files: Sequence[str], texts: Sequence[str], lang: str | None) -> list[_Case]:
    """Every line of every file, a query each."""
    if not files or texts or not all(map(_is_lines, files)):
        raise ConfigError(
            "--question is missing.",
            hint="Only .jsonl files (or -) with a question on each line go without it.",
        )
    values = [each for file in files for each in _values(file)]
    cases = [_Case(_query(place, value, lang), place) for place, value in values]
    if not cases:
        raise ConfigError(f"{', '.join(files)}: there is no query.", hint=_QUERY_HINT)
    return cases


def _is_lines(file: str) -> bool:
    return file == STDIN or _is_jsonl(file)


def _is_jsonl(file: str) -> bool:
    return file.casefold().endswith(".jsonl")


def _query(place: str, value: object, lang: str | None) -> Query:
    query = as_map(value)
    question = as_text(query.get("question"))
    if question is None or not isinstance(query.get("contexts"), list):
        raise ConfigError(
            f"{place}: not a query with a `question` and a list of `contexts`.", hint=_QUERY_HINT
        )
    passages = [
        _passage(f"{place}, contexts[{number}]", context)
        for number, context in enumerate(as_list(query.get("contexts")))
    ]
    own, history = _lang(place, query) or lang, _history(place, query)
    try:
        return Query.of(question, passages, history=history, lang=own)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.message}", hint=error.hint) from error


def _lang(place: str, query: Mapping[str, object]) -> str | None:
    value = query.get("lang")
    if value is None or isinstance(value, str):
        return value
    raise ConfigError(f"{place}: `lang` is not text.", hint='Write a BCP 47 tag, e.g. "de".')


def _history(place: str, query: Mapping[str, object]) -> list[tuple[str, str]]:
    """Earlier turns, each a pair of role and text."""
    turns = list[tuple[str, str]]()
    for at, turn in history_of(place, query):
        match list(as_list(turn)):
            case [str() as role, str() as text]:
                turns.append((role, text))
            case _:
                hint = 'Write ["user", "Hello."] for each turn, not {"role": …}.'
                raise ConfigError(f"{at} is not a pair of texts.", hint=hint)
    return turns


def _passages(file: str) -> list[str]:
    if _is_jsonl(file):
        return [_passage(place, value) for place, value in _values(file)]
    return [_read(file)]


def _passage(place: str, value: object) -> str:
    for found in (value, as_map(value).get("text"), as_map(value).get("content")):
        if isinstance(found, str):
            return found
    raise ConfigError(f"{place}: neither a text nor an object with one.", hint=_PASSAGE_HINT)


def _values(file: str) -> Iterator[tuple[str, object]]:
    """The JSON value on each line that is not blank, and where it stands."""
    # Not splitlines(): JSON texts may hold U+2028 and other ends of lines as they are.
    for number, line in enumerate(_read(file).split("\n"), start=1):
        if line.strip():
            place = f"{_name(file)}, line {number}"
            yield place, _json(place, line)


def _json(place: str, line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        problem = f"{error.msg}, column {error.colno}"
    except (ValueError, RecursionError) as error:
        problem = str(error)
    raise ConfigError(f"{place}: not valid JSON ({problem}).", hint="Each line is one JSON value.")


def _read(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
        # Windows editors begin a file with a byte order mark.
        return data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"{_name(file)} cannot be read: {error.strerror}.",
            hint="--context names a file; a passage itself goes after --text.",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{_name(file)} is not UTF-8 (byte {error.start}).", hint="Save it as UTF-8."
        ) from None


def _name(file: str) -> str:
    return "standard input" if file == STDIN else file


# ── Output ───────────────────────────────────────────────────────────────────────────────────────


def _print_json(gate: Gate, cases: Iterable[_Case]) -> list[Decision]:
    decisions = list[Decision]()
    for case in cases:
        decisions.append(decide(gate, case.query))
        typer.echo(json.dumps(decisions[-1].to_dict()))
    return decisions


def _print_tables(gate: Gate, cases: Sequence[_Case]) -> list[Decision]:
    from rich.console import Console

    console = Console(emoji=False, highlight=False, markup=False)
    decisions = list[Decision]()
    for case in cases:
        if case.place is not None:
            title = one_line(f"{case.place}: {case.query.question}")
            console.print(title, style="bold", no_wrap=True, overflow="ellipsis")
        decisions.append(decide(gate, case.query))
        show(decisions[-1], console)
    if len(cases) > 1:
        console.print(_summary(decisions))
    return decisions


def _summary(decisions: Sequence[Decision]) -> str:
    counts = Counter(_word(decision.route) for decision in decisions)
    listed = ", ".join(f"{counts[word]} {word}" for word in map(_word, EXIT_CODES) if counts[word])
    return f"{len(decisions)} queries: {listed}"


def _word(route: Route | None) -> str:
    return "undecided" if route is None else route.value


def show(decision: Decision, console: "Console") -> None:
    """Prints one decision for people: a table of two columns, at any width from 40 on."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value in _rows(decision, console):
        table.add_row(name, value)
    console.print(table)
    console.print()


def _rows(decision: Decision, console: "Console") -> Iterator[tuple[str, "RenderableType"]]:
    """The table's rows; every text in it is plain, so that no passage can colour or forge one."""
    yield "route", _route(decision)
    yield "P(sufficient)", _probability(decision)
    yield "", _bar(decision, console)
    if not _is_stale(decision):
        yield "", _cuts(decision, console)
    if decision.verdict is not None:
        yield from _measurement(decision.verdict)
        yield from extent(decision.verdict, decision.reason)
    if decision.currency is not None:
        yield "price", "unknown" if decision.cost is None else plain(_money(decision))
    if decision.profile is not None:
        yield "profile", plain(_promise(decision.profile, decision))
    yield "reason", plain(f"{decision.reason.value}: {decision.detail}")
    for one in decision.tried:
        yield "left", plain(f"{one.model or one.fingerprint} ({one.kind}): {one.detail}")
    yield "time", f"{decision.elapsed_seconds * 1000:.0f} ms"
    served = decision.verdict.model if decision.verdict is not None else None
    yield "model", plain(served or decision.model or "unnamed")
    if decision.deployment is not None:
        yield "deployment", plain(decision.deployment)
    yield "user reads", plain(_reply(decision))


def _money(decision: Decision) -> str:
    return f"{decision.cost:.3g} {decision.currency}"


def _is_stale(decision: Decision) -> bool:
    return decision.reason is Reason.STALE_PROFILE


def _promise(profile: Profile, decision: Decision) -> str:
    """Which profile it is, and what holds of its thresholds."""
    name, promised = profile.name or "unnamed", profile.certificate
    if _is_stale(decision):
        return f"{name}: stale, nothing of it was applied"
    if not decision.measured:
        return f"{name}: not applied, there is no verdict"
    if promised is None:
        return f"{name}: nothing is promised of its thresholds"
    leak, refusal = promised.leak.most * 100, promised.false_refusal.most * 100
    return (
        f"{name}: leak <= {leak:g} %, false refusal <= {refusal:g} %, "
        f"confidence {promised.confidence * 100:g} %, n = {promised.n}"
    )


def _measurement(verdict: Verdict) -> Iterator[tuple[str, str]]:
    """What was measured, and what that took."""
    usage, sampled = verdict.usage, verdict.signal == "samples"
    what = "of the answers held a verdict" if sampled else _TO_THE_LABELS
    yield "mass", f"{verdict.mass:.3f} {what}"
    requests = None if usage is None else _number(usage.requests, "request")
    yield "signal", f"samples: {requests}" if sampled and requests else plain(verdict.signal)
    if usage is not None:
        tokens = ((usage.input_tokens, "in"), (usage.output_tokens, "out"))
        known = [f"{_number(count, 'token')} {way}" for count, way in tokens if count is not None]
        yield "cost", ", ".join([_number(usage.requests, "request"), *known])


_TO_THE_LABELS = "of the judge's probability went to the labels"


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _route(decision: Decision) -> "Text":
    from rich.text import Text

    colour, meaning = _MEANING[decision.route]
    if decision.unmeasured:
        why = "the profile is stale" if _is_stale(decision) else "not measured"
        raises = decision.route is None
        meaning = f"{why}, and {meaning}" if raises else f"{why}; the policy routes it so"
    shadow = "" if decision.enforced else " (shadow mode: recorded, not enforced)"
    return Text.assemble((_word(decision.route).upper(), f"bold {colour}"), f"  {meaning}{shadow}")


def _probability(decision: Decision) -> "Text":
    from rich.text import Text

    state = "calibrated" if decision.calibrated else "uncalibrated"
    if decision.probability is None:
        return Text("not measured", style="bold")
    bounds = f" in [{decision.low:.4f}, {decision.high:.4f}], "
    return Text.assemble((f"{decision.probability:.4f}", "bold"), bounds, (state, "bold"))


def _reply(decision: Decision) -> str:
    if decision.route is None:
        return "nothing from rag-guard: it raises the judge's error"
    if decision.message is None:
        return "the answer"
    return decision.message if decision.enforced else f"the answer; enforced: {decision.message}"


_LEFT_OF_BAR = 20
_MAX_BAR = 50


def _bar(decision: Decision, console: "Console") -> "Text":
    """The bounds on a scale from 0 to 1, as wide as the console allows."""
    from rich.text import Text

    cells = _cells(console)
    rest, full = ("-", "#") if console.options.ascii_only else ("─", "█")
    if decision.low is None or decision.high is None:
        return Text(f"0 {rest * cells} 1")
    start, end = _cell(decision.low, cells), _cell(decision.high, cells) + 1
    colour, _ = _MEANING[decision.route]
    return Text.assemble(
        f"0 {rest * start}", (full * (end - start), colour), f"{rest * (cells - end)} 1"
    )


def _cuts(decision: Decision, console: "Console") -> str:
    """Where the two thresholds stand below the bar, and their values."""
    cells = _cells(console)
    mark = "^" if console.options.ascii_only else "▲"
    cuts = decision.thresholds
    marked = {_cell(cuts.refuse_below, cells), _cell(cuts.answer_at, cells)}
    line = "".join(mark if cell in marked else " " for cell in range(cells)).rstrip()
    return f"  {line}\n{mark} refuse below {cuts.refuse_below:g}, answer at {cuts.answer_at:g}"


def _cells(console: "Console") -> int:
    return max(10, min(_MAX_BAR, console.width - _LEFT_OF_BAR))


def _cell(probability: float, cells: int) -> int:
    return min(cells - 1, int(probability * cells))
