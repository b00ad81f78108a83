"""The sampled judge on real sockets: it counts, all at once, and learns what an endpoint takes."""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Callable, Generator
from functools import partial

import openai
import pytest
from counted import counting, fresh, plain
from openai import AsyncOpenAI, OpenAI
from wire import Answer, Json, Request, Script, WireServer

from guard import (
    ConfigError,
    Decision,
    Gate,
    JudgeError,
    JudgeUnavailable,
    NotAsked,
    Policy,
    Prompt,
    Query,
    Reason,
    Retry,
    Route,
    Unmeasured,
    Verdict,
)
from guard.judges import ChatJudge, SampledJudge
from guard.posterior import posterior
from guard.worker import Workers, fan_out_workers, shared_workers

pytestmark = pytest.mark.wire

Replies = Answer | Callable[[Request], Answer]
Wire = Callable[[Replies], WireServer]
MakeJudge = Callable[..., SampledJudge]

KEY = "sk-canary-0123456789"
QUESTION, CONTEXTS = "When did it open?", ["The bridge opened in 1932.", "It is red."]
QUERY = Query.of(QUESTION, CONTEXTS)
BOOM = Answer({"error": {"message": "boom"}}, status=500)
BUSY = Answer({"error": {"message": "slow down"}}, status=429, headers={"retry-after": "7"})
CUT = Answer(plain().body, cut=40)
ONCE = Retry(attempts=1)
LATER = 5.0  # Seconds for what others must have ended by.


@pytest.fixture(name="wire")
def _wire(wire: Callable[[Script], WireServer]) -> Wire:
    """As elsewhere, but no two replies have one id."""
    return lambda replies: wire(fresh(replies))


@pytest.fixture(params=["sync", "async"])
def sampled(request: pytest.FixtureRequest) -> Generator[MakeJudge]:
    """Makes sampled judges on a server, once with a blocking client and once with an async one."""
    judges: list[SampledJudge] = []

    def make(server: WireServer, **options: object) -> SampledJudge:
        kind = OpenAI if request.param == "sync" else AsyncOpenAI
        client = kind(base_url=server.url, api_key=KEY)
        judges.append(
            SampledJudge(client, model="wire-model", close_clients=True, **options)  # type: ignore[arg-type]
        )
        return judges[-1]

    yield make
    wait_until(lambda: shared_workers.abandoned == fan_out_workers.abandoned == 0)
    for judge in judges:
        judge.close()


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + LATER
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def measure(judge: SampledJudge) -> Verdict:
    return judge.judge(QUERY, timeout=LATER)


def said(message: str, status: int = 400) -> Answer:
    """A complaint in OpenAI's shape."""
    return Answer({"error": {"message": message, "type": "invalid_request_error"}}, status=status)


def among(*odd: Answer, first: int = 2) -> Callable[[Request], Answer]:
    """True to every request but these, which come one after the other from number ``first`` on."""
    numbers = itertools.count(1)

    def answer(_request: Request) -> Answer:
        number = next(numbers) - first
        return odd[number] if 0 <= number < len(odd) else plain()

    return answer


# ── What is counted ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("p", "samples"), [(0, 20), (0.37, 20), (0.6, 10), (1, 20), (2 / 3, 3)])
def test_the_share_of_true_is_the_measurement(
    wire: Wire, sampled: MakeJudge, p: float, samples: int
) -> None:
    """The verdict is the posterior of the counts, and of nothing else."""
    server = wire(counting(p, samples))
    verdict = measure(sampled(server, samples=samples))
    true = round(p * samples)
    expected = posterior(true, samples - true)
    assert (verdict.p_true, verdict.low, verdict.high) == expected
    assert (verdict.mass, verdict.signal, verdict.emitted) == (1.0, "samples", None)
    assert (verdict.model, verdict.system_fingerprint) == ("wire-model", "fp_wire")
    assert len(server.requests) == samples


