"""Removal of a frequency band from an activation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neuros_mechint.interventions import ScaleAblation

FS, N = 200.0, 400


def sine(periods: int, dtype: torch.dtype = torch.float32, phase: float = 0.3) -> Tensor:
    """A sine of a whole number of periods, (1, time, 1), at periods * FS / N Hz."""
    time = torch.arange(N, dtype=torch.float64)
    return torch.sin(2 * math.pi * periods * time / N + phase).to(dtype)[None, :, None]


def net() -> nn.Sequential:
    return nn.Sequential(nn.Identity(), nn.Identity())


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


@settings(max_examples=25, derandomize=True, deadline=None)
@given(inside=st.integers(20, 60), outside=st.sampled_from([0, 1, 19, 61, 120, 199]))
def test_a_sine_in_the_band_goes_and_one_outside_stays(inside: int, outside: int) -> None:
    kept = sine(outside)
    ablation = ScaleAblation(net(), band=(10.0, 30.0), fs=FS)
    assert rms(ablation.run(sine(inside), "0")) <= 1e-6
    assert rms(ablation.run(sine(inside) + kept, "0") - kept) <= 1e-6


@pytest.mark.parametrize("n", [N, N + 1])
def test_a_band_that_covers_everything_leaves_nothing(n: int) -> None:
    x = torch.randn(2, n, 3, generator=torch.Generator().manual_seed(0))
    out = ScaleAblation(net(), band=(0.0, FS / 2), fs=FS).run(x, "0")
    assert torch.equal(out, torch.zeros_like(x))


def test_the_band_is_removed_along_the_given_axis() -> None:
    x = sine(40) + sine(5)
    out = ScaleAblation(net(), band=(10.0, 30.0), fs=FS, axis=-1).run(x.mT, "0")
    assert rms(out.mT - sine(5)) <= 1e-6


def test_the_effect_on_a_metric_is_that_of_the_run() -> None:
    x = sine(40, torch.float64) * 2 + sine(5, torch.float64)
    ablation = ScaleAblation(net(), band=(10.0, 30.0), fs=FS)
    result = ablation.ablate(x, "0", lambda y: y.square().mean((1, 2)))
    # The power of a sine is half its squared amplitude.
    assert result.baseline == pytest.approx(2.5, abs=1e-9)
    assert result.ablated == pytest.approx(0.5, abs=1e-9)
    assert result.name == "0 without 10 to 30 Hz"


def test_the_gradient_passes_outside_of_the_band_only() -> None:
    x = sine(40, torch.float64).requires_grad_()
    ScaleAblation(net(), band=(10.0, 30.0), fs=FS).run(x, "0").mul(x.detach()).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) <= 1e-9


def test_only_the_part_that_an_index_names_is_filtered() -> None:
    x = sine(40).repeat(1, 1, 2)
    out = ScaleAblation(net(), band=(10.0, 30.0), fs=FS).run(x, "0[..., :1]")
    assert rms(out[..., 0]) <= 1e-6
    assert torch.equal(out[..., 1], x[..., 1])


def test_what_cannot_be_filtered_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0 <= low <= high and fs > 0, got low=5.0, high=1.0"):
        ScaleAblation(net(), band=(5.0, 1.0), fs=FS)
    with pytest.raises(ValueError, match="batch_size needs at least 1 row, got 0"):
        ScaleAblation(net(), band=(0.0, 1.0), fs=FS, batch_size=0)
    with pytest.raises(
        ValueError, match=r"no frequency .* lies between 0.1 and 0.2 Hz: 400 samples"
    ):
        ScaleAblation(net(), band=(0.1, 0.2), fs=FS).run(sine(1), "0")
    with pytest.raises(ValueError, match="up to 100 Hz; widen the band"):
        ScaleAblation(net(), band=(101.0, 500.0), fs=FS).run(sine(1), "0")
    with pytest.raises(ValueError, match="axis = 3 is no axis of the activation at '0'"):
        ScaleAblation(net(), band=(0.0, 1.0), fs=FS, axis=3).run(sine(1), "0")
    with pytest.raises(ValueError, match="needs real floating-point activations"):
        ScaleAblation(net(), band=(0.0, 1.0), fs=FS).run(sine(1).long(), "0")


def test_an_edge_on_a_bin_belongs_to_the_band() -> None:
    # 0.1 + 0.2 is above 0.3 in binary; the bin at 0.3 Hz still counts.
    x = sine(3)
    ablation = ScaleAblation(net(), band=(0.3, 0.3), fs=0.1 * N)
    assert rms(ablation.run(x, "0")) <= 1e-6
    assert repr(ablation) == "ScaleAblation(Sequential, band=(0.3, 0.3), fs=40.0, axis=1)"
