"""Providers: what each is known to give a judge, read from one file of data.

The file is a first guess, for a page and for a hint; what an endpoint really gives, it is asked.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal
from urllib.parse import urlsplit

OPENAI = "https://api.openai.com/v1"
"""Where requests go when no address is given."""

# Endpoints with a protocol of their own; every other kind of judge speaks chat completions.
_DECISION_KINDS = ("decisions", "systemone")


@dataclass(frozen=True, slots=True)
class Provider:
    """One row of ``guard/data/providers.toml``, whose head explains the fields.

    Attributes:
        id: a short name in lower case with hyphens.
        name: for people.
        hosts: what the names of its hosts end with.
        ports: where it usually listens on one's own machine.
        models: a regular expression on a model's name; empty = any.
        kind: of the judge in ``lines``.
        verdict: whether rag-guard can read a probability there.
        works: what works, in a sentence.
        needs: what must be set.
        alternatives: tokens listed at each place, at most; 0 = see ``alternatives_note``.
        alternatives_note: what limits that list.
        signal: which ``signal`` a record will show, with ``lines``.
        numbers: what the numbers are.
        cost: of one query.
        refusal: how it refuses.
        lines: TOML for ``guard.toml``, with placeholders in capitals.
        instead: what to use where it does not work.
        note: on ``lines``, in a few words; may be empty.
        source: where all this is from, with its date.
        checked: how far it can be trusted.
    """

    id: str
    name: str
    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    models: str
    kind: str
    verdict: Literal["works", "only with", "no", "not spoken"]
    works: str
    needs: str
    alternatives: int
    alternatives_note: str
    signal: str
    numbers: str
    cost: str
    refusal: str
    lines: str
    instead: str
    note: str
    source: str
    checked: Literal["read", "run", "documented", "conflicting"]

    def serves(self, host: str) -> bool:
        """Whether a host of this name is one of its own."""
        ends = (end if end.startswith("-") else f".{end}" for end in self.hosts)
        return host in self.hosts or host.endswith(tuple(ends))

    def fits(self, model: str) -> bool:
        """Whether this row is about a model of this name."""
        return re.search(self.models, model) is not None

    @property
    def rates(self) -> bool:
        """Whether it names probabilities itself, in a protocol of its own."""
        return self.verdict != "no" and self.kind in _DECISION_KINDS


@lru_cache(maxsize=1)
def providers() -> tuple[Provider, ...]:
    """All of them, in the file's order: of one host the most specific first."""
    text = files("guard").joinpath("data", "providers.toml").read_text("utf-8")
    return tuple(_provider(row) for row in tomllib.loads(text)["provider"])


def _provider(row: Mapping[str, Any]) -> Provider:
    # What the file may hold, a test checks: nobody but us writes it.
    values: dict[str, Any] = {**row, "hosts": tuple(row["hosts"]), "ports": tuple(row["ports"])}
    return Provider(**values)


def provider_of(base_url: str | None, model: str, kind: str = "openai") -> Provider | None:
    """The provider behind an address, if its host's name tells; else ``None``.

    A port tells nothing for sure: see `likely_local`.

    Args:
        base_url: the endpoint; ``None`` = OpenAI's own.
        model: the model's name.
        kind: the judge's, as in ``openai:MODEL``. ``decisions`` and ``systemone`` are endpoints of
            their own beside a provider's chat completions.
    """
    host = _host(OPENAI if base_url is None else base_url)
    rates = kind in _DECISION_KINDS
    return _first(
        each
        for each in providers()
        if each.rates == rates and each.serves(host) and each.fits(model)
    )


def likely_local(base_url: str) -> Provider | None:
    """What usually listens on this port of one's own machine: a guess, since anything may."""
    host = _host(base_url)
    if host not in ("localhost", "::1") and not host.startswith("127."):
        return None
    port = urlsplit(base_url).port
    return _first(each for each in providers() if port in each.ports)


def _host(address: str) -> str:
    return (urlsplit(address).hostname or "").rstrip(".")


def _first(found: Iterable[Provider]) -> Provider | None:
    return next(iter(found), None)
