"""Undirected coupling between channels by frequency: coherence, phase locking, phase lag."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from neuros_mechint._arrays import Array, Number, one_of
from neuros_mechint.multiscale._spectra import (
    checked,
    constant_channels,
    freqs_of,
    rounding,
    segmented,
    spectra,
)
from neuros_mechint.multiscale._surrogates import (
    check_surrogates,
    phase_shifted,
    surrogate_p_values,
)

__all__ = ["Coherence", "Connectivity", "PhaseLockingValue", "WeightedPhaseLagIndex"]

_Measure: TypeAlias = Callable[[Tensor], Tensor]


class Connectivity(NamedTuple):
    """Coupling between all channels.

    Attributes:
        values: Coupling, (..., channels, channels, freqs), or without the last axis where there
            are no frequencies. Directed measures are [to, from].
        freqs: Frequencies in Hz, (freqs,); None where there are none.
        p_values: Share of surrogates at least as large, shaped as values; None without surrogates.
    """

    values: Tensor
    freqs: Tensor | None
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
        return _connectivity(x, self._measure, self, surrogates, generator)

    def _measure(self, data: Tensor) -> Tensor:
        value = spectra(data)
        power = _square(value).sum(-3, keepdim=True)
        some = power > 0
        unit = value * torch.where(some, power.where(some, 1.0).rsqrt(), 0.0)
        cross = _cross(unit)
        if self.kind == "imaginary":
            return -cross.imag.movedim(-3, -1)
        square = _square(cross)
        return (square if self.kind == "squared" else _root(square)).movedim(-3, -1)


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
        return _connectivity(x, _locking, self, surrogates, generator)


class WeightedPhaseLagIndex:
    r"""Weighted phase lag index, $|\langle I \rangle| / \langle |I| \rangle$, $I = \mathrm{Im}S$.

    Debiased: $(( \sum I )^2 - \sum I^2) / (( \sum |I| )^2 - \sum I^2)$ over segments. It is 0 on
    the diagonal and between copies without a lag, whatever their scale and offset: an imaginary
    part counts as 0 where rounding of the samples could have made it. It is 0 for a constant
    channel too, with a warning.

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
        return _connectivity(x, self._measure, self, surrogates, generator)

    def _measure(self, data: Tensor) -> Tensor:
        value = spectra(data)
        real, imag = value.real.contiguous(), value.imag.contiguous()
        with torch.no_grad():
            least = _least_lag(real.abs() + imag.abs(), rounding(data))
        return _lag(real, imag, least, debiased=self.debiased)


def _check(sampling_rate: Number, segment: int) -> None:
    if not 0 < sampling_rate < float("inf"):
        raise ValueError(f"sampling_rate must be positive and finite, got {sampling_rate}")
    if segment < 2:
        raise ValueError(f"segment must be at least 2 samples, got {segment}")


def _connectivity(
    x: Array,
    measure: _Measure,
    settings: "Coherence | PhaseLockingValue | WeightedPhaseLagIndex",
    surrogates: int,
    generator: torch.Generator | None,
) -> Connectivity:
    check_surrogates(surrogates)
    epochs, segment = settings.epochs, settings.segment
    signals = checked(x, epochs=epochs, segment=segment)
    data = segmented(signals, epochs=epochs, segment=segment)
    flat = constant_channels(data, stacklevel=3)
    dead = (flat.unsqueeze(-1) | flat.unsqueeze(-2)).unsqueeze(-1)
    values = measure(data).masked_fill(dead, 0.0)

    def draw(source: torch.Generator) -> Tensor:
        # Shifted before they are cut: segments that overlap do so in a draw as well.
        return measure(segmented(phase_shifted(signals, source), epochs=epochs, segment=segment))

    # No draw takes a channel out of step with itself, and a constant one couples to none.
    same = torch.eye(data.shape[-2], dtype=torch.bool, device=data.device).unsqueeze(-1)
    p_values = surrogate_p_values(values, draw, surrogates, generator, same | dead)
    return Connectivity(values, freqs_of(data, float(settings.sampling_rate)), p_values)


