"""The breaker of an endpoint: when it opens, who may try, and what ends it."""

import asyncio
import gc
import json
import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from faulty import FAULTS, GOOD, Line, error, http, raw
from openai import AsyncOpenAI, OpenAI

from guard import (
    ConfigError,
    Decision,
    Gate,
    Policy,
    Profile,
    Reason,
    Retry,
    Thresholds,
)
from guard.breaker import (
    Breaker,
    all_breakers,
    breaker_for,
    breakers_ignored,
    name_of,
    one_query,
)
from guard.dataset import read
from guard.errors import (
    JudgeError,
    JudgeRejected,
    JudgeUnavailable,
    NotAsked,
    Unmeasured,
    before_asking,
)
from guard.judges import Chain, ChatJudge, Link, Mean
from guard.prompt import SWAPPED_TEMPLATE, Prompt
from guard.survey import survey

KEY = "sk-canary-0123456789"
QUESTION, CONTEXTS = "When did it open?", ["It opened in 1932."]
PAUSE = 0.2
ONCE = Retry(attempts=1)


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("guard.breaker.time", clock)
    return clock


def ask(breaker: Breaker, error: BaseException | None = None) -> None:
    """One request, which ends so; what it raises is expected."""
    with suppress(*([type(error)] if error else [])), breaker.asking(1.0):
        if error is not None:
            raise error


def can_ask(breaker: Breaker) -> bool:
    """Whether a query is let through."""
    try:
        with breaker.asking(1.0):
            return True
    except NotAsked:
        return False


def state_of(breaker: Breaker) -> str:
    """Read anew: a type checker takes what it once was for what it is."""
    return breaker.state


def refused(breaker: Breaker) -> NotAsked:
    """The error of a query that is turned away; fails where it is asked."""
    with pytest.raises(NotAsked) as caught, breaker.asking(1.0):
        pytest.fail("It was asked.")
    assert caught.value.kind == "circuit_open"
    return caught.value


def opened(clock: Clock, **options: float) -> Breaker:
    """One that has just opened, after a single failure."""
    breaker = Breaker("m at h", failures=1, **options)
    ask(breaker, JudgeUnavailable("down"))
    assert state_of(breaker) == "open"
    return breaker


# ── When it opens ────────────────────────────────────────────────────────────────────────────────


def test_it_opens_after_so_many_failures_in_a_row(clock: Clock) -> None:
    breaker = Breaker("m at h", failures=3, seconds=2)
    for _ in range(2):
        ask(breaker, JudgeUnavailable("down"))
    assert state_of(breaker) == "closed"
    ask(breaker, JudgeUnavailable("HTTP 503."))
    assert state_of(breaker) == "open"
    error = refused(breaker)
    assert error.retry_after == 2 and not error.retryable
    assert str(error).startswith(
        "The judge was not asked, since m at h keeps failing: 3 queries in a row, "
        "the last one unavailable. HTTP 503. It is asked again within 2 s."
    )


@pytest.mark.parametrize(
    "between",
    [None, JudgeRejected("key"), Unmeasured("no logprobs")],
    ids=["ok", "rejected", "mute"],
)
def test_any_answer_ends_the_row(between: BaseException | None) -> None:
    """Whoever answers is there, whatever the answer."""
    breaker = Breaker("m at h", failures=2)
    for _ in range(5):
        ask(breaker, JudgeUnavailable("down"))
        ask(breaker, between)
    assert state_of(breaker) == "closed"


@pytest.mark.parametrize(
    "between",
    [NotAsked("busy"), asyncio.CancelledError(), KeyboardInterrupt(), ZeroDivisionError()],
    ids=lambda one: type(one).__name__,
)
def test_what_says_nothing_of_the_endpoint_leaves_the_row(between: BaseException) -> None:
    """Overload of our own, a cancelled query, a bug: neither failure nor answer."""
    breaker = Breaker("m at h", failures=2)
    ask(breaker, JudgeUnavailable("down"))
    ask(breaker, between)
    assert state_of(breaker) == "closed"
    ask(breaker, JudgeUnavailable("down"))
    assert state_of(breaker) == "open"


