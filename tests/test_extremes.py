"""Extreme texts: a decision or one clear error, in bounded time and memory; the loop ticks on."""

import asyncio
import sys
import time
import tracemalloc
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from openai import AsyncOpenAI, OpenAI
from wire import Answer, Request, serving, verdict

from guard import (
    ConfigError,
    Decision,
    Gate,
    Policy,
    Query,
    Reason,
    Unmeasured,
    Verdict,
    Windows,
)
from guard.judges import ChatJudge
from guard.prompt import DEFAULT_PROMPT
from guard.testing import Scripted, ScriptedJudge

SECONDS = 10.0
LATE = 0.5  # Seconds.
TIMES = 40  # As much memory as the input, and 30 MB that any query may take.

MEGA = 1_000_000
QUESTION = "In which year did the ferry to Lund first run?"
SENTENCE = "The ferry to Lund first ran in 1904, and was painted green. "


@dataclass(frozen=True)
class Extreme:
    """One query at an end of what there can be."""

    contexts: Callable[[], list[str]]
    question: str = QUESTION
    history: Callable[[], list[tuple[str, str]]] = list


def of(*texts: str, **more: object) -> Extreme:
    return Extreme(lambda: [*texts], **more)  # type: ignore[arg-type]


def every_category() -> str:
    """Characters of every Unicode category, surrogates and unassigned ones among them."""
    found = dict[str, list[str]]()
    for code in range(sys.maxunicode + 1):
        same = found.setdefault(unicodedata.category(chr(code)), [])
        if len(same) < 200:
            same.append(chr(code))
    assert len(found) == 30
    return " ".join("".join(each) for each in found.values())


