"""The audit that a settled deployment names."""

from guard.config.layers import Settled
from guard.errors import ConfigError
from guard.observer import Observer


def audit_of(settled: Settled) -> tuple[Observer, ...]:
    """Opens the audit, if there is to be one; errors name the place where it was chosen."""
    keys = settled.deployment.audit
    if keys is None or settled.audit is None:
        return ()
    from guard.audit import AuditLog

    options = keys.model_dump(exclude={"path"})
    try:
        return (AuditLog(settled.audit, **options),)
    except ConfigError as error:
        place = settled.origins["audit"]
        raise ConfigError(f"{place}: {error.message}", hint=error.hint) from error
