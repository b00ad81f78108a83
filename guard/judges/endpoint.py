"""An endpoint: what this process has learnt about one address and model."""

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from guard.errors import Unmeasured, before_asking
from guard.judges.dialect import Dialect, Json, first_guess

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

# How long "this endpoint gives no logprobs" is believed. Short, so that a mended endpoint is back
# within a minute; long enough that a fleet does not send a request per query that cannot help.
BELIEVED_SECONDS = 60.0


class Endpoint:
    """The dialect of one endpoint, and whether it is known to give no logprobs.

    Attributes:
        dialect: the parameters to send.
        has_measured: whether it has ever given a verdict.
    """

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.has_measured = False
        self._lock = threading.Lock()
        self._mute: tuple[float, Unmeasured] | None = None

    def note_verdict(self, spoken: Dialect, *, instead_of: Dialect) -> None:
        """``spoken`` led to a verdict: others begin with it, and one reply without logprobs will
        not write the endpoint off again. Nothing changes where another lesson came first."""
        with self._lock:
            if self.dialect is instead_of:
                self.dialect = spoken
        self.has_measured = True
        self._mute = None

    def note_mute(self, error: Unmeasured) -> None:
        """It gave no logprobs and no parameter is left to try."""
        if not self.has_measured:
            self._mute = (time.monotonic() + BELIEVED_SECONDS, error)

    def require_voice(self) -> None:
        """Raises the error of `note_mute` again while it is believed; saves a useless request."""
        mute = self._mute  # Read once: another thread may clear it meanwhile.
        if mute is not None and time.monotonic() < mute[0]:
            known = mute[1]
            told = f"{known.message} (known for less than {BELIEVED_SECONDS:g} s; not asked again)"
            raise before_asking(
                Unmeasured(told, kind=known.kind, hint=known.hint, status=known.status)
            )


_OF_THE_SDK = ("X-Stainless", "User-Agent", "Accept", "Content-Type")


@lru_cache(maxsize=1024)
def endpoint_for(
    base_url: str, model: str, family: str | None = None, account: str = ""
) -> Endpoint:
    """The one endpoint of this process for an address, a model and an `account_of`."""
    return Endpoint(first_guess(base_url, model, family))


def own_headers(client: "OpenAI | AsyncOpenAI") -> dict[str, str]:
    """The headers of a client without those by which the SDK tells what it is and speaks."""
    return {
        name: value
        for name, value in client.default_headers.items()
        if isinstance(value, str) and not name.startswith(_OF_THE_SDK)
    }


def account_of(client: "OpenAI | AsyncOpenAI", extra_body: Mapping[str, Json]) -> str:
    """Who asks, and with which fields of their own, as a hash: no key is kept.

    What one tenant's key may not do, or one caller's fields bring about, says nothing of another's.
    """
    # Behind a gateway the tenant's key is a header.
    parts = [client.api_key, own_headers(client), dict(client.default_query), dict(extra_body)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
