"""The judge that a settled deployment names, with its key from the environment."""

import os
import tomllib
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from guard import judges
from guard.breaker import Breakable
from guard.config.deployment import MAX_SAMPLES, THRESHOLDS, brings
from guard.config.layers import Settled
from guard.config.profile import profile_of, require_for
from guard.config.toml import dotted
from guard.errors import ConfigError
from guard.judge import Fitted, Judge
from guard.judges.several import Chain, Link
from guard.posterior import posterior
from guard.profile import Profile
from guard.providers import OPENAI, provider_of
from guard.thresholds import DEFAULT_THRESHOLDS

NO_KEY = "none: nothing is asked"
# These run in this process, so a key that the file names for another judge is not asked for.
_LOCAL_JUDGES = ("embedded", "gguf", "scripted")


def judge_of(
    chain: Sequence[Settled], environ: Mapping[str, str] | None, *, brought: bool = True
) -> tuple[Judge, Profile | None]:
    """The judge of the first deployment, with those of its fallbacks behind it, and its profile.

    A fallback brings its judge and its thresholds, or its profile; everything else is the first
    one's. The judge of several has all profiles itself. ``environ`` holds the keys; ``None`` =
    nothing will be asked. ``brought``: a fallback for which none are set is routed by those
    that it brings, if it does (`guard.judge.Fitted`).
    """
    first, *others = chain
    for settled in chain:
        _require_judge(settled, chosen=settled is first)
    for settled in others:
        _require_thresholds(settled)
    profiles = [profile_of(settled) for settled in chain]
    for settled, profile in zip(chain, profiles, strict=True):
        _require_reach(settled, profile)
    links = [Link(_judge(one, environ), own) for one, own in zip(chain, profiles, strict=True)]
    # With on_stale, what a profile for another judge leads to is the gate's to say.
    checked = first.deployment.on_stale is None
    if checked:
        _require_own_profiles(chain, links)
    if not others:
        return links[0].judge, links[0].profile
    if brought:
        _require_brought(chain, links)
    behind = [
        _with_thresholds(settled, link, brought=brought)
        for settled, link in zip(others, links[1:], strict=True)
    ]
    return Chain([links[0], *behind], check_profiles=checked), None


def _with_thresholds(settled: Settled, link: Link, *, brought: bool) -> Link:
    """A fallback with its thresholds, unless its judge is to bring them."""
    cuts = settled.deployment.thresholds()
    if link.profile is not None or (brought and cuts is DEFAULT_THRESHOLDS):
        return link
    return Link(link.judge, Profile(cuts))


def _require_own_profiles(chain: Sequence[Settled], links: Sequence[Link]) -> None:
    """Raises `ProfileMismatch`, freeing all judges, unless each profile is for its judge."""
    try:
        for settled, link in zip(chain, links, strict=True):
            require_for(settled, link)
    except ConfigError:
        for link in links:
            judges.close(link.judge)
        raise


def _require_brought(chain: Sequence[Settled], links: Sequence[Link]) -> None:
    """Raises, freeing all judges, where a fallback has no thresholds and its judge brings none."""
    for settled, link in zip(chain[1:], links[1:], strict=True):
        is_set = settled.deployment.thresholds() is not DEFAULT_THRESHOLDS
        if is_set or link.profile is not None:
            continue
        if not isinstance(link.judge, Fitted) or link.judge.default_profile is None:
            for each in links:
                judges.close(each.judge)
            raise _no_thresholds(settled, THRESHOLDS[0])


def _judge(settled: Settled, environ: Mapping[str, str] | None) -> Judge:
    """Makes one judge; errors name the place where it was chosen."""
    keys = settled.deployment
    name = keys.judge or ""
    local = name.partition(":")[0] in _LOCAL_JUDGES
    api_key = None
    if not local:
        api_key = NO_KEY if environ is None else _api_key(settled, environ)
    try:
        judge = judges.from_name(
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
    if isinstance(judge, Breakable):
        judge.use_breaker(failures=keys.breaker_failures, seconds=keys.breaker_seconds)
    return judge


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
    """Raises unless a fallback has thresholds, or a profile, that were set for its own judge."""
    keys = settled.deployment
    if keys.profile is None and brings(keys.judge):
        return  # It may do without, and what was set for another judge is gone.
    for key in THRESHOLDS if keys.profile is None else ("profile",):
        if key not in settled.own:
            raise _no_thresholds(settled, key)


def _no_thresholds(settled: Settled, key: str) -> ConfigError:
    place = f"{settled.file}: {dotted('deployment', settled.name, key)}"
    problem = "is missing in a fallback"
    if key in settled.origins:
        problem = "is inherited and not set for its judge"
    return ConfigError(
        f"{place} {problem}: thresholds for one judge are not thresholds for another.",
        hint="Write `answer_at = …` and `refuse_below = …` beside the `judge` that they are "
        "for, which is this fallback's; or a `profile`.",
    )


def _require_reach(settled: Settled, profile: Profile | None) -> None:
    """Raises where a sampled judge could let no query through, however sure it is."""
    keys = settled.deployment
    if not (keys.judge or "").startswith("samples:"):
        return
    if profile is not None:
        _require_calibrated_reach(settled, profile)
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


def _require_calibrated_reach(settled: Settled, profile: Profile) -> None:
    samples = settled.deployment.samples
    most = _reach(samples)
    calibrated = most if profile.calibrator is None else profile.calibrator.apply(most)
    if calibrated < profile.thresholds.answer_at:
        raise ConfigError(
            f"{settled.origins['profile']}: samples = {samples} reaches {calibrated:.3f} at most: "
            f"no query could be answered at {profile.thresholds.answer_at:g}.",
            hint="Use as many samples as the profile was fitted to.",
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
