"""The gate: routes, failures to measure, bugs that surface, and the record of one query."""

import asyncio
import json
import logging
import math
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest

import guard
from guard import (
    ConfigError,
    Decision,
    Gate,
    Judge,
    JudgeError,
    JudgeRejected,
    JudgeUnavailable,
    Labels,
    Messages,
    Policy,
    Query,
    Reason,
    Retry,
    Route,
    Thresholds,
    Unmeasured,
    Usage,
    Verdict,
)
from guard.errors import UNMEASURED_KINDS, UnmeasuredKind
from guard.loop import LoopThread
from guard.policy import Message, OnUnmeasured
from guard.testing import ScriptedJudge
from guard.worker import Workers

QUESTION = "When did the canary-question bridge open?"
CONTEXTS = ["The canary-passage bridge opened in 1932.", "It crosses the canary-river."]
HISTORY = [("user", "canary-history: tell me about bridges")]
THRESHOLDS = Thresholds(answer_at=0.85, refuse_below=0.30)
ONCE = Retry(attempts=1)
ROUTES: tuple[OnUnmeasured, ...] = ("answer", "clarify", "refuse", "raise")
KEYS = (
    "id time route enforced reason detail probability low high p_true raw_low raw_high mass "
    "emitted signal model served_model system_fingerprint fingerprint calibrated profile "
    "answer_at refuse_below deployment mode "
    "coverage windows seen unseen history_coverage suspects suspect_hashes suspect_turns "
    "p_without low_without rest_unmeasured look_cut_short "
    "cached attempts breaker elapsed_seconds usage cost "
    "currency p_underspecified tried message lang question_hash contexts_hash"
)

