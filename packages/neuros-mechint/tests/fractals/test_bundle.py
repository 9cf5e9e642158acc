"""Several metrics in one pass."""

import ast
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from neuros_mechint.fractals import (
    DetrendedFluctuationAnalysis,
    FractalMetrics,
    FractalMetricsBundle,
    GraphFractalDimension,
    HiguchiFractalDimension,
    HurstExponent,
    MultifractalSpectrum,
    SpectralSlope,
)

ALONE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "higuchi": lambda x: HiguchiFractalDimension().compute(x),
    "dfa": lambda x: DetrendedFluctuationAnalysis().compute(x).alpha,
    "hurst": lambda x: HurstExponent().compute(x),
    "beta": lambda x: SpectralSlope(fs=250.0).compute(x),
    "mf_width": lambda x: MultifractalSpectrum().compute(x).width,
}


@pytest.mark.slow  # the first of them makes the tables of Whittle's likelihood
@pytest.mark.parametrize("n", [64, 1000, 4096])
@pytest.mark.parametrize("hurst", [0.2, 0.8])
def test_each_metric_equals_its_own_class(
    fgn: Callable[..., np.ndarray], n: int, hurst: float
) -> None:
    x = torch.from_numpy(fgn(n, hurst, 6, seed=0)).reshape(2, 3, n)
    found = FractalMetricsBundle(fs=250.0).compute(x)
    for name, metric in ALONE.items():
        value = found.to_dict()[name]
        torch.testing.assert_close(value, metric(x), rtol=0, atol=1e-10)
        torch.testing.assert_close(
            FractalMetricsBundle(fs=250.0, metrics=[name]).compute(x).to_dict()[name], value
        )


def test_paths_and_offsets_are_as_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 2000, generator=generator, dtype=torch.float64).cumsum(-1) * 1e-6 + 1e-3
    found = FractalMetricsBundle(fs=250.0).compute(x).to_dict()
    for name, metric in ALONE.items():
        torch.testing.assert_close(found[name], metric(x), rtol=0, atol=1e-10)


def test_single_precision_and_arrays_come_back_as_they_went_in() -> None:
    x = torch.randn(3, 300, generator=torch.Generator().manual_seed(0))
    found = FractalMetricsBundle(fs=250.0).compute(x).to_dict()
    arrays = FractalMetricsBundle(fs=250.0).compute(x.numpy()).to_dict()
    moved = FractalMetricsBundle(fs=250.0).compute(x.T, dim=0).to_dict()
    for name, metric in ALONE.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], metric(x), rtol=0, atol=1e-6)
        torch.testing.assert_close(moved[name], found[name])
        np.testing.assert_array_equal(arrays[name], found[name].numpy())


def test_blocks_do_not_change_the_result() -> None:
    x = torch.randn(300, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = FractalMetricsBundle().compute(x)
    for i in (0, 150, 299):
        for part, single in zip(whole[:5], FractalMetricsBundle().compute(x[i])[:5], strict=True):
            torch.testing.assert_close(part[i], single, rtol=0, atol=1e-10)


def test_a_constant_item_is_nan_with_one_warning_and_no_gradient() -> None:
    x = torch.randn(3, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[1] = 7.0
    x.requires_grad_()
    with pytest.warns(UserWarning, match="1 of 3 items are constant, or without") as caught:
        found = FractalMetricsBundle().compute(x)
    assert len(caught) == 1
    total = torch.zeros(())
    for part in found.to_dict().values():
        assert part.isnan().tolist() == [False, True, False]
        total = total + part.sum()
    (gradient,) = torch.autograd.grad(total, x)
    assert gradient.isfinite().all()
    assert (gradient[1] == 0).all()
    assert (gradient[[0, 2]] != 0).any(-1).all()


def test_the_gradient_passes_gradcheck() -> None:
    x = torch.randn(2, 128, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    bundle = FractalMetricsBundle()
    assert torch.autograd.gradcheck(
        lambda x: bundle.compute(x)[:5], (x.requires_grad_(),), fast_mode=True
    )


def test_metrics_that_were_not_asked_for_are_none() -> None:
    found = FractalMetricsBundle(metrics=("beta", "higuchi")).compute(torch.randn(100))
    assert list(found.to_dict()) == ["higuchi", "beta"]
    assert found.dfa is None
    assert found.graph is None


@pytest.mark.slow  # the first graph loads the library of graphs
def test_graphs_join_the_metrics() -> None:
    ring = torch.roll(torch.eye(40), 1, 0)
    ring = ring + ring.T
    bundle = FractalMetricsBundle(metrics=("higuchi",))
    found = bundle.compute(torch.randn(2, 100), adjacency=ring)
    alone = GraphFractalDimension().compute(ring).dimension
    torch.testing.assert_close(found.graph, alone)
    frame = found.to_frame()
    assert frame["graph"].tolist() == pytest.approx([alone.item()] * 2)


def test_a_table_has_a_row_for_each_signal() -> None:
    x = torch.randn(2, 3, 200, generator=torch.Generator().manual_seed(0))
    found = FractalMetricsBundle(metrics=("dfa", "beta")).compute(x.requires_grad_())
    frame = found.to_frame()
    assert frame.shape == (6, 2)
    assert frame.loc[(1, 2), "dfa"] == pytest.approx(found.dfa[1, 2].item())
    single = FractalMetricsBundle(metrics=("dfa",)).compute(np.asarray(x.detach())[0, 0])
    assert single.to_frame().shape == (1, 1)
    with pytest.raises(ValueError, match=r"graphs of shape \(4,\) and signals of shape \(2, 3\)"):
        found._replace(graph=torch.zeros(4)).to_frame()
    assert FractalMetrics().to_dict() == {}


def test_repr_rebuilds_the_bundle() -> None:
    bundle = FractalMetricsBundle(metrics=("dfa", "beta"), fs=250.0)
    arguments = ast.parse(f"f{repr(bundle).removeprefix('FractalMetricsBundle')}", mode="eval").body
    assert isinstance(arguments, ast.Call)
    values = {word.arg: ast.literal_eval(word.value) for word in arguments.keywords}
    assert repr(FractalMetricsBundle(**values)) == repr(bundle)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("dfa", "fd")}, r"metrics must be some of .*got \('dfa', 'fd'\)"),
        ({"metrics": ()}, r"metrics must be some of .*got \(\)"),
        ({"fs": 0.0}, "fs must be a positive rate"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FractalMetricsBundle(**options)


def test_bad_signals_are_refused() -> None:
    with pytest.raises(ValueError, match="x needs samples for windows of 10"):
        FractalMetricsBundle().compute(torch.randn(40))
    with pytest.raises(ValueError, match="x needs at least 64 samples"):
        FractalMetricsBundle().compute(torch.randn(50))
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 2 items"):
        FractalMetricsBundle().compute(torch.stack([torch.zeros(99), torch.full((99,), math.nan)]))
    with pytest.raises(TypeError, match=r"got list|Type-check"):
        FractalMetricsBundle().compute([1.0])
