"""Feature maps row by row: NumPy and torch alike, standardised, in blocks that bound the memory."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuros_core.errors import check_finite
from neuros_sourceweigher._projection import is_tensor

__all__: list[str] = []

Array = NDArray[np.float64]

# Feature values computed at a time, besides the output.
_BLOCK = 2**20


class Standardizer(NamedTuple):
    """Centre and unit (d,) of each input."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def fit(cls, mean: ArrayLike, var: ArrayLike, dim: int) -> "Standardizer":
        """Read pooled moments."""
        centre, variance = np.asarray(mean, np.float64), np.asarray(var, np.float64)
        for name, value in (("mean", centre), ("var", variance)):
            if value.shape != (dim,):
                raise ValueError(f"{name} needs shape {(dim,)}, got {value.shape}")
            check_finite(name, value)
        if not (variance > 0).all():
            first = int(np.argmin(variance))
            raise ValueError(
                f"var needs entries > 0, got {variance[first]:g} at index {first}; leave out "
                "inputs that never vary"
            )
        return cls(tuple(centre.tolist()), tuple(np.sqrt(variance).tolist()))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> "Standardizer | None":
        """Rebuild from `to_dict`."""
        return None if values is None else cls(tuple(values["mean"]), tuple(values["scale"]))

    def to_dict(self) -> dict[str, list[float]]:
        """Return plain Python values."""
        return {"mean": list(self.mean), "scale": list(self.scale)}


def map_rows(
    x: Any, dim: int, p: int, standardizer: Standardizer | None, phi: Callable[[Any, Any], Any]
) -> Any:
    """Apply `phi` to blocks of the rows of `x`.

    Args:
        x: (n, dim) array or tensor.
        dim: Inputs per row.
        p: Features per row.
        standardizer: Applied first.
        phi: Takes a block and the library of its arrays (NumPy or torch), returns (rows, p).
    """
    library, rows = read_rows(x, 2, "(n, dim)")
    if rows.shape[1] != dim:
        raise ValueError(f"x needs {dim} columns, the dim of the map, got {rows.shape[1]}")
    step = max(1, _BLOCK // max(p, 1))
    centre = scale = None
    if standardizer is not None:
        centre = like(np.array(standardizer.mean), rows, library)
        scale = like(np.array(standardizer.scale), rows, library)
    parts = []
    for start in range(0, max(len(rows), 1), step):
        block = rows[start : start + step]
        parts.append(phi(block if centre is None else (block - centre) / scale, library))
    return parts[0] if len(parts) == 1 else library.concatenate(parts)


def read_rows(x: Any, ndim: int, axes: str) -> tuple[Any, Any]:
    """Return the library of `x` and `x` as real numbers: float64 in NumPy, float in torch."""
    if is_tensor(x):
        torch = sys.modules["torch"]
        if x.is_complex():
            raise TypeError(f"x needs real numbers, got dtype {x.dtype}")
        wide = x.dtype in (torch.float32, torch.float64)
        rows = x if wide else x.to(torch.float32 if x.is_floating_point() else torch.float64)
        finite = bool(torch.isfinite(rows).all())
        library: Any = torch
    else:
        given = np.asarray(x)
        if given.dtype.kind not in "iuf":
            raise TypeError(f"x needs real numbers, got dtype {given.dtype}")
        rows = given.astype(np.float64, copy=False)
        finite = bool(np.isfinite(rows).all())
        library = np
    if rows.ndim != ndim:
        raise ValueError(f"x needs {ndim} axes {axes}, got {rows.ndim}: shape {tuple(rows.shape)}")
    if not finite:
        raise ValueError(f"x needs finite values, got NaN or infinity in shape {tuple(rows.shape)}")
    return library, rows


def like(values: NDArray[Any], rows: Any, library: Any) -> Any:
    """Return `values` as an array of the library, device and precision of `rows`."""
    if library is np:
        return values
    dtype = rows.dtype if values.dtype.kind == "f" else None
    # A copy: torch warns of read-only memory.
    return library.as_tensor(values.copy(), dtype=dtype, device=rows.device)
