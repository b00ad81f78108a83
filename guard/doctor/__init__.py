"""The doctor: what a judge's endpoint can do, found out by a handful of calls.

    two known cases ─► a verdict on both? ─► lists, mass, order, temperature, limits, cache ─► needs
                            └─ none ─► why? what else works at this address? ─► instead

Nothing is taken from a model's name: which models give logprobs changes by the month.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from guard.config import Deployment
from guard.config.toml import dotted, written
from guard.doctor.cases import INSUFFICIENT, SUFFICIENT
from guard.doctor.chat import APART, Examination, examine_chat, latency, pair_of, verdicts
from guard.doctor.exchange import Exchange, Line
from guard.doctor.report import Conclusion, Finding, Report
from guard.errors import JudgeError
from guard.judge import Judge
from guard.judges.chat import ChatJudge
from guard.judges.client_judge import ClientJudge
from guard.judges.connection import ClientConnection
from guard.judges.decisions import DecisionsJudge
from guard.judges.sampled import SampledJudge
from guard.judges.several import Chain, Mean
from guard.judges.system_one import SystemOneJudge
from guard.odds import expit, logit
from guard.providers import Provider, likely_local, provider_of
from guard.query import Query

__all__ = ["INSUFFICIENT", "SUFFICIENT", "Finding", "Report", "examine"]

Progress = Callable[[str], None]

# A deadline must leave room for a slow day.
_DEADLINE_FACTOR = 2
_MIN_ROOM = 500
_UNREACHED = ("timeout", "unavailable", "rate_limited")
# What asking again would not change, or not soon.
_FINAL = ("timeout", "no_logprobs")
_FINAL_STATUSES = (401, 403, 404, 405, 501)


def examine(
    judge: Judge,
    keys: Deployment,
    *,
    time_limit: float = 30.0,
    progress: Progress = lambda _what: None,
) -> Report:
    """Examines a judge: in a chain the first one, in a mean of two orders the model behind it.

    Args:
        judge: made from ``keys``.
        keys: the deployment; its name of the judge and its address go into the report.
        time_limit: seconds for each judgement.
        progress: told what is being done, in words.
    """
    line = Line(time_limit)
    return _Visit(_single(judge), keys, line, progress).report()


def _single(judge: Judge) -> Judge:
    if isinstance(judge, Chain):
        return _single(judge.links[0].judge)
    return judge.judges[0] if isinstance(judge, Mean) else judge


class _Verdictless(NamedTuple):
    """Why an endpoint gives no verdict: what to conclude, and the finding that says so."""

    conclusion: Conclusion
    because: str
    findings: tuple[Finding, ...]


class _Visit:
    """One examination under way."""

    def __init__(self, judge: Judge, keys: Deployment, line: Line, progress: Progress) -> None:
        self.judge, self.keys, self.line, self.progress = judge, keys, line, progress
        self.name = keys.judge or ""
        self._kind = self.name.partition(":")[0]
        self.findings = list[Finding]()

    def report(self) -> Report:
        self.progress("asking about two known cases")
        yes = self._ask(self.judge, SUFFICIENT)
        error = yes.error
        no = self._ask(self.judge, INSUFFICIENT) if error is None else yes
        if error is None:
            error = no.error
        return self._without(error) if error is not None else self._with(yes, no)

    def _ask(self, judge: Judge, query: Query) -> Exchange:
        """One exchange, or a second one where the first may have been bad luck."""
        made = self.line.exchange(judge, query)
        if made.error is None or made.error.kind in _FINAL or made.error.status in _FINAL_STATUSES:
            return made
        return self.line.exchange(judge, query)

    # ── It gave verdicts ─────────────────────────────────────────────────────────────────────────

    def _with(self, yes: Exchange, no: Exchange) -> Report:
        if isinstance(self.judge, ClientJudge):
            self.findings += _REACHED
        needs, extra = list[str](), dict[str, object]()
        if isinstance(self.judge, ChatJudge):
            self.progress("trying orders, temperatures and lengths")
            found = examine_chat(self.judge, self.line, yes, no)
            self.findings += found.findings
            pair = _needs(found, needs, extra, self.keys)
        else:
            pair = pair_of(yes, no) or (0.0, 0.0)
            self.findings += [verdicts(*pair), latency([yes.seconds, no.seconds])]
        if pair[0] - pair[1] < APART:
            because = (
                "It gives verdicts, but not the right ones: it cannot tell two plain cases apart."
            )
            return self._report("cannot", because, (), None, None)
        if (deadline := _slow(yes, no)) > self.keys.deadline:
            extra["deadline"] = deadline
            needs.append(f"Set deadline = {deadline:g}: that is how slow it is.")
        if needs:
            because = "It gives verdicts, if you set or accept this."
            return self._report("only with", because, tuple(needs), None, self._toml(extra))
        because = "It gives verdicts, and tells the two known cases apart."
        return self._report("can judge", because, (), None, self._toml(extra))

    # ── It did not ───────────────────────────────────────────────────────────────────────────────

    def _without(self, error: JudgeError) -> Report:
        why = _why(error, self.judge)
        self.findings += why.findings
        # Where nobody is at home, or the key is refused, there is nothing else to try.
        lost = why.conclusion == "not known" and error.status not in (400, 404, 405, 422)
        # An Azure deployment has no other door that a name and an address could describe.
        able = isinstance(self.judge, ClientJudge) and self._kind != "azure"
        instead = self._instead() if able and not lost else None
        if instead is None:
            return self._report(why.conclusion, why.because, (), None, None)
        assert isinstance(self.judge, ClientJudge)
        lines = {"judge": instead, "base_url": self.judge.connection.base_url.rstrip("/")}
        return self._report("cannot", why.because, (), instead, self._toml(lines))

    def _instead(self) -> str | None:
        """The name of the first other kind of judge that works at this address."""
        judge = self.judge
        assert isinstance(judge, ClientJudge) and isinstance(judge.connection, ClientConnection)
        client = judge.connection.given
        others: Mapping[str, Callable[[], ClientJudge]] = {
            "openai": lambda: ChatJudge(client, model=judge.name),
            "decisions": lambda: DecisionsJudge(client, model=judge.name),
            "systemone": lambda: SystemOneJudge(client, model=judge.name),
            "samples": lambda: SampledJudge(client, model=judge.name, samples=3),
        }
        for kind, make in others.items():
            if isinstance(judge, type(other := make())):
                continue
            self.progress(f"trying {kind} at the same address")
            yes = self._ask(other, SUFFICIENT)
            no = self._ask(other, INSUFFICIENT) if yes.verdict else yes
            other.close()
            works = _apart(yes, no)
            self.findings.append(_other(kind, yes, no, works))
            if works:
                return f"{kind}:{judge.name}"
        return None

    # ── What is said ─────────────────────────────────────────────────────────────────────────────

    def _report(
        self,
        conclusion: Conclusion,
        because: str,
        needs: tuple[str, ...],
        instead: str | None,
        toml: str | None,
    ) -> Report:
        address = self.judge.connection.base_url if isinstance(self.judge, ClientJudge) else None
        row, known = _hearsay(address, self.judge.model or "", self._kind)
        return Report(
            judge=self.name,
            address=address,
            provider=row.id if row else None,
            known=known,
            conclusion=conclusion,
            because=because,
            needs=needs,
            instead=instead,
            findings=tuple(self.findings),
            calls=self.line.calls,
            toml=toml,
        )

    def _toml(self, extra: Mapping[str, object]) -> str:
        """A deployment's lines: what was given, and what was found to be needed."""
        keys = self.keys.model_dump(exclude_unset=True, include=_CARRIED)
        address = os.environ.get("OPENAI_BASE_URL") if self._kind != "azure" else None
        if address and "base_url" not in keys and isinstance(self.judge, ClientJudge):
            keys["base_url"] = address
        lines = [f"{dotted(key)} = {written(value)}" for key, value in {**keys, **extra}.items()]
        return "\n".join(["[deployment.default]", *lines, _FIT, ""])


