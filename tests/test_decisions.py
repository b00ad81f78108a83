"""The decisions judge: what it sends to ``/decisions`` and what it makes of the answers."""

import asyncio
import importlib
import importlib.util
import json
import math
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import TypeAdapter
from wire import Answer, Json, Script, WireServer

from guard import (
    ConfigError,
    Gate,
    JudgeError,
    JudgeRejected,
    JudgeUnavailable,
    Labels,
    Policy,
    Query,
    Reason,
    Route,
    Thresholds,
    Unmeasured,
    Usage,
    Verdict,
)
from guard.judges import DecisionsJudge, close, from_name
from guard.judges.rated import NAMES
from guard.odds import logit
from guard.prompt import SUFFICIENT, UNDERSPECIFIED, Prompt

pytestmark = pytest.mark.wire

Wire = Callable[[Script], WireServer]
MakeJudge = Callable[..., DecisionsJudge]

KEY = "sk-canary-0123456789"
QUERY = Query.of("When did it open?", ["The bridge opened in 1932.", "It is red."])
SUFFICES, UNCLEAR = NAMES

# openai 2.x has no types of this endpoint; there the bodies are only built like theirs.
_TYPED = importlib.util.find_spec("openai.types.decision") is not None


def predicate(probability: Json, name: str | None = SUFFICES) -> dict[str, Json]:
    """One answered question."""
    return {"type": "predicate", "name": name, "probability": probability}


def refused(name: str | None = SUFFICES) -> dict[str, Json]:
    """One declined question."""
    return {"type": "refusal", "name": name}


def said(*answers: Json) -> dict[str, Json]:
    """A reply's body, sound or not."""
    usage = {
        "input_tokens": 210,
        "input_tokens_details": {"cached_tokens": 128, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 217,
    }
    return {"model": "gpt-6-luna-2026-10-01", "answers": list(answers), "usage": usage}


def reply(*answers: Json) -> Answer:
    """A reply as the SDK's own types have it."""
    body = said(*answers)
    if _TYPED:
        known: Any = importlib.import_module("openai.types.decision")
        assert known.Decision.model_validate(body).to_dict() == body
    return Answer(body)


def require_sendable(body: Json) -> None:
    """The SDK's own types know every field of a request, and its values."""
    if _TYPED:
        params: Any = importlib.import_module("openai.types.decision_create_params")
        read: Any = TypeAdapter(params.DecisionCreateParams).validate_python(body)
        assert {**read, "questions": list(read["questions"])} == body


@pytest.fixture
def wire(wire: Wire) -> Generator[Wire]:
    """Servers whose requests are checked against the SDK's types in the end."""
    servers: list[WireServer] = []

    def start(script: Script) -> WireServer:
        servers.append(wire(script))
        return servers[-1]

    yield start
    for request in (request for server in servers for request in server.requests):
        assert request.path == "/v1/decisions"
        require_sendable(request.body)


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest) -> Generator[MakeJudge]:
    """Makes judges on a server, once with a blocking client and once with an async one."""
    made: list[DecisionsJudge] = []

    def start(server: WireServer, *, model: str = "gpt-6-luna", **options: Any) -> DecisionsJudge:
        kind = OpenAI if request.param == "sync" else AsyncOpenAI
        client = kind(base_url=server.url, api_key=KEY)
        made.append(DecisionsJudge(client, model=model, close_clients=True, **options))
        return made[-1]

    yield start
    for judge in made:
        judge.close()


def measure(judge: DecisionsJudge, query: Query = QUERY) -> Verdict:
    """One verdict."""
    return judge.judge(query, timeout=5)


def require_discreet(error: JudgeError) -> None:
    """Neither key nor passage nor question is told."""
    for secret in (KEY, *QUERY.contexts, QUERY.question):
        assert secret not in str(error)


