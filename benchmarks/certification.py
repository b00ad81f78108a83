"""Does the guarantee hold, and what does it cost? Seeded draws from worlds whose risks are known.

    python benchmarks/certification.py [--draws 200] [--pilot] [--labels] [--json]

Each world is a table of cells: how often a row falls into one, the bounds that the judge gives
there, and the probability that such a row is sufficient. So the true risk of any two thresholds is
a sum. For every world, n and bound on the leaks it prints

    promised  share of draws that certify; the power
    broken    share of all draws that certify thresholds whose true leak or false-refusal rate is
              above its bound; at most 5 % by the guarantee, half of it for each of the two
    oracle    the same test at the one pair of thresholds that is likeliest to pass, which nobody
              knows: what a search could be compared with
    informed  the same by one who knows all true rates and also sees, before choosing, how many rows
              each candidate answers; no label. More than any search can reach
    naive     share of draws in which the lowest threshold whose observed leak rate is within the
              bound has a true one above it
    Holm, FST MAPIE's risk control of precision on the same draws and candidates: share of draws
              with a threshold, and of those whose true leak rate is above the bound

With --labels it prints instead how many labels which quality of judge needs: the share of draws
that certify, by AUROC and number of rows, for a calibrated judge whose log-odds are normal and
questions half of which have sufficient contexts.
"""

import argparse
import importlib
import json
import platform
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guard.certificate import Certified
from guard.certification import GRID, certify

# They ship no types.
_stats: Any = importlib.import_module("scipy.stats")
beta, binom = _stats.beta, _stats.binom

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

CELLS = 2000
_PARTS = 41  # Of the distribution of the number answered.
MAX_FALSE_REFUSAL, CONFIDENCE = 0.10, 0.95
LEVEL = (1 - CONFIDENCE) / 2
SIZES = (100, 200, 500, 2000)
BOUNDS = (0.05, 0.10, 0.20)
AUROCS = (0.70, 0.80, 0.87, 0.90, 0.93, 0.95, 0.97, 0.99)
LABELS = (100, 200, 300, 500, 1000, 2000)


_INDEX = {cut: place for place, cut in enumerate(GRID)}


@dataclass(frozen=True, eq=False)
class World:
    """Cells of equal kind; arrays of shape (cells,).

    Attributes:
        share: how often a row falls into each cell; sums to 1.
        low, high: the judge's calibrated bounds there.
        measured: whether the judge gives a verdict there.
        sufficient: P(sufficient) there.
        on_unmeasured: where the policy sends what was not measured.
    """

    share: Floats
    low: Floats
    high: Floats
    measured: Flags
    sufficient: Floats
    on_unmeasured: str = "refuse"

    def routed(self, route: str) -> Flags:
        """Whether what was not measured takes this route, by cell."""
        return ~self.measured & (self.on_unmeasured == route)

    @cached_property
    def leaks(self) -> Floats:
        """P(insufficient | answered) at each candidate; 0 where nothing is answered."""
        rates = list[float]()
        for cut in GRID:
            answered = (self.measured & (self.low >= cut)) | self.routed("answer")
            weight = float(self.share[answered].sum())
            leaked = float((self.share * (1 - self.sufficient))[answered].sum())
            rates.append(leaked / weight if weight else 0.0)
        return np.array(rates)

    @cached_property
    def answered(self) -> Floats:
        """P(answered) at each candidate."""
        by_policy = float(self.share[self.routed("answer")].sum())
        measured = [self.share[self.measured & (self.low >= cut)].sum() for cut in GRID]
        return np.array(measured, dtype=float) + by_policy

    @cached_property
    def false_refusals(self) -> Floats:
        """P(refused | sufficient) at each candidate."""
        mass = self.share * self.sufficient
        refused = [(self.measured & (self.high < cut)) | self.routed("refuse") for cut in GRID]
        lost = np.array([mass[each].sum() for each in refused], dtype=float)
        return lost / float(mass.sum())

    @cached_property
    def lowest_refusing(self) -> int:
        """The first candidate below which a row can be."""
        return int(np.argmax([bool((self.measured & (self.high < cut)).any()) for cut in GRID]))

    def breaks(self, answer_at: float, refuse_below: float, max_leak: float) -> bool:
        """Whether these thresholds have a true rate above its bound."""
        return self.leaks_at(answer_at, max_leak) or self.loses_below(refuse_below)

    def leaks_at(self, answer_at: float, max_leak: float) -> bool:
        """Whether the true leak rate is above its bound."""
        return bool(self.leaks[_INDEX[answer_at]] > max_leak)

    def loses_below(self, refuse_below: float) -> bool:
        """Whether the true rate of false refusals is above its bound."""
        return bool(self.false_refusals[_INDEX[refuse_below]] > MAX_FALSE_REFUSAL)

    def draw(self, n: int, random: np.random.Generator) -> "Draw":
        """``n`` rows."""
        cells = random.choice(len(self.share), n, p=self.share)
        return Draw(self, cells, random.random(n) < self.sufficient[cells])


