"""LlamaIndexJudge on LlamaIndex's own LLM classes, over real HTTP on loopback."""

import asyncio
import gc
import importlib
import json
import re
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import pytest
from blockbuster import blockbuster_ctx
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager, CBEventType, TokenCountingHandler
from llama_index.core.llms import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    CompletionResponseGen,
    CustomLLM,
    LLMMetadata,
    MockLLM,
)
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.llms.openai import OpenAI, OpenAIResponses
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient
from openai import OpenAI as Client
from wire import Answer, Json, Request, Script, WireServer, chat, padded, token, verdict

from guard import (
    ConfigError,
    Gate,
    Judge,
    JudgeError,
    JudgeRejected,
    JudgeUnavailable,
    Policy,
    Prompt,
    Query,
    Retry,
    Route,
    Unmeasured,
    Verdict,
)
from guard.judges import ChatJudge
from guard.testing import JudgeConformance
from guard.worker import shared_workers
from guard_llama_index import GuardedQueryEngine, LlamaIndexJudge

pytestmark = pytest.mark.local

# It ships no types.
OpenAILike: type[OpenAI] = importlib.import_module("llama_index.llms.openai_like").OpenAILike

Wire = Callable[[Script], WireServer]
Measure = Callable[[Judge], Verdict]

KEY = "sk-canary-0123456789"
PASSAGE = "canary-passage: the bridge opened in 1932."
QUERY = Query.of("When did the bridge open?", [PASSAGE])
OK = Answer(verdict(-0.2, -2.0))
BOOM = Answer({"error": {"message": f"boom {PASSAGE} {KEY}"}}, status=500)
NO_LOGPROBS = Answer(chat(content="True", logprobs=None))


def an_llm(
    server: WireServer, kind: type[OpenAI] = OpenAI, *, model: str = "gpt-4.1-mini", **options: Any
) -> OpenAI:
    """An LLM as LlamaIndex makes it by default, retries and all."""
    if issubclass(kind, OpenAILike):
        options = {"is_chat_model": True, **options}
    return kind(model=model, api_base=server.url, api_key=KEY, **options)


def sync(judge: Judge) -> Verdict:
    return judge.judge(QUERY, timeout=5)


def awaited(judge: Judge) -> Verdict:
    return asyncio.run(judge.ajudge(QUERY, timeout=5))


both = pytest.mark.parametrize("measure", [sync, awaited])


