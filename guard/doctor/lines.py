"""Lines: what to write into guard.toml, complete and without secrets."""

import os
from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

from guard.config import Deployment
from guard.config.deployment import unsuited
from guard.config.toml import dotted, written

# Decision endpoints rate a statement, and refuse labels.
_RATING, _WORDS = ("decisions", "systemone"), ("labels",)
_CUT = "# max_context_chars: the server cuts longer prompts (of English), and does not say so."
_FIT = "# answer_at and refuse_below: set them for this judge, on queries of your own."

# Where a judge's settings come from when the file does not say.
_VARIABLES: Mapping[str, Mapping[str, str]] = {
    "azure": {
        "base_url": "AZURE_OPENAI_ENDPOINT",
        "api_version": "OPENAI_API_VERSION",
        "api_key_env": "AZURE_OPENAI_API_KEY",
    },
    "openai": {"base_url": "OPENAI_BASE_URL", "api_key_env": "OPENAI_API_KEY"},
}


def lines(
    keys: Deployment,
    extra: Mapping[str, object],
    name: str,
    address: str | None,
    *,
    is_fitted: bool = False,
) -> str:
    """One deployment's table: what was set, and what was found to be needed.

    Args:
        keys: the deployment that was examined.
        extra: keys to set or to change.
        name: the deployment's.
        address: of the endpoint; ``None`` = in this process.
        is_fitted: whether the judge brings thresholds.
    """
    given = keys.model_dump(exclude_unset=True, exclude={"extends"}, exclude_none=True)
    if address is not None:
        given = {**_from_environ(str(given["judge"]), address), **given}
    wanted = {**given, **extra}
    kind = str(wanted["judge"]).partition(":")[0]
    if kind != str(given["judge"]).partition(":")[0]:
        # Thresholds of one judge are not thresholds of another.
        wanted = {key: value for key, value in wanted.items() if key not in _CUTS}
    others = {*unsuited(str(wanted["judge"])), *(_WORDS if kind in _RATING else ())}
    kept = {key: value for key, value in wanted.items() if key not in others}
    head, notes = ["judge"], [] if is_fitted or set(_CUTS) <= set(kept) else [_FIT]
    if "max_context_chars" in extra:
        notes.insert(0, _CUT)
    if "base_url" in kept and _is_secretive(str(kept["base_url"])):
        del kept["base_url"]
        notes.insert(0, "# base_url: yours holds a secret and is not repeated here.")
    ordered = sorted(kept, key=lambda key: key not in head)
    rows = [f"{dotted(key)} = {written(kept[key])}" for key in ordered]
    return "\n".join([f"[{dotted('deployment', name)}]", *rows, *notes, ""])


_CUTS = ("answer_at", "refuse_below")


def shown_address(address: str) -> str:
    """An address without user name, password and query, which may hold secrets."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _is_secretive(address: str) -> bool:
    return shown_address(address).rstrip("/") != address.rstrip("/")


def _from_environ(judge: str, address: str) -> dict[str, object]:
    """Settings that came from variables: the lines are to work on another machine too."""
    kind = judge.partition(":")[0]
    variables = _VARIABLES.get(kind, _VARIABLES["openai"])
    found: dict[str, object] = {}
    for key, variable in variables.items():
        if value := os.environ.get(variable):
            found[key] = variable if key == "api_key_env" else value
    host = urlsplit(address).hostname or ""
    if host in ("localhost", "::1") or host.startswith("127."):
        found.pop("api_key_env", None)  # A server on this machine was asked; it needs none.
    return found
