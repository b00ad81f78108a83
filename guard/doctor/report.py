"""A report: what was found out about a judge's endpoint, and what follows from it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["ok", "warn", "bad", "unknown"]
Conclusion = Literal["can judge", "only with", "cannot", "not known"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        state: how it stands.
        value: what was measured, JSON-ready; ``None`` = nothing.
        detail: a sentence about it.
    """

    name: str
    state: State
    value: object
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of an examination.

    Attributes:
        judge: the judge's name, e.g. ``openai:MODEL``.
        address: of its endpoint; ``None`` = in this process.
        provider: the id of the row in ``guard/data/providers.toml``, where one is recognised.
        known: what that row says of it: hearsay, beside what was found out here.
        conclusion: whether it can judge.
        because: the conclusion's reason, in a sentence.
        needs: what has to be set, or to be accepted, for it to judge.
        instead: a judge's name that works at this address, where this one does not.
        findings: in the order in which they were made.
        calls: HTTP requests made.
        toml: lines to paste into guard.toml; ``None`` = nothing works.
    """

    judge: str
    address: str | None
    provider: str | None
    known: str | None
    conclusion: Conclusion
    because: str
    needs: tuple[str, ...]
    instead: str | None
    findings: tuple[Finding, ...]
    calls: int
    toml: str | None

    def to_dict(self) -> Mapping[str, object]:
        """The report as JSON-ready values."""
        return asdict(self)