# ── What is measured ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("p", "low", "high"),
    [
        (0.93, 0.925, 0.935),
        (0.5, 0.495, 0.505),
        (0.0, 0.0, 0.005),
        (1.0, 0.995, 1.0),
        (0, 0.0, 0.005),
        (1, 0.995, 1.0),
        (0.01, 0.005, 0.015),
        (0.999, 0.9985, 0.9995),
        (0.123456, 0.1234555, 0.1234565),
        (0.12345678901, 0.12345678901, 0.12345678901),
    ],
)
def test_bounds_are_as_wide_as_the_rounding(
    wire: Wire, make: MakeJudge, p: float, low: float, high: float
) -> None:
    """Half a unit of the last decimal, never finer than two of them, and inside [0, 1]."""
    verdict = measure(make(wire(reply(predicate(p)))))
    assert verdict.p_true == p
    assert [verdict.low, verdict.high] == pytest.approx([low, high])
    assert 0 <= verdict.low <= verdict.high <= 1


def test_the_verdict(wire: Wire, make: MakeJudge) -> None:
    """Everything else about it, sync and async alike."""
    judge = make(wire(reply(predicate(0.93))))
    verdict = measure(judge)
    assert verdict == asyncio.run(judge.ajudge(QUERY, timeout=5))
    assert (verdict.mass, verdict.emitted, verdict.signal) == (1.0, None, "predicate")
    assert verdict.fingerprint == judge.fingerprint
    assert verdict.model == "gpt-6-luna-2026-10-01"
    assert (verdict.coverage, verdict.p_underspecified) == (1.0, None)


def test_usage_counts_what_was_cached(wire: Wire, make: MakeJudge) -> None:
    """Tokens as the endpoint counts them, in one request."""
    verdict = measure(make(wire(reply(predicate(0.93)))))
    assert verdict.usage == Usage(210, 7, 128, requests=1)


@pytest.mark.parametrize("usage", [None, {}, [], 7, {"input_tokens": "many"}])
def test_usage_may_be_missing(wire: Wire, make: MakeJudge, usage: Json) -> None:
    """What cannot be read is unknown; the verdict stands."""
    body = {**said(predicate(0.93)), "usage": usage}
    assert measure(make(wire(Answer(body)))).usage is None


@pytest.mark.parametrize("model", [None, 4, "x" * 201, QUERY.contexts[0]])
def test_a_model_name_that_is_none_is_not_recorded(
    wire: Wire, make: MakeJudge, model: Json
) -> None:
    """An endpoint could put a passage there."""
    body = {**said(predicate(0.93)), "model": model}
    assert measure(make(wire(Answer(body)))).model is None


# ── What is sent ─────────────────────────────────────────────────────────────────────────────────


def test_the_request(wire: Wire, make: MakeJudge) -> None:
    """Delimited passages and question, one predicate, and nothing that this endpoint lacks."""
    server = wire(reply(predicate(0.93)))
    judge = make(server)
    measure(judge)
    (request,) = server.requests
    assert set(request.body) == {"model", "input", "questions"}
    assert request.body["model"] == "gpt-6-luna"
    assert request.body["questions"] == [
        {"type": "predicate", "name": SUFFICES, "instructions": SUFFICIENT}
    ]
    mark, text = judge.render(QUERY).mark, request.body["input"]
    for name, part in (
        ("passage 1", QUERY.contexts[0]),
        ("passage 2", QUERY.contexts[1]),
        ("question", QUERY.question),
    ):
        assert f"[{mark} {name} begins]\n{part}\n[{mark} {name} ends]" in text
    assert "True" not in text and "{" not in text


def test_a_statement_of_ones_own(wire: Wire, make: MakeJudge) -> None:
    """It stands in the predicate; the evidence stays as it is."""
    server = wire(reply(predicate(0.93)))
    measure(make(server, statement="The passages tell the year."))
    measure(make(server))
    mine, ours = (request.body for request in server.requests)
    assert mine["questions"][0]["instructions"] == "The passages tell the year."
    assert mine["input"] == ours["input"]


def test_packing(wire: Wire, make: MakeJudge) -> None:
    """Whole passages while they fit; the verdict tells the share."""
    server = wire(reply(predicate(0.93)))
    query = Query.of("When?", ["a" * 30, "b" * 50, "c" * 20])
    judge = make(server, prompt=Prompt(max_context_chars=50))
    assert measure(judge, query).coverage == 0.5
    (request,) = server.requests
    assert "a" * 30 in request.body["input"] and "c" * 20 in request.body["input"]
    assert "bb" not in request.body["input"]


