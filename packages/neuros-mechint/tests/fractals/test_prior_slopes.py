"""Whittle's exponent on few nodes in place of all bins."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuros_mechint.fractals._power_law import design_for, fit_whittle
from neuros_mechint.fractals._prior_latents import (
    channel_exponents,
    plan_slopes,
    read_latents,
)
from neuros_mechint.fractals._prior_slopes import REACH, condensation_for, fit_condensed
from neuros_mechint.fractals._psd import select_band

CPU = torch.device("cpu")


def power_law(n: int, beta: float, dtype: torch.dtype, seed: int = 0) -> tuple[object, Tensor]:
    """A band and 64 periodograms of noise with that exponent."""
    band = select_band(n, 1.0, (4 / n, 0.4))
    u = torch.rand(64, len(band.freqs), generator=torch.Generator().manual_seed(seed)).double()
    return band, ((-(1 - u).log() + 1e-12) * band.freqs**-beta).to(dtype)


@pytest.mark.parametrize(("dtype", "bar"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("n", [64, 256, 4096])
@pytest.mark.parametrize(("fold", "beta"), [(1.0, 1.0), (1.0, -1.0), (3.0, 0.0), (-1.0, 1.5)])
def test_nodes_give_the_exponent_of_all_bins(
    dtype: torch.dtype, bar: float, n: int, fold: float, beta: float
) -> None:
    band, psd = power_law(n, beta, dtype)
    plan = condensation_for(band, torch.ones(len(band.freqs)), fold, dtype, CPU)
    found, trusted = fit_condensed(psd @ plan.weights, plan)
    expected, _ = fit_whittle(psd, design_for(band, dtype, CPU))
    # Short bands have exponents with a standard error of 0.3: a few leave the reach of the nodes.
    assert trusted.double().mean() > 0.9
    assert trusted[(expected - fold).abs() < REACH - 0.5].all()
    assert (found - expected)[trusted].abs().max() < bar


def test_long_bands_have_few_nodes() -> None:
    band = select_band(2**16, 1.0, (4 / 2**16, 0.4))
    plan = condensation_for(band, torch.ones(len(band.freqs)), 1.0, torch.float32, CPU)
    assert len(band.freqs) > 26_000
    assert len(plan.nodes.log_freqs) < 90


def test_a_gain_is_divided_out() -> None:
    band, psd = power_law(512, 1.0, torch.float64)
    gain = band.freqs**0.7
    plain = condensation_for(band, torch.ones_like(gain), 1.0, torch.float64, CPU)
    divided = condensation_for(band, gain, 1.0, torch.float64, CPU)
    torch.testing.assert_close(
        fit_condensed((psd * gain) @ divided.weights, divided)[0],
        fit_condensed(psd @ plain.weights, plain)[0],
    )


@given(beta=st.floats(-2, 4), fold=st.floats(-1, 3), seed=st.integers(0, 99))
@settings(max_examples=30, derandomize=True, deadline=None)
def test_what_is_trusted_is_the_fit_on_all_bins(beta: float, fold: float, seed: int) -> None:
    band, psd = power_law(300, beta, torch.float64, seed)
    plan = condensation_for(band, torch.ones(len(band.freqs)), fold, torch.float64, CPU)
    found, trusted = fit_condensed(psd @ plan.weights, plan)
    expected, _ = fit_whittle(psd, design_for(band, torch.float64, CPU))
    # At the far end of the reach the product's rounding is magnified.
    torch.testing.assert_close(found[trusted], expected[trusted], rtol=0, atol=1e-9)


@pytest.mark.parametrize("pool", ["channel", "batch"])
@pytest.mark.parametrize("steep", [False, True])
def test_a_narrow_line_is_fitted_on_all_bins(pool: str, *, steep: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 256, 3, generator=generator, dtype=torch.float64)
    # All power in the lowest bins: far redder than any exponent the nodes stand for.
    x[..., 1] *= 1e-9
    x[..., 1] += torch.sin(torch.arange(256) * (2 * torch.pi * 5 / 256))
    signals = read_latents(x.requires_grad_())
    plan = plan_slopes(signals, {}, fs=1.0, freq_range=None, fold=0.0, steep=steep)
    beta, silent = channel_exponents(signals, plan, pool)
    assert not silent.any()
    assert (beta[..., 1] > REACH).all()
    alone = read_latents(x[..., 1:2])
    torch.testing.assert_close(channel_exponents(alone, plan, pool)[0], beta[..., 1:2])
    (gradient,) = torch.autograd.grad(beta.sum(), x)
    assert gradient.isfinite().all()
    assert (gradient[..., 1] != 0).any()


def test_the_variance_of_a_plan_is_that_of_its_exponents() -> None:
    x = torch.randn(500, 512, 4, generator=torch.Generator().manual_seed(0))
    signals = read_latents(x)
    plan = plan_slopes(signals, {}, fs=1.0, freq_range=None, fold=0.0, steep=False)
    beta, _ = channel_exponents(signals, plan, "channel")
    # 2000 draws: the standard error of a variance is 3.2 % of it.
    assert beta.var().item() == pytest.approx(plan.variance, rel=0.16)
