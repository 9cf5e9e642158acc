"""Pictures of what the fractal estimators and probes return."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint.fractals._graph_dimension import GraphDimension
from neuros_mechint.fractals._multifractal import Multifractal
from neuros_mechint.fractals._scale_effects import ScaleEffects
from neuros_mechint.fractals._spectral import SpectralFit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = [
    "plot_fd_history",
    "plot_graph_boxes",
    "plot_loglog",
    "plot_multifractal",
    "plot_scale_ablation",
    "plot_spectrum",
]

_BLUE, _GREY, _ORANGE = "#2a6f97", "#8d99ae", "#e07a5f"
_COLOURS = (_BLUE, _ORANGE, "#5b8e7d", "#bc4b51", "#6d597a", "#d4a017", "#4a4e69", _GREY)
_DASHES = ("-", "--", ":", "-.")


def plot_loglog(
    log_scale: Tensor | NDArray[Any],
    log_value: Tensor | NDArray[Any],
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the points of a scaling law and the line through them.

    Several signals are drawn as their mean and standard deviation in the logarithm; the line is
    the unweighted one through the mean.

    Args:
        log_scale: `(scale,)`, natural logarithms, as `estimator.curve(x)` returns them.
        log_value: `(..., scale)`; points that are not finite are left out.
        ax: where to draw; None makes a new figure.

    Returns:
        The matplotlib axes; `.figure` saves them.

    Raises:
        ImportError: when matplotlib is not installed.
        ValueError: when shapes do not fit or no two points are finite.

    Examples:
        >>> import torch
        >>> from neuros_mechint.fractals import HiguchiFractalDimension
        >>> ramp = torch.arange(100, dtype=torch.float64)
        >>> plot_loglog(*HiguchiFractalDimension().curve(ramp)).get_title()
        'slope 1.00'
    """
    scale = _array(log_scale)
    rows = _rows(log_value, scale.shape, "log_value", "log_scale")
    mean, spread = _over_rows(rows)
    known = np.isfinite(mean)
    if scale[known].size < 2:
        raise ValueError(f"two finite points are needed for a line, got {int(known.sum())}")
    slope, offset = np.polyfit(scale[known], mean[known], 1)
    ax = _axes(ax)
    _draw_band(ax, scale[known], mean[known], spread[known], mark="o")
    ends = np.array([scale[known].min(), scale[known].max()])
    ax.plot(np.exp(ends), np.exp(offset + slope * ends), color=_ORANGE, lw=1.4)
    _set_logarithmic(ax, xlabel="scale", ylabel="statistic")
    ax.set_title(f"slope {slope:.2f}")
    return ax


def plot_spectrum(fit: SpectralFit, *, ax: "Axes | None" = None) -> "Axes":
    """Draw a power spectrum and its fitted law.

    Several signals are drawn as their mean and standard deviation in the logarithm, and so are
    their laws.

    Args:
        fit: what `SpectralSlope.fit` returned.
        ax: where to draw; None makes a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ImportError: when matplotlib is not installed.

    Examples:
        >>> import torch
        >>> from neuros_mechint.fractals import SpectralSlope
        >>> white = torch.randn(4096, generator=torch.Generator().manual_seed(0))
        >>> plot_spectrum(SpectralSlope(fs=100.0).fit(white)).get_xlabel()
        'frequency (Hz)'
    """
    freqs = _array(fit.freqs)
    with np.errstate(divide="ignore"):
        power = np.log(_rows(fit.psd, freqs.shape, "psd", "freqs"))
    beta, log_amplitude, knee = (
        _array(part).reshape(-1, 1) for part in (fit.beta, fit.log_amplitude, fit.knee)
    )
    bend = np.where(knee > 0, np.abs(knee) ** beta, 0.0)
    law, _ = _over_rows(log_amplitude - np.log(bend + freqs**beta))
    ax = _axes(ax)
    _draw_band(ax, np.log(freqs), *_over_rows(power), mark="-")
    ax.plot(freqs, np.exp(law), color=_ORANGE, lw=1.6)
    title = rf"$\beta$ = {np.nanmean(beta):.2f}"
    if (knee > 0).any():
        at = float(np.exp(np.log(knee[knee > 0]).mean()))
        ax.axvline(at, color=_GREY, lw=1, ls="--")
        title += f", knee at {at:.3g} Hz"
    _set_logarithmic(ax, xlabel="frequency (Hz)", ylabel="power density")
    ax.set_title(title)
    return ax


