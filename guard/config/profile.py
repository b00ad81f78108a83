"""The profile that a settled deployment names, and whether it is for its judge."""

from guard.config.layers import Settled
from guard.errors import ConfigError
from guard.judges.several import Link
from guard.profile import Profile


def profile_of(settled: Settled) -> Profile | None:
    """Reads the profile; errors name the place where it was chosen, and the file."""
    if settled.profile is None:
        return None
    try:
        return Profile.load(settled.profile)
    except ConfigError as error:
        raise _at(settled, error) from error


def require_for(settled: Settled, link: Link) -> None:
    """Raises `ProfileMismatch`, naming the place, unless the profile is for its judge."""
    try:
        if link.profile is not None:
            link.profile.require_for(link.judge.fingerprint)
    except ConfigError as error:
        raise _at(settled, error) from error


def _at(settled: Settled, error: ConfigError) -> ConfigError:
    return type(error)(f"{settled.origins['profile']}: {error.message}", hint=error.hint)
