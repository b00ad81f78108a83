"""The cache of verdicts that a settled deployment names."""

from guard.cache import Cache, MemoryCache
from guard.config.layers import Settled
from guard.errors import ConfigError

MEMORY = "memory"


def cache_of(settled: Settled) -> Cache | None:
    """Makes the cache; errors name the place where it was chosen."""
    named = settled.deployment.cache
    if named is None:
        return None
    if named == MEMORY:
        return MemoryCache()
    from guard.sqlite_cache import SqliteCache

    try:
        return SqliteCache(named)
    except ConfigError as error:
        place = settled.origins["cache"]
        raise ConfigError(f"{place}: {error.message}", hint=error.hint) from error
