"""Faults on raw sockets: what no HTTP server can be talked into, and a list of all that we know.

`wire` imitates providers; this imitates what stands between us and them when it breaks.
"""

import email.utils
import gzip
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from wire import Json, chat, padded, token, verdict

from guard import Reason

SHORT, LONG = 0.3, 6.0
"""Seconds: the deadline of faults that run into it, and of those that must not."""

_STEP = 0.02  # Seconds between two pieces of whatever drips: no time-out of a read notices.


class Line:
    """One connection, as the server sees it."""

    def __init__(self, server: "RawServer", connection: socket.socket) -> None:
        self._server, self._connection = server, connection

    def request(self) -> None:
        """Reads one request and counts it; ends the play where the client has gone away."""
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._received()
        head, _, body = head.partition(b"\r\n\r\n")
        fields = head.decode("latin-1").casefold().split("\r\n")
        lengths = [int(one.partition(":")[2]) for one in fields if one.startswith("content-length")]
        while len(body) < sum(lengths):
            body += self._received()
        self._server.note_request()

    def say(self, data: bytes) -> None:
        """Sends it all."""
        self._connection.sendall(data)

    def drip(self, data: bytes) -> None:
        """Sends it, a byte at a time."""
        for number in range(len(data)):
            self.say(data[number : number + 1])
            self.wait(_STEP)

    def repeat(self, data: bytes) -> None:
        """Sends it again and again, until the client goes away."""
        while True:
            self.say(data)
            self.wait(_STEP)

    def wait(self, seconds: float = 3600.0) -> None:
        """Waits, and ends the play where the client goes away meanwhile."""
        self._connection.settimeout(seconds)
        with suppress(TimeoutError):
            self._received()
        self._connection.settimeout(None)

    def reset(self) -> None:
        """Ends the connection with a reset in place of an end."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionAbortedError

    def _received(self) -> bytes:
        data = self._connection.recv(65536)
        if not data:
            raise ConnectionAbortedError
        return data


Play = Callable[[Line], None]
"""What a server does with one connection, which is closed when it returns."""


class Server(Protocol):
    """Where a judge is sent.

    Attributes:
        url: its address.
        requests: how many came in whole.
    """

    url: str
    requests: int

    def close(self) -> None:
        """Ends it, and all of its connections."""
        ...


class RawServer:
    """Plays on every connection."""

    def __init__(self, play: Play, *, scheme: str = "http") -> None:
        self.requests = 0
        self._play, self._lock = play, threading.Lock()
        self._connections = set[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = _url(self._listener, scheme)
        threading.Thread(target=self._accept, daemon=True).start()

    def note_request(self) -> None:
        """One more came in whole."""
        with self._lock:
            self.requests += 1

    def close(self) -> None:
        """Ends it, and all of its connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):  # It was closed.
            while True:
                connection, _ = self._listener.accept()
                with self._lock:
                    self._connections.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):  # Either side has gone away.
            self._play(Line(self, connection))
        with self._lock:
            self._connections.discard(connection)
            connection.close()


