"""Ablation of a time scale: a frequency band removed from an activation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_mechint.activations import BandStop, Edit, EditContext, Site, SiteLike, intervene
from neuros_mechint.activations._inputs import call_arguments
from neuros_mechint.activations._state import preserved
from neuros_mechint.activations.batched import stream_batched
from neuros_mechint.activations.site import as_site
from neuros_mechint.interventions._ablation_engine import AblationResult
from neuros_mechint.interventions.metrics import Metric, measured

__all__ = ["ScaleAblation"]


class ScaleAblation:
    r"""Remove a frequency band from an activation along time, and measure what a metric loses.

    The bins $k f_s / n$ of the discrete Fourier transform with $low \le k f_s / n \le high$ are set
    to 0, as in `BandStop`. Exact for a whole number of periods; other waves leak into neighbouring
    bins, and an activation that does not end where it began has power in all of them.

    Args:
        model: Any module.
        band: Lower and upper edge in Hz, both included; `(0, fs / 2)` is everything.
        fs: Sampling rate of the activation in Hz.
        axis: Time axis of the activation, 1 for (batch, time, channel).
        batch_size: Most rows in one forward.

    Raises:
        ValueError: When not `0 <= low <= high` and `fs > 0`, or `batch_size` is not positive.

    Examples:
        >>> time = torch.arange(100) / 100.0
        >>> slow, fast = torch.sin(2 * torch.pi * 2 * time), torch.sin(2 * torch.pi * 20 * time)
        >>> net = nn.Sequential(nn.Identity())
        >>> ablation = ScaleAblation(net, band=(15.0, 25.0), fs=100.0)
        >>> out = ablation.run((slow + fast)[None, :, None], "0")
        >>> bool((out[0, :, 0] - slow).abs().max() < 1e-5)
        True

    References:
        Oppenheim, A. V. & Schafer, R. W. (2010). Discrete-Time Signal Processing, 3rd ed., ch. 8.
        Pearson.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        band: tuple[float, float],
        fs: float,
        axis: int = 1,
        batch_size: int = 64,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size needs at least 1 row, got {batch_size}")
        low, high = band
        self.model = model
        self.batch_size = batch_size
        self._edit = _StoppedBand(BandStop(low, high, fs, axis))

    def __repr__(self) -> str:
        stop = self._edit.stop
        return (
            f"ScaleAblation({type(self.model).__name__}, band=({stop.low}, {stop.high}), "
            f"fs={stop.fs}, axis={stop.axis})"
        )

    def run(self, inputs: Any, target: SiteLike) -> Any:
        """Run the model without the band, with gradient where there is one.

        Args:
            inputs: What the model runs on: a tuple of positional arguments, a mapping whose every
                key names a parameter of the forward, or else the one argument.
            target: The site whose activation loses the band.

        Returns:
            Output of the model.

        Raises:
            KeyError: When the path names no module.
            RuntimeError: When the site was not reached.
            ValueError: When no bin lies in the band, or the activation has no such axis or is not
                real.

        Examples:
            >>> net = nn.Sequential(nn.Identity())
            >>> ablation = ScaleAblation(net, band=(0.0, 0.0), fs=10.0)
            >>> ablation.run(torch.tensor([[1.0, 3.0]]), "0")
            tensor([[-1.,  1.]])
        """
        site = as_site(self.model, target)
        args, kwargs = call_arguments(self.model, inputs)
        with preserved(self.model), intervene(self.model, {site: self._edit}):
            return self.model(*args, **kwargs)

    def ablate(self, inputs: Any, target: SiteLike, metric: Metric) -> AblationResult:
        """Measure a metric with and without the band, without gradient.

        Args:
            inputs: What the model runs on, as in `run`.
            target: The site whose activation loses the band.
            metric: Function of an output, one value per row or a scalar.

        Returns:
            The metric with and without the band, averaged over rows.

        Raises:
            KeyError: When the path names no module.
            RuntimeError: When the site was not reached.
            TypeError: When the metric returns no tensor.
            ValueError: For the reasons of `run`.

        Examples:
            >>> net = nn.Sequential(nn.Identity())
            >>> ablation = ScaleAblation(net, band=(0.0, 5.0), fs=10.0)
            >>> ablation.ablate(torch.ones(1, 8), "0", lambda y: y.sum(-1)).ablated
            0.0
        """
        site = as_site(self.model, target)
        intact, without = measure_edits(
            self.model, inputs, site, [self._edit], metric, batch_size=self.batch_size
        )
        stop = self._edit.stop
        name = f"{site} without {stop.low:g} to {stop.high:g} Hz"
        baseline, ablated = float(intact.mean()), float(without.mean())
        return AblationResult.compare(name, baseline=baseline, ablated=ablated)


def measure_edits(
    model: nn.Module,
    inputs: Any,
    site: Site,
    edits: Sequence[Edit],
    metric: Metric,
    *,
    batch_size: int,
) -> list[Float[Tensor, " row"]]:
    """Measure a metric of the intact model and under each of several edits of one site.

    Args:
        model: Any module.
        inputs: What it runs on.
        site: Where the edits act.
        edits: One per run.
        metric: Function of an output, one value per row or a scalar.
        batch_size: Most rows in one forward.

    Returns:
        The metric of every row (one value where it is a scalar), in double precision: intact, then
        under each edit.

    Raises:
        TypeError: When the metric returns no tensor.
    """
    edit_sets: list[Mapping[SiteLike, Edit]] = [{}]
    edit_sets += [{site: edit} for edit in edits]
    with torch.no_grad():
        outputs = stream_batched(model, inputs, edit_sets, batch_size=batch_size)
        # A mean of half or single precision over many rows would lose the last digits of an effect.
        values = {k: measured(metric, output).detach().double() for k, output in outputs}
    return [_by_row(values[k]) for k in range(len(edit_sets))]


def _by_row(value: Float[Tensor, "..."]) -> Float[Tensor, " row"]:
    return value.reshape(len(value), -1).mean(1) if value.ndim else value[None]


@dataclass(frozen=True)
class _StoppedBand:
    """A band stop that refuses to do nothing."""

    stop: BandStop

    def __call__(self, value: Tensor, context: EditContext) -> Tensor:
        low, high, fs, axis = self.stop.low, self.stop.high, self.stop.fs, self.stop.axis
        if not -value.ndim <= axis < value.ndim:
            raise ValueError(
                f"axis = {axis} is no axis of the activation at '{context.site}', of shape "
                f"{tuple(value.shape)}"
            )
        n = value.shape[axis]
        # The first bin at or above the lower edge, with the tolerance of BandStop.
        first = max(0, math.ceil((low / fs - 1e-9) * n))
        if first > n // 2 or first * fs / n > high + 1e-9 * fs:
            raise ValueError(
                f"no frequency of the activation at '{context.site}' lies between {low:g} and "
                f"{high:g} Hz: {n} samples at {fs:g} Hz have the frequencies 0, {fs / n:g}, ... up "
                f"to {fs / n * (n // 2):g} Hz; widen the band"
            )
        return self.stop(value, context)
