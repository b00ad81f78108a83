"""The embedded judge: what it measures, what it does not, and that it survives whatever comes.

How good its model is, is measured elsewhere (docs/embedded-judge.md): these tests hold for any.
"""

import asyncio
import copy
import json
import math
import os
import pickle
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_judge import constant, folder

from guard import (
    ConfigError,
    Gate,
    JudgeError,
    JudgeRejected,
    JudgeUnavailable,
    Policy,
    Query,
    Reason,
    Route,
    Thresholds,
    Unmeasured,
    Verdict,
)
from guard.cli import main
from guard.config import load_gate, resolve
from guard.doctor.cases import INSUFFICIENT, SUFFICIENT
from guard.doctor.lines import lines
from guard.judge import Fitted, Judge
from guard.judges import Chain, EmbeddedJudge, Link, from_name
from guard.profile import Profile
from guard.testing import ScriptedJudge
from guard.weights import Weights
from guard.worker import shared_workers

pytestmark = pytest.mark.local
QUESTION = "When did the bridge open?"
QUERY = Query.of(QUESTION, ["The bridge opened in 1932.", "It is painted every ten years."])
OWN = Thresholds(answer_at=0.6, refuse_below=0.4)


@pytest.fixture(scope="module")
def judge() -> Generator[EmbeddedJudge]:
    """The one that comes with the package."""
    judge = EmbeddedJudge()
    yield judge
    judge.close()


def verdict_of(judge: Judge, *contexts: str, question: str = QUESTION) -> Verdict:
    """Its verdict."""
    return judge.judge(Query.of(question, contexts), timeout=30)


def kind_of(judge: Judge, *contexts: str, question: str = QUESTION) -> str:
    """Why it gives none."""
    with pytest.raises(Unmeasured) as caught:
        verdict_of(judge, *contexts, question=question)
    assert caught.value.hint
    return caught.value.kind


# ── What it measures ─────────────────────────────────────────────────────────────────────────────


def test_a_verdict(judge: EmbeddedJudge) -> None:
    """Of its own output layer: no mass is elsewhere, and no bound is open."""
    verdict = judge.judge(QUERY, timeout=30)
    assert (verdict.signal, verdict.mass, verdict.emitted) == ("encoder", 1.0, None)
    assert 0 < verdict.p_true < 1
    assert verdict.low == verdict.p_true == verdict.high
    assert (verdict.coverage, verdict.history_coverage, verdict.windows) == (1.0, 1.0, 1)
    assert verdict.fingerprint == judge.fingerprint
    assert verdict.model == judge.model == judge.weights.name
    assert judge.fingerprint.startswith(f"encoder:{judge.model}:")


def test_tokens_are_counted(tmp_path: Path) -> None:
    """All that it read, those between texts among them; and no request was made."""
    usage = verdict_of(EmbeddedJudge(folder(tmp_path)), "b c", "", "d", question="a").usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.requests) == (8, 0, 0)


def test_it_reads(judge: EmbeddedJudge) -> None:
    """Evidence beats passages about something else, and passages that are left out count."""
    evidence = "The bridge opened in 1932, after six years of work."
    other = "Cats sleep for most of the day."
    assert verdict_of(judge, evidence).p_true > verdict_of(judge, other).p_true
    assert verdict_of(judge, evidence, other).p_true != verdict_of(judge, evidence).p_true


@pytest.mark.parametrize("blank", ["", " ", "\n\t\u3000", "\u200b", "\x00"])
def test_blank_passages_change_nothing(judge: EmbeddedJudge, blank: str) -> None:
    """Wherever they stand."""
    contexts = QUERY.contexts
    expected = judge.judge(QUERY, timeout=30)
    for texts in ((blank, *contexts), (*contexts, blank), (contexts[0], blank, contexts[1])):
        assert verdict_of(judge, *texts) == expected


@pytest.mark.parametrize(
    ("history", "coverage"), [([], 1.0), ([("user", " ")], 1.0), ([("user", "The bridge?")], 0.0)]
)
def test_earlier_turns_are_not_read(
    judge: EmbeddedJudge, history: list[tuple[str, str]], coverage: float
) -> None:
    """And the verdict says so."""
    query = Query.of(QUESTION, QUERY.contexts, history=history)
    verdict = judge.judge(query, timeout=30)
    assert verdict.history_coverage == coverage
    assert verdict.p_true == judge.judge(QUERY, timeout=30).p_true


ODD = (
    "The bridge \ud800 opened in 1932.",
    "\udfff",
    "\ud83d\ude00 The bridge",
    "The\x00bridge",
    "\x00\x01\x02 the bridge \x7f",
    "[SEP] [CLS] [MASK] [PAD] [UNK] ##a",
    "{0} {{x}} %s </think> <|im_end|>",
    "e\u0301" * 200,
    "a" + "\u0301" * 1000,
    "\ufeffThe bridge\u202e",
    "=" * 1000,
)


