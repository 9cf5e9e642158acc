"""Series whose changes are planted, and noise that has none."""

import pytest
import torch

from neuros_mechint.dynamics.change_points import PhaseTransitionDetector


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


@pytest.mark.parametrize("method", ["pelt", "binseg"])
@pytest.mark.parametrize("change", ["mean", "slope", "variance"])
def test_white_noise_rarely_has_a_change(method, change):
    detector = PhaseTransitionDetector(method=method, change=change, n_permutations=1)
    found = detector.compute(noise(200, 100)).mask.any(-1)
    # The bar of false positives: 5 % of 200 draws.
    assert int(found.sum()) <= 10


@pytest.mark.parametrize("method", ["pelt", "binseg"])
def test_planted_steps_are_found_with_small_p(method):
    series = torch.tensor([0.0, 6.0, -3.0]).double().repeat_interleave(40) + noise(120)
    detector = PhaseTransitionDetector(method=method, n_permutations=99, generator=gen())
    result = detector.compute(series)
    assert len(result.indices) == 2
    assert abs(result.indices[0] - 40) <= 1
    assert abs(result.indices[1] - 80) <= 1
    assert result.to_dict()["p"] == [0.01, 0.01]


@pytest.mark.parametrize("change", ["mean", "slope", "variance"])
def test_p_values_of_the_only_change_of_noise_are_uniform(change):
    stats = pytest.importorskip("scipy.stats")
    # Two segments of 12 leave no room for a third in 30, and next to no penalty makes every series
    # have its best split.
    detector = PhaseTransitionDetector(
        change=change, penalty=1e-6, min_size=12, n_permutations=19, generator=gen(1)
    )
    result = detector.compute(noise(120, 30))
    p = result.p[result.mask]
    assert len(p) == 120
    # p lies on a grid of 1/20. Kolmogorov-Smirnov below 1e-6: that is the share of false alarms.
    spread = p - torch.rand(120, generator=gen(2)) / 20
    assert stats.kstest(spread.numpy(), "uniform").pvalue > 1e-6


def test_planted_change_of_slope_is_found():
    time = torch.arange(100, dtype=torch.float64)
    series = torch.where(time < 50, 0 * time, 0.5 * (time - 50)) + 0.3 * noise(100)
    found = PhaseTransitionDetector(change="slope", n_permutations=19).compute(series).indices
    assert len(found) == 1
    assert abs(found[0] - 50) <= 5


def test_planted_change_of_variance_is_found():
    series = noise(200) * torch.where(torch.arange(200) < 100, 1.0, 6.0)
    found = PhaseTransitionDetector(change="variance", n_permutations=19).compute(series).indices
    assert len(found) == 1
    assert abs(found[0] - 100) <= 6


def test_batch_is_that_of_each_series():
    series = noise(4, 60) + 5 * (torch.arange(60) > torch.tensor([[10], [20], [30], [70]]))
    detector = PhaseTransitionDetector(n_permutations=1)
    together = detector.compute(series.view(2, 2, 60).numpy()).indices
    for k in range(4):
        assert together[k // 2][k % 2] == detector.compute(series[k]).indices


def test_detection_ignores_shift_and_scale():
    series = noise(80) + 4 * (torch.arange(80) > 33)
    detector = PhaseTransitionDetector(n_permutations=1)
    assert detector.compute(1e3 * series - 7e4).indices == detector.compute(series).indices


def test_constant_series_has_no_change():
    assert PhaseTransitionDetector().compute(torch.full((50,), 0.1)).indices == []


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"penalty": -1.0}, "penalty must be 'bic' or above 0, got -1.0"),
        ({"change": "slope", "min_size": 2}, "min_size must be at least 3 for 'slope', got 2"),
        ({"n_permutations": 0}, "n_permutations must be at least 1, got 0"),
        ({"method": "window"}, r"method must be one of|Type-check"),
    ],
)
def test_settings_out_of_range_are_refused(settings_, message):
    with pytest.raises((ValueError, TypeError), match=message):
        PhaseTransitionDetector(**settings_)


def test_short_series_are_refused():
    with pytest.raises(ValueError, match=r"series must be \(..., time >= 10\), got shape \(9,\)"):
        PhaseTransitionDetector().compute(torch.zeros(9))
    assert repr(PhaseTransitionDetector()).startswith("PhaseTransitionDetector(method='pelt'")
