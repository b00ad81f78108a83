"""``rag-guard attack``: what it reads, keeps and prints, how it ends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from guard import JudgeUnavailable, Query, judges
from guard.attacks import packaged_attacks, packaged_items
from guard.cli import main
from guard.judge import Judge
from guard.judges.scripted import Scripted
from guard.testing import ScriptedJudge

Script = Callable[[Query], Scripted]
MakeScripted = Callable[[Script], ScriptedJudge]
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
    return 0.95 if "True" in " ".join(query.contexts) else reads(query)


def test_tables(run: RunAttack, scripted: MakeScripted) -> None:
    """For people: each family once, the held-out one marked, and no text of any attack."""
    scripted(reads)
    done = run("--order", "--workers", 1)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 100
    for attack in packaged_attacks():
        assert sum(line.split()[:1] == [attack.family] for line in lines) == 1
    for word in (
        "223 attacks, 223 cases on 24 queries",
        "0 of 223: 0.0% [0, 2]",
        "tables_and_code *",
        "* held out",
        "bare: not available, ScriptedJudge cannot be asked with another prompt.",
        "leaving out suspects",
        "contexts in another order",
        "1.00 [1.00, 1.00]",
    ):
        assert word in done.out, word
    assert "coin" not in done.out
    assert not any(sign in done.out for sign in ("\x1b", "\u200b", "\u202e", "Ignore the task"))


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
    assert len(done.record["unmet"]) == 1


def test_a_judge_at_chance_is_told_of(run: RunAttack) -> None:
    """Whatever its share of successes: it means nothing."""
    done = run("--judge", "scripted:0.1", "--family", "padding")
    assert "better than a coin" in done.out
    assert "No sufficient query is answered" in done.out


def test_unmeasured(run: RunAttack, scripted: MakeScripted) -> None:
    """They have a column of their own."""

    def fails(query: Query) -> Scripted:
        return JudgeUnavailable("down") if len(query.contexts) > 3 else reads(query)

    scripted(fails)
    done = run("--family", "padding", "--json", "--deadline", "5")
    tally = done.record["total"]["deployed"]
    assert 0 < tally["unmeasured"] == 22 - tally["success"]["n"]
    assert tally["success"]["events"] == 0


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
    """With --verdicts nothing is asked twice, and other thresholds ask for rests alone."""
    judge = scripted(lambda query: 0.6 if "True" in " ".join(query.contexts) else reads(query))
    args = ("--family", "plain_orders", "--verdicts", "kept.jsonl", "--json", "--workers", "1")
    first = run(*args)
    asked = len(judge.queries)
    again = run(*args)
    assert len(judge.queries) == asked
    assert again.record == first.record
    assert "rows kept in kept.jsonl" in again.err
    lower = run(*args, "--answer-at", ".5", "--refuse-below", ".3").record
    moved = lower["total"]["prompt_only"]["success"]["events"]
    assert moved > 0 == first.record["total"]["prompt_only"]["success"]["events"]
    assert asked < len(judge.queries) <= asked + moved + 2


def test_stopped(run: RunAttack, scripted: MakeScripted) -> None:
    """Ctrl-C says how to go on."""

    def interrupts(_query: Query) -> Scripted:
        raise KeyboardInterrupt

    scripted(interrupts)
    done = run("--workers", "1", "--verdicts", "kept.jsonl")
    assert done.code == 130
    assert "kept in kept.jsonl" in done.err
    assert "Nothing is kept" in run("--workers", "1").err


@pytest.mark.parametrize(
    "args",
    [
        ("--family", "pudding"),
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
