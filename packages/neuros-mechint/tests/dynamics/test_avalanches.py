"""Branching processes of known ratio, seen whole and in part."""

import numpy as np
import pytest
import torch

from neuros_mechint.dynamics.avalanches import AvalancheCriticality


def branching(ratio, n_time, rng, drive=2.0):
    """A driven branching process: every unit activates a Poisson number of others."""
    activity = np.empty(n_time, dtype=np.int64)
    now = int(drive / (1 - ratio))
    arrivals = rng.poisson(drive, n_time)
    for t in range(n_time):
        now = rng.poisson(ratio * now) + arrivals[t]
        activity[t] = now
    return activity


def test_branching_ratio_does_not_change_when_a_tenth_of_the_units_is_seen():
    rng = np.random.default_rng(0)
    whole = branching(0.98, 100_000, rng)
    part = rng.binomial(whole, 0.1)
    both = np.stack([whole, part]).astype(float)
    result = AvalancheCriticality(max_lag=100).compute(both)
    # Autocorrelation time 50, so 2000 independent stretches.
    np.testing.assert_allclose(result.branching_ratio, 0.98, atol=0.01)
    # One lag alone sees the subsampling.
    assert float(result.slopes[0, 0]) > 0.96
    assert float(result.slopes[1, 0]) < 0.93
    assert float(result.timescale[0]) == pytest.approx(50, rel=0.5)


def test_geometric_decay_is_fitted_exactly():
    decay = 0.8 ** torch.arange(300, dtype=torch.float64)
    result = AvalancheCriticality(max_lag=10, dt=2.0).compute(decay)
    assert float(result.branching_ratio) == pytest.approx(0.8, abs=1e-6)
    assert float(result.timescale) == pytest.approx(-2 / np.log(0.8), abs=1e-4)
    assert len(result.to_dict()["lags"]) == 10


def test_growing_activity_has_no_timescale():
    growth = 1.05 ** torch.arange(100, dtype=torch.float64)
    result = AvalancheCriticality(max_lag=5).compute(growth)
    assert float(result.branching_ratio) == pytest.approx(1.05, abs=1e-6)
    assert result.timescale.isinf()


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="max_lag must be at least 2 to see a decay, got 1"):
        AvalancheCriticality(max_lag=1)
    with pytest.raises(ValueError, match="dt must be above 0, got 0"):
        AvalancheCriticality(dt=0)
    with pytest.raises(ValueError, match="activity must vary over time"):
        AvalancheCriticality(max_lag=2).compute(torch.ones(10))
    with pytest.raises(ValueError, match=r"activity must be \(..., time >= 4\)"):
        AvalancheCriticality(max_lag=2).compute(torch.ones(3))
    assert repr(AvalancheCriticality()) == "AvalancheCriticality(max_lag=100, dt=1.0)"
