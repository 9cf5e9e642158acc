"""The pictures of an estimator, on matplotlib axes."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np
from numpy.typing import NDArray

from neuros_neurofm import _estimator_data as data
from neuros_neurofm._estimator_data import Arrays
from neuros_neurofm._estimator_state import Learned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    # At run time matplotlib is not there.
    Axes = Any

__all__ = ["Plots", "draw_decoding", "draw_embedding", "draw_loss"]


class Plots:
    """What an estimator that has learned something draws."""

    classes_: NDArray[Any] | None
    loss_curve_: list[float]
    sampling_rate: SupportsFloat | None
    transform: Callable[..., Any]
    predict: Callable[..., Any]
    score: Callable[..., float]
    _fitted: Callable[[], Learned]

    def plot_embedding(
        self,
        X: Arrays,
        y: Arrays = None,
        *,
        sessions: str | Sequence[str] | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw the first two principal components of the latents, coloured by y.

        Args:
            X: As in `transform`.
            y: Targets to colour by: labels, or the first variable.
            sessions: As in `transform`.
            ax: Where to draw; None: a new figure.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        several = data.is_several(X)
        latents = self.transform(X, sessions=sessions)
        parts = latents if several else [latents]
        color = None
        if y is not None:
            color = np.concatenate(
                data.read_targets(y, [len(part) for part in parts], several=several)
            )
        return draw_embedding(np.concatenate(parts), color, ax)

    def plot_decoding(
        self,
        X: Arrays,
        y: Arrays,
        *,
        dim: int = 0,
        session: str | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw one variable of one recording, and what is decoded of it.

        Args:
            X: (time, channel).
            y: (time, dim) or (time,).
            dim: Which variable.
            session: Session of the recording; default as in `transform`.
            ax: Where to draw; None: a new figure.

        Returns:
            The axes; its title holds the score.

        Raises:
            ImportError: matplotlib is not installed.
        """
        decoded = np.asarray(self.predict(X, sessions=session))
        truth = data.read_targets(y, [len(decoded)], several=False)[0]
        name = "R²" if self.classes_ is None else "accuracy"
        first, second = (v.reshape(len(v), -1)[:, dim] for v in (truth, decoded))
        title = f"{name} {self.score(X, y, sessions=session):.2f}"
        return draw_decoding(
            first,
            second,
            ax,
            rate=self._fitted().grid.rate if self.sampling_rate else None,
            title=title,
        )

    def plot_loss(self, *, ax: Axes | None = None) -> Axes:
        """Draw the loss of every step.

        Args:
            ax: Where to draw; None: a new figure.

        Returns:
            The axes.

        Raises:
            sklearn.exceptions.NotFittedError: Nothing is learned yet.
            ImportError: matplotlib is not installed.
        """
        self._fitted()
        return draw_loss(np.asarray(self.loss_curve_), ax)


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
