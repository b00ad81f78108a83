"""Prints how well a judge tells sufficient contexts: AUROC with 95 % intervals by group."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from data import Row, Split, read
from exams import exams, few
from model import Codec, Judge, forward_of, scores
from safetensors.torch import load_file
from transformers import BertConfig

from guard.bootstrap import Bootstrap
from guard.metrics import Scored, auroc
from guard.overlap import overlap

Line = dict[str, str | int | float | None]


def measured(name: str, rows: Sequence[Row], odds: Sequence[float], split: Split) -> Line:
    """One line of the table: the judge's AUROC, its interval, and the floor's."""
    truths = [row.sufficient for row in rows]
    judged = Scored(odds, truths)
    groups = [split.family(row) for row in rows]
    found = Bootstrap(groups).intervals(lambda weights: {"auroc": auroc(judged, weights)})["auroc"]
    floor = Scored([overlap(row.question, row.contexts) for row in rows], truths)
    return {
        "exam": name,
        "rows": len(rows),
        "groups": len({*groups}),
        "auroc": _rounded(float(auroc(judged))),
        "low": _rounded(found.low),
        "high": _rounded(found.high),
        "floor": _rounded(float(auroc(floor))),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else round(value, 4)


def loaded(folder: Path) -> tuple[Judge, Codec]:
    """The judge that `train.py` wrote into ``folder``."""
    judge = Judge(BertConfig.from_pretrained(folder))
    judge.load_state_dict(load_file(folder / "model.safetensors"))
    return judge.eval(), Codec(folder / "tokenizer.json")


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    judge, codec = loaded(options.model)
    sets = read(options.data)
    split = Split(sets)
    for name, rows in exams(sets, split).items():
        chosen = few(rows, options.few) if options.few else rows
        odds = scores(forward_of(judge), codec, chosen, length=options.length)
        print(json.dumps(measured(name, chosen, odds, split)), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the labelled sets")
    parser.add_argument("--model", type=Path, required=True, help="folder that train.py wrote")
    parser.add_argument("--few", type=int, default=0, help="so many rows of each label only")
    parser.add_argument("--length", type=int, default=384, help="tokens in a window")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
