"""What the past of one signal adds to the past of another about its next value."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint._arrays import Array, as_real, one_of
from neuros_mechint.dynamics._information_estimators import ksg_information, separated
from neuros_mechint.dynamics._information_null import (
    Null,
    p_value,
    reordered,
    turned_residuals,
)
from neuros_mechint.dynamics.information import InformationSignificance

__all__ = ["TransferEntropy"]


class TransferEntropy:
    r"""Transfer entropy in nats: what the past of a source adds to that of its target.

    $I(y_t; x_{t-l}, \dots, x_{t-l-h+1} \mid y_{t-1}, \dots, y_{t-h})$.
    `"gaussian"` is half the logarithm of the ratio of the residual variances without and with the
    source: half the Granger causality (Barnett 2009). `"ksg"` counts neighbours and also sees
    dependence that is not linear.

    `neuros_mechint.multiscale.TransferEntropy` is another class with another convention: there
    `lag` is the length of the past (here `history`), signals are (..., channels, time) and results
    [to, from]. Here `lag` is the delay of the source and `matrix` gives [from, to].

    Args:
        method: `"gaussian"` or `"ksg"`.
        lag: Steps from the newest source sample to the target, $l$.
        history: Samples of the past of either signal, $h$.
        k: Neighbours of `"ksg"`.

    Examples:
        The target repeats the source one step later, so noise of the source is all it is:

        >>> x = torch.randn(2000, generator=torch.Generator().manual_seed(0))
        >>> noise = torch.randn(2000, generator=torch.Generator().manual_seed(1))
        >>> te = TransferEntropy()
        >>> round(float(te.compute(x, x.roll(1) + noise)), 1), round(float(te.compute(noise, x)), 1)
        (0.3, 0.0)

    References:
        Schreiber (2000). Measuring information transfer. Physical Review Letters 85, 461.
        doi:10.1103/PhysRevLett.85.461

        Barnett, Barrett & Seth (2009). Granger causality and transfer entropy are equivalent for
        Gaussian variables. Physical Review Letters 103, 238701. doi:10.1103/PhysRevLett.103.238701

        Marschinski & Kantz (2002). Analysing the information flow between financial time series.
        European Physical Journal B 30, 275. doi:10.1140/epjb/e2002-00379-2
    """

    def __init__(
        self,
        *,
        method: Literal["gaussian", "ksg"] = "gaussian",
        lag: int = 1,
        history: int = 1,
        k: int = 4,
    ) -> None:
        one_of("method", method, get_args(Literal["gaussian", "ksg"]))
        for name, value in (("lag", lag), ("history", history), ("k", k)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.method = method
        self.lag = lag
        self.history = history
        self.k = k

    def __repr__(self) -> str:
        return (
            f"TransferEntropy(method={self.method!r}, lag={self.lag}, history={self.history}, "
            f"k={self.k})"
        )

    def compute(self, source: Array, target: Array) -> Tensor:
        """Transfer entropy from source to target.

        Args:
            source: Signals, (..., time).
            target: Signals, (..., time).

        Returns:
            One value per pair, (...), in nats.

        Raises:
            TypeError: When an argument is not a real tensor or array.
            ValueError: When the signals differ in length or are too short.
        """
        x, y = self._pair(source, target)
        now, own, other = self._apart(*self._embedded(x, y))
        return self._value(now, own, other).to(x.dtype)

    def matrix(self, x: Array) -> Tensor:
        """Transfer entropy between all channels.

        Args:
            x: Signals, (..., time, channels).

        Returns:
            Row: source, column: target, (..., channels, channels); the diagonal is 0.

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When x is too short.
        """
        data = as_real("x", x, axes=("time", "channels"), at_least=(self._shortest(), 1)).mT
        rows = []
        for i in range(data.shape[-2]):
            source = data[..., i : i + 1, :].expand_as(data)
            row = self._value(*self._apart(*self._embedded(source, data))).to(data.dtype)
            itself = torch.arange(data.shape[-2], device=row.device) == i
            rows.append(torch.where(itself, torch.zeros_like(row), row))
        return torch.stack(rows, -2)

    def significance(
        self,
        source: Array,
        target: Array,
        *,
        n_perm: int = 200,
        null: Null = "shift",
        generator: torch.Generator | None = None,
    ) -> InformationSignificance:
        """Compare with sources out of step; `.effective` is the effective transfer entropy.

        With `"gaussian"` the part of the source's past that the target's own past tells stays, and
        only the rest comes out of step, so the null holds also where the target drives the source.
        With `"ksg"` all of it does: there the null is a source without any tie to the target.

        Args:
            source: Signals, (..., time).
            target: Signals, (..., time).
            n_perm: Draws of the null.
            null: `"shift"` turns the past of the source circularly and keeps its memory;
                `"shuffle"` also breaks that (Marschinski 2002).
            generator: Source of the draws; None starts one from seed 0.

        Returns:
            The value, its p-value and the null.

        Raises:
            TypeError: As for `compute`.
            ValueError: As for `compute`, or when `n_perm` or `null` is out of range.
        """
        x, y = self._pair(source, target)
        now, own, other = self._apart(*self._embedded(x, y))
        value = self._value(now, own, other)
        orders = reordered(now.shape[-2], n_perm, null, generator)
        if self.method == "gaussian":
            draws = turned_residuals(other, own, orders)
        else:
            draws = (other[..., order, :] for order in orders)
        drawn = torch.stack([self._value(now, own, draw) for draw in draws])
        return InformationSignificance(value, p_value(value, drawn), drawn)

    def _shortest(self) -> int:
        return self.lag + 3 * self.history + 2 + (self.k if self.method == "ksg" else 0)

    def _pair(self, source: Array, target: Array) -> tuple[Tensor, Tensor]:
        low = (self._shortest(),)
        x = as_real("source", source, axes=("time",), at_least=low)
        y = as_real("target", target, axes=("time",), at_least=low)
        if x.shape[-1] != y.shape[-1]:
            raise ValueError(
                f"source and target must be of the same length, got {x.shape[-1]} and {y.shape[-1]}"
            )
        batch = np.broadcast_shapes(tuple(x.shape[:-1]), tuple(y.shape[:-1]))
        return x.expand(*batch, x.shape[-1]), y.expand(*batch, y.shape[-1])

    def _embedded(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next value, its own past and that of the source, (..., sample, feature)."""
        n, h = y.shape[-1], self.history
        first = self.lag + h - 1

        def past(signal: Tensor, lag: int) -> Tensor:
            steps = [signal[..., first - lag - j : n - lag - j] for j in range(h)]
            return torch.stack(steps, -1).double()

        return y[..., first:].unsqueeze(-1).double(), past(y, 1), past(x, self.lag)

    def _apart(self, *blocks: Tensor) -> Sequence[Tensor]:
        if self.method == "gaussian":
            return blocks
        return separated([block.detach() for block in blocks])

    def _value(self, now: Tensor, own: Tensor, other: Tensor) -> Tensor:
        if self.method == "gaussian":
            return _granger(now, own, other) / 2
        return ksg_information(now, other, own, self.k)


def _granger(
    now: Float[Tensor, "*batch sample one"],
    own: Float[Tensor, "*batch sample h"],
    other: Float[Tensor, "*batch sample h"],
) -> Float[Tensor, "*batch"]:
    """Log ratio of the residual variances without and with the source."""
    now, own, other = (z - z.mean(-2, keepdim=True) for z in (now, own, other))
    basis = torch.linalg.qr(own).Q
    rest, source = (z - basis @ (basis.mT @ z) for z in (now, other))
    turned = torch.linalg.qr(source).Q
    left = rest - turned @ (turned.mT @ rest)
    ratio: Tensor = rest.square().sum((-2, -1)) / left.square().sum((-2, -1))
    return ratio.log()