Ask = Callable[..., Decision]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Asks a gate, once through ``check`` and once through ``acheck``."""

    def call(
        gate: Gate,
        question: str = QUESTION,
        contexts: Sequence[str] = CONTEXTS,
        *,
        lang: str | None = None,
    ) -> Decision:
        if request.param == "sync":
            return gate.check(question, contexts, lang=lang)
        return asyncio.run(gate.acheck(question, contexts, lang=lang))

    return call


def below(value: float) -> float:
    """The next smaller number."""
    return math.nextafter(value, -math.inf)


def covering(share: float, low: float, high: float) -> Verdict:
    """A verdict over a part of the contexts."""
    return Verdict(
        p_true=(low + high) / 2,
        low=low,
        high=high,
        mass=1.0,
        emitted="True",
        signal="logprobs",
        fingerprint="replaced",
        coverage=share,
    )


def failing(kind: UnmeasuredKind) -> JudgeError:
    """An error of the class that a judge would raise for this kind."""
    if kind in ("timeout", "unavailable", "rate_limited"):
        return JudgeUnavailable("down", kind=kind)
    if kind == "rejected":
        return JudgeRejected("no", kind=kind)
    return Unmeasured("unclear", kind=kind, hint="Do something.")


# ── Routes ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("p", "route", "reason"),
    [
        (1.0, Route.ANSWER, Reason.SUFFICIENT),
        (0.85, Route.ANSWER, Reason.SUFFICIENT),
        (below(0.85), Route.CLARIFY, Reason.UNCERTAIN),
        (0.5, Route.CLARIFY, Reason.UNCERTAIN),
        (0.30, Route.CLARIFY, Reason.UNCERTAIN),
        (below(0.30), Route.REFUSE, Reason.INSUFFICIENT),
        (0.0, Route.REFUSE, Reason.INSUFFICIENT),
    ],
)
def test_routes_at_and_around_thresholds(ask: Ask, p: float, route: Route, reason: Reason) -> None:
    """At ``answer_at`` it answers, at ``refuse_below`` it does not yet refuse."""
    decision = ask(Gate(ScriptedJudge(p), Policy(thresholds=THRESHOLDS)))
    assert (decision.route, decision.reason) == (route, reason)
    assert decision.probability == p
    assert decision.measured and not decision.unmeasured
    assert decision.passes is (route is Route.ANSWER)


@pytest.mark.parametrize(
    ("answer_at", "refuse_below", "p", "route"),
    [
        (0.0, 0.0, 0.0, Route.ANSWER),
        (1.0, 0.0, 1.0, Route.ANSWER),
        (1.0, 0.0, below(1.0), Route.CLARIFY),
        (1.0, 0.0, 0.0, Route.CLARIFY),
        (1.0, 1.0, below(1.0), Route.REFUSE),
        (0.5, 0.5, 0.5, Route.ANSWER),
        (0.5, 0.5, below(0.5), Route.REFUSE),
    ],
)
def test_extreme_thresholds(answer_at: float, refuse_below: float, p: float, route: Route) -> None:
    """Equal thresholds leave no band between, and 0 and 1 are thresholds like any other."""
    policy = Policy(thresholds=Thresholds(answer_at=answer_at, refuse_below=refuse_below))
    assert Gate(ScriptedJudge(p), policy).check(QUESTION, CONTEXTS).route is route


@pytest.mark.parametrize(
    ("bounds", "route"),
    [
        ((0.84, 1.0), Route.CLARIFY),  # p = 0.92 alone would answer.
        ((0.0, 0.30), Route.CLARIFY),  # p = 0.15 alone would refuse.
        ((0.0, 1.0), Route.CLARIFY),
        ((0.85, 0.9), Route.ANSWER),
        ((0.1, 0.29), Route.REFUSE),
    ],
)
def test_bounds_decide_not_p(ask: Ask, bounds: tuple[float, float], route: Route) -> None:
    """The lower bound must reach ``answer_at``, the upper one must stay under ``refuse_below``."""
    decision = ask(Gate(ScriptedJudge(bounds), Policy(thresholds=THRESHOLDS)))
    assert decision.route is route
    assert (decision.low, decision.high) == bounds


@pytest.mark.parametrize(
    ("share", "low", "high", "route", "reason"),
    [
        (0.5, 0.9, 0.95, Route.ANSWER, Reason.SUFFICIENT),
        (0.5, 0.4, 0.5, Route.CLARIFY, Reason.UNCERTAIN),
        (0.5, 0.0, 0.1, Route.CLARIFY, Reason.PARTIAL_COVERAGE),
        (0.999, 0.0, 0.1, Route.CLARIFY, Reason.PARTIAL_COVERAGE),
        (1.0, 0.0, 0.1, Route.REFUSE, Reason.INSUFFICIENT),
    ],
)
def test_partial_coverage_never_refuses(
    ask: Ask, share: float, low: float, high: float, route: Route, reason: Reason
) -> None:
    """What was seen may suffice, but what was not seen may hold the evidence."""
    gate = Gate(ScriptedJudge(covering(share, low, high)), Policy(thresholds=THRESHOLDS))
    decision = ask(gate)
    assert (decision.route, decision.reason) == (route, reason)
    assert decision.to_dict()["coverage"] == share
    assert ("was judged" in decision.detail) is (share < 1)


@pytest.mark.parametrize(
    ("share", "told"),
    [(1e-9, "Less than 1 %"), (0.4, "Only 40 %"), (0.9999, "Only 99 %")],
)
def test_a_part_is_never_told_as_nothing_or_all(share: float, told: str) -> None:
    """However it rounds."""
    decision = Gate(ScriptedJudge(covering(share, 0.5, 0.5))).check(QUESTION, CONTEXTS)
    assert f"{told} of the contexts was judged." in decision.detail


@pytest.mark.parametrize("contexts", [[], [""], [" ", "\n\t", "\u00a0"]])
@pytest.mark.parametrize("choice", ["answer", "raise"])
def test_no_contexts_refuse_without_asking(
    ask: Ask, contexts: list[str], choice: OnUnmeasured
) -> None:
    """Nothing retrieved is a refusal of its own, whatever happens to what cannot be measured."""
    judge = ScriptedJudge(1.0)
    decision = ask(Gate(judge, Policy(on_unmeasured=choice)), QUESTION, contexts)
    assert (decision.route, decision.reason) == (Route.REFUSE, Reason.NO_CONTEXTS)
    assert judge.queries == []
    assert decision.probability is None
    assert not decision.measured and not decision.unmeasured and not decision.passes


def test_one_text_among_blanks_is_judged(ask: Ask) -> None:
    """One passage with text is enough to ask the judge."""
    judge = ScriptedJudge(1.0)
    assert ask(Gate(judge), QUESTION, ["", "text", " "]).route is Route.ANSWER
    assert [query.contexts for query in judge.queries] == [("", "text", " ")]


def test_contexts_may_be_any_iterable() -> None:
    """A generator of passages is read once, and the judge sees all of them in order."""
    judge = ScriptedJudge(1.0)
    Gate(judge).check(QUESTION, (text for text in CONTEXTS), history=HISTORY, lang="en")
    (query,) = judge.queries
    assert query.contexts == tuple(CONTEXTS)
    assert [tuple(turn) for turn in query.history] == HISTORY
    assert query.lang == "en"


# ── Not measured ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("choice", ROUTES)
@pytest.mark.parametrize("per_kind", [False, True], ids=["for-all", "per-kind"])
@pytest.mark.parametrize("kind", UNMEASURED_KINDS)
def test_on_unmeasured(
    ask: Ask, kind: UnmeasuredKind, choice: OnUnmeasured, per_kind: bool
) -> None:
    """Every kind takes the route that the policy names, and never has a probability."""
    other: OnUnmeasured = "refuse" if choice == "answer" else "answer"
    routes: OnUnmeasured | dict[str, OnUnmeasured] = (
        {kind: choice, "default": other} if per_kind else choice
    )
    gate = Gate(ScriptedJudge(failing(kind)), Policy(on_unmeasured=routes), retry=ONCE)
    if choice == "raise":
        with pytest.raises(JudgeError) as caught:
            ask(gate)
        decision = caught.value.decision
        assert isinstance(decision, Decision)
        assert decision.route is None and not decision.passes
    else:
        decision = ask(gate)
        assert decision.route == choice
    assert decision.reason.value == kind
    assert decision.unmeasured and not decision.measured
    assert (decision.probability, decision.low, decision.high) == (None, None, None)
    assert decision.verdict is None
    record = decision.to_dict()
    assert json.loads(json.dumps(record))["probability"] is None
    assert [record[key] for key in ("p_true", "raw_low", "raw_high", "mass", "usage")] == [None] * 5


@pytest.mark.parametrize("kind", UNMEASURED_KINDS)
def test_on_unmeasured_default(ask: Ask, kind: UnmeasuredKind) -> None:
    """Kinds that are not named take ``default``, and ``refuse`` where that is missing too."""
    other: UnmeasuredKind = "refusal" if kind == "timeout" else "timeout"
    judge = ScriptedJudge(failing(kind))
    given = Policy(on_unmeasured={other: "answer", "default": "clarify"})
    assert ask(Gate(judge, given, retry=ONCE)).route is Route.CLARIFY
    missing = Policy(on_unmeasured={other: "answer"})
    assert ask(Gate(judge, missing, retry=ONCE)).route is Route.REFUSE
    assert ask(Gate(judge, retry=ONCE)).route is Route.REFUSE


def test_unmeasured_detail_says_why_and_what_to_do(
    ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    """Message, attempts and hint stand in the record and in one warning."""
    error = JudgeUnavailable("The judge is down.", hint="Start it.")
    decision = ask(Gate(ScriptedJudge(error), retry=Retry(attempts=3, first_wait=0, max_wait=0)))
    assert decision.detail == "The judge is down. (3 attempts) Start it."
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in warnings] == [
        f"query {decision.id} not measured, unavailable: {decision.detail} Route: refuse."
    ]


def test_an_outage_is_told_once_in_a_while(
    ask: Ask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line of each kind in five seconds, with the deployment; then how many more there were."""
    now = 1000.0
    monkeypatch.setattr("guard.throttle.time.monotonic", lambda: now)
    caplog.set_level(logging.WARNING, logger="guard")
    kinds = ["unavailable", "unavailable", "timeout", "unavailable", "unavailable"]
    script = [JudgeUnavailable("down", kind=cast("UnmeasuredKind", kind)) for kind in kinds]
    gate = Gate(ScriptedJudge(script), retry=ONCE, deployment="support-bot")
    for _ in kinds[:-1]:
        ask(gate)
    now += 5
    ask(gate)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition("measured, ")[2].partition(":")[0] for line in lines] == [
        "unavailable",
        "timeout",
        "unavailable",
    ]
    assert all(" of support-bot not measured" in line for line in lines)
    assert lines[-1].endswith("2 more since the last such line.")


