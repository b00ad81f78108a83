"""Paths that cannot be used, files that can be read once, and readers who leave: no traceback."""

import ctypes
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guard import Gate, judges
from guard.audit import AuditLog
from guard.cli import main
from guard.judge import Judge
from guard.testing import ScriptedJudge

Run = Callable[..., tuple[int, str, str]]


_DAC_OVERRIDE, _DAC_READ_SEARCH = 1 << 1, 1 << 2
"""Of Linux's capabilities, what lets root pass by the rights of files."""


@contextmanager
def bound_by_rights() -> Generator[None]:
    """Whoever runs this has no more rights than a file's owner, even root.

    Not another user, who might not be let to where Python's own files are.
    """
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, held = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, held) == 0
    less = (ctypes.c_uint32 * 6)(*held)
    less[0] &= ~(_DAC_OVERRIDE | _DAC_READ_SEARCH)
    assert libc.capset(header, less) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[Path]:
    """A folder with rows, an audit, and paths that cannot be used."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "id": str(at),
            "question": f"When did mill {at} stop?",
            "contexts": [f"Mill {at}."],
            "sufficient": at % 2 == 0,
        }
        for at in range(60)
    ]
    Path("rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    with AuditLog("audit.jsonl") as log:
        Gate(ScriptedJudge(0.9), observers=[log]).check("When?", ["In 1932."])
    Path("la").symlink_to("lb")
    Path("lb").symlink_to("la")
    Path("dark/sub").mkdir(parents=True)
    Path("dark").chmod(0)
    Path("closed").mkdir(0o555)
    with bound_by_rights():
        yield tmp_path
    for name in ("dark", "closed"):
        (tmp_path / name).chmod(0o700)


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> ScriptedJudge:
    """What every judge's name stands for."""
    made = ScriptedJudge(0.9)

    def from_name(_name: str, **_options: object) -> Judge:
        return made

    monkeypatch.setattr(judges, "from_name", from_name)
    return made


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``rag-guard`` in this process, with keys from a pipe."""

    def run(*args: object, keys: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(keys.encode())))
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


ASKED = ("rows.jsonl", "--judge", "any")
BOUNDS = ("--max-leak", ".1", "--max-false-refusal", ".1")
COMMANDS: dict[str, tuple[str, ...]] = {
    "eval DATA": ("eval", "PATH", "--judge", "any"),
    "eval --verdicts": ("eval", *ASKED, "--verdicts", "PATH"),
    "calibrate -o": ("calibrate", *ASKED, *BOUNDS, "-o", "PATH"),
    "calibrate --verdicts": (
        *("calibrate", *ASKED, *BOUNDS, "-o", "p.json", "--verdicts"),
        "PATH",
    ),
    "label FILE": ("label", "PATH", "-o", "labels.jsonl", "--annotator", "anna"),
    "label -o": ("label", *ASKED, "-o", "PATH", "--annotator", "anna"),
    "label --verdicts": (
        *("label", *ASKED, "-o", "l.jsonl", "--annotator", "anna", "--verdicts"),
        "PATH",
    ),
    "label --agreement": ("label", "--agreement", "PATH"),
    "report -o": ("report", *ASKED, "-o", "PATH"),
    "report --verdicts": ("report", *ASKED, "--verdicts", "PATH"),
    "report --audit": ("report", "--audit", "PATH"),
    "replay AUDIT": ("replay", "PATH", "--answer-at", ".5", "--refuse-below", ".1"),
    "replay --changes": (
        *("replay", "audit.jsonl", "--answer-at", ".5", "--refuse-below", ".1", "--changes"),
        "PATH",
    ),
    "outcome --audit": ("outcome", "abcdef12", "helpful", "--audit", "PATH"),
    "outcome --from": ("outcome", "--audit", "audit.jsonl", "--from", "PATH"),
    "why --audit": ("why", "abcdef12", "--audit", "PATH"),
    "check --config": ("check", "-q", "When?", "-t", "In 1932.", "--config", "PATH"),
    "check --profile": (
        *("check", "-q", "When?", "-t", "In 1932.", "--judge", "any", "--profile"),
        "PATH",
    ),
}
PATHS = {
    "no search permission": "dark/sub/p.json",
    "a long name": "x" * 300,
    "links in a circle": "la",
    "a folder": "closed",
    "below a file": "rows.jsonl/p.json",
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_that_cannot_be_used(
    folder: Path, judge: ScriptedJudge, run: Run, command: str, path: str
) -> None:
    """One clear error, before any judge is asked."""
    args = (PATHS[path] if arg == "PATH" else arg for arg in COMMANDS[command])
    code, out, err = run(*args)
    assert (code, out) == (2, ""), err
    assert len(err.splitlines()) == 2 and err.startswith("rag-guard: ")
    assert judge.queries == []


@pytest.mark.parametrize("command", ["calibrate -o", "label -o", "report -o", "eval --verdicts"])
def test_a_folder_that_may_not_be_written_in(
    folder: Path, judge: ScriptedJudge, run: Run, command: str
) -> None:
    """It is said before the judge is asked, not after."""
    args = ("closed/new" if arg == "PATH" else arg for arg in COMMANDS[command])
    code, out, err = run(*args)
    assert (code, out) == (2, "") and "Permission denied" in err
    assert judge.queries == []


def test_labels_that_may_not_be_added_to(folder: Path, judge: ScriptedJudge, run: Run) -> None:
    """Nor the judge asked, nor a person."""
    Path("labels.jsonl").touch(0o444)
    code, out, err = run("label", *ASKED, "-o", "labels.jsonl", "--annotator", "anna", keys="y")
    assert (code, out, judge.queries) == (2, "", [])
    assert "'labels.jsonl' cannot be used: Permission denied" in err


# ── What can be read once ────────────────────────────────────────────────────────────────────────


def test_labels_of_a_pipe(tmp_path: Path, run: Run) -> None:
    """A pipe's rows come once, with the probabilities that stand beside them."""
    pipe, labels = tmp_path / "pipe", tmp_path / "labels.jsonl"
    os.mkfifo(pipe)
    records = [
        {"question": f"When {at}?", "contexts": [f"Fact {at}."], "probability": at / 8}
        for at in range(8)
    ]
    text = "\n".join(["\ufeff" + json.dumps(records[0]), "", *map(json.dumps, records[1:])])
    writer = threading.Thread(target=pipe.write_text, args=(text, "utf-8"))
    writer.start()
    options = ("--annotator", "anna", "--n", "6", "--random-share", "0.5")
    code, out, _ = run("label", pipe, "-o", labels, *options, keys="y" * 6)
    writer.join()
    assert code == 0 and "6 of these 6 done" in out
    said = [json.loads(line) for line in labels.read_text("utf-8").splitlines()]
    assert {line["sampling"] for line in said} == {"random", "targeted"}


