"""What the chat judge sends, and what it learns from answers: real HTTP on loopback."""

import asyncio
import gc
import math
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI, AzureOpenAI, OpenAI
from wire import Answer, Json, Request, Script, WireServer, chat, token, verdict

from guard import (
    ConfigError,
    Decision,
    Gate,
    JudgeError,
    JudgeRejected,
    JudgeUnavailable,
    Policy,
    Query,
    Reason,
    Retry,
    Route,
    Unmeasured,
    Verdict,
)
from guard.judges import ChatJudge
from guard.judges.dialect import THINKING_SWITCHES, Dialect, first_guess, learn
from guard.judges.endpoint import BELIEVED_SECONDS, Endpoint, account_of, endpoint_for
from guard.prompt import Prompt, Rendered

pytestmark = pytest.mark.wire

Wire = Callable[[Script], WireServer]
MakeJudge = Callable[..., ChatJudge]

QUERY = Query.of("When did it open?", ["The bridge opened in 1932.", "It is red."])
OTHER = Query.of("Who built it?", ["Nobody knows who built the bridge."])
KEY = "sk-canary-0123456789"


OK = Answer(verdict(-0.1, -3.0))
P_TRUE = 1 / (1 + math.exp(-2.9))
NO_LOGPROBS = Answer(chat(content="True", logprobs=None))
DENIED_403 = "You are not allowed to request logprobs from this model"
DENIED_400 = "Unsupported parameter: 'logprobs' is not supported with this model."


def said(message: str, status: int = 400, **more: Json) -> Answer:
    """An error body in OpenAI's shape."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return Answer({"error": {**error, **more}}, status=status)


def plain(message: str, status: int = 400) -> Answer:
    """An error body in Ollama's shape, of which openai 3 shows nothing in ``str(error)``."""
    return Answer({"error": message}, status=status)


def endpoint_of(server: WireServer) -> Endpoint:
    """What this process knows about a server, under the address that a client gives it."""
    with OpenAI(base_url=server.url, api_key=KEY) as client:
        return endpoint_for(str(client.base_url), "wire-model", None, account_of(client, {}))


def bodies(server: WireServer) -> list[Json]:
    """What was sent, request by request, without the messages."""
    return [
        {name: value for name, value in request.body.items() if name not in ("model", "messages")}
        for request in server.requests
    ]


def picky(*rules: tuple[Callable[[Json], bool], Answer]) -> Callable[[Request], Answer]:
    """A server that turns down the first thing it dislikes, and else gives a verdict."""

    def answer(request: Request) -> Answer:
        return next((answer for dislikes, answer in rules if dislikes(request.body)), OK)

    return answer


def has(name: str, value: Json = ...) -> Callable[[Json], bool]:
    """Whether a body has a field, with a value if one is given."""
    return lambda body: name in body and (value is ... or body[name] == value)


def measure(judge: ChatJudge, query: Query = QUERY) -> Verdict:
    """One verdict."""
    return judge.judge(query, timeout=5)


# ── What is sent ─────────────────────────────────────────────────────────────────────────────────

MODELS = ["wire-model", "gpt-4o", "gpt-5.4-mini", "openai/gpt-6-luna", "o3-mini", "llama-3.2"]


@pytest.mark.parametrize("model", MODELS)
def test_trap_01_top_logprobs_never_without_logprobs(
    wire: Wire, chat_judge: MakeJudge, model: str
) -> None:
    """Every request asks for logprobs and for alternatives, also after lessons."""
    server = wire([said("'temperature' is not supported"), said("top_logprobs must be <= 3"), OK])
    measure(chat_judge(server, model=model))
    assert len(server.requests) == 3
    for body in bodies(server):
        assert body["logprobs"] is True
        assert 1 <= body["top_logprobs"] <= 20


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:1/v1", "https://openrouter.ai/api/v1", "https://api.deepseek.com",
     "https://api.fireworks.ai/inference/v1", "https://api.together.xyz/v1"],
)  # fmt: skip
def test_trap_01_holds_for_every_first_guess(address: str) -> None:
    """Together takes the count in ``logprobs`` itself; everybody else gets both fields."""
    body = first_guess(address, "some-model").body("some-model", "prompt")
    if "together" in address:
        assert body["logprobs"] == 20 and "top_logprobs" not in body
    else:
        assert body["logprobs"] is True and isinstance(body["top_logprobs"], int)


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-5.4-mini", None),
        ("gpt-5.1", None),
        ("openai/gpt-5.6-terra", None),
        ("GPT-6-luna", None),
        ("o3-mini", None),
        ("my-deployment", "gpt-5.4-mini"),
    ],
)
def test_trap_18_reasoning_families(
    wire: Wire, chat_judge: MakeJudge, model: str, family: str | None
) -> None:
    """They list at most 5 alternatives, only without reasoning, and refuse a tiny budget."""
    server = wire(OK)
    measure(chat_judge(server, model=model, model_family=family))
    (body,) = bodies(server)
    assert body["reasoning_effort"] == "none"
    assert body["max_completion_tokens"] >= 4
    assert 1 <= body["top_logprobs"] <= 5
    assert body["temperature"] == 1
    assert "max_tokens" not in body


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4.1-mini", "gpt-oss-20b", "proto1", "solar-pro"])
def test_trap_18_other_names_are_not_taken_for_reasoning_families(
    wire: Wire, chat_judge: MakeJudge, model: str
) -> None:
    """OpenAI answers ``reasoning_effort`` with an error where a model cannot reason."""
    server = wire(OK)
    measure(chat_judge(server, model=model))
    (body,) = bodies(server)
    assert "reasoning_effort" not in body
    assert body["max_tokens"] >= 4
    assert body["top_logprobs"] == 20


class _SamplingServer:
    """Reports logprobs after temperature, as SGLang does; a greedy row stays as it is."""

    def __init__(self, *taken: float) -> None:
        self.taken = taken

    def __call__(self, request: Request) -> Answer:
        temperature = request.body.get("temperature", 0.7)
        if temperature not in self.taken:
            return said(f"'temperature' does not support {temperature} with this model.")
        scale = temperature or 1.0
        logits = {"True": 2.0 / scale, "False": -1.0 / scale}
        total = math.log(sum(map(math.exp, logits.values())))
        top = [(text, logit - total) for text, logit in logits.items()]
        return Answer(chat(token(*top[0], top)))


