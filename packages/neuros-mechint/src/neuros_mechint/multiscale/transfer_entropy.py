"""Transfer entropy between all channels, [to, from]."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint._arrays import Array, one_of
from neuros_mechint.dynamics._information_estimators import ksg_information, separated
from neuros_mechint.multiscale._pasts import epochs_of, standardised
from neuros_mechint.multiscale._surrogates import (
    check_surrogates,
    phase_shifted,
    surrogate_p_values,
)
from neuros_mechint.multiscale.coupling import Connectivity
from neuros_mechint.multiscale.granger import GrangerCausality

__all__ = ["TransferEntropy"]


class TransferEntropy:
    r"""Transfer entropy between all channels in nats, [to, from].

    $T_{j \to i} = I(x_i(t); x_j(t-1), \dots, x_j(t-l) \mid x_i(t-1), \dots, x_i(t-l))$, where the
    history l is `lag`. `"gaussian"` is half of `GrangerCausality(order=lag)`, exactly; `"ksg"`
    counts neighbours (Kraskov 2004, Frenzel & Pompe 2007) and also sees dependence that is not
    linear. Its values may lie below 0.

    `neuros_mechint.dynamics.TransferEntropy` is another class with another convention. There `lag`
    is the delay of the source and `history` the length of the past; its matrix is [from, to] of
    signals (..., time, channels); and its `"gaussian"` compares two regressions. Here `lag` is the
    length of the past, the source's past begins one step before the target, results are
    [to, from] and signals (..., channels, time), as in all of `neuros_mechint.multiscale`.

    A constant channel has the value 0, with a warning.

    Args:
        method: `"gaussian"` or `"ksg"`.
        k: Neighbours of `"ksg"`.
        lag: Samples of the past of either channel, its history length.
        epochs: Whether x holds epochs of one process; else it is one stretch of it.

    Examples:
        The second channel repeats the first one step later, under noise of the same variance:

        >>> z = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0))
        >>> x = torch.stack([z[0], z[0].roll(1) + z[1]])
        >>> found = TransferEntropy(lag=2).compute(x)
        >>> round(float(found.values[1, 0]), 2)  # ln(2) / 2
        0.35

    References:
        Schreiber (2000). Measuring information transfer. Physical Review Letters 85, 461.
        doi:10.1103/PhysRevLett.85.461

        Frenzel & Pompe (2007). Partial mutual information for coupling analysis of multivariate
        time series. Physical Review Letters 99, 204101. doi:10.1103/PhysRevLett.99.204101
    """

    def __init__(
        self,
        method: Literal["gaussian", "ksg"] = "gaussian",
        *,
        k: int = 4,
        lag: int = 1,
        epochs: bool = False,
    ) -> None:
        one_of("method", method, get_args(Literal["gaussian", "ksg"]))
        for name, value in (("k", k), ("lag", lag)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.method = method
        self.k = k
        self.lag = lag
        self.epochs = epochs

    def __repr__(self) -> str:
        return f"TransferEntropy({self.method!r}, k={self.k}, lag={self.lag}, epochs={self.epochs})"

    def compute(
        self, x: Array, *, surrogates: int = 0, generator: torch.Generator | None = None
    ) -> Connectivity:
        """Transfer entropy between all channels.

        Args:
            x: Signals (..., channels, time), or (..., epochs, channels, time).
            surrogates: Draws with all phases anew, for p-values. No channel drives another there.
            generator: Source of the draws; None starts one from seed 0.

        Returns:
            Values [to, from], (..., channels, channels), in nats; the diagonal is 0. No
            frequencies; p-values.

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When x is too short or not finite, or surrogates is negative.

        Warns:
            UserWarning: When a channel is constant, or for `"ksg"` repeats its values.
            RuntimeWarning: When for `"gaussian"` a fitted model is not stable.
        """
        if self.method == "gaussian":
            granger = GrangerCausality(self.lag, epochs=self.epochs)
            found = granger.compute(x, surrogates=surrogates, generator=generator)
            return found._replace(values=found.values / 2)
        check_surrogates(surrogates)
        data = epochs_of(x, self.lag, epochs=self.epochs)
        rows = data.shape[-3] * (data.shape[-1] - self.lag)
        if rows <= self.k:
            raise ValueError(
                f"x needs more than k = {self.k} predicted samples, got {rows}; lower k or pass a "
                "longer signal"
            )
        flat, z = standardised(data)
        same = torch.eye(z.shape[-2], dtype=torch.bool, device=z.device)
        fixed = flat.unsqueeze(-1) | flat.unsqueeze(-2) | same
        # Constant channels take any signal through the estimator; their values are masked.
        filler = torch.randn(z.shape[-1], generator=torch.Generator().manual_seed(0)).to(z)
        z = torch.where(flat[..., None, :, None], filler, z)
        values = self._neighbours(z).masked_fill(fixed, 0.0)
        p_values = surrogate_p_values(
            values,
            lambda source: self._neighbours(phase_shifted(z, source)),
            surrogates,
            generator,
            fixed,
        )
        p_values = None if p_values is None else p_values.to(data.dtype)
        return Connectivity(values.to(data.dtype), None, p_values)

    def _neighbours(
        self, z: Float[Tensor, "*batch epoch channel time"]
    ) -> Float[Tensor, "*batch channel channel"]:
        n = z.shape[-2]
        # (..., channel, samples of all epochs, now and past), the newest first.
        windows = z.detach().unfold(-1, self.lag + 1, 1).flip(-1).movedim(-4, -3).flatten(-3, -2)
        to, start = torch.nonzero(~torch.eye(n, dtype=torch.bool, device=z.device)).unbind(-1)
        target, source = windows[..., to, :, :], windows[..., start, :, 1:]
        now, own, other = separated([target[..., :1], target[..., 1:], source])
        found = ksg_information(now, other, own, self.k)
        values = found.new_zeros(*found.shape[:-1], n, n)
        values[..., to, start] = found
        return values