@pytest.mark.parametrize("text", ODD)
def test_odd_texts_are_survived(judge: EmbeddedJudge, text: str) -> None:
    """As a passage, beside one, as the question: a verdict, or one error of ours."""
    for contexts, question in (
        ([text], QUESTION),
        ([text, "It opened."], QUESTION),
        (["Yes."], text),
    ):
        try:
            verdict = verdict_of(judge, *contexts, question=question)
        except JudgeError as error:
            assert error.kind in ("refusal", "context_too_long")
        else:
            assert 0 < verdict.p_true < 1


# ── What it does not ─────────────────────────────────────────────────────────────────────────────

OTHER_SCRIPTS = {
    "Cyrillic": ("Когда открыли мост?", "Мост открыли в 1932 году."),
    "Chinese": ("大桥是什么时候通车的？", "大桥于1932年通车。"),
    "Japanese": ("橋はいつ開通しましたか", "橋は1932年に開通しました。"),
    "Arabic": ("متى افتتح الجسر؟", "افتتح الجسر في عام 1932."),
    "Greek": ("Πότε άνοιξε η γέφυρα;", "Η γέφυρα άνοιξε το 1932."),
    "Hindi": ("पुल कब खुला?", "पुल 1932 में खुला।"),
    "Korean": ("다리는 언제 개통되었습니까?", "다리는 1932년에 개통되었습니다."),
    "Hebrew": ("מתי נפתח הגשר?", "הגשר נפתח בשנת 1932."),
}


@pytest.mark.parametrize(("question", "passage"), OTHER_SCRIPTS.values(), ids=OTHER_SCRIPTS)
def test_other_scripts_are_not_judged(judge: EmbeddedJudge, question: str, passage: str) -> None:
    """Neither as the question nor as the passages; the message holds neither."""
    for asked, found in ((question, passage), (QUESTION, passage), (question, QUERY.contexts[0])):
        with pytest.raises(Unmeasured, match="Latin") as caught:
            verdict_of(judge, found, question=asked)
        assert caught.value.kind == "refusal"
        assert question not in str(caught.value) and passage not in str(caught.value)


@pytest.mark.parametrize(
    ("question", "passage"),
    [
        ("Wann wurde die Brücke eröffnet?", "Die Brücke wurde 1932 für Fußgänger geöffnet."),
        ("Quand le pont a-t-il été ouvert ?", "Le pont fut ouvert en 1932, à Noël."),
        ("Cây cầu được mở cửa khi nào?", "Cây cầu được khánh thành vào năm 1932."),
        ("Kiedy otwarto most?", "Most otwarto w 1932 roku, później zaś tunel."),
        ("1932?", "1932, 1933; 12:30"),
        ("When was Μ opened?", "Μ (the Greek letter) names the bridge, opened in 1932."),
        ("Who wrote it? 😀", "戰爭 was written by Lo, a poet of the north, in the year 1932."),
    ],
)
def test_latin_letters_are_judged(judge: EmbeddedJudge, question: str, passage: str) -> None:
    """With accents, without any letters, and where a few others stand among them."""
    assert 0 < verdict_of(judge, passage, question=question).p_true < 1


def test_a_passage_in_another_script_may_hold_the_evidence(judge: EmbeddedJudge) -> None:
    """It is left out: the query can be answered on what was read, but not refused."""
    read = judge.judge(QUERY, timeout=30)
    for unread in ("Мост открыли в 1932 году.", "桥于1932年开通。"):
        verdict = verdict_of(judge, *QUERY.contexts, unread)
        assert (verdict.low, verdict.p_true, verdict.high) == (read.low, read.p_true, 1.0)
    gate = Gate(judge, Policy(thresholds=Thresholds(answer_at=1.0, refuse_below=0.9999)))
    assert gate.check(QUESTION, QUERY.contexts).route is Route.REFUSE
    assert gate.check(QUESTION, [*QUERY.contexts, "桥于1932年开通。"]).route is Route.CLARIFY


@pytest.mark.parametrize(
    "passage",
    [
        "The bridge is painted every ten years. 桥于一九三二年开通，历时六年建成，有四条车道。",
        "The bridge is painted. " + "😀 " * 30,
    ],
)
def test_what_is_half_read_may_hold_the_evidence(judge: EmbeddedJudge, passage: str) -> None:
    """Its upper bound is open, whatever its own number is."""
    verdict = verdict_of(judge, passage, "It has four lanes.")
    assert verdict.low == verdict.p_true < verdict.high == 1.0


@pytest.mark.parametrize(
    "question",
    [
        "Who wrote 戰爭?",
        "Who was the first of the many engineers who worked on the long bridge called 戰?",
        "What does " + "a" * 101 + " mean?",
        "Кто написал «Войну и мир»?",
    ],
)
def test_a_question_is_read_as_a_whole_or_not_at_all(judge: EmbeddedJudge, question: str) -> None:
    """The one word that it cannot read may be what was asked about: 戰爭 is as 紅樓 to it."""
    with pytest.raises(Unmeasured, match="a part of the question") as caught:
        verdict_of(judge, "戰爭 was written by Lo, a poet of the north.", question=question)
    assert caught.value.kind == "refusal"