def test_retry_recovers(ask: Ask) -> None:
    """What succeeds at the second try is measured."""
    judge = ScriptedJudge([JudgeUnavailable("down"), 0.9])
    decision = ask(Gate(judge, retry=Retry(attempts=2, first_wait=0, max_wait=0)))
    assert decision.probability == 0.9
    assert len(judge.queries) == 2


def test_deadline_ends_a_slow_judge(ask: Ask) -> None:
    """A judge that is too slow ends in the kind ``timeout``."""
    decision = ask(Gate(ScriptedJudge(0.9, delay=30), Policy(deadline=0.05)))
    assert decision.reason is Reason.TIMEOUT
    assert decision.elapsed_seconds < 1


def test_the_gate_keeps_time_for_a_judge_that_does_not() -> None:
    """An ``ajudge`` that ignores its time-out is cancelled at the deadline."""
    cancelled: list[bool] = []

    class Deaf(ScriptedJudge):
        async def ajudge(self, query: Query, *, timeout: float) -> Verdict:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise
            return self._verdict(0.9, late=False)

    gate = Gate(Deaf(0.9), Policy(deadline=0.05, on_unmeasured={"timeout": "clarify"}))
    decision = asyncio.run(gate.acheck(QUESTION, CONTEXTS))
    assert (decision.route, decision.reason) == (Route.CLARIFY, Reason.TIMEOUT)
    assert cancelled == [True]


