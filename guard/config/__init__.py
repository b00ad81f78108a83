"""Configuration: a TOML file and RAG_GUARD_* variables, checked key by key, to a gate.

    file: [deployment.NAME], its `extends` below it ─► RAG_GUARD_* ─► options ─► Deployment ─► Gate

What comes later beats what came before; nothing is guessed, and what nobody knows is an error. Each
error names the file (or variable) and the key, and its hint says what to write instead. A text that
does not fit is never repeated in an error: it may be a secret that was put in the wrong place.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from guard.config.audit import audit_of
from guard.config.cache import cache_of
from guard.config.deployment import (
    AuditKeys,
    Deployment,
    LabelTexts,
    MessageTexts,
    PriceKeys,
    Routes,
    Table,
    Texts,
)
from guard.config.environment import CHOOSER, FILE, VARIABLES, from_environ, require_filled
from guard.config.file import File
from guard.config.judge import judge_of
from guard.config.layers import Layer, Settled, settle
from guard.errors import ConfigError
from guard.gate import Gate
from guard.limit import Limit
from guard.observer import Observer
from guard.policy import Policy
from guard.retry import Retry
from guard.windows import Windows

__all__ = [
    "VARIABLES",
    "AuditKeys",
    "Deployment",
    "LabelTexts",
    "MessageTexts",
    "PriceKeys",
    "Routes",
    "Table",
    "Texts",
    "load_gate",
    "resolve",
]

logger = logging.getLogger("guard")


def load_gate(
    path: str | Path | None = None,
    *,
    deployment: str | None = None,
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, object] | None = None,
    profiles: bool = True,
    audit: bool = True,
    asks: bool = True,
) -> Gate:
    """The gate of one deployment.

        gate = load_gate("guard.toml", deployment="support-bot")

    Args:
        path: the TOML file; else ``RAG_GUARD_CONFIG``; else variables and options must suffice.
        deployment: which of its deployments; else ``RAG_GUARD_DEPLOYMENT``, the only one there is,
            or the one called "default".
        environ: variables to read instead of ``os.environ``.
        options: values by key that beat file and variables, as a command line's do; not ``extends``
            or ``fallback``, which name tables of the file. Errors call them by their option, e.g.
            ``--answer-at``.
        profiles: ``False`` leaves them aside, unread, as for a tool that makes a new one.
        audit: ``False`` keeps and traces no decision, as for a tool whose rows are no queries of
            users.
        asks: ``False`` needs no key: for routing what is already judged. Such a gate's judge must
            not be asked.

    Raises:
        ConfigError: a file, variable or option is missing or wrong, or no judge is named. It says
            which and what to do; it never repeats a key.
        ProfileMismatch: a profile is for another judge, and no ``on_stale`` says what to do then.
    """
    environ = os.environ if environ is None else environ
    chain = _chain(path, deployment, environ, options)
    for each in chain:
        if each.warning is not None:
            logger.warning("%s", each.warning)
    if not profiles:
        chain = [replace(each, profile=None) for each in chain]
    settled = chain[0]
    policy = _policy(settled)
    if not profiles:  # Nor what the judge brings: these count as set.
        policy = replace(policy, thresholds=replace(policy.thresholds))
    judge, profile = judge_of(chain, environ if asks else None, brought=profiles)
    return Gate(
        judge,
        policy,
        retry=Retry(attempts=settled.deployment.attempts),
        cache=cache_of(settled),
        deployment=settled.name,
        profile=profile,
        price=settled.deployment.price_of_tokens(),
        observers=(*audit_of(settled), *_trace_of(settled)) if audit else (),
        windows=Windows(settled.deployment.windows),
        limit=Limit(settled.deployment.max_in_flight, settled.deployment.max_wait),
    )


def resolve(
    path: str | Path | None = None,
    deployment: str | None = None,
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, object] | None = None,
) -> tuple[str, Deployment]:
    """The chosen deployment's name and what it amounts to; builds nothing and needs no key.

    Arguments and errors are those of `load_gate`, except that no judge need be named.
    """
    environ = os.environ if environ is None else environ
    settled = _chain(path, deployment, environ, options)[0]
    return settled.name, settled.deployment


def _trace_of(settled: Settled) -> tuple[Observer, ...]:
    keys = settled.deployment
    if not keys.trace:
        return ()
    from guard.trace import Trace

    return (Trace(texts=keys.trace_texts),)


def _policy(settled: Settled) -> Policy:
    """The policy; an error names the place of a message whose function cannot be imported."""
    try:
        return settled.deployment.policy()
    except ConfigError as error:
        place = settled.origins["messages"]
        raise ConfigError(f"{place}.{error.message}", hint=error.hint) from error.__cause__


def _chain(
    path: str | Path | None,
    name: str | None,
    environ: Mapping[str, str],
    options: Mapping[str, object] | None,
) -> list[Settled]:
    """The chosen deployment, then its fallback, that one's fallback, and so on."""
    require_filled(environ)
    _require_no_table_named(options or {})
    name = environ.get(CHOOSER) if name is None else name
    path = environ.get(FILE) if path is None else path
    file = None if path is None else File.read(path)
    tables = [] if file is None else [layer.table for layer in file.deployments.values()]
    # The file may keep its key in a variable that begins like ours.
    variables = from_environ(environ, {table.api_key_env for table in tables})
    overrides = [variables, Layer.of(options or {}, _option)]
    if file is None:
        return [settle(_without_file(name), None, overrides)]
    chosen = file.choose(name)
    chain = [settle(chosen, file.path, [*file.layers(chosen), *overrides])]
    # Variables and options are about the chosen one; a fallback is what the file says it is.
    for below in file.fallbacks(chosen):
        chain.append(settle(below, file.path, file.layers(below)))
    return chain


def _require_no_table_named(options: Mapping[str, object]) -> None:
    for key in ("extends", "fallback"):
        if key in options:
            raise ConfigError(
                f"{_option([key])} is for the file alone: it names a table there.",
                hint=f"Write `{key}` into a [deployment.NAME] table, and choose that one.",
            )


def _without_file(name: str | None) -> str:
    if name in (None, "default"):
        return "default"
    raise ConfigError(
        f"There is no deployment {name!r}: no configuration file is named.",
        hint="Name the file with --config, RAG_GUARD_CONFIG or the argument `path`.",
    )


def _option(path: Sequence[str]) -> str:
    return f"--{path[0].replace('_', '-')}"
