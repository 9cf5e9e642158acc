"""Refusals as RFC 9457 problem details."""

from collections.abc import Sequence
from http import HTTPStatus

import orjson

__all__: list[str] = []

Header = tuple[bytes, bytes]
Fault = tuple[str, str]

# The code of every refusal, and the sentence that does not change between its occurrences.
TITLES = {
    "malformed": "The body cannot be read",
    "unauthorized": "A token is needed",
    "forbidden": "The token is not valid",
    "not_found": "There is no such route",
    "method_not_allowed": "The route has other methods",
    "not_acceptable": "The answer has other media types",
    "slow_body": "The body did not arrive in time",
    "too_large": "The body is too large",
    "unsupported_media_type": "The body has another media type",
    "invalid": "The request is not a valid problem",
    "rate_limited": "Too many requests",
    "internal": "The service failed",
    "overloaded": "The queue is full",
    "starting": "The service is starting",
    "draining": "The service is shutting down",
    "time_limit": "The time limit is reached",
}


class ProblemError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status.
        code: Key of `TITLES`.
        detail: What is needed; it repeats nothing of the body but names of domains.
        errors: Place in the body and message of each fault.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[Fault] = (),
        headers: Sequence[Header] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = tuple(headers)

    def body(self, request_id: str) -> bytes:
        """Return the problem document."""
        return orjson.dumps(
            {
                "type": f"urn:neuros-sourceweigher:problem:{self.code}",
                "title": TITLES.get(self.code, HTTPStatus(self.status).phrase),
                "status": self.status,
                "detail": self.detail,
                "code": self.code,
                "errors": [{"loc": loc, "msg": msg} for loc, msg in self.errors],
                "request_id": request_id,
            }
        )


class ClientGoneError(Exception):
    """The caller closed the connection before its answer was there."""


def retry_after(seconds: int) -> Header:
    """Header that says when to come back."""
    return (b"retry-after", str(seconds).encode())
