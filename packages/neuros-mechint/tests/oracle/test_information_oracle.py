"""Mutual information beside scikit-learn, transfer entropy beside Barnett's closed forms."""

import math
import sys

import numpy as np
import pytest
import torch

from neuros_mechint.dynamics.information import MutualInformation
from neuros_mechint.dynamics.transfer_entropy import TransferEntropy

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9, 0.99])
def test_information_is_that_of_sklearn(rho: float) -> None:
    sklearn = pytest.importorskip("sklearn")
    selection = pytest.importorskip("sklearn.feature_selection")
    sys.stdout.write(f"scikit-learn {sklearn.__version__}\n")
    x, z = np.random.default_rng(0).standard_normal((2, 1000))
    y = rho * x + math.sqrt(1 - rho**2) * z
    theirs = selection.mutual_info_regression(x[:, None], y, n_neighbors=3, random_state=0)[0]
    # The peer divides by the spread and clips at 0.
    mine = MutualInformation().compute(x / x.std(), y / y.std())
    assert max(float(mine), 0) == pytest.approx(theirs, abs=0.01)


@pytest.mark.parametrize(("method", "tolerance"), [("gaussian", 0.01), ("ksg", 0.03)])
def test_transfer_entropy_is_half_the_granger_causality_of_barnett(
    method: str, tolerance: float
) -> None:
    a, b, c = 0.6, 0.4, 0.5
    rng = np.random.default_rng(0)
    ex, ey = rng.standard_normal((2, 4, 5000))
    x, y = ex.copy(), ey.copy()
    for t in range(1, 5000):
        x[:, t] += a * x[:, t - 1]
        y[:, t] += b * y[:, t - 1] + c * x[:, t - 1]
    # Stationary covariance of (x, y), and the variance of x that y's own past leaves open.
    var_x = 1 / (1 - a**2)
    cov = a * c * var_x / (1 - a * b)
    var_y = (1 + c**2 * var_x + 2 * b * c * cov) / (1 - b**2)
    want = 0.5 * math.log(1 + c**2 * (var_x - cov**2 / var_y))
    found = TransferEntropy(method=method).compute(torch.as_tensor(x), torch.as_tensor(y))
    assert float(found.mean()) == pytest.approx(want, abs=tolerance)