@pytest.mark.parametrize("taken", [(0,), (1,), (0, 1)])
def test_trap_28_temperature_is_0_or_1(
    wire: Wire, chat_judge: MakeJudge, taken: tuple[float, ...]
) -> None:
    """P(True) is the same on servers that scale logits, whatever the answer model's temperature."""
    server = wire(_SamplingServer(*taken))
    judge = chat_judge(server)
    with OpenAI(base_url=server.url, api_key=KEY, max_retries=0) as answering:
        for query in (QUERY, OTHER):
            assert measure(judge, query).p_true == pytest.approx(1 / (1 + math.exp(-3)))
            # The application's own calls through the same endpoint are none of the judge's.
            answering.post("/x", body={"temperature": taken[0], "messages": []}, cast_to=object)
    sent = [request.body for request in server.requests if request.path.endswith("completions")]
    assert all(body["temperature"] in (0, 1) for body in sent)
    assert sent[-1]["temperature"] in taken


def test_trap_28_temperature_that_is_refused_altogether_is_left_out(
    wire: Wire, chat_judge: MakeJudge
) -> None:
    """0, then 1, then nothing; and nothing from then on."""
    server = wire(picky((has("temperature"), said("'temperature' is not supported."))))
    judge = chat_judge(server)
    assert measure(judge).p_true == measure(judge, OTHER).p_true
    assert [body.get("temperature") for body in bodies(server)] == [0, 1, None, None]


def test_trap_29_nothing_that_bends_the_distribution(wire: Wire, chat_judge: MakeJudge) -> None:
    """No bias, penalty, sampling cut, seed, grammar or second choice; only what is needed."""
    for model in MODELS:
        server = wire(OK)
        measure(chat_judge(server, model=model))
        (body,) = bodies(server)
        limit = body.keys() & {"max_tokens", "max_completion_tokens"}
        assert len(limit) == 1
        assert body.keys() - limit <= {
            "logprobs",
            "top_logprobs",
            "temperature",
            "reasoning_effort",
        }


def test_extra_body_is_added_and_wins(wire: Wire, chat_judge: MakeJudge) -> None:
    """What the caller adds is sent as it is, and the reading knows how much was asked for."""
    server = wire(Answer(verdict(-0.1, -3.0, k=4)))
    extra = {"top_logprobs": 4, "seed": 7, "provider": {"order": ["a"]}}
    measured = measure(chat_judge(server, extra_body=extra))
    (body,) = bodies(server)
    assert extra.items() <= body.items()
    assert measured.signal == "logprobs"
    (other,) = [chat_judge(server, extra_body={"seed": 8})]
    assert other.fingerprint != measured.fingerprint


def test_trap_30_unknown_endpoints_get_max_tokens(wire: Wire, chat_judge: MakeJudge) -> None:
    """Ollama ignores ``max_completion_tokens`` and would write without end."""
    server = wire(OK)
    measure(chat_judge(server, model="qwen3:8b"))
    (body,) = bodies(server)
    assert 4 <= body["max_tokens"] <= 64
    assert "max_completion_tokens" not in body


def test_trap_30_a_hanging_request_ends_at_the_deadline(wire: Wire, chat_judge: MakeJudge) -> None:
    """Every request has a time-out of its own; the connection is closed, not only forgotten."""
    server = wire(Answer(hang=True))
    judge = chat_judge(server)
    started = time.monotonic()
    with pytest.raises(JudgeUnavailable) as caught:
        judge.judge(QUERY, timeout=0.2)
    assert caught.value.kind == "timeout"
    assert time.monotonic() - started < 1
    (request,) = server.requests
    assert request.gone.wait(10)
    headers = {name.casefold(): value for name, value in request.headers.items()}
    assert 0 < float(headers["x-stainless-read-timeout"]) <= 0.2
    assert headers["x-stainless-retry-count"] == "0"


def test_trap_31_everything_stands_in_one_message(wire: Wire, chat_judge: MakeJudge) -> None:
    """A server that drops old messages to make room cannot part the passages from the task."""
    server = wire(OK)
    texts = [f"Passage number {number}." for number in range(30)]
    query = Query.of("Which one?", texts, history=[("user", "Earlier question.")])
    measure(chat_judge(server), query)
    (message,) = server.requests[0].body["messages"]
    assert message["role"] == "user"
    places = [message["content"].index(text) for text in texts]
    places += [message["content"].index(text) for text in ("Earlier question.", "Which one?")]
    places += [message["content"].index("Task:")]
    assert places == sorted(places)
    assert message["content"].endswith("has_sufficient_context (True or False):")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(
            {
                "error": {
                    "code": 400,
                    "message": "the request exceeds the available context size, try increasing it",
                    "type": "exceed_context_size_error",
                    "n_prompt_tokens": 5213,
                    "n_ctx": 4096,
                }
            },
            status=400,
        ),
        said(
            "This model's maximum context length is 8192 tokens. However, you requested 8300 "
            "tokens (8292 in the messages, 8 in the completion). Please reduce the length.",
            code="context_length_exceeded",
        ),
        said(
            "'max_tokens' or 'max_completion_tokens' is too large: 8. This model's maximum context "
            "length is 32 tokens and your request has 30 input tokens (8 > 32 - 30)."
        ),
        plain("prompt is too long: 210000 tokens > 200000 maximum"),
    ],
    ids=["llama.cpp", "OpenAI", "vLLM", "plain"],
)
def test_trap_31_too_long_for_the_server(wire: Wire, chat_judge: MakeJudge, answer: Answer) -> None:
    """A prompt that does not fit is a kind of its own, is not retried and teaches nothing."""
    server = wire(answer)
    judge = chat_judge(server)
    before = endpoint_of(server).dialect
    decision = Gate(judge, Policy(on_unmeasured={"context_too_long": "clarify"})).check(
        QUERY.question, QUERY.contexts
    )
    assert (decision.route, decision.reason) == (Route.CLARIFY, Reason.CONTEXT_TOO_LONG)
    assert len(server.requests) == 1
    assert endpoint_of(server).dialect is before