@dataclass(frozen=True, eq=False)
class Draw:
    """Rows of a world: which cell each fell into, and its label."""

    world: World
    cells: NDArray[np.int64]
    labels: Flags

    @cached_property
    def scores(self) -> Floats:
        """The judge's bounds, as `certify` takes them."""
        world = self.world
        bounds = np.column_stack([world.low, world.high])
        bounds[~world.measured] = np.nan
        return bounds[self.cells]

    def certified(self, max_leak: float, pilot: "Draw | None" = None) -> Any:
        """What `certify` makes of them."""
        return certify(
            self.scores,
            self.labels,
            max_leak=max_leak,
            max_false_refusal=MAX_FALSE_REFUSAL,
            confidence=CONFIDENCE,
            on_unmeasured=self.world.on_unmeasured,
            pilot=None if pilot is None else pilot.scores,
            pilot_sufficient=None if pilot is None else pilot.labels,
        )


# ── Worlds ───────────────────────────────────────────────────────────────────────────────────────

_SCORES = (np.arange(CELLS) + 0.5) / CELLS


def world(kind: str) -> World:
    """One of `WORLDS`, by name."""
    share, sufficient, scores = np.ones(CELLS), _SCORES, _SCORES
    if kind == "informative":
        share = beta.pdf(_SCORES, 0.5, 0.35)
    elif kind == "weak":
        share = beta.pdf(_SCORES, 3, 2)
    elif kind == "uninformative":
        sufficient = np.full(CELLS, 0.5)
    elif kind == "at the bounds":
        return at_the_bounds()
    elif kind == "just above":  # The hardest to be right about: every threshold is a little wrong.
        sufficient, scores = np.full(CELLS, 0.945), 0.93 + 0.03 * _SCORES
    exact = World(share / share.sum(), scores, scores, np.ones(CELLS, dtype=bool), sufficient)
    return exact


def at_the_bounds(max_leak: float = 0.05) -> World:
    """Whatever is answered leaks a hair too often, and what is refused is all insufficient.

    Here a search that had the whole error for the leaks would be wrong twice as often as it may.
    """
    high = _SCORES > 0.5
    scores = np.where(high, 0.94 + 0.04 * (_SCORES - 0.5), 0.02 + 0.02 * _SCORES)
    sufficient = np.where(high, 1 - max_leak - 0.0002, 0.0)
    share = np.full(CELLS, 1 / CELLS)
    return World(share, scores, scores, np.ones(CELLS, dtype=bool), sufficient)


def censored(of: World, width: float = 0.1) -> World:
    """The same, with bounds as a truncated list of logprobs gives them."""
    low, high = np.clip(of.low - width, 0, 1), np.clip(of.high + width, 0, 1)
    return World(of.share, low, high, of.measured, of.sufficient)


def failing(of: World, route: str, share: float = 0.05) -> World:
    """The same, with some rows that cannot be measured, as often sufficient as the others."""
    base = float((of.share * of.sufficient).sum())
    return World(
        np.append(of.share * (1 - share), share),
        np.append(of.low, 0.5),
        np.append(of.high, 0.5),
        np.append(of.measured, False),
        np.append(of.sufficient, base),
        route,
    )


def binormal(auroc: float) -> World:
    """A calibrated judge of this AUROC; the signal-detection model with equal variances."""
    apart = float(_stats.norm.ppf(auroc)) * 2**0.5
    signal = np.linspace(-6 - apart, 6 + apart, CELLS)
    good, bad = (_stats.norm.pdf(signal, side * apart / 2) for side in (1, -1))
    sufficient = good / (good + bad)
    measured = np.ones(CELLS, dtype=bool)
    return World((good + bad) / (good + bad).sum(), sufficient, sufficient, measured, sufficient)


WORLDS = ("informative", "weak", "uninformative", "just above")


