"""Refusals as RFC 9457 problem details."""

import json
from typing import Any, Final

import numpy as np

__all__: list[str] = []

MEDIA_TYPE: Final = "application/problem+json"
# The sentence of each code, which does not change between its occurrences.
TITLES: Final = {
    "malformed": "The body cannot be read",
    "not_found": "There is no such route",
    "method_not_allowed": "The route has other methods",
    "slow_body": "The body did not arrive in time",
    "not_acceptable": "The answer has other media types",
    "too_large": "The body is too large",
    "unsupported_media_type": "The body has another media type",
    "invalid": "The model cannot take the request",
    "internal": "The service failed",
    "overloaded": "The service is busy",
    "draining": "The service is shutting down",
    "time_limit": "The time limit is reached",
}
_RETRY: Final = frozenset({"overloaded", "draining"})


class ProblemError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status.
        code: Key of `TITLES`.
        detail: What was given and what is needed.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        return {"Retry-After": "1"} if self.code in _RETRY else {}

    def content(self, request_id: str) -> dict[str, Any]:
        """The problem document."""
        return {
            "type": f"urn:neuros-neurofm:problem:{self.code}",
            "title": TITLES[self.code],
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
        }


def dump(content: object) -> bytes:
    """JSON in ASCII: ids with lone surrogates pass, NaN does not; arrays are nested lists."""
    return json.dumps(
        content, allow_nan=False, separators=(",", ":"), default=np.ndarray.tolist
    ).encode()
