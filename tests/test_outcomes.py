"""Outcomes: words on decisions, kept apart by kind, the last of each counting."""

import json
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from guard.errors import ConfigError
from guard.outcomes import WORDS, Outcome, OutcomeFile, Said, Word

ID, OTHER = "a" * 32, "b" * 32


@pytest.fixture
def file(tmp_path: Path) -> OutcomeFile:
    return OutcomeFile(tmp_path / "audit.jsonl")


@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        ((), Outcome()),
        (("sufficient",), Outcome(sufficient=True)),
        (("insufficient",), Outcome(sufficient=False)),
        (("helpful",), Outcome(helpful=True)),
        (("wrong",), Outcome(helpful=False)),
        (("wrong", "sufficient"), Outcome(sufficient=True, helpful=False)),
        (("sufficient", "wrong", "insufficient"), Outcome(sufficient=False, helpful=False)),
        (("helpful", "wrong", "helpful"), Outcome(helpful=True)),
    ],
)
def test_words(file: OutcomeFile, words: tuple[Word, ...], outcome: Outcome) -> None:
    """The same whether said at once or one after the other."""
    file.add([Said(ID, word) for word in words])
    for word in words:
        file.add([Said(OTHER, word)])
    assert file.read() == ({ID: outcome, OTHER: outcome} if words else {})


def test_none_yet(file: OutcomeFile) -> None:
    assert file.read() == {}
    assert not file.path.exists()


def test_a_line(file: OutcomeFile) -> None:
    file.add([Said(ID, "wrong", "Ann\ud800a\n")])
    (line,) = [json.loads(each) for each in file.path.read_text("ascii").splitlines()]
    assert line.pop("time").endswith("+00:00")
    assert line == {"id": ID, "outcome": "wrong", "by": "Ann\ud800a\n"}


def test_its_place_is_next_to_the_audit_itself(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / "real" / "audit.jsonl")
    assert OutcomeFile(link).path == tmp_path / "real" / "audit.outcomes.jsonl"


def test_no_two_audits_share_it(tmp_path: Path) -> None:
    names = ["bot", "bot.log", "bot.jsonl", "bot.jsonl.log", ".bot", "bot.outcomes"]
    assert len({OutcomeFile(tmp_path / name).path for name in names}) == len(names)


def test_private(file: OutcomeFile) -> None:
    umask = os.umask(0)
    try:
        file.add([Said(ID, "wrong")])
    finally:
        os.umask(umask)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_a_word_that_is_none(file: OutcomeFile) -> None:
    """Nothing is written then."""
    bad: Any = "bad"
    with pytest.raises(ConfigError, match="outcome.*'bad'.*wrong"):
        file.add([Said(ID, "wrong"), Said(ID, bad)])
    assert file.read() == {}


@pytest.mark.parametrize("half", [b"{", b'{"id": "aa', b'{"id": "aa\n', b'{"id"'])
def test_half_a_line(file: OutcomeFile, half: bytes) -> None:
    file.add([Said(ID, "wrong")])
    with open(file.path, "ab") as other:
        other.write(half)
    file.add([Said(OTHER, "wrong")])
    assert file.read().keys() == {ID, OTHER}
    for _ in range(2):
        file.read()
        assert (file.broken, file.broken_at) == (1, [f"{file.path}, line 2"])


def test_where_half_lines_are(file: OutcomeFile) -> None:
    file.path.write_text("{\n" * 12)
    file.read()
    places = [f"{file.path}, line {line}" for line in range(1, 11)]
    assert (file.broken, file.broken_at) == (12, places)


@pytest.mark.parametrize(
    "line", ["a,b", "[]", "{}", '{"id": 7, "outcome": "wrong"}', '{"id": "a", "outcome": "bad"}']
)
def test_a_file_of_something_else(file: OutcomeFile, line: str) -> None:
    """It is told from half a line, and not written to."""
    file.path.write_text(f"{line}\n")
    with pytest.raises(ConfigError, match="line 1: not an outcome of rag-guard"):
        file.read()
    with pytest.raises(ConfigError, match="line 1: not an outcome of rag-guard"):
        file.add([Said(ID, "wrong")])
    assert file.path.read_text() == f"{line}\n"


@pytest.mark.parametrize("word", WORDS)
def test_a_full_disk(file: OutcomeFile, word: Word) -> None:
    """All or none: what fitted is taken back."""
    said = Said(ID, word)
    file.add([said])
    before = file.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * len(before), limits[1]))
    try:
        with pytest.raises(ConfigError, match="cannot be written: .*Nothing was noted"):
            file.add([said] * 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.path.read_bytes() == before


def test_a_folder_in_its_place(file: OutcomeFile) -> None:
    file.path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        file.read()


@pytest.mark.slow
def test_processes(file: OutcomeFile) -> None:
    code = (
        "import sys; from guard.outcomes import OutcomeFile, Said\n"
        "file = OutcomeFile(sys.argv[1])\n"
        "for n in range(25): file.add([Said(f'{sys.argv[2]}-{n}', 'wrong')] * 3)"
    )
    audit = file.path.with_name("audit.jsonl")
    command = [sys.executable, "-c", code, str(audit)]
    processes = [subprocess.Popen([*command, str(number)]) for number in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert len(file.read()) == 100
    assert len(file.path.read_bytes().splitlines()) == 300
    assert file.broken == 0