def plot_multifractal(spectrum: Multifractal, *, ax: "Axes | None" = None) -> "Axes":
    r"""Draw a multifractal spectrum $f(\alpha)$; the dot is $q = 0$, where it is highest.

    Several signals are thin lines, and their mean is the thick one.

    Args:
        spectrum: what `MultifractalSpectrum.compute` returned.
        ax: where to draw; None makes a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ImportError: when matplotlib is not installed.

    Examples:
        >>> from neuros_mechint.fractals import MultifractalSpectrum, MultiplicativeCascade
        >>> measure = MultiplicativeCascade().generate(10, weights=[0.7, 0.3])
        >>> spectrum = MultifractalSpectrum(method="measure").compute(measure)
        >>> plot_multifractal(spectrum).get_ylabel()
        '$f(\\alpha)$'
    """
    q = _array(spectrum.q)
    alpha = _rows(spectrum.alpha, q.shape, "alpha", "q")
    height = _rows(spectrum.f_alpha, q.shape, "f_alpha", "q")
    ax = _axes(ax)
    if len(alpha) > 1:
        ax.plot(alpha.T, height.T, color=_GREY, lw=0.6, alpha=0.5)
    mean_alpha, mean_height = _over_rows(alpha)[0], _over_rows(height)[0]
    ax.plot(mean_alpha, mean_height, color=_BLUE, lw=1.8, marker="o", ms=3)
    top = int(np.abs(q).argmin())
    ax.plot(mean_alpha[top], mean_height[top], "o", color=_ORANGE, ms=6)
    ax.set(xlabel=r"$\alpha$", ylabel=r"$f(\alpha)$")
    ax.set_title(f"width {np.nanmean(_array(spectrum.width)):.2f}")
    return ax


def plot_graph_boxes(result: GraphDimension, *, ax: "Axes | None" = None) -> "Axes":
    """Draw how many boxes of each size cover a graph, and the fitted power law.

    Args:
        result: what `GraphFractalDimension.compute` returned for one graph.
        ax: where to draw; None makes a new figure.

    Returns:
        The matplotlib axes.

    Raises:
        ImportError: when matplotlib is not installed.
        ValueError: when the result is that of several graphs, or no box has a size.

    Examples:
        >>> import torch
        >>> from neuros_mechint.fractals import GraphFractalDimension
        >>> ring = torch.eye(64).roll(1, 0) + torch.eye(64).roll(-1, 0)
        >>> plot_graph_boxes(GraphFractalDimension().compute(ring)).get_xlabel()
        'box size'
    """
    sizes, counts = _array(result.box_sizes), _array(result.n_boxes)
    if sizes.ndim != 1 or counts.shape != sizes.shape:
        raise ValueError(
            f"the result of one graph is needed, got box counts of shape {counts.shape} for sizes "
            f"of shape {sizes.shape}; draw one graph after the other"
        )
    known = (counts > 0) & (sizes > 0)
    if not known.any():
        raise ValueError("the graph has no scaling range, so there are no boxes to draw")
    dimension = float(_array(result.dimension))
    log_size, log_count = np.log(sizes[known]), np.log(counts[known])
    ax = _axes(ax)
    ax.plot(sizes[known], counts[known], "o", color=_BLUE, ms=4)
    line = log_count.mean() - dimension * (log_size - log_size.mean())
    ax.plot(sizes[known], np.exp(line), color=_ORANGE, lw=1.4)
    verdict = "" if bool(np.all(_array(result.is_fractal))) else ", no power law"
    _set_logarithmic(ax, xlabel="box size", ylabel="boxes")
    ax.set_title(f"dimension {dimension:.2f}{verdict}")
    return ax


def plot_fd_history(frame: "pd.DataFrame", *, ax: "Axes | None" = None) -> "Axes":
    """Draw how metrics of layers go, with their standard deviation over signals.

    Args:
        frame: what `LatentFDTracker.to_frame` returned.
        ax: where to draw; None makes a new figure.

    Returns:
        The matplotlib axes; one colour per layer, one kind of line per metric.

    Raises:
        ImportError: when matplotlib is not installed.
        ValueError: when the frame lacks a column or holds nothing.

    Examples:
        >>> import pandas as pd
        >>> rows = [(0, "0", "higuchi", 1.5, 0.1), (1, "0", "higuchi", 1.6, 0.1)]
        >>> columns = ["step", "layer", "metric", "mean", "std"]
        >>> plot_fd_history(pd.DataFrame(rows, columns=columns)).get_ylabel()
        'higuchi'
    """
    missing = [name for name in ("step", "layer", "metric", "mean", "std") if name not in frame]
    if missing or not len(frame):
        raise ValueError(
            f"frame needs rows with the columns step, layer, metric, mean and std, got "
            f"{len(frame)} rows without {missing}"
        )
    layers = list(dict.fromkeys(frame["layer"]))
    metrics = list(dict.fromkeys(frame["metric"]))
    ax = _axes(ax)
    for (layer, metric), part in frame.groupby(["layer", "metric"], sort=False):
        colour = _COLOURS[layers.index(layer) % len(_COLOURS)]
        dash = _DASHES[metrics.index(metric) % len(_DASHES)]
        label = str(layer) if len(metrics) == 1 else f"{layer}, {metric}"
        step, mean, std = (part[name].to_numpy(float) for name in ("step", "mean", "std"))
        ax.plot(step, mean, dash, color=colour, lw=1.6, label=label, marker="o", ms=3)
        ax.fill_between(step, mean - std, mean + std, color=colour, alpha=0.15, lw=0)
    ax.set(xlabel="step", ylabel=metrics[0] if len(metrics) == 1 else "value")
    ax.legend(frameon=False, fontsize=8)
    return ax