# ── No logprobs at all ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "denial",
    [
        said(DENIED_403, 403, code="permission_denied"),
        said(DENIED_400, code="unsupported_parameter", param="logprobs"),
        said("logprobs: Extra inputs are not permitted"),
        said("Logprobs is not enabled for models/gemini-3-pro"),
        plain("top_logprobs is not supported"),
        Answer({"detail": [{"loc": ["body", "logprobs"], "msg": "Extra inputs are not permitted"}]},
               status=422),
    ],
    ids=["403", "400", "anthropic", "gemini", "plain", "422"],
)  # fmt: skip
def test_trap_19_denied_logprobs_are_remembered(
    wire: Wire, chat_judge: MakeJudge, monkeypatch: pytest.MonkeyPatch, denial: Answer
) -> None:
    """A model that may not give logprobs is not asked again for a while, and then it is."""
    server = wire(denial)
    judge = chat_judge(server)
    with pytest.raises(Unmeasured) as caught:
        measure(judge)
    assert caught.value.kind == "no_logprobs"
    assert caught.value.status == denial.status
    asked = len(server.requests)
    assert asked <= 2  # Once as it is, once without reasoning.
    with pytest.raises(Unmeasured) as again:
        measure(judge, OTHER)
    assert again.value.kind == "no_logprobs" and "not asked again" in again.value.message
    assert len(server.requests) == asked
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + BELIEVED_SECONDS + 1)
    monkeypatch.setattr("guard.judges.endpoint.time", later)
    with pytest.raises(Unmeasured):
        measure(judge)
    assert len(server.requests) > asked


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    "message",
    ["This key may not use the model.", "Your plan allows no max_tokens or temperature: at most 5"],
)
def test_trap_19_a_refused_key_is_not_remembered(
    wire: Wire, chat_judge: MakeJudge, status: int, message: str
) -> None:
    """A wrong key or a closed region is said as it is, and the next query asks again."""
    server = wire([said(message, status), OK])
    judge = chat_judge(server)
    with pytest.raises(JudgeRejected) as caught:
        measure(judge)
    assert caught.value.status == status and caught.value.hint
    assert len(server.requests) == 1
    assert measure(judge).p_true == pytest.approx(P_TRUE)


def test_trap_19_logprobs_come_back_when_reasoning_is_off(
    wire: Wire, chat_judge: MakeJudge
) -> None:
    """A reasoning model behind an unknown name denies logprobs until it is told not to reason."""
    reasons = said(DENIED_400, code="unsupported_parameter", param="logprobs")
    server = wire(picky((lambda body: body.get("reasoning_effort") != "none", reasons)))
    judge = chat_judge(server)
    assert measure(judge).p_true == measure(judge, OTHER).p_true
    assert [body.get("reasoning_effort") for body in bodies(server)] == [None, "none", "none"]


def test_silence_about_logprobs_is_remembered_if_it_never_measured(
    wire: Wire, chat_judge: MakeJudge
) -> None:
    """HTTP 200 without logprobs from an endpoint that never gave any: not asked again."""
    server = wire(NO_LOGPROBS)
    judge = chat_judge(server)
    for query in (QUERY, OTHER):
        with pytest.raises(Unmeasured) as caught:
            measure(judge, query)
        assert caught.value.kind == "no_logprobs"
        assert caught.value.hint and "require_parameters" in caught.value.hint
    assert len(server.requests) == 1


def test_silence_about_logprobs_is_forgiven_if_it_measured_before(
    wire: Wire, chat_judge: MakeJudge
) -> None:
    """One reply without logprobs does not write off an endpoint that has given some."""
    server = wire([OK, NO_LOGPROBS, OK])
    judge = chat_judge(server)
    measure(judge)
    with pytest.raises(Unmeasured):
        measure(judge)
    assert measure(judge).p_true == pytest.approx(P_TRUE)
    assert len(server.requests) == 3


class _Fickle(Endpoint):
    """Another thread clears the silence right after every look at it."""

    def __getattribute__(self, name: str) -> object:
        value = super().__getattribute__(name)
        if name == "_mute":
            self._mute = None
        return value


def test_the_silence_is_looked_at_once() -> None:
    """A thread that asks while another one has just measured never breaks."""
    endpoint = _Fickle(Dialect())
    endpoint.note_mute(Unmeasured("none"))
    with pytest.raises(Unmeasured):
        endpoint.require_voice()
    endpoint.require_voice()


# ── Lessons ──────────────────────────────────────────────────────────────────────────────────────

CAPS = [
    plain("top_logprobs must be between 0 and 5"),
    said("Invalid value for 'top_logprobs': must be less than or equal to 5."),
    said("Invalid 'top_logprobs': integer above maximum value. Expected a value <= 5, but got 20."),
    said("Requested sample logprobs of 20, which is greater than max allowed: 5"),
    Answer({"detail": [{"loc": ["body", "top_logprobs"],
                        "msg": "Input should be less than or equal to 5"}]}, status=422),
    Answer(b"top_logprobs may be at most 5", status=400),
    said("Invalid top_logprobs value, the valid range of top_logprobs is [0, 5]"),
    said("Unsupported value: 'top_logprobs' only goes up to 5.", code="unsupported_value"),
]  # fmt: skip
CAP_NAMES = ["ollama", "azure", "openai", "vllm", "422", "text", "deepseek", "up-to"]


@pytest.mark.parametrize("answer", CAPS, ids=CAP_NAMES)
def test_trap_20_the_cap_is_learnt_from_the_body(
    wire: Wire, chat_judge: MakeJudge, answer: Answer
) -> None:
    """One extra request for the first query, none for the next."""
    server = wire(picky((lambda body: body["top_logprobs"] > 5, answer)))
    judge = chat_judge(server)
    for query in (QUERY, OTHER):
        assert measure(judge, query).p_true == pytest.approx(P_TRUE)
    assert [body["top_logprobs"] for body in bodies(server)] == [20, 5, 5]


def test_trap_20_a_bigger_wish_than_the_server_grants(wire: Wire, chat_judge: MakeJudge) -> None:
    """A dialect that asks for more than 20 comes down to Ollama's 20 in the same way."""
    cap = plain("top_logprobs must be between 0 and 20")
    server = wire(picky((lambda body: body["top_logprobs"] > 20, cap)))
    endpoint = endpoint_of(server)
    endpoint.dialect = replace(endpoint.dialect, top_logprobs=50)
    judge = chat_judge(server)
    for query in (QUERY, OTHER):
        measure(judge, query)
    assert [body["top_logprobs"] for body in bodies(server)] == [50, 20, 20]


