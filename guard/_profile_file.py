"""A profile's file: JSON with a version and a checksum, written whole or not at all."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from guard._json import as_int, as_map
from guard.errors import ConfigError

FORMAT, VERSION = "rag-guard profile", 1

AGAIN = (
    "Run `rag-guard calibrate` again, or write answer_at and refuse_below into guard.toml instead "
    "of `profile`."
)
_WHOLE = ("format", "version", "sha256", "profile")


def read_content(path: str | os.PathLike[str], fields: Iterable[str]) -> Mapping[str, object]:
    """What a profile's file holds.

    Args:
        path: the file.
        fields: what its content must have, no more and no less.

    Raises:
        ConfigError: it cannot be read, is no profile, or is not as it was written.
    """
    document = as_map(_parsed(path, _text(path)))
    if document.get("format") != FORMAT:
        raise ConfigError(f"{path} is not a profile of rag-guard.", hint=AGAIN)
    require_fields(str(path), document, _WHOLE)
    if as_int(document["version"]) != VERSION:
        raise ConfigError(
            f"{path} has a version that this rag-guard does not know; it knows {VERSION}.",
            hint=f"Use the rag-guard that wrote it, or a newer one. Else: {AGAIN}",
        )
    content = as_map(document["profile"])
    require_fields(f"{path}: profile", content, fields)
    if _sealed(path, content)["sha256"] != document["sha256"]:
        raise ConfigError(
            f"{path} is not as rag-guard wrote it (its checksum differs): what it promises no "
            "longer holds.",
            hint=AGAIN,
        )
    return content


def write_content(path: str | os.PathLike[str], content: Mapping[str, object]) -> None:
    """Writes a profile's file; whoever reads it meanwhile sees the old one or the new one.

    Raises:
        ConfigError: it cannot be written, or the content is no JSON.
    """
    text = json.dumps(_sealed(path, content), indent=2) + "\n"
    target = Path(os.path.realpath(path))
    draft = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}")
    try:
        with open(draft, "x", encoding="utf-8", opener=_ours_to_write) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}.",
            hint="Name a file in a folder that exists and that this user may write to.",
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink()


def _ours_to_write(path: str, flags: int) -> int:
    # Others may read it, as far as the umask lets them. Who writes it sets thresholds.
    return os.open(path, flags, 0o644)


def require_fields(place: str, values: Mapping[str, object], fields: Iterable[str]) -> None:
    """Raises `ConfigError` unless ``values`` has exactly these fields."""
    known = list(fields)
    if missing := [field for field in known if field not in values]:
        raise ConfigError(f"{place} lacks `{missing[0]}`.", hint=AGAIN)
    for field in values:
        if field not in known:
            raise ConfigError(f"{place} has an unknown field {field!r:.40}.", hint=AGAIN)


def _sealed(path: str | os.PathLike[str], content: Mapping[str, object]) -> dict[str, object]:
    """The whole file. The checksum is over the values, so that lines may be broken anywhere."""
    try:
        text = json.dumps([FORMAT, VERSION, content], sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error}).", hint=AGAIN) from None
    checksum = hashlib.sha256(text.encode()).hexdigest()
    return {"format": FORMAT, "version": VERSION, "sha256": checksum, "profile": content}


def _text(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start}).", hint=AGAIN) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no path"
        raise ConfigError(
            f"{path} cannot be read: {why}.",
            hint="Name the file that `rag-guard calibrate` wrote, and make it readable.",
        ) from error


def _parsed(path: str | os.PathLike[str], text: str) -> object:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        problem = f"{error.msg}, line {error.lineno}"
    except (ValueError, RecursionError) as error:
        problem = str(error)
    raise ConfigError(f"{path} is not valid JSON ({problem}).", hint=AGAIN)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
