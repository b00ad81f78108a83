"""The GGUF judge on the real llama.cpp with a real, small model."""

import asyncio
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from local_model import weights

from guard import ConfigError, Gate, JudgeRejected, Policy, Query, Reason, Unmeasured
from guard.judges import GgufJudge, from_name

pytestmark = pytest.mark.local
QUERY = Query.of("When did the bridge open?", ["The bridge opened in 1932."])


@pytest.fixture(scope="module")
def judge() -> Generator[GgufJudge]:
    """One model in memory for all tests of this file."""
    judge = GgufJudge(weights(), context_tokens=1024, min_mass=0.0)
    yield judge
    judge.close()


def test_lists_the_whole_vocabulary(judge: GgufJudge) -> None:
    """Nothing is hidden: bounds come from listed tokens alone that may yet lead to a label."""
    verdict = judge.judge(QUERY, timeout=30)
    assert verdict.signal == "logprobs"
    assert verdict.high - verdict.low < 0.2
    assert 0 < verdict.mass <= 1
    assert verdict.usage and verdict.usage.output_tokens == 1


def test_async_measures_the_same(judge: GgufJudge) -> None:
    """The asynchronous path reads the same model, within its own noise between repeats."""
    first = judge.judge(QUERY, timeout=30)
    second = asyncio.run(judge.ajudge(QUERY, timeout=30))
    assert abs(first.p_true - second.p_true) < 0.1


def test_trap_31_too_long_is_said(judge: GgufJudge) -> None:
    """A prompt beyond the context window is unmeasured, with both numbers in the message."""
    with pytest.raises(Unmeasured, match="the model was loaded with room for 1024") as caught:
        judge.judge(Query.of("Why?", ["many words " * 2000]), timeout=30)
    assert caught.value.kind == "context_too_long"


def test_trap_46_a_verdict_does_not_depend_on_what_was_judged_before(judge: GgufJudge) -> None:
    """Repeats at temperature 0 drift with the prompt cache of a server; without it they do not."""
    first = judge.judge(QUERY, timeout=60).p_true
    longer = Query.of(QUERY.question, [*QUERY.contexts, "It is 503 metres long."])
    between = judge.judge(longer, timeout=60).p_true
    again = [judge.judge(QUERY, timeout=60).p_true for _ in range(2)]
    assert again == pytest.approx([first, first], abs=1e-6)
    assert abs(between - first) > 1e-6


def test_deadline_abandons_a_running_judgement(judge: GgufJudge) -> None:
    """A model that is slower than the deadline costs the deadline, not its own time."""
    gate = Gate(judge, Policy(deadline=0.05))
    decision = gate.check("Why?", ["words " * 600])
    assert decision.reason is Reason.TIMEOUT
    assert decision.probability is None
    assert decision.elapsed_seconds < 2.05


def test_closed_judge_says_so() -> None:
    """A judge that was closed refuses instead of crashing."""
    judge = GgufJudge(weights(), context_tokens=512)
    judge.close()
    judge.close()
    with pytest.raises(JudgeRejected, match="closed"):
        judge.judge(QUERY, timeout=30)


@pytest.mark.parametrize("uses", ["", "judge.judge(query, timeout=30)", "judge.close()"])
def test_the_interpreter_ends(uses: str) -> None:
    """A process with a judge ends by itself: unused, used, or closed."""
    code = (
        "from guard import Query\nfrom guard.judges import from_name\n"
        "query = Query.of('Why?', ['Because.'])\n"
        f"judge = from_name('gguf:{weights()}', min_mass=0.0)\n{uses}\nprint('end')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "end\n"
    assert done.stderr == ""


def test_files_that_are_no_models(tmp_path: Path) -> None:
    """A missing, a foreign and a damaged file: one clear error each."""
    with pytest.raises(ConfigError, match="cannot be read"):
        from_name(f"gguf:{tmp_path / 'none.gguf'}")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(ConfigError, match="not a GGUF file"):
        from_name(f"gguf:{tmp_path / 'text.gguf'}")
    (tmp_path / "cut.gguf").write_bytes(weights().read_bytes()[:4096])
    with pytest.raises(ConfigError, match="cannot load"):
        from_name(f"gguf:{tmp_path / 'cut.gguf'}")
