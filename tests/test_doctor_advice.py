"""What the doctor advises, and what it must not say."""

import itertools
import json
import random
import tomllib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from providers import PROVIDERS, Imitation, Running, imitating, suffices
from wire import Answer, Request, Script, WireServer, chat, proxy_url

from guard import JudgeUnavailable, Verdict
from guard.config import Deployment, load_gate, resolve
from guard.doctor import INSUFFICIENT, SUFFICIENT, Report, examine
from guard.doctor.lines import lines, shown_address
from guard.judges import close
from guard.testing import ScriptedJudge

pytestmark = pytest.mark.wire

Wire = Callable[[Script], WireServer]
_ids = itertools.count()


def visit(tmp_path: Path, toml: str, deployment: str = "default") -> Report:
    """What the doctor says of a deployment."""
    file = tmp_path / "guard.toml"
    file.write_text(toml, "utf-8")
    name, keys = resolve(file, deployment)
    gate = load_gate(file, deployment=deployment)
    try:
        return examine(gate.judge, keys, name=name, time_limit=10)
    finally:
        close(gate.judge)


@contextmanager
def started(name: str) -> Generator[Running]:
    """An imitation, in the environment that it needs."""
    with imitating(name) as running, pytest.MonkeyPatch.context() as environment:
        for variable, value in running.environ.items():
            environment.setenv(variable, value)
        yield running


def serve(wire: Wire, base: str = "llama-cpp", **knobs: Any) -> tuple[Imitation, str]:
    """An imitation with other settings, and a table that names it."""
    imitation = replace(PROVIDERS[base], model="m", **knobs)
    url = wire(imitation).url
    return imitation, f'[deployment.default]\njudge = "openai:m"\nbase_url = "{url}"\n'


def state(report: Report, name: str) -> tuple[str, object]:
    """One finding's state and value."""
    found = next(one for one in report.findings if one.name == name)
    return found.state, found.value


def told(report: Report, name: str) -> str:
    """One finding's sentence."""
    return next(one.detail for one in report.findings if one.name == name)


class _Shifted(Imitation):
    """Tells the cases apart, but both on one side of 0.5."""

    def belief(self, prompt: str) -> float:
        return 4.6 if suffices(prompt) else 2.0


def test_cases_on_one_side_of_the_thresholds_need_other_thresholds(
    wire: Wire, tmp_path: Path
) -> None:
    """Lines that would answer the insufficient case are not called ready."""
    shifted = _Shifted(model="m")
    table = f'[deployment.default]\njudge = "openai:m"\nbase_url = "{wire(shifted).url}"\n'
    report = visit(tmp_path, table)
    assert report.conclusion == "only with"
    assert "would be: answer, answer" in report.needs[-1]
    report = visit(tmp_path, table + "answer_at = 0.95\nrefuse_below = 0.92\n")
    assert report.conclusion == "can judge"


class _Contrary(Imitation):
    """Says the opposite where the labels are named in the other order."""

    def belief(self, prompt: str) -> float:
        first_true = "(True or False)" in prompt
        return (3.0 if first_true else -3.0) if suffices(prompt) else 0.0


def test_an_order_that_no_mean_mends_is_no_judge(wire: Wire, tmp_path: Path) -> None:
    """The flip is not passed over because averaging does not help either."""
    url = wire(_Contrary(model="m")).url
    report = visit(tmp_path, f'[deployment.default]\njudge = "openai:m"\nbase_url = "{url}"\n')
    assert (report.conclusion, report.toml) == ("cannot", None)
    assert "mean does not help" in report.because


def test_both_orders_once_set_is_enough(wire: Wire, tmp_path: Path) -> None:
    """The doctor's own advice, taken, leads to "can judge"."""
    with started("wrong-way") as running:
        table = f'[deployment.bot]\njudge = "{running.judge}"\nbase_url = "{running.base_url}"\n'
        first = visit(tmp_path, table, "bot")
        assert first.conclusion == "only with" and first.toml is not None
        again = visit(tmp_path, first.toml, "bot")
    assert (again.conclusion, again.needs) == ("can judge", ())
    assert "cancels it" in told(again, "order_bias")


