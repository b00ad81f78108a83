"""Extras: libraries that only some commands need."""

import importlib
from typing import Any

from guard.errors import ConfigError


def require_extra(module: str, extra: str) -> Any:
    """The module, imported.

    Raises:
        ConfigError: it is not installed, and the hint says with which extra it comes; or it is,
            and cannot be loaded.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise
        name = module.partition(".")[0]
        hint = f'pip install "rag-guard[{extra}]"'
        raise ConfigError(f"{name} is not installed.", hint=hint) from error
    except ImportError as error:  # E.g. a library of the system that it needs is missing.
        what = f"{module} is installed but cannot be loaded: {error}."
        raise ConfigError(what, hint="Install it again, or what it misses.") from error