def test_a_long_word_may_hold_the_evidence(judge: EmbeddedJudge) -> None:
    """It is one token, and most of what the passage says."""
    text = "The bridge has four lanes, and is painted red every ten years. " + "a1" * 2_000
    verdict = verdict_of(judge, text)
    assert verdict.low == verdict.p_true < verdict.high == 1.0


@pytest.mark.parametrize(
    ("question", "passage", "what"),
    [("?", "!", "question"), ("...", "Yes.", "question"), ("Why?", "-- ** --", "contexts")],
)
def test_marks_say_nothing(judge: EmbeddedJudge, question: str, passage: str, what: str) -> None:
    """There is nothing to judge."""
    with pytest.raises(Unmeasured, match=f"no words in the {what}") as caught:
        verdict_of(judge, passage, question=question)
    assert caught.value.kind == "refusal"


@pytest.mark.parametrize(
    "texts", [["\u200b\u200b"], ["\x00"], ["😀 😀"], ["\u200b", "😀"], ["a" * 400], ["\ufffd"]]
)
def test_nothing_read_is_no_verdict(judge: EmbeddedJudge, texts: list[str]) -> None:
    """Of texts of which it knows nothing, it says nothing: they may hold anything."""
    assert kind_of(judge, *texts) == "refusal"
    assert kind_of(judge, *QUERY.contexts, question=texts[0]) == "refusal"
    assert 0 < verdict_of(judge, *texts, *QUERY.contexts).p_true < 1


@pytest.mark.parametrize("words", [600, 5_000, 1_000_000])
def test_too_long(judge: EmbeddedJudge, words: int) -> None:
    """Passages or question; said at once, however long they are."""
    text = "word " * words
    started = time.monotonic()
    assert kind_of(judge, text) == "context_too_long"
    assert kind_of(judge, *QUERY.contexts, question=text) == "context_too_long"
    assert time.monotonic() - started < 5


def test_what_just_fits(tmp_path: Path) -> None:
    """All positions are used, and not one more."""
    judge = EmbeddedJudge(folder(tmp_path))
    words = judge.weights.positions - 4
    usage = verdict_of(judge, "b " * words, question="a").usage
    assert usage is not None and usage.input_tokens == judge.weights.positions
    assert kind_of(judge, "b " * (words + 1), question="a") == "context_too_long"


def test_a_question_that_leaves_no_room(tmp_path: Path) -> None:
    """It may take half of the positions."""
    judge = EmbeddedJudge(folder(tmp_path))
    most = judge.weights.positions // 2
    assert verdict_of(judge, "b", question="a " * most).p_true
    with pytest.raises(Unmeasured, match=f"{most + 1} tokens.*{most} of a question"):
        verdict_of(judge, "b", question="a " * (most + 1))


class _Says:
    """A session that says one thing."""

    def __init__(self, output: object) -> None:
        self.output = output

    def run(self, outputs: None, inputs: Mapping[str, object]) -> Sequence[Any]:
        if isinstance(self.output, Exception):
            raise self.output
        return [self.output]


@pytest.mark.parametrize(
    "output",
    [
        np.array([[0.0, math.nan]], dtype=np.float32),
        np.array([[math.inf, math.inf]], dtype=np.float32),
        np.array([[0.0, math.inf]], dtype=np.float32),
        np.array([[0.0]], dtype=np.float32),
        np.array([0.0, 1.0], dtype=np.float32),
        np.array([[0, 1]]),
        np.array([["0", "1"]]),
        [{"False": 0.1, "True": 0.9}],
        RuntimeError("out of memory"),
    ],
    ids=repr,
)
def test_a_model_that_fails_is_not_a_verdict(tmp_path: Path, output: object) -> None:
    """Above all not a sure one: NaN compares as if it were anything."""
    judge = EmbeddedJudge(folder(tmp_path))
    judge._session = _Says(output)  # pyright: ignore[reportPrivateUsage]
    assert kind_of(judge, "b") == "malformed"
    assert Gate(judge).check("a", ["b"]).reason is Reason.MALFORMED


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (b"", "cannot read judge.onnx"),
        (b"\x08\x08\x3a\x00", "cannot read judge.onnx"),
        (constant([[0.0, math.nan]]), "no number"),
        (constant([[0.0]]), "two numbers"),
        (constant([[0.0, 1.0, 2.0]]), "two numbers"),
        (constant([[0.0, 1.0]] * 2), "two numbers"),
        (constant([[0.0, 1.0]], ["input_ids", "attention_mask"]), "cannot run judge.onnx on"),
        (constant([[0.0, 1.0]], ["a", "b", "c"]), "cannot run judge.onnx on"),
    ],
)
def test_another_kind_of_model_is_not_loaded(tmp_path: Path, model: bytes, says: str) -> None:
    """Found out when the judge is made, not at the first query; nothing is printed."""
    with pytest.raises(ConfigError, match=says) as caught:
        EmbeddedJudge(folder(tmp_path, model=model))
    assert str(tmp_path) in caught.value.message and caught.value.hint


