"""The embedded judge: a model of our own that comes with the package. No key, no network.

A cross-encoder of 22 million parameters reads question and contexts at once, and says True or
False. What it was trained on, how good it is and where it fails: docs/embedded-judge.md.
"""

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from guard._fork import renew_in_child
from guard._require import require_number
from guard.encoder import Session, log_odds, never_free, session_of
from guard.encoding import Encoding, Tokens, foreign_share
from guard.errors import ConfigError, JudgeRejected, Unmeasured, out_of_time
from guard.profile import Profile
from guard.query import Query
from guard.verdict import Usage, Verdict
from guard.weights import SHIPPED as SHIPPED
from guard.weights import Weights, again
from guard.worker import shared_workers

PROFILE = "profile.json"
"""In a judge's folder: thresholds for a start, before you have labelled rows of your own."""

MAX_THREADS = 64
_USUAL_THREADS = 4
# A token of real text has four characters; a text with so many more is not tried.
_CHARS_TO_A_TOKEN = 20
_MOST_QUESTION = 0.5  # Share of the positions.
# Of what a text says. A name in its own script, in brackets, is no evidence that was missed.
_MOST_FOREIGN, _HARDLY_ANY = 0.5, 0.1


class _Read(NamedTuple):
    """A text's tokens, none if they would tell nothing, and whether they are all of it."""

    tokens: list[int]
    is_whole: bool


