r"""Training objective: smooth scaling exponents over the moments."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from neuros_mechint.fractals._conventions import Number, centred, map_rows
from neuros_mechint.fractals._dfa import slope_weights
from neuros_mechint.fractals._multifractal import spectrum_of
from neuros_mechint.fractals._multifractal_moments import (
    fluctuation_level,
    moments_of,
    window_squares,
)
from neuros_mechint.fractals._multifractal_options import read_moments, sizes_for
from neuros_mechint.fractals._prior_latents import (
    Reduction,
    check_weight,
    read_latents,
    zero_penalty,
)
from neuros_mechint.fractals._spectral_options import check_choice

__all__ = ["MultifractalSmoothness"]

_BLOCK_SAMPLES = 2**17
_DETREND = 1


class MultifractalSmoothness(nn.Module):
    r"""Pull the scaling exponents of every latent channel towards a smooth function of q.

    $$\mathcal{L} = w \left( \overline{(\Delta_q^3 \tau)^2} + (\Delta\alpha - W)^2 \right)$$

    with $\tau$ of `MultifractalSpectrum` (`method="mfdfa"`), its third differences over an even
    grid of moments, and the second term only where a width $W$ is given. A quadratic
    $\tau$, that of log-normal cascades, costs nothing whatever its width; kinks do. With `order=2`
    every curvature costs and the latents become monofractal. The value does not change with the
    unit or the offset of a channel. A constant channel adds 0 and receives no gradient.

    Args:
        q: evenly spaced moments, more than `order`; 21 from -5 to 5 when None.
        weight: factor of the penalty; 0 returns 0 without computing anything.
        target_width: width of the spectrum to reach; None leaves it free.
        order: of the differences over q: 3, or 2.
        reduction: `"mean"` gives a scalar; `"none"` the penalty of each channel of each item.

    Raises:
        ValueError: if an option is unknown or out of range, or the moments are not even.

    Examples:
        >>> latents = torch.randn(2, 256, 3, generator=torch.Generator().manual_seed(0))
        >>> bool(MultifractalSmoothness(weight=1.0)(latents) < 0.01)
        True
        >>> MultifractalSmoothness(weight=0.0)(latents)
        tensor(0.)

    References:
        Kantelhardt et al. (2002). Multifractal detrended fluctuation analysis of nonstationary
        time series. Physica A 316. https://doi.org/10.1016/S0378-4371(02)01383-3
    """

    name: ClassVar[str] = "multifractal_smoothness"
    reads: ClassVar[str] = "latents"

    def __init__(
        self,
        *,
        q: Sequence[Number] | Tensor | NDArray[np.floating[Any]] | None = None,
        weight: float = 0.005,
        target_width: float | None = None,
        order: Literal[2, 3] = 3,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_choice("reduction", reduction, Reduction)
        check_weight(weight)
        if target_width is not None and not (target_width >= 0 and math.isfinite(target_width)):
            raise ValueError(f"target_width must be finite and at least 0, got {target_width}")
        if order not in (2, 3):
            raise ValueError(f"order must be 2 or 3, got {order}")
        self.q = read_moments(q)
        _require_even(self.q, order)
        self.weight = weight
        self.target_width = target_width
        self.order = order
        self.reduction = reduction

    def extra_repr(self) -> str:
        """Return the options, as the constructor takes them.

        Returns:
            Comma-separated assignments.

        Examples:
            >>> MultifractalSmoothness(q=[-1, 0, 1, 2], weight=0.1).extra_repr()[:37]
            'q=(-1.0, 0.0, 1.0, 2.0), weight=0.1, '
        """
        names = ("q", "weight", "target_width", "order", "reduction")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def forward(self, latents: Tensor) -> Tensor:
        r"""Weigh the roughness of the exponents of the latents.

        Args:
            latents: `(batch, time, channel)`, real, finite, of at least 44 samples.

        Returns:
            The weighted penalty: a scalar, or with `reduction="none"` `(batch, channel)`.

        Raises:
            ValueError: if the latents are not three-dimensional, too short or not finite.
            TypeError: if the latents are not a real tensor.

        Examples:
            >>> MultifractalSmoothness(reduction="none")(torch.randn(2, 64, 3)).shape
            torch.Size([2, 3])
        """
        signals = read_latents(latents)
        if self.weight == 0:
            return zero_penalty(signals, self.reduction, "channel")
        sizes = sizes_for(signals.length, "mfdfa", _DETREND, 2, "latents")
        # Traced, each of the windows' sizes would be compiled anew, which takes most of a minute.
        # Asked here and not by a decorator, which loads the compiler with the module.
        disable: Any = torch.compiler.disable
        penalty_of = disable(self._penalty)
        (penalty,) = map_rows(
            signals, lambda rows: (penalty_of(rows, sizes),), block_samples=_BLOCK_SAMPLES
        )
        penalty = self.weight * penalty.to(signals.dtype)
        return penalty.mean() if self.reduction == "mean" else penalty

    def _penalty(
        self, rows: Float[Tensor, "batch time"], sizes: tuple[int, ...]
    ) -> Float[Tensor, " batch"]:
        profile = centred(rows).cumsum(-1)
        squares = (window_squares(profile, n, _DETREND) for n in sizes)
        moments = moments_of(map(fluctuation_level, squares), self.q)
        tau, _, _, width = spectrum_of(moments, self.q, slope_weights(sizes))
        penalty = roughness(tau, self.order)
        if self.target_width is not None:
            penalty = penalty + (width - self.target_width).square()
        return torch.where(moments.usable, penalty, 0.0)


def roughness(tau: Float[Tensor, "*batch q"], order: int) -> Float[Tensor, "*batch"]:
    """Mean square of differences over evenly spaced moments.

    Args:
        tau: scaling exponents.
        order: of the differences.

    Returns:
        One value per item.

    Examples:
        >>> q = torch.linspace(-5, 5, 21, dtype=torch.float64)
        >>> bool(roughness(0.9 * q - 0.05 * q**2 - 1, 3) < 1e-20)
        True
    """
    return tau.diff(n=order, dim=-1).square().mean(-1)


def _require_even(q: tuple[float, ...], order: int) -> None:
    steps = [after - before for before, after in pairwise(q)]
    if len(q) <= order or max(steps) - min(steps) > 1e-6 * max(steps):
        raise ValueError(f"q must hold more than order = {order} evenly spaced moments, got {q}")
