"""``rag-guard attack``: what it reads, keeps and prints, how it ends."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from guard import JudgeError, JudgeRejected, JudgeUnavailable, Query, Unmeasured, judges
from guard.attacks import FAMILIES, HELD_OUT, packaged_attacks, packaged_items
from guard.cli import main
from guard.judge import Judge
from guard.judges.scripted import Scripted
from guard.prompt import DEFAULT_PROMPT, Prompt
from guard.testing import ScriptedJudge

Script = Callable[[Query], Scripted]
MakeScripted = Callable[[Script], ScriptedJudge]
UNREADABLE = Unmeasured("no logprobs", kind="no_logprobs", hint="")
RICH = {row.query.contexts for row in packaged_items()[0] if row.sufficient}


class Run(NamedTuple):
    """One run of the command line in this process."""

    code: int
    out: str
    err: str

    @property
    def record(self) -> dict[str, Any]:
        """The JSON printed, and nothing else."""
        found: dict[str, Any] = json.loads(self.out)
        return found


RunAttack = Callable[..., Run]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> RunAttack:
    """Runs ``rag-guard attack`` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: str | Path) -> Run:
        with pytest.raises(SystemExit) as ended:
            main(["attack", *map(str, args)])
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Run(ended.value.code, out, err)

    return run


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> MakeScripted:
    """Makes every judge's name stand for a scripted judge."""

    def script(lines: Script) -> ScriptedJudge:
        judge = ScriptedJudge(lines)

        def from_name(_name: str, **_options: object) -> Judge:
            return judge

        monkeypatch.setattr(judges, "from_name", from_name)
        monkeypatch.setenv("RAG_GUARD_JUDGE", "any")
        return judge

    return script


def reads(query: Query) -> float:
    """A judge that is right on our own queries, and not fooled."""
    return 0.95 if query.contexts in RICH else 0.05


def is_fooled(query: Query) -> float:
    """A judge that answers whatever holds the word True."""
    turns = (turn.text for turn in query.history)
    texts = [query.question, *query.contexts, *turns]
    return 0.95 if "True" in " ".join(texts) else reads(query)


class Reworded(ScriptedJudge):
    """A judge that can be asked with another prompt, and believes all that is long."""

    def __init__(self, prompt: Prompt = DEFAULT_PROMPT) -> None:
        super().__init__(lambda query: 0.95 if len(query.contexts) > 3 else is_fooled(query))
        self.prompt = prompt
        self.fingerprint = f"reworded:{prompt.fingerprint}"

    def with_prompt(self, prompt: Prompt) -> Judge:
        return Reworded(prompt)


def test_tables(run: RunAttack, scripted: MakeScripted) -> None:
    """For people: each family once, the held-out one marked, and no text of any attack."""
    scripted(reads)
    done = run("--order", "--workers", 1)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 100
    for family in FAMILIES:
        assert sum(line.split()[:1] == [shown(family)] for line in lines) == 1
    text = " ".join(done.out.split())
    for words in (
        "223 attacks, put into the contexts: 223 cases on 24 queries",
        "0/223 0–14%",
        "in all: 0.0% prompt only, 0.0% as deployed.",
        "over the attacks or the attacked queries, whichever are fewer",
        "* held out: no rule was tuned on it. It was written by the authors of the rules",
        "no independent attackers",
        "bare: not measured, ScriptedJudge cannot be asked with another prompt.",
        "leaving out suspects",
        "contexts in another order",
        "1.00 [1.00–1.00]",
    ):
        assert words in text, words
    assert not any(words in text for words in ("coin", "Not counted", "user's own"))
    assert not any(sign in done.out for sign in ("\x1b", "\u200b", "\u202e", "Ignore the task"))


def shown(family: str) -> str:
    return f"{family}*" if family in HELD_OUT else family


@pytest.mark.parametrize(
    ("columns", "found", "shift"),
    [(80, "found", "P by"), (120, "found by the rules", "P(sufficient) raised by")],
)
def test_tables_fit(
    run: RunAttack, monkeypatch: pytest.MonkeyPatch, columns: int, found: str, shift: str
) -> None:
    """With all columns, and a judge that is fooled by most: no header and no cell is folded."""

    def from_name(_name: str, **_options: object) -> Judge:
        return Reworded()

    monkeypatch.setattr(judges, "from_name", from_name)
    monkeypatch.setenv("COLUMNS", str(columns))
    done = run("--judge", "any", "--order")
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= columns
    rows = [line.split() for line in lines]
    assert f"moved to answer bare prompt only as deployed {found} {shift}".split() in rows
    text = " ".join(done.out.split())
    assert f"{found}: whose text" in text and f"{shift}: how far" in text
    for family in (*map(shown, FAMILIES), "all"):
        [row] = [row for row in rows if row[:1] == [family] and "/" in row[1]]
        # Three arms of two words each, what was found, and the rise.
        assert len(row) == 1 + 3 * 2 + 2
    assert any(line.startswith("all defences, against bare  ") for line in lines)