# ── What it is compared with ─────────────────────────────────────────────────────────────────────


def oracle_passes(draw: Draw, max_leak: float) -> bool:
    """The exact test at the pair of thresholds that is likeliest to pass."""
    world, n = draw.world, len(draw.cells)
    at = int(np.argmax(_chances(world, n, max_leak)))
    low, _ = draw.scores.T
    answered = (low >= GRID[at]) | world.routed("answer")[draw.cells]
    leaks, rows = int((answered & ~draw.labels).sum()), int(answered.sum())
    passes_leak = rows > 0 and binom.cdf(leaks, rows, max_leak) <= LEVEL
    return bool(passes_leak) and _refusals_pass(draw)


def informed_passes(draw: Draw, max_leak: float) -> bool:
    """The exact test where it is likeliest to pass, given how many rows each candidate answers."""
    world = draw.world
    low, _ = draw.scores.T
    by_policy = world.routed("answer")[draw.cells]
    rows = np.array([int(((low >= cut) | by_policy).sum()) for cut in GRID])
    most = _most_that_pass(rows, max_leak)
    chances = np.where(most >= 0, binom.cdf(most, rows, world.leaks), 0.0)
    at = int(np.argmax(chances))
    leaks = int((((low >= GRID[at]) | by_policy) & ~draw.labels).sum())
    return bool(chances[at] > 0 and leaks <= most[at]) and _refusals_pass(draw)


def _most_that_pass(rows: Any, max_leak: float) -> Floats:
    """The greatest number of leaks that passes, of so many rows; -1 = not even none."""
    most: Floats = binom.ppf(LEVEL, rows, max_leak)
    return np.where(binom.cdf(most, rows, max_leak) > LEVEL, most - 1, most)


def _refusals_pass(draw: Draw) -> bool:
    world = draw.world
    _, high = draw.scores.T
    refused = high < GRID[world.lowest_refusing]
    refused = refused | world.routed("refuse")[draw.cells]
    lost = int((refused & draw.labels).sum())
    return bool(binom.cdf(lost, int(draw.labels.sum()), MAX_FALSE_REFUSAL) <= LEVEL)


@lru_cache(maxsize=256)
def _chances(world: World, n: int, max_leak: float) -> Floats:
    """How likely each candidate for ``answer_at`` is to pass, over the rows that it may answer."""
    # Over the number answered, not at its mean: passing is a saw of that number.
    parts = (np.arange(_PARTS) + 0.5) / _PARTS
    rows = binom.ppf(parts[:, None], n, np.clip(world.answered, 0, 1)[None, :]).astype(int)
    most = _most_that_pass(rows, max_leak)
    chances = np.where(most >= 0, binom.cdf(most, rows, world.leaks[None, :]), 0.0)
    averages: Floats = chances.mean(axis=0)
    return averages


def naive(draw: Draw, max_leak: float) -> int | None:
    """The lowest candidate whose observed leak rate is within the bound."""
    low = draw.world.low[draw.cells]
    for place, cut in enumerate(GRID):
        answered = low >= cut
        if answered.any() and (answered & ~draw.labels).sum() <= max_leak * answered.sum():
            return place
    return None


