"""The judge that a settled deployment names, with its key from the environment."""

import os
import tomllib
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from guard import judges
from guard.config.deployment import MAX_SAMPLES
from guard.config.layers import Settled
from guard.config.toml import dotted
from guard.errors import ConfigError
from guard.judge import Judge
from guard.judges.several import Chain, Link
from guard.posterior import posterior
from guard.profile import Profile
from guard.providers import OPENAI, provider_of

# These run in this process, so a key that the file names for another judge is not asked for.
_LOCAL_JUDGES = ("embedded", "gguf", "scripted")


def judge_of(chain: Sequence[Settled], environ: Mapping[str, str]) -> Judge:
    """The judge of the first deployment, with those of its fallbacks behind it.

    A fallback brings its judge and its thresholds; everything else is the first one's.
    """
    first, *others = chain
    for settled in chain:
        _require_judge(settled, chosen=settled is first)
    for settled in others:
        _require_thresholds(settled)
    for settled in chain:
        _require_reach(settled)
    judge = _judge(first, environ)
    if not others:
        return judge
    links = [Link(_judge(one, environ), Profile(one.deployment.thresholds())) for one in others]
    return Chain([judge, *links])


def _judge(settled: Settled, environ: Mapping[str, str]) -> Judge:
    """Makes one judge; errors name the place where it was chosen."""
    keys = settled.deployment
    name = keys.judge or ""
    local = name.partition(":")[0] in _LOCAL_JUDGES
    api_key = None if local else _api_key(settled, environ)
    try:
        return judges.from_name(
            name,
            base_url=keys.base_url,
            api_key=api_key,
            model_family=keys.model_family,
            prompt=keys.prompt(),
            min_mass=keys.min_mass,
            api_version=keys.api_version,
            samples=keys.samples,
            ask_underspecified=keys.ask_underspecified,
            both_orders=keys.both_orders,
        )
    except ConfigError as error:
        place, usual = settled.origins["judge"], None
        if isinstance(error, judges.MissingKey):
            usual = _usual_key(name, keys.base_url)
        hint = " ".join(part for part in (error.hint, usual) if part) or None
        raise type(error)(f"{place}: {error.message}", hint=hint) from error.__cause__


def _usual_key(judge: str, base_url: str | None) -> str | None:
    """In a sentence, the variable that people keep this provider's key in, if we know it."""
    kind, _, model = judge.partition(":")
    address = base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI
    row = provider_of(address, model, kind)
    if row is None:
        return None
    [lines] = tomllib.loads(row.lines)["deployment"].values()
    variable = lines.get("api_key_env", "OPENAI_API_KEY")
    if variable == "OPENAI_API_KEY":
        return None  # The hint names it already.
    return f'Usual for {urlsplit(address).hostname}: api_key_env = "{variable}".'


def _require_thresholds(settled: Settled) -> None:
    """Raises unless a fallback has thresholds that were set for its own judge."""
    for key in ("answer_at", "refuse_below"):
        if key in settled.own:
            continue
        place = f"{settled.file}: {dotted('deployment', settled.name, key)}"
        problem = "is missing in a fallback"
        if key in settled.origins:
            problem = "is inherited and not set for its judge"
        raise ConfigError(
            f"{place} {problem}: thresholds for one judge are not thresholds for another.",
            hint="Write `answer_at = …` and `refuse_below = …` beside the `judge` that they are "
            "for, which is this fallback's.",
        )


def _require_reach(settled: Settled) -> None:
    """Raises where a sampled judge could let no query through, however sure it is."""
    keys = settled.deployment
    if not (keys.judge or "").startswith("samples:"):
        return
    most = _reach(keys.samples)
    if most >= keys.answer_at:
        return
    place = settled.origins.get("samples") or settled.origins["answer_at"]
    numbers = range(keys.samples, MAX_SAMPLES + 1)
    enough = next((number for number in numbers if _reach(number) >= keys.answer_at), None)
    remedy = "Lower answer_at" if enough is None else f"Use {enough} or more, or lower answer_at"
    raise ConfigError(
        f"{place}: samples = {keys.samples} reaches {most:.3f} at most: no query could be answered "
        f"at {keys.answer_at:g}.",
        hint=f"{remedy}.",
    )


def _reach(samples: int) -> float:
    """The lower bound of P(True) where so many answers all are True."""
    return posterior(samples, 0).low


def _require_judge(settled: Settled, *, chosen: bool) -> None:
    if settled.deployment.judge is None:
        raise _no_judge(settled, chosen)


def _no_judge(settled: Settled, chosen: bool) -> ConfigError:
    if settled.file is None:
        problem = "No judge is named, and no configuration file that names one."
    else:
        problem = f"{settled.file}: {dotted('deployment', settled.name, 'judge')} is missing."
    if not chosen:  # Options and variables say nothing of a fallback.
        return ConfigError(problem, hint='Write `judge = "openai:MODEL"` into that table.')
    return ConfigError(
        problem,
        hint="Pass --judge openai:MODEL, --judge gguf:PATH or --judge embedded; or set "
        'RAG_GUARD_JUDGE; or write `judge = "openai:MODEL"` into the deployment\'s table.',
    )


def _api_key(settled: Settled, environ: Mapping[str, str]) -> str | None:
    variable = settled.deployment.api_key_env
    if variable is None:
        return None
    key = environ.get(variable, "").strip()
    if not key:
        # The name is not repeated: somebody may have written the key itself there.
        raise ConfigError(
            f"{settled.origins['api_key_env']} names a variable that is not set.",
            hint="Set that variable to the key; api_key_env holds its name, never the key itself.",
        )
    return key
