"""Phase-amplitude coupling: planted modulations, closed forms, a null."""

import math

import pytest
import torch
from torch import Tensor

from neuros_mechint.multiscale import CrossFrequencyCoupling

RATE = 500.0
BANDS = {"sampling_rate": RATE, "phase_band": (4, 8), "amplitude_band": (50, 70)}
METHODS = ["tort", "mvl"]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wandering(n: int) -> Tensor:
    """A rhythm of about 6 Hz whose phase drifts: one without drift is in step with any draw."""
    drift = 0.1 * noise(n, seed=2).cumsum(-1)
    return torch.cos(2 * torch.pi * 6 * torch.arange(n, dtype=torch.float64) / RATE + drift)


def modulated(n: int = 4000, depth: float = 1.0, level: float = 0.0, seed: int = 0) -> Tensor:
    """60 Hz under a gain 1 + depth cos of 6 Hz, with that and noise, (time,)."""
    t = torch.arange(n, dtype=torch.float64) / RATE
    slow = torch.cos(2 * torch.pi * 6 * t)
    fast = torch.cos(2 * torch.pi * 60 * t)
    return slow + (1 + depth * slow) * fast + level * noise(n, seed=seed)


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_the_vector_is_half_the_depth(depth: float) -> None:
    found = CrossFrequencyCoupling("mvl", **BANDS).compute(modulated(depth=depth)[None])
    assert found.values.item() == pytest.approx(depth / 2, abs=1e-3)


@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_the_index_is_the_divergence_of_a_raised_cosine(depth: float) -> None:
    found = CrossFrequencyCoupling(**BANDS).compute(modulated(6000, depth=depth)[None]).values
    b = torch.arange(18, dtype=torch.float64)
    half = torch.pi / 18
    mean = 1 + depth * torch.cos(2 * half * b + half) * math.sin(half) / half
    share = mean / mean.sum()
    expected = float((share * (18 * share).log()).sum()) / math.log(18)
    # 500 / 6 samples a period: single phases lie up to 0.5 / 83 of a turn beside the bins' mean.
    assert found.item() == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_the_peak_lies_at_the_pair_of_rhythms(method) -> None:
    x = modulated(8000, level=1.0)[None]
    slow, fast = [(2, 4), (4, 8), (8, 12), (12, 20)], [(35, 50), (50, 70), (75, 95), (100, 140)]
    table = {
        (p, a): CrossFrequencyCoupling(
            method, sampling_rate=RATE, phase_band=p, amplitude_band=a
        ).compute(x).values.item()
        for p in slow
        for a in fast
    }  # fmt: skip
    best = max(table, key=table.__getitem__)
    assert best == ((4, 8), (50, 70))
    assert table[best] > 3 * sorted(table.values())[-2]


@pytest.mark.parametrize("method", METHODS)
def test_cross_pairs_say_whose_amplitude_follows_whose_phase(method) -> None:
    t = torch.arange(4000, dtype=torch.float64) / RATE
    slow, fast = wandering(4000), torch.cos(2 * torch.pi * 60 * t)
    x = torch.stack([slow + 0.1 * noise(4000), (1 + slow) * fast + 0.1 * noise(4000, seed=1)])
    found = CrossFrequencyCoupling(method, cross=True, **BANDS).compute(x, surrogates=19)
    assert int(found.values.argmax()) == 2  # amplitude of 1, phase of 0
    assert found.p_values[1, 0] == pytest.approx(0.05)
    own = CrossFrequencyCoupling(method, **BANDS).compute(x).values
    torch.testing.assert_close(found.values.diagonal(), own)


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_a_loop_and_epochs_are_pooled(method, cross: bool) -> None:
    x = noise(2, 3, 500)
    measure = CrossFrequencyCoupling(method, cross=cross, **BANDS)
    found = measure.compute(x).values
    torch.testing.assert_close(torch.stack([measure.compute(v.numpy()).values for v in x]), found)
    pooled = CrossFrequencyCoupling(method, cross=cross, epochs=True, **BANDS)
    twice = pooled.compute(x[:1].expand(4, 3, 500)).values
    torch.testing.assert_close(twice, found[0])
    assert pooled.compute(x[None]).values.shape == (1, *found.shape[1:])


