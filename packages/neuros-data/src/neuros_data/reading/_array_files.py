"""NPZ, NPY, MAT and plain HDF5 files as named arrays."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_data.reading._arrays import ArrayDraft
from neuros_data.reading._draft import Draft, Options
from neuros_data.reading._hdf5 import flatten_hdf5
from neuros_data.reading._npz_windows import is_window_file, read_window_arrays

_HDF5_MARK = b"\x89HDF\r\n\x1a\n"
Arrays = dict[str, NDArray[Any]]


def read_npz(path: Path, options: Options) -> Draft:
    """Read arrays by name, or the windows that `export --to npz` writes."""
    arrays = _load_npz(path)
    if is_window_file(arrays) and options.data is None and options.axes is None:
        draft = read_window_arrays(arrays, path, options)
    else:
        draft = ArrayDraft(arrays, path, options).build()
    draft.provenance["format"] = "NPZ"
    return draft


def _load_npz(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is truncated or not an .npz file of plain "
            f"arrays: {error}"
        ) from error


def read_npy(path: Path, options: Options) -> Draft:
    """Read one array."""
    draft = ArrayDraft({path.stem: load_npy(path)}, path, options).build()
    draft.provenance["format"] = "NPY"
    return draft


def load_npy(path: Path) -> NDArray[Any]:
    """An array of numbers or text.

    Raises:
        ValueError: When the file is truncated (with the bytes it has) or holds Python objects.
    """
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is truncated or not an .npy file of a plain "
            f"array: {error}"
        ) from error
    return array


def read_mat(path: Path, options: Options) -> Draft:
    """Read a MATLAB file of version 5 (through SciPy) or 7.3 (through h5py)."""
    with path.open("rb") as file:
        head = file.read(520)
    modern = _HDF5_MARK in (head[:8], head[512:520])
    arrays = flatten_hdf5(path, "MAT 7.3", matlab=True) if modern else _load_mat(path)
    draft = ArrayDraft(arrays, path, options).build()
    draft.provenance["format"] = "MAT 7.3" if modern else "MAT 5"
    return draft


def _load_mat(path: Path) -> Arrays:
    from scipy.io import loadmat

    try:
        found = loadmat(path, squeeze_me=False, struct_as_record=True)
    except Exception as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is truncated or not a MATLAB file: {error}"
        ) from error
    arrays: Arrays = {}
    for name, value in found.items():
        if not name.startswith("__"):
            _flatten(name, value, arrays)
    return arrays


def _flatten(name: str, value: Any, into: Arrays) -> None:
    """Fields of structures as `structure.field`; cells of text as text; other cells are left."""
    if not isinstance(value, np.ndarray):
        return
    if value.dtype.names:
        if value.size == 1:
            for field in value.dtype.names:
                _flatten(f"{name}.{field}", value.ravel()[0][field], into)
        return
    if value.dtype.kind == "O":
        cells = [np.ravel(cell) for cell in value.ravel()]
        if cells and all(c.dtype.kind == "U" and c.size == 1 for c in cells):
            into[name] = np.array([str(c[0]) for c in cells])
        return
    if value.dtype.kind in "biufU":
        into[name] = value


def read_hdf5(path: Path, options: Options) -> Draft:
    """Read the data sets of an HDF5 file by their path."""
    draft = ArrayDraft(flatten_hdf5(path, "HDF5", matlab=False), path, options).build()
    draft.provenance["format"] = "HDF5"
    return draft
