"""Branching trees whose ends fill a set of chosen dimension."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["DendriteGrowthSimulator", "DendriteTree"]

# At right angles two halves touch first at the dimension of the plane (the H tree); at any other
# angle they overlap, and the set thins out, at a lower one.
_TURN = math.pi / 2
# Standard deviation, in radians, of the turns and of the segments about their branch.
_WOBBLE = 0.1
_MOST_ITERATIONS = 22
_SOMA, _DENDRITE = 1, 3


@dataclass(frozen=True, slots=True, eq=False)
class DendriteTree:
    """A tree of points in space, node 0 its root.

    Args:
        positions: `(N, ndim)`; the root at the origin.
        parents: `(N,)`: the node that each grew from, always an earlier one; -1 for the root.

    Examples:
        >>> tree = DendriteTree(torch.tensor([[0.0, 0], [0, 1], [1, 1]]), torch.tensor([-1, 0, 1]))
        >>> tree.connectivity.to_dense().int().tolist()
        [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    """

    positions: Tensor
    parents: Tensor

    @property
    def connectivity(self) -> Tensor:
        """Sparse `(N, N)`: one at (parent, child)."""
        n = len(self.parents)
        children = torch.arange(1, n, device=self.parents.device)
        edges = torch.stack([self.parents[1:], children])
        ones = torch.ones(n - 1, dtype=self.positions.dtype, device=self.positions.device)
        # Coalesced: its entries can be read at once, sorted by parent.
        return torch.sparse_coo_tensor(edges, ones, (n, n), check_invariants=True).coalesce()

    def to_networkx(self) -> "nx.DiGraph[Any]":
        """Return a directed graph, parent to child.

        Returns:
            Nodes 0..N-1 with `position`, edges with `length`.

        Examples:
            >>> tree = DendriteTree(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([-1, 0]))
            >>> tree.to_networkx().edges[0, 1]["length"]
            5.0
        """
        import networkx as nx

        graph: nx.DiGraph[Any] = nx.DiGraph()
        places = self.positions.tolist()
        graph.add_nodes_from((i, {"position": tuple(place)}) for i, place in enumerate(places))
        lengths = (self.positions[1:] - self.positions[self.parents[1:]]).norm(dim=-1)
        graph.add_edges_from(
            (parent, child, {"length": length})
            for child, (parent, length) in enumerate(
                zip(self.parents[1:].tolist(), lengths.tolist(), strict=True), start=1
            )
        )
        return graph

    def to_swc(self, *, radius: float = 0.5) -> str:
        """Write the tree in the SWC format of neuron morphologies.

        Args:
            radius: of every node, in the unit of the positions.

        Returns:
            One line per node: number from 1, type (1 the root, 3 a dendrite), x, y, z, radius,
            parent (-1 for the root). Missing coordinates are 0.

        Raises:
            ValueError: if the positions have more than 3 coordinates or the radius is not
                positive.

        Examples:
            >>> tree = DendriteTree(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([-1, 0]))
            >>> print(tree.to_swc(radius=1.0), end="")
            # id type x y z radius parent
            1 1 0 0 0 1 -1
            2 3 3 4 0 1 1

        References:
            Cannon, Turner, Pyapali & Wheal (1998). An on-line archive of reconstructed hippocampal
            neurons. Journal of Neuroscience Methods 84.
            https://doi.org/10.1016/S0165-0270(98)00091-0
        """
        ndim = self.positions.shape[1]
        if ndim > 3:
            raise ValueError(f"SWC holds at most 3 coordinates, got {ndim}; project them first")
        if not 0 < radius < math.inf:
            raise ValueError(f"radius must be a positive length, got {radius}")
        lines = ["# id type x y z radius parent"]
        parents = self.parents.tolist()
        for i, place in enumerate(self.positions.tolist()):
            kind = _SOMA if parents[i] < 0 else _DENDRITE
            parent = parents[i] + 1 if parents[i] >= 0 else -1
            xyz = " ".join(f"{v:.9g}" for v in [*place, 0.0, 0.0][:3])
            lines.append(f"{i + 1} {kind} {xyz} {radius:.9g} {parent}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class DendriteGrowthSimulator:
    r"""Dendrites that bifurcate over and over, each daughter a contraction of its mother.

    With daughters shorter by $r = 2^{-1/D}$ the ends fill a set of similarity dimension
    $\ln 2 / \ln(1/r) = D$. Branches leave at about a right angle, which keeps them apart as long
    as $D$ is below the dimension of the plane. A node that grows on ends its branch with
    probability `branching_prob`; the length of a branch does not depend on its number of nodes.

    Args:
        target_fd: $D$, between 1 and `ndim`.
        branching_prob: share of the growing nodes at which a branch divides, in (0, 1].
        ndim: dimension of space, 2 or 3.
        step: mean length of a segment of the first branch.

    Raises:
        ValueError: if a setting is out of its range.

    Examples:
        >>> simulator = DendriteGrowthSimulator(target_fd=1.5)
        >>> tree = simulator.grow(10, generator=torch.Generator().manual_seed(0))
        >>> int((torch.bincount(tree.parents[1:]) == 2).sum())
        1023

    References:
        Mandelbrot & Frame (1999). The canopy and shortest path in a self-contacting fractal tree.
        The Mathematical Intelligencer 21. https://doi.org/10.1007/BF03024842
    """

    target_fd: float = 1.7
    branching_prob: float = 0.3
    ndim: int = 2
    step: float = 1.0

    def __post_init__(self) -> None:
        if self.ndim not in (2, 3):
            raise ValueError(f"ndim must be 2 or 3, got {self.ndim}")
        if not 1 < self.target_fd < self.ndim:
            raise ValueError(
                f"target_fd must lie between 1 and ndim = {self.ndim}, got {self.target_fd}"
            )
        if not 0 < self.branching_prob <= 1 or not 0 < self.step < math.inf:
            raise ValueError(
                "branching_prob must lie in (0, 1] and step be positive, got "
                f"{self.branching_prob} and {self.step}"
            )

    def grow(
        self,
        n_iterations: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> DendriteTree:
        r"""Grow one tree.

        Args:
            n_iterations: bifurcations from the root to an end, 1 to 22; there are then
                $2^{n\_iterations}$ ends.
            generator: source of randomness.
            dtype: of the positions; the default one when None.
            device: of the result.

        Returns:
            The tree; its last branches are single segments.

        Raises:
            ValueError: if `n_iterations` is out of its range.

        Examples:
            >>> tree = DendriteGrowthSimulator(branching_prob=1.0).grow(3)
            >>> len(tree.positions)
            16
        """
        if not 1 <= n_iterations <= _MOST_ITERATIONS:
            raise ValueError(
                f"n_iterations must be 1 to {_MOST_ITERATIONS}, as each doubles the branches, got "
                f"{n_iterations}"
            )
        heading = torch.zeros(1, self.ndim, dtype=torch.float64, device=device)
        heading[0, 1] = 1
        place, tips = torch.zeros_like(heading), torch.zeros(1, dtype=torch.long, device=device)
        positions, parents = [place], [tips - 1]
        length, n_nodes = self.step / self.branching_prob, 1
        for generation in range(n_iterations + 1):
            if generation:
                heading = _bifurcate(heading, generator)
                place, tips = place.repeat(2, 1), tips.repeat(2)
            last = generation == n_iterations
            counts = _n_segments(tips, 1.0 if last else self.branching_prob, generator)
            nodes = _lay(place, heading, length, counts, generator)
            ends = counts.cumsum(0)
            grown = torch.arange(n_nodes - 1, n_nodes - 1 + len(nodes), device=device)
            grown[ends - counts] = tips
            positions.append(nodes)
            parents.append(grown)
            place, tips = nodes[ends - 1], ends - 1 + n_nodes
            n_nodes += len(nodes)
            length *= 2 ** (-1 / self.target_fd)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        return DendriteTree(torch.cat(positions).to(dtype), torch.cat(parents))


def _n_segments(
    tips: Int[Tensor, " branch"], ending: float, generator: torch.Generator | None
) -> Int[Tensor, " branch"]:
    """Segments of each branch when every one of them is the last with one probability."""
    if ending == 1:
        return torch.ones_like(tips)
    drawn = torch.empty(tips.shape, dtype=torch.float64, device=tips.device)
    return drawn.geometric_(ending, generator=generator).long()


def _perpendicular(
    heading: Float[Tensor, "branch axis"], generator: torch.Generator | None
) -> Float[Tensor, "branch axis"]:
    """Unit vectors in random directions at right angles to others."""
    drawn = torch.empty_like(heading).normal_(generator=generator)
    drawn -= (drawn * heading).sum(-1, keepdim=True) * heading
    return torch.nn.functional.normalize(drawn, dim=-1)


def _turned(
    heading: Float[Tensor, "branch axis"],
    aside: Float[Tensor, "branch axis"],
    angle: float,
    generator: torch.Generator | None,
) -> Float[Tensor, "branch axis"]:
    """Unit vectors turned by an angle, and a random wobble, towards others."""
    wobble = torch.empty_like(heading[:, :1]).normal_(angle, _WOBBLE, generator=generator)
    return wobble.cos() * heading + wobble.sin() * aside


def _bifurcate(
    heading: Float[Tensor, "branch axis"], generator: torch.Generator | None
) -> Float[Tensor, "daughter axis"]:
    """Directions of the two daughters of every branch, on opposite sides of it."""
    aside = _perpendicular(heading, generator)
    sides = (_turned(heading, side, _TURN, generator) for side in (aside, -aside))
    return torch.cat(list(sides))


def _lay(
    place: Float[Tensor, "branch axis"],
    heading: Float[Tensor, "branch axis"],
    length: float,
    counts: Int[Tensor, " branch"],
    generator: torch.Generator | None,
) -> Float[Tensor, "node axis"]:
    """Nodes of branches of one length, that wobble about their heading."""
    along = heading.repeat_interleave(counts, 0)
    along = _turned(along, _perpendicular(along, generator), 0.0, generator)
    walked = (along * (length / counts).repeat_interleave(counts)[:, None]).cumsum(0)
    # One sum over all branches; each starts anew where its own begins.
    ends = walked[counts.cumsum(0) - 1]
    start = place - torch.cat([torch.zeros_like(ends[:1]), ends[:-1]])
    return walked + start.repeat_interleave(counts, 0)
