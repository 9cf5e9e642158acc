"""A linear read-out of the input itself, beside a model that decodes the rest."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["LinearPart"]

_FIELDS = ("center", "scale", "weights", "intercept")
# In samples: the rounding of t * rate.
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class LinearPart:
    r"""Behaviour as a linear function of the present and the last samples of one recording.

    $y_t = b + \sum_{j < n} z_{t-j} W_j$ with $z = (x - \mu) / \sigma$, and $z = 0$ before the first
    sample and where a sample is missing.

    Attributes:
        channels: Modality -> number of its channels; their order is that of the columns.
        rate: Samples per second of all of them.
        center: $\mu$, (channel,), float64.
        scale: $\sigma$ > 0, (channel,), float64.
        weights: $W$, (lag, channel, dim), float64.
        intercept: $b$, (dim,), float64.

    Raises:
        ValueError: Shapes that do not belong together, no lag, or a rate that is not > 0.

    Examples:
        >>> import torch
        >>> part = LinearPart(
        ...     {"lfp": 1}, 50.0, torch.zeros(1), torch.ones(1), torch.ones(2, 1, 1),
        ...     torch.zeros(1))
        >>> part({"lfp": torch.tensor([[[1.0], [2.0], [3.0]]])})[0, :, 0].tolist()
        [1.0, 3.0, 5.0]
    """

    channels: Mapping[str, int]
    rate: float
    center: Tensor
    scale: Tensor
    weights: Tensor
    intercept: Tensor

    def __post_init__(self) -> None:
        for name in _FIELDS:
            object.__setattr__(self, name, torch.as_tensor(getattr(self, name)).double())
        n = sum(self.channels.values())
        given = [tuple(getattr(self, name).shape) for name in _FIELDS]
        dim = given[2][2:]
        if given != [(n,), (n,), (given[2][0], n, *dim), dim] or 0 in given[2] or len(dim) != 1:
            raise ValueError(
                f"center and scale must be (channel,), weights (lag, channel, dim) and intercept "
                f"(dim,) with channel = {n}, got {given}"
            )
        if not 0 < self.rate < float("inf"):
            raise ValueError(f"rate must be > 0 Hz, got {self.rate}")

    @property
    def n_lags(self) -> int:
        """Samples that one answer rests on."""
        return self.weights.shape[0]

    def __call__(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """The behaviour at the end of every sample.

        Args:
            inputs: Modality -> samples, (batch, time, channel); one of the channels that is missing
                altogether counts as masked throughout.
            masks: Modality -> True = valid, broadcastable to the samples.

        Returns:
            (batch, time, dim), float64.

        Raises:
            ValueError: None of the modalities, other channels, or unequal lengths.
        """
        z = self.standardised(inputs, masks or {})
        n_times = z.shape[1]
        y = self.intercept.to(z.device).expand(z.shape[0], n_times, -1)
        for lag, weights in enumerate(self.weights.to(z.device)[:n_times]):
            y = y + torch.nn.functional.pad(z[:, : n_times - lag] @ weights, (0, 0, lag, 0))
        return y

    def at(
        self,
        inputs: Mapping[str, Tensor],
        times: Tensor,
        masks: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The behaviour at any time, from the samples that are complete by then.

        Args:
            inputs: As in a call.
            times: Seconds since the start, (query,) or (batch, query).
            masks: As in a call.

        Returns:
            (batch, query, dim), float64; that of the last sample after the end, the intercept
            before the first sample is complete.

        Raises:
            ValueError: As in a call.
        """
        y = self(inputs, masks)
        first = self.intercept.to(y.device).expand(y.shape[0], 1, -1)
        rows = torch.cat([first, y], 1)
        at = (times.to(y) * self.rate + _TOLERANCE).floor().clamp(0, y.shape[1]).long()
        index = at.expand(y.shape[0], -1).unsqueeze(-1).expand(-1, -1, y.shape[2])
        return rows.gather(1, index)

    def standardised(
        self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> Float[Tensor, "batch time channel"]:
        """All channels side by side as z-scores, 0 where missing.

        Raises:
            ValueError: As in a call.
        """
        there = [name for name in self.channels if name in inputs]
        shapes = {name: tuple(inputs[name].shape) for name in there}
        wrong = [m for m in there if len(shapes[m]) != 3 or shapes[m][2] != self.channels[m]]
        if not there or wrong or len({shape[:2] for shape in shapes.values()}) > 1:
            raise ValueError(
                f"the linear part needs (batch, time, channel) of equal batch and time with the "
                f"channels {dict(self.channels)} of its fit, got {shapes or list(inputs)}"
            )
        like = inputs[there[0]]
        parts, at = [], 0
        for name, n in self.channels.items():
            columns = slice(at, at + n)
            at += n
            if name not in inputs:
                parts.append(like.new_zeros(*like.shape[:2], n, dtype=torch.float64))
                continue
            x = inputs[name].double()
            z = (x - self.center[columns].to(x.device)) / self.scale[columns].to(x.device)
            parts.append(self._masked(z, masks.get(name)))
        return torch.cat(parts, -1)

    @staticmethod
    def _masked(
        z: Float[Tensor, "batch time channel"], mask: Bool[Tensor, "..."] | None
    ) -> Float[Tensor, "batch time channel"]:
        return z if mask is None else z.masked_fill(~mask.to(z.device), 0.0)