@pytest.fixture(autouse=True)
def _nothing_left_behind(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Every judge is closed: a socket found by the garbage collector would fail another test."""
    judges: list[LlamaIndexJudge] = []
    begin = LlamaIndexJudge.__init__

    def noted(judge: LlamaIndexJudge, *args: Any, **options: Any) -> None:
        judges.append(judge)
        begin(judge, *args, **options)

    monkeypatch.setattr(LlamaIndexJudge, "__init__", noted)
    yield
    while shared_workers.abandoned:
        time.sleep(0.01)
    for judge in judges:
        if hasattr(judge, "connection"):  # Else it was refused.
            judge.close()


# ── Traps ────────────────────────────────────────────────────────────────────────────────────────


@both
def test_trap_02_read_from_the_raw_reply(wire: Wire, measure: Measure) -> None:
    """The sampled token and every position count; LlamaIndex's own `logprobs` has neither."""
    top = padded(("True", -0.4), ("False", -1.3))
    server = wire(Answer(chat(token("\n", -0.01), token("False", -1.3, top))))
    llm = an_llm(server)
    theirs = llm.chat([ChatMessage("?")], logprobs=True, top_logprobs=20).logprobs
    assert theirs is not None and [one.token for one in theirs[0][:1]] == ["True"]
    assert len(theirs) == 1  # So the first token of two is gone, and so is what was sampled.
    measured = measure(LlamaIndexJudge(llm))
    assert measured.emitted == "False"
    assert measured.signal == "logprobs-emitted"  # The line break came without alternatives.
    assert numbers(measured) == numbers(by_chat_judge(server))


def test_trap_03_logprobs_without_alternatives_are_refused(wire: Wire) -> None:
    """An LLM told `logprobs=True` alone asks for 0 alternatives, whatever a call asks for."""
    server = wire(OK)
    with pytest.raises(ConfigError, match="top_logprobs=20"):
        LlamaIndexJudge(an_llm(server, logprobs=True))
    seven = wire(Answer(verdict(-0.1, -3.0, k=7)))
    judge = LlamaIndexJudge(an_llm(seven, logprobs=True, top_logprobs=7))
    assert sync(judge).signal == "logprobs"
    assert seven.requests[0].body["top_logprobs"] == 7


class ChatOnly(OpenAI):
    """Its `chat` and `achat` alone may be called: nothing else keeps the logprobs."""

    def complete(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("complete() loses the logprobs")

    acomplete = predict = apredict = stream_chat = astream_chat = complete
    stream_complete = astream_complete = stream = astream = complete


@both
def test_trap_04_only_chat_and_achat_are_called(wire: Wire, measure: Measure) -> None:
    """Whatever else an LLM offers returns no logprobs."""
    server = wire(OK)
    assert measure(LlamaIndexJudge(an_llm(server, ChatOnly))).signal == "logprobs"
    assert [request.path for request in server.requests] == ["/v1/chat/completions"]


@both
def test_trap_05_an_llm_built_for_long_answers(wire: Wire, measure: Measure) -> None:
    """An LLM's own `max_tokens` would beat that of the call; a long reply is read all the same."""
    words = [token(f" word{number}", -0.5, padded((" False", -0.1))) for number in range(40)]
    first = token("True", -0.2, padded(("True", -0.2), ("False", -2.0)))
    server = wire(Answer(chat(first, token(".", -0.1), *words)))
    llm = an_llm(server, max_tokens=256)
    measured = measure(LlamaIndexJudge(llm))
    assert abs(measured.p_true - 0.8581) < 1e-3
    assert server.requests[0].body["max_tokens"] == 8
    assert llm.max_tokens == 256


# ── As a chat judge ──────────────────────────────────────────────────────────────────────────────


def by_chat_judge(server: WireServer, **options: Any) -> Verdict:
    with Client(base_url=server.url, api_key=KEY) as client:
        return ChatJudge(client, model="gpt-4.1-mini", **options).judge(QUERY, timeout=5)


def numbers(measured: Verdict) -> Verdict:
    """All of a verdict but whose it is."""
    return replace(measured, fingerprint="")


@both
@pytest.mark.parametrize("kind", [OpenAI, OpenAILike])
@pytest.mark.parametrize(
    "body",
    [
        verdict(-0.2, -2.0),
        verdict(-3.0, -0.1),
        chat(token("True", -0.01, [("True", -0.01), ("False", -5.0)])),
        chat(token("**", -0.1, padded(("**", -0.1))), token("True", -0.1, padded(("True", -0.1)))),
        chat(
            content="True",
            logprobs={
                "tokens": ["True"],
                "token_logprobs": [-0.1],
                "top_logprobs": [{"True": -0.1, "False": -3.0}],
            },
        ),
    ],
    ids=["true", "false", "truncated", "wrapped", "legacy shape"],
)
def test_measures_as_the_chat_judge_does(
    wire: Wire, kind: type[OpenAI], body: Json, measure: Measure
) -> None:
    """The same reply gives the same verdict, and the same request brought it."""
    server = wire(Answer(body))
    measured = measure(LlamaIndexJudge(an_llm(server, kind)))
    assert numbers(measured) == numbers(by_chat_judge(server))
    ours, chats = server.requests
    assert {**ours.body, "stream": False} == {**chats.body, "stream": False}


def test_the_request(wire: Wire) -> None:
    """One user message, the prompt's text; logprobs with all alternatives, cold and short."""
    server = wire(OK)
    sync(LlamaIndexJudge(an_llm(server, temperature=0.9)))
    body = server.requests[0].body
    assert body["messages"] == [{"role": "user", "content": Prompt().render(QUERY).text}]
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
    assert (body["temperature"], body["max_tokens"]) == (0.0, 8)


def test_a_reasoning_model_is_asked_not_to_reason(wire: Wire) -> None:
    """The first guess of ChatJudge serves here too; the LLM's own effort would beat the call's."""
    server = wire(Answer(verdict(-0.1, -3.0, k=5)))
    llm = an_llm(server, model="gpt-5.4-mini", reasoning_effort="high", max_tokens=900)
    assert sync(LlamaIndexJudge(llm)).signal == "logprobs"
    body = server.requests[0].body
    assert (body["reasoning_effort"], body["top_logprobs"]) == ("none", 5)
    assert body["max_completion_tokens"] == 8 and "max_tokens" not in body
    assert (llm.reasoning_effort, llm.max_tokens) == ("high", 900)


def test_a_family_stands_for_a_name_that_does_not_tell(wire: Wire) -> None:
    """As for ChatJudge: a gateway's name for a reasoning model."""
    server = wire(Answer(verdict(-0.1, -3.0, k=5)))
    llm = an_llm(server, OpenAILike, model="our-judge")
    sync(LlamaIndexJudge(llm, model_family="gpt-5.4-mini"))
    [request] = server.requests
    assert request.body["reasoning_effort"] == "none" and request.body["top_logprobs"] == 5


@both
def test_what_an_endpoint_takes_is_learnt(wire: Wire, measure: Measure) -> None:
    """A refused number of alternatives is corrected once, and remembered."""

    def script(request: Request) -> Answer:
        if request.body["top_logprobs"] > 5:
            why = "top_logprobs must be less than or equal to 5"
            return Answer({"error": {"message": why}}, status=400)
        return Answer(verdict(-0.1, -3.0, k=5))

    server = wire(script)
    judge = LlamaIndexJudge(an_llm(server, OpenAILike, model="mine"))
    assert [measure(judge).signal for _ in range(2)] == ["logprobs"] * 2
    assert [request.body["top_logprobs"] for request in server.requests] == [20, 5, 5]


def test_additional_kwargs_are_kept_and_win(wire: Wire) -> None:
    """What the caller sets for the LLM goes into every request, and into the fingerprint."""
    server = wire(Answer(verdict(-0.1, -3.0, k=3)))
    own = {"top_logprobs": 3, "extra_body": {"top_k": 40}}
    judge = LlamaIndexJudge(an_llm(server, additional_kwargs=own))
    assert sync(judge).signal == "logprobs"  # 3 of 3: nothing was cut off.
    assert (server.requests[0].body["top_logprobs"], server.requests[0].body["top_k"]) == (3, 40)
    assert judge.fingerprint != LlamaIndexJudge(an_llm(server)).fingerprint


def test_callbacks_see_the_call(wire: Wire) -> None:
    """A judgement goes through LlamaIndex, so that its observers count it."""
    seen: list[int] = []

    class Counter(TokenCountingHandler):
        def on_event_end(self, event_type: CBEventType, *args: Any, **kwargs: Any) -> None:
            seen.append(event_type is CBEventType.LLM)

    manager = CallbackManager([Counter(tokenizer=str.split)])
    sync(LlamaIndexJudge(an_llm(wire(OK), callback_manager=manager)))
    assert seen == [True]


def test_fingerprints_tell_judges_apart(wire: Wire) -> None:
    """Equal judges share one; whatever moves a verdict changes it."""
    server = wire(OK)

    def made(llm: dict[str, Any] | None = None, **options: Any) -> str:
        return LlamaIndexJudge(an_llm(server, **(llm or {})), **options).fingerprint

    assert made() == made() == made({"max_retries": 9, "max_tokens": 99, "timeout": 1.0})
    assert re.fullmatch(r"llama-index-logprobs:gpt-4\.1-mini:[0-9a-f]{16}", made())
    others = [
        made({"model": "gpt-4.1"}),
        made({"logprobs": True, "top_logprobs": 5}),
        made({"additional_kwargs": {"seed": 1}}),
        made(min_mass=0.4),
        made(top_logprobs=5),
        made(prompt=Prompt(max_context_chars=10)),
        made(model_family="gpt-5.4-mini"),
    ]
    assert len({made(), *others}) == 8
    assert made({"additional_kwargs": {"metadata": object()}}) == made(
        {"additional_kwargs": {"metadata": object()}}
    )


# ── Faults ───────────────────────────────────────────────────────────────────────────────────────

FAULTS: dict[str, tuple[Script, type[JudgeError], str]] = {
    "no logprobs": (NO_LOGPROBS, Unmeasured, "no_logprobs"),
    "low mass": (Answer(chat(token("The", -0.1))), Unmeasured, "low_mass"),
    "refusal": (
        Answer(
            chat(message={"role": "assistant", "content": None, "refusal": "No."}, logprobs=None)
        ),
        Unmeasured,
        "refusal",
    ),
    "500": (BOOM, JudgeUnavailable, "unavailable"),
    "429": (Answer(BOOM.body, status=429), JudgeUnavailable, "rate_limited"),
    "401": (Answer(BOOM.body, status=401), JudgeRejected, "rejected"),
    "404": (Answer(BOOM.body, status=404), JudgeRejected, "rejected"),
    "echo": (
        lambda request: Answer({"error": f"{request.body} {request.headers}"}, status=400),
        JudgeRejected,
        "rejected",
    ),
    "reset": (Answer(OK.body, cut=40), JudgeUnavailable, "unavailable"),
    "cut off": (Answer(json.dumps(OK.body).encode()[:200]), Unmeasured, "malformed"),
    "HTML": (
        Answer(f"<p>{PASSAGE}".encode(), headers={"content-type": "text/html"}),
        Unmeasured,
        "malformed",
    ),
    "null": (Answer(None), Unmeasured, "malformed"),
    "a list": (Answer([1]), Unmeasured, "malformed"),
    "no UTF-8": (Answer(b'{"choices": "\xff"}'), Unmeasured, "malformed"),
    "deep nesting": (Answer(b"[" * 100_000), Unmeasured, "malformed"),
    "no choices": (Answer({"choices": []}), Unmeasured, "malformed"),
    "choices are null": (Answer({"choices": None}), Unmeasured, "malformed"),
    "an error inside 200": (Answer({"error": {"message": PASSAGE}}), Unmeasured, "malformed"),
    "NaN": (Answer(chat(token("True", float("nan")))), Unmeasured, "malformed"),
    "a text for a logprob": (Answer(chat(token("True", KEY))), Unmeasured, "malformed"),
}


@both
@pytest.mark.parametrize("fault", FAULTS)
def test_faults(wire: Wire, fault: str, measure: Measure) -> None:
    """Each fault of the endpoint has its kind, costs one request, and repeats no secret."""
    script, error, kind = FAULTS[fault]
    server = wire(script)
    with pytest.raises(error) as caught:
        measure(LlamaIndexJudge(an_llm(server)))
    assert caught.value.kind == kind
    assert "canary" not in f"{caught.value} {caught.value.hint} {caught.value!r}"
    assert len(server.requests) == 1


@both
def test_a_wrong_key_is_that_of_the_llm(wire: Wire, measure: Measure) -> None:
    """No variable and no file of ours holds it."""
    with pytest.raises(JudgeRejected) as caught:
        measure(LlamaIndexJudge(an_llm(wire(Answer(BOOM.body, status=401)))))
    assert "the LLM's own api_key" in str(caught.value.hint)
    assert "OPENAI_API_KEY" not in str(caught.value.hint)


def test_a_reply_that_hangs(wire: Wire) -> None:
    """Time-outs go with the call; the LLM's own 60 seconds do not count."""
    judge = LlamaIndexJudge(an_llm(wire(Answer(hang=True))))
    calls: list[Callable[[], Verdict]] = [
        lambda: judge.judge(QUERY, timeout=0.1),
        lambda: asyncio.run(judge.ajudge(QUERY, timeout=0.1)),
    ]
    for call in calls:
        started = time.monotonic()
        with pytest.raises(JudgeUnavailable) as caught:
            call()
        assert caught.value.kind == "timeout"
        assert time.monotonic() - started < 1


def test_nobody_there() -> None:
    """A refused connection is worth another try."""
    llm = OpenAILike(model="m", is_chat_model=True, api_base="http://127.0.0.1:1/v1", api_key=KEY)
    for measure in (sync, awaited):
        with pytest.raises(JudgeUnavailable, match=r"127\.0\.0\.1:1"):
            measure(LlamaIndexJudge(llm))


@both
def test_a_key_that_http_cannot_carry(wire: Wire, measure: Measure) -> None:
    """A typographic sign in the key is said, without the key."""
    server = wire(OK)
    llm = OpenAI(model="gpt-4.1-mini", api_base=server.url, api_key="canary–key")
    with pytest.raises(JudgeRejected, match="API key") as caught:
        measure(LlamaIndexJudge(llm))
    shown = "".join(traceback.format_exception(caught.value, limit=0))
    assert "canary–" not in shown and "canary\\u2013" not in shown
    assert server.requests == []


async def checked_and_closed(gate: Gate, llm: OpenAI) -> None:
    """One check on a loop that no connection of the caller's outlives."""
    await gate.acheck(QUERY.question, QUERY.contexts)
    if (client := getattr(llm, "_aclient", None)) is not None:
        await client.close()


def _private(llm: OpenAI, name: str) -> Any:
    return getattr(llm, name)  # LlamaIndex has no public way to its clients.


@pytest.mark.parametrize("used", ["fresh", "used", "given clients", "a client a call"])
@pytest.mark.parametrize("attempts", [1, 3])
def test_n_attempts_are_n_requests(wire: Wire, used: str, attempts: int) -> None:
    """LlamaIndex's own retries would make 12 of one; the caller's LLM keeps them for itself."""
    server = wire(BOOM)
    options: dict[str, Any] = {"reuse_client": used != "a client a call"}
    if used == "given clients":
        clients = (Client, "openai_client"), (AsyncOpenAI, "async_openai_client")
        options |= {name: kind(base_url=server.url, api_key=KEY) for kind, name in clients}
    llm = an_llm(server, **options)
    if used in ("used", "given clients"):
        for name in ("_get_client", "_get_aclient"):
            _private(llm, name)()
    before = llm.model_dump(), dict(llm.__pydantic_private__ or {})
    retry = Retry(attempts=attempts, first_wait=0.01, max_wait=0.02)
    gate = Gate(LlamaIndexJudge(llm), Policy(deadline=5), retry=retry)
    assert gate.check(QUERY.question, QUERY.contexts).reason == "unavailable"
    assert len(server.requests) == attempts
    asyncio.run(checked_and_closed(gate, llm))
    assert len(server.requests) == 2 * attempts
    assert (llm.model_dump(), dict(llm.__pydantic_private__ or {})) == before
    assert llm.max_retries == 3


def test_cancelling_closes_the_request(wire: Wire) -> None:
    """CancelledError reaches the caller, and the HTTP request ends."""
    server = wire(Answer(hang=True))
    gate = Gate(LlamaIndexJudge(an_llm(server)), Policy(on_unmeasured="answer", deadline=5))

    async def cancelled() -> float:
        task = asyncio.create_task(gate.acheck(QUERY.question, QUERY.contexts))
        while not server.requests:
            await asyncio.sleep(0.005)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - started

    assert asyncio.run(cancelled()) < 0.5
    assert server.requests[0].gone.wait(2)
    assert len(server.requests) == 1


def test_event_loops_come_and_go(wire: Wire) -> None:
    """Connections belong to the loop that they were opened on, and are closed with it."""
    server = wire(OK)
    judge = LlamaIndexJudge(an_llm(server))

    async def twice() -> list[float]:
        return [(await judge.ajudge(QUERY, timeout=5)).p_true for _ in range(2)]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len({value for _ in range(3) for value in asyncio.run(twice())}) == 1
        gc.collect()
    assert len(server.requests) == 6


def test_a_closed_judge_rejects(wire: Wire) -> None:
    """As every judge that can be closed."""
    server = wire(OK)
    judge = LlamaIndexJudge(an_llm(server))
    judge.close()
    for measure in (sync, awaited):
        with pytest.raises(JudgeRejected, match="closed"):
            measure(judge)
    assert server.requests == []


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Client | AsyncOpenAI]:
    """Every client that LlamaIndex opens."""
    clients: list[Client | AsyncOpenAI] = []

    def noting(kind: type[Any]) -> Callable[..., Any]:
        def make(**options: Any) -> Any:
            clients.append(kind(**options))
            return clients[-1]

        return make

    monkeypatch.setattr("llama_index.llms.openai.base.SyncOpenAI", noting(Client))
    monkeypatch.setattr("llama_index.llms.openai.base.AsyncOpenAI", noting(AsyncOpenAI))
    return clients


def test_closing_closes_what_the_judge_opened(
    wire: Wire, opened: list[Client | AsyncOpenAI]
) -> None:
    """The blocking client, and the one of each loop that still runs: the one we are on as well."""
    judge = LlamaIndexJudge(an_llm(wire(OK)))

    async def asked(close: bool) -> None:
        await judge.ajudge(QUERY, timeout=5)
        if close:
            await asyncio.to_thread(asyncio.run, asked(False))
            assert [client.is_closed() for client in opened] == [False, False, True]
            await judge.aclose()
            assert all(client.is_closed() for client in opened)

    sync(judge)
    asyncio.run(asked(True))
    assert len(opened) == 3
    judge.close()  # Once more, with all loops ended.


def test_closing_on_the_running_loop_does_not_wait(
    wire: Wire, opened: list[Client | AsyncOpenAI]
) -> None:
    """It would wait for itself."""
    judge = LlamaIndexJudge(an_llm(wire(OK)))

    async def closed() -> float:
        await judge.ajudge(QUERY, timeout=5)
        started = time.monotonic()
        judge.close()
        seconds = time.monotonic() - started
        await asyncio.sleep(0.05)
        assert opened[0].is_closed()
        return seconds

    assert asyncio.run(closed()) < 0.5


@pytest.mark.parametrize("given", ["used", "clients", "http clients"])
def test_closing_leaves_the_callers_clients_open(
    wire: Wire, opened: list[Client | AsyncOpenAI], given: str
) -> None:
    """Those that the LLM already had, whichever way it came by them."""
    server = wire(OK)
    https = (DefaultHttpxClient(), DefaultAsyncHttpxClient())
    clients = (
        Client(base_url=server.url, api_key=KEY),
        AsyncOpenAI(base_url=server.url, api_key=KEY),
    )
    options: dict[str, dict[str, Any]] = {
        "used": {},
        "clients": {"openai_client": clients[0], "async_openai_client": clients[1]},
        "http clients": {"http_client": https[0], "async_http_client": https[1]},
    }
    llm = an_llm(server, **options[given])
    if given == "used":
        for name in ("_get_client", "_get_aclient"):
            _private(llm, name)()
    judge = LlamaIndexJudge(llm)

    async def asked() -> None:
        await judge.ajudge(QUERY, timeout=5)
        await judge.aclose()
        assert not any(client.is_closed() for client in (*clients, *opened))
        assert not any(http.is_closed for http in https)
        for http in (clients[1], *(one for one in opened if isinstance(one, AsyncOpenAI))):
            await http.close()
        await https[1].aclose()

    sync(judge)
    asyncio.run(asked())
    assert not any(isinstance(one, Client) and one.is_closed() for one in (*clients, *opened))
    https[0].close()


def test_an_endpoint_without_logprobs_is_not_asked_again(wire: Wire) -> None:
    """Once is enough, for a while."""
    server = wire(NO_LOGPROBS)
    judge = LlamaIndexJudge(an_llm(server))
    for _ in range(3):
        with pytest.raises(Unmeasured) as caught:
            sync(judge)
        assert caught.value.kind == "no_logprobs"
    assert len(server.requests) == 1


# ── What can be a judge, and what cannot ─────────────────────────────────────────────────────────


# As llama-index-llms-groq has it; its package is not needed to see that.
Groq = type("Groq", (OpenAILike,), {"__module__": "llama_index.llms.groq.base"})


class Anthropic(MockLLM):
    """As llama-index-llms-anthropic names it."""

    __module__ = "llama_index.llms.anthropic.base"


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a text": (lambda: "gpt-4.1-mini", "str is not an LLM of LlamaIndex"),
    "an openai client": (lambda: Client(api_key=KEY), "OpenAI is not an LLM of LlamaIndex"),
    "a mock": (MockLLM, "MockLLM does not return logprobs"),
    "Anthropic": (lambda: Anthropic(max_tokens=1), "Anthropic does not return logprobs"),
    "Responses": (
        lambda: OpenAIResponses(model="gpt-4.1-mini", api_key=KEY),
        "OpenAIResponses does not return logprobs",
    ),
    "Groq": (
        lambda: Groq(model="m", api_key=KEY, is_chat_model=True),
        "Groq's endpoint refuses logprobs",
    ),
    "completions": (lambda: OpenAILike(model="m", api_key=KEY), "is_chat_model=False"),
    "an instruct model": (
        lambda: OpenAI(model="gpt-3.5-turbo-instruct", api_key=KEY),
        "is_chat_model=False",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_a_judge(case: str) -> None:
    """Said at construction, with the classes that can."""
    make, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message) as caught:
        LlamaIndexJudge(make())
    for name in ("llama_index.llms.openai.OpenAI", "AzureOpenAI", "OpenAILike(is_chat_model=True)"):
        assert name in str(caught.value.hint)
    assert "canary" not in str(caught.value)


def test_a_model_that_llama_index_does_not_know() -> None:
    """LlamaIndex would say so with a ValueError at the first query."""
    with pytest.raises(ConfigError, match="does not know its model 'qwen-3'") as caught:
        LlamaIndexJudge(OpenAI(model="qwen-3", api_key=KEY))
    assert "OpenAILike(is_chat_model=True)" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["top_k", "stream"])
