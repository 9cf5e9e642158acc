"""What a stimulus is asked for: objectives, penalties, priors and constraints."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "L2",
    "Blur",
    "Box",
    "Constraint",
    "Match",
    "Maximize",
    "Minimize",
    "Naturalistic",
    "NonNegative",
    "NormBall",
    "TotalVariation",
]


@dataclass(frozen=True)
class Maximize:
    """Objective: the activation.

    Examples:
        >>> Maximize()(torch.tensor([2.0]))
        tensor([2.])
    """

    def __call__(self, activation: Tensor) -> Tensor:
        """Return what is to be maximised, one number per stimulus."""
        return activation


@dataclass(frozen=True)
class Minimize:
    """Objective: minus the activation.

    Examples:
        >>> Minimize()(torch.tensor([2.0]))
        tensor([-2.])
    """

    def __call__(self, activation: Tensor) -> Tensor:
        """Return what is to be maximised, one number per stimulus."""
        return -activation


@dataclass(frozen=True)
class Match:
    r"""Objective: minus the squared distance from a value, $-(a - v)^2$.

    Args:
        value: The activation that is wanted.

    Examples:
        >>> Match(3.0)(torch.tensor([2.0, 3.0]))
        tensor([-1., -0.])
    """

    value: float

    def __call__(self, activation: Tensor) -> Tensor:
        """Return what is to be maximised, one number per stimulus."""
        return -(activation - self.value).square()


@dataclass(frozen=True)
class L2:
    r"""Penalty $w \sum_i x_i^2$ of a stimulus.

    Args:
        weight: The weight $w$, at least 0.

    Raises:
        ValueError: When the weight is negative.

    Examples:
        >>> L2(0.5)(torch.tensor([[1.0, 3.0]]))
        tensor([5.])
    """

    weight: float

    def __post_init__(self) -> None:
        _check_positive("weight", self.weight, zero=True)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the penalty of every stimulus, x being (n_stimuli, ...)."""
        return self.weight * x.square().flatten(1).sum(1)


