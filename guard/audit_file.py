"""An audit's file, read: records typed and streamed, texts and outcomes by the decision's id.

Records are read one by one, so that an audit of any size takes the same memory.
"""

import json
import os
import re
import sys
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast

from guard._json import as_list, as_map, as_text
from guard.decision import Reason, Route
from guard.errors import UNMEASURED_KINDS, ConfigError, Tried, UnmeasuredKind
from guard.line_file import LeftOut, lines_of, may_be_half, real_path, rotated, rotated_at
from guard.outcomes import Outcome, OutcomeFile
from guard.verdict import Usage, Verdict

SHORTEST_PREFIX = 6
"""How many digits of an id `Audit.find` asks for at least."""


# ── Records ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Record:
    """One decision as the audit holds it; for the meanings see `guard.Decision`.

    Attributes:
        id: 32 hexadecimal digits.
        time: when it was made, with its time zone.
        route: ``answer``, ``clarify``, ``refuse``; ``None`` = the policy was to raise.
        reason: a `guard.Reason`, as text.
        detail: the same in a sentence, for whoever runs the system.
        enforced: whether the route was acted on.
        mode: ``enforce`` or ``shadow``.
        deployment: its name, or ``None``.
        lang: of the question, BCP 47, or ``None``.
        verdict: all that the judge said, before calibration; its ``tried`` is the decision's, over
            all rounds. ``None`` = not measured.
        probability, low, high: in [0, 1], calibrated if ``calibrated``; all ``None`` where there
            is no verdict.
        calibrated: whether a calibrator made them.
        profile: its name, or ``None``.
        answer_at, refuse_below: the cut-offs, in [0, 1].
        fingerprint: of the judge that measured, or of the gate's where none did.
        question_hash, contexts_hash: SHA-256, in hexadecimal.
        elapsed_seconds: of the whole trip.
        cached: whether the verdict came from a cache.
        attempts: how often the judge was asked; ``None`` = an older version wrote it, which did not
            say.
        breaker: the state of its breaker before the last time, or ``None``.
    """

    id: str
    time: datetime
    route: str | None
    reason: str
    detail: str
    enforced: bool
    mode: str
    deployment: str | None
    lang: str | None
    verdict: Verdict | None
    probability: float | None
    low: float | None
    high: float | None
    calibrated: bool
    profile: str | None
    answer_at: float
    refuse_below: float
    fingerprint: str
    question_hash: str
    contexts_hash: str
    elapsed_seconds: float
    cached: bool
    attempts: int | None = None
    breaker: str | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "Record":
        """The record that `guard.Decision.to_dict` gave; keys it does not know are left out.

        Raises:
            ConfigError: a key is missing or of the wrong type, numbers contradict each other or
                are not finite, or the time is none in UTC's years 1 to 9999.
        """
        values = {**_SINCE_THEN, **values}
        for name, kinds in _KINDS.items():
            # Not isinstance: True is no number.
            if type(values.get(name, ...)) not in kinds:
                raise _wrong(name, "is missing" if name not in values else "is of the wrong type")
        known: dict[str, Any] = {name: values[name] for name in _AS_THEY_ARE}
        _require_known(known)
        _require_numbers(known)
        return cls(time=_time(values["time"]), verdict=_verdict(values), **known)


