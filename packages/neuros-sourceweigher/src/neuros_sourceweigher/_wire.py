"""MessagePack with arrays as `{"dtype", "shape", "data"}`, for the service and its clients."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import msgpack
except ImportError as error:
    raise ImportError(
        "neuros_sourceweigher needs msgpack for binary bodies: "
        "pip install 'neuros-sourceweigher[client]'"
    ) from error

__all__: list[str] = []

DTYPES = ("<f8", "<f4", "<i8", "<i4")
_KEYS = {"dtype", "shape", "data"}


def pack(tree: Any) -> bytes:
    """Return MessagePack of plain values and NumPy arrays."""
    return bytes(msgpack.packb(tree, default=_describe))


def unpack(data: bytes, *, longest: int = 2**20) -> Any:
    """Read MessagePack; described arrays come back as read-only views of `data`.

    Args:
        data: One MessagePack value.
        longest: Largest number of entries of a list or map, so that a length alone cannot
            claim memory.

    Raises:
        ValueError: When the bytes are no such document.
    """
    return msgpack.unpackb(
        data,
        object_hook=_array_or_map,
        max_array_len=longest,
        max_map_len=longest,
        max_ext_len=0,
    )


def _describe(value: object) -> dict[str, Any]:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"MessagePack needs plain values or arrays, got {type(value).__name__}")
    x = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
    return {"dtype": x.dtype.str, "shape": list(x.shape), "data": x.tobytes()}


def _array_or_map(node: dict[str, Any]) -> dict[str, Any] | NDArray[Any]:
    if node.keys() != _KEYS or not isinstance(node["data"], bytes):
        return node
    dtype, shape, data = node["dtype"], node["shape"], node["data"]
    if dtype not in DTYPES:
        raise ValueError(f"an array needs a dtype of {', '.join(DTYPES)}")
    whole = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not whole or len(shape) > 8:
        raise ValueError("the shape of an array needs up to 8 whole numbers >= 0")
    if math.prod(shape) * np.dtype(dtype).itemsize != len(data):
        raise ValueError("the data of an array need as many bytes as its shape and dtype say")
    return np.frombuffer(data, dtype).reshape(shape)
