"""Forks: whatever guards itself with a lock begins anew in a child.

A thread that holds the lock while another one forks is not there in the child, where nobody would
ever let go of it.
"""

import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """Something with a lock."""

    def begin_anew(self) -> None:
        """Is called in a forked child."""
        ...


_renewables: "weakref.WeakSet[Renewable]" = weakref.WeakSet()


def renew_in_child(one: Renewable) -> None:
    """From now on, and for as long as it lives."""
    _renewables.add(one)


def _renew_all() -> None:
    # No other thread is in a child that could add to them meanwhile.
    for one in list(_renewables):
        one.begin_anew()


if hasattr(os, "register_at_fork"):  # Not on Windows.
    os.register_at_fork(after_in_child=_renew_all)
