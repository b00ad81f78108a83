"""A profile: thresholds and a calibrator for one judge, and for no other."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

from guard._json import as_list, as_map, as_text
from guard._profile_file import AGAIN, read_content, require_fields, write_content
from guard._require import require_instance, require_number
from guard.calibration import Calibrator, calibrated, calibrator_from
from guard.certificate import Bound, Certificate
from guard.errors import ConfigError, ProfileMismatch
from guard.thresholds import Thresholds
from guard.verdict import Verdict

_TEXTS = ("fingerprint", "signal", "model", "data_version", "name")
_LISTS = ("system_fingerprints", "languages")


class Probability(NamedTuple):
    """P(sufficient context) in [0, 1], and bounds on it: ``low <= p <= high``."""

    p: float
    low: float
    high: float

    @classmethod
    def of(cls, verdict: Verdict) -> Self:
        """A verdict's own, before calibration; nothing of its lower bound is owed to a suspect."""
        return cls(verdict.p_true, verdict.own_low, verdict.high)


@dataclass(frozen=True, slots=True)
class Profile:
    """What was set, or fitted, for one judge.

    A profile goes stale by itself: what it was fitted for stands in it, and it is not applied to
    anything else. Whatever is ``None`` or empty is not compared.

    Attributes:
        thresholds: the two cut-offs, on the calibrated probability.
        fingerprint: of the judge that they are for: model, prompt, labels, packing and signal;
            ``None`` = whichever they are given to.
        calibrator: from the judge's probability to a calibrated one; ``None`` = none was fitted.
        certificate: what is promised of the thresholds; ``None`` = nothing is.
        signal: where the judge's probabilities came from, see `guard.verdict.Signal`.
        model: the model that served the requests, by its own word.
        system_fingerprints: the provider's marks for its backend that were seen.
        languages: of the questions, as BCP 47 tags; only the first subtag counts ("de" of "de-CH").
        windows: into how many, at most, the contexts of a query are divided that it is for; a best
            of several requests is no verdict of one. See `guard.windows`.
        data_version: of the labelled rows.
        created: when it was fitted.
        name: what records call it; a loaded one is called after its file. Two profiles that differ
            only in it are equal.

    Raises:
        ConfigError: something is not what it must be.
    """

    thresholds: Thresholds
    fingerprint: str | None = None
    calibrator: Calibrator | None = None
    certificate: Certificate | None = None
    signal: str | None = None
    model: str | None = None
    system_fingerprints: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    windows: int | None = None
    data_version: str | None = None
    created: datetime | None = None
    name: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        require_instance("thresholds", self.thresholds, Thresholds)
        for name, kind in (("certificate", Certificate), ("created", datetime)):
            if getattr(self, name) is not None:
                require_instance(name, getattr(self, name), kind)
        _require_calibrator(self.calibrator)
        if self.windows is not None:
            require_number("windows", self.windows, 1, _MOST_ROWS, whole=True)
        for name in _TEXTS:
            _require_texts(name, [] if getattr(self, name) is None else [getattr(self, name)])
        for name in _LISTS:
            object.__setattr__(self, name, _texts(name, getattr(self, name)))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The profile in a file that `save` wrote.

        Raises:
            ConfigError: the file cannot be read, is no profile, has another version, or is not as
                it was written: what was certified does not hold for numbers set by hand.
        """
        content = read_content(path, _SAVED)
        try:
            return cls(**_read(content), name=_name(Path(path)))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error.message}", hint=AGAIN) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it to a file, whole or not at all; `load` gives an equal one.

        Raises:
            ConfigError: the file cannot be written.
        """
        write_content(path, {name: _written(getattr(self, name)) for name in _SAVED})

    def require_for(self, fingerprint: str) -> None:
        """Raises `ProfileMismatch` unless this profile is for the judge with that fingerprint."""
        if self.fingerprint not in (None, fingerprint):
            raise ProfileMismatch(
                f"The profile is for {self.fingerprint}, not for {fingerprint}.",
                hint="Fit one for this judge: model, prompt, labels and packing must agree.",
            )

    def calibrated(self, verdict: Verdict) -> Probability:
        """A verdict's probability and bounds after calibration.

        Raises:
            ValueError: the calibrator leaves [0, 1]: a bug in it.
        """
        if self.calibrator is None:
            return Probability.of(verdict)
        low, p, high = calibrated(self.calibrator, verdict.own_low, verdict.p_true, verdict.high)
        if verdict.is_doubted and not verdict.own_low:
            low = 0.0  # Nobody knows: no calibrator makes more of that.
        if not 0 <= low <= p <= high <= 1:  # Nor is NaN.
            raise ValueError(
                f"The {self.calibrator.name} calibrator gave {p!r} in [{low}, {high}]."
            )
        return Probability(p, low, high)

    def is_too_divided(self, verdict: Verdict) -> bool:
        """Whether a verdict is of more windows than this profile knows."""
        return self.windows is not None and verdict.windows > self.windows

    def is_only_too_divided(self, verdict: Verdict, lang: str | None) -> bool:
        """Whether nothing else is wrong with it."""
        whole = replace(verdict, windows=1)
        return self.is_too_divided(verdict) and self.difference(whole, lang) is None

    def difference(self, verdict: Verdict, lang: str | None) -> str | None:
        """In a clause, why this profile is not for a verdict; ``None`` = it is.

        Args:
            verdict: what the judge said.
            lang: the question's language as a BCP 47 tag, if known.
        """
        for name, fitted, found in (
            ("judge", self.fingerprint, verdict.fingerprint),
            ("signal", self.signal, verdict.signal),
            ("served model", self.model, verdict.model),
        ):
            if None not in (fitted, found) and fitted != found:
                return f"its {name} is {fitted!r:.90}, not {found!r:.90}"
        backend = verdict.system_fingerprint
        if self.system_fingerprints and backend not in (None, *self.system_fingerprints):
            return f"the backend {backend!r:.60} was not seen when it was fitted"
        if (
            lang
            and lang.strip()
            and self.languages
            and _primary(lang) not in map(_primary, self.languages)
        ):
            return f"it was fitted to {', '.join(self.languages)}, not to {lang!r:.40}"
        if self.is_too_divided(verdict):
            most = "as a whole" if self.windows == 1 else f"in at most {self.windows} windows"
            return f"it was fitted to sets judged {most}, not in {verdict.windows}"
        return None