@dataclass(frozen=True)
class TotalVariation:
    r"""Penalty $w \sum \sqrt{(\Delta x)^2 + \epsilon^2}$ of the differences between neighbours.

    Args:
        weight: The weight $w$, at least 0.
        axes: Dimensions of one stimulus along which neighbours differ; None means the first for
            (time,) and (time, channel), and the last two for (channel, height, width).
        epsilon: Differences below it count quadratically, so that the gradient stays finite.

    Raises:
        ValueError: When `weight` is negative or `epsilon` not positive; at the call, when an axis
            does not exist.

    Examples:
        >>> penalty = TotalVariation(1.0, epsilon=1e-9)(torch.tensor([[0.0, 2.0, 1.0]]))
        >>> round(penalty.item(), 6)
        3.0
    """

    weight: float
    axes: tuple[int, ...] | None = None
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        _check_positive("weight", self.weight, zero=True)
        _check_positive("epsilon", self.epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the penalty of every stimulus, x being (n_stimuli, ...)."""
        total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for axis in smooth_axes(x.shape[1:], self.axes):
            step = x.diff(dim=axis + 1)
            total = total + (step.square() + self.epsilon**2).sqrt().flatten(1).sum(1)
        return self.weight * total


@dataclass(frozen=True)
class Blur:
    r"""Blur the stimulus from time to time with a periodic Gaussian.

    Args:
        sigma: Standard deviation in samples or pixels.
        every: Number of steps between two blurs; none follows the last step.
        axes: Dimensions of one stimulus to blur, as in `TotalVariation`.

    Raises:
        ValueError: When `sigma` or `every` is not positive.

    Examples:
        >>> flat = torch.ones(1, 8)
        >>> torch.allclose(Blur(1.0, every=4).apply(flat), flat)
        True
    """

    sigma: float
    every: int
    axes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_positive("sigma", self.sigma)
        if self.every < 1:
            raise ValueError(f"every needs at least 1 step, got {self.every}")

    def apply(self, x: Tensor) -> Tensor:
        """Return the blurred stimuli.

        Args:
            x: Shape (n_stimuli, ...).

        Returns:
            Shape of `x`.

        Examples:
            >>> spike = torch.zeros(1, 9)
            >>> spike[0, 4] = 1.0
            >>> int(Blur(1.0, every=1).apply(spike).argmax())
            4
        """
        axes = smooth_axes(x.shape[1:], self.axes)
        freq = _radial_frequency(x, axes)
        return _filtered(x, axes, (-2 * (math.pi * self.sigma * freq) ** 2).exp())


@dataclass(frozen=True)
class Naturalistic:
    r"""Write the stimulus as filtered noise with the spectrum of natural signals.

    The stimulus is $x = S z$, where the filter $S$ has the amplitude $f^{-\beta/2}$, and the search
    moves $z$; a `NormBall` holds for $z$. White $z$ gives power $f^{-\beta}$. The filter's mean
    power is 1, and its lowest frequency also serves frequency 0.

    Args:
        beta: Exponent of the power spectrum.
        axes: Dimensions of one stimulus to filter, as in `TotalVariation`; with two of them $f$ is
            the radius.

    Examples:
        >>> z = torch.zeros(1, 16)
        >>> z[0, 3] = 1.0
        >>> torch.allclose(Naturalistic(beta=0.0).shape_spectrum(z), z, atol=1e-6)
        True

    References:
        Field, D. J. (1987). Relations between the statistics of natural images and the response
        properties of cortical cells. Journal of the Optical Society of America A 4, 2379.
        doi:10.1364/JOSAA.4.002379
    """

    beta: float = 1.0
    axes: tuple[int, ...] | None = None

    def shape_spectrum(self, z: Tensor) -> Tensor:
        """Return the stimuli that belong to some coordinates.

        Args:
            z: Shape (n_stimuli, ...).

        Returns:
            Shape of `z`.

        Examples:
            >>> constant = torch.ones(1, 4)
            >>> Naturalistic(beta=0.0).shape_spectrum(constant)
            tensor([[1., 1., 1., 1.]])
        """
        axes = smooth_axes(z.shape[1:], self.axes)
        freq = _radial_frequency(z, axes)
        lowest = freq[freq > 0].min() if bool((freq > 0).any()) else torch.ones_like(freq).max()
        amplitude = freq.clamp(min=float(lowest)) ** (-self.beta / 2)
        return _filtered(z, axes, amplitude / amplitude.square().mean().sqrt())


@runtime_checkable
class Constraint(Protocol):
    """A convex set of stimuli."""

    def project(self, x: Tensor) -> Tensor:
        """Return the nearest stimuli of the set, x being (n_stimuli, ...)."""


@dataclass(frozen=True)
class NormBall:
    r"""Constraint $\lVert x \rVert_2 \le r$ on each stimulus.

    Args:
        radius: The radius $r$, positive.

    Raises:
        ValueError: When the radius is not positive.

    Examples:
        >>> NormBall(1.0).project(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """

    radius: float

    def __post_init__(self) -> None:
        _check_positive("radius", self.radius)

    def project(self, x: Tensor) -> Tensor:
        """Return the nearest stimuli inside the ball.

        Args:
            x: Shape (n_stimuli, ...).

        Returns:
            Shape of `x`.

        Examples:
            >>> NormBall(9.0).project(torch.ones(1, 2))
            tensor([[1., 1.]])
        """
        norm = x.flatten(1).norm(dim=1).clamp(min=self.radius)
        inside: Tensor = x * (self.radius / norm).reshape(-1, *[1] * (x.ndim - 1))
        return inside


@dataclass(frozen=True)
class Box:
    r"""Constraint $low \le x_i \le high$.

    Args:
        low: Smallest value.
        high: Largest value.

    Raises:
        ValueError: When `low` is not below `high`.

    Examples:
        >>> Box(0.0, 1.0).project(torch.tensor([[-1.0, 0.5, 2.0]]))
        tensor([[0.0000, 0.5000, 1.0000]])
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"a box needs low < high, got low={self.low} and high={self.high}")

    def project(self, x: Tensor) -> Tensor:
        """Return the nearest stimuli inside the box.

        Args:
            x: Shape (n_stimuli, ...).

        Returns:
            Shape of `x`.

        Examples:
            >>> Box(0.0, 1.0).project(torch.tensor([[7.0]]))
            tensor([[1.]])
        """
        return x.clamp(self.low, self.high)


@dataclass(frozen=True)
class NonNegative:
    """Constraint: no value below 0, as for rates or intensities.

    Examples:
        >>> NonNegative().project(torch.tensor([[-1.0, 2.0]]))
        tensor([[0., 2.]])
    """

    def project(self, x: Tensor) -> Tensor:
        """Return the nearest stimuli without negative values.

        Args:
            x: Shape (n_stimuli, ...).

        Returns:
            Shape of `x`.

        Examples:
            >>> NonNegative().project(torch.tensor([[-3.0]]))
            tensor([[0.]])
        """
        return x.clamp(min=0.0)


def smooth_axes(shape: Sequence[int], axes: tuple[int, ...] | None) -> tuple[int, ...]:
    """Dimensions of one stimulus that are time or space.

    Raises:
        ValueError: When one does not exist.
    """
    if axes is None:
        return (1, 2) if len(shape) == 3 else (0,)
    if not axes or any(not -len(shape) <= axis < len(shape) for axis in axes):
        raise ValueError(f"axes {axes} do not exist in a stimulus of shape {tuple(shape)}")
    return tuple(axis % len(shape) for axis in axes)


def _radial_frequency(x: Float[Tensor, "*shape"], axes: tuple[int, ...]) -> Float[Tensor, "*freq"]:
    """Distance from frequency 0 in cycles per sample, in a shape that broadcasts over `x`."""
    total = torch.zeros([1] * x.ndim, dtype=x.dtype, device=x.device)
    for axis in axes:
        n = x.shape[axis + 1]
        freq = torch.fft.fftfreq(n, dtype=x.dtype, device=x.device)
        total = total + freq.square().reshape([n if d == axis + 1 else 1 for d in range(x.ndim)])
    return total.sqrt()


def _filtered(
    x: Float[Tensor, "*shape"], axes: tuple[int, ...], gain: Float[Tensor, "*freq"]
) -> Float[Tensor, "*shape"]:
    dims = [axis + 1 for axis in axes]
    filtered: Tensor = torch.fft.ifftn(torch.fft.fftn(x, dim=dims) * gain, dim=dims).real
    return filtered


def _check_positive(name: str, value: float, *, zero: bool = False) -> None:
    if not (value > 0 or (zero and value == 0)):
        bound = "of at least" if zero else "above"
        raise ValueError(f"{name} needs a number {bound} 0, got {value}")
