"""Several fractal metrics of the same signals in one pass."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint.fractals._conventions import (
    ArrayT,
    centred,
    deliver,
    map_rows,
    read_signals,
    warn_degenerate,
)
from neuros_mechint.fractals._dfa import DetrendedFluctuationAnalysis
from neuros_mechint.fractals._graph_dimension import GraphFractalDimension
from neuros_mechint.fractals._higuchi import HiguchiFractalDimension
from neuros_mechint.fractals._hurst import HurstExponent
from neuros_mechint.fractals._multifractal import MultifractalSpectrum
from neuros_mechint.fractals._spectral import SpectralSlope

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FractalMetrics", "FractalMetricsBundle"]

_METRICS = ("higuchi", "dfa", "hurst", "beta", "mf_width")
_BLOCK_SAMPLES = 2**17


class FractalMetrics(NamedTuple):
    """Metrics of signals, `(*batch)` each; None for those that were not asked for.

    Attributes:
        higuchi: Higuchi's dimension of the path.
        dfa: exponent of detrended fluctuations.
        hurst: Hurst exponent of the signals as noise.
        beta: exponent of the spectrum.
        mf_width: width of the multifractal spectrum.
        graph: box dimension of the graphs that were given, of their batch's shape.
    """

    higuchi: Tensor | NDArray[Any] | None = None
    dfa: Tensor | NDArray[Any] | None = None
    hurst: Tensor | NDArray[Any] | None = None
    beta: Tensor | NDArray[Any] | None = None
    mf_width: Tensor | NDArray[Any] | None = None
    graph: Tensor | NDArray[Any] | None = None

    def to_dict(self) -> dict[str, Tensor | NDArray[Any]]:
        """Return the metrics that were asked for by name.

        Returns:
            Name to values.

        Examples:
            >>> FractalMetrics(dfa=torch.tensor(0.5)).to_dict()
            {'dfa': tensor(0.5000)}
        """
        return {name: part for name, part in self._asdict().items() if part is not None}

    def to_frame(self) -> "pd.DataFrame":
        """Return a table with a row for each signal and a column for each metric.

        Returns:
            A data frame; signals with several batch axes have one index level for each.

        Raises:
            ValueError: if there are graphs, but not one for all signals or one for each.

        Examples:
            >>> print(FractalMetrics(dfa=torch.tensor([0.5, 0.75])).to_frame())
                dfa
            0  0.50
            1  0.75
        """
        import pandas as pd

        parts = {name: torch.as_tensor(part).detach() for name, part in self.to_dict().items()}
        shape = next(iter(parts.values())).shape
        if self.graph is not None and parts["graph"].numel() != 1 and parts["graph"].shape != shape:
            raise ValueError(
                "a table needs one graph for all signals or one for each, got graphs of shape "
                f"{tuple(parts['graph'].shape)} and signals of shape {tuple(shape)}; use to_dict"
            )
        columns = {name: part.expand(shape).flatten().numpy() for name, part in parts.items()}
        index = None
        if len(shape) > 1:
            index = pd.MultiIndex.from_product([range(size) for size in shape])
        return pd.DataFrame(columns, index=index)


class FractalMetricsBundle:
    r"""Several metrics of the same signals, each equal to that of its own class by default.

    Signals are read and cut into blocks once; all metrics of a block are taken while it lies in
    the cache, and `"hurst"` and `"mf_width"` share its deviations in double precision. Nothing
    else is shared: tapered spectra and Whittle's have no transform in common, and the profile of
    a path loses half of its digits when its mean is taken away twice.

    Args:
        metrics: any of `"higuchi"` (`HiguchiFractalDimension`), `"dfa"`
            (`DetrendedFluctuationAnalysis`), `"hurst"` (`HurstExponent`), `"beta"`
            (`SpectralSlope`) and `"mf_width"` (`MultifractalSpectrum`).
        fs: sampling rate in Hz, for `"beta"`.

    Raises:
        ValueError: if a metric is unknown, there is none, or the rate is not positive.

    Examples:
        >>> noise = torch.randn(2, 4096, generator=torch.Generator().manual_seed(0))
        >>> found = FractalMetricsBundle(metrics=("dfa", "hurst")).compute(noise)
        >>> [round(value, 1) for value in found.hurst.tolist()]
        [0.5, 0.5]
        >>> sorted(found.to_dict())
        ['dfa', 'hurst']
    """

    def __init__(self, *, metrics: Sequence[str] = _METRICS, fs: float = 1.0) -> None:
        unknown = [name for name in metrics if name not in _METRICS]
        if unknown or not metrics:
            raise ValueError(f"metrics must be some of {_METRICS}, got {tuple(metrics)}")
        self.metrics = tuple(name for name in _METRICS if name in metrics)
        self.fs = fs
        self._slope = SpectralSlope(fs=fs)

    def __repr__(self) -> str:
        return f"FractalMetricsBundle(metrics={self.metrics}, fs={self.fs!r})"

    def compute(self, x: ArrayT, *, dim: int = -1, adjacency: object = None) -> FractalMetrics:
        """Estimate all metrics of each signal.

        Args:
            x: signals, any unit.
            dim: the time axis.
            adjacency: graphs as `GraphFractalDimension` takes them; their dimension joins the
                metrics.

        Returns:
            The metrics. A signal that a metric has no value for, as a constant, gives nan there,
            one warning, and no gradient.

        Raises:
            ValueError: if `x` is too short for a metric or not finite.
            TypeError: if `x` is not a real tensor or array.

        Examples:
            >>> found = FractalMetricsBundle().compute(torch.randn(4, 3, 256))
            >>> found.mf_width.shape
            torch.Size([4, 3])
        """
        signals = read_signals(x, dim)
        parts = map_rows(signals, self._of_rows, block_samples=_BLOCK_SAMPLES)
        missing = torch.stack([part.isnan() for part in parts]).any(0)
        warn_degenerate(missing, "are constant, or without fluctuations at some scale")
        found = {
            name: deliver(signals, part.to(signals.dtype))
            for name, part in zip(self.metrics, parts, strict=True)
        }
        if adjacency is not None:
            found["graph"] = GraphFractalDimension().compute(adjacency).dimension
        return FractalMetrics(**found)

    def _of_rows(self, rows: Float[Tensor, "batch time"]) -> tuple[Tensor, ...]:
        deviation = centred(rows)
        # One warning follows for all metrics and blocks.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return tuple(self._metric(name, rows, deviation) for name in self.metrics)

    def _metric(
        self,
        name: str,
        rows: Float[Tensor, "batch time"],
        deviation: Float[Tensor, "batch time"],
    ) -> Tensor:
        if name == "higuchi":
            return HiguchiFractalDimension().compute(rows)
        if name == "beta":
            return self._slope.compute(rows)
        if name == "dfa":
            # Of a path it loses half of the digits, so that only the same input gives the same.
            return DetrendedFluctuationAnalysis().compute(rows).alpha
        if name == "hurst":
            return HurstExponent().compute(deviation)
        return torch.as_tensor(MultifractalSpectrum().compute(deviation).width)
