"""Which of many solutions are the same fixed point, and of what kind each one is."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

__all__ = ["Clusters", "clusters", "kinds", "near_starts"]

# Moduli this near 1 count as neutral.
_MARGIN = 1e-3


class Clusters(NamedTuple):
    """One representative of each cluster, and how many members it has."""

    chosen: Int[Tensor, " point"]
    sizes: Int[Tensor, " point"]


def clusters(
    x: Float[Tensor, "start state"],
    q: Float[Tensor, " start"],
    u: Tensor | None,
    tolerance: float,
) -> Clusters:
    """Join solutions nearer than a relative distance at equal input.

    Connected components of "nearer than the tolerance" do not depend on the order of the starts;
    the slowest member stands for each, and the points are sorted by their coordinates.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    if not len(x):
        empty = torch.zeros(0, dtype=torch.long, device=x.device)
        return Clusters(empty, empty)
    scale = 1 + x.norm(dim=-1)
    near = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") <= tolerance * (
        torch.maximum(scale.unsqueeze(0), scale.unsqueeze(1))
    )
    if u is not None:
        near = near & (u.unsqueeze(0) == u.unsqueeze(1)).all(-1)
    n_found, labels = connected_components(csr_array(near.cpu().numpy()), directed=False)
    label = torch.from_numpy(labels).long()
    chosen: list[int] = []
    rows, speeds = x.tolist(), q.tolist()
    for k in range(n_found):
        members = (label == k).nonzero().squeeze(-1)
        chosen.append(min(members.tolist(), key=lambda i: (speeds[i], rows[i])))
    keys = [
        ([] if u is None else u[i].tolist(), [round(value, 6) + 0.0 for value in rows[i]])
        for i in chosen
    ]
    order = sorted(range(n_found), key=keys.__getitem__)
    picked = torch.tensor([chosen[k] for k in order], device=x.device)
    return Clusters(picked, torch.bincount(label)[torch.tensor(order)].to(x.device))


def near_starts(
    x: Float[Tensor, "start state"],
    starts: Float[Tensor, "start state"],
    max_distance: float,
) -> Bool[Tensor, " start"]:
    """Whether a solution lies within so many mean distances of the starts from their centre."""
    centre = starts.mean(0)
    spread = (starts - centre).norm(dim=-1).mean()
    if spread == 0:
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    near: Tensor = (x - centre).norm(dim=-1) <= max_distance * spread
    return near


def kinds(eigenvalues: Complex[Tensor, "point state"]) -> tuple[str, ...]:
    """Names by the moduli of the eigenvalues: stable, saddle, unstable or marginal."""
    moduli = eigenvalues.abs()
    names = []
    for row in moduli:
        if bool(((row - 1).abs() < _MARGIN).any()):
            names.append("marginal")
        elif bool((row < 1).all()):
            names.append("stable")
        else:
            names.append("unstable" if bool((row > 1).all()) else "saddle")
    return tuple(names)
