"""Windows: contexts too long for a judge, judged part by part, and what a record says of it."""

import asyncio
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import guard.windows
from guard import (
    ConfigError,
    Decision,
    Gate,
    JudgeError,
    JudgeUnavailable,
    Limit,
    Policy,
    Price,
    Profile,
    Prompt,
    Query,
    Reason,
    Retry,
    Route,
    Thresholds,
    Unmeasured,
    Usage,
    Verdict,
    Windows,
)
from guard.audit import AuditLog
from guard.audit_file import Audit
from guard.cache import MemoryCache
from guard.judges import Chain, Link, Mean
from guard.pieces import Space, filled, pieces, runs, seen_of
from guard.prompt import clean
from guard.replay import replay
from guard.room import Room, request_size, room_below
from guard.testing import Scripted, ScriptedJudge
from guard.windows import chosen, most_relevant

Ask = Callable[..., Decision]
QUESTION = "In which year did the keeper of the Orrin lighthouse retire?"
FIRST = "The last keeper of the Orrin lighthouse was Hanna Wold, who came there as a girl."
SECOND = "Hanna Wold gave up her post in 1968 and moved to her sister's farm."
WHOLE = "The keeper of the Orrin lighthouse retired in 1968."


def filler(number: int) -> str:
    """A passage about something else, of 150 characters or so."""
    return (
        f"Report {number}: the mill of valley {number} ground rye and oats until spring, when its "
        f"wheel was mended by {number} carpenters of the town, at a price of {number * 7} crowns."
    )


def forty(**at: str) -> list[str]:
    """Forty passages; some of them, by number from 1, are others: ``p3="…"``."""
    return [at.get(f"p{number}", filler(number)) for number in range(1, 41)]


def too_long() -> Unmeasured:
    return Unmeasured("The prompt is too long.", kind="context_too_long", hint="Shorten it.")


def reader(
    evidence: Sequence[str], capacity: int, *, spent: Usage | None = None, **options: Any
) -> ScriptedJudge:
    """A judge that takes so many characters, and finds the evidence where all of it is shown."""

    def said(query: Query) -> Scripted:
        if sum(map(len, query.contexts)) > capacity:
            return too_long()
        shown = "\n".join(query.contexts)
        p = 0.97 if all(text in shown for text in evidence) else 0.03
        return replace(verdict(p), usage=spent)

    return ScriptedJudge(said, **options)


def verdict(p: float) -> Verdict:
    return Verdict(p, p, p, 1.0, str(p > 0.5), "scripted", "scripted:scripted", "scripted")


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    def call(
        gate: Gate, contexts: Sequence[str], question: str = QUESTION, **more: Any
    ) -> Decision:
        if request.param == "sync":
            return gate.check(question, contexts, **more)
        return asyncio.run(gate.acheck(question, contexts, **more))

    return call


def served(judge: ScriptedJudge) -> list[Query]:
    """What a judge of 2,000 characters was asked and took."""
    return [each for each in judge.queries if sum(map(len, each.contexts)) <= 2000]


# ── What is found ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("place", [1, 2, 20, 37, 39, 40])
@pytest.mark.parametrize("capacity", [700, 2000, 5000])
def test_evidence_in_one_passage_is_found(ask: Ask, place: int, capacity: int) -> None:
    judge = reader([WHOLE], capacity)
    decision = ask(Gate(judge, windows=Windows(64)), forty(**{f"p{place}": WHOLE}))
    assert (decision.route, decision.reason) == (Route.ANSWER, Reason.SUFFICIENT)
    assert decision.verdict and decision.verdict.windows > 1
    assert 0 < decision.verdict.coverage < 1
    assert f"Judged in {decision.verdict.windows} windows" in decision.detail


@pytest.mark.parametrize(("one", "other"), [(3, 37), (37, 3), (1, 40), (20, 21), (40, 2)])
@pytest.mark.parametrize("capacity", [700, 2000, 5000])
def test_evidence_in_two_passages_is_found(ask: Ask, one: int, other: int, capacity: int) -> None:
    """The second half shares no word with the question: it is found through the first."""
    contexts = forty(**{f"p{one}": FIRST, f"p{other}": SECOND})
    decision = ask(Gate(reader([FIRST, SECOND], capacity), windows=Windows(64)), contexts)
    assert decision.route is Route.ANSWER


def test_evidence_that_the_choice_misses_is_no_reason_to_refuse(ask: Ask) -> None:
    """Two halves that share words with nothing: the record says how little was judged at once."""
    halves = [f"Blue lamps hung there, {'very ' * 40}low.", f"Four geese, {'so ' * 70}white."]
    judge = reader(halves, 700)
    decision = ask(Gate(judge, windows=Windows(64)), forty(p3=halves[0], p37=halves[1]))
    assert (decision.route, decision.reason) == (Route.CLARIFY, Reason.PARTIAL_COVERAGE)
    assert decision.verdict and decision.verdict.coverage < 0.3
    assert "of the contexts was judged at once." in decision.detail


def test_nothing_is_refused_on_windows(ask: Ask) -> None:
    """Each of them alone is insufficient: what all of them hold together nobody has judged."""
    decision = ask(Gate(ScriptedJudge(_short_only)), forty())
    assert (decision.route, decision.reason) == (Route.CLARIFY, Reason.PARTIAL_COVERAGE)


def _short_only(query: Query) -> Scripted:
    return too_long() if len(query.contexts) > 10 else 0.0


