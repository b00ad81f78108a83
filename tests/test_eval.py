"""``rag-guard eval``: what it reads, keeps and prints, how it ends."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from guard import JudgeRejected, Profile, Query, Thresholds, Unmeasured, judges
from guard.calibration import Temperature
from guard.cli import main
from guard.cli.surveying import Bar, default_path
from guard.judge import Judge
from guard.testing import Scripted, ScriptedJudge


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


RunEval = Callable[..., Run]
Script = Callable[[Query], Scripted]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> RunEval:
    """Runs ``rag-guard eval`` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: str | Path) -> Run:
        with pytest.raises(SystemExit) as ended:
            main(["eval", "--resamples", "50", *map(str, args)])
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Run(ended.value.code, out, err)

    return run


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], ScriptedJudge]:
    """Makes every judge's name stand for a scripted judge."""

    def script(lines: Script) -> ScriptedJudge:
        judge = ScriptedJudge(lines)

        def from_name(_name: str, **_options: object) -> Judge:
            return judge

        monkeypatch.setattr(judges, "from_name", from_name)
        monkeypatch.setenv("RAG_GUARD_JUDGE", "any")
        return judge

    return script


def a_row(number: int, **fields: object) -> dict[str, object]:
    """A row on a bridge of its own; every second one's contexts hold the answer."""
    sufficient = number % 2 == 0
    passage = f"Bridge {number} opened in {1800 + number}." if sufficient else "Bridges are long."
    row = {
        "id": str(number),
        "question": f"When did bridge {number} open?",
        "contexts": [passage, f"Bridge {number} is on the river."],
        "sufficient": sufficient,
    }
    return {**row, **fields}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four hundred rows, half of them sufficient."""
    return written(tmp_path / "bridges.jsonl", [a_row(number) for number in range(400)])


def written(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def reads(query: Query) -> float:
    """A judge that is right."""
    return 0.95 if "opened" in query.contexts[0] else 0.05


def number_of(query: Query) -> int:
    return int(query.question.split()[3])


BARS = ("--max-leak", "0.05", "--max-false-refusal", "0.2")


def test_json(run: RunEval, data: Path, scripted: Callable[[Script], ScriptedJudge]) -> None:
    scripted(reads)
    done = run(data, "--json", *BARS)
    assert (done.code, done.err) == (0, "")
    record = done.record
    assert (record["rows"], record["measured"], record["groups"]) == (400, 400, 400)
    assert record["figures"]["auroc"]["value"] == 1
    assert record["figures"]["leak"]["value"] == 0
    assert record["unmet"] == []
    assert len(record["version"]) == 64
    assert Path(record["verdicts"]).exists()


def test_tables(run: RunEval, data: Path, scripted: Callable[[Script], ScriptedJudge]) -> None:
    """For people, within 60 columns; where the verdicts are kept is the last line."""
    scripted(reads)
    done = run(data)
    assert (done.code, done.err) == (0, "")
    for word in ("AUROC", "leaks", "Brier", "always", "overlap", "P(sufficient)", "400 rows"):
        assert word in done.out
    *table, last = done.out.splitlines()
    assert max(map(len, table)) <= 60
    assert last.startswith("The verdicts are kept in bridges-")


def test_it_goes_on_where_it_was_stopped(
    run: RunEval, data: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    """Ctrl-C says what is kept; the same command asks for the rest alone."""
    asked = list[Query]()

    def until_stopped(query: Query) -> Scripted:
        asked.append(query)
        return KeyboardInterrupt() if len(asked) == 31 else reads(query)

    scripted(until_stopped)
    stopped = run(data, "--workers", "1")
    assert (stopped.code, stopped.out) == (130, "")
    assert "30 of 400 rows are kept in bridges-" in stopped.err
    assert "same command" in stopped.err
    judge = scripted(reads)
    assert run(data, "--workers", "1", "--json").record["measured"] == 400
    assert len(judge.queries) == 370
    again = scripted(reads)
    assert run(data).code == 0
    assert again.queries == []


def test_stopped_while_figures_are_worked_out(
    run: RunEval,
    data: Path,
    scripted: Callable[[Script], ScriptedJudge],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    scripted(reads)
    monkeypatch.setattr("guard.evaluation.evaluate", stop)
    stopped = run(data)
    assert (stopped.code, stopped.out) == (130, "")
    assert "400 of 400 rows are kept" in stopped.err


def test_other_thresholds_ask_nothing(
    run: RunEval, data: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    scripted(lambda query: reads(query) * 0.5 + 0.2)
    assert run(data, "--json").record["routes"]["answer"] == 0
    judge = scripted(reads)
    done = run(data, "--json", "--answer-at", "0.6", "--refuse-below", "0.6").record
    assert done["routes"] == {"answer": 200, "clarify": 0, "refuse": 200, "undecided": 0}
    assert judge.queries == []


@pytest.mark.parametrize("probability", ["0.99", "0.01", "0.5"])
@pytest.mark.parametrize("bar", [BARS[:2], BARS[2:], BARS], ids=["leak", "refusal", "both"])
def test_no_judge_that_always_says_the_same_meets_a_bar(
    run: RunEval, data: Path, probability: str, bar: tuple[str, ...]
) -> None:
    done = run(data, "--judge", f"scripted:{probability}", "--json", *bar)
    assert done.code == 6
    assert done.record["unmet"]
    lines = done.err.splitlines()
    assert len(lines) == len(done.record["unmet"])
    assert all(line.startswith("rag-guard: bar not met: ") for line in lines)


def test_a_missed_bar_says_figure_bar_and_n(run: RunEval, data: Path) -> None:
    done = run(data, "--judge", "scripted:0.99", "--max-leak", "0.05")
    line = done.err.splitlines()[0]
    for part in ("leak 50.0 %", "n = 400 answered", "the bar is 5.0 %"):
        assert part in line


def test_unmeasured_rows_are_shown_and_may_be_asked_again(
    run: RunEval, data: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    def sometimes(query: Query) -> Scripted:
        gone = JudgeRejected("No such \x1b[31mmodel.")
        return gone if number_of(query) % 10 == 0 else reads(query)

    scripted(sometimes)
    done = run(data)
    assert done.code == 0
    assert "40 unmeasured" in done.out
    assert "40 rejected, e.g. No such" in done.out
    assert "\x1b" not in done.out
    record = run(data, "--json").record
    assert (record["unmeasured"], record["measured"]) == ({"rejected": 40}, 360)
    assert record["figures"]["auroc"]["n"] == 360
    assert record["figures"]["false_refusal"]["value"] == 40 / 200
    judge = scripted(reads)
    again = run(data, "--json")
    assert again.record["unmeasured"] == {}
    kept = again.record["verdicts"]
    assert again.err == f"rag-guard: 360 of 400 rows kept in {kept}; asking 40.\n"
    assert again.record["asked_now"]["rows"] == len(judge.queries) == 40
    nothing = run(data)
    assert nothing.err.endswith("400 of 400 rows kept in " + kept + "; nothing is left to ask.\n")
    assert "now: nothing. The verdicts on 400 rows" in " ".join(nothing.out.split())


@pytest.mark.parametrize(("options", "left"), [((), 40), (("--retry-unmeasured",), 0)])
def test_rows_that_failed_by_themselves_are_asked_again_where_told(
    run: RunEval,
    data: Path,
    scripted: Callable[[Script], ScriptedJudge],
    options: tuple[str, ...],
    left: int,
) -> None:
    scripted(lambda query: Unmeasured("None.") if number_of(query) % 10 == 0 else reads(query))
    run(data)
    scripted(reads)
    assert sum(run(data, "--json", *options).record["unmeasured"].values()) == left


def test_unmeasured_rows_that_are_answered_miss_the_bar(
    run: RunEval, data: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    def fails_on_some(query: Query) -> Scripted:
        return JudgeRejected("No.") if number_of(query) % 10 == 1 else reads(query)

    scripted(fails_on_some)
    assert run(data, "--max-leak", "0.05").code == 0
    assert run(data, "--max-leak", "0.05", "--on-unmeasured", "answer").code == 6


@pytest.mark.parametrize(("bar", "code"), [((), 5), (BARS, 6)], ids=["no bar", "bar"])
def test_nothing_measured_is_no_success(
    run: RunEval,
    data: Path,
    scripted: Callable[[Script], ScriptedJudge],
    bar: tuple[str, ...],
    code: int,
) -> None:
    """There is nothing to be shown then but why."""
    scripted(lambda _: Unmeasured("No logprobs."))
    done = run(data, *bar)
    assert done.code == code
    assert "400 no_logprobs, e.g. No logprobs." in done.out
    assert "AUROC" not in done.out and "undefined" not in done.out
    assert done.err


@pytest.mark.parametrize("bar", [(), BARS], ids=["no bar", "bar"])
def test_a_wrong_key_is_misuse(
    run: RunEval, data: Path, scripted: Callable[[Script], ScriptedJudge], bar: tuple[str, ...]
) -> None:
    """It ends after ten rows, and the same command works once the key does."""
    scripted(lambda _: JudgeRejected("HTTP 401."))
    done = run(data, *bar, "--workers", "1")
    assert (done.code, done.out) == (2, "")
    assert "the first 10 failed, all of them with rejected, e.g. HTTP 401." in done.err
    judge = scripted(reads)
    assert run(data, *bar).code == 0
    assert len(judge.queries) == 400


def test_one_class_only(run: RunEval, tmp_path: Path) -> None:
    data = written(tmp_path / "one.jsonl", [a_row(number, sufficient=True) for number in range(30)])
    done = run(data, "--judge", "scripted:0.9", "--json")
    assert done.code == 0
    assert done.record["figures"]["auroc"]["value"] is None
    assert "undefined" in run(data, "--judge", "scripted:0.9").out


def test_limit(run: RunEval, data: Path) -> None:
    record = run(data, "--judge", "scripted:0.9", "--limit", "7", "--json").record
    assert record["rows"] == 7


def test_several_files(run: RunEval, data: Path, tmp_path: Path) -> None:
    more = written(tmp_path / "more.jsonl", [a_row(number) for number in range(400, 410)])
    record = run(data, more, "--judge", "scripted:0.9", "--json").record
    assert record["rows"] == 410
    assert record["verdicts"].startswith("bridges+1-")


def test_verdicts_are_kept_where_told(run: RunEval, data: Path, tmp_path: Path) -> None:
    kept = tmp_path / "mine.jsonl"
    run(data, "--judge", "scripted:0.9", "--verdicts", kept)
    assert len(kept.read_text("utf-8").splitlines()) == 401
    assert [path.name for path in tmp_path.glob("*.jsonl")].count("mine.jsonl") == 1
    assert not list(tmp_path.glob("*.verdicts.jsonl"))


def test_each_judge_and_each_file_of_rows_has_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this folder, whatever the rows are called, and from wherever they are named."""
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "rows.jsonl").touch()
    Path("b/link.jsonl").symlink_to(tmp_path / "a/rows.jsonl")
    calls = [["a/rows.jsonl"], ["b/rows.jsonl"], ["a/rows.jsonl", "b/rows.jsonl"]]
    names = [default_path(data, judge) for data in calls for judge in ("one", "two")]
    assert len({*names}) == 6 and {name.parent for name in names} == {Path()}
    assert default_path([str(tmp_path / "a/rows.jsonl")], "one") == names[0]
    assert default_path(["b/link.jsonl"], "one").name[4:] == names[0].name[4:]
    assert len(default_path(["\U0001f309" * 60 + ".jsonl"], "one").name.encode()) <= 255


