r"""Random and fractal networks with degrees that follow a power law."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint.fractals._network_degrees import draw_degrees, expected_degrees
from neuros_mechint.fractals._spectral_options import check_choice

__all__ = ["FractalNetworkModel"]

Method = Literal["configuration", "static", "shm"]
_DENSE_NODES = 4096
# Half the largest step between the exponents of two neighbouring numbers of offspring.
_TOLERANCE = 0.28
_LEAST_TRIED = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class FractalNetworkModel:
    r"""Simple undirected networks with $P(k) \propto k^{-\gamma}$.

    - `"configuration"`: degrees are drawn from the law, from `k_min` up to the structural cutoff
      $\sqrt{\langle k \rangle n}$ (beyond it hubs must avoid each other), their ends are paired at
      random, and loops and repeated edges are erased (Newman, 2001).
    - `"static"`: both ends of each edge are drawn with $p_i \propto i^{-1 / (\gamma - 1)}$ (Goh,
      2001), below the same cutoff. Degrees are Poisson around expectations of `k_min` and more:
      the power law is that of the tail.
    - `"shm"`: the fractal tree of Song, Havlin & Makse (2006). In each generation a node of degree
      k gets m k offspring, and each edge is moved from its two nodes to one offspring of each, so
      that hubs repel. $d_B = \ln(2m + 1) / \ln 3$ and $\gamma = 1 + \ln(2m + 1) / \ln m$, with the
      m >= 2 whose exponent is nearest to `gamma`. No randomness, and ends of degree 1 whatever
      `k_min`.

    Args:
        n_nodes: number of nodes; for `"shm"` one of $(2m + 1)^g + 1$.
        gamma: exponent of the degrees, above 2; below, the mean degree would not be finite.
        k_min: smallest degree (for `"static"` the smallest expected one), at least 1.
        method: as above.
        seed: the same network in every call; None draws a new one.

    Raises:
        ValueError: if an option is unknown or out of range.

    Examples:
        >>> network = FractalNetworkModel(n_nodes=1000, seed=0).generate()
        >>> network.shape, bool((network == network.T).all()), network.diagonal().sum().item()
        (torch.Size([1000, 1000]), True, 0.0)
        >>> round(FractalNetworkModel(n_nodes=3126, gamma=3.3, method="shm").box_dimension, 3)
        1.465

    References:
        Newman, Strogatz & Watts (2001). Random graphs with arbitrary degree distributions and
        their applications. Physical Review E 64. https://doi.org/10.1103/PhysRevE.64.026118
        Catanzaro, Boguna & Pastor-Satorras (2005). Generation of uncorrelated random scale-free
        networks. Physical Review E 71. https://doi.org/10.1103/PhysRevE.71.027103
        Goh, Kahng & Kim (2001). Universal behavior of load distribution in scale-free networks.
        Physical Review Letters 87. https://doi.org/10.1103/PhysRevLett.87.278701
        Song, Havlin & Makse (2006). Origins of fractality in the growth of complex networks.
        Nature Physics 2. https://doi.org/10.1038/nphys266
    """

    n_nodes: int
    gamma: float = 2.5
    k_min: int = 2
    method: Method = "configuration"
    seed: int | None = None

    def __post_init__(self) -> None:
        check_choice("method", self.method, Method)
        if not 2 < self.gamma < math.inf:
            raise ValueError(
                f"gamma must be above 2, where the mean degree is finite, got {self.gamma}"
            )
        if self.k_min < 1:
            raise ValueError(f"k_min must be at least 1, got {self.k_min}")
        if self.method == "shm":
            self._check_generations()
        elif self.n_nodes <= 2 * self.k_min:
            raise ValueError(
                f"n_nodes must be above 2 * k_min = {2 * self.k_min}, got {self.n_nodes}"
            )

    def _check_generations(self) -> None:
        if self.gamma > _exponent(2) + _TOLERANCE:
            raise ValueError(
                f"method 'shm' makes exponents up to {_exponent(2):.2f}, got gamma = {self.gamma}"
            )
        growth = 2 * self.offspring + 1
        if self.n_nodes < 2 or growth ** self._generations() + 1 != self.n_nodes:
            below = max(self._generations(), 0)
            raise ValueError(
                f"method 'shm' with gamma = {self.gamma} makes {growth} ** g + 1 nodes, got "
                f"n_nodes = {self.n_nodes}; the nearest are {growth**below + 1} and "
                f"{growth ** (below + 1) + 1}"
            )

    @property
    def offspring(self) -> int:
        """Offspring per degree in a generation of `"shm"`, m.

        Examples:
            >>> FractalNetworkModel(n_nodes=12, gamma=2.5, method="shm").offspring
            5
        """
        # The exponent falls with m, down to 2.
        m = 2
        most = max(self.n_nodes, _LEAST_TRIED)
        while m < most and _distance(m + 1, self.gamma) < _distance(m, self.gamma):
            m += 1
        return m

    @property
    def degree_exponent(self) -> float:
        r"""Exponent of the degrees that the method makes.

        For `"shm"` that of the nearest m, for the others `gamma`.

        Examples:
            >>> round(FractalNetworkModel(n_nodes=12, gamma=2.5, method="shm").degree_exponent, 2)
            2.49
        """
        return _exponent(self.offspring) if self.method == "shm" else self.gamma

    @property
    def box_dimension(self) -> float:
        r"""Box dimension of ever larger networks: $\ln(2m + 1) / \ln 3$ for `"shm"`.

        The others are small worlds, in which boxes become fewer exponentially: infinite.

        Examples:
            >>> FractalNetworkModel(n_nodes=100).box_dimension
            inf
        """
        if self.method != "shm":
            return math.inf
        return math.log(2 * self.offspring + 1) / math.log(3)

    def generate(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Make a network.

        Args:
            generator: source of randomness, on the CPU, instead of `seed`; its state moves on.

        Returns:
            `(node, node)` zeros and ones in the default dtype, symmetric, with a zero diagonal:
            dense up to 4096 nodes, a coalesced sparse tensor beyond.

        Raises:
            ValueError: if both `seed` and `generator` are given, or a generator for `"shm"`,
                which draws nothing.

        Examples:
            >>> model = FractalNetworkModel(n_nodes=5000)
            >>> model.generate(generator=torch.Generator().manual_seed(0)).is_sparse
            True
        """
        if generator is not None and (self.seed is not None or self.method == "shm"):
            raise ValueError(
                "generator is one source of randomness too many beside a seed, or for 'shm', "
                "which draws nothing; pass only one"
            )
        if self.method == "shm":
            ends = _grow(self.offspring, self._generations())
        else:
            ends = self._draw(_numpy_generator(self.seed, generator))
        return _adjacency(ends, self.n_nodes)

    def _generations(self) -> int:
        """Whole generations that fit into n_nodes."""
        growth, g = 2 * self.offspring + 1, -1
        while growth ** (g + 1) < self.n_nodes:
            g += 1
        return g

    def _draw(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Pairs of ends, with loops and repetitions."""
        n = self.n_nodes
        if self.method == "configuration":
            degrees = draw_degrees(n, self.gamma, self.k_min, rng)
            stubs = np.repeat(np.arange(n), degrees)
            rng.shuffle(stubs)
            return stubs.reshape(-1, 2)
        expected = expected_degrees(n, self.gamma, self.k_min)
        cumulative = expected.cumsum()
        n_edges = rng.poisson(cumulative[-1] / 2)
        places = rng.random((n_edges, 2)) * cumulative[-1]
        ends: NDArray[np.int64] = np.searchsorted(cumulative, places, side="right")
        return ends.clip(max=n - 1)


def _exponent(m: int) -> float:
    return 1 + math.log(2 * m + 1) / math.log(m)


def _distance(m: int, gamma: float) -> float:
    return abs(_exponent(m) - gamma)


def _numpy_generator(seed: int | None, generator: torch.Generator | None) -> np.random.Generator:
    if generator is None:
        return np.random.default_rng(seed)
    return np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))


def _grow(m: int, generations: int) -> NDArray[np.int64]:
    """Edges of the fractal tree (Song et al., 2006, with e = 0: hubs repel at every edge)."""
    edges = np.array([[0, 1]])
    for _ in range(generations):
        ends = edges.reshape(-1)
        degree = np.bincount(ends)
        n = len(degree)
        parents = np.repeat(np.arange(n), m * degree)
        leaves = np.stack([parents, n + np.arange(len(parents))], 1)
        # The k-th edge of a node moves to its k-th offspring.
        first = np.cumsum(degree) - degree
        by_node = np.argsort(ends, kind="stable")
        place = np.empty_like(ends)
        place[by_node] = np.arange(len(ends)) - first[ends[by_node]]
        moved = n + m * first[ends] + place
        edges = np.concatenate([leaves, moved.reshape(-1, 2)])
    return edges


def _adjacency(ends: NDArray[np.int64], n: int) -> Tensor:
    low, high = ends.min(1), ends.max(1)
    # One number per edge sorts faster than pairs.
    edges = np.unique((low * n + high)[low != high])
    row, column = np.divmod(edges, n)
    if n <= _DENSE_NODES:
        dense = torch.zeros(n, n)
        i, j = torch.from_numpy(row), torch.from_numpy(column)
        dense[i, j] = dense[j, i] = 1.0
        return dense
    both = np.sort(np.concatenate([edges, column * n + row]))
    indices = torch.from_numpy(np.stack(np.divmod(both, n)))
    # Sorted pairs without repetition are what a coalesced tensor holds.
    return torch.sparse_coo_tensor(
        indices, torch.ones(len(both)), (n, n), is_coalesced=True, check_invariants=True
    )
