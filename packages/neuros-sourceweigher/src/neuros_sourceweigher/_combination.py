"""One prediction from the predictors of several sources."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuros_core.errors import check_finite, check_probability_vector

__all__: list[str] = []

Array = NDArray[np.float64]


def distribution_weighted_combination(
    probs: ArrayLike, densities: ArrayLike, w: ArrayLike
) -> Array:
    r"""Combine predictors by how likely each source is at the point.

    $h(x) = \sum_k \frac{w_k D_k(x)}{\sum_j w_j D_j(x)} h_k(x)$; unlike a fixed mixture of the
    predictors it has a bounded risk for every mixture of the sources.

    Args:
        probs: (..., K, C) predictions $h_k(x)$ of the K predictors, such as class probabilities.
        densities: (..., K) $D_k(x) \ge 0$, up to a factor per point.
        w: (K,) weights of the sources on the simplex.

    Returns:
        (..., C) predictions; probabilities stay probabilities.

    Raises:
        ValueError: For unfit shapes, negative or infinite densities, weights off the simplex, or a
            point at which every weighted density is zero.

    Examples:
        >>> probs = [[[1.0, 0.0], [0.0, 1.0]]]
        >>> distribution_weighted_combination(probs, [[3.0, 1.0]], [0.5, 0.5])
        array([[0.75, 0.25]])

    References:
        Mansour, Mohri & Rostamizadeh 2008, Domain Adaptation with Multiple Sources, NeurIPS 21.
    """
    h, D = np.asarray(probs, dtype=np.float64), np.asarray(densities, dtype=np.float64)
    weights = np.asarray(w, dtype=np.float64)
    if h.ndim < 2 or D.shape != h.shape[:-1] or weights.shape != D.shape[-1:]:
        raise ValueError(
            "probs needs shape (..., K, C), densities (..., K) and w (K,), got "
            f"{h.shape}, {D.shape} and {weights.shape}"
        )
    check_finite("probs", h)
    check_finite("densities", D)
    check_probability_vector("w", weights)
    if (D < 0).any():
        raise ValueError(f"densities needs values >= 0, got {float(D.min())}")
    # Densities of many features underflow together; only their ratios matter.
    top = D.max(axis=-1, keepdims=True)
    shares = weights * (D / np.where(top > 0, top, 1.0))
    total = shares.sum(axis=-1, keepdims=True)
    if not (total > 0).all():
        first = tuple(int(i) for i in np.argwhere(total[..., 0] <= 0)[0])
        raise ValueError(
            f"densities needs a source of positive weight above 0 at every point, got none at "
            f"index {first}; add a floor to the densities"
        )
    return np.asarray(((shares / total)[..., None] * h).sum(axis=-2))
