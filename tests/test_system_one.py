"""The System One judge: against jevcompat's server with every fault, and on replayed replies."""

import asyncio
import importlib
import math
import os
from collections.abc import Callable, Generator
from types import SimpleNamespace
from typing import Any

import pytest
from local_model import weights
from openai import AsyncOpenAI, OpenAI
from wire import Answer, Json, Request, Script, WireServer

from guard import (
    ConfigError,
    Gate,
    JudgeError,
    JudgeRejected,
    JudgeUnavailable,
    Query,
    Reason,
    Retry,
    Unmeasured,
    Usage,
    Verdict,
)
from guard.judges import SystemOneJudge, close, from_name
from guard.judges.gguf import load_server
from guard.judges.rated import NAMES
from guard.prompt import SUFFICIENT, UNDERSPECIFIED, Prompt

pytestmark = pytest.mark.wire

mock: Any = importlib.import_module("jevcompat.mock")  # It ships no types.

Wire = Callable[[Script], WireServer]
MakeJudge = Callable[..., SystemOneJudge]

KEY = "sk-canary-0123456789"
QUERY = Query.of("When did it open?", ["The bridge opened in 1932.", "It is red."])
SUFFICES, UNCLEAR = NAMES


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest) -> Generator[MakeJudge]:
    """Makes judges at an address, once with a blocking client and once with an async one."""
    made: list[SystemOneJudge] = []

    def start(
        url: str,
        *,
        model: str = "jev-latest",
        key: str = KEY,
        judge: type[SystemOneJudge] = SystemOneJudge,
        **options: Any,
    ) -> SystemOneJudge:
        kind = OpenAI if request.param == "sync" else AsyncOpenAI
        client = kind(base_url=url, api_key=key)
        made.append(judge(client, model=model, close_clients=True, **options))
        return made[-1]

    yield start
    for one in made:
        one.close()


def measure(judge: SystemOneJudge) -> Verdict:
    """One verdict."""
    return judge.judge(QUERY, timeout=5)


def outcome(judge: SystemOneJudge) -> str | None:
    """``None`` if a verdict comes, else the kind of the error, which tells no secret."""
    try:
        measure(judge)
    except JudgeError as error:
        for secret in (KEY, *QUERY.contexts, QUERY.question):
            assert secret not in str(error)
        return error.kind
    return None


# ── jevcompat's server ───────────────────────────────────────────────────────────────────────────


class Jev:
    """The reference server; its faults, key and busyness change from test to test."""

    def __init__(self, config: Any, address: str) -> None:
        self.config = config
        self.url = f"{address}/v1"

    def behave(self, *faults: str, key: str | None = None, busy_every: int = 0) -> None:
        """From now on, with no request counted yet."""
        self.config.faults, self.config.key = frozenset(faults), key
        self.config.busy_every, self.config.requests = busy_every, 0


@pytest.fixture(scope="module")
def jev_server() -> Generator[Jev]:
    """One for all tests: stopping one takes half a second."""
    config = mock.MockConfig()
    with mock.Running(config) as running:
        yield Jev(config, running.url)


@pytest.fixture
def jev(jev_server: Jev) -> Jev:
    """Without faults until told otherwise."""
    jev_server.behave()
    return jev_server


def expected(judge: SystemOneJudge) -> dict[str, float]:
    """What the reference server's fake model says, by id."""
    statements: dict[str, str] = {SUFFICES: SUFFICIENT, UNCLEAR: UNDERSPECIFIED}
    body = judge.request(judge.render(QUERY).text, statements)
    answers = mock.respond(mock.MockConfig(), body)["answers"]
    return {name: answer["noul"] for name, answer in answers.items()}


def test_the_reference_server(jev: Jev, make: MakeJudge) -> None:
    """Both questions come back with the model's own numbers, sync and async alike."""
    judge = make(jev.url, ask_underspecified=True)
    verdict = measure(judge)
    assert verdict == asyncio.run(judge.ajudge(QUERY, timeout=5))
    numbers = expected(judge)
    assert verdict.p_true == verdict.low == verdict.high == numbers[SUFFICES]
    assert verdict.p_underspecified == numbers[UNCLEAR]
    assert (verdict.mass, verdict.emitted, verdict.signal) == (1.0, None, "noul")
    assert verdict.model == "jevcompat-mock-0.1"
    assert verdict.usage is not None and verdict.usage.output_tokens == 4
    assert verdict.fingerprint == judge.fingerprint


MEASURED = None

