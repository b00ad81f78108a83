"""Faults on real sockets: the right reason, the policy's route, in time, and nothing leaks."""

import asyncio
import email.utils
import json
import logging
import socket
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai import AsyncOpenAI, OpenAI
from wire import Answer, Json, Request, Script, WireServer, chat, token, verdict

from guard import Decision, Gate, JudgeError, Policy, Reason, Retry, Route
from guard.breaker import breakers_ignored
from guard.errors import GuardError
from guard.judges import ChatJudge
from guard.policy import OnUnmeasured
from guard.worker import Workers, shared_workers

pytestmark = pytest.mark.wire

Wire = Callable[[Script], WireServer]
MakeJudge = Callable[..., ChatJudge]

KEY = "sk-canary-0123456789"
QUESTION = "In the canary-question, when did it open?"
CONTEXTS = [
    "canary-first: the bridge that crosses the river opened in 1932.",
    "The second one is long and says in the end that all is well: canary-second.",
]
OK = Answer(verdict(-0.01, -6.0))
DEADLINE = 0.2
SOON = Retry(attempts=2, first_wait=0.01, max_wait=0.02)


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Generator[None]:
    """Calls that a test abandons end before the next one begins."""
    yield
    _wait_until(lambda: shared_workers.abandoned == 0)


def _wait_until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def error(message: str, status: int, headers: dict[str, str] | None = None, **more: Json) -> Answer:
    """An error body in OpenAI's shape."""
    return Answer({"error": {"message": message, **more}}, status=status, headers=headers or {})


def checked(gate: Gate) -> tuple[Decision, float]:
    """A decision and the seconds it took."""
    started = time.monotonic()
    decision = gate.check(QUESTION, CONTEXTS)
    return decision, time.monotonic() - started


# ── Every fault has its reason, its route and its time ───────────────────────────────────────────

