"""Distances along a cloud of points."""

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint._arrays import Array, as_real

__all__ = ["GeodesicDistance"]


class GeodesicDistance:
    """Length of the shortest path through nearest neighbours, between all pairs of points.

    A path along a curved manifold of n points cuts corners, so distances are slightly short; noise
    makes them long. Clouds are taken one after the other: every one has its own graph, and the
    batched form of all shortest paths, $n^3$ sums, costs more than a search through few links.

    Args:
        k: Neighbours each point is linked with.
        connect: Whether parts without a link are joined by their closest pairs. False: an error.

    Examples:
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
        >>> float(GeodesicDistance(k=1).compute(x)[0, 2])
        2.0

    References:
        Tenenbaum, de Silva & Langford (2000). A global geometric framework for nonlinear
        dimensionality reduction. Science 290, 2319. doi:10.1126/science.290.5500.2319
    """

    def __init__(self, *, k: int = 10, connect: bool = False) -> None:
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k = k
        self.connect = connect

    def __repr__(self) -> str:
        return f"GeodesicDistance(k={self.k}, connect={self.connect})"

    def compute(self, x: Array) -> Tensor:
        """Distances between all points.

        Args:
            x: Points, (..., samples, features).

        Returns:
            Distances (..., samples, samples).

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When there are at most k points, or no path between some of them.
        """
        data = as_real("x", x, at_least=(self.k + 1, 1))
        flat = data.detach().double().reshape(-1, *data.shape[-2:])
        found = torch.stack([self._one(item) for item in flat])
        return found.reshape(*data.shape[:-1], data.shape[-2]).to(data)

    def _one(self, x: Float[Tensor, "sample feature"]) -> Float[Tensor, "sample sample"]:
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import shortest_path

        gap = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").cpu()
        links = _links(gap, self.k)
        if _parts(links) > 1:
            if not self.connect:
                raise ValueError(
                    f"the graph of k={self.k} neighbours falls into {_parts(links)} parts; the "
                    f"smallest k that connects it is {_connecting(gap, self.k)}, or pass "
                    "connect=True"
                )
            links = _joined(gap, links)
        # Zero means no link to scipy, so coincident points get the smallest length there is.
        length = gap.clamp(min=torch.finfo(torch.float64).tiny)
        rows, columns = (i.numpy() for i in links.nonzero(as_tuple=True))
        graph = csr_matrix((length[links].numpy(), (rows, columns)), shape=(len(gap), len(gap)))
        return torch.as_tensor(shortest_path(graph, directed=False))


def _links(gap: Tensor, k: int) -> Tensor:
    near = gap.clone().fill_diagonal_(-1.0).topk(k + 1, largest=False).indices
    links = torch.zeros_like(gap, dtype=torch.bool).scatter_(1, near, value=True)
    return (links | links.T).fill_diagonal_(fill_value=False)


def _parts(links: Tensor) -> int:
    from scipy.sparse.csgraph import connected_components

    return int(connected_components(links.numpy(), directed=False)[0])


def _connecting(gap: Tensor, low: int) -> int:
    """Smallest connecting k, by bisection: more neighbours never disconnect."""
    high = len(gap) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if _parts(_links(gap, middle)) > 1:
            low = middle
        else:
            high = middle
    return high


def _joined(gap: Tensor, links: Tensor) -> Tensor:
    """The links with those of the shortest tree that reaches every point."""
    from scipy.sparse.csgraph import minimum_spanning_tree

    tree = minimum_spanning_tree(gap.clamp(min=torch.finfo(gap.dtype).tiny).numpy())
    extra = torch.as_tensor(tree.toarray() > 0)
    return links | extra | extra.T
