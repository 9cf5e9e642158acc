"""The energy landscape that states of a system were drawn from."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint._arrays import Array, Number, as_real, one_of
from neuros_mechint.dynamics._energy_density import grid_energy, grid_neighbours, likely_bandwidth
from neuros_mechint.dynamics._energy_ising import all_states, fit_exact, fit_pseudo, ising_energy
from neuros_mechint.dynamics._energy_tree import Merge, barriers, descended, flooded

__all__ = ["DensityLandscape", "EnergyLandscape", "IsingLandscape"]

# Units for which every pattern is visited: 2^15 of them.
_EXACT = 15


@dataclass(frozen=True)
class DensityLandscape:
    r"""Energy $-\ln p$ on a grid of principal components.

    Attributes:
        axes: Coordinates of the grid along every component, (components, points).
        energy: Energy on the grid, one axis per component; inf where no sample reaches.
        mean: Mean of the samples, (features,).
        components: Principal directions, (components, features).
        minima: Positions of the minima in the space of the samples, (minima, features), deepest
            first.
        minima_energy: Their energies, (minima,).
        passes: Height of the lowest pass between two minima, (minima, minima); -inf on the
            diagonal.
        tree: Disconnectivity tree: the merges of basins, lowest first.
        basins: Minimum that every sample descends to, (samples,).
    """

    axes: Tensor
    energy: Tensor
    mean: Tensor
    components: Tensor
    minima: Tensor
    minima_energy: Tensor
    passes: Tensor
    tree: tuple[Merge, ...]
    basins: Tensor

    @property
    def barriers(self) -> Tensor:
        """Climb from a minimum (row) to reach another (column), (minima, minima)."""
        climb = self.passes - self.minima_energy.unsqueeze(1)
        return climb.masked_fill(torch.eye(len(climb), dtype=torch.bool), 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a report."""
        return {
            "minima": self.minima.tolist(),
            "minima_energy": self.minima_energy.tolist(),
            "barriers": self.barriers.tolist(),
            "tree": [merge._asdict() for merge in self.tree],
        }