@pytest.mark.parametrize("field", ["probability", "low", "high", "answer_at", "refuse_below"])
def test_a_record_of_a_number_beyond_all(tmp_path: Path, run: Run, field: str) -> None:
    """More than a float can hold."""
    record: dict[str, object] = {"probability": 0.5, "answer_at": 0.8, "refuse_below": 0.3}
    row = {"question": "When?", "contexts": ["In 1932."], **record, field: 10**400}
    file = tmp_path / "records.jsonl"
    file.write_text(json.dumps(row), "utf-8")
    code, _, err = run("label", file, "-o", tmp_path / "labels.jsonl", "--annotator", "anna")
    assert code == 2 and len(err.splitlines()) == 2
    assert f"`{field}`" in err


# ── Readers who leave ────────────────────────────────────────────────────────────────────────────

EVAL = ("eval", *ASKED[:2], "scripted:.9", "--resamples", "20")
CHECK = ("check", "-q", "When?", "-t", "In 1932.", "--judge", "scripted:.9")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "stream", "code"),
    [
        (EVAL, "stdout", 141),
        ((*EVAL, "--json"), "stdout", 141),
        (CHECK, "stdout", 141),
        (("--help",), "stdout", 141),
        (("eval", "--nonsense"), "stderr", 141),
        (("eval", "missing.jsonl"), "stderr", 2),
        ((*CHECK[:-1], "scripted:.1"), "stderr", 4),
    ],
    ids=["table", "json", "check", "help", "misuse", "misuse of ours", "nothing to say"],
)
def test_nobody_reads_on(folder: Path, args: tuple[str, ...], stream: str, code: int) -> None:
    """As with ``| head -1``: it ends quietly, neither as a bug does (1) nor as what is fine."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "guard.cli", *args],
        stdout=write if stream == "stdout" else subprocess.PIPE,
        stderr=write if stream == "stderr" else subprocess.PIPE,
        check=False,
        timeout=60,
    )
    os.close(write)
    assert done.returncode == code
    assert not done.stderr
