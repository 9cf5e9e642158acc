"""From a two-photon movie to fluorescence traces of the cell bodies that are seen in it.

Frames are shifted by whole pixels onto their mean, blobs of the size of a cell body are found in
that mean, and each gives a trace less a share of its surround, relative to its own lower
percentile so far (Pachitariu et al. 2017, doi:10.1101/061507, for the surround and its share).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TracesSettings:
    """How cell bodies are found and their traces made; lengths are pixels.

    Args:
        radius: Radius of a cell body.
        most: Most cell bodies; the most prominent ones are kept.
        threshold: Least prominence, in robust standard deviations of the image's.
        largest_shift: Largest shift of a frame.
        surround: Radius of the surround.
        share: Part of the surround that is taken off.
        percentile: Percentile that is the baseline.
        seconds: How far the baseline looks back.
    """

    radius: float = 4.0
    most: int = 24
    threshold: float = 2.0
    largest_shift: int = 6
    surround: float = 10.0
    share: float = 0.7
    percentile: float = 8.0
    seconds: float = 60.0


class Traces(NamedTuple):
    """Relative fluorescence (time, cell) and where each cell is, row and column (cell, 2)."""

    dff: NDArray[np.float32]
    centres: NDArray[np.int64]


def trace_cells(movie: NDArray[Any], rate: float, settings: TracesSettings) -> Traces:
    """Find cell bodies in a movie and follow their fluorescence.

    Args:
        movie: Frames, shape (time, row, column).
        rate: Frames a second.
        settings: Sizes and shares.

    Returns:
        Traces in the order of prominence.

    Raises:
        ValueError: When no cell body is found.
    """
    still = register(movie.astype(np.float32), settings.largest_shift)
    prominence = _prominence(still.mean(0), settings.radius)
    centres = _peaks(prominence, settings)
    if not len(centres):
        raise ValueError(f"the movie of shape {movie.shape} shows no cell body")
    masks = _masks(prominence, centres, settings.radius)
    surrounds = _surrounds(masks, centres, settings.surround, prominence.shape)
    pixels = still.reshape(len(still), -1)
    own = _means(pixels, masks)
    around = _means(pixels, surrounds)
    return Traces(_relative(own - settings.share * around, rate, settings), centres)


def register(movie: NDArray[np.float32], largest_shift: int) -> NDArray[np.float32]:
    """Shift each frame by whole pixels to where it agrees best with the mean of all.

    The shift is the peak of the phase correlation (Kuglin and Hines 1975).
    """
    shape = movie.shape[1:]
    reference = np.fft.rfft2(movie.mean(0) - movie.mean())
    still = np.empty_like(movie)
    steps = np.arange(-largest_shift, largest_shift + 1)
    for i, frame in enumerate(movie):
        cross = reference * np.fft.rfft2(frame - frame.mean()).conj()
        agreement = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-12), s=shape)
        near = agreement[np.ix_(steps, steps)]
        row, column = np.unravel_index(int(near.argmax()), near.shape)
        still[i] = _shift(_shift(frame, steps[row], 0), steps[column], 1)
    return still


def _shift(frame: NDArray[np.float32], by: int, axis: int) -> NDArray[np.float32]:
    """Move a frame; what enters at its edge repeats the edge."""
    n = frame.shape[axis]
    moved: NDArray[np.float32] = frame.take(np.clip(np.arange(n) - by, 0, n - 1), axis)
    return moved


def _prominence(image: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """Difference of Gaussians: large where a bright disc of this radius stands on a darker ground.

    The logarithm makes a dim cell on a dim ground count as a bright one on a bright ground.
    """
    from scipy import ndimage

    level = np.log(np.maximum(image, 1.0))
    narrow: NDArray[np.float32] = ndimage.gaussian_filter(level, radius / 2)
    wide: NDArray[np.float32] = ndimage.gaussian_filter(level, radius * 1.5)
    return narrow - wide


def _peaks(prominence: NDArray[np.float32], settings: TracesSettings) -> NDArray[np.int64]:
    """Row and column of the most prominent maxima that are a cell's diameter apart."""
    from scipy import ndimage

    size = 2 * round(settings.radius) + 1
    peak = prominence == ndimage.maximum_filter(prominence, size=size)
    spread = 1.4826 * np.median(np.abs(prominence - np.median(prominence)))
    found = np.argwhere(peak & (prominence > settings.threshold * spread))
    order = np.argsort(-prominence[tuple(found.T)], kind="stable")
    chosen: NDArray[np.int64] = found[order[: settings.most]].astype(np.int64)
    return chosen


def _masks(
    prominence: NDArray[np.float32], centres: NDArray[np.int64], radius: float
) -> NDArray[np.bool_]:
    """Pixels of each cell: near its centre, nearer than to others, above half its prominence."""
    distance = _distances(prominence.shape, centres)
    owner = distance.argmin(0)
    masks = np.zeros((len(centres), prominence.size), bool)
    for i, (row, column) in enumerate(centres):
        bright = prominence > prominence[row, column] / 2
        masks[i] = (bright & (distance[i] <= 1.5 * radius) & (owner == i)).ravel()
    return masks


def _surrounds(
    masks: NDArray[np.bool_],
    centres: NDArray[np.int64],
    surround: float,
    shape: tuple[int, ...],
) -> NDArray[np.bool_]:
    """Pixels around each cell that belong to none."""
    near = _distances(shape, centres).reshape(len(centres), -1) <= surround
    return near & ~masks.any(0)


def _distances(shape: tuple[int, ...], centres: NDArray[np.int64]) -> NDArray[np.float64]:
    rows, columns = np.indices(shape)
    found: NDArray[np.float64] = np.hypot(
        rows - centres[:, 0, None, None], columns - centres[:, 1, None, None]
    )
    return found


def _means(pixels: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean over the pixels of each mask, shape (time, cell)."""
    return np.stack([pixels[:, mask].mean(1, dtype=np.float64) for mask in masks], axis=1)


def _relative(
    trace: NDArray[np.float64], rate: float, settings: TracesSettings
) -> NDArray[np.float32]:
    """Change relative to the percentile of the past: no sample depends on later ones."""
    span = max(1, round(settings.seconds * rate))
    base = np.stack(
        [
            np.percentile(trace[max(0, i + 1 - span) : i + 1], settings.percentile, axis=0)
            for i in range(len(trace))
        ]
    )
    return ((trace - base) / base).astype(np.float32)
