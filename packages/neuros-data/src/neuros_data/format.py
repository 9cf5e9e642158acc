"""The on-disk format: plain `.npy` arrays, one JSON file per recording, sha256 of every array.

A store is a folder:

    manifest.json                           schema version, licence, run manifest
    recordings/<id>/meta.json               clocks, units, channels, arrays with their sha256
    recordings/<id>/<modality>.<array>.npy  little-endian, C order, time first
    splits/<name>.json                      who belongs to which part, and the proof

NumPy alone reads it: `numpy.load(path, mmap_mode="r")`; integers with `scale` and `offset` in
`meta.json` decode as `samples * scale + offset`.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from neuros_data.errors import CorruptStoreError, FormatVersionError

__all__ = [
    "SCHEMA",
    "Quantization",
    "check_schema",
    "dequantize",
    "narrow",
    "open_array",
    "quantize",
    "read_json",
    "write_array",
    "write_json",
]

# Samples that are expressed as integers at once.
_ROWS = 512
# Of a step: far above rounding in float64 and float32, far below a real fraction.
_FRACTION = 1e-3

SCHEMA = (1, 0)


@runtime_checkable
class _Writable(Protocol):
    def write(self, data: bytes, /) -> Any: ...


class _HashingFile:
    """Passes bytes on to a file and hashes them on the way, so that no file is read twice."""

    def __init__(self, file: _Writable) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self._file.write(data)
        return len(data)


def write_array(path: Path, array: NDArray[Any]) -> dict[str, Any]:
    """Write one array as a little-endian `.npy` file and flush it to the disk.

    Args:
        path: File to write, ending in `.npy`.
        array: Any array of numbers, booleans or text.

    Returns:
        Its entry for `meta.json`: file, dtype, shape, sha256 of the whole file.

    Raises:
        TypeError: When the array holds Python objects.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     entry = write_array(Path(folder) / "x.npy", np.arange(3, dtype="int16"))
        >>> entry["file"], entry["dtype"], entry["shape"]
        ('x.npy', '<i2', [3])
    """
    if array.dtype.hasobject:
        raise TypeError(f"{path.name} needs numbers, booleans or text, got Python objects")
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    with path.open("wb") as file:
        hashing = _HashingFile(file)
        np.lib.format.write_array(hashing, plain, version=(1, 0), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return {
        "file": path.name,
        "dtype": plain.dtype.str,
        "shape": list(plain.shape),
        "sha256": hashing.sha256.hexdigest(),
    }


def open_array(folder: Path, entry: Mapping[str, Any]) -> NDArray[Any]:
    """Map one array of a recording into memory, checked against its entry.

    Args:
        folder: Folder of the recording.
        entry: The array's entry of `meta.json`.

    Returns:
        A read-only array backed by the file.

    Raises:
        CorruptStoreError: When the file is missing, truncated, or of another dtype or shape.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     entry = write_array(Path(folder) / "x.npy", np.arange(3.0))
        ...     float(open_array(Path(folder), entry).sum())
        3.0
    """
    path = folder / entry["file"]
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise CorruptStoreError(f"{path} is missing; restore it or remove its recording") from error
    except (ValueError, EOFError) as error:
        raise CorruptStoreError(
            f"{path} is truncated or not an .npy file ({error}); restore it from its source"
        ) from error
    if mapped.dtype.str != entry["dtype"] or list(mapped.shape) != entry["shape"]:
        raise CorruptStoreError(
            f"{path} holds {mapped.dtype.str} {list(mapped.shape)}, its meta.json says "
            f"{entry['dtype']} {entry['shape']}; restore it from its source"
        )
    # A plain view: slicing a numpy.memmap costs ten times as much as slicing an array.
    plain: NDArray[Any] = mapped.view(np.ndarray)
    return plain


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys, replacing the file at once or not at all.

    Args:
        path: File to write.
        content: What JSON can hold, without NaN.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_json(Path(folder) / "a.json", {"b": 1})
        ...     read_json(Path(folder) / "a.json")
        {'b': 1}
    """
    text = json.dumps(content, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CorruptStoreError: When the file is missing or not a JSON object.

    Examples:
        >>> read_json(Path("nowhere.json"))
        Traceback (most recent call last):
        neuros_data.errors.CorruptStoreError: nowhere.json is missing
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CorruptStoreError(f"{path} is missing") from error
    except ValueError as error:
        raise CorruptStoreError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise CorruptStoreError(f"{path} needs a JSON object, got {type(content).__name__}")
    return content


def check_schema(schema: str, path: Path) -> None:
    """Raise when a file was written by a newer major version of the format.

    Args:
        schema: The version found, `"major.minor"`.
        path: The file, for the message.

    Raises:
        FormatVersionError: When the major version is newer than this package reads.

    Examples:
        >>> check_schema("1.7", Path("manifest.json"))
    """
    major = int(schema.split(".", maxsplit=1)[0])
    if major > SCHEMA[0]:
        raise FormatVersionError(
            f"{path} has format {schema}, this version reads up to {SCHEMA[0]}.x; "
            "upgrade neuros-data"
        )


class Quantization(NamedTuple):
    r"""How integers stand for samples: $x = k \cdot \mathrm{scale} + \mathrm{offset}$ per channel.

    Attributes:
        scale: Size of one step in the signal's unit, shape (channel,), or one for all.
        offset: Value of the integer 0 in the signal's unit, shape (channel,), or one for all.
        lossy: True allows samples between two steps; each is rounded to the nearer one.
        counts: The integers themselves, shape (time, channel), where a reader has them: they are
            held against the samples and spare the division. Those of other samples are not used.

    Examples:
        >>> q = Quantization(scale=0.5, offset=10.0)
        >>> quantize(np.array([[10.0], [11.5]]), q)[0].ravel().tolist()
        [0, 3]
    """

    scale: float | NDArray[np.float64]
    offset: float | NDArray[np.float64] = 0.0
    lossy: bool = False
    counts: NDArray[np.integer[Any]] | None = None


def quantize(
    data: NDArray[Any], quantization: Quantization
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
    """Express samples as integers on a lattice, without loss unless that was allowed.

    Args:
        data: Samples, shape (time, channel).
        quantization: Step and zero of each channel.

    Returns:
        Integers (time, channel) as int16 where they fit and int32 otherwise; scale (channel,);
        offset (channel,).

    Raises:
        ValueError: When a sample is not finite, lies between two steps, or exceeds 32 bits.

    Examples:
        >>> k, scale, offset = quantize(np.array([[1e-6], [-3e-6]]), Quantization(1e-6))
        >>> k.dtype.name, k.ravel().tolist()
        ('int16', [1, -3])
    """
    shape = (data.shape[1],)
    scale = np.broadcast_to(np.asarray(quantization.scale, np.float64), shape)
    offset = np.broadcast_to(np.asarray(quantization.offset, np.float64), shape)
    if _are_counts(quantization.counts, data, scale, offset):
        return narrow(np.asarray(quantization.counts)), scale.copy(), offset.copy()
    # 32 bits fit into a double: a wider value is found before it is cast.
    stored = np.empty(data.shape, np.int32)
    for i in range(0, len(data), _ROWS):
        # Block by block: each of the passes below finds its samples in the cache.
        steps = (data[i : i + _ROWS].astype(np.float64) - offset) / scale
        if not np.isfinite(steps).all():
            raise ValueError("integer storage needs finite samples and steps; store it as floats")
        nearest = np.rint(steps)
        _check_range(float(nearest.min(initial=0.0)), float(nearest.max(initial=0.0)))
        worst = float(np.abs(np.subtract(steps, nearest, out=steps), out=steps).max(initial=0.0))
        if worst > _FRACTION and not quantization.lossy:
            raise ValueError(
                f"samples need to lie on the lattice offset + k * scale, got one {worst:.3f} steps "
                "away; give the true scale, store floats, or pass lossy=True"
            )
        stored[i : i + _ROWS] = nearest
    return narrow(stored), scale.copy(), offset.copy()


def _are_counts(
    counts: NDArray[Any] | None,
    data: NDArray[Any],
    scale: NDArray[np.float64],
    offset: NDArray[np.float64],
) -> bool:
    """Whether integers are those of all these samples."""
    if counts is None or counts.shape != data.shape or counts.dtype.kind not in "iu":
        return False
    allowed = _FRACTION * np.abs(scale)
    decoded = np.empty((_ROWS, data.shape[1]))
    for i in range(0, len(data), _ROWS):
        block = decoded[: len(data) - i]
        np.multiply(counts[i : i + _ROWS], scale, out=block)
        block += offset
        block -= data[i : i + _ROWS]
        # Written so that a sample that is not a number is no match.
        if not (np.abs(block, out=block).max(axis=0) <= allowed).all():
            return False
    return True


def _check_range(low: float, high: float) -> None:
    limits = np.iinfo(np.int32)
    if low < limits.min or high > limits.max:
        raise ValueError(
            f"integer storage needs values within 32 bits, got [{low:.0f}, {high:.0f}]; use a "
            "larger scale"
        )


def narrow(values: NDArray[Any]) -> NDArray[Any]:
    """Store whole numbers as int16 where they fit and as int32 otherwise.

    Raises:
        ValueError: When a value exceeds 32 bits.

    Examples:
        >>> narrow(np.array([40_000])).dtype.name
        'int32'
    """
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    _check_range(low, high)
    info = np.iinfo(np.int16)
    return values.astype(np.int16 if info.min <= low and high <= info.max else np.int32, copy=False)


def dequantize(
    samples: NDArray[Any], scale: NDArray[np.float64], offset: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Decode stored integers into float32 samples in the signal's unit.

    Args:
        samples: Integers, shape (..., channel).
        scale: Step per channel, shape (channel,).
        offset: Value of the integer 0 per channel, shape (channel,).

    Returns:
        Samples, shape (..., channel).

    Examples:
        >>> dequantize(np.array([[2]], "int16"), np.array([0.5]), np.array([1.0])).tolist()
        [[2.0]]
    """
    # In float64 first: int32 counts above 2**24 would lose bits in a float32 product.
    return (samples * scale + offset).astype(np.float32)
