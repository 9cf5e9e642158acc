"""Ablation of one time scale after the other."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neuros_mechint.fractals import CausalScaleAblation
from neuros_mechint.interventions._time_bands import (
    band_components,
    daubechies,
    octave_bands,
    randomise_phases,
    wavelet_components,
    wavelet_depth,
)

FS = 128.0
OCTAVES = [(32.0, 64.0), (16.0, 32.0), (8.0, 16.0), (4.0, 8.0), (2.0, 4.0), (1.0, 2.0)]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Identity(), nn.Identity())


def power(y: Tensor) -> Tensor:
    return y.square().mean((1, 2))


class BandReader(nn.Module):
    """Reads the power between two frequencies, by a transform of its own."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        freqs = torch.fft.rfftfreq(x.shape[1], 1 / FS)
        kept = ((freqs >= self.low) & (freqs < self.high))[:, None]
        return (torch.fft.rfft(x, dim=1).abs().square() * kept).sum((1, 2))


@settings(max_examples=40, derandomize=True, deadline=None)
@given(
    n=st.integers(3, 70),
    edges=st.lists(st.floats(0.0, 0.5), min_size=2, max_size=6, unique=True).map(sorted),
)
def test_bands_and_the_rest_are_the_signal(n: int, edges: list[float]) -> None:
    x = noise(2, n)
    # Bands as wide as two bins of the reflected signal hold a frequency.
    bands = [(a, b) for a, b in itertools.pairwise(edges) if b - a > 1 / (n - 1)]
    parts = band_components(x, bands, 1.0) if bands else x[None]
    assert len(parts) == len(bands) + 1
    torch.testing.assert_close(parts.sum(0), x, rtol=0, atol=1e-12)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(n=st.integers(2, 90), order=st.integers(1, 10), depth=st.integers(1, 6))
def test_wavelet_octaves_and_the_rest_are_the_signal(n: int, order: int, depth: int) -> None:
    x = noise(2, n)
    parts = wavelet_components(x, f"db{order}", depth)
    assert len(parts) == depth + 1
    torch.testing.assert_close(parts.sum(0), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"wavelet": "db4"}, {"bands": [(4.0, 8.0), (10.0, 60.0)]}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("axis", [1, -1, 0])
def test_an_activation_is_put_together_again(
    options: dict[str, Any], dtype: torch.dtype, axis: int
) -> None:
    x = noise(5, 256, 3, dtype=dtype).movedim(1, axis)
    bands, rest = CausalScaleAblation(net(), "0", fs=FS, axis=axis, **options).decompose(x)
    assert bands.dtype == rest.dtype == dtype
    assert bands.shape[1:] == rest.shape == x.shape
    assert float((bands.sum(0) + rest - x).abs().max()) <= 1e-6 * float(x.abs().max())
    # The rest is found on its own, not as what is missing: only slow or unlisted waves are in it.
    assert float(rest.square().mean()) < 0.35 * float(x.square().mean())


def test_a_wave_is_in_the_band_of_its_frequency() -> None:
    time = torch.arange(256, dtype=torch.float64) / FS
    for k, (low, high) in enumerate(OCTAVES[:4]):
        wave = torch.cos(2 * math.pi * math.sqrt(low * high) * time)[None]
        parts = band_components(wave, OCTAVES, FS)
        share = parts.square().sum((1, 2)) / wave.square().sum()
        assert float(share[k]) > 0.97


