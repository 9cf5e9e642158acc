import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from neuros_mechint import ActivationStore
from neuros_mechint.sae import (
    SAEVisualizer,
    SparseAutoencoder,
    evaluate_sae,
    interpret_features,
)

pytest.importorskip("matplotlib")
# The drawing library of the figures warns about its own dependencies.


def coder_of(width: int = 4, size: int = 9) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(0)
    coder = SparseAutoencoder(latent_dim=width, dictionary_size=size, generator=generator)
    with torch.no_grad():
        coder.b_enc[3] = -1e3
    return coder


def data(seed: int = 0) -> Tensor:
    return torch.randn(30, 6, 4, generator=torch.Generator().manual_seed(seed))


def test_density_is_the_share_of_rows_that_fire(tmp_path: Path) -> None:
    coder = coder_of()
    with torch.no_grad():
        expected = (coder.encode(data()) > 0).double().mean((0, 1))
    torch.testing.assert_close(SAEVisualizer(coder).density(data(), batch_size=7), expected)
    store = ActivationStore.collect(nn.Identity(), [data()], "", tmp_path)
    torch.testing.assert_close(SAEVisualizer(coder).density(store), expected)
    assert expected[3] == 0
    with pytest.raises(ValueError, match="data gave no rows, so there is no density"):
        SAEVisualizer(coder).density([])


def test_the_histogram_counts_every_feature_once() -> None:
    figure = SAEVisualizer(coder_of()).density_histogram(data())
    (axes,) = figure.axes
    assert sum(patch.get_height() for patch in axes.patches) == 9
    assert "9 features, 1 dead" in axes.get_title()


def test_a_coder_that_never_fires_has_a_histogram() -> None:
    coder = coder_of()
    with torch.no_grad():
        coder.b_enc.fill_(-1e3)
    (axes,) = SAEVisualizer(coder).density_histogram(data()).axes
    assert sum(patch.get_height() for patch in axes.patches) == 9


def test_the_map_keeps_distances_of_planar_directions() -> None:
    coder = coder_of(width=5, size=40)
    angles = torch.linspace(0, 6, 40)
    plane, _ = torch.linalg.qr(torch.randn(5, 2, generator=torch.Generator().manual_seed(2)))
    directions = torch.stack([angles.cos(), angles.sin()], 1) @ plane.T
    with torch.no_grad():
        coder.W_dec.copy_(directions)
    points = SAEVisualizer(coder).embed()
    torch.testing.assert_close(
        torch.cdist(points, points),
        torch.cdist(directions.double(), directions.double()),
        atol=1e-5,
        rtol=0,
    )


def test_the_map_colours_its_points() -> None:
    figure = SAEVisualizer(coder_of()).decoder_map(values=torch.arange(9.0), label="order")
    axes, bar = figure.axes
    assert len(axes.collections[0].get_offsets()) == 9
    assert bar.get_ylabel() == "order"
    with pytest.raises(ValueError, match=r"one number per feature, \(9,\), got \(3,\)"):
        SAEVisualizer(coder_of()).decoder_map(values=torch.arange(3))


def test_maps_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(ValueError, match=r"two features of two dimensions, got \(9, 1\)"):
        SAEVisualizer(coder_of(width=1)).embed()
    with pytest.raises(ValueError, match="method needs 'pca' or 'umap', got 'tsne'"):
        SAEVisualizer(coder_of()).embed("tsne")
    with pytest.raises(ValueError, match="method='umap' needs generator="):
        SAEVisualizer(coder_of()).embed("umap")
    with pytest.raises(TypeError, match="coder"):
        SAEVisualizer(nn.ReLU())


@pytest.mark.skipif(importlib.util.find_spec("umap") is not None, reason="umap-learn is there")
def test_umap_without_its_package_says_what_to_install() -> None:
    with pytest.raises(ImportError, match="pip install umap-learn, or take method='pca'"):
        SAEVisualizer(coder_of()).embed("umap", generator=torch.Generator())


@pytest.mark.slow  # starts an interpreter that imports torch
def test_figures_without_matplotlib_say_what_to_install() -> None:
    program = textwrap.dedent("""
        import sys
        sys.modules["matplotlib.figure"] = None
        import torch
        from neuros_mechint.sae import SAEVisualizer, SparseAutoencoder
        coder = SparseAutoencoder(latent_dim=2, dictionary_size=3)
        try:
            SAEVisualizer(coder).decoder_map()
        except ImportError as error:
            print(error)
        loaded = {"pandas", "sklearn", "matplotlib", "networkx", "scipy.stats"} & set(sys.modules)
        print(sorted(loaded))
    """)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "figures need matplotlib; install it with pip install 'neuros-mechint[viz]'",
        "[]",
    ]


def test_the_dashboard_is_one_file_about_every_feature(tmp_path: Path) -> None:
    coder, rows = coder_of(), data()
    reports = interpret_features(
        coder, [0, 3, 5], nn.Identity(), rows.split(8), 4, site="", readout=torch.eye(4)
    )
    path = SAEVisualizer(coder).dashboard(
        tmp_path / "sae.html",
        reports,
        data=rows,
        metrics=evaluate_sae(coder, rows),
        tokens=lambda x: [f"<t{k}>" for k in range(len(x))],
        outputs=["north", "east", "south", "west"],
        title="A <coder>",
    )
    assert list(tmp_path.iterdir()) == [path]
    page = path.read_text()
    for text in ("A &lt;coder&gt;", "Feature 0", "Feature 3", "Feature 5", "It never fires"):
        assert text in page
    assert f"[&lt;t{int(reports[0].positions[0, 0])}&gt;]" in page
    assert "Variance explained" in page
    assert "north" in page
    assert "<svg" in page
    assert "https://" not in page.split("</style>")[1]


def test_a_dashboard_of_vectors_needs_neither_positions_nor_data(tmp_path: Path) -> None:
    coder, rows = coder_of(), data()[:, 0]
    reports = interpret_features(coder, [0], nn.Identity(), [rows], 3, site="")
    page = SAEVisualizer(coder).dashboard(tmp_path / "sae.html", reports).read_text()
    assert "position" not in page.split("Feature 0</h3>")[1].split("Provenance")[0]


def test_a_dashboard_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    coder, rows = coder_of(), data()
    with pytest.raises(ValueError, match="at least one report of interpret_features, got none"):
        SAEVisualizer(coder).dashboard(tmp_path / "x.html", [])
    reports = interpret_features(
        coder, [0], nn.Identity(), [rows], 3, site="", readout=torch.eye(4)
    )
    with pytest.raises(ValueError, match="each of the 4 outputs of the readout, got 1"):
        SAEVisualizer(coder).dashboard(tmp_path / "x.html", reports, outputs=["a"])
    assert not list(tmp_path.iterdir())
