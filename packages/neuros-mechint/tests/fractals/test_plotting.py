"""Pictures of fractal estimates and probes."""

import subprocess
import sys
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from neuros_mechint.fractals import (
    GraphDimension,
    HiguchiFractalDimension,
    Multifractal,
    ScaleEffects,
    SpectralFit,
    plot_fd_history,
    plot_graph_boxes,
    plot_loglog,
    plot_multifractal,
    plot_scale_ablation,
    plot_spectrum,
)


def effects(n_bands: int = 3) -> ScaleEffects:
    low = 2.0 ** torch.arange(n_bands, dtype=torch.float64).flip(0)
    delta = torch.linspace(-2, 0, n_bands, dtype=torch.float64)
    return ScaleEffects(
        band=torch.stack([low, 2 * low], -1),
        baseline=4.0,
        ablated=4.0 + delta,
        delta=delta,
        relative=delta / 4,
        ci=torch.stack([delta - 0.5, delta + 0.5], -1),
    )


def spectrum(*batch: int, knee: float = 0.0) -> SpectralFit:
    freqs = torch.arange(1, 33, dtype=torch.float64)
    beta, amplitude = torch.full(batch, 2.0), torch.full(batch, 1.0)
    psd = torch.e / (knee**2 + freqs**2)
    return SpectralFit(
        beta, amplitude, torch.full(batch, knee), beta, freqs, psd.expand(*batch, 32)
    )


def multifractal(*batch: int) -> Multifractal:
    q = torch.linspace(-5, 5, 11, dtype=torch.float64)
    alpha = 1 - q / 20
    parts = [part.expand(*batch, 11) for part in (q * alpha - 1 + q**2 / 40, alpha)]
    height = (1 - q**2 / 40).expand(*batch, 11)
    return Multifractal(
        q, parts[0], parts[1], height, parts[1], torch.full(batch, 0.5), torch.zeros(batch)
    )


def boxes(**changes: Any) -> Any:
    sizes = torch.tensor([2.0, 4.0, 8.0])
    fields = dict.fromkeys(GraphDimension._fields, torch.tensor(0))
    fields |= {
        "dimension": torch.tensor(2.0), "box_sizes": sizes, "n_boxes": 256 / sizes**2,
        "r2": torch.tensor(1.0), "is_fractal": torch.tensor(True), **changes,
    }  # fmt: skip
    return GraphDimension(**fields)


def history() -> pd.DataFrame:
    rows = [
        (step, layer, "higuchi", 1.5 + step / 10, 0.1) for step in range(3) for layer in ("a", "b")
    ]
    return pd.DataFrame(rows, columns=["step", "layer", "metric", "mean", "std"])


def loglog(*, ax: Axes | None = None) -> Axes:
    log_scale = torch.log(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64))
    return plot_loglog(log_scale, 1 - 1.5 * log_scale, ax=ax)