def test_additional_kwargs_that_openai_does_not_take(wire: Wire, name: str) -> None:
    """The SDK would raise a TypeError at every query."""
    with pytest.raises(ConfigError, match=name) as caught:
        LlamaIndexJudge(an_llm(wire(OK), additional_kwargs={name: KEY}))
    assert "extra_body" in str(caught.value.hint) and KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("min_mass", 1.1), ("min_mass", "0.5"), ("top_logprobs", 0), ("top_logprobs", 21)],
)
def test_numbers_out_of_range(wire: Wire, name: str, value: object) -> None:
    """Said at construction as well."""
    options: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match=name):
        LlamaIndexJudge(an_llm(wire(OK)), **options)


class OwnLLM(CustomLLM):
    """A class of the user's own, around whatever answers."""

    raw: Any = None
    calls: list[dict[str, Any]] = []

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="own")

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        self.calls.append(kwargs)
        if isinstance(self.raw, Exception):
            raise self.raw
        return ChatResponse(message=ChatMessage("True"), raw=self.raw)

    def complete(self, *args: Any, **kwargs: Any) -> CompletionResponse:
        raise AssertionError("complete() is not for judges")

    def stream_complete(self, *args: Any, **kwargs: Any) -> CompletionResponseGen:
        raise AssertionError("stream_complete() is not for judges")


