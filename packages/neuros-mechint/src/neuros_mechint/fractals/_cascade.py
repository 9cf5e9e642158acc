"""Multiplicative cascades: measures whose scaling exponents are known in closed form."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["MultiplicativeCascade"]

Kind = Literal["deterministic", "shuffled", "lognormal", "logpoisson"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiplicativeCascade:
    r"""Measures made by dividing each interval's mass among its parts, level after level.

    `"deterministic"` gives part i the share $w_i$ (the Kronecker power of the weights);
    `"shuffled"` the same shares in random order at every division. The two canonical kinds give
    every part $W / b$ with an independent random $W$ of mean 1, so that mass is kept on average:
    `"lognormal"` has $\ln W \sim N(-\sigma^2/2, \sigma^2)$, `"logpoisson"` has
    $W = e^{\lambda (1 - \gamma)} \gamma^N$ with $N$ Poisson of mean $\lambda$.

    Args:
        kind: how mass is divided.
        sigma: of `"lognormal"`.
        rate: $\lambda$ of `"logpoisson"`.
        decay: $\gamma$ of `"logpoisson"`, in (0, 1).

    Raises:
        ValueError: if `kind` is unknown or a parameter is out of its range.

    Examples:
        >>> cascade = MultiplicativeCascade()
        >>> cascade.generate(2, weights=[0.75, 0.25], dtype=torch.float64)
        tensor([0.5625, 0.1875, 0.1875, 0.0625], dtype=torch.float64)
        >>> cascade.tau(torch.tensor([0.0, 2.0]), weights=[0.5, 0.5])
        tensor([-1.,  1.], dtype=torch.float64)

    References:
        Meneveau & Sreenivasan (1987). Simple multifractal cascade model for fully developed
        turbulence. Physical Review Letters 59. https://doi.org/10.1103/PhysRevLett.59.1424
        She & Leveque (1994). Universal scaling laws in fully developed turbulence. Physical
        Review Letters 72. https://doi.org/10.1103/PhysRevLett.72.336
    """

    kind: Kind = "deterministic"
    sigma: float = 0.3
    rate: float = 0.5
    decay: float = 0.5

    def __post_init__(self) -> None:
        kinds = ("deterministic", "shuffled", "lognormal", "logpoisson")
        if self.kind not in kinds:
            raise ValueError(f"kind must be one of {kinds}, got {self.kind!r}")
        if not self.sigma >= 0 or not self.rate >= 0 or not 0 < self.decay < 1:
            raise ValueError(
                "sigma and rate must be at least 0 and decay inside (0, 1), got "
                f"sigma = {self.sigma}, rate = {self.rate}, decay = {self.decay}"
            )

    def generate(
        self,
        n_levels: int,
        branching: int = 2,
        weights: Sequence[float] | None = None,
        batch: int | None = None,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw measures.

        Args:
            n_levels: divisions, at least 1.
            branching: parts of a division, at least 2.
            weights: their shares, for the two kinds that have them; equal shares when None.
            batch: number of measures.
            generator: source of randomness.
            dtype: of the result; the default one when None.
            device: of the result.

        Returns:
            Masses `(branching ** n_levels,)`, or `(batch, branching ** n_levels)`; total mass 1,
            on average for the canonical kinds.

        Raises:
            ValueError: if a size is too small, or the weights do not fit.

        Examples:
            >>> MultiplicativeCascade(kind="shuffled").generate(3, batch=2).sum(-1)
            tensor([1., 1.])
        """
        if n_levels < 1 or branching < 2 or (batch is not None and batch < 1):
            raise ValueError(
                "n_levels and batch must be at least 1 and branching at least 2, got "
                f"n_levels = {n_levels}, batch = {batch}, branching = {branching}"
            )
        shares = self._shares(branching, weights).to(device)
        mass = torch.ones(batch or 1, 1, dtype=torch.float64, device=device)
        for _ in range(n_levels):
            parts = (*mass.shape, branching)
            mass = (mass[..., None] * self._divide(shares, parts, generator)).flatten(1)
        mass = mass.to(torch.get_default_dtype() if dtype is None else dtype)
        return mass[0] if batch is None else mass

    def tau(
        self, q: Tensor, branching: int = 2, weights: Sequence[float] | None = None
    ) -> Float[Tensor, "*q"]:
        r"""Scaling exponents, $E \sum_i \mu_i^q \propto s^{\tau(q)}$ over intervals of size $s$.

        Args:
            q: moments, of any shape.
            branching: as in `generate`.
            weights: as in `generate`.

        Returns:
            $\tau$ in float64, of the shape of `q`.

        Raises:
            ValueError: if the weights do not fit.

        Examples:
            >>> MultiplicativeCascade(kind="lognormal").tau(torch.tensor([0.0, 1.0]))
            tensor([-1.,  0.], dtype=torch.float64)
        """
        shares = self._shares(branching, weights)
        q = q.double()
        if self.kind == "lognormal":
            log_moment = self.sigma**2 / 2 * (q.square() - q)
        elif self.kind == "logpoisson":
            log_moment = self.rate * (q * (1 - self.decay) + torch.pow(self.decay, q) - 1)
        else:
            mass = shares[shares > 0].log()
            return -torch.logsumexp(q[..., None] * mass, -1) / math.log(branching)
        return q - 1 - log_moment / math.log(branching)

    def _shares(self, branching: int, weights: Sequence[float] | None) -> Float[Tensor, " part"]:
        given = [1 / branching] * branching if weights is None else [float(w) for w in weights]
        shares = torch.tensor(given, dtype=torch.float64)
        if weights is not None and self.kind in ("lognormal", "logpoisson"):
            raise ValueError(f"kind {self.kind!r} draws its weights; leave weights out")
        if len(shares) != branching or bool((shares < 0).any()):
            raise ValueError(f"weights must be {branching} numbers >= 0, got {weights}")
        if not math.isclose(float(shares.sum()), 1.0, abs_tol=1e-12):
            raise ValueError(f"weights must sum to 1, got {float(shares.sum())}")
        return shares

    def _divide(
        self,
        shares: Float[Tensor, " part"],
        shape: tuple[int, ...],
        generator: torch.Generator | None,
    ) -> Float[Tensor, "*mass part"]:
        """Shares of every part of every interval."""
        if self.kind == "deterministic":
            return shares
        if self.kind == "shuffled":
            keys = torch.rand(shape, generator=generator, device=shares.device)
            return shares[keys.argsort(-1)]
        if self.kind == "lognormal":
            normal = torch.empty(shape, dtype=torch.float64, device=shares.device)
            normal.normal_(generator=generator)
            return torch.exp(self.sigma * normal - self.sigma**2 / 2) / shape[-1]
        rates = torch.full(shape, self.rate, dtype=torch.float64, device=shares.device)
        count = torch.poisson(rates, generator=generator)
        return torch.pow(self.decay, count) * (math.exp(self.rate * (1 - self.decay)) / shape[-1])
