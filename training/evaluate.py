"""Measures the embedded judge as it is shipped, and prints every table of its page.

    python training/evaluate.py --data DIR [--model FOLDER] [--few N] [--llm FILE.gguf]
        [--attack FILE] [--json FILE] [--write docs/embedded-judge.md]
        [--card MODEL_CARD.md --log log.jsonl …]

The judge is asked through a gate, so that what it cannot take at once, how its windows are put
together and what it declines are all in the figures. Rows are of the exam half of the held-out
families, on which nothing was trained or calibrated; intervals are of 95 %, over families.
"""

import argparse
import json
import logging
import os
import platform
import re
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from card import card
from data import Row, Split, read
from exams import CALIBRATED_ON, examination, few
from judged import Judged, judged, measured_of, seconds_for
from page import page, written
from robustness import robustness, varied

from guard.bootstrap import Bootstrap
from guard.calibration_error import calibration_error
from guard.decision import Route
from guard.judges import close
from guard.judges.embedded import SHIPPED, EmbeddedJudge
from guard.metrics import Floats, Scored, auroc, share, weighted_f1
from guard.overlap import overlap
from guard.weights import DESCRIPTION

ABOVE_FLOOR = 0.10
"""By so much a judge must be better than plain word overlap."""
ROWS = 200
"""Rows of each label and exam,"""
ROWS_OF = {"squad2": 400, "near_single": 400, "cut_single": 400, "fitzgov": 400, "wikiqa_test": 400}
"""of these, whose rows are short, more,"""
FEWER_ROWS_OF = {"nomiracl_en": 200, "nomiracl_": 60, "among_39": 40}
"""and of these, by the beginning of their names."""
TOLD_ONE_BY_ONE = "ada_lovelace"
SLICED = ("squad2", "near_single", "cut_single")
ASKED_FOR = {
    "a number": r"\bhow (many|much|long|old|far|large|big|tall|often)\b|\bpercent",
    "a time": r"\bwhen\b|\b(what|which|in what|in which) (year|date|day|century|decade|month)\b",
    "a person": r"\bwho(m|se)?\b",
    "a place": r"\bwhere\b|\b(what|which) (city|country|state|town|river|place)\b",
    "a reason or a way": r"\b(why|how)\b",
    "yes or no": r"^\W*(is|are|was|were|do|does|did|has|have|had|can|could|will|would|should)\b",
}
OTHERS = "anything else"
MEASURED_FROM = 0.5  # Where fewer rows were measured, AUROC would be that of odd ones out.
LLM_EXAMS = ("squad2", "near_single", "among_four", "nomiracl_en")
LLM_ROWS = 60
LLM_TOKENS = 4096

Line = dict[str, str | int | float | None]


# ── How well it tells ────────────────────────────────────────────────────────────────────────────


