"""HDF5 files of the Allen archives: opened so that every fault names the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_data._extras import need


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """The open file.

    Raises:
        ValueError: When it is damaged, or lacks something that is read from it; the message names
            the file.
        ImportError: When h5py is not installed.
    """
    h5py = need("h5py", "nwb", "reading Allen files")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, ValueError) as error:
        reason = error.args[0] if error.args else error
        raise ValueError(
            f"{path} cannot be read as an NWB file of this archive ({reason}); remove it so that "
            "it is fetched again"
        ) from error


def is_column(dataset: Any) -> bool:
    """Whether a data set holds one number or text per row, not references or groups of values."""
    if dataset.ndim != 1:
        return False
    kind = dataset.dtype.kind
    return kind in "biufS" or (kind == "O" and (dataset.dtype.metadata or {}).get("vlen") is str)


def read_column(dataset: Any) -> NDArray[Any]:
    """A data set in memory, text as NumPy text."""
    if dataset.dtype.kind in "OS":
        text: NDArray[Any] = np.asarray(dataset.asstr()[()], dtype=np.str_)
        return text
    values: NDArray[Any] = dataset[()]
    return values


def read_text(file: Any, name: str) -> str:
    """A scalar of text or numbers as text; empty where it is absent."""
    if name not in file:
        return ""
    return str(np.ravel(read_column(file[name]))[0])
