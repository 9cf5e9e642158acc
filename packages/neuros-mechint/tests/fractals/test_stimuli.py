"""Generators of signals and measures against the laws they promise."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from neuros_mechint.fractals import ColoredNoise, FractionalBrownianMotion, MultiplicativeCascade
from neuros_mechint.fractals._draws import fast_length
from neuros_mechint.fractals._fractional_motion import noise_autocovariance


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("H", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_noise_has_the_autocovariance_of_its_law(H):
    draws, n = 20_000, 48
    x = FractionalBrownianMotion().increments(
        n, H, batch=draws, generator=seeded(), dtype=torch.float64
    )[:, 0]
    lags = torch.arange(33)
    expected = noise_autocovariance(lags.double(), torch.tensor([H]).double())
    for k in lags.tolist():
        products = (x[:, : n - 32] * x[:, k : k + n - 32]).mean(-1)
        error = products.std() / math.sqrt(draws)
        # Beyond 5.5 standard errors: below 4e-8 for one of the 165 values.
        assert abs(products.mean() - expected[k]) <= 5.5 * error


@pytest.mark.parametrize("H", [0.2, 0.8])
def test_paths_have_the_covariance_of_fractional_brownian_motion(H):
    n, draws = 200, 20_000
    path = FractionalBrownianMotion().generate(
        n, H, batch=draws, generator=seeded(1), dtype=torch.float64
    )[:, 0]
    assert bool((path[:, 0] == 0).all())
    rng = np.random.default_rng(0)
    for s, t in rng.integers(1, n, size=(12, 2)):
        products = path[:, s] * path[:, t]
        expected = (s ** (2 * H) + t ** (2 * H) - abs(s - t) ** (2 * H)) / 2
        error = products.std() / math.sqrt(draws)
        assert abs(products.mean() - expected) <= 5.5 * error


def test_both_methods_draw_from_one_law():
    H, n, draws = 0.75, 24, 20_000
    fast, slow = (
        FractionalBrownianMotion(method=method).increments(
            n, H, batch=draws, generator=seeded(2), dtype=torch.float64
        )[:, 0]
        for method in ("davies_harte", "cholesky")
    )
    difference = fast.T @ fast / draws - slow.T @ slow / draws
    assert difference.abs().max() <= 6 * math.sqrt(2 * 2 / draws)
    assert stats.kstest(fast[:, 5].numpy(), "norm").pvalue > 1e-6


def test_the_span_of_time_scales_the_increments():
    given = {"n_samples": 64, "H": 0.3, "dtype": torch.float64}
    unit = FractionalBrownianMotion().increments(**given, generator=seeded())
    scaled = FractionalBrownianMotion(length=2.0).increments(**given, generator=seeded())
    torch.testing.assert_close(scaled, unit * (2 / 64) ** 0.3)
    path = FractionalBrownianMotion(length=2.0).generate(**given, generator=seeded(3))
    steps = FractionalBrownianMotion().increments(63, 0.3, generator=seeded(3), dtype=torch.float64)
    torch.testing.assert_close(path.diff(), steps * (2 / 64) ** 0.3)


def test_each_item_may_have_its_exponent():
    motion = FractionalBrownianMotion()
    H = torch.tensor([0.1, 0.6])
    x = motion.increments(4096, H, n_dims=2, batch=2, generator=seeded(), dtype=torch.float64)
    first = (x[..., 1:] * x[..., :-1]).mean(-1)
    expected = noise_autocovariance(torch.ones(1).double(), H.double()[:, None])
    assert (first - expected).abs().max() < 0.1


def test_shapes_follow_the_sizes():
    motion = FractionalBrownianMotion()
    assert motion.generate(7, 0.5).shape == (7,)
    assert motion.generate(7, 0.5, 3).shape == (3, 7)
    assert motion.generate(7, 0.5, 3, 2, dtype=torch.float64).shape == (2, 3, 7)
    assert motion.generate(1, 0.5).tolist() == [0.0]
    assert motion.increments(1, 0.5).shape == (1,)


@pytest.mark.parametrize(
    "draw",
    [
        lambda g: FractionalBrownianMotion().generate(33, 0.6, batch=2, generator=g),
        lambda g: ColoredNoise().generate(33, 1.0, batch=2, generator=g),
        lambda g: MultiplicativeCascade(kind="lognormal").generate(4, generator=g),
        lambda g: MultiplicativeCascade(kind="logpoisson").generate(4, generator=g),
        lambda g: MultiplicativeCascade(kind="shuffled").generate(
            4, weights=[0.7, 0.3], generator=g
        ),
    ],
)
def test_equal_generators_give_equal_bits(draw):
    assert torch.equal(draw(seeded(5)), draw(seeded(5)))
    assert not torch.equal(draw(seeded(5)), draw(seeded(6)))


def test_a_fast_length_is_the_next_number_without_large_factors():
    fast = [m for m in range(1, 500) if 2**9 * 3**6 * 5**4 % m == 0]
    for n in range(1, 400):
        assert fast_length(n) == min(m for m in fast if m >= n)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("beta", [-2.0, 0.0, 1.0, 2.0])
def test_noise_has_the_slope_of_its_spectrum(beta, periodic):
    n, draws = 512, 400
    x = ColoredNoise(periodic=periodic).generate(
        n, beta, draws, generator=seeded(), dtype=torch.float64
    )
    if not periodic:
        # A window, for what a cut-out piece leaks.
        x = x * torch.hann_window(n, periodic=False, dtype=torch.float64)
    power = torch.fft.rfft(x).abs().square().mean(0)[4 : n // 4].log()
    log_f = torch.arange(4, n // 4, dtype=torch.float64).log()
    centred = log_f - log_f.mean()
    slope = -(centred * power).sum() / centred.square().sum()
    assert abs(slope - beta) <= 0.05


@pytest.mark.parametrize("beta", [-3.0, 4.0])
def test_the_steepest_spectra_keep_their_slope(beta):
    # One period exactly: no window, no leakage.
    x = ColoredNoise(periodic=True).generate(
        513, beta, 2000, generator=seeded(), dtype=torch.float64
    )
    power = torch.fft.rfft(x).abs().square().mean(0)[1:].log()
    log_f = torch.arange(1, 257, dtype=torch.float64).log()
    centred = log_f - log_f.mean()
    slope = -(centred * power).sum() / centred.square().sum()
    # Logarithms of means of 2000 exponential powers scatter by 0.022, the slope by 0.0015.
    assert abs(slope - beta) <= 0.01


def test_only_a_periodic_signal_closes_on_itself():
    steps = {}
    for periodic in (True, False):
        x = ColoredNoise(periodic=periodic).generate(
            256, 2.0, 2000, generator=seeded(), dtype=torch.float64
        )
        steps[periodic] = (x[:, 0] - x[:, -1]).square().mean() / x.diff().square().mean()
    # A part of a period of 512: the squared difference over 255 samples by its spectrum.
    f = torch.arange(1, 257, dtype=torch.float64) / 512
    sides = torch.where(f < 0.5, 2.0, 1.0)
    by_lag = [(sides * f**-2 * (1 - torch.cos(2 * math.pi * f * k))).sum() for k in (1, 255)]
    # A mean of 2000 squared normals: a standard error of 3 %.
    assert abs(steps[True] - 1) < 0.2
    assert abs(steps[False] / (by_lag[1] / by_lag[0]) - 1) < 0.2


@pytest.mark.parametrize("H", [0.05, 0.35, 0.65, 0.95])
@pytest.mark.parametrize("n", [1, 2, 3, 100, 4096, 100_003])
def test_no_eigenvalue_of_the_noise_is_negative(n, H):
    # Its circulant matrix holds the covariance exactly: nothing but rounding is cut off.
    lags = torch.arange(fast_length(n) + 1, dtype=torch.float64)
    r = noise_autocovariance(lags, torch.tensor([[H]], dtype=torch.float64))[0]
    eigenvalues = torch.fft.rfft(torch.cat([r, r[1:-1].flip(0)])).real
    assert eigenvalues.min() >= -1e-10 * eigenvalues.max()


@pytest.mark.parametrize("H", [0.2, 0.8])
def test_every_sample_is_standard_normal(H):
    x = FractionalBrownianMotion().increments(
        40, H, batch=5000, generator=seeded(4), dtype=torch.float64
    )[:, 0]
    for k in (0, 17, 39):
        assert stats.kstest(x[:, k].numpy(), "norm").pvalue > 1e-6


def test_the_expected_variance_is_one():
    for beta in (0.0, 1.0, 2.0):
        x = ColoredNoise(periodic=True).generate(
            256, beta, 4000, generator=seeded(), dtype=torch.float64
        )
        power = x.square().mean(-1)
        assert abs(power.mean() - 1) <= 5.5 * power.std() / math.sqrt(4000)
        assert x.mean(-1).abs().max() < 1e-12


def test_without_normalisation_the_density_is_the_power_law():
    x = ColoredNoise(normalize="none", periodic=True).generate(
        128, 1.0, 20_000, generator=seeded(), dtype=torch.float64
    )
    density = 2 * torch.fft.rfft(x).abs().square().mean(0) / 128
    f = torch.fft.rfftfreq(128, dtype=torch.float64)[1:-1]
    assert (density[1:-1] * f - 1).abs().max() < 6 / math.sqrt(20_000)


def test_below_the_lowest_frequency_the_spectrum_is_flat():
    x = ColoredNoise(fmin=0.1, periodic=True).generate(
        200, 2.0, 4000, generator=seeded(), dtype=torch.float64
    )
    power = torch.fft.rfft(x).abs().square().mean(0)
    assert (power[1:20] / power[20] - 1).abs().max() < 0.15
    assert abs(power[40] / power[20] - 0.25) < 0.03


def test_a_deterministic_cascade_is_a_kronecker_power():
    weights = np.array([0.5, 0.3, 0.2])
    expected = weights
    for _ in range(4):
        expected = np.kron(expected, weights)
    got = MultiplicativeCascade().generate(5, 3, list(weights), dtype=torch.float64)
    assert np.abs(got.numpy() - expected).max() <= 1e-12
    batch = MultiplicativeCascade().generate(5, 3, list(weights), batch=2, dtype=torch.float64)
    assert torch.equal(batch, got.expand(2, -1))


def test_shuffled_shares_keep_the_masses_of_every_level():
    cascade = MultiplicativeCascade(kind="shuffled")
    got = cascade.generate(6, weights=[0.7, 0.3], generator=seeded(), dtype=torch.float64)
    plain = MultiplicativeCascade().generate(6, weights=[0.7, 0.3], dtype=torch.float64)
    torch.testing.assert_close(got.sort().values, plain.sort().values)
    assert abs(got.sum() - 1) < 1e-12


@pytest.mark.parametrize("kind", ["deterministic", "shuffled"])
def test_tau_of_given_weights_is_the_scaling_of_the_masses(kind):
    weights, n, q = [0.6, 0.4], 8, torch.tensor([-3.0, 0.0, 1.0, 2.5])
    mass = MultiplicativeCascade(kind=kind).generate(n, weights=weights, dtype=torch.float64)
    sums = (mass ** q.double()[:, None]).sum(-1)
    expected = MultiplicativeCascade(kind=kind).tau(q, weights=weights)
    torch.testing.assert_close(sums.log() / (n * math.log(0.5)), expected)


@pytest.mark.parametrize("kind", ["lognormal", "logpoisson"])
def test_tau_of_random_shares_is_their_mean_scaling(kind):
    cascade = MultiplicativeCascade(kind=kind, sigma=0.2, rate=0.4, decay=0.8)
    mass = cascade.generate(5, batch=40_000, generator=seeded(), dtype=torch.float64)
    assert abs(mass.sum(-1).mean() - 1) < 6 * mass.sum(-1).std() / 200
    for q in (0.5, 2.0):
        sums = (mass**q).sum(-1)
        expected = 0.5 ** (5 * float(cascade.tau(torch.tensor(q))))
        assert abs(sums.mean() - expected) <= 6 * sums.std() / 200


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FractionalBrownianMotion(length=0.0), "length must be a positive time, got 0.0"),
        (lambda: FractionalBrownianMotion().generate(9, 1.0), "H must lie strictly between 0 and"),
        (
            lambda: FractionalBrownianMotion().generate(9, torch.tensor([0.2, 0.3]), batch=3),
            "one per item of batch = 3, got 2",
        ),
        (lambda: FractionalBrownianMotion().generate(0, 0.5), "n_samples must be at least 1"),
        (lambda: FractionalBrownianMotion().generate(5, 0.5, 0), "n_dims must be at least 1"),
        (lambda: FractionalBrownianMotion().generate(5, 0.5, 1, 0), "batch must be at least 1"),
        (lambda: ColoredNoise(fmin=0.6), r"fmin must lie in \[0, 0.5\]"),
        (lambda: ColoredNoise().generate(1, 1.0), "n_samples must be at least 2"),
        (lambda: ColoredNoise().generate(9, 4.5), r"beta must lie in \[-3, 4\], got 4.5"),
        (lambda: MultiplicativeCascade(decay=1.0), "decay inside"),
        (lambda: MultiplicativeCascade().generate(0), "n_levels and batch must be at least 1"),
        (
            lambda: MultiplicativeCascade().generate(2, weights=[0.5, 0.2]),
            "weights must sum to 1, got 0.7",
        ),
        (
            lambda: MultiplicativeCascade().generate(2, 3, weights=[0.5, 0.5]),
            "weights must be 3 numbers >= 0",
        ),
        (
            lambda: MultiplicativeCascade(kind="lognormal").generate(2, weights=[0.5, 0.5]),
            "'lognormal' draws its weights; leave weights out",
        ),
    ],
)
def test_unfit_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: FractionalBrownianMotion(method="hosking"), "method"),
        (lambda: ColoredNoise(normalize="max"), "normalize"),
        (lambda: MultiplicativeCascade(kind="pareto"), "kind"),
    ],
)
def test_unknown_words_are_refused(call, name):
    # With shapes checked, the type of the argument is refused before our own message.
    with pytest.raises((ValueError, TypeError), match=name):
        call()
