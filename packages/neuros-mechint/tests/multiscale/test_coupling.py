"""Coupling: known phases, scipy's coherence, a loop over pairs, constant channels."""

import warnings

import numpy as np
import pytest
import torch
from scipy.signal import coherence
from torch import Tensor

from neuros_mechint.multiscale import Coherence, PhaseLockingValue, WeightedPhaseLagIndex

MEASURES = [
    Coherence(epochs=True),
    Coherence("squared", epochs=True),
    Coherence("imaginary", epochs=True),
    PhaseLockingValue(epochs=True),
    WeightedPhaseLagIndex(epochs=True),
    WeightedPhaseLagIndex(debiased=True, epochs=True),
]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_squared_coherence_of_segments_is_that_of_scipy() -> None:
    x = noise(2, 1000)
    x[1] += x[0].roll(3)
    found = Coherence("squared", sampling_rate=100.0, segment=128).compute(x)
    freqs, expected = coherence(
        x[0].numpy(), x[1].numpy(), fs=100.0, window=np.hanning(128), noverlap=64
    )
    np.testing.assert_allclose(found.freqs.numpy(), freqs)
    np.testing.assert_allclose(found.values[0, 1].numpy(), expected, rtol=1e-10)


def test_a_lag_has_the_imaginary_coherence_of_its_phase() -> None:
    t = torch.arange(640, dtype=torch.float64) / 64
    turn = 2 * torch.pi * 8 * t
    x = torch.stack([torch.cos(turn), torch.cos(turn - torch.pi / 6)])
    values = Coherence("imaginary", sampling_rate=64, segment=64).compute(x).values[..., 8]
    # x leads y by 30 degrees: Im(X Y*) / |X Y| = sin 30; other bins leak below 1e-3.
    assert values[0, 1] == pytest.approx(0.5, abs=1e-3)
    assert values[1, 0] == pytest.approx(-0.5, abs=1e-3)