def test_no_passage_fits(wire: Wire, make: MakeJudge) -> None:
    """Then nothing is sent at all."""
    server = wire(reply(predicate(0.93)))
    with pytest.raises(Unmeasured) as caught:
        measure(make(server, prompt=Prompt(max_context_chars=3)))
    assert caught.value.kind == "context_too_long"
    assert not server.requests


def test_by_name(wire: Wire) -> None:
    """The same judge from a name, with both questions if asked."""
    server = wire(reply(predicate(0.93), predicate(0.2, UNCLEAR)))
    judge = from_name(
        "decisions:gpt-6-luna", base_url=server.url, api_key=KEY, ask_underspecified=True
    )
    assert judge.judge(QUERY, timeout=5).p_underspecified == 0.2
    close(judge)


# ── Two questions ────────────────────────────────────────────────────────────────────────────────


def test_both_questions_in_one_request(wire: Wire, make: MakeJudge) -> None:
    """The second probability stands beside the first, and does not touch it."""
    server = wire(reply(predicate(0.6), predicate(0.9, UNCLEAR)))
    verdict = measure(make(server, ask_underspecified=True))
    assert (verdict.p_true, verdict.p_underspecified) == (0.6, 0.9)
    (request,) = server.requests
    assert request.body["questions"] == [
        {"type": "predicate", "name": SUFFICES, "instructions": SUFFICIENT},
        {"type": "predicate", "name": UNCLEAR, "instructions": UNDERSPECIFIED},
    ]


@pytest.mark.parametrize("unclear", [0.1, 0.9])
def test_the_decision_tells_an_underspecified_question(
    wire: Wire, make: MakeJudge, unclear: float
) -> None:
    """In the record always, in words where the user is asked and it is likely."""
    server = wire(reply(predicate(0.6), predicate(unclear, UNCLEAR)))
    policy = Policy(thresholds=Thresholds(answer_at=0.85, refuse_below=0.3))
    decision = Gate(make(server, ask_underspecified=True), policy).check(
        QUERY.question, QUERY.contexts
    )
    assert decision.route is Route.CLARIFY
    assert ("under-specified (P = 0.90)" in decision.detail) == (unclear == 0.9)
    assert decision.to_dict()["p_underspecified"] == unclear


@pytest.mark.parametrize("name", [SUFFICES, None])
def test_trap_23_a_refusal_is_no_verdict(wire: Wire, make: MakeJudge, name: str | None) -> None:
    """Not p = 0, however the refusal is named, and whatever the other question got."""
    alone = make(wire(reply(refused(name))))
    beside = make(wire(reply(refused(name), predicate(0.9, UNCLEAR))), ask_underspecified=True)
    for judge in (alone, beside):
        with pytest.raises(Unmeasured) as caught:
            measure(judge)
        assert caught.value.kind == "refusal"
    decision = Gate(alone).check(QUERY.question, QUERY.contexts)
    assert (decision.reason, decision.probability) == (Reason.REFUSAL, None)


@pytest.mark.parametrize("name", [UNCLEAR, None])
def test_trap_23_a_refusal_of_the_second_leaves_the_first(
    wire: Wire, make: MakeJudge, name: str | None
) -> None:
    """The verdict stands; the second probability is unknown."""
    verdict = measure(make(wire(reply(predicate(0.93), refused(name))), ask_underspecified=True))
    assert (verdict.p_true, verdict.p_underspecified) == (0.93, None)


def test_trap_23_answers_without_names(wire: Wire, make: MakeJudge) -> None:
    """They come in the order of the questions."""
    server = wire(reply(predicate(0.93, None), predicate(0.2, None)))
    verdict = measure(make(server, ask_underspecified=True))
    assert (verdict.p_true, verdict.p_underspecified) == (0.93, 0.2)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_trap_23_certainty_survives_the_logit(wire: Wire, make: MakeJudge, p: float) -> None:
    """Two decimals make exactly 0 and 1 common; their log-odds are finite."""
    verdict = measure(make(wire(reply(predicate(p)))))
    assert verdict.p_true == p
    assert all(math.isfinite(logit(one)) for one in (verdict.low, verdict.p_true, verdict.high))


# ── What is no answer ────────────────────────────────────────────────────────────────────────────