# ── Shadow mode, messages ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("choice", ROUTES)
def test_shadow_decides_but_lets_through(ask: Ask, choice: OnUnmeasured) -> None:
    """In shadow mode everything passes and nothing is raised, but the record shows the route."""
    policy = Policy(mode="shadow", on_unmeasured=choice)
    refused = ask(Gate(ScriptedJudge(0.0), policy))
    assert refused.route is Route.REFUSE and refused.passes and not refused.enforced
    failed = ask(Gate(ScriptedJudge(Unmeasured("unclear")), policy))
    assert failed.route == (None if choice == "raise" else choice)
    assert failed.passes and failed.unmeasured and not failed.measured
    assert failed.to_dict()["enforced"] is False
    assert failed.to_dict()["mode"] == "shadow"


def test_messages() -> None:
    """The user is told something on clarify and refuse, and nothing on answer or when raising."""
    messages = Messages(clarify="Say more.", refuse="Not in my documents.")
    told = [
        Gate(ScriptedJudge(p), Policy(messages=messages)).check(QUESTION, CONTEXTS).message
        for p in (0.95, 0.5, 0.0)
    ]
    assert told == [None, "Say more.", "Not in my documents."]
    policy = Policy(messages=messages, on_unmeasured="raise", mode="shadow")
    assert Gate(ScriptedJudge(Unmeasured("?")), policy).check(QUESTION, CONTEXTS).message is None


@pytest.mark.parametrize(
    ("lang", "text"),
    [
        ("de", "Nein."),
        ("de-CH", "Nein."),
        ("pt-BR", "Não (BR)."),
        ("pt-PT", "No."),
        ("fr", "No."),
        ("", "No."),
        (None, "No."),
    ],
)
def test_messages_by_language(ask: Ask, lang: str | None, text: str) -> None:
    """A language falls back on the one it belongs to, and that on ``default``."""
    texts = {"de": "Nein.", "pt-BR": "Não (BR).", "default": "No."}
    gate = Gate(ScriptedJudge(0.0), Policy(messages=Messages(refuse=texts)))
    assert ask(gate, lang=lang).message == text


def said(route: str, lang: str | None) -> str:
    """A message of the caller's own."""
    return f"{route}, {lang}"


@pytest.mark.parametrize("where", ["for all", "by language"])
def test_messages_by_function(ask: Ask, where: str) -> None:
    """It is told the route and the language."""
    one: Message = said if where == "for all" else {"de": said, "default": "No."}
    messages = Messages(clarify=one, refuse=one, unmeasured=one)
    for script, route in ((0.5, "clarify"), (0.0, "refuse"), (Unmeasured("?"), "refuse")):
        gate = Gate(ScriptedJudge(script), Policy(messages=messages))
        assert ask(gate, lang="de").message == f"{route}, de"
        assert ask(gate).message == (f"{route}, None" if where == "for all" else "No.")
    assert ask(Gate(ScriptedJudge(1.0), Policy(messages=messages))).message is None


def raising(route: str, lang: str | None) -> str:
    """A function with a bug."""
    raise KeyError(f"canary {route} {lang}")


def silent(_route: str, _lang: str | None) -> None:
    """A function that returns no text."""


def blank(_route: str, _lang: str | None) -> str:
    """A function that returns nothing to read."""
    return " "


def deaf() -> str:
    """A function that takes nothing."""
    return "too few arguments"


