"""A folder of an embedded judge that says the same of everything: small, and ours to damage.

ONNX files are protocol buffers (https://onnx.ai/onnx/repo-docs/IR.html), of which this writes the
few parts that a model of one constant needs.
"""

import hashlib
import json
import string
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guard.encoder import INPUTS
from guard.encoding import FORMAT

_FLOAT, _INT64 = 1, 7
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def folder(
    at: Path,
    odds: float = 1.0,
    *,
    model: bytes | None = None,
    tokenizer: str | None = None,
    **changed: Any,
) -> Path:
    """Writes all three files, with the right checksums.

    Args:
        at: the folder; made if it is not there.
        odds: the log-odds of True, in nats.
        model: another one.
        tokenizer: another one's description.
        changed: fields of judge.json.
    """
    at.mkdir(exist_ok=True)
    files = {
        "judge.onnx": constant([[0.0, odds]]) if model is None else model,
        "tokenizer.json": (letters() if tokenizer is None else tokenizer).encode(),
    }
    for name, content in files.items():
        (at / name).write_bytes(content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    (at / "judge.json").write_text(json.dumps(described(hashes) | changed))
    return at


def described(hashes: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a judge.json."""
    return {
        "name": "tiny",
        "input": FORMAT,
        "labels": ["False", "True"],
        "positions": 64,
        "calibration": {"slope": 1.0, "intercept": 0.0},
        "sha256": dict(hashes),
    }


def letters() -> str:
    """A vocabulary of ASCII letters and digits, which can read any English text."""
    known = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    tokens = [*_SPECIAL, *known, *(f"##{one}" for one in known)]
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [_added(number, token) for number, token in enumerate(_SPECIAL)],
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": True,
                "strip_accents": None,
                "lowercase": True,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": {token: number for number, token in enumerate(tokens)},
            },
        }
    )


def _added(number: int, token: str) -> dict[str, object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, "special": True, **flags}


def constant(rows: Sequence[Sequence[float]], inputs: Sequence[str] = INPUTS) -> bytes:
    """A model that gives these rows, whatever it is given."""
    shape = (len(rows), len(rows[0]))
    data = struct.pack(f"<{shape[0] * shape[1]}f", *(one for row in rows for one in row))
    tensor = b"".join(_number(1, size) for size in shape)
    tensor += _number(2, _FLOAT) + _bytes(8, b"values") + _bytes(9, data)
    node = _bytes(1, b"values") + _bytes(2, b"logits") + _bytes(4, b"Identity")
    graph = _bytes(1, node) + _bytes(2, b"tiny") + _bytes(5, tensor)
    graph += b"".join(_bytes(11, _value(name, _INT64, (None, None))) for name in inputs)
    graph += _bytes(12, _value("logits", _FLOAT, shape))
    opset = _number(2, 17)
    return _number(1, 8) + _bytes(7, graph) + _bytes(8, opset)


def _value(name: str, kind: int, shape: Sequence[int | None]) -> bytes:
    sizes = b"".join(_bytes(1, b"" if size is None else _number(1, size)) for size in shape)
    tensor = _number(1, kind) + _bytes(2, sizes)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    head = b""
    while value > 0x7F:
        head += bytes([value & 0x7F | 0x80])
        value >>= 7
    return head + bytes([value])
