"""Who may call and how often."""

import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Mapping

from neuros_sourceweigher._service.problem import ProblemError, retry_after

__all__: list[str] = []

# Callers remembered at a time; the ones not seen for longest are forgotten first.
_CALLERS = 10_000


def check_token(headers: Mapping[bytes, bytes], secret: bytes) -> None:
    """Refuse a missing token with 401 and a wrong one with 403."""
    scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"bearer" or not given.strip():
        raise ProblemError(
            401,
            "unauthorized",
            "the request needs the header Authorization: Bearer TOKEN",
            headers=[(b"www-authenticate", b'Bearer realm="sourceweigher"')],
        )
    if not hmac.compare_digest(given.strip(), secret):
        raise ProblemError(403, "forbidden", "the token of the request is not the right one")


class RateLimit:
    """A token bucket for every caller, with one second's worth of burst.

    Args:
        rate: Requests a second.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._burst = max(rate, 1.0)
        self._callers: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def check(self, caller: bytes) -> None:
        """Count a request, or refuse it with 429."""
        now = time.monotonic()
        # A digest: no token stays in memory as a key.
        key = hashlib.blake2b(caller, digest_size=16).digest()
        left, then = self._callers.pop(key, (self._burst, now))
        left = min(left + (now - then) * self._rate, self._burst)
        allowed = left >= 1
        self._callers[key] = (left - 1 if allowed else left, now)
        if len(self._callers) > _CALLERS:
            self._callers.popitem(last=False)
        if not allowed:
            # Rounded up, so that who waits that long is let in.
            wait = int((1 - left) / self._rate) + 1
            raise ProblemError(
                429,
                "rate_limited",
                f"{self._rate:g} requests a second are let in; come back in {wait} s",
                headers=[retry_after(wait)],
            )