def test_trap_20_a_cap_on_the_callers_own_wish_is_not_corrected(
    wire: Wire, chat_judge: MakeJudge
) -> None:
    """What extra_body insists on is not corrected; the error says where to look."""
    cap = plain("top_logprobs must be between 0 and 20")
    server = wire(picky((lambda body: body["top_logprobs"] > 20, cap)))
    with pytest.raises(JudgeRejected, match="HTTP 400. See the endpoint's own log"):
        measure(chat_judge(server, extra_body={"top_logprobs": 50}))
    assert len(server.requests) == 1


FLOORS = [
    (said("Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but "
          "got 8 instead.", code="integer_below_min_value"), 16),
    (said("max_tokens must be at least 16"), 16),
    (plain("The minimum number of tokens: minimum value is 16"), 16),
    (said("Could not finish the message because max_tokens or model output limit was reached. "
          "Please try again with higher max_tokens."), 64),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "floor"), FLOORS)
def test_token_floor(wire: Wire, chat_judge: MakeJudge, answer: Answer, floor: int) -> None:
    """A budget that the endpoint finds too small is raised to what it wants, once."""
    server = wire(picky((lambda body: body["max_tokens"] < floor, answer)))
    judge = chat_judge(server)
    for query in (QUERY, OTHER):
        measure(judge, query)
    assert [body["max_tokens"] for body in bodies(server)] == [8, floor, floor]


def test_token_floor_is_no_blank_cheque(wire: Wire, chat_judge: MakeJudge) -> None:
    """An endpoint that wants thousands of tokens for one word is turned down."""
    server = wire(said("max_tokens must be at least 4096"))
    with pytest.raises(JudgeRejected):
        measure(chat_judge(server))
    assert len(server.requests) == 1


def test_max_completion_tokens_is_learnt(wire: Wire, chat_judge: MakeJudge) -> None:
    """OpenAI's newer models name the parameter that they want."""
    answer = said(
        "Unsupported parameter: 'max_tokens' is not supported with this model. "
        "Use 'max_completion_tokens' instead.",
        code="unsupported_parameter",
        param="max_tokens",
    )
    server = wire(picky((has("max_tokens"), answer)))
    judge = chat_judge(server)
    for query in (QUERY, OTHER):
        measure(judge, query)
    names = [
        sorted(body.keys() & {"max_tokens", "max_completion_tokens"}) for body in bodies(server)
    ]
    assert names == [["max_tokens"], ["max_completion_tokens"], ["max_completion_tokens"]]


@pytest.mark.parametrize(
    "answer",
    [
        said("Unrecognized request argument supplied: max_completion_tokens"),
        plain("unknown field max_completion_tokens"),
    ],
)
def test_max_tokens_is_learnt(wire: Wire, chat_judge: MakeJudge, answer: Answer) -> None:
    """The reverse: an older server behind the name of a newer model."""
    server = wire(picky((has("max_completion_tokens"), answer)))
    judge = chat_judge(server, model="gpt-5.4-mini")
    for query in (QUERY, OTHER):
        measure(judge, query)
    limits = [
        sorted(body.keys() & {"max_tokens", "max_completion_tokens"}) for body in bodies(server)
    ]
    assert limits == [["max_completion_tokens"], ["max_tokens"], ["max_tokens"]]


def test_refused_reasoning_effort(wire: Wire, chat_judge: MakeJudge) -> None:
    """gpt-5 before 5.1, and models that cannot reason, refuse the switch; it is sent no more."""
    answer = said("Unrecognized request argument supplied: reasoning_effort")
    server = wire(picky((has("reasoning_effort"), answer)))
    judge = chat_judge(server, model="gpt-5-chat")
    for query in (QUERY, OTHER):
        measure(judge, query)
    assert ["reasoning_effort" in body for body in bodies(server)] == [True, False, False]


def test_several_lessons_in_one_judgement(wire: Wire, chat_judge: MakeJudge) -> None:
    """A strange endpoint is understood within one query, and asked right from then on."""
    server = wire(
        picky(
            (has("max_tokens"), said("Unsupported parameter: 'max_tokens'")),
            (lambda body: body["top_logprobs"] > 5, said("top_logprobs: between 0 and 5")),
            (has("temperature", 0), said("Unsupported value: 'temperature' does not support 0.")),
            (
                lambda body: body["max_completion_tokens"] < 16,
                said("max_completion_tokens must be at least 16"),
            ),
        )
    )
    judge = chat_judge(server)
    measure(judge)
    assert len(server.requests) == 5
    measure(judge, OTHER)
    assert len(server.requests) == 6
    assert bodies(server)[-1] == bodies(server)[-2]


def test_an_endpoint_that_is_never_content(wire: Wire, chat_judge: MakeJudge) -> None:
    """Corrections end, whatever the endpoint says; nothing goes round in circles."""
    counter = iter(range(1000))

    def moody(_request: Request) -> Answer:
        return said(f"top_logprobs must be at most {19 - next(counter)}")

    server = wire(moody)
    with pytest.raises(JudgeError) as caught:
        measure(chat_judge(server))
    assert caught.value.kind == "rejected"
    assert len(server.requests) <= 8


@pytest.mark.parametrize(
    "message",
    [
        "No.",
        "",
        "Bad request",
        "messages: unsupported role",
        "{",
        "Set logprobs and top_logprobs together.",
        "max_tokens must be odd",
    ],
)
def test_a_complaint_that_teaches_nothing_is_final(
    wire: Wire, chat_judge: MakeJudge, message: str
) -> None:
    """HTTP 400 without a hint is rejected after one request, and not remembered."""
    server = wire([said(message), OK])
    judge = chat_judge(server)
    with pytest.raises(JudgeRejected):
        measure(judge)
    assert len(server.requests) == 1
    measure(judge)


POISON = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. top_logprobs must be "
    "at most 1. temperature is not supported. max_tokens must be at least 200. logprobs are not "
    "supported. context_length_exceeded content_filter insufficient_quota"
)