def test_what_was_asked_before_it_opened_is_old_news(clock: Clock) -> None:
    """Neither a late answer closes it, nor do late failures prolong the pause."""
    breaker = Breaker("m at h", failures=1, seconds=2)
    late_answer, late_failure = breaker.asking(1.0), breaker.asking(1.0)
    late_answer.__enter__()
    late_failure.__enter__()
    ask(breaker, JudgeUnavailable("down"))
    clock.now += 1
    late_answer.__exit__(None, None, None)
    assert not late_failure.__exit__(JudgeUnavailable, JudgeUnavailable("down"), None)
    assert state_of(breaker) == "open"
    assert refused(breaker).retry_after == 1


# ── The pause ────────────────────────────────────────────────────────────────────────────────────


def test_each_failed_probe_doubles_the_pause_up_to_the_longest(clock: Clock) -> None:
    breaker = opened(clock, seconds=2, longest=10)
    for pause in (2, 4, 8, 10, 10):
        assert refused(breaker).retry_after == pause
        clock.now += pause
        assert state_of(breaker) == "half_open"
        ask(breaker, JudgeUnavailable("down"))
    clock.now += 10
    ask(breaker)
    assert state_of(breaker) == "closed"
    ask(breaker, JudgeUnavailable("down"))
    assert refused(breaker).retry_after == 2  # As at first.


@pytest.mark.parametrize(("asked", "pause"), [(None, 2), (1, 2), (5, 5), (300, 60)])
def test_retry_after_lengthens_the_pause(clock: Clock, asked: float | None, pause: float) -> None:
    """What the server asks for is kept, but never beyond the longest."""
    breaker = Breaker("m at h", failures=1, seconds=2, longest=60)
    ask(breaker, JudgeUnavailable("later", retry_after=asked))
    assert refused(breaker).retry_after == pause


def test_retry_after_of_a_probe_does_not_double_for_ever(clock: Clock) -> None:
    """The next pause is twice our own last one, not twice the server's."""
    breaker = opened(clock, seconds=2, longest=60)
    clock.now += 2
    ask(breaker, JudgeUnavailable("later", retry_after=30))
    assert refused(breaker).retry_after == 30
    clock.now += 30
    ask(breaker, JudgeUnavailable("down"))
    assert refused(breaker).retry_after == 8


# ── The probe ────────────────────────────────────────────────────────────────────────────────────


def test_one_probe_at_a_time(clock: Clock) -> None:
    breaker = opened(clock, seconds=2)
    clock.now += 2
    with breaker.asking(1.0):
        error = refused(breaker)
        assert error.retry_after == 0 and "One query is trying it now." in error.message
    assert state_of(breaker) == "closed"


@pytest.mark.parametrize("end", [asyncio.CancelledError(), ZeroDivisionError(), NotAsked("busy")])
def test_a_probe_without_a_result_frees_the_place(clock: Clock, end: BaseException) -> None:
    """Another query may try at once; the pause is as it was."""
    breaker = opened(clock, seconds=2)
    clock.now += 2
    ask(breaker, end)
    assert state_of(breaker) == "half_open"
    ask(breaker, JudgeUnavailable("down"))
    assert refused(breaker).retry_after == 4


@pytest.mark.parametrize("answer", [None, JudgeRejected("key"), Unmeasured("mute")])
def test_any_answer_of_the_probe_closes_it(clock: Clock, answer: BaseException | None) -> None:
    breaker = opened(clock, seconds=2)
    clock.now += 2
    ask(breaker, answer)
    assert state_of(breaker) == "closed"


def test_one_probe_for_all_inside(clock: Clock) -> None:
    """A mean's judges at one endpoint are one probe; others are turned away meanwhile."""
    breaker = opened(clock, seconds=2)
    clock.now += 2
    with one_query(), breaker.asking(1.0):
        with breaker.asking(1.0):
            pass
        assert state_of(breaker) == "closed"
    ask(breaker, JudgeUnavailable("down"))
    clock.now += 2
    with one_query(), breaker.asking(1.0):
        thread = threading.Thread(target=refused, args=(breaker,))
        thread.start()
        thread.join()


def test_of_a_joint_probe_one_failure_counts_once(clock: Clock) -> None:
    breaker = opened(clock, seconds=2)
    clock.now += 2
    with one_query():
        for _ in range(2):
            with suppress(JudgeUnavailable, NotAsked), breaker.asking(1.0):
                raise JudgeUnavailable("down")
    assert refused(breaker).retry_after == 4


