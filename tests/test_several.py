"""Chains and means: who is asked, in what time, and what the record says of it."""

import asyncio
import itertools
import math
import socket
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

import pytest
from counted import plain
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI
from wire import Answer, Json, Request, Script, WireServer, verdict

from guard import (
    ConfigError,
    Decision,
    Gate,
    JudgeError,
    JudgeRejected,
    JudgeUnavailable,
    Policy,
    ProfileMismatch,
    Prompt,
    Query,
    Reason,
    Retry,
    Route,
    Thresholds,
    Unmeasured,
    Verdict,
)
from guard.errors import Tried
from guard.judge import Judge, Profiled
from guard.judges import Chain, ChatJudge, Link, Mean, SampledJudge, close
from guard.odds import expit, logit
from guard.policy import OnUnmeasured
from guard.profile import Profile
from guard.prompt import SWAPPED_TEMPLATE
from guard.testing import ScriptedJudge
from guard.verdict import Usage
from guard.worker import shared_workers

pytestmark = pytest.mark.wire

Wire = Callable[[Script], WireServer]
Ask = Callable[[Gate], Decision]
Make = Callable[..., ChatJudge]

QUESTION, CONTEXTS = "When did it open?", ["The bridge opened in 1932."]
QUERY = Query.of(QUESTION, CONTEXTS)
P_TRUE = 1 / (1 + math.exp(-2.9))
OK = Answer(verdict(-0.1, -3.0))
BOOM = Answer({"error": {"message": "boom"}}, status=500)
HANG = Answer(hang=True)
OTHER = Profile(Thresholds(answer_at=0.9, refuse_below=0.2))
ONCE = Retry(attempts=1)
SLACK = 1.0


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Generator[None]:
    yield
    end = time.monotonic() + 5
    while shared_workers.abandoned:
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture(params=["check", "acheck"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Asks a gate, once synchronously and once asynchronously."""
    if request.param == "check":
        return lambda gate: gate.check(QUESTION, CONTEXTS)

    async def asked(gate: Gate) -> Decision:
        return await gate.acheck(QUESTION, CONTEXTS)

    return lambda gate: asyncio.run(asked(gate))


@pytest.fixture(params=["blocking", "awaiting"])
def chat(request: pytest.FixtureRequest) -> Generator[Make]:
    """Makes ChatJudges on an address, once with a blocking client and once with an async one."""
    judges: list[ChatJudge] = []

    def make(url: str, *, model: str = "wire-model", **options: Json) -> ChatJudge:
        kind = OpenAI if request.param == "blocking" else AsyncOpenAI
        client = kind(base_url=url, api_key="k")
        judges.append(ChatJudge(client, model=model, close_clients=True, **options))
        return judges[-1]

    yield make
    for judge in judges:
        judge.close()


def scripted(name: str, script: object, delay: float = 0.0) -> ScriptedJudge:
    return ScriptedJudge(script, name=name, delay=delay)  # type: ignore[arg-type]


def chained(*judges: Judge) -> Chain:
    """Every later one with `OTHER` as its profile."""
    return Chain([judges[0], *(Link(judge, OTHER) for judge in judges[1:])])


def nobody() -> str:
    """An address at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def timed(ask: Ask, gate: Gate) -> tuple[Decision, float]:
    started = time.monotonic()
    return ask(gate), time.monotonic() - started


# ── A chain: the next stands in for the last ─────────────────────────────────────────────────────

TROUBLE = {
    "down": (None, Reason.UNAVAILABLE, "cannot be reached"),
    "slow": (HANG, Reason.TIMEOUT, "in time"),
    "mute": (plain(), Reason.NO_LOGPROBS, "without logprobs"),
    "500": (BOOM, Reason.UNAVAILABLE, "HTTP 500"),
    "wrong key": (Answer({}, status=401), Reason.REJECTED, "HTTP 401"),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_the_second_answers_for_the_first(wire: Wire, chat: Make, ask: Ask, trouble: str) -> None:
    """Inside the deadline, by its own thresholds, and the record says whose verdict it is."""
    script, kind, detail = TROUBLE[trouble]
    first = chat(nobody() if script is None else wire(script).url, model="first")
    second = chat(wire(OK).url, model="second")
    gate = Gate(
        Chain([first, Link(second, Profile(Thresholds(0.99, 0.96), second.fingerprint))]),
        Policy(deadline=2.0),
    )
    decision, seconds = timed(ask, gate)
    assert seconds < 2.0 + SLACK
    # By the first one's thresholds it would be an answer.
    assert decision.probability == pytest.approx(P_TRUE, abs=1e-3)
    assert (decision.route, decision.reason) == (Route.REFUSE, Reason.INSUFFICIENT)
    assert decision.thresholds == Thresholds(0.99, 0.96)
    assert decision.fingerprint == second.fingerprint
    [tried] = decision.tried
    assert (tried.fingerprint, tried.model, tried.kind) == (first.fingerprint, "first", kind)
    assert detail in tried.detail
    assert 0 <= tried.seconds < 1.0 + SLACK
    assert "No verdict came from first" in decision.detail
    record = decision.to_dict()
    assert record["fingerprint"] == second.fingerprint
    assert (record["answer_at"], record["refuse_below"]) == (0.99, 0.96)
    assert record["tried"] == [
        {
            "fingerprint": first.fingerprint,
            "model": "first",
            "kind": kind.value,
            "detail": tried.detail,
            "seconds": tried.seconds,
        }
    ]


def test_a_well_first_judge_is_all_that_is_asked(ask: Ask) -> None:
    """The gate's own thresholds apply, and nothing was tried before."""
    second = scripted("b", 0.1)
    decision = ask(Gate(chained(scripted("a", 0.88), second)))
    assert (decision.route, decision.fingerprint) == (Route.ANSWER, "scripted:a")
    assert (decision.thresholds, decision.tried) == (Policy().thresholds, ())
    assert second.queries == []


def test_links_are_asked_in_order(ask: Ask) -> None:
    """Each is asked once, and the record tells them in that order."""
    errors = [JudgeUnavailable("a is down"), Unmeasured("b is odd", kind="low_mass")]
    judges = [scripted("a", errors[0]), scripted("b", errors[1]), scripted("c", 0.95)]
    decision = ask(Gate(chained(*judges)))
    assert decision.route is Route.ANSWER
    found = [(one.model, one.kind, one.detail) for one in decision.tried]
    assert found == [("a", "unavailable", "a is down"), ("b", "low_mass", "b is odd")]
    assert [len(judge.queries) for judge in judges] == [1, 1, 1]
    assert "No verdict came from a (unavailable), b (low_mass)." in decision.detail


def test_the_first_may_have_a_profile_too(ask: Ask) -> None:
    """It then beats the policy's thresholds."""
    strict = Profile(Thresholds(0.95, 0.5))
    chain = Chain([Link(scripted("a", 0.9), strict), Link(scripted("b", 0.9), OTHER)])
    assert ask(Gate(chain)).thresholds == Thresholds(0.95, 0.5)


@pytest.mark.parametrize("first", [None, OTHER])
def test_one_judge_at_two_addresses_needs_no_second_profile(
    wire: Wire, chat: Make, ask: Ask, first: Profile | None
) -> None:
    """The same model and prompt elsewhere: what holds for the first one holds for it."""
    chain = Chain([Link(chat(nobody()), first), chat(wire(OK).url)])
    decision = ask(Gate(chain))
    assert decision.thresholds == (Policy().thresholds if first is None else first.thresholds)
    assert decision.measured and len(decision.tried) == 1


def test_one_fingerprint_at_two_addresses_may_have_two_profiles(
    wire: Wire, chat: Make, ask: Ask
) -> None:
    """A fingerprint holds no address, and the same name may stand for another model there."""
    strict = Profile(Thresholds(0.99, 0.96))
    chain = Chain([chat(nobody()), Link(chat(wire(OK).url), strict), Link(chat(nobody()), OTHER)])
    decision = ask(Gate(chain))
    assert (decision.route, decision.thresholds) == (Route.REFUSE, strict.thresholds)


class _Wrapper(ScriptedJudge):
    """Passes on what another judge said, with that one's fingerprint."""

    def judge(self, query: Query, *, timeout: float) -> Verdict:
        return replace(super().judge(query, timeout=timeout), fingerprint="scripted:a")

    async def ajudge(self, query: Query, *, timeout: float) -> Verdict:
        return replace(await super().ajudge(query, timeout=timeout), fingerprint="scripted:a")


def test_a_link_may_pass_on_verdicts_of_others(ask: Ask) -> None:
    """Whatever its verdict calls itself: the thresholds of the link that gave it hold."""
    first = scripted("a", JudgeUnavailable("down"))
    decision = ask(Gate(chained(first, _Wrapper(0.88, name="wrapper"))))
    assert decision.fingerprint == "scripted:a"
    assert (decision.route, decision.thresholds) == (Route.CLARIFY, OTHER.thresholds)


def test_the_record_names_the_model_that_measured(ask: Ask) -> None:
    """And not the one that was down; without a fallback, the first as requested."""
    second = scripted("b", 0.95)
    assert ask(Gate(chained(scripted("a", JudgeUnavailable("down")), second))).model == "b"
    assert ask(Gate(chained(scripted("a", 0.9), second))).model == "a"


def test_a_verdict_passes_through_whole() -> None:
    """What the judge said beside the number is kept: coverage, mass, bounds, usage."""
    whole = Verdict(
        p_true=0.6,
        low=0.5,
        high=0.7,
        mass=0.8,
        emitted="True",
        signal="logprobs",
        fingerprint="scripted:b",
        model="served",
        system_fingerprint="fp",
        coverage=0.4,
        usage=Usage(1, 2, 3),
        p_underspecified=0.9,
    )
    chain = chained(scripted("a", JudgeUnavailable("down")), scripted("b", whole))
    found = chain.judge(QUERY, timeout=5)
    assert replace(found, tried=()) == whole
    assert [one.model for one in found.tried] == ["a"]
    decision = Gate(chain).check(QUESTION, CONTEXTS)
    assert "Only 40 % of the contexts was judged." in decision.detail
    assert "under-specified (P = 0.90)" in decision.detail


def test_what_a_chain_is_called() -> None:
    """Its model is that of its first judge; its fingerprint depends on all, and on their order."""
    a, b = scripted("a", 0.9), scripted("b", 0.9)
    assert isinstance(chained(a, b), Profiled)
    assert chained(a, b).model == "a" and chained(a, b).cancellable
    assert chained(a, b).fingerprint.startswith("chain:")
    assert chained(a, b).fingerprint == chained(scripted("a", 0.1), b).fingerprint
    assert chained(a, b).fingerprint != chained(b, a).fingerprint
    verdict = a.judge(QUERY, timeout=5)
    assert chained(a, b).profile_of(verdict) is None
    left = Tried("scripted:a", "a", "unavailable", "down", 0.0)
    assert chained(a, b).profile_of(replace(verdict, tried=(left,))) is OTHER


# ── Nobody answers ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("choice", ["answer", "clarify", "refuse", "raise"])
def test_where_all_are_down_the_policy_decides(
    wire: Wire, chat: Make, ask: Ask, choice: OnUnmeasured
) -> None:
    """No probability, every judge in the record, and the policy's route whatever it is."""
    chain = chained(chat(nobody(), model="first"), chat(wire(plain()).url, model="second"))
    gate = Gate(chain, Policy(on_unmeasured=choice), retry=ONCE)
    if choice == "raise":
        with pytest.raises(JudgeError) as caught:
            ask(gate)
        assert isinstance(caught.value.decision, Decision)
        decision = caught.value.decision
        assert caught.value.tried == decision.tried
        assert isinstance(caught.value.__cause__, Unmeasured)
        assert decision.route is None
    else:
        decision = ask(gate)
        assert decision.route == choice
    assert (decision.probability, decision.verdict) == (None, None)
    assert decision.reason is Reason.NO_LOGPROBS  # The last one's.
    found = [(one.model, one.kind) for one in decision.tried]
    assert found == [("first", "unavailable"), ("second", "no_logprobs")]
    assert decision.fingerprint == chain.fingerprint
    assert decision.detail.startswith(
        "None of 2 judges gave a verdict (first: unavailable, second: no_logprobs)."
    )


def test_where_all_hang_the_record_names_them(wire: Wire, chat: Make, ask: Ask) -> None:
    """The chain says so before the gate's own clock strikes, and is not asked again in vain."""
    servers = [wire(HANG), wire(HANG)]
    judges = [chat(server.url, model=server.url[-12:]) for server in servers]
    decision, seconds = timed(ask, Gate(chained(*judges), Policy(deadline=1.0)))
    assert seconds < 1.0 + SLACK
    assert (decision.reason, decision.probability) == (Reason.TIMEOUT, None)
    assert [one.kind for one in decision.tried] == ["timeout", "timeout"]
    assert [len(server.requests) for server in servers] == [1, 1]


class _Own(JudgeError):
    """A judge's own error, made in a way of its own, that may go away."""

    retryable = True

    def __init__(self) -> None:
        super().__init__("own", kind="malformed", hint="See mine.", status=418, request_id="r-1")


class _Final(Unmeasured):
    """A judge's own error that stays."""

    def __init__(self) -> None:
        super().__init__("final", kind="refusal")


WAIT_3 = JudgeUnavailable("later", retry_after=3)
WAIT_9 = JudgeUnavailable("later", kind="rate_limited", retry_after=9)
NO_WAIT = JudgeUnavailable("down")
KEY = JudgeRejected("key")
ODD = Unmeasured("odd", kind="low_mass")
ALL_FAILED: list[tuple[Sequence[JudgeError], type[JudgeError], str, bool, float | None]] = [
    ([KEY, ODD], Unmeasured, "low_mass", False, None),
    ([ODD, KEY], JudgeRejected, "rejected", False, None),
    ([NO_WAIT, ODD], JudgeUnavailable, "low_mass", True, None),
    ([KEY, NO_WAIT], JudgeUnavailable, "unavailable", True, None),
    ([WAIT_9, WAIT_3], JudgeUnavailable, "unavailable", True, 3),
    ([WAIT_3, WAIT_9], JudgeUnavailable, "rate_limited", True, 3),
    ([WAIT_9, KEY], JudgeUnavailable, "rejected", True, 9),
    ([WAIT_9, NO_WAIT], JudgeUnavailable, "unavailable", True, None),
    ([KEY, _Own()], JudgeUnavailable, "malformed", True, None),
    ([KEY, _Final()], Unmeasured, "refusal", False, None),
    ([KEY, JudgeError("bare")], JudgeError, "unavailable", False, None),
]


@pytest.mark.parametrize(("errors", "made", "kind", "retryable", "wait"), ALL_FAILED)
def test_one_error_for_all(
    errors: Sequence[JudgeError],
    made: type[JudgeError],
    kind: str,
    retryable: bool,
    wait: float | None,
) -> None:
    """Its kind is the last one's; it is worth another try where one of theirs was."""
    chain = chained(*(scripted(f"j{n}", error) for n, error in enumerate(errors)))
    with pytest.raises(JudgeError) as caught:
        chain.judge(QUERY, timeout=5)
    error, last = caught.value, errors[-1]
    assert type(error) is made
    assert (error.kind, error.retryable) == (kind, retryable)
    assert (error.hint, error.status, error.request_id) == (
        last.hint,
        last.status,
        last.request_id,
    )
    assert getattr(error, "retry_after", None) == wait
    assert error.__cause__ is last
    assert [one.detail for one in error.tried] == [one.message for one in errors]


def test_attempts_are_of_the_whole_chain(wire: Wire, chat: Make, ask: Ask) -> None:
    """Two servers that are overloaded, two attempts: two requests each."""
    servers = [wire(Answer({}, status=503)) for _ in range(2)]
    chain = chained(*(chat(server.url, model=f"m{n}") for n, server in enumerate(servers)))
    decision = ask(Gate(chain, retry=Retry(2, 0.01, 0.02)))
    assert [len(server.requests) for server in servers] == [2, 2]
    assert "(2 rounds)" in decision.detail
    assert [one.model for one in decision.tried] == ["m0", "m1", "m0", "m1"]


def test_the_second_attempt_may_measure(wire: Wire, chat: Make, ask: Ask) -> None:
    """The first judge is asked first again; the record keeps who was down before."""
    first, second = wire([BOOM, OK]), wire(BOOM)
    chain = chained(chat(first.url, model="m0"), chat(second.url, model="m1"))
    decision = ask(Gate(chain, retry=Retry(2, 0.01, 0.02)))
    assert decision.measured and decision.verdict is not None
    assert [one.model for one in decision.tried] == ["m0", "m1"]
    assert (decision.verdict.tried, decision.thresholds) == ((), Policy().thresholds)
    assert (len(first.requests), len(second.requests)) == (2, 1)


def test_a_later_round_routes_by_its_own_fallback(ask: Ask) -> None:
    """Round 1: both down; round 2: the second answers, by the second's thresholds."""
    down = JudgeUnavailable("down")
    first, second = scripted("a", [down, down]), scripted("b", [down, 0.88])
    decision = ask(Gate(chained(first, second), retry=Retry(2, 0, 0)))
    assert (decision.route, decision.thresholds) == (Route.CLARIFY, OTHER.thresholds)
    assert [one.model for one in decision.tried] == ["a", "b", "a"]
    assert "No verdict came from a (unavailable), b (unavailable), a (" in decision.detail


def test_what_cannot_help_is_not_tried_again(ask: Ask) -> None:
    """Two judges that reject: one attempt."""
    judges = [scripted("a", KEY), scripted("b", KEY)]
    decision = ask(Gate(chained(*judges), retry=Retry(5, 0, 0)))
    assert decision.reason is Reason.REJECTED
    assert [len(judge.queries) for judge in judges] == [1, 1]


# ── Time, cancelling, bugs ───────────────────────────────────────────────────────────────────────


def test_each_link_gets_its_share_of_time(wire: Wire, chat: Make, ask: Ask) -> None:
    """Two of three hang: the third still has a third, and answers within the deadline."""
    hanging = [wire(HANG), wire(HANG)]
    late = wire(Answer(OK.body, delay=0.3))
    judges = [chat(server.url, model=f"m{n}") for n, server in enumerate([*hanging, late])]
    decision, seconds = timed(ask, Gate(chained(*judges), Policy(deadline=3.0)))
    assert decision.measured
    assert seconds < 3.0 + SLACK
    assert [one.kind for one in decision.tried] == ["timeout", "timeout"]
    assert all(0.8 < one.seconds < 1.0 + SLACK for one in decision.tried)
    for server in hanging:
        assert server.requests[0].gone.wait(10)


def test_a_blocking_call_left_behind_does_not_hold_up_the_next(wire: Wire, ask: Ask) -> None:
    """Its headers drip on, counted, while the second judge answers."""
    drip = wire(Answer({"no": "completion"}, slow_head=0.06))  # 1.2 s in all.
    with (
        OpenAI(base_url=drip.url, api_key="k") as slow,
        OpenAI(base_url=wire(OK).url, api_key="k") as quick,
    ):
        chain = chained(ChatJudge(slow, model="m0"), ChatJudge(quick, model="m1"))
        decision, seconds = timed(ask, Gate(chain, Policy(deadline=1.0)))
        assert decision.measured and seconds < 1.0 + SLACK
        assert shared_workers.abandoned == 1
        while shared_workers.abandoned:
            time.sleep(0.01)


def test_time_that_one_saves_is_the_others() -> None:
    """What a quick failure leaves over is shared out again."""
    judges = [scripted("a", KEY), scripted("b", 0.9, delay=0.6)]
    verdict = chained(*judges).judge(QUERY, timeout=1.0)  # Half of it would not do.
    assert verdict.p_true == 0.9


class _Buggy(ScriptedJudge):
    def judge(self, query: Query, *, timeout: float) -> Verdict:
        raise TypeError("a bug")

    async def ajudge(self, query: Query, *, timeout: float) -> Verdict:
        raise TypeError("a bug")


class _Careless(ScriptedJudge):
    def judge(self, query: Query, *, timeout: float) -> Verdict:
        return 0.9  # type: ignore[return-value]

    async def ajudge(self, query: Query, *, timeout: float) -> Verdict:
        return 0.9  # type: ignore[return-value]


@pytest.mark.parametrize("kind", [_Buggy, _Careless])
def test_a_bug_in_a_judge_surfaces(ask: Ask, kind: type[ScriptedJudge]) -> None:
    """It is no trouble of the endpoint's, which the next judge could hide."""
    second = scripted("b", 0.9)
    with pytest.raises(TypeError, match=r"a bug|returned float"):
        ask(Gate(chained(kind(0.9, name="a"), second)))
    assert second.queries == []


@pytest.mark.parametrize("hanging", [0, 1])
def test_cancelling_a_chain_closes_the_request(wire: Wire, hanging: int) -> None:
    """Whichever judge is being asked; no other is asked then."""
    servers = [wire(HANG if number == hanging else BOOM) for number in range(2)]
    chain = chained(
        *(
            ChatJudge(
                AsyncOpenAI(base_url=server.url, api_key="k"), model=f"m{n}", close_clients=True
            )
            for n, server in enumerate(servers)
        )
    )

    async def cancelled() -> bool:
        gate = Gate(chain, Policy(on_unmeasured="answer", deadline=30))
        task = asyncio.create_task(gate.acheck(QUESTION, CONTEXTS))
        while not servers[hanging].requests:
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(cancelled())
    assert servers[hanging].requests[0].gone.wait(10)
    assert len(servers[1].requests) == hanging
    close(chain)


# ── What may stand in a chain ────────────────────────────────────────────────────────────────────

A, B = scripted("a", 0.9), scripted("b", 0.9)
WRONG_CHAINS: list[tuple[Sequence[object], str]] = [
    ([], "at least two"),
    ([A], "at least two"),
    ([A, "openai:m"], "str is not a judge"),
    ([Link(A), Link(chained(A, B), OTHER)], "inside a chain"),
    ([A, B], r"Judge 2 of the chain \(scripted:b\) has no profile"),
    ([A, Link(B, OTHER), A, scripted("c", 0.9)], "Judge 4"),
    ([A, Link(B, OTHER), B], "Judge 3"),
]


@pytest.mark.parametrize(("links", "problem"), WRONG_CHAINS)
def test_wrong_chains(links: Sequence[Judge], problem: str) -> None:
    """Each is an error before the first query, with a remedy."""
    with pytest.raises(ConfigError, match=problem) as caught:
        Chain(links)
    assert caught.value.hint or "not a judge" in caught.value.message


def test_a_profile_of_another_judge_is_refused() -> None:
    """Also beside the first judge."""
    for_b = Profile(Thresholds(0.9, 0.2), "scripted:b")
    with pytest.raises(ProfileMismatch, match="is for scripted:b, not for scripted:a"):
        Chain([A, Link(A, for_b)])
    with pytest.raises(ProfileMismatch):
        Chain([Link(A, for_b), Link(B, for_b)])
    assert Chain([A, Link(B, for_b)]).links[1].profile is for_b


def test_a_profile_of_another_judge_may_be_left_to_the_gate(ask: Ask) -> None:
    """Every verdict of that judge is stale then; what is missing altogether is still an error."""
    for_c = Profile(Thresholds(0.9, 0.2), "scripted:c")
    links: list[Link | Judge] = [scripted("a", JudgeUnavailable("down")), Link(B, for_c)]
    chain = Chain(links, check_profiles=False)
    decision = ask(Gate(chain, Policy(on_stale="clarify")))
    assert (decision.route, decision.reason) == (Route.CLARIFY, Reason.STALE_PROFILE)
    with pytest.raises(ProfileMismatch):
        Chain(links)
    with pytest.raises(ConfigError, match="has no profile"):
        Chain([A, B], check_profiles=False)


def test_closing_closes_all(wire: Wire) -> None:
    """Of a chain, and of the mean inside it."""
    judges = [
        ChatJudge(AsyncOpenAI(base_url=wire(OK).url, api_key="k"), model=name, close_clients=True)
        for name in "abc"
    ]
    chain = chained(judges[0], Mean(judges[1:]))
    asyncio.run(chain.aclose())
    close(chain)
    for judge in judges:
        with pytest.raises(JudgeRejected, match="closed"):
            judge.judge(QUERY, timeout=5)


# ── A mean: several at once ──────────────────────────────────────────────────────────────────────


def made_of(p: float, low: float, high: float, **more: Json) -> Verdict:
    return Verdict(p, low, high, more.pop("mass", 1.0), "True", "logprobs", "f", **more)


def test_a_mean_is_that_of_the_log_odds(ask: Ask) -> None:
    """.9 and .5 are 9 : 1 and 1 : 1, so their mean is 3 : 1; the bounds likewise."""
    whole = [
        made_of(0.9, 0.8, 0.99, mass=0.9, coverage=0.5, usage=Usage(10, 1, 4), model="x"),
        made_of(0.5, 0.2, 0.5, mass=0.7, usage=Usage(20, 2, None), p_underspecified=0.3),
    ]
    mean = Mean([scripted("a", whole[0]), scripted("b", whole[1])])
    decision = ask(Gate(mean))
    found = decision.verdict
    assert found is not None
    assert found.p_true == pytest.approx(0.75)
    assert found.low == pytest.approx(0.5)
    assert found.high == pytest.approx(expit((logit(0.99) + logit(0.5)) / 2))
    assert (found.mass, found.coverage, found.signal) == (0.7, 0.5, "mean")
    assert (found.emitted, found.system_fingerprint, found.tried) == (None, None, ())
    assert found.usage == Usage(30, 3, None, requests=2)
    assert found.p_underspecified is None  # Nobody asked the other one.
    assert found.fingerprint == mean.fingerprint == decision.fingerprint
    assert found.model == mean.model == "a + b"


def test_the_order_of_a_mean_is_no_matter() -> None:
    """Neither for the numbers nor for the fingerprint, by which thresholds are found."""
    judges = [
        scripted("a", made_of(0.9, 0.8, 0.95, p_underspecified=0.2)),
        scripted("b", made_of(0.3, 0.1, 0.4, p_underspecified=0.6)),
        scripted("c", made_of(0.6, 0.6, 0.6)),
    ]
    first, *others = (Mean(order) for order in itertools.permutations(judges))
    expected = replace(first.judge(QUERY, timeout=5), model=None)
    for other in others:
        assert other.fingerprint == first.fingerprint
        assert replace(other.judge(QUERY, timeout=5), model=None) == expected
    assert Mean(judges[:2]).fingerprint != first.fingerprint


BOUNDS = st.tuples(*[st.floats(0, 1)] * 3).map(sorted)


@given(several=st.lists(BOUNDS, min_size=2, max_size=4))
def test_means_of_anything_are_sound(several: list[list[float]]) -> None:
    """Exact 0 and 1 included: no NaN, and bounds that hold the mean and all that it may be."""
    judges = [scripted(str(n), made_of(p, low, high)) for n, (low, p, high) in enumerate(several)]
    found = asyncio.run(Mean(judges).ajudge(QUERY, timeout=5))
    assert 0 <= found.low <= found.p_true <= found.high <= 1
    assert (found.low == 0) >= any(low == 0 for low, _, _ in several)
    assert (found.high == 1) >= any(high == 1 for _, _, high in several)
    ps = [(low + high) / 2 if p in (0, 1) else p for low, p, high in several]
    assert min(ps) - 1e-6 <= found.p_true <= max(ps) + 1e-6


def test_bounds_a_rounding_apart_stay_in_order() -> None:
    """Neighbouring numbers may change places on their way through the log-odds, as these do."""
    low = 0.15348923859824162
    p = math.nextafter(low, 1)
    judges = [scripted(name, made_of(p, low, p)) for name in "ab"]
    found = Mean(judges).judge(QUERY, timeout=5)
    assert found.low <= found.p_true <= found.high


def test_certainty_meets_doubt() -> None:
    """0 and 1 cancel out; what the mean may be, nobody knows."""
    found = Mean([scripted("a", 0.0), scripted("b", 1.0)]).judge(QUERY, timeout=5)
    assert found.p_true == pytest.approx(0.5, abs=1e-6)
    assert (found.low, found.high) == (0, 1)


@pytest.mark.parametrize(("rounded", "middle"), [((1, 0.995, 1), 0.9975), ((0, 0, 0.005), 0.0025)])
def test_a_rounded_probability_is_somewhere_within_its_bounds(
    rounded: tuple[float, float, float], middle: float
) -> None:
    """An endpoint that writes 1.00 has not measured certainty; an open bound stays open."""
    mean = Mean([scripted("a", made_of(*rounded)), scripted("b", made_of(0.3, 0.2, 0.4))])
    found = mean.judge(QUERY, timeout=5)
    assert found.p_true == pytest.approx(expit((logit(middle) + logit(0.3)) / 2))
    if middle > 0.5:
        assert found.low == pytest.approx(expit((logit(0.995) + logit(0.2)) / 2))
        assert found.high == 1
    else:
        assert found.low == 0
        assert found.high == pytest.approx(expit((logit(0.005) + logit(0.4)) / 2))


def test_doubts_about_the_question_are_averaged_where_all_have_one() -> None:
    """A mean of fewer would be another judge's."""
    doubting = [scripted(name, made_of(0.5, 0.5, 0.5, p_underspecified=0.9)) for name in "ab"]
    found = Mean(doubting).judge(QUERY, timeout=5)
    assert found.p_underspecified == pytest.approx(0.9)
    with_another = Mean([*doubting, scripted("c", 0.5)]).judge(QUERY, timeout=5)
    assert with_another.p_underspecified is None


@pytest.mark.parametrize("failing", [0, 1])
def test_one_failing_is_the_error_of_that_one(
    wire: Wire, chat: Make, ask: Ask, failing: int
) -> None:
    """At once, whichever it is; the other's request is closed."""
    servers = [wire(Answer({}, status=401) if n == failing else HANG) for n in range(2)]
    mean = Mean([chat(server.url, model=f"m{n}") for n, server in enumerate(servers)])
    blocking = not mean.judges[0].cancellable
    gate = Gate(mean, Policy(deadline=2.0 if blocking else 30.0))
    decision, seconds = timed(ask, gate)
    assert decision.reason is Reason.REJECTED
    assert seconds < 2
    for request in servers[1 - failing].requests:
        assert request.gone.wait(6)


def test_a_mean_keeps_the_deadline(wire: Wire, chat: Make, ask: Ask) -> None:
    """One of them hangs."""
    mean = Mean([chat(wire(OK).url, model="m0"), chat(wire(HANG).url, model="m1")])
    decision, seconds = timed(ask, Gate(mean, Policy(deadline=0.5)))
    assert decision.reason is Reason.TIMEOUT
    assert seconds < 0.5 + SLACK


def test_a_mean_asks_all_at_once(wire: Wire, chat: Make, ask: Ask) -> None:
    """Four that take half a second take half a second."""
    slow = Answer(OK.body, delay=0.6)
    mean = Mean([chat(wire(slow).url, model=f"m{n}") for n in range(4)])
    decision, seconds = timed(ask, Gate(mean))
    assert decision.probability == pytest.approx(P_TRUE, abs=1e-3)
    assert seconds < 0.6 + SLACK


def test_cancelling_a_mean_closes_all_requests(wire: Wire) -> None:
    """Both hang; both are closed."""
    servers = [wire(HANG), wire(HANG)]
    mean = Mean(
        [
            ChatJudge(
                AsyncOpenAI(base_url=server.url, api_key="k"), model=f"m{n}", close_clients=True
            )
            for n, server in enumerate(servers)
        ]
    )

    async def cancelled() -> bool:
        task = asyncio.create_task(mean.ajudge(QUERY, timeout=30))
        while not all(server.requests for server in servers):
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(cancelled())
    assert all(server.requests[0].gone.wait(10) for server in servers)
    close(mean)


def test_a_bug_in_one_of_a_mean_surfaces(ask: Ask) -> None:
    """As everywhere."""
    with pytest.raises(TypeError, match="a bug"):
        ask(Gate(Mean([scripted("a", 0.9), _Buggy(0.9, name="b")])))


def test_a_mean_in_a_chain(ask: Ask) -> None:
    """One of its judges is down, so there is no mean; the next judge answers."""
    mean = Mean([scripted("a", 0.9), scripted("b", JudgeUnavailable("down"))])
    decision = ask(Gate(chained(mean, scripted("c", 0.95))))
    assert decision.route is Route.ANSWER
    [tried] = decision.tried
    assert (tried.model, tried.fingerprint) == ("a + b", mean.fingerprint)


class _Several(ScriptedJudge):
    judges = (A, B)


def test_wrong_means() -> None:
    """Too few, not judges, several in one, and what must not be mixed."""
    with OpenAI(base_url=nobody(), api_key="k") as client:
        counted = SampledJudge(client, model="m")
        logprobs = ChatJudge(client, model="m")
        wrong: list[tuple[Sequence[object], str]] = [
            ([], "at least two"),
            ([A], "at least two"),
            ([A, 0.9], "float is not a judge"),
            ([A, chained(A, B)], "cannot hold a chain"),
            ([A, Mean([A, B])], "inside a mean"),
            ([logprobs, Mean([counted, SampledJudge(client, model="n")])], "inside a mean"),
            ([A, _Several(0.9, name="s")], "inside a mean"),
            ([counted, logprobs], "cannot mix"),
            ([A, counted], "cannot mix"),
        ]
        for judges, problem in wrong:
            with pytest.raises(ConfigError, match=problem):
                Mean(judges)  # type: ignore[arg-type]
        assert Mean([counted, SampledJudge(client, model="n")])


# ── Both orders of the labels ────────────────────────────────────────────────────────────────────

BIAS = 1.5  # Nats, to whichever label the prompt names first.


def biased(p: float) -> Callable[[Request], Answer]:
    """A model that says P = ``p``, but for its preference for the label that it is told first."""

    def answer(request: Request) -> Answer:
        task = request.prompt.splitlines()[-1]
        true_first = task.index("True") < task.index("False")
        odds = logit(p) + (BIAS if true_first else -BIAS)
        return Answer(verdict(math.log(0.999 * expit(odds)), math.log(0.999 * expit(-odds))))

    return answer


@pytest.mark.parametrize("p", [0.1, 0.5, 0.7, 0.95])
def test_trap_26_both_orders_cancel_a_preference_for_one_place(
    wire: Wire, chat: Make, p: float
) -> None:
    """The mean is the P without the bias to within .01, whichever order comes first."""
    server = wire(biased(p))
    orders = [chat(server.url), chat(server.url, prompt=Prompt(template=SWAPPED_TEMPLATE))]
    first, second = (judge.judge(QUERY, timeout=5).p_true for judge in orders)
    assert first - second > 0.15
    for judges in (orders, orders[::-1]):
        found = Mean(judges).judge(QUERY, timeout=5)
        assert found.p_true == pytest.approx(p, abs=0.01)
        assert found.low <= p <= found.high
        assert (found.signal, found.fingerprint) == ("mean", Mean(orders).fingerprint)
