"""A judge's files: whether they are there, whole, and belong together."""

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_judge import folder, letters

from guard import ConfigError
from guard.judges.embedded import SHIPPED, EmbeddedJudge
from guard.profile import Profile
from guard.thresholds import Thresholds
from guard.weights import DESCRIPTION, MODEL, TOKENIZER, Weights

FILES = (MODEL, TOKENIZER, DESCRIPTION)
EVERY = (*FILES, "profile.json")
MB = 1_000_000


@pytest.fixture
def at(tmp_path: Path) -> Path:
    """A folder with all four files."""
    at = folder(tmp_path / "judge", profile=True)
    Profile(Thresholds(0.6, 0.4)).save(at / "profile.json")
    return at


def error_of(at: Path) -> ConfigError:
    """What comes of loading it: one error, with what to do."""
    with pytest.raises(ConfigError) as caught:
        EmbeddedJudge(at)
    assert str(at) in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


def _remove(file: Path) -> None:
    file.unlink()


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _change(file: Path) -> None:
    """One bit, of a digit of a checksum where it is JSON."""
    content = bytearray(file.read_bytes())
    content[content.find(b'"sha256"') + 90] ^= 1
    file.write_bytes(content)


def _replace_by_json(file: Path) -> None:
    file.write_text('{"answer": 42}')


def _replace_by_list(file: Path) -> None:
    file.write_text("[]")


def _replace_by_bytes(file: Path) -> None:
    file.write_bytes(bytes(range(256)))


def _replace_by_nesting(file: Path) -> None:
    file.write_text("[" * 100_000)


def _replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _replace_by_loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


DAMAGES = (
    _remove,
    _empty,
    _halve,
    _change,
    _replace_by_json,
    _replace_by_list,
    _replace_by_bytes,
    _replace_by_nesting,
    _replace_by_folder,
    _replace_by_loop,
)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_clear_error(
    at: Path, name: str, damage: Callable[[Path], None]
) -> None:
    """Missing, cut, changed, something else: it is named."""
    EmbeddedJudge(at).close()
    damage(at / name)
    error = error_of(at)
    assert name in error.message
    assert "export.py" in (error.hint or "")


