"""Higuchi's dimension."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from neuros_mechint.fractals import HiguchiFractalDimension


@pytest.mark.parametrize("slope", [-3.0, 0.5, 2e6])
@pytest.mark.parametrize("n", [21, 100, 1001])
def test_dimension_of_a_straight_line_is_one(slope: float, n: int) -> None:
    ramp = slope * torch.arange(n, dtype=torch.float64)
    value = HiguchiFractalDimension().compute(ramp).item()
    assert value == pytest.approx(1.0, abs=1e-9)


def test_dimension_of_white_noise_is_two() -> None:
    # Standard deviation of one estimate is 0.01; of the mean of 256, 0.0006.
    x = torch.randn(256, 1000, generator=torch.Generator().manual_seed(0))
    assert HiguchiFractalDimension().compute(x).mean().item() == pytest.approx(2.0, abs=0.004)


def test_lengths_equal_the_definition() -> None:
    x = np.random.default_rng(0).standard_normal(53).cumsum()
    n = len(x)
    lengths = []
    for k in range(1, 8):
        parts = []
        for m in range(1, k + 1):
            count = (n - m) // k
            steps = [abs(x[m + i * k - 1] - x[m + (i - 1) * k - 1]) for i in range(1, count + 1)]
            parts.append(sum(steps) * (n - 1) / (count * k) / k)
        lengths.append(np.mean(parts))
    log_scale, log_length = HiguchiFractalDimension(k_max=7).curve(x)
    np.testing.assert_allclose(log_scale, -np.log(np.arange(1, 8)))
    np.testing.assert_allclose(log_length, np.log(lengths), rtol=1e-12)


@pytest.mark.parametrize("weights", ["uniform", "inverse_k"])
def test_the_dimension_is_the_weighted_slope_of_the_curve(weights: str) -> None:
    x = np.random.default_rng(1).standard_normal(300).cumsum()
    estimator = HiguchiFractalDimension(weights=weights)
    log_scale, log_length = estimator.curve(x)
    k = np.arange(1, 11)
    # numpy.polyfit weighs residuals, not their squares.
    w = np.ones(10) if weights == "uniform" else np.sqrt(1 / k)
    slope = np.polyfit(log_scale, log_length, 1, w=w)[0]
    assert estimator.compute(x) == pytest.approx(slope, abs=1e-12)


# Bars on 400 draws: the standard error of the bias is .0015, of the RMSE 3.5 % of itself.
@pytest.mark.parametrize(
    ("weights", "hurst", "bar"),
    [
        ("uniform", 0.2, 0.021),
        ("uniform", 0.5, 0.030),
        ("uniform", 0.8, 0.040),
        ("inverse_k", 0.2, 0.020),
        ("inverse_k", 0.5, 0.028),
        ("inverse_k", 0.8, 0.037),
    ],
)
def test_dimension_of_fractional_brownian_motion(
    fgn: Callable[..., np.ndarray], weights: str, hurst: float, bar: float
) -> None:
    x = fgn(1000, hurst, 400, seed=0).cumsum(-1)
    error = HiguchiFractalDimension(weights=weights).compute(x) - (2 - hurst)
    assert abs(error.mean()) <= 0.006
    assert math.sqrt((error**2).mean()) <= bar


def test_a_period_within_k_max_has_no_dimension() -> None:
    x = torch.tensor([1.0, -1.0]).repeat(50)
    with pytest.warns(UserWarning, match="1 of 1 items are constant or repeat within k_max"):
        assert HiguchiFractalDimension().compute(x).isnan()
    assert HiguchiFractalDimension(k_max=2).curve(x)[1].tolist()[1] == -math.inf


def test_gradients_agree_with_and_without_graph() -> None:
    x = torch.randn(3, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = HiguchiFractalDimension().compute(x)
    tracked = HiguchiFractalDimension().compute(x.requires_grad_())
    torch.testing.assert_close(tracked.detach(), plain, rtol=0, atol=1e-12)
    with torch.no_grad():
        assert not HiguchiFractalDimension().compute(x).requires_grad


def test_gradients_reach_every_block_of_a_large_batch() -> None:
    x = torch.randn(600, 1000, generator=torch.Generator().manual_seed(1))
    plain = HiguchiFractalDimension().compute(x)
    tracked = HiguchiFractalDimension().compute(x.requires_grad_())
    torch.testing.assert_close(tracked.detach(), plain, rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(tracked.sum(), x)
    assert bool((gradient != 0).any(-1).all())


def test_the_shortest_signal_is_two_k_max_plus_one() -> None:
    estimator = HiguchiFractalDimension(k_max=4)
    assert estimator.compute(torch.arange(9.0)).item() == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ValueError, match=r"at least 9 samples.*got 8; .*k_max = 4"):
        estimator.compute(torch.arange(8.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k_max": 1}, "k_max must be at least 2 to fit a line, got 1"),
        ({"weights": "log"}, "weights"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        HiguchiFractalDimension(**options)