def test_a_frequency_on_an_edge_belongs_to_the_upper_band() -> None:
    # Cosines of the reflected signal's own frequencies, k * FS / 256 Hz, lie in one bin each.
    step = torch.arange(129, dtype=torch.float64)
    for f, k in [(16.0, 1), (15.5, 2), (64.0, 0), (0.5, 6), (0.0, 6)]:
        wave = torch.cos(2 * math.pi * f * step / FS)[None]
        parts = band_components(wave, OCTAVES, FS)
        torch.testing.assert_close(parts[k], wave, rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", [1, 2, 4, 10, 20])
def test_wavelet_filters_are_orthonormal_with_vanishing_moments(order: int) -> None:
    h = torch.tensor(daubechies(f"db{order}"), dtype=torch.float64)
    assert len(h) == 2 * order
    for shift in range(order):
        product = float(h[2 * shift :] @ h[: len(h) - 2 * shift])
        assert product == pytest.approx(float(shift == 0), abs=1e-10)
    k = torch.arange(2 * order, dtype=torch.float64)
    sign = 1 - 2 * (k % 2)
    for moment in range(min(order, 4)):
        assert float((sign * h.flip(0) * k**moment).sum()) == pytest.approx(0, abs=1e-5)


def test_one_wavelet_coefficient_lies_in_its_octave() -> None:
    # A projection: what an octave gives is in that octave, away from the ends.
    x = torch.zeros(1, 512, dtype=torch.float64)
    x[0, 250:262] = noise(12)
    parts = wavelet_components(x, "db4", 3)
    for k in range(3):
        again = wavelet_components(parts[k], "db4", 3)
        torch.testing.assert_close(again[k], parts[k], rtol=0, atol=1e-10)


# The reader's transform ends where the activation ends, the ablation's is reflected there: what
# they see differently is about 0.6 bins of the reader's at an octave's edges, so that the share is
# 1 - 0.6 / bins: 0.96 for the 16 bins of the lowest octave here, and below 0.95 from 12 bins down.
@pytest.mark.parametrize("k", range(4))
def test_a_model_that_reads_one_octave_loses_it_with_that_octave(k: int) -> None:
    low, high = OCTAVES[k]
    model = BandReader(low, high)
    effects = CausalScaleAblation(model, "layer", fs=FS).run(noise(32, 512, 2), lambda y: y)
    assert effects.band.tolist()[:6] == [list(band) for band in OCTAVES]
    assert float(effects.share[k]) >= 0.95
    assert float(effects.relative[k]) < -0.9
    assert float(effects.ci[k, 1]) < 0
    torch.testing.assert_close(effects.delta, effects.ablated - effects.baseline)


@pytest.mark.parametrize("k", range(4))
def test_a_model_that_reads_one_wavelet_octave_loses_it_with_that_octave(k: int) -> None:
    low = torch.tensor(daubechies("db4"), dtype=torch.float64)[None, None]
    sign = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)
    high = low.flip(-1) * sign

    class Reader(nn.Module):
        """Coefficients of one octave that no end touches."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            # An octave lives on a grid: its first coefficient begins 6 samples of every finer
            # octave before the signal.
            x = self.layer(x).mT[..., -6 * (2 ** (k + 1) - 1) % 2 ** (k + 1) :]
            for _ in range(k):
                x = nn.functional.conv1d(x, low, stride=2)
            return nn.functional.conv1d(x, high, stride=2).square().sum((1, 2))

    probe = CausalScaleAblation(Reader(), "layer", wavelet="db4", fs=FS)
    effects = probe.run(noise(32, 512, 1), lambda y: y)
    assert len(effects.band) == wavelet_depth(512, "db4")
    assert float(effects.share[k]) >= 0.95


def test_random_phases_keep_amplitudes_and_cross_spectra() -> None:
    for n in (64, 65):
        x = noise(3, 2, n)
        y = randomise_phases(x, torch.Generator().manual_seed(1))
        before, after = torch.fft.rfft(x), torch.fft.rfft(y)
        torch.testing.assert_close(after.abs(), before.abs(), rtol=0, atol=1e-10)
        cross = [s[:, 0] * s[:, 1].conj() for s in (before, after)]
        torch.testing.assert_close(cross[1], cross[0], rtol=0, atol=1e-9)
        assert float((y - x).abs().max()) > 0.1
    single = randomise_phases(noise(32), torch.Generator().manual_seed(1))
    assert float(single.square().sum()) == pytest.approx(float(noise(32).square().sum()))


@pytest.mark.parametrize("options", [{}, {"wavelet": "db4"}])
def test_with_random_phases_power_stays_and_timing_goes(options: dict[str, Any]) -> None:
    time = torch.arange(256, dtype=torch.float64) / FS
    wave = torch.sin(2 * math.pi * 11 * time)
    x = wave[None, :, None] + 0.3 * noise(64, 256, 1)

    def locked(y: Tensor) -> Tensor:
        return (y[..., 0] * wave).mean(1)

    removed = CausalScaleAblation(net(), "0", fs=FS, **options)
    shuffled = CausalScaleAblation(net(), "0", fs=FS, mode="randomise", **options)
    assert removed.run(x, power).band[2].tolist() == [8, 16]
    assert float(removed.run(x, power).relative[2]) < -0.6
    # The band adds to what is left as independent waves do: within a few percent of the power.
    assert abs(float(shuffled.run(x, power).relative[2])) < 0.1
    # One phase in 64 rows: the mean of cos has a deviation of 0.09, five of them.
    lost = -float(shuffled.run(x, locked).relative[2])
    assert lost == pytest.approx(-float(removed.run(x, locked).relative[2]), abs=0.45)


def test_the_same_generator_gives_the_same_effects() -> None:
    x = noise(6, 64, 2)
    probe = CausalScaleAblation(net(), "0", mode="randomise", batch_size=8)
    one_by_one = CausalScaleAblation(net(), "0", mode="randomise", batch_size=1)
    first, second = probe.run(x, power), probe.run(x, power)
    alone = one_by_one.run(x, power)
    other = probe.run(x, power, generator=torch.Generator().manual_seed(5))
    assert torch.equal(first.delta, second.delta)
    assert torch.equal(first.ci, second.ci)
    torch.testing.assert_close(first.delta, alone.delta, rtol=0, atol=1e-12)
    assert not torch.equal(first.delta, other.delta)


def test_the_interval_is_the_bootstrap_of_the_rows_differences() -> None:
    from neuros_mechint.evidence import hierarchical_bootstrap

    x, band = noise(12, 64, 1), (0.125, 0.25)
    probe = CausalScaleAblation(net(), "0", bands=[band], n_bootstrap=500, confidence=0.9)
    effects = probe.run(x, power, generator=torch.Generator().manual_seed(3))
    part = band_components(x[..., 0], [band], 1.0)[0][..., None]
    difference = power(x - part) - power(x)
    generator = torch.Generator().manual_seed(3)
    torch.randint(2**62, (), generator=generator)
    expected = hierarchical_bootstrap(
        difference, n_bootstrap=500, confidence=0.9, generator=generator
    )
    assert float(effects.delta[0]) == pytest.approx(expected.estimate, abs=1e-12)
    assert effects.ci[0].tolist() == pytest.approx([expected.low, expected.high], abs=1e-12)
    subjects = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    clustered = probe.run(x, power, clusters=subjects)
    assert not torch.equal(clustered.ci, effects.ci)


def test_one_number_has_no_interval() -> None:
    effects = CausalScaleAblation(net(), "0").run(noise(4, 32, 1), lambda y: y.square().mean())
    assert bool(effects.ci.isnan().all())
    assert bool((effects.delta < 0).all())
    nothing = CausalScaleAblation(net(), "0").run(noise(4, 32, 1), lambda y: 0 * y[:, 0])
    assert bool(nothing.relative.isnan().all())
    assert nothing.baseline == 0


def test_the_table_has_one_row_per_band() -> None:
    effects = CausalScaleAblation(net(), "0", fs=FS).run(noise(4, 256, 1), power)
    frame = effects.to_frame()
    assert list(frame) == [
        "low", "high", "baseline", "ablated", "delta", "relative", "ci_low", "ci_high",
    ]  # fmt: skip
    assert frame[["low", "high"]].to_numpy().tolist() == [
        list(band) for band in octave_bands(256, FS)
    ]
    assert frame["baseline"].nunique() == 1


def test_half_precision_gradients_and_buffers_are_left_as_they_were() -> None:
    model = nn.Sequential(nn.Identity(), nn.BatchNorm1d(64).half())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = noise(4, 64, 2).half().requires_grad_()
    effects = CausalScaleAblation(model, "0").run(x, power)
    assert effects.delta.dtype == torch.float64
    assert x.grad is None
    assert all(torch.equal(v, before[name]) for name, v in model.state_dict().items())
    assert not model[0]._forward_hooks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fs": 0.0}, "fs needs a positive sampling rate in Hz, got 0.0"),
        ({"batch_size": 0}, "batch_size needs at least 1 row, got 0"),
        ({"mode": "keep"}, "mode needs 'remove' or 'randomise', got 'keep'"),
        ({"confidence": 1.0}, "n_bootstrap >= 1 and 0 < confidence < 1 are needed, got 2000, 1.0"),
        ({"bands": []}, "at least one band is needed, got none; None takes all octaves"),
        ({"bands": [(0.2, 0.1)]}, r"0 <= low < high <= fs / 2 = 0.5 Hz, got \(0.2, 0.1\)"),
        ({"bands": [(0.2, 0.6)]}, r"0 <= low < high <= fs / 2"),
        ({"bands": [(0.2, 0.3), (0.1, 0.25)]}, "must not overlap, got one up to 0.25 Hz and one"),
        ({"bands": [(0.2, 0.3)], "wavelet": "db4"}, "two ways; give one"),
        ({"wavelet": "haar"}, "wavelet needs a name from 'db1' to 'db20', got 'haar'"),
        ({"wavelet": "db21"}, "wavelet needs a name from 'db1' to 'db20', got 'db21'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CausalScaleAblation(net(), "0", **options)


def test_what_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match="axis = 3 is no axis of the activation at '0'"):
        CausalScaleAblation(net(), "0", axis=3).run(noise(2, 64, 1), power)
    with pytest.raises(ValueError, match=r"needs to be real floating point, got torch\.int64"):
        CausalScaleAblation(net(), "0").run(torch.ones(2, 64, 1).long(), power)
    with pytest.raises(ValueError, match="no octave fits into 1 samples along axis 1"):
        CausalScaleAblation(net(), "0").run(noise(2, 1, 1), power)
    with pytest.raises(ValueError, match="no octave of 'db4' fits into 12 samples"):
        CausalScaleAblation(net(), "0", wavelet="db4").run(noise(2, 12, 1), power)
    with pytest.raises(ValueError, match=r"no frequency lies in the band of 0\.001 to 0\.002 Hz"):
        CausalScaleAblation(net(), "0", bands=[(0.001, 0.002)]).run(noise(2, 64, 1), power)
    with pytest.raises(TypeError, match="metric needs to return a tensor, got float"):
        CausalScaleAblation(net(), "0").run(noise(2, 64, 1), lambda _: 0.5)
    with pytest.raises(KeyError, match="no module 'x'"):
        CausalScaleAblation(net(), "x").run(noise(2, 64, 1), power)
    assert repr(CausalScaleAblation(net(), "0", wavelet="db4")) == (
        "CausalScaleAblation(Sequential, '0', bands=None, wavelet='db4', fs=1.0, axis=1, "
        "mode='remove')"
    )
