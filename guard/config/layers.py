"""Layers: values from one place each, and the deployment that they make, the last on top."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from guard._json import as_map, as_text
from guard.config.complaints import Where, contradicted, unusable, wrong
from guard.config.deployment import (
    ONE_CHOICE,
    SUITED,
    THRESHOLDS,
    TWO_CHOICES,
    Deployment,
    Table,
    brings,
    unsuited,
)
from guard.config.toml import is_table
from guard.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Layer:
    """Keys from one place, each checked by itself, and what to call that place."""

    table: Table
    where: Where
    folder: Path = Path()

    @classmethod
    def of(cls, values: Mapping[str, object], where: Where, folder: Path = Path()) -> Self:
        """Checks the values; a `ConfigError` says ``where`` one does not fit.

        ``folder``: what the paths of profiles and audits are relative to.
        """
        try:
            return cls(Table.model_validate(values), where, folder)
        except ValidationError as error:
            # `from None`: our error says it all, and theirs talks of unions and branches.
            raise wrong(error, values, where) from None

    def values(self) -> Mapping[str, object]:
        """The keys that were set here; what they extend is a layer of its own."""
        return self.table.model_dump(exclude_unset=True, exclude={"extends"})


@dataclass(frozen=True, slots=True)
class Settled:
    """A deployment that no layer will change any more.

    Attributes:
        name: the deployment's.
        deployment: its keys.
        origins: where each of them was set.
        own: those set for its judge: where that is named, or in a layer on top of that.
        file: the file's path, or ``None``.
        profile: the path of its profile, or ``None``.
        audit: the path of its audit, or ``None``.
        warning: in one line, which of its keys are left aside, and why; ``None`` = there are none
            that anybody would miss.
    """

    name: str
    deployment: Deployment
    origins: Mapping[str, str]
    own: Set[str]
    file: str | None
    profile: Path | None = None
    audit: Path | None = None
    warning: str | None = None


def settle(name: str, file: str | None, layers: Iterable[Layer]) -> Settled:
    """Lays the layers over each other, the last on top, and checks what only the whole shows."""
    values, origins, own = dict[str, object](), dict[str, str](), set[str]()
    whose = dict[str, str | None]()  # The judge that each key was set for.
    profile: Path | None = None
    audit: Path | None = None
    for layer in layers:
        found = layer.values()
        own = {*found} if "judge" in found else own | {*found}
        for key in _beaten(layer, values):
            values.pop(key, None)
            own.discard(key)
        if layer.table.profile is not None:
            profile = layer.folder / layer.table.profile
        if layer.table.audit is not None and "path" in layer.table.audit.model_fields_set:
            audit = layer.folder / layer.table.audit.path
        for key, value in found.items():
            values[key] = _merged(values.get(key), value)
            origins[key] = layer.where([key])
        # Set where no judge was named yet, it is for the first one that is.
        judge = as_text(values.get("judge"))
        whose = {key: one or judge for key, one in (whose | dict.fromkeys(found)).items()}
    _leave_unsuited(values, origins, own)
    warning = _leave_thresholds(values, origins, whose)
    profile = profile if "profile" in values else None
    try:
        deployment = Deployment.model_validate(values)
        return Settled(name, deployment, origins, own, file, profile, audit, warning)
    except ValidationError as error:
        # Each layer was checked when it was made, so only a contradiction between keys is left.
        raise contradicted(error, origins) from None


def _beaten(layer: Layer, below: Mapping[str, object]) -> Iterable[str]:
    """Keys of the layers below that this one's profile, or its thresholds, take the place of.

    Raises:
        ConfigError: it has both; or one threshold on top of a profile, which says nothing of the
            other one.
    """
    found = layer.values()
    given = [key for key in THRESHOLDS if key in found]
    if "profile" in found:
        if given:
            places = f"{layer.where(['profile'])} and {layer.where(given[:1])}"
            raise ConfigError(f"{places}: {TWO_CHOICES}", hint=ONE_CHOICE)
        return THRESHOLDS
    if not given or "profile" not in below:
        return ()
    if len(given) < len(THRESHOLDS):
        raise ConfigError(
            f"{layer.where(given)} takes the place of a profile, but only one threshold is given.",
            hint="Give both, answer_at and refuse_below, or none.",
        )
    return ("profile",)


def _leave_unsuited(values: dict[str, object], origins: Mapping[str, str], own: Set[str]) -> None:
    """Takes away what was set for another judge, and this one can make nothing of.

    Raises:
        ConfigError: such a key was set for this judge, and would be ignored.
    """
    judge = as_text(values.get("judge")) or ""
    if "price" not in own:
        values.pop("price", None)  # Another judge's.
    for key in unsuited(judge):
        if key in own:
            raise unusable(origins[key], SUITED[key], judge)
        values.pop(key, None)


def _leave_thresholds(
    values: dict[str, object], origins: Mapping[str, str], whose: Mapping[str, str | None]
) -> str | None:
    """Takes away thresholds that were set for another judge, where this one brings its own.

    Returns:
        What is to be said of that; ``None`` = nothing was taken away.

    Raises:
        ConfigError: one was set for this judge, which says nothing of the other one.
    """
    judge = as_text(values.get("judge"))
    there = [key for key in THRESHOLDS if key in values]
    own = [key for key in there if whose[key] == judge]
    if not brings(judge) or not there or len(own) == len(THRESHOLDS):
        return None
    if own:
        raise ConfigError(
            f"{origins[own[0]]} takes the place of what the judge brings, but only one threshold "
            "is given.",
            hint="Give both, answer_at and refuse_below, or none.",
        )
    for key in there:
        del values[key]
    return (
        "Thresholds are left aside, since they were set for another judge than the one named now: "
        f"{', '.join(origins[key] for key in there)}. If they fit it, set both beside its name."
    )


def _merged(old: object, new: object) -> object:
    """``new`` over ``old``: tables key by key, and one text for all becomes a table's default."""
    if not is_table(new):
        return new
    below = {"default": old} if isinstance(old, str) else as_map(old)
    above = as_map(new).items()
    return {**below, **{key: _merged(below.get(key), value) for key, value in above}}
