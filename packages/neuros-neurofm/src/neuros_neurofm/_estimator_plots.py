"""The pictures of an estimator, on matplotlib axes."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = Any

__all__ = ["draw_decoding", "draw_embedding", "draw_loss"]


def axes_or_new(ax: Axes | None) -> Axes:
    """The axes given, or those of a new figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib; pip install 'neuros-neurofm[plot]'") from error
    return plt.subplots(layout="constrained")[1]


def draw_embedding(latents: NDArray[Any], y: NDArray[Any] | None, ax: Axes | None) -> Axes:
    """Two principal components of the latents; colour is the target."""
    axes = axes_or_new(ax)
    centred = latents - latents.mean(axis=0)
    _, spread, directions = np.linalg.svd(centred, full_matrices=False)
    share = spread**2 / max(float((spread**2).sum()), np.finfo(float).tiny)
    plane = centred @ directions[:2].T
    if y is None or y.dtype.kind == "f":
        color = "C0" if y is None else y.reshape(len(y), -1)[:, 0]
        points = axes.scatter(plane[:, 0], plane[:, 1], c=color, s=4, linewidths=0)
        if y is not None:
            axes.figure.colorbar(points, ax=axes, label="y")
    else:
        for label in np.unique(y):
            of_label = plane[y == label]
            axes.scatter(of_label[:, 0], of_label[:, 1], s=4, linewidths=0, label=str(label))
        axes.legend(title="y", frameon=False, markerscale=3)
    axes.set_xlabel(f"component 1 ({share[0]:.0%} of the variance)")
    axes.set_ylabel(f"component 2 ({share[1]:.0%} of the variance)")
    axes.set_title("Latents")
    return axes


def draw_decoding(
    truth: NDArray[Any],
    decoded: NDArray[Any],
    ax: Axes | None,
    *,
    rate: float | None,
    title: str,
) -> Axes:
    """What was there and what was decoded, over time."""
    axes = axes_or_new(ax)
    at = np.arange(1, len(truth) + 1) / (rate or 1.0)
    axes.plot(at, truth, color="black", lw=1, label="recorded")
    axes.plot(at, decoded, color="C0", lw=1, label="decoded")
    axes.set(xlabel="samples" if rate is None else "seconds", ylabel="y", title=title)
    axes.legend(frameon=False)
    return axes


def draw_loss(losses: NDArray[Any], ax: Axes | None) -> Axes:
    """The loss of every step, and its mean over a twentieth of them."""
    axes = axes_or_new(ax)
    steps = np.arange(1, len(losses) + 1)
    axes.plot(steps, losses, color="C0", alpha=0.3, lw=1, label="each step")
    width = max(len(losses) // 20, 1)
    smooth = np.convolve(losses, np.full(width, 1 / width), "valid")
    axes.plot(steps[width - 1 :], smooth, color="C0", lw=1.5, label=f"mean of {width} steps")
    axes.set(xlabel="step", ylabel="loss", title="Training")
    axes.legend(frameon=False)
    return axes
