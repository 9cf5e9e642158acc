"""Transfer entropy between channels: half of Granger causality, neighbours beside it, a null."""

import math

import pytest
import torch
from torch import Tensor

import neuros_mechint
from neuros_mechint import dynamics
from neuros_mechint.multiscale import GrangerCausality, TransferEntropy


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def driven(n: int, seed: int = 0) -> Tensor:
    """A white source, and y(t) = 0.5 y(t-1) + 0.7 x(t-1) + noise: T = ln(1.49) / 2."""
    x, y = noise(2, n, seed=seed)
    for t in range(1, n):
        y[t] += 0.5 * y[t - 1] + 0.7 * x[t - 1]
    return torch.stack([x, y])


@pytest.mark.parametrize("lag", [1, 3])
def test_gaussian_is_half_of_granger_causality(lag: int) -> None:
    x = driven(500)
    found = TransferEntropy(lag=lag).compute(x, surrogates=5)
    granger = GrangerCausality(lag).compute(x, surrogates=5)
    assert torch.equal(found.values, granger.values / 2)
    assert torch.equal(found.p_values, granger.p_values)
    assert found.freqs is None


@pytest.mark.slow  # the bar is stated for 5000 samples, one tree per direction
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_neighbours_find_the_closed_form(seed: int) -> None:
    found = TransferEntropy("ksg").compute(driven(5000, seed)).values
    assert found[1, 0] == pytest.approx(math.log(1.49) / 2, abs=0.03)
    assert found[0, 1] == pytest.approx(0.0, abs=0.03)
    assert found[0, 0] == found[1, 1] == 0


def test_neighbours_are_those_of_dynamics_turned_around() -> None:
    x = driven(300)
    z = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, correction=0)
    expected = dynamics.TransferEntropy(method="ksg", lag=1, history=2, k=3).matrix(z.mT).mT
    found = TransferEntropy("ksg", lag=2, k=3).compute(x).values
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert neuros_mechint.TransferEntropy is dynamics.TransferEntropy


def test_neighbours_see_a_square_that_a_regression_does_not() -> None:
    x, e = noise(2, 600)
    pair = torch.stack([x, x.roll(1).square() + 0.3 * e])
    assert TransferEntropy("ksg").compute(pair).values[1, 0] > 0.4
    # N F is chi-squared of 1 degree where there is no covariance; skewness widens it.
    assert TransferEntropy().compute(pair).values[1, 0] < 0.05


@pytest.mark.parametrize("method", ["gaussian", "ksg"])
def test_a_batch_a_scale_and_epochs(method) -> None:
    x = noise(2, 3, 120)
    measure = TransferEntropy(method, lag=2)
    found = measure.compute(x).values
    each = torch.stack([measure.compute(item.numpy()).values for item in x])
    torch.testing.assert_close(found, each)
    scale = torch.tensor([1.0, -50.0, 1e-3], dtype=torch.float64)[:, None]
    torch.testing.assert_close(measure.compute(scale * x + 3).values, found)
    one = TransferEntropy(method, lag=2, epochs=True).compute(x.unsqueeze(1)).values
    torch.testing.assert_close(one, found)
    several = TransferEntropy(method, lag=2, epochs=True)
    forward, back = several.compute(x).values, several.compute(x.flip(0)).values
    torch.testing.assert_close(forward, back, atol=1e-6, rtol=0)
    assert forward.shape == (3, 3)


@pytest.mark.parametrize("method", ["gaussian", "ksg"])
def test_a_constant_channel_has_no_transfer_and_one_warning(method) -> None:
    x = noise(3, 100)
    x[2] = 7
    with pytest.warns(UserWarning, match="constant") as caught:
        found = TransferEntropy(method).compute(x, surrogates=3)
    assert [str(w.message)[:25] for w in caught] == ["1 channel(s) are constant"]
    assert not found.values[2].any()
    assert not found.values[:, 2].any()
    assert bool((found.p_values[2] == 1).all())


def test_surrogates_of_neighbours_raise_a_false_alarm_as_often_as_they_say() -> None:
    # 60 batches of white noise, 120 directions, p <= 0.1 of 19 draws: 32 or more alarms have
    # probability 1e-6 (binomial).
    x = noise(60, 2, 60)
    p = TransferEntropy("ksg").compute(x, surrogates=19).p_values
    assert 1 <= int((torch.stack([p[:, 0, 1], p[:, 1, 0]]) <= 0.1).sum()) < 32
    drive = TransferEntropy("ksg").compute(driven(200).float(), surrogates=19)
    assert drive.p_values[1, 0] == pytest.approx(0.05)
    assert drive.values.dtype == torch.float32


def test_what_is_refused() -> None:
    with pytest.raises((ValueError, TypeError), match=r"method must be one of|Type-check"):
        TransferEntropy("binned")
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        TransferEntropy(k=0)
    with pytest.raises(ValueError, match="lag must be at least 1, got 0"):
        TransferEntropy(lag=0)
    with pytest.raises(ValueError, match="more than k = 20 predicted samples, got 9"):
        TransferEntropy("ksg", k=20).compute(noise(2, 10))
    with pytest.raises(ValueError, match="surrogates must be at least 0"):
        TransferEntropy("ksg").compute(noise(2, 30), surrogates=-1)
    assert repr(TransferEntropy("ksg", lag=2)) == "TransferEntropy('ksg', k=4, lag=2, epochs=False)"
