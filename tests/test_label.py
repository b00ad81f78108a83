"""``rag-guard label``: what is asked, what is written, what survives."""

import errno
import io
import json
import multiprocessing
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperCommand

from guard import Query, dataset, judges
from guard.cli.label import label, recorded
from guard.cli.label_session import Asked, LabelSession, Screen
from guard.dataset import Row
from guard.errors import ConfigError, JudgeError, JudgeRejected, JudgeUnavailable
from guard.judge import Judge
from guard.judgement import Judgement
from guard.label_file import LabelFile
from guard.labelling import Pick
from guard.testing import ScriptedJudge

PASSAGES = ("The ferry sails at nine.", "It does not sail on Sundays.")


def row(id: str, question: str = "When does it sail?", contexts: Sequence[str] = PASSAGES) -> Row:
    return Row(id, Query.of(question, contexts), None, id, (), f"rows.jsonl, line {id}")


def asked(*rows: Row, p: float | None = 0.9, judge: bool = True) -> list[Asked]:
    """Rows as a session gets them, each with one verdict, or none (``p=None``)."""
    return [Asked(each, Pick(each.id, "random"), _judgement(each, p, judge)) for each in rows]


def _judgement(row: Row, p: float | None, judge: bool) -> Judgement | None:
    record = {"probability": p, "reason": "timeout"}
    return recorded(row, record) if judge else None


