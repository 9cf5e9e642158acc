"""Pictures of a coder: how often features fire, how directions lie, what each responds to."""

import importlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_mechint.activations import ActivationStore, SiteLike
from neuros_mechint.reporting import Report
from neuros_mechint.sae._rows import Coding, check_coder, coding, row_batches
from neuros_mechint.sae.interpretation import FeatureReport
from neuros_mechint.sae.metrics import SAEMetrics

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["SAEVisualizer"]

_Data = Tensor | ActivationStore | Iterable[Tensor]
_BLUE, _GREY, _ORANGE = "#2a6f97", "#8d99ae", "#e07a5f"


class SAEVisualizer:
    """Figures of a coder and a page that holds them together.

    Figures need matplotlib, the extra `viz`.

    Args:
        coder: A `SparseAutoencoder` or anything with `encode`, `decode` and `dictionary`.

    Raises:
        TypeError: When the coder is of the wrong kind.

    Examples:
        >>> from neuros_mechint.sae import SparseAutoencoder
        >>> coder = SparseAutoencoder(latent_dim=2, dictionary_size=2)
        >>> _ = coder.load_state_dict({"W_enc": torch.eye(2)}, strict=False)
        >>> SAEVisualizer(coder).density(torch.tensor([[1.0, -1.0], [2.0, -1.0]]))
        tensor([1., 0.], dtype=torch.float64)
    """

    def __init__(self, coder: Coding) -> None:
        check_coder(coder)
        self.coder = coder

    def density(
        self, data: _Data, *, site: SiteLike | None = None, batch_size: int = 1024
    ) -> Tensor:
        """Share of activations at which each feature fires.

        Args:
            data: Activations: a tensor (..., width), an `ActivationStore`, or an iterable of
                tensors.
            site: Site of a store that holds several.
            batch_size: Rows that are coded at once.

        Returns:
            Shape (feature,), float64.

        Raises:
            ValueError: When data give no rows.

        Examples:
            See the class.
        """
        fired = torch.zeros(len(self.coder.dictionary), dtype=torch.float64)
        n_rows = 0
        with coding(self.coder):
            for rows in row_batches(data, site, batch_size):
                fired += self.coder.encode(rows).count_nonzero(0).cpu()
                n_rows += len(rows)
        if not n_rows:
            raise ValueError("data gave no rows, so there is no density")
        return fired / n_rows

    def density_histogram(
        self, data: _Data, *, site: SiteLike | None = None, batch_size: int = 1024
    ) -> "Figure":
        """Draw how many features fire how often, on a logarithmic axis; dead ones have a bar.

        Args:
            data: As in `density`.
            site: As in `density`.
            batch_size: As in `density`.

        Returns:
            A matplotlib figure.

        Raises:
            ImportError: When matplotlib is not installed.
            ValueError: When data give no rows.

        Examples:
            >>> from neuros_mechint.sae import SparseAutoencoder
            >>> coder = SparseAutoencoder(latent_dim=2, dictionary_size=2)
            >>> figure = SAEVisualizer(coder).density_histogram(torch.randn(9, 2))
            >>> figure.axes[0].get_ylabel()
            'features'
        """
        density = self.density(data, site=site, batch_size=batch_size).numpy()
        figure, axes = _new_figure(6.4, 2.6)
        alive = np.log10(density[density > 0])
        low = float(np.floor(alive.min())) if len(alive) else -1.0
        axes.hist(alive, bins=np.linspace(min(low, -1.0), 0.0, 41).tolist(), color=_BLUE)
        n_dead = int((density == 0).sum())
        axes.bar([min(low, -1.0) - 0.3], [n_dead], width=0.2, color=_ORANGE)
        axes.axvline(-1.0, color=_GREY, ls="--", lw=1)
        title = f"{len(density)} features, {n_dead} dead (orange), dense beyond the dashed line"
        axes.set(title=title, xlabel="log10 of the share of activations", ylabel="features")
        return figure

    def embed(
        self,
        method: str = "pca",
        *,
        n_neighbors: int = 15,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Lay the directions of the features out in a plane.

        Args:
            method: `"pca"`, the two main axes of the unit directions, or `"umap"`, which keeps
                neighbours by their cosine and needs the package umap-learn.
            n_neighbors: Size of the neighbourhoods of `"umap"`.
            generator: Source of the seed of `"umap"`; needed there.

        Returns:
            Shape (feature, 2), float64.

        Raises:
            ImportError: When `"umap"` is asked for and umap-learn is not installed.
            ValueError: When the method is another, `"umap"` has no generator, or there are fewer
                than two features or dimensions.

        Examples:
            >>> from neuros_mechint.sae import SparseAutoencoder
            >>> coder = SparseAutoencoder(latent_dim=3, dictionary_size=5)
            >>> SAEVisualizer(coder).embed().shape
            torch.Size([5, 2])
        """
        directions = nn.functional.normalize(self.coder.dictionary.detach().double().cpu(), dim=1)
        if min(directions.shape) < 2:
            raise ValueError(
                f"a map needs two features of two dimensions, got {tuple(directions.shape)}"
            )
        if method == "pca":
            return _main_axes(directions)
        if method != "umap":
            raise ValueError(f"method needs 'pca' or 'umap', got {method!r}")
        if generator is None:
            raise ValueError("method='umap' needs generator=torch.Generator().manual_seed(...)")
        return _umap(directions, n_neighbors, generator)

    def decoder_map(
        self,
        method: str = "pca",
        *,
        values: Tensor | None = None,
        label: str = "",
        n_neighbors: int = 15,
        generator: torch.Generator | None = None,
    ) -> "Figure":
        """Draw the directions of the features as points in a plane.

        Args:
            method: As in `embed`.
            values: Colours the points, shape (feature,), such as the logarithm of `density`.
            label: What the values are.
            n_neighbors: As in `embed`.
            generator: As in `embed`.

        Returns:
            A matplotlib figure.

        Raises:
            ImportError: When matplotlib or umap-learn is not installed.
            ValueError: When `values` does not fit, or as in `embed`.

        Examples:
            >>> from neuros_mechint.sae import SparseAutoencoder
            >>> coder = SparseAutoencoder(latent_dim=3, dictionary_size=5)
            >>> figure = SAEVisualizer(coder).decoder_map(values=torch.arange(5), label="number")
            >>> figure.axes[1].get_ylabel()
            'number'
        """
        points = self.embed(method, n_neighbors=n_neighbors, generator=generator)
        if values is not None and values.shape != (len(points),):
            raise ValueError(
                f"values needs one number per feature, ({len(points)},), got {tuple(values.shape)}"
            )
        figure, axes = _new_figure(4.6, 3.8)
        if values is None:
            axes.scatter(points[:, 0], points[:, 1], color=_BLUE, s=10)
        else:
            colors = values.detach().cpu().numpy()
            drawn = axes.scatter(points[:, 0], points[:, 1], c=colors, s=10, cmap="viridis")
            figure.colorbar(drawn, ax=axes, label=label)
        axes.set(title=f"Directions of {len(points)} features ({method.upper()})")
        axes.set(xlabel="first axis", ylabel="second axis")
        return figure

    def dashboard(
        self,
        path: str | os.PathLike[str],
        reports: Sequence[FeatureReport],
        *,
        data: _Data | None = None,
        site: SiteLike | None = None,
        metrics: SAEMetrics | None = None,
        tokens: Callable[[Tensor], Sequence[str]] | None = None,
        outputs: Sequence[str] | None = None,
        title: str = "Sparse features",
    ) -> Path:
        """Write one HTML file about the coder and some of its features.

        Args:
            path: Where to; an existing file is replaced.
            reports: What `interpret_features` found.
            data: Activations for the density histogram, as in `density`.
            site: As in `density`.
            metrics: Scores of the coder.
            tokens: Turns an input into one string per position; the tables then show each input
                around its peak, which stands in brackets.
            outputs: Names of the outputs of the readout.
            title: Heading of the page.

        Returns:
            The path.

        Raises:
            ImportError: When matplotlib is not installed.
            FileNotFoundError: When the folder does not exist.
            ValueError: When there is no report, or `outputs` does not fit the readout.

        Examples:
            >>> import tempfile
            >>> from neuros_mechint.sae import SparseAutoencoder, interpret_features
            >>> coder = SparseAutoencoder(latent_dim=2, dictionary_size=4)
            >>> data = [torch.randn(5, 7, 2)]
            >>> reports = interpret_features(coder, [0, 1], nn.Identity(), data, site="")
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     SAEVisualizer(coder).dashboard(f"{folder}/sae.html", reports).name
            'sae.html'
        """
        if not reports:
            raise ValueError(
                "a dashboard needs at least one report of interpret_features, got none"
            )
        page = Report(title)
        page.add_heading("The coder")
        if metrics is not None:
            page.add_sae(metrics, caption="Scores")
        if data is not None:
            figure = self.density_histogram(data, site=site)
            page.add_figure(figure, caption="How often features fire")
        if min(self.coder.dictionary.shape) >= 2:
            caption = "Directions of the features on their two main axes"
            page.add_figure(self.decoder_map(), caption=caption)
        page.add_table(_overview(reports), caption="The features below")
        page.add_heading("Features")
        for report in reports:
            _add_feature(page, report, tokens, outputs)
        return page.save(path)


def _new_figure(width: float, height: float) -> "tuple[Figure, Axes]":
    try:
        # The object interface: no figure is registered, no window system is asked.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "figures need matplotlib; install it with pip install 'neuros-mechint[viz]'"
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.title.set_fontsize(9)
    return figure, axes


def _main_axes(directions: Float[Tensor, "feature latent"]) -> Float[Tensor, "feature 2"]:
    """Coordinates on the two axes of largest variance; the largest of each is positive."""
    U, S, _ = torch.linalg.svd(directions - directions.mean(0), full_matrices=False)
    points: Tensor = U[:, :2] * S[:2]
    largest = points.gather(0, points.abs().argmax(0, keepdim=True))
    return points * torch.where(largest < 0, -1.0, 1.0)


def _umap(directions: Tensor, n_neighbors: int, generator: torch.Generator) -> Tensor:
    try:
        umap = importlib.import_module("umap")
    except ImportError as error:
        raise ImportError(
            "method='umap' needs umap-learn; install it with pip install umap-learn, or take "
            "method='pca'"
        ) from error
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    # One job: several would make the layout depend on the machine.
    layout = umap.UMAP(n_neighbors=n_neighbors, metric="cosine", random_state=seed, n_jobs=1)
    return torch.from_numpy(np.asarray(layout.fit_transform(directions.numpy()), dtype=np.float64))


def _overview(reports: Sequence[FeatureReport]) -> "pd.DataFrame":
    import pandas as pd

    names = ["feature", "density", "max", "mean_when_active"]
    return pd.DataFrame([{name: getattr(report, name) for name in names} for report in reports])


def _add_feature(
    page: Report,
    report: FeatureReport,
    tokens: Callable[[Tensor], Sequence[str]] | None,
    outputs: Sequence[str] | None,
) -> None:
    import pandas as pd

    page.add_heading(f"Feature {report.feature}", level=3)
    if not len(report.rows):
        page.add_text("It never fires on these data.")
        return
    table: dict[str, Any] = {"input": report.rows.tolist()}
    if report.positions.shape[1]:
        table["position"] = [", ".join(map(str, place)) for place in report.positions.tolist()]
    table["activation"] = report.activations.tolist()
    if tokens is not None:
        table["around the peak"] = [
            _context(tokens(x), place)
            for x, place in zip(report.top_inputs, report.positions.tolist(), strict=True)
        ]
    page.add_table(pd.DataFrame(table), caption="Inputs that drive it most")
    if report.traces.ndim == 2 and report.traces.shape[1] > 1:
        page.add_figure(_trace_figure(report), caption="Its course in these inputs")
    if report.readout is not None:
        page.add_table(
            _readout_table(report.readout, outputs),
            caption="Outputs that its direction changes most",
        )


def _context(texts: Sequence[str], place: Sequence[int], reach: int = 8) -> str:
    peak = place[0] if place else 0
    parts = [f"[{text}]" if k == peak else text for k, text in enumerate(texts)]
    return " ".join(parts[max(peak - reach, 0) : peak + reach + 1])


def _trace_figure(report: FeatureReport) -> "Figure":
    figure, axes = _new_figure(6.4, 2.0)
    for k, trace in enumerate(report.traces.numpy()):
        axes.plot(trace, color=_BLUE if k == 0 else _GREY, lw=1.4 if k == 0 else 0.7, zorder=-k)
    axes.set(xlabel="position", ylabel="activation")
    axes.set(title=f"Feature {report.feature}; the strongest input is blue")
    return figure


def _readout_table(
    readout: Tensor, outputs: Sequence[str] | None, most: int = 10
) -> "pd.DataFrame":
    import pandas as pd

    if outputs is not None and len(outputs) != len(readout):
        raise ValueError(
            f"outputs needs one name for each of the {len(readout)} outputs of the readout, got "
            f"{len(outputs)}"
        )
    order = readout.abs().argsort(descending=True)[:most].tolist()
    names = [str(k) if outputs is None else outputs[k] for k in order]
    return pd.DataFrame({"output": names, "change per unit": readout[order].tolist()})