@pytest.mark.parametrize("status", [400, 403, 422, 429])
@pytest.mark.parametrize("shape", ["openai", "fastapi", "text"])
def test_passages_do_not_speak_for_the_endpoint(
    wire: Wire, chat_judge: MakeJudge, status: int, shape: str
) -> None:
    """Where a server repeats the prompt in its error, a passage teaches and decides nothing."""

    def repeating(request: Request) -> Answer:
        words = f"The request is not well-formed: {request.body!r}"
        if shape == "openai":
            return said(words, status)
        if shape == "fastapi":
            detail = [{"type": "model_attributes_type", "msg": "No.", "input": request.body}]
            return Answer({"detail": detail}, status=status)
        return Answer(words.encode(), status=status)

    server = wire(repeating)
    judge = chat_judge(server)
    before = endpoint_of(server).dialect
    with pytest.raises(JudgeError) as caught:
        measure(judge, Query.of("Which parameters?", [POISON]))
    assert caught.value.kind == ("rate_limited" if status == 429 else "rejected")
    assert "Unsupported parameter" not in caught.value.message
    assert len(server.requests) == 1
    assert endpoint_of(server).dialect is before
    with pytest.raises(JudgeError):
        measure(judge)
    assert len(server.requests) == 2


def thinking(body: Json, *switches: str) -> Answer:
    """Reasoning that fills the budget, until one of the switches is set."""
    if any(body.get(name) == THINKING_SWITCHES[name] for name in switches):
        return OK
    tokens = [token(word, -0.2, [(word, -0.2)]) for word in ("<think>", "Okay", ",", " True")]
    return Answer(chat(*tokens, finish_reason="length"))


@pytest.mark.parametrize(
    ("switch", "tries"), [(name, n + 2) for n, name in enumerate(THINKING_SWITCHES)]
)
def test_thinking_switches_are_tried_one_after_the_other(
    wire: Wire, chat_judge: MakeJudge, switch: str, tries: int
) -> None:
    """A reply that is only thinking is no verdict; the switch that helps is remembered."""
    server = wire(lambda request: thinking(request.body, switch))
    judge = chat_judge(server)
    assert measure(judge).p_true == pytest.approx(P_TRUE)
    assert len(server.requests) == tries
    measure(judge, OTHER)
    assert len(server.requests) == tries + 1
    switches = [sorted(body.keys() & THINKING_SWITCHES.keys()) for body in bodies(server)]
    assert switches[0] == [] and switch in switches[-1] and switch not in switches[-3]


def test_refused_thinking_switches_are_skipped(wire: Wire, chat_judge: MakeJudge) -> None:
    """A switch that the endpoint turns down is left out for good, and the next one is tried."""
    refused = said("Unrecognized request argument supplied: reasoning_effort")

    def answer(request: Request) -> Answer:
        if "reasoning_effort" in request.body:
            return refused
        return thinking(request.body, "chat_template_kwargs")

    server = wire(answer)
    judge = chat_judge(server)
    for query in (QUERY, OTHER):
        assert measure(judge, query).p_true == pytest.approx(P_TRUE)
    assert [sorted(body.keys() & THINKING_SWITCHES.keys()) for body in bodies(server)] == [
        [],
        ["reasoning_effort"],
        ["chat_template_kwargs"],
        ["chat_template_kwargs"],
    ]


def test_a_model_that_cannot_stop_thinking(wire: Wire, chat_judge: MakeJudge) -> None:
    """When no switch helps it says so, is no verdict, and nothing is learnt for the next query."""
    server = wire(lambda request: thinking(request.body))
    judge = chat_judge(server)
    with pytest.raises(Unmeasured) as caught:
        measure(judge)
    assert caught.value.kind == "low_mass"
    assert "thinking" in caught.value.message and caught.value.hint
    assert len(server.requests) == 4
    with pytest.raises(Unmeasured):
        measure(judge, OTHER)
    assert len(server.requests) == 8
    assert endpoint_of(server).dialect == Dialect()


def test_a_lesson_without_a_verdict_is_forgotten(wire: Wire, chat_judge: MakeJudge) -> None:
    """One odd query, for which parameters and switches are tried in vain, changes no other."""
    strange = [said("top_logprobs must be at most 5"), said("max_tokens must be at least 16")]
    server = wire([*strange, said("No."), OK])
    judge = chat_judge(server)
    with pytest.raises(JudgeRejected):
        measure(judge)
    assert len(server.requests) == 3
    measure(judge, OTHER)
    assert bodies(server)[-1] == bodies(server)[0]


def test_no_switch_is_tried_on_an_endpoint_that_has_measured(
    wire: Wire, chat_judge: MakeJudge
) -> None:
    """A passage that makes the model think does not change how all others are asked."""
    server = wire(
        lambda request: thinking(request.body) if "Nobody knows" in request.prompt else OK
    )
    judge = chat_judge(server)
    measure(judge)
    with pytest.raises(Unmeasured) as caught:
        measure(judge, OTHER)
    assert caught.value.kind == "low_mass"
    assert len(server.requests) == 2
    measure(judge)
    assert bodies(server)[2] == bodies(server)[0]


@pytest.mark.parametrize(
    ("complaint", "changed"),
    [
        ("max_tokens is unsupported", {"token_limit": "max_completion_tokens"}),
        ("MAX_TOKENS MUST BE AT LEAST 20", {"max_tokens": 20}),
        ("top_logprobs: at most 3", {"top_logprobs": 3}),
        ("Temperature must be 1", {"temperature": 1.0}),
        ("logprobs are not supported", {"extra": {"reasoning_effort": "none"}}),
        ("top_logprobs must be between 0 and 20", {}),
        ("top_logprobs must be between 0 and 0", {}),
        ("max_tokens must be at least 4", {}),
        ("something else", {}),
        ("", {}),
    ],
)
def test_learn(complaint: str, changed: dict[str, object]) -> None:
    """One complaint teaches one change, or nothing."""
    learnt = learn(Dialect(), complaint)
    if not changed:
        assert learnt is None
    else:
        assert learnt is not None
        assert {name: getattr(learnt, name) for name in changed} == changed


def test_learning_ends() -> None:
    """No complaint can be answered with new parameters for ever."""
    complaint = (
        "max_tokens max_completion_tokens temperature reasoning_effort chat_template_kwargs "
        "thinking logprobs unsupported, at most 5, at least 16"
    )
    dialect: Dialect | None = Dialect()
    steps = 0
    while dialect is not None and steps < 50:
        dialect, steps = learn(dialect, complaint), steps + 1
    assert steps < 12


