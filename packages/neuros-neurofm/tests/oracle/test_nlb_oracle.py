"""Poisson likelihood and bits per spike beside those of the Neural Latents Benchmark."""

from typing import Any

import numpy as np
import pytest

from neuros_neurofm.evaluation import bits_per_spike, poisson_nll

pytestmark = pytest.mark.oracle


@pytest.fixture
def nlb() -> Any:
    return pytest.importorskip("nlb_tools.evaluation")


CASES = [(1, 50, 3), (8, 40, 12), (3, 7, 1)]


def draw(shape: tuple[int, ...], *, holes: bool, zeros: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(shape[1])
    rates = rng.gamma(2.0, 0.5, size=shape)
    counts = rng.poisson(rates).astype(np.float64)
    if holes:
        counts[rng.random(shape) < 0.2] = np.nan
    if zeros:
        rates[rng.random(shape) < 0.1] = 0.0
    return rates, counts


@pytest.mark.parametrize("shape", CASES)
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
def test_both_scores_are_those_of_the_benchmark(
    nlb: Any, shape: tuple[int, ...], holes: bool, zeros: bool
) -> None:
    rates, counts = draw(shape, holes=holes, zeros=zeros)
    kept = rates.copy(), counts.copy()
    ours = poisson_nll(rates, counts), bits_per_spike(rates, counts)
    # Ours leave what they are given as it is; the peer writes 1e-9 into rates of 0.
    np.testing.assert_array_equal(rates, kept[0])
    np.testing.assert_array_equal(counts, kept[1])
    peer = nlb.neg_log_likelihood(rates.copy(), counts.copy())
    assert ours[0] == pytest.approx(peer, rel=1e-9)
    assert ours[1] == pytest.approx(nlb.bits_per_spike(rates.copy(), counts.copy()), rel=1e-9)
