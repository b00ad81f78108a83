"""Weights: the files of a trained judge, and whether they are what was shipped."""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from guard._json import as_int, as_map, as_number, as_text
from guard.errors import ConfigError

MODEL, TOKENIZER, DESCRIPTION = "judge.onnx", "tokenizer.json", "judge.json"
_MOST_BYTES = 100_000_000
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
        digest: of the description, in hexadecimal; another model has another.
    """

    folder: Path
    name: str
    positions: int
    slope: float
    intercept: float
    sha256: tuple[str, str]
    digest: str

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads the description.

        Raises:
            ConfigError: it is missing, or no description of a judge.
        """
        content = _read(folder / DESCRIPTION)
        try:
            fields = as_map(json.loads(content))
        except ValueError:
            fields = {}
        calibration, hashes = as_map(fields.get("calibration")), as_map(fields.get("sha256"))
        found = (
            as_text(fields.get("name")),
            as_int(fields.get("positions")),
            as_number(calibration.get("slope")),
            as_number(calibration.get("intercept")),
            (as_text(hashes.get(MODEL)), as_text(hashes.get(TOKENIZER))),
        )
        name, positions, slope, intercept, (model, tokenizer) = found
        if not (name and positions and slope and model and tokenizer) or intercept is None:
            raise _damaged(folder / DESCRIPTION, "it does not describe a judge")
        digest = hashlib.sha256(content).hexdigest()
        return cls(folder, name, positions, slope, intercept, (model, tokenizer), digest)

    def probability(self, odds: float) -> float:
        """P(True) in (0, 1) from the model's log-odds of True, in nats."""
        return 1 / (1 + math.exp(-max(-_MOST_ODDS, min(_MOST_ODDS, self.slope * odds + self.intercept))))

    def read(self) -> tuple[bytes, str]:
        """The model and the description of its tokenizer.

        Raises:
            ConfigError: a file is missing, or is not what the description says.
        """
        files = (self.folder / MODEL, self.folder / TOKENIZER)
        model, tokenizer = (_checked(*pair) for pair in zip(files, self.sha256, strict=True))
        return model, tokenizer.decode("utf-8")


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
            f"The embedded judge's file {str(file)!r} cannot be read ({why}).", hint=_AGAIN
        ) from error
    if len(content) > _MOST_BYTES:
        raise _damaged(file, f"it has more than {_MOST_BYTES // 1_000_000} MB")
    return content


def _damaged(file: Path, why: str) -> ConfigError:
    problem = f"The embedded judge's file {str(file)!r} is damaged: {why}."
    return ConfigError(problem, hint=_AGAIN)


_AGAIN = (
    "Install rag-guard again: pip install --force-reinstall --no-deps rag-guard "
    "(in a clone: git checkout guard/data/embedded)."
)