def test_the_verdicts_on_a_pipe_are_found_again(run: RunEval, tmp_path: Path) -> None:
    """Each call has a pipe of its own, with another number, under the same name."""
    rows = "".join(f"{json.dumps(a_row(number))}\n" for number in range(4))
    for kept in (0, 4):
        read, write = os.pipe()
        os.dup2(read, 99)
        os.write(write, rows.encode())
        os.close(write)
        done = run("/dev/fd/99", "--judge", "scripted:0.9", "--json")
        os.close(read)
        os.close(99)
        assert done.record["asked_now"]["rows"] == 4 - kept


def test_sets_that_share_ids_share_a_file(
    run: RunEval, tmp_path: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    """Their verdicts do not push each other out."""
    rows = [
        [a_row(at, question=f"When did bridge {at + more} open?") for at in range(20)]
        for more in (0, 100)
    ]
    files = [
        written(tmp_path / f"{name}.jsonl", each) for name, each in zip("ab", rows, strict=True)
    ]
    judge = scripted(reads)
    for _ in range(2):
        for file in files:
            assert run(file, "--verdicts", "kept", "--json").record["measured"] == 20
    assert len(judge.queries) == 40


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("characters", 10**400, "`characters` of the judgement is not a number from 0 to 1"),
        ("elapsed_seconds", 10**400, "`elapsed_seconds` of the judgement is not a number from 0"),
        ("verdict", {"p_true": 10**400}, "`verdict.p_true` of the judgement is not a number from"),
        ("reason", "out of sorts", "`reason` of the judgement"),
    ],
)
def test_a_damaged_file_of_verdicts_is_one_clear_error(
    run: RunEval, tmp_path: Path, name: str, value: Any, said: str
) -> None:
    data = written(tmp_path / "rows.jsonl", [a_row(number) for number in range(4)])
    assert run(data, "--judge", "scripted:0.9", "--verdicts", "kept").code == 0
    head, first, *others = Path("kept").read_text("utf-8").splitlines(keepends=True)
    line = json.loads(first)
    line[name] = {**line["verdict"], **value} if name == "verdict" else value
    Path("kept").write_text("".join([head, f"{json.dumps(line)}\n", *others]), "utf-8")
    done = run(data, "--judge", "scripted:0.9", "--verdicts", "kept")
    assert (done.code, done.out) == (2, "")
    assert f"kept, line 2: {said}" in done.err and len(done.err.splitlines()) == 2