_TEXT, _FLAG, _NUMBER, _NONE = (str,), (bool,), (int, float), (type(None),)
_KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("id", "time", "reason", "detail", "mode", "fingerprint"), _TEXT),
    **dict.fromkeys(("question_hash", "contexts_hash"), _TEXT),
    **dict.fromkeys(("enforced", "calibrated", "cached"), _FLAG),
    **dict.fromkeys(("answer_at", "refuse_below", "elapsed_seconds"), _NUMBER),
    **dict.fromkeys(("route", "deployment", "lang", "profile", "signal"), _TEXT + _NONE),
    **dict.fromkeys(("emitted", "served_model", "system_fingerprint"), _TEXT + _NONE),
    **dict.fromkeys(("probability", "low", "high"), _NUMBER + _NONE),
    **dict.fromkeys(("p_true", "raw_low", "raw_high"), _NUMBER + _NONE),
    **dict.fromkeys(("mass", "coverage", "p_underspecified"), _NUMBER + _NONE),
    "usage": (dict, *_NONE),
    "tried": (list,),
    "attempts": (int, *_NONE),
    "breaker": _TEXT + _NONE,
    "windows": (int, *_NONE),
    **dict.fromkeys(("unseen", "suspects", "suspect_turns"), (list, *_NONE)),
    **dict.fromkeys(("seen", "p_without", "low_without", "history_coverage"), _NUMBER + _NONE),
    "rest_unmeasured": _TEXT + _NONE,
    "look_cut_short": _FLAG + _NONE,
}
_SINCE_THEN: Mapping[str, object] = {
    **dict.fromkeys(("attempts", "breaker", "windows", "seen", "unseen")),
    **dict.fromkeys(("suspects", "suspect_turns", "p_without", "low_without", "rest_unmeasured")),
    **dict.fromkeys(("history_coverage", "look_cut_short")),
}
"""Keys that the first records did not have."""
_AS_THEY_ARE = tuple(each.name for each in fields(Record) if each.name not in ("time", "verdict"))
_KNOWN: Mapping[str, frozenset[str | None]] = {
    "route": frozenset([*(each.value for each in Route), None]),
    "reason": frozenset(each.value for each in Reason),
    "mode": frozenset(["enforce", "shadow"]),
}
_ID = re.compile(r"[0-9a-f]{32}")


def _require_known(values: Mapping[str, Any]) -> None:
    for name, known in _KNOWN.items():
        if values[name] not in known:
            raise _wrong(name, f"is {values[name]!r:.40}, which this version does not know")
    if not _ID.fullmatch(values["id"]):
        raise _wrong("id", "is not 32 hexadecimal digits")


def _require_numbers(values: Mapping[str, Any]) -> None:
    low, p, high = values["low"], values["probability"], values["high"]
    bounds = (low, p, high)
    if None in bounds:
        if bounds != (None, None, None):
            raise _wrong("probability", "and its bounds are not all there")
    elif not 0 <= low <= p <= high <= 1:  # Nor is NaN.
        raise _wrong("probability", "does not satisfy 0 <= low <= probability <= high <= 1")
    if not 0 <= values["refuse_below"] <= values["answer_at"] <= 1:
        raise _wrong("answer_at", "does not satisfy 0 <= refuse_below <= answer_at <= 1")
    if not _is_duration(values["elapsed_seconds"]):
        raise _wrong("elapsed_seconds", "is below 0, or not finite")


def _is_duration(seconds: Any) -> bool:
    """Also whether a float can hold it: JSON's whole numbers have no limit."""
    return type(seconds) in _NUMBER and 0 <= seconds <= sys.float_info.max  # Nor is NaN.


def _time(value: Any) -> datetime:
    try:
        time = datetime.fromisoformat(value)
        if time.tzinfo is None:
            raise _wrong("time", "has no time zone")
        time.astimezone(UTC)
    except OverflowError:
        raise _wrong("time", "is none in UTC, whose years are 1 to 9999") from None
    except ConfigError:
        raise
    except ValueError:
        raise _wrong("time", "is no time (ISO 8601)") from None
    return time


