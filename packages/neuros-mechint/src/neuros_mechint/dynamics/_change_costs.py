"""Costs of segments of a series, from sums that are made once."""

from collections.abc import Callable

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

__all__ = ["Cost", "cost_of", "noise_variance"]

Cost = Callable[[Int64[Tensor, " start"], Int64[Tensor, " end"]], Float64[Tensor, "series start"]]


def cost_of(series: Float64[Tensor, "series time"], change: str) -> Cost:
    """Cost of the segments from each start up to, not including, each end."""
    n = series.shape[-1]
    time = torch.arange(n, dtype=series.dtype, device=series.device).expand_as(series)
    # Centred first, so that the difference of two large sums loses no digits.
    centred = series - series.mean(-1, keepdim=True)
    sums = [_summed(x) for x in (centred, centred.square(), time, time.square(), time * centred)]

    def squares(
        start: Int64[Tensor, " start"], end: Int64[Tensor, " end"]
    ) -> Float64[Tensor, "series start"]:
        first, second = (s[:, end] - s[:, start] for s in sums[:2])
        return (second - first.square() / (end - start)).clamp(min=0)

    def line(
        start: Int64[Tensor, " start"], end: Int64[Tensor, " end"]
    ) -> Float64[Tensor, "series start"]:
        y, yy, t, tt, ty = (s[:, end] - s[:, start] for s in sums)
        size = end - start
        spread = (tt - t.square() / size).clamp(min=1e-12)
        return (yy - y.square() / size - (ty - t * y / size).square() / spread).clamp(min=0)

    def spread(
        start: Int64[Tensor, " start"], end: Int64[Tensor, " end"]
    ) -> Float64[Tensor, "series start"]:
        size = end - start
        floor = 1e-12 * centred.square().mean(-1, keepdim=True).clamp(min=1e-300)
        return size * torch.maximum(squares(start, end) / size, floor).log()

    return {"mean": squares, "slope": line, "variance": spread}[change]


def noise_variance(
    series: Float64[Tensor, "series time"], change: str
) -> Float64[Tensor, "series"]:
    """Variance of the noise from differences, which steps hardly touch; 1 for the log cost."""
    if change == "variance":
        return torch.ones_like(series[:, 0])
    order, gain = (1, 2.0) if change == "mean" else (2, 6.0)
    differences = series.diff(n=order, dim=-1)
    # 0.6745 is the median of |N(0, 1)|.
    scale = differences.abs().median(dim=-1).values / 0.6744897501960817
    return scale.square() / gain


def _summed(x: Float64[Tensor, "series time"]) -> Float64[Tensor, "series time1"]:
    return torch.nn.functional.pad(x.cumsum(-1), (1, 0))
