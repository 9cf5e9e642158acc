"""Places of the nodes of a circuit diagram: a force-directed layout without randomness."""

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

__all__ = ["place_nodes"]

_ROUNDS = 200


def place_nodes(edges: Bool[Tensor, "node node"]) -> Float64[Tensor, "node 2"]:
    """Fruchterman-Reingold from a circle; the box is [0, 1] x [0, 1], equal input gives equal."""
    n = len(edges)
    angle = 2 * torch.pi * torch.arange(n, dtype=torch.float64, device=edges.device) / max(n, 1)
    place = 0.5 + 0.4 * torch.stack([angle.cos(), angle.sin()], dim=-1)
    linked = (edges | edges.mT).double().fill_diagonal_(0)
    ideal = 1 / n**0.5
    for step in range(_ROUNDS):
        apart = place[:, None] - place[None]
        distance = apart.square().sum(-1).clamp(min=1e-6).sqrt()
        # Repulsion k^2 / d of all, attraction d^2 / k along edges, pull to the middle.
        pull = ideal**2 / distance.square() - linked * distance / ideal
        force = (pull[..., None] * apart).sum(1) - 0.5 * ideal * (place - 0.5)
        length = force.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
        most = 0.1 * (1 - step / _ROUNDS)
        place = place + force / length * length.clamp(max=most)
    low, high = place.amin(0), place.amax(0)
    spread = (high - low).clamp(min=1e-9)
    # One node, or nodes on one line, stand in the middle of the axis that they do not fill.
    scaled = torch.where(high - low > 1e-6, (place - low) / spread, torch.full_like(place, 0.5))
    return scaled.round(decimals=6)
