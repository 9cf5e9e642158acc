"""Edits that change the activation: scaling, steering, projection, noise, filters, coders."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from neuros_mechint.activations._editing import EditContext, fitted, per_row

__all__ = ["Add", "BandStop", "Noise", "ProjectOut", "Scale", "Splice"]


@dataclass(frozen=True, eq=False)
class Scale:
    r"""Multiply the activation, $x' = \alpha x$.

    Args:
        alpha: One factor, or one per row, shape (batch,).

    Examples:
        >>> from neuros_mechint.activations import run
        >>> run(torch.nn.Identity(), torch.ones(2), edits={"": Scale(3.0)}).output
        tensor([3., 3.])
    """

    alpha: float | Tensor

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        """Return the edited activation."""
        return value * per_row("alpha", self.alpha, value)


@dataclass(frozen=True, eq=False)
class Add:
    r"""Add a vector (steering), $x' = x + \alpha v$.

    Args:
        vector: Shape of the activation, or one that broadcasts to it, such as (d,).
        alpha: One factor, or one per row, shape (batch,).

    Examples:
        >>> from neuros_mechint.activations import run
        >>> edit = Add(torch.tensor([1.0, 0.0]), 2.0)
        >>> run(torch.nn.Identity(), torch.ones(1, 2), edits={"": edit}).output
        tensor([[3., 1.]])
    """

    vector: Tensor
    alpha: float | Tensor = 1.0

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        """Return the edited activation."""
        vector = fitted("vector", self.vector, value)
        return value + per_row("alpha", self.alpha, value) * vector


@dataclass(frozen=True, eq=False)
class ProjectOut:
    r"""Remove the span of some directions from the last dimension, $x' = x - Q Q^\top x$.

    The directions need not be orthogonal, of unit length or independent: `Q` is an orthonormal
    basis of their span.

    Args:
        directions: Shape (d,) or (k, d).

    Raises:
        ValueError: When the directions are not finite or not of one or two dimensions; at the call,
            when their width differs from the activation's.

    Examples:
        >>> from neuros_mechint.activations import run
        >>> edit = ProjectOut(torch.tensor([3.0, 0.0]))
        >>> run(torch.nn.Identity(), torch.ones(1, 2), edits={"": edit}).output
        tensor([[0., 1.]])
    """

    directions: Tensor

    def __post_init__(self) -> None:
        if self.directions.ndim not in {1, 2}:
            shape = tuple(self.directions.shape)
            raise ValueError(f"directions needs shape (d,) or (k, d), got {shape}")
        if not bool(self.directions.isfinite().all()):
            raise ValueError("directions needs finite numbers, got NaN or infinity")
        object.__setattr__(self, "_basis", _orthonormal(self.directions.detach()))

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        """Return the edited activation."""
        basis: Tensor = vars(self)["_basis"]
        if value.ndim == 0 or value.shape[-1] != basis.shape[-1]:
            raise ValueError(
                f"directions of shape {tuple(self.directions.shape)} do not fit the activation "
                f"{tuple(value.shape)}: the last dimensions must be equal"
            )
        return _remove_span(value, basis.to(value))


@dataclass(frozen=True, eq=False)
class Noise:
    r"""Add Gaussian noise, $x' = x + \sigma \epsilon$.

    Args:
        std: Standard deviation, at least 0.
        generator: Source of the noise, on the activation's device.

    Raises:
        ValueError: When `std` is negative.

    Examples:
        >>> from neuros_mechint.activations import run
        >>> edit = Noise(0.0, torch.Generator())
        >>> run(torch.nn.Identity(), torch.ones(2), edits={"": edit}).output
        tensor([1., 1.])
    """

    std: float
    generator: torch.Generator

    def __post_init__(self) -> None:
        if not self.std >= 0:
            raise ValueError(f"std needs a number of at least 0, got {self.std}")

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        """Return the edited activation."""
        noise = torch.randn(
            value.shape, generator=self.generator, dtype=value.dtype, device=value.device
        )
        return value + self.std * noise


@dataclass(frozen=True, eq=False)
class BandStop:
    """Remove a frequency band along time by zeroing its bins in the discrete Fourier transform.

    Bins with `low <= f <= high` go. A sine with a whole number of periods falls into one bin and is
    removed or kept exactly; any other leaks into its neighbours.

    Args:
        low: Lower edge in Hz, included.
        high: Upper edge in Hz, included.
        fs: Sampling rate of the activation in Hz.
        axis: Time axis of the activation.

    Raises:
        ValueError: When not `0 <= low <= high` and `fs > 0`; at the call, when the activation is
            complex or not floating point.

    Examples:
        >>> from neuros_mechint.activations import run
        >>> time = torch.arange(100, dtype=torch.float64) / 100.0
        >>> wave = torch.sin(2 * torch.pi * 10 * time)[None] + 1.0
        >>> out = run(torch.nn.Identity(), wave, edits={"": BandStop(8.0, 12.0, fs=100.0)}).output
        >>> bool((out - 1.0).abs().max() < 1e-6)
        True
    """

    low: float
    high: float
    fs: float
    axis: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.low <= self.high and self.fs > 0):
            raise ValueError(
                f"a band needs 0 <= low <= high and fs > 0, got low={self.low}, high={self.high}, "
                f"fs={self.fs}"
            )

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        """Return the edited activation."""
        if not value.is_floating_point():
            raise ValueError(f"BandStop needs real floating-point activations, got {value.dtype}")
        # The CPU has no transform in half precision.
        wide = value.float() if value.dtype.itemsize < 4 else value
        filtered = _stop_band(wide.movedim(self.axis, -1), self.low, self.high, self.fs)
        return filtered.movedim(-1, self.axis).to(value.dtype)


@dataclass(frozen=True, eq=False)
class Splice:
    """Send the activation through a coder, such as a sparse autoencoder.

    Args:
        coder: Called with the activation; returns the reconstruction, or an object with the
            attribute `reconstruction`.
        keep_error: Add the reconstruction error back as a constant: the model's output stays as
            it was, gradients reach the coder's features.

    Raises:
        TypeError: At the call, when the coder returns no tensor.

    Examples:
        >>> from neuros_mechint.activations import run
        >>> run(torch.nn.Identity(), -torch.ones(2), edits={"": Splice(torch.nn.ReLU())}).output
        tensor([0., 0.])
        >>> edit = Splice(torch.nn.ReLU(), keep_error=True)
        >>> run(torch.nn.Identity(), -torch.ones(2), edits={"": edit}).output
        tensor([-1., -1.])
    """

    coder: Callable[[Tensor], Any]
    keep_error: bool = False

    def __call__(self, value: Tensor, _context: EditContext) -> Tensor:
        """Return the edited activation."""
        coded = self.coder(value)
        result = getattr(coded, "reconstruction", coded)
        if not isinstance(result, Tensor):
            raise TypeError(
                f"coder needs to return a tensor or an object with .reconstruction, got "
                f"{type(coded).__name__}"
            )
        result = fitted("the reconstruction", result, value)
        return result + (value - result).detach() if self.keep_error else result


def _orthonormal(directions: Float[Tensor, "*k d"]) -> Float[Tensor, "rank d"]:
    """Orthonormal basis of the span, by singular values, so that dependent directions are fine."""
    wide = directions.reshape(-1, directions.shape[-1]).double()
    _, sigma, basis = torch.linalg.svd(wide, full_matrices=False)
    cutoff = max(wide.shape) * torch.finfo(directions.dtype).eps * sigma.max()
    independent: Tensor = basis[sigma > cutoff]
    return independent


def _remove_span(
    value: Inexact[Tensor, "*batch d"], basis: Inexact[Tensor, "rank d"]
) -> Inexact[Tensor, "*batch d"]:
    return value - (value @ basis.mT) @ basis


def _stop_band(
    value: Float[Tensor, "*batch time"], low: float, high: float, fs: float
) -> Float[Tensor, "*batch time"]:
    n = value.shape[-1]
    freq = torch.arange(n // 2 + 1, device=value.device, dtype=torch.float64) * (fs / n)
    # An edge given as 10 Hz has to meet a bin that rounding put at 10 Hz - 1e-15.
    slack = 1e-9 * fs
    kept = (freq < low - slack) | (freq > high + slack)
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(value) * kept, n=n)
    return filtered
