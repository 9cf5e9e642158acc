"""Recurrent weights of spiking networks: structure, signs and first values."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from neuros_mechint.biophysical._dales_weight import SignedWeight

__all__ = ["MaskedWeight", "Wiring", "input_weight", "recurrent_weight", "wiring"]


class Wiring(NamedTuple):
    """Where units are connected, and with which first weights if those are given."""

    mask: Bool[Tensor, "post pre"]
    weight: Float[Tensor, "post pre"] | None


class MaskedWeight(nn.Module):
    """A matrix (post, pre) of free signs that is zero outside a mask."""

    mask: Tensor

    def __init__(self, weight: Float[Tensor, "post pre"], mask: Bool[Tensor, "post pre"]) -> None:
        super().__init__()
        self.raw = nn.Parameter(weight.clone())
        self.register_buffer("mask", mask)

    def forward(self) -> Tensor:
        """The effective matrix."""
        return torch.where(self.mask, self.raw, 0.0)


def wiring(connectivity: object, n: int) -> Wiring:
    """Mask and weights of what a caller gives as connectivity.

    Raises:
        TypeError: When it is neither boolean nor floating.
        ValueError: When it is not (n, n), or holds NaN or inf.
    """
    if connectivity is None:
        return Wiring(~torch.eye(n, dtype=torch.bool), None)
    if not isinstance(connectivity, Tensor):
        raise TypeError(
            f"connectivity must be a boolean or floating tensor, got {type(connectivity).__name__}"
        )
    if connectivity.dtype != torch.bool and not connectivity.is_floating_point():
        raise TypeError(
            f"connectivity must be boolean or floating, got {connectivity.dtype}; "
            "compare it with 0 for a mask"
        )
    if tuple(connectivity.shape) != (n, n):
        raise ValueError(
            f"connectivity must be (post, pre) = ({n}, {n}), got {tuple(connectivity.shape)}"
        )
    if connectivity.dtype == torch.bool:
        return Wiring(connectivity.detach().clone(), None)
    weight = connectivity.detach().clone()
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("connectivity holds NaN or inf; set missing connections to 0")
    return Wiring(weight != 0, weight)


def recurrent_weight(
    wires: Wiring,
    signs: Float[Tensor, " pre"],
    scale: float,
    generator: torch.Generator | None,
    *,
    enforce_dales: bool,
) -> SignedWeight | MaskedWeight:
    """The recurrent weights of units that excite (sign 1, the first of them) or inhibit (-1).

    Raises:
        ValueError: When given weights break Dale's law.
    """
    n_exc = int((signs > 0).sum())
    if wires.weight is not None:
        if not enforce_dales:
            return MaskedWeight(wires.weight, wires.mask)
        _check_columns(wires.weight, signs)
        return SignedWeight(wires.weight.abs(), signs.to(wires.weight), "abs", wires.mask)
    size = _balanced(wires.mask, n_exc, scale, generator)
    if enforce_dales:
        return SignedWeight(size, signs, "abs", wires.mask)
    return MaskedWeight(size * signs, wires.mask)


def _balanced(
    mask: Bool[Tensor, "post pre"], n_exc: int, scale: float, generator: torch.Generator | None
) -> Float[Tensor, "post pre"]:
    """Exponential sizes: excitation and inhibition of a row cancel in expectation.

    An exponential's deviation is its mean s. With e excitatory and i inhibitory connections in
    the row, inhibitory ones of mean s e / i, the row's sum has variance s^2 (e + e^2 / i).
    """
    size = torch.empty(mask.shape).exponential_(generator=generator)
    e, i = mask[:, :n_exc].sum(1, keepdim=True), mask[:, n_exc:].sum(1, keepdim=True)
    ratio = torch.where((e > 0) & (i > 0), e / i, 1.0)
    size[:, n_exc:] *= ratio
    variance = torch.where((e > 0) & (i > 0), e * (1 + ratio), (e + i).clamp(min=1))
    return size * (scale / torch.sqrt(variance))


def _check_columns(weight: Float[Tensor, "post pre"], signs: Float[Tensor, " pre"]) -> None:
    wrong = (weight * signs.to(weight) < 0).any(0)
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        kind = "excites: its column must be >= 0" if signs[first] > 0 else "inhibits: <= 0"
        raise ValueError(
            f"column {first} of connectivity breaks Dale's law: unit {first} {kind}; the first "
            f"{int((signs > 0).sum())} of {len(signs)} units excite, by ei_ratio. Change its "
            "signs, the ei_ratio, or pass enforce_dales=False"
        )


def input_weight(
    n_out: int, n_in: int, scale: float, generator: torch.Generator | None
) -> Float[Tensor, "unit channel"]:
    """Normal weights whose sum has the deviation `scale` for inputs of variance 1."""
    return torch.randn(n_out, n_in, generator=generator) * (scale / math.sqrt(n_in))