def test_ignored_nobody_is_turned_away_and_nothing_counts() -> None:
    from guard.breaker import breaking

    breaker = Breaker("m at h", failures=1)

    class Judge:
        pass

    judge = Judge()
    judge.breaker = breaker  # type: ignore[attr-defined]
    with breakers_ignored(), suppress(JudgeUnavailable), breaking(judge, 1.0):
        raise JudgeUnavailable("down")
    assert state_of(breaker) == "closed"
    ask(breaker, JudgeUnavailable("down"))
    with breakers_ignored(), breaking(judge, 1.0):
        pass
    assert state_of(breaker) == "open"


def test_many_threads_agree(clock: Clock) -> None:
    """Of 64 threads at a half-open breaker one gets through, whatever the order."""
    breaker = opened(clock, seconds=2)
    clock.now += 2
    start, inside = threading.Barrier(64), list[int]()
    leave = threading.Event()

    def work(number: int) -> bool:
        start.wait()
        try:
            with breaker.asking(1.0):
                inside.append(number)
                leave.wait(10)
        except NotAsked:
            return False
        return True

    with ThreadPoolExecutor(64) as pool:
        asked = [pool.submit(work, number) for number in range(64)]
        end = time.monotonic() + 10
        while sum(one.done() for one in asked) < 63:
            assert time.monotonic() < end
            time.sleep(0.005)
        leave.set()
    assert len(inside) == sum(one.result() for one in asked) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_begins_anew() -> None:
    """Also where another thread held the lock: the child asks, and does not wait for ever."""
    breaker = Breaker("m at h", failures=1)
    ask(breaker, JudgeUnavailable("down"))
    with breaker._lock:  # pyright: ignore[reportPrivateUsage]
        child = os.fork()
        if child == 0:
            os._exit(0 if breaker.state == "closed" and can_ask(breaker) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert state_of(breaker) == "open"


# ── Whose it is ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"failures": 0}, "failures"),
        ({"failures": 1.5}, "failures"),
        ({"failures": 10_001}, "failures"),
        ({"seconds": -1}, "seconds"),
        ({"seconds": 61}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"longest": 3601}, "longest"),
    ],
)
def test_numbers_out_of_range(options: dict[str, float], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Breaker("m", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1", "m at api.openai.com"),
        ("http://user:sk-canary@127.0.0.1:8000/v1?key=sk-canary", "m at 127.0.0.1:8000"),
        ("https://h/sk-canary/v1", "m at h"),
        ("", "m"),
    ],
)
def test_its_name_holds_no_secret(url: str, name: str) -> None:
    assert name_of(url, "m") == name


def test_an_endpoint_has_one_breaker_for_each_account() -> None:
    """Address, model, account and numbers tell them apart; one key's spent limit is its own."""
    known = {
        breaker_for("https://a.test/v1", "m", "account"),
        breaker_for("https://a.test/v1", "m", "account"),
        breaker_for("https://b.test/v1", "m", "account"),
        breaker_for("https://a.test/v1", "other", "account"),
        breaker_for("https://a.test/v1", "m", "another"),
        breaker_for("https://a.test/v1", "m", "account", 3),
    }
    assert len(known) == 5
    assert known <= set(all_breakers())


def test_judges_with_one_key_share_it_and_others_do_not() -> None:
    """Also a blocking and an asynchronous client, and the same judge with other words."""

    def judge(key: str, kind: type[OpenAI] | type[AsyncOpenAI] = OpenAI) -> ChatJudge:
        client = kind(base_url="http://127.0.0.1:9/v1", api_key=key)
        return ChatJudge(client, model="wire-model", close_clients=True)

    one, same, other = judge("a"), judge("a", AsyncOpenAI), judge("b")
    swapped = one.with_prompt(Prompt(SWAPPED_TEMPLATE))
    assert one.breaker is same.breaker is swapped.breaker is not None
    assert other.breaker is not one.breaker
    one.use_breaker(failures=0)
    assert one.breaker is None and same.breaker is not None
    for each in (one, same, other):
        each.close()


def test_a_forgotten_breaker_is_in_no_list() -> None:
    breaker = Breaker("forgotten at h")
    assert breaker in all_breakers()
    del breaker
    gc.collect()
    assert "forgotten at h" not in {one.name for one in all_breakers()}


# ── Through sockets ──────────────────────────────────────────────────────────────────────────────


