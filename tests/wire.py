"""A real HTTP server on loopback that replays what a provider sends, and what tests say with it."""

import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import urlsplit

Json = Any


@dataclass
class Answer:
    """One HTTP answer, or one way of not giving one.

    Attributes:
        body: sent as JSON unless it is bytes.
        delay: seconds before the headers.
        drip: seconds between single bytes of the body; 0 = send it whole.
        slow_head: seconds between single bytes of a header that stands before all others.
        cut: close the connection after this many bytes of the body.
        hang: never send anything until the client goes away.
        events: server-sent events in place of the body, each JSON; a number is a wait in seconds,
            in which the server notices that the client goes away.
    """

    body: Json = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    delay: float = 0.0
    drip: float = 0.0
    slow_head: float = 0.0
    cut: int | None = None
    hang: bool = False
    events: Iterable[Json] | None = None


@dataclass
class Request:
    """One request that the server has received.

    Attributes:
        gone: set when the client has gone away before its answer was sent.
        done: set when the server has finished with it, one way or the other.
    """

    path: str
    headers: Mapping[str, str]
    body: Json
    gone: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][0]["content"])


Script = Answer | Iterable[Answer] | Callable[[Request], Answer]


class WireServer:
    """Replays a script of answers; keeps every request.

    All of a process share one listening socket, each under a path of its own: starting and
    stopping hundreds of servers is what would take the time. With ``host`` it stands for a far one,
    which a client reaches through the proxy `proxy_url`.
    """

    _numbers = itertools.count(1)
    _open: ClassVar[dict[str, "WireServer"]] = {}

    def __init__(self, script: Script, *, host: str | None = None) -> None:
        self.requests: list[Request] = []
        self._answer = _reader(script)
        self._lock = threading.Lock()
        self._name = host or f"server-{next(self._numbers)}"
        self._open[self._name] = self

    @property
    def url(self) -> str:
        return f"{proxy_url()}/{self._name}/v1"

    @classmethod
    def dispatch(cls, handler: BaseHTTPRequestHandler) -> None:
        far = urlsplit(handler.path)
        # A proxy is sent the whole address.
        name, path = (far.netloc, far.path[1:]) if far.netloc else _parted(handler.path)
        if name in cls._open:
            cls._open[name].handle(handler, f"/{path}")
        else:
            handler.close_connection = True

    def handle(self, handler: BaseHTTPRequestHandler, path: str) -> None:
        length = int(handler.headers.get("content-length", 0))
        raw = handler.rfile.read(length)
        request = Request(path, dict(handler.headers), json.loads(raw or b"null"))
        with self._lock:
            self.requests.append(request)
            answer = self._answer(request)
        try:
            _send(handler, request, answer)
        except (BrokenPipeError, ConnectionResetError):
            request.gone.set()
        finally:
            request.done.set()

    def close(self) -> None:
        del self._open[self._name]


def _parted(path: str) -> tuple[str, str]:
    _, name, rest = path.split("/", 2)
    return name, rest


def proxy_url() -> str:
    """The listening socket's address, which is a proxy too: to servers that have a ``host``."""
    return f"http://127.0.0.1:{_listener().server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # Or headers and body wait 40 ms for each other.

    def do_POST(self) -> None:
        WireServer.dispatch(self)

    def do_GET(self) -> None:
        WireServer.dispatch(self)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@cache
def _listener() -> "_Quiet":
    http = _Quiet(("127.0.0.1", 0), _Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    return http


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what many tests are about."""


def _send(handler: BaseHTTPRequestHandler, request: Request, answer: Answer) -> None:
    if answer.hang or answer.delay:
        _wait(handler, request, 3600.0 if answer.hang else answer.delay)
    if answer.events is not None:
        _stream(handler, request, answer, answer.events)
        return
    data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
    handler.send_response(answer.status)
    if answer.slow_head:
        handler.flush_headers()
        for byte in b"x-slow: 0123456789\r\n":
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            _wait(handler, request, answer.slow_head)
    for name, value in {"content-type": "application/json", **answer.headers}.items():
        handler.send_header(name, value)
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    if answer.cut is not None:
        handler.wfile.write(data[: answer.cut])
        handler.wfile.flush()
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)
        return
    if not answer.drip:
        handler.wfile.write(data)
        return
    for byte in data:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        _wait(handler, request, answer.drip)


def _stream(
    handler: BaseHTTPRequestHandler, request: Request, answer: Answer, events: Iterable[Json]
) -> None:
    handler.send_response(answer.status)
    headers = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
    for name, value in {**headers, **answer.headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    for event in itertools.chain(events, ["[DONE]"]):
        if isinstance(event, float | int):
            _wait(handler, request, event)
            continue
        data = f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode()
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        handler.wfile.flush()
    handler.wfile.write(b"0\r\n\r\n")


def _wait(handler: BaseHTTPRequestHandler, request: Request, seconds: float) -> None:
    """Waits, and notices when the client closes the connection meanwhile."""
    end = time.monotonic() + seconds
    handler.connection.settimeout(0.01)
    while time.monotonic() < end:
        try:
            if handler.connection.recv(1, socket.MSG_PEEK) == b"":
                request.gone.set()
                raise BrokenPipeError
        except TimeoutError:
            continue
        time.sleep(0.01)
    handler.connection.settimeout(None)


def _reader(script: Script) -> Callable[[Request], Answer]:
    if isinstance(script, Answer):
        only = script
        return lambda _request: only
    if callable(script):
        return script
    lines = iter(script)
    last: list[Answer] = []

    def following(_request: Request) -> Answer:
        last[:] = [next(lines, *last)]  # The last line goes on for ever.
        return last[0]

    return following


@contextmanager
def serving(script: Script) -> Generator[WireServer]:
    server = WireServer(script)
    try:
        yield server
    finally:
        server.close()


# ── Bodies ───────────────────────────────────────────────────────────────────────────────────────

Listed = Sequence[tuple[str, Json]]


def token(text: str, logprob: Json, top: Listed = (), **more: Json) -> dict[str, Json]:
    """One entry of ``logprobs.content`` in OpenAI's shape."""
    return {
        "token": text,
        "bytes": list(text.encode()),
        "logprob": logprob,
        "top_logprobs": [
            {"token": one, "bytes": list(one.encode()), "logprob": value} for one, value in top
        ],
        **more,
    }


def chat(*tokens: dict[str, Json], content: str | None = None, **choice: Json) -> dict[str, Json]:
    """A chat completion whose text is that of its tokens unless given."""
    text = "".join(one["token"] for one in tokens) if content is None else content
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "wire-model",
        "system_fingerprint": "fp_wire",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": {"content": list(tokens), "refusal": None},
                **choice,
            }
        ],
        "usage": {"prompt_tokens": 90, "completion_tokens": 1, "total_tokens": 91},
    }


def delta(text: str) -> dict[str, Json]:
    """One event of a streamed chat completion."""
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "wire-model",
        "choices": [choice],
    }


def padded(*top: tuple[str, float], k: int = 20, floor: float = -14.0) -> list[tuple[str, float]]:
    """A full list of ``k`` alternatives: the given ones and unlikely fillers."""
    fillers = [(f"x{number}", floor - number / 100) for number in range(k - len(top))]
    return [*top, *fillers]


def verdict(true: float, false: float, *, k: int = 20) -> dict[str, Json]:
    """A chat completion with these logprobs for True and False, whichever is higher emitted."""
    top = sorted([("True", true), ("False", false)], key=lambda one: -one[1])
    return chat(token(*top[0], padded(*top, k=k)))
