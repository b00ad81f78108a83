"""The GGUF judge: llama.cpp in this process, the whole vocabulary listed, nothing hidden."""

import atexit
import hashlib
import importlib
import json
import os
import threading
import weakref
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from guard._json import as_int, as_map, as_text
from guard._require import require_number
from guard.errors import ConfigError, JudgeError, JudgeRejected, JudgeUnavailable, Unmeasured
from guard.prompt import DEFAULT_PROMPT, Prompt, Rendered
from guard.query import Query
from guard.reading import read
from guard.reply import Reply
from guard.verdict import Verdict
from guard.worker import shared_workers

# More than any vocabulary holds: llama.cpp then lists all of it.
_WHOLE_VOCABULARY = 2**31 - 1

# The beginning of the answer, put into the model's mouth. It raised the probability that went to
# the labels from about .65 to .75 on SmolLM2-135M, and keeps thinking models from thinking.
_PREFILL = "Answer:"

_FINGERPRINT_BYTES = 1 << 20
_FIRST_CALL: dict[str, object] = {
    "messages": [{"role": "user", "content": "."}],
    "max_tokens": 1,
}


class Server(Protocol):
    """The part of ``xllamacpp.Server`` that is used here."""

    def handle_chat_completions(self, body: dict[str, object]) -> object: ...


class GgufJudge:
    """Judges with a GGUF model in this process, through llama.cpp (package xllamacpp).

    No key, no network. The logprobs are raw, before any sampler, and cover the whole vocabulary,
    so the bounds on P(True) are as tight as the model's own doubt about spelling.

    llama.cpp also opens a port on 127.0.0.1, which is locked with a random key. A judge must not be
    carried over a fork; load it in the worker process. `close` frees the model's memory; at the
    interpreter's end it is called for you.

    Args:
        path: the model file.
        context_tokens: room for prompt and answer, in tokens. A longer prompt is `Unmeasured`.
        threads: threads for evaluation; ``None`` = all cores.
        prompt: the words put to the judge, with the labels.
        min_mass: probability in [0, 1] that must go to the two labels together.

    Raises:
        ConfigError: no such file, not a GGUF file, or the extra ``local`` is not installed.
    """

    cancellable = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        context_tokens: int = 4096,
        threads: int | None = None,
        prompt: Prompt = DEFAULT_PROMPT,
        min_mass: float = 0.5,
    ) -> None:
        require_number("min_mass", min_mass, 0, 1)
        require_number("context_tokens", context_tokens, 128, 10**7, whole=True)
        self.path = _require_gguf(Path(path))
        self.model: str | None = self.path.name
        self._min_mass = min_mass
        self._context_tokens = context_tokens
        self._ask_with(prompt)
        self._loaded = _Loaded(
            load_server(self.path, context_tokens=context_tokens, threads=threads)
        )

    def with_prompt(self, prompt: Prompt) -> "GgufJudge":
        """This judge with other words, on the same loaded model; closing one closes both."""
        other = copy(self)
        other._ask_with(prompt)
        return other

    def _ask_with(self, prompt: Prompt) -> None:
        self.prompt = prompt
        parts = [_file_hash(self.path), _PREFILL, prompt.fingerprint, self._min_mass]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        self.fingerprint = f"gguf-logprobs:{self.path.name}:{digest[:16]}"

    def judge(self, query: Query, *, timeout: float) -> Verdict:
        """Measures one query; see `guard.judge.Judge`. It cannot be interrupted."""
        rendered = self.prompt.render(query)
        body = self._loaded.complete(_request(rendered))
        if error := as_map(body).get("error"):
            raise _judge_error(as_map(error))
        reply = replace(Reply.from_body(body), model=self.model)  # Its own name is a path.
        measured = read(reply, labels=self.prompt.labels, asked=None, min_mass=self._min_mass)
        return measured.verdict(reply, fingerprint=self.fingerprint, rendered=rendered)

    async def ajudge(self, query: Query, *, timeout: float) -> Verdict:
        """Measures one query on a worker thread; cancelling it leaves the call behind there."""
        return await shared_workers.acall(partial(self.judge, query, timeout=timeout), timeout)

    def close(self) -> None:
        """Frees the model, once judgements in flight have ended; later ones are rejected."""
        self._loaded.close()


