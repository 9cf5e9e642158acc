import math

import numpy as np
import pytest
import torch
from torch import Tensor

from neuros_mechint.dynamics.transfer_entropy import TransferEntropy


def coupled(n: int, strength: float, *batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """White x drives an autoregression y with unit noise."""
    rng = np.random.default_rng(seed)
    x, noise = rng.standard_normal((2, *batch, n))
    y = noise.copy()
    for t in range(1, n):
        y[..., t] += 0.5 * y[..., t - 1] + strength * x[..., t - 1]
    return torch.as_tensor(x), torch.as_tensor(y)


@pytest.mark.parametrize(("method", "tolerance"), [("gaussian", 0.01), ("ksg", 0.03)])
def test_a_driven_autoregression_has_the_closed_form(method: str, tolerance: float) -> None:
    x, y = coupled(5000, 0.5, 4)
    # With y_{t-1} known, the source adds the variance 0.25 to the unit noise.
    want = 0.5 * math.log(1.25)
    model = TransferEntropy(method=method)
    assert float(model.compute(x, y).mean()) == pytest.approx(want, abs=tolerance)
    assert abs(float(model.compute(y, x).mean())) < tolerance


def test_the_matrix_holds_every_pair() -> None:
    x, y = coupled(400, 0.5, 2)
    z = torch.stack([x, y, x + y], -1)
    for model in (TransferEntropy(history=2), TransferEntropy(method="ksg")):
        found = model.matrix(z)
        assert found.shape == (2, 3, 3)
        torch.testing.assert_close(found[:, 0, 1], model.compute(x, y))
        torch.testing.assert_close(found[:, 2, 0], model.compute(z[..., 2], x.numpy()))
        assert bool((found.diagonal(dim1=-2, dim2=-1) == 0).all())


def test_a_longer_delay_is_found_at_its_lag() -> None:
    x, y = coupled(3000, 0.7)
    late = y.roll(2)
    values = [float(TransferEntropy(lag=lag).compute(x[5:], late[5:])) for lag in (1, 2, 3, 4)]
    assert values.index(max(values)) == 2


def uniform(p: Tensor, n_perm: int) -> bool:
    """Kolmogorov-Smirnov at 1e-6, the share of false alarms; p is spread over its grid."""
    stats = pytest.importorskip("scipy.stats")
    spread = p.numpy() - np.random.default_rng(0).random(len(p)) / (1 + n_perm)
    return float(stats.kstest(spread, "uniform").pvalue) > 1e-6


@pytest.mark.parametrize("null", ["shift", "shuffle"])
@pytest.mark.parametrize("method", ["gaussian", "ksg"])
def test_p_values_without_coupling_are_uniform(method: str, null: str) -> None:
    x, y = coupled(80, 0.0, 200)
    found = TransferEntropy(method=method).significance(x, y, n_perm=19, null=null)
    assert uniform(found.p_value, 19)
    # Mean of 200 effective values of sd about 0.01 ("gaussian") or 0.06.
    assert abs(float(found.effective.mean())) < (0.005 if method == "gaussian" else 0.03)


def test_p_values_against_the_direction_of_a_coupling_are_uniform() -> None:
    rng = np.random.default_rng(1)
    slow = rng.standard_normal((200, 100))
    for t in range(1, 100):
        slow[:, t] += 0.7 * slow[:, t - 1]
    driven = rng.standard_normal((200, 100))
    driven[:, 1:] += slow[:, :-1]
    # The past of the driven series tells that of its driver: the null has to keep that.
    found = TransferEntropy().significance(driven, slow, n_perm=19)
    assert uniform(found.p_value, 19)


def test_a_coupling_is_significant() -> None:
    x, y = coupled(500, 0.5)
    found = TransferEntropy().significance(x, y, n_perm=49, null="shuffle")
    assert float(found.p_value) == 1 / 50


def test_wrong_input_is_refused_in_words() -> None:
    x = torch.zeros(50)
    for name in ("lag", "history", "k"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            TransferEntropy(**{name: 0})
    with pytest.raises((ValueError, TypeError), match=r"method must be one of|Type-check"):
        TransferEntropy(method="kernel")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be of the same length, got 50 and 49"):
        TransferEntropy().compute(x, x[1:])
    with pytest.raises(ValueError, match=r"target must be .*time >= 6"):
        TransferEntropy().compute(x, x[:5])
    with pytest.raises(ValueError, match="time >= 10, channels >= 1"):
        TransferEntropy(method="ksg").matrix(x[:8, None])
    assert repr(TransferEntropy()) == "TransferEntropy(method='gaussian', lag=1, history=1, k=4)"