_CARRIED = {
    "judge",
    "base_url",
    "api_key_env",
    "api_version",
    "model_family",
    "min_mass",
    "max_context_chars",
    "labels",
    "samples",
    "ask_underspecified",
    "both_orders",
    "deadline",
}
_FIT = "# answer_at and refuse_below: fit them on queries of your own."
_REACHED = (
    Finding("reachable", "ok", True, "The endpoint answers."),
    Finding("auth", "ok", True, "The key, or its absence, is accepted."),
    Finding("model", "ok", True, "It serves the model."),
)


def _needs(
    found: Examination, needs: list[str], extra: dict[str, object], keys: Deployment
) -> tuple[float, float]:
    """What has to be set or accepted; P(True) of the two known cases once it is."""
    if found.signal == "logprobs-truncated":
        needs.append("Accept that P(True) is mostly near 0 or 1, and fit thresholds on that.")
    if found.signal == "logprobs-emitted":
        needs.append("Accept bounds instead of P(True), and fit thresholds on them.")
    if found.room is not None and found.room < (keys.max_context_chars or math.inf):
        cut = [one for one in found.findings if one.name == "prompt_limit" and one.state == "bad"]
        if cut and found.room >= _MIN_ROOM:
            extra["max_context_chars"] = found.room
            needs.append(
                f"Set max_context_chars = {found.room}, or give the server more context: "
                "it cuts longer prompts without an error."
            )
    pair, swapped = found.pair, found.swapped
    if swapped is None or not _flips(pair, swapped):
        return pair
    mean = tuple(expit((logit(a) + logit(b)) / 2) for a, b in zip(pair, swapped, strict=True))
    if mean[0] - mean[1] >= APART:
        extra["both_orders"] = True
        needs.append("Set both_orders = true: the verdict depends on which label is named first.")
        return mean[0], mean[1]
    return pair


