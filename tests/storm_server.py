"""A chat endpoint in bad weather: what each request meets is drawn by a seeded lot.

    python tests/storm_server.py SEED

Prints its port, and serves until its standard input ends. GET /counts tells what it has done;
GET /weather/storm and /weather/well change the weather. While it storms there are also outages, in
which nothing but HTTP 500 and 503 comes, to requests that wait already as well. It is a process of
its own, so that what it takes is not taken for the gate's.
"""

import asyncio
import json
import math
import random
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from wire import Json, chat, token, verdict

REASONS = {200: "OK", 400: "Bad Request", 429: "Too Many Requests", 500: "Error", 503: "Busy"}
CALM, OUTAGE = (3.0, 6.0), (0.4, 0.7)
"""Seconds between outages, and of one; the ends of what is drawn from."""
DELAY = 0.3
"""Seconds; the mean of what precedes answers."""


@dataclass
class Counts:
    """What the server has done.

    Attributes:
        requests: with a complete head and body.
        open: connections at this moment.
        most_open: at once.
        outages: begun.
        met: how often each kind of weather was met.
        bugs: of the server's own.
    """

    requests: int = 0
    open: int = 0
    most_open: int = 0
    outages: int = 0
    met: Counter[str] = field(default_factory=Counter[str])
    bugs: int = 0


