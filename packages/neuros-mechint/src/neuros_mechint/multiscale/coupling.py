"""Undirected coupling between channels by frequency: coherence, phase locking, phase lag."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from neuros_mechint._arrays import Array, Number, one_of
from neuros_mechint.multiscale._spectra import (
    constant_channels,
    freqs_of,
    phase_shifted,
    segmented,
    spectra,
)

__all__ = ["Coherence", "Connectivity", "PhaseLockingValue", "WeightedPhaseLagIndex"]

_Measure: TypeAlias = Callable[[Tensor], Tensor]


class Connectivity(NamedTuple):
    """Coupling between all channels.

    Attributes:
        values: Coupling, (..., channels, channels, freqs).
        freqs: Frequencies in Hz, (freqs,).
        p_values: Share of surrogates at least as large, shaped as values; None without surrogates.
    """

    values: Tensor
    freqs: Tensor
    p_values: Tensor | None


class Coherence:
    r"""Coherence of channels, $|S_{xy}| / \sqrt{S_{xx} S_{yy}}$.

    Segments are demeaned and lie under a symmetric Hann window. A constant channel has coherence 0
    with every channel, itself included, and a warning says so.

    Args:
        kind: `"magnitude"`; its square; or `"imaginary"`, the signed
            $\mathrm{Im} S_{xy} / \sqrt{S_{xx} S_{yy}}$, which ignores instantaneous mixing.
        sampling_rate: Samples per second.
        epochs: Whether x holds epochs; else it is cut into half-overlapping segments.
        segment: Samples of a segment; only without epochs.

    Examples:
        >>> x = torch.randn(1, 512, generator=torch.Generator().manual_seed(0))
        >>> pair = torch.cat([x, -2 * x])
        >>> found = Coherence(sampling_rate=100.0, segment=64).compute(pair)
        >>> found.values.shape, round(float(found.values[0, 1].min()), 3)
        (torch.Size([2, 2, 33]), 1.0)

    References:
        Nolte et al. (2004). Identifying true brain interaction from EEG data using the imaginary
        part of coherency. Clinical Neurophysiology 115, 2292. doi:10.1016/j.clinph.2004.04.029
    """

    def __init__(
        self,
        kind: Literal["magnitude", "squared", "imaginary"] = "magnitude",
        *,
        sampling_rate: Number = 1.0,
        epochs: bool = False,
        segment: int = 256,
    ) -> None:
        one_of("kind", kind, get_args(Literal["magnitude", "squared", "imaginary"]))
        _check(sampling_rate, segment)
        self.kind = kind
        self.sampling_rate = sampling_rate
        self.epochs = epochs
        self.segment = segment

    def __repr__(self) -> str:
        return (
            f"Coherence({self.kind!r}, sampling_rate={self.sampling_rate}, epochs={self.epochs}, "
            f"segment={self.segment})"
        )

    def compute(
        self, x: Array, *, surrogates: int = 0, generator: torch.Generator | None = None
    ) -> Connectivity:
        """Coherence between all channels.

        Args:
            x: Signals (..., channels, time), or (..., epochs, channels, time).
            surrogates: Draws with all phases anew, for p-values.
            generator: Source of the draws; None starts one from seed 0.

        Returns:
            Values (..., channels, channels, freqs), frequencies, p-values.

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When x is too short or not finite, or surrogates is negative.
        """
        data = segmented(x, epochs=self.epochs, segment=self.segment)
        return _connectivity(data, self._measure, self.sampling_rate, surrogates, generator)

    def _measure(self, data: Tensor) -> Tensor:
        cross = _cross(spectra(data))
        power = cross.diagonal(dim1=-2, dim2=-1).real
        scale = (power.unsqueeze(-1) * power.unsqueeze(-2)).sqrt()
        value = cross.imag if self.kind == "imaginary" else _modulus(cross)
        value = torch.where(scale > 0, value / scale.where(scale > 0, 1.0), 0.0)
        return (value.square() if self.kind == "squared" else value).movedim(-3, -1)


class PhaseLockingValue:
    r"""Phase locking of channels over segments, $|\langle e^{i\Delta\phi} \rangle|$.

    Segments are demeaned and lie under a symmetric Hann window. A constant channel has the value 0
    with every channel, itself included, and a warning says so.

    Args:
        sampling_rate: Samples per second.
        epochs: Whether x holds epochs; else it is cut into half-overlapping segments.
        segment: Samples of a segment; only without epochs.

    Examples:
        >>> x = torch.randn(1, 512, generator=torch.Generator().manual_seed(0))
        >>> pair = torch.cat([x, -2 * x])
        >>> found = PhaseLockingValue(sampling_rate=100.0, segment=64).compute(pair)
        >>> round(float(found.values[0, 1].min()), 3)
        1.0

    References:
        Lachaux et al. (1999). Measuring phase synchrony in brain signals. Human Brain Mapping 8,
        194. doi:10.1002/(SICI)1097-0193(1999)8:4<194::AID-HBM4>3.0.CO;2-C
    """

    def __init__(
        self, *, sampling_rate: Number = 1.0, epochs: bool = False, segment: int = 256
    ) -> None:
        _check(sampling_rate, segment)
        self.sampling_rate = sampling_rate
        self.epochs = epochs
        self.segment = segment

    def __repr__(self) -> str:
        return (
            f"PhaseLockingValue(sampling_rate={self.sampling_rate}, epochs={self.epochs}, "
            f"segment={self.segment})"
        )

    def compute(
        self, x: Array, *, surrogates: int = 0, generator: torch.Generator | None = None
    ) -> Connectivity:
        """Phase locking between all channels.

        Args:
            x: Signals (..., channels, time), or (..., epochs, channels, time).
            surrogates: Draws with all phases anew, for p-values.
            generator: Source of the draws; None starts one from seed 0.

        Returns:
            Values (..., channels, channels, freqs), frequencies, p-values.

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When x is too short or not finite, or surrogates is negative.
        """
        data = segmented(x, epochs=self.epochs, segment=self.segment)
        return _connectivity(data, _locking, self.sampling_rate, surrogates, generator)


class WeightedPhaseLagIndex:
    r"""Weighted phase lag index, $|\langle I \rangle| / \langle |I| \rangle$, $I = \mathrm{Im}S$.

    Debiased: $(( \sum I )^2 - \sum I^2) / (( \sum |I| )^2 - \sum I^2)$ over segments. It is 0 on
    the diagonal, where the imaginary part is 0, and for a constant channel, with a warning.

    Args:
        debiased: Whether to estimate the square without the bias of few segments.
        sampling_rate: Samples per second.
        epochs: Whether x holds epochs; else it is cut into half-overlapping segments.
        segment: Samples of a segment; only without epochs.

    Examples:
        A quarter of a period of lag, in every segment alike:

        >>> t = torch.arange(512) / 64
        >>> pair = torch.stack([torch.cos(6.2832 * 8 * t), torch.sin(6.2832 * 8 * t)])
        >>> found = WeightedPhaseLagIndex(sampling_rate=64.0, segment=64).compute(pair)
        >>> round(float(found.values[0, 1, 8]), 3)
        1.0

    References:
        Vinck et al. (2011). An improved index of phase-synchronization for electrophysiological
        data. NeuroImage 55, 1548. doi:10.1016/j.neuroimage.2011.01.055
    """

    def __init__(
        self,
        *,
        debiased: bool = False,
        sampling_rate: Number = 1.0,
        epochs: bool = False,
        segment: int = 256,
    ) -> None:
        _check(sampling_rate, segment)
        self.debiased = debiased
        self.sampling_rate = sampling_rate
        self.epochs = epochs
        self.segment = segment

    def __repr__(self) -> str:
        return (
            f"WeightedPhaseLagIndex(debiased={self.debiased}, "
            f"sampling_rate={self.sampling_rate}, epochs={self.epochs}, segment={self.segment})"
        )

    def compute(
        self, x: Array, *, surrogates: int = 0, generator: torch.Generator | None = None
    ) -> Connectivity:
        """Phase lag between all channels.

        Args:
            x: Signals (..., channels, time), or (..., epochs, channels, time).
            surrogates: Draws with all phases anew, for p-values.
            generator: Source of the draws; None starts one from seed 0.

        Returns:
            Values (..., channels, channels, freqs), frequencies, p-values.

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When x is too short or not finite, or surrogates is negative.
        """
        data = segmented(x, epochs=self.epochs, segment=self.segment)
        return _connectivity(data, self._measure, self.sampling_rate, surrogates, generator)

    def _measure(self, data: Tensor) -> Tensor:
        value = spectra(data)
        n = value.shape[-2]
        rows, columns = torch.triu_indices(n, n, 1, device=value.device).unbind()
        upper = _lag(value, rows, columns, debiased=self.debiased)
        full = upper.new_zeros(*upper.shape[:-2], n, n, upper.shape[-1])
        full[..., rows, columns, :] = upper
        full[..., columns, rows, :] = upper
        return full


def _check(sampling_rate: Number, segment: int) -> None:
    if not 0 < sampling_rate < float("inf"):
        raise ValueError(f"sampling_rate must be positive and finite, got {sampling_rate}")
    if segment < 2:
        raise ValueError(f"segment must be at least 2 samples, got {segment}")


def _connectivity(
    data: Tensor,
    measure: _Measure,
    sampling_rate: Number,
    surrogates: int,
    generator: torch.Generator | None,
) -> Connectivity:
    if surrogates < 0:
        raise ValueError(f"surrogates must be at least 0, got {surrogates}")
    flat = constant_channels(data)
    dead = (flat.unsqueeze(-1) | flat.unsqueeze(-2)).unsqueeze(-1)
    values = measure(data).masked_fill(dead, 0.0)
    freqs = freqs_of(data, float(sampling_rate))
    if surrogates == 0:
        return Connectivity(values, freqs, None)
    source = torch.Generator().manual_seed(0) if generator is None else generator
    count = torch.ones_like(values)
    with torch.no_grad():
        for _ in range(surrogates):
            count += measure(phase_shifted(data, source)).abs() >= values.abs()
    # No draw takes a channel out of step with itself, and a constant one couples to none.
    same = torch.eye(data.shape[-2], dtype=torch.bool, device=data.device).unsqueeze(-1)
    p_values = (count / (1 + surrogates)).masked_fill(same | dead, 1.0)
    return Connectivity(values, freqs, p_values)


def _cross(
    value: Complex[Tensor, "*batch epoch channel freq"],
) -> Complex[Tensor, "*batch freq channel channel"]:
    """Mean of $x_i x_j^*$ over segments, one product of matrices per frequency."""
    turned = value.movedim(-1, -3)
    return turned.mT @ turned.conj() / value.shape[-3]


def _modulus(value: Complex[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    size: Tensor = value.abs()
    return size


def _locking(data: Tensor) -> Tensor:
    value = spectra(data)
    size = _modulus(value)
    unit = torch.where(size > 0, value / size.where(size > 0, 1.0), 0.0)
    return _modulus(_cross(unit)).movedim(-3, -1)


def _lag(
    value: Complex[Tensor, "*batch epoch channel freq"],
    rows: Tensor,
    columns: Tensor,
    *,
    debiased: bool,
) -> Float[Tensor, "*batch pair freq"]:
    """One segment at a time over the upper triangle: all at once would be bound by memory."""
    parts = zip(value.real.unbind(-3), value.imag.unbind(-3), strict=True)
    first = value.real.new_zeros(*value.shape[:-3], len(rows), value.shape[-1])
    size, second = first, first
    for a, b in parts:
        cross = b[..., rows, :] * a[..., columns, :] - a[..., rows, :] * b[..., columns, :]
        first = first + cross
        size = size + cross.abs()
        second = second + cross.square() if debiased else second
    # |sum| / sum|.| without a segment of weight is 0 / 0: there is no lag to speak of.
    if debiased:
        top, below = first.square() - second, size.square() - second
    else:
        top, below = first.abs(), size
    return torch.where(below > 0, top / below.where(below > 0, 1.0), 0.0)
