"""Arrays at the boundary of the evaluation: NumPy or torch in, float64 NumPy inside."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array: TypeAlias = NDArray[np.float64]
Data: TypeAlias = NDArray[np.generic] | Tensor
Segments: TypeAlias = Data | Sequence[Data]


def as_float64(name: str, x: Data) -> Array:
    """Convert to a float64 array; NaN and infinities stay."""
    if isinstance(x, Tensor):
        # bfloat16 has no NumPy type.
        return x.detach().cpu().double().numpy()
    if np.iscomplexobj(x):
        raise TypeError(f"{name} must be real, got {np.asarray(x).dtype}")
    return np.asarray(x, dtype=np.float64)


def as_finite(name: str, x: Data) -> Array:
    """Convert to a float64 array that holds no NaN or infinity."""
    array = as_float64(name, x)
    n_bad = int(array.size - np.isfinite(array).sum())
    if n_bad:
        raise ValueError(f"{name} must be finite, got {n_bad} NaN or infinite values")
    return array


def as_segments(name: str, x: Segments) -> list[Array]:
    """Convert one recording (time, channel), or several, to a list of finite matrices."""
    parts = [x] if isinstance(x, np.ndarray | Tensor) else list(x)
    segments = [as_finite(name, part) for part in parts]
    if not segments:
        raise ValueError(f"{name} must hold at least one segment, got none")
    segments = [part[:, None] if part.ndim == 1 else part for part in segments]
    shapes = [part.shape for part in segments]
    if any(part.ndim != 2 for part in segments) or len({s[1] for s in shapes}) > 1:
        raise ValueError(
            f"{name} must be (time, channel), or several such arrays of equal channels, "
            f"got shapes {shapes}"
        )
    return segments


def as_pairs(x: Segments, y: Segments, suffix: str = "") -> tuple[list[Array], list[Array]]:
    """Segments of inputs and targets that belong together; `suffix` is that of their names."""
    inputs, targets = as_segments(f"x{suffix}", x), as_segments(f"y{suffix}", y)
    lengths = [[len(part) for part in parts] for parts in (inputs, targets)]
    if lengths[0] != lengths[1] or not all(lengths[0]):
        raise ValueError(
            f"x{suffix} and y{suffix} must have equal lengths > 0, got {lengths[0]} and "
            f"{lengths[1]}"
        )
    return inputs, targets


def lag_matrix(x: Array, n_lags: int) -> Array:
    """Stack the samples of now and of the `n_lags - 1` samples before, zero before the start.

    Args:
        x: (time, channel).
        n_lags: At least 1.

    Returns:
        (time, n_lags * channel); columns [j * channel, (j + 1) * channel) hold x[t - j].
    """
    n_times, n_channels = x.shape
    padded = np.concatenate([np.zeros((n_lags - 1, n_channels)), x])
    windows = np.lib.stride_tricks.sliding_window_view(padded, n_lags, axis=0)
    # A window runs forward in time; lag 0 is its end.
    return windows[:, :, ::-1].transpose(0, 2, 1).reshape(n_times, n_lags * n_channels)
