"""The audit is read: every record, typed; what is broken or not ours is told."""

import fcntl
import json
import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from guard import (
    Decision,
    Gate,
    JudgeRejected,
    JudgeUnavailable,
    Policy,
    Profile,
    Thresholds,
    Usage,
    Verdict,
    audit_file,
)
from guard.audit import AuditLog
from guard.audit_file import Audit, Record, texts_folder
from guard.errors import ConfigError, Tried
from guard.judges import Chain, Link
from guard.line_file import rotated
from guard.outcomes import Outcome, OutcomeFile, Said
from guard.testing import Scripted, ScriptedJudge

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
WHOLE = Verdict(
    *(0.7, 0.6, 0.8, 0.9, " True", "logprobs", "x"),
    model="served-1",
    system_fingerprint="fp_1",
    coverage=0.5,
    usage=Usage(10, None, 3, requests=2),
    p_underspecified=0.25,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def decided(script: Scripted = 0.9, **options: Any) -> Decision:
    return Gate(ScriptedJudge(script), **options).check("When?", ["At nine."], lang="en")


def keep(path: Path, decisions: Iterable[Decision], **options: Any) -> None:
    with AuditLog(path, **options) as log:
        for decision in decisions:
            log.observe(decision)
    assert log.lost == 0


def at(*days: float) -> list[Decision]:
    """Decisions made so many days after noon."""
    return [replace(decided(), time=NOON + timedelta(days=day)) for day in days]


def ids(records: Iterable[Record | Decision]) -> list[str]:
    return [record.id for record in records]


def with_verdict(**fields: Any) -> Decision:
    """A decision whose verdict has fields that the gate alone sets."""
    decision = decided(WHOLE)
    assert decision.verdict
    return replace(decision, verdict=replace(decision.verdict, **fields))


# ── One record ───────────────────────────────────────────────────────────────────────────────────

PROFILE = Profile(Thresholds(0.5, 0.2), fingerprint="scripted:scripted", name="p1")
PROFILE_2 = replace(PROFILE, fingerprint="scripted:second", name="p2")
DECISIONS: dict[str, Callable[[], Decision]] = {
    "answered": lambda: decided(0.9),
    "bounded": lambda: decided((0.1 + 0.2, 0.9)),
    "whole": lambda: decided(WHOLE),
    "refused": lambda: decided(0.0),
    "down": lambda: decided(JudgeUnavailable("It is down.")),
    "shadow": lambda: decided(
        JudgeRejected("no"), policy=Policy(on_unmeasured="raise", mode="shadow")
    ),
    "nothing": lambda: Gate(ScriptedJudge(1.0)).check("When?", []),
    "windows": lambda: decided(replace(WHOLE, coverage=0.25, windows=7)),
    "unseen": lambda: decided(
        replace(WHOLE, windows=8, seen=0.1 + 0.2, unseen=((8, 35), (37, 37)))
    ),
    "suspects": lambda: with_verdict(suspects=(1, 4), suspect_turns=(0,)),
    "without": lambda: with_verdict(suspects=(1,), p_without=0.1 + 0.2, low_without=0.1),
    "failed": lambda: with_verdict(suspects=(1,), rest_unmeasured="timeout"),
    "hurried": lambda: with_verdict(look_cut_short=True, history_coverage=0.1 + 0.2),
    "profile": lambda: decided(0.6, profile=PROFILE, deployment="docs"),
    "stale": lambda: decided(
        0.6,
        profile=replace(PROFILE, fingerprint="other"),
        policy=Policy(on_stale="clarify"),
    ),
    "fell back": lambda: Gate(
        Chain(
            [
                ScriptedJudge(JudgeUnavailable("It is down."), name="first"),
                Link(ScriptedJudge(0.8, name="second"), PROFILE_2),
            ]
        )
    ).check("When?", ["At nine."]),
}
_SAME = (
    *("id", "time", "enforced", "mode", "deployment", "probability", "low", "high", "calibrated"),
    *("verdict", "fingerprint", "elapsed_seconds", "cached", "attempts", "breaker"),
)


@pytest.mark.parametrize("name", DECISIONS)
def test_a_record_is_its_decision(path: Path, name: str) -> None:
    """Bit for bit, through the file."""
    decision = DECISIONS[name]()
    keep(path, [decision])
    (record,) = Audit(path).records()
    assert [getattr(record, each) for each in _SAME] == [getattr(decision, each) for each in _SAME]
    assert (record.route, record.reason) == (decision.route, decision.reason)
    assert record.lang == decision.query.lang
    assert record.profile == (decision.profile and decision.profile.name)
    assert Thresholds(record.answer_at, record.refuse_below) == decision.thresholds
    assert record.question_hash == decision.query.question_hash
    assert record.contexts_hash == decision.query.contexts_hash


def fields(script: Scripted = WHOLE) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(decided(script).to_dict()))
    return found