def test_all_passages_are_shown_in_their_order(ask: Ask) -> None:
    judge = reader([WHOLE], 2000)
    ask(Gate(judge, windows=Windows(64)), contexts := forty(p40=WHOLE))
    *windows, last = served(judge)
    # The largest is asked alone, before the others.
    assert sorted(text for each in windows for text in each.contexts) == sorted(contexts)
    for each in [*windows, last]:
        assert [*each.contexts] == sorted(each.contexts, key=contexts.index)
        assert each.question == QUESTION


def test_beyond_so_many_windows_the_most_relevant_passages_are_judged(ask: Ask) -> None:
    judge = reader([WHOLE], 700)
    contexts = [filler(number) for number in range(2000)]
    contexts[1777] = WHOLE
    decision = ask(Gate(judge, windows=Windows(3)), contexts)
    assert decision.route is Route.ANSWER
    assert decision.verdict and decision.verdict.windows <= 3
    assert decision.verdict.coverage < 0.01
    assert "Less than 1 % of the contexts was judged at once." in decision.detail
    missed = ask(Gate(reader(["Report 5:", "Report 1999:"], 700), windows=Windows(3)), contexts)
    assert missed.reason is Reason.PARTIAL_COVERAGE


@pytest.mark.parametrize("place", [0.0, 0.37, 0.5, 0.99])
def test_one_long_passage_is_divided(ask: Ask, place: float) -> None:
    """Evidence on the border of two parts stands whole in one of them."""
    text = " ".join(filler(number) for number in range(60))
    at = round(place * len(text))
    decision = ask(
        Gate(reader([WHOLE], 2000), windows=Windows(64)), [f"{text[:at]} {WHOLE} {text[at:]}"]
    )
    assert decision.route is Route.ANSWER
    assert decision.verdict and decision.verdict.windows > 1


def test_history_helps_to_choose(ask: Ask) -> None:
    """Alone the question names nothing."""
    contexts = forty(p3="Hanna Wold kept the Orrin light.", p37="Wold of the Orrin left in 1968.")
    judge = reader([contexts[2], contexts[36]], 700)
    history = [("user", "Who kept the Orrin light?"), ("assistant", "Hanna Wold.")]
    gate = Gate(judge, windows=Windows(64))
    assert ask(gate, contexts, "And when?", history=history).route is Route.ANSWER
    assert all(each.history == judge.queries[0].history for each in judge.queries)


# ── What is not ──────────────────────────────────────────────────────────────────────────────────


def test_without_windows_it_is_not_measured(ask: Ask) -> None:
    judge = reader([WHOLE], 700)
    decision = ask(Gate(judge, windows=Windows(1)), forty(p40=WHOLE))
    assert decision.reason is Reason.CONTEXT_TOO_LONG
    assert "Shorten it. Windows are off (windows = 1)" in decision.detail
    assert len(judge.queries) == 1


def test_nothing_is_asked_twice(ask: Ask) -> None:
    """Neither a window that is the same in the next smaller room, nor the best that is a window."""
    passages = [f"{word} {'keeper of the lighthouse ' * 22}" for word in ("One", "Two", "Three")]

    def said(query: Query) -> Scripted:
        if len(query.contexts) > 1 and query.contexts != (passages[1], passages[2]):
            return too_long()
        return 0.3

    judge = ScriptedJudge(said)
    decision = ask(Gate(judge), passages)
    assert decision.verdict and decision.verdict.windows > 1
    asked = [each.contexts for each in judge.queries]
    assert len(asked) == len({*asked}) == decision.attempts


def test_alike_windows_are_asked_once(ask: Ask) -> None:
    judge = reader([WHOLE], 700)
    found = ask(Gate(judge, windows=Windows(64)), ["The mill ground rye. " * 20] * 12).verdict
    asked = [each.contexts for each in judge.queries]
    assert found and found.windows > 4 and len(asked) == len({*asked})
    assert (found.seen, found.unseen) == (1.0, ())


# ── What was never judged ────────────────────────────────────────────────────────────────────────


def test_what_was_never_judged_is_told(ask: Ask) -> None:
    contexts = forty(p7="", p8=WHOLE)
    judge = reader([WHOLE], 700)
    gate = Gate(judge, windows=Windows(3))
    for _ in range(2):  # Knowing the room, and not.
        asked = len(judge.queries)
        found = ask(gate, contexts).verdict
        assert found and found.windows == 3 and found.unseen
        taken = [each for each in served(judge) if sum(map(len, each.contexts)) <= 700]
        shown = {text for each in taken for text in each.contexts if each in judge.queries[asked:]}
        missing = [at for at, text in enumerate(contexts) if text and text not in shown]
        assert found.unseen == runs(missing)
        total = sum(map(len, contexts))
        left_out = sum(len(contexts[at]) for at in missing)
        assert math.isclose(found.seen, 1 - left_out / total)
        assert found.coverage < found.seen < 1


def test_all_that_was_judged_is_told_as_well(ask: Ask) -> None:
    found = ask(Gate(reader([WHOLE], 2000), windows=Windows(64)), forty(p40=WHOLE)).verdict
    assert found and found.coverage < 1
    assert (found.seen, found.unseen) == (1.0, ())


