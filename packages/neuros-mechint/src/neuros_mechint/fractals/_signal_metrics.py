"""Fractal metrics of signals by name, one number per signal."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from neuros_mechint.fractals._dfa import DetrendedFluctuationAnalysis
from neuros_mechint.fractals._higuchi import HiguchiFractalDimension
from neuros_mechint.fractals._hurst import HurstExponent
from neuros_mechint.fractals._multifractal import MultifractalSpectrum
from neuros_mechint.fractals._spectral import SpectralSlope

__all__ = ["Estimator", "SignalMetric", "signal_metric"]

SignalMetric = Callable[[Tensor], Tensor]
"""Maps signals `(..., time)` to one number each, `(...)`."""


@runtime_checkable
class Estimator(Protocol):
    """What can be asked for one number per signal."""

    def compute(self, x: Tensor, *, dim: int = -1) -> Any: ...


class _MultifractalWidth:
    """The one number of a multifractal spectrum that the others do not give."""

    def compute(self, x: Tensor, *, dim: int = -1) -> Any:
        return MultifractalSpectrum().compute(x, dim=dim).width


_BY_NAME: dict[str, Callable[[], Estimator]] = {
    "higuchi": HiguchiFractalDimension,
    "dfa": DetrendedFluctuationAnalysis,
    "hurst": HurstExponent,
    "beta": SpectralSlope,
    "mf_width": _MultifractalWidth,
}


def signal_metric(metric: object) -> SignalMetric:
    """Return the function that a name or an estimator stands for.

    Args:
        metric: `"higuchi"`, `"dfa"`, `"hurst"`, `"beta"` or `"mf_width"` with the defaults of its
            class, or an object with `compute(x, dim=-1)`.

    Returns:
        The function; of a result with several fields it takes the first, which is the exponent.

    Raises:
        TypeError: When the metric is neither; at the call, when it gives no number per signal.
        ValueError: When the name is unknown.

    Examples:
        >>> import torch
        >>> round(signal_metric("higuchi")(torch.arange(64.0)).item(), 4)
        1.0
    """
    if isinstance(metric, str):
        if metric not in _BY_NAME:
            raise ValueError(
                f"no metric named {metric!r}; known: {', '.join(_BY_NAME)}, or pass an estimator "
                "with compute(x, dim=-1)"
            )
        metric = _BY_NAME[metric]()
    if not isinstance(metric, Estimator):
        raise TypeError(
            f"a metric needs a name or an estimator with compute(x, dim=-1), got "
            f"{type(metric).__name__}"
        )
    compute = metric.compute

    def one_number(x: Tensor) -> Tensor:
        result = compute(x, dim=-1)
        number = result[0] if isinstance(result, tuple) else result
        if not isinstance(number, Tensor) or number.shape != x.shape[:-1]:
            raise TypeError(
                f"an estimator needs to give one number for each signal of shape "
                f"{tuple(x.shape)}, got {type(number).__name__} of shape "
                f"{tuple(getattr(number, 'shape', ()))} from {type(metric).__name__}"
            )
        return number

    return one_number
