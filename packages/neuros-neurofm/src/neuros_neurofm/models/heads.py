"""Read-outs of the latents: behaviour, the recording itself, its future, and a contrast vector."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ContrastiveHead", "DecoderHead", "EncoderHead", "ForecastHead"]


class DecoderHead(nn.Module):
    """Behaviour at any time, from the latest latent that is complete by then.

    Before the first latent a learned vector stands in. The time since the latent is an input, so
    that the read-out may move between two points of the grid.

    Args:
        latent_dim: Width of the latents.
        behavior_dim: Number of variables.

    Raises:
        ValueError: `behavior_dim` < 1.

    Examples:
        >>> import torch
        >>> head = DecoderHead(8, 2)
        >>> index, elapsed = torch.tensor([[-1, 0, 3]]), torch.zeros(1, 3)
        >>> head(torch.randn(1, 4, 8), index, elapsed).shape
        torch.Size([1, 3, 2])
    """

    def __init__(self, latent_dim: int, behavior_dim: int) -> None:
        super().__init__()
        if behavior_dim < 1:
            raise ValueError(f"behavior_dim must be >= 1, got {behavior_dim}")
        self.null = nn.Parameter(torch.zeros(latent_dim))
        self.hidden = nn.Linear(latent_dim, latent_dim)
        self.elapsed = nn.Linear(2, latent_dim, bias=False)
        self.out = nn.Linear(latent_dim, behavior_dim)
        self.skip = nn.Linear(latent_dim, behavior_dim, bias=False)

    def forward(
        self,
        latents: Float[Tensor, "batch latent dim"],
        index: Int[Tensor, "batch query"],
        elapsed: Float[Tensor, "batch query"],
    ) -> Float[Tensor, "batch query behavior"]:
        """The variables at the queries.

        Args:
            latents: The latents.
            index: Latent of each query, -1 before the first.
            elapsed: Time since that latent in steps of the grid.

        Returns:
            One row per query.
        """
        null = self.null.to(latents.dtype).expand(latents.shape[0], 1, -1)
        rows = torch.cat([null, latents], dim=1)
        at = (index + 1).unsqueeze(-1).expand(-1, -1, latents.shape[-1])
        state = rows.gather(1, at)
        gap = elapsed.to(latents.dtype).clamp(-8.0, 8.0)
        time = torch.stack([gap, gap.abs().log1p()], dim=-1)
        hidden = functional.gelu(self.hidden(state) + self.elapsed(time))
        behavior: Tensor = self.out(hidden) + self.skip(state)
        return behavior


class EncoderHead(nn.Module):
    r"""Every sample of every channel, from the latent of its time and its unit vector.

    $\hat x_{t,c} = \sum_k \cos(\pi k \varphi_t)\, (W_k z_{j(t)}) \cdot V u_c + b \cdot u_c$
    with the latent $j(t)$ of the sample and its phase $\varphi_t \in (0, 1]$ within the grid step.
    Any channel with a unit vector can be predicted, also one that was hidden at the input. For
    spikes the value is the logarithm of the expected count per bin.

    Args:
        latent_dim: Width of the latents.
        unit_dim: Width of the unit vectors.
        rank: Width of the product.
        n_basis: Number of cosines per grid step.

    Examples:
        >>> import torch
        >>> head = EncoderHead(8, 4)
        >>> index, phase = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0.5, 1.0, 0.5, 1.0]])
        >>> head(torch.randn(1, 2, 8), torch.randn(1, 1, 7, 4), index, phase).shape
        torch.Size([1, 4, 7])
    """

    def __init__(self, latent_dim: int, unit_dim: int, *, rank: int = 64, n_basis: int = 8) -> None:
        super().__init__()
        self.rank = rank
        self.n_basis = n_basis
        self.state = nn.Linear(latent_dim, n_basis * rank)
        self.unit = nn.Linear(unit_dim, rank)
        self.offset = nn.Linear(unit_dim, 1)

    def forward(
        self,
        latents: Float[Tensor, "batch latent dim"],
        units: Float[Tensor, "#batch steps channel unit"],
        index: Int[Tensor, "#batch time"],
        phase: Float[Tensor, "#batch time"],
        known: Int[Tensor, "#batch time"] | None = None,
    ) -> Float[Tensor, "batch time channel"]:
        """The expected samples.

        Args:
            latents: The latents.
            units: Unit vectors, constant (one step) or as they change from step to step.
            index: Latent of each sample.
            phase: Position of each sample within its step of the grid, 0 to 1.
            known: Step of the unit vectors that each sample is read with; default: its latent.

        Returns:
            Log-rates or means.
        """
        batch, n, _ = latents.shape
        state = self.state(latents).view(batch, n, self.n_basis, self.rank) * self.rank**-0.5
        # z (V u + b) = (V' z) u + z b: a latent has fewer rows than the channels have vectors.
        both = torch.cat([self.unit.weight, self.unit.bias.unsqueeze(1)], dim=1)
        start = torch.arange(batch, device=index.device).unsqueeze(-1) * n
        rows = (state @ both.to(state.dtype)).flatten(0, 1)
        rows = rows.index_select(0, (index + start).flatten()).view(batch, -1, *rows.shape[1:])
        waves = torch.arange(self.n_basis, device=phase.device) * torch.pi
        basis = (phase.unsqueeze(-1) * waves).cos().to(rows.dtype).unsqueeze(-1)
        # The offset belongs to the constant cosine.
        offset = torch.cat([self.offset.weight[0], self.offset.bias]).to(rows.dtype)
        read = (rows * basis).sum(2) + offset
        heard = _products(read[..., :-1], units, index if known is None else known)
        samples: Tensor = heard + read[..., -1:]
        return samples


def _products(
    read: Float[Tensor, "batch time unit"],
    units: Float[Tensor, "#batch steps channel unit"],
    known: Int[Tensor, "#batch time"],
) -> Float[Tensor, "batch time channel"]:
    """Product of each sample's vector with the unit vectors of its step."""
    if units.shape[1] == 1:
        return read @ units[:, 0].transpose(-1, -2)
    (batch, time, width), steps = read.shape, units.shape[1]
    known = known.expand(batch, time)
    # Samples of one step stand side by side, so that no unit vector is copied.
    order = known.argsort(dim=1, stable=True)
    steps_in_order = known.gather(1, order)
    all_steps = torch.arange(steps, device=known.device).expand(batch, steps).contiguous()
    first = torch.searchsorted(steps_in_order, all_steps).gather(1, steps_in_order)
    in_order = torch.arange(time, device=known.device) - first
    place = torch.empty_like(in_order).scatter(1, order, in_order)
    slots = int(place.max()) + 1
    row = torch.arange(batch, device=known.device).unsqueeze(-1)
    at = (((row * steps) + known) * slots + place).flatten()
    side_by_side = read.new_zeros(batch * steps * slots, width).index_copy(
        0, at, read.flatten(0, 1)
    )
    found = side_by_side.view(batch, steps, slots, width) @ units.transpose(-1, -2)
    return found.flatten(0, 2).index_select(0, at).view(batch, time, -1)


