"""Spectral slope."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from neuros_mechint.fractals import SpectralFit, SpectralSlope

Draw = Callable[..., np.ndarray]
N_DRAWS = 400  # the standard error of an RMSE is 3.5 % of it, of a bias 5 % of the RMSE


def bias_and_rmse(estimate: np.ndarray, truth: float) -> tuple[float, float]:
    error = estimate - truth
    return float(error.mean()), math.sqrt((error**2).mean())


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0])
def test_accuracy_on_a_thousand_samples(power_law_noise: Draw, beta: float) -> None:
    x = power_law_noise(1000, beta, N_DRAWS, seed=0)
    bias, rmse = bias_and_rmse(SpectralSlope(method="auto").compute(x), beta)
    assert abs(bias) <= (0.06 if beta == 3 else 0.03)
    assert rmse <= (0.10 if beta == 3 else 0.075)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_accuracy_of_the_default_up_to_brownian_noise(power_law_noise: Draw, beta: float) -> None:
    x = power_law_noise(1000, beta, N_DRAWS, seed=1)
    bias, rmse = bias_and_rmse(SpectralSlope().compute(x), beta)
    assert abs(bias) <= 0.03
    assert rmse <= 0.075


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, 3.0])
def test_accuracy_on_four_thousand_samples(power_law_noise: Draw, beta: float) -> None:
    x = power_law_noise(4096, beta, 100, seed=0)
    assert bias_and_rmse(SpectralSlope(method="auto").compute(x), beta)[1] <= 0.042


@pytest.mark.parametrize("fit", ["ols", "robust"])
def test_every_fit_finds_the_slope(power_law_noise: Draw, fit: str) -> None:
    x = power_law_noise(1000, 1.0, N_DRAWS, seed=2)
    bias, rmse = bias_and_rmse(SpectralSlope(fit=fit).compute(x), 1.0)
    assert abs(bias) <= 0.03
    assert rmse <= 0.075


@pytest.mark.parametrize("method", ["periodogram", "hann", "welch"])
def test_every_method_finds_a_mild_slope(power_law_noise: Draw, method: str) -> None:
    x = power_law_noise(1000, 0.5, N_DRAWS, seed=3)
    bias, rmse = bias_and_rmse(SpectralSlope(method=method).compute(x), 0.5)
    assert abs(bias) <= 0.03
    assert rmse <= 0.09


def test_an_untapered_periodogram_saturates_and_whitening_does_not(power_law_noise: Draw) -> None:
    x = power_law_noise(1000, 3.0, 50, seed=4)
    assert SpectralSlope(method="periodogram").compute(x).mean() < 2.2
    assert abs(SpectralSlope(method="auto").compute(x).mean() - 3) < 0.06


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5])
def test_a_narrow_peak_does_not_tilt_the_robust_fit(shaped_noise: Draw, beta: float) -> None:
    fs = 250.0

    def density(f: np.ndarray) -> np.ndarray:
        hertz = f * fs
        return hertz**-beta * 10 ** np.exp(-0.5 * (hertz - 10) ** 2)

    x = shaped_noise(density, 1000, 200, seed=0)
    robust = SpectralSlope(fs=fs, fit="robust").compute(x).mean() - beta
    spared = SpectralSlope(fs=fs, exclude=((6.0, 14.0),)).compute(x).mean() - beta
    plain = SpectralSlope(fs=fs).compute(x).mean() - beta
    assert abs(robust) <= 0.12
    assert abs(spared) <= 0.06
    assert plain > 0.15


@pytest.mark.parametrize(("knee", "beta"), [(5.0, 2.0), (10.0, 2.0), (20.0, 1.5), (15.0, 3.0)])
def test_knee_spectra_are_recovered(shaped_noise: Draw, knee: float, beta: float) -> None:
    fs = 250.0
    x = shaped_noise(lambda f: 1 / (knee**beta + (f * fs) ** beta), 10_000, 20, seed=0)
    fit = SpectralSlope(fs=fs, knee=True, freq_range=(0.5, 120.0)).fit(x)
    assert abs(np.median(fit.knee) / knee - 1) <= 0.15
    assert abs(fit.beta.mean() - beta) <= 0.15
    assert (fit.knee >= 0).all()


def test_a_power_law_has_no_knee(power_law_noise: Draw) -> None:
    x = power_law_noise(2000, 1.0, 20, seed=0)
    with_knee = SpectralSlope(knee=True).fit(x)
    without = SpectralSlope().fit(x)
    assert np.mean(with_knee.knee == 0) >= 0.5
    plain = with_knee.knee == 0
    np.testing.assert_allclose(with_knee.beta[plain], without.beta[plain])
    assert (without.knee == 0).all()


def test_the_whittle_fit_is_the_minimum_of_its_likelihood() -> None:
    x = np.random.default_rng(0).standard_normal(500).cumsum()
    slope = SpectralSlope(method="hann")
    fit = slope.fit(x)
    log_f = np.log(fit.freqs)

    def objective(b: float) -> float:
        return math.log(np.mean(fit.psd * fit.freqs**b)) - b * log_f.mean()

    best = objective(float(fit.beta))
    assert all(objective(float(fit.beta) + step) > best for step in (-1e-4, 1e-4))
    assert fit.log_amplitude == pytest.approx(math.log(np.mean(fit.psd * fit.freqs**fit.beta)))


def test_the_fit_of_a_far_first_guess_still_converges() -> None:
    # One strong low line on a flat floor: the likelihood is flat and far from quadratic.
    t = torch.arange(1000, dtype=torch.float64)
    noise = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = 1e6 * torch.sin(2 * math.pi * 5 / 1000 * t) + noise
    fit = SpectralSlope(method="periodogram").fit(x)
    gain = fit.psd * fit.freqs**fit.beta
    log_f = fit.freqs.log()
    slope = (gain * log_f).sum() / gain.sum() - log_f.mean()
    assert abs(slope.item()) < 1e-10


def test_ols_equals_polyfit() -> None:
    x = np.random.default_rng(0).standard_normal((3, 500)).cumsum(-1)
    slope = SpectralSlope(fit="ols", fs=10.0)
    log_f, log_psd = slope.curve(x)
    fit = slope.fit(x)
    for i in range(3):
        line = np.polyfit(log_f, log_psd[i], 1)
        assert fit.beta[i] == pytest.approx(-line[0])
        assert fit.log_amplitude[i] == pytest.approx(line[1])
        assert fit.r2[i] == pytest.approx(np.corrcoef(log_f, log_psd[i])[0, 1] ** 2)


@pytest.mark.parametrize("method", ["periodogram", "hann", "welch", "multitaper", "auto"])
def test_white_noise_has_the_density_of_its_variance(method: str) -> None:
    x = 3 * np.random.default_rng(0).standard_normal((20, 4000))
    fit = SpectralSlope(fs=50.0, method=method).fit(x)
    # 2 var / fs; the standard error of the mean over 32000 bins is below 1 %.
    assert fit.psd.mean() == pytest.approx(2 * 9 / 50, rel=0.03)
    assert np.exp(fit.log_amplitude).mean() == pytest.approx(2 * 9 / 50, rel=0.3)


def test_the_fit_keeps_the_kind_and_shape_of_its_input() -> None:
    x = torch.randn(2, 200, 3, generator=torch.Generator().manual_seed(0))
    fit = SpectralSlope().fit(x, dim=1)
    assert isinstance(fit, SpectralFit)
    n = len(fit.freqs)
    assert [tuple(part.shape) for part in fit] == [(2, 3)] * 4 + [(n,), (2, 3, n)]
    assert all(isinstance(part, np.ndarray) for part in SpectralSlope().fit(x.numpy(), dim=1))
    torch.testing.assert_close(fit.beta, SpectralSlope().compute(x, dim=1))


def test_the_default_range_excludes_the_ends() -> None:
    fit = SpectralSlope(fs=100.0).fit(torch.randn(1000))
    assert fit.freqs[0].item() == pytest.approx(0.4)
    assert fit.freqs[-1].item() == pytest.approx(40.0)


def test_the_range_includes_both_its_ends_and_exclusion_too() -> None:
    slope = SpectralSlope(fs=100.0, freq_range=(1.0, 50.0), exclude=((3.0, 5.0),))
    freqs = slope.fit(torch.randn(100)).freqs.tolist()
    assert freqs == pytest.approx([1, 2, *range(6, 51)])


def test_a_constant_fit_is_nan_throughout() -> None:
    x = torch.ones(2, 200)
    x[0] = torch.randn(200, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    with pytest.warns(UserWarning, match="1 of 2 items are constant or have no power"):
        fit = SpectralSlope(knee=True).fit(x)
    (gradient,) = torch.autograd.grad(sum(part.sum() for part in fit[:4]), x)
    assert (gradient[1] == 0).all()
    assert gradient.isfinite().all()
    assert [part[1].isnan().item() for part in fit[:4]] == [True] * 4
    assert [part[0].isnan().item() for part in fit[:4]] == [False] * 4
    assert SpectralSlope().curve(x.detach())[1][1].tolist() == [-math.inf] * len(fit.freqs)


def test_a_line_has_no_power_once_it_is_removed() -> None:
    ramp = torch.linspace(0, 7, 500, dtype=torch.float64)
    with pytest.warns(UserWarning, match="no power in the fitted band"):
        assert SpectralSlope(detrend="linear").compute(ramp).isnan()
    # Whitening turns a ramp into a constant: the plain spectrum must stand in.
    assert SpectralSlope(method="auto").compute(ramp).isfinite()


def test_the_robust_fit_has_exact_gradients_in_every_sample() -> None:
    x = torch.randn(1, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(SpectralSlope(fit="robust").compute, (x.requires_grad_(),))


@pytest.mark.parametrize("field", ["beta", "log_amplitude", "r2"])
@pytest.mark.parametrize(
    "options", [{}, {"fit": "ols"}, {"fit": "robust"}, {"knee": True}], ids=repr
)
def test_every_parameter_of_the_fit_has_exact_gradients(
    shaped_noise: Draw, field: str, options: dict[str, object]
) -> None:
    x = shaped_noise(lambda f: 1 / (0.1**2 + f**2), 256, 2, seed=1)
    slope = SpectralSlope(**options)
    assert torch.autograd.gradcheck(
        lambda row: getattr(slope.fit(row), field),
        (torch.from_numpy(x).requires_grad_(),),
        fast_mode=True,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fs": 0.0}, "fs must be a positive rate in Hz, got 0.0"),
        ({"fs": math.inf}, "fs must be a positive rate"),
        ({"method": "burg"}, "method"),
        ({"fit": "lasso"}, "fit"),
        ({"detrend": "cubic"}, "detrend"),
        ({"freq_range": (0.0, 0.4)}, r"0 < low < high <= fs / 2 = 0.5 Hz, got \(0, 0.4\)"),
        ({"freq_range": (0.1, 0.6)}, r"got \(0.1, 0.6\)"),
        ({"freq_range": (0.3, 0.1)}, r"got \(0.3, 0.1\)"),
        ({"exclude": ((0.2, 0.1),)}, r"bands \(low, high\) with 0 <= low <= high"),
        ({"knee": True, "fit": "ols"}, "fitted by fit = 'whittle' only, got fit = 'ols'"),
        ({"nperseg": 64}, "used by method = 'welch' only, got method = 'multitaper'"),
        ({"method": "welch", "nperseg": 8}, "nperseg must be at least 16, got 8"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        SpectralSlope(**options)


def test_too_few_frequencies_are_refused_with_the_needed_length() -> None:
    with pytest.raises(ValueError, match=r"at least 8 frequencies, got 7 .* from 25.*about 28"):
        SpectralSlope().compute(torch.randn(25))
    assert SpectralSlope().compute(torch.randn(28)).isfinite()
    with pytest.raises(ValueError, match=r"got 3 between 0.1 and 0.12 Hz"):
        SpectralSlope(freq_range=(0.1, 0.12)).compute(torch.randn(100))


def test_a_segment_longer_than_the_signal_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 200 samples .*got 100; .*lower nperseg"):
        SpectralSlope(method="welch", nperseg=200).compute(torch.randn(100))