def _cross(
    value: Complex[Tensor, "*batch epoch channel freq"],
) -> Complex[Tensor, "*batch freq channel channel"]:
    """Sum of $x_i^* x_j$ over segments, one product of matrices per frequency."""
    turned = value.movedim(-1, -3).contiguous()
    return turned.mH @ turned


# Large tensors that come and go cost more than what is computed in them: few, and in place.
def _square(value: Complex[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    square: Tensor = value.real.square()
    return square.add_(value.imag.square())


def _root(square: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Square root whose gradient at 0 is 0."""
    some = square > 0
    return torch.where(some, square.where(some, 1.0).sqrt(), 0.0)


def _modulus(value: Complex[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    size: Tensor = value.abs()
    return size


def _locking(data: Tensor) -> Tensor:
    value = spectra(data)
    size = _modulus(value)
    some = size > 0
    cross = _cross(value * torch.where(some, 1 / size.where(some, 1.0), 0.0))
    return _root(_square(cross)).movedim(-3, -1) / value.shape[-3]


def _lag(
    real: Float[Tensor, "*batch epoch channel freq"],
    imag: Float[Tensor, "*batch epoch channel freq"],
    least: Float[Tensor, "*batch channel channel freq"],
    *,
    debiased: bool,
) -> Float[Tensor, "*batch channel channel freq"]:
    """Every channel beside the next ones in a ring: views of the signals, half of all pairs.

    One segment at a time: all at once would be bound by memory.
    """
    n = real.shape[-2]
    half = n // 2
    first = real.new_zeros(*real.shape[:-3], half, n, real.shape[-1])
    size, second = torch.zeros_like(first), torch.zeros_like(first)
    for a, b in zip(real.unbind(-3), imag.unbind(-3), strict=True):
        cross = _ring(a, half) * b.unsqueeze(-3)
        cross.addcmul_(_ring(b, half), a.unsqueeze(-3), value=-1)
        first += cross
        size += cross.abs()
        if debiased:
            second.addcmul_(cross, cross)
    if debiased:
        top, below = first.square() - second, size.square() - second
    else:
        top, below = first.abs(), size
    here = torch.arange(n, device=real.device)
    there = (here + torch.arange(1, half + 1, device=real.device)[:, None]) % n
    # Imaginary parts that are rounding throughout, as those of a copy, are no lag to speak of.
    some = (size > least[..., here, there, :]) & (below > 0)
    found = torch.where(some, top / below.where(some, 1.0), 0.0)
    if n == 1:
        return found.new_zeros(*found.shape[:-3], 1, 1, found.shape[-1])
    # Both pairs of channels stand where the step between them, the shorter way, leads from one.
    ahead = (here - here[:, None]) % n
    forward = ahead <= half
    step = torch.where(forward, ahead, n - ahead).clamp(min=1) - 1
    full = found[..., step, torch.where(forward, here[:, None], here), :]
    return full.masked_fill((ahead == 0).unsqueeze(-1), 0.0)


def _ring(
    x: Float[Tensor, "*batch channel freq"], half: int
) -> Float[Tensor, "*batch step channel freq"]:
    """The channel that is 1, 2, ... steps after each one, without a copy of each."""
    n = x.shape[-2]
    doubled = torch.cat([x, x[..., :half, :]], -2)
    return doubled.unfold(-2, n, 1)[..., 1 : half + 1, :, :].mT


def _least_lag(
    size: Float[Tensor, "*batch epoch channel freq"],
    error: Float[Tensor, "*batch epoch channel one"],
) -> Float[Tensor, "*batch channel channel freq"]:
    r"""What rounding alone may make of $\sum |\mathrm{Im} x_i x_j^*|$: one product of matrices."""
    one_side = error.squeeze(-1).mT @ size.flatten(-2)
    one_side = torch.unflatten(one_side, -1, size.shape[-2:])
    return one_side + one_side.transpose(-3, -2)