@both
def test_a_class_of_your_own(measure: Measure) -> None:
    """It is given OpenAI's parameters and nothing of a client's; `raw` may be a mapping."""
    llm = OwnLLM(raw=verdict(-0.2, -2.0), calls=[])
    judge = LlamaIndexJudge(llm)
    assert abs(measure(judge).p_true - 0.8581) < 1e-3
    assert judge.model == "own"
    asked = {"logprobs": True, "top_logprobs": 20, "temperature": 0.0, "max_tokens": 8}
    assert llm.calls == [asked]


@both
@pytest.mark.parametrize("raw", [None, chat(content="True", logprobs=None)])
def test_a_class_of_your_own_without_logprobs(measure: Measure, raw: object) -> None:
    """Accepted, since nobody can know; then said."""
    with pytest.raises(Unmeasured) as caught:
        measure(LlamaIndexJudge(OwnLLM(raw=raw)))
    assert caught.value.kind == "no_logprobs"


@both
@pytest.mark.parametrize("bug", [TypeError("a bug"), KeyError("a bug"), ZeroDivisionError("a bug")])
def test_a_bug_in_a_class_of_your_own_surfaces(measure: Measure, bug: Exception) -> None:
    """It is no trouble with the endpoint, and no policy may route by it."""
    with pytest.raises(type(bug), match="a bug"):
        measure(LlamaIndexJudge(OwnLLM(raw=bug)))