def coin(seed: int) -> Callable[[Request], Answer]:
    """A server that says True or False by chance, whatever it is asked."""
    dice = random.Random(seed)

    def answer(request: Request) -> Answer:
        if not request.path.endswith("/chat/completions"):
            return Answer({"error": "Not Found"}, status=404)
        reply = chat(content=dice.choice(["True", "False"]), logprobs=None)
        return Answer({**reply, "id": f"chatcmpl-{next(_ids)}"})

    return answer


def test_a_coin_is_no_judge(wire: Wire, tmp_path: Path) -> None:
    """Neither as samples nor as what to use instead of logprobs."""
    for seed, name in itertools.product(range(12), ("openai:m", "samples:m")):
        url = wire(coin(seed)).url
        table = f'[deployment.default]\njudge = "{name}"\nbase_url = "{url}"\n'
        report = visit(tmp_path, table)
        assert (report.conclusion, report.instead, report.toml) == ("cannot", None, None), seed


def test_samples_are_advised_with_their_price(tmp_path: Path) -> None:
    """Twenty requests a query stand in the finding, and `samples` in the lines."""
    with started("xai") as running:
        report = visit(
            tmp_path,
            f'[deployment.bot]\njudge = "{running.judge}"\nbase_url = "{running.base_url}"\n',
            "bot",
        )
    assert report.instead == f"samples:{running.model}"
    assert "20 requests a query" in told(report, "samples")
    assert report.toml is not None and "samples = 20" in report.toml


def test_secrets_in_addresses_are_not_repeated() -> None:
    """Neither in the header nor in lines that end up in a repository."""
    address = "http://user:S3CRET@127.0.0.1:8/v1?api_key=S3CRET"
    assert shown_address(address) == "http://127.0.0.1:8/v1"
    written = lines(Deployment(judge="openai:m"), {"base_url": address}, "default", address)
    assert "S3CRET" not in written and "holds a secret" in written


