"""Calibrators: rising, within [0, 1], the same after a save and a load, and light."""

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.calibration import (
    KINDS,
    Calibrator,
    Identity,
    Isotonic,
    Platt,
    Temperature,
    calibrated,
    calibrator_from,
    without_bias,
)
from guard.errors import ConfigError

PROBABILITY = st.floats(0, 1)
ABOVE_ZERO = st.floats(0, exclude_min=True, allow_infinity=False)
ROUNDING = 1e-15


@st.composite
def knots(draw: st.DrawFn) -> Isotonic:
    """Any isotonic calibrator."""
    x = draw(st.lists(PROBABILITY, min_size=1, max_size=8, unique=True).map(sorted))
    y = draw(st.lists(PROBABILITY, min_size=len(x), max_size=len(x)).map(sorted))
    return Isotonic(tuple(x), tuple(y))


CALIBRATOR: st.SearchStrategy[Calibrator] = st.one_of(
    st.just(Identity()),
    st.builds(Temperature, ABOVE_ZERO),
    st.builds(Platt, ABOVE_ZERO, st.floats(allow_nan=False, allow_infinity=False)),
    knots(),
)


@given(calibrator=CALIBRATOR, p=PROBABILITY)
def test_calibrated_is_a_probability(calibrator: Calibrator, p: float) -> None:
    """Within [0, 1], whatever the numbers of the calibrator."""
    assert 0 <= calibrator.apply(p) <= 1


@given(calibrator=CALIBRATOR, p=PROBABILITY, q=PROBABILITY)
def test_order_is_kept(calibrator: Calibrator, p: float, q: float) -> None:
    """The likelier stays the likelier, or becomes as likely, up to a rounding error."""
    low, high = sorted((p, q))
    # Steep lines magnify the rounding errors of log-odds; where p and q are near each other only.
    assert calibrator.apply(low) <= calibrator.apply(high) + ROUNDING or high - low < 1e-9


@given(calibrator=st.builds(Temperature, st.floats(0.1, 10)), p=PROBABILITY, q=PROBABILITY)
def test_order_is_kept_at_usual_temperatures(calibrator: Temperature, p: float, q: float) -> None:
    """Also of probabilities next to each other."""
    low, high = sorted((p, q))
    assert calibrator.apply(low) <= calibrator.apply(high) + 10 * ROUNDING


@given(calibrator=knots(), p=PROBABILITY, q=PROBABILITY)
def test_isotonic_keeps_order_to_the_last_bit(calibrator: Isotonic, p: float, q: float) -> None:
    """Nothing there turns two numbers round."""
    low, high = sorted((p, q))
    assert calibrator.apply(low) <= calibrator.apply(high)


@given(calibrator=CALIBRATOR, three=st.tuples(PROBABILITY, PROBABILITY, PROBABILITY))
def test_bounds_stay_bounds(calibrator: Calibrator, three: tuple[float, float, float]) -> None:
    """Exactly: a verdict whose bounds cross is a bug."""
    low, p, high = sorted(three)
    low, middle, high = calibrated(calibrator, low, p, high)
    assert 0 <= low <= middle <= high <= 1
    assert middle == calibrator.apply(p)


def test_bounds_hold_where_rounding_turns_them() -> None:
    """A calibrator that falls by a bit between two numbers does not cross the bounds."""

    class Jitter(Identity):
        def apply(self, p: float) -> float:
            return {0.4: 0.5, 0.6: 0.5}.get(p, 0.5 + (1e-16 if p > 0.6 else -1e-15))

    assert calibrated(Jitter(), 0.4, 0.5, 0.6) == (0.5 - 1e-15, 0.5 - 1e-15, 0.5)


@given(calibrator=CALIBRATOR)
def test_saved_and_loaded_it_is_the_same(calibrator: Calibrator) -> None:
    """In every bit, through JSON text."""
    loaded = calibrator_from(json.loads(json.dumps(calibrator.to_dict())))
    assert loaded == calibrator
    assert loaded.to_dict() == calibrator.to_dict()
    assert isinstance(loaded, Calibrator)
    assert loaded.name == calibrator.to_dict()["kind"]
    assert loaded.name in KINDS


@pytest.mark.parametrize(
    ("calibrator", "p", "expected"),
    [
        (Identity(), 0.3, 0.3),
        (Temperature(1), 0.3, 0.3),
        (Temperature(2), 0.9, 0.75),  # Odds of 9 become their root.
        (Temperature(0.5), 0.75, 0.9),
        (Platt(1, 0), 0.3, 0.3),
        (Platt(1, math.log(9)), 0.5, 0.9),
        (Platt(0.5, math.log(3)), 0.9, 0.9),
        (Isotonic((0.2, 0.6), (0.1, 0.5)), 0.0, 0.1),
        (Isotonic((0.2, 0.6), (0.1, 0.5)), 0.2, 0.1),
        (Isotonic((0.2, 0.6), (0.1, 0.5)), 0.3, 0.2),
        (Isotonic((0.2, 0.6), (0.1, 0.5)), 0.6, 0.5),
        (Isotonic((0.2, 0.6), (0.1, 0.5)), 1.0, 0.5),
        (Isotonic((0.4,), (0.7,)), 0.1, 0.7),
    ],
)
def test_known_values(calibrator: Calibrator, p: float, expected: float) -> None:
    """Reckoned by hand."""
    assert calibrator.apply(p) == pytest.approx(expected, abs=1e-12)


