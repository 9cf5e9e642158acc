"""Higuchi's fractal dimension of a path."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.fractals._conventions import (
    ArrayT,
    Signals,
    deliver,
    map_rows,
    read_signals,
    require_length,
    warn_degenerate,
)

__all__ = ["HiguchiFractalDimension"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HiguchiFractalDimension:
    r"""Fractal dimension of the graph of a signal, from the length of the curve at lags 1..k_max.

    $$L(k) = \frac{1}{k} \sum_{m=1}^{k} \frac{N - 1}{n_m k^2}
      \sum_{i=1}^{n_m} |x_{m+ik} - x_{m+(i-1)k}|, \qquad n_m = \lfloor (N - m) / k \rfloor$$

    and $D$ is the slope of $\ln L(k)$ against $\ln(1/k)$. A straight line has $D = 1$, fractional
    Brownian motion $D = 2 - H$, white noise $D = 2$. The estimate is not clipped to [1, 2].

    The estimate does not change with the unit or the offset of the signal, is differentiable, and
    treats every signal of a batch alike. 16-bit floats are computed and returned in float32.

    Args:
        k_max: largest lag, at least 2.
        weights: `"uniform"` is Higuchi's least-squares line; `"inverse_k"` weights lag $k$ by
            $1/k$, because short lags average more increments: less variance on rough paths.

    Raises:
        ValueError: if `k_max` is below 2 or `weights` is unknown.

    Examples:
        >>> ramp = torch.arange(100, dtype=torch.float64)
        >>> round(HiguchiFractalDimension(k_max=8).compute(ramp).item(), 9)
        1.0

    References:
        Higuchi (1988). Approach to an irregular time series on the basis of the fractal theory.
        Physica D 31. https://doi.org/10.1016/0167-2789(88)90081-4
    """

    k_max: int = 10
    weights: Literal["uniform", "inverse_k"] = "uniform"

    def __post_init__(self) -> None:
        if self.k_max < 2:
            raise ValueError(f"k_max must be at least 2 to fit a line, got {self.k_max}")
        if self.weights not in ("uniform", "inverse_k"):
            raise ValueError(f"weights must be 'uniform' or 'inverse_k', got {self.weights!r}")

    def compute(self, x: ArrayT, *, dim: int = -1) -> ArrayT:
        r"""Estimate the dimension of each signal.

        Args:
            x: signals with at least `2 * k_max + 1` samples along `dim`, any unit.
            dim: the time axis.

        Returns:
            The dimension, of the shape of `x` without `dim`. A signal whose curve has length zero
            at some lag (a constant, or a period of at most `k_max` samples) gives nan, one
            warning, and no gradient.

        Raises:
            ValueError: if `x` is too short or not finite.
            TypeError: if `x` is not a real tensor or array.

        Examples:
            >>> import numpy as np
            >>> HiguchiFractalDimension().compute(np.linspace(0.0, 1.0, 50)).round(6).item()
            1.0
        """
        signals = self._read(x, dim)
        lengths = self._lengths(signals)
        usable = (lengths > 0).all(-1)
        # A length of one in place of zero keeps the logarithm's gradient out of those rows.
        logs = torch.where(usable[..., None], lengths, 1.0).log()
        # Not a matrix product: autocast would round that to half precision.
        dimension = (logs * self._line_weights().to(logs)).sum(-1)
        warn_degenerate(~usable, "are constant or repeat within k_max samples")
        result: ArrayT = deliver(signals, torch.where(usable, dimension, math.nan))
        return result

    def curve(self, x: ArrayT, *, dim: int = -1) -> tuple[ArrayT, ArrayT]:
        r"""Return the points through which the line is fitted.

        Args:
            x: signals as in `compute`.
            dim: the time axis.

        Returns:
            $\ln(1/k)$ of shape `(k_max,)`, and $\ln L(k)$ of the shape of `x` without `dim`
            followed by `k_max`; a zero length gives minus infinity.

        Raises:
            ValueError: if `x` is too short or not finite.
            TypeError: if `x` is not a real tensor or array.

        Examples:
            >>> log_scale, log_length = HiguchiFractalDimension(k_max=2).curve(torch.arange(9.0))
            >>> (log_length[0] - log_length[1]).div(log_scale[0] - log_scale[1]).round().item()
            1.0
        """
        signals = self._read(x, dim)
        logs = self._lengths(signals).log()
        scales = -torch.arange(1, self.k_max + 1, dtype=torch.float64).log()
        return deliver(signals, scales.to(logs)), deliver(signals, logs)

    def _read(self, x: object, dim: int) -> Signals:
        signals = read_signals(x, dim)
        require_length(
            signals,
            2 * self.k_max + 1,
            f"2 * k_max + 1 with k_max = {self.k_max}: lower k_max or pass a longer signal",
        )
        return signals

    def _lengths(self, signals: Signals) -> Tensor:
        pair_weights = _all_pair_weights(
            signals.length, self.k_max, signals.dtype, signals.view.device
        )
        return map_rows(signals, lambda rows: (_curve_lengths(rows, pair_weights),))[0]

    def _line_weights(self) -> Float[Tensor, " scale"]:
        """Vector whose product with ln L is the (weighted) least-squares slope."""
        k = torch.arange(1, self.k_max + 1, dtype=torch.float64)
        weight = torch.ones_like(k) if self.weights == "uniform" else 1 / k
        scale = -k.log()
        centred = scale - (weight * scale).sum() / weight.sum()
        return weight * centred / (weight * centred.square()).sum()


@lru_cache(maxsize=32)
def _all_pair_weights(
    n: int, k_max: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    # Cached: for 128 signals of 1000 samples, making the weights costs as much as using them.
    lags = range(1, k_max + 1)
    return tuple(torch.from_numpy(_pair_weights(n, k)).to(device, dtype) for k in lags)


def _pair_weights(n: int, k: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Weight of |x[j + k] - x[j]| in L(k), for j = 0..n-k-1: it depends on j mod k only."""
    n_m = (n - 1 - np.arange(k)) // k
    return np.resize((n - 1) / (n_m * float(k) ** 3), n - k)


def _curve_lengths(
    rows: Float[Tensor, "batch time"], pair_weights: tuple[Tensor, ...]
) -> Float[Tensor, "batch scale"]:
    """L(k) for k = 1..k_max: one weighted sum of absolute increments per lag (Higuchi, eq. 2)."""
    lags = list(enumerate(pair_weights, start=1))
    if torch.is_grad_enabled() and rows.requires_grad:
        return torch.stack([(rows[:, k:] - rows[:, :-k]).abs() @ w for k, w in lags], dim=-1)
    # One buffer for all lags: an allocation per lag leaves the cache and costs five times as much.
    buffer = rows.new_empty(rows[:, 1:].numel())
    lengths = rows.new_empty(len(lags), rows.shape[0])
    for k, w in lags:
        steps = buffer[: rows[:, k:].numel()].view(rows.shape[0], -1)
        torch.sub(rows[:, k:], rows[:, :-k], out=steps)
        torch.mv(steps.abs_(), w, out=lengths[k - 1])
    return lengths.T