def test_every_query_is_counted_anew(wire: Wire, sampled: MakeJudge) -> None:
    """The second query has all its requests at once, and the same count."""
    server = wire(counting(0.6, 5))
    judge = sampled(server, samples=5)
    assert measure(judge) == measure(judge)
    assert len(server.requests) == 10


def test_the_async_path_counts_the_same(wire: Wire, sampled: MakeJudge) -> None:
    """`ajudge` gives the very verdict of `judge`."""
    judge = sampled(wire(counting(0.6, 5)), samples=5)

    async def both() -> list[Verdict]:
        found = [await judge.ajudge(QUERY, timeout=LATER) for _ in range(2)]
        await judge.aclose()
        return found

    assert asyncio.run(both()) == [measure(sampled(wire(counting(0.6, 5)), samples=5))] * 2


@pytest.mark.parametrize(("p", "route"), [(1.0, Route.ANSWER), (0.5, Route.CLARIFY), (0, "refuse")])
def test_twenty_of_a_kind_suffice_for_a_route(
    wire: Wire, sampled: MakeJudge, p: float, route: str
) -> None:
    """With the default thresholds; the bounds decide, not the mean."""
    decision = Gate(sampled(wire(counting(p)))).check(QUESTION, CONTEXTS)
    assert decision.route == route
    assert decision.to_dict()["signal"] == "samples"


def test_a_body_is_warm_and_asks_for_no_logprobs(wire: Wire, sampled: MakeJudge) -> None:
    """At temperature 0 all answers would be one answer."""
    server = wire(plain())
    measure(sampled(server, extra_body={"service_tier": "flex"}))
    for request in server.requests:
        assert request.path.endswith("/chat/completions")
        assert request.body.pop("messages")[0]["content"].startswith("Retrieved passages")
        assert request.body == {
            "model": "wire-model",
            "max_tokens": 8,
            "temperature": 1.0,
            "service_tier": "flex",
        }


def test_usage_is_that_of_all_requests(wire: Wire, sampled: MakeJudge) -> None:
    """Tokens are added up, requests are counted."""
    usage = measure(sampled(wire(plain()))).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.requests) == (20 * 90, 20, 20)
    assert usage.cached_tokens is None


def test_the_fingerprint_tells_what_was_set() -> None:
    """Another number of samples is another judge, with thresholds of its own."""
    with OpenAI(base_url="http://127.0.0.1:1/v1", api_key=KEY) as client:

        def made(**options: Json) -> str:
            return SampledJudge(client, model="m", **options).fingerprint

        base = made()
        assert base.startswith("samples:m:") and base == made(samples=20)
        others = [
            made(samples=19),
            made(min_mass=0.6),
            made(model_family="gpt-5"),
            made(prompt=Prompt(max_context_chars=9)),
            made(extra_body={"service_tier": "flex"}),
        ]
        assert len({base, *others}) == 6


@pytest.mark.parametrize("samples", [2, 201, 2.5, True, "20"])
def test_how_many_samples_there_may_be(samples: Json) -> None:
    """From 3 to 200, whole."""
    with (
        OpenAI(base_url="http://127.0.0.1:1/v1", api_key=KEY) as client,
        pytest.raises(ConfigError, match="samples"),
    ):
        SampledJudge(client, model="m", samples=samples)


@pytest.mark.parametrize(
    "field", ["temperature", "seed", "n", "top_p", "top_k", "logprobs", "top_logprobs"]
)
def test_how_answers_are_drawn_is_not_for_the_caller(field: str) -> None:
    """At temperature 0, or with a seed, twenty answers are one."""
    with (
        OpenAI(base_url="http://127.0.0.1:1/v1", api_key=KEY) as client,
        pytest.raises(ConfigError, match=f"sets {field}") as caught,
    ):
        SampledJudge(client, model="m", extra_body={"user": "me", field: 1})
    assert "temperature 1" in str(caught.value.hint)


# ── Independent answers ──────────────────────────────────────────────────────────────────────────


