"""The demo: real LlamaIndex, real retrieval, any judge; offline; also from a wheel."""

import json
import os
import re
import resource
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from wire import Answer, Request, Script, WireServer, verdict

from guard.cli import main
from guard.cli.demo import load_corpus, load_questions
from guard.judges import EmbeddedJudge
from guard.policy import DEFAULT_THRESHOLDS
from scripts.demo_table import BLOCK

pytestmark = pytest.mark.local
ROOT = Path(__file__).parent.parent
Wire = Callable[[Script], WireServer]


def demo(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What ``rag-guard demo`` prints."""
    with pytest.raises(SystemExit) as ended:
        main(["demo", *options])
    assert not ended.value.code
    return capsys.readouterr().out


def rows(text: str) -> list[Any]:
    """The JSON lines of a demo."""
    return [json.loads(line) for line in text.splitlines()]


def test_answers_show_the_passage(capsys: pytest.CaptureFixture[str]) -> None:
    """With a judge that says yes, every question with passages gets its passage as the answer."""
    found = rows(demo(capsys, "--judge", "scripted:0.95", "--json"))
    assert [row["question"] for row in found] == [one.text for one in load_questions()]
    corpus = load_corpus()
    for row in found:
        guard, sources = row["guard"], row["sources"]
        assert guard["route"] == ("answer" if sources else "refuse")
        if sources:
            first_words = " ".join(str(row["text"]).split())[-40:]
            assert any(first_words in " ".join(corpus[name].split()) for name in sources)


def test_some_question_retrieves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """One question shares no word with the corpus: refused without asking the judge."""
    found = rows(demo(capsys, "--judge", "scripted:0.95", "--json"))
    reasons = [row["guard"]["reason"] for row in found]
    assert reasons.count("no_contexts") == 1


def test_refusals_keep_sources(capsys: pytest.CaptureFixture[str]) -> None:
    """With a judge that says no, nothing is answered and the sources are still shown."""
    found = rows(demo(capsys, "--judge", "scripted:0.05", "--json"))
    assert all(str(row["text"]).startswith("I don't have enough") for row in found)
    assert sum(bool(row["sources"]) for row in found) == len(found) - 1


def test_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """The table shows every question, the routes, and that nothing is calibrated."""
    text = demo(capsys, "--judge", "scripted:0.5")
    assert text.count("clarify") == len(load_questions()) - 1
    assert "uncalibrated" in text


def test_bounds_are_shown_where_something_is_hidden(
    capsys: pytest.CaptureFixture[str], wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside P(True) of an endpoint stand its bounds; those of a script say nothing more."""
    server = wire(Answer(verdict(-0.7, -0.9, k=5)))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-demo-0123456789")
    shown = demo(capsys, "--judge", "openai:J", "--base-url", server.url)
    bounds = r"0\.\d{3} to 0\.\d{3}"
    assert len(re.findall(bounds, shown)) == len(load_questions()) - 1
    assert re.findall(bounds, demo(capsys, "--judge", "scripted:0.5")) == []


def test_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    """The last lines put another judge in its place, and fit its thresholds."""
    shown = demo(capsys, "--judge", "scripted:0.5")
    assert "rag-guard demo --judge openai:MODEL --base-url" in shown
    assert "rag-guard calibrate rows.jsonl --judge JUDGE" in shown


CLOSED = """
import os, sys
from guard.cli import main

def closed(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        os.write(2, f"network: {event} {arguments}".encode())
        os._exit(97)

sys.addaudithook(closed)
main(["demo", *sys.argv[1:]])
"""
"""The demo in a process that ends at once, with 97, if it asks for a network, even on loopback."""


@dataclass(frozen=True)
class Run:
    """The demo as a newcomer runs it: no key, no network, a home folder with nothing in it."""

    rows: list[Any]
    seconds: float


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run of the default demo."""
    home = str(tmp_path_factory.mktemp("home"))
    paths = os.pathsep.join([str(ROOT), str(ROOT / "integrations")])
    environ = {"PATH": os.environ["PATH"], "HOME": home, "PYTHONPATH": paths}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", CLOSED, "--json"], cwd=home, env=environ, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr.decode()
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(rows(done.stdout.decode()), busy)


def test_offline(offline: Run) -> None:
    """The embedded judge judges every question for which anything is retrieved, with no network."""
    assert [row["question"] for row in offline.rows] == [one.text for one in load_questions()]
    for row in offline.rows:
        guard = row["guard"]
        assert guard["route"] in ("answer", "clarify", "refuse")
        assert (guard["probability"] is None) == (not row["sources"])
        assert guard["signal"] == ("encoder" if row["sources"] else None)
    # What other programs do meanwhile is not its own: seconds of a processor, not of the clock.
    assert offline.seconds < 10


def test_the_embedded_judge_tells_the_cases_apart(offline: Run) -> None:
    """What the corpus supports scores higher than what it does not, in most of all pairs."""
    scores = {support: [*probabilities(offline.rows, support)] for support in ("full", "none")}
    pairs = [*product(scores["full"], scores["none"])]
    assert len(pairs) == 24
    assert sum(full > none for full, none in pairs) >= 2 / 3 * len(pairs)
    assert mean(scores["full"]) > mean(scores["none"])


def test_all_three_routes_show(offline: Run) -> None:
    """With thresholds of its own it answers, asks back and refuses. The usual ones fit no judge."""
    routes = {row["guard"]["route"] for row in offline.rows}
    fitted = EmbeddedJudge().default_profile is not None
    assert routes >= {"refuse", "clarify"} | ({"answer"} if fitted else set())


def probabilities(found: list[Any], support: str) -> Iterator[float]:
    """P(True) of the questions of one support that were measured."""
    for row in found:
        if row["support"] == support and row["guard"]["probability"] is not None:
            yield row["guard"]["probability"]


def test_the_corpus_supports_all_three() -> None:
    """Fourteen questions, of each kind several; evidence is named for each."""
    questions = load_questions()
    assert len({one.text for one in questions}) == 14
    assert Counter(one.support for one in questions) == {"full": 6, "partial": 3, "none": 5}


def test_whose_thresholds(capsys: pytest.CaptureFixture[str]) -> None:
    """The caption has the thresholds that routed the queries, and says who set them."""
    profile = EmbeddedJudge().default_profile
    cuts = DEFAULT_THRESHOLDS if profile is None else profile.thresholds
    whose = "uncalibrated" if profile is None else "the judge's own, fitted on held-out rows"
    said = " ".join(demo(capsys).split())
    assert f"Answer at {cuts.answer_at:.3f}, refuse below {cuts.refuse_below:.3f}: {whose}" in said


CUTS = ("answer_at", "refuse_below")


def test_the_readme_shows_the_real_table(offline: Run) -> None:
    """P to ± .02, for processors differ in how they round; another route only so near a cut."""
    block = BLOCK.search((ROOT / "README.md").read_text("utf-8"))
    assert block
    shown = [line.strip("| ").split(" | ") for line in block[1].splitlines() if "|" in line][2:]
    again = "It is out of date: python scripts/demo_table.py --write"
    asked = [(row["question"], row["support"]) for row in offline.rows]
    assert [(question, support) for question, support, _, _ in shown] == asked, again
    for (_, _, said, route), row in zip(shown, offline.rows, strict=True):
        p, cuts = row["guard"]["probability"], [row["guard"][key] for key in CUTS]
        assert said == "no_contexts" if p is None else abs(float(said) - p) <= 0.02, again
        is_near = p is not None and any(abs(p - cut) <= 0.02 for cut in cuts)
        assert route == row["guard"]["route"] or is_near, again


def test_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each question, and a caption; it is not JSON too."""
    table, caption = demo(capsys, "--judge", "scripted:0.5", "--markdown").split("\n\n")
    lines = table.splitlines()
    assert lines[0] == "| question | support in the corpus | P(True) | route |"
    assert len(lines) == len(load_questions()) + 2
    assert lines[2].endswith(" | full | 0.500 | clarify |")
    assert lines[-1].endswith(" | none | no_contexts | refuse |")
    assert caption.startswith("Answer at 0.850, refuse below 0.300: uncalibrated")
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--json", "--markdown"])
    assert ended.value.code == 2
    assert "Choose one" in capsys.readouterr().err


def test_a_model_writes(
    capsys: pytest.CaptureFixture[str], wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --llm, a model writes what the judge let through, from the judged passages."""

    def script(request: Request) -> Answer:
        if "logprobs" in request.body:
            return Answer(verdict(-0.01, -6.0))
        body = verdict(-0.01, -6.0)
        body["choices"][0]["message"]["content"] = "Written by a model."
        return Answer(body)

    server = wire(script)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-demo-0123456789")
    options = ("--judge", "openai:J", "--llm", "openai:W", "--base-url", server.url, "--json")
    found = rows(demo(capsys, *options))
    assert sum(row["text"] == "Written by a model." for row in found) == len(found) - 1


@pytest.mark.parametrize(
    ("writer", "said"),
    [("quill", "Unknown writer 'quill'"), ("embedded", "The embedded judge cannot write")],
)
def test_unknown_writer_is_misuse(
    capsys: pytest.CaptureFixture[str], writer: str, said: str
) -> None:
    """An unknown --llm, or one that cannot write, is one clear line and exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--judge", "scripted:0.5", "--llm", writer])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert said in told and "Known: openai:MODEL, gguf:PATH" in told


DEAD = "http://127.0.0.1:9/v1"
HTML = Answer(b"<html>", headers={"Content-Type": "text/html"})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "The writer cannot be reached"),
        (Answer({"error": {"message": "sk-demo"}}, status=401), "The writer failed (HTTP 401)."),
        (Answer({"choices": []}), "The writer sent no chat completion."),
        (Answer(b'{"cho'), "The writer cannot be reached, or sent no JSON"),
        (HTML, "The writer sent no chat completion."),
    ],
)
def test_a_writer_that_fails_is_one_clear_line(
    capsys: pytest.CaptureFixture[str],
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
    answer: Answer | None,
    said: str,
) -> None:
    """A dead or broken endpoint of --llm is no traceback: what happened, what to do, code 5."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-demo-0123456789")
    url = wire(answer).url if answer else DEAD
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--judge", "scripted:0.95", "--llm", "openai:W", "--base-url", url])
    told = capsys.readouterr().err
    assert ended.value.code == 5
    assert said in told and "Check --llm" in told
    assert "Traceback" not in told and "sk-demo" not in told


def test_the_source_archive_lists_what_the_checks_need() -> None:
    """Everything it names is there, and the files that `scripts/check` reads are named."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    listed = project["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"]
    assert {".ci", "constraints-openai3.txt", "CONTRIBUTING.md"} <= set(listed)
    assert [name for name in listed if not (ROOT / name).exists()] == []


def test_from_a_wheel(tmp_path: Path) -> None:
    """The built wheel carries both packages, the corpus and the command, and the demo runs."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert not (site / "tests").exists()
    assert (site / "guard" / "py.typed").exists()
    assert (site / "guard_llama_index" / "py.typed").exists()
    code = "import guard, sys; print(guard.__file__); from guard.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "demo", "--judge", "scripted:0.9", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    where, *lines = done.stdout.splitlines()
    assert where.startswith(str(site))
    assert len(lines) == len(load_questions())
