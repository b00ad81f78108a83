"""Trouble: what the error of a judgement says of the endpoint."""

from typing import NamedTuple

from guard.doctor.report import Conclusion, Finding
from guard.errors import JudgeError
from guard.judge import Judge
from guard.judges.client_judge import ClientJudge

UNREACHED = ("timeout", "unavailable", "rate_limited")
REACHED = (
    Finding("reachable", "ok", True, "The endpoint answers."),
    Finding("auth", "ok", True, "The key, or its absence, is accepted."),
    Finding("model", "ok", True, "It serves the model."),
)


class Trouble(NamedTuple):
    """Why there is no verdict.

    Attributes:
        conclusion: what follows, unless something else works at this address.
        because: why, in a sentence.
        findings: the same, as findings.
        final: whether there is nothing else to try.
    """

    conclusion: Conclusion
    because: str
    findings: tuple[Finding, ...]
    final: bool


def trouble(error: JudgeError, judge: Judge, time_limit: float) -> Trouble:
    """What a judgement's error says of the endpoint.

    Args:
        error: why there was no verdict.
        judge: which judge it was.
        time_limit: seconds that it had.
    """
    told = " ".join(part for part in (error.message, error.hint) if part)
    if error.kind in UNREACHED:
        return _unreached(error, told, time_limit)
    if not isinstance(judge, ClientJudge):
        return Trouble("cannot", told, (Finding("verdicts", "bad", None, told),), final=True)
    if error.kind == "rejected":
        return _rejected(error, told)
    if error.kind == "malformed":
        finding = Finding("reachable", "warn", True, told)
        return Trouble("not known", error.message, (finding,), final=False)
    if error.kind == "content_filter":
        because = (
            "The provider's content filter blocked a harmless test prompt: look at its settings."
        )
        finding = Finding("verdicts", "bad", None, told)
        return Trouble("cannot", because, (*REACHED, finding), final=False)
    name = {"no_logprobs": "logprobs", "low_mass": "mass"}.get(error.kind, "verdicts")
    value = "absent" if name == "logprobs" else None
    findings = (*REACHED, Finding(name, "bad", value, told))
    return Trouble("cannot", error.message, findings, final=False)


def _unreached(error: JudgeError, told: str, time_limit: float) -> Trouble:
    answered = error.status is not None
    if error.kind == "timeout":
        told = f"No verdict within {time_limit:g} s; a longer --timeout may tell more."
    if error.kind == "rate_limited":
        told = f"{error.message} Wait, and run this again."
    finding = Finding("reachable", "ok" if answered else "bad", answered, told)
    return Trouble("not known", told, (finding,), final=True)


def _rejected(error: JudgeError, told: str) -> Trouble:
    refused = Finding("model", "bad", False, told)
    if error.status in (401, 403):
        refused = Finding("auth", "bad", False, told)
        return Trouble("not known", told, (REACHED[0], refused), final=True)
    if error.status in (404, 405):
        if "model" in error.message.partition("(")[2]:  # The code says which of both is unknown.
            because = f"The endpoint serves no model of this name ({error.message.rstrip('.')})."
            return Trouble("not known", because, (REACHED[0], refused), final=True)
        return Trouble("not known", told, (REACHED[0], refused), final=False)
    if error.status == 501:
        return Trouble("cannot", error.message, (REACHED[0], refused), final=False)
    findings = (*REACHED[:2], Finding("model", "bad", None, told))
    return Trouble("not known", told, findings, final=error.status not in (400, 422))
