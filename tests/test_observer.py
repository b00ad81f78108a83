"""Observers hear of every decision once; and the canary, which enforces for some questions only."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from guard import ConfigError, Decision, Gate, JudgeError, JudgeUnavailable, Policy, Retry
from guard.dataset import read
from guard.observer import Observer
from guard.survey import survey
from guard.testing import ScriptedJudge

Ask = Callable[..., Decision]


class Notes:
    """Notes what it hears, and on which thread."""

    def __init__(self, *, blocks: bool = False) -> None:
        self.blocks = blocks
        self.heard: list[Decision] = []
        self.threads: list[int] = []

    def observe(self, decision: Decision) -> None:
        self.heard.append(decision)
        self.threads.append(threading.get_ident())


class Broken(Notes):
    """Cannot keep anything."""

    def observe(self, decision: Decision) -> None:
        raise OSError("no space left on device")


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    def call(gate: Gate, question: str = "When?", contexts: list[str] | None = None) -> Decision:
        passages = ["In 1932."] if contexts is None else contexts
        if request.param == "sync":
            return gate.check(question, passages)
        return asyncio.run(gate.acheck(question, passages))

    return call


@pytest.mark.parametrize("blocks", [True, False])
def test_each_decision_is_told_once(ask: Ask, blocks: bool) -> None:
    notes, others = Notes(blocks=blocks), Notes()
    gate = Gate(
        ScriptedJudge([0.95, 0.5, 0.0, JudgeUnavailable("down")]),
        retry=Retry(attempts=1),
        observers=[notes, others],
    )
    made = [ask(gate) for _ in range(4)]
    made.append(ask(gate, contexts=[]))
    assert [decision.route for decision in made] == [
        "answer",
        "clarify",
        "refuse",
        "refuse",
        "refuse",
    ]
    assert notes.heard == others.heard == made


def test_what_the_policy_raises_is_told_too(ask: Ask) -> None:
    notes = Notes()
    judge = ScriptedJudge(JudgeUnavailable("down"))
    gate = Gate(judge, Policy(on_unmeasured="raise"), retry=Retry(attempts=1), observers=[notes])
    with pytest.raises(JudgeUnavailable) as raised:
        ask(gate)
    assert isinstance(raised.value, JudgeError)
    assert notes.heard == [raised.value.decision]
    assert notes.heard[0].route is None and notes.heard[0].probability is None


def test_a_bug_in_a_judge_is_no_decision(ask: Ask) -> None:
    notes = Notes()

    def bug(query: object) -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(Gate(ScriptedJudge(bug), observers=[notes]))
    assert notes.heard == []


def test_an_observer_that_fails_changes_nothing(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes()
    gate = Gate(ScriptedJudge(0.95), observers=[Broken(), Broken(blocks=True), notes])
    assert ask(gate).route == "answer"
    assert len(notes.heard) == 1
    assert caplog.text.count("an observer failed") == 2


def test_one_that_blocks_is_off_the_event_loop() -> None:
    slow, quick = Notes(blocks=True), Notes()
    gate = Gate(ScriptedJudge(0.95), observers=[slow, quick])
    asyncio.run(gate.acheck("When?", ["In 1932."]))
    assert slow.threads != [threading.get_ident()]
    assert quick.threads == [threading.get_ident()]


def test_a_cancelled_query_is_no_decision() -> None:
    notes, entered = Notes(), threading.Event()

    class Stuck(ScriptedJudge):
        async def ajudge(self, query: Any, *, timeout: float) -> Any:
            entered.set()
            await asyncio.sleep(60)

    async def cancelled() -> None:
        gate = Gate(Stuck(0.95), observers=[notes])
        task = asyncio.create_task(gate.acheck("When?", ["In 1932."]))
        while not entered.is_set():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert notes.heard == []


def test_a_survey_is_not_told(tmp_path: Any) -> None:
    """Its rows are no queries of users."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "When?", "contexts": ["In 1932."], "sufficient": true}\n')
    notes = Notes()
    gate = Gate(ScriptedJudge(0.95), observers=[notes])
    assert len(survey(gate, read(rows))) == 1
    assert notes.heard == []
    gate.check("When?", ["In 1932."])
    assert len(notes.heard) == 1


@pytest.mark.parametrize("wrong", [[print], print, [Notes], "log", [None], None, 3])
def test_what_is_no_observer_is_told(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="is not an observer"):
        Gate(ScriptedJudge(0.9), observers=wrong)


def test_the_contract_is_what_it_says() -> None:
    assert isinstance(Notes(), Observer)
    assert not isinstance(cast("Any", print), Observer)


# ── The canary ───────────────────────────────────────────────────────────────────────────────────


def test_a_canary_enforces_for_a_stable_share() -> None:
    """A share of the questions, each always on the same side; a larger share keeps the smaller."""
    questions = [f"Question {number}?" for number in range(2000)]

    def enforced(share: float | None) -> set[str]:
        gate = Gate(ScriptedJudge(0.0), Policy(canary=share))
        made = {question: gate.check(question, ["Nothing."]) for question in questions}
        assert all(each.route == "refuse" for each in made.values())
        assert all(each.passes is not each.enforced for each in made.values())
        return {question for question, each in made.items() if each.enforced}

    tenth, third = enforced(0.1), enforced(0.3)
    assert 140 < len(tenth) < 260 and 520 < len(third) < 680
    assert tenth == enforced(0.1) and tenth < third < enforced(1.0) == enforced(None)


def test_the_rest_of_a_canary_is_as_in_shadow() -> None:
    """Nothing is raised, everything passes, the record says so."""
    judge = ScriptedJudge(JudgeUnavailable("down"))
    policy = Policy(canary=0.5, on_unmeasured="raise")
    gate = Gate(judge, policy, retry=Retry(attempts=1))
    modes = list[str]()
    for number in range(40):
        try:
            decision = gate.check(f"Question {number}?", ["Nothing."])
        except JudgeUnavailable as error:
            decision = cast("Decision", error.decision)
            assert not decision.passes
        else:
            assert decision.passes
        assert decision.to_dict()["enforced"] is (decision.mode == "enforce")
        modes.append(decision.mode)
    assert {"enforce", "shadow"} == set(modes)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), True, "half"])
def test_a_canary_out_of_range_is_told(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="canary"):
        Policy(canary=wrong)


@pytest.mark.parametrize("policy", [Policy(mode="shadow", canary=1.0), Policy(canary=0)])
def test_shadow_mode_and_a_canary_of_nothing_enforce_nothing(policy: Policy) -> None:
    """What turns the gate off at 3 a.m. is no error because of what stands beside it."""
    gate = Gate(ScriptedJudge(0.0), policy)
    made = [gate.check(f"Question {number}?", ["Nothing."]) for number in range(50)]
    assert all(each.passes and each.mode == "shadow" for each in made)