def test_trap_27_content_free_certainty_is_clamped() -> None:
    """Zero and infinite odds are taken as very small and very large ones."""
    assert without_bias(1.0, 1.0) == without_bias(0.0, 0.0) == 0.5
    assert 0 < without_bias(0.9, 1.0) < 1e-6
    assert 1 - 1e-6 < without_bias(0.1, 0.0) < 1
    assert [without_bias(p, 0.5) for p in (0.0, 0.1, 0.7, 1.0)] == [0.0, 0.1, 0.7, 1.0]


@given(p=PROBABILITY)
def test_trap_27_an_undecided_content_free_input_changes_nothing(p: float) -> None:
    """Not even by a rounding error."""
    assert without_bias(p, 0.5) == p


@pytest.mark.parametrize(
    ("p", "content_free", "expected"), [(0.9, 0.9, 0.5), (0.9, 0.75, 0.75), (0.5, 0.2, 0.8)]
)
def test_bias_is_divided_out(p: float, content_free: float, expected: float) -> None:
    """Odds by odds: 9 by 9, 9 by 3, 1 by 1/4."""
    assert without_bias(p, content_free) == pytest.approx(expected, abs=1e-12)


@given(p=PROBABILITY, q=PROBABILITY, content_free=PROBABILITY)
def test_without_bias_keeps_order(p: float, q: float, content_free: float) -> None:
    """And stays a probability."""
    low, high = sorted((p, q))
    smaller, larger = without_bias(low, content_free), without_bias(high, content_free)
    # Near 1, log-odds of up to 20 nats add up with an error that a small p magnifies.
    assert 0 <= smaller <= larger + 1e-13 <= 1 + 1e-13


@pytest.mark.parametrize("odd", [-0.1, 1.1, math.nan, "0.5", True, None])
def test_without_bias_refuses_what_is_no_probability(odd: Any) -> None:
    """In either place, by name."""
    with pytest.raises(ConfigError, match="`p`"):
        without_bias(odd, 0.5)
    with pytest.raises(ConfigError, match="`content_free`"):
        without_bias(0.5, odd)


HUGE = 10**400
PLATT: dict[str, object] = {"kind": "platt", "slope": 1.0, "intercept": 0.0}
ISOTONIC: dict[str, object] = {"kind": "isotonic", "x": [0.1, 0.2], "y": [0.3, 0.4]}


EDITED: list[tuple[object, str]] = [
    ([], "is list, not an object"),
    (None, "is NoneType, not an object"),
    ({}, "`kind` is None"),
    ({"kind": "spline"}, "`kind` is 'spline'"),
    ({"kind": ["platt"]}, "`kind`"),
    ({"kind": "identity", "slope": 1.0}, "identity calibrator has `slope`"),
    ({"kind": "temperature"}, "lacks `temperature`"),
    *[
        ({"kind": "temperature", "temperature": odd}, "`temperature` is")
        for odd in (0, -1.0, math.nan, math.inf, HUGE, True, "1", None)
    ],
    ({"kind": "platt", "slope": 1.0}, "lacks `intercept`"),
    *[(PLATT | {"slope": odd}, "`slope` is") for odd in (0.0, -2.0, math.nan, math.inf)],
    *[(PLATT | {"intercept": odd}, "`intercept` is") for odd in (math.nan, -math.inf, "0")],
    (ISOTONIC | {"x": [0.2, 0.1]}, r"`x\[1\]` is 0.1 after 0.2; it must rise"),
    (ISOTONIC | {"x": [0.2, 0.2]}, r"`x\[1\]` is 0.2 after 0.2; it must rise"),
    (ISOTONIC | {"y": [0.4, 0.3]}, r"`y\[1\]` is 0.3 after 0.4; it must not fall"),
    (ISOTONIC | {"x": [0.1]}, "`x` has 1 knots and `y` has 2"),
    (ISOTONIC | {"x": [], "y": []}, "`x` must be a list"),
    (ISOTONIC | {"y": "0.3"}, "`y` must be a list"),
    (ISOTONIC | {"x": [0.1, math.nan]}, r"`x\[1\]` is nan"),
    (ISOTONIC | {"y": [0.1, 1.5]}, r"`y\[1\]` is 1.5"),
    (ISOTONIC | {"y": [False, 0.5]}, r"`y\[0\]` is False"),
]


@pytest.mark.parametrize(("values", "said"), EDITED)
def test_a_calibrator_edited_by_hand_is_refused(values: object, said: str) -> None:
    """The error names the field and says what to do."""
    with pytest.raises(ConfigError, match=said) as caught:
        calibrator_from(values)
    assert caught.value.hint


APPLY = """
import sys
for name in ("numpy", "scipy", "sklearn"):
    sys.modules[name] = None
from guard.calibration import calibrator_from
kinds = [
    {"kind": "identity"},
    {"kind": "temperature", "temperature": 2.0},
    {"kind": "platt", "slope": 1.0, "intercept": 0.0},
    {"kind": "isotonic", "x": [0.0, 1.0], "y": [0.0, 1.0]},
]
print([round(calibrator_from(kind).apply(0.9), 9) for kind in kinds])
"""


def test_applying_needs_no_numpy() -> None:
    """Every kind is read and applied where no third-party module can be imported."""
    done = subprocess.run(
        [sys.executable, "-c", APPLY], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "[0.9, 0.75, 0.9, 0.9]", done.stderr
