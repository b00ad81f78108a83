"""A judgement: one row of a data set, as a judge measured it, or why it could not be measured."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TypedDict, TypeVar, cast

from guard._json import as_map
from guard.dataset import Row
from guard.decision import Decision, Reason
from guard.errors import UNMEASURED_KINDS, ConfigError, Tried, UnmeasuredKind
from guard.overlap import overlap
from guard.verdict import Usage, Verdict

T = TypeVar("T")

_MOST = 10**12


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of one row.

    Attributes:
        id: the row's, unique in its data set.
        group: rows of one group are not independent: same document, same user.
        sufficient: the label; ``None`` = not labelled.
        lang: BCP 47, or ``None``.
        verdict: what was measured; ``None`` = not measured.
        reason: in one word (`guard.Reason`), why there is no verdict: a kind of failure, or
            ``no_contexts``; ``None`` where there is one.
        detail: the same in a sentence; holds no text of the row.
        elapsed_seconds: of the whole trip.
        characters: of all contexts together.
        overlap: share in [0, 1] of the question's words that the best context holds: a baseline
            that needs no judge.
        fingerprint: of the judge that was asked.
    """

    id: str
    group: str
    sufficient: bool | None
    lang: str | None
    verdict: Verdict | None
    reason: str | None
    detail: str
    elapsed_seconds: float
    characters: int
    overlap: float
    fingerprint: str

    @classmethod
    def of(cls, row: Row, decision: Decision) -> "Judgement":
        """What a gate's decision says of a row; its route and its policy are left out."""
        measured = decision.verdict is not None
        return cls(
            id=row.id,
            group=row.group,
            sufficient=row.sufficient,
            lang=row.query.lang,
            verdict=decision.verdict,
            reason=None if measured else decision.reason.value,
            detail="" if measured else decision.detail,
            elapsed_seconds=decision.elapsed_seconds,
            characters=sum(map(len, row.query.contexts)),
            overlap=overlap(row.query.question, row.query.contexts),
            fingerprint=decision.fingerprint,
        )

    def to_dict(self) -> dict[str, object]:
        """It as JSON-ready values; `from_dict` reads them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "Judgement":
        """The judgement that `to_dict` wrote; fields that it does not know are left out.

        Raises:
            ConfigError: a field is missing or of the wrong type, or numbers contradict each other.
        """
        field = _Fields(values)
        verdict = field.map("verdict")
        reason = field.text_or_none("reason")
        if (verdict is None) is (reason is None):
            raise _wrong("`reason`", "must be there where `verdict` is null, and only there")
        if reason is not None and reason not in (*UNMEASURED_KINDS, Reason.NO_CONTEXTS):
            raise _wrong("`reason`", "is none that rag-guard gives for a missing verdict")
        return cls(
            id=field.text("id"),
            group=field.text("group"),
            sufficient=field.flag_or_none("sufficient"),
            lang=field.text_or_none("lang"),
            verdict=None if verdict is None else _verdict(verdict),
            reason=reason,
            detail=field.text("detail"),
            elapsed_seconds=field.number("elapsed_seconds"),
            characters=field.whole("characters"),
            overlap=field.number("overlap", most=1),
            fingerprint=field.text("fingerprint"),
        )


def _verdict(values: Mapping[str, object]) -> Verdict:
    field = _Fields(values, "verdict.")
    usage = field.map("usage")
    try:
        return Verdict(
            p_true=field.number("p_true"),
            low=field.number("low"),
            high=field.number("high"),
            mass=field.number("mass"),
            emitted=field.text_or_none("emitted"),
            signal=field.text("signal"),
            fingerprint=field.text("fingerprint"),
            model=field.text_or_none("model"),
            system_fingerprint=field.text_or_none("system_fingerprint"),
            coverage=field.number("coverage"),
            usage=None if usage is None else _usage(usage),
            p_underspecified=field.number_or_none("p_underspecified"),
            tried=tuple(
                _tried(f"verdict.tried[{at}]", each) for at, each in enumerate(field.list("tried"))
            ),
            **_since_then(field),
        )
    except ConfigError:
        raise
    except ValueError as error:
        raise _wrong("`verdict`", f"contradicts itself: {error}") from error


class _SinceThen(TypedDict, total=False):
    windows: int
    seen: float
    unseen: tuple[tuple[int, int], ...]
    history_coverage: float
    suspects: tuple[int, ...]
    suspect_turns: tuple[int, ...]
    p_without: float | None
    low_without: float | None
    rest_unmeasured: UnmeasuredKind | None
    look_cut_short: bool


def _since_then(field: "_Fields") -> _SinceThen:
    """What the first surveys did not have."""
    if "windows" not in field.values:
        return {}
    return {
        "windows": field.whole("windows"),
        "seen": field.number("seen"),
        "unseen": tuple(map(_run, field.list("unseen"))),
        "history_coverage": field.number("history_coverage"),
        "suspects": _places(field, "suspects"),
        "suspect_turns": _places(field, "suspect_turns"),
        "p_without": field.number_or_none("p_without"),
        "low_without": field.number_or_none("low_without"),
        "rest_unmeasured": _kind(field),
        "look_cut_short": field.flag_or_none("look_cut_short") or False,
    }


def _kind(field: "_Fields") -> UnmeasuredKind | None:
    kind = field.text_or_none("rest_unmeasured")
    if kind is not None and kind not in UNMEASURED_KINDS:
        raise _wrong(f"`{field.above}rest_unmeasured`", f"is none of {', '.join(UNMEASURED_KINDS)}")
    return kind


def _places(field: "_Fields", name: str) -> tuple[int, ...]:
    above = f"{field.above}{name}."
    return tuple(_Fields({"at": each}, above).whole("at") for each in field.list(name))


def _run(value: object) -> tuple[int, int]:
    field = _Fields({"run": value}, "verdict.unseen.")
    places = _places(field, "run")
    if len(places) != 2:
        raise _wrong("`verdict.unseen`", "holds what is no run of passages")
    return places[0], places[1]


def _usage(values: Mapping[str, object]) -> Usage:
    field = _Fields(values, "verdict.usage.")
    return Usage(
        field.whole_or_none("input_tokens"),
        field.whole_or_none("output_tokens"),
        field.whole_or_none("cached_tokens"),
        field.whole("requests"),
    )


def _tried(name: str, value: object) -> Tried:
    field = _Fields(as_map(value), f"{name}.")
    kind = field.text("kind")
    if kind not in UNMEASURED_KINDS:
        raise _wrong(f"`{name}.kind`", f"is none of {', '.join(UNMEASURED_KINDS)}")
    return Tried(
        fingerprint=field.text("fingerprint"),
        model=field.text_or_none("model"),
        kind=kind,
        detail=field.text("detail"),
        seconds=field.number("seconds"),
    )


def _wrong(name: str, why: str) -> ConfigError:
    return ConfigError(
        f"{name} of the judgement {why}.",
        hint="Judgements are not written by hand; take this one out, and its row is asked again.",
    )


@dataclass(frozen=True, slots=True)
class _Fields:
    """Typed access to the fields of one object; each error names the field."""

    values: Mapping[str, object]
    above: str = ""

    def text(self, name: str) -> str:
        return _required(self.text_or_none(name), self.above + name, "a text")

    def text_or_none(self, name: str) -> str | None:
        value = self._value(name)
        if value is not None and not isinstance(value, str):
            raise _wrong(f"`{self.above}{name}`", "is not a text")
        return value

    def flag_or_none(self, name: str) -> bool | None:
        value = self._value(name)
        if value is not None and not isinstance(value, bool):
            raise _wrong(f"`{self.above}{name}`", "is not true, false or null")
        return value

    def number(self, name: str, most: float = math.inf) -> float:
        number = _required(self.number_or_none(name), self.above + name, "a number")
        if number > most:
            raise _wrong(f"`{self.above}{name}`", f"is above {most:g}")
        return number

    def number_or_none(self, name: str) -> float | None:
        value = self._value(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong(f"`{self.above}{name}`", "is not a number")
        # NaN is in no range, since every comparison with it is false.
        if not 0 <= value <= _MOST:
            raise _wrong(f"`{self.above}{name}`", f"is not a number from 0 to {_MOST:,}")
        return value

    def whole(self, name: str) -> int:
        return _required(self.whole_or_none(name), self.above + name, "a whole number")

    def whole_or_none(self, name: str) -> int | None:
        value = self.number_or_none(name)
        if value is not None and not isinstance(value, int):
            raise _wrong(f"`{self.above}{name}`", "is not a whole number")
        return value

    def map(self, name: str) -> Mapping[str, object] | None:
        value = self._value(name)
        if value is not None and not isinstance(value, Mapping):
            raise _wrong(f"`{self.above}{name}`", "is not an object")
        return None if value is None else as_map(cast("object", value))

    def list(self, name: str) -> tuple[object, ...]:
        value = self._value(name)
        if not isinstance(value, list | tuple):
            raise _wrong(f"`{self.above}{name}`", "is not a list")
        return tuple(cast("tuple[object, ...]", value))

    def _value(self, name: str) -> object:
        if name not in self.values:
            raise _wrong(f"`{self.above}{name}`", "is missing")
        return self.values[name]


def _required(value: T | None, name: str, what: str) -> T:
    if value is None:
        raise _wrong(f"`{name}`", f"is not {what}")
    return value