# What becomes of both questions in one request, without a key at the server.
FAULTS: dict[str, str | None] = {
    # The reply cannot be read, or is not the one that was asked for.
    "wrong-route": "rejected",
    "xssi-200": "malformed",
    # JSON all the same.
    "plain-content-type": MEASURED,
    "reject-jev-latest": "rejected",
    "first-question-only": "malformed",
    "extra-answer": "malformed",
    "boolean-type": "malformed",
    "noul-range": "malformed",
    "auth-rejects-header": "rejected",
    # Broken, but not where the verdict stands.
    "nan": MEASURED,
    "no-usage": MEASURED,
    "float-usage": MEASURED,
    "unprefixed-extra": MEASURED,
    # About requests that this judge does not send.
    "models-404": MEASURED,
    "reject-array-state": MEASURED,
    "strict-ids": MEASURED,
    "forbid-extra": MEASURED,
    "string-only-text": MEASURED,
    "noul-two-sided": MEASURED,
    "noul-needs-instructions": MEASURED,
    "accept-boolean": MEASURED,
    "500-on-unknown-type": MEASURED,
    # About choices and scores.
    "nfd-keys": MEASURED,
    "no-null-description": MEASURED,
    "cap-64": MEASURED,
    "cap-5-levels": MEASURED,
    "accept-map-score": MEASURED,
    "choice-no-confidence": MEASURED,
    "choice-key-case": MEASURED,
    "choice-sum": MEASURED,
    "choice-second": MEASURED,
    "score-no-legend": MEASURED,
    "legend-1-based": MEASURED,
    "score-keys-1-based": MEASURED,
    "score-sum": MEASURED,
    "score-argmax": MEASURED,
    "confidence-over": MEASURED,
    "confidence-margin": MEASURED,
    # About error bodies, which a sound request does not meet.
    "text-errors": MEASURED,
    "auth-x-api-key": MEASURED,
    "auth-plain": MEASURED,
    "auth-invalid-403-text": MEASURED,
    "validation-400": MEASURED,
    "error-flat": MEASURED,
    # A model that should not look at these things; nobody can tell from one reply.
    "id-leaks": MEASURED,
    "batch-leaks": MEASURED,
    "order-leaks": MEASURED,
}
ONE_QUESTION = FAULTS | {"first-question-only": MEASURED}
WITH_THE_KEY = FAULTS | {"auth-rejects-header": MEASURED, "auth-x-api-key": "rejected"}
LEAKS = {"id-leaks", "batch-leaks", "order-leaks"}


def test_the_table_is_complete() -> None:
    """Every fault that jevcompat knows."""
    assert set(FAULTS) == set(mock.FAULTS)


@pytest.mark.parametrize("fault", mock.FAULTS)
def test_every_fault(jev: Jev, make: MakeJudge, fault: str) -> None:
    """Measured as on the sound server, or the stated kind: never another number."""
    jev.behave(fault)
    both, one = make(jev.url, ask_underspecified=True), make(jev.url)
    assert (outcome(both), outcome(one)) == (FAULTS[fault], ONE_QUESTION[fault])
    if FAULTS[fault] is MEASURED and fault not in LEAKS:
        verdict, numbers = measure(both), expected(both)
        assert (verdict.p_true, verdict.p_underspecified) == (numbers[SUFFICES], numbers[UNCLEAR])
        assert measure(one).p_true == verdict.p_true


@pytest.mark.parametrize("fault", mock.FAULTS)
def test_every_fault_behind_a_key(jev: Jev, make: MakeJudge, fault: str) -> None:
    """The right key changes nothing but what is said of keys; a wrong one is always rejected."""
    jev.behave(fault, key=KEY)
    assert outcome(make(jev.url, ask_underspecified=True)) == WITH_THE_KEY[fault]
    assert outcome(make(jev.url, key="another")) == "rejected"


@pytest.mark.parametrize("fault", mock.FAULTS)
def test_every_fault_and_an_unknown_model(jev: Jev, make: MakeJudge, fault: str) -> None:
    """Whatever the shape of the error, it is one that no second try mends."""
    jev.behave(fault)
    with pytest.raises(JudgeRejected):
        measure(make(jev.url, model="no-such-model"))


class _NoQuestions(SystemOneJudge):
    """Sends what the server's validation turns down."""

    def request(self, evidence: str, statements: Any) -> dict[str, object]:
        return {**super().request(evidence, statements), "questions": {}}


class _OldType(SystemOneJudge):
    """Asks for a type that the server may not know."""

    def request(self, evidence: str, statements: Any) -> dict[str, object]:
        questions = {name: {"type": "boolean"} for name in statements}
        return {**super().request(evidence, statements), "questions": questions}


