"""``rag-guard outcome``: what is noted, and what is refused before anything is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from guard import Gate
from guard.audit import AuditLog
from guard.audit_file import Audit
from guard.cli.outcome import outcome
from guard.errors import ConfigError
from guard.outcomes import Outcome
from guard.testing import ScriptedJudge


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def ids(path: Path) -> list[str]:
    with AuditLog(path, max_bytes=10_000) as log:
        gate = Gate(ScriptedJudge(0.9), observers=[log])
        return [gate.check("When?", ["At nine."]).id for _ in range(20)]


RunOutcome = Callable[..., str]


@pytest.fixture
def run(path: Path) -> RunOutcome:
    """Runs the command on the audit; gives what it printed, or raises what it raised."""
    app = typer.Typer()
    app.command()(outcome)

    def run(*args: str | Path, typed: bytes | None = None) -> str:
        command = [*map(str, args), "--audit", str(path)]
        done = CliRunner().invoke(app, command, input=typed)
        if isinstance(done.exception, ConfigError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def noted(path: Path) -> dict[str, Outcome]:
    return Audit(path).outcomes()


def listed(path: Path, *lines: Any) -> Path:
    """A file of outcomes."""
    file = path.with_name("said.jsonl")
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("\n".join(texts))
    return file


def test_one(path: Path, ids: list[str], run: RunOutcome) -> None:
    """Of a whole id and of the first digits of one, in a rotated file and in the current one."""
    assert f"{ids[0]} is noted as wrong, in" in run(ids[0], "wrong")
    run(ids[-1][:12], "insufficient", "--by", "anna")
    run(ids[0], "sufficient")
    run(ids[0], "helpful")
    assert noted(path) == {
        ids[0]: Outcome(sufficient=True, helpful=True),
        ids[-1]: Outcome(sufficient=False),
    }
    lines = path.with_name("audit.outcomes.jsonl").read_text().splitlines()
    assert [json.loads(line)["by"] for line in lines] == [None, "anna", None, None]


def test_json(path: Path, ids: list[str], run: RunOutcome) -> None:
    assert json.loads(run(ids[3][:12], "wrong", "--json", "--by", "anna")) == {
        "noted": [{"id": ids[3], "outcome": "wrong", "by": "anna"}],
        "file": str(path.with_name("audit.outcomes.jsonl")),
    }


def test_who_says_it_may_stand_in_the_file(path: Path, ids: list[str], run: RunOutcome) -> None:
    """And the file may be standard input."""
    lines = [{"id": ids[0], "outcome": "wrong", "by": "anna"}, {"id": ids[1], "outcome": "wrong"}]
    content = "\n".join(map(json.dumps, lines)).encode()
    run("--from", "-", "--by", "ben", typed=content)
    kept = path.with_name("audit.outcomes.jsonl").read_text().splitlines()
    assert [json.loads(line)["by"] for line in kept] == ["anna", "ben"]
    with pytest.raises(ConfigError, match="`by` is no name"):
        run("--from", listed(path, {**lines[0], "by": 3}))


def test_a_file(path: Path, ids: list[str], run: RunOutcome) -> None:
    """Blank lines and other keys are left out; one decision may have several outcomes."""
    said = [(ids[0], "wrong"), (ids[-1], "helpful"), (ids[0], "sufficient")]
    file = listed(path, *({"id": id, "outcome": word, "note": 1} for id, word in said), "", " ")
    assert "3 outcomes of 2 decisions are noted" in run("--from", file)
    assert noted(path)[ids[0]] == Outcome(sufficient=True, helpful=False)
    assert len(noted(path)) == 2


BAD_LINES = {
    "not valid JSON": "{",
    "`id` or `outcome` is missing": {"id": "a"},
    "`id` or `outcome` is missing.": {"id": 1, "outcome": "wrong"},
    "`id` or `outcome` is missing..": "[]",
    "'bad' is no outcome": {"id": "a", "outcome": "bad"},
    "'ffffff' is no decision": {"id": "ffffff", "outcome": "wrong"},
}


@pytest.mark.parametrize("why", BAD_LINES)
def test_a_bad_line_stops_all(path: Path, ids: list[str], run: RunOutcome, why: str) -> None:
    """It is named, and no other line of the file is noted."""
    good = {"id": ids[0], "outcome": "wrong"}
    with pytest.raises(ConfigError, match=rf"said\.jsonl, line 2: .*{why.rstrip('.')}") as raised:
        run("--from", listed(path, good, BAD_LINES[why]))
    assert "othing was noted" in (raised.value.hint or "")
    assert noted(path) == {}


def test_many_unknown_ids(path: Path, ids: list[str], run: RunOutcome) -> None:
    with pytest.raises(ConfigError, match="line 1: .*2 lines are like it"):
        run("--from", listed(path, *[{"id": "0" * 32, "outcome": "wrong"}] * 2))


def test_an_empty_file(path: Path, ids: list[str], run: RunOutcome) -> None:
    with pytest.raises(ConfigError, match="holds no outcome"):
        run("--from", listed(path, ""))


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ((), "An id and an outcome are needed"),
        (("ID",), "An id and an outcome are needed"),
        (("ID", "bad"), "'bad' is no outcome.*sufficient|insufficient|helpful|wrong"),
        (("ffffff", "wrong"), "ffffff is no decision"),
        (("abc", "wrong"), "is not an id"),
        (("ID", "wrong", "--from", "x"), "Both an id and --from"),
        (("--from", "none.jsonl"), "none.jsonl cannot be read"),
    ],
)
def test_misuse(
    path: Path, ids: list[str], run: RunOutcome, args: tuple[str, ...], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        run(*(ids[0] if arg == "ID" else arg for arg in args))
    assert noted(path) == {}


def test_without_an_audit(path: Path, run: RunOutcome) -> None:
    with pytest.raises(ConfigError, match="cannot be read: .*no such file"):
        run("ffffff", "wrong")
    with pytest.raises(ConfigError, match="--audit is missing"):
        outcome("ffffff", "wrong")


def test_help_names_the_words() -> None:
    app = typer.Typer()
    app.command()(outcome)
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout
    assert all(word in shown for word in ("insufficient", "helpful", "wrong", "--from", "--by"))