class Buggy(OpenAI):
    """A subclass whose own code is wrong."""

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        raise LookupError("a bug")


def test_a_bug_in_a_subclass_surfaces(wire: Wire) -> None:
    """What LlamaIndex's `chat` raises is about the reply; what the user's raises is not."""
    with pytest.raises(LookupError, match="a bug"):
        sync(LlamaIndexJudge(an_llm(wire(OK), Buggy)))


class Slow(OwnLLM):
    """Blocks, as CustomLLM's inherited `achat` does."""

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        time.sleep(0.3)
        return super().chat(messages, **kwargs)


def test_a_class_that_only_blocks_does_not_hold_up_the_loop() -> None:
    """It runs on a worker thread, which a cancelled check leaves behind."""
    judge = LlamaIndexJudge(Slow(raw=verdict(-0.1, -3.0)))

    async def cancelled() -> float:
        task = asyncio.create_task(judge.ajudge(QUERY, timeout=5))
        await asyncio.sleep(0.05)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - started

    with blockbuster_ctx():
        assert asyncio.run(cancelled()) < 0.1


def test_openai_llms_are_not_imported_for_it() -> None:
    """The package with OpenAI's LLMs may be absent: classes are told by their names."""
    program = (
        "import sys, guard_llama_index; assert guard_llama_index.LlamaIndexJudge; "
        "assert not [name for name in sys.modules if name.startswith('llama_index.llms.')]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# ── In a gate, around a query engine ─────────────────────────────────────────────────────────────


class FixedRetriever(BaseRetriever):
    """Retrieves the passage, whatever is asked."""

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [NodeWithScore(node=TextNode(text=PASSAGE, id_="bridge"), score=0.5)]


@pytest.mark.parametrize("mode", ["query", "aquery"])
@pytest.mark.parametrize(("true", "route"), [(-0.01, Route.ANSWER), (-6.0, Route.REFUSE)])
def test_one_llm_judges_and_answers(wire: Wire, mode: str, true: float, route: Route) -> None:
    """The application's own LLM serves both; without enough context it writes nothing."""

    def script(request: Request) -> Answer:
        judging = "logprobs" in request.body
        return Answer(verdict(true, -6.01 - true) if judging else chat(token("In 1932.", -0.1)))

    server = wire(script)
    llm = an_llm(server)
    retriever = cast("Any", FixedRetriever)()
    inner = RetrieverQueryEngine.from_args(retriever, llm=llm)
    engine = GuardedQueryEngine(inner, Gate(LlamaIndexJudge(llm), Policy()))

    async def asked() -> Any:
        try:
            return await engine.aquery(QUERY.question)
        finally:
            await _private(llm, "_get_aclient")().close()

    response: Any = engine.query(QUERY.question) if mode == "query" else asyncio.run(asked())
    assert response.metadata["guard"]["route"] == route
    assert response.metadata["guard"]["model"] == "wire-model"
    assert (str(response) == "In 1932.") is (route is Route.ANSWER)
    assert len(server.requests) == (2 if route is Route.ANSWER else 1)


# ── The contract of a judge ──────────────────────────────────────────────────────────────────────


class _OnLlamaIndex(JudgeConformance):
    timeout = 5.0
    kind: ClassVar[type[OpenAI]] = OpenAI
    answer: ClassVar[Answer] = OK

    @pytest.fixture(autouse=True)
    def _serve(self) -> Generator[None]:
        self.server = WireServer(self.answer)
        yield
        while shared_workers.abandoned:
            time.sleep(0.01)
        self.server.close()

    def make_judge(self) -> Judge:
        """On the loopback server."""
        return LlamaIndexJudge(an_llm(self.server, self.kind))

    def test_hardly_any_time_is_not_overrun(self) -> None:
        """As for every judge; what httpx leaves behind then is no concern of later tests."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            super().test_hardly_any_time_is_not_overrun()
            gc.collect()


class TestOpenAI(_OnLlamaIndex):
    """On LlamaIndex's OpenAI."""


class TestOpenAILike(_OnLlamaIndex):
    """On LlamaIndex's OpenAILike."""

    kind = OpenAILike


class TestNoLogprobs(_OnLlamaIndex):
    """On an endpoint that drops logprobs."""

    expected_kind = "no_logprobs"
    answer = NO_LOGPROBS


class TestRateLimited(_OnLlamaIndex):
    """On an endpoint that asks to come back later."""

    expected_kind = "rate_limited"
    answer = Answer(BOOM.body, status=429)


class TestNoCompletion(_OnLlamaIndex):
    """On an endpoint that LlamaIndex cannot read."""

    expected_kind = "malformed"
    answer = Answer({"choices": []})


class TestOwn(JudgeConformance):
    """On a class of the user's own that can only block."""

    def make_judge(self) -> Judge:
        """In process."""
        return LlamaIndexJudge(OwnLLM(raw=verdict(-0.1, -3.0)))