def test_what_to_do_about_the_shipped_one(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes with the package."""
    monkeypatch.setattr("guard.weights.SHIPPED", at)
    (at / MODEL).unlink()
    assert "pip install" in (error_of(at).hint or "")


def test_line_ends_do_not_make_another_judge(at: Path) -> None:
    """As Git for Windows writes them; what the file says, does."""
    file, before = at / DESCRIPTION, Weights.load(at).fingerprint
    said = json.loads(file.read_bytes())
    file.write_bytes(json.dumps(said, indent=1).replace("\n", "\r\n").encode())
    assert Weights.load(at).fingerprint == before
    file.write_text(json.dumps(said | {"name": "other"}))
    assert Weights.load(at).fingerprint != before


@pytest.mark.parametrize(("one", "other"), [(a, b) for a in EVERY for b in EVERY if a < b])
def test_swapped_files(at: Path, one: str, other: str) -> None:
    """Each is what its name says, or nothing is loaded."""
    first, second = (at / one).read_bytes(), (at / other).read_bytes()
    (at / one).write_bytes(second)
    (at / other).write_bytes(first)
    error_of(at)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """The first file that is missing is named."""
    assert DESCRIPTION in error_of(tmp_path / "none").message


def test_a_file_that_is_too_large(at: Path) -> None:
    """It is not read into memory whole. The file is sparse: it takes no room."""
    os.truncate(at / MODEL, 101 * MB)
    assert "more than 100 MB" in error_of(at).message


WRONG: dict[str, tuple[Any, ...]] = {
    "name": (None, "", " ", 7, ["tiny"], "a\nb", "x" * 101),
    "positions": (None, 0, -64, 64.5, "64", True, 10**30, [64]),
    "labels": (None, ["True", "False"], ["False"], "False True", {"False": 0, "True": 1}),
    "calibration": (
        None,
        [],
        {"slope": 1.0},
        {"intercept": 0.0},
        *({"slope": slope, "intercept": 0.0} for slope in (0, -1.0, "1", True, None, math.inf)),
        *({"slope": 1.0, "intercept": at} for at in ("0", None, False, math.nan, 10**400)),
    ),
    "sha256": (
        None,
        {},
        [],
        {MODEL: "0" * 64},
        {MODEL: 1, TOKENIZER: 2},
        {MODEL: "", TOKENIZER: ""},
    ),
}


@pytest.mark.parametrize(("field", "value"), [(k, v) for k, each in WRONG.items() for v in each])
def test_a_description_with_a_wrong_part(tmp_path: Path, field: str, value: Any) -> None:
    """The field is named."""
    error = error_of(folder(tmp_path / "judge", **{field: value}))
    assert DESCRIPTION in error.message
    assert field in error.message


@pytest.mark.parametrize("field", ["name", "positions", "labels", "calibration", "sha256"])
def test_a_description_that_lacks_a_part(at: Path, field: str) -> None:
    """The field is named."""
    fields = json.loads((at / DESCRIPTION).read_text())
    del fields[field]
    (at / DESCRIPTION).write_text(json.dumps(fields))
    assert field in error_of(at).message


def test_a_tokenizer_that_is_no_text(tmp_path: Path) -> None:
    """Also where the checksum agrees."""
    at = folder(tmp_path / "judge", tokenizer=letters())
    content = b"\xff\xfe"
    (at / TOKENIZER).write_bytes(content)
    fields = json.loads((at / DESCRIPTION).read_text())
    fields["sha256"][TOKENIZER] = hashlib.sha256(content).hexdigest()
    (at / DESCRIPTION).write_text(json.dumps(fields))
    assert "not UTF-8" in error_of(at).message


@pytest.mark.parametrize(
    ("slope", "intercept", "odds", "p"),
    [
        (1.0, 0.0, 0.0, 0.5),
        (2.0, 0.0, 1.0, 1 / (1 + math.exp(-2))),
        (1.0, -1.0, 1.0, 0.5),
        (1.0, 0.0, 1e30, 1 / (1 + math.exp(-30))),
        (1.0, 0.0, -1e30, 1 / (1 + math.exp(30))),
    ],
)
def test_probability(tmp_path: Path, slope: float, intercept: float, odds: float, p: float) -> None:
    """Platt's line, within what a model can know."""
    fitted = {"slope": slope, "intercept": intercept}
    weights = Weights.load(folder(tmp_path / "judge", calibration=fitted))
    assert weights.probability(odds) == pytest.approx(p, rel=1e-9)
    assert 0 < weights.probability(odds) < 1


def test_another_description_is_another_judge(tmp_path: Path) -> None:
    """Since its numbers are others."""
    usual = EmbeddedJudge(folder(tmp_path / "a"))
    same = EmbeddedJudge(folder(tmp_path / "b"))
    others = [
        EmbeddedJudge(folder(tmp_path / "c", calibration={"slope": 2.0, "intercept": 0.0})),
        EmbeddedJudge(folder(tmp_path / "d", odds=2.0)),
        EmbeddedJudge(folder(tmp_path / "e", tokenizer=letters().replace("~", "€"))),
        EmbeddedJudge(folder(tmp_path / "f", positions=32)),
    ]
    assert usual.fingerprint == same.fingerprint
    assert len({usual.fingerprint, *(one.fingerprint for one in others)}) == 5


def test_what_comes_with_the_package() -> None:
    """It is whole, and below 30 MB."""
    weights = Weights.load(SHIPPED)
    model, tokenizer = weights.read()
    assert len(model) + len(tokenizer) < 30 * MB
    assert weights.positions == 512