@pytest.mark.parametrize(
    ("function", "logged"),
    [
        (raising, "A message's function failed."),
        (silent, "returned NoneType, no text"),
        (blank, "returned str, no text"),
        (deaf, "A message's function failed."),
    ],
    ids=["raises", "None", "blank", "arguments"],
)
def test_a_message_that_fails_fails_no_query(
    ask: Ask, caplog: pytest.LogCaptureFixture, function: Callable[..., Any], logged: str
) -> None:
    """The user is told what is built in, and it is logged."""
    messages = Messages(clarify=function, refuse={"default": function}, unmeasured=function)
    for script, built_in in (
        (0.5, Messages().clarify),
        (0.0, Messages().refuse),
        (Unmeasured("?"), Messages().unmeasured),
    ):
        caplog.clear()
        decision = ask(Gate(ScriptedJudge(script), Policy(messages=messages)))
        assert decision.message == built_in
        assert logged in caplog.text


async def waiting(route: str, lang: str | None) -> str:
    """Nothing that a decision could wait for."""
    return f"{route}, {lang}"


@pytest.mark.parametrize("message", [waiting, None, 7, "", {"default": None}, {"default": waiting}])
def test_what_is_no_message(message: object) -> None:
    """Neither text nor a function that returns it at once."""
    with pytest.raises(ConfigError, match=r"messages\.refuse"):
        Messages(refuse=cast("str", message))


def test_messages_need_a_default() -> None:
    """Texts by language without a default are refused at construction."""
    with pytest.raises(ConfigError, match="default"):
        Messages(refuse={"de": "Nein."})


@pytest.mark.parametrize(
    "wrong",
    [
        {"on_unmeasured": "ignore"},
        {"on_unmeasured": {"tiemout": "answer"}},
        {"on_unmeasured": {"timeout": "pass"}},
        {"deadline": 0.0},
        {"deadline": -1.0},
        {"deadline": math.inf},
        {"deadline": math.nan},
        {"mode": "audit"},
        {"on_stale": "ignore"},
        {"on_stale": {"default": "refuse"}},
    ],
)
def test_policy_misuse(wrong: dict[str, object]) -> None:
    """Unknown routes, kinds and modes, and deadlines that never come, are refused."""
    make = cast("Callable[..., Policy]", Policy)
    with pytest.raises(ConfigError):
        make(**wrong)


@pytest.mark.parametrize(
    ("answer_at", "refuse_below"),
    [(0.3, 0.85), (1.1, 0.0), (0.5, -0.1), (math.nan, 0.1), (0.5, math.nan), (True, 0.0)],
)
def test_thresholds_misuse(answer_at: float, refuse_below: float) -> None:
    """Thresholds that cross, leave [0, 1] or are no numbers are refused."""
    with pytest.raises(ConfigError):
        Thresholds(answer_at=answer_at, refuse_below=refuse_below)


# ── Bugs surface ─────────────────────────────────────────────────────────────────────────────────


class Buggy:
    """A judge with a bug."""

    model = None
    fingerprint = "buggy"

    def __init__(self, bug: object, cancellable: bool) -> None:
        self.bug, self.cancellable, self.calls = bug, cancellable, 0

    def judge(self, query: Query, *, timeout: float) -> Verdict:
        self.calls += 1
        if isinstance(self.bug, BaseException):
            raise self.bug
        return cast("Verdict", self.bug)

    async def ajudge(self, query: Query, *, timeout: float) -> Verdict:
        return self.judge(query, timeout=timeout)


@pytest.mark.parametrize("cancellable", [True, False], ids=["direct", "worker"])
@pytest.mark.parametrize(
    ("bug", "surfaces"),
    [
        (KeyError("choices"), KeyError),
        (TimeoutError("its own"), TimeoutError),
        (ConfigError("late"), ConfigError),
        (StopIteration(), RuntimeError),
        (0.93, TypeError),
        (None, TypeError),
    ],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
def test_a_bug_in_a_judge_surfaces(
    ask: Ask, bug: object, surfaces: type[BaseException], cancellable: bool
) -> None:
    """What is not a JudgeError is no route: it reaches the caller at once and is not retried."""
    judge = Buggy(bug, cancellable)
    with pytest.raises(surfaces) as caught:
        ask(Gate(judge, Policy(on_unmeasured="answer")))
    assert type(caught.value) is surfaces
    assert judge.calls == 1


def test_a_bug_on_the_background_loop_surfaces() -> None:
    """A coroutine's own TimeoutError is not taken for the end of its time."""

    async def buggy() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        LoopThread().run(buggy(), 5)


@pytest.mark.parametrize("thing", [None, 0.9, object(), "openai:MODEL", ScriptedJudge])
def test_what_is_no_judge_is_refused(thing: object) -> None:
    """A gate without a judge, or with a judge's class, is refused at construction."""
    with pytest.raises(ConfigError, match="not a judge") as caught:
        Gate(cast("Judge", thing))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"policy": Thresholds(answer_at=0.9, refuse_below=0.1)}, "`policy` is Thresholds"),
        ({"policy": {}}, "`policy` is dict"),
        ({"retry": 3}, "`retry` is int"),
        ({"profile": {}}, "`profile` is dict"),
        ({"price": 0.15}, "`price` is float"),
    ],
)
def test_gate_misuse(wrong: dict[str, object], said: str) -> None:
    """What is no policy or no retry is refused at construction, not at the first query."""
    make = cast("Callable[..., Gate]", Gate)
    with pytest.raises(ConfigError, match=said) as caught:
        make(ScriptedJudge(0.9), **wrong)
    assert caught.value.hint


