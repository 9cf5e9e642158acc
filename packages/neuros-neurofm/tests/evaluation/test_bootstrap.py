from typing import Any

import numpy as np
import pytest
from scipy.signal import lfilter

from neuros_neurofm.evaluation import block_bootstrap, r2_score


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def share_covered(block_length: int, n_series: int = 200) -> float:
    """Count how often the interval of the mean of an AR(1) series covers the true mean, 0."""
    covered = 0
    for seed in range(n_series):
        x = lfilter([1.0], [1.0, -0.6], rng(seed).normal(size=1100))[100:]
        interval = block_bootstrap(
            np.mean, [x], block_length=block_length, generator=rng(seed + 10_000), n_resamples=200
        )
        covered += interval.low <= 0.0 <= interval.high
    return covered / n_series


@pytest.mark.slow  # 40 000 resamples: coverage is a share of many intervals.
def test_intervals_cover_the_mean_of_a_correlated_series_as_often_as_they_say() -> None:
    # Blocks of 40 see a variance smaller by 1 - 2 * 0.6 / (40 * (1 - 0.36)) = 0.953, the intervals
    # are 0.976 as wide and cover 0.943. Fewer than 0.85 of 200 then have probability 4e-7, all 200
    # have 8e-6.
    assert 0.85 <= share_covered(40) < 1.0


@pytest.mark.slow  # As above.
def test_blocks_of_one_sample_are_too_confident() -> None:
    # Without the correlation the intervals are sqrt(0.4 / 1.6) = 0.5 as wide and cover
    # erf(0.98 / sqrt 2) = 0.673; more than 0.85 of 200 have probability 5e-9.
    assert share_covered(1) < 0.85


def test_the_interval_of_independent_samples_is_that_of_theory() -> None:
    x = rng().normal(size=4000)
    interval = block_bootstrap(np.mean, [x], block_length=1, generator=rng(1), n_resamples=2000)
    expected = 2 * 1.96 * x.std() / np.sqrt(4000)
    # Quantiles of 2000 resamples: relative standard error of the width about 0.03; six of them.
    assert interval.high - interval.low == pytest.approx(expected, rel=0.18)
    assert interval.estimate == x.mean()


def test_a_difference_of_scores_is_paired() -> None:
    y = rng().normal(size=600)
    first = y + rng(1).normal(size=600)
    second = first + 0.001
    settings: dict[str, Any] = {"block_length": 20, "n_resamples": 200}
    alone = block_bootstrap(r2_score, [y, first], generator=rng(2), **settings)
    difference = block_bootstrap(
        lambda y, a, b: r2_score(y, a) - r2_score(y, b),
        [y, first, second],
        generator=rng(2),
        **settings,
    )
    assert difference.high - difference.low < 0.01 * (alone.high - alone.low)


def test_blocks_keep_neighbours_together_and_the_length() -> None:
    seen = []

    def remember(x: np.ndarray) -> float:
        seen.append(x)
        return 0.0

    block_bootstrap(remember, [np.arange(103)], block_length=10, generator=rng(), n_resamples=50)
    for resample in seen[1:]:
        assert len(resample) == 103
        blocks = resample[:100].reshape(10, 10)
        assert (np.diff(blocks, axis=1) == 1).all()
    starts = np.concatenate([resample[:100:10] for resample in seen[1:]])
    assert starts.min() >= 0
    assert starts.max() <= 93


def test_one_seed_gives_one_interval() -> None:
    x = rng().normal(size=100)
    first, second = (
        block_bootstrap(np.mean, [x], block_length=5, generator=rng(3)) for _ in range(2)
    )
    assert first[:3] == second[:3]
    assert first.resampled.shape == (1000,)


def test_a_wider_level_gives_a_wider_interval() -> None:
    x = rng().normal(size=100)
    wide, narrow = (
        block_bootstrap(np.mean, [x], block_length=5, generator=rng(3), level=level)
        for level in (0.99, 0.5)
    )
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(
    ("arrays", "settings", "message"),
    [
        ([], {}, "arrays must hold at least one array, got none"),
        ([np.ones(3), np.ones(4)], {}, r"share a first axis .* got shapes \[\(3,\), \(4,\)\]"),
        ([np.ones(())], {}, "share a first axis"),
        ([np.ones(0)], {}, "share a first axis of at least one sample"),
        ([np.ones(5)], {"block_length": 6}, r"block_length must lie in \[1, n = 5\], got 6"),
        ([np.ones(5)], {"n_resamples": 0}, "n_resamples must be >= 1 and level in"),
        ([np.ones(5)], {"level": 1.0}, "got 1000 and 1.0"),
        ([np.full(5, np.nan)], {}, "statistic must be finite on every resample, got nan"),
    ],
)
def test_what_cannot_be_resampled_is_refused(
    arrays: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        block_bootstrap(np.mean, arrays, **{"block_length": 1, "generator": rng(), **settings})