DRAWINGS = {
    "loglog": loglog,
    "spectrum": lambda ax=None: plot_spectrum(spectrum(3), ax=ax),
    "multifractal": lambda ax=None: plot_multifractal(multifractal(3), ax=ax),
    "graph_boxes": lambda ax=None: plot_graph_boxes(boxes(), ax=ax),
    "fd_history": lambda ax=None: plot_fd_history(history(), ax=ax),
    "scale_ablation": lambda ax=None: plot_scale_ablation(effects(), ax=ax),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_picture_is_an_axes_on_the_given_or_a_new_figure(name: str) -> None:
    new = DRAWINGS[name]()
    assert isinstance(new, Axes)
    assert isinstance(new.figure, Figure)
    assert new.get_xlabel()
    assert new.get_ylabel()
    given = Figure().subplots()
    assert DRAWINGS[name](ax=given) is given
    assert len(given.lines) + len(given.patches) == len(new.lines) + len(new.patches) > 0
    new.figure.canvas.draw()


@pytest.mark.slow  # a fresh interpreter imports torch
def test_drawing_opens_no_window_and_registers_no_figure() -> None:
    code = (
        "import sys, torch\n"
        "import neuros_mechint.fractals as f\n"
        "assert 'matplotlib' not in sys.modules\n"
        "f.plot_loglog(torch.arange(3.0), torch.arange(3.0))\n"
        "assert 'matplotlib.figure' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_matplotlib_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'neuros-mechint\[viz\]'"):
        loglog()


def test_the_line_through_a_power_law_is_that_law() -> None:
    ax = loglog()
    points, line = ax.lines
    assert ax.get_title() == "slope -1.50"
    np.testing.assert_allclose(points.get_xdata(), [1, 2, 4])
    np.testing.assert_allclose(points.get_ydata(), np.e * np.array([1, 2, 4]) ** -1.5)
    np.testing.assert_allclose(line.get_ydata(), np.e * np.array([1, 4]) ** -1.5)
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_several_curves_are_a_mean_and_a_band_without_points_that_are_not_finite() -> None:
    x = torch.randn(5, 200, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    scale, value = HiguchiFractalDimension().curve(x)
    value[0, 3] = -torch.inf
    ax = plot_loglog(scale, value)
    assert len(ax.collections) == 1
    expected = value[1:, 3].double().mean().exp()
    assert ax.lines[0].get_ydata()[3] == pytest.approx(float(expected))
    value[:, 3] = -torch.inf
    assert len(plot_loglog(scale, value).lines[0].get_ydata()) == 9


def test_the_law_of_a_spectrum_lies_on_a_spectrum_of_that_law() -> None:
    for knee, title in ((0.0, r"$\beta$ = 2.00"), (4.0, r"$\beta$ = 2.00, knee at 4 Hz")):
        ax = plot_spectrum(spectrum(2, knee=knee))
        measured, law = ax.lines[:2]
        np.testing.assert_allclose(law.get_ydata(), measured.get_ydata(), rtol=1e-6)
        assert ax.get_title() == title
    assert list(ax.lines[2].get_xdata()) == [pytest.approx(4.0)] * 2


def test_the_dot_of_a_multifractal_spectrum_is_at_q_zero() -> None:
    single, several = plot_multifractal(multifractal()), plot_multifractal(multifractal(4))
    assert single.lines[-1].get_xydata().tolist() == [[1.0, 1.0]]
    assert single.get_title() == "width 0.50"
    assert (len(single.lines), len(several.lines)) == (2, 6)


def test_boxes_lie_on_the_line_of_their_dimension() -> None:
    points, line = plot_graph_boxes(boxes()).lines
    np.testing.assert_allclose(points.get_ydata(), [64, 16, 4])
    np.testing.assert_allclose(line.get_ydata(), [64, 16, 4], rtol=1e-6)
    title = plot_graph_boxes(boxes(is_fractal=torch.tensor(False))).get_title()
    assert title == "dimension 2.00, no power law"


def test_layers_have_colours_and_metrics_have_lines() -> None:
    frame = pd.concat([history(), history().assign(metric="beta")])
    ax = plot_fd_history(frame)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "a, higuchi", "b, higuchi", "a, beta", "b, beta",
    ]  # fmt: skip
    a, b, a_beta, _ = ax.lines
    assert a.get_color() == a_beta.get_color() != b.get_color()
    assert a.get_linestyle() != a_beta.get_linestyle()
    assert ax.get_ylabel() == "value"
    assert a.get_ydata().tolist() == pytest.approx([1.5, 1.6, 1.7])
    assert plot_fd_history(history()).get_ylabel() == "higuchi"


def test_bands_are_drawn_from_low_to_high_and_unsure_ones_in_grey() -> None:
    ax = plot_scale_ablation(effects())
    assert [bar.get_height() for bar in ax.patches] == [0.0, -1.0, -2.0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1–2", "2–4", "4–8"]
    grey, sure, other = (mpl.colors.to_hex(bar.get_facecolor()) for bar in ax.patches)
    assert sure == other != grey
    unknown = effects()._replace(ci=torch.full((3, 2), torch.nan))
    assert len({bar.get_facecolor() for bar in plot_scale_ablation(unknown).patches}) == 1
    assert plot_scale_ablation(effects(8)).get_xticklabels()[0].get_rotation() == 45


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"log_value needs the \(3,\) points of log_scale"):
        plot_loglog(torch.zeros(3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="two finite points are needed for a line, got 1"):
        plot_loglog(torch.arange(3.0), torch.tensor([0.0, torch.nan, -torch.inf]))
    with pytest.raises(ValueError, match=r"the result of one graph is needed, got .*\(2, 3\)"):
        plot_graph_boxes(boxes(n_boxes=torch.ones(2, 3)))
    with pytest.raises(ValueError, match="the graph has no scaling range"):
        plot_graph_boxes(boxes(box_sizes=torch.ones(0), n_boxes=torch.ones(0)))
    with pytest.raises(ValueError, match=r"got 6 rows without \['std'\]"):
        plot_fd_history(history().drop(columns="std"))
    with pytest.raises(ValueError, match="got 0 rows"):
        plot_fd_history(history()[:0])


def test_tensors_with_a_graph_and_arrays_are_drawn_alike() -> None:
    scale = torch.arange(4.0)
    value: Tensor = (2 * scale).requires_grad_()
    from_tensor, from_array = (
        plot_loglog(scale, value),
        plot_loglog(scale.numpy(), 2 * scale.numpy()),
    )
    for ours, theirs in zip(from_tensor.lines, from_array.lines, strict=True):
        np.testing.assert_allclose(ours.get_xydata(), theirs.get_xydata())
