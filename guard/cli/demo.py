"""``rag-guard demo``: a guarded LlamaIndex application over a corpus that comes along."""

import importlib
import json
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any, Protocol

import typer

from guard import ConfigError, Gate, GuardError, Policy, judges

DEFAULT_JUDGE = "embedded"
DEADLINE_SECONDS = 60.0
UNDECIDED = 5  # As for `rag-guard check`.
_MESSAGE_CHARACTERS = 70
_COLOURS = {"answer": "green", "clarify": "yellow", "refuse": "red"}
_WRITERS = "openai:MODEL, gguf:PATH"
_NEXT = (
    "Another judge in its place:\n"
    "  rag-guard demo --judge openai:MODEL --base-url http://127.0.0.1:8080/v1\n"
    "Thresholds for your own documents, from rows that you label:\n"
    "  rag-guard calibrate rows.jsonl --judge JUDGE -o my.profile.json"
)


class _Answer(Protocol):
    """The part of a LlamaIndex response that the table shows."""

    metadata: Mapping[str, Any]
    source_nodes: Iterable[Any]


class _Engine(Protocol):
    def query(self, question: str) -> _Answer: ...


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and how far the corpus really supports an answer: full, partial or none."""

    text: str
    support: str


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one question."""

    question: Question
    record: Mapping[str, Any]
    text: str
    sources: tuple[str, ...]
    seconds: float


def demo(
    judge: Annotated[
        str, typer.Option(help="Who judges: openai:MODEL, gguf:PATH, embedded.")
    ] = DEFAULT_JUDGE,
    base_url: Annotated[str | None, typer.Option(help="The endpoint of openai:MODEL.")] = None,
    llm: Annotated[
        str | None,
        typer.Option(help=f"Who writes: {_WRITERS}. Default: no one."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="A short table for a page.")
    ] = False,
) -> None:
    """Judge fourteen questions over a small corpus with a real guarded LlamaIndex engine.

    Needs no network unless you name an endpoint. Without --llm the answer is the passage itself.
    """
    if as_json and as_markdown:
        raise ConfigError("--json and --markdown are both given.", hint="Choose one of them.")
    from rich.console import Console
    from rich.progress import Progress

    build_engine = _application().build_engine
    chosen = judges.from_name(judge, base_url=base_url)
    try:
        gate = Gate(chosen, Policy(deadline=DEADLINE_SECONDS))
        with _writer(llm, base_url) as write:
            try:
                engine: _Engine = build_engine(gate, load_corpus(), write)
            except ImportError as error:
                raise _not_installed() from error
            # A bar that is left behind by an error would draw itself whenever it is collected.
            with Progress(console=Console(stderr=True), transient=True) as bar:
                asked = bar.track(load_questions(), description="Judging")
                rows = [_ask(engine, one) for one in asked]
    finally:
        judges.close(chosen)
    if as_json:
        for row in rows:
            typer.echo(json.dumps(_as_json(row), ensure_ascii=False))
    elif as_markdown:
        typer.echo(_as_markdown(rows, gate))
    else:
        _show(rows, gate)
    if all(row.record["probability"] is None for row in rows):
        raise typer.Exit(UNDECIDED)  # The judge never gave a verdict.


def load_questions() -> list[Question]:
    """The demo's questions."""
    text = (files("guard") / "data" / "questions.json").read_text("utf-8")
    return [Question(one["question"], one["support"]) for one in json.loads(text)]


def load_corpus() -> dict[str, str]:
    """The demo's documents by name: rag-guard's own guide, and a handbook of time and measure."""
    data = files("guard") / "data"
    pages = [page for name in ("guide", "handbook") for page in (data / name).iterdir()]
    found = {page.name: page.read_text("utf-8") for page in pages if page.name.endswith(".md")}
    return dict(sorted(found.items()))


def _application() -> Any:
    # By name, not by import statement: the package `guard` knows no framework.
    try:
        return importlib.import_module("guard_llama_index.demo")
    except ImportError as error:
        raise _not_installed() from error


def _not_installed() -> ConfigError:
    return ConfigError(
        "The demo needs LlamaIndex and its BM25 retriever.",
        hint='Run: pip install "rag-guard[demo]" (in a clone: pip install ".[demo]")',
    )


@contextmanager
def _writer(name: str | None, base_url: str | None) -> Generator[Callable[[str], str] | None]:
    """Who writes; its connections are closed at the end."""
    kind, _, argument = (name or "").partition(":")
    if name is None:
        yield None
    elif kind == "openai" and argument:
        from openai import OpenAI

        with OpenAI(api_key=judges.find_key(None, base_url), base_url=base_url) as client:
            yield _openai_writer(client, argument)
    else:
        yield _local_writer(name)


