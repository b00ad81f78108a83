"""Paths that options name: looked at before there is any work, with one clear error each."""

import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from guard.errors import ConfigError

FOLDER_HINT = "Name a file in a folder that exists and that this user may write to."


@contextmanager
def looked_at(option: str, path: str | Path) -> Generator[None]:
    """Whatever the system has against a path becomes one clear error.

    A folder that may not be searched, a name that is too long, links in a circle, a NUL.

    Args:
        option: that names it, e.g. ``"--output"``.
        path: as it was named.

    Raises:
        ConfigError: it cannot be looked at, and why.
    """
    try:
        yield
    except ConfigError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(
            f"{option}: {str(path)[:200]!r} cannot be used: {why}.",
            hint="Name another file, or mend its folder's rights.",
        ) from error


def is_same(option: str, path: str | Path, other: str | Path) -> bool:
    """Whether two paths are one file, which need not be there yet.

    Raises:
        ConfigError: one of them cannot be looked at.
    """
    with looked_at(option, path):
        own = Path(path).resolve()
    with looked_at(option, other):
        return own == Path(other).resolve()


def require_place(option: str, path: str | Path) -> None:
    """Raises `ConfigError` where no file can be made: before hours of work, or a judge's bill."""
    with looked_at(option, path):
        target = Path(path).resolve()
        if _is_folder(target):
            raise ConfigError(f"{option}: {str(path)!r} is a folder.", hint=FOLDER_HINT)
        if not _is_folder(target.parent):
            why = f"{option}: {str(path)!r} is in no folder that exists: {str(target.parent)!r}."
            raise ConfigError(why, hint=FOLDER_HINT)
        # Rights do not tell all: the file system may be read-only, or full.
        with tempfile.TemporaryFile(dir=target.parent):
            pass


def _is_folder(path: Path) -> bool:
    """Unlike `Path.is_dir`, no version of Python hides here why it cannot be seen."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
