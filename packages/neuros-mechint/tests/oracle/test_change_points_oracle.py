"""Change points beside ruptures."""

import numpy as np
import pytest

from neuros_mechint.dynamics.change_points import PhaseTransitionDetector

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("min_size", [2, 5])
def test_pelt_of_ruptures_finds_the_same_indices(seed, min_size):
    rpt = pytest.importorskip("ruptures")
    rng = np.random.default_rng(seed)
    series = np.repeat(rng.normal(0, 2, 8), 25) + rng.normal(0, 1, 200)
    for penalty in (3.0, 15.0):
        theirs = rpt.Pelt(model="l2", min_size=min_size, jump=1).fit(series).predict(pen=penalty)
        mine = PhaseTransitionDetector(penalty=penalty, min_size=min_size, n_permutations=1)
        assert mine.compute(series).indices == theirs[:-1]


def test_binary_segmentation_of_ruptures_finds_the_same_indices():
    rpt = pytest.importorskip("ruptures")
    rng = np.random.default_rng(0)
    series = np.repeat([0.0, 4.0, 1.0, 6.0], 30) + rng.normal(0, 1, 120)
    theirs = rpt.Binseg(model="l2", min_size=5, jump=1).fit(series).predict(pen=20.0)
    mine = PhaseTransitionDetector(method="binseg", penalty=20.0, n_permutations=1)
    assert mine.compute(series).indices == theirs[:-1]