def plot_scale_ablation(effects: ScaleEffects, *, ax: "Axes | None" = None) -> "Axes":
    """Draw what a metric changes by without each band, lowest band first.

    Args:
        effects: what `CausalScaleAblation.run` returned.
        ax: where to draw; None makes a new figure.

    Returns:
        The matplotlib axes; grey bars have an interval that holds 0, or none.

    Raises:
        ImportError: when matplotlib is not installed.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from neuros_mechint.fractals import CausalScaleAblation
        >>> x = torch.randn(8, 64, 1, generator=torch.Generator().manual_seed(0))
        >>> probe = CausalScaleAblation(nn.Sequential(nn.Identity()), "0", fs=64.0)
        >>> axes = plot_scale_ablation(probe.run(x, lambda y: y.var((1, 2))))
        >>> [label.get_text() for label in axes.get_xticklabels()]
        ['1–2', '2–4', '4–8', '8–16', '16–32']
    """
    order = np.argsort(_array(effects.band)[:, 0])
    band, delta, ci = (_array(part)[order] for part in (effects.band, effects.delta, effects.ci))
    ax = _axes(ax)
    sure = (ci[:, 0] > 0) | (ci[:, 1] < 0)
    place = np.arange(len(band))
    ax.bar(place, delta, width=0.75, color=np.where(sure, _BLUE, _GREY).tolist())
    drawn = np.isfinite(ci).all(1)
    reach = np.abs(ci - delta[:, None])[drawn].T
    ax.errorbar(
        place[drawn], delta[drawn], yerr=reach, fmt="none", ecolor="black", elinewidth=1, capsize=3
    )
    ax.axhline(0.0, color="black", lw=0.8)
    ax.set_xticks(place, [f"{low:.3g}–{high:.3g}" for low, high in band])
    if len(band) > 6:
        ax.tick_params(axis="x", labelrotation=45)
    ax.set(xlabel="band that is ablated (Hz)", ylabel="change of the metric")
    ax.set_title(f"intact model: {effects.baseline:.3g}")
    return ax


def _axes(ax: "Axes | None") -> "Axes":
    """The given axes, or those of a new figure."""
    if ax is None:
        try:
            # The object interface: no figure is registered, no window system is asked.
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "pictures need matplotlib; install it with pip install 'neuros-mechint[viz]'"
            ) from error
        ax = Figure(figsize=(4.8, 3.4), layout="constrained").subplots()
    ax.spines[["top", "right"]].set_visible(False)
    ax.title.set_fontsize(10)
    return ax


def _set_logarithmic(ax: "Axes", *, xlabel: str, ylabel: str) -> None:
    """Make both axes logarithmic; one of few decades has ticks at 1, 2 and 5, as plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        axis.set_minor_formatter(NullFormatter())
        if high / low < 200:
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _array(x: Any) -> NDArray[np.float64]:
    values = x.detach().cpu().numpy() if isinstance(x, Tensor) else x
    return np.asarray(values, dtype=np.float64)


def _rows(x: Any, shape: tuple[int, ...], name: str, along: str) -> Float[np.ndarray, "row point"]:
    """Values of all signals, one row each."""
    values = _array(x)
    if len(shape) != 1 or values.shape[-1:] != shape:
        raise ValueError(
            f"{name} needs the {shape} points of {along} along its last axis, got {values.shape}"
        )
    return values.reshape(-1, shape[0])


def _over_rows(
    rows: Float[np.ndarray, "row point"],
) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"]]:
    """Mean and standard deviation of the finite values of every point; nan where there are none."""
    known = np.isfinite(rows)
    count = known.sum(0)
    with np.errstate(invalid="ignore"):
        mean = np.where(known, rows, 0.0).sum(0) / count
        variance = np.where(known, (rows - mean) ** 2, 0.0).sum(0) / count
    return mean, np.sqrt(variance)


def _draw_band(
    ax: "Axes",
    log_x: Float[np.ndarray, " point"],
    mean: Float[np.ndarray, " point"],
    spread: Float[np.ndarray, " point"],
    *,
    mark: str,
) -> None:
    """A curve and what one standard deviation leaves around it, given in logarithms."""
    x = np.exp(log_x)
    ax.plot(x, np.exp(mean), mark, color=_BLUE, ms=4, lw=1)
    if spread.any():
        ax.fill_between(
            x, np.exp(mean - spread), np.exp(mean + spread), color=_BLUE, alpha=0.18, lw=0
        )