def test_a_passage_that_was_seen_in_part_is_unseen() -> None:
    contexts = ["abc", " ", "defghi", "jkl", "m"]
    every = pieces(contexts, Space(chars=3))
    seen = [piece for piece in every if piece.text in ("abc", "def")]
    assert [piece.text for piece in every if piece.place == 2] == ["def", "ghi"]
    assert seen_of(contexts, seen) == (6 / 13, ((2, 4),))
    assert seen_of(contexts, every) == (1.0, ())
    assert seen_of(contexts, []) == (0.0, ((0, 0), (2, 4)))


def test_what_no_window_makes_shorter_is_not_measured(ask: Ask) -> None:
    """A question that is too long by itself."""
    judge = ScriptedJudge(lambda _: too_long())
    decision = ask(Gate(judge), forty())
    assert (decision.reason, decision.probability) == (Reason.CONTEXT_TOO_LONG, None)
    assert "Shorten it." in decision.detail
    assert len(judge.queries) < 8


def test_a_short_set_is_not_asked_twice(ask: Ask) -> None:
    """It is its own only window."""
    judge = ScriptedJudge(lambda _: too_long())
    decision = ask(Gate(judge), ["Short."])
    assert (decision.reason, decision.attempts) == (Reason.CONTEXT_TOO_LONG, 1)