def _primary(tag: str) -> str:
    return tag.replace("_", "-").partition("-")[0].strip().casefold()


def _name(path: Path) -> str:
    return path.name.removesuffix(".json").removesuffix(".profile")


# ── What must hold ───────────────────────────────────────────────────────────────────────────────


def _require_calibrator(calibrator: object) -> None:
    if calibrator is not None and not isinstance(calibrator, Calibrator):
        raise ConfigError(
            f"`calibrator` is {type(calibrator).__name__}, not a calibrator.",
            hint="Pass one of guard.calibration.",
        )


def _texts(name: str, values: object) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigError(f"`{name}` is no list of texts.", hint=f"Pass {name} as a tuple.")
    return _require_texts(name, cast("Iterable[object]", values))


def _require_texts(name: str, values: Iterable[object]) -> tuple[str, ...]:
    texts = tuple(values)
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"`{name}` holds what is blank, or no text.", hint="Pass text.")
    return cast("tuple[str, ...]", texts)


# ── To and from JSON ─────────────────────────────────────────────────────────────────────────────


def _written(value: object) -> object:
    match value:
        case Thresholds() | Certificate():
            return asdict(value)
        case datetime():
            return value.isoformat()
        case tuple():
            return list(cast("tuple[object, ...]", value))
        case Calibrator():
            return value.to_dict()
        case _:
            return value


def _read(content: Mapping[str, object]) -> dict[str, Any]:
    """The arguments of a `Profile`."""
    values: dict[str, Any] = dict(content)
    for name, read in _READERS.items():
        values[name] = None if content[name] is None else read(content[name])
    return values


def _thresholds(value: object) -> Thresholds:
    return Thresholds(**_fields("thresholds", value, Thresholds))


def _certificate(value: object) -> Certificate:
    values = _fields("certificate", value, Certificate)
    require_number("certificate.confidence", values["confidence"], 0, 1)
    for name in ("n", "groups"):
        require_number(f"certificate.{name}", values[name], 0, _MOST_ROWS, whole=True)
    _require_texts("certificate.method", [values["method"]])
    values["routes"] = _routes(values["routes"])
    for name in ("leak", "false_refusal"):
        values[name] = _bound(f"certificate.{name}", values[name])
    return Certificate(**values)


def _routes(value: object) -> tuple[tuple[str, str], ...]:
    pairs = [as_list(each) for each in as_list(value)]
    for pair in pairs:
        if len(_require_texts("certificate.routes", pair)) != 2:
            raise ConfigError("`certificate.routes` is no list of pairs.")
    return tuple((str(kind), str(route)) for kind, route in pairs)


def _bound(place: str, value: object) -> Bound:
    values = _fields(place, value, Bound)
    require_number(f"{place}.most", values["most"], 0, 1)
    for name in ("events", "rows"):
        require_number(f"{place}.{name}", values[name], 0, _MOST_ROWS, whole=True)
    return Bound(**values)


def _time(value: object) -> datetime:
    try:
        return datetime.fromisoformat(as_text(value) or "")
    except ValueError:
        raise ConfigError("`created` is no time (ISO 8601).") from None


def _fields(place: str, value: object, kind: type) -> dict[str, Any]:
    """The fields of a ``kind``, no more and no less."""
    values = as_map(value)
    require_fields(place, values, (each.name for each in fields(kind)))
    return dict(values)


_MOST_ROWS = 10**12
_READERS: Mapping[str, Callable[[object], object]] = {
    "thresholds": _thresholds,
    "calibrator": calibrator_from,
    "certificate": _certificate,
    "created": _time,
}
_SAVED = tuple(each.name for each in fields(Profile) if each.name != "name")