def test_keys_of_newer_versions_are_left_out() -> None:
    values = fields()
    assert Record.from_dict({**values, "brand_new": [1]}) == Record.from_dict(values)


_NOT_READ = ("detail", "model", "cost", "currency", "message", "suspect_hashes")


def _needed() -> list[str]:
    """All keys but those that a record need not keep for replay."""
    return sorted(fields().keys() - {*_NOT_READ, *YOUNGER})


YOUNGER: dict[str, object] = {
    "attempts": "3",
    "breaker": 1,
    "windows": True,
    "seen": "1",
    "unseen": 3,
    "suspects": "1",
    "suspect_turns": {},
    "p_without": "0.9",
    "low_without": True,
    "rest_unmeasured": 3,
    "look_cut_short": "no",
    "history_coverage": "1",
}
"""Keys that the first records did not have, and what is no value of theirs."""


def test_records_of_older_versions() -> None:
    """They are read; what they do not say is not made up. What they say must be of its type."""
    values = fields()
    record = Record.from_dict({name: values[name] for name in values.keys() - YOUNGER.keys()})
    assert (record.attempts, record.breaker) == (None, None)
    verdict = record.verdict
    assert verdict
    assert (verdict.windows, verdict.seen, verdict.unseen) == (1, 1.0, ())
    assert (verdict.has_suspects, verdict.p_without, verdict.low_without) == (False, None, None)
    for key, odd in YOUNGER.items():
        with pytest.raises(ConfigError, match=f"`{key}` of the record is of the wrong type"):
            Record.from_dict({**values, key: odd})


@pytest.mark.parametrize("key", ["suspects", "suspect_turns"])
@pytest.mark.parametrize("places", [[-1], ["0"], [True], [0.0], [None]])
def test_suspects_are_places(key: str, places: list[object]) -> None:
    with pytest.raises(ConfigError, match=f"`{key}` of the record holds what is no place"):
        Record.from_dict({**fields(), key: places})


@pytest.mark.parametrize("run", [1, [1], [1, 2, 3], [0, "1"], [0, -1], None])
def test_what_was_never_seen_are_runs_of_places(run: object) -> None:
    with pytest.raises(ConfigError, match="`unseen` of the record holds what is no"):
        Record.from_dict({**fields(), "unseen": [[0, 1], run]})


@pytest.mark.parametrize("half", ["p_without", "low_without"])
def test_half_of_what_is_known_without_suspects(half: str) -> None:
    with pytest.raises(ConfigError, match="contradicts itself: p_without and low_without"):
        Record.from_dict({**fields(), half: 0.5})


@pytest.mark.parametrize("key", _needed())
def test_a_key_that_is_missing_or_of_the_wrong_type(key: str) -> None:
    values = fields()
    with pytest.raises(ConfigError, match=f"`{key}` of the record is of the wrong type"):
        Record.from_dict({**values, key: [] if key != "tried" else {}})
    del values[key]
    with pytest.raises(ConfigError, match=f"`{key}` of the record is missing"):
        Record.from_dict(values)


