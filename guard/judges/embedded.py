"""The embedded judge: a model of our own that comes with the package. No key, no network.

A cross-encoder of 22 million parameters reads question and contexts at once, and says True or
False. What it was trained on, how good it is and where it fails: docs/embedded-judge.md.
"""

import math
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from guard._extras import require_extra
from guard._fork import renew_in_child
from guard._require import require_number
from guard.encoding import Encoding, Tokens
from guard.errors import ConfigError, JudgeRejected, Unmeasured
from guard.profile import Profile
from guard.query import Query
from guard.verdict import Usage, Verdict
from guard.weights import MODEL, Weights
from guard.worker import shared_workers

SHIPPED = Path(str(files("guard") / "data" / "embedded"))
"""The folder of the model that comes with the package."""

PROFILE = "profile.json"
"""In a judge's folder: thresholds for a start, before you have labelled rows of your own."""

INPUTS = ("input_ids", "token_type_ids", "attention_mask")
MAX_THREADS = 64
_USUAL_THREADS = 4
# A token of real text has four characters; a text with so many more is not tried.
_CHARS_TO_A_TOKEN = 20
_MOST_QUESTION = 0.5  # Share of the positions.
# The Latin letters of Unicode, but for those that only phoneticians and typesetters use.
_LATIN = ((0x0041, 0x024F), (0x1E00, 0x1EFF))
_LEAST_LATIN = 0.5

_READS_ENGLISH = "The embedded judge was trained on English and reads Latin letters alone."


class _Session(Protocol):
    """The part of ``onnxruntime.InferenceSession`` that is used here."""

    def run(self, outputs: None, inputs: Mapping[str, object]) -> Sequence[Any]: ...