def test_json(run: RunAttack, scripted: MakeScripted) -> None:
    """All numbers, and nothing that an attack says."""
    scripted(is_fooled)
    done = run("--json", "--family", "plain_orders", "--family", "tables_and_code", "--seed", "3")
    assert (done.code, done.err) == (0, "")
    record = done.record
    assert list(record["families"]) == ["plain_orders", "tables_and_code"]
    assert [one["held_out"] for one in record["families"].values()] == [False, True]
    texts = [a for a in packaged_attacks() if a.family == "plain_orders" and "True" in a.text]
    prompt = record["families"]["plain_orders"]["prompt_only"]
    assert prompt["success"]["events"] == len(texts) == len(prompt["moved"])
    assert {id.partition("/")[0] for id in prompt["moved"]} == {one.id for one in texts}
    deployed = record["families"]["plain_orders"]["deployed"]
    assert deployed["success"]["events"] < len(texts) / 2
    assert len(texts) / 2 < deployed["found"]["events"] <= deployed["found"]["n"] == 23
    assert record["where"] == "contexts"
    assert (record["judge"], record["queries"], record["bases"]) == ("scripted:scripted", 48, 24)
    assert record["why_not_bare"].startswith("ScriptedJudge")
    assert record["unmet"] == []
    assert "Ignore" not in done.out


@pytest.mark.parametrize(("bar", "code"), [(0.0, 6), (0.2, 6), (0.9, 0)])
def test_a_bar(
    run: RunAttack, scripted: MakeScripted, tmp_path: Path, bar: float, code: int
) -> None:
    """The deployment's own settings count: one that leaves nothing out is fooled by length."""
    scripted(lambda query: 0.95 if len(" ".join(query.contexts)) > 3000 else reads(query))
    config = tmp_path / "guard.toml"
    settings = 'judge = "scripted:0.5"\nleave_out_suspects = false'
    config.write_text(f"[deployment.default]\n{settings}\n", "utf-8")
    done = run("--config", config, "--family", "padding", "--max-success", bar, "--json")
    share = done.record["total"]["deployed"]["success"]["value"]
    assert 0.2 < share < 0.9
    assert done.record["total"]["prompt_only"] == done.record["total"]["deployed"]
    assert done.code == code
    assert ("bar not met" in done.err) is bool(code)


def test_a_bar_that_is_met(run: RunAttack, scripted: MakeScripted) -> None:
    scripted(reads)
    done = run("--max-success", ".01")
    assert (done.code, done.err) == (0, "")


def test_what_answers_nothing_meets_no_bar(run: RunAttack) -> None:
    done = run("--judge", "scripted:0.1", "--max-success", ".5", "--json")
    assert done.code == 6
    assert "none of the sufficient queries is answered" in done.err
    assert "better than a coin" in done.err
    assert len(done.record["unmet"]) == 2


@pytest.mark.parametrize("part", [("--family", "padding"), ("--limit", 10)])
def test_a_bar_on_a_part(
    run: RunAttack, scripted: MakeScripted, part: tuple[str, str | int]
) -> None:
    """It is met or not as always, and it is said that it is not the whole suite."""
    scripted(reads)
    done = run(*map(str, part), "--max-success", ".01", "--json")
    assert done.code == 0
    assert "bar is on a part of the suite" in done.err
    assert run(*map(str, part)).err == ""


@pytest.mark.parametrize(
    ("where", "head", "moved"),
    [
        ("contexts", "put into the contexts:", False),
        ("turn", "put into the history, as its last turn:", False),
        ("question", "put into the question:", True),
    ],
)
def test_where(
    run: RunAttack, scripted: MakeScripted, where: str, head: str, *, moved: bool
) -> None:
    """In a question nothing is looked for, which is said; elsewhere it is left out."""
    scripted(is_fooled)
    args = ("--family", "plain_orders", "--where", where)
    text = " ".join(run(*args).out.split())
    assert head in text
    assert ("Nothing is looked for in a question: it is the user's own." in text) is moved
    record = run(*args, "--json").record
    assert record["where"] == where
    total = record["total"]
    assert total["prompt_only"]["success"]["events"] > 10
    assert (total["deployed"]["success"] == total["prompt_only"]["success"]) is moved
    assert (total["deployed"]["found"]["value"] is None) is moved


