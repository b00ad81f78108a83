"""The judge that a settled deployment names, with its key from the environment."""

from collections.abc import Mapping, Sequence

from guard import judges
from guard.config.layers import Settled
from guard.config.toml import dotted
from guard.errors import ConfigError
from guard.judge import Judge
from guard.judges.several import Chain, Link
from guard.profile import Profile

# These run in this process, so a key that the file names for another judge is not asked for.
_LOCAL_JUDGES = ("embedded", "gguf", "scripted")


def judge_of(chain: Sequence[Settled], environ: Mapping[str, str]) -> Judge:
    """The judge of the first deployment, with those of its fallbacks behind it.

    A fallback brings its judge and its thresholds; everything else is the first one's. Where the
    same judge stands at several addresses, the thresholds of the first of them are for all.
    """
    made = [_judge(settled, environ, chosen=settled is chain[0]) for settled in chain]
    if len(made) == 1:
        return made[0]
    profiles: dict[str, Profile | None] = {made[0].fingerprint: None}  # The gate's own policy.
    for judge, settled in zip(made, chain, strict=True):
        profiles.setdefault(judge.fingerprint, Profile(settled.deployment.thresholds()))
    return Chain([Link(judge, profiles[judge.fingerprint]) for judge in made])


def _judge(settled: Settled, environ: Mapping[str, str], *, chosen: bool) -> Judge:
    """Makes one judge; errors name the place where it was chosen."""
    keys = settled.deployment
    if keys.judge is None:
        raise _no_judge(settled, chosen)
    local = keys.judge.partition(":")[0] in _LOCAL_JUDGES
    api_key = None if local else _api_key(settled, environ)
    try:
        return judges.from_name(
            keys.judge,
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
        place = settled.origins["judge"]
        raise type(error)(f"{place}: {error.message}", hint=error.hint) from error.__cause__


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