def measured(name: str, rows: Sequence[Row], odds: Sequence[float], split: Split) -> Line:
    """One line of a table: AUROC, its interval, and the floor's."""
    truths = [row.sufficient for row in rows]
    of_judge = Scored(odds, truths)
    groups = [split.family(row) for row in rows]
    found = Bootstrap(groups).intervals(lambda weights: {"auroc": auroc(of_judge, weights)})
    floor = Scored([overlap(row.question, row.contexts) for row in rows], truths)
    return {
        "exam": name,
        "rows": len(rows),
        "groups": len({*groups}),
        "auroc": _rounded(float(auroc(of_judge))),
        "low": _rounded(found["auroc"].low),
        "high": _rounded(found["auroc"].high),
        "floor": _rounded(float(auroc(floor))),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else round(value, 4)


def told(name: str, found: Sequence[Judged], split: Split) -> Line:
    """`measured` of what was measured; no AUROC where most rows were declined."""
    kept = measured_of(found)
    line: Line = {"exam": name, "asked": len(found), "declined": 1 - len(kept) / len(found)}
    line["why"] = ", ".join(sorted({each.why for each in found if each.p is None}))
    if len(kept) < MEASURED_FROM * len(found) or len({each.row.sufficient for each in kept}) < 2:
        return line
    line |= measured(name, [each.row for each in kept], [each.odds for each in kept], split)
    values = line["auroc"], line["floor"]
    is_above = None not in values and float(values[0] or 0) - float(values[1] or 0) >= ABOVE_FLOOR
    return line | {"above_floor": is_above}


def sliced(found: Mapping[str, Sequence[Judged]], split: Split) -> list[Line]:
    """`told` of the exams of one passage together, by what is asked for."""
    by_kind = defaultdict[str, list[Judged]](list)
    for name in SLICED:
        for each in found.get(name, ()):
            by_kind[asked_for(each.row.question)].append(each)
    return [told(kind, by_kind[kind], split) for kind in (*ASKED_FOR, OTHERS) if by_kind[kind]]


def asked_for(question: str) -> str:
    """What a question asks for, by its words."""
    kinds = (kind for kind, words in ASKED_FOR.items() if re.search(words, question, re.IGNORECASE))
    return next(kinds, OTHERS)


def probabilities(found: Sequence[Judged]) -> list[Line]:
    """Row by row, for sets of a few."""
    return [{"sufficient": each.row.sufficient, "p": each.p, "why": each.why} for each in found]


# ── How it is calibrated, and routes ─────────────────────────────────────────────────────────────


def calibration(found: Sequence[Judged], split: Split, answer_at: float | None) -> Line:
    """ECE with its interval, and weighted F1 at .5 and at the profile's cut."""
    kept = measured_of(found)
    scores, truths = np.array([each.p for each in kept]), [each.row.sufficient for each in kept]
    groups = [split.family(each.row) for each in kept]
    error = calibration_error(Scored(scores, truths), groups)
    line: Line = {"rows": len(kept), "groups": len({*groups})}
    line |= {"ece": error.value, "ece_low": error.low, "ece_high": error.high}
    for name, cut in (("f1_at_half", 0.5), ("f1_at_answer", answer_at)):
        if cut is not None:
            line |= _f1(name, scores >= cut, np.array(truths), groups)
    return line


def _f1(name: str, chosen: np.ndarray, truths: np.ndarray, groups: list[str]) -> Line:
    def statistics(weights: Floats) -> dict[str, Floats]:
        return {name: weighted_f1(chosen, ~chosen, truths, weights)}

    found = Bootstrap(groups).intervals(statistics)[name]
    value = float(weighted_f1(chosen, ~chosen, truths, np.ones(len(truths))))
    return {name: value, f"{name}_low": found.low, f"{name}_high": found.high}


def routes(name: str, found: Sequence[Judged], split: Split) -> Line:
    """Shares of the routes, and of what was answered and refused, how much wrongly."""
    taken = np.array([each.route for each in found])
    good = np.array([each.row.sufficient for each in found])
    answered, refused = taken == Route.ANSWER.value, taken == Route.REFUSE.value
    every = np.ones_like(good)
    shares = {
        "answered": (answered, every),
        "asked_back": (taken == Route.CLARIFY.value, every),
        "refused": (refused, every),
        "leak": (~good, answered),
        "false_refusal": (refused, good),
        "refused_wrongly": (good, refused),
    }

    def statistics(weights: Floats) -> dict[str, Floats]:
        return {key: share(*pair, weights) for key, pair in shares.items()}

    groups = [split.family(each.row) for each in found]
    ends = Bootstrap(groups).intervals(statistics)
    values = {key: float(value) for key, value in statistics(np.ones(len(good))).items()}
    line: Line = {"exam": name, "rows": len(found), "groups": len({*groups})}
    for key, value in values.items():
        line |= {key: _rounded(value), f"{key}_low": ends[key].low, f"{key}_high": ends[key].high}
    return line


# ── Everything ───────────────────────────────────────────────────────────────────────────────────


def results(options: argparse.Namespace) -> dict[str, Any]:
    """All figures, ready for JSON."""
    started = time.time()
    judge = EmbeddedJudge(options.model, threads=1)
    sets = read(options.data)
    split = Split(sets)
    if note := split.require(recorded(judge), f"The judge {judge.weights.name}"):
        print(note, file=sys.stderr, flush=True)
    tests = {
        name: few(rows, count_of(name, options.few))
        for name, rows in examination(sets, split).items()
    }
    variants = varied(tests, options.few)
    _tell_time(judge, tests, variants, options)
    found = judged(judge, tests, at_once=options.at_once)
    figures = {
        "judge": about(judge),
        **telling(found, split),
        **routing(judge, found, split),
        "robustness": robustness(judge, variants, split, at_once=options.at_once),
    }
    close(judge)
    if options.llm:
        figures["llm"] = untuned(options.llm, tests, found, split, options)
    if options.attack:
        figures["attack"] = json.loads(options.attack.read_text("utf-8"))
    said = {"seconds": round(time.time() - started), "few": options.few, "split": split.record}
    return figures | said | machine()


def recorded(judge: EmbeddedJudge) -> dict[str, Any] | None:
    """Which rows were held out when the judge was made, if it says so."""
    fields = json.loads((judge.weights.folder / DESCRIPTION).read_text("utf-8"))
    record: dict[str, Any] | None = fields.get("split")
    return record


def _tell_time(
    judge: EmbeddedJudge,
    tests: dict[str, list[Row]],
    variants: dict[str, list[Row]],
    options: argparse.Namespace,
) -> None:
    rows = sum(map(len, [*tests.values(), *variants.values()]))
    minutes = seconds_for(judge, tests | variants, at_once=options.at_once) / 60
    print(f"{rows} rows, about {minutes:.1f} minutes.", file=sys.stderr, flush=True)


def telling(found: Mapping[str, Sequence[Judged]], split: Split) -> dict[str, Any]:
    """How well sufficient contexts are told, exam by exam."""
    return {
        "exams": [told(name, found[name], split) for name in found if name != TOLD_ONE_BY_ONE],
        "slices": sliced(found, split),
        TOLD_ONE_BY_ONE: probabilities(found.get(TOLD_ONE_BY_ONE, ())),
    }


def routing(
    judge: EmbeddedJudge, found: Mapping[str, Sequence[Judged]], split: Split
) -> dict[str, Any]:
    """How well it is calibrated, and what its own profile does with the rows."""
    profile = judge.default_profile
    if profile is None:
        of_squad = calibration(found["squad2"], split, None)
        return {"profile": None, "calibration": of_squad, "routes": []}
    mix = [each for name in CALIBRATED_ON for each in found[name]]
    english = [name for name in found if name != TOLD_ONE_BY_ONE and _is_english(found[name])]
    return {
        "profile": asdict(profile.thresholds),
        "calibration": calibration(found["squad2"], split, profile.thresholds.answer_at),
        "routes": [
            *(routes(name, found[name], split) for name in english),
            routes("together", mix, split),
        ],
    }


def _is_english(found: Sequence[Judged]) -> bool:
    return bool(found) and found[0].row.lang == "en"


def count_of(name: str, few_rows: int) -> int:
    """Rows of each label that an exam takes."""
    fewer = [count for start, count in FEWER_ROWS_OF.items() if name.startswith(start)]
    most = fewer[0] if fewer else ROWS_OF.get(name, ROWS)
    return min(most, few_rows) if few_rows else most


def untuned(
    file: Path,
    tests: Mapping[str, Sequence[Row]],
    found: Mapping[str, Sequence[Judged]],
    split: Split,
    options: argparse.Namespace,
) -> list[Line]:
    """An untuned language model on a few of the rows, and the embedded judge on the same."""
    from guard.judges.gguf import GgufJudge

    rows = {name: few(tests[name], options.few or options.llm_rows) for name in LLM_EXAMS}
    judge = GgufJudge(file, context_tokens=LLM_TOKENS, threads=options.at_once)
    started = time.time()
    said = judged(judge, rows, at_once=1, what=file.name)
    each = (time.time() - started) / sum(map(len, rows.values()))
    judge.close()
    return [
        _beside(told(name, said[name], split), rows[name], found[name], split)
        | {"model": file.name, "seconds": round(each, 2)}
        for name in rows
    ]


def _beside(line: Line, rows: Sequence[Row], found: Sequence[Judged], split: Split) -> Line:
    asked = {*rows}
    own = told(str(line["exam"]), [each for each in found if each.row in asked], split)
    return line | {f"own_{key}": own.get(key) for key in ("auroc", "low", "high", "groups")}


def about(judge: EmbeddedJudge) -> dict[str, Any]:
    """Which judge was measured."""
    weights = judge.weights
    return {
        "name": weights.name,
        "fingerprint": judge.fingerprint,
        "positions": weights.positions,
        "slope": weights.slope,
        "intercept": weights.intercept,
        "sha256": weights.sha256[0],
        "bytes": (weights.folder / "judge.onnx").stat().st_size,
    }


def machine() -> dict[str, str]:
    """Where and when."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if os.name == "posix" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor()
    return {"machine": f"{os.cpu_count()} cores, {cpu}", "date": date.today().isoformat()}


def main() -> None:
    options = _options()
    # What was declined is counted; a line in the log for each would hide the progress bar.
    logging.getLogger("guard").setLevel(logging.ERROR)
    lines = (
        json.loads(options.from_json.read_text("utf-8")) if options.from_json else results(options)
    )
    if options.json:
        options.json.write_text(json.dumps(lines, indent=1) + "\n", "utf-8")
    print(page(lines))
    if options.write:
        options.write.write_text(written(options.write.read_text("utf-8"), lines), "utf-8")
    if options.card:
        options.card.write_text(card(lines, options.log), "utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, help="folder of the labelled sets")
    add(
        "--model", type=Path, default=SHIPPED, help="folder of the judge; unless given, the shipped"
    )
    add("--few", type=int, default=0, help="so many rows of each label only, to try it")
    add("--at-once", type=int, default=os.cpu_count() or 1, help="exams at once, one core each")
    add("--llm", type=Path, help="a GGUF file to compare with, untuned")
    add("--llm-rows", type=int, default=LLM_ROWS, help="rows of each label and exam for it")
    add("--attack", type=Path, help="what `rag-guard attack --json` printed of the same judge")
    add("--json", type=Path, help="also writes the figures there")
    add("--from-json", type=Path, help="prints those figures again, and measures nothing")
    add("--write", type=Path, help="a page, whose tables are written anew")
    add("--card", type=Path, help="writes the model card there")
    add("--log", type=Path, nargs="*", default=[], help="log.jsonl of each training, for the card")
    options = parser.parse_args()
    if options.data is None and options.from_json is None:
        parser.error("give --data DIR, or --from-json FILE")
    return options


if __name__ == "__main__":
    main()