# ── One endpoint for all ─────────────────────────────────────────────────────────────────────────


def test_judges_share_what_they_learnt(wire: Wire, chat_judge: MakeJudge) -> None:
    """Two judges of one address and model share its endpoint; another model has its own."""
    server = wire(picky((lambda body: body["top_logprobs"] > 5, CAPS[0])))
    measure(chat_judge(server))
    measure(chat_judge(server), OTHER)
    assert [body["top_logprobs"] for body in bodies(server)] == [20, 5, 5]
    measure(chat_judge(server, model="another"))
    assert [body["top_logprobs"] for body in bodies(server)[3:]] == [20, 5]
    assert endpoint_for(server.url, "m") is endpoint_for(server.url, "m")
    assert endpoint_for(server.url, "m") is not endpoint_for(server.url, "m", "gpt-5.4")


def test_tenants_share_nothing(wire: Wire) -> None:
    """Another key, another gateway header or other fields of the caller: another endpoint."""
    denied = said("logprobs: Extra inputs are not permitted", 422)
    server = wire(lambda request: denied if "poor" in f"{request.headers}{request.body}" else OK)

    def judge(key: str = KEY, header: str = "rich", **extra: str) -> ChatJudge:
        headers = {"X-Tenant": header}
        client = OpenAI(base_url=server.url, api_key=key, default_headers=headers)
        return ChatJudge(client, model="wire-model", extra_body=extra, close_clients=True)

    for poor in (judge("poor-key"), judge(header="poor"), judge(user="poor")):
        with pytest.raises(Unmeasured) as caught:
            measure(poor)
        assert caught.value.kind == "no_logprobs"
        rich = judge()
        assert measure(rich).p_true == pytest.approx(P_TRUE)
        poor.close()
        rich.close()


def test_an_account_tells_no_key() -> None:
    """It is a hash, the same for both kinds of client, whatever the order of the fields."""
    with OpenAI(base_url="http://127.0.0.1:1", api_key=KEY) as client:
        account = account_of(client, {"a": 1, "b": 2})
    other = AsyncOpenAI(base_url="http://127.0.0.1:1", api_key=KEY)
    assert re.fullmatch("[0-9a-f]{64}", account)
    assert account_of(other, {"b": 2, "a": 1}) == account


def test_concurrent_learners_end_up_with_one_dialect(wire: Wire, chat_judge: MakeJudge) -> None:
    """Twenty first queries at once all measure, and the lesson is learnt by the last of them."""
    server = wire(
        picky(
            (lambda body: body["top_logprobs"] > 5, CAPS[0]),
            (has("temperature", 0), said("temperature must be 1")),
        )
    )
    judge = chat_judge(server)
    with ThreadPoolExecutor(20) as pool:
        measured = list(pool.map(measure, [judge] * 20))
    assert all(one.p_true == pytest.approx(P_TRUE) for one in measured)
    before = len(server.requests)
    measure(judge)
    assert len(server.requests) == before + 1


def numbered(request: Request) -> Answer:
    """A verdict that depends on the number in the passage."""
    found = re.search(r"passage-(\d+)", request.prompt)
    number = int(found[1]) if found else 0
    asked = re.search(r"question-(\d+)", request.prompt)
    assert asked and int(asked[1]) == number
    low = -math.log1p(math.exp(number / 10 - 2))
    return Answer(verdict(low, low + number / 10 - 2), delay=0.001 * (number * 7 % 40))


def test_many_at_once_swap_nothing(wire: Wire, chat_judge: MakeJudge) -> None:
    """Threads through ``check`` and tasks through ``acheck`` get the verdict on their own query."""
    gate = Gate(chat_judge(wire(numbered)))

    def cases() -> Iterator[tuple[str, list[str]]]:
        return ((f"question-{number}?", [f"passage-{number}"]) for number in range(40))

    def check(case: tuple[str, list[str]]) -> Decision:
        return gate.check(*case)

    async def all_at_once() -> Sequence[Decision]:
        return await asyncio.gather(*(gate.acheck(*case) for case in cases()))

    with ThreadPoolExecutor(40) as pool:
        made = [*pool.map(check, cases()), *asyncio.run(all_at_once())]
    for index, decision in enumerate(made):
        number = index % 40
        assert decision.query.contexts == (f"passage-{number}",)
        assert decision.probability == pytest.approx(1 / (1 + math.exp(number / 10 - 2)))


# ── Clients ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [AzureOpenAI, AsyncAzureOpenAI], ids=["sync", "async"])
@pytest.mark.parametrize("family", [None, "gpt-5.4-mini"])
def test_azure(
    wire: Wire, kind: type[AzureOpenAI] | type[AsyncAzureOpenAI], family: str | None
) -> None:
    """The deployment stands in the path, and the family tells what stands behind its name."""
    server = wire(OK)
    client = kind(
        azure_endpoint=server.url.removesuffix("/v1"), api_version="2024-10-21", api_key=KEY
    )
    judge = ChatJudge(client, model="my-deployment", model_family=family, close_clients=True)
    assert measure(judge).p_true == pytest.approx(P_TRUE)
    assert measure(judge, OTHER).p_true == pytest.approx(P_TRUE)
    assert asyncio.run(judge.ajudge(QUERY, timeout=5)).p_true == pytest.approx(P_TRUE)
    path = "/openai/deployments/my-deployment/chat/completions?api-version=2024-10-21"
    assert [request.path for request in server.requests] == [path] * 3
    assert {name.casefold(): value for name, value in server.requests[0].headers.items()}[
        "api-key"
    ] == KEY
    assert [body.get("reasoning_effort") for body in bodies(server)] == [family and "none"] * 3
    judge.close()


def test_a_sync_client_serves_acheck(wire: Wire) -> None:
    """With a blocking client alone, ``acheck`` still does not block the event loop."""
    server = wire(replace(OK, delay=0.15))
    with OpenAI(base_url=server.url, api_key=KEY) as client:
        judge = ChatJudge(client, model="wire-model")
        assert not judge.cancellable

        async def beside() -> tuple[Decision, int]:
            task = asyncio.create_task(Gate(judge).acheck(QUERY.question, QUERY.contexts))
            beats = 0
            while not task.done():
                await asyncio.sleep(0.01)
                beats += 1
            return task.result(), beats

        decision, beats = asyncio.run(beside())
    assert decision.probability == pytest.approx(P_TRUE)
    assert beats >= 5


