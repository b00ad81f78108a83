"""The file: TOML with a table for each deployment, which may extend another one."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from guard._json import as_map
from guard.config.complaints import Where, nearest, shown
from guard.config.layers import Layer
from guard.config.toml import dotted, is_table
from guard.errors import ConfigError


@dataclass(frozen=True, slots=True)
class File:
    """Every deployment of a file, each checked by itself."""

    path: str
    deployments: Mapping[str, Layer]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Reads the file; a `ConfigError` says what is wrong with it, or with a key in it."""
        tables = _tables(_document(Path(path)), str(path))
        layers = {name: _layer(name, table, str(path)) for name, table in tables.items()}
        return cls(str(path), layers)

    def choose(self, name: str | None) -> str:
        """The deployment of that name; for ``None`` the only one, or the one called "default"."""
        only = next(iter(self.deployments)) if len(self.deployments) == 1 else "default"
        wanted = only if name is None else name
        if wanted in self.deployments:
            return wanted
        if name is None:
            problem = "has several deployments and none called default"
        else:
            problem = f"has no deployment {name!r}"
        hint = "Choose with --deployment, RAG_GUARD_DEPLOYMENT or the argument `deployment`."
        near = nearest(wanted, self.deployments)
        raise ConfigError(f"{self.path} {problem}.", hint=f"{near} {hint}")

    def layers(self, name: str) -> list[Layer]:
        """A deployment and what it extends, itself last."""
        # Every line of descent is followed: a broken one is an error before it is first used.
        lines = {each: self._line(each) for each in self.deployments}
        return [self.deployments[each] for each in reversed(lines[name])]

    def fallbacks(self, name: str) -> list[str]:
        """The deployments to fall back on, in order, each once; a circle just ends the list."""
        # Every one is followed: a broken one is an error before the first outage.
        each = {one: self._fallback(one) for one in self.deployments}
        found, current = list[str](), each[name]
        while current is not None and current not in (name, *found):
            found.append(current)
            current = each[current]
        return found

    def _fallback(self, name: str) -> str | None:
        """The fallback of one deployment, its own or inherited."""
        for each in self._line(name):
            layer = self.deployments[each]
            if (fallback := layer.table.fallback) is None:
                continue
            if fallback == each:
                raise ConfigError(
                    f"{layer.where(['fallback'])} names its own table.",
                    hint="Name another deployment, or take it away.",
                )
            if fallback not in self.deployments:
                raise ConfigError(
                    f"{layer.where(['fallback'])} names no deployment.",
                    hint=nearest(fallback, self.deployments),
                )
            return fallback
        return None

    def _line(self, name: str) -> list[str]:
        """A deployment and its ancestors, itself first."""
        line = [name]
        while (parent := self.deployments[line[-1]].table.extends) is not None:
            if parent not in self.deployments or parent in line:
                raise self._broken([*line, parent])
            line.append(parent)
        return line

    def _broken(self, line: Sequence[str]) -> ConfigError:
        *_, child, parent = line
        chain = " -> ".join(map(dotted, line))
        if parent in self.deployments:
            problem, hint = f"{chain} is a circle", "Take one `extends` of it away."
        else:
            problem = f"{chain} ends at an unknown name"
            hint = nearest(parent, self.deployments)
        place = self.deployments[child].where(["extends"])
        return ConfigError(f"{place}: {problem}.", hint=hint)


def _document(path: Path) -> Mapping[str, object]:
    try:
        # Windows editors begin a file with a byte order mark. With a last line that ends, tomllib
        # tells its number instead of "at end of document".
        return tomllib.loads(path.read_bytes().decode("utf-8-sig") + "\n")
    except OSError as error:
        raise _unread(path, error) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        # `from None`: the original error would print the file's bytes.
        raise ConfigError(
            f"{path}, line {line}: the file is not UTF-8.", hint="Save it as UTF-8 and try again."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not valid TOML: {str(error).rstrip('.')}.",
            hint='Mend that line; texts stand in double quotes, e.g. judge = "openai:MODEL".',
        ) from None


def _unread(path: Path, error: OSError) -> ConfigError:
    hints: Mapping[type[OSError], str] = {
        FileNotFoundError: "Check the path (--config, RAG_GUARD_CONFIG or the argument).",
        IsADirectoryError: "Name the file itself, not the directory that holds it.",
        PermissionError: "Make the file readable for this user.",
    }
    hint = hints.get(type(error), "Name a readable TOML file.")
    return ConfigError(f"{path} cannot be read: {error.strerror}.", hint=hint)


def _tables(document: Mapping[str, object], file: str) -> Mapping[str, object]:
    """What stands under ``deployment``, by name."""
    for key in document.keys() - {"deployment"}:
        raise ConfigError(
            f"{file}: {dotted(key)} is an unknown key.",
            hint="Only [deployment.NAME] tables stand at the top; move the key into one of them.",
        )
    tables = as_map(document.get("deployment"))
    if not tables:
        raise ConfigError(
            f"{file}: deployment holds no table, so there is nothing to load.",
            hint="Put the keys under a table [deployment.default].",
        )
    return tables


def _layer(name: str, table: object, file: str) -> Layer:
    if is_table(table):
        return Layer.of(as_map(table), _in(file, name), Path(file).parent)
    raise ConfigError(
        f"{_in(file, name)([])} {shown(table)}, not a table.",
        hint="Put the keys under a table with a name, e.g. [deployment.default].",
    )


def _in(file: str, name: str) -> Where:
    return lambda path: f"{file}: {dotted('deployment', name, *path)}"