def _flips(pair: Sequence[float], swapped: Sequence[float]) -> bool:
    return any((one > 0.5) != (other > 0.5) for one, other in zip(pair, swapped, strict=True))


def _hearsay(address: str | None, model: str, kind: str) -> tuple[Provider | None, str | None]:
    """What the file of providers says of an address, and how sure it is that it is meant."""
    if address is None:
        return None, None
    if row := provider_of(address, model, kind):
        return row, " ".join(part for part in (f"{row.name}:", row.works, row.needs) if part)
    if row := likely_local(address):
        told = (f"On this port usually {row.name} listens:", row.works, row.needs)
        return row, " ".join(part for part in told if part)
    return None, None


def _slow(yes: Exchange, no: Exchange) -> float:
    """A deadline in seconds that judgements as slow as these would meet."""
    return float(math.ceil(_DEADLINE_FACTOR * max(yes.seconds, no.seconds)))


def _apart(yes: Exchange, no: Exchange) -> bool:
    pair = pair_of(yes, no)
    return pair is not None and pair[0] - pair[1] >= APART


def _other(kind: str, yes: Exchange, no: Exchange, works: bool) -> Finding:
    if works:
        return Finding(kind, "ok", True, f"{kind}: works at this address.")
    error = yes.error or no.error
    why = error.message if error else "It cannot tell the two known cases apart."
    if error is not None and error.kind in _UNREACHED:
        return Finding(kind, "unknown", None, f"{kind}: could not be tried. {why}")
    return Finding(kind, "bad", False, f"{kind}: does not work here. {why}")


def _why(error: JudgeError, judge: Judge) -> _Verdictless:
    """What a judgement's error says of the endpoint."""
    told = " ".join(part for part in (error.message, error.hint) if part)
    if not isinstance(judge, ClientJudge):
        return _Verdictless("cannot", told, (Finding("verdicts", "bad", None, told),))
    if error.kind in _UNREACHED:
        answered = error.status is not None
        finding = Finding("reachable", "ok" if answered else "bad", answered, told)
        return _Verdictless("not known", told, (finding,))
    if error.status in (401, 403) and error.kind == "rejected":
        return _Verdictless("not known", told, (_REACHED[0], Finding("auth", "bad", False, told)))
    if error.status in (404, 405, 501) and error.kind == "rejected":
        conclusion: Conclusion = "cannot" if error.status == 501 else "not known"
        return _Verdictless(conclusion, told, (_REACHED[0], Finding("model", "bad", False, told)))
    if error.kind == "malformed":
        return _Verdictless("not known", told, (Finding("reachable", "warn", True, told),))
    name = {"no_logprobs": "logprobs", "low_mass": "mass"}.get(error.kind, "verdicts")
    value = "absent" if name == "logprobs" else None
    found = (*_REACHED, Finding(name, "bad", value, told))
    if error.kind == "rejected":
        return _Verdictless("not known", told, (*_REACHED[:2], Finding("model", "bad", None, told)))
    return _Verdictless("cannot", told, found)
