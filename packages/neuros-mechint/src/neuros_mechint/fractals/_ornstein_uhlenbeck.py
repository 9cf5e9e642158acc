"""Ornstein-Uhlenbeck processes driven by fractional noise."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.fractals._fractional_motion import FractionalBrownianMotion
from neuros_mechint.fractals._ornstein_uhlenbeck_start import stationary_start
from neuros_mechint.fractals._ornstein_uhlenbeck_sum import decaying_sum

__all__ = ["FractionalOU"]

_DEFAULT_HURST = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class FractionalOU:
    r"""Mean-reverting process driven by fractional Brownian motion.

    $$dX = \theta (\mu - X) dt + \sigma dB_H$$

    A step is $X_{k+1} = \mu + e^{-\theta dt} (X_k - \mu) + \sigma \frac{1 - e^{-\theta dt}}
    {\theta dt} (B_H(t_{k+1}) - B_H(t_k))$: exact when $B_H$ goes straight between two samples, and
    the increments have their exact law. All steps are summed at once, without a loop over time.

    Far from its start the variance is $\sigma^2 \theta^{-2H} \Gamma(2H + 1) / 2$; over times much
    shorter than $1 / \theta$ the path is as rough as $B_H$.

    Args:
        H: Hurst exponent of the noise in (0, 1); 0.8 when neither `H` nor `alpha` is given.
        alpha: another name of `H`.
        theta: rate of the return to the mean, per unit of time.
        mu: the mean.
        sigma: strength of the noise.

    Raises:
        ValueError: if `H` and `alpha` differ or lie outside (0, 1), `theta` is not positive,
            `sigma` is negative, or `mu` is not finite.

    Examples:
        >>> process = FractionalOU(H=0.7, theta=10.0, mu=1.0, sigma=0.0)
        >>> process.simulate(4, dt=0.1, x0=2.0).sub(1).log().round().tolist()
        [0.0, -1.0, -2.0, -3.0]
        >>> round(FractionalOU(H=0.5, theta=2.0, sigma=1.0).stationary_variance, 6)
        0.25

    References:
        Cheridito, Kawaguchi & Maejima (2003). Fractional Ornstein-Uhlenbeck processes. Electronic
        Journal of Probability 8. https://doi.org/10.1214/EJP.v8-125
    """

    H: float | None = None
    alpha: float | None = None
    theta: float = 1.0
    mu: float = 0.0
    sigma: float = 0.1

    def __post_init__(self) -> None:
        if self.H is not None and self.alpha is not None and self.alpha != self.H:
            raise ValueError(
                f"alpha is another name of H, got H = {self.H} and alpha = {self.alpha}; give one"
            )
        if not 0 < self.hurst < 1:
            raise ValueError(f"H must lie strictly between 0 and 1, got {self.hurst}")
        if not 0 < self.theta < math.inf or not 0 <= self.sigma < math.inf:
            raise ValueError(
                "theta must be positive and sigma at least 0, got "
                f"theta = {self.theta}, sigma = {self.sigma}"
            )
        if not math.isfinite(self.mu):
            raise ValueError(f"mu must be finite, got {self.mu}")

    @property
    def hurst(self) -> float:
        """Hurst exponent of the noise, by whichever name it was given."""
        given = self.alpha if self.H is None else self.H
        return _DEFAULT_HURST if given is None else given

    @property
    def stationary_variance(self) -> float:
        r"""Variance far from the start, $\sigma^2 \theta^{-2H} \Gamma(2H + 1) / 2$."""
        h = 2 * self.hurst
        return self.sigma**2 * math.pow(self.theta, -h) * math.gamma(h + 1) / 2

    def simulate(
        self,
        n_steps: int,
        dt: float = 0.001,
        x0: float | Tensor | None = None,
        batch: int | None = None,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        r"""Draw paths.

        Args:
            n_steps: samples of a path, at least 1; the first is the start.
            dt: time between samples.
            x0: where the paths start, one number for all or one per path, whatever the noise does
                later. None draws the start from the stationary law *given* the noise that
                follows, so that the whole path is stationary: a start that knew nothing of the
                noise would be followed by a transient.
            batch: number of paths.
            generator: source of randomness.
            dtype: of the result; the default one when None.
            device: of the result.

        Returns:
            `(n_steps,)`, or `(batch, n_steps)` when `batch` is given.

        Raises:
            ValueError: if a size is below 1, `dt` is not positive, or `x0` does not fit `batch`.

        Examples:
            >>> FractionalOU(sigma=1.0).simulate(100, 0.01, batch=3).shape
            torch.Size([3, 100])
        """
        if n_steps < 1 or (batch is not None and batch < 1):
            raise ValueError(
                f"n_steps and batch must be at least 1, got n_steps = {n_steps}, batch = {batch}"
            )
        if not 0 < dt < math.inf:
            raise ValueError(f"dt must be a positive time, got {dt}")
        rows, kappa = batch or 1, self.theta * dt
        dtype = torch.get_default_dtype() if dtype is None else dtype
        # One increment at least: a single stationary sample is drawn like any other start.
        noise = FractionalBrownianMotion().increments(
            max(n_steps - 1, 1),
            self.hurst,
            1,
            rows,
            generator=generator,
            dtype=dtype,
            device=device,
        )[:, 0]
        # The response of the decay over one step to a straight piece of the driving path.
        scale = self.sigma * dt**self.hurst * -math.expm1(-kappa) / kappa
        if x0 is None:
            start = scale * stationary_start(noise, self.hurst, kappa, generator)
        else:
            start = _read_start(x0, rows).to(noise) - self.mu
        kicks = torch.cat([start[:, None], scale * noise[:, : n_steps - 1]], -1)
        path = self.mu + decaying_sum(kicks, kappa)
        return path if batch is not None else path[0]


def _read_start(x0: float | Tensor, rows: int) -> Float[Tensor, " batch"]:
    start = torch.as_tensor(x0).reshape(-1)
    if len(start) not in (1, rows):
        raise ValueError(f"x0 must be one number or one per path = {rows}, got {len(start)}")
    if not bool(start.isfinite().all()):
        raise ValueError("x0 must be finite, got NaN or infinity")
    return start.expand(rows)
