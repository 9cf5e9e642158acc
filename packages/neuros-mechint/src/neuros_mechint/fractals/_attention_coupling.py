"""Coupling of what attention looks like to how rough the signals are."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint.fractals._conventions import (
    ArrayT,
    Signals,
    deliver,
    read_signals,
    require_finite,
    warn_degenerate,
)
from neuros_mechint.fractals._graph_spectrum import spectral_dimension
from neuros_mechint.fractals._rank_correlation import adjusted, permutation_p_values, unit_ranks
from neuros_mechint.fractals._signal_metrics import Estimator, signal_metric

__all__ = ["AttentionFractalCoupling", "Coupling"]

# Fewer pairs have too few orders for any test.
_FEWEST = 4
# How far a row of weights in half precision may be from 1.
_SUM_TOLERANCE = 0.01


class Coupling(NamedTuple):
    """Rank correlations of attention with signals; NumPy arrays where the signals were.

    Attributes:
        correlation: Spearman's correlation, `(head, descriptor)`; nan for a descriptor that is the
            same in every sample.
        p_value: two-sided permutation p-value, by default adjusted so that the false discovery rate
            over all heads and descriptors is kept, `(head, descriptor)`.
        lagged: correlation of the descriptor of sample b with the signals of sample b + lag, for
            lags -max_lag to max_lag, `(head, descriptor, lag)`.
    """

    correlation: Tensor | NDArray[Any]
    p_value: Tensor | NDArray[Any]
    lagged: Tensor | NDArray[Any]


class AttentionFractalCoupling:
    r"""Rank correlation, head by head, of attention descriptors with the roughness of signals.

    Every sample gives a head three numbers: the entropy of its attention
    $-\frac1T \sum_{ij} a_{ij} \ln a_{ij}$ in nats, the spectral dimension of the symmetrised
    attention graph, and the mean distance $\frac1T \sum_{ij} a_{ij} |i - j|$ in steps; and the
    signals give one, their mean fractal metric over channels. Spearman's correlation over samples
    compares them. The p-values come from permutations of the samples, so samples need to be
    exchangeable; consecutive windows of one recording are not, and their p-values are too small.

    Args:
        metric: `"higuchi"`, `"dfa"`, `"hurst"`, `"beta"`, `"mf_width"`, or an estimator with
            `compute(x, dim=-1)`.
        descriptors: which of `"entropy"`, `"spectral_dimension"` and `"mean_distance"`.
        n_permutations: how many permutations are drawn. No p-value is below
            1 / (n_permutations + 1), before it is adjusted.
        max_lag: samples by which `lagged` shifts the signals, where consecutive samples are
            consecutive windows.
        adjust: `"bh"` keeps the false discovery rate (Benjamini & Hochberg), `"none"` leaves every
            p-value as it is.

    Raises:
        TypeError: when the metric is neither a name nor an estimator.
        ValueError: when an option is unknown, or a number is out of range.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> width = torch.linspace(0.5, 8.0, 24)[:, None, None, None]
        >>> distance = (torch.arange(32)[:, None] - torch.arange(32)).abs()
        >>> attention = (-distance / width).softmax(-1)  # one head that looks ever further
        >>> noise = torch.randn(24, 512, 1, generator=generator)
        >>> mix = torch.linspace(0.0, 1.0, 24)[:, None, None]
        >>> signals = mix * noise.cumsum(1) / 10 + (1 - mix) * noise  # ever smoother
        >>> found = AttentionFractalCoupling().compute(attention, signals, generator=generator)
        >>> entropy, _, distance = zip(found.correlation[0], found.p_value[0])
        >>> bool(entropy[0] < -0.9), bool(distance[0] < -0.9), bool(entropy[1] < 0.01)
        (True, True, True)

    References:
        Spearman (1904). The proof and measurement of association between two things. American
        Journal of Psychology 15. https://doi.org/10.2307/1412159
        Phipson & Smyth (2010). Permutation p-values should never be zero. Statistical
        Applications in Genetics and Molecular Biology 9. https://doi.org/10.2202/1544-6115.1585
    """

    def __init__(
        self,
        *,
        metric: str | Estimator = "higuchi",
        descriptors: Sequence[str] = ("entropy", "spectral_dimension", "mean_distance"),
        n_permutations: int = 9999,
        max_lag: int = 2,
        adjust: str = "bh",
    ) -> None:
        names = (descriptors,) if isinstance(descriptors, str) else tuple(descriptors)
        unknown = sorted(set(names) - set(_DESCRIPTORS))
        if unknown or not names:
            raise ValueError(
                f"descriptors needs some of {', '.join(_DESCRIPTORS)}, got {unknown or 'none'}"
            )
        if n_permutations < 1 or max_lag < 0:
            raise ValueError(
                f"n_permutations >= 1 and max_lag >= 0 are needed, got {n_permutations}, {max_lag}"
            )
        if adjust not in ("bh", "none"):
            raise ValueError(f"adjust needs 'bh' or 'none', got {adjust!r}")
        self.metric = metric
        self.descriptors = names
        self.n_permutations = n_permutations
        self.max_lag = max_lag
        self.adjust = adjust
        self._metric = signal_metric(metric)

    def __repr__(self) -> str:
        return (
            f"AttentionFractalCoupling(metric={self.metric!r}, descriptors={self.descriptors!r}, "
            f"n_permutations={self.n_permutations!r}, max_lag={self.max_lag!r}, "
            f"adjust={self.adjust!r})"
        )

    def compute(
        self,
        attention: ArrayT,
        signals: ArrayT,
        *,
        generator: torch.Generator | None = None,
    ) -> Coupling:
        """Correlate every head with the signals.

        Args:
            attention: weights `(batch, head, time, time)`, of queries to keys; rows sum to 1.
            signals: `(batch, time, channel)`, any unit; their time axis may have another length.
            generator: source of the permutations; None starts one from seed 0.

        Returns:
            The coupling.

        Raises:
            TypeError: if one of them is not a real tensor or array.
            ValueError: if shapes do not fit, there are fewer than `max_lag + 4` samples, attention
                is negative, not finite or does not sum to 1, a sample has no channel with a fractal
                metric, or that is the same in all samples.

        Examples:
            >>> generator = torch.Generator().manual_seed(0)
            >>> attention = torch.randn(8, 2, 16, 16, generator=generator).softmax(-1)
            >>> signals = torch.randn(8, 64, 3, generator=generator)
            >>> found = AttentionFractalCoupling().compute(attention, signals)
            >>> found.correlation.shape, found.lagged.shape
            (torch.Size([2, 3]), torch.Size([2, 3, 5]))
        """
        weights = read_signals(attention, -1, name="attention")
        series = read_signals(signals, -2 if signals.ndim > 1 else -1, name="signals")
        _check_shapes(weights, series, self.max_lag + _FEWEST)
        with torch.no_grad():
            described = self._described(_checked(weights))
            roughness = self._roughness(series)
            heads = described.to(roughness.device)
            correlation, p_value = self._tested(heads, roughness, generator)
            lags = range(-self.max_lag, self.max_lag + 1)
            lagged = torch.stack([_at_lag(heads, roughness, lag) for lag in lags], -1)
        parts = (correlation, p_value, lagged)
        return Coupling(*(deliver(series, part.to(series.dtype)) for part in parts))

    def _described(
        self, attention: Float[Tensor, "batch head query key"]
    ) -> Float[Tensor, "head descriptor batch"]:
        columns = [_DESCRIPTORS[name](attention).double() for name in self.descriptors]
        return torch.stack(columns, -1).permute(1, 2, 0)

    def _roughness(self, signals: Signals) -> Float[Tensor, " batch"]:
        by_channel = self._metric(signals.view.to(signals.dtype)).double()
        found = by_channel.nanmean(-1)
        undefined = int(found.isnan().sum())
        if undefined:
            raise ValueError(
                f"{undefined} of {len(found)} samples have no channel with a fractal metric; leave "
                "out samples whose channels are all constant"
            )
        if bool((found == found[0]).all()):
            raise ValueError("signals have the same fractal metric in every sample: no correlation")
        return found

    def _tested(
        self,
        heads: Float[Tensor, "head descriptor batch"],
        roughness: Float[Tensor, " batch"],
        generator: torch.Generator | None,
    ) -> tuple[Float[Tensor, "head descriptor"], Float[Tensor, "head descriptor"]]:
        if generator is None:
            generator = torch.Generator().manual_seed(0)
        variables, target = unit_ranks(heads), unit_ranks(roughness)
        correlation = (variables @ target).clamp(-1.0, 1.0)
        usable = ~correlation.isnan()
        warn_degenerate(~usable, "(head and descriptor) are the same in every sample")
        p = permutation_p_values(variables[usable], target, self.n_permutations, generator)
        p_value = torch.full_like(correlation, math.nan)
        p_value[usable] = adjusted(p) if self.adjust == "bh" else p
        return correlation, p_value


def _check_shapes(attention: Signals, signals: Signals, fewest: int) -> None:
    shape = tuple(attention.view.shape)
    if len(shape) != 4 or shape[-1] != shape[-2]:
        raise ValueError(f"attention needs shape (batch, head, time, time), got {shape}")
    if signals.view.ndim != 3 or len(signals.view) != shape[0]:
        given = tuple(signals.view.mT.shape) if signals.view.ndim > 1 else signals.view.shape
        raise ValueError(
            f"signals needs shape (batch, time, channel) with the {shape[0]} samples of attention, "
            f"got {tuple(given)}"
        )
    if shape[0] < fewest:
        raise ValueError(
            f"max_lag + {_FEWEST} = {fewest} samples are needed, got {shape[0]}; lower max_lag or "
            "pass more samples"
        )


def _checked(signals: Signals) -> Float[Tensor, "batch head query key"]:
    weights = signals.view.to(signals.dtype)
    require_finite(signals, weights.flatten(0, -2))
    if bool((weights < 0).any()):
        raise ValueError("attention must not be negative; pass the weights after the softmax")
    off = (weights.sum(-1) - 1).abs().max()
    if bool(off > _SUM_TOLERANCE):
        raise ValueError(
            f"every row of attention needs to sum to 1, got a sum that is off by {float(off):.2g}; "
            "pass the weights after the softmax and before dropout, without padded queries"
        )
    return weights


def _at_lag(
    heads: Float[Tensor, "head descriptor batch"], roughness: Float[Tensor, " batch"], lag: int
) -> Float[Tensor, "head descriptor"]:
    n = len(roughness) - abs(lag)
    first, second = max(-lag, 0), max(lag, 0)
    earlier = unit_ranks(heads[..., first : first + n])
    correlation: Tensor = earlier @ unit_ranks(roughness[second : second + n])
    return torch.clamp(correlation, -1.0, 1.0)


def _entropy(attention: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head"]:
    entropy: Tensor = torch.special.entr(attention)
    return entropy.sum(-1).mean(-1)


def _mean_distance(attention: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head"]:
    step = torch.arange(attention.shape[-1], device=attention.device)
    distance = (step[:, None] - step).abs().to(attention)
    return (attention * distance).sum((-2, -1)) / attention.shape[-1]


def _spectral(attention: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head"]:
    dimension: Tensor = spectral_dimension(attention)
    return dimension


_DESCRIPTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "entropy": _entropy,
    "spectral_dimension": _spectral,
    "mean_distance": _mean_distance,
}