def test_an_async_client_serves_check_everywhere(wire: Wire) -> None:
    """With an asynchronous client alone, ``check`` works, also inside a running event loop."""
    server = wire(OK)
    client = AsyncOpenAI(base_url=server.url, api_key=KEY)
    judge = ChatJudge(client, model="wire-model", close_clients=True)
    assert judge.cancellable
    gate = Gate(judge)

    async def inside() -> list[Decision]:
        here = gate.check(QUERY.question, QUERY.contexts)  # Blocks, as check does.
        return [here, await gate.acheck(QUERY.question, QUERY.contexts)]

    made = [gate.check(QUERY.question, QUERY.contexts), *asyncio.run(inside())]
    assert [decision.probability for decision in made] == [pytest.approx(P_TRUE)] * 3
    judge.close()


def test_one_async_client_on_several_event_loops(wire: Wire) -> None:
    """Loops one after the other, and three at once, each with connections of their own."""
    server = wire(OK)
    client = AsyncOpenAI(base_url=server.url, api_key=KEY)
    judge = ChatJudge(client, model="wire-model", close_clients=True)

    async def twice() -> list[float]:
        return [(await judge.ajudge(query, timeout=5)).p_true for query in (QUERY, OTHER)]

    def own_loop(_number: int) -> list[float]:
        return asyncio.run(twice())

    with ThreadPoolExecutor(3) as pool:
        measured = [own_loop(0), own_loop(1), *pool.map(own_loop, range(3)), own_loop(2)]
    assert measured == [[pytest.approx(P_TRUE)] * 2] * 6
    judge.close()


def test_ended_event_loops_leave_nothing_open(wire: Wire) -> None:
    """A program that calls ``asyncio.run`` per query keeps neither sockets nor loops."""
    server = wire(OK)
    client = AsyncOpenAI(base_url=server.url, api_key=KEY)
    judge = ChatJudge(client, model="wire-model", close_clients=True)
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def once() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await judge.ajudge(QUERY, timeout=5)

    for _ in range(6):
        asyncio.run(once())
    gc.collect()
    assert sum(loop() is not None for loop in loops) <= 1
    judge.close()


def test_the_callers_async_client_survives_its_event_loop(wire: Wire) -> None:
    """A client that is not ours to close is still open when the loop ends."""
    server = wire(OK)
    client = AsyncOpenAI(base_url=server.url, api_key=KEY)
    judge = ChatJudge(client, model="wire-model")

    async def once() -> None:
        await judge.ajudge(QUERY, timeout=5)
        await judge.aclose()
        assert not client.is_closed()
        await client.close()

    asyncio.run(once())


def test_the_applications_own_use_of_its_client_is_left_alone(wire: Wire) -> None:
    """It may call its client on its own loop before and after a check; neither side fails."""
    server = wire(OK)
    client = AsyncOpenAI(base_url=server.url, api_key=KEY, max_retries=0)
    judge = ChatJudge(client, model="wire-model")
    gate = Gate(judge, retry=Retry(attempts=1))

    async def application() -> list[Decision]:
        made: list[Decision] = []
        for _ in range(3):
            await client.post("/x", body={"messages": []}, cast_to=object)
            made.append(await asyncio.to_thread(gate.check, QUERY.question, QUERY.contexts))
            made.append(await gate.acheck(QUERY.question, QUERY.contexts))
            await client.post("/x", body={"messages": []}, cast_to=object)
        await judge.aclose()
        assert not client.is_closed()
        await client.close()
        return made

    assert all(decision.measured for decision in asyncio.run(application()))


def test_a_callers_http_client_belongs_to_one_event_loop(wire: Wire) -> None:
    """Its proxies cannot be copied: another loop is told what to do instead."""
    server = wire(OK)

    https = [openai.DefaultAsyncHttpxClient() for _ in range(2)]
    per_query, blocking = (
        ChatJudge(
            AsyncOpenAI(base_url=server.url, api_key=KEY, http_client=http),
            model="wire-model",
            close_clients=True,
        )
        for http in https
    )

    async def once(judge: ChatJudge) -> bool:
        decision = await Gate(judge).acheck(QUERY.question, QUERY.contexts)
        await https[0].aclose()
        return decision.measured

    assert asyncio.run(once(per_query))
    calls: list[Callable[[], Verdict]] = [
        lambda: asyncio.run(per_query.ajudge(QUERY, timeout=5)),
        lambda: measure(per_query),
    ]
    for again in calls:
        # Not a ConfigError: another judge of a chain may still answer.
        with pytest.raises(JudgeRejected, match="own http_client") as caught:
            again()
        assert "Pass a blocking client beside it" in str(caught.value.hint)
    # Only ever on our own loop: nothing to complain about.
    assert [measure(blocking).p_true for _ in range(2)] == [pytest.approx(P_TRUE)] * 2
    blocking.close()


def test_a_closed_judge_rejects(wire: Wire, chat_judge: MakeJudge) -> None:
    """Queries after ``close`` say so, on either path, and send nothing."""
    server = wire(OK)
    judge = chat_judge(server)
    measure(judge)
    judge.close()
    judge.close()
    with pytest.raises(JudgeRejected, match="This judge is closed"):
        measure(judge)
    with pytest.raises(JudgeRejected, match="This judge is closed"):
        asyncio.run(judge.ajudge(QUERY, timeout=5))
    assert len(server.requests) == 1


def test_close_on_the_running_loop_does_not_wait(wire: Wire) -> None:
    """It would wait for itself; the closing is done as soon as the loop is free again."""
    server = wire(OK)
    client = AsyncOpenAI(base_url=server.url, api_key=KEY)
    judge = ChatJudge(client, model="wire-model", close_clients=True)

    async def closed() -> float:
        await judge.ajudge(QUERY, timeout=5)
        started = time.monotonic()
        judge.close()
        seconds = time.monotonic() - started
        await asyncio.sleep(0.05)
        assert client.is_closed()
        return seconds

    assert asyncio.run(closed()) < 0.5