def _verdict(values: Mapping[str, Any]) -> Verdict | None:
    if (values["p_true"] is None) is not (values["probability"] is None):
        raise _wrong("p_true", "must be there where `probability` is, and only there")
    if values["p_true"] is None:
        return None
    if None in [values[name] for name in ("raw_low", "raw_high", "mass", "signal", "coverage")]:
        raise _wrong("p_true", "is there, but not the whole verdict")
    try:
        return Verdict(
            p_true=values["p_true"],
            low=values["raw_low"],
            high=values["raw_high"],
            mass=values["mass"],
            emitted=values["emitted"],
            signal=values["signal"],
            fingerprint=values["fingerprint"],
            model=values["served_model"],
            system_fingerprint=values["system_fingerprint"],
            coverage=values["coverage"],
            usage=None if values["usage"] is None else _usage(values["usage"]),
            p_underspecified=values["p_underspecified"],
            tried=tuple(map(_tried, values["tried"])),
            windows=1 if values["windows"] is None else values["windows"],
            seen=_all_if_none(values["seen"]),
            unseen=tuple(map(_run, values["unseen"] or ())),
            suspects=_places("suspects", values["suspects"]),
            suspect_turns=_places("suspect_turns", values["suspect_turns"]),
            p_without=values["p_without"],
            low_without=values["low_without"],
            rest_unmeasured=_kind(values["rest_unmeasured"]),
            look_cut_short=values["look_cut_short"] or False,
            history_coverage=_all_if_none(values["history_coverage"]),
        )
    except ConfigError:
        raise
    except ValueError as error:
        raise _wrong("p_true", f"is of a verdict that contradicts itself: {error}") from error


_TOKENS = ("input", "output", "cached")


def _usage(values: Mapping[str, Any]) -> Usage:
    counts = {f"{kind}_tokens": values.get(f"{kind}_tokens", ...) for kind in _TOKENS}
    requests = values.get("requests")
    known = all(type(each) in (int, *_NONE) for each in counts.values())
    if not known or type(requests) is not int:
        raise _wrong("usage", "is not of tokens and requests")
    return Usage(**counts, requests=requests)


def _all_if_none(value: float | None) -> float:
    return 1.0 if value is None else value


def _kind(value: Any) -> UnmeasuredKind | None:
    if value is not None and value not in UNMEASURED_KINDS:
        raise _wrong("rest_unmeasured", f"is {value!r:.40}, which this version does not know")
    kind: UnmeasuredKind | None = value
    return kind


def _places(name: str, values: "list[Any] | None") -> tuple[int, ...]:
    if not all(type(each) is int and each >= 0 for each in values or ()):
        raise _wrong(name, "holds what is no place")
    return tuple(values or ())


def _run(value: Any) -> tuple[int, int]:
    places = _places("unseen", [*as_list(value)])
    if len(places) != 2:
        raise _wrong("unseen", "holds what is no run of passages")
    return places[0], places[1]


def _tried(value: object) -> Tried:
    each: Mapping[str, Any] = as_map(value)
    sound = (
        type(each.get("fingerprint")) is str
        and type(each.get("model")) in _TEXT + _NONE
        and each.get("kind") in UNMEASURED_KINDS
        and type(each.get("detail")) is str
        and _is_duration(each.get("seconds"))
    )
    if not sound:
        raise _wrong("tried", "holds what is no judge that was left")
    return Tried(
        each["fingerprint"], each.get("model"), each["kind"], each["detail"], each["seconds"]
    )


def _wrong(name: str, why: str) -> ConfigError:
    return ConfigError(
        f"`{name}` of the record {why}.",
        hint="Name an audit that this version of rag-guard wrote, or an older one did; "
        "for a newer one's, update rag-guard.",
    )


# ── Files ────────────────────────────────────────────────────────────────────────────────────────