def test_a_seed_is_known_before_the_judge_is_asked(
    run: RunEval, data: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    judge = scripted(reads)
    done = run(data, "--seed", str(10**20))
    assert (done.code, judge.queries) == (2, []) and "--seed" in done.err


def test_markup_and_control_characters_stay_text(run: RunEval, tmp_path: Path) -> None:
    rows = [a_row(number, group="[red]\x1b[2Jgroup", lang="x[/]") for number in range(4)]
    done = run(written(tmp_path / "odd.jsonl", rows), "--judge", "scripted:0.99")
    assert done.code == 0
    assert "[red]" in done.out and "x[/]" in done.out
    assert "\x1b" not in done.out


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"question": "Wh', "line 1"),
        (
            '{"question": "When?", "contexts": ["It opened."]}\n' * 3,
            "3 of 3 rows have no label; the first: ",
        ),
        ('{"question": "When?", "contexts": ["It opened."]}', "rag-guard label "),
        ("", "no row"),
    ],
    ids=["half a line", "no label", "what to do", "empty"],
)
def test_misuse(run: RunEval, tmp_path: Path, content: str, problem: str) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(content, "utf-8")
    done = run(data, "--judge", "scripted:0.9")
    assert (done.code, done.out) == (2, "")
    assert problem in done.err
    assert not list(tmp_path.glob("*.verdicts.jsonl"))


