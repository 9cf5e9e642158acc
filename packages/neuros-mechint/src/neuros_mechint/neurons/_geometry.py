"""Dimension and clustering of a cloud of population activations."""

import math

import numpy as np
from jaxtyping import Float, Int

from neuros_mechint.neurons._results import PopulationGeometry

__all__ = [
    "effective_rank",
    "eigenvalues",
    "geometry_of",
    "n_components",
    "participation_ratio",
    "silhouette",
]

# Entries of one block of distances.
_BLOCK = 4_000_000

Activations = Float[np.ndarray, "row unit"]


def geometry_of(
    x: Activations, codes: Int[np.ndarray, "row"] | None, *, bias_corrected: bool
) -> PopulationGeometry:
    """Dimensions of a cloud, and how well groups of rows separate in it.

    Raises:
        ValueError: When there are fewer than three rows, they are constant, or groups do not divide
            them.
    """
    if len(x) < 3:
        raise ValueError(f"a geometry needs at least 3 rows, got {len(x)}")
    if not (x.max(0) > x.min(0)).any():
        raise ValueError("activations are constant over the data set: there is no geometry")
    separation = math.nan
    if codes is not None:
        n_groups = int(codes.max()) + 1
        if not 2 <= n_groups < len(x):
            raise ValueError(
                f"labels need to divide {len(x)} rows into 2 to {len(x) - 1} groups, got {n_groups}"
            )
        separation = silhouette(x, codes)
    variances = eigenvalues(x)
    return PopulationGeometry(
        participation_ratio(x, bias_corrected=bias_corrected),
        separation,
        n_components(variances, 0.9),
        effective_rank(variances),
        variances,
    )


def participation_ratio(x: Activations, *, bias_corrected: bool) -> float:
    r"""$(\mathrm{tr}\, C)^2 / \mathrm{tr}\, C^2$ without an eigendecomposition.

    The correction exchanges both traces for estimates that are unbiased for Gaussian rows
    (Srivastava 2005): a sample of N rows has at most N - 1 dimensions whatever it comes from.
    """
    centred = x - x.mean(0)
    df = len(x) - 1
    # The smaller of the two Gram matrices has the same Frobenius norm.
    gram = centred @ centred.T if len(x) < x.shape[1] else centred.T @ centred
    trace, square = float(np.trace(gram)) / df, float((gram**2).sum()) / df**2
    if not bias_corrected:
        return trace**2 / square
    squared_trace = trace**2
    square = df**2 / ((df - 1) * (df + 2)) * (square - squared_trace / df)
    return (squared_trace - 2 * square / df) / square if square > 0 else math.inf


def eigenvalues(x: Activations) -> Float[np.ndarray, "component"]:
    """Variances of the principal components, largest first."""
    sigma = np.linalg.svd(x - x.mean(0), compute_uv=False)
    return sigma**2 / (len(x) - 1)


def n_components(variances: Float[np.ndarray, "component"], share: float) -> int:
    """Smallest number of principal components with this share of the variance."""
    cumulative = np.cumsum(variances) / variances.sum()
    # Rounding may leave the last sum below 1.
    return int(np.searchsorted(cumulative, share * (1 - 1e-12))) + 1


def effective_rank(variances: Float[np.ndarray, "component"]) -> float:
    """Exponential of the entropy of the normalised variances (Roy & Vetterli 2007)."""
    p = variances[variances > 0] / variances.sum()
    return math.exp(-float((p * np.log(p)).sum()))


def silhouette(x: Activations, codes: Int[np.ndarray, "row"]) -> float:
    """Mean of (b - a) / max(a, b) over rows (Rousseeuw 1987), Euclidean; 0 for lone rows."""
    from scipy.spatial.distance import cdist

    counts = np.bincount(codes)
    member = np.eye(len(counts))[codes]
    # Distances of some rows at a time, at most 32 MB.
    size = max(1, _BLOCK // len(x))
    sums = np.concatenate([cdist(x[k : k + size], x) @ member for k in range(0, len(x), size)])
    own = codes[:, None] == np.arange(len(counts))
    # Among the others of its own group, each row is one of n - 1.
    inside = sums[own] / np.maximum(counts[codes] - 1, 1)
    outside = np.where(own, np.inf, sums / counts).min(1)
    larger = np.maximum(inside, outside)
    value = np.where(larger > 0, (outside - inside) / np.where(larger > 0, larger, 1.0), 0.0)
    return float(np.where(counts[codes] > 1, value, 0.0).mean())