@pytest.mark.parametrize("fault", ["", "text-errors", "validation-400"])
def test_a_request_that_does_not_validate(jev: Jev, make: MakeJudge, fault: str) -> None:
    """FastAPI's 422 with a list, plain text, and a flat 400: all rejected."""
    jev.behave(*filter(None, [fault]))
    with pytest.raises(JudgeRejected) as caught:
        measure(make(jev.url, judge=_NoQuestions))
    assert caught.value.status == (400 if fault == "validation-400" else 422)


@pytest.mark.parametrize(
    ("fault", "kind"), [("500-on-unknown-type", "unavailable"), ("accept-boolean", None)]
)
def test_a_type_that_the_server_may_not_know(
    jev: Jev, make: MakeJudge, fault: str, kind: str | None
) -> None:
    """A crash over there is worth another try; a server that knows the old name answers nouls."""
    assert outcome(make(jev.url, judge=_OldType)) == "rejected"
    jev.behave(fault)
    assert outcome(make(jev.url, judge=_OldType)) == kind


def test_float_usage_is_no_number_of_tokens(jev: Jev, make: MakeJudge) -> None:
    """Unknown then, as without any."""
    for fault in ("float-usage", "no-usage"):
        jev.behave(fault)
        assert measure(make(jev.url)).usage is None


@pytest.mark.parametrize(
    ("busy_every", "measured", "requests"), [(0, True, 1), (2, True, 2), (1, False, 3)]
)
def test_a_busy_server(
    jev: Jev, make: MakeJudge, busy_every: int, measured: bool, requests: int
) -> None:
    """One decision; a 429 with Retry-After is tried again, and no more often than allowed."""
    jev.behave(key=KEY, busy_every=busy_every)
    jev.config.requests = 1  # The next one is the second.
    gate = Gate(make(jev.url, model="mock"), retry=Retry(attempts=3, first_wait=0.0))
    decision = gate.check(QUERY.question, QUERY.contexts)
    assert decision.measured == measured
    assert measured or decision.reason is Reason.RATE_LIMITED
    assert jev.config.requests - 1 == requests


# ── Replayed replies ─────────────────────────────────────────────────────────────────────────────


def noul(value: Json) -> dict[str, Json]:
    """One answer."""
    return {"type": "noul", "noul": value}


def said(**answers: Json) -> dict[str, Json]:
    """A reply's body with these answers by id."""
    usage = {"input_tokens": 210, "output_tokens": 2}
    return {"model": "jev-1.13.0", "answers": answers, "usage": usage}


OK = Answer(said(has_sufficient_context=noul(0.83)))


def test_the_request(wire: Wire, make: MakeJudge) -> None:
    """Delimited passages and question, the statements by id, and nothing more."""
    server = wire(Answer(said(has_sufficient_context=noul(0.83), is_underspecified=noul(0.2))))
    judge = make(server.url, ask_underspecified=True)
    assert measure(judge).p_underspecified == 0.2
    (request,) = server.requests
    assert request.path == "/v1/systemone"
    assert request.body == {
        "model": "jev-latest",
        "state": judge.render(QUERY).text,
        "questions": {
            "has_sufficient_context": {"type": "noul", "instructions": SUFFICIENT},
            "is_underspecified": {"type": "noul", "instructions": UNDERSPECIFIED},
        },
    }
    for text in (*QUERY.contexts, QUERY.question):
        assert f"begins]\n{text}\n[" in request.body["state"]


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        (0.8999999761581421, 0.895, 0.905),  # 0.9 in 32 bits.
        (0.83, 0.825, 0.835),
        (0.0, 0.0, 0.005),
        (1, 0.995, 1.0),
        (0.8432917423, 0.8432917423, 0.8432917423),
    ],
)
def test_bounds(wire: Wire, make: MakeJudge, value: float, low: float, high: float) -> None:
    """As wide as the rounding, seen through the noise of 32-bit numbers."""
    verdict = measure(make(wire(Answer(said(has_sufficient_context=noul(value)))).url))
    assert verdict.p_true == value
    assert [verdict.low, verdict.high] == pytest.approx([low, high], abs=1e-7)


def test_trap_24_question_ids_round_trip(wire: Wire, make: MakeJudge) -> None:
    """Answers are found by id, in whatever order they come."""
    values = {SUFFICIENT: 0.83, UNDERSPECIFIED: 0.21}

    def backwards(request: Request) -> Answer:
        questions = reversed(request.body["questions"].items())
        return Answer(said(**{name: noul(values[one["instructions"]]) for name, one in questions}))

    verdict = measure(make(wire(backwards).url, ask_underspecified=True))
    assert (verdict.p_true, verdict.p_underspecified) == (0.83, 0.21)