def _local_writer(name: str) -> Callable[[str], str]:
    kind, _, argument = name.partition(":")
    if kind == "gguf" and argument:
        return _gguf_writer(argument)
    if name == "embedded":
        raise ConfigError(
            "The embedded judge cannot write: it is an encoder.",
            hint=f"Known: {_WRITERS}; without --llm the passage is shown.",
        )
    raise ConfigError(f"Unknown writer {name!r}.", hint=f"Known: {_WRITERS}.")


def _openai_writer(client: Any, model: str) -> Callable[[str], str]:
    from openai import APIStatusError, OpenAIError

    def write(prompt: str) -> str:
        messages: Any = [{"role": "user", "content": prompt}]
        try:
            reply = client.chat.completions.create(model=model, messages=messages, temperature=0)
        except APIStatusError as error:
            raise _writer_failed(f"failed (HTTP {error.status_code})") from error
        # Beside OpenAI's own errors: ValueError where the reply is not JSON.
        except (OpenAIError, ValueError) as error:
            raise _writer_failed("cannot be reached, or sent no JSON") from error
        return _content(reply)

    return write


def _content(reply: Any) -> str:
    try:
        return str(reply.choices[0].message.content or "")
    except (AttributeError, IndexError, TypeError) as error:
        raise _writer_failed("sent no chat completion") from error


def _writer_failed(how: str) -> GuardError:
    hint = "Check --llm, --base-url and OPENAI_API_KEY; without --llm the passage is shown."
    return GuardError(f"The writer {how}.", hint=hint)


def _gguf_writer(path: str) -> Callable[[str], str]:
    from guard.judges.gguf import load_server

    server = load_server(path, context_tokens=4096)

    def write(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        reply: Any = server.handle_chat_completions(
            {"messages": messages, "max_tokens": 120, "temperature": 0}
        )
        return str(reply["choices"][0]["message"]["content"])

    return write


def _ask(engine: _Engine, question: Question) -> Row:
    started = time.perf_counter()
    answer = engine.query(question.text)
    sources = dict.fromkeys(str(node.metadata["file"]) for node in answer.source_nodes)
    return Row(
        question=question,
        record=answer.metadata["guard"],
        text=str(answer),
        sources=tuple(sources),
        seconds=time.perf_counter() - started,
    )


def _as_json(row: Row) -> dict[str, object]:
    return {
        "question": row.question.text,
        "support": row.question.support,
        "text": row.text,
        "sources": row.sources,
        "seconds": row.seconds,
        "guard": row.record,
    }


def _as_markdown(rows: list[Row], gate: Gate) -> str:
    heads = ("question", "support in the corpus", "P(True)", "route")
    cells = [
        (row.question.text, row.question.support, _measured(row), str(row.record["route"]))
        for row in rows
    ]
    lines = [heads, ("---",) * len(heads), *cells]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{_caption(gate)}"


def _show(rows: list[Row], gate: Gate) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title="Judged before it is answered", show_lines=True, expand=True)
    table.add_column("question (support in the corpus)\n> what the user sees", ratio=1)
    table.add_column("route\nP(True)", no_wrap=True)
    table.add_column("sources", no_wrap=True)
    table.add_column("ms", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    console.print(_caption(gate), markup=False)
    problems = Counter(row.record["detail"] for row in rows if row.record["probability"] is None)
    for detail, count in problems.items():
        console.print(f"{count} of {len(rows)} not measured: {detail}", markup=False)
    console.print(_NEXT, soft_wrap=True, markup=False)


def _caption(gate: Gate) -> str:
    """The two thresholds, and whose they are."""
    if gate.profile is None:
        cuts, whose = gate.policy.thresholds, "uncalibrated; they mean little until they are fitted"
    else:
        cuts = gate.profile.thresholds
        whose = "the judge's own, fitted on held-out rows, none of them yours"
    return f"Answer at {cuts.answer_at:.3f}, refuse below {cuts.refuse_below:.3f}: {whose}."


def _measured(row: Row) -> str:
    """P(True), in as many digits as the thresholds have, or why there is none."""
    p = row.record["probability"]
    return str(row.record["reason"]) if p is None else f"{p:.3f}"


def _cells(row: Row) -> tuple[str, ...]:
    from rich.markup import escape

    record = row.record
    route, measured = record["route"], _measured(row)
    # An encoder hides nothing: its bounds are P(True) itself, and would only say it again.
    if record["probability"] is not None and record["low"] != record["high"]:
        measured += f"\n{record['low']:.3f} to {record['high']:.3f}"
    text = " ".join(row.text.split())
    short = text if len(text) <= _MESSAGE_CHARACTERS else text[:_MESSAGE_CHARACTERS] + " …"
    return (
        f"{row.question.text} ({row.question.support})\n[dim]> {escape(short)}[/]",
        f"[{_COLOURS[route]}]{route}[/]\n{measured}",
        "\n".join(name.removesuffix(".md") for name in row.sources) or "none",
        f"{row.seconds * 1000:.0f}",
    )