@pytest.mark.parametrize("missing", ["onnxruntime", "tokenizers"])
def test_without_its_libraries(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """One error, with what to install."""
    monkeypatch.setitem(sys.modules, missing, None)
    makes: list[Callable[[], Judge]] = [EmbeddedJudge, lambda: from_name("embedded")]
    for make in makes:
        with pytest.raises(ConfigError, match=f"^{missing} is not installed.") as caught:
            make()
        assert caught.value.hint == 'pip install "rag-guard[embedded]"'


@pytest.mark.parametrize("threads", [0, 65, -1, 1.5, "2", True])
def test_threads_out_of_range(threads: Any) -> None:
    with pytest.raises(ConfigError, match="threads"):
        EmbeddedJudge(threads=threads)


def test_the_number_of_threads_does_not_change_what_it_says(judge: EmbeddedJudge) -> None:
    """But for rounding."""
    alone = EmbeddedJudge(threads=1)
    assert alone.judge(QUERY, timeout=30).p_true == pytest.approx(
        judge.judge(QUERY, timeout=30).p_true, abs=1e-4
    )


# ── Many at once, closing, forks ─────────────────────────────────────────────────────────────────

QUERIES = [
    Query.of(f"When did bridge {n} open?", [f"Bridge {n} opened in {1900 + n}."] * (1 + n % 4))
    for n in range(20)
]


def test_twenty_at_once_say_what_they_say_one_by_one(judge: EmbeddedJudge) -> None:
    """To the last bit, on threads and in tasks."""

    def measured(query: Query) -> float:
        return judge.judge(query, timeout=30).p_true

    alone = [measured(query) for query in QUERIES]
    assert len({*alone}) > 10
    with ThreadPoolExecutor(20) as pool:
        threads = [*pool.map(measured, QUERIES)]

    async def gathered() -> list[Verdict]:
        return await asyncio.gather(*(judge.ajudge(query, timeout=30) for query in QUERIES))

    tasks = [verdict.p_true for verdict in asyncio.run(gathered())]
    assert threads == alone == tasks


def test_a_cancelled_judgement_is_left_behind(judge: EmbeddedJudge) -> None:
    """It ends by itself, and the judge serves the next query."""

    async def cancelled() -> bool:
        task = asyncio.create_task(judge.ajudge(QUERIES[3], timeout=30))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(cancelled())
    end = time.monotonic() + 30
    while shared_workers.abandoned and time.monotonic() < end:
        time.sleep(0.01)
    assert not shared_workers.abandoned
    assert 0 < judge.judge(QUERY, timeout=30).p_true < 1


def test_closed_while_it_judges() -> None:
    """What is in flight ends with its verdict, what comes later is rejected; nothing crashes."""
    judge = EmbeddedJudge()
    expected = {judge.judge(query, timeout=30).p_true for query in QUERIES}
    found, errors, started = set[float](), list[JudgeRejected](), threading.Barrier(5)

    def work() -> None:
        started.wait(30)
        while not errors or len(errors) < 4:
            for query in QUERIES:
                try:
                    found.add(judge.judge(query, timeout=30).p_true)
                except JudgeRejected as error:
                    errors.append(error)
                    return

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait(30)
    time.sleep(0.05)
    judge.close()
    judge.close()
    for thread in threads:
        thread.join(30)
    assert len(errors) == 4 and all("closed" in error.message for error in errors)
    assert found and found <= expected


class _Slow:
    """A session that runs until it may end, and counts."""

    def __init__(self) -> None:
        self.running, self.most, self.may_end = 0, 0, threading.Event()
        self._lock = threading.Lock()

    def run(self, outputs: None, inputs: object) -> list[list[list[float]]]:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.may_end.wait(30)
        with self._lock:
            self.running -= 1
        return [[[0.0, 1.0]]]


def test_no_more_at_once_than_there_are_cores_for(tmp_path: Path) -> None:
    """A crowd waits, for as long as it has time; onnxruntime keeps the memory of each at once."""
    judge = EmbeddedJudge(folder(tmp_path), threads=64)
    slow = _Slow()
    judge._session = slow  # pyright: ignore[reportPrivateUsage]
    with ThreadPoolExecutor(12) as pool:
        patient = [pool.submit(judge.judge, Query("a", ("b",)), timeout=30) for _ in range(10)]
        while slow.running < 2:
            time.sleep(0.001)
        hurried = pool.submit(judge.judge, Query("a", ("b",)), timeout=0.05)
        with pytest.raises(JudgeUnavailable, match="in time") as caught:
            hurried.result(30)
        slow.may_end.set()
        assert {round(one.result(30).p_true, 3) for one in patient} == {0.731}
    assert caught.value.kind == "timeout" and slow.most == 2


def test_a_closed_judge_says_so_of_every_query() -> None:
    """Also of one that it could not have judged."""
    judge = EmbeddedJudge()
    judge.close()
    for text in ("It opened.", "word " * 5000, "мост"):
        with pytest.raises(JudgeRejected, match="closed"):
            verdict_of(judge, text)


def ran(code: str, *arguments: str, **variables: str) -> str:
    """What a fresh interpreter prints; it ends by itself, and complains of nothing."""
    environ = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "CI")}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environ | variables,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