def test_a_variable_that_holds_a_secret_is_not_repeated(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """OPENAI_BASE_URL with a key in its query: asked, never printed."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{wire(PROVIDERS['at-chance']).url}?api_key=S3CRET")
    report = visit(tmp_path, '[deployment.default]\njudge = "openai:m"\n')
    assert "S3CRET" not in json.dumps(report.to_dict())


def test_lines_for_another_kind_leave_out_what_it_refuses(wire: Wire, tmp_path: Path) -> None:
    """Labels, orders and thresholds of the old judge would be errors, or wrong, with the new."""
    with started("openai-decisions") as running:
        table = (
            f'[deployment.default]\njudge = "openai:{running.model}"\nanswer_at = 0.9\n'
            f'base_url = "{running.base_url}"\nlabels = {{ true = "Yes", false = "No" }}\n'
            'min_mass = 0.4\nboth_orders = true\napi_key_env = "OPENAI_API_KEY"\n'
        )
        report = visit(tmp_path, table)
        assert report.instead == f"decisions:{running.model}" and report.toml is not None
        assert "answer_at =" not in report.toml
        (tmp_path / "new.toml").write_text(report.toml, "utf-8")
        gate = load_gate(tmp_path / "new.toml")
        assert gate.check(SUFFICIENT.question, SUFFICIENT.contexts).measured
        close(gate.judge)


def test_usage_without_measure_is_not_believed(wire: Wire, tmp_path: Path) -> None:
    """A server's token counts cannot talk us into a limit that no file could hold."""
    counts = itertools.cycle([10, 10, 10, 10, 10, 10, 10**12, 10**12, 10**12])
    imitation, table = serve(wire)

    def lying(request: Request) -> Answer:
        answer = imitation(request)
        usage = {"prompt_tokens": next(counts), "completion_tokens": 1}
        return replace(answer, body={**answer.body, "usage": usage})

    url = wire(lying).url
    report = visit(tmp_path, f'[deployment.default]\njudge = "openai:m"\nbase_url = "{url}"\n')
    assert table and report.toml is not None and "max_context_chars" not in report.toml


def test_the_lines_keep_what_was_set(wire: Wire, tmp_path: Path) -> None:
    """Name, thresholds, policy and fallback of the deployment stay; the fallback is not hidden."""
    _, table = serve(wire)
    own = 'answer_at = 0.8\nrefuse_below = 0.2\non_unmeasured = "raise"\nattempts = 1\n'
    other = '[deployment.b]\njudge = "scripted:0.5"\nanswer_at = 0.9\nrefuse_below = 0.1\n'
    table = table.replace("default", "bot") + own + 'fallback = "b"\n' + other
    report = visit(tmp_path, table, "bot")
    assert report.toml is not None
    assert report.toml.startswith("[deployment.bot]\n")
    for line in [*own.splitlines(), 'fallback = "b"']:
        assert line in report.toml
    assert state(report, "fallback") == ("unknown", "b")
    assert "--deployment b" in told(report, "fallback")


@pytest.mark.parametrize("kind", ["timeout", "unavailable", "rate_limited"])
def test_an_unreachable_judge_of_any_kind_is_not_known(kind: Any) -> None:
    """A plug-in that is down is not one that cannot judge."""
    judge = ScriptedJudge(lambda _query: JudgeUnavailable("down", kind=kind))
    report = examine(judge, Deployment(judge="mine"))
    assert report.conclusion == "not known"


def test_the_wrong_way_round_is_told_from_chance() -> None:
    """Each has its own sentence, and neither has lines to paste."""
    said: Callable[[Any], float] = lambda query: 0.02 if query == SUFFICIENT else 0.98  # noqa: E731
    wrong = examine(ScriptedJudge(said), Deployment(judge="mine"))
    chance = examine(ScriptedJudge(0.5), Deployment(judge="mine"))
    assert "wrong way round" in wrong.because and "cannot tell" in chance.because
    assert wrong.toml is None and chance.toml is None


def test_bounds_that_overlap_are_not_told_apart() -> None:
    """The middle of two wide ranges is no difference."""

    def said(query: object) -> tuple[float, float]:
        return (0.4, 0.9) if query == SUFFICIENT else (0.1, 0.6)

    assert examine(ScriptedJudge(said), Deployment(judge="mine")).conclusion == "cannot"


def test_one_slow_case_is_slow_enough() -> None:
    """The deadline must suit the slower of both."""

    def slow(query: object) -> float:
        return 0.6 if query == INSUFFICIENT else 0.0

    said: Callable[[object], float] = lambda query: 0.99 if query == SUFFICIENT else 0.01  # noqa: E731
    judge = ScriptedJudge(said, delay=slow)
    report = examine(judge, Deployment(judge="mine", deadline=1.0))
    assert report.conclusion == "only with"
    assert "deadline = 2" in report.needs[0]


def test_an_address_without_its_last_step(wire: Wire, tmp_path: Path) -> None:
    """Where everything is at /v1, that is found out, and nothing else is tried."""
    strict = replace(PROVIDERS["llama-cpp"], model="m")

    def answer(request: Request) -> Answer:
        there = request.path.startswith("/v1/")
        return strict(request) if there else Answer({"detail": "Not Found"}, status=404)

    server = WireServer(answer, host="judge.test")
    with pytest.MonkeyPatch.context() as environment:
        for name in ("HTTP_PROXY", "http_proxy"):
            environment.setenv(name, proxy_url())
        environment.setenv("OPENAI_API_KEY", "sk-canary-0123456789")
        table = '[deployment.default]\njudge = "openai:m"\nbase_url = "http://judge.test"\n'
        report = visit(tmp_path, table)
    server.close()
    assert report.conclusion == "not known"
    assert "answers at http://judge.test/v1" in report.because
    assert report.calls <= 3


def test_an_unknown_model_is_told_as_such(tmp_path: Path) -> None:
    """The address is not blamed, and nothing else is tried."""
    with started("unknown-model") as running:
        table = (
            f'[deployment.default]\njudge = "{running.judge}"\nbase_url = "{running.base_url}"\n'
        )
        report = visit(tmp_path, table)
    assert "no model of this name" in report.because
    assert report.calls == 1


def test_a_short_limit_that_is_set_is_not_called_a_test(wire: Wire, tmp_path: Path) -> None:
    """A long prompt that was never sent says nothing of the endpoint."""
    _, table = serve(wire)
    report = visit(tmp_path, table + "max_context_chars = 1500\n")
    assert state(report, "prompt_limit") == ("ok", 1500)
    assert "not tried" in told(report, "prompt_limit")


@pytest.mark.parametrize(("limit", "is_cut"), [(5000, False), (30_000, True)])
def test_a_limit_that_is_set_is_tried(wire: Wire, tmp_path: Path, limit: int, is_cut: bool) -> None:
    """What was guessed, or taken from a page, may be more than this server reads."""
    imitation, table = serve(wire, "ollama", context=16_000)
    report = visit(tmp_path, table + f"max_context_chars = {limit}\n")
    assert state(report, "prompt_limit")[0] == ("bad" if is_cut else "ok")
    assert report.conclusion == ("only with" if is_cut else "can judge")
    written = keys_of(report)["max_context_chars"]
    assert written < imitation.context if is_cut else written == limit


@pytest.mark.parametrize("context", [3000, 6000, 16_000, 40_000])
def test_the_lines_keep_every_prompt_whole(wire: Wire, tmp_path: Path, context: int) -> None:
    """However little the server reads, and with earlier turns in the prompt where there is room."""
    server = wire(replace(PROVIDERS["ollama"], model="m", context=context))
    table = f'[deployment.default]\njudge = "openai:m"\nbase_url = "{server.url}"\n'
    report = visit(tmp_path, table)
    assert state(report, "prompt_limit")[0] == "bad"
    assert report.conclusion == "only with" and report.toml
    room = keys_of(report)["max_context_chars"]
    assert f"Set max_context_chars = {room}" in " ".join(report.needs)
    assert "# max_context_chars: the server cuts longer prompts" in report.toml
    (tmp_path / "pasted.toml").write_text(report.toml, "utf-8")
    gate = load_gate(tmp_path / "pasted.toml")
    before = len(server.requests)
    history = [("user", "The boats stayed in the harbour. " * 300)] * (context > 6000)
    filler = ["Rain fell on the coast for most of that week. " * 8] * (context // 100)
    decision = gate.check(SUFFICIENT.question, [*SUFFICIENT.contexts, *filler], history=history)
    close(gate.judge)
    assert decision.measured and decision.verdict and decision.verdict.windows > 1
    assert max(len(request.prompt) for request in server.requests[before:]) <= context


def test_a_server_that_reads_next_to_nothing(wire: Wire, tmp_path: Path) -> None:
    """No limit would help: that is said, and it does not pass as one that can judge."""
    _, table = serve(wire, "ollama", context=1400)
    report = visit(tmp_path, table)
    assert state(report, "prompt_limit")[0] == "bad"
    assert report.conclusion == "only with"
    assert "Give the server more context" in " ".join(report.needs)
    assert "max_context_chars" not in keys_of(report)


def keys_of(report: Report) -> dict[str, Any]:
    """What the lines set."""
    return dict(tomllib.loads(report.toml or "")["deployment"]["default"])


def test_what_a_provider_offers_instead_comes_before_samples(tmp_path: Path) -> None:
    """OpenAI rates statements with another model than the one that was asked."""
    never = replace(PROVIDERS["openai-never"], host="api.openai.com", model="", decisions=None)
    server = WireServer(never, host="api.openai.com")
    with pytest.MonkeyPatch.context() as environment:
        for name in ("HTTP_PROXY", "http_proxy"):
            environment.setenv(name, proxy_url())
        environment.setenv("OPENAI_API_KEY", "sk-canary-0123456789")

        def asked(request: Request) -> Answer:
            rates = request.path.endswith("/decisions")
            if rates and request.body["model"] != "gpt-6-luna":
                return Answer({"error": {"message": "no such model"}}, status=404)
            return never(request)

        server.close()
        server = WireServer(asked, host="api.openai.com")
        table = '[deployment.default]\njudge = "openai:o3"\nbase_url = "http://api.openai.com/v1"\n'
        report = visit(tmp_path, table)
    server.close()
    assert report.provider == "openai-never"
    assert report.instead == "decisions:gpt-6-luna"
    assert report.toml is not None and 'judge = "decisions:gpt-6-luna"' in report.toml


def test_verdicts_are_those_of_the_report() -> None:
    """A scripted judge of two certain verdicts is as good as it gets."""

    def said(query: object) -> Verdict | float:
        return 0.99 if query == SUFFICIENT else 0.01

    report = examine(ScriptedJudge(said), Deployment(judge="mine"), name="bot")
    assert report.conclusion == "can judge"
    assert state(report, "verdicts") == ("ok", {"sufficient": 0.99, "insufficient": 0.01})
    assert report.toml is not None and report.toml.startswith("[deployment.bot]")