class Audit:
    """What a `guard.audit.AuditLog` has written: its file, and those it was rotated into.

    Args:
        path: the current file. It need not be there if rotated ones are.
        since: only records from this time on.
        until: only records before this time.
        deployment: only records of the deployment with this name.

    Raises:
        ConfigError: there is no such audit, no file can have that name, or a time has no time zone.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        deployment: str | None = None,
    ) -> None:
        for name, time in (("since", since), ("until", until)):
            if time is not None and time.tzinfo is None:
                raise ConfigError(f"`{name}` has no time zone.", hint="Pass a time in UTC.")
        if since is not None and until is not None and since >= until:
            raise ConfigError("`since` is not before `until`.", hint="Swap them.")
        self.path = real_path(path)
        if (whole := _whole(self.path)) != self.path:
            why = f"{self.path.name!r} is a part of {whole.name!r}, which was rotated."
            raise ConfigError(why, hint=f"Name {str(whole)!r}: it stands for all of its parts.")
        self._since, self._until, self._deployment = since, until, deployment
        self._left_out = dict[Path, LeftOut]()
        with self._told():
            if not self.path.exists() and not rotated(self.path):
                raise FileNotFoundError(2, "There is no such file")
            if self.path.exists() and not self.path.is_file():
                raise OSError(22, "It is no file")

    @property
    def broken(self) -> int:
        """Half lines that were left out of what was read, in all files: who wrote it was killed."""
        return sum(each.count for each in self._left_out.values())

    @property
    def broken_at(self) -> list[str]:
        """Where the first ten of them stand, as ``FILE, line N``: records, texts or outcomes."""
        return [place for each in self._left_out.values() for place in each.first][: LeftOut.NAMED]

    def records(self) -> Iterator[Record]:
        """The records, rotated files first, each file in the order in which it was written.

        Raises:
            ConfigError: a file cannot be read, or holds something else.
        """
        for place, line in self._lines():
            record = _record(place, line)
            if record is None:
                self._left_out[place.path].add(place)
            elif self._wants(record):
                yield record

    def find(self, id: str) -> Record:
        """The record with an id, or with the only id that begins so.

        Args:
            id: at least `SHORTEST_PREFIX` hexadecimal digits.

        Raises:
            ConfigError: there is none, or more than one.
        """
        start = id.strip().lower()
        if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_PREFIX},32}}", start):
            raise ConfigError(
                f"{id!r:.50} is not an id, nor the start of one.",
                hint=f"Give {SHORTEST_PREFIX} to 32 hexadecimal digits of it.",
            )
        found = self._beginning(start)
        if len(found) == 1:
            return next(iter(found.values()))
        if not found:
            hint = 'Ids are in the audit, and in response.metadata["guard"]["id"].'
            raise ConfigError(f"{start} is no decision in {str(self.path)!r}.", hint=hint)
        some = ", ".join([*found][:3])
        raise ConfigError(
            f"{len(found)} decisions begin with {start}, e.g. {some}.", hint="Give more digits."
        )

    def outcomes(self) -> dict[str, Outcome]:
        """What people said of decisions, by id; also of those that are filtered out.

        Raises:
            ConfigError: their file cannot be read, or holds something else.
        """
        file = OutcomeFile(self.path)
        found = file.read()
        self._left_out[file.path] = LeftOut(file.broken, file.broken_at)
        return found

    def texts(self, ids: Collection[str]) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Question and contexts by id, of those decisions whose texts are there.

        Raises:
            ConfigError: a file cannot be read, or holds something else.
        """
        found = dict[str, tuple[str, tuple[str, ...]]]()
        wanted = frozenset(ids)
        with self._told():
            for path in text_files(self.path) if wanted else ():
                self._left_out[path] = LeftOut()
                with open(path, "rb") as file:
                    for number, line in enumerate(lines_of(file), start=1):
                        self._take_text(_Place(path, number), line, wanted, found)
        return found

    def _take_text(
        self,
        place: "_Place",
        line: bytes,
        wanted: frozenset[str],
        found: dict[str, tuple[str, tuple[str, ...]]],
    ) -> None:
        values = _object(line)
        if values is None:
            self._left_out[place.path].add(place)
            return
        id, question = as_text(values.get("id")), as_text(values.get("question"))
        contexts = tuple(map(as_text, as_list(values.get("contexts"))))
        if id is None or question is None or None in contexts:
            raise ConfigError(f"{place}: not the texts of a decision.", hint=_OTHER_HINT)
        if id in wanted:
            found[id] = question, cast("tuple[str, ...]", contexts)

    def _beginning(self, start: str) -> dict[str, Record]:
        found, part = dict[str, Record](), start.encode()
        for place, line in self._lines():
            # Reading only the few lines that may be it is ten times as fast.
            record = _record(place, line) if part in line else None
            if record is not None and record.id.startswith(start) and self._wants(record):
                found[record.id] = record
        return found

    def _wants(self, record: Record) -> bool:
        return (
            (self._since is None or record.time >= self._since)
            and (self._until is None or record.time < self._until)
            and (self._deployment is None or record.deployment == self._deployment)
        )

    def _lines(self) -> Iterator[tuple["_Place", bytes]]:
        with self._told():
            for path, file in self._files():
                self._left_out[path] = LeftOut()
                is_known = False
                for number, line in enumerate(lines_of(file), start=1):
                    is_known = is_known or _require_ours(path, line)
                    if not line.isspace():
                        yield _Place(path, number), line

    def _files(self) -> Iterator[tuple[Path, BinaryIO]]:
        """All files, oldest first.

        The current one is opened before the others are listed: if it is rotated meanwhile, it is
        listed as well, and is left out there.
        """
        with ExitStack() as stack:
            current = _opened(stack, self.path)
            for path in rotated(self.path):
                at = rotated_at(path)
                # A day, in case that a clock was put right.
                if self._since and at and self._since - at > timedelta(days=1):
                    continue
                with open(path, "rb") as file:
                    if current is None or not _same(file, current):
                        yield path, file
            if current is not None:
                yield self.path, current

    @contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(
                f"The audit {str(self.path)!r} cannot be read: {error.strerror}.",
                hint="Name the file that audit records are written to.",
            ) from error