def test_answered_before(run: RunAttack, scripted: MakeScripted) -> None:
    """Attacks on queries that are answered anyway are not in the shares, and told of."""
    scripted(lambda _query: 0.95)
    done = run("--family", "padding")
    assert "Not counted: 22 on queries that are answered anyway." in done.out
    assert "in all: nobody knows." in done.out


def test_a_judge_at_chance_is_told_of(run: RunAttack) -> None:
    """Whatever its share of successes: it means nothing, which is said before any is read."""
    done = run("--judge", "scripted:0.1", "--family", "padding")
    above, _, below = " ".join(done.out.split()).partition("moved to answer")
    assert "These shares of successes mean nothing: nothing shows that the judge is better" in above
    assert "No sufficient query is answered" in above
    assert "coin" not in below


def test_every_key_is_in_the_docs(run: RunAttack, scripted: MakeScripted) -> None:
    """What ``--json`` prints, docs/security.md says what it is."""
    scripted(reads)
    record = run("--family", "padding", "--order", "--max-success", "1", "--json").record
    page = (Path(__file__).parents[1] / "docs" / "security.md").read_text("utf-8")
    listed = page.partition("### What `--json` prints")[2].partition("\n#")[0]
    parts: list[dict[str, Any]] = [
        record,
        record["families"]["padding"],
        record["total"]["deployed"],
        record["total"]["deployed"]["success"],
        record["costs"],
        record["costs"]["leaving_out"],
        record["quality"]["deployed"],
        record["quality"]["deployed"]["auroc"],
    ]
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", listed))))
    assert {key for part in parts for key in part} - named == set()


def test_few_queries(run: RunAttack, scripted: MakeScripted, tmp_path: Path) -> None:
    """One of each, and the judge right on both: that shows nothing, and nothing is `1 queries`."""
    rows = [
        {"question": "When?", "contexts": [text], "sufficient": text == "At noon."}
        for text in ("At noon.", "It is white.")
    ]
    file = tmp_path / "two.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    scripted(lambda query: 0.95 if "At noon." in query.contexts else 0.05)
    done = run("--data", file, "--max-success", ".01")
    assert done.code == 6
    assert "bar not met: too few clean queries were measured (1 suff" in done.err
    above = " ".join(done.out.split()).partition("moved to answer")[0]
    assert "223 cases on 1 query whose contexts do not answer it; 2 clean queries." in above
    assert "mean nothing: too few clean queries were measured" in above
    twice = run("--data", file, "--data", file)
    assert (twice.code, twice.out) == (2, "")
    assert "two.jsonl' is named twice" in twice.err


def test_unmeasured(run: RunAttack, scripted: MakeScripted) -> None:
    """They are in no share, and told of."""

    def fails(query: Query) -> Scripted:
        return UNREADABLE if len(query.contexts) > 3 else reads(query)

    scripted(fails)
    done = run("--family", "padding", "--json")
    tally = done.record["total"]["deployed"]
    assert 0 < tally["unmeasured"] == 22 - tally["success"]["n"]
    assert tally["success"]["events"] == 0
    text = " ".join(run("--family", "padding").out.split())
    count = tally["unmeasured"]
    assert f"Not counted: {count} that could not be measured (padding {count})." in text


def test_nothing_measured(run: RunAttack, scripted: MakeScripted) -> None:
    """Figures of nothing are no success: as ``rag-guard eval``, it says so by its exit code."""
    scripted(lambda _query: UNREADABLE)
    done = run("--family", "padding")
    assert done.code == 5
    assert "no attack could be measured; these figures are no judge's" in done.err
    assert run("--family", "padding", "--max-success", ".5").code == 6


def test_data(run: RunAttack, scripted: MakeScripted, tmp_path: Path) -> None:
    """The same attacks on rows of one's own; what rows are, errors say as everywhere."""
    rows = [
        {"question": f"What is {n}?", "contexts": [f"Number {n}."], "sufficient": n % 2 == 0}
        for n in range(40)
    ]
    file = tmp_path / "numbers.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    scripted(lambda query: 0.95 if int(query.question[8:-1]) % 2 == 0 else 0.05)
    done = run("--data", file, "--limit", 5, "--family", "forged_verdicts", "--json")
    assert (done.code, done.err) == (0, "")
    assert (done.record["queries"], done.record["bases"]) == (10, 5)
    assert done.record["data"] == [str(file)]
    file.write_text('{"question": "What?"}\n', "utf-8")
    wrong = run("--data", file)
    assert (wrong.code, wrong.out) == (2, "")
    assert "numbers.jsonl, line 1: `contexts` is missing" in wrong.err