FAILURES = [
    JudgeUnavailable("It is down."),
    JudgeUnavailable("Slow down.", kind="rate_limited"),
    Unmeasured("No label had any mass.", kind="low_mass"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda each: str(each.kind))
@pytest.mark.parametrize("last", [False, True], ids=["a window", "the last"])
def test_all_requests_are_needed(ask: Ask, failure: JudgeError, last: bool) -> None:
    """What one of them would have held nobody knows: its failure is the query's."""
    contexts = forty(p3=WHOLE)

    def said(query: Query) -> Scripted:
        if len(query.contexts) > 10:
            return too_long()
        start = min(map(contexts.index, query.contexts))
        is_window = [*query.contexts] == contexts[start : start + len(query.contexts)]
        failing = (contexts[30] in query.contexts) if not last else not is_window
        return failure if failing else 0.97 if WHOLE in query.contexts else 0.03

    policy = Policy(on_unmeasured="clarify")
    gate = Gate(ScriptedJudge(said), policy, retry=Retry(attempts=1), windows=Windows(64))
    decision = ask(gate, contexts)
    assert decision.reason.value == failure.kind
    assert (decision.route, decision.probability) == (Route.CLARIFY, None)


def test_a_window_is_tried_again(ask: Ask) -> None:
    """As any request: one that is lost once is no reason to give up."""
    lost = threading.Event()

    def said(query: Query) -> Scripted:
        if len(query.contexts) > 10:
            return too_long()
        if filler(30) in query.contexts and not lost.is_set():
            lost.set()
            return JudgeUnavailable("It is down.")
        return 0.97 if WHOLE in query.contexts else 0.03

    decision = ask(
        Gate(ScriptedJudge(said), retry=Retry(first_wait=0.0, max_wait=0.01)), forty(p40=WHOLE)
    )
    assert lost.is_set() and decision.route is Route.ANSWER


def test_a_bug_in_a_judge_surfaces(ask: Ask) -> None:
    def said(query: Query) -> Scripted:
        return too_long() if len(query.contexts) > 10 else ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        ask(Gate(ScriptedJudge(said)), forty())


# ── Time ─────────────────────────────────────────────────────────────────────────────────────────


def test_windows_are_judged_at_once_and_within_the_deadline(ask: Ask) -> None:
    """One after another they would take 2 s."""

    def delay(query: Query) -> float:
        return 0.2 * (len(query.contexts) < 20)

    judge = reader([WHOLE], 2000, delay=delay)
    started = time.monotonic()
    assert ask(Gate(judge, windows=Windows(64)), forty(p40=WHOLE)).route is Route.ANSWER
    assert len(judge.queries) > 6
    assert time.monotonic() - started < 1.3


def test_the_deadline_holds_for_all_together(ask: Ask) -> None:
    judge = reader([WHOLE], 2000, delay=0.3)
    started = time.monotonic()
    decision = ask(Gate(judge, Policy(deadline=0.7), windows=Windows(64)), forty(p40=WHOLE))
    assert (decision.reason, decision.probability) == (Reason.TIMEOUT, None)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("place", ["divided", "chosen"])
def test_the_deadline_holds_while_texts_are_worked_on(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Dividing and choosing take time as well; the thread that does is left behind."""
    name = "pieces" if place == "divided" else "chosen"
    usual: Any = getattr(guard.windows, name)

    def slow(*args: Any) -> Any:
        time.sleep(1.0)
        return usual(*args)

    monkeypatch.setattr(guard.windows, name, slow)
    contexts = [filler(number) * 4 for number in range(100)]
    assert Query.of(QUESTION, contexts).is_long
    seconds = 0.3 if place == "divided" else 0.6
    judge, started = ScriptedJudge(lambda _: too_long()), time.monotonic()
    if place == "chosen":
        judge = reader([WHOLE], 40_000)
    decision = ask(Gate(judge, Policy(deadline=seconds)), contexts)
    assert (decision.reason, decision.probability) == (Reason.TIMEOUT, None)
    assert time.monotonic() - started < 0.95


LONG_SETS = {
    "10,000 passages": lambda: [filler(number) for number in range(10_000)],
    "5 MB": lambda: [" ".join(filler(number) for number in range(31_000))],
    "5 MB without a space": lambda: ["ab" * 2_500_000],
    "a question of 400 kB": lambda: [filler(number) for number in range(6000)],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LONG_SETS)
@pytest.mark.parametrize("at_most", [8, 1000])
def test_long_sets_take_bounded_time(kind: str, at_most: int) -> None:
    """Alone it takes 2 s at most; what grew with the square would take hours."""
    contexts = LONG_SETS[kind]()
    question = QUESTION + " ".join(f" rye {number}" for number in range(35_000 * ("que" in kind)))
    judge = reader([WHOLE], 16_000)
    started = time.monotonic()
    decision = Gate(judge, Policy(deadline=100), windows=Windows(at_most)).check(question, contexts)
    print(f"{kind}, {at_most} windows: {time.monotonic() - started:.2f} s")
    assert time.monotonic() - started < 20
    assert decision.verdict and (decision.verdict.seen == 1) is (not decision.verdict.unseen)


def test_cancelling_ends_every_request() -> None:
    begun, cancelled = list[Query](), list[Query]()

    class Slow(ScriptedJudge):
        async def ajudge(self, query: Query, *, timeout: float) -> Verdict:
            if len(query.contexts) > 10:
                raise too_long()
            begun.append(query)
            try:
                # The first is asked alone.
                await asyncio.sleep(60 * (len(begun) > 1))
            except asyncio.CancelledError:
                cancelled.append(query)
                raise
            return verdict(0.03)

    async def main() -> None:
        task = asyncio.create_task(Gate(Slow(0.5)).acheck(QUESTION, forty()))
        while len(begun) < 4:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert cancelled == begun[1:]

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_judge_that_cannot_be_interrupted(ask: Ask) -> None:
    """Its windows are judged on workers."""
    judge = reader([WHOLE], 2000)
    judge.cancellable = False
    assert ask(Gate(judge, windows=Windows(64)), forty(p40=WHOLE)).route is Route.ANSWER


def test_inside_an_event_loop_check_serves_too() -> None:
    """Whoever calls it there blocks that loop, but not ours."""

    async def main() -> Decision:
        return Gate(reader([WHOLE], 2000), windows=Windows(64)).check(QUESTION, forty(p40=WHOLE))

    assert asyncio.run(main()).route is Route.ANSWER


def test_many_at_once() -> None:
    gate = Gate(reader([WHOLE], 2000), windows=Windows(64))
    with ThreadPoolExecutor(16) as pool:
        made = [*pool.map(gate.check, [QUESTION] * 48, [forty(p40=WHOLE)] * 48)]

    async def tasks() -> list[Decision]:
        return [*await asyncio.gather(*(gate.acheck(QUESTION, forty()) for _ in range(48)))]

    assert {each.route for each in made} == {Route.ANSWER}
    assert {each.reason for each in asyncio.run(tasks())} == {Reason.PARTIAL_COVERAGE}


class Gauge(ScriptedJudge):
    """Counts who is inside, and the most that ever were."""

    def __init__(self, at_once: int = 10) -> None:
        super().__init__(0.03)
        self.at_once = at_once
        self.inside = self.most = 0

    async def ajudge(self, query: Query, *, timeout: float) -> Verdict:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            self.queries.append(query)
            await asyncio.sleep(0.01)
            if len(query.contexts) > self.at_once:
                raise too_long()
            return verdict(0.03)
        finally:
            self.inside -= 1


def test_a_full_gate_asks_windows_one_after_another(ask: Ask) -> None:
    """The place of the query is the only one: in their order, and without waiting for itself."""
    limit = Limit(1, 0)
    judge, seen = reader([WHOLE], 2000), list[int]()

    def said(query: Query) -> Scripted:
        seen.append(limit.in_flight)
        return judge.judge(query, timeout=1)

    counted = ScriptedJudge(said)
    decision = ask(Gate(counted, limit=limit, windows=Windows(64)), contexts := forty(p40=WHOLE))
    assert decision.route is Route.ANSWER
    assert {*seen} == {1} and limit.in_flight == 0
    starts = [contexts.index(each.contexts[0]) for each in served(counted)[1:-1]]
    assert starts == sorted(starts)


@pytest.mark.parametrize("in_flight", [1, 3, 6])
def test_windows_never_exceed_the_limit(in_flight: int) -> None:
    judge, limit = Gauge(), Limit(in_flight, 5)
    gate = Gate(judge, limit=limit, windows=Windows(64))

    async def four() -> list[Decision]:
        calls = (gate.acheck(f"{QUESTION} {number}", forty()) for number in range(4))
        return [*await asyncio.gather(*calls)]

    made = asyncio.run(asyncio.wait_for(four(), 20))
    measured = [each for each in made if each.reason is Reason.PARTIAL_COVERAGE]
    # As many may wait as may be in flight.
    assert len(measured) == min(4, 2 * in_flight)
    assert judge.most == in_flight
    assert limit.in_flight == 0


def test_who_waits_goes_before_another_window() -> None:
    """A query with many windows does not keep the places that it found spare."""
    judge = Gauge(2)
    gate = Gate(judge, limit=Limit(4, 5), windows=Windows(64))

    async def two() -> int:
        long = asyncio.create_task(gate.acheck(QUESTION, forty()))
        while judge.inside < 4:
            await asyncio.sleep(0.001)
        await gate.acheck("Short?", ["Yes."])
        asked = len(judge.queries)
        assert not long.done()
        await long
        return len(judge.queries) - asked

    assert asyncio.run(two()) > 8


# ── What is kept ─────────────────────────────────────────────────────────────────────────────────


def test_what_it_cost_is_the_total(ask: Ask) -> None:
    judge = reader([WHOLE], 2000, spent=Usage(100, 1, 10))
    gate = Gate(judge, windows=Windows(64), price=Price(input=1000.0, output=0.0))
    decision = ask(gate, forty(p40=WHOLE))
    paid = len(served(judge))
    assert decision.verdict
    assert decision.verdict.usage == Usage(100 * paid, paid, 10 * paid, paid)
    assert decision.attempts == len(judge.queries) > paid
    assert decision.cost and decision.cost > 0
    assert decision.verdict.windows == paid - 1


def test_the_next_query_begins_where_the_last_one_ended(ask: Ask) -> None:
    judge = reader([WHOLE], 700)
    gate = Gate(judge, windows=Windows(64))
    first = ask(gate, forty(p40=WHOLE))
    second = ask(gate, forty(p39=WHOLE))
    assert first.verdict and second.verdict
    assert (second.route, second.verdict.windows) == (first.route, first.verdict.windows)
    # No request but those that are needed, and one as a whole: it is not hopelessly long.
    assert second.attempts == second.verdict.windows + 2 < first.attempts


def test_what_is_hopelessly_long_is_not_tried_as_a_whole(ask: Ask) -> None:
    judge = reader([WHOLE], 700)
    gate = Gate(judge, windows=Windows(64))
    ask(gate, forty(p40=WHOLE))
    before = len(judge.queries)
    ask(gate, [*forty(p40=WHOLE)] * 8)
    assert all(len(each.contexts) < 40 for each in judge.queries[before:])


def test_a_dense_text_does_not_make_the_room_small_for_all(ask: Ask) -> None:
    """One that has many tokens for its bytes may be somebody's attack."""

    def said(query: Query) -> Scripted:
        tokens = sum(len(text) * (4 if "\u16a0" in text else 1) for text in query.contexts)
        return too_long() if tokens > 4000 else 0.97 if WHOLE in query.contexts else 0.03

    judge = ScriptedJudge(said)
    gate = Gate(judge, windows=Windows(64))
    usual = ask(gate, forty(p40=WHOLE)).verdict
    for _ in range(3):
        ask(gate, ["\u16a0" * 300] * 40)
    again = ask(gate, forty(p40=WHOLE)).verdict
    assert usual and again
    assert (again.windows, again.coverage) == (usual.windows, usual.coverage)


def test_room_that_a_dense_text_taught_grows_again() -> None:
    room = Room()
    room.fits(1024)
    tried = [next(room.rooms(100_000, 300)) for _ in range(32)]
    assert sorted({*tried}) == [1024, 2048] and tried.count(2048) == 2
    room.fits(2048)
    room.fits(1024)
    assert next(room.rooms(100_000, 300)) == 2048


def test_what_is_judged_as_a_whole_fits() -> None:
    """It raises what is known; where nothing is, there is nothing to begin with."""
    room, query = Room(), Query.of(QUESTION, ["a" * 5000])
    room.took(query)
    assert next(room.rooms(100_000, 300)) == 65536
    room.fits(1024)
    room.took(query)
    assert next(room.rooms(100_000, 300)) == 4096
    room.took(Query.of(QUESTION, ["a" * 1500]))
    assert next(room.rooms(100_000, 300)) == 4096


def test_the_smallest_room_teaches_nothing() -> None:
    room = Room()
    room.fits(512)
    assert room.known is None


def test_contexts_get_what_a_question_leaves_of_a_room() -> None:
    query = Query.of(f"{QUESTION} {'Tell me, please. ' * 170}", forty())
    trip, asked = Windows(64).trip(query, too_long(), Room()), list[int]()
    [largest] = next(trip)
    with pytest.raises(Unmeasured, match="too long"):
        while True:
            asked.append(request_size(largest))
            [largest] = trip.send([too_long()])
    # Then two small sizes more, as no smaller room holds the question.
    assert request_size(query) > 8192 >= asked[0] > 7800
    assert 4096 >= asked[1] > 3800
    assert len(asked) <= 4 and all(3000 < size < asked[1] for size in asked[2:])


@pytest.mark.parametrize("as_history", [False, True], ids=["question", "history"])
def test_a_long_question_does_not_shrink_the_room_for_others(ask: Ask, as_history: bool) -> None:
    """What a judge takes, it takes of question, history and contexts together."""

    def said(query: Query) -> Scripted:
        own = len(query.question) + sum(len(turn.text) for turn in query.history)
        if own + sum(map(len, query.contexts)) > 4500:
            return too_long()
        return 0.97 if WHOLE in query.contexts else 0.03

    judge = ScriptedJudge(said)
    alone = ask(Gate(judge, windows=Windows(64)), forty(p40=WHOLE)).verdict
    gate, history = Gate(ScriptedJudge(said), windows=Windows(64)), list[tuple[str, str]]()
    question = f"{QUESTION} {'Tell me, please. ' * 210}"
    if as_history:
        question, history = QUESTION, [("user", "Tell me, please. " * 210)]
    long = ask(gate, forty(p40=WHOLE), question, history=history)
    assert long.route is Route.ANSWER
    after = ask(gate, forty(p40=WHOLE)).verdict
    assert alone and after and long.verdict
    assert (after.windows, after.coverage) == (alone.windows, alone.coverage)
    assert long.verdict.windows > alone.windows > 1


def test_a_question_without_room_for_contexts_teaches_nothing(ask: Ask) -> None:
    """It is what is too long: that is said, and nobody else's windows shrink for it."""
    judge = reader([WHOLE], 2000)

    def said(query: Query) -> Scripted:
        return too_long() if len(query.question) > 3000 else judge.judge(query, timeout=1)

    gate = Gate(ScriptedJudge(said), windows=Windows(64))
    usual = ask(gate, forty(p40=WHOLE)).verdict
    long = ask(gate, forty(p40=WHOLE), f"{QUESTION} {'Tell me. ' * 2000}")
    assert (long.reason, long.probability) == (Reason.CONTEXT_TOO_LONG, None)
    assert "shorten question and history" in long.detail
    again = ask(gate, forty(p40=WHOLE)).verdict
    assert usual and again and again.windows == usual.windows


def test_a_question_that_takes_most_of_the_room(ask: Ask) -> None:
    """No power of two lies between it and the whole: small parts stand beside it."""

    def said(query: Query) -> Scripted:
        size = len(query.question) + sum(map(len, query.contexts))
        return too_long() if size > 6000 else 0.97 if WHOLE in query.contexts else 0.03

    question = f"{QUESTION} {'Tell me, please. ' * 290}"
    decision = ask(Gate(ScriptedJudge(said), windows=Windows(64)), forty(p40=WHOLE)[-12:], question)
    assert decision.route is Route.ANSWER


def test_a_verdict_in_windows_is_not_cached(ask: Ask) -> None:
    """They may be larger once more is known of how much the judge takes."""
    judge = reader([WHOLE], 2000)
    gate = Gate(judge, cache=MemoryCache(), windows=Windows(64))
    first, asked = ask(gate, forty(p40=WHOLE)), len(judge.queries)
    second = ask(gate, forty(p40=WHOLE))
    assert first.verdict and second.verdict and not second.cached
    assert len(judge.queries) > asked
    assert second.verdict.p_true == first.verdict.p_true


def test_the_record_and_a_replay(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    policy = Policy()
    made = list[Decision]()
    with AuditLog(path) as log:
        gate = Gate(reader([WHOLE], 2000), policy, observers=[log], windows=Windows(64))
        made += [ask(gate, forty(p40=WHOLE)), ask(gate, forty())]
    for decision in made:
        record = decision.to_dict()
        assert decision.verdict
        assert record["windows"] == decision.verdict.windows > 1
        assert record["coverage"] == decision.verdict.coverage < 1
    replayed = [*replay(Audit(path).records(), policy, gate.route)]
    assert [each.after for each in replayed] == ["answer", "clarify"]
    assert [each.routed.reason for each in replayed] == [each.reason for each in made]
    assert [each.record.verdict for each in replayed] == [each.verdict for each in made]


# ── Chains and means ─────────────────────────────────────────────────────────────────────────────


def chain_of(first: ScriptedJudge, second: ScriptedJudge) -> Chain:
    profile = Profile(Thresholds(0.85, 0.3), fingerprint=second.fingerprint)
    return Chain([first, Link(second, profile)])


def test_a_chain_whose_second_judge_has_room_needs_no_windows(ask: Ask) -> None:
    chain = chain_of(reader([WHOLE], 700, name="small"), reader([WHOLE], 10**6, name="large"))
    decision = ask(Gate(chain), forty(p40=WHOLE))
    assert decision.route is Route.ANSWER
    assert decision.verdict and (decision.verdict.windows, decision.verdict.coverage) == (1, 1.0)
    assert [each.kind for each in decision.tried] == ["context_too_long"]


def test_a_chain_of_small_judges_is_asked_in_windows(ask: Ask) -> None:
    chain = chain_of(reader([WHOLE], 700, name="one"), reader([WHOLE], 700, name="two"))
    decision = ask(Gate(chain, windows=Windows(64)), forty(p40=WHOLE))
    assert decision.route is Route.ANSWER
    assert decision.verdict and decision.verdict.windows > 1
    assert decision.fingerprint == "scripted:one"


def test_the_verdict_is_that_of_one_judge(ask: Ask) -> None:
    """Where another one had to measure a window, the best one's profile decides."""

    def said(query: Query) -> Scripted:
        if len(query.contexts) > 10:
            return too_long()
        if filler(30) in query.contexts:
            return JudgeUnavailable("It is down.")
        return 0.97 if WHOLE in query.contexts else 0.03

    def other(query: Query) -> Scripted:
        return too_long() if len(query.contexts) > 10 else 0.02

    chain = chain_of(ScriptedJudge(said, name="one"), ScriptedJudge(other, name="two"))
    gate = Gate(chain, retry=Retry(attempts=1), windows=Windows(64))
    decision = ask(gate, forty(p40=WHOLE))
    assert (decision.route, decision.fingerprint) == (Route.ANSWER, "scripted:one")
    decision = ask(gate, forty(p30=f"{filler(30)} {WHOLE}", p31=filler(30)))
    assert decision.fingerprint in ("scripted:one", "scripted:two")
    # What was too long for both is told once, however many windows were tried.
    assert len(decision.tried) <= 3


@pytest.mark.parametrize("last", ["one", "two"])
def test_verdicts_of_other_judges_do_not_win(ask: Ask, last: str) -> None:
    """Their probabilities mean something else: those of who had the last word count."""
    contexts = forty()

    def said(query: Query) -> Scripted:
        if len(query.contexts) > 10:
            return too_long()
        start = min(map(contexts.index, query.contexts))
        is_window = [*query.contexts] == contexts[start : start + len(query.contexts)]
        fails = is_window and start == 0 if last == "one" else not is_window
        return JudgeUnavailable("It is down.") if fails else 0.4

    def other(query: Query) -> Scripted:
        first = [*query.contexts] == contexts[: len(query.contexts)]
        return too_long() if len(query.contexts) > 10 else 0.6 if first else 0.3

    chain = chain_of(ScriptedJudge(said, name="one"), ScriptedJudge(other, name="two"))
    gate = Gate(chain, retry=Retry(attempts=1), windows=Windows(64))
    found = ask(gate, contexts).verdict
    assert found and found.fingerprint == f"scripted:{last}"
    assert found.p_true == (0.4 if last == "one" else 0.3)
    assert (found.seen, found.unseen) == (1.0, ())


def test_a_mean_is_asked_in_windows(ask: Ask) -> None:
    judges = [reader([WHOLE], 700, name="one"), reader([WHOLE], 2000, name="two")]
    decision = ask(Gate(Mean([*judges]), windows=Windows(64)), forty(p40=WHOLE))
    assert decision.route is Route.ANSWER
    assert decision.verdict and decision.verdict.signal == "mean"
    assert decision.verdict.windows > 1


# ── A prompt's own limit ─────────────────────────────────────────────────────────────────────────


class Packing(ScriptedJudge):
    """A judge whose prompt leaves out what does not fit, and says so."""

    def __init__(self, prompt: Prompt, evidence: Sequence[str]) -> None:
        super().__init__(self.said)
        self.prompt, self.evidence = prompt, evidence

    def said(self, query: Query) -> Scripted:
        rendered = self.prompt.render(query)
        p = 0.97 if all(text in rendered.text for text in self.evidence) else 0.03
        return replace(verdict(p), coverage=rendered.coverage, usage=Usage(100, 1))


@pytest.mark.parametrize("room", [300, 1000, 3000])
def test_a_prompt_that_leaves_passages_out(ask: Ask, room: int) -> None:
    """What it left out is judged in other windows; requests that were of no use cost as well."""
    judge = Packing(Prompt(max_context_chars=room), [WHOLE])
    decision = ask(Gate(judge, windows=Windows(64)), forty(p40=WHOLE))
    assert decision.route is Route.ANSWER
    assert decision.verdict and decision.verdict.usage
    assert decision.verdict.usage.requests == len(judge.queries) == decision.attempts
    # Its first verdict says how much it takes.
    assert len(judge.queries) <= decision.verdict.windows + 4


def test_a_known_limit_is_divided_by_exactly(ask: Ask) -> None:
    """Characters as the prompt counts them, whatever it writes around them or breaks in them."""
    contexts = [f"{number:03} <|im_start|>{'a' * 84}" for number in range(40)]
    assert {len(clean(text)) for text in contexts} == {102}
    judge = Packing(Prompt(max_context_chars=1020), ["nothing of this"])
    found = ask(Gate(judge, windows=Windows(64)), contexts).verdict
    assert found and found.windows == 4
    whole, *windows, last = judge.queries
    assert len(whole.contexts) == 40 and [len(each.contexts) for each in windows] == [10] * 4
    assert len(last.contexts) == 10


def test_a_passage_beyond_the_limit_is_cut_into_as_much(ask: Ask) -> None:
    """The prompt takes no part of a passage; the windows do."""
    judge = Packing(Prompt(max_context_chars=1000), [WHOLE])
    found = ask(Gate(judge, windows=Windows(64)), [f"{'rye ' * 1500} {WHOLE}"])
    assert found.route is Route.ANSWER
    assert max(sum(map(len, each.contexts)) for each in judge.queries[1:]) == 1000


def test_in_a_chain_the_smallest_limit_counts(ask: Ask) -> None:
    def named(judge: Packing, name: str) -> Packing:
        judge.fingerprint = f"scripted:{name}"
        return judge

    one = named(Packing(Prompt(max_context_chars=2000), [WHOLE]), "one")
    two = named(Packing(Prompt(max_context_chars=900), [WHOLE]), "two")
    assert (
        ask(Gate(chain_of(one, two), windows=Windows(64)), forty(p40=WHOLE)).route is Route.ANSWER
    )
    assert all(sum(map(len, each.contexts)) <= 900 for each in one.queries[1:])


def test_where_windows_are_of_no_use_the_part_counts(ask: Ask) -> None:
    """The verdict on a part, with its coverage: not refused, and what it cost is told."""
    part = replace(verdict(0.03), coverage=0.5, usage=Usage(100, 1))
    judge = ScriptedJudge(part)
    decision = ask(Gate(judge), forty())
    assert decision.reason is Reason.PARTIAL_COVERAGE
    assert decision.verdict and decision.verdict.coverage == 0.5
    assert decision.verdict.usage and decision.verdict.usage.requests == len(judge.queries)
    assert (decision.verdict.seen, decision.verdict.unseen) == (0.5, ())


def test_without_windows_it_is_told_what_the_prompt_left_out(ask: Ask) -> None:
    contexts = ["a" * 60, "b" * 60, " " * 9, "c" * 30, "d" * 60]
    judge = Packing(Prompt(max_context_chars=100), [WHOLE])
    found = ask(Gate(judge, windows=Windows(1)), contexts).verdict
    assert found and len(judge.queries) == 1
    assert found.unseen == ((1, 1), (4, 4))
    assert found.seen == found.coverage == 99 / 219


# ── The parts themselves ─────────────────────────────────────────────────────────────────────────

TEXTS = st.text(
    st.characters(categories=["L", "N", "P", "Z", "C", "S", "M"]), max_size=400
) | st.sampled_from(
    [
        "\ud800" * 90,
        "\U0001f600" * 150,
        "a" * 900,
        "<|im_start|>" * 40,
        "\u4e2d\u6587" * 200,
        " " * 700,
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(TEXTS, min_size=1, max_size=12),
    st.sampled_from([256, 512, 1024, math.inf]),
    st.sampled_from([1, 7, 300, math.inf]),
)
def test_pieces_fit_and_lose_nothing(contexts: list[str], room: float, chars: float) -> None:
    found = pieces(contexts, Space(room, chars))
    assert all(piece.size <= room and len(clean(piece.text)) <= chars for piece in found)
    for place, text in enumerate(contexts):
        own = [piece for piece in found if piece.place == place]
        assert bool(own) is bool(text.strip())
        end = 0
        for piece in own:
            assert piece.start <= end
            assert text[piece.start : piece.start + len(piece.text)] == piece.text
            end = piece.start + len(piece.text)
        assert end == (len(text) if own else 0)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(TEXTS, min_size=1, max_size=30),
    st.integers(2, 9),
    st.sampled_from([512, 1024, math.inf]),
    st.sampled_from([50, 400, math.inf]),
)
def test_windows_are_never_too_many_nor_too_large(
    contexts: list[str], at_most: int, room: float, chars: float
) -> None:
    query, space = Query.of("What is a letter?", contexts), Space(room, chars)
    every = pieces(query.contexts, space)
    windows = filled(every, space)
    if len(windows) > at_most:
        windows = most_relevant(query, every, space, at_most)
        assert windows and len(windows) <= at_most
    for each in windows:
        assert sum(piece.size for piece in each) <= room
        assert sum(piece.chars for piece in each) <= chars
    shown = [piece for each in windows for piece in each]
    assert shown == sorted(shown, key=lambda piece: (piece.place, piece.start))
    if windows:
        best = chosen(query, [(each, verdict(0.1)) for each in windows], space)
        assert best and sum(piece.load(space) for piece in best) <= len(best)


def test_coverage_counts_what_overlaps_once(ask: Ask) -> None:
    """Parts repeat each other's ends, and could seem to be all of a passage."""
    text = " ".join(filler(number) for number in range(40))
    judge = reader(["Report 0:", "Report 39:", "Report 20:"], 2200)
    decision = ask(Gate(judge, windows=Windows(64)), [text])
    shown = max(sum(map(len, each.contexts)) for each in judge.queries[1:])
    assert decision.verdict
    assert decision.verdict.coverage < shown / len(text) + 1e-9


def test_blank_passages_are_not_left_out(ask: Ask) -> None:
    """There is nothing in them to be judged."""
    judge = ScriptedJudge(lambda query: too_long() if len(query.contexts) > 1 else 0.03)
    decision = ask(Gate(judge), ["The mill ground rye.", *[" " * 4000] * 5])
    assert (decision.route, decision.reason) == (Route.REFUSE, Reason.INSUFFICIENT)
    assert decision.verdict and (decision.verdict.windows, decision.verdict.coverage) == (1, 1.0)


def test_many_short_passages_are_mostly_delimiters(ask: Ask) -> None:
    """A prompt writes 70 characters around each."""
    prompt = Prompt()

    def said(query: Query) -> Scripted:
        return too_long() if len(prompt.render(query).text) > 6000 else 0.03

    decision = ask(Gate(ScriptedJudge(said)), [f"{number}" for number in range(3000)])
    assert decision.reason is Reason.PARTIAL_COVERAGE


@pytest.mark.parametrize(
    ("size", "room"), [(0, 512), (512, 512), (1024, 512), (1025, 1024), (10**6, 2**19)]
)
def test_rooms_are_powers_of_two(size: int, room: int) -> None:
    assert room_below(size) == room


@pytest.mark.parametrize("at_most", [0, -1, 1001, 2.5, True, "8", None, math.nan])
def test_a_number_of_windows_out_of_range(at_most: Any) -> None:
    with pytest.raises(ConfigError, match="windows"):
        Windows(at_most)


def test_a_gate_takes_windows_alone() -> None:
    with pytest.raises(ConfigError, match="windows"):
        Gate(ScriptedJudge(0.5), windows=8)  # type: ignore[arg-type]


# ── Order ────────────────────────────────────────────────────────────────────────────────────────


def test_the_order_of_the_passages_does_not_decide(ask: Ask) -> None:
    """Wherever the two halves stand, they are found, in as many windows."""
    order, found = random.Random(8), set[tuple[Route | None, int]]()
    for _ in range(20):
        contexts = forty(p3=FIRST, p37=SECOND)
        order.shuffle(contexts)
        decision = ask(Gate(reader([FIRST, SECOND], 2000), windows=Windows(64)), contexts)
        found.add((decision.route, bool(decision.verdict and decision.verdict.windows > 1)))
    assert found == {(Route.ANSWER, True)}