@pytest.mark.parametrize("debiased", [False, True])
def test_phase_lag_is_that_of_its_definition(debiased: bool) -> None:
    x = noise(7, 3, 20)
    found = WeightedPhaseLagIndex(debiased=debiased, epochs=True).compute(x).values
    data = x.numpy()
    z = np.fft.rfft((data - data.mean(-1, keepdims=True)) * np.hanning(20))
    part = (z[:, 0] * z[:, 2].conj()).imag[:, 1:-1]
    total, size, square = part.sum(0), np.abs(part).sum(0), (part**2).sum(0)
    expected = (total**2 - square) / (size**2 - square) if debiased else np.abs(total) / size
    np.testing.assert_allclose(found[0, 2, 1:-1].numpy(), expected, rtol=1e-9)
    np.testing.assert_array_equal(found, found.transpose(0, 1))
    assert not found.diagonal().any()


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_a_batch_is_a_loop(measure) -> None:
    x = noise(2, 6, 3, 33)
    each = torch.stack([measure.compute(item.numpy()).values for item in x])
    torch.testing.assert_close(measure.compute(x).values, each, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_a_constant_channel_couples_to_none_and_warns(measure) -> None:
    x = noise(6, 3, 32)
    x[:, 1] = 0.1
    with pytest.warns(UserWarning, match=r"1 channel\(s\) are constant"):
        found = measure.compute(x, surrogates=3)
    assert not found.values[1].any()
    assert not found.values[:, 1].any()
    assert bool(torch.isfinite(found.values).all())
    assert found.p_values is not None
    assert bool((found.p_values[1] == 1).all())


@pytest.mark.parametrize("measure", MEASURES[2:], ids=repr)
def test_surrogates_find_a_lag_and_nothing_else(measure) -> None:
    x = noise(30, 3, 32)
    x[:, 1] = x[:, 0].roll(2, -1) + 0.1 * x[:, 1]
    p = measure.compute(x, surrogates=99).p_values
    # A lag of 2 samples is a quarter of a period in bin 4; no draw of 99 reaches it.
    assert p[0, 1, 4] == pytest.approx(0.01)
    # Under the null the mean of 15 uniform p-values is below 0.15 with probability 1e-6.
    assert p[0, 2, 1:-1].mean() > 0.15
    again = measure.compute(x, surrogates=99, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again.p_values, p)


def test_phase_locking_ignores_amplitude() -> None:
    x = noise(9, 2, 31)
    scale = torch.linspace(0.1, 10, 9, dtype=torch.float64)[:, None, None]
    measure = PhaseLockingValue(epochs=True)
    torch.testing.assert_close(measure.compute(x * scale).values, measure.compute(x).values)


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
def test_gradients_are_finite(measure) -> None:
    x = noise(5, 3, 16).requires_grad_()
    measure.compute(x).values.sum().backward()
    assert bool(torch.isfinite(x.grad).all())


def test_what_is_refused() -> None:
    with pytest.raises((ValueError, TypeError), match=r"kind must be one of|Type-check"):
        Coherence("real")
    with pytest.raises(ValueError, match="sampling_rate must be positive"):
        PhaseLockingValue(sampling_rate=0)
    with pytest.raises(ValueError, match="segment must be at least 2"):
        WeightedPhaseLagIndex(segment=1)
    with pytest.raises(ValueError, match="two half-overlapping segments = 384"):
        Coherence().compute(noise(2, 300))
    with pytest.raises(ValueError, match="epochs >= 2"):
        Coherence(epochs=True).compute(noise(1, 2, 30))
    with pytest.raises(ValueError, match="surrogates must be at least 0"):
        Coherence(segment=10).compute(noise(2, 30), surrogates=-1)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_any_number_of_channels(n: int) -> None:
    x = noise(6, n, 16)
    for measure in MEASURES:
        found = measure.compute(x).values
        assert found.shape == (n, n, 9)
        pair = measure.compute(x[:, [0, n - 1]]).values[0, 1] if n > 1 else found[0, 0]
        torch.testing.assert_close(found[0, n - 1], pair)


def test_no_warning_without_constant_channels() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Coherence(epochs=True).compute(noise(3, 2, 16)).p_values is None


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_copy_without_a_lag_has_no_phase_lag(debiased: bool, dtype: torch.dtype) -> None:
    # White noise fills all bins; of a rhythm most bins hold nothing but rounding.
    rhythm = torch.cos(0.5 * torch.arange(500, dtype=torch.float64)).expand(4, 500)
    measure = WeightedPhaseLagIndex(debiased=debiased, epochs=True)
    for x in (noise(4, 500), rhythm, noise(4, 500).cumsum(-1)):
        base = x.to(dtype)
        copies = torch.stack([base, -base, 0.3 * base, 3 * base + 70], 1)
        assert not measure.compute(copies).values.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_small_lag_stays(dtype: torch.dtype) -> None:
    t = torch.arange(500, dtype=torch.float64) / 50
    turn = 2 * torch.pi * 5 * t
    pair = torch.stack([torch.cos(turn), torch.cos(turn - 1e-3)]).expand(4, 2, 500).to(dtype)
    found = WeightedPhaseLagIndex(epochs=True, sampling_rate=50).compute(pair).values[0, 1, 50]
    assert found == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("epochs", [True, False])
@pytest.mark.parametrize("measure", [Coherence, PhaseLockingValue, WeightedPhaseLagIndex])
def test_surrogates_raise_a_false_alarm_as_often_as_they_say(measure, epochs: bool) -> None:
    # 200 pairs of independent noise, one frequency each, p <= 0.1 of 19 draws: 45 or more alarms
    # have probability 1e-6 (binomial), fewer than 2 have 2e-8.
    x = noise(200, 12, 2, 16) if epochs else noise(200, 2, 104)
    p = measure(epochs=epochs, segment=16).compute(x, surrogates=19).p_values
    assert 2 <= int((p[:, 0, 1, 4] <= 0.1).sum()) < 45
