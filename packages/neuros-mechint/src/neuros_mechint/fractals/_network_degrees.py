r"""Degrees that follow a power law up to the structural cutoff."""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_degrees", "expected_degrees", "structural_cutoff"]


def structural_cutoff(n: int, gamma: float, k_min: int) -> int:
    r"""Return $\sqrt{\langle k \rangle n}$, where the mean is that below the cutoff.

    Between two nodes of larger degrees more than one edge is expected (Boguna et al., 2004).

    Args:
        n: number of nodes.
        gamma: exponent.
        k_min: smallest degree.

    Returns:
        The largest degree, at least `k_min` and below `n`.

    Examples:
        >>> structural_cutoff(10_000, 3.0, 2)
        177

    References:
        Boguna, Pastor-Satorras & Vespignani (2004). Cut-offs and finite size effects in scale-free
        networks. European Physical Journal B 38. https://doi.org/10.1140/epjb/e2004-00038-8
    """
    k = np.arange(k_min, max(n, k_min + 1), dtype=np.float64)
    law = k**-gamma
    mean = np.cumsum(k * law) / np.cumsum(law)
    # The mean grows more slowly than its square root allows: the first crossing is the only one.
    return int(k[np.flatnonzero(k <= np.sqrt(mean * n))[-1]])


def draw_degrees(n: int, gamma: float, k_min: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw degrees of even sum.

    Args:
        n: number of nodes.
        gamma: exponent.
        k_min: smallest degree.
        rng: source of randomness.

    Returns:
        `(node,)`.

    Examples:
        >>> degrees = draw_degrees(100, 2.5, 2, np.random.default_rng(0))
        >>> int(degrees.min()), int(degrees.sum() % 2)
        (2, 0)
    """
    k = np.arange(k_min, structural_cutoff(n, gamma, k_min) + 1)
    cumulative = np.cumsum(k.astype(np.float64) ** -gamma)
    places = rng.random(n) * cumulative[-1]
    degrees: NDArray[np.int64] = k[
        np.searchsorted(cumulative, places, side="right").clip(max=len(k) - 1)
    ]
    # Every edge has two ends.
    degrees[rng.integers(n)] += degrees.sum() % 2
    return degrees


def expected_degrees(n: int, gamma: float, k_min: int) -> NDArray[np.float64]:
    """Return the falling degrees that the i-th node of n expects, i^(-1 / (gamma - 1)) in shape.

    Args:
        n: number of nodes.
        gamma: exponent.
        k_min: smallest expectation.

    Returns:
        `(node,)`.

    Examples:
        >>> expected_degrees(4, 3.0, 1).round(3).tolist()
        [2.0, 1.414, 1.155, 1.0]
    """
    rank = np.arange(1, n + 1, dtype=np.float64)
    degrees = k_min * (rank / n) ** (-1 / (gamma - 1))
    return np.minimum(degrees, math.sqrt(degrees.mean() * n))
