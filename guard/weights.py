"""Weights: the files of a trained judge, and whether they are what was shipped."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Self, TypedDict, TypeVar

from guard._json import as_int, as_list, as_map, as_number, as_text
from guard.encoding import FORMAT
from guard.errors import ConfigError
from guard.odds import expit

N = TypeVar("N", int, float, bool)

SHIPPED = Path(str(files("guard") / "data" / "embedded"))
"""The folder of the model that comes with the package."""

_INSTALL = (
    "Install rag-guard again: pip install --force-reinstall --no-deps rag-guard "
    "(in a clone: git checkout guard/data/embedded)."
)
_EXPORT = "Copy the folder again, or write it anew: python training/export.py"

MODEL, TOKENIZER, DESCRIPTION = "judge.onnx", "tokenizer.json", "judge.json"
LABELS = ("False", "True")
"""What the model's two numbers stand for, in this order."""

_MOST_BYTES = 100_000_000
_LEAST_POSITIONS, _MOST_POSITIONS = 16, 100_000
_MOST_CHARS = 100
_MOST_ODDS = 30.0  # Beyond, P(True) would be 0 or 1 to the last bit, which no model knows.


@dataclass(frozen=True, slots=True)
class Weights:
    """A folder with ``judge.onnx``, ``tokenizer.json`` and ``judge.json``, which describes them.

    Attributes:
        folder: where they are.
        name: of the model, for the record.
        positions: tokens that the model reads at once, at most.
        slope, intercept: P(True) = sigmoid(slope · log-odds + intercept) (Platt 1999), fitted to
            held-out rows on which both labels weigh alike.
        sha256: of each file, in hexadecimal.
        has_profile: whether a profile belongs to it.
        digest: of what the description says, in hexadecimal; another model has another.
    """

    folder: Path
    name: str
    positions: int
    slope: float
    intercept: float
    sha256: tuple[str, str]
    has_profile: bool
    digest: str

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads the description.

        Raises:
            ConfigError: it is missing, or no description of a judge.
        """
        content = _read(folder / DESCRIPTION)
        try:
            said = _parsed(content)
            fields = _described(said)
        except ValueError as error:
            raise _damaged(folder / DESCRIPTION, f"it does not describe a judge, {error}") from None
        # Not of its bytes: Git on Windows may have written other line ends.
        canonical = json.dumps(said, sort_keys=True).encode("ascii")
        return cls(folder, **fields, digest=hashlib.sha256(canonical).hexdigest())

    @property
    def fingerprint(self) -> str:
        """Of a judge with these weights."""
        return f"encoder:{self.name}:{self.digest[:16]}"

    def probability(self, odds: float) -> float:
        """P(True) in (0, 1) from the model's log-odds of True, in nats; they are finite."""
        calibrated = self.slope * odds + self.intercept
        return expit(max(-_MOST_ODDS, min(_MOST_ODDS, calibrated)))

    def read(self) -> tuple[bytes, str]:
        """The model and the description of its tokenizer.

        Raises:
            ConfigError: a file is missing, or is not what the description says.
        """
        files = (self.folder / MODEL, self.folder / TOKENIZER)
        model, tokenizer = (_checked(*pair) for pair in zip(files, self.sha256, strict=True))
        try:
            return model, tokenizer.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _damaged(files[1], "it is not UTF-8") from error


class _Fields(TypedDict):
    name: str
    positions: int
    slope: float
    intercept: float
    sha256: tuple[str, str]
    has_profile: bool


def _parsed(content: bytes) -> Mapping[str, object]:
    try:
        return as_map(json.loads(content))
    except (ValueError, RecursionError):
        raise ValueError("for it is no JSON") from None


def _described(fields: Mapping[str, object]) -> _Fields:
    """The fields of a description; raises `ValueError`, in a clause, where one is wrong."""
    if tuple(as_list(fields.get("labels"))) != LABELS:
        raise ValueError(f"for its `labels` are not {' and '.join(LABELS)}")
    _require("input", fields.get("input") == FORMAT)
    platt, hashes = as_map(fields.get("calibration")), as_map(fields.get("sha256"))
    slope = _known("calibration.slope", as_number(platt.get("slope")))
    positions = _known("positions", as_int(fields.get("positions")))
    # A falling line would read True as False.
    _require("calibration.slope", slope > 0)
    _require("positions", _LEAST_POSITIONS <= positions <= _MOST_POSITIONS)
    return {
        "name": _text("name", fields.get("name")),
        "positions": positions,
        "slope": slope,
        "intercept": _known("calibration.intercept", as_number(platt.get("intercept"))),
        "sha256": (_text("sha256", hashes.get(MODEL)), _text("sha256", hashes.get(TOKENIZER))),
        "has_profile": fields.get("profile") is True,
    }


def _text(field: str, value: object) -> str:
    text = as_text(value) or ""
    # It stands in records and errors: one short line.
    _require(field, 0 < len(text) <= _MOST_CHARS and text.isprintable() and bool(text.strip()))
    return text


def _known(field: str, value: N | None) -> N:
    if value is None:
        raise ValueError(f"for its `{field}` is missing or wrong")
    return value


def _require(field: str, is_right: bool) -> None:
    _known(field, is_right or None)


def _checked(file: Path, sha256: str) -> bytes:
    content = _read(file)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise _damaged(file, f"its SHA-256 is not the one in {DESCRIPTION}")
    return content


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"The embedded judge's file {str(file)!r} cannot be read ({why}).",
            hint=again(file.parent),
        ) from error
    if len(content) > _MOST_BYTES:
        raise _damaged(file, f"it has more than {_MOST_BYTES // 1_000_000} MB")
    return content


def _damaged(file: Path, why: str) -> ConfigError:
    problem = f"The embedded judge's file {str(file)!r} is damaged: {why}."
    return ConfigError(problem, hint=again(file.parent))


def again(folder: Path) -> str:
    """What to do about a damaged file in a folder."""
    return _INSTALL if folder.resolve() == SHIPPED.resolve() else _EXPORT