def test_labels_that_are_no_text() -> None:
    """``Labels(True, False)`` is an easy slip."""
    with pytest.raises(ConfigError, match="label `true` is bool"):
        cast("Callable[..., Labels]", Labels)(True, False)


def test_what_the_caller_changes_later_changes_no_policy() -> None:
    """A policy and its messages keep copies of their own, which nobody can change."""
    routes: dict[str, OnUnmeasured] = {"default": "clarify"}
    texts = {"default": "No."}
    policy = Policy(on_unmeasured=routes, messages=Messages(refuse=texts))
    same = Policy(on_unmeasured=dict(routes), messages=Messages(refuse=dict(texts)))
    routes["default"], texts["default"] = "answer", "Yes."
    assert policy.route_unmeasured("timeout") is Route.CLARIFY
    assert policy.messages.text(Route.REFUSE, None) == "No."
    assert policy == same
    for kept in (policy.on_unmeasured, policy.messages.refuse):
        with pytest.raises(TypeError):
            cast("dict[str, str]", kept)["default"] = "answer"


# ── Queries ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("question", "contexts"),
    [
        (QUESTION, "canary-passage in one text"),
        (QUESTION, b"canary-passage in bytes"),
        (QUESTION, ["fine", None]),
        (QUESTION, [b"canary-passage"]),
        (QUESTION, [{"text": "canary-passage"}]),
        ("", CONTEXTS),
        (" \n\t", CONTEXTS),
        (None, CONTEXTS),
        (b"canary", CONTEXTS),
        (QUESTION, None),
        (QUESTION, 7),
        (QUESTION, {"canary": "canary-passage"}),
    ],
)
def test_query_misuse(ask: Ask, question: object, contexts: object) -> None:
    """One text for a list, what is no text, and blank questions are the caller's mistakes."""
    judge = ScriptedJudge(1.0)
    with pytest.raises(ConfigError) as caught:
        ask(Gate(judge, Policy(on_unmeasured="answer")), question, contexts)
    assert caught.value.hint
    assert "canary" not in str(caught.value)
    assert judge.queries == []


def test_one_text_is_no_list_for_the_constructor_either() -> None:
    """``Query(question, text)`` does not judge single letters."""
    with pytest.raises(ConfigError, match="single text"):
        Query(QUESTION, cast("tuple[str, ...]", "canary"))


@pytest.mark.parametrize("lang", [5, b"de", ["de"]])
def test_a_language_that_is_no_text(ask: Ask, lang: object) -> None:
    """It would fail only where a message is chosen."""
    with pytest.raises(ConfigError, match="`lang` is"):
        ask(Gate(ScriptedJudge(0.0)), lang=lang)


def test_the_constructor_takes_lists_and_pairs() -> None:
    """Plain lists and pairs become the tuples and turns that `Query.of` makes."""
    make = cast("Callable[..., Query]", Query)
    made = make("q", ["a"], history=[("user", "x"), ["assistant", "y"]])
    assert made == Query.of("q", ["a"], history=[("user", "x"), ("assistant", "y")])
    assert (made.contexts, made.history[1].text) == (("a",), "y")
    assert isinstance(hash(made), int)


@pytest.mark.parametrize(
    "history", [None, {"user": "hi"}, "hi", ["hi"], [("user", None)], [("user", "a", "b")], [None]]
)
def test_history_misuse(history: object) -> None:
    """A history that is not made of (role, text) turns is the caller's mistake."""
    with pytest.raises(ConfigError):
        Query.of(QUESTION, CONTEXTS, history=cast("list[tuple[str, str]]", history))