BROKEN: dict[str, Json] = {
    "no answers": said(),
    "answers are missing": {"model": "jev-1.13.0"},
    "answers are a list": {"answers": [noul(0.83)]},
    "another id": said(sufficient=noul(0.83)),
    "an id in capitals": said(HAS_SUFFICIENT_CONTEXT=noul(0.83)),
    "an extra id": said(has_sufficient_context=noul(0.83), more=noul(0.5)),
    "an answer that was not asked for": said(
        has_sufficient_context=noul(0.83), is_underspecified=noul(0.2)
    ),
    "null": said(has_sufficient_context=None),
    "a bare number": said(has_sufficient_context=0.83),
    "no type": said(has_sufficient_context={"noul": 0.83}),
    "a score": said(has_sufficient_context={"type": "score", "score": 0.83, "noul": 0.83}),
    "no noul": said(has_sufficient_context={"type": "noul"}),
    "noul null": said(has_sufficient_context=noul(None)),
    "noul true": said(has_sufficient_context=noul(True)),
    "noul false": said(has_sufficient_context=noul(False)),
    "noul text": said(has_sufficient_context=noul("0.83")),
    "noul NaN": said(has_sufficient_context=noul(math.nan)),
    "noul above 1": said(has_sufficient_context=noul(1.2)),
    "noul in percent": said(has_sufficient_context=noul(83)),
    "noul below 0": said(has_sufficient_context=noul(-0.1)),
    "an error inside 200": {"error": {"code": 502, "message": QUERY.contexts[0]}},
    "a list": [noul(0.83)],
    "nothing": b"",
}


@pytest.mark.parametrize("case", BROKEN)
def test_trap_24_what_breaks_the_protocol_is_malformed(
    wire: Wire, make: MakeJudge, case: str
) -> None:
    """No number is guessed."""
    assert outcome(make(wire(Answer(BROKEN[case])).url)) == "malformed"


@pytest.mark.parametrize(
    "answers",
    [
        {SUFFICES: noul(0.83)},
        {UNCLEAR: noul(0.2)},
        {SUFFICES: noul(0.83), UNCLEAR: noul(1.2)},
        {SUFFICES: noul(0.83), UNCLEAR: noul(0.2), "more": noul(0.5)},
    ],
)
def test_trap_24_both_ids_or_none(wire: Wire, make: MakeJudge, answers: Json) -> None:
    """Who breaks the protocol in one answer is not believed in the other."""
    judge = make(wire(Answer(said(**answers))).url, ask_underspecified=True)
    assert outcome(judge) == "malformed"


NO_DECISION_MODEL: dict[str, Json] = {
    "error": {
        "code": 501,
        "message": "This model is not a decision model",
        "type": "not_supported_error",
    }
}


def require_told_of_openai(judge: SystemOneJudge) -> None:
    """An ordinary model has another judge, which the error names."""
    with pytest.raises(JudgeRejected) as caught:
        measure(judge)
    assert caught.value.status == 501
    assert "not_supported_error" in caught.value.message
    assert "openai:MODEL" in str(caught.value.hint)


def test_an_ordinary_model(wire: Wire, make: MakeJudge) -> None:
    """What llama.cpp answers, replayed; it is asked once."""
    server = wire(Answer(NO_DECISION_MODEL, status=501))
    require_told_of_openai(make(server.url))
    assert len(server.requests) == 1


@pytest.fixture(scope="module")
def llama() -> Generator[str]:
    """The address of a real llama.cpp with a small model; its key is ours."""
    fixed = SimpleNamespace(urandom=lambda _size: KEY.encode(), cpu_count=os.cpu_count)  # pyright: ignore
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("guard.judges.gguf.os", fixed)
        server: Any = load_server(weights(), context_tokens=512)
    yield f"{server.listening_address}/v1"
    del server  # Frees the model, and closes the port.


@pytest.mark.local
def test_the_real_llama_cpp(llama: str, make: MakeJudge) -> None:
    """It has the route, and an ordinary model behind it."""
    require_told_of_openai(make(llama, key=KEY.encode().hex()))


@pytest.mark.local
def test_the_real_llama_cpp_with_a_wrong_key(llama: str, make: MakeJudge) -> None:
    """Turned away before the route is looked at."""
    with pytest.raises(JudgeRejected) as caught:
        measure(make(llama, key="another"))
    assert caught.value.status == 401


