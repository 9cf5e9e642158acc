"""Which latent speaks for a sample or a query, and what was last seen of a channel."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuros_neurofm.models._inputs import Grid

__all__ = [
    "last_latent",
    "last_latents",
    "last_observed",
    "query_positions",
    "sample_positions",
    "unit_steps",
]

# In steps of the grid: the rounding of t / step, far below any sampling interval.
_TOLERANCE = 1e-6


def sample_positions(
    grid: Grid, length: int, *, rate: float, times: Tensor | None
) -> tuple[Int[Tensor, "#batch time"], Float[Tensor, "#batch time"]]:
    """The latent in whose step each sample lies, and the sample's phase in it."""
    if times is None:
        known = torch.arange(1, length + 1, device=grid.times.device, dtype=torch.float64) / rate
        at = known.unsqueeze(0)
    else:
        at = times.to(torch.float64).nan_to_num(0.0, 0.0, 0.0)
        at = at if at.ndim == 2 else at.unsqueeze(0)
    steps = at / grid.step
    index = ((steps - _TOLERANCE).ceil() - 1).clamp(0, grid.times.shape[0] - 1)
    return index.long(), (steps - index).clamp(0.0, 1.0).float()


def query_positions(
    grid: Grid, queries: Tensor | None, batch: int, *, causal: bool
) -> tuple[Int[Tensor, "batch query"], Float[Tensor, "batch query"]]:
    """The latent that answers each query, and the steps since its time.

    Causal: the latest latent that is complete at the query, -1 before the first. Otherwise the
    latent in whose step the query lies.

    Raises:
        ValueError: queries that are not (query,) or (batch, query) finite seconds.
    """
    n = grid.times.shape[0]
    if queries is None:
        index = torch.arange(n, device=grid.times.device).expand(batch, n)
        return index, torch.zeros(batch, n, device=grid.times.device)
    if queries.ndim not in {1, 2} or (queries.ndim == 2 and queries.shape[0] != batch):
        raise ValueError(
            f"query_times must be (query,) or (batch, query) with batch = {batch}, "
            f"got {tuple(queries.shape)}"
        )
    if not bool(torch.isfinite(queries).all()):
        raise ValueError("query_times must be finite seconds; query padded rows at any finite time")
    steps = (queries.to(grid.times) / grid.step).expand(batch, -1)
    if causal:
        index = ((steps + _TOLERANCE).floor() - 1).clamp(-1, n - 1)
    else:
        index = ((steps - _TOLERANCE).ceil() - 1).clamp(0, n - 1)
    return index.long(), (steps - (index + 1)).float()


def unit_steps(
    token_times: Float[Tensor, "batch token"], grid: Float[Tensor, " latent"]
) -> Int[Tensor, "batch latent"]:
    """Which of the unit vectors, before the first token and after each, is known at each latent."""
    batch, n = token_times.shape[0], grid.shape[0]
    at = grid.expand(batch, n).contiguous() + _TOLERANCE * grid[0]
    return torch.searchsorted(token_times.contiguous(), at, right=True)


def last_latents(
    latents: Float[Tensor, "batch latent dim"], ends: Int[Tensor, " batch"] | None, window: int
) -> tuple[Float[Tensor, "batch recent dim"], Bool[Tensor, "batch recent"] | None]:
    """The last `window` latents before the end of each row, and which of them there are."""
    if ends is None:
        return latents[:, -window:], None
    index = ends.unsqueeze(-1) + torch.arange(-window, 0, device=latents.device)
    rows = index.clamp_min(0).unsqueeze(-1)
    return latents.take_along_dim(rows, 1), index >= 0


def last_latent(
    latents: Float[Tensor, "batch latent dim"], ends: Int[Tensor, " batch"] | None
) -> Float[Tensor, "batch dim"]:
    """The latent at the end of each row."""
    recent, _ = last_latents(latents, ends, 1)
    return recent[:, -1]


def last_observed(
    x: Float[Tensor, "batch time channel"],
    valid: Bool[Tensor, "batch time channel"],
    *,
    counts: bool,
) -> Float[Tensor, "batch channel"]:
    """The last valid value of each channel, 0 without any; for counts the log of their mean."""
    if counts:
        # A tenth of a spike in one more bin keeps the logarithm of a silent unit finite.
        return ((x.sum(1) + 0.1) / (valid.sum(1) + 1.0)).log()
    newest = valid.flip(1).to(torch.uint8).argmax(1, keepdim=True)
    return x.flip(1).gather(1, newest).squeeze(1)