@dataclass
class Moody:
    """An endpoint that fails until it is told to be well; it answers after ``seconds``."""

    well: bool = False
    seconds: float = 0.0

    def __call__(self, line: Line) -> None:
        while True:
            line.request()
            time.sleep(self.seconds)
            line.say(http(GOOD) if self.well else error("boom", 500))


Client = type[OpenAI] | type[AsyncOpenAI]
Checks = Callable[[Gate, int], list[Decision]]


def in_threads(gate: Gate, queries: int) -> list[Decision]:
    """So many at once."""
    with ThreadPoolExecutor(queries) as pool:
        asked = [pool.submit(gate.check, QUESTION, CONTEXTS) for _ in range(queries)]
        return [one.result() for one in asked]


def in_tasks(gate: Gate, queries: int) -> list[Decision]:
    """So many at once, on one event loop."""

    async def all_at_once() -> list[Decision]:
        return await asyncio.gather(*(gate.acheck(QUESTION, CONTEXTS) for _ in range(queries)))

    return asyncio.run(all_at_once())


wired = [
    pytest.mark.wire,
    pytest.mark.parametrize(
        ("client", "checks"),
        [(OpenAI, in_threads), (AsyncOpenAI, in_threads), (AsyncOpenAI, in_tasks)],
        ids=["sync", "sync, cancellable", "async"],
    ),
]