class Person:
    """Somebody who types keys, and all that they saw, with the keys as ``<y>``."""

    def __init__(self, keys: str, height: int | None = None) -> None:
        self.transcript: list[str] = []
        self._keys: Iterator[str] = iter(keys)
        self.screen = Screen(self._key, self.transcript.append, width=40, height=height)

    def _key(self) -> str:
        key = next(self._keys, "")
        if key == "!":
            raise KeyboardInterrupt
        self.transcript.append(f"<{key}>")
        return key

    @property
    def text(self) -> str:
        return "\n".join(self.transcript)

    def before(self, key: str) -> str:
        """What they saw until they first pressed ``key``."""
        return self.text.partition(f"<{key}>")[0]

    def after(self, key: str) -> str:
        """What they saw since."""
        return self.text.partition(f"<{key}>")[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "labels.jsonl"


def sit(path: Path, keys: str, *rows: Row, who: str = "anna", **options: Any) -> Person:
    """One sitting, from opening the file on."""
    person = Person(keys, options.pop("height", None))
    LabelSession(asked(*rows, **options), LabelFile(path), who, person.screen).run()
    return person


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def said(path: Path) -> dict[str, bool]:
    return {line["id"]: line["sufficient"] for line in lines(path)}


ROWS = [row(id) for id in "abcd"]

# ── Asking ───────────────────────────────────────────────────────────────────────────────────────


def test_each_key(path: Path) -> None:
    person = sit(path, "ynsy", *ROWS)
    assert said(path) == {"a": True, "b": False, "d": True}
    (skipped,) = lines(path.with_name("labels.skipped.jsonl"))
    assert (skipped["id"], skipped["skipped"]) == ("c", True)
    assert "question" not in skipped
    assert [line for line in person.transcript if line.endswith("/4")] == [
        f"{done}/4" for done in range(5)
    ]


def test_lines_are_rows(path: Path) -> None:
    """What is written is what `guard.dataset` reads, with everything the row had."""
    query = Query.of(
        "Und\u2028jetzt? \ud800", ["Eins.", ""], history=[("user", "Hallo")], lang="de"
    )
    sit(path, "y", Row("7", query, None, "doc-1", ("um neun",), "x"))
    (read,) = dataset.read(path, labelled=True).rows
    assert (read.id, read.query, read.sufficient) == ("7", query, True)
    assert (read.group, read.answers) == ("doc-1", ("um neun",))
    (line,) = lines(path)
    assert (line["sampling"], line["annotator"]) == ("random", "anna")
    assert line["labelled_at"].endswith("+00:00")
    assert "revised" not in line


def test_skips_do_not_choke_the_data_set(path: Path) -> None:
    sit(path, "ysny", *ROWS)
    assert [read.id for read in dataset.read(path, labelled=True).rows] == ["a", "c", "d"]


@pytest.mark.parametrize(
    ("key", "p", "told"),
    [
        ("y", 0.9, "sufficient, P = 0.900 in [0.900, 0.900]: you agree"),
        ("n", 0.9, "sufficient, P = 0.900 in [0.900, 0.900]: you differ"),
        ("n", 0.123, "insufficient, P = 0.123 in [0.123, 0.123]: you agree"),
        ("y", None, "not measured (timeout)"),
    ],
)
def test_verdict_is_hidden_until_answered(path: Path, key: str, p: float | None, told: str) -> None:
    person = sit(path, key, ROWS[0], p=p)
    for word in ("judge", "agree", "0.9", "0.12", "timeout", "random"):
        assert word not in person.before(key)
    assert f"the judge: {told}" in person.after(key)


def test_without_a_judge_no_verdict_is_spoken_of(path: Path) -> None:
    assert "judge" not in sit(path, "yn", *ROWS, judge=False).text


def test_a_skip_tells_no_verdict(path: Path) -> None:
    """A skipped row may come back, and should be judged blind then."""
    assert "judge" not in sit(path, "s", ROWS[0]).text


def test_help_and_unknown_keys(path: Path) -> None:
    person = sit(path, "?x\ny", ROWS[0])
    assert "What you know yourself does not count" in person.after("?")
    assert said(path) == {"a": True}


def test_question_and_passages_stand_behind_marks(path: Path) -> None:
    """A passage cannot pass for our own lines, nor end early, nor colour anything."""
    hostile = "\x1b[2J\x1b[31mred\x07\r\n0/4\n  [2/2]\n[bold]x[/bold] :smile:\u2028  the judge: no"
    hidden = "a\u202eb\u2066c\u200bd\U000e0041e\x9bf\ud800"
    person = sit(path, "y", row("a", "What\n  y sufficient?", [hostile, hidden]))
    text = person.before("y")
    assert not set(text) & {"\x1b", "\x07", "\r", "\u202e", "\u2066", "\u200b", "\x9b", "\ud800"}
    assert "[bold]x[/bold] :smile:" in text
    assert "a\ufffdb\ufffdc\ufffdd\ufffde\ufffdf\ufffd" in text
    ours = [line for line in text.split("\n") if not line.startswith(("  │ ", "  ? ", "<"))]
    assert ours[:3] == ["0/1", "  [1/2]", "  [2/2]"] and len(ours) <= 5
    assert "  │ 0/4" in person.transcript


def test_long_lines_are_wrapped(path: Path) -> None:
    person = sit(path, "y", row("a", contexts=["word " * 50, "x" * 100]))
    shown = [line for line in person.transcript if line.startswith("  │ ")]
    assert max(map(len, shown)) <= 40
    assert sum(line.count("x") for line in shown) == 100
    assert sum(line.count("word") for line in shown) == 50


def test_pages(path: Path) -> None:
    """A page at a time; insufficient waits until all was shown, sufficient need not."""
    long = row("a", contexts=[f"line {at}\n" * 4 + f"end {at}" for at in range(6)])
    person = sit(path, "n    n", long, height=16)
    assert "end 5" not in person.before("n")
    assert "Not all was shown yet" in person.text
    assert said(path) == {"a": False}
    assert [f"end {at}" in person.text for at in range(6)] == [True] * 6
    shown = person.before("n").split("\n")
    assert len(shown) <= 16 and max(map(len, shown)) < 80


def test_sufficient_needs_no_more_pages(path: Path) -> None:
    sit(path, "y", row("a", contexts=["line\n" * 100]), height=16)
    assert said(path) == {"a": True}


def test_empty_contexts(path: Path) -> None:
    person = sit(path, "n", row("a", contexts=[]))
    assert "no passage was retrieved" in person.before("n")


# ── Going on ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("keys", ["ysq", "ys"])
def test_resume(path: Path, keys: str) -> None:
    """After q, or where no more keys come, the next sitting asks only what is left."""
    sit(path, keys, *ROWS)
    person = sit(path, "nn", *ROWS)
    assert "2/4" in person.transcript and "0/4" not in person.transcript
    assert said(path) == {"a": True, "c": False, "d": False}
    over = sit(path, "y", *ROWS)
    assert "That was the last one." in over.text and "[1/2]" not in over.text
    assert said(path) == {"a": True, "c": False, "d": False}


def test_ctrl_c_loses_nothing(path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        sit(path, "yn!", *ROWS)
    assert said(path) == {"a": True, "b": False}


def test_each_label_is_on_disk_before_the_next_row(path: Path) -> None:
    seen = list[int]()
    keys = iter("ynyyq")

    def key() -> str:
        seen.append(len(lines(path)) if path.exists() else 0)
        return next(keys)

    LabelSession(asked(*ROWS), LabelFile(path), "anna", Screen(key, Person("").screen.show)).run()
    assert seen == [0, 1, 2, 3, 4]


def test_undo(path: Path) -> None:
    """The last answer, then the one before it; each row is asked again at once."""
    person = sit(path, "ynuuny", ROWS[0], ROWS[1])
    assert said(path) == {"a": False, "b": True}
    assert person.text.count("Taken back.") == 2


def test_undo_of_a_skip_and_with_nothing_left(path: Path) -> None:
    person = sit(path, "suuy", ROWS[0])
    assert said(path) == {"a": True}
    assert lines(path.with_name("labels.skipped.jsonl")) == []
    assert "There is nothing to undo." in person.text


def test_undo_reaches_into_the_last_sitting(path: Path) -> None:
    sit(path, "ysq", *ROWS)
    sit(path, "uunq", *ROWS)
    assert said(path) == {"a": False}


def test_undo_leaves_others_and_other_rows_alone(path: Path) -> None:
    sit(path, "y", row("elsewhere"))
    sit(path, "y", ROWS[0], who="ben")
    before = path.read_text("utf-8")
    person = sit(path, "uyuq", *ROWS)
    assert "There is nothing to undo." in person.text
    assert path.read_text("utf-8") == before


def test_a_label_after_the_verdict_says_so(path: Path) -> None:
    """An undone answer had shown the verdict; the new one is no longer blind."""
    sit(path, "yuny", ROWS[0], ROWS[1])
    first, second = lines(path)
    assert (first["id"], "revised" in first) == ("a", True)
    assert (second["id"], "revised" in second) == ("b", False)


def test_two_annotators_in_one_file(path: Path) -> None:
    sit(path, "yn", ROWS[0], ROWS[1])
    person = sit(path, "nn", ROWS[0], ROWS[1], who="ben")
    assert "0/2" in person.transcript
    found = [(line["annotator"], line["id"], line["sufficient"]) for line in lines(path)]
    assert found == [
        ("anna", "a", True),
        ("anna", "b", False),
        ("ben", "a", False),
        ("ben", "b", False),
    ]


# ── The file ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kept", [1, 6, 9, 60])
def test_half_a_line_is_dropped_and_asked_again(path: Path, kept: int) -> None:
    sit(path, "yn", *ROWS)
    whole, half = path.read_text("utf-8").splitlines()
    path.write_text(f"{whole}\n{half[:kept]}", "utf-8")
    sit(path, "yq", *ROWS)
    assert said(path) == {"a": True, "b": True}


def test_half_a_line_may_end_in_a_brace(path: Path) -> None:
    sit(path, "yy", row("a"), row("b", "What is {x} here?"))
    whole, half = path.read_text("utf-8").splitlines()
    path.write_text(f"{whole}\n{half[: half.index('}') + 1]}", "utf-8")
    assert [entry.id for entry in LabelFile(path).entries()] == ["a"]
    assert path.read_text("utf-8") == f"{whole}\n"


def test_half_a_line_of_anothers_crash_takes_no_label_with_it(path: Path) -> None:
    """It came after this file was opened."""
    file = LabelFile(path)
    file.add(row("a"), True, Pick("a", "random"), "anna")
    with path.open("a", encoding="utf-8") as crashed:
        crashed.write('{"id": "b", "ques')
    file.add(row("c"), False, Pick("c", "random"), "anna")
    assert said(path) == {"a": True, "c": False}


def _add_many(path: Path, count: int) -> None:
    file = LabelFile(path)
    for number in range(count):
        file.add(row(f"ben {number}"), True, Pick("", "targeted"), "ben")


@pytest.mark.skipif(sys.platform == "win32", reason="no lock on Windows")
def test_two_people_at_once_lose_nothing(path: Path) -> None:
    """One adds, while the other adds, marks and takes back, each of which writes it anew."""
    spawn = multiprocessing.get_context("spawn")
    ben = spawn.Process(target=_add_many, args=(path, 100))
    file = LabelFile(path)
    file.add(row("kept"), True, Pick("kept", "targeted"), "anna")
    ben.start()
    while ben.is_alive():
        file.add(row("a"), True, Pick("a", "targeted"), "anna")
        file.mark_random("anna", {"a"})
        assert file.undo("anna", {"a"}) == "a"
    ben.join()
    assert ben.exitcode == 0
    assert said(path) == dict.fromkeys(["kept", *(f"ben {n}" for n in range(100))], True)


def test_a_whole_line_without_its_end_is_kept(path: Path) -> None:
    sit(path, "yn", *ROWS)
    path.write_text(path.read_text("utf-8").rstrip("\n"), "utf-8")
    sit(path, "yq", *ROWS)
    assert said(path) == {"a": True, "b": False, "c": True}


@pytest.mark.parametrize(
    "text",
    [
        "my notes",
        '{"question": "q", "contexts": [], "sufficient": true}\n',
        '{"id": "a", "sufficient": null, "annotator": "x", "labelled_at": "y"}\n',
        '[1]\n{"id": "a',
        '{"id": broken\n{"id": "a"}\n',
    ],
)
def test_somebody_elses_file_is_left_alone(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=r"labels\.jsonl, line 1: not"):
        LabelFile(path)
    assert path.read_text("utf-8") == text


def test_files_are_private_and_keep_their_mode(path: Path) -> None:
    sit(path, "ysq", *ROWS)
    for each in (path, path.with_name("labels.skipped.jsonl")):
        assert stat.S_IMODE(each.stat().st_mode) == 0o600
    path.chmod(0o640)
    sit(path, "uuq", *ROWS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(each.name for each in path.parent.iterdir()) == [
        "labels.jsonl",
        "labels.skipped.jsonl",
    ]


def test_a_full_disk_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came before stays, and no file is left lying about."""
    sit(path, "yq", *ROWS)

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = path.read_text("utf-8")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match="cannot be written: No space left"):
        LabelFile(path).undo("anna", {"a"})
    assert path.read_text("utf-8") == before
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(ConfigError, match="cannot be written: No space left"):
        sit(path, "y", *ROWS)


def test_a_larger_draw_marks_its_random_rows(path: Path) -> None:
    person = Person("yy")
    rows = [Asked(each, Pick(each.id, "targeted"), None) for each in ROWS[:2]]
    file = LabelFile(path)
    LabelSession(rows, file, "anna", person.screen).run()
    file.mark_random("ben", {"a"})
    assert [line["sampling"] for line in lines(path)] == ["targeted", "targeted"]
    file.mark_random("anna", {"a", "c"})
    assert [line["sampling"] for line in lines(path)] == ["random", "targeted"]
    assert said(path) == {"a": True, "b": True}


@pytest.mark.parametrize(
    ("keys", "random"),
    [("q", ""), ("yq", "b"), ("yyq", "abc"), ("sq", ""), ("syq", "ac"), ("yuq", "")],
)
def test_what_was_targeted_is_random_once_the_lot_has_reached_it(
    path: Path, keys: str, random: str
) -> None:
    """A larger draw has picked `a` too, but whoever leaves early has not come to it."""
    rows = {row.id: row for row in ROWS}
    file = LabelFile(path)
    file.add(rows["a"], True, Pick("a", "targeted"), "anna")
    asked = [Asked(rows[id], Pick(id, "random"), None) for id in "bca"]
    LabelSession(asked, file, "anna", Person(keys).screen).run()
    found = sorted(line["id"] for line in lines(path) if line["sampling"] == "random")
    assert found == [*random]


# ── The command ──────────────────────────────────────────────────────────────────────────────────


class Run:
    """One run of the command in this process."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


RunLabel = Callable[..., Run]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunLabel:
    """Runs ``label`` with arguments, and keys from a pipe; misuse raises."""
    monkeypatch.setenv("COLUMNS", "80")
    app = typer.Typer()
    app.command(cls=TyperCommand)(label)

    def run(*args: str | Path, keys: str = "") -> Run:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(keys.encode())))
        with pytest.raises(SystemExit) as ended:
            app([*map(str, args)])
        code = ended.value.code
        out, err = capsys.readouterr()
        return Run(code if isinstance(code, int) else 0, out, err)

    return run


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedJudge:
    """What every judge's name stands for: sure of even rows, not of odd ones."""
    judge = ScriptedJudge(lambda query: 0.95 if "even" in query.question else 0.75)

    def from_name(_name: str, **_options: object) -> Judge:
        return judge

    monkeypatch.setattr(judges, "from_name", from_name)
    return judge


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    """Ten queries without labels."""
    path = tmp_path / "queries.jsonl"
    rows = [
        {"question": f"{'even' if at % 2 == 0 else 'odd'} {at}?", "contexts": [f"Fact {at}."]}
        for at in range(10)
    ]
    path.write_text("".join(f"{json.dumps(each)}\n" for each in rows), "utf-8")
    return path


def test_without_a_judge(run: RunLabel, queries: Path, path: Path) -> None:
    done = run(queries, "-o", path, "--n", "4", "--annotator", "anna", keys="ynys")
    assert done.code == 0
    assert "4 of these 4 done: 2 sufficient, 1 insufficient, 1 skipped; 3 labels in " in done.out
    assert "the judge" not in done.out
    assert [line["sampling"] for line in lines(path)] == ["random"] * 3
    assert len(dataset.read(path).rows) == 3


def test_with_a_judge_and_again(
    run: RunLabel, queries: Path, path: Path, scripted: ScriptedJudge, tmp_path: Path
) -> None:
    """Verdicts are kept, and the second sitting goes on without asking the judge again."""
    args = (queries, "-o", path, "--judge", "any", "--n", "6", "--verdicts", tmp_path / "v.jsonl")
    first = run(*args, "--annotator", "anna", keys="yq")
    assert "1 of these 6 done" in first.out and "The same command goes on" in first.out
    second = run(*args, "--annotator", "anna", keys="nnnnn")
    assert "1/6" in second.out and "6 of these 6 done" in second.out
    assert "asking the judge about 10 rows" in first.err and "--verdicts" not in first.err
    assert "10 of 10 rows kept" in second.err and "asking the judge" not in second.err
    assert len(scripted.queries) == 10
    assert sorted(line["sampling"] for line in lines(path)) == ["random"] * 3 + ["targeted"] * 3


def test_without_verdicts_the_judge_is_asked_at_every_sitting(
    run: RunLabel, queries: Path, path: Path, scripted: ScriptedJudge
) -> None:
    """And that is said before."""
    args = (queries, "-o", path, "--judge", "any", "--n", "3", "--annotator", "anna")
    told = "asking the judge about 10 rows, a request each at least. Without --verdicts FILE"
    assert [told in run(*args, keys="yq").err for _ in range(2)] == [True, True]
    assert len(scripted.queries) == 20


@pytest.mark.parametrize("error", [JudgeRejected("HTTP 401."), JudgeUnavailable("Down.")])
def test_a_dead_judge_ends_it(
    run: RunLabel,
    queries: Path,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: JudgeError,
) -> None:
    """Labels picked by nothing would be half wasted; also where rows are fewer than ten."""

    def from_name(_name: str, **_options: object) -> Judge:
        return ScriptedJudge(error)

    monkeypatch.setattr(judges, "from_name", from_name)
    queries.write_text("\n".join(queries.read_text("utf-8").splitlines()[:4]), "utf-8")
    with pytest.raises(ConfigError, match="No row could be measured: the first 4 failed"):
        run(queries, "-o", path, "--annotator", "anna", "--judge", "any", keys="y")
    assert not path.exists()


@pytest.mark.parametrize(
    ("options", "random", "left", "enough"),
    [
        (("--n", "300", "--random-share", "0.5"), 150, 105, False),
        (("--n", "300"), 150, 105, False),
        (("--n", "449", "--random-share", "1"), 449, 314, False),
        (("--n", "450", "--random-share", "1"), 450, 315, True),
    ],
)
def test_what_the_labels_will_do_is_said_before_the_first(
    run: RunLabel,
    path: Path,
    tmp_path: Path,
    scripted: ScriptedJudge,
    options: tuple[str, ...],
    random: int,
    left: int,
    enough: bool,
) -> None:
    """Rows drawn by lot, less what the calibrator takes."""
    source = tmp_path / "many.jsonl"
    rows = [{"question": f"odd {at}?", "contexts": [f"Fact {at}."]} for at in range(600)]
    source.write_text("".join(f"{json.dumps(each)}\n" for each in rows), "utf-8")
    done = run(source, "-o", path, "--annotator", "anna", "--judge", "any", *options, keys="q")
    before = done.out.partition("  ? ")[0]
    assert f"{random} of them, in {random} groups, are drawn by lot" in before
    assert f"certifies on {left}." in before
    assert ("plan 450 to 700" in before) is not enough


def test_rows_of_few_groups_are_few(run: RunLabel, path: Path, tmp_path: Path) -> None:
    """It is groups that are certified on."""
    source = tmp_path / "few.jsonl"
    rows = [{"question": f"{at}?", "contexts": ["c"], "group": f"g{at % 10}"} for at in range(100)]
    source.write_text("".join(f"{json.dumps(each)}\n" for each in rows), "utf-8")
    done = run(source, "-o", path, "--annotator", "anna", keys="q")
    assert "100 of them, in 10 groups, are drawn by lot" in done.out
    assert "certifies on 7." in done.out


def test_counts_are_of_these_rows_and_of_the_file(run: RunLabel, queries: Path, path: Path) -> None:
    """Labels of earlier, other rows are in the file, but not among these."""
    sit(path, "yyy", row("x"), row("y"), row("z"))
    done = run(queries, "-o", path, "--annotator", "anna", keys="ynsq")
    assert "3 of these 10 done: 1 sufficient, 1 insufficient, 1 skipped; 5 labels" in done.out


@pytest.mark.skipif(sys.platform == "win32", reason="no lock on Windows")
def test_one_sitting_of_a_person_at_a_time(run: RunLabel, queries: Path, path: Path) -> None:
    """A second one would ask for the same labels; somebody else may sit, and it ends with it."""
    with LabelFile(path).sitting("anna"):
        with pytest.raises(
            ConfigError, match=r"is being written by another rag-guard label, for a"
        ):
            run(queries, "-o", path, "--annotator", "anna", keys="y")
        assert not path.exists()
        assert run(queries, "-o", path, "--annotator", "ben", keys="yq").code == 0
    assert run(queries, "-o", path, "--annotator", "anna", keys="yq").code == 0
    assert sorted(line["annotator"] for line in lines(path)) == ["anna", "ben"]
    assert not list(path.parent.glob(".*"))


def test_records_need_no_judge(
    run: RunLabel, path: Path, tmp_path: Path, scripted: ScriptedJudge
) -> None:
    """Decision records with text carry their probability; one may be unmeasured."""
    records = [
        {
            "id": f"{at:032x}",
            "question": f"Which {at}?",
            "contexts": [f"Fact {at}."],
            "probability": None if at == 0 else at / 10,
            "low": None if at == 0 else at / 10,
            "high": None if at == 0 else at / 10,
            "reason": "rate_limited" if at == 0 else "uncertain",
            "answer_at": 0.8,
            "refuse_below": 0.3,
        }
        for at in range(10)
    ]
    source = tmp_path / "records.jsonl"
    source.write_text("".join(f"{json.dumps(each)}\n" for each in records), "utf-8")
    done = run(source, "-o", path, "--annotator", "anna", "--n", "9", keys="y" * 9)
    assert "9 of these 9 done" in done.out
    assert scripted.queries == []
    assert "targeted" in {line["sampling"] for line in lines(path)}
    assert "the judge: sufficient, P = 0." in done.out


@pytest.mark.parametrize(
    "wrong",
    [
        {"probability": 1.2},
        {"probability": "0.5"},
        {"probability": True},
        {"probability": 0.5, "low": 0.6},
        {"probability": 0.5, "high": 0.4},
        {"probability": float("nan")},
    ],
)
def test_wrong_records(run: RunLabel, path: Path, tmp_path: Path, wrong: dict[str, object]) -> None:
    source = tmp_path / "records.jsonl"
    source.write_text(json.dumps({"question": "q?", "contexts": ["c"], **wrong}), "utf-8")
    with pytest.raises(ConfigError, match=r"records\.jsonl, line 1: not 0 <= `low`"):
        run(source, "-o", path, "--annotator", "anna")
    assert not path.exists()


def test_ctrl_c(run: RunLabel, queries: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = iter("yn")

    def key() -> str:
        if (found := next(keys, None)) is None:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr("guard.cli.label._piped_key", key)
    done = run(queries, "-o", path, "--annotator", "anna")
    assert done.code == 130
    assert "2 of these 10 done" in done.out
    assert len(lines(path)) == 2


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (("IN",), "--output is missing"),
        (("IN", "-o", "IN"), "--output is the input"),
        (("IN", "-o", "OUT", "--annotator", " "), "--annotator is missing"),
        (("IN", "-o", "OUT", "--json"), "--json goes with --agreement"),
        (("IN", "-o", "OUT", "--verdicts", "v.jsonl"), "--verdicts needs a judge"),
        (("IN", "-o", "nowhere/labels.jsonl"), "nowhere/labels.jsonl' is in no folder"),
        (("IN", "IN", "IN", "--agreement"), "3 files"),
        (("OUT", "--agreement"), "is not there"),
    ],
)
def test_misuse(
    run: RunLabel, queries: Path, path: Path, args: tuple[str, ...], problem: str
) -> None:
    named = {"IN": queries, "OUT": path}
    with pytest.raises(ConfigError, match=problem):
        run(*(named.get(arg, arg) for arg in args))
    assert not path.exists()


