"""Granger causality between channels, in time and by frequency, from models of pairs."""

import warnings
from typing import Literal, get_args

import torch
from torch import Tensor

from neuros_mechint._arrays import Array, Number, one_of
from neuros_mechint.multiscale._pasts import epochs_of, standardised
from neuros_mechint.multiscale._surrogates import (
    check_surrogates,
    phase_shifted,
    surrogate_p_values,
)
from neuros_mechint.multiscale._var import (
    fit_pairs,
    pairs_of,
    radius,
    spectral_causality,
    time_causality,
)
from neuros_mechint.multiscale.coupling import Connectivity

__all__ = ["GrangerCausality"]


class GrangerCausality:
    r"""Granger causality of pairs of channels, $F_{j \to i} = \ln(\sigma^2_i / \sigma^2_{i|j})$.

    One autoregression of each pair is fitted and taken apart: what predicts $x_i$ from itself
    alone follows from that model, not from a second regression, so the spectral form is never
    negative (Barnett & Seth 2014). The mean of the spectral form over 0 to half the sampling rate
    (trapezoid) is the form in time, unless the other channel's own past weighs so much that
    Geweke's condition fails; then it is below.

    Every pair is modelled without the other channels: what two channels owe to a third counts as
    causality. A constant channel has the value 0, with a warning.

    Args:
        order: Samples of the past that predict.
        domain: `"time"` or `"spectral"`.
        sampling_rate: Samples per second.
        n_freqs: Frequencies from 0 to half the sampling rate; only of `"spectral"`.
        epochs: Whether x holds epochs of one process; else it is one stretch of it.

    Examples:
        The second channel repeats the first one step later, under noise of the same variance:

        >>> z = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0))
        >>> x = torch.stack([z[0], z[0].roll(1) + z[1]])
        >>> found = GrangerCausality(2).compute(x)
        >>> round(float(found.values[1, 0]), 1), round(float(found.values[0, 1]), 1)  # ln 2 and 0
        (0.7, 0.0)

    References:
        Geweke (1982). Measurement of linear dependence and feedback between multiple time series.
        Journal of the American Statistical Association 77, 304.
        doi:10.1080/01621459.1982.10477803

        Barnett & Seth (2014). The MVGC multivariate Granger causality toolbox: a new approach to
        Granger-causal inference. Journal of Neuroscience Methods 223, 50.
        doi:10.1016/j.jneumeth.2013.10.018
    """

    def __init__(
        self,
        order: int,
        domain: Literal["time", "spectral"] = "time",
        *,
        sampling_rate: Number = 1.0,
        n_freqs: int = 257,
        epochs: bool = False,
    ) -> None:
        one_of("domain", domain, get_args(Literal["time", "spectral"]))
        if order < 1:
            raise ValueError(f"order must be at least 1, got {order}")
        if not 0 < sampling_rate < float("inf"):
            raise ValueError(f"sampling_rate must be positive and finite, got {sampling_rate}")
        if n_freqs < 2:
            raise ValueError(f"n_freqs must be at least 2, got {n_freqs}")
        self.order = order
        self.domain = domain
        self.sampling_rate = sampling_rate
        self.n_freqs = n_freqs
        self.epochs = epochs

    def __repr__(self) -> str:
        return (
            f"GrangerCausality({self.order}, {self.domain!r}, "
            f"sampling_rate={self.sampling_rate}, n_freqs={self.n_freqs}, epochs={self.epochs})"
        )

    def compute(
        self, x: Array, *, surrogates: int = 0, generator: torch.Generator | None = None
    ) -> Connectivity:
        """Granger causality between all channels.

        Args:
            x: Signals (..., channels, time), or (..., epochs, channels, time).
            surrogates: Draws with all phases anew, for p-values. No channel drives another there.
            generator: Source of the draws; None starts one from seed 0.

        Returns:
            Values [to, from], (..., channels, channels) and for `"spectral"` also (..., freqs);
            the diagonal is 0. Frequencies, None in time; p-values.

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When x is too short or not finite, or surrogates is negative.

        Warns:
            UserWarning: When a channel is constant.
            RuntimeWarning: When a fitted model is not stable: the signals drift or the order is
                too large, and the values mean little.
        """
        check_surrogates(surrogates)
        data = epochs_of(x, self.order, epochs=self.epochs)
        flat, z = standardised(data)
        values, reach = self._measure(z)
        if bool((reach >= 1).any()):
            warnings.warn(
                f"{int((reach >= 1).sum())} fitted model(s) are not stable, their largest "
                f"eigenvalue is {float(reach.max()):.4g}; detrend or difference x, or lower order",
                RuntimeWarning,
                stacklevel=2,
            )
        same = torch.eye(z.shape[-2], dtype=torch.bool, device=z.device)
        fixed = flat.unsqueeze(-1) | flat.unsqueeze(-2) | same
        freqs = None
        if self.domain == "spectral":
            fixed = fixed.unsqueeze(-1)
            freqs = self._freqs(z).to(data.dtype)
        values = values.masked_fill(fixed, 0.0)
        p_values = surrogate_p_values(
            values,
            lambda source: self._measure(phase_shifted(z, source))[0],
            surrogates,
            generator,
            fixed,
        )
        p_values = None if p_values is None else p_values.to(data.dtype)
        return Connectivity(values.to(data.dtype), freqs, p_values)

    def _measure(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Values of all ordered pairs, and the largest eigenvalue of every model."""
        n = z.shape[-2]
        pairs = pairs_of(n, z.device)
        models = fit_pairs(z, pairs, self.order)
        if self.domain == "time":
            both = time_causality(models).unsqueeze(-1)
        else:
            turn = 2 * torch.pi * self._freqs(z) / float(self.sampling_rate)
            both = spectral_causality(models, turn)
        first, second = pairs.unbind(-1)
        full = both.new_zeros(*both.shape[:-3], n, n, both.shape[-1])
        full[..., first, second, :] = both[..., 0, :]
        full[..., second, first, :] = both[..., 1, :]
        reach = radius(models.coefficients.detach())
        return (full.squeeze(-1) if self.domain == "time" else full), reach

    def _freqs(self, z: Tensor) -> Tensor:
        half = float(self.sampling_rate) / 2
        return torch.linspace(0, half, self.n_freqs, dtype=z.dtype, device=z.device)
