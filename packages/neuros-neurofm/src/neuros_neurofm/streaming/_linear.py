"""The linear part of a decoder in a stream: the last samples, and what they say."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_neurofm.models.linear_part import LinearPart
from neuros_neurofm.streaming._source import Arrived

__all__ = ["LinearLags", "check_linear", "check_regular"]

_TOLERANCE = 1e-6


class LinearLags:
    """A linear part and the z-scores of the samples that it still needs.

    Args:
        part: The linear part.
        step: Seconds of a step of the grid.
        state: From the `state_dict` of a stream, to go on from.

    Raises:
        ValueError: A state without these samples.

    Attributes:
        lags: (batch, lag, channel), oldest first, float64; None before the first step.
    """

    def __init__(
        self, part: LinearPart, step: float, state: Mapping[str, Tensor] | None = None
    ) -> None:
        self.part = part
        self._samples_per_step = step * part.rate
        self.lags: Tensor | None = None
        if state is not None and int(state.get("n_steps", 0)):
            lags = state.get("linear")
            needed = (part.n_lags, len(part.center))
            if lags is None or tuple(lags.shape[1:]) != needed:
                raise ValueError(
                    f"the state is that of another model: linear must have (lag, channel) = "
                    f"{needed}, got {None if lags is None else tuple(lags.shape[1:])}"
                )
            self.lags = lags.clone()

    def read(
        self, arrived: Mapping[str, Arrived], number: int, like: Tensor
    ) -> Float[Tensor, "batch one dim"]:
        """The behaviour at the end of step `number`, and the samples of the step remembered.

        A sample of the step that has not arrived is missing.
        """
        first, last = (
            math.floor(k * self._samples_per_step + _TOLERANCE) for k in (number, number + 1)
        )
        batch = like.shape[0]
        inputs, masks = {}, {}
        for name, n_channels in self.part.channels.items():
            x = like.new_zeros(batch, last - first, n_channels, dtype=torch.float64)
            known = torch.zeros_like(x, dtype=torch.bool)
            if name in arrived:
                at, values, valid = arrived[name]
                index = (at * self.part.rate).round().long() - 1 - first
                own = (index >= 0) & (index < last - first)
                x[:, index[own]] = values[:, own].double()
                known[:, index[own]] = valid[:, own]
            inputs[name], masks[name] = x, known
        part = self.part
        lags = like.new_zeros(batch, part.n_lags, len(part.center), dtype=torch.float64)
        lags = lags if self.lags is None else self.lags
        # A copy: a view would keep all that has ever been read alive.
        lags = torch.cat([lags, part.standardised(inputs, masks)], 1)[:, -part.n_lags :].clone()
        self.lags = lags
        weights = part.weights.to(lags.device).flip(0)
        y = torch.einsum("blc,lcd->bd", lags, weights) + part.intercept.to(lags.device)
        return y.unsqueeze(1)


def check_linear(
    part: LinearPart, rates: Mapping[str, float], behavior_dim: int | None
) -> LinearPart:
    """Refuse a linear part of another model or of another rate.

    Raises:
        ValueError: It decodes other variables, or its rate is not that of its modalities.
    """
    dim = part.intercept.shape[0]
    if behavior_dim != dim:
        raise ValueError(
            f"the linear part decodes {dim} variables, the model {behavior_dim}; take the part "
            "that was fitted with this model"
        )
    other = {
        name: rates.get(name)
        for name in part.channels
        if not math.isclose(rates.get(name, 0.0), part.rate, rel_tol=1e-6)
    }
    if other:
        raise ValueError(
            f"the linear part was fitted at {part.rate:g} Hz, the stream reads {other}; "
            "pass sampling_rates of that rate, and resample the recording"
        )
    return part


def check_regular(part: LinearPart, name: str, n_channels: int, *, regular: bool) -> None:
    """Refuse samples that the linear part cannot read.

    Raises:
        ValueError: Samples with times of their own, or other channels than those of the fit.
    """
    if name not in part.channels:
        return
    if not regular:
        raise ValueError(
            f"{name}: a linear part needs samples at equal intervals, these have times of their "
            "own; resample them"
        )
    if n_channels != part.channels[name]:
        raise ValueError(
            f"{name}: the linear part was fitted to {part.channels[name]} channels, got "
            f"{n_channels}"
        )
