"""One file of a store: the rows of one site, their moments and their checksum.

A shard is a safetensors file with the tensors `mean`, `m2` and `rows`, so that any reader of that
format opens it. The header has a fixed length: it is written last, when the rows are counted.
"""

import json
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from neuros_mechint.activations._digest import RowChecksum
from neuros_mechint.activations._moments import Moments, merge, moments_of

__all__ = ["DTYPES", "Shard", "ShardWriter"]

DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "I8": torch.int8,
    "U8": torch.uint8,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_HEADER = 512


class ShardWriter:
    """A shard that grows by rows and appears under its name when it is finished."""

    def __init__(self, path: Path, width: int, dtype: torch.dtype) -> None:
        self._path, self._draft = path, draft_of(path)
        self._width, self._dtype = width, dtype
        zero = torch.zeros(width, dtype=torch.float64)
        self._moments = Moments(0, zero, zero)
        self._checksum = RowChecksum(width * dtype.itemsize)
        self._worker = ThreadPoolExecutor(1)
        self._file = self._draft.open("wb")
        self._file.seek(_HEADER + 16 * width)

    def append(self, rows: Shaped[Tensor, "rows width"]) -> None:
        """Write rows; nothing is held back in memory."""
        rows = rows.contiguous()
        # The system copies the rows while their moments are taken.
        written = self._worker.submit(self._file.write, rows.view(torch.uint8).numpy().data)
        try:
            moments = moments_of(rows)
            self._checksum.update(rows)
        finally:
            written.result()
        if not bool((moments.mean.isfinite() & moments.m2.isfinite()).all()):
            raise ValueError("the activations hold NaN or infinity")
        self._moments = merge(self._moments, moments)

    def finish(self) -> str:
        """Complete the file, give it its name and return its checksum."""
        n, w = self._moments.n_rows, self._width
        stop = 16 * w + n * w * self._dtype.itemsize
        header = {
            "mean": {"dtype": "F64", "shape": [w], "data_offsets": [0, 8 * w]},
            "m2": {"dtype": "F64", "shape": [w], "data_offsets": [8 * w, 16 * w]},
            "rows": {"dtype": _CODES[self._dtype], "shape": [n, w], "data_offsets": [16 * w, stop]},
        }
        text = json.dumps(header).encode().ljust(_HEADER - 8)
        moments = torch.cat([self._moments.mean, self._moments.m2]).numpy().tobytes()
        head = struct.pack("<Q", len(text)) + text + moments
        self._file.seek(0)
        self._file.write(head)
        self._worker.shutdown()
        self._file.close()
        # No fsync: what a killed process wrote stays, and after a power failure the checksum tells.
        self._draft.replace(self._path)
        return f"{zlib.crc32(head):08x}{self._checksum.value()}"

    def abandon(self) -> None:
        """Remove what was written."""
        self._worker.shutdown()
        self._file.close()
        self._draft.unlink(missing_ok=True)


class Shard:
    """A finished shard; its rows are checked once, when they are first read."""

    def __init__(
        self, path: Path, n_rows: int, width: int, dtype: torch.dtype, checksum: str
    ) -> None:
        self.path, self.n_rows, self.width, self.dtype = path, n_rows, width, dtype
        self._checksum = checksum
        self._checked = False

    def check_size(self) -> None:
        """Raise when the file is missing or has another length than it was written with."""
        needed = _HEADER + 16 * self.width + self.n_rows * self.width * self.dtype.itemsize
        size = self.path.stat().st_size if self.path.is_file() else None
        if size != needed:
            given = "is missing" if size is None else f"has {size} bytes"
            raise ValueError(
                f"shard {self.path.name} {given}, it was written with {needed}; collect again with "
                "resume=True to rewrite it, or copy it anew"
            )

    def check(self) -> None:
        """Raise when the file is not as it was written."""
        self._checked = False
        self.moments()
        self.rows()

    def moments(self) -> Moments:
        """Return the moments of the rows."""
        self.check_size()
        with self.path.open("rb") as file:
            head = file.read(_HEADER + 16 * self.width)
        self._compare(f"{zlib.crc32(head):08x}", self._checksum[:8])
        both = torch.frombuffer(bytearray(head[_HEADER:]), dtype=torch.float64)
        return Moments(self.n_rows, both[: self.width], both[self.width :])

    def rows(self) -> Shaped[Tensor, "rows width"]:
        """Map the rows into memory; changes of the tensor do not reach the file."""
        self.check_size()
        mapped = np.memmap(
            self.path, np.uint8, "c", offset=_HEADER + 16 * self.width,
            shape=(self.n_rows, self.width * self.dtype.itemsize),
        )  # fmt: skip
        rows = torch.from_numpy(mapped).view(self.dtype)
        if not self._checked:
            checksum = RowChecksum(self.width * self.dtype.itemsize)
            checksum.update(rows)
            self._compare(checksum.value(), self._checksum[8:])
            self._checked = True
        return rows

    def _compare(self, found: str, written: str) -> None:
        if found != written:
            raise ValueError(
                f"shard {self.path.name} is corrupt: its checksum is {found}, it was written with "
                f"{written}; collect again with resume=True to rewrite it, or copy it anew"
            )


def draft_of(path: Path) -> Path:
    """Name of a file while it is being written."""
    return path.with_name(f".{path.name}.tmp")