NO_DURATIONS = [-1, float("inf"), float("nan"), 10**400]
LEFT = asdict(Tried("scripted:first", None, "timeout", "It took too long.", 1.0))
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("id", {"id": "a" * 31}),
    ("id", {"id": "A" * 32}),
    ("time", {"time": "yesterday"}),
    ("time", {"time": "2026-03-10T12:00:00"}),
    ("route", {"route": "escalate"}),
    ("reason", {"reason": "because"}),
    ("mode", {"mode": "off"}),
    ("low", {"low": True}),
    ("probability", {"low": 0.9}),
    ("probability", {"low": None}),
    ("probability", {"probability": float("nan")}),
    ("probability", {"high": 1.5}),
    ("answer_at", {"answer_at": 0.1}),
    ("answer_at", {"refuse_below": -0.1}),
    *(("elapsed_seconds", {"elapsed_seconds": each}) for each in NO_DURATIONS),
    ("time", {"time": "0001-01-01T00:00:00+23:00"}),
    ("time", {"time": "9999-12-31T23:59:59-23:59"}),
    ("p_true", {"p_true": None}),
    ("p_true", {"raw_low": None}),
    ("p_true", {"raw_low": 0.99}),
    ("p_true", {"coverage": 0}),
    ("p_true", {"mass": 2}),
    ("p_true", {"p_underspecified": 2}),
    ("p_true", {"probability": None, "low": None, "high": None}),
    ("usage", {"usage": {"input_tokens": 1}}),
    ("usage", {"usage": {**fields()["usage"], "requests": True}}),
    ("tried", {"tried": [7]}),
    ("tried", {"tried": [{"kind": "timeout"}]}),
    *(("tried", {"tried": [{**LEFT, "seconds": each}]}) for each in [*NO_DURATIONS, True]),
]


@pytest.mark.parametrize(("name", "change"), WRONG)
def test_what_contradicts_itself(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"`{name}` of the record"):
        Record.from_dict({**fields(), **change})


def test_what_is_at_the_edge() -> None:
    """The first and the last moment of UTC, in other time zones; a judge that was left at once."""
    values = {**fields(), "tried": [{**LEFT, "seconds": 0}], "elapsed_seconds": 0}
    for time in ("0001-01-01T01:00:00+01:00", "9999-12-31T22:59:59-01:00"):
        record = Record.from_dict({**values, "time": time})
        assert record.time == datetime.fromisoformat(time)
        assert record.verdict is not None and record.verdict.tried[0].seconds == 0


def test_an_error_names_the_line(path: Path) -> None:
    keep(path, at(0, 0))
    with open(path, "a") as file:
        file.write(json.dumps({**fields(), "cached": None}) + "\n")
    with pytest.raises(ConfigError, match=r"audit\.jsonl, line 3: `cached`"):
        list(Audit(path).records())


# ── All of them ──────────────────────────────────────────────────────────────────────────────────


def test_rotated_files_come_first(path: Path) -> None:
    decisions = [decided() for _ in range(40)]
    keep(path, decisions, max_bytes=10_000)
    assert len(rotated(path)) > 2
    assert ids(Audit(path).records()) == ids(decisions)
    last = len(path.read_bytes().splitlines())
    path.unlink()
    assert ids(Audit(path).records()) == ids(decisions)[:-last]


def test_rotated_while_it_is_read(path: Path) -> None:
    """Nothing is read twice or left out of what was there when it began."""
    first = [decided() for _ in range(10)]
    keep(path, first)
    reading = Audit(path).records()
    assert next(reading).id == first[0].id
    keep(path, [decided() for _ in range(20)], max_bytes=10_000)
    assert len(rotated(path)) > 1
    assert ids(reading) == ids(first)[1:]