def on_wire(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that runs with each client."""
    for mark in wired:
        test = mark(test)
    return test


def judge_at(url: str, client: Client, *, seconds: float = PAUSE) -> ChatJudge:
    judge = ChatJudge(client(base_url=url, api_key=KEY), model="wire-model", close_clients=True)
    judge.use_breaker(seconds=seconds)
    return judge


def open_it(gate: Gate, checks: Checks, failures: int = 10) -> None:
    reasons = [checks(gate, 1)[0].reason for _ in range(failures)]
    assert Reason.CIRCUIT_OPEN not in reasons


def reasons_of(made: Sequence[Decision]) -> list[Reason]:
    return sorted(decision.reason for decision in made)


@pytest.fixture
def moody() -> Generator[tuple[Moody, str]]:
    endpoint = Moody()
    with raw(endpoint) as server:
        yield endpoint, server.url


@on_wire
def test_after_ten_failures_nobody_is_asked(client: Client, checks: Checks) -> None:
    """The eleventh query makes no request, says why, and takes no time."""
    with raw(Moody()) as server:
        judge = judge_at(server.url, client, seconds=30)
        gate = Gate(judge, Policy(on_unmeasured={"circuit_open": "clarify"}), retry=ONCE)
        open_it(gate, checks)
        assert server.requests == 10
        made = checks(gate, 1)[0]
        assert (made.reason, made.route) == (Reason.CIRCUIT_OPEN, "clarify")
        assert (made.attempts, made.breaker, made.probability) == (0, "open", None)
        assert "10 queries in a row, the last one unavailable. HTTP 500." in made.detail
        assert made.elapsed_seconds < 0.05
        assert server.requests == 10
        judge.close()


@on_wire
def test_a_query_counts_once_however_often_it_is_tried(client: Client, checks: Checks) -> None:
    """Each attempt is a request; where it opens between two, the query says what it met itself."""
    with raw(Moody()) as server:
        judge = judge_at(server.url, client, seconds=30)
        gate = Gate(judge, retry=Retry(4, 0.0, 0.0))
        made = [checks(gate, 1)[0] for _ in range(11)]
        assert [one.attempts for one in made] == [4] * 9 + [1, 0]
        assert server.requests == 37
        assert [one.reason for one in made] == [Reason.UNAVAILABLE] * 10 + [Reason.CIRCUIT_OPEN]
        assert [one.breaker for one in made] == ["closed"] * 9 + ["open"] * 2
        judge.close()


@on_wire
def test_one_of_twenty_tries_whether_it_is_back(client: Client, checks: Checks) -> None:
    """One request only; it closes the breaker where it is answered, and doubles the pause where it
    is not."""
    endpoint = Moody()
    with raw(endpoint) as server:
        judge = judge_at(server.url, client)
        assert judge.breaker is not None
        gate = Gate(judge, retry=ONCE)
        open_it(gate, checks)
        endpoint.seconds = 0.15  # Long enough for all twenty to come while it is tried.
        time.sleep(PAUSE + 0.01)
        made, asked = checks(gate, 20), server.requests
        assert asked == 11
        assert reasons_of(made) == [Reason.CIRCUIT_OPEN] * 19 + [Reason.UNAVAILABLE]
        assert judge.breaker.state == "open"
        time.sleep(PAUSE + 0.01)  # Not yet: it is twice as long now.
        assert checks(gate, 1)[0].reason is Reason.CIRCUIT_OPEN
        time.sleep(PAUSE)
        endpoint.well = True
        made = checks(gate, 20)
        assert server.requests == asked + 1
        assert reasons_of(made) == [Reason.CIRCUIT_OPEN] * 19 + [Reason.SUFFICIENT]
        assert [one.breaker for one in made if one.measured] == ["half_open"]
        assert [one.measured for one in checks(gate, 20)] == [True] * 20
        judge.close()


@pytest.mark.wire
def test_a_cancelled_probe_lets_the_next_query_try() -> None:
    """Whoever goes away in the middle of it keeps nobody else from finding out."""
    endpoint = Moody()

    async def story(url: str) -> Decision:
        judge = judge_at(url, AsyncOpenAI)
        gate = Gate(judge, retry=ONCE)
        for _ in range(10):
            await gate.acheck(QUESTION, CONTEXTS)
        endpoint.seconds, endpoint.well = 0.3, True
        await asyncio.sleep(PAUSE + 0.01)
        probe = asyncio.create_task(gate.acheck(QUESTION, CONTEXTS))
        await asyncio.sleep(0.1)
        assert (await gate.acheck(QUESTION, CONTEXTS)).reason is Reason.CIRCUIT_OPEN
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        made = await gate.acheck(QUESTION, CONTEXTS)
        await judge.aclose()
        return made

    with raw(endpoint) as server:
        made = asyncio.run(story(server.url))
    assert made.measured and made.breaker == "half_open"


@on_wire
@pytest.mark.parametrize("name", ["hang before headers", "refused", "429"])
def test_each_kind_of_failure_opens_it(name: str, client: Client, checks: Checks) -> None:
    """Time-outs, dead ports and rate limits alike."""
    server = FAULTS[name].serve()
    judge = judge_at(server.url, client, seconds=30)
    gate = Gate(judge, Policy(deadline=0.1 if "hang" in name else 5), retry=ONCE)
    open_it(gate, checks)
    assert checks(gate, 1)[0].reason is Reason.CIRCUIT_OPEN
    server.close()
    judge.close()


@on_wire
@pytest.mark.parametrize("name", ["401", "truncated JSON", "logprobs null", "400 about logprobs"])
def test_answers_do_not_open_it(name: str, client: Client, checks: Checks) -> None:
    """An endpoint that answers is there, however useless the answer."""
    server = FAULTS[name].serve()
    judge = judge_at(server.url, client, seconds=30)
    open_it(Gate(judge, retry=ONCE), checks, failures=15)
    server.close()
    judge.close()


@on_wire
def test_a_chain_asks_the_next_judge_at_once(client: Client, checks: Checks) -> None:
    """The dead one costs no request and no time; the record names it."""
    with raw(Moody()) as dead, raw(Moody(well=True)) as alive:
        first, second = judge_at(dead.url, client, seconds=30), judge_at(alive.url, client)
        chain = Chain([first, Link(second, Profile(Thresholds(0.5, 0.1)))])
        gate = Gate(chain, retry=ONCE)
        for _ in range(10):
            assert checks(gate, 1)[0].tried[0].kind == "unavailable"
        made = checks(gate, 1)[0]
        assert made.measured and [one.kind for one in made.tried] == ["circuit_open"]
        assert made.tried[0].seconds < 0.05
        assert (dead.requests, alive.requests) == (10, 11)
        chain.close()


def both_orders(url: str, client: Client) -> tuple[ChatJudge, Mean]:
    judge = judge_at(url, client)
    return judge, Mean([judge, judge.with_prompt(Prompt(SWAPPED_TEMPLATE))])


@on_wire
def test_a_mean_gets_past_half_open(client: Client, checks: Checks) -> None:
    """Both of its judges are at the endpoint that is tried: they are one probe."""
    endpoint = Moody()
    with raw(endpoint) as server:
        judge, mean = both_orders(server.url, client)
        gate = Gate(mean, retry=ONCE)
        while checks(gate, 1)[0].reason is not Reason.CIRCUIT_OPEN:
            assert server.requests < 30
        endpoint.well = True
        time.sleep(PAUSE + 0.01)
        made = checks(gate, 1)[0]
        # It is read as True in both orders, which are so certain that they cannot agree.
        assert made.measured
        assert judge.breaker is not None and judge.breaker.state == "closed"
        mean.close()


@on_wire
def test_a_mean_whose_endpoint_hangs_opens_it(client: Client, checks: Checks) -> None:
    """Its judges run out of time before it does: a cancelled request would say nothing."""
    server = FAULTS["hang before headers"].serve()
    judge, mean = both_orders(server.url, client)
    gate = Gate(mean, Policy(deadline=0.15), retry=ONCE)
    for _ in range(10):
        checks(gate, 1)
    assert judge.breaker is not None and judge.breaker.state == "open"
    server.close()
    mean.close()


@pytest.mark.wire
@pytest.mark.parametrize("client", [OpenAI, AsyncOpenAI])
def test_a_survey_is_not_hindered(client: Client, tmp_path: Path) -> None:
    """Each row is asked, whatever became of those before, and no breaker opens for others."""
    rows = [{"question": f"Question {number}?", "contexts": CONTEXTS} for number in range(30)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    answers = iter([http(GOOD)])  # Or it would give up: nothing was ever measured.

    def play(line: Line) -> None:
        while True:
            line.request()
            line.say(next(answers, error("boom", 500)))

    with raw(play) as server:
        judge = judge_at(server.url, client, seconds=30)
        judgements = survey(Gate(judge, retry=ONCE), read(path, labelled=False), workers=1)
        assert judge.breaker is not None and judge.breaker.state == "closed"
        assert server.requests == 30
        assert sum(one.verdict is not None for one in judgements) == 1
        judge.close()


# ── What does not open it ────────────────────────────────────────────────────────────────────────


def test_time_outs_of_the_hasty_do_not_hold_up_the_patient(clock: Clock) -> None:
    """Where all that failed is time-outs, whoever has more than twice their time is let through."""
    breaker = Breaker("m at h", failures=3)
    late = JudgeUnavailable("late", kind="timeout")
    for _ in range(3):
        with suppress(JudgeUnavailable), breaker.asking(0.1):
            raise late
    with pytest.raises(NotAsked), breaker.asking(0.2):
        pass
    with breaker.asking(0.21):
        pass
    assert breaker.state == "open"  # For those who have as little time as they had.


def test_other_failures_hold_up_everybody(clock: Clock) -> None:
    breaker = Breaker("m at h", failures=2)
    for failure in (JudgeUnavailable("late", kind="timeout"), JudgeUnavailable("down")):
        with suppress(JudgeUnavailable), breaker.asking(0.1):
            raise failure
    with pytest.raises(NotAsked), breaker.asking(600.0):
        pass


def test_what_was_never_sent_is_no_answer(clock: Clock) -> None:
    """A closed judge, or a passage that does not fit: the row of failures goes on."""
    breaker = Breaker("m at h", failures=2)
    for failure in (
        JudgeUnavailable("down"),
        before_asking(Unmeasured("does not fit", kind="context_too_long")),
        before_asking(JudgeRejected("closed")),
        JudgeUnavailable("down"),
    ):
        with suppress(JudgeError), breaker.asking(1.0):
            raise failure
    assert breaker.state == "open"


def test_a_probe_that_hangs_is_not_waited_for(clock: Clock) -> None:
    """After a second, or the pause, another query may try."""
    breaker = Breaker("m at h", failures=1, seconds=0.5)
    with suppress(JudgeUnavailable), breaker.asking(1.0):
        raise JudgeUnavailable("down")
    clock.now += 0.6
    with breaker.asking(600.0):
        with pytest.raises(NotAsked), breaker.asking(2.0):
            pass
        clock.now += 1.1
        with breaker.asking(2.0):
            pass
    assert breaker.state == "closed"


@pytest.mark.parametrize(
    "url",
    [
        "https://gw.example.com#SECRET",
        "https://gw.example.com?api-key=SECRET",
        "https://user:SECRET@gw.example.com/v1",
        "https://gw.example.com:99999/SECRET",
    ],
)
def test_a_name_holds_no_secret(url: str) -> None:
    assert "SECRET" not in name_of(url, "m")
