r"""Objective on the spectral exponent of latents whose target is learned."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from neuros_mechint.fractals._prior_latents import (
    Reduction,
    SlopePlan,
    channel_exponents,
    check_weight,
    plan_slopes,
    read_latents,
    zero_penalty,
)
from neuros_mechint.fractals._spectral_options import check_choice, check_range, check_rate

__all__ = ["AdaptiveFractalPrior"]


class AdaptiveFractalPrior(nn.Module):
    r"""Pull the spectral exponents of all channels towards one that is learned with the model.

    $$\mathcal{L} = w \left[ \overline{\frac{(\hat\beta - \beta^*)^2}{2 v} + \frac{\ln v}{2}}
      + \lambda (\beta^* - \beta_0)^2 \right], \qquad v = e^{u} + v_{\min}$$

    $\beta^* = l + (h - l)\,\sigma(p)$ stays between the bounds $l$ and $h$ whatever the optimiser
    does with $p$. A free target under a plain square follows the data and pulls at nothing; here
    the learned variance says how tightly exponents gather, and the last term how far the target
    may leave its first value. $v_{\min}$ is the sampling variance of $\hat\beta$, below which no
    spread can be told from noise: without it the likelihood of latents that are trained along
    would have no bound. At rest $\beta^* = (\overline{\hat\beta} + 2 \lambda v \beta_0) /
    (1 + 2 \lambda v)$.

    $\hat\beta$ is that of `SpectralPrior`, which is read off the first difference where
    $\beta^* > 1$, so that the value may jump as the target crosses 1. A constant channel adds 0
    and receives no gradient.

    Args:
        init_beta: $\beta_0$, the first target, strictly between the bounds.
        bounds: lowest and highest target.
        prior_weight: $\lambda$, how strongly the target is held at `init_beta`; 0 lets it go.
        log_var: learn the variance; False holds $v = 1$, a plain square.
        weight: factor of the whole; 0 returns 0 without computing anything.
        freq_range: lowest and highest fitted frequency in Hz, within (0, fs / 2]; None is
            (4 fs / n, 0.4 fs).
        fs: sampling rate of the latents in Hz.
        reduction: `"mean"` gives a scalar; `"none"` the value of each channel of each item.

    Raises:
        ValueError: if an option is unknown or out of range.

    Examples:
        >>> prior = AdaptiveFractalPrior(init_beta=1.0, weight=1.0)
        >>> optimizer = torch.optim.Adam(prior.parameters(), lr=0.2)
        >>> walk = torch.randn(32, 256, 1, generator=torch.Generator().manual_seed(0)).cumsum(1)
        >>> for _ in range(60):
        ...     optimizer.zero_grad()
        ...     prior(walk).backward()
        ...     _ = optimizer.step()
        >>> round(prior.beta.item(), 1)
        1.8

    References:
        Kendall, Gal & Cipolla (2018). Multi-task learning using uncertainty to weigh losses for
        scene geometry and semantics. CVPR. https://doi.org/10.1109/CVPR.2018.00781
    """

    name: ClassVar[str] = "adaptive_fractal_prior"
    reads: ClassVar[str] = "latents"
    log_variance: nn.Parameter | None

    def __init__(
        self,
        *,
        init_beta: float = 1.0,
        bounds: tuple[float, float] = (0.0, 3.0),
        prior_weight: float = 0.1,
        log_var: bool = True,
        weight: float = 0.01,
        freq_range: tuple[float, float] | None = None,
        fs: float = 1.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_rate(fs)
        check_weight(weight)
        check_weight(prior_weight, "prior_weight")
        check_choice("reduction", reduction, Reduction)
        if freq_range is not None:
            check_range(freq_range, fs)
        low, high = bounds
        if not (math.isfinite(low) and math.isfinite(high) and low < init_beta < high):
            raise ValueError(
                f"init_beta must lie strictly between finite bounds, got {init_beta} and {bounds}"
            )
        self.init_beta = init_beta
        self.bounds = (low, high)
        self.prior_weight = prior_weight
        self.log_var = log_var
        self.weight = weight
        self.freq_range = freq_range
        self.fs = fs
        self.reduction = reduction
        self._plans: dict[object, SlopePlan] = {}
        share = (init_beta - low) / (high - low)
        self.position = nn.Parameter(torch.tensor(math.log(share / (1 - share))))
        self.register_parameter(
            "log_variance", nn.Parameter(torch.tensor(0.0)) if log_var else None
        )

    @property
    def beta(self) -> Tensor:
        """The target now, a scalar with its gradient.

        Examples:
            >>> round(AdaptiveFractalPrior(init_beta=1.5).beta.item(), 6)
            1.5
        """
        low, high = self.bounds
        return low + (high - low) * torch.sigmoid(self.position)

    def extra_repr(self) -> str:
        """Return the options, as the constructor takes them.

        Returns:
            Comma-separated assignments.

        Examples:
            >>> AdaptiveFractalPrior().extra_repr()[:31]
            'init_beta=1.0, bounds=(0.0, 3.0'
        """
        names = (
            "init_beta", "bounds", "prior_weight", "log_var", "weight", "freq_range", "fs",
            "reduction",
        )  # fmt: skip
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def forward(self, latents: Tensor) -> Tensor:
        r"""Weigh how well one exponent describes the latents.

        Args:
            latents: `(batch, time, channel)`, real, finite.

        Returns:
            The weighted value, which may be negative: a scalar, or with `reduction="none"`
            `(batch, channel)`.

        Raises:
            ValueError: if the latents are not three-dimensional, too short or not finite.
            TypeError: if the latents are not a real tensor.

        Examples:
            >>> AdaptiveFractalPrior(reduction="none")(torch.randn(2, 64, 3)).shape
            torch.Size([2, 3])
        """
        signals = read_latents(latents)
        if self.weight == 0:
            return zero_penalty(signals, self.reduction, "channel")
        plan = plan_slopes(
            signals,
            self._plans,
            fs=self.fs,
            freq_range=self.freq_range,
            fold=sum(self.bounds) / 2,
            steep=self.beta.item() > 1,
        )
        found, silent = channel_exponents(signals, plan, "channel")
        beta = self.beta.to(found)
        gap = (found - beta).square() / 2
        if self.log_variance is not None:
            variance = self.log_variance.to(found).exp() + plan.variance
            gap = gap / variance + variance.log() / 2
        held = self.prior_weight * (beta - self.init_beta).square()
        value = self.weight * torch.where(silent, 0.0, gap + held)
        return value.mean() if self.reduction == "mean" else value