class Nobody:
    """A port at which nothing is ever said.

    Args:
        listens: whether connections are made, though never taken; else they are refused.
        full: whether so many wait already that none is even made.
    """

    def __init__(self, *, listens: bool, full: bool = False) -> None:
        self.requests = 0
        self._sockets = [socket.socket()]
        self._sockets[0].bind(("127.0.0.1", 0))  # Held, so that nobody else listens there.
        self.url = _url(self._sockets[0], "http")
        if listens:
            self._sockets[0].listen(0 if full else 512)
        for _ in range(3 if full else 0):
            self._sockets.append(waiting := socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(self._sockets[0].getsockname())

    def close(self) -> None:
        """Ends it."""
        for one in self._sockets:
            one.close()


def _url(listener: socket.socket, scheme: str) -> str:
    return f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/v1"


@contextmanager
def raw(play: Play) -> Generator[RawServer]:
    """A server that plays this, for as long as the block runs."""
    server = RawServer(play)
    try:
        yield server
    finally:
        server.close()


# ── What is said ─────────────────────────────────────────────────────────────────────────────────


def http(
    body: Json = b"", status: int = 200, headers: Mapping[str, str] | None = None, *, more: int = 0
) -> bytes:
    """A whole answer; ``more`` bytes than there are, its length says."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"content-type": "application/json", "content-length": str(len(data) + more)}
    return _head(status, {**fields, **(headers or {})}) + data


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} So", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def error(
    message: str, status: int, headers: Mapping[str, str] | None = None, **more: str
) -> bytes:
    """An error in OpenAI's shape."""
    return http({"error": {"message": message, **more}}, status, headers)


def always(answer: bytes) -> Play:
    """A server that gives every request the same answer, and keeps the connection open."""

    def play(line: Line) -> None:
        while True:
            line.request()
            line.say(answer)

    return play


def then(*steps: Callable[[Line], None]) -> Play:
    """A server that reads one request, takes these steps, and closes the connection."""

    def play(line: Line) -> None:
        line.request()
        for step in steps:
            step(line)

    return play


def says(data: bytes) -> Callable[[Line], None]:
    return lambda line: line.say(data)


def drips(data: bytes) -> Callable[[Line], None]:
    return lambda line: line.drip(data)


def repeats(data: bytes) -> Callable[[Line], None]:
    return lambda line: line.repeat(data)


def _floods(line: Line) -> None:
    """More headers than any client reads, as fast as it reads them."""
    line.say(b"HTTP/1.1 200 OK\r\n")
    while True:
        line.say(b"x-more: and more\r\n" * 500)


GOOD = verdict(-0.01, -6.0)
_OK = http(GOOD)
_BOOM = error("boom", 500)
_NO_HELLO = http(b"Client sent an HTTPS request to an HTTP server.", 400)
_CHUNKED = _head(200, {"content-type": "application/json", "transfer-encoding": "chunked"})
_ENDLESS = _head(200, {"content-type": "application/json", "connection": "close"})
_GZIP = {"content-encoding": "gzip"}
_SLOW_DOWN = "Slow down."
_DENIED = "Unsupported parameter: 'logprobs' is not supported with this model."
_MEGABYTE = b" " * 2**20


def _in_five_minutes() -> str:
    return email.utils.formatdate(time.time() + 300, usegmt=True)


def _silent_for(logprob: Json) -> Json:
    return chat(token("True", logprob, padded(("True", logprob), ("False", -6.0))))


# ── The list ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Fault:
    """One way to fail, and what must come of it.

    Attributes:
        serve: starts it.
        reason: what the record must say.
        retried: whether it is tried again as often as was configured.
        deadline: seconds.
        each: requests that reach the server in one attempt.
    """

    serve: Callable[[], Server]
    reason: Reason
    retried: bool = False
    deadline: float = LONG
    each: int = 1

    def attempts(self, configured: int) -> int:
        """How many there must be."""
        return configured if self.retried else 1

    def requests(self, configured: int) -> int:
        """How many must reach the server."""
        return self.each * self.attempts(configured)


def late(play: Play, *, each: int = 1) -> Fault:
    """One that runs into the deadline, whose attempt takes all of it."""
    return Fault(lambda: RawServer(play), Reason.TIMEOUT, deadline=SHORT, each=each)


def passing(play: Play, reason: Reason = Reason.UNAVAILABLE, *, each: int = 1) -> Fault:
    """One that may be over a moment later."""
    return Fault(lambda: RawServer(play), reason, retried=True, each=each)


def lasting(answer: bytes, reason: Reason, *, each: int = 1) -> Fault:
    """One that another try does not mend."""
    return Fault(lambda: RawServer(always(answer)), reason, each=each)


FAULTS: dict[str, Fault] = {
    # Nothing comes, or not in time.
    "connection never made": Fault(
        lambda: Nobody(listens=True, full=True), Reason.TIMEOUT, deadline=SHORT, each=0
    ),
    "connection never taken": Fault(
        lambda: Nobody(listens=True), Reason.TIMEOUT, deadline=SHORT, each=0
    ),
    "hang before headers": late(then(Line.wait)),
    "headers byte by byte": late(then(drips(_OK))),
    "headers that never end, slowly": late(
        then(says(b"HTTP/1.1 200 OK\r\n"), repeats(b"a: b\r\n"))
    ),
    "a hundred times 100 Continue": late(then(repeats(b"HTTP/1.1 100 Continue\r\n\r\n"))),
    "headers, then silence": late(then(says(http(more=90)), Line.wait)),
    "half a body, then silence": late(then(says(http(b'{"choices":', more=90)), Line.wait)),
    "body byte by byte": late(then(says(http(more=999)), drips(json.dumps(GOOD).encode()))),
    "error byte by byte": late(then(says(http(b"", 500, more=999)), drips(_BOOM))),
    "429, then silence": late(then(says(http(b"", 429, more=90)), Line.wait)),
    "body that never ends, slowly": late(then(says(_ENDLESS), repeats(b" "))),
    "body that never ends": late(then(says(_ENDLESS), repeats(_MEGABYTE))),
    "chunks that never end": late(then(says(_CHUNKED), repeats(b"1\r\n \r\n"))),
    # The connection breaks, or is not what it should be.
    "refused": Fault(lambda: Nobody(listens=False), Reason.UNAVAILABLE, retried=True, each=0),
    "TLS to a plain server": Fault(
        lambda: RawServer(says(_NO_HELLO), scheme="https"), Reason.UNAVAILABLE, retried=True, each=0
    ),
    "closed before the status": passing(then()),
    "reset before the status": passing(then(Line.reset)),
    "closed within the headers": passing(then(says(_OK[:40]))),
    "closed before the body": passing(then(says(http(more=90)))),
    "closed within the body": passing(then(says(http(b'{"choices":', more=90)))),
    "reset within the body": passing(then(says(http(b'{"choices":', more=90)), Line.reset)),
    "not HTTP": passing(then(says(b"Hello! What can I do for you?\n"))),
    "headers that never end": passing(then(_floods)),
    "broken chunks": passing(then(says(_CHUNKED + b"none\r\n{}\r\n"))),
    "chunks cut off": passing(then(says(_CHUNKED + b"9\r\n{}"))),
    "not what it is encoded in": passing(always(http(b"plain", headers=_GZIP))),
    # The server says so, and it may pass.
    "500 storm": passing(always(_BOOM)),
    "502 with HTML": passing(always(http(b"<html>Bad gateway</html>", 502))),
    "503 without a body": passing(always(http(status=503))),
    "529": passing(always(error("overloaded", 529))),
    "408": passing(always(error("timeout", 408))),
    "409": passing(always(error("conflict", 409))),
    "429": passing(always(error(_SLOW_DOWN, 429)), Reason.RATE_LIMITED),
    "429, Retry-After 0": passing(
        always(error(_SLOW_DOWN, 429, {"retry-after": "0"})), Reason.RATE_LIMITED
    ),
    # It asks for a wait beyond the deadline: nobody waits in vain.
    "429, Retry-After 30": lasting(
        error(_SLOW_DOWN, 429, {"retry-after": "30"}), Reason.RATE_LIMITED
    ),
    "429, Retry-After 300": lasting(
        error(_SLOW_DOWN, 429, {"retry-after": "300"}), Reason.RATE_LIMITED
    ),
    "429, Retry-After a date": Fault(
        lambda: RawServer(always(error(_SLOW_DOWN, 429, {"retry-after": _in_five_minutes()}))),
        Reason.RATE_LIMITED,
    ),
    "503, Retry-After 300": lasting(
        error("later", 503, {"retry-after": "300"}), Reason.UNAVAILABLE
    ),
    # The server says so, and it will not pass.
    # Twice: a reasoning model gives logprobs once it is told not to reason.
    "400 about logprobs": lasting(error(_DENIED, 400), Reason.NO_LOGPROBS, each=2),
    "400": lasting(error("Bad request.", 400), Reason.REJECTED),
    "redirected to itself": lasting(
        http(status=307, headers={"location": "completions"}), Reason.REJECTED
    ),
    "401": lasting(error("Incorrect API key.", 401), Reason.REJECTED),
    "403": lasting(error("Not from here.", 403), Reason.REJECTED),
    "404": lasting(error("No such model.", 404), Reason.REJECTED),
    "429, quota spent": lasting(error("No.", 429, code="insufficient_quota"), Reason.REJECTED),
    "context too long": lasting(
        error("No.", 400, code="context_length_exceeded"), Reason.CONTEXT_TOO_LONG
    ),
    "content filter": lasting(error("No.", 400, code="content_filter"), Reason.CONTENT_FILTER),
    # An answer, but no verdict.
    "content filter in the choice": lasting(
        http(chat(content="", logprobs=None, finish_reason="content_filter")),
        Reason.CONTENT_FILTER,
    ),
    "refusal": lasting(
        http(chat(message={"content": None, "refusal": "I can't."}, logprobs=None)), Reason.REFUSAL
    ),
    "no body": lasting(http(), Reason.MALFORMED),
    "malformed JSON": lasting(http(b'{"choices": [,]}'), Reason.MALFORMED),
    "truncated JSON": lasting(http(json.dumps(GOOD).encode()[:200]), Reason.MALFORMED),
    "null": lasting(http(None), Reason.MALFORMED),
    "HTML": lasting(
        http(b"<html>Log in</html>", headers={"content-type": "text/html"}), Reason.MALFORMED
    ),
    "error inside 200": lasting(http({"error": {"message": "No.", "code": 502}}), Reason.MALFORMED),
    "empty choices": lasting(http({"choices": []}), Reason.MALFORMED),
    "choices null": lasting(http({"choices": None}), Reason.MALFORMED),
    "logprobs null": lasting(http(chat(content="True", logprobs=None)), Reason.NO_LOGPROBS),
    "NaN": lasting(http(_silent_for(float("nan"))), Reason.MALFORMED),
    "infinite": lasting(http(_silent_for(float("inf"))), Reason.MALFORMED),
    "neither True nor False": lasting(http(verdict(-3.0, -4.0)), Reason.LOW_MASS),
    "deep nesting": lasting(http(b"[" * 100_000), Reason.MALFORMED),
    "five megabytes": lasting(http(_MEGABYTE * 5), Reason.MALFORMED),
    "five megabytes, zipped small": lasting(
        http(gzip.compress(_MEGABYTE * 5), headers=_GZIP), Reason.MALFORMED
    ),
}
"""Every fault, by name."""

WAITED_FOR: dict[str, Fault] = {
    "429, Retry-After 1": passing(
        always(error(_SLOW_DOWN, 429, {"retry-after": "1"})), Reason.RATE_LIMITED
    ),
    "503, Retry-After 1": passing(always(error("later", 503, {"retry-after": "1"}))),
}
"""Those that ask for a wait which fits into the deadline, and is waited for: seconds."""

POLICIES: Sequence[str] = ("answer", "clarify", "refuse", "raise")