BOOM = error("boom", 500)
FAULTS: dict[str, tuple[Script, Reason, int]] = {
    "hang": (Answer(hang=True), Reason.TIMEOUT, 1),
    "slow headers": (Answer(OK.body, delay=1.0), Reason.TIMEOUT, 1),
    "a byte a second": (Answer(OK.body, drip=1.0), Reason.TIMEOUT, 1),
    "an error, a byte a second": (Answer(BOOM.body, status=500, drip=1.0), Reason.TIMEOUT, 1),
    "reset before the body": (Answer(OK.body, cut=0), Reason.UNAVAILABLE, 2),
    "reset within the body": (Answer(OK.body, cut=40), Reason.UNAVAILABLE, 2),
    "not what it is encoded in": (
        Answer(b"plain", headers={"content-encoding": "gzip"}),
        Reason.UNAVAILABLE,
        2,
    ),
    "an error that is cut off": (Answer(BOOM.body, status=400, cut=0), Reason.UNAVAILABLE, 2),
    "an error, not what it is encoded in": (
        Answer(b"plain", status=400, headers={"content-encoding": "gzip"}),
        Reason.UNAVAILABLE,
        2,
    ),
    "truncated JSON": (Answer(json.dumps(OK.body).encode()[:200]), Reason.MALFORMED, 1),
    "HTML": (
        Answer(b"<html>Log in</html>", headers={"content-type": "text/html"}),
        Reason.MALFORMED,
        1,
    ),
    "HTML called JSON": (Answer(b"<html>Log in</html>"), Reason.MALFORMED, 1),
    "an event stream": (
        Answer(b"data: {}\n\n", headers={"content-type": "text/event-stream"}),
        Reason.MALFORMED,
        1,
    ),
    "no body": (Answer(b""), Reason.MALFORMED, 1),
    "null": (Answer(None), Reason.MALFORMED, 1),
    "a list": (Answer([1]), Reason.MALFORMED, 1),
    "a number": (Answer(b"0.93"), Reason.MALFORMED, 1),
    "no UTF-8": (Answer(b'{"choices": "\xff"}'), Reason.MALFORMED, 1),
    "17 MiB": (Answer(b" " * (17 * 2**20)), Reason.MALFORMED, 1),
    "deep nesting": (Answer(b"[" * 100_000), Reason.MALFORMED, 1),
    "a number of 5000 digits": (Answer(b'{"created": ' + b"9" * 5000 + b"}"), Reason.MALFORMED, 1),
    "no choices": (Answer({"choices": []}), Reason.MALFORMED, 1),
    "choices are null": (Answer({"choices": None}), Reason.MALFORMED, 1),
    "an error inside 200": (Answer({"error": {"code": 502}}), Reason.MALFORMED, 1),
    "NaN": (Answer(chat(token("True", float("nan")))), Reason.MALFORMED, 1),
    "500": (BOOM, Reason.UNAVAILABLE, 2),
    "502 with HTML": (Answer(b"<html>Bad gateway</html>", status=502), Reason.UNAVAILABLE, 2),
    "503 without a body": (Answer(b"", status=503), Reason.UNAVAILABLE, 2),
    "deep nesting in an error": (Answer(b"[" * 100_000, status=500), Reason.UNAVAILABLE, 2),
    "529": (error("overloaded", 529), Reason.UNAVAILABLE, 2),
    "408": (error("timeout", 408), Reason.UNAVAILABLE, 2),
    "409": (error("conflict", 409), Reason.UNAVAILABLE, 2),
    "429": (error("slow down", 429), Reason.RATE_LIMITED, 2),
    "501": (error("not a decision model", 501), Reason.REJECTED, 1),
    "401": (error("no", 401), Reason.REJECTED, 1),
    "404": (error("no such model", 404), Reason.REJECTED, 1),
    "413": (error("too large", 413), Reason.REJECTED, 1),
    "redirected for ever": (
        Answer(b"", status=307, headers={"location": "completions"}),
        Reason.REJECTED,
        1,
    ),
    "content filter": (
        error("The response was filtered.", 400, code="content_filter"),
        Reason.CONTENT_FILTER,
        1,
    ),
    "content filter in the choice": (
        Answer(chat(content="", logprobs=None, finish_reason="content_filter")),
        Reason.CONTENT_FILTER,
        1,
    ),
    "refusal": (
        Answer(chat(message={"content": None, "refusal": "I can't."}, logprobs=None)),
        Reason.REFUSAL,
        1,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(wire: Wire, chat_judge: MakeJudge, fault: str) -> None:
    """Each fault has its own reason, takes the policy's route, and keeps to the deadline."""
    script, reason, requests = FAULTS[fault]
    server = wire(script)
    deadline = 0.4 if reason is Reason.TIMEOUT else 2.0
    policy = Policy(deadline=deadline, on_unmeasured={reason.value: "clarify"})
    decision, seconds = checked(Gate(chat_judge(server), policy, retry=SOON))
    assert (decision.reason, decision.route) == (reason, Route.CLARIFY)
    assert decision.probability is None and decision.unmeasured
    assert seconds < 1.0
    assert len(server.requests) == requests
    assert "canary" not in decision.detail


@pytest.mark.parametrize("choice", ["answer", "clarify", "refuse", "raise"])
@pytest.mark.parametrize("fault", ["a byte a second", "500", "truncated JSON", "401"])
def test_faults_take_any_route_of_the_policy(
    wire: Wire, chat_judge: MakeJudge, fault: str, choice: OnUnmeasured
) -> None:
    """Also ``answer`` and ``raise``: what the policy says, and never a probability."""
    policy = Policy(deadline=0.1, on_unmeasured=choice)
    gate = Gate(chat_judge(wire(FAULTS[fault][0])), policy, retry=SOON)
    if choice == "raise":
        with pytest.raises(JudgeError) as caught:
            gate.check(QUESTION, CONTEXTS)
        assert isinstance(caught.value.decision, Decision)
        decision = caught.value.decision
        assert decision.route is None
    else:
        decision = gate.check(QUESTION, CONTEXTS)
        assert decision.route == choice
    assert decision.reason is FAULTS[fault][1]
    assert decision.probability is None


@pytest.mark.parametrize("kind", [OpenAI, AsyncOpenAI], ids=["sync", "async"])
@pytest.mark.parametrize("fault", ["refused", "no TLS"])
def test_nobody_to_talk_to(wire: Wire, kind: type[OpenAI] | type[AsyncOpenAI], fault: str) -> None:
    """A refused connection, and a server that does not speak TLS: unavailable at once."""
    server = wire(OK)
    url = {
        "refused": f"http://127.0.0.1:{_unused_port()}/v1",
        "no TLS": f"https{server.url.removeprefix('http')}",
    }[fault]
    judge = ChatJudge(kind(base_url=url, api_key=KEY), model="wire-model", close_clients=True)
    decision, seconds = checked(Gate(judge, Policy(deadline=2), retry=SOON))
    judge.close()
    assert (decision.reason, decision.route) == (Reason.UNAVAILABLE, Route.REFUSE)
    assert "(2 attempts) Check base_url" in decision.detail
    assert seconds < 0.6
    assert server.requests == []


def _unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def test_twenty_hanging_checks_end_together(wire: Wire, chat_judge: MakeJudge) -> None:
    """One hanging server does not make queries wait for each other."""
    server = wire(Answer(hang=True))
    gate = Gate(chat_judge(server), Policy(deadline=DEADLINE))

    async def all_at_once() -> list[Decision]:
        return await asyncio.gather(*(gate.acheck(QUESTION, CONTEXTS) for _ in range(20)))

    started = time.monotonic()
    made = asyncio.run(all_at_once())
    assert time.monotonic() - started < DEADLINE + 1
    assert {decision.reason for decision in made} == {Reason.TIMEOUT}
    for request in server.requests:
        assert request.gone.wait(10)


def test_it_recovers(wire: Wire, chat_judge: MakeJudge) -> None:
    """Once the server is well again, so is the gate."""
    server = wire([BOOM, Answer(b"<html>"), Answer(OK.body, cut=9), Answer(hang=True), OK])
    gate = Gate(chat_judge(server), Policy(deadline=1), retry=Retry(attempts=1))
    reasons = [gate.check(QUESTION, CONTEXTS).reason for _ in range(5)]
    assert reasons == [
        Reason.UNAVAILABLE,
        Reason.MALFORMED,
        Reason.UNAVAILABLE,
        Reason.TIMEOUT,
        Reason.SUFFICIENT,
    ]


# ── Retries and time ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_trap_32_exactly_as_many_requests_as_attempts(
    wire: Wire, chat_judge: MakeJudge, attempts: int
) -> None:
    """Nobody below retries as well: n attempts are n requests."""
    server = wire(BOOM)
    gate = Gate(chat_judge(server), retry=Retry(attempts=attempts, first_wait=0.01, max_wait=0.02))
    decision, seconds = checked(gate)
    assert len(server.requests) == attempts
    assert decision.reason is Reason.UNAVAILABLE
    assert (f"({attempts} attempts)" in decision.detail) is (attempts > 1)
    assert seconds < 1


def test_trap_32_waits_stay_inside_the_deadline(wire: Wire, chat_judge: MakeJudge) -> None:
    """A hundred attempts that do not fit end with the deadline, and never after it."""
    server = wire(BOOM)
    retry = Retry(attempts=100, first_wait=0.1, max_wait=0.1)
    with breakers_ignored():  # It would open after ten of them.
        decision, seconds = checked(Gate(chat_judge(server), Policy(deadline=0.4), retry=retry))
    # The deadline may strike while it waits, or within the last attempt.
    assert decision.reason in (Reason.UNAVAILABLE, Reason.TIMEOUT)
    assert seconds < 0.6
    assert 1 < len(server.requests) < 100


def _in_five_minutes() -> str:
    return email.utils.formatdate(time.time() + 300, usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("name", ["retry-after", "retry-after-ms", "date"])
def test_trap_32_a_long_retry_after_is_not_slept(
    wire: Wire, chat_judge: MakeJudge, status: int, name: str
) -> None:
    """Asked to come back in five minutes, it gives up at once: one request, no sleep."""
    asked = {
        "retry-after": {"retry-after": "300"},
        "retry-after-ms": {"retry-after-ms": "300000"},
        "date": {"retry-after": _in_five_minutes()},
    }
    server = wire(error("slow down", status, asked[name]))
    decision, seconds = checked(Gate(chat_judge(server), Policy(deadline=5)))
    assert decision.reason is (Reason.RATE_LIMITED if status == 429 else Reason.UNAVAILABLE)
    assert seconds < 0.5
    assert len(server.requests) == 1


def test_trap_32_a_short_retry_after_is_kept(wire: Wire, chat_judge: MakeJudge) -> None:
    """What fits into the deadline is waited for, even where our own wait would be shorter."""
    server = wire([error("slow down", 429, {"retry-after-ms": "200"}), OK])
    decision, seconds = checked(Gate(chat_judge(server), Policy(deadline=2), retry=SOON))
    assert decision.measured
    assert 0.2 <= seconds < 0.6
    assert len(server.requests) == 2


@pytest.mark.slow
def test_trap_32_retry_after_1_is_kept(wire: Wire, chat_judge: MakeJudge) -> None:
    """The usual header, in whole seconds, where it fits; and not where it does not."""
    server = wire([error("slow down", 429, {"retry-after": "1"}), OK])
    decision, seconds = checked(Gate(chat_judge(server), Policy(deadline=3), retry=SOON))
    assert decision.measured and 1 <= seconds < 2
    hurried = wire(error("slow down", 429, {"retry-after": "1"}))
    decision, seconds = checked(Gate(chat_judge(hurried), Policy(deadline=0.9), retry=SOON))
    assert decision.reason is Reason.RATE_LIMITED
    assert seconds < 0.5 and len(hurried.requests) == 1


@pytest.mark.parametrize(
    "value", ["nonsense", "-5", "nan", "inf", "0", "", "Mon, 01 Jan 99999999999999 00:00:00 GMT"]
)
def test_trap_32_an_odd_retry_after_is_ignored(
    wire: Wire, chat_judge: MakeJudge, value: str
) -> None:
    """A header that names no time leaves the usual wait."""
    odd = {"retry-after": value, "retry-after-ms": value}
    server = wire([error("slow down", 429, odd), OK])
    decision, seconds = checked(Gate(chat_judge(server), Policy(deadline=2), retry=SOON))
    assert decision.measured and seconds < 0.3


@pytest.mark.parametrize(("failures", "measured"), [(2, True), (5, False)])
def test_trap_32_failures_then_success(
    wire: Wire, chat_judge: MakeJudge, failures: int, measured: bool
) -> None:
    """Two failures are survived with three attempts, five are not."""
    server = wire([*[BOOM] * failures, OK])
    retry = Retry(attempts=3, first_wait=0.01, max_wait=0.02)
    decision, _ = checked(Gate(chat_judge(server), retry=retry))
    assert decision.measured is measured
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "answer",
    [
        error("You exceeded your current quota.", 429, code="insufficient_quota"),
        error("You exceeded your current quota.", 429, type="insufficient_quota"),
        error("Bad request.", 400),
        error("No key.", 401),
        error("Payment required.", 402),
        error("Not from here.", 403),
        error("No such model.", 404),
        error("Unprocessable.", 422),
    ],
    ids=["quota", "quota type", "400", "401", "402", "403", "404", "422"],
)
def test_trap_33_what_cannot_help_is_not_retried(
    wire: Wire, chat_judge: MakeJudge, answer: Answer
) -> None:
    """Spent quota, wrong requests and wrong keys: one request, rejected."""
    server = wire(answer)
    retry = Retry(attempts=5, first_wait=0, max_wait=0)
    decision, _ = checked(Gate(chat_judge(server), retry=retry))
    assert decision.reason is Reason.REJECTED
    assert len(server.requests) == 1
    assert "attempts" not in decision.detail


# ── Cancelling ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("answer", [Answer(hang=True), Answer(OK.body, drip=0.05)])
def test_trap_34_cancelling_closes_the_request(
    wire: Wire, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    """CancelledError reaches the caller, the HTTP request is closed, and nothing is decided."""
    caplog.set_level(logging.DEBUG, logger="guard")
    server = wire(answer)
    judge = ChatJudge(
        AsyncOpenAI(base_url=server.url, api_key=KEY), model="wire-model", close_clients=True
    )
    gate = Gate(judge, Policy(on_unmeasured="answer", deadline=3), retry=Retry(attempts=5))

    async def cancelled() -> tuple[bool, float]:
        task = asyncio.create_task(gate.acheck(QUESTION, CONTEXTS))
        while not server.requests:
            await asyncio.sleep(0.005)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return task.cancelled(), time.monotonic() - started

    was_cancelled, seconds = asyncio.run(cancelled())
    assert was_cancelled and seconds < 0.5
    assert server.requests[0].gone.wait(10)
    assert len(server.requests) == 1
    assert caplog.records == []


def test_trap_34_cancelling_between_attempts(wire: Wire) -> None:
    """A wait for the next attempt is cancelled as well; no further request is sent."""
    server = wire(BOOM)
    judge = ChatJudge(
        AsyncOpenAI(base_url=server.url, api_key=KEY), model="wire-model", close_clients=True
    )
    gate = Gate(judge, Policy(on_unmeasured="answer", deadline=60), retry=Retry(9, 30.0, 30.0))

    async def cancelled() -> None:
        task = asyncio.create_task(gate.acheck(QUESTION, CONTEXTS))
        while not server.requests:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    time.sleep(0.05)
    assert len(server.requests) == 1


def test_trap_34_a_blocking_call_is_left_behind(wire: Wire) -> None:
    """With a blocking client alone, cancelling returns at once and the call is counted."""
    server = wire(Answer(OK.body, delay=0.3))
    with OpenAI(base_url=server.url, api_key=KEY) as client:
        gate = Gate(ChatJudge(client, model="wire-model"), Policy(on_unmeasured="answer"))

        async def cancelled() -> float:
            task = asyncio.create_task(gate.acheck(QUESTION, CONTEXTS))
            while not server.requests:
                await asyncio.sleep(0.005)
            started = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return time.monotonic() - started

        assert asyncio.run(cancelled()) < 0.2
        assert shared_workers.abandoned == 1
        _wait_until(lambda: shared_workers.abandoned == 0)


# ── Calls left behind ────────────────────────────────────────────────────────────────────────────

# 0.6 s in all, never more than 0.03 s between two bytes: no time-out of a read ends it, and the
# SDK reads headers by itself.
DRIP = Answer({"no": "completion"}, slow_head=0.03)
# 1.6 s in all, for deadlines that leave a busy machine the time to connect: openai gives up by
# itself on what it cannot connect to, and then no call is left behind.
SLOW_DRIP = Answer({"no": "completion"}, slow_head=0.08)


def test_abandoned_calls_are_counted_until_they_end(wire: Wire) -> None:
    """A blocking call that outlives its deadline is counted, and no longer once it has ended."""
    server, workers = wire(SLOW_DRIP), Workers(limit=3)
    with OpenAI(base_url=server.url, api_key=KEY) as client:
        judge = ChatJudge(client, model="wire-model")
        gate = Gate(judge, Policy(deadline=0.5), workers=workers)
        decision, seconds = checked(gate)
        assert decision.reason is Reason.TIMEOUT and seconds < 1.2
        assert workers.abandoned == 1
        _wait_until(lambda: workers.abandoned == 0)
        assert server.requests[0].gone.is_set() is False  # It ran to its end.


def test_the_worker_limit_holds_and_frees_its_slots(wire: Wire) -> None:
    """When all workers hang, the next query is turned away; afterwards the slots are free again."""
    answers = iter([SLOW_DRIP, SLOW_DRIP])
    server, workers = wire(lambda _request: next(answers, OK)), Workers(limit=2)
    with OpenAI(base_url=server.url, api_key=KEY) as client:
        judge = ChatJudge(client, model="wire-model")
        gate = Gate(judge, Policy(deadline=0.5), workers=workers)

        def reason(_number: int) -> Reason:
            return gate.check(QUESTION, CONTEXTS).reason

        with ThreadPoolExecutor(2) as pool:
            assert [*pool.map(reason, range(2))] == [Reason.TIMEOUT] * 2
        assert workers.abandoned == 2
        full, seconds = checked(gate)
        assert full.reason is Reason.OVERLOADED
        assert full.detail.startswith("All 2 workers are busy, 2 of them with abandoned calls.")
        assert seconds < 1.2 and len(server.requests) == 2
        _wait_until(lambda: workers.abandoned == 0)
        assert checked(gate)[0].reason is Reason.SUFFICIENT


def test_the_worker_limit_holds_for_acheck(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a blocking client behind ``acheck``, without blocking the event loop."""
    workers = Workers(limit=1)
    monkeypatch.setattr("guard.judges.client_judge.shared_workers", workers)
    answers = iter([SLOW_DRIP])
    server = wire(lambda _request: next(answers, OK))
    with OpenAI(base_url=server.url, api_key=KEY) as client:
        judge = ChatJudge(client, model="wire-model")
        eager = Retry(attempts=99, first_wait=0, max_wait=0)
        hurried = Gate(judge, Policy(deadline=0.5))
        patient = Gate(judge, Policy(deadline=0.4), retry=eager)

        async def three() -> list[Reason]:
            first = await hurried.acheck(QUESTION, CONTEXTS)
            second = await patient.acheck(QUESTION, CONTEXTS)
            while workers.abandoned:
                await asyncio.sleep(0.01)
            third = await patient.acheck(QUESTION, CONTEXTS)
            return [first.reason, second.reason, third.reason]

        reasons = asyncio.run(three())
    assert reasons == [Reason.TIMEOUT, Reason.OVERLOADED, Reason.SUFFICIENT]
    assert workers.abandoned == 0


def test_a_slow_body_leaves_nothing_behind(wire: Wire) -> None:
    """A body is read here, against the deadline, also by a client that blocks."""
    server, workers = wire(Answer({"no": "completion"}, drip=0.08)), Workers(limit=1)
    with OpenAI(base_url=server.url, api_key=KEY) as client:
        gate = Gate(ChatJudge(client, model="wire-model"), Policy(deadline=0.5), workers=workers)
        decision, seconds = checked(gate)
        assert decision.reason is Reason.TIMEOUT and seconds < 1.2
        _wait_until(lambda: workers.abandoned == 0, 0.5)
    assert server.requests[0].gone.wait(10)


def test_an_asynchronous_client_leaves_nothing_behind(wire: Wire) -> None:
    """With an asynchronous client even ``check`` closes its request at the deadline."""
    server, workers = wire(DRIP), Workers(limit=1)
    judge = ChatJudge(
        AsyncOpenAI(base_url=server.url, api_key=KEY), model="wire-model", close_clients=True
    )
    gate = Gate(judge, Policy(deadline=0.1), workers=workers)
    for _ in range(3):
        assert gate.check(QUESTION, CONTEXTS).reason is Reason.TIMEOUT
    assert workers.abandoned == shared_workers.abandoned == 0
    for request in server.requests:
        assert request.gone.wait(10)
    judge.close()


# ── Nothing leaks ────────────────────────────────────────────────────────────────────────────────


def header(request: Request, name: str) -> str:
    """A header of a request; httpx and httpx2 write its name differently."""
    return {one.casefold(): value for one, value in request.headers.items()}[name]


ECHOES: dict[str, Callable[[Request], Json]] = {
    "the prompt": lambda request: {"error": {"message": request.prompt}},
    "the prompt in a sentence": lambda request: {
        "error": {"message": f"Cannot serve {request.prompt!r}."}
    },
    "the body": lambda request: {"error": f"Bad: {json.dumps(request.body)}"},
    "FastAPI's input": lambda request: {
        "detail": [{"msg": f"not {request.prompt[300:700]}", "input": request.body}]
    },
    "the passages": lambda _request: {"error": {"message": " / ".join(CONTEXTS)}},
    "a passage": lambda _request: {"error": {"message": f"I dislike: {CONTEXTS[0]}"}},
    "the end of a passage": lambda _request: {"error": f"Near '{CONTEXTS[1][-40:]}'"},
    "the question": lambda _request: {"message": f"What is {QUESTION}"},
    "the question, cut": lambda _request: {"message": f"No answer to {QUESTION[:36]}…"},
    "the key": lambda _request: {"error": {"message": f"Incorrect API key provided: {KEY}."}},
    "half the key": lambda _request: {"error": {"message": "Wrong key: sk-canary-01*****89."}},
    "the header": lambda request: {"detail": f"Not valid: {header(request, 'authorization')}"},
    "all headers": lambda request: {"error": f"Headers: {request.headers}"},
    "plain text": lambda request: request.prompt.encode(),
    "HTML": lambda request: f"<pre>{request.prompt} {KEY}</pre>".encode(),
}


def own_words(raised: BaseException) -> Iterator[str]:
    """All that our own errors say, along the chain of an exception."""
    link: BaseException | None = raised
    while link is not None:
        if isinstance(link, GuardError):
            yield from (link.message, str(link.hint), str(link), repr(link), repr(link.args))
            yield "".join(traceback.format_exception_only(link))
        link = link.__cause__ or link.__context__


@pytest.mark.parametrize("echo", ECHOES)
def test_nothing_leaks(
    wire: Wire, chat_judge: MakeJudge, echo: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a server repeats, no key, passage or question stands in what we say about it."""
    caplog.set_level(logging.DEBUG, logger="guard")
    status = 0
    server = wire(lambda request: Answer(ECHOES[echo](request), status=status))
    judge = chat_judge(server)
    gate = Gate(judge, Policy(on_unmeasured="raise"), retry=Retry(attempts=1))
    for status in (200, 400, 401, 403, 404, 422, 429, 500):
        with pytest.raises(JudgeError) as caught:
            gate.check(QUESTION, CONTEXTS)
        decision = caught.value.decision
        assert isinstance(decision, Decision)
        said = [*own_words(caught.value), decision.detail, repr(decision)]
        said += [json.dumps(decision.to_dict()), str(decision.message)]
        assert "canary" not in " ".join(said), status
        if status != 200:
            assert f"HTTP {status}" in decision.detail
    assert "canary" not in caplog.text


def test_a_key_of_another_header_does_not_leak(wire: Wire) -> None:
    """Keys that the caller sends in headers of his own are kept back as well."""
    server = wire(lambda request: error(f"Wrong key {header(request, 'x-api-key')}", 401))
    headers = {"X-Api-Key": "moonlight-canary"}
    with OpenAI(base_url=server.url, api_key=KEY, default_headers=headers) as client:
        decision, _ = checked(Gate(ChatJudge(client, model="wire-model")))
    assert decision.detail.startswith("HTTP 401.")
    assert "moonlight" not in decision.detail


@pytest.mark.parametrize("kind", [OpenAI, AsyncOpenAI], ids=["sync", "async"])
def test_a_key_that_http_cannot_carry(wire: Wire, kind: type[OpenAI] | type[AsyncOpenAI]) -> None:
    """A typographic sign in the caller's key: rejected once, with a hint and without the key."""
    server = wire(OK)
    client = kind(base_url=server.url, api_key="canary–key")
    judge = ChatJudge(client, model="wire-model", close_clients=True)
    gate = Gate(judge, Policy(on_unmeasured="raise"), retry=Retry(3, 0, 0))
    with pytest.raises(JudgeError) as caught:
        gate.check(QUESTION, CONTEXTS)
    assert caught.value.kind == "rejected"
    assert "API key" in str(caught.value.hint)
    shown = "".join(traceback.format_exception(caught.value, limit=0))
    assert "canary–" not in shown and "canary\\u2013" not in shown
    assert isinstance(caught.value.decision, Decision)
    assert "attempts" not in caught.value.decision.detail
    assert server.requests == []
    judge.close()


def test_a_servers_code_is_shown_and_its_text_is_not(wire: Wire, chat_judge: MakeJudge) -> None:
    """The code is a word of the provider's vocabulary; the message may be a passage in disguise."""
    body = {"message": "Bad: PATIENT JANE ROE", "code": "model_not_found", "type": "x" * 99}
    server = wire(Answer({"error": body}, status=404))
    decision, _ = checked(Gate(chat_judge(server)))
    assert decision.detail.startswith("HTTP 404 (model_not_found). No such model or address")
    assert "JANE" not in decision.detail and "xxx" not in decision.detail


def test_the_original_error_stays_reachable(wire: Wire, chat_judge: MakeJudge) -> None:
    """What the SDK raised, with status and request id; no traceback shows it."""
    server = wire(error("boom", 500, {"x-request-id": "req-7"}))
    gate = Gate(chat_judge(server), Policy(on_unmeasured="raise"), retry=Retry(attempts=1))
    with pytest.raises(JudgeError) as caught:
        gate.check(QUESTION, CONTEXTS)
    assert type(caught.value.original).__name__ == "InternalServerError"
    assert "boom" not in "".join(traceback.format_exception(caught.value))
    assert (caught.value.status, caught.value.request_id) == (500, "req-7")