def mapie(draw: Draw, max_leak: float, method: str) -> int | None:
    """MAPIE's lowest valid candidate, at the level that ours has for the leaks."""

    def probabilities(scores: Any) -> Any:
        return np.column_stack([1 - scores, scores])

    # With a candidate that answers nothing, Holm's method finds nothing at all (MAPIE 1.6).
    most = draw.world.low[draw.cells].max()
    cuts = np.array([cut for cut in GRID if cut <= most])
    control = importlib.import_module("mapie.risk_control").BinaryClassificationController(
        probabilities,
        risk="precision",
        target_level=1 - max_leak,
        confidence_level=1 - LEVEL,
        list_predict_params=cuts,
        fwer_method=method,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        control.calibrate(draw.world.low[draw.cells], draw.labels.astype(int))
    valid = np.ravel(control.valid_predict_params)
    return GRID.index(float(valid.min())) if valid.size else None


# ── Runs ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Shares:
    """Of many draws of one world: see this file's first lines."""

    promised: float
    broken: float
    oracle: float
    informed: float
    leaking: float
    refusing: float

    @classmethod
    def of(
        cls,
        world: World,
        n: int,
        max_leak: float,
        draws: int,
        *,
        pilot: bool = False,
        seed: int = 0,
    ) -> "Shares":
        """Those of so many seeded draws."""
        random = np.random.default_rng([seed, n, int(1000 * max_leak)])
        promised = broken = oracle = informed = leaking = refusing = 0
        for _ in range(draws):
            draw = world.draw(n, random)
            result = draw.certified(max_leak, world.draw(n, random) if pilot else None)
            if isinstance(result, Certified):
                cuts = result.thresholds
                promised += 1
                broken += world.breaks(cuts.answer_at, cuts.refuse_below, max_leak)
                leaking += world.leaks_at(cuts.answer_at, max_leak)
                refusing += world.loses_below(cuts.refuse_below)
            oracle += oracle_passes(draw, max_leak)
            informed += informed_passes(draw, max_leak)
        counts = (promised, broken, oracle, informed, leaking, refusing)
        return cls(*(count / draws for count in counts))


def others(world: World, n: int, max_leak: float, draws: int) -> dict[str, float]:
    """What other ways to choose a threshold do on draws of one world."""
    random = np.random.default_rng([1, n, int(1000 * max_leak)])
    found: dict[str, float] = dict.fromkeys(
        ("naive", "Holm", "Holm broken", "FST", "FST broken"), 0.0
    )
    for _ in range(draws):
        draw = world.draw(n, random)
        chosen = naive(draw, max_leak)
        found["naive"] += chosen is not None and world.leaks[chosen] > max_leak
        for name, method in (("Holm", "bonferroni_holm"), ("FST", "fixed_sequence")):
            place = mapie(draw, max_leak, method)
            found[name] += place is not None
            found[f"{name} broken"] += place is not None and world.leaks[place] > max_leak
    return {name: count / draws for name, count in found.items()}


def table(draws: int, sizes: Sequence[int] = SIZES, *, pilot: bool = False) -> list[dict[str, Any]]:
    """A row for each world, n and bound."""
    rows = list[dict[str, Any]]()
    for kind in WORLDS:
        for n in sizes:
            for max_leak in BOUNDS:
                ours = Shares.of(world(kind), n, max_leak, draws, pilot=pilot)
                few = others(world(kind), n, max_leak, min(draws, 50))
                rows.append({"world": kind, "n": n, "max_leak": max_leak, **vars(ours), **few})
    return rows


def labels_needed(draws: int) -> list[dict[str, Any]]:
    """A row for each quality of judge and bound: the share of draws that certify, by n."""
    rows = list[dict[str, Any]]()
    for auroc in AUROCS:
        for max_leak in BOUNDS[:2]:
            judge = binormal(auroc)
            shares = {str(n): Shares.of(judge, n, max_leak, draws).promised for n in LABELS}
            rows.append({"auroc": auroc, "max_leak": max_leak, **shares})
    return rows


def main() -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description="Does the guarantee hold, and what does it cost?")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pilot", action="store_true", help="with a pilot, as many rows")
    parser.add_argument("--labels", action="store_true")
    options = parser.parse_args()
    if options.labels:
        _show_labels(labels_needed(options.draws), options)
        return
    rows = table(options.draws, pilot=options.pilot)
    if options.json:
        print(json.dumps(rows))
        return
    print(
        f"Python {platform.python_version()}, {options.draws} draws a row (others: at most 50); "
        f"false refusals at most {MAX_FALSE_REFUSAL:.0%}, confidence {CONFIDENCE:.0%}"
    )
    names = (
        "promised",
        "broken",
        "oracle",
        "informed",
        "naive",
        "Holm",
        "Holm broken",
        "FST",
        "FST broken",
    )
    print(f"{'world':14}{'n':>6}{'leak':>6}" + "".join(f"{name:>12}" for name in names))
    for row in rows:
        print(
            f"{row['world']:14}{row['n']:>6}{row['max_leak']:>6.2f}"
            + "".join(f"{row[name]:>12.3f}" for name in names)
        )


def _show_labels(rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(rows))
        return
    print(f"share of {options.draws} draws that certify; false refusals at most 10 %")
    print("| AUROC | leaks at most | " + " | ".join(f"n = {n:,}" for n in LABELS) + " |")
    print("|---|---|" + "---|" * len(LABELS))
    for row in rows:
        shares = " | ".join(f"{row[str(n)]:.2f}" for n in LABELS)
        print(f"| {row['auroc']:.2f} | {row['max_leak']:.2f} | {shares} |")


if __name__ == "__main__":
    main()