def named(*ids: Json) -> Callable[[Request], Answer]:
    """True each time, under these ids one after the other; from the last one on under that."""
    numbers = itertools.count()

    def answer(_request: Request) -> Answer:
        body = {**plain().body, "id": ids[min(next(numbers), len(ids) - 1)]}
        return Answer(json.dumps(body).encode())  # Bytes are sent as they are.

    return answer


@pytest.mark.parametrize("first", [0, 4], ids=["all alike", "half alike"])
def test_a_cache_that_repeats_one_reply_is_no_measurement(
    wire: Wire, sampled: MakeJudge, first: int
) -> None:
    """One draw counted ten times would give the bounds of ten."""
    with pytest.raises(Unmeasured, match="repeats one reply") as caught:
        measure(sampled(wire(named(*map(str, range(first)), "one")), samples=10))
    assert caught.value.kind == "malformed"
    assert f"{first + 1} of 10 ids" in caught.value.message
    assert "a cache stands between" in caught.value.message
    assert "cache off" in str(caught.value.hint)


@pytest.mark.parametrize(
    "ids",
    [["a", "b", "b", "c", "d", "a", "e", "f", "a"], [None], [""], ["  "], [7], [["x"]]],
    ids=["three random digits", "null", "empty", "blank", "a number", "a list"],
)
def test_ids_that_tell_nothing(wire: Wire, sampled: MakeJudge, ids: list[Json]) -> None:
    """Ollama's collide now and then, and some servers send none."""
    verdict = measure(sampled(wire(named(*ids)), samples=9))
    assert (verdict.mass, verdict.p_true) == (1, posterior(9, 0).mean)


# ── All at once ──────────────────────────────────────────────────────────────────────────────────


def test_all_are_in_flight_at_once_behind_the_first(wire: Wire, sampled: MakeJudge) -> None:
    """One request alone until the endpoint is known; then none waits for another."""
    arrived: list[float] = []

    def answer(_request: Request) -> Answer:
        arrived.append(time.monotonic())
        return Answer(plain().body, delay=0.5)

    judge = sampled(wire(answer))
    started = time.monotonic()
    measure(judge)
    assert time.monotonic() - started < 4  # One after the other they would take 10 s.
    assert len(arrived) == 20
    assert min(arrived[1:]) - arrived[0] >= 0.5
    started = time.monotonic()
    measure(judge)
    assert time.monotonic() - started < 3
    assert max(arrived[20:]) - min(arrived[20:]) < 3


def test_a_failing_first_request_stays_alone(wire: Wire, sampled: MakeJudge) -> None:
    """A dead endpoint, or a wrong key, costs one request and not twenty."""
    for answer in (BOOM, said("no", 401)):
        server = wire(answer)
        with pytest.raises(JudgeError):
            measure(sampled(server))
        assert len(server.requests) == 1


# ── What an endpoint teaches ─────────────────────────────────────────────────────────────────────

REFUSED = {
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. "
    "Use 'max_completion_tokens' instead.",
    "temperature": "`temperature` is deprecated for this model.",
}


@pytest.mark.parametrize("field", REFUSED)
def test_a_refused_field_is_learnt_once(wire: Wire, sampled: MakeJudge, field: str) -> None:
    """The lesson costs one request, and later queries none."""

    def answer(request: Request) -> Answer:
        return said(REFUSED[field]) if field in request.body else plain()

    server = wire(answer)
    judge = sampled(server, samples=5)
    assert measure(judge).mass == 1
    assert [field in request.body for request in server.requests] == [True] + [False] * 5
    renamed = {"max_completion_tokens" in request.body for request in server.requests[1:]}
    assert renamed == {field == "max_tokens"}
    measure(judge)
    assert len(server.requests) == 6 + 5


def thinking_until(done: Callable[[Json], bool]) -> Callable[[Request], Answer]:
    """A server whose model thinks, out of sight, until its budget ends."""
    cut = plain("", finish_reason="length")
    return lambda request: plain() if done(request.body) else cut


