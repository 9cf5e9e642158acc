"""Signs of presynaptic units, and weights that keep them whatever an optimizer does."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as nnf
from torch.nn.utils import parametrize

from neuros_mechint._arrays import Number, one_of
from neuros_mechint._autograd import applied

__all__ = ["MAGNITUDES", "SignedWeight", "balanced_magnitudes", "nonnegative", "split"]

MAGNITUDES = ("abs", "relu", "softplus", "clamp")


def split(n: int, ei_ratio: Number) -> tuple[int, int]:
    """How many of n units excite and how many inhibit.

    Raises:
        ValueError: When there is no unit or the ratio is not in [0, 1].
    """
    if n < 1:
        raise ValueError(f"the number of units must be at least 1, got {n}")
    if not 0 <= ei_ratio <= 1:
        raise ValueError(f"ei_ratio must be in [0, 1], got {ei_ratio}")
    # 0.7 * 10 is 6.999... in binary.
    n_exc = math.floor(n * ei_ratio + 1e-6)
    return n_exc, n - n_exc


class _Projection(torch.autograd.Function):
    """Projection onto what is at least zero; at the bound only gradients that lead inside pass."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor) -> Tensor:
        """The positive part."""
        ctx.save_for_backward(raw)
        return raw.clamp(min=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        """A descent step goes against the slope: a negative slope leads inside."""
        (raw,) = ctx.saved_tensors
        return torch.where((raw > 0) | (slope < 0), slope, 0.0)


def nonnegative(raw: Tensor) -> Tensor:
    """Positive part of a tensor, with a gradient that can leave the bound."""
    inside: Tensor = applied(_Projection, raw)
    return inside


class _Clamp(nn.Module):
    """The projection, in the form that `torch.nn.utils.parametrize` wants."""

    def forward(self, raw: Tensor) -> Tensor:
        return nonnegative(raw)


class SignedWeight(nn.Module):
    """A matrix (post, pre) whose columns have fixed signs, as a function of free numbers.

    Args:
        magnitude: First sizes, at least zero.
        signs: Sign of each column.
        parametrization: How free numbers become sizes.
        mask: Where there may be a weight; None: everywhere.
    """

    signs: Tensor
    mask: Tensor | None

    def __init__(
        self,
        magnitude: Float[Tensor, "post pre"],
        signs: Float[Tensor, " pre"],
        parametrization: str,
        mask: Bool[Tensor, "post pre"] | None = None,
    ) -> None:
        super().__init__()
        one_of("parametrization", parametrization, MAGNITUDES)
        self.parametrization = parametrization
        self.register_buffer("signs", signs)
        self.register_buffer("mask", mask)
        if parametrization == "softplus":
            # Inverse of log(1 + e^r), without overflow; a size of exactly zero has no inverse.
            size = magnitude.clamp(min=1e-8)
            magnitude = size + torch.log(-torch.expm1(-size))
        self.raw: Tensor = nn.Parameter(magnitude.clone())
        if parametrization == "clamp":
            parametrize.register_parametrization(self, "raw", _Clamp())

    def forward(self) -> Tensor:
        """The effective matrix."""
        raw = self.raw
        if self.parametrization == "abs":
            raw = raw.abs()
        elif self.parametrization == "relu":
            raw = nnf.relu(raw)
        elif self.parametrization == "softplus":
            raw = nnf.softplus(raw)
        signed = raw * self.signs
        # Not a product with the mask: a masked size may have grown to inf.
        return signed if self.mask is None else torch.where(self.mask, signed, 0.0)


def balanced_magnitudes(
    n_out: int, n_exc: int, n_inh: int, generator: torch.Generator | None
) -> Float[Tensor, "post pre"]:
    """Exponential sizes whose rows cancel in expectation and whose sum at rate 1 has variance 1.

    An exponential's deviation is its mean s; inhibitory columns have s n_exc / n_inh, so the
    variance of a row's sum is s^2 (n_exc + n_exc^2 / n_inh).
    """
    size = torch.empty(n_out, n_exc + n_inh).exponential_(generator=generator)
    if n_exc == 0 or n_inh == 0:
        return size / math.sqrt(n_exc + n_inh)
    ratio = n_exc / n_inh
    size[:, n_exc:] *= ratio
    return size / math.sqrt(n_exc * (1 + ratio))
