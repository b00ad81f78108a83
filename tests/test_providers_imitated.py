"""The imitated providers and our judges: which kind of judge measures where, and what it takes."""

import importlib
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

import pytest
from providers import KEY, PROVIDERS, Running, imitating, suffices

from guard import JudgeError, Query, judges
from guard.doctor import INSUFFICIENT, SUFFICIENT
from guard.prompt import DEFAULT_PROMPT, SWAPPED_TEMPLATE, Prompt
from guard.verdict import Verdict

pytestmark = pytest.mark.wire

Start = Callable[[str], AbstractContextManager[Running]]

NONE = "no_logprobs"

# What a judge of each kind comes to: the signal of its verdicts, or why there are none.
#                            openai: or azure:       decisions:    systemone:    samples:
OUTCOMES = {
    "openai-full": ("logprobs", "rejected", "rejected", "samples"),
    "openai-gpt-5.4": ("logprobs-truncated", "rejected", "rejected", "samples"),
    "openai-gpt-5.5": ("logprobs-truncated", "rejected", "rejected", "samples"),
    "gateway-gpt-5.5": ("logprobs-truncated", "rejected", "rejected", "samples"),
    "openai-never": (NONE, "rejected", "rejected", "samples"),
    "openai-never-unfinished": (NONE, "rejected", "rejected", "samples"),
    "gateway-never": (NONE, "rejected", "rejected", "samples"),
    "openai-decisions": (NONE, "predicate", "rejected", "samples"),
    "azure-old-api": ("logprobs", None, None, None),
    "azure-content-filter": ("content_filter", None, None, None),
    "vllm": ("logprobs", "rejected", "rejected", "samples"),
    "vllm-masked": ("logprobs-truncated", "rejected", "rejected", "samples"),
    "sglang": ("logprobs", "rejected", "rejected", "samples"),
    "llama-cpp": ("logprobs", "rejected", "rejected", "samples"),
    "llama-cpp-decision-model": ("rejected", "rejected", "noul", "rejected"),
    "ollama": ("logprobs", "rejected", "rejected", "samples"),
    "ollama-thinking": ("logprobs", "rejected", "rejected", "samples"),
    "lm-studio": (NONE, "malformed", "malformed", "samples"),
    "deepseek": ("logprobs", "rejected", "rejected", "samples"),
    "gateway-deepseek": ("logprobs", "rejected", "rejected", "samples"),
    "qwen-on-vllm": ("logprobs", "rejected", "rejected", "samples"),
    "gemini": (NONE, "rejected", "rejected", "samples"),
    "gemini-unknown-name": (NONE, "rejected", "rejected", "samples"),
    "anthropic": (NONE, "rejected", "rejected", "samples"),
    "anthropic-compatible": (NONE, "rejected", "rejected", "samples"),
    "mistral": ("logprobs", "rejected", "rejected", "samples"),
    "groq": (NONE, "rejected", "rejected", "samples"),
    "xai": (NONE, "rejected", "rejected", "samples"),
    "together": ("logprobs", "rejected", "rejected", "samples"),
    "together-newer-model": ("logprobs", "rejected", "rejected", "samples"),
    "fireworks": ("logprobs", "rejected", "rejected", "samples"),
    "openrouter": ("logprobs", "rejected", "rejected", "samples"),
    "litellm-drop-params": (NONE, "rejected", "rejected", "samples"),
    "litellm-refuses": (NONE, "rejected", "rejected", "samples"),
    "tgi": ("logprobs", "rejected", "rejected", "samples"),
    "emitted-only": ("logprobs-emitted", "rejected", "rejected", "samples"),
    "jev": ("rejected", "rejected", "noul", "rejected"),
    "unauthorized": ("rejected", "rejected", "rejected", "rejected"),
    "forbidden": ("rejected", "rejected", "rejected", "rejected"),
    "unknown-model": ("rejected", "rejected", "rejected", "rejected"),
    "slow": ("timeout", "timeout", None, None),
    "rate-limited": ("rate_limited", "rate_limited", "rate_limited", "rate_limited"),
    "web-page": ("malformed", "malformed", "malformed", "malformed"),
    "at-chance": ("logprobs", "rejected", "rejected", "samples"),
    "leaning": ("logprobs", "rejected", "rejected", "samples"),
    "wrong-way": ("logprobs", "rejected", "rejected", "samples"),
    "inverted": ("logprobs", "rejected", "rejected", "samples"),
}
KINDS = ("openai", "decisions", "systemone", "samples")
TELLS_NOTHING = ("at-chance", "wrong-way", "inverted")
CASES = [
    pytest.param(
        name,
        kind,
        outcome,
        id=f"{name}-{kind}",
    )
    for name, outcomes in OUTCOMES.items()
    for kind, outcome in zip(KINDS, outcomes, strict=True)
    if outcome is not None
]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts imitations, each in the environment that it needs."""

    @contextmanager
    def start(name: str) -> Generator[Running]:
        with imitating(name) as running, monkeypatch.context() as environment:
            for variable, value in running.environ.items():
                environment.setenv(variable, value)
            yield running

    return start


def outcome_of(running: Running, kind: str, query: Query) -> Verdict | JudgeError:
    """The verdict of a fresh judge, or why there is none."""
    if running.imitation.judge == "azure":
        kind = "azure"
    judge = judges.from_name(f"{kind}:{running.model}", base_url=running.base_url)
    try:
        return judge.judge(query, timeout=0.3 if running.imitation.chat_hangs else 10)
    except JudgeError as error:
        return error
    finally:
        judges.close(judge)


def test_every_imitation_is_in_the_table() -> None:
    assert set(OUTCOMES) == set(PROVIDERS)
    assert len(PROVIDERS) >= 20


@pytest.mark.parametrize(("name", "kind", "outcome"), CASES)
def test_what_each_kind_of_judge_comes_to(start: Start, name: str, kind: str, outcome: str) -> None:
    """The signal or the kind of error; and, where there is a verdict, the right one."""
    with start(name) as running:
        made = [outcome_of(running, kind, query) for query in (SUFFICIENT, INSUFFICIENT)]
    for one in made:
        assert (one.signal if isinstance(one, Verdict) else one.kind) == outcome
        assert KEY not in f"{one!r} {one}"
    if isinstance(made[0], Verdict) and name not in TELLS_NOTHING:
        first, second = (one.p_true for one in made if isinstance(one, Verdict))
        assert first > 0.85 and second < 0.3


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_known_endpoint_is_asked_once_a_query(start: Start, name: str) -> None:
    """Whatever it took to learn its ways, it is learnt by the second query."""
    with start(name) as running:
        first = outcome_of(running, "openai", SUFFICIENT)
        learning = len(running.requests)
        outcome_of(running, "openai", INSUFFICIENT)
        asked = len(running.requests) - learning
    assert learning <= 8
    # What is known to give no logprobs is left alone for a while.
    mute = isinstance(first, JudgeError) and first.kind == NONE
    assert asked == (0 if mute else 1)


@pytest.mark.local
@pytest.mark.parametrize(
    ("name", "signal"),
    [
        ("openai-full", "logprobs"),
        ("openai-gpt-5.4", "logprobs-truncated"),
        ("llama-cpp", "logprobs"),
    ],
)
def test_a_llama_index_llm_measures_as_well(start: Start, name: str, signal: str) -> None:
    """LlamaIndex's OpenAILike sends fields of its own, and `stream: false`; all of it is taken."""
    like = importlib.import_module("llama_index.llms.openai_like").OpenAILike
    judge_on = importlib.import_module("guard_llama_index").LlamaIndexJudge
    with start(name) as running:
        llm = like(
            model=running.model,
            is_chat_model=True,
            api_base=running.base_url,
            api_key=KEY,
            additional_kwargs={"user": "a-reader", "seed": 7},
        )
        judge = judge_on(llm)
        first, second = (judge.judge(query, timeout=10) for query in (SUFFICIENT, INSUFFICIENT))
        judge.close()
        learning = len(running.requests) - 1
    assert (first.signal, second.signal) == (signal, signal)
    assert first.p_true > 0.85 and second.p_true < 0.3
    assert 1 <= learning <= 3
    assert running.requests[-1].body["stream"] is False


def test_the_model_behind_them() -> None:
    """It reads passages and question, and nothing around them; also where the beginning is cut."""
    prompts = [DEFAULT_PROMPT, Prompt(template=SWAPPED_TEMPLATE)]
    for render in [*(prompt.render for prompt in prompts), DEFAULT_PROMPT.render_evidence]:
        assert suffices(render(SUFFICIENT).text)
        assert not suffices(render(INSUFFICIENT).text)
    text = DEFAULT_PROMPT.render(SUFFICIENT).text
    assert suffices(text[text.index("six years") :])
    assert not suffices(text[text.index("in the year") :])
    assert not suffices("Say hello.")