def test_surrogates_hash() -> None:
    """Half characters of badly decoded files are hashed, each to a value of its own."""
    queries = [Query.of(f"{half}?", [half]) for half in ("\ud800", "\udfff", "?")]
    assert len({query.question_hash for query in queries}) == 3
    assert len({query.contexts_hash for query in queries}) == 3
    decision = Gate(ScriptedJudge(0.9)).check("\ud800?", ["\udfff"])
    assert json.loads(json.dumps(decision.to_dict()))["question_hash"] == queries[0].question_hash


def test_hashes_know_boundaries() -> None:
    """The same letters in other passages have another hash."""
    assert (
        Query.of("q", ["ab", "c"]).contexts_hash
        != Query.of("q", ["a", "bc"]).contexts_hash
        != Query.of("q", ["abc"]).contexts_hash
    )


def test_queries_are_values() -> None:
    """Equal queries are equal, hashable and cannot be changed."""
    one, other = (Query.of(QUESTION, CONTEXTS, history=HISTORY) for _ in range(2))
    assert one == other and len({one, other}) == 1
    with pytest.raises(AttributeError):
        one.question = "another"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


# ── The record ───────────────────────────────────────────────────────────────────────────────────


def decisions() -> list[Decision]:
    """One decision of every sort, all about texts that hold the word canary."""
    spent = Usage(input_tokens=90, output_tokens=1)
    verdict = replace(covering(0.5, 0.1, 0.2), usage=spent, model="served")
    scripts: list[ScriptedJudge] = [ScriptedJudge(p) for p in (0.95, 0.5, 0.0)]
    scripts += [
        ScriptedJudge(verdict),
        *(ScriptedJudge(failing(kind)) for kind in UNMEASURED_KINDS),
    ]
    gates = [Gate(judge, retry=ONCE, deployment="support-bot") for judge in scripts]
    made = [gate.check(QUESTION, CONTEXTS, history=HISTORY, lang="en") for gate in gates]
    return [*made, gates[0].check(QUESTION, [])]


def test_record_has_exactly_the_documented_keys() -> None:
    """Every decision has the same keys, in the same order, whatever happened."""
    assert {" ".join(decision.to_dict()) for decision in decisions()} == {KEYS}


def test_record_is_json_and_holds_no_text() -> None:
    """The record survives JSON unchanged and holds nothing of question, contexts or history."""
    for decision in decisions():
        record = decision.to_dict()
        text = json.dumps(record, allow_nan=False)
        assert json.loads(text) == record
        assert "canary" not in text and "bridge" not in text
        assert record["question_hash"] == decision.query.question_hash


def test_repr_holds_no_text() -> None:
    """A decision in a log line or a traceback shows no passage and no question."""
    for decision in decisions():
        assert "canary" not in repr(decision) and "canary" not in str(decision)
        assert decision.id in repr(decision)


def test_logs_hold_no_text(caplog: pytest.LogCaptureFixture) -> None:
    """At the most talkative level, log records still show no passage and no question."""
    caplog.set_level(logging.DEBUG, logger="guard")
    made = decisions()
    for decision in made:
        assert decision.id in caplog.text
    assert "canary" not in caplog.text


def test_record_of_a_measured_query() -> None:
    """The record tells what was measured, by whom, and what applied."""
    verdict = replace(covering(0.5, 0.1, 0.2), usage=Usage(90, 1), model="served")
    gate = Gate(
        ScriptedJudge(verdict, name="mine"), Policy(thresholds=THRESHOLDS), deployment="bot"
    )
    decision = gate.check(QUESTION, CONTEXTS)
    record = decision.to_dict()
    assert record["p_true"] == record["probability"] == pytest.approx(0.15)
    assert (record["low"], record["high"]) == (record["raw_low"], record["raw_high"]) == (0.1, 0.2)
    assert (record["answer_at"], record["refuse_below"]) == (0.85, 0.30)
    assert (record["model"], record["fingerprint"]) == ("served", "scripted:mine")
    assert (record["deployment"], record["mode"], record["enforced"]) == ("bot", "enforce", True)
    spent = {"input_tokens": 90, "output_tokens": 1, "cached_tokens": None, "requests": 1}
    assert record["usage"] == spent
    assert (record["calibrated"], record["cached"]) == (False, False)
    assert decision.time.utcoffset() == timedelta(0)
    assert decision.elapsed_seconds >= 0
    assert decision.model == "mine"


