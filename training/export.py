"""Exports a trained judge: ONNX in int8, its tokens, its calibration and its default profile.

``python training/export.py --model OUT/checkpoint --data DIR --out DIR`` writes ``judge.onnx``,
``tokenizer.json``, ``judge.json`` and ``profile.json``, which `guard.judges.EmbeddedJudge` loads;
the same in float32 into ``DIR/float32``; and prints what int8 costs on held-out rows.
"""

import argparse
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from calibrate import calibrated, calibration_rows, describe
from data import Row, Split, read
from evaluate import measured
from exams import exams, few
from judged import judged
from model import POSITIONS, Judge, Tokens, padded
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.torch import load_file
from transformers import BertConfig

from guard.encoder import INPUTS
from guard.judges.embedded import EmbeddedJudge
from guard.weights import MODEL, TOKENIZER, Weights

NAME = "rag-guard-embedded-1"


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


def loaded(folder: Path) -> Judge:
    """The judge that `train.py` wrote into ``folder``."""
    judge = Judge(BertConfig.from_pretrained(folder))
    judge.load_state_dict(load_file(folder / "model.safetensors"))
    return judge.eval()


def finish(folder: Path, tokenizer: Path, name: str, positions: int) -> None:
    """Makes of a folder with a ``judge.onnx`` a judge that can be loaded."""
    shutil.copyfile(tokenizer, folder / TOKENIZER)
    files = [folder / MODEL, folder / TOKENIZER]
    describe(
        folder,
        name=name,
        input="[CLS] question [SEP] passage [SEP] passage [SEP] ...",
        labels=["False", "True"],
        positions=positions,
        calibration={"slope": 1.0, "intercept": 0.0},
        sha256={file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        bytes={file.name: file.stat().st_size for file in files},
    )


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    whole, small = options.out / "float32", options.out
    whole.mkdir(parents=True, exist_ok=True)
    to_onnx(loaded(options.model), whole / MODEL)
    to_int8(whole / MODEL, small / MODEL)
    for folder in (whole, small):
        finish(folder, options.model / TOKENIZER, options.name, options.positions)
    sets = read(options.data)
    split = Split(sets)
    chosen = calibrated(small, calibration_rows(sets, split, options.calibrate))
    for line in compared(whole, small, exams(sets, split, half="exam"), split, options.few):
        print(json.dumps(line), flush=True)
    print(json.dumps(chosen))


def compared(
    whole: Path, small: Path, tests: dict[str, list[Row]], split: Split, count: int
) -> Iterator[dict[str, object]]:
    """What int8 costs, exam by exam: AUROC of both, and by how much their log-odds differ."""
    rows = {name: few(tests[name], count) for name in tests}
    in_int8, in_float32 = (
        judged(EmbeddedJudge(folder, threads=1), rows, what=folder.name)
        for folder in (small, whole)
    )
    calibration = Weights.load(small)
    for name in rows:
        pairs = zip(in_int8[name], in_float32[name], strict=True)
        # What only one of the two measures has nothing to be compared with.
        both = [pair for pair in pairs if pair[0].p is not None and pair[1].p is not None]
        own, exact = ([each.odds for each in side] for side in zip(*both, strict=True))
        kept = [pair[0].row for pair in both]
        raw = (np.array(own) - calibration.intercept) / calibration.slope
        yield {
            **measured(name, kept, own, split),
            "float32": measured(name, kept, exact, split)["auroc"],
            "mean_shift": round(float(np.abs(raw - np.array(exact)).mean()), 4),
        }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder that train.py wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder of the labelled sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default=NAME)
    parser.add_argument("--positions", type=int, default=POSITIONS, help="tokens read at once")
    parser.add_argument("--calibrate", type=int, default=300, help="rows of each label and exam")
    parser.add_argument("--few", type=int, default=100, help="to compare int8 with float32 on")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
