"""``rag-guard calibrate``: from a file of rows to a profile that a deployment applies."""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from guard import JudgeRejected, Profile, Query, Unmeasured, calibrating, judges
from guard.cli import main
from guard.judge import Judge
from guard.testing import Scripted, ScriptedJudge

Script = Callable[[Query], Scripted]


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


RunIt = Callable[..., Run]
BOUNDS = ("--max-leak", "0.1", "--max-false-refusal", "0.1")


@pytest.fixture
def rag_guard(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> RunIt:
    """Runs ``rag-guard`` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: str | Path) -> Run:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, args)])
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Run(ended.value.code, out, err)

    return run


@pytest.fixture
def run(rag_guard: RunIt) -> RunIt:
    """Runs ``rag-guard calibrate`` with bounds that can be met."""

    def run(*args: str | Path) -> Run:
        return rag_guard("calibrate", *args, *BOUNDS, "-o", "bot.profile.json")

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


def a_row(number: int, **changes: object) -> dict[str, object]:
    """A row on a mill of its own; every second one's contexts hold the answer."""
    row = {
        "id": str(number),
        "question": f"Who built mill {number}?",
        "contexts": [f"Mill {number} stands by the brook.", f"Note {number}."],
        "sufficient": number % 2 == 0,
        "lang": "en",
    }
    return {**row, **changes}


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four hundred rows, half of them sufficient."""
    return written(tmp_path / "mills.jsonl", [a_row(number) for number in range(400)])


def number_of(query: Query) -> int:
    return int(query.question.rstrip("?").split()[-1])


def knows(query: Query) -> float:
    """A judge that is nearly always right, and surer of itself than that."""
    number = number_of(query)
    lot = random.Random(number)
    right = (number % 2 == 0) != (lot.random() < 0.03)
    return 0.8 + lot.random() * 0.19 if right else 0.01 + lot.random() * 0.19


def guesses(query: Query) -> float:
    return random.Random(number_of(query)).random()


# ── Certified ────────────────────────────────────────────────────────────────────────────────────


def test_json(run: RunIt, data: Path, scripted: Callable[[Script], ScriptedJudge]) -> None:
    scripted(knows)
    done = run(data, "--json")
    assert (done.code, done.err) == (0, "")
    record = done.record
    profile = Profile.load("bot.profile.json")
    assert record["certified"] is True
    assert (record["profile"], record["unmeasured"]) == ("bot.profile.json", 0)
    assert record["thresholds"] == {
        "answer_at": profile.thresholds.answer_at,
        "refuse_below": profile.thresholds.refuse_below,
    }
    assert profile.certificate is not None
    assert record["certificate"]["leak"]["most"] == profile.certificate.leak.most == 0.1
    assert record["certificate"]["confidence"] == 0.95
    assert (record["fit_rows"], record["certified_rows"]) == (120, 280)
    assert set(record["losses"]) == {"identity", "temperature", "platt", "isotonic"}
    assert profile.calibrator is not None
    assert record["calibrator"] == profile.calibrator.to_dict()
    assert profile.data_version is not None and len(profile.data_version) == 64
    assert Path(record["verdicts"]).exists()


def test_for_people(run: RunIt, data: Path, scripted: Callable[[Script], ScriptedJudge]) -> None:
    """Within 60 columns: what is promised, on what, and what to do with it."""
    scripted(knows)
    done = run(data)
    assert (done.code, done.err) == (0, "")
    text = " ".join(done.out.split())
    for part in (
        "CERTIFIED: answer at ",
        "With 95% confidence",
        "at most 10.0% of the answered ones lack evidence",
        "Seen on 280 rows, one a group",
        'profile = "bot.profile.json"',
        "log loss, nats",
        "All rows by route:",
    ):
        assert part in text
    assert max(map(len, done.out.splitlines()[:-1])) <= 60
    assert done.out.splitlines()[-1].startswith("The verdicts are kept in mills-")


def test_the_profile_is_applied_where_it_is_deployed(
    run: RunIt,
    rag_guard: RunIt,
    data: Path,
    tmp_path: Path,
    scripted: Callable[[Script], ScriptedJudge],
) -> None:
    scripted(knows)
    assert run(data).code == 0
    toml = "[deployment.default]\njudge = 'any'\nprofile = 'bot.profile.json'\n"
    (tmp_path / "guard.toml").write_text(toml)
    asked = ("check", "-q", "Who built mill 8?", "-t", "Ada built mill 8.", "--config")
    done = rag_guard(*asked, tmp_path / "guard.toml")
    text = " ".join(done.out.split())
    assert done.code == 0
    assert "calibrated" in text and "uncalibrated" not in text
    assert "10 %" in text and "confidence 95 %" in text and "n = 280" in text
    record = rag_guard(*asked, tmp_path / "guard.toml", "--json").record
    assert (record["calibrated"], record["profile"]) == (True, "bot")
    # And it measures as certified: eval, through the same profile.
    bars = ("--max-leak", "0.1", "--max-false-refusal", "0.1", "--resamples", "50")
    assert rag_guard("eval", data, "--config", tmp_path / "guard.toml", *bars).code == 0


def test_a_second_run_asks_nothing_and_gives_the_same(
    run: RunIt, data: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    scripted(knows)
    first = run(data, "--json").record
    again = scripted(knows)
    assert run(data, "--json").record == first
    assert again.queries == []


def test_only_rows_drawn_at_random_are_certified_on(
    run: RunIt, tmp_path: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    scripted(knows)
    rows = [
        a_row(number, sampling="targeted" if number % 4 < 2 else "random") for number in range(400)
    ]
    record = run(written(tmp_path / "rows.jsonl", rows), "--json").record
    assert (record["fit_rows"], record["certified_rows"]) == (200 + 60, 140)


def test_unmeasured_rows_go_where_the_policy_sends_them(
    run: RunIt, data: Path, tmp_path: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    """Refused, they are false refusals; answered, leaks; clarified, neither."""

    def fails_on_some(query: Query) -> Scripted:
        return JudgeRejected("No.") if number_of(query) % 10 < 2 else knows(query)

    scripted(fails_on_some)
    found = dict[str, Run]()
    for route in ("refuse", "clarify", "answer"):
        toml = f"[deployment.default]\njudge = 'any'\non_unmeasured = '{route}'\n"
        (tmp_path / "guard.toml").write_text(toml)
        found[route] = run(data, "--config", tmp_path / "guard.toml", "--json")
    assert {route: done.code for route, done in found.items()} == {
        "refuse": 6,
        "clarify": 0,
        "answer": 6,
    }
    assert found["clarify"].record["unmeasured"] > 30
    assert "false-refusal rate" in found["refuse"].record["reason"]
    assert "leak rate" in found["answer"].record["reason"]
    assert {str(done.record["unmeasured_by_reason"]) for done in found.values()} == {
        "{'rejected': 80}"
    }


def test_a_judge_is_not_blamed_for_rows_without_a_verdict(
    run: RunIt, data: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    """How many there are, why, and where they count, comes before what cannot be bounded."""

    def fails(query: Query) -> Scripted:
        if number_of(query) % 10 == 0:
            return Unmeasured("No \x1b[2Jlogprobs.")
        return JudgeRejected("HTTP 401.") if number_of(query) % 10 < 4 else knows(query)

    scripted(fails)
    done = run(data, "--workers", "1")
    assert done.code == 6 and "\x1b" not in done.out
    text = " ".join(done.out.split())
    said = (
        "160 of 400 rows have no verdict (120 rejected: HTTP 401.; 40 no_logprobs: No "
        "\ufffd[2Jlogprobs.) and count as the policy routes them: refuse."
    )
    assert said in text
    assert text.index("NOT CERTIFIED") < text.index(said) < text.index("cannot be bounded")
    scripted(knows)
    assert run(data, "--retry-unmeasured").code == 0
    scripted(guesses)
    assert "no verdict" not in run(data, "--verdicts", "other.jsonl").out


@pytest.mark.parametrize(
    ("langs", "said"),
    [
        ([None], "no row has `lang`: this profile never goes stale by language."),
        (["en", "de"], ""),
    ],
)
def test_a_profile_without_languages_is_told_of(
    run: RunIt,
    tmp_path: Path,
    scripted: Callable[[Script], ScriptedJudge],
    langs: list[str | None],
    said: str,
) -> None:
    scripted(knows)
    rows = [a_row(at, lang=langs[at % len(langs)]) for at in range(400)]
    done = run(written(tmp_path / "rows.jsonl", rows), "--json")
    assert (done.code, bool(done.err)) == (0, bool(said))
    assert said in done.err


@pytest.mark.parametrize(
    ("older", "said"),
    [
        ("created", "(created 20"),
        ('{"format": "rag-guard profile", "version": 99}', "(no profile that"),
    ],
)
def test_what_is_replaced_is_said(
    run: RunIt,
    data: Path,
    scripted: Callable[[Script], ScriptedJudge],
    older: str,
    said: str,
) -> None:
    scripted(knows)
    if older == "created":
        run(data)
    else:
        Path("bot.profile.json").write_text(older)
    assert f"rag-guard: replaced bot.profile.json {said}" in run(data).err


# ── Not certified ────────────────────────────────────────────────────────────────────────────────


def test_what_cannot_be_certified_writes_no_file(
    run: RunIt, data: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    scripted(guesses)
    done = run(data)
    assert done.code == 6
    text = " ".join(done.out.split())
    assert "NOT CERTIFIED, and no profile is written." in text
    assert "leak rate P(insufficient | answered) cannot be bounded by 0.1" in text
    assert max(map(len, done.out.splitlines()[:-1])) <= 60
    assert not Path("bot.profile.json").exists()
    record = run(data, "--json").record
    assert (record["certified"], record["profile"], record["needed_n"]) == (False, None, None)
    assert record["reason"]
    assert Path(record["verdicts"]).exists()


def test_an_older_profile_is_left_where_nothing_can_be_certified(
    run: RunIt, data: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    scripted(guesses)
    older = '{"format": "rag-guard profile"}'
    Path("bot.profile.json").write_text(older)
    assert run(data).code == 6
    assert Path("bot.profile.json").read_text() == older


@pytest.mark.parametrize(
    "content", ["[deployment.default]\njudge = 'any'\n", '{"a": 1}', "[]", "", "\0\xff"]
)
def test_it_replaces_nothing_but_profiles(
    rag_guard: RunIt, data: Path, scripted: Callable[[Script], ScriptedJudge], content: str
) -> None:
    """A configuration, say; and it is said before the judge is asked."""
    judge = scripted(knows)
    Path("guard.toml").write_text(content, "latin-1")
    config = ("--config", "guard.toml") if "judge" in content else ()
    done = rag_guard("calibrate", data, *BOUNDS, "-o", "guard.toml", *config)
    assert (done.code, done.out) == (2, "")
    assert "'guard.toml' is there and is no profile of rag-guard" in done.err
    assert Path("guard.toml").read_text("latin-1") == content
    assert judge.queries == []


@pytest.mark.parametrize("taken", ["rows", "verdicts"])
def test_it_overwrites_neither_rows_nor_verdicts(
    rag_guard: RunIt, data: Path, scripted: Callable[[Script], ScriptedJudge], taken: str
) -> None:
    """They were paid for, in somebody's hours or in money."""
    scripted(knows)
    verdicts = Path("kept.jsonl")
    output = data if taken == "rows" else verdicts
    before = data.read_bytes()
    bounds = ("--max-leak", "0.1", "--max-false-refusal", "0.2")
    done = rag_guard("calibrate", data, *bounds, "-o", output, "--verdicts", verdicts)
    assert done.code == 2 and "which a profile would replace" in done.err
    assert data.read_bytes() == before and not verdicts.exists()


def test_it_says_how_many_rows_would_do(
    run: RunIt, tmp_path: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    scripted(knows)
    few = written(tmp_path / "few.jsonl", [a_row(number) for number in range(80)])
    done = run(few, "--json")
    assert done.code == 6
    needed = done.record["needed_n"]
    assert 56 < needed < 2000
    text = " ".join(run(few).out.split())
    assert f"about {needed} would do" in text
    assert "56 rows, one a group, were there to certify on" in text


# ── Misuse ───────────────────────────────────────────────────────────────────────────────────────


def lines(*rows: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


MANY = [a_row(number) for number in range(40)]
FILES: dict[str, tuple[str, list[str]]] = {
    "half a line": (lines(*MANY) + '{"question": "Who bu', ["line 41", "cut off"]),
    "a wrong type": (lines(*MANY, a_row(40, question=7)), ["line 41", "`question`", "not text"]),
    "a label in quotes": (lines(a_row(0, sufficient="false")), ["line 1", "`sufficient`"]),
    "no label": (lines(a_row(0, sufficient=None)), ["line 1", "`sufficient` is missing"]),
    "NaN": (lines(*MANY, a_row(40, sufficient=float("nan"))), ["line 41", "`sufficient`"]),
    "one class": (lines(*(row | {"sufficient": True} for row in MANY)), ["40 rows are sufficient"]),
    "7 rows": (lines(*MANY[:7]), ["7 rows are too few"]),
    "an id twice": (lines(*MANY, a_row(3)), ["line 41", "line 4"]),
    "empty": ("", ["no row"]),
    "12 rows": (lines(*MANY[:12]), ["12 rows", "leave 4 for the calibrator", "at least 34"]),
    "one group": (lines(*(row | {"group": "all"} for row in MANY)), ["1 groups of rows"]),
    "a fit part of one label": (
        lines(*(row | {"group": str(row["sufficient"])} for row in MANY)),
        ["All 20 rows that the lot gives to the calibrator have one label"],
    ),
    "a language each": (
        lines(*(row | {"lang": f"{at:02}"} for at, row in enumerate(MANY))),
        ["No language has 10 rows", "28 have fewer"],
    ),
    "two people": (
        lines(*MANY, a_row(40, annotator="anna"), a_row(40, annotator="ben")),
        ["line 42", "labelled twice, by 'anna' and by 'ben'", "line 41", "--agreement"],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_rows_that_cannot_serve(
    run: RunIt, tmp_path: Path, scripted: Callable[[Script], ScriptedJudge], name: str
) -> None:
    """One clear error, before the judge is asked."""
    judge = scripted(knows)
    content, parts = FILES[name]
    file = tmp_path / "rows.jsonl"
    file.write_text(content, "utf-8")
    done = run(file)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 2  # What is wrong, and what to do.
    for part in parts:
        assert part in done.err
    assert judge.queries == []
    assert not list(tmp_path.glob("*.verdicts.jsonl"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--max-leak", "0"], "`max_leak`"),
        (["--max-leak", "nan"], "--max-leak"),
        (["--max-leak", "5%"], "5 % is .05"),
        (["--max-false-refusal", "1.5"], "--max-false-refusal"),
        (["--confidence", "95"], "`confidence`"),
        (["--kind", "magic"], "`kind`"),
        (["--fit-share", "1"], "`fit_share`"),
        (["--seed", "9999999999"], "--seed"),
        (["--output", "nowhere/bot.json"], "nowhere"),
        (["--output", "."], "is a folder"),
    ],
)
def test_settings_that_cannot_be(
    rag_guard: RunIt,
    data: Path,
    scripted: Callable[[Script], ScriptedJudge],
    options: list[str],
    problem: str,
) -> None:
    """They are told before the judge is asked, which costs."""
    judge = scripted(knows)
    done = rag_guard("calibrate", data, *BOUNDS, "-o", "bot.profile.json", *options)
    assert (done.code, done.out) == (2, "")
    assert problem in done.err
    assert judge.queries == []


@pytest.mark.parametrize("missing", ["sklearn", "scipy"])
def test_without_the_extra_nothing_is_asked(
    run: RunIt,
    data: Path,
    scripted: Callable[[Script], ScriptedJudge],
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
) -> None:
    judge = scripted(knows)
    monkeypatch.setitem(sys.modules, missing, None)
    done = run(data)
    assert (done.code, done.out) == (2, "")
    assert 'pip install "rag-guard[calibrate]"' in done.err
    assert judge.queries == []


def test_verdicts_are_kept_where_calibrating_fails(
    run: RunIt, tmp_path: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    """Too few are measured for the calibrator, which only the judge could tell; nor asked again."""

    def fails(query: Query) -> Scripted:
        return knows(query) if number_of(query) < 5 else Unmeasured("No.", kind="no_logprobs")

    data = written(tmp_path / "rows.jsonl", [row | {"lang": None} for row in MANY])
    for queries in (40, 0):
        judge = scripted(fails)
        done = run(data)
        assert (done.code, done.out) == (2, "")
        assert "rows are too few" in done.err
        assert len(judge.queries) == queries


def test_stopped_while_it_calibrates(
    run: RunIt,
    data: Path,
    scripted: Callable[[Script], ScriptedJudge],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    scripted(knows)
    monkeypatch.setattr(calibrating, "fit", stop)
    stopped = run(data)
    assert (stopped.code, stopped.out) == (130, "")
    assert "400 of 400 rows are kept" in stopped.err


def test_a_profile_edited_by_hand_is_refused(
    run: RunIt, rag_guard: RunIt, data: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    """By whoever applies it; `calibrate` writes a new one over it."""
    scripted(knows)
    assert run(data).code == 0
    file = Path("bot.profile.json")
    document = json.loads(file.read_text("utf-8"))
    document["profile"]["thresholds"]["answer_at"] = 0.999
    file.write_text(json.dumps(document), "utf-8")
    asked = ("check", "-q", "Who built mill 8?", "-t", "Ada.", "--profile", str(file))
    done = rag_guard(*asked)
    assert (done.code, done.out) == (2, "")
    assert "checksum" in done.err
    assert run(data).code == 0
    assert rag_guard(*asked).code == 0


def test_markup_and_control_characters_stay_text(
    rag_guard: RunIt, tmp_path: Path, scripted: Callable[[Script], ScriptedJudge]
) -> None:
    scripted(knows)
    folder = tmp_path / "[red]a\x1b[2J"
    folder.mkdir()
    rows = [a_row(number, group=f"[bold]\x1b[2J{number}", lang="x[/]\x1b") for number in range(400)]
    data = written(folder / "[red]rows.jsonl", rows)
    done = rag_guard("calibrate", data, *BOUNDS, "-o", folder / "p[bold].json")
    assert (done.code, done.err) == (0, "")
    assert "\x1b" not in done.out
    assert "[red]" in done.out and "p[bold].json" in done.out
    assert (folder / "p[bold].json").exists()