@dataclass(frozen=True)
class Call:
    """One request, and how to answer it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    chance: random.Random

    async def wait(self, seconds: float) -> None:
        """Waits, and notices when the client goes away; no client sends two requests at once.

        Raises:
            ConnectionError: it has gone.
        """
        with suppress(TimeoutError):
            await asyncio.wait_for(self.reader.read(1), seconds)
            raise ConnectionResetError

    def send(self, body: bytes, status: int = 200, **headers: str) -> None:
        """A whole answer."""
        self.writer.write(head(len(body), status, **headers) + body)

    def reset(self) -> None:
        """Ends the connection with a reset, as a crashed server does."""
        one = self.writer.get_extra_info("socket")
        with suppress(OSError):  # The client was first.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        raise ConnectionResetError


def head(length: int, status: int = 200, **headers: str) -> bytes:
    """The head of an answer."""
    lines = {"content-type": "application/json", "content-length": str(length)}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} {REASONS[status]}\r\n{text}\r\n".encode()


# ── What a request may meet ──────────────────────────────────────────────────────────────────────

PROBABILITIES = [0.01, 0.05, 0.2, 0.28, 0.35, 0.5, 0.6, 0.8, 0.86, 0.9, 0.97, 0.99, 0.999]
GOOD = [json.dumps(verdict(math.log(p), math.log1p(-p))).encode() for p in PROBABILITIES]


def body_of(value: Json) -> bytes:
    """A body as JSON."""
    return json.dumps(value).encode()


def error_of(code: str) -> bytes:
    """An error's body in OpenAI's shape."""
    return body_of({"error": {"message": "No.", "code": code}})


NAN = body_of(chat(token("True", float("nan"))))
MUTE = body_of(chat(token("True", -0.1), logprobs=None))
FILTERED = body_of(chat(content="", logprobs=None, finish_reason="content_filter"))
REFUSAL = body_of(chat(message={"content": None, "refusal": "I can't."}, logprobs=None))
EMPTY = body_of({"choices": []})


async def good(call: Call) -> None:
    """A verdict, and the connection is kept."""
    call.send(call.chance.choice(GOOD))


async def late(call: Call) -> None:
    """A verdict that comes when nobody waits for it any more, or only just."""
    await call.wait(call.chance.uniform(0.5, 3.0))
    call.send(call.chance.choice(GOOD))


async def farewell(call: Call) -> None:
    """A verdict, and the connection ends; half of the time without a word of it."""
    if call.chance.random() < 0.5:
        call.send(call.chance.choice(GOOD), connection="close")
    else:
        call.send(call.chance.choice(GOOD))
        await call.writer.drain()
        await asyncio.sleep(call.chance.uniform(0, 0.02))
    raise ConnectionResetError


async def hang(call: Call) -> None:
    """Nothing, until the client goes away."""
    await call.wait(60.0)


async def drip(call: Call) -> None:
    """A verdict, forty bytes at a time, which no time-out of a single read ends."""
    body = call.chance.choice(GOOD)
    call.writer.write(head(len(body)))
    for begin in range(0, len(body), 40):
        call.writer.write(body[begin : begin + 40])
        await call.wait(0.05)


async def reset_before(call: Call) -> None:
    """No byte of an answer."""
    call.reset()


async def reset_within(call: Call) -> None:
    """A head and half a body."""
    body = call.chance.choice(GOOD)
    call.writer.write(head(len(body)) + body[: len(body) // 2])
    await call.writer.drain()
    await asyncio.sleep(0.005)
    call.reset()


async def limited(call: Call) -> None:
    """HTTP 429 with a wait that fits, with one that does not, or without any. None is long, since
    a breaker that one of them opens obeys it."""
    asked = [{}, {"retry_after_ms": "80"}, {"retry_after": "1"}, {"retry_after": "3"}]
    call.send(error_of("rate_limit_exceeded"), 429, **call.chance.choice(asked))


async def broken(call: Call) -> None:
    """HTTP 500 or 503."""
    call.send(error_of("internal"), call.chance.choice([500, 503]))


async def truncated(call: Call) -> None:
    """A body that ends too early and claims that it is whole."""
    body = call.chance.choice(GOOD)
    call.send(body[: call.chance.randrange(1, len(body) - 1)])


async def filtered(call: Call) -> None:
    """A content filter, as an error or in the choice."""
    if call.chance.random() < 0.5:
        call.send(error_of("content_filter"), 400)
    else:
        call.send(FILTERED)


def always(body: bytes) -> Callable[[Call], Awaitable[None]]:
    """One and the same body."""

    async def answer(call: Call) -> None:
        call.send(body)

    return answer


Meeting = Callable[[Call], Awaitable[None]]
STORM: dict[str, tuple[int, Meeting]] = {
    "good": (50, good),
    "farewell": (6, farewell),
    "late": (4, late),
    "hang": (2, hang),
    "drip": (2, drip),
    "reset before": (4, reset_before),
    "reset within": (4, reset_within),
    "429": (6, limited),
    "5xx": (6, broken),
    "no JSON": (2, always(b"<html>Log in</html>")),
    "truncated": (3, truncated),
    "no choices": (2, always(EMPTY)),
    "NaN": (2, always(NAN)),
    "filtered": (3, filtered),
    "refusal": (1, always(REFUSAL)),
    "no logprobs": (3, always(MUTE)),
}
"""Each kind with its lots, of 100."""


# ── The server ───────────────────────────────────────────────────────────────────────────────────


class Weather:
    """What comes next, and whether it is an outage."""

    def __init__(self, seed: int, counts: Counts) -> None:
        self.chance = random.Random(seed)
        self.is_storm, self.is_down = True, False
        self._counts = counts
        self._lots = [lots for lots, _ in STORM.values()]

    async def change(self) -> None:
        """Outages come and go."""
        while True:
            await asyncio.sleep(self.chance.uniform(*CALM))
            if self.is_storm:
                self.is_down = True
                self._counts.outages += 1
                await asyncio.sleep(self.chance.uniform(*OUTAGE))
                self.is_down = False

    async def meet(self, call: Call) -> None:
        """Answers one request, after a random delay."""
        if not self.is_storm:
            return await self._take(call, "good")
        [name] = self.chance.choices([*STORM], self._lots)
        if not self.is_down:
            # Most come soon, some only just in time.
            await call.wait(min(self.chance.expovariate(1 / DELAY), 4 * DELAY))
        await self._take(call, "5xx" if self.is_down else name)

    async def _take(self, call: Call, name: str) -> None:
        self._counts.met[name] += 1
        await STORM[name][1](call)


class Server:
    """Answers requests; each connection may carry many."""

    def __init__(self, seed: int) -> None:
        self.counts = Counts()
        self.weather = Weather(seed, self.counts)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its first request to its end."""
        self.counts.open += 1
        self.counts.most_open = max(self.counts.most_open, self.counts.open)
        try:
            while True:
                path = await _request(reader)
                await self._answer(path, Call(reader, writer, self.weather.chance))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except Exception:
            self.counts.bugs += 1
            raise
        finally:
            self.counts.open -= 1
            writer.close()

    async def _answer(self, path: str, call: Call) -> None:
        if path == "/counts":
            # This connection is not one of those that are counted.
            call.send(body_of({**vars(self.counts), "open": self.counts.open - 1}))
        elif path.startswith("/weather/"):
            self.weather.is_storm, self.weather.is_down = path.endswith("storm"), False
            call.send(b"{}")
        else:
            self.counts.requests += 1
            await self.weather.meet(call)


async def _request(reader: asyncio.StreamReader) -> str:
    """The path of a request that has come whole."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.casefold().split(": ", 1) for line in lines if ": " in line)
    await reader.readexactly(int(headers.get("content-length", 0)))
    return first.split()[1]


async def main() -> None:
    """Serves until standard input ends: with whoever started this process, at the latest."""
    server = Server(int(sys.argv[1]))
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, backlog=4096)
    changing = asyncio.create_task(server.weather.change())
    print(listening.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    changing.cancel()


if __name__ == "__main__":
    asyncio.run(main())