@pytest.mark.parametrize("option", ["--max-leak", "--max-false-refusal"])
@pytest.mark.parametrize("value", ["5", "5%", "5 %", "nan", "-0.1", "x"])
def test_a_bar_is_a_share(run: RunEval, data: Path, option: str, value: str) -> None:
    done = run(data, "--judge", "scripted:0.9", option, value)
    assert done.code == 2
    assert option in done.err and "5 % is .05" in done.err


def test_a_met_bar_is_said(
    run: RunEval, data: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    scripted(reads)
    text = " ".join(run(data, *BARS).out.split())
    for said in ("leak 0.0 %", "false refusal 0.0 %"):
        assert f"Bar met: {said}, by the 95 % interval up to " in text
    assert "200 answered rows; the bar is 5.0 %." in text
    assert "Bar met" not in run(data).out
    scripted(lambda _: 0.99)
    assert "Bar met" not in run(data, *BARS, "--verdicts", "other.jsonl").out


def test_where_nothing_could_leak_no_bar_is_met(
    run: RunEval, tmp_path: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    """Some rows are refused, and so it is not that all are answered."""
    scripted(reads)
    data = written(tmp_path / "one.jsonl", [a_row(at, sufficient=True) for at in range(400)])
    done = run(data, "--max-leak", "0.05")
    assert done.code == 6
    (line,) = done.err.splitlines()
    assert "leak: no row is insufficient, so nothing could leak" in line


def test_targeted_rows_are_told_of(
    run: RunEval, tmp_path: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    """In the head, in each bar's line and in the record."""
    scripted(reads)
    ways = ("targeted", "random", "random", None)
    rows = [a_row(at, sampling=ways[at // 2 % 4]) for at in range(400)]
    data = written(tmp_path / "rows.jsonl", rows)
    text = " ".join(run(data, *BARS).out.split())
    assert "100 of these rows were targeted" in text
    assert text.count("100 of all rows are targeted, not random.") == 2
    done = run(data, "--json", "--max-leak", "0.001")
    assert done.record["sampling"] == {"targeted": 100, "random": 200, "unknown": 100}
    assert done.record["unmet"][0].endswith("100 of all rows are targeted, not random.")


def test_a_survey_without_a_terminal_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Every half a minute; what was kept from before says nothing of how long it takes."""
    now = 0.0
    bar = Bar(700, Path("vc.jsonl"), clock=lambda: now)
    bar(100, 700)
    for done in range(101, 181):
        now += 1.0
        bar(done, 700)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "rag-guard: 100 of 700 rows kept in vc.jsonl; asking 600.",
        "rag-guard: 130 of 700, about 10 min left",
        "rag-guard: 160 of 700, about 9 min left",
    ]


# ── Profiles ─────────────────────────────────────────────────────────────────────────────────────

CUTS = Thresholds(0.55, 0.45)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    """Writes a configuration with a profile beside it, for the judge of this fingerprint."""

    def write(fingerprint: str | None, more: str = "") -> Path:
        if fingerprint is not None:
            Profile(CUTS, fingerprint, calibrator=Temperature(2.0)).save(tmp_path / "bot.json")
        file = tmp_path / "guard.toml"
        file.write_text(f"[deployment.default]\njudge = 'any'\nprofile = 'bot.json'\n{more}")
        return file

    return write


def doubts(query: Query) -> float:
    """A judge that is right, and says so timidly: answered by `CUTS`, not by the usual ones."""
    return 0.5 + (reads(query) - 0.5) / 2


FRESH = "scripted:scripted"
STALE = [
    (None, "", "bot.json cannot be read"),
    ("scripted:other", "", "is for scripted:other"),
    ("scripted:other", "on_stale = 'refuse'", "is for scripted:other"),
]


def test_rows_are_routed_through_the_profile(
    run: RunEval,
    data: Path,
    scripted: Callable[[Script], ScriptedJudge],
    config: Callable[..., Path],
) -> None:
    scripted(doubts)
    done = run(data, "--config", config(FRESH), "--json", *BARS)
    assert (done.code, done.err) == (0, "")
    record = done.record
    assert (record["profile"], record["profile_left_aside"]) == ("bot", None)
    assert record["thresholds"] == {"answer_at": 0.55, "refuse_below": 0.45}
    assert record["calibrated"] is True
    assert record["routes"]["answer"] == 200


@pytest.mark.parametrize(("fingerprint", "more", "why"), STALE)
def test_a_profile_that_does_not_fit_is_left_aside(
    run: RunEval,
    data: Path,
    scripted: Callable[[Script], ScriptedJudge],
    config: Callable[..., Path],
    fingerprint: str | None,
    more: str,
    why: str,
) -> None:
    """The judge is measured, and it is said that this is not what is deployed."""
    scripted(doubts)
    done = run(data, "--config", config(fingerprint, more), "--json")
    assert done.code == 0
    (line,) = done.err.splitlines()
    assert line.startswith("rag-guard: profile left aside: ") and why in line
    record = done.record
    assert why in record["profile_left_aside"]
    assert (record["profile"], record["calibrated"]) == (None, False)
    assert (record["measured"], record["figures"]["auroc"]["value"]) == (400, 1)
    assert record["routes"]["answer"] == 0


@pytest.mark.parametrize(("fingerprint", "more", "why"), STALE[:2])
@pytest.mark.parametrize("option", [BARS, ("--profile", "bot.json")], ids=["bar", "option"])
def test_what_is_deployed_is_not_left_aside(
    run: RunEval,
    data: Path,
    scripted: Callable[[Script], ScriptedJudge],
    config: Callable[..., Path],
    fingerprint: str | None,
    more: str,
    why: str,
    option: tuple[str, ...],
) -> None:
    """A bar met without it would be met by something that nobody runs."""
    scripted(doubts)
    done = run(data, "--config", config(fingerprint, more), *option)
    assert (done.code, done.out) == (2, "")
    assert why in done.err and "left aside" not in done.err


def test_a_stale_deployment_misses_its_bar(
    run: RunEval,
    data: Path,
    tmp_path: Path,
    scripted: Callable[[Script], ScriptedJudge],
    config: Callable[..., Path],
) -> None:
    """With ``on_stale`` it runs, and does what that says: here, refuse everything."""
    scripted(doubts)
    done = run(data, "--config", config("scripted:other", "on_stale = 'refuse'"), "--json", *BARS)
    assert done.code == 6
    assert done.record["unmeasured"] == {"stale_profile": 400}
    ((why, count),) = done.record["stale"].items()
    assert ("'scripted:other'" in why, count) == (True, 400)
    text = " ".join(run(data, "--config", tmp_path / "guard.toml", *BARS).out.split())
    assert "The profile is stale: none of its thresholds were applied." in text
    assert "400 stale_profile: its judge is 'scripted:other', not 'scripted:scripted'" in text
    assert "rag-guard calibrate" in text
    assert "calibrated." not in text and "0.55" not in text


def test_rows_that_a_profile_is_stale_for_are_told_of(
    run: RunEval, tmp_path: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    """By what differs, beside the thresholds that the others were routed by."""
    scripted(doubts)
    Profile(CUTS, FRESH, languages=("en",)).save(tmp_path / "bot.json")
    langs = ("de", "en", "fr", "en")
    data = written(
        tmp_path / "rows.jsonl", [a_row(at, lang=langs[at // 2 % 4]) for at in range(400)]
    )
    text = " ".join(run(data, "--profile", "bot.json", "--on-stale", "clarify").out.split())
    assert "Answer at 0.55, refuse below 0.45, uncalibrated, but not to 200 rows" in text
    for lang in ("de", "fr"):
        assert f"100 stale_profile: it was fitted to en, not to '{lang}'" in text


def test_what_else_is_wrong_is_misuse(run: RunEval, data: Path, tmp_path: Path) -> None:
    """It is not blamed on the profile."""
    file = tmp_path / "guard.toml"
    file.write_text("[deployment.default]\njudge = 'nobody:x'\nprofile = 'none.json'\n")
    done = run(data, "--config", file)
    assert (done.code, done.out) == (2, "")
    assert "Unknown judge" in done.err and "left aside" not in done.err