@dataclass(frozen=True)
class IsingLandscape:
    """Pairwise model $-h s - s J s / 2$ of units that are -1 or 1.

    Attributes:
        fields: $h$, (units,).
        couplings: $J$, (units, units), symmetric with zero diagonal.
        minima: Patterns lower than all that differ in one unit, (minima, units), deepest first.
            Above 15 units: those that the samples descend to.
        minima_energy: Their energies, (minima,).
        tree: Disconnectivity tree of single flips; None above 15 units.
        basins: Minimum that every sample descends to, (samples,).
    """

    fields: Tensor
    couplings: Tensor
    minima: Tensor
    minima_energy: Tensor
    tree: tuple[Merge, ...] | None
    basins: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a report."""
        tree = None if self.tree is None else [merge._asdict() for merge in self.tree]
        return {
            "fields": self.fields.tolist(),
            "couplings": self.couplings.tolist(),
            "minima": self.minima.tolist(),
            "minima_energy": self.minima_energy.tolist(),
            "tree": tree,
        }


class EnergyLandscape:
    r"""Minima, barriers and basins of the landscape behind a set of states.

    `"density"`: $U = -\ln p$ with a kernel density of the leading principal components. The
    bandwidth is the one of largest leave-one-out likelihood. Smoothing lowers barriers: the more
    samples, the less.

    `"ising"`: pairwise maximum entropy model of binary units; exact likelihood up to 15 units,
    pseudo-likelihood above.

    Args:
        method: `"density"` or `"ising"`.
        n_components: Components of `"density"`, 1 or 2.
        n_grid: Grid points along each of them.
        min_barrier: Basins of `"density"` whose pass is lower than this are one, in units of kT.
        min_share: Minima of `"density"` with a smaller share of the samples below their pass are
            left out.
        ridge: Quadratic penalty of `"ising"`.

    Examples:
        >>> x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
        >>> wells = torch.cat([0.3 * x - 1, 0.3 * x + 1])
        >>> [round(float(m), 0) for m in EnergyLandscape().compute(wells).minima.sort(0).values]
        [-1.0, 1.0]

    References:
        Schneidman, Berry, Segev & Bialek (2006). Weak pairwise correlations imply strongly
        correlated network states in a neural population. Nature 440. doi:10.1038/nature04701

        Becker & Karplus (1997). The topology of multidimensional potential energy surfaces. Journal
        of Chemical Physics 106, 1495. doi:10.1063/1.473299

        Besag (1975). Statistical analysis of non-lattice data. The Statistician 24, 179.
        doi:10.2307/2987782
    """

    def __init__(
        self,
        *,
        method: Literal["density", "ising"] = "density",
        n_components: int = 1,
        n_grid: int = 200,
        min_barrier: Number = 0.5,
        min_share: Number = 0.02,
        ridge: Number = 1e-6,
    ) -> None:
        one_of("method", method, get_args(Literal["density", "ising"]))
        if n_components not in {1, 2}:
            raise ValueError(f"n_components must be 1 or 2, got {n_components}")
        if n_grid < 10:
            raise ValueError(f"n_grid must be at least 10, got {n_grid}")
        if min(min_barrier, min_share, ridge) < 0:
            raise ValueError(
                "min_barrier, min_share and ridge must not be negative, got "
                f"{min_barrier}, {min_share} and {ridge}"
            )
        self.method = method
        self.n_components = n_components
        self.n_grid = n_grid
        self.min_barrier = min_barrier
        self.min_share = min_share
        self.ridge = ridge

    def __repr__(self) -> str:
        return (
            f"EnergyLandscape(method={self.method!r}, n_components={self.n_components}, "
            f"n_grid={self.n_grid}, min_barrier={self.min_barrier}, min_share={self.min_share}, "
            f"ridge={self.ridge})"
        )

    def compute(self, x: Array) -> DensityLandscape | IsingLandscape:
        """The landscape of one set of states.

        Args:
            x: States, (samples, features); for `"ising"` -1 and 1, or 0 and 1.

        Returns:
            A `DensityLandscape` or an `IsingLandscape`.

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When x has another number of axes, does not vary, or is not binary.
        """
        data = as_real("x", x, at_least=(10, 1)).detach().cpu().double()
        if data.ndim != 2:
            raise ValueError(f"x must be (samples, features), got shape {tuple(data.shape)}")
        if self.method == "ising":
            return self._ising(_binary(data))
        if data.shape[1] < self.n_components:
            raise ValueError(
                f"x has {data.shape[1]} features for n_components={self.n_components}; lower it"
            )
        return self._density(data)

    def _density(self, data: Tensor) -> DensityLandscape:
        mean = data.mean(0)
        _, values, right = torch.linalg.svd(data - mean, full_matrices=False)
        limit = 1e-12 * float(data.abs().max()) * len(data) ** 0.5
        if float(values[self.n_components - 1]) <= limit:
            raise ValueError(
                f"x varies along fewer than n_components={self.n_components} directions"
            )
        components = right[: self.n_components]
        scores = ((data - mean) @ components.T).numpy()
        bandwidth = likely_bandwidth(scores, np.random.default_rng(0))
        axes, energy = grid_energy(scores, bandwidth, self.n_grid)
        around, flat = grid_neighbours(energy.shape), energy.ravel()
        cells = [np.abs(a[:, None] - s).argmin(0) for a, s in zip(axes, scores.T, strict=True)]
        start = np.ravel_multi_index(tuple(cells), energy.shape)
        weight = np.bincount(start, minlength=flat.size).astype(np.float64)
        least = float(self.min_share) * len(data)
        flood = flooded(
            flat, lambda node: around[node].tolist(), float(self.min_barrier), weight, least
        )
        label = _nearest_minimum(flood.minima, energy.shape, descended(flat, around)[start])
        places = np.stack(np.unravel_index(flood.minima, energy.shape), 1)
        position = np.stack([a[p] for a, p in zip(axes, places.T, strict=True)], 1)
        return DensityLandscape(
            torch.as_tensor(np.stack(axes)),
            torch.as_tensor(energy),
            mean,
            components,
            mean + torch.as_tensor(position) @ components,
            torch.as_tensor(flat[flood.minima]),
            torch.as_tensor(barriers(flood)),
            flood.merges,
            torch.as_tensor(label),
        )

    def _ising(self, states: Tensor) -> IsingLandscape:
        s = states.numpy().astype(np.int64)
        n = s.shape[1]
        exact = n <= _EXACT
        fields, couplings = (fit_exact if exact else fit_pseudo)(s, float(self.ridge))
        if not exact:
            ends = _flipped(s, fields, couplings)
            patterns, codes = np.unique(ends, axis=0, return_inverse=True)
            energy = ising_energy(patterns, fields, couplings)
            order = np.argsort(energy, kind="stable")
            rank = np.empty_like(order)
            rank[order] = np.arange(len(order))
            return _ising_result(
                fields,
                couplings,
                patterns[order],
                energy[order],
                tree=None,
                basins=rank[codes.ravel()],
            )
        patterns = all_states(n)
        energy = ising_energy(patterns, fields, couplings)
        bits = 1 << np.arange(n)
        around = np.arange(2**n)[:, None] ^ bits
        flood = flooded(energy, lambda node: around[node].tolist(), 0.0, np.ones(2**n), 0.0)
        ends = descended(energy, around)[((s > 0) * bits).sum(1)]
        number = {int(low): k for k, low in enumerate(flood.minima)}
        label = np.array([number[int(end)] for end in ends])
        return _ising_result(
            fields,
            couplings,
            patterns[flood.minima],
            energy[flood.minima],
            tree=flood.merges,
            basins=label,
        )


def _binary(data: Tensor) -> Tensor:
    found = set(data.flatten().tolist()) if data.numel() else set()
    if not (found <= {-1.0, 1.0} or found <= {0.0, 1.0}):
        raise ValueError(
            "x must hold -1 and 1, or 0 and 1, for method='ising'; binarise it, for example "
            "x > x.median(0).values"
        )
    states = torch.where(data > 0, 1.0, -1.0)
    fixed = ((states == states[0]).all(0)).nonzero()[:, 0].tolist()
    if fixed:
        raise ValueError(f"x has units {fixed} that never change; leave them out")
    return states


def _nearest_minimum(
    minima: NDArray[np.int64], shape: tuple[int, ...], ends: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Minimum of every end of a descent; an end in a pool that was joined goes to the nearest."""
    place = np.stack(np.unravel_index(minima, shape), 1)
    end = np.stack(np.unravel_index(ends, shape), 1)
    gap = ((end[:, None] - place) ** 2).sum(-1)
    return np.asarray(gap.argmin(1), dtype=np.int64)


def _flipped(
    states: NDArray[np.int64], fields: NDArray[np.float64], couplings: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Steepest descent by single flips, all samples at once."""
    s = states.copy()
    while True:
        gain = s * (fields + s @ couplings)
        worst = gain.argmin(1)
        moving = np.flatnonzero(gain[np.arange(len(s)), worst] < 0)
        if not len(moving):
            return s
        s[moving, worst[moving]] *= -1


def _ising_result(
    fields: NDArray[np.float64],
    couplings: NDArray[np.float64],
    minima: NDArray[np.int64],
    energy: NDArray[np.float64],
    *,
    tree: tuple[Merge, ...] | None,
    basins: NDArray[np.int64],
) -> IsingLandscape:
    arrays = (fields, couplings, minima, energy)
    h, j, low, depth = (torch.as_tensor(a) for a in arrays)
    return IsingLandscape(h, j, low, depth, tree, torch.as_tensor(basins))
