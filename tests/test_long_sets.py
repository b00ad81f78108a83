"""Long sets on real parts: llama.cpp with little room, and servers that cut what is too long."""

import asyncio
import os
import re
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import llama_index.core
import pytest
from local_model import weights
from wire import Answer, Request, Script, WireServer, verdict

from guard import (
    Gate,
    JudgeError,
    Policy,
    Query,
    Reason,
    Route,
    Unmeasured,
    Usage,
    Verdict,
    Windows,
)
from guard.cut import CutPrompt, Cuts, least_tokens, require_uncut
from guard.judges import ChatJudge, DecisionsJudge, GgufJudge, SampledJudge
from guard.prompt import DEFAULT_PROMPT

Wire = Callable[[Script], WireServer]
QUESTION = "In which year did the keeper of the Orrin lighthouse retire?"
EVIDENCE = "The keeper of the Orrin lighthouse retired in 1968."


SECONDS = 500.0  # A query takes 60 on two cores that have nothing else to do.


def filler(number: int) -> str:
    return f"The mill of valley {number} ground rye."


def forty() -> list[str]:
    """Forty passages, with the evidence in the last one."""
    return [*(filler(number) for number in range(39)), EVIDENCE]


# ── llama.cpp ────────────────────────────────────────────────────────────────────────────────────