class _Loaded:
    """A loaded model, for all judges that differ in nothing but their prompts."""

    def __init__(self, server: Server) -> None:
        self._idle = threading.Condition()
        self._in_flight = 0
        self._closed = False
        self._server: Server | None = server
        self._pid = os.getpid()
        # llama.cpp may hang when the interpreter ends before its threads do. The weak reference
        # lets a forgotten model go before that.
        atexit.register(partial(_close_at_exit, weakref.ref(self)))

    def complete(self, body: dict[str, object]) -> object:
        with self._idle:
            server = self._require_open()
            self._in_flight += 1
        try:
            return server.handle_chat_completions(body)
        finally:
            del server  # `close` must drop the last reference, on its own thread.
            with self._idle:
                self._in_flight -= 1
                self._idle.notify_all()

    def close(self) -> None:
        with self._idle:
            self._closed = True
            # Freeing the model under a running evaluation, or at the interpreter's end beside one,
            # is a segmentation fault.
            self._idle.wait_for(lambda: not self._in_flight)
            self._server = None

    def _require_open(self) -> Server:
        if self._closed or self._server is None:
            raise JudgeRejected("This GgufJudge is closed.", hint="Make a new one.")
        if self._pid != os.getpid():
            raise JudgeRejected(
                "This GgufJudge was made before a fork.",
                hint="Load the model in the worker process, e.g. in a post-fork hook.",
            )
        return self._server


def _request(rendered: Rendered) -> dict[str, object]:
    return {
        "messages": [
            {"role": "user", "content": rendered.text},
            {"role": "assistant", "content": _PREFILL},
        ],
        "max_tokens": 1,
        "temperature": 0,
        # Re-using another prompt's cache moves the logprobs by up to 0.07 nats: a verdict would
        # depend on what was judged before it.
        "cache_prompt": False,
        "logprobs": True,
        "top_logprobs": _WHOLE_VOCABULARY,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def load_server(
    path: str | os.PathLike[str], *, context_tokens: int, threads: int | None = None
) -> Server:
    """llama.cpp with a model loaded, silent, its port locked with a random key.

    Raises:
        ConfigError: the extra ``local`` is not installed, or the file cannot be loaded.
    """
    try:
        xllamacpp: Any = importlib.import_module("xllamacpp")
    except ImportError as error:
        raise ConfigError(
            "A GGUF model needs llama.cpp, which is not installed.",
            hint='Run: pip install "rag-guard[local]"',
        ) from error
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = context_tokens
    params.n_parallel = 1
    params.cpuparams.n_threads = threads or os.cpu_count() or 1
    params.verbosity = 0  # Or it writes hundreds of lines to stderr.
    params.offline = True
    params.ui = False
    params.endpoint_slots = False
    # It always opens a port; an empty list of names crashes, port 0 picks a free one.
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [os.urandom(16).hex()]
    try:
        server: Server = xllamacpp.Server(params)
        # A server that never served hung at the interpreter's end in half of our runs.
        server.handle_chat_completions(_FIRST_CALL)
        return server
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"llama.cpp cannot load {str(path)!r}.",
            hint="The file may be damaged, or of a newer GGUF version than this xllamacpp.",
        ) from error


def _require_gguf(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"The model file {str(path)!r} cannot be read ({why}).",
            hint="Give the path of a .gguf file: gguf:PATH.",
        ) from error
    if magic != b"GGUF":
        raise ConfigError(
            f"{str(path)!r} is not a GGUF file.", hint="Give the path of a .gguf file: gguf:PATH."
        )
    return path


def _file_hash(path: Path) -> str:
    """A hash of size, head and tail: model files are gigabytes, and their heads differ."""
    size = path.stat().st_size
    digest = hashlib.sha256(b"%d:" % size)
    with path.open("rb") as file:
        digest.update(file.read(_FINGERPRINT_BYTES))
        file.seek(max(0, size - _FINGERPRINT_BYTES))
        digest.update(file.read(_FINGERPRINT_BYTES))
    return digest.hexdigest()


def _judge_error(found: Mapping[str, object]) -> JudgeError:
    if found.get("type") == "exceed_context_size_error":
        return Unmeasured(
            f"The prompt has {as_int(found.get('n_prompt_tokens'))} tokens; "
            f"the model was loaded with room for {as_int(found.get('n_ctx'))}.",
            kind="context_too_long",
            hint="Retrieve fewer passages, raise context_tokens, or set max_context_chars.",
        )
    what = f"llama.cpp: {(as_text(found.get('message')) or 'unknown error')[:160]}"
    code = as_int(found.get("code")) or 500
    return JudgeUnavailable(what, status=code) if code >= 500 else JudgeRejected(what, status=code)


def _close_at_exit(loaded: "weakref.ref[_Loaded]") -> None:
    if (alive := loaded()) is not None:
        alive.close()