# ── Agreement ────────────────────────────────────────────────────────────────────────────────────


def test_agreement_of_two_files(run: RunLabel, queries: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "anna.jsonl", tmp_path / "ben.jsonl"
    run(queries, "-o", first, "--annotator", "anna", keys="yyyyynnnnn")
    run(queries, "-o", second, "--annotator", "ben", keys="yyyynynnnn")
    told = run(first, second, "--agreement", "--json")
    found = json.loads(told.out)
    assert (found["common"], found["agreed"], found["raw"]) == (10, 8, 0.8)
    assert found["kappa"] == pytest.approx(0.6)
    assert found["kappa_interval"]["low"] < 0.6 < found["kappa_interval"]["high"]
    places = [(each["first"]["place"], each["second"]["place"]) for each in found["differences"]]
    assert places == [(f"{first}, line {at}", f"{second}, line {at}") for at in (5, 6)]
    assert "Fact" not in told.out
    people = run(first, second, "--agreement").out
    assert "Cohen's kappa 0.600 (95 % from" in people
    assert people.count("differ on") == 2


def test_agreement_within_one_file(run: RunLabel, queries: Path, path: Path) -> None:
    run(queries, "-o", path, "--annotator", "anna", keys="yyyyynnnnn")
    with pytest.raises(ConfigError, match="1 people, not of two"):
        run(path, "--agreement")
    done = run(queries, "-o", path, "--annotator", "ben", keys="syyynynnnn")
    assert "Others labelled in this file too" in done.out
    found = json.loads(run(path, "--agreement", "--json").out)
    assert (found["first"], found["second"]) == ("anna", "ben")
    assert (found["common"], found["only_first"], found["agreed"]) == (9, 1, 7)


def test_agreement_on_nothing(run: RunLabel, tmp_path: Path) -> None:
    """Undefined is null with a reason, never zero."""
    files = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for file in files:
        sit(file, "y", row(file.stem))
    found = json.loads(run(*files, "--agreement", "--json").out)
    assert (found["common"], found["raw"], found["kappa"]) == (0, None, None)
    assert found["reason"] == "No row is labelled by both."
    assert "kappa undefined" in run(*files, "--agreement").out
