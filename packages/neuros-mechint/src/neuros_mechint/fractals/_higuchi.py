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

# Samples of a block and lags of one pass; smaller ones spend their time in calls.
_BLOCK_SAMPLES = 2**15
_LAGS = 10


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
        line = _line_weights(self.k_max, self.weights, lengths.dtype, lengths.device)
        usable = lengths.detach().amin(-1) > 0
        if not bool(usable.all()):
            warn_degenerate(~usable, "are constant or repeat within k_max samples")
            # A length of one in place of zero keeps the logarithm's gradient out of those rows.
            lengths = torch.where(usable[..., None], lengths, 1.0)
            line = torch.where(usable[..., None], line, math.nan)
        # Not a matrix product: autocast would round that to half precision.
        result: ArrayT = deliver(signals, (lengths.log() * line).sum(-1))
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


@lru_cache(maxsize=32)
def _line_weights(
    k_max: int, weights: str, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, " scale"]:
    """Vector whose product with ln L is the (weighted) least-squares slope."""
    k = torch.arange(1, k_max + 1, dtype=torch.float64)
    weight = torch.ones_like(k) if weights == "uniform" else 1 / k
    scale = -k.log()
    centred = scale - (weight * scale).sum() / weight.sum()
    return (weight * centred / (weight * centred.square()).sum()).to(device, dtype)


@lru_cache(maxsize=32)
def _all_pair_weights(
    n: int, k_max: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "scale time"]:
    # Cached: for 128 signals of 1000 samples, making the weights costs as much as using them.
    table = torch.zeros(k_max, n, dtype=torch.float64)
    for k in range(1, k_max + 1):
        table[k - 1, : n - k] = torch.from_numpy(_pair_weights(n, k))
    return table.to(device, dtype)


def _pair_weights(n: int, k: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Weight of |x[j + k] - x[j]| in L(k), for j = 0..n-k-1: it depends on j mod k only."""
    n_m = (n - 1 - np.arange(k)) // k
    return np.resize((n - 1) / (n_m * float(k) ** 3), n - k)


def _curve_lengths(
    rows: Float[Tensor, "batch time"], pair_weights: Float[Tensor, "scale time"]
) -> Float[Tensor, "batch scale"]:
    """L(k) for k = 1..k_max: one weighted sum of absolute increments per lag (Higuchi, eq. 2)."""
    (k_max, n), batch = pair_weights.shape, len(rows)
    if torch.is_grad_enabled() and rows.requires_grad:
        lags = enumerate(pair_weights, start=1)
        parts = [(rows[:, k:] - rows[:, :-k]).abs() @ w[: n - k] for k, w in lags]
        return torch.stack(parts, dim=-1)
    # What stays comes before what goes: the heap would keep a hole for every block otherwise.
    lengths = rows.new_empty(batch, k_max)
    n_blocks = -(-batch * n // _BLOCK_SAMPLES)
    per_block = -(-batch // n_blocks)
    padded = rows.new_zeros(per_block, n + k_max)
    here = padded[:, :n]
    sums = rows.new_empty(k_max, 1, per_block)
    passes = _passes(padded, pair_weights, sums)
    for start in range(0, batch, per_block):
        block = rows[start : start + per_block]
        here[: len(block)] = block
        for moved, steps, weights, out in passes:
            torch.sub(moved, here, out=steps)
            # The weights as a row: with them as a column the product takes ten times as long.
            torch.bmm(weights, steps.abs_().mT, out=out)
        lengths[start : start + per_block] = sums[:, 0, : len(block)].T
    return lengths


def _passes(
    padded: Float[Tensor, "batch longer"],
    pair_weights: Float[Tensor, "scale time"],
    sums: Float[Tensor, "scale 1 batch"],
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Views that serve every block: several lags at once, because a call costs as much as a sum.

    They are the signals moved by each lag, one buffer, the weights and where the sums go.
    """
    (k_max, n), (batch, stride) = pair_weights.shape, padded.shape
    buffer = padded.new_empty(min(_LAGS, k_max), batch, n)
    passes = []
    for first in range(0, k_max, _LAGS):
        weights = pair_weights[first : first + _LAGS, None]
        count = len(weights)
        # The zeros that follow a signal have no weight.
        moved = padded.as_strided((count, batch, n), (1, stride, 1), first + 1)
        passes.append((moved, buffer[:count], weights, sums[first : first + count]))
    return passes
