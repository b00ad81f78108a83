"""A chat endpoint with set delays, for measuring everything around it.

    python benchmarks/delay_server.py --judge 0.3 --first 0.4 --gap 0.01 --tokens 40

Requests that ask for logprobs get a verdict after ``--judge`` seconds; streamed ones get their
first token after ``--first`` and another every ``--gap``; any other gets the whole answer at once,
after as long as it would have taken to stream it. GET /stats tells requests, tokens written, and
how many streams were cut off by their reader. Prints its port.
"""

import argparse
import asyncio
import json
import math
import re
import signal
from dataclasses import asdict, dataclass
from typing import Any

HEAD = "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{more}\r\n"


@dataclass
class Stats:
    """What the server has done."""

    verdicts: int = 0
    answers: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cut_off: int = 0


@dataclass(frozen=True)
class Delays:
    """Seconds, and how many tokens an answer has; ``true`` is the logprob of True."""

    judge: float
    first: float
    gap: float
    tokens: int
    true: float


class Server:
    """Answers requests; each connection may carry many."""

    def __init__(self, delays: Delays) -> None:
        self.delays, self.stats = delays, Stats()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while (request := await _request(reader)) is not None:
                path, body = request
                await self._answer(path, body, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if path == "/stats":
            return _send(writer, asdict(self.stats))
        self.stats.tokens_in += sum(len(str(one)) for one in body["messages"]) // 4
        if body.get("logprobs"):
            self.stats.verdicts += 1
            await asyncio.sleep(self.delays.judge)
            return _send(writer, _verdict(self.delays.true))
        self.stats.answers += 1
        if body.get("stream"):
            return await self._stream(writer, _number(body))
        await asyncio.sleep(self.delays.first + self.delays.gap * (self.delays.tokens - 1))
        self.stats.tokens_out += self.delays.tokens
        return _send(writer, _whole("yes " * self.delays.tokens))

    async def _stream(self, writer: asyncio.StreamWriter, number: str) -> None:
        try:
            await self._tokens(writer, number)
        except ConnectionError:
            self.stats.cut_off += 1
            raise

    async def _tokens(self, writer: asyncio.StreamWriter, asked: str) -> None:
        await self._wait(self.delays.first, writer)
        head = HEAD.format(kind="text/event-stream", more="transfer-encoding: chunked\r\n")
        writer.write(head.encode())
        for number in range(self.delays.tokens):
            if number:
                await self._wait(self.delays.gap, writer)
            _chunk(writer, f"data: {json.dumps(_piece(f'{asked}.{number} '))}\n\n")
            await writer.drain()
            self.stats.tokens_out += 1
        _chunk(writer, "data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")

    async def _wait(self, seconds: float, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        if writer.transport.is_closing():
            raise ConnectionError


async def _request(reader: asyncio.StreamReader) -> tuple[str, dict[str, Any]] | None:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.casefold().split(": ", 1) for line in lines[1:] if ": " in line)
    data = await reader.readexactly(int(headers.get("content-length", 0)))
    return lines[0].split()[1], json.loads(data or b"{}")


def _number(body: dict[str, Any]) -> str:
    """The number that the question names; each token of the answer carries it."""
    found = re.findall(r"bridge number (\d+) opened", str(body["messages"]))
    return found[-1] if found else "none"


def _send(writer: asyncio.StreamWriter, body: object) -> None:
    data = json.dumps(body).encode()
    head = HEAD.format(kind="application/json", more=f"content-length: {len(data)}\r\n")
    writer.write(head.encode() + data)


def _chunk(writer: asyncio.StreamWriter, text: str) -> None:
    data = text.encode()
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _reply(**choice: object) -> dict[str, object]:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    head = {"id": "1", "object": "chat.completion", "created": 1, "model": "delayed"}
    return {**head, "choices": [{"index": 0, "finish_reason": "stop", **choice}], "usage": usage}


def _verdict(true: float) -> dict[str, object]:
    labels = [("True", true), ("False", math.log(-math.expm1(true)))]
    labels.sort(key=lambda one: -one[1])
    listed = [*labels, *((f"x{number}", -30.0) for number in range(18))]
    top = [{"token": text, "bytes": list(text.encode()), "logprob": p} for text, p in listed]
    entry = {**top[0], "top_logprobs": top}
    message = {"role": "assistant", "content": labels[0][0]}
    return _reply(message=message, logprobs={"content": [entry]})


def _whole(text: str) -> dict[str, object]:
    return _reply(message={"role": "assistant", "content": text})


def _piece(text: str) -> dict[str, object]:
    piece = _reply(delta={"role": "assistant", "content": text}, finish_reason=None)
    return {**piece, "object": "chat.completion.chunk", "usage": None}


async def main() -> None:
    """Serves until it is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("judge", 0.3), ("first", 0.4), ("gap", 0.01), ("true", -0.001)):
        parser.add_argument(f"--{name}", type=float, default=default)
    parser.add_argument("--tokens", type=int, default=40)
    server = Server(Delays(**vars(parser.parse_args())))
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, backlog=4096)
    print(listening.sockets[0].getsockname()[1], flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
