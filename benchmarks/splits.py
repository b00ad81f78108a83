"""Does the promise hold on real rows? Random splits of judged rows, by group.

    python benchmarks/splits.py ROWS.jsonl [--verdicts FILE] [--group FIELD]
        [--max-leak 0.05 0.1 0.2] [--splits 200]

Half of the groups are calibrated and certified on, the other half shows what then happens. The rows
are those of ``rag-guard eval ROWS.jsonl --verdicts FILE``; without verdicts a judge that shares
words stands in: P(sufficient) is the share of the question's words that the best context holds.

A violation counts here where the observed rate on the other half is above its bound. That half has
noise of its own, so even a promise that is kept can look broken: a rate that is exactly at its
bound is seen above it in half of all splits. Splits overlap, and so does what they show.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from guard._json import as_list
from guard.calibrating import calibrate
from guard.dataset import Dataset, read
from guard.evaluation import evaluate
from guard.gate import Gate
from guard.judgement import Judgement
from guard.overlap import overlap
from guard.policy import Policy
from guard.query import Query
from guard.survey import survey
from guard.testing import ScriptedJudge


def judged(dataset: Dataset, verdicts: str | None) -> list[Judgement]:
    """The rows' judgements, from a file of verdicts or by shared words."""
    judge = ScriptedJudge(_shared_words, name="word-overlap")
    if verdicts is None:
        return survey(Gate(judge), dataset)
    with open(verdicts, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file][1:]
    by_id = {line["id"]: line for line in lines}
    return [Judgement.from_dict(by_id[row.id]) for row in dataset.rows]


def _shared_words(query: Query) -> float:
    return overlap(query.question, query.contexts)


def groups_of(path: str, field: str) -> list[str]:
    """What each row's ``field`` names, in the order of the file."""
    with open(path, encoding="utf-8") as file:
        values = [json.loads(line)[field] for line in file if line.strip()]
    firsts = [as_list(value) for value in values]
    return [str(first[0] if first else value) for first, value in zip(firsts, values, strict=True)]


def split(judgements: Sequence[Judgement], seed: int) -> tuple[list[Judgement], list[Judgement]]:
    """Two halves; no group is in both."""
    groups = sorted({each.group for each in judgements})
    chosen = np.random.default_rng(seed).permutation(len(groups))[: len(groups) // 2]
    first = {groups[int(place)] for place in chosen}
    ours = [each for each in judgements if each.group in first]
    return ours, [each for each in judgements if each.group not in first]


def shares(judgements: Sequence[Judgement], max_leak: float, splits: int) -> dict[str, Any]:
    """In how many splits thresholds are certified, and in how many of those a rate is above."""
    certified = leaking = refusing = 0
    rates = list[float]()
    for seed in range(splits):
        ours, theirs = split(judgements, seed)
        found = calibrate(
            ours, Policy(), max_leak=max_leak, max_false_refusal=0.10, kind="platt", seed=seed
        )
        if found.profile is None:
            continue
        certified += 1
        figures = evaluate(theirs, Policy(), found.profile, resamples=1).figures
        leak, refusal = figures["leak"].value, figures["false_refusal"].value
        leaking += leak is not None and leak > max_leak
        refusing += refusal is not None and refusal > 0.10
        rates += [] if leak is None else [leak]
    return {
        "max_leak": max_leak,
        "splits": splits,
        "certified": certified,
        "leak_above": leaking,
        "false_refusal_above": refusing,
        "mean_leak": float(np.mean(rates)) if rates else None,
    }


def main() -> None:
    """Runs the splits and prints what they show."""
    parser = argparse.ArgumentParser(description="Does the promise hold on real rows?")
    parser.add_argument("rows")
    parser.add_argument("--verdicts")
    parser.add_argument("--max-leak", type=float, nargs="+", default=[0.05, 0.10, 0.20])
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--group", help="the field that names a row's group, or a list's first")
    parser.add_argument("--by-row", action="store_true", help="as if each row were its own group")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    judgements = judged(read([options.rows]), options.verdicts)
    if options.group:
        names = groups_of(options.rows, options.group)
        judgements = [
            replace(each, group=name) for each, name in zip(judgements, names, strict=True)
        ]
    if options.by_row:
        judgements = [replace(each, group=each.id) for each in judgements]
    groups = len({each.group for each in judgements})
    found = [shares(judgements, bound, options.splits) for bound in options.max_leak]
    if options.json:
        print(json.dumps({"rows": len(judgements), "groups": groups, "splits": found}))
        return
    print(f"{len(judgements)} rows in {groups} groups, {options.splits} splits")
    for row in found:
        mean = "" if row["mean_leak"] is None else f", mean leak rate {row['mean_leak']:.3f}"
        print(
            f"leaks at most {row['max_leak']:.2f}: certified in {row['certified']} of "
            f"{row['splits']} splits; of those, leaks observed above it in {row['leak_above']}, "
            f"false refusals above 0.10 in {row['false_refusal_above']}{mean}"
        )


if __name__ == "__main__":
    main()