def test_a_fork_does_not_close_the_parents_connections(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a child the parent's loop says that it runs; nobody is there to wait for."""
    server = wire(OK)
    client = AsyncOpenAI(base_url=server.url, api_key=KEY)
    judge = ChatJudge(client, model="wire-model")
    measure(judge)
    with monkeypatch.context() as child:
        child.setattr("guard.judges.connection.os", SimpleNamespace(getpid=lambda: -1))
        child.setattr("guard.judges.connection.close_on", None)  # Never called.
        judge.close()
    judge.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_measures_and_closes_at_once(wire: Wire) -> None:
    """What a pre-forking server does with a judge that has been used before."""
    server = wire(OK)
    client = AsyncOpenAI(base_url=server.url, api_key=KEY)
    judge = ChatJudge(client, model="wire-model", close_clients=True)
    measure(judge)
    pid = os.fork()
    if pid == 0:
        try:
            measure(judge)
            started = time.monotonic()
            judge.close()
            os._exit(0 if time.monotonic() - started < 1 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    measure(judge)
    judge.close()


def test_close_closes_only_what_is_ours(wire: Wire) -> None:
    """A blocking client stays open unless the judge was told that it may close it."""
    server = wire(OK)
    with OpenAI(base_url=server.url, api_key=KEY) as client:
        ChatJudge(client, model="wire-model").close()
        assert measure(ChatJudge(client, model="wire-model")).p_true == pytest.approx(P_TRUE)
        ChatJudge(client, model="wire-model", close_clients=True).close()
        assert client.is_closed()


def test_both_clients(wire: Wire) -> None:
    """With both, ``check`` uses the blocking one and ``acheck`` the asynchronous one."""
    server = wire(OK)
    judge = ChatJudge(
        OpenAI(base_url=server.url, api_key=KEY, default_headers={"X-Kind": "sync"}),
        async_client=AsyncOpenAI(
            base_url=server.url, api_key=KEY, default_headers={"X-Kind": "async"}
        ),
        model="wire-model",
        close_clients=True,
    )
    assert not judge.cancellable
    gate = Gate(judge)
    gate.check(QUERY.question, QUERY.contexts)
    asyncio.run(gate.acheck(QUERY.question, QUERY.contexts))
    kinds = [
        value
        for request in server.requests
        for name, value in request.headers.items()
        if name.casefold() == "x-kind"
    ]
    assert kinds == ["sync", "async"]
    judge.close()


def test_the_sdks_own_retries_are_off(wire: Wire) -> None:
    """A client that would retry does not do so for the judge, and still does for its owner."""
    server = wire([Answer({"error": {"message": "boom"}}, status=500), OK])
    with OpenAI(base_url=server.url, api_key=KEY, max_retries=5) as client:
        with pytest.raises(JudgeUnavailable):
            measure(ChatJudge(client, model="wire-model"))
        assert len(server.requests) == 1
        assert client.max_retries == 5


@pytest.mark.parametrize("client", [None, "openai", object(), OpenAI])
def test_what_is_no_client_is_refused(client: object) -> None:
    """A judge without a client of the openai package is refused at construction."""
    with pytest.raises(ConfigError) as caught:
        ChatJudge(client, model="m")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert caught.value.hint


@pytest.mark.parametrize("mass", [-0.1, 1.1, math.nan])
def test_min_mass_is_a_probability(mass: float) -> None:
    """A minimum that no reply could miss or reach is refused."""
    with OpenAI(base_url="http://127.0.0.1:1", api_key=KEY) as client:
        with pytest.raises(ConfigError):
            ChatJudge(client, model="m", min_mass=mass)


@pytest.mark.parametrize("model", ["", " ", None, 4])
def test_a_model_has_a_name(model: str) -> None:
    """A blank name would only be found out by the first query."""
    with OpenAI(base_url="http://127.0.0.1:1", api_key=KEY) as client:
        with pytest.raises(ConfigError, match="model"):
            ChatJudge(client, model=model)


@pytest.mark.parametrize(
    "extra",
    [{"seed": math.nan}, {"seed": object()}, {1: 2, "a": 3}, [1], {"user": "\ud800"}],
    ids=["NaN", "object", "keys", "list", "surrogate"],
)
def test_extra_body_is_json(extra: Any) -> None:
    """What cannot be sent is refused at construction, not called a wrong reply later."""
    with OpenAI(base_url="http://127.0.0.1:1", api_key=KEY) as client:
        with pytest.raises(ConfigError, match="extra_body"):
            ChatJudge(client, model="m", extra_body=extra)


def test_alternatives_left_to_the_server_are_a_list_cut_off(
    wire: Wire, chat_judge: MakeJudge
) -> None:
    """Without a number of ours nobody knows how much was listed; not the whole vocabulary."""
    server = wire(Answer(verdict(-0.1, -3.0)))
    measured = measure(chat_judge(server, extra_body={"top_logprobs": None}))
    assert measured.signal == "logprobs-truncated"


def test_big_prompts_are_rendered_beside_the_event_loop(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other tasks go on meanwhile; small ones are not worth a thread."""
    threads: list[str] = []
    render = Prompt.render

    def noted(prompt: Prompt, query: Query) -> Rendered:
        threads.append(threading.current_thread().name)
        return render(prompt, query)

    monkeypatch.setattr(Prompt, "render", noted)
    server = wire(OK)
    client = AsyncOpenAI(base_url=server.url, api_key=KEY)
    judge = ChatJudge(client, model="wire-model", close_clients=True)
    for size in (10, 300_000):
        asyncio.run(judge.ajudge(Query.of("Where?", ["x" * size]), timeout=5))
    judge.close()
    small, big = threads
    assert small == threading.main_thread().name != big


def test_fingerprints_cover_what_verdicts_depend_on(wire: Wire, chat_judge: MakeJudge) -> None:
    """Model, family, reading and added fields change the fingerprint; address and key do not."""
    one, other = wire(OK), wire(OK)
    base = chat_judge(one).fingerprint
    assert chat_judge(other).fingerprint == base
    changed = [
        chat_judge(one, model="another"),
        chat_judge(one, model_family="gpt-5.4"),
        chat_judge(one, min_mass=0.9),
        chat_judge(one, extra_body={"seed": 1}),
    ]
    assert len({base, *(judge.fingerprint for judge in changed)}) == 5
    assert KEY not in base