BROKEN: dict[str, Json] = {
    "no answers": said(),
    "two answers to one question": said(predicate(0.9), predicate(0.9, UNCLEAR)),
    "answers are missing": {"model": "m"},
    "answers are null": {"model": "m", "answers": None},
    "answers are a map": {"model": "m", "answers": {SUFFICES: predicate(0.9)}},
    "an answer is null": said(None),
    "an answer is a number": said(0.9),
    "another type": said({"type": "score", "name": SUFFICES, "score": 0.9, "confidence": 0.9}),
    "no type": said({"name": SUFFICES, "probability": 0.9}),
    "another name": said(predicate(0.9, UNCLEAR)),
    "another name's refusal": said(refused(UNCLEAR)),
    "a name that is a list": said({**predicate(0.9), "name": [SUFFICES]}),
    "no probability": said({"type": "predicate", "name": SUFFICES}),
    "null": said(predicate(None)),
    "true": said(predicate(True)),
    "false": said(predicate(False)),
    "text": said(predicate("0.5")),
    "NaN": said(predicate(math.nan)),
    "infinity": said(predicate(math.inf)),
    "above 1": said(predicate(2.0)),
    "a little above 1": said(predicate(1.001)),
    "below 0": said(predicate(-0.01)),
    "a whole number of 400 digits": said(predicate(10**400)),
    "no object": [predicate(0.9)],
    "a bare number": 0.9,
    "null as a whole": None,
    "an empty object": {},
    "an error inside 200": {"error": {"code": 502, "message": QUERY.contexts[0]}},
    "no JSON": b"<html>Log in</html>",
    "cut off": json.dumps(said(predicate(0.9))).encode()[:60],
    "nothing": b"",
    "no UTF-8": b'{"model": "\xff"}',
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_breaks_the_protocol_is_malformed(wire: Wire, make: MakeJudge, case: str) -> None:
    """No number is guessed."""
    with pytest.raises(Unmeasured) as caught:
        measure(make(wire(Answer(BROKEN[case]))))
    assert caught.value.kind == "malformed", caught.value
    require_discreet(caught.value)


@pytest.mark.parametrize("second", [predicate(2.0, UNCLEAR), predicate(0.9), refused(), None])
def test_a_broken_second_answer_is_malformed(wire: Wire, make: MakeJudge, second: Json) -> None:
    """Who breaks the protocol in one answer is not believed in the other."""
    with pytest.raises(Unmeasured) as caught:
        measure(make(wire(Answer(said(predicate(0.9), second))), ask_underspecified=True))
    assert caught.value.kind == "malformed"


def test_text_that_is_not_called_json_is_malformed(wire: Wire, make: MakeJudge) -> None:
    """A page of a proxy's, whatever it says."""
    page = Answer(b"<html>Log in</html>", headers={"content-type": "text/html"})
    with pytest.raises(Unmeasured, match="reply is not JSON") as caught:
        measure(make(wire(page)))
    assert caught.value.kind == "malformed"


def test_an_error_inside_200_is_told_as_such(wire: Wire, make: MakeJudge) -> None:
    """OpenRouter reports so what the provider behind it did; it is no wrong number of answers."""
    body = {**said(predicate(0.9)), "error": {"code": 502, "message": QUERY.contexts[0]}}
    with pytest.raises(Unmeasured, match="error inside HTTP 200") as caught:
        measure(make(wire(Answer(body))))
    require_discreet(caught.value)


# ── Errors ───────────────────────────────────────────────────────────────────────────────────────


def failing(status: int, code: str | None = None, **headers: str) -> Answer:
    """An error that repeats the key and a passage, as some servers do."""
    told = f"Bad key {KEY} for {QUERY.contexts[0]} and {QUERY.question}"
    error = {"message": told, "type": "some_error", "code": code, "param": None}
    return Answer({"error": error}, status=status, headers=headers)


ERRORS: list[tuple[Answer, type[JudgeError], str, str]] = [
    (failing(400), JudgeRejected, "rejected", "HTTP 400"),
    (failing(400, "content_filter"), Unmeasured, "content_filter", "content_filter"),
    (failing(400, "context_length_exceeded"), Unmeasured, "context_too_long", "max_context_chars"),
    (failing(401, "invalid_api_key"), JudgeRejected, "rejected", "invalid_api_key"),
    (failing(403), JudgeRejected, "rejected", "may not use this model"),
    (failing(404, "model_not_found"), JudgeRejected, "rejected", "openai:MODEL"),
    (failing(405), JudgeRejected, "rejected", "openai:MODEL"),
    (failing(422), JudgeRejected, "rejected", "HTTP 422"),
    (failing(429), JudgeUnavailable, "rate_limited", "HTTP 429"),
    (failing(429, "insufficient_quota"), JudgeRejected, "rejected", "quota is spent"),
    (failing(500), JudgeUnavailable, "unavailable", "HTTP 500"),
    (failing(501), JudgeRejected, "rejected", "openai:MODEL"),
    (failing(503), JudgeUnavailable, "unavailable", "HTTP 503"),
]


@pytest.mark.parametrize(
    ("answer", "error", "kind", "told"), ERRORS, ids=[f"{one[0].status}-{one[2]}" for one in ERRORS]
)
def test_errors(
    wire: Wire, make: MakeJudge, answer: Answer, error: type[JudgeError], kind: str, told: str
) -> None:
    """The right class and kind, one request each, and nothing repeated of what was sent."""
    server = wire(answer)
    with pytest.raises(error) as caught:
        measure(make(server))
    assert type(caught.value) is error
    assert (caught.value.kind, caught.value.status) == (kind, answer.status)
    assert told in str(caught.value)
    require_discreet(caught.value)
    assert len(server.requests) == 1


def test_retry_after_is_read(wire: Wire, make: MakeJudge) -> None:
    """Seconds that the endpoint asks to wait."""
    with pytest.raises(JudgeUnavailable, match="asks to wait 7 s") as caught:
        measure(make(wire(failing(429, **{"retry-after": "7"}))))
    assert caught.value.retry_after == 7.0


def test_a_hang_ends_in_time(wire: Wire, make: MakeJudge) -> None:
    """With the time-out's own kind."""
    with pytest.raises(JudgeUnavailable) as caught:
        make(wire(Answer(hang=True))).judge(QUERY, timeout=0.2)
    assert caught.value.kind == "timeout"


def test_a_closed_judge_rejects(wire: Wire, make: MakeJudge) -> None:
    """And sends nothing."""
    server = wire(reply(predicate(0.93)))
    judge = make(server)
    judge.close()
    with pytest.raises(JudgeRejected, match="closed"):
        measure(judge)
    assert not server.requests


# ── Configuration ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": Prompt(template="{context_str} {query_str} True False?")},
        {"prompt": Prompt(labels=Labels("Yes", "No"))},
        {"statement": ""},
        {"statement": " \n"},
        {"statement": None},
        {"model": " "},
        {"model": None},
    ],
    ids=["template", "labels", "empty", "blank", "no text", "blank model", "no model"],
)
def test_what_cannot_be_asked_is_refused(wire: Wire, make: MakeJudge, options: Any) -> None:
    """At construction, with a hint."""
    with pytest.raises(ConfigError) as caught:
        make(wire(reply()), **options)
    assert caught.value.hint


@pytest.mark.parametrize("client", [None, "openai", object(), OpenAI])
def test_what_is_no_client_is_refused(client: Any) -> None:
    """At construction as well."""
    with pytest.raises(ConfigError, match="client"):
        DecisionsJudge(client, model="gpt-6-luna")


def test_fingerprints_cover_what_verdicts_depend_on(wire: Wire, make: MakeJudge) -> None:
    """Model, statement, questions and packing; not the address, nor the key."""
    base = make(wire(reply())).fingerprint
    assert base == make(wire(reply()), statement=SUFFICIENT, ask_underspecified=False).fingerprint
    assert base.startswith("decision-predicate:gpt-6-luna:") and KEY not in base
    server, prompt = wire(reply()), Prompt()
    changed = [
        make(server, model="gpt-7"),
        make(server, statement="The passages tell the year."),
        make(server, ask_underspecified=True),
        make(server, prompt=replace(prompt, max_context_chars=100)),
        make(server, prompt=replace(prompt, secret="mine")),
    ]
    assert len({base, *(judge.fingerprint for judge in changed)}) == 6