FORK = """
import os, sys, signal
from guard import Query
from guard.judges import EmbeddedJudge
judge = EmbeddedJudge(threads=2)
query = Query.of("When did the bridge open?", ["The bridge opened in 1932."] * 20)
before = judge.judge(query, timeout=30).p_true
child = os.fork()
signal.alarm(40)
{first}
if not child:
    {child}
    sys.exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
{parent}
print("end")
"""
JUDGES = "assert judge.judge(query, timeout=30).p_true == before"
FORKS = {
    "judges": (JUDGES, JUDGES),
    "does not": ("pass", JUDGES),
    "closes": ("judge.close()", JUDGES),
    "judges and closes": (f"{JUDGES}; judge.close()", JUDGES),
    "drops": ("del judge", JUDGES),
    "forks": (
        f"{JUDGES}; grandchild = os.fork(); {JUDGES}; "
        "assert not grandchild or os.waitpid(grandchild, 0)[1] == 0",
        JUDGES,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("child", "parent"), FORKS.values(), ids=FORKS)
def test_over_a_fork(child: str, parent: str) -> None:
    """The child judges as the parent does, both end by themselves, and nothing is printed."""
    assert ran(FORK.format(first="", child=child, parent=parent)) == "end\n"


def test_a_child_whose_files_are_gone(tmp_path: Path) -> None:
    """It is no error of whoever made the judge, but one of this query."""
    judge = EmbeddedJudge(folder(tmp_path))
    judge.begin_anew()  # As in a child.
    assert verdict_of(judge, "b").p_true
    judge.begin_anew()
    (tmp_path / "judge.onnx").unlink()
    with pytest.raises(JudgeRejected, match="judge.onnx"):
        verdict_of(judge, "b")


@pytest.mark.slow
@pytest.mark.parametrize(
    "uses",
    [
        "",
        "judge.judge(query, timeout=30)",
        "judge.close()",
        "threading.Thread(target=forever, daemon=True).start(); time.sleep(0.2)",
    ],
)
def test_the_interpreter_ends(uses: str) -> None:
    """By itself: unused, used, closed, and while it judges."""
    code = (
        "import threading, time\nfrom contextlib import suppress\n"
        "from guard import JudgeRejected, Query\nfrom guard.judges import EmbeddedJudge\n"
        "judge, query = EmbeddedJudge(), Query.of('Why?', ['Because of it. '] * 50)\n"
        "def forever():\n with suppress(JudgeRejected):\n"
        f"  while True: judge.judge(query, timeout=30)\n{uses}\nprint('end')"
    )
    assert ran(code) == "end\n"


TELEMETRY = """
import os, sys
seen = []
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            seen.append(os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.meta_path.insert(0, Watch())
import guard.judges.embedded
assert not seen and "onnxruntime" not in sys.modules
from guard.judges import EmbeddedJudge
EmbeddedJudge(sys.argv[1])
print(*seen)
"""


@pytest.mark.slow
def test_onnxruntime_tells_nobody(tmp_path: Path) -> None:
    """Its telemetry is off before it is imported, unless somebody has decided on it."""
    at = str(folder(tmp_path))
    assert ran(TELEMETRY, at) == "1\n"
    assert ran(TELEMETRY, at, ORT_DISABLE_TELEMETRY="0") == "0\n"


# ── More than it reads at once ───────────────────────────────────────────────────────────────────


class _Recording(EmbeddedJudge):
    """Keeps what it judged."""

    def __init__(self) -> None:
        super().__init__()
        self.judged = list[tuple[Query, Verdict]]()

    def judge(self, query: Query, *, timeout: float) -> Verdict:
        verdict = super().judge(query, timeout=timeout)
        self.judged.append((query, verdict))
        return verdict


@pytest.fixture(scope="module")
def recording() -> Generator[_Recording]:
    """One for all."""
    judge = _Recording()
    yield judge
    judge.close()


FILLER = (
    "Town {n} has a market on its square, a school by the mill and a road to the coast. In winter "
    "the lake behind it freezes, and {n} families live there from fishing and from the wool of "
    "their sheep. A doctor comes on Mondays; letters come when the weather allows it."
)


def passages(**evidence: str) -> list[str]:
    """Forty of them, with ``at_N`` in place N."""
    texts = [FILLER.format(n=n) for n in range(40)]
    for place, text in evidence.items():
        texts[int(place.removeprefix("at_"))] = text
    return texts


LIGHT = "The lighthouse of Orrin was built by the engineer Ada Holm."
HOLM = "The engineer Ada Holm was born in the harbour town of Vesk in 1841."


def test_evidence_in_the_thirtieth_of_forty_passages(recording: _Recording) -> None:
    """It is read, and the verdict is that of the best request."""
    recording.judged.clear()
    gate = Gate(recording, Policy(deadline=60))
    decision = gate.check("Who built the lighthouse of Orrin?", passages(at_29=LIGHT))
    verdict = decision.verdict
    assert verdict is not None and verdict.windows > 1 and 0 < verdict.coverage < 1
    assert any(LIGHT in query.contexts for query, _ in recording.judged)
    assert verdict.p_true == max(one.p_true for _, one in recording.judged)
    assert verdict.usage is not None
    tokens = [one.usage.input_tokens or 0 for _, one in recording.judged if one.usage]
    assert verdict.usage.input_tokens == sum(tokens) and max(tokens) <= 512


def test_evidence_in_two_passages_far_apart(recording: _Recording) -> None:
    """The last request holds both, though no window does."""
    recording.judged.clear()
    question = "Where was the engineer who built the lighthouse of Orrin born?"
    gate = Gate(recording, Policy(deadline=60))
    gate.check(question, passages(at_3=LIGHT, at_37=HOLM))
    both = [{LIGHT, HOLM} <= {*query.contexts} for query, _ in recording.judged]
    assert both[-1] and not any(both[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("words", [10_000, 1_000_000])
def test_one_long_passage(judge: EmbeddedJudge, words: int) -> None:
    """Ten thousand words are judged in parts; so are 5 MB, of which most was not seen."""
    text = " ".join(FILLER.format(n=n) for n in range(words // 50))
    decision = Gate(judge, Policy(deadline=60)).check("Who built it?", [LIGHT, text])
    verdict = decision.verdict
    assert verdict is not None and verdict.windows > 1 and verdict.seen < 1
    assert decision.elapsed_seconds < 60


def test_a_question_that_is_too_long_is_not_measured(judge: EmbeddedJudge) -> None:
    """However its contexts are divided."""
    decision = Gate(judge, Policy(deadline=60)).check("why " * 400, passages())
    assert decision.reason is Reason.CONTEXT_TOO_LONG and decision.probability is None


RUSSIAN = "Маяк построила инженер Ада Хольм, и с тех пор он светит кораблям. " * 40


@pytest.mark.parametrize("unread", [RUSSIAN, "=" * 8_000, "桥于1932年开通。" * 200])
def test_windows_that_it_cannot_read_are_unseen(tmp_path: Path, unread: str) -> None:
    """What nobody has read may hold the answer; what was read may hold it too."""
    texts = [*passages(), unread]
    sure = EmbeddedJudge(folder(tmp_path / "sure", odds=9.0, positions=2_000))
    found = Gate(sure, Policy(deadline=60)).check(QUESTION, texts)
    assert found.route is Route.ANSWER and found.verdict is not None
    assert found.verdict.seen < 1 and found.verdict.unseen[-1][-1] == len(texts) - 1

    unsure = EmbeddedJudge(folder(tmp_path / "unsure", odds=-9.0, positions=2_000))
    missed = Gate(unsure, Policy(deadline=60)).check(QUESTION, texts)
    assert missed.route is Route.CLARIFY and missed.probability is not None


def test_no_window_that_it_can_read(judge: EmbeddedJudge) -> None:
    """Nothing is measured."""
    decision = Gate(judge, Policy(deadline=60)).check(QUESTION, [RUSSIAN, RUSSIAN + "!"])
    assert decision.reason is Reason.REFUSAL and decision.probability is None


# ── Thresholds that it brings ────────────────────────────────────────────────────────────────────


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddedJudge:
    """A judge that says 0.5 and brings thresholds; ``embedded`` is its name."""
    at = folder(tmp_path / "judge", odds=0.0, profile=True)
    fitted = Profile(OWN, fingerprint=Weights.load(at).fingerprint, signal="encoder")
    fitted.save(at / "profile.json")
    monkeypatch.setattr("guard.judges.embedded.SHIPPED", at)
    return EmbeddedJudge()


def thresholds_of(gate: Gate) -> Thresholds:
    """Those that a query is routed by."""
    thresholds = gate.check("a", ["b"]).thresholds
    assert thresholds is not None
    return thresholds


def test_a_judge_may_bring_a_profile(brought: EmbeddedJudge, tmp_path: Path) -> None:
    """It is a `Fitted`, with or without one."""
    assert isinstance(brought, Fitted)
    assert brought.default_profile is not None
    assert brought.default_profile.thresholds == OWN
    bare = EmbeddedJudge(folder(tmp_path / "bare"))
    assert isinstance(bare, Fitted) and bare.default_profile is None
    assert not isinstance(ScriptedJudge(0.5), Fitted)


def test_whose_thresholds_a_gate_takes(brought: EmbeddedJudge) -> None:
    """The judge's own, unless the policy has any; a profile beats both."""
    other, third = Thresholds(0.9, 0.1), Thresholds(0.8, 0.2)
    fitted = Profile(third, fingerprint=brought.fingerprint)
    assert thresholds_of(Gate(brought)) == OWN
    assert thresholds_of(Gate(brought, Policy(deadline=9))) == OWN
    assert thresholds_of(Gate(brought, Policy(thresholds=other))) == other
    assert thresholds_of(Gate(brought, profile=fitted)) == third
    assert thresholds_of(Gate(brought, Policy(thresholds=other), profile=fitted)) == third
    changed = Gate(brought).with_policy(Policy(thresholds=other))
    assert thresholds_of(changed) == other
    assert thresholds_of(changed.with_policy(Policy())) == OWN
    assert thresholds_of(Gate(brought, profile=fitted).with_policy(Policy())) == third


def test_thresholds_that_are_the_usual_ones_may_be_set(brought: EmbeddedJudge) -> None:
    """Who writes them down has set them."""
    usual = Policy().thresholds
    again = Thresholds(usual.answer_at, usual.refuse_below)
    assert thresholds_of(Gate(brought, Policy(thresholds=again))) == usual != OWN


def test_a_judge_without_a_profile_leaves_it_to_the_policy(tmp_path: Path) -> None:
    gate = Gate(EmbeddedJudge(folder(tmp_path)))
    assert gate.profile is None and thresholds_of(gate) == Policy().thresholds


def test_a_profile_of_another_model(brought: EmbeddedJudge, tmp_path: Path) -> None:
    """It is not applied."""
    other = folder(tmp_path / "other", odds=0.5, profile=True)
    (other / "profile.json").write_bytes((tmp_path / "judge" / "profile.json").read_bytes())
    with pytest.raises(ConfigError, match="The profile is for"):
        Gate(EmbeddedJudge(other))


def test_behind_another_judge(brought: EmbeddedJudge) -> None:
    """A chain takes what a later judge brings, unless its link has a profile."""
    down = ScriptedJudge(JudgeRejected("down"))
    set_here = Profile(Thresholds(0.9, 0.1))
    first = Link(down, Profile(Thresholds(0.95, 0.05)))
    assert thresholds_of(Gate(Chain([first, brought]))) == OWN
    assert thresholds_of(Gate(Chain([first, Link(brought)]))) == OWN
    assert thresholds_of(Gate(Chain([first, Link(brought, set_here)]))) == set_here.thresholds


def test_in_front_of_another_judge(brought: EmbeddedJudge) -> None:
    """As a chain's first judge it is routed as by itself."""
    other = Thresholds(0.9, 0.1)
    behind = Link(ScriptedJudge(0.5), Profile(other))
    assert thresholds_of(Gate(Chain([brought, behind]))) == OWN
    assert thresholds_of(Gate(Chain([brought, behind]), Policy(thresholds=other))) == other
    own = Link(brought, Profile(other, fingerprint=brought.fingerprint))
    assert thresholds_of(Gate(Chain([own, behind]))) == other


def test_the_same_judge_once_more_keeps_the_first_ones_profile(brought: EmbeddedJudge) -> None:
    """What it brings does not beat what somebody has certified."""
    strict = Profile(Thresholds(0.99, 0.01), fingerprint=brought.fingerprint)
    again = EmbeddedJudge()
    brought.close()
    assert thresholds_of(Gate(Chain([Link(brought, strict), again]))) == strict.thresholds


def test_unset_thresholds_stay_unset(brought: EmbeddedJudge) -> None:
    """Copied, or in another process; changed, they are set."""
    for policy in (copy.deepcopy(Policy()), copy.copy(Policy()), replace(Policy(), deadline=9)):
        assert thresholds_of(Gate(brought, policy)) == OWN
    sent = pickle.loads(pickle.dumps(Policy().thresholds))  # noqa: S301
    assert sent is Policy().thresholds
    changed = replace(Policy().thresholds, answer_at=0.9)
    assert thresholds_of(Gate(brought, Policy(thresholds=changed))) == changed
    assert pickle.loads(pickle.dumps(changed)) == changed  # noqa: S301


FIRST = "[deployment.bot]\njudge = 'embedded'\n"
BEHIND = (
    "[deployment.bot]\njudge = 'scripted:0.7'\nanswer_at = 0.8\nrefuse_below = 0.2\n"
    "fallback = 'near'\n[deployment.near]\njudge = 'embedded'\n"
)
SET = "answer_at = 0.9\nrefuse_below = 0.1\n"


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        (FIRST, {}, OWN),
        (FIRST + SET, {}, Thresholds(0.9, 0.1)),
        (BEHIND, {}, Thresholds(0.8, 0.2)),
    ],
)
def test_in_a_file(
    brought: EmbeddedJudge,
    tmp_path: Path,
    text: str,
    environ: dict[str, str],
    expected: Thresholds,
) -> None:
    """Where thresholds are set, in the file or in a variable, they hold."""
    file = tmp_path / "guard.toml"
    file.write_text(text)
    assert thresholds_of(load_gate(file, deployment="bot", environ=environ)) == expected


@pytest.mark.parametrize(
    ("text", "environ"),
    [(FIRST + "answer_at = 0.9\n", {}), (FIRST, {"RAG_GUARD_REFUSE_BELOW": "0.2"})],
)
def test_one_threshold_says_nothing_of_the_other(
    brought: EmbeddedJudge, tmp_path: Path, text: str, environ: dict[str, str]
) -> None:
    """As on top of a profile in a file."""
    file = tmp_path / "guard.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="only one threshold is given"):
        load_gate(file, deployment="bot", environ=environ)


INHERITED = (
    "[deployment.base]\njudge = 'scripted:0.7'\nanswer_at = 0.8\nrefuse_below = 0.2\n"
    "[deployment.bot]\nextends = 'base'\njudge = 'embedded'\n"
)


def test_thresholds_for_another_judge_are_left(brought: EmbeddedJudge, tmp_path: Path) -> None:
    """They are gone for doctor as well, which would print them beside this judge."""
    file = tmp_path / "guard.toml"
    file.write_text(INHERITED)
    gate = load_gate(file, deployment="bot", environ={})
    assert thresholds_of(gate) == OWN
    other = Thresholds(0.9, 0.1)
    assert thresholds_of(gate.with_policy(Policy(thresholds=other))) == other
    _, keys = resolve(file, "bot", {})
    assert "answer_at" not in lines(keys, {}, "bot", None, is_fitted=True)


@pytest.mark.parametrize(("answer_at", "conclusion"), [(None, "can judge"), ("0.85", "only with")])
def test_doctor_routes_as_the_gate_does(
    brought: EmbeddedJudge,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer_at: str | None,
    conclusion: str,
) -> None:
    """By what the judge brings, and it advises nobody to set what is there; else by what is set."""
    said, asked = verdict_of(brought, "b", question="a"), list[Query]()

    def judge(_self: EmbeddedJudge, query: Query, *, timeout: float) -> Verdict:
        asked.append(query)
        p = 0.7 if query == SUFFICIENT else 0.3
        return replace(said, p_true=p, low=p, high=p)

    monkeypatch.setattr(EmbeddedJudge, "judge", judge)
    if answer_at is not None:
        monkeypatch.setenv("RAG_GUARD_ANSWER_AT", answer_at)
        monkeypatch.setenv("RAG_GUARD_REFUSE_BELOW", "0.4")
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--judge", "embedded", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert asked == [SUFFICIENT, INSUFFICIENT]
    assert (ended.value.code, report["conclusion"]) == (0, conclusion)
    assert ["answer_at = 0.85" in need for need in report["needs"]] == [True] * bool(answer_at)
    keys = tomllib.loads(report["toml"])["deployment"]["default"]
    assert (keys["judge"], "answer_at" in keys) == ("embedded", answer_at is not None)
    assert "set them for this judge" not in report["toml"]


@pytest.mark.parametrize(("more", "expected"), [("", OWN), (SET, Thresholds(0.9, 0.1))])
def test_as_a_fallback_in_a_file(
    brought: EmbeddedJudge, tmp_path: Path, more: str, expected: Thresholds
) -> None:
    """It needs no thresholds there, and may have some."""
    file = tmp_path / "guard.toml"
    file.write_text(BEHIND + more)
    chain = load_gate(file, deployment="bot", environ={}).judge
    assert isinstance(chain, Chain)
    profile = chain.links[1].profile
    assert profile is not None and profile.thresholds == expected


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("answer_at = 0.9\n", r"near\.answer_at takes the place .* only one threshold is given"),
        ("", r"near\.answer_at is missing in a fallback: thresholds for one judge are not"),
    ],
)
def test_a_fallback_that_has_none_or_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, says: str
) -> None:
    """The other half, or both, were set for another judge: one clear error."""
    monkeypatch.setattr("guard.judges.embedded.SHIPPED", folder(tmp_path / "bare"))
    file = tmp_path / "guard.toml"
    file.write_text(BEHIND + more)
    with pytest.raises(ConfigError, match=says):
        load_gate(file, deployment="bot", environ={})


def test_an_evaluation_leaves_it_aside(brought: EmbeddedJudge, tmp_path: Path) -> None:
    """As every profile: what the judge itself says is measured."""
    file = tmp_path / "guard.toml"
    file.write_text(FIRST)
    gate = load_gate(file, deployment="bot", environ={}, profiles=False)
    assert gate.profile is None and thresholds_of(gate) == Policy().thresholds
