"""HDF5 files: opened so that every fault names the file, and read whole into named arrays."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_data._extras import need


@contextmanager
def open_hdf5(path: Path, what: str) -> Iterator[Any]:
    """The open file.

    Raises:
        ValueError: When it is truncated or no HDF5; the message has what HDF5 says, which for a
            truncated file is the bytes expected and found.
        ImportError: When h5py is not installed.
    """
    h5py = need("h5py", "nwb", f"reading {what}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is truncated or not HDF5: {error}"
        ) from error
    with file:
        yield file


def read_dataset(dataset: Any) -> NDArray[Any]:
    """A data set in memory, text as NumPy text."""
    if dataset.dtype.kind == "O" and dataset.dtype.metadata and "vlen" in dataset.dtype.metadata:
        text: NDArray[Any] = np.asarray(dataset.asstr()[()], dtype=np.str_)
        return text
    values: NDArray[Any] = np.asarray(dataset[()])
    return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values


def flatten_hdf5(path: Path, what: str, *, matlab: bool) -> dict[str, NDArray[Any]]:
    """Every data set of numbers or text by its path.

    Args:
        path: The file.
        what: Its format, for messages.
        matlab: Whether MATLAB wrote it: axes are then reversed, text is stored as codes, and
            what begins with `#` is not the user's.
    """
    h5py = need("h5py", "nwb", f"reading {what}")
    found: dict[str, NDArray[Any]] = {}

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or (matlab and name.startswith("#")):
            return
        found[name] = _matlab(item) if matlab else read_dataset(item)

    with open_hdf5(path, what) as file:
        file.visititems(visit)
    # References and compound records are no arrays of samples.
    return {name: value for name, value in found.items() if value.dtype.kind in "biufUS"}


def _matlab(dataset: Any) -> NDArray[Any]:
    values = read_dataset(dataset)
    if dataset.attrs.get("MATLAB_class", b"") == b"char":
        codes = values.T if values.ndim == 2 else np.atleast_2d(values)
        rows = ["".join(map(chr, row)) for row in codes.astype(int)]
        return np.array(rows[0] if len(rows) == 1 else rows)
    return values.T