def test_thinking_is_switched_off(wire: Wire, sampled: MakeJudge) -> None:
    """The first switch that works is kept, with the small budget."""
    server = wire(thinking_until(lambda body: "chat_template_kwargs" in body))
    assert measure(sampled(server, samples=4)).mass == 1
    assert len(server.requests) == 2 + 4
    last = server.requests[-1].body
    assert (last["chat_template_kwargs"], last["max_tokens"]) == ({"enable_thinking": False}, 8)


def test_where_no_switch_works_the_budget_grows(wire: Wire, sampled: MakeJudge) -> None:
    """All switches first, since thinking is what costs; then room to think."""
    server = wire(thinking_until(lambda body: body["max_tokens"] >= 4096))
    assert measure(sampled(server, samples=4)).mass == 1
    budgets = [request.body["max_tokens"] for request in server.requests]
    assert budgets == [8] * 4 + [4096] * 4


def test_where_switches_are_refused_the_budget_grows(wire: Wire, sampled: MakeJudge) -> None:
    """Each refused switch is dropped for good."""
    switches = ("reasoning_effort", "chat_template_kwargs", "thinking")

    def answer(request: Request) -> Answer:
        for name in switches:
            if name in request.body:
                return said(f"{name}: Extra inputs are not permitted")
        return plain() if request.body["max_tokens"] >= 4096 else plain("", finish_reason="length")

    server = wire(answer)
    assert measure(sampled(server, samples=3)).mass == 1
    assert not set(switches) & set(server.requests[-1].body)


def test_a_model_that_never_ends_its_thought(wire: Wire, sampled: MakeJudge) -> None:
    """It is unmeasured, and was not asked twenty times."""
    server = wire(plain("", finish_reason="length"))
    with pytest.raises(Unmeasured, match="still thinking"):
        measure(sampled(server))
    assert len(server.requests) < 8


def test_an_endpoint_that_changes_its_mind_is_learnt_anew(wire: Wire, sampled: MakeJudge) -> None:
    """What an endpoint turns down after a week of service must not fail until a restart."""
    picky = False

    def answer(request: Request) -> Answer:
        return said(REFUSED["max_tokens"]) if picky and "max_tokens" in request.body else plain()

    server = wire(answer)
    judge = sampled(server, samples=5)
    measure(judge)
    picky = True
    usage = measure(judge).usage
    assert usage is not None and usage.requests == 5
    before = len(server.requests)
    measure(judge)
    assert len(server.requests) == before + 5


def test_a_model_that_thinks_on_hard_queries_gets_room(wire: Wire, sampled: MakeJudge) -> None:
    """Where the first query needed no thought and the second does."""
    hard = False

    def answer(request: Request) -> Answer:
        enough = not hard or request.body["max_tokens"] >= 4096
        return plain() if enough else plain("", finish_reason="length")

    judge = sampled(wire(answer), samples=5)
    measure(judge)
    hard = True
    assert measure(judge).mass == 1


def test_a_query_that_all_turn_down_fails_as_what_it_is(wire: Wire, sampled: MakeJudge) -> None:
    """Too long a prompt stays context_too_long, and spoils nothing for the next query."""
    long = False

    def answer(_request: Request) -> Answer:
        return said("context_length_exceeded") if long else plain()

    judge = sampled(wire(answer), samples=5)
    measure(judge)
    long = True
    with pytest.raises(Unmeasured) as caught:
        measure(judge)
    assert caught.value.kind == "context_too_long"
    long = False
    assert measure(judge).mass == 1


def test_it_learns_nothing_for_a_chat_judge(wire: Wire, sampled: MakeJudge) -> None:
    """On one address and model, the one asks for logprobs and the other never does."""
    server = wire(plain())
    judge = sampled(server, samples=3)
    with OpenAI(base_url=server.url, api_key=KEY) as client:
        chat = ChatJudge(client, model="wire-model")
        with pytest.raises(Unmeasured):
            chat.judge(QUERY, timeout=LATER)
        assert measure(judge).mass == 1
    asked = ["logprobs" in request.body for request in server.requests]
    assert asked == [True] + [False] * 3


