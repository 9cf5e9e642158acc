r"""Simplex problems in Gram form, factorised once: $G = A^T A$ by eigenvalues, never inverted.

Rounding hides eigenvalues below $10^{-16}$ of the largest, and the linear term may lie outside
the range of $G$. Proximal point steps (Rockafellar 1976, doi:10.1137/0314056) add $\rho I$, which
makes every step a least-squares problem; the smallest $\rho$ that keeps it well scaled is taken,
so that one or two steps settle all but contrived problems.
"""

import numpy as np
from numpy.typing import NDArray

from neuros_sourceweigher._active_set import refine
from neuros_sourceweigher._projection import project_array
from neuros_sourceweigher._solution import NOISE, Minimum, settle

__all__: list[str] = []

Array = NDArray[np.float64]

_PROXIMAL_STEPS = 200
# Relative slack at which the steps end: a tenth of the default tolerance of the certificate.
_SETTLED = 1e-13


def minimise_gram(G: Array, b: Array, prior: Array, max_iter: int | None) -> Minimum:
    r"""Minimise $\frac12 w^T G w - b^T w$ over the simplex; among equals nearest to `prior`."""
    K = len(b)
    scale = float(max(np.abs(G).max(), np.abs(b).max())) or 1.0
    values, vectors = _factor(G)
    along = vectors.T @ b
    ones = vectors.sum(axis=0)
    rho, shift = _proximal_weight(values, along, ones, scale)
    root = np.sqrt(values + rho)
    wide = (vectors * root).T
    w = np.asarray(project_array(prior, 1.0, None))
    steps = 0
    while steps < _PROXIMAL_STEPS:
        steps += 1
        # On the simplex a constant may be added to b.
        c = (along + shift * ones + rho * (vectors.T @ w)) / root
        B = wide - c[:, None]
        unit = np.sqrt(np.square(B).sum(axis=0).max())
        found = refine(B / unit, w, NOISE, 100 + 10 * K if max_iter is None else max_iter)
        w = found.weights
        gradient = G @ w - b
        slack = (gradient - gradient @ w) / scale
        if slack.min() >= -_SETTLED:
            break
    # What all optima share, as far as the digits of G tell.
    kept = values > K * np.finfo(np.float64).eps * values.max(initial=0.0)
    shared = np.vstack([(vectors[:, kept] * np.sqrt(values[kept])).T, b / np.sqrt(scale)])
    found = found._replace(slack=slack, independent=bool(kept.all()))
    w, unique = settle(found, shared, prior)
    return Minimum(w, unique, steps, "proximal")


def _factor(G: Array) -> tuple[Array, Array]:
    """Eigenvalues (K,), clipped at zero, and eigenvectors (K, K); indefinite `G` is refused."""
    values, vectors = np.linalg.eigh(G)
    if values[0] < -1e-8 * max(float(values[-1]), 0.0):
        raise ValueError(
            "G needs a positive semidefinite matrix, got eigenvalues from "
            f"{values[0]:.6g} to {values[-1]:.6g} in units of its largest entry"
        )
    return np.maximum(values, 0.0), vectors


def _proximal_weight(values: Array, along: Array, ones: Array, scale: float) -> tuple[float, float]:
    """Smallest weight of the proximal term, and a shift of b, that keep the targets small.

    The target has the component b_i / sqrt(value_i + rho) along each eigenvector; beyond the
    size of the columns it would cost the digits that the columns need.
    """
    for decade in range(-14, 1):
        rho = 10.0**decade * scale
        flat = values < rho
        size = float(np.square(ones[flat]).sum())
        # Where the ones reach the flat directions, the shift that leaves least of b there.
        shift = -float(ones[flat] @ along[flat]) / size if size > 1e-9 * len(ones) else 0.0
        target = np.square(along + shift * ones) / (values + rho)
        if float(target[flat].sum()) <= 10.0 * scale:
            break
    return rho, shift