class EmbeddedJudge:
    """Judges with a small encoder in this process, through onnxruntime. No key, no network.

    It reads 512 tokens at once, some 350 words. What is longer it leaves to the gate, which judges
    it in windows (`guard.windows`). Earlier turns are not read: put into the question what it needs
    of them, as LlamaIndex's condensing engines do. Retrieved text can lie to it, but not command
    it: it follows no instructions.

    Carried over a fork, it loads its model anew in the child.

    Args:
        folder: of another model, as ``training/export.py`` writes it.
        threads: for one verdict, in [1, 64]; ``None`` = all cores, four at most.

    Attributes:
        weights: which model it is.

    Raises:
        ConfigError: a file is missing or damaged, or the extra ``embedded`` is not installed.
    """

    cancellable = False

    def __init__(
        self, folder: str | os.PathLike[str] = SHIPPED, *, threads: int | None = None
    ) -> None:
        if threads is not None:
            require_number("threads", threads, 1, MAX_THREADS, whole=True)
        self.weights = Weights.load(Path(folder))
        self.model: str | None = self.weights.name
        self.fingerprint = f"encoder:{self.weights.name}:{self.weights.digest[:16]}"
        self._threads = threads or min(os.cpu_count() or 1, _USUAL_THREADS)
        self._is_closed = False
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._encoding, self._session = self._load()
        renew_in_child(self)

    @property
    def default_profile(self) -> Profile | None:
        """Its thresholds for a start; ``None`` where its folder has no profile.

        A gate without a profile takes them, unless its policy has thresholds of its own.

        Raises:
            ConfigError: the profile is damaged.
        """
        file = self.weights.folder / PROFILE
        return Profile.load(file) if file.is_file() else None

    def judge(self, query: Query, *, timeout: float) -> Verdict:
        """Measures one query; see `guard.judge.Judge`. It cannot be interrupted.

        Raises:
            Unmeasured: question and contexts are longer than it reads at once
                (``context_too_long``), or written in letters that it cannot read (``refusal``).
            JudgeRejected: it is closed.
        """
        tokens = self._fitting(query)
        p = self._probability(tokens)
        return Verdict(
            p_true=p,
            low=p,
            high=p,
            mass=1.0,
            emitted=None,
            signal="encoder",
            fingerprint=self.fingerprint,
            model=self.model,
            usage=Usage(input_tokens=len(tokens.ids), output_tokens=0, requests=0),
            history_coverage=0.0 if any(turn.text.strip() for turn in query.history) else 1.0,
        )

    async def ajudge(self, query: Query, *, timeout: float) -> Verdict:
        """Measures one query on a worker thread; cancelling it leaves the call behind there."""
        return await shared_workers.acall(partial(self.judge, query, timeout=timeout), timeout)

    def close(self) -> None:
        """Frees the model; later queries are rejected."""
        with self._lock:
            self._is_closed, self._session = True, None

    def begin_anew(self) -> None:
        """In a forked child, where it is called by itself: onnxruntime's threads are not here."""
        self._lock, self._session = threading.Lock(), None

    def _load(self) -> tuple[Encoding, _Session]:
        model, description = self.weights.read()
        try:
            return Encoding(description), _session(model, self._threads)
        except ValueError as error:
            raise ConfigError(
                f"The embedded judge in {str(self.weights.folder)!r} cannot be loaded: {error}.",
                hint="Its files may be of a newer version; write them again with this one.",
            ) from error

    def _open(self) -> _Session:
        with self._lock:
            if self._is_closed:
                raise JudgeRejected("This EmbeddedJudge is closed.", hint="Make a new one.")
            if self._session is None:
                self._encoding, self._session = self._load()
            return self._session

    def _fitting(self, query: Query) -> Tokens:
        """The query in tokens, if the model can read so many."""
        most = self.weights.positions
        contexts = [text for text in query.contexts if text.strip()]
        if sum(map(len, (query.question, *contexts))) > most * _CHARS_TO_A_TOKEN:
            raise _too_long(most)
        _require_latin(query)
        question, *passages = self._encoding.pieces([query.question, *contexts])
        if len(question) > most * _MOST_QUESTION:
            raise _question_too_long(len(question), int(most * _MOST_QUESTION))
        tokens = self._encoding.joined(question, passages)
        if len(tokens.ids) > most:
            raise _too_long(most)
        return tokens

    def _probability(self, tokens: Tokens) -> float:
        import numpy as np

        arrays = (tokens.ids, tokens.types, [1] * len(tokens.ids))
        inputs = [np.array([row], dtype=np.int64) for row in arrays]
        [(no, yes)] = self._open().run(None, dict(zip(INPUTS, inputs, strict=True)))[0]
        return self.weights.probability(float(yes) - float(no))


def _session(model: bytes, threads: int) -> _Session:
    onnxruntime = require_extra("onnxruntime", "embedded")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Threads that wait for work would otherwise spin, and slow down whatever else there is to do.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session: _Session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own errors have no base that is narrower.
        raise ValueError(f"onnxruntime cannot read {MODEL}") from error
    return session


def _require_latin(query: Query) -> None:
    """Letters of other scripts are read one by one, if at all: what came of it would be noise."""
    for what, texts in (("question", [query.question]), ("passages", query.contexts)):
        if _latin(texts) < _LEAST_LATIN:
            raise Unmeasured(
                f"Most letters of the {what} are not Latin. {_READS_ENGLISH}",
                kind="refusal",
                hint="Use another judge for such queries, e.g. behind this one in a chain.",
            )


def _latin(texts: Iterable[str]) -> float:
    """The share of Latin letters among all letters, in [0, 1]; 1 where there are none."""
    letters = [ord(letter) for text in texts for letter in text if letter.isalpha()]
    latin = sum(any(low <= code <= high for low, high in _LATIN) for code in letters)
    return latin / len(letters) if letters else 1.0


def _too_long(most: int) -> Unmeasured:
    return Unmeasured(
        f"Question and contexts have more than the {most} tokens that the embedded judge reads.",
        kind="context_too_long",
        hint="A gate judges them in windows; else retrieve fewer passages.",
    )


def _question_too_long(tokens: int, most: int) -> Unmeasured:
    return Unmeasured(
        f"The question has {tokens} tokens; the embedded judge reads {most} of a question.",
        kind="context_too_long",
        hint="Shorten the question.",
    )
