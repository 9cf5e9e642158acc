"""Signals of which the past predicts: checked, in epochs, of one scale."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuros_mechint._arrays import Array, as_real
from neuros_mechint.multiscale._spectra import constant_channels

__all__ = ["epochs_of", "standardised"]


def epochs_of(x: Array, order: int, *, epochs: bool) -> Tensor:
    """Signals (..., epochs, channels, time); without epochs there is one.

    Raises:
        TypeError: When x is not a real tensor or array.
        ValueError: When its past is too short to predict from.
    """
    names: tuple[str, ...] = ("epochs", "channels", "time") if epochs else ("channels", "time")
    data = as_real("x", x, axes=names, at_least=(1,) * (len(names) - 1) + (order + 1,))
    data = data if epochs else data.unsqueeze(-3)
    rows = data.shape[-3] * (data.shape[-1] - order)
    if rows < 2 * order + 3:
        raise ValueError(
            f"x needs more than {2 * order + 2} predicted samples for order = {order}, got {rows}; "
            "lower order or pass a longer signal"
        )
    return data


def standardised(
    x: Float[Tensor, "*batch epoch channel time"],
) -> tuple[Bool[Tensor, "*batch channel"], Float[Tensor, "*batch epoch channel time"]]:
    """Which channels are constant, with a warning; all in double precision, of variance 1."""
    flat = constant_channels(x, stacklevel=3)
    z = x.double()
    z = z - z.mean(-1, keepdim=True)
    spread = z.square().mean((-3, -1), keepdim=True).sqrt()
    z = torch.where(flat[..., None, :, None], 0.0, z / spread.where(spread > 0, 1.0))
    return flat, z
