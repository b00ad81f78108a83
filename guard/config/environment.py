"""The environment: which RAG_GUARD_* variables there are, and the layer that they make."""

from collections.abc import Callable, Container, Mapping, Sequence

from guard.config.complaints import nearest
from guard.config.deployment import Table
from guard.config.layers import Layer
from guard.errors import ConfigError

FILE = "RAG_GUARD_CONFIG"
CHOOSER = "RAG_GUARD_DEPLOYMENT"

_FLAGS: Mapping[str, bool] = {"true": True, "false": False}

_PARSERS: Mapping[str, Callable[[str], object]] = {
    "judge": str,
    "base_url": str,
    "on_unmeasured": str.lower,
    "on_stale": str.lower,
    "profile": str,
    "mode": str.lower,
    "canary": float,
    "answer_at": float,
    "refuse_below": float,
    "deadline": float,
    "attempts": int,
    "max_in_flight": int,
    "max_wait": float,
    "trace": lambda text: _FLAGS.get(text.lower(), text),
}
VARIABLES = (FILE, CHOOSER, *(f"RAG_GUARD_{key.upper()}" for key in _PARSERS))
"""Every variable that rag-guard reads; any other RAG_GUARD_* is an error."""


def from_environ(environ: Mapping[str, str], others: Container[str | None]) -> Layer:
    """The keys that variables set; ``others`` may begin like ours without being an error."""
    for variable in environ:
        if variable.startswith("RAG_GUARD_") and variable not in others:
            _require_known(variable)
    values: dict[str, object] = {}
    for key, parse in _PARSERS.items():
        if (variable := _variable([key])) in environ:
            values[key] = _parsed(parse, environ[variable])
    return Layer.of(values, _variable)


def require_filled(environ: Mapping[str, str]) -> None:
    """Raises `ConfigError` where one of our variables is set to nothing."""
    for variable in VARIABLES:
        if not environ.get(variable, "set").strip():
            raise ConfigError(
                f"The environment variable {variable} is empty.",
                hint="Give it a value, or unset it.",
            )


def _require_known(variable: str) -> None:
    if variable in VARIABLES:
        return
    hint = _set_in_file(variable) or nearest(variable, VARIABLES, cutoff=0)
    if "KEY" in variable:
        hint += " A key goes into OPENAI_API_KEY, or into the variable that api_key_env names."
    raise ConfigError(f"The environment variable {variable} is unknown.", hint=hint)


def _set_in_file(variable: str) -> str | None:
    """A hint about a key that only the file, or an option, sets."""
    key = variable.removeprefix("RAG_GUARD_").casefold()
    if key not in Table.model_fields:
        return None
    return f"Set `{key}` in guard.toml: no variable does."


def _variable(path: Sequence[str]) -> str:
    return f"RAG_GUARD_{path[0].upper()}"


def _parsed(parse: Callable[[str], object], text: str) -> object:
    try:
        return parse(text.strip())
    except ValueError:
        return text  # The model says what belongs there.