class Recording(GgufJudge):
    """Remembers what was measured, and what was not."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.measured, self.too_long = list[Query](), list[Query]()

    def judge(self, query: Query, *, timeout: float) -> Verdict:
        try:
            found = super().judge(query, timeout=timeout)
        except JudgeError as error:
            assert error.kind == "context_too_long", error
            self.too_long.append(query)
            raise
        self.measured.append(query)
        return found


@pytest.fixture(scope="module")
def small() -> Generator[Recording]:
    judge = Recording(weights(), context_tokens=512, min_mass=0.0)
    yield judge
    judge.close()


@pytest.mark.local
def test_forty_passages_in_512_tokens(small: Recording) -> None:
    """The model is at chance: that every passage was read counts, and what the record says."""
    small.measured.clear()
    gate = Gate(small, Policy(deadline=SECONDS), windows=Windows(64))
    started = time.monotonic()
    decision = gate.check(QUESTION, forty())
    assert time.monotonic() - started < SECONDS
    assert small.too_long and all(len(each.contexts) > 3 for each in small.too_long)
    shown = {text for query in small.measured for text in query.contexts}
    assert shown == {*forty()}
    found = decision.verdict
    assert found and found.windows > 2
    assert len(small.measured) == found.windows + 1
    assert found.usage and found.usage.requests == found.windows + 1
    assert found.usage.input_tokens and found.usage.input_tokens < 512 * (found.windows + 1)
    assert 0 < found.coverage < 0.7
    assert decision.route is not Route.REFUSE
    # The last request holds the passage that shares its words with the question.
    assert EVIDENCE in small.measured[-1].contexts


@pytest.mark.local
def test_evidence_split_between_two_passages_is_shown_together(small: Recording) -> None:
    small.measured.clear()
    contexts = forty()
    contexts[2] = "The keeper of the Orrin lighthouse was Hanna Wold, who came there as a girl."
    contexts[36] = "Hanna Wold gave up her post in 1968 and moved to her sister's farm."
    contexts[39] = filler(39)
    gate = Gate(small, Policy(deadline=SECONDS), windows=Windows(64))
    decision = asyncio.run(gate.acheck(QUESTION, contexts))
    assert decision.verdict and {contexts[2], contexts[36]} <= {*small.measured[-1].contexts}


@pytest.mark.local
def test_few_windows_say_what_was_not_judged(small: Recording) -> None:
    small.measured.clear()
    gate = Gate(small, Policy(deadline=SECONDS), windows=Windows(2))
    decision = gate.check(QUESTION, forty())
    assert len(small.measured) <= 3
    assert decision.verdict and decision.verdict.coverage < 0.5
    assert "of the contexts was judged at once." in decision.detail
    assert decision.route is not Route.REFUSE
    assert EVIDENCE in small.measured[-1].contexts


# ── A prompt that was cut ────────────────────────────────────────────────────────────────────────

TEXTS = {
    "English": (
        "The reservoir above the village was drained twice: once in the dry summer of 1921, and "
        "again after the storm, when nobody trusted the old sluice any more. "
    ),
    "German": (
        "Das Wasserschutzgebietsverfahren wurde vom Landesverwaltungsamt eingestellt, weil die "
        "Grundstücksentwässerung längst abgeschlossen war. "
    ),
    "Chinese": (
        "这座水库在一九二一年夏天干涸过一次，村民们后来不再相信那道旧水闸，因此政府决定重新修建。"
    ),
    "Japanese": (
        "村の上にある貯水池は、一九二一年の夏に一度干上がりました。"
        "古い水門を信用する人はもういませんでした。"
    ),
    "Korean": "마을 위의 저수지는 1921년 여름에 한 번 말랐습니다. ",
    "Russian": "Водохранилище над деревней осушали дважды. ",
    "Thai": "อ่างเก็บน้ำเหนือหมู่บ้านแห้งสองครั้ง",
    "code": (
        "def drained(level: float, *, at: int = 0) -> bool:\n    if level <= LIMITS[at]:\n"
        "        return True\n    return drained(level - 1, at=at + 1)\n\n\n"
    ),
    "a table": (
        "| year | level | drained |\n| --- | --- | --- "
        "|\n| 1921 | 0.0 | yes |\n| 1922 | 8.5 | no |\n"
    ),
    "numbers": "1921 0.0 17 3.14159 100000 42 7 7 7 2026-11-03 12:30 99 % 1 2 3 4 5 6 7 8 9 10 ",
    "JSON": '{"level": 8.5, "drained": false, "years": [1921, 1922], "note": null}\n',
    "bullets": "- a\n- b\n- c\n* d\n1. e\n2. f\n> g\n# h\n",
    "letters": "a b c d e f g h i j k l m n o p q r s t u v w x y z . , ; : ! ? ",
    "dots": ". . . . . - - - - - _ _ _ _ ",
    "addresses": "https://reservoir.example/levels/1921?station=17&drained=true&format=json#notes\n",
    "JSON without spaces": '{"level":8.5,"drained":false,"years":[1921,1922],"note":null},',
    "code without spaces": "if(!drained){return(levels.map(at=>at.value).filter(Boolean))};",
    "long names": "reservoir_level_before_the_storm_of_the_summer+lowestReservoirLevelOfTheSummer",
    "base64": "QSByZXNlcnZvaXIgaXMgbm90aGluZyBidXQgYSBsYWtlIHRoYXQgc29tZWJvZHkgd2FudGVkLg==",
    "Lao": "ອ່າງເກັບນ້ຳເໜືອບ້ານແຫ້ງສອງຄັ້ງໃນລະດູຮ້ອນ",
    "Khmer": "អាងស្តុកទឹកលើភូមិត្រូវបានបង្ហូរពីរដងនៅរដូវក្តៅ",
    "Burmese": "ရွာအထက်ရှိရေလှောင်ကန်သည်နှစ်ကြိမ်ခန်းခြောက်ခဲ့သည်",
    "Tibetan": "གྲོང་ཚོའི་སྟེང་གི་ཆུ་མཛོད་ཐེངས་གཉིས་སྐམས་པ་རེད།",
    "Arabic": "جف الخزان فوق القرية مرتين في ذلك الصيف. ",
    "Hindi": "गाँव के ऊपर का जलाशय उस गर्मी में दो बार सूख गया। ",
    "columns of blanks": "year        level\t\t\tdrained\n\n\n1921          0.0\t\t\tyes\n",
    "a drawing": "+------+========+~~~~~~+\n|......|********|      |\n=-=-=-=-=-=-=-/\\/\\/\\/\\\n",
    "a ruler": "=" * 400 + "\n" + "-" * 79 + "\n" + "#" * 33 + "\n",
    "emoji": "\U0001f30a\U0001f411\U0001f680\U0001f468\u200d\U0001f469\u200d\U0001f467",
}


@pytest.fixture(scope="module")
def tokenizers() -> list[Any]:
    """Those that LlamaIndex has on board."""
    folder = Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache"
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    try:
        import tiktoken

        return [tiktoken.get_encoding(name) for name in ("cl100k_base", "o200k_base")]
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before


@pytest.mark.parametrize("name", TEXTS)
def test_no_tokenizer_counts_fewer(tokenizers: list[Any], name: str) -> None:
    """A whole prompt is never taken for a cut one."""
    for text in (TEXTS[name], TEXTS[name] * 40, DEFAULT_PROMPT.render(query_of(TEXTS[name])).text):
        for tokenizer in tokenizers:
            count = len(tokenizer.encode(text, disallowed_special=()))
            assert least_tokens(text) <= count


def query_of(text: str) -> Query:
    return Query.of(QUESTION, [text] * 20)


@pytest.mark.local
@pytest.mark.parametrize("name", TEXTS)
def test_llama_cpp_counts_no_fewer(small: Recording, name: str) -> None:
    query = Query.of(QUESTION, [TEXTS[name]])
    found = small.judge(query, timeout=60)
    text = DEFAULT_PROMPT.render(query).text
    assert found.usage and found.usage.input_tokens
    assert least_tokens(text) <= found.usage.input_tokens


SPACELESS = ["Thai", "Lao", "Khmer", "Burmese", "Tibetan", "JSON without spaces", "addresses"]


@pytest.mark.parametrize("name", SPACELESS)
def test_words_that_no_space_parts_count(name: str) -> None:
    """A sixteenth of their characters: too few to miss nothing, but not one for all of it."""
    text = TEXTS[name].strip() * 1000
    assert len(text) / 20 < least_tokens(text) <= len(text) / 16
    with pytest.raises(Unmeasured, match="cut"):
        require_uncut(text, Usage(len(text) // 25))


CUT: list[tuple[Usage | None, bool]] = [
    (None, False),
    (Usage(), False),
    (Usage(2048), True),
    (Usage(2999), True),
    (Usage(3000), False),
    (Usage(50_000), False),
    # Nothing but what its cache did not hold.
    (Usage(1), False),
    (Usage(256), False),
    (Usage(257), True),
    # What was cached, counted apart.
    (Usage(300, cached_tokens=2700), False),
    (Usage(300, cached_tokens=2000), True),
]


@pytest.mark.parametrize(("usage", "is_cut"), CUT)
def test_what_the_count_tells(usage: Usage | None, is_cut: bool) -> None:
    if not is_cut:
        require_uncut("word " * 3000, usage)
        return
    with pytest.raises(Unmeasured, match=r"counted \d+ tokens of at least 3000") as caught:
        require_uncut("word " * 3000, usage)
    assert caught.value.kind == "context_too_long"
    assert "OLLAMA_CONTEXT_LENGTH" in str(caught.value.hint)


def ollama(room: int) -> Callable[[Request], Answer]:
    """It reads the last so many tokens of a prompt, and tells nobody."""

    def answered(request: Request) -> Answer:
        tokens = re.findall(r"\w+|[^\w\s]", request.prompt)
        read = " ".join(tokens[-room:])
        knows = "retired in 1968" in read
        body = verdict(-0.02, -6.0) if knows else verdict(-6.0, -0.02)
        spent = {"prompt_tokens": min(room, len(tokens)), "completion_tokens": 1}
        number = f"chatcmpl-{id(request)}"
        return Answer({**body, "id": number, "usage": {**spent, "total_tokens": 0}})

    return answered


@pytest.mark.wire
@pytest.mark.parametrize("place", [0, 13, 39])
def test_a_server_that_cuts_is_asked_in_windows(
    wire: Wire, chat_judge: Callable[..., ChatJudge], place: int
) -> None:
    """The evidence stood in what it dropped, and would have been refused."""
    contexts = [filler(number) * 3 for number in range(39)]
    contexts.insert(place, EVIDENCE)
    server = wire(ollama(600))
    judge = chat_judge(server)
    decision = Gate(judge, windows=Windows(64)).check(QUESTION, contexts)
    assert decision.route is Route.ANSWER
    assert decision.verdict and decision.verdict.windows > 1
    # Without windows nothing is claimed.
    alone = Gate(judge, windows=Windows(1)).check(QUESTION, contexts)
    assert (alone.reason, alone.probability) == (Reason.CONTEXT_TOO_LONG, None)
    assert "The server cut the prompt" in alone.detail and "num_ctx" in alone.detail


@pytest.mark.wire
def test_a_whole_prompt_is_not_taken_for_a_cut_one(
    wire: Wire, chat_judge: Callable[..., ChatJudge]
) -> None:
    server = wire(ollama(100_000))
    decision = Gate(chat_judge(server)).check(QUESTION, forty())
    assert decision.verdict and (decision.verdict.windows, decision.route) == (1, Route.ANSWER)
    assert len(server.requests) == 1


@pytest.mark.wire
def test_a_sampled_judge_notices_too(wire: Wire) -> None:
    from openai import OpenAI

    server = wire(ollama(600))
    client = OpenAI(base_url=server.url, api_key="sk-1")
    judge = SampledJudge(client, model="m", samples=3, close_clients=True)
    decision = Gate(judge, windows=Windows(1)).check(QUESTION, [text * 3 for text in forty()])
    judge.close()
    assert decision.reason is Reason.CONTEXT_TOO_LONG


# ── A cut that was seen before ───────────────────────────────────────────────────────────────────


@pytest.mark.wire
def test_what_a_cut_counted_gives_the_next_one_away(
    wire: Wire, chat_judge: Callable[..., ChatJudge]
) -> None:
    """A prompt cut by a tenth has as many tokens as it may have, and as many as one cut by half."""
    server = wire(ollama(600))
    judge = chat_judge(server)
    gate = Gate(judge, windows=Windows(1))
    slightly, barely = ["a-b-c-d " * 90], ["a-b-c-d " * 60]
    assert gate.check(QUESTION, slightly).reason is not Reason.CONTEXT_TOO_LONG
    for words in (1400, 1500):
        assert gate.check(QUESTION, ["word " * words]).reason is Reason.CONTEXT_TOO_LONG
    caught = gate.check(QUESTION, slightly)
    assert (caught.reason, caught.probability) == (Reason.CONTEXT_TOO_LONG, None)
    assert "600 tokens, as of a prompt that it had cut before" in caught.detail
    assert gate.check(QUESTION, barely).measured
    # Another judge at the same server has to find out by itself.
    other = Gate(chat_judge(server, min_mass=0.4), windows=Windows(1))
    assert other.check(QUESTION, slightly).measured


@pytest.mark.wire
def test_each_answer_of_a_sampled_judge_counts_by_itself(wire: Wire) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=wire(ollama(600)).url, api_key="sk-1")
    judge = SampledJudge(client, model="m", samples=3, close_clients=True)
    gate = Gate(judge, windows=Windows(1))
    assert gate.check(QUESTION, ["a-b-c-d " * 90]).measured
    for words in (1400, 1500):
        assert gate.check(QUESTION, ["word " * words]).reason is Reason.CONTEXT_TOO_LONG
    assert gate.check(QUESTION, ["a-b-c-d " * 90]).reason is Reason.CONTEXT_TOO_LONG
    judge.close()


@pytest.mark.wire
def test_a_decision_endpoint_that_cuts(wire: Wire) -> None:
    from openai import OpenAI

    body = {
        "model": "m",
        "answers": [{"type": "predicate", "probability": 0.9}],
        "usage": {"input_tokens": 600, "output_tokens": 1},
    }
    client = OpenAI(base_url=wire(lambda _: Answer(body)).url, api_key="sk-1")
    judge = DecisionsJudge(client, model="m", close_clients=True)
    gate = Gate(judge, windows=Windows(1))
    assert gate.check(QUESTION, ["word " * 1400]).reason is Reason.CONTEXT_TOO_LONG
    assert gate.check(QUESTION, [EVIDENCE]).measured
    judge.close()


def test_one_count_of_one_prompt_is_not_remembered() -> None:
    """A server that counts what it had not in its cache alone gives any number, once."""
    cuts, text = Cuts(), "word " * 5000
    for counted in (700, 700, 900):
        with pytest.raises(CutPrompt), cuts.noted(text):
            require_uncut(text, Usage(counted))
    cuts.require_none("a" * 1000, Usage(700))
    cuts.require_none("a" * 1000, Usage(900))


def test_few_counts_are_remembered() -> None:
    """Counts that mean nothing fill no memory, and do not make all prompts seem cut."""
    cuts = Cuts()
    for counted in range(300, 400):
        for text in ("word " * 5000, "word " * 5001):
            with pytest.raises(CutPrompt), cuts.noted(text):
                require_uncut(text, Usage(counted))
    remembered = list[int]()
    for counted in range(300, 400):
        try:
            cuts.require_none("a" * 1000, Usage(counted))
        except CutPrompt:
            remembered.append(counted)
    assert remembered == [*range(384, 400)]
    # What has no more characters than tokens were counted was not cut.
    cuts.require_none("a" * 390, Usage(395))