def test_rotated_as_reading_begins(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the current file and listing the others: it is both, and is read once."""
    first = [decided() for _ in range(3)]
    keep(path, first)

    def late(of: Path) -> list[Path]:
        keep(path, [decided() for _ in range(20)], max_bytes=10_000)
        return rotated(of)

    monkeypatch.setattr(audit_file, "rotated", late)
    read = ids(Audit(path).records())
    assert len(rotated(path)) > 1
    assert len(set(read)) == len(read)
    assert set(ids(first)) <= set(read)


def test_a_line_on_its_way_is_not_broken(path: Path) -> None:
    """The reader waits until who is writing has done so."""
    (decision,) = at(0)
    keep(path, [decision])
    line = path.read_bytes()
    audit, read = Audit(path), list[Record]()
    reader = threading.Thread(target=lambda: read.extend(audit.records()))
    with open(path, "r+b", buffering=0) as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        writer.truncate(100)
        reader.start()
        reader.join(0.05)
        writer.write(line)
    reader.join(5)
    assert (ids(read), audit.broken) == ([decision.id], 0)


@pytest.mark.parametrize(
    ("since", "until", "kept"),
    [
        (None, None, [0, 1, 2, 3]),
        (1, None, [1, 2, 3]),
        (None, 1, [0]),
        (1, 3, [1, 2]),
        (1.5, 1.6, []),
    ],
)
def test_a_time_span(path: Path, since: float | None, until: float | None, kept: list[int]) -> None:
    """From ``since`` on, and before ``until``."""
    decisions = at(0, 1, 2, 3)
    keep(path, decisions)
    span = [None if day is None else NOON + timedelta(days=day) for day in (since, until)]
    audit = Audit(path, since=span[0], until=span[1])
    assert ids(audit.records()) == [decisions[day].id for day in kept]


def test_old_files_are_not_even_opened(path: Path) -> None:
    keep(path, at(0))
    old = path.with_name("audit.20200101T000000000000Z.jsonl")
    old.write_text("not ours\n")
    assert len(ids(Audit(path, since=NOON).records())) == 1
    with pytest.raises(ConfigError, match="2020.*does not hold decision records"):
        list(Audit(path).records())


@pytest.mark.parametrize("stamp", ["99991231T235959999999Z", "00010101T000000000000Z"])
def test_a_name_at_the_edge_of_time(path: Path, stamp: str) -> None:
    decisions = at(0)
    keep(path, decisions)
    path.rename(path.with_name(f"audit.{stamp}.jsonl"))
    since = datetime.fromisoformat("0001-01-01T00:00:00+23:00")
    assert ids(Audit(path, since=since).records()) == ids(decisions)


def test_a_deployment(path: Path) -> None:
    decisions = [decided(deployment=name) for name in ("a", "b", None, "a")]
    keep(path, decisions)
    assert ids(Audit(path, deployment="a").records()) == ids([decisions[0], decisions[3]])
    assert ids(Audit(path, deployment="c").records()) == []


@pytest.mark.parametrize("half", ["{", '{"id": "0', '{"id": "01", "x', "\0\0", '{"id": "\ufffd'])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_broken_lines_are_counted(path: Path, half: str, place: int) -> None:
    """Once, however often it is read; their neighbours are whole."""
    decisions = at(0, 1, 2)
    keep(path, decisions)
    lines = path.read_text().splitlines()
    lines.insert(place, half)
    path.write_text("\n".join(lines) + ("\n" if place == 1 else ""))
    audit = Audit(path)
    assert audit.broken_at == []
    for _ in range(2):
        assert ids(audit.records()) == ids(decisions)
        assert audit.broken == 1
        assert audit.broken_at == [f"{path}, line {place + 1}"]


def test_where_broken_lines_are(path: Path) -> None:
    """In whichever file; the first ten of them."""
    decisions = at(0)
    keep(path, decisions, texts=True)
    (texts,) = texts_folder(path).iterdir()
    outcomes = OutcomeFile(path).path
    for file in (path, texts, outcomes):
        with open(file, "a") as half:
            half.write('{"id": "\n')
    audit = Audit(path)
    list(audit.records())
    audit.outcomes()
    audit.texts(ids(decisions))
    places = [f"{path}, line 2", f"{outcomes}, line 1", f"{texts}, line 2"]
    assert (audit.broken, audit.broken_at) == (3, places)
    with open(path, "a") as half:
        half.write("{\n" * 20)
    list(audit.records())
    assert audit.broken == 23
    assert audit.broken_at == [f"{path}, line {line}" for line in range(2, 12)]


def test_blank_lines_and_other_line_ends(path: Path) -> None:
    decisions = at(0, 1)
    keep(path, decisions)
    path.write_bytes(b"\n" + path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    audit = Audit(path)
    assert (ids(audit.records()), audit.broken) == (ids(decisions), 0)


def test_an_empty_file(path: Path) -> None:
    path.touch()
    assert list(Audit(path).records()) == []


@pytest.mark.parametrize(
    "line",
    [
        *("a,b", "[1]", "7", '{"id": "a", "question": "q"}', '{"id": "a", "outcome": "wrong"}'),
        *("\na,b", "\n\n[1]", '{\n  "name": "x"\n}', '{"id": "\na,b'),
    ],
)
def test_a_file_of_something_else(path: Path, line: str) -> None:
    path.write_text(f"{line}\n" * 3)
    with pytest.raises(ConfigError, match="does not hold decision records"):
        list(Audit(path).records())


def test_where_there_is_none(tmp_path: Path) -> None:
    for path in ("audit.jsonl", "none/audit.jsonl"):
        with pytest.raises(ConfigError, match="cannot be read: .*(no such|No such)"):
            Audit(tmp_path / path)
    with pytest.raises(ConfigError, match="cannot be read: It is no file"):
        Audit(tmp_path)


@pytest.mark.parametrize(
    "span",
    [
        {"since": datetime(2026, 1, 1)},
        {"until": datetime(2026, 1, 1)},
        dict(since=NOON, until=NOON),
    ],
)
def test_times_that_cannot_be_meant(path: Path, span: dict[str, Any]) -> None:
    path.touch()
    with pytest.raises(ConfigError, match="since|until"):
        Audit(path, **span)


# ── By id ────────────────────────────────────────────────────────────────────────────────────────


def with_ids(*starts: str) -> list[Decision]:
    return [replace(decided(), id=f"{start:0<32}") for start in starts]


def test_find(path: Path) -> None:
    decisions = with_ids("abcdef1", "abcdef2", "123456")
    keep(path, decisions)
    audit = Audit(path)
    for decision in decisions:
        assert audit.find(decision.id).id == decision.id
    assert audit.find(" ABCDEF1 ").id == decisions[0].id
    with pytest.raises(ConfigError, match="2 decisions begin with abcdef"):
        audit.find("abcdef")
    with pytest.raises(ConfigError, match="999999 is no decision in"):
        audit.find("999999")


@pytest.mark.parametrize("id", ["", "12345", "1234567g", "1" * 33, "[bold]", "12345\ud800"])
def test_what_is_no_id(path: Path, id: str) -> None:
    path.touch()
    with pytest.raises(ConfigError, match="is not an id, nor the start of one"):
        Audit(path).find(id)


def test_find_in_rotated_files_and_past_half_lines(path: Path) -> None:
    decisions = [decided() for _ in range(40)]
    keep(path, decisions, max_bytes=10_000)
    with open(path, "a") as file:
        file.write(f'{{"id": "{decisions[0].id}", "ti')
    assert Audit(path).find(decisions[0].id).time == decisions[0].time


def test_outcomes(path: Path) -> None:
    decisions = at(0, 1)
    keep(path, decisions)
    audit = Audit(path)
    assert audit.outcomes() == {}
    OutcomeFile(path).add([Said(decisions[0].id, "wrong"), Said(decisions[0].id, "sufficient")])
    assert audit.outcomes() == {decisions[0].id: Outcome(sufficient=True, helpful=False)}
    with open(OutcomeFile(path).path, "a") as file:
        file.write('{"id": "')
    audit.outcomes()
    assert audit.broken == 1


def test_texts(path: Path) -> None:
    decisions = at(0, 1, 2)
    keep(path, decisions, texts=True)
    file = next(texts_folder(path).iterdir())
    shutil.copy(file, file.with_name("2026-01-01.jsonl"))
    with open(file, "a") as half:
        half.write('{"id": "')
    audit = Audit(path)
    wanted = [decisions[0].id, decisions[2].id, "unknown"]
    assert audit.texts(wanted) == dict.fromkeys(wanted[:2], ("When?", ("At nine.",)))
    assert audit.broken == 1
    assert audit.texts([]) == {}


def test_texts_that_are_none(path: Path) -> None:
    keep(path, at(0))
    assert Audit(path).texts(["a"]) == {}
    texts_folder(path).mkdir()
    (texts_folder(path) / "2026-01-01.jsonl").write_text('{"id": "a", "contexts": [7]}\n')
    with pytest.raises(ConfigError, match=r"2026-01-01\.jsonl, line 1: not the texts"):
        Audit(path).texts(["a"])


def test_a_part_of_an_audit_is_not_taken_for_all_of_it(path: Path) -> None:
    """Its outcomes and texts stand under the whole one's name."""
    keep(path, at(0))
    part = path.with_name(f"{path.stem}.20261121T131500123456Z{path.suffix}")
    shutil.copy(path, part)
    with pytest.raises(ConfigError, match="is a part of 'audit.jsonl'"):
        Audit(part)
