"""Exports a trained judge: ONNX in int8, its tokens, and what a program must know of both.

``python training/export.py --model OUT/checkpoint --data DIR --out DIR`` writes ``judge.onnx``,
``tokenizer.json`` and ``judge.json``, and prints what int8 costs on held-out rows.
"""

import argparse
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from data import Row, Split, read
from evaluate import loaded, measured
from exams import exams, few
from model import POSITIONS, QUESTION_TOKENS, Forward, Judge, Tokens, padded, scores
from onnxruntime.quantization import QuantType, quantize_dynamic
from sklearn.linear_model import LogisticRegression

CALIBRATED_ON = ("squad2", "near_single", "cut_single", "among_four", "multi_hop")
INPUTS = ("input_ids", "token_type_ids", "attention_mask")


def to_onnx(judge: Judge, file: Path) -> None:
    """Writes the judge in float32, for any number of rows and tokens."""
    judge.encoder.set_attn_implementation("eager")
    sample = tuple(
        tensor.clone() for tensor in padded([Tokens([101, 7, 102, 8], [0, 0, 0, 1])] * 2)
    )
    rows, tokens = torch.export.Dim("rows", max=4096), torch.export.Dim("tokens", max=POSITIONS)
    torch.onnx.export(
        judge.eval(),
        sample,
        str(file),
        input_names=list(INPUTS),
        output_names=["logits"],
        dynamic_shapes=({0: rows, 1: tokens},) * 3,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def to_int8(source: Path, target: Path) -> None:
    """Weights in eight bits, activations scaled as they come.

    Weights take seven of the eight bits: CPUs that have AVX2 but not VNNI add up products in
    sixteen bits, which would overflow, and the same file would give other verdicts there.
    """
    graph = onnx.load(source)
    del graph.graph.value_info[:]  # The exporter's shapes are those before it folded constants.
    quantize_dynamic(
        graph, str(target), weight_type=QuantType.QInt8, per_channel=True, reduce_range=True
    )


def forward_of_file(file: Path, *, threads: int) -> Forward:
    """The judge in an ONNX file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def forward(batch: Sequence[Tokens]) -> Sequence[Sequence[float]]:
        arrays = (tensor.numpy() for tensor in padded(batch))
        return session.run(None, dict(zip(INPUTS, arrays, strict=True)))[0].tolist()

    return forward


def platt(odds: Sequence[float], truths: Sequence[bool]) -> tuple[float, float]:
    """Slope and intercept of P(True) = sigmoid(slope · odds + intercept) (Platt 1999).

    Both labels weigh alike: how often contexts suffice is for the user's own rows to say.
    """
    fitted = LogisticRegression(C=1e6, class_weight="balanced").fit(
        np.array(odds).reshape(-1, 1), np.array(truths)
    )
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    judge, codec = loaded(options.model)
    whole, small = options.out / "judge.float32.onnx", options.out / "judge.onnx"
    to_onnx(judge, whole)
    to_int8(whole, small)
    shutil.copyfile(options.model / "tokenizer.json", options.out / "tokenizer.json")
    sets = read(options.data)
    split = Split(sets)
    chosen = {name: few(rows, options.few) for name, rows in exams(sets, split).items()}
    forwards = [forward_of_file(file, threads=options.threads) for file in (whole, small)]
    odds = [
        {name: scores(run, codec, rows, length=options.length) for name, rows in chosen.items()}
        for run in forwards
    ]
    table = [
        _line(name, rows, odds[0][name], odds[1][name], split) for name, rows in chosen.items()
    ]
    for line in table:
        print(json.dumps(line), flush=True)
    _describe(options, [small, options.out / "tokenizer.json"], _calibration(chosen, odds[1]))


def _line(
    name: str, rows: list[Row], whole: list[float], small: list[float], split: Split
) -> dict[str, Any]:
    line: dict[str, Any] = {**measured(name, rows, small, split)}
    exact = measured(name, rows, whole, split)["auroc"]
    return {
        **line,
        "float32": exact,
        "mean_shift": round(float(np.abs(np.subtract(whole, small)).mean()), 4),
    }


def _calibration(chosen: dict[str, list[Row]], odds: dict[str, list[float]]) -> dict[str, float]:
    names = [name for name in CALIBRATED_ON if name in chosen]
    together = [score for name in names for score in odds[name]]
    truths = [row.sufficient for name in names for row in chosen[name]]
    slope, intercept = platt(together, truths)
    return {"slope": slope, "intercept": intercept, "rows": len(truths)}


def _describe(
    options: argparse.Namespace, files: list[Path], calibration: dict[str, float]
) -> None:
    fields = {
        "input": "[CLS] question [SEP] passage [SEP] passage [SEP] ...",
        "labels": ["False", "True"],
        "positions": POSITIONS,
        "window": options.length,
        "question_tokens": QUESTION_TOKENS,
        "calibration": calibration,
        "sha256": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        "bytes": {file.name: file.stat().st_size for file in files},
    }
    text = json.dumps(fields, indent=2) + "\n"
    (options.out / "judge.json").write_text(text, encoding="utf-8")
    print(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder that train.py wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder of the labelled sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--few", type=int, default=500, help="rows of each label and exam")
    parser.add_argument("--length", type=int, default=384, help="tokens in a window")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
