"""Two forms of a body: JSON, and MessagePack whose arrays are their bytes."""

import json
import math
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from neuros_neurofm.serving._extra import msgpack
from neuros_neurofm.serving._problem import ProblemError, dump

__all__: list[str] = []

JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"
DTYPES: Final = ("<f4", "<f8", "|u1", "<i2", "<u2", "<i4", "<i8")
_NAMES: Final = {JSON: JSON, MSGPACK: MSGPACK, "application/x-msgpack": MSGPACK}
_KEYS: Final = {"dtype", "shape", "data"}
_DEEPEST: Final = 8


def body_form(content_type: str) -> str:
    """The form that a header names.

    Raises:
        ProblemError: 415 for another one.
    """
    form = _NAMES.get(content_type.partition(";")[0].strip().lower())
    if form is None:
        raise ProblemError(
            415, "unsupported_media_type", f"the body must be {JSON} or {MSGPACK}, uncompressed"
        )
    return form


def answer_form(accept: str, body: str) -> str:
    """The form that `Accept` prefers; between equals that of the body.

    Raises:
        ProblemError: 406 where it takes neither.
    """
    ranked = [(_quality(accept, form), form == body, form) for form in (JSON, MSGPACK)]
    quality, _, form = max(ranked)
    if quality <= 0:
        raise ProblemError(406, "not_acceptable", f"Accept must hold {JSON} or {MSGPACK}")
    return form


def decode(body: bytes | str, form: str) -> Any:
    """The content of a body; an array of MessagePack as a NumPy array.

    Raises:
        ProblemError: 400 for what cannot be read.
    """
    try:
        if form == MSGPACK:
            return msgpack.unpackb(body, object_hook=_array_or_map, max_ext_len=0)
        return json.loads(body, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ProblemError(400, "malformed", "the body is nested too deeply") from error
    except (ValueError, TypeError, OverflowError) as error:
        what = "MessagePack" if form == MSGPACK else "JSON in UTF-8"
        reason = str(error) or type(error).__name__
        raise ProblemError(400, "malformed", f"the body must be {what}: {reason}") from error


def encode(content: object, form: str) -> bytes:
    """A body of plain values and NumPy arrays, which JSON holds as nested lists.

    Raises:
        ValueError: NaN or infinity.
    """
    if form == MSGPACK:
        return bytes(msgpack.packb(content, default=_described))
    return dump(content)


def _quality(accept: str, form: str) -> float:
    """The weight of the most specific range of `accept` that holds the form (RFC 9110)."""
    found = {-1: 0.0} if accept.strip() else {0: 1.0}
    for part in accept.lower().split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        named = 2 if _NAMES.get(media) == form else -1
        rank = {"*/*": 0, "application/*": 1}.get(media, named)
        if rank >= 0:
            weights = [p[2:] for p in parameters if p.startswith("q=")]
            found[rank] = _weight(weights[0]) if weights else 1.0
    return found[max(found)]


def _weight(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 0.0


def _described(value: object) -> dict[str, Any]:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"MessagePack needs plain values or arrays, got {type(value).__name__}")
    if not np.isfinite(value).all():
        raise ValueError("an array holds NaN or infinity")
    x = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
    return {"dtype": x.dtype.str, "shape": list(x.shape), "data": x.tobytes()}


def _array_or_map(node: dict[str, Any]) -> dict[str, Any] | NDArray[Any]:
    if node.keys() != _KEYS or not isinstance(node["data"], bytes):
        return node
    dtype, shape, data = node["dtype"], node["shape"], node["data"]
    if dtype not in DTYPES:
        raise ValueError(f"the dtype of an array must be one of {', '.join(DTYPES)}")
    whole = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not whole or len(shape) > _DEEPEST:
        raise ValueError(f"the shape of an array must be up to {_DEEPEST} whole numbers >= 0")
    if math.prod(shape) * np.dtype(dtype).itemsize != len(data):
        raise ValueError("the data of an array must have as many bytes as its shape and dtype say")
    return np.frombuffer(data, dtype).reshape(shape)


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number; write null for a missing sample")