def many_words() -> str:
    return " ".join(f"word{number}" for number in range(5 * MEGA // 11))


EXTREMES = {
    "5 MB": Extreme(lambda: [SENTENCE * (5 * MEGA // len(SENTENCE))]),
    "5 MB of words of which none is like another": Extreme(lambda: [many_words()]),
    "every category": Extreme(lambda: [every_category()]),
    "10,000 passages": Extreme(lambda: [f"{number}. {SENTENCE}" for number in range(10_000)]),
    "10,000 empty ones": Extreme(lambda: [*[""] * 10_000, SENTENCE]),
    "empty ones among others": of("", SENTENCE, "", " \n", SENTENCE, ""),
    "nothing but empty ones": of("", "", " "),
    "lone surrogates": of("\ud800 The ferry \udfff", "\udc00" * 1000, SENTENCE),
    "NULs": of("\0" * 1000, f"The\0ferry\0{SENTENCE}", question="When\0?"),
    "1 MB without a space": Extreme(lambda: ["a" * MEGA]),
    "1 MB of spaces": Extreme(lambda: [" " * MEGA, SENTENCE]),
    "1 MB of line ends": Extreme(lambda: ["\n" * MEGA + SENTENCE]),
    "1 MB of combining marks": Extreme(lambda: ["e" + "\u0301" * MEGA]),
    "1 MB of Han": Extreme(lambda: ["\u6e21\u8239" * (MEGA // 2)]),
    "what grows when normalised": Extreme(lambda: ["\ufdfa" * 100_000]),
    "1 MB of brackets": Extreme(lambda: ["<|[{(" * (MEGA // 5)]),
    "1 MB of base64": Extreme(lambda: ["QUJD" * (MEGA // 4)]),
    "1 MB of dots and dashes": Extreme(lambda: [".- " * (MEGA // 3)]),
    "1 MB of a question": of(SENTENCE, question=SENTENCE * (MEGA // len(SENTENCE))),
    "1 MB of one turn": of(SENTENCE, history=lambda: [("user", SENTENCE * (MEGA // 60))]),
    "10,000 turns": of(SENTENCE, history=lambda: [("user", SENTENCE)] * 10_000),
    "odd turns": of(
        SENTENCE, history=lambda: [("\ud800\n\0", "\udfff"), ("", ""), ("x" * 9999, "")]
    ),
}


def size_of(extreme: Extreme) -> int:
    texts = [*extreme.contexts(), extreme.question, *(text for _, text in extreme.history())]
    return sum(len(text.encode("utf-8", "replace")) for text in texts)


def reader(capacity: int) -> ScriptedJudge:
    """A judge that renders what it is asked, as all do, and takes so many characters."""

    def said(query: Query) -> Scripted:
        text = DEFAULT_PROMPT.render(query).text
        text.encode()
        if len(text) > capacity:
            return Unmeasured("The prompt is too long.", kind="context_too_long")
        return 0.97 if "1904" in text else 0.03

    return ScriptedJudge(said)


def require_sound(decision: Decision) -> None:
    """Decided, or said to be too long; the record holds as JSON."""
    assert decision.measured or decision.reason in (Reason.CONTEXT_TOO_LONG, Reason.NO_CONTEXTS)
    if decision.reason is Reason.INSUFFICIENT:
        assert decision.verdict and decision.verdict.coverage == 1
    assert decision.to_dict()


@pytest.mark.parametrize("capacity", [6000, 10**9], ids=["small", "large"])
@pytest.mark.parametrize("name", EXTREMES)
def test_time_and_memory(name: str, capacity: int) -> None:
    extreme = EXTREMES[name]
    contexts, history = extreme.contexts(), extreme.history()
    gate = Gate(reader(capacity), Policy(deadline=60))
    started = time.monotonic()
    require_sound(gate.check(extreme.question, contexts, history=history))
    assert time.monotonic() - started < SECONDS
    tracemalloc.start()
    try:
        gate.check(extreme.question, contexts, history=history)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < TIMES * size_of(extreme) + 30 * MEGA, f"{peak / MEGA:.0f} MB"


@pytest.mark.parametrize("capacity", [6000, 10**9], ids=["small", "large"])
@pytest.mark.parametrize("name", EXTREMES)
def test_the_event_loop_ticks_on(name: str, capacity: int) -> None:
    extreme = EXTREMES[name]
    contexts, history = extreme.contexts(), extreme.history()
    judge = reader(capacity)

    class OnAThread(ScriptedJudge):
        async def ajudge(self, query: Query, *, timeout: float) -> Verdict:
            return await asyncio.to_thread(judge.judge, query, timeout=timeout)

    gate = Gate(OnAThread(0.5), Policy(deadline=60))
    decision, late = asyncio.run(ticked(gate, extreme.question, contexts, history))
    require_sound(decision)
    # On a busy machine all takes longer; what blocks the loop takes most of the trip.
    assert late < max(LATE, decision.elapsed_seconds / 4)


async def ticked(
    gate: Gate, question: str, contexts: list[str], history: list[tuple[str, str]]
) -> tuple[Decision, float]:
    """A decision, and by how many seconds another task of the loop was late at most."""
    worst = 0.0

    async def tick() -> None:
        nonlocal worst
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.005)
            worst = max(worst, time.perf_counter() - started - 0.005)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.02)
    try:
        return await gate.acheck(question, contexts, history=history), worst
    finally:
        await asyncio.sleep(0.02)
        ticking.cancel()


@pytest.mark.wire
@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("name", EXTREMES)
def test_on_the_wire(name: str, way: str) -> None:
    """What is sent is JSON, and a server that turns it down is asked for less."""
    extreme = EXTREMES[name]

    def answered(request: Request) -> Answer:
        if len(request.prompt) > 200_000:
            return too_long()
        return Answer(verdict(-3.0, -0.06))

    with serving(answered) as server:
        kind = OpenAI if way == "sync" else AsyncOpenAI
        client = kind(base_url=server.url, api_key="sk-1")
        judge = ChatJudge(client, model="m", close_clients=True)
        gate = Gate(judge, Policy(deadline=60), windows=Windows(3))
        contexts, history = extreme.contexts(), extreme.history()
        started = time.monotonic()
        if way == "sync":
            decision = gate.check(extreme.question, contexts, history=history)
        else:
            decision = asyncio.run(gate.acheck(extreme.question, contexts, history=history))
        assert time.monotonic() - started < SECONDS
        judge.close()
    require_sound(decision)


def too_long() -> Answer:
    error = {"message": "maximum context length", "code": "context_length_exceeded"}
    return Answer({"error": error}, status=400)


@pytest.mark.parametrize(
    ("question", "contexts"),
    [("", ["x"]), (" \n", ["x"]), ("x", "one text"), ("x", [None]), ("x", [b"bytes"]), (None, [])],
)
def test_what_is_no_query_is_one_clear_error(question: object, contexts: object) -> None:
    with pytest.raises(ConfigError):
        Gate(ScriptedJudge(0.5)).check(question, contexts)  # type: ignore[arg-type]