def test_the_index_ignores_scale_and_the_vector_follows_it() -> None:
    x = noise(2, 600)
    for method, factor in (("tort", 1), ("mvl", 7)):
        measure = CrossFrequencyCoupling(method, **BANDS)
        torch.testing.assert_close(
            measure.compute(-7 * x + 3).values, factor * measure.compute(x).values
        )


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_constant_channel_has_no_coupling_and_warns(method, cross: bool) -> None:
    x = noise(2, 500)
    x[0] = 0.1
    with pytest.warns(UserWarning, match=r"1 channel\(s\) are constant"):
        found = CrossFrequencyCoupling(method, cross=cross, **BANDS).compute(x, surrogates=2)
    assert not found.values[0].any()
    assert bool((found.p_values[0] == 1).all())
    assert bool(torch.isfinite(found.values).all())


@pytest.mark.parametrize("method", METHODS)
def test_surrogates_raise_a_false_alarm_as_often_as_they_say(method) -> None:
    # 200 channels of noise, p <= 0.1 of 19 draws: 45 or more alarms have probability 1e-6
    # (binomial), fewer than 2 have 2e-8.
    found = CrossFrequencyCoupling(method, **BANDS).compute(noise(200, 800), surrogates=19)
    assert 2 <= int((found.p_values <= 0.1).sum()) < 45
    slow, fast = wandering(4000), torch.cos(0.24 * torch.pi * torch.arange(4000))
    planted = (slow + (1 + slow) * fast)[None].float()
    strong = CrossFrequencyCoupling(method, **BANDS).compute(planted, surrogates=49)
    assert strong.p_values.item() == pytest.approx(0.02)
    assert strong.values.dtype == torch.float32


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_finite(method) -> None:
    x = noise(2, 450).requires_grad_()
    CrossFrequencyCoupling(method, cross=True, **BANDS).compute(x).values.sum().backward()
    assert bool(torch.isfinite(x.grad).all())
    assert bool(x.grad.any())


def test_a_band_up_to_half_the_sampling_rate_keeps_its_amplitude() -> None:
    t = torch.arange(2000, dtype=torch.float64) / RATE
    slow = torch.cos(2 * torch.pi * 6 * t)
    fast = (-1.0) ** torch.arange(2000, dtype=torch.float64)
    measure = CrossFrequencyCoupling(
        "mvl", sampling_rate=RATE, phase_band=(4, 8), amplitude_band=(220, 250)
    )
    # A carrier at half the rate has real side bands only: |1 + cos| e^(i phi) averages to 1/2.
    found = measure.compute((slow + (1 + 0.5 * slow) * fast)[None]).values.item()
    assert 0.15 < found < 0.5


def test_what_is_refused() -> None:
    with pytest.raises((ValueError, TypeError), match=r"method must be one of|Type-check"):
        CrossFrequencyCoupling("glm", **BANDS)
    with pytest.raises(ValueError, match="sampling_rate must be positive and finite, got 0"):
        CrossFrequencyCoupling(**{**BANDS, "sampling_rate": 0})
    with pytest.raises(ValueError, match=r"phase_band must be 0 < low < high .* got \(8, 4\)"):
        CrossFrequencyCoupling(**{**BANDS, "phase_band": (8, 4)})
    with pytest.raises(ValueError, match=r"amplitude_band must be .* 250 Hz, got \(50, 300\)"):
        CrossFrequencyCoupling(**{**BANDS, "amplitude_band": (50, 300)})
    with pytest.raises(ValueError, match="amplitude_band must lie above phase_band"):
        CrossFrequencyCoupling(**{**BANDS, "amplitude_band": (6, 30)})
    with pytest.raises(ValueError, match="n_bins must be at least 2, got 1"):
        CrossFrequencyCoupling(**BANDS, n_bins=1)
    with pytest.raises(ValueError, match="three periods of 4 Hz = 375 samples"):
        CrossFrequencyCoupling(**BANDS).compute(noise(2, 300))
    with pytest.raises(ValueError, match="surrogates must be at least 0, got -1"):
        CrossFrequencyCoupling(**BANDS).compute(noise(2, 400), surrogates=-1)
    assert "n_bins=18, cross=False" in repr(CrossFrequencyCoupling(**BANDS))
