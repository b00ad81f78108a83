"""The encoder behind the embedded judge: an ONNX file, loaded by onnxruntime."""

import ctypes
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from guard._extras import require_extra
from guard.encoding import Tokens
from guard.weights import MODEL

# Otherwise, from 1.29 on, onnxruntime tells Microsoft which models are run, on a thread of its own
# that a forked child cannot end without.
_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"
INPUTS = ("input_ids", "token_type_ids", "attention_mask")


class Session(Protocol):
    """A loaded model: the part of ``onnxruntime.InferenceSession`` that is used here."""

    def run(self, outputs: None, inputs: Mapping[str, object]) -> Sequence[Any]: ...


def session_of(model: bytes, threads: int) -> Session:
    """Loads a model.

    Args:
        model: what is in the ONNX file.
        threads: for one query.

    Raises:
        ConfigError: the extra ``embedded`` is not installed.
        ValueError: in a clause, why it cannot be loaded.
    """
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Threads that wait for work would otherwise spin, and slow down whatever else there is to do.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session: Session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own errors have no base that is narrower.
        raise ValueError(f"onnxruntime cannot read {MODEL}") from error
    return session


def _onnxruntime() -> Any:
    os.environ.setdefault(_NO_TELEMETRY, "1")
    module = require_extra("onnxruntime", "embedded")
    if os.environ[_NO_TELEMETRY] == "1":
        module.disable_telemetry_events()  # On Windows the variable is not read.
    return module


def log_odds(session: Session, tokens: Tokens) -> float:
    """What the model says, in nats; above 0, True is likelier.

    Raises:
        ValueError: in a clause, why it is no finite number.
    """
    import numpy as np

    rows = (tokens.ids, tokens.types, [1] * len(tokens.ids))
    arrays = [np.array([row], dtype=np.int64) for row in rows]
    try:
        output = np.asarray(session.run(None, dict(zip(INPUTS, arrays, strict=True)))[0])
    except Exception as error:  # onnxruntime's own errors have no base that is narrower.
        raise ValueError(f"onnxruntime cannot run {MODEL} on {', '.join(INPUTS)}") from error
    if output.shape != (1, 2) or output.dtype.kind != "f":
        raise ValueError(f"{MODEL} does not give two numbers for a query")
    odds = float(output[0, 1]) - float(output[0, 0])
    if not math.isfinite(odds):
        raise ValueError(f"{MODEL} gives what is no number")
    return odds


def never_free(session: Session) -> None:
    """Freed in a forked child, now or at the interpreter's end, it would wait for its threads."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
