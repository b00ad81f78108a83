"""Instead: what else works at an address whose configured judge does not."""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from openai import AsyncOpenAI, OpenAI

from guard._json import as_map, as_text
from guard.doctor.cases import INSUFFICIENT, SUFFICIENT
from guard.doctor.exchange import Exchange
from guard.doctor.findings import pair_of, tells_apart
from guard.doctor.report import Finding
from guard.doctor.trouble import UNREACHED
from guard.judge import Judge
from guard.judges import DEFAULT_SAMPLES
from guard.judges.chat import ChatJudge
from guard.judges.client_judge import ClientJudge
from guard.judges.connection import ClientConnection
from guard.judges.decisions import DecisionsJudge
from guard.judges.sampled import SampledJudge
from guard.judges.system_one import SystemOneJudge
from guard.posterior import posterior
from guard.providers import Provider
from guard.query import Query

# Enough that a coin hardly ever passes: eight of each kind would have to fall almost all rightly.
_SAMPLES = 8
_Client = OpenAI | AsyncOpenAI
_MAKERS: Mapping[str, Callable[[_Client, str], ClientJudge]] = {
    "openai": lambda client, model: ChatJudge(client, model=model),
    "decisions": lambda client, model: DecisionsJudge(client, model=model),
    "systemone": lambda client, model: SystemOneJudge(client, model=model),
    "samples": lambda client, model: SampledJudge(client, model=model, samples=_SAMPLES),
}
_KINDS: Mapping[type[ClientJudge], str] = {
    ChatJudge: "openai",
    DecisionsJudge: "decisions",
    SystemOneJudge: "systemone",
    SampledJudge: "samples",
}

Ask = Callable[[Judge, Query], Exchange]


@dataclass(slots=True)
class Instead:
    """What was found.

    Attributes:
        judge: the name of a judge that works.
        keys: the keys to write for it.
        address: another address, at which the configured judge is answered.
        findings: everything that was tried.
    """

    judge: str | None = None
    keys: dict[str, object] = field(default_factory=dict[str, object])
    address: str | None = None
    findings: list[Finding] = field(default_factory=list[Finding])


def instead_of(
    judge: ClientJudge, row: Provider | None, ask: Ask, progress: Callable[[str], None]
) -> Instead:
    """Tries other kinds of judges, the cheapest first, and what the provider's row names.

    Args:
        judge: the one that gave no verdict.
        row: what is known of its provider.
        ask: makes one exchange.
        progress: told what is being done, in words.
    """
    found = Instead()
    connection = judge.connection
    if not isinstance(connection, ClientConnection) or "/openai/deployments" in str(
        connection.base_url
    ):
        return found
    if _moved(judge, connection, ask):
        found.address = f"{connection.base_url.rstrip('/')}/v1"
        return found
    for kind, model, other in _others(judge, connection, row):
        progress(f"trying {kind}:{model} at the same address")
        yes = ask(other, SUFFICIENT)
        no = ask(other, INSUFFICIENT) if yes.verdict else yes
        other.close()
        pair = pair_of(yes, no)
        works = pair is not None and tells_apart(pair)
        found.findings.append(_finding(kind, yes, no, works))
        if works:
            found.judge = f"{kind}:{model}"
            found.keys = {"judge": found.judge, "base_url": connection.base_url.rstrip("/")}
            if kind == "samples":
                found.keys["samples"] = DEFAULT_SAMPLES
            return found
    return found


def _moved(judge: ClientJudge, connection: ClientConnection, ask: Ask) -> bool:
    """Whether the endpoint answers one step below its address, at ``/v1``."""
    if urlsplit(connection.base_url).path.strip("/") or type(judge) not in _KINDS:
        return False
    below = connection.given.with_options(base_url=f"{connection.base_url.rstrip('/')}/v1")
    made = ask(_MAKERS[_KINDS[type(judge)]](below, judge.name), SUFFICIENT)
    return made.error is None or made.error.status not in (404, 405)


def _others(
    judge: ClientJudge, connection: ClientConnection, row: Provider | None
) -> Iterator[tuple[str, str, ClientJudge]]:
    """Kind, model and judge of everything to try: what the row names comes before samples."""
    named = as_text(_named(row)) or ""
    kind_named, _, model_named = named.partition(":")
    for kind, make in _MAKERS.items():
        if kind == _KINDS.get(type(judge)):
            continue
        yield kind, judge.name, make(connection.given, judge.name)
        if kind == kind_named and model_named not in (judge.name, "MODEL", ""):
            yield kind, model_named, make(connection.given, model_named)


def _named(row: Provider | None) -> object:
    """The judge in a provider's lines."""
    if row is None:
        return None
    tables = as_map(as_map(tomllib.loads(row.lines)).get("deployment"))
    return as_map(tables.get("default")).get("judge")


def _finding(kind: str, yes: Exchange, no: Exchange, works: bool) -> Finding:
    if works and kind == "samples":
        reach = posterior(DEFAULT_SAMPLES, 0).low
        told = (
            f"samples: works here: {DEFAULT_SAMPLES} requests a query, each with the whole prompt; "
            f"all of them True reaches low = {reach:.3f}."
        )
        return Finding(kind, "ok", True, told)
    if works:
        return Finding(kind, "ok", True, f"{kind}: works here, with one request a query.")
    error = yes.error or no.error
    why = error.message if error else "It cannot tell the two known cases apart."
    if error is not None and error.kind in UNREACHED:
        return Finding(kind, "unknown", None, f"{kind}: could not be tried. {why}")
    return Finding(kind, "bad", False, f"{kind}: does not work here. {why}")
