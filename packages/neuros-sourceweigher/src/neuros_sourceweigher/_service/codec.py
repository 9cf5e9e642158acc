"""Two formats for bodies and answers, and the choice between them by the headers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from neuros_sourceweigher._service.problem import ProblemError
from neuros_sourceweigher._wire import unpack

__all__: list[str] = []

JSON, MSGPACK = "application/json", "application/msgpack"
_TYPES = {JSON: JSON, MSGPACK: MSGPACK, "application/x-msgpack": MSGPACK}


@dataclass(frozen=True, slots=True)
class Document:
    """A decoded body.

    Args:
        tree: Plain values; arrays of a binary body are NumPy arrays.
        checked: Whether no boolean can stand among the numbers, so that lists of numbers need no
            look at every entry.
    """

    tree: Any
    checked: bool


def body_type(headers: Mapping[bytes, bytes]) -> str:
    """Return the media type of the body, or refuse it with 415."""
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"identity", b""):
        raise _unsupported("the body needs Content-Encoding: identity")
    media, _, parameters = headers.get(b"content-type", b"").decode("latin-1").partition(";")
    kind = _TYPES.get(media.strip().lower())
    charset = parameters.replace('"', "").replace(" ", "").lower()
    if kind is None or ("charset=" in charset and "charset=utf-8" not in charset):
        raise _unsupported(f"the body needs Content-Type: {JSON} or {MSGPACK}")
    return kind


def _unsupported(detail: str) -> ProblemError:
    accepted = (b"accept", f"{JSON}, {MSGPACK}".encode())
    return ProblemError(415, "unsupported_media_type", detail, headers=[accepted])


def answer_type(headers: Mapping[bytes, bytes], body: str) -> str:
    """Return the media type that `Accept` prefers; between equals that of the body."""
    accept = headers.get(b"accept")
    if not accept or accept == b"*/*":
        return body
    ranked = [(_quality(accept.decode("latin-1"), kind), kind == body, kind) for kind in _OFFERED]
    quality, _, kind = max(ranked)
    if quality <= 0:
        raise ProblemError(406, "not_acceptable", f"Accept needs {JSON} or {MSGPACK}")
    return kind


_OFFERED = {JSON: (JSON,), MSGPACK: (MSGPACK, "application/x-msgpack")}


def _quality(accept: str, kind: str) -> float:
    """Return the weight of the most specific range of `accept` that holds `kind` (RFC 9110)."""
    found = {-1: 0.0}
    for part in accept.lower().split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        rank = {"*/*": 0, "application/*": 1}.get(media, 2 if media in _OFFERED[kind] else -1)
        if rank >= 0:
            weights = (p[2:] for p in parameters if p.startswith("q="))
            found[rank] = _weight(next(weights, "1"))
    return found[max(found)]


def _weight(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 0.0


def decode(body: bytes, kind: str, *, longest: int) -> Document:
    """Read a body, or refuse it with 400."""
    try:
        if kind == MSGPACK:
            return Document(unpack(body, longest=longest), checked=False)
        # The two words are searched at memory speed; looking at every number is not free.
        return Document(orjson.loads(body), checked=b"true" not in body and b"false" not in body)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise ProblemError(400, "malformed", f"the body is not JSON (RFC 8259): {where}") from None
    except UnicodeDecodeError:
        raise ProblemError(400, "malformed", "a text of the body is not UTF-8") from None
    except (ValueError, TypeError, OverflowError) as error:
        reason = str(error) if str(error).startswith(("an array", "the ")) else ""
        detail = f"the body is not MessagePack: {reason or type(error).__name__}"
        raise ProblemError(400, "malformed", detail) from None
