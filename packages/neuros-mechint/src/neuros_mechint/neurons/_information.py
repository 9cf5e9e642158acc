"""Mutual information from nearest neighbours, in nats."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

__all__ = [
    "adjusted_p_values",
    "continuous_information",
    "discrete_information",
    "permutation_p_values",
    "prepared",
]

# What scikit-learn adds; ties have no nearest neighbour, and this breaks them.
_JITTER = 1e-10


def prepared(
    x: Float[np.ndarray, "row *unit"], rng: np.random.Generator
) -> Float[np.ndarray, "row *unit"]:
    """Divide by the standard deviation and break ties by noise of 1e-10 of the mean magnitude."""
    std = x.std(0)
    scaled = x / np.where(std > 0, std, 1.0)
    size = _JITTER * np.maximum(1.0, np.abs(scaled).mean(0))
    return np.asarray(scaled + size * rng.standard_normal(x.shape))


def continuous_information(
    x: Float[np.ndarray, "row unit"], y: Float[np.ndarray, "row"], n_neighbors: int = 3
) -> Float[np.ndarray, "unit"]:
    r"""Information between each column and y (Kraskov 2004, eq. 8).

    $$I = \psi(k) + \psi(N) - \langle \psi(n_x + 1) + \psi(n_y + 1) \rangle$$

    n_x counts the points whose distance in x is below that of the k-th neighbour in the plane.
    """
    from scipy.spatial import cKDTree

    n = len(y)
    psi = _digammas(n)
    order_y = np.argsort(y, kind="stable")
    found = np.empty(x.shape[1])
    for unit, column in enumerate(x.T):
        plane = np.column_stack([column, y])
        distances = np.asarray(cKDTree(plane).query(plane, [n_neighbors + 1], p=np.inf)[0])
        radius = distances[:, 0]
        # The neighbour at the radius itself does not count; among equal points those do.
        radius = np.nextafter(radius, 0.0)
        n_x = _count_within(column, np.argsort(column, kind="stable"), radius)
        n_y = _count_within(y, order_y, radius)
        found[unit] = psi[n_neighbors] + psi[n] - (psi[n_x] + psi[n_y]).mean()
    return np.maximum(found, 0.0)


def discrete_information(
    x: Float[np.ndarray, "row unit"], y: Int[np.ndarray, "row"], n_neighbors: int = 3
) -> Float[np.ndarray, "unit"]:
    r"""Information between each column and the classes y (Ross 2014).

    $$I = \psi(N) - \langle \psi(N_c) \rangle + \langle \psi(k) \rangle - \langle \psi(m) \rangle$$

    m counts the points of any class within the distance of the k-th neighbour of the own class.
    Classes with one member are left out.
    """
    sizes = np.bincount(y)[y]
    x, y, sizes = x[sizes > 1], y[sizes > 1], sizes[sizes > 1]
    n = len(y)
    psi = _digammas(n)
    k = np.minimum(n_neighbors, sizes - 1)
    constant = psi[n] + (psi[k] - psi[sizes]).mean() if n else 0.0
    found = np.zeros(x.shape[1])
    for unit, column in enumerate(x.T if n else []):
        radius = np.empty(n)
        for label in np.unique(y):
            members = np.flatnonzero(y == label)
            radius[members] = _nth_distance(column[members], int(k[members[0]]))
        radius = np.nextafter(radius, 0.0)
        m = _count_within(column, np.argsort(column, kind="stable"), radius)
        found[unit] = constant - psi[m].mean()
    return np.maximum(found, 0.0)


def permutation_p_values(
    estimate: Callable[[NDArray[np.generic]], Float[np.ndarray, "unit"]],
    y: NDArray[np.generic],
    observed: Float[np.ndarray, "unit"],
    n_permutations: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "unit"]:
    """Share of shuffles of y that give each unit as much, the data itself counted among them."""
    count = np.ones_like(observed)
    for _ in range(n_permutations):
        count += estimate(y[rng.permutation(len(y))]) >= observed
    return count / (n_permutations + 1)


def adjusted_p_values(p: Float[np.ndarray, "unit"]) -> Float[np.ndarray, "unit"]:
    """False discovery rates of Benjamini & Hochberg (1995)."""
    order = np.argsort(p)[::-1]
    n = len(p)
    adjusted = np.empty(n)
    adjusted[order] = np.minimum.accumulate(p[order] * n / np.arange(n, 0, -1))
    return adjusted


def _digammas(n: int) -> NDArray[np.float64]:
    """Digamma of 0 to n: counts are looked up instead of computed."""
    from scipy.special import digamma

    return np.asarray(digamma(np.arange(n + 1, dtype=np.float64)))


def _count_within(
    values: Float[np.ndarray, "row"],
    order: Int[np.ndarray, "row"],
    radius: Float[np.ndarray, "row"],
) -> Int[np.ndarray, "row"]:
    """Points with a distance of at most the radius, the point itself included."""
    ranked, x, r = values[order], values[order], radius[order]
    last = len(ranked) - 1
    # x + r rounds, and may let in or leave out the points at the edge: their differences decide.
    high = np.searchsorted(ranked, x + r, side="right")
    low = np.searchsorted(ranked, x - r, side="left")
    while (out := ranked[high - 1] - x > r).any():
        high -= out
    while (more := (high <= last) & (ranked[np.minimum(high, last)] - x <= r)).any():
        high += more
    while (out := x - ranked[low] > r).any():
        low += out
    while (more := (low > 0) & (x - ranked[np.maximum(low - 1, 0)] <= r)).any():
        low -= more
    counts = np.empty(len(values), dtype=np.int64)
    counts[order] = high - low
    return counts


def _nth_distance(values: Float[np.ndarray, "row"], k: int) -> Float[np.ndarray, "row"]:
    """Distance to the k-th nearest other value: the best of the k + 1 windows around each."""
    order = np.argsort(values, kind="stable")
    padded = np.concatenate([np.full(k, -np.inf), values[order], np.full(k, np.inf)])
    n = len(values)
    x = padded[k : k + n]
    windows = [
        np.maximum(x - padded[j : j + n], padded[j + k : j + k + n] - x) for j in range(k + 1)
    ]
    distance = np.empty(n)
    distance[order] = np.min(windows, axis=0)
    return distance