class EmbeddedJudge:
    """Judges with a small encoder in this process, through onnxruntime. No key, no network.

    It reads 512 tokens at once, some 350 words. What is longer it leaves to the gate, which judges
    it in windows (`guard.windows`). Earlier turns are not read: put into the question what it needs
    of them, as LlamaIndex's condensing engines do. Retrieved text can lie to it, but not command
    it: it follows no instructions.

    Passages that it cannot read, in other letters than Latin ones, it leaves out. They, or what it
    cannot read of others, may hold the evidence, so ``high`` is 1 then: such a query can be
    answered, but not refused. A question it must be able to read as a whole.

    So many verdicts are measured at once as there are cores for, and two at least; others wait.

    Carried over a fork, it loads its model anew in the child.

    onnxruntime's telemetry is turned off, in this process and in those that it starts, unless you
    have set ``ORT_DISABLE_TELEMETRY`` yourself. If you import onnxruntime before, set it to 1
    before that.

    Args:
        folder: of another model, as ``training/export.py`` writes it; ``None`` = `SHIPPED`.
        threads: for one verdict, in [1, 64]; ``None`` = all cores, four at most.

    Attributes:
        weights: which model it is.
        default_profile: its thresholds for a start; ``None`` where its folder has no profile. A
            gate without a profile takes them, unless its policy has thresholds of its own.

    Raises:
        ConfigError: a file is missing or damaged, or the extra ``embedded`` is not installed.
    """

    cancellable = False

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, *, threads: int | None = None
    ) -> None:
        if threads is not None:
            require_number("threads", threads, 1, MAX_THREADS, whole=True)
        self.weights = Weights.load(SHIPPED if folder is None else Path(folder))
        self.model: str | None = self.weights.name
        self.fingerprint = self.weights.fingerprint
        self.default_profile = _profile(self.weights)
        self._threads = threads or min(_cores(), _USUAL_THREADS)
        # More at once take no less time together, and onnxruntime keeps the memory of each.
        self._at_once = max(2, _cores() // self._threads)
        self._idle = threading.Condition()
        self._in_flight = 0
        self._is_closed = False
        self._session: Session | None = None
        self._encoding, self._session = self._load()
        renew_in_child(self)
        # A thread that comes back from onnxruntime after the interpreter has ended aborts the
        # process. The weak reference lets a forgotten judge go before that.
        self._at_exit = partial(_close_at_exit, weakref.ref(self))
        atexit.register(self._at_exit)

    def judge(self, query: Query, *, timeout: float) -> Verdict:
        """Measures one query; see `guard.judge.Judge`. It cannot be interrupted.

        Raises:
            Unmeasured: question and contexts are longer than it reads at once
                (``context_too_long``), it cannot read all of the question, or nothing of the
                contexts (``refusal``), or the model gives no number (``malformed``).
            JudgeUnavailable: no core was free in time (``timeout``).
            JudgeRejected: it is closed, or, in a forked child, its files are no longer there.
        """
        with self._running(timeout) as session:
            tokens, reads_all = self._fitting(query)
            p = self._probability(session, tokens)
        return Verdict(
            p_true=p,
            low=p,
            high=p if reads_all else 1.0,
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
        """Frees the model, once judgements in flight have ended; later ones are rejected."""
        with self._idle:
            self._is_closed = True
            self._idle.wait_for(lambda: self._in_flight <= 0)
            self._session = None
        atexit.unregister(self._at_exit)

    def begin_anew(self) -> None:
        """In a forked child, where it is called by itself: onnxruntime's threads are not here."""
        if self._session is not None:
            never_free(self._session)
        self._idle, self._in_flight, self._session = threading.Condition(), 0, None

    def _load(self) -> tuple[Encoding, Session]:
        model, description = self.weights.read()
        try:
            encoding, session = Encoding(description), session_of(model, self._threads)
            log_odds(session, encoding.longest(self.weights.positions))
            return encoding, session
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(
                f"The embedded judge in {str(self.weights.folder)!r} cannot be loaded: {error}.",
                hint="Its files may be of a newer version; write them again with this one.",
            ) from error

    @contextmanager
    def _running(self, timeout: float) -> Generator[Session]:
        with self._idle:
            patience = min(timeout, threading.TIMEOUT_MAX)
            if not self._idle.wait_for(lambda: self._in_flight < self._at_once, patience):
                raise out_of_time()
            session = self._open()
            self._in_flight += 1
        try:
            yield session
        finally:
            with self._idle:
                self._in_flight -= 1
                self._idle.notify_all()

    def _open(self) -> Session:
        if self._is_closed:
            raise JudgeRejected("This EmbeddedJudge is closed.", hint="Make a new one.")
        if self._session is None:
            self._encoding, self._session = self._load_again()
        return self._session

    def _load_again(self) -> tuple[Encoding, Session]:
        try:
            return self._load()
        except ConfigError as error:  # No longer an error of whoever made this judge.
            raise JudgeRejected(error.message, hint=error.hint) from error

    def _fitting(self, query: Query) -> tuple[Tokens, bool]:
        """The query in tokens, if the model can read so many, and whether it can read all texts."""
        most = self.weights.positions
        contexts = [text for text in query.contexts if text.strip()]
        if sum(map(len, (query.question, *contexts))) > most * _CHARS_TO_A_TOKEN:
            raise _too_long(most)
        question = self._question(query.question)
        read = [self._read(text) for text in contexts]
        passages = [text.tokens for text in read]
        if not any(passages):
            raise _unread("contexts", contexts)
        if len(question) > most * _MOST_QUESTION:
            raise _question_too_long(len(question), int(most * _MOST_QUESTION))
        tokens = self._encoding.joined(question, passages)
        if len(tokens.ids) > most:
            raise _too_long(most)
        return tokens, all(text.is_whole for text in read)

    def _question(self, text: str) -> list[int]:
        """The question's tokens; what it asks about may be the one word that nobody can read."""
        read = self._read(text)
        is_foreign = foreign_share(text) > _HARDLY_ANY
        if not read.tokens or is_foreign or self._encoding.unknown_words(text):
            raise _unread("question", [text])
        return read.tokens

    def _read(self, text: str) -> _Read:
        """What the model can make of a text."""
        piece = self._encoding.piece(text)
        unknown = self._encoding.unknown_share(piece)
        unread = max(foreign_share(text), unknown)
        if unread > _MOST_FOREIGN:
            return _Read([], is_whole=False)
        missed = max(unread, self._encoding.unknown_words(text) if unknown else 0.0)
        # Marks alone say nothing, and hide nothing.
        return _Read(piece if _has_words(text) else [], missed <= _HARDLY_ANY)

    def _probability(self, session: Session, tokens: Tokens) -> float:
        try:
            return self.weights.probability(log_odds(session, tokens))
        except ValueError as error:
            raise Unmeasured(
                f"The embedded judge gives no verdict: {error}.",
                kind="malformed",
                hint=f"If memory is not short: {again(self.weights.folder)}",
            ) from error


def _cores() -> int:
    """Those that this process may use, which in a container are not all."""
    usable: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable is not None else os.cpu_count() or 1


def _close_at_exit(judge: "weakref.ref[EmbeddedJudge]") -> None:
    if (alive := judge()) is not None:
        alive.close()


def _profile(weights: Weights) -> Profile | None:
    if not weights.has_profile:
        return None
    file = weights.folder / PROFILE
    try:
        return Profile.load(file)
    except ConfigError as error:
        hint = again(weights.folder)
        raise ConfigError(f"The embedded judge's profile: {error.message}", hint=hint) from error


def _too_long(most: int) -> Unmeasured:
    return Unmeasured(
        f"Question and contexts have more than the {most} tokens that the embedded judge reads.",
        kind="context_too_long",
        hint="A gate judges them in windows; else retrieve fewer passages.",
    )


def _has_words(text: str) -> bool:
    return any(map(str.isalnum, text))


def _unread(what: str, texts: Sequence[str]) -> Unmeasured:
    cannot = "can read nothing of the contexts"
    if what == "question":
        cannot = "cannot read a part of the question, which may be what was asked about"
    return Unmeasured(
        f"The embedded judge {cannot}: it knows English, and no letters but Latin ones."
        if any(map(_has_words, texts))
        else f"There are no words in the {what}.",
        kind="refusal",
        hint="Use another judge for such queries, e.g. behind this one in a chain.",
    )


def _question_too_long(tokens: int, most: int) -> Unmeasured:
    return Unmeasured(
        f"The question has {tokens} tokens; the embedded judge reads {most} of a question.",
        kind="context_too_long",
        hint="Shorten the question.",
    )