@dataclass(frozen=True, slots=True)
class _Place:
    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}"


def _opened(stack: ExitStack, path: Path) -> BinaryIO | None:
    try:
        return stack.enter_context(open(path, "rb"))
    except FileNotFoundError:
        return None


def _same(one: BinaryIO, other: BinaryIO) -> bool:
    return os.path.sameopenfile(one.fileno(), other.fileno())


def _whole(path: Path) -> Path:
    """The audit's own file, for one that it was rotated into; else the same."""
    if rotated_at(path) is None:
        return path
    stem = path.stem.rpartition(".")[0]
    return path.with_name(f"{stem}{path.suffix}")


def _record(place: _Place, line: bytes) -> Record | None:
    """The record on a line; ``None`` = the line is a half one."""
    values = _object(line)
    if values is None:
        return None
    try:
        return Record.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error.message}", hint=error.hint) from error


def _object(line: bytes) -> Mapping[str, object] | None:
    """The object on a line; an empty one where something else is; ``None`` = no JSON."""
    try:
        return as_map(json.loads(line))
    except (ValueError, RecursionError):
        return None


# ── What is an audit's ───────────────────────────────────────────────────────────────────────────

_OTHER_HINT = "Name a file that an audit of rag-guard wrote."


def require_audit(path: Path, file: BinaryIO) -> None:
    """Raises unless the file may be written to as an audit: it holds records, or nothing yet.

    Args:
        path: where it is, for the message.
        file: it itself, open for reading.

    Raises:
        ConfigError: it holds something else.
        OSError: it cannot be read.
    """
    # A line on its way is as good as a half one here.
    for line in lines_of(file, wait=0):
        if _require_ours(path, line):
            return


def _require_ours(path: Path, line: bytes) -> bool:
    """Raises where no audit's file begins with this line; otherwise whether only an audit's does.

    Many a file begins with a blank line, or with a brace alone: then the next one decides.
    """
    values = _object(line)
    is_open = values is None and (line.isspace() or may_be_half(line))
    if not is_open and not {"id", "question_hash"} <= (values or {}).keys():
        raise ConfigError(f"{str(path)!r} does not hold decision records.", hint=_OTHER_HINT)
    return not is_open


_DAY = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})\.jsonl")


def texts_folder(audit: Path) -> Path:
    """Where the texts of an audit's decisions are, if they are kept: a file for each day.

    Its name holds the audit's whole one: ``bot.log`` must not delete the texts of ``bot.jsonl``.
    """
    return audit.with_name(f"{audit.name}.texts")


def text_files(audit: Path) -> list[Path]:
    """The files of texts, oldest first; nothing else that lies in that folder."""
    folder = texts_folder(audit)
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(folder / name for name in names if _DAY.fullmatch(name))