@pytest.mark.parametrize("status", [503, 529])
def test_a_busy_service(wire: Wire, make: MakeJudge, status: int) -> None:
    """Retry-After is read, obeyed, and one decision comes of it."""
    busy = Answer(
        {"detail": {"error_type": "overloaded_error", "message": "busy"}},
        status=status,
        headers={"retry-after": "0.05"},
    )
    with pytest.raises(JudgeUnavailable, match="overloaded_error") as caught:
        measure(make(wire(busy).url))
    assert (caught.value.kind, caught.value.retry_after) == ("unavailable", 0.05)
    server = wire([busy, OK])
    decision = Gate(make(server.url), retry=Retry(first_wait=0.0)).check(
        QUERY.question, QUERY.contexts
    )
    assert decision.probability == 0.83
    assert len(server.requests) == 2


def test_a_hang_ends_in_time(wire: Wire, make: MakeJudge) -> None:
    """With the time-out's own kind."""
    with pytest.raises(JudgeUnavailable) as caught:
        make(wire(Answer(hang=True)).url).judge(QUERY, timeout=0.2)
    assert caught.value.kind == "timeout"


@pytest.mark.parametrize(
    ("below", "path"),
    [
        ("/api/v1", "/api/v1/systemone"),
        ("/api/v1/", "/api/v1/systemone"),
        ("/api/v1/systemone", "/api/v1/systemone"),
        ("/api/alpha/decisions", "/api/alpha/decisions"),
        ("/api/alpha/decisions/", "/api/alpha/decisions"),
    ],
)
def test_openrouters_two_routes(wire: Wire, below: str, path: str) -> None:
    """One protocol under two addresses; its reply holds more than the protocol asks for."""
    usage = {"input_tokens": 210, "output_tokens": 2, "cost": 0.0000231}
    server = wire(
        Answer(
            {
                "id": "gen-dec-1",
                "provider": "TypeSafe",
                "model": "typesafe/jev-latest",
                "answers": {SUFFICES: noul(0.83)},
                "usage": usage,
            }
        )
    )
    judge = from_name(
        "systemone:typesafe/jev-latest",
        base_url=server.url.removesuffix("/v1") + below,
        api_key=KEY,
    )
    verdict = judge.judge(QUERY, timeout=5)
    close(judge)
    assert verdict.p_true == 0.83
    assert verdict.model == "typesafe/jev-latest"
    assert verdict.usage == Usage(210, 2, None)
    (request,) = server.requests
    assert request.path == path
    assert request.body["model"] == "typesafe/jev-latest"


# ── Configuration ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": Prompt(template="{context_str} {query_str} True False?")},
        {"statement": " "},
        {"model": ""},
    ],
    ids=["template", "blank statement", "blank model"],
)
def test_what_cannot_be_asked_is_refused(jev: Jev, make: MakeJudge, options: Any) -> None:
    """At construction, with a hint."""
    with pytest.raises(ConfigError) as caught:
        make(jev.url, **options)
    assert caught.value.hint


def test_fingerprints_cover_what_verdicts_depend_on(make: MakeJudge) -> None:
    """Model, statement, questions and packing; not the route, nor the address."""
    url = "http://127.0.0.1:1/v1"
    base = make(url).fingerprint
    assert base == make("http://127.0.0.1:2/v1", path="/decisions").fingerprint
    assert base.startswith("decision-noul:jev-latest:")
    changed = [
        make(url, model="jev-preview"),
        make(url, statement="The passages tell the year."),
        make(url, ask_underspecified=True),
        make(url, prompt=Prompt(max_context_chars=100)),
    ]
    assert len({base, *(judge.fingerprint for judge in changed)}) == 5


def test_unreachable(make: MakeJudge) -> None:
    """Nobody listens: worth another try, and the address is told."""
    with pytest.raises(JudgeUnavailable, match="127.0.0.1:1 cannot be reached"):
        measure(make("http://127.0.0.1:1/v1"))


def test_unmeasured_is_what_the_gate_records(wire: Wire, make: MakeJudge) -> None:
    """A broken reply is one decision without a probability, after one request."""
    server = wire(Answer(said()))
    decision = Gate(make(server.url)).check(QUERY.question, QUERY.contexts)
    assert (decision.reason, decision.probability) == (Reason.MALFORMED, None)
    assert len(server.requests) == 1
    with pytest.raises(Unmeasured, match="exactly the questions"):
        measure(make(server.url))