# ── What replies look like ───────────────────────────────────────────────────────────────────────

ABOUT = {"id": "x-1", "object": "chat.completion", "created": 1}
SPEAKS = {"role": "assistant", "content": "True"}
PROVIDERS: dict[str, tuple[Json, tuple[int | None, int | None, int | None]]] = {
    "Anthropic": (
        {
            **ABOUT,
            "model": "claude-opus-5",
            "choices": [{"index": 0, "message": SPEAKS, "finish_reason": "stop", "logprobs": None}],
            "usage": {
                "prompt_tokens": 90,
                "completion_tokens": 4,
                "total_tokens": 94,
                "prompt_tokens_details": None,
                "completion_tokens_details": None,
            },
            "system_fingerprint": None,
            "service_tier": None,
        },
        (90, 4, None),
    ),
    "Gemini": (
        {
            **ABOUT,
            "model": "gemini-3-flash",
            "choices": [{"index": 0, "message": SPEAKS, "finish_reason": "stop"}],
            # Thought is in the total alone.
            "usage": {"prompt_tokens": 90, "completion_tokens": 1, "total_tokens": 191},
        },
        (90, 1, None),
    ),
    "Grok": (
        {
            **ABOUT,
            "model": "grok-4.3",
            "choices": [
                {
                    "index": 0,
                    "message": {**SPEAKS, "reasoning_content": "False? No.", "refusal": None},
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 90,
                "completion_tokens": 1,
                "total_tokens": 120,
                "prompt_tokens_details": {"text_tokens": 90, "cached_tokens": 64},
                "completion_tokens_details": {"reasoning_tokens": 29},
                "num_sources_used": 0,
            },
            "system_fingerprint": "fp_1",
        },
        (90, 1, 64),
    ),
    "Groq": (
        {
            **ABOUT,
            "model": "llama-4-scout",
            "choices": [{"index": 0, "message": SPEAKS, "logprobs": None, "finish_reason": "stop"}],
            "usage": {
                "queue_time": 0.03,
                "prompt_tokens": 90,
                "prompt_time": 0.01,
                "completion_tokens": 2,
                "completion_time": 0.01,
                "total_tokens": 92,
                "total_time": 0.02,
            },
            "x_groq": {"id": "req_1"},
        },
        (90, 2, None),
    ),
    "nothing said of usage": (
        {**ABOUT, "choices": [{"index": 0, "message": SPEAKS}], "usage": None},
        (None, None, None),
    ),
}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_replies_of_providers_without_logprobs(
    wire: Wire, sampled: MakeJudge, provider: str
) -> None:
    """What they say is counted, and what they say it cost is added up."""
    body, tokens = PROVIDERS[provider]
    verdict = measure(sampled(wire(Answer(body)), samples=4))
    assert (verdict.mass, verdict.p_true) == (1.0, posterior(4, 0).mean)
    assert verdict.model == body.get("model")
    usage = verdict.usage
    assert usage is not None and usage.requests == 4
    found = (usage.input_tokens, usage.output_tokens, usage.cached_tokens)
    assert found == tuple(None if one is None else 4 * one for one in tokens)


WORDS: dict[str, bool] = {
    "True": True,
    "False": False,
    "true\n": True,
    "True.": True,
    "**False**": False,
    '"True"': True,
    "`False`": False,
    '{"has_sufficient_context": true}': True,
    '{"has_sufficient_context":false}': False,
    '```json\n{"has_sufficient_context": true}\n```': True,
    "has_sufficient_context: False": False,
    "<think>False, it never says so. Or does it?</think>True": True,
    "<think>\nTrue?\n</think>\n\n**False**": False,
    "True. The second passage names the year.": True,
}
NO_WORDS = (
    "True or False",
    "I cannot judge this.",
    "Truely",
    "Answer",
    "",
    "   ",
    None,
    "Both True and False",
)


@pytest.mark.parametrize("text", WORDS)
def test_words_that_are_a_verdict(wire: Wire, sampled: MakeJudge, text: str) -> None:
    """Markup, a wrapper, reasoning before and reasons behind: the verdict is read all the same."""
    verdict = measure(sampled(wire(plain(text)), samples=3))
    assert verdict.mass == 1
    assert verdict.p_true == posterior(*((3, 0) if WORDS[text] else (0, 3))).mean


@pytest.mark.parametrize("text", NO_WORDS)
def test_words_that_are_none(wire: Wire, sampled: MakeJudge, text: str | None) -> None:
    """They lower the mass, as one of five here, and count for neither side."""
    verdict = measure(sampled(wire(among(plain(text))), samples=5))
    assert verdict.mass == 0.8
    assert verdict.p_true == posterior(4, 0).mean


@pytest.mark.parametrize("text", NO_WORDS)
def test_nothing_but_words_that_are_none(wire: Wire, sampled: MakeJudge, text: str | None) -> None:
    """Unmeasured, and never "no logprobs": nobody asked for them."""
    with pytest.raises(Unmeasured) as caught:
        measure(sampled(wire(plain(text)), samples=5))
    assert caught.value.kind == "low_mass"
    assert "0 of 5" in caught.value.message and "Truely" not in str(caught.value)


SILENT: dict[str, tuple[Answer, str]] = {
    "refusal": (plain(message={"content": None, "refusal": "I can't."}), "refusal"),
    "content filter": (plain("", finish_reason="content_filter"), "content_filter"),
    "a tool call": (plain(None, finish_reason="tool_calls"), "malformed"),
    "no choices": (Answer({"choices": []}), "malformed"),
    "an error inside 200": (Answer({"error": {"code": 502}}), "malformed"),
}


@pytest.mark.parametrize("case", SILENT)
def test_replies_that_hold_no_words(wire: Wire, sampled: MakeJudge, case: str) -> None:
    """One of five is survived; of all five, the error says what they were."""
    answer, kind = SILENT[case]
    assert measure(sampled(wire(among(answer)), samples=5)).mass == 0.8
    with pytest.raises(Unmeasured) as caught:
        measure(sampled(wire(answer), samples=5))
    assert caught.value.kind == kind


# ── Requests that fail ───────────────────────────────────────────────────────────────────────────


def test_a_few_failing_requests_are_survived(wire: Wire, sampled: MakeJudge) -> None:
    """The mass is the share that answered; the count is of those alone."""
    no_json = Answer(json.dumps(plain().body).encode()[:50])
    server = wire(among(BOOM, BUSY, CUT, no_json, BOOM, CUT))
    verdict = measure(sampled(server))
    assert verdict.mass == 14 / 20
    assert (verdict.p_true, verdict.low, verdict.high) == posterior(14, 0)
    usage = verdict.usage
    # Nobody knows what the lost ones cost.
    assert usage is not None and (usage.requests, usage.input_tokens) == (20, None)
    assert len(server.requests) == 20


MOSTLY: dict[str, tuple[list[Answer], str]] = {
    "500": ([BOOM] * 12, "unavailable"),
    "429": ([BUSY] * 8 + [BOOM] * 4, "rate_limited"),
    "cut": ([CUT] * 11, "unavailable"),
    "no words": ([plain("I cannot")] * 9 + [BOOM] * 4, "low_mass"),
}


@pytest.mark.parametrize("case", MOSTLY)
def test_most_failing_is_the_error_of_most(wire: Wire, sampled: MakeJudge, case: str) -> None:
    """Below the least mass there is no verdict, and the commonest trouble names it."""
    odd, kind = MOSTLY[case]
    with pytest.raises(JudgeError, match=rf"{20 - len(odd)} of 20") as caught:
        measure(sampled(wire(among(*odd))))
    assert caught.value.kind == kind
    assert caught.value.retryable is (kind != "low_mass")
    if case == "429":
        assert isinstance(caught.value, JudgeUnavailable) and caught.value.retry_after == 7
        assert isinstance(caught.value.original, openai.RateLimitError)


def test_the_least_mass_can_be_set(wire: Wire, sampled: MakeJudge) -> None:
    """With 0 a single answer will do; without any there is no verdict all the same."""
    assert measure(sampled(wire(among(*[BOOM] * 19)), min_mass=0.0)).mass == 0.05
    assert measure(sampled(wire(plain()), min_mass=1.0)).mass == 1
    with pytest.raises(JudgeUnavailable):
        measure(sampled(wire(among(BOOM)), min_mass=1.0))
    with pytest.raises(Unmeasured):
        measure(sampled(wire(plain("Hm")), min_mass=0.0))


def test_the_gate_retries_what_most_of_them_may_mend(wire: Wire, sampled: MakeJudge) -> None:
    """A second attempt is all requests anew."""
    server = wire(among(*[BOOM] * 4))
    gate = Gate(sampled(server, samples=5), retry=Retry(2, 0.01, 0.02))
    assert gate.check(QUESTION, CONTEXTS).measured
    assert len(server.requests) == 10


# ── Stragglers, and many queries at once ─────────────────────────────────────────────────────────


def stragglers(number: int, answer: Answer, samples: int = 20) -> Callable[[Request], Answer]:
    """True to the first query; of the second, so many requests get this."""
    return among(*[answer] * number, first=samples + 3)


SLOW = {"hangs": Answer(hang=True), "drips": Answer(plain().body, drip=0.003)}


@pytest.mark.parametrize("slow", SLOW)
def test_stragglers_do_not_lose_the_others(wire: Wire, sampled: MakeJudge, slow: str) -> None:
    """They end before the deadline, as failed ones; their connections are closed."""
    server = wire(stragglers(3, SLOW[slow]))
    judge = sampled(server)
    measure(judge)
    started = time.monotonic()
    verdict = judge.judge(QUERY, timeout=0.8)
    assert 0.7 <= time.monotonic() - started < 0.8
    assert (verdict.mass, verdict.p_true) == (17 / 20, posterior(17, 0).mean)
    if slow == "hangs" or judge.cancellable:
        assert all(request.gone.wait(LATER) for request in server.requests[22:25])


def test_stragglers_do_not_lose_the_others_of_a_gate(wire: Wire, sampled: MakeJudge) -> None:
    """On its own clock as well, synchronous and not."""
    for asynchronous in (False, True):
        judge = sampled(wire(stragglers(1, SLOW["hangs"])))
        measure(judge)
        gate = Gate(judge, Policy(deadline=4), retry=ONCE)
        decision = (
            asyncio.run(gate.acheck(QUESTION, CONTEXTS))
            if asynchronous
            else gate.check(QUESTION, CONTEXTS)
        )
        assert decision.verdict is not None and decision.verdict.mass == 19 / 20


def test_too_many_stragglers_are_a_time_out(wire: Wire, sampled: MakeJudge) -> None:
    """As ever, the least mass decides."""
    judge = sampled(wire(stragglers(11, SLOW["hangs"])))
    measure(judge)
    with pytest.raises(JudgeUnavailable, match="9 of 20 answers") as caught:
        judge.judge(QUERY, timeout=0.5)
    assert caught.value.kind == "timeout"


def test_callers_do_not_starve_their_own_requests(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many queries at once as there are workers: their requests have workers of their own."""
    monkeypatch.setattr(shared_workers, "_slots", threading.BoundedSemaphore(4))
    with OpenAI(base_url=wire(plain()).url, api_key=KEY) as client:
        gate = Gate(SampledJudge(client, model="wire-model", samples=3), retry=ONCE)

        async def at_once() -> list[Decision]:
            return await asyncio.gather(*(gate.acheck(QUESTION, CONTEXTS) for _ in range(4)))

        assert all(decision.measured for decision in asyncio.run(at_once()))


def test_workers_that_are_all_at_work_are_not_called_hanging() -> None:
    """A call that is too slow and one that finds no worker: to each its own error."""
    workers, done = Workers(limit=2), threading.Event()
    waiting = [partial(done.wait, LATER)] * 2
    slow, hanging = workers.call_each(waiting, 0.05)[0], workers.call_each(waiting, 0.05)[1]
    assert isinstance(slow, JudgeUnavailable) and slow.kind == "timeout"
    done.set()
    wait_until(lambda: workers.abandoned == 0)
    done.clear()
    *_, busy = workers.call_each([*waiting, *waiting], 0.05)
    done.set()
    for error, hangs in ((hanging, True), (busy, False)):
        assert isinstance(error, NotAsked) and error.kind == "overloaded"
        assert ("2 of them with abandoned" in error.message, "hangs" in str(error)) == (hangs,) * 2


# ── Cancelling, and time ─────────────────────────────────────────────────────────────────────────


def after(samples: int, answer: Answer) -> Callable[[Request], Answer]:
    """True to the first query, this to every later one."""
    numbers = itertools.count()
    return lambda _request: plain() if next(numbers) < samples else answer


def test_cancelling_closes_every_request(wire: Wire) -> None:
    """Twenty hang; all are closed, and nothing is decided."""
    server = wire(after(20, Answer(hang=True)))
    client = AsyncOpenAI(base_url=server.url, api_key=KEY)
    judge = SampledJudge(client, model="wire-model", close_clients=True)
    gate = Gate(judge, Policy(on_unmeasured="answer", deadline=30), retry=Retry(attempts=5))

    async def cancelled() -> bool:
        await gate.acheck(QUESTION, CONTEXTS)
        task = asyncio.create_task(gate.acheck(QUESTION, CONTEXTS))
        while len(server.requests) < 40:
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(cancelled())
    assert all(request.gone.wait(LATER) for request in server.requests[20:])
    assert len(server.requests) == 40
    judge.close()


@pytest.mark.parametrize("answer", [Answer(hang=True), Answer({"no": "completion"}, drip=0.05)])
def test_the_deadline_is_kept_when_all_hang(wire: Wire, sampled: MakeJudge, answer: Answer) -> None:
    """Through the gate: on time, of the right kind, and nothing runs on for ever."""
    server = wire(after(20, answer))
    judge = sampled(server)
    assert Gate(judge).check(QUESTION, CONTEXTS).measured
    gate = Gate(judge, Policy(deadline=0.3, on_unmeasured="clarify"), retry=ONCE)
    started = time.monotonic()
    decision = gate.check(QUESTION, CONTEXTS)
    assert time.monotonic() - started < 1.5
    assert (decision.reason, decision.route) == (Reason.TIMEOUT, Route.CLARIFY)
    if answer.hang:
        assert all(request.gone.wait(LATER) for request in server.requests[20:])


def test_blocking_calls_left_behind_are_counted_until_they_end(wire: Wire) -> None:
    """Headers that drip outlive the deadline, on threads that are counted."""
    drip = Answer({"no": "completion"}, slow_head=0.05)  # A second in all.
    server = wire(after(3, drip))
    with OpenAI(base_url=server.url, api_key=KEY) as client:
        judge = SampledJudge(client, model="wire-model", samples=3)
        assert Gate(judge).check(QUESTION, CONTEXTS).measured
        decision = Gate(judge, Policy(deadline=0.3), retry=ONCE).check(QUESTION, CONTEXTS)
        assert decision.reason is Reason.TIMEOUT
        wait_until(lambda: fan_out_workers.abandoned >= 3)
        wait_until(lambda: fan_out_workers.abandoned == shared_workers.abandoned == 0)
    assert len(server.requests) == 6
