r"""Features $x$ and $x_i x_j$: their mean from mean and covariance, their covariance if normal."""

import functools

import numpy as np
from numpy.typing import NDArray

__all__: list[str] = []

Array = NDArray[np.float64]

# A covariance of all products has (d (d + 3) / 2)^2 entries: 562 MB for d = 128.
MAX_DIM = 128


@functools.lru_cache(maxsize=8)
def pairs(d: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
    r"""Indices i <= j of the products, and their factors: $\sqrt 2$ off the diagonal."""
    i, j = np.triu_indices(d)
    return i, j, np.where(i == j, 1.0, np.sqrt(2.0))


def quadratic_mean(mean: Array, cov: Array) -> Array:
    r"""Mean of $(x, x_i x_j)$: the mean and the raw second moments $\Sigma + m m^T$, (p,)."""
    i, j, factor = pairs(len(mean))
    second = cov + np.outer(mean, mean)
    return np.concatenate([mean, factor * second[i, j]])


def quadratic_cov(mean: Array, cov: Array) -> Array:
    r"""Covariance of $(x, x_i x_j)$ for normal $x$, (p, p) (Isserlis 1918).

    With $T = \Sigma + m m^T$: $\mathrm{Cov}(x_i x_j, x_k x_l) = T_{ik} T_{jl} + T_{il} T_{jk}
    - 2 m_i m_j m_k m_l$ and $\mathrm{Cov}(x_a, x_i x_j) = \Sigma_{ai} m_j + \Sigma_{aj} m_i$.
    """
    d = len(mean)
    i, j, factor = pairs(d)
    second = cov + np.outer(mean, mean)
    product = factor * mean[i] * mean[j]
    out = np.empty((d + len(i), d + len(i)))
    out[:d, :d] = cov
    out[:d, d:] = factor * (cov[:, i] * mean[j] + cov[:, j] * mean[i])
    out[d:, :d] = out[:d, d:].T
    block = out[d:, d:]
    block[...] = second[np.ix_(i, i)]
    block *= second[np.ix_(j, j)]
    cross = second[np.ix_(i, j)]
    block += cross * cross.T
    block *= factor[:, None] * factor
    block -= 2.0 * np.outer(product, product)
    return out