# Adam moves a parameter by about its learning rate per step, and between persistence (1) and the
# mean (0) lies a whole unit: at 1e-3 a hundred steps with this factor, a thousand without.
_RHO_SPEED = 10.0


class ForecastHead(nn.Module):
    r"""The next samples of every channel, as a change against the last one.

    $\hat x_{T+h,c} = \rho_h x_{T,c} + (W_h z) \cdot V u_c + b_h \cdot u_c$ with a learned
    $\rho_h$, 1 at the start, and the rest 0 at the start: an untrained head is the persistence
    forecast, and $\rho_h = \phi^h$ is that of an AR(1) process.

    Args:
        latent_dim: Width of the latents.
        unit_dim: Width of the unit vectors.
        horizon: Number of samples ahead.
        rank: Width of the product.

    Raises:
        ValueError: `horizon` < 1.

    Examples:
        >>> import torch
        >>> head = ForecastHead(8, 4, horizon=3)
        >>> last = torch.tensor([[2.0, -1.0]])
        >>> head(torch.randn(1, 8), torch.randn(1, 2, 4), last).tolist()
        [[[2.0, -1.0], [2.0, -1.0], [2.0, -1.0]]]
    """

    def __init__(self, latent_dim: int, unit_dim: int, *, horizon: int, rank: int = 64) -> None:
        super().__init__()
        if horizon < 1:
            raise ValueError(f"horizon must be >= 1 sample, got {horizon}")
        self.horizon = horizon
        self.rank = rank
        self.rho_offset = nn.Parameter(torch.zeros(horizon))
        self.state = nn.Linear(latent_dim, horizon * rank)
        self.unit = nn.Linear(unit_dim, rank)
        self.offset = nn.Linear(unit_dim, horizon)
        for zero in (self.state.weight, self.state.bias, self.offset.weight, self.offset.bias):
            nn.init.zeros_(zero)

    @property
    def rho(self) -> Float[Tensor, " horizon"]:
        """Share of the last value that each step keeps."""
        return 1 + _RHO_SPEED * self.rho_offset

    def forward(
        self,
        latent: Float[Tensor, "batch dim"],
        units: Float[Tensor, "#batch channel unit"],
        last: Float[Tensor, "batch channel"],
    ) -> Float[Tensor, "batch horizon channel"]:
        """The next samples.

        Args:
            latent: The latest latent.
            units: Unit vectors.
            last: Last observed value of each channel (log-rate for spikes).

        Returns:
            One row per sample ahead.
        """
        state = self.state(latent).view(-1, self.horizon, self.rank) * self.rank**-0.5
        change = state @ self.unit(units).transpose(-1, -2)
        offset = self.offset(units).transpose(-1, -2)
        future: Tensor = self.rho.unsqueeze(-1) * last.unsqueeze(1) + change + offset
        return future


class ContrastiveHead(nn.Module):
    """A unit vector for contrastive objectives.

    Args:
        latent_dim: Width of the pooled latent.
        out_dim: Width of the vector.

    Examples:
        >>> import torch
        >>> head = ContrastiveHead(8)
        >>> round(head(torch.randn(1, 8)).norm().item(), 4)
        1.0
    """

    def __init__(self, latent_dim: int, out_dim: int = 128) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Linear(latent_dim, latent_dim), nn.GELU(), nn.Linear(latent_dim, out_dim)
        )

    def forward(self, pooled: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch out"]:
        """The unit vector of each row.

        Args:
            pooled: One vector per row.

        Returns:
            Rows of norm 1.
        """
        return functional.normalize(self.project(pooled).float(), dim=-1)
