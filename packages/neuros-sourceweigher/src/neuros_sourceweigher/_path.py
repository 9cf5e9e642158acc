r"""How weights and held-out discrepancy change with the ridge, without samples.

The means of F folds of a sample of size n have the mean $m$ and, given it, the law of F draws from
$N(m, F S / n)$ moved to that mean. So a parametric split needs only the statistics: each fold is
held out in turn, weights are fitted on the rest, and the discrepancy of the held-out means is
brought to what fresh samples of the full size would give: fewer samples are noisier.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuros_core.domains import DomainStatistics
from neuros_sourceweigher._estimate import Matched, Matching, match, solve
from neuros_sourceweigher._moments import gather
from neuros_sourceweigher._resample import draw_columns, noise_factors
from neuros_sourceweigher.simplex import solve_simplex_ls_batched

__all__: list[str] = []

Array = NDArray[np.float64]

# Decades of the ridge below and above the mean squared length of the columns.
_DECADES = np.linspace(-7.0, 1.0, 25)
# Independent parametric splits: they cost little, and one split decides mostly by its own noise.
_SPLITS = 10
# Entries of the columns of all folds held at a time.
_BLOCK = 2**21


class RegularizationPath(NamedTuple):
    """Weights and held-out discrepancy of each ridge.

    `weights` is (R, K) on all the data, `discrepancy` (R,) the squared distance of mixture
    and target in the metric that fresh samples of the same sizes would have, up to a constant,
    with its standard error over splits, and `best` the ridge of the smallest.
    """

    ridges: Array
    weights: Array
    discrepancy: Array
    stderr: Array
    best: float


def regularization_path(
    sources: Sequence[DomainStatistics],
    target: DomainStatistics,
    ridges: Sequence[float] | Array | None = None,
    folds: int = 5,
    *,
    moments: str = "mean",
    metric: str = "efficient",
    shrinkage: float | str = "auto",
    prior: Sequence[float] | Array | None = None,
    seed: int = 0,
) -> RegularizationPath:
    """Compute the weights along a path of ridges and the discrepancy that each leaves held out.

    Args:
        sources: As in `SourceWeigher.fit`, each with a covariance.
        target: As in `SourceWeigher.fit`, with a covariance.
        ridges: (R,) numbers >= 0; 0 and 25 over eight decades of the columns' size when None.
        folds: Parts that are held out in turn, at least 2.
        moments: As in `SourceWeigher`.
        metric: As in `SourceWeigher`.
        shrinkage: As in `SourceWeigher`.
        prior: As in `SourceWeigher`.
        seed: Of the parametric splits.

    Returns:
        The whole path with its best ridge.

    Raises:
        ValueError: For settings out of range, unfit domains, or a domain without a covariance.

    Examples:
        >>> a = DomainStatistics("a", 400, [0.0], [[1.0]])
        >>> b = DomainStatistics("b", 400, [4.0], [[1.0]])
        >>> target = DomainStatistics("t", 400, [1.0], [[4.0]])
        >>> path = regularization_path([a, b], target, [0.0, 1e9])
        >>> path.weights.round(2).tolist(), path.best
        ([[0.75, 0.25], [0.5, 0.5]], 0.0)

    References:
        Leiner et al. 2025, Journal of the American Statistical Association,
        doi:10.1080/01621459.2023.2270748 (splitting a normal mean without its samples).
    """
    near = None if prior is None else np.asarray(prior, dtype=np.float64)
    how = Matching.read(moments, metric, shrinkage)
    matched = match(gather(sources, target, moments, metric), how, near)
    return trace_path(matched, near, ridges, folds, seed)


def trace_path(
    matched: Matched,
    prior: Array | None,
    ridges: Sequence[float] | Array | None,
    folds: int,
    seed: int,
) -> RegularizationPath:
    """Compute the path of moments that are in their metric already."""
    if folds < 2:
        raise ValueError(f"folds needs a number >= 2, got {folds!r}")
    columns = matched.columns
    if ridges is None:
        size = float(np.square(columns).sum(axis=0).mean()) or 1.0
        ridges = np.append(0.0, size * 10.0**_DECADES)
    grid = np.asarray(ridges, dtype=np.float64)
    if grid.ndim != 1 or not len(grid) or not np.isfinite(grid).all() or (grid < 0).any():
        raise ValueError(f"ridges needs one or more finite numbers >= 0, got {ridges!r}")
    weights = np.stack([solve(columns, float(ridge), prior).weights for ridge in grid])
    scores = _held_out(matched, prior, grid, folds, np.random.default_rng(seed))
    discrepancy = scores.mean(axis=0)
    stderr = scores.std(axis=0, ddof=1) / np.sqrt(len(scores))
    return RegularizationPath(
        grid, weights, discrepancy, stderr, float(grid[int(discrepancy.argmin())])
    )


def _held_out(
    matched: Matched, prior: Array | None, grid: Array, folds: int, rng: np.random.Generator
) -> Array:
    """Discrepancy (splits, R) of held-out means, with the noise of source means of full size."""
    columns, factors = matched.columns, noise_factors(matched)
    # Squared length of the noise of a held-out column, beyond that of the whole sample.
    own = (folds - 1) * np.array([float(np.square(F).sum()) for F in factors[:-1]])
    scores = np.empty((_SPLITS, len(grid)))
    # As many splits at once as fit in a block of memory.
    step = max(1, _BLOCK // (columns.size * folds))
    for first in range(0, _SPLITS, step):
        count = min(step, _SPLITS - first)
        noise = draw_columns(factors, count * folds, rng) * np.sqrt(folds)
        by_split = noise.reshape(count, folds, *columns.shape)
        by_split -= by_split.mean(axis=1, keepdims=True)
        rest, held = columns - noise / (folds - 1), columns + noise
        nothing = np.zeros(rest.shape[:2])
        for r, ridge in enumerate(grid):
            w = solve_simplex_ls_batched(rest, nothing, ridge=float(ridge), prior=prior).weights
            residual = np.matmul(held, w[:, :, None])
            squares = np.square(residual).sum(axis=(1, 2)) - np.square(w) @ own
            scores[first : first + count, r] = squares.reshape(count, folds).mean(axis=1)
    return scores