def test_ids_are_unique() -> None:
    """Two decisions about one query are two records."""
    gate = Gate(ScriptedJudge(0.9))
    ids = {gate.check(QUESTION, CONTEXTS).id for _ in range(20)}
    assert len(ids) == 20
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in ids)


# ── Many at once ─────────────────────────────────────────────────────────────────────────────────


def _numbered(number: int) -> tuple[str, list[str], float]:
    return f"question {number}", [f"passage {number}"], number / 199


def _require_own(number: int, decision: Decision) -> None:
    question, contexts, p = _numbered(number)
    assert decision.query == Query.of(question, contexts)
    assert decision.probability == p
    assert decision.route == Policy().route(p, p)[0]


def _numbered_judge() -> ScriptedJudge:
    chance = random.Random(7)

    def number(query: Query) -> float:
        assert query.question.split()[1] == query.contexts[0].split()[1]
        return int(query.question.split()[1]) / 199

    return ScriptedJudge(number, delay=lambda _query: chance.uniform(0.0, 0.1))


def test_200_concurrent_achecks_swap_nothing() -> None:
    """Each of 200 tasks with random delays gets the decision about its own query."""
    gate = Gate(_numbered_judge())

    async def all_at_once() -> list[Decision]:
        cases = [_numbered(number)[:2] for number in range(200)]
        return await asyncio.gather(*(gate.acheck(*case) for case in cases))

    made = asyncio.run(all_at_once())
    for number, decision in enumerate(made):
        _require_own(number, decision)
    assert len({decision.id for decision in made}) == 200


@pytest.mark.slow
def test_50_threads_swap_nothing() -> None:
    """Each of 50 threads gets the decision about its own query, from workers too."""
    judge = _numbered_judge()
    judge.cancellable = False
    gate, made = Gate(judge, workers=Workers(limit=20)), dict[int, Decision]()

    def work(number: int) -> None:
        made[number] = gate.check(*_numbered(number)[:2])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(made) == 50
    for number, decision in made.items():
        _require_own(number, decision)


def test_cancelling_acheck_is_no_decision(caplog: pytest.LogCaptureFixture) -> None:
    """A cancelled check ends in CancelledError; nothing is decided and nothing is logged."""
    caplog.set_level(logging.DEBUG, logger="guard")
    gate = Gate(ScriptedJudge(0.9, delay=30), Policy(on_unmeasured="answer"))

    async def cancelled() -> bool:
        task = asyncio.create_task(gate.acheck(QUESTION, CONTEXTS))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(cancelled())
    assert caplog.records == []


# ── The package ──────────────────────────────────────────────────────────────────────────────────


def test_public_names() -> None:
    """``guard.__all__`` is sorted and exactly this; everything in it exists."""
    assert guard.__all__ == [
        "ConfigError",
        "Decision",
        "Gate",
        "GuardError",
        "Judge",
        "JudgeError",
        "JudgeRejected",
        "JudgeUnavailable",
        "Labels",
        "Limit",
        "Messages",
        "NotAsked",
        "Policy",
        "Price",
        "Profile",
        "ProfileMismatch",
        "Prompt",
        "Query",
        "Reason",
        "Retry",
        "Route",
        "StaleProfile",
        "Thresholds",
        "Unmeasured",
        "Usage",
        "Verdict",
        "Windows",
        "__version__",
        "read_verdict",
    ]
    assert guard.__all__ == sorted(guard.__all__)
    assert all(hasattr(guard, name) for name in guard.__all__)


def test_errors_know_whether_to_try_again() -> None:
    """Only ``JudgeUnavailable`` is worth another try; a hint is part of what an error says."""
    assert JudgeUnavailable("x").retryable
    assert not JudgeRejected("x").retryable and not Unmeasured("x").retryable
    assert issubclass(ConfigError, ValueError)
    assert str(JudgeRejected("It failed.", hint="Do this.")) == "It failed. Do this."


@pytest.mark.slow
def test_an_outage_is_heard_without_any_configuration() -> None:
    """An application that never configured logging sees one line on stderr, and no passage."""
    program = (
        "from guard import Gate, JudgeRejected\n"
        "from guard.testing import ScriptedJudge\n"
        "Gate(ScriptedJudge(JudgeRejected('no'))).check('q', ['c'])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert (ran.returncode, ran.stdout) == (0, "")
    assert len(ran.stderr.splitlines()) == 1
    assert "not measured, rejected: no" in ran.stderr
