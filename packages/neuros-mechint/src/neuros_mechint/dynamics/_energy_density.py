"""Density of samples on a grid."""

import numpy as np
from jaxtyping import Float, Int

__all__ = ["grid_energy", "grid_neighbours", "likely_bandwidth"]

# Samples that choose the bandwidth: each pair is formed once per candidate.
_CHOOSING = 1500
# Bandwidths beyond the outermost sample.
_MARGIN = 4.0


def likely_bandwidth(
    x: Float[np.ndarray, "sample feature"], rng: np.random.Generator
) -> Float[np.ndarray, "feature"]:
    """Bandwidth of largest leave-one-out likelihood, as a multiple of Scott's rule."""
    n, d = x.shape
    part = x if n <= _CHOOSING else x[rng.permutation(n)[:_CHOOSING]]
    m = len(part)
    scott = part.std(0) * m ** (-1 / (d + 4))
    gap = (((part[:, None] - part) / scott) ** 2).sum(-1)
    np.fill_diagonal(gap, np.inf)
    factors = np.geomspace(0.15, 1.5, 16)
    scores = [
        np.log(np.exp(-gap / (2 * f**2)).sum(1) + 1e-300).mean() - d * np.log(f) for f in factors
    ]
    return np.asarray(scott * factors[int(np.argmax(scores))] * (m / n) ** (1 / (d + 4)))


def grid_energy(
    x: Float[np.ndarray, "sample feature"], bandwidth: Float[np.ndarray, "feature"], n_grid: int
) -> tuple[list[Float[np.ndarray, "point"]], Float[np.ndarray, "..."]]:
    """Axes of the grid, and minus the log density on it; infinite where no sample reaches."""
    from scipy.ndimage import gaussian_filter

    low, high = x.min(0) - _MARGIN * bandwidth, x.max(0) + _MARGIN * bandwidth
    edges = [np.linspace(a, b, n_grid + 1) for a, b in zip(low, high, strict=True)]
    counts = np.histogramdd(x, edges)[0]
    widths = np.array([e[1] - e[0] for e in edges])
    # A kernel below one cell would be a histogram; one cell is as fine as the grid can show.
    smooth = gaussian_filter(
        counts, np.maximum(bandwidth / widths, 0.5), mode="constant", truncate=_MARGIN
    )
    density = smooth / (len(x) * widths.prod())
    with np.errstate(divide="ignore"):
        energy = -np.log(density)
    return [(e[1:] + e[:-1]) / 2 for e in edges], energy


def grid_neighbours(shape: tuple[int, ...]) -> Int[np.ndarray, "node n"]:
    """Flat indices of the cells around each cell, diagonals too; the border repeats itself."""
    offsets = np.array(np.meshgrid(*[[-1, 0, 1]] * len(shape))).reshape(len(shape), -1).T
    offsets = offsets[(offsets != 0).any(1)]
    cells = np.indices(shape).reshape(len(shape), -1).T
    around = np.clip(cells[:, None] + offsets, 0, np.array(shape) - 1)
    return np.asarray(
        np.ravel_multi_index(tuple(np.moveaxis(around, -1, 0)), shape), dtype=np.int64
    )