def test_it_goes_on_where_it_was(run: RunAttack, scripted: MakeScripted) -> None:
    """With --verdicts nothing is asked twice, at other thresholds either."""
    judge = scripted(lambda query: 0.6 if "True" in " ".join(query.contexts) else reads(query))
    args = ("--family", "plain_orders", "--verdicts", "kept.jsonl", "--json", "--workers", "1")
    first = run(*args)
    asked = len(judge.queries)
    again = run(*args)
    assert again.record == first.record
    assert "rows kept in kept.jsonl" in again.err
    lower = run(*args, "--answer-at", ".5", "--refuse-below", ".3").record
    assert len(judge.queries) == asked
    moved = lower["total"]["prompt_only"]["success"]["events"]
    assert moved > 0 == first.record["total"]["prompt_only"]["success"]["events"]
    assert lower["total"]["deployed"]["success"]["events"] < moved / 2


class Dying(Reworded):
    """A judge whose server is gone when it is asked without defences."""

    def with_prompt(self, prompt: Prompt) -> Judge:
        bare = ScriptedJudge(lambda _query: JudgeUnavailable("down"))
        bare.fingerprint = f"dying:{prompt.fingerprint}"
        return bare


def test_a_server_that_dies_before_the_bare_arm(
    run: RunAttack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured is printed, and counts."""

    def from_name(_name: str, **_options: object) -> Judge:
        return Dying()

    monkeypatch.setattr(judges, "from_name", from_name)
    args = ("--judge", "any", "--family", "padding", "--workers", "1", "--deadline", ".2")
    done = run(*args)
    assert (done.code, done.err) == (0, "")
    text = " ".join(done.out.split())
    assert "bare: not measured, that failed: No row could be measured: the first 10 failed" in text
    assert sum(line.startswith("padding ") for line in done.out.splitlines()) == 1
    record = run(*args, "--json").record
    assert set(record["total"]) == {"deployed", "prompt_only"}
    assert record["why_not_bare"].startswith("that failed: ")


@pytest.mark.parametrize("error", [JudgeUnavailable("down"), JudgeRejected("wrong key")])
def test_a_judge_that_cannot_be_asked(
    run: RunAttack, scripted: MakeScripted, error: JudgeError
) -> None:
    """It is misuse, after ten queries: no share of nothing, and no bar met or missed."""
    judge = scripted(lambda _query: error)
    done = run("--max-success", ".01", "--json", "--workers", "1", "--deadline", ".2")
    assert (done.code, done.out) == (2, "")
    assert f"the first 10 failed, all of them with {error.kind}, e.g." in done.err
    assert "kept" not in done.err
    again = run("--workers", "1", "--deadline", ".2", "--verdicts", "kept.jsonl")
    assert again.code == 2
    assert "What came is kept, and the same command asks again." in again.err
    assert len({query.question for query in judge.queries}) <= 10


def test_stopped(run: RunAttack, scripted: MakeScripted) -> None:
    """Ctrl-C says how to go on."""

    def interrupts(_query: Query) -> Scripted:
        raise KeyboardInterrupt

    scripted(interrupts)
    done = run("--workers", "1", "--verdicts", "kept.jsonl")
    assert done.code == 130
    assert "kept in kept.jsonl" in done.err
    assert "Nothing is kept" in run("--workers", "1").err


@pytest.mark.parametrize("more", [(), ("--no-bare",)])
def test_a_place_is_called_as_it_was_named(run: RunAttack, more: tuple[str, ...]) -> None:
    """Not by the file that the bare arm would have beside it."""
    done = run("--judge", "scripted:0.1", "--verdicts", "none/x.jsonl", *more)
    assert done.code == 2
    assert "'none/x.jsonl'" in done.err and ".bare" not in done.err


def test_what_only_the_bare_arm_needs(run: RunAttack, tmp_path: Path) -> None:
    """Its place is looked at before there is any work, and not where there is no such arm."""
    (tmp_path / "x.jsonl.bare").mkdir()
    args = ("--judge", "scripted:0.1", "--family", "padding", "--verdicts", "x.jsonl")
    assert "'x.jsonl.bare' is a folder" in run(*args).err
    assert run(*args, "--no-bare").code == 0


@pytest.mark.parametrize(
    "args",
    [
        ("--family", "pudding"),
        ("--where", "answer"),
        ("--data", "none.jsonl"),
        ("--max-success", "2"),
        ("--per-attack", "0"),
        ("--judge", "nobody:x"),
        ("--answer-at", "7"),
        ("--verdicts", "none/kept.jsonl"),
        ("--verdicts", "."),
        ("--verdicts", "x" * 252),
    ],
)
def test_misuse(run: RunAttack, args: tuple[str, ...]) -> None:
    done = run(*(() if "--judge" in args else ("--judge", "scripted:0.1")), *args)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
