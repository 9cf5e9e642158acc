"""Multifractal spectra of signals and measures."""

import ast
import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_mechint.fractals import (
    DetrendedFluctuationAnalysis,
    MultifractalSpectrum,
    MultiplicativeCascade,
)
from neuros_mechint.fractals._leaders import leader_counts, leader_octaves
from neuros_mechint.fractals._multifractal_moments import window_squares

ESTIMATORS = [
    MultifractalSpectrum(),
    MultifractalSpectrum(q=[-2.0, 0.0, 1e-9, 2.5], order=2, kind="path"),
    MultifractalSpectrum(q=[1.0, 2.0], scales=[8, 16, 33]),
    MultifractalSpectrum(method="leaders"),
    MultifractalSpectrum(method="leaders", kind="path", scales=[4, 8, 16]),
]
estimators = pytest.mark.parametrize("estimator", ESTIMATORS, ids=range(len(ESTIMATORS)))
FIELDS = ("tau", "alpha", "f_alpha", "h", "width")


def binomial(n_levels: int, p: float) -> torch.Tensor:
    return MultiplicativeCascade().generate(n_levels, weights=[p, 1 - p], dtype=torch.float64)


def binomial_truth(q: torch.Tensor, p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Exponents and strengths of the binomial measure."""
    first, second = p**q, (1 - p) ** q
    alpha = -(first * math.log2(p) + second * math.log2(1 - p)) / (first + second)
    return -torch.log2(first + second), alpha


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("p", [0.75, 0.6, 0.5])
def test_a_binomial_measure_has_its_exact_spectrum(p: float) -> None:
    result = MultifractalSpectrum(method="measure").compute(binomial(12, p))
    tau, alpha = binomial_truth(result.q, p)
    torch.testing.assert_close(result.tau, tau, rtol=0, atol=1e-9)
    torch.testing.assert_close(result.alpha, alpha, rtol=0, atol=1e-9)
    torch.testing.assert_close(result.f_alpha, result.q * alpha - tau, rtol=0, atol=1e-9)
    assert result.width.item() == pytest.approx((alpha[0] - alpha[-1]).item(), abs=1e-9)


def test_a_measure_of_base_three_has_its_exact_spectrum() -> None:
    cascade = MultiplicativeCascade()
    mass = cascade.generate(7, 3, weights=[0.5, 0.2, 0.3], dtype=torch.float64)
    result = MultifractalSpectrum(method="measure", base=3).compute(mass)
    truth = cascade.tau(result.q, 3, weights=[0.5, 0.2, 0.3])
    torch.testing.assert_close(result.tau, truth, rtol=0, atol=1e-9)


def test_strengths_and_dimensions_are_those_of_chhabra_and_jensen() -> None:
    mass = MultiplicativeCascade(kind="lognormal").generate(
        9, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    q = np.array([-2.0, 0.5, 3.0])
    result = MultifractalSpectrum(method="measure", q=q).compute(mass.numpy())
    sizes = 2 ** np.arange(9)
    for k, moment in enumerate(q):
        # Equations 6 and 7 of the paper.
        strength, entropy = [], []
        for size in sizes:
            p = mass.numpy().reshape(-1, size).sum(-1)
            share = p**moment / (p**moment).sum()
            strength.append((share * np.log(p)).sum())
            entropy.append((share * np.log(share)).sum())
        alpha, f_alpha = (np.polyfit(np.log(sizes), line, 1)[0] for line in (strength, entropy))
        assert result.alpha[k] == pytest.approx(alpha, abs=1e-9)
        assert result.f_alpha[k] == pytest.approx(f_alpha, abs=1e-9)


def test_a_cantor_measure_has_the_dimension_of_its_support() -> None:
    mass = MultiplicativeCascade().generate(7, 3, weights=[0.5, 0.0, 0.5], dtype=torch.float64)
    result = MultifractalSpectrum(method="measure", base=3, q=[0.0, 2.0]).compute(mass)
    dimension = math.log(2) / math.log(3)
    assert (-result.tau[0]).item() == pytest.approx(dimension, abs=1e-9)
    assert result.tau[1].item() == pytest.approx(dimension, abs=1e-9)
    # Boxes of 3**k leave 3**(7 - k) - 2**(7 - k) empty.
    assert result.n_dropped.item() == sum(3**k - 2**k for k in range(1, 8))
    assert result.h.isnan().tolist() == [True, False]


def test_a_constant_is_the_uniform_measure() -> None:
    result = MultifractalSpectrum(method="measure").compute(np.full(64, 3.0))
    np.testing.assert_allclose(result.alpha, 1, atol=1e-12)
    np.testing.assert_allclose(result.f_alpha, 1, atol=1e-12)


# A line through windows of a cascade is off by 0.026 and 0.012, at every q alike.
@pytest.mark.parametrize("p", [0.75, 0.6])
def test_fluctuations_of_a_binomial_measure_scale_as_its_moments(p: float) -> None:
    estimator = MultifractalSpectrum(scales=[2**k for k in range(4, 13)])
    for unit in (1.0, 1e-9, 1e9):
        result = estimator.compute(unit * binomial(14, p))
        tau, alpha = binomial_truth(result.q, p)
        truth = torch.where(result.q == 0, alpha, (tau + 1) / result.q)
        assert (result.h - truth).abs().max() <= 0.035
        assert (result.alpha - alpha).abs().max() <= 0.035


@pytest.mark.slow  # signals of 16384 samples, three exponents
@pytest.mark.parametrize("hurst", [0.2, 0.5, 0.8])
def test_fractional_noise_is_narrow(fgn: Callable[..., np.ndarray], hurst: float) -> None:
    x = fgn(16384, hurst, 20, seed=0)
    result = MultifractalSpectrum(q=np.linspace(-3, 3, 13)).compute(x)
    # The median of 20 is about .04, with a standard error below .01.
    assert np.median(result.width) <= 0.12
    # The standard deviation of h(2) is .02 at most.
    assert np.median(result.h[:, 10]) == pytest.approx(hurst, abs=0.03)


def test_the_second_moment_is_detrended_fluctuation_analysis() -> None:
    x = noise(4, 1000)
    result = MultifractalSpectrum(q=[1.0, 2.0]).compute(x)
    torch.testing.assert_close(
        result.h[:, 1], DetrendedFluctuationAnalysis().compute(x).alpha, rtol=0, atol=1e-10
    )


def test_moments_equal_the_definition() -> None:
    x, sizes = noise(230).numpy(), [10, 23, 40]
    q = [-3.0, 0.0, 2.0]
    log_s, log_f = MultifractalSpectrum(q=q, scales=sizes, order=2).curve(x)
    np.testing.assert_allclose(log_s, np.log(sizes))
    profile = (x - x.mean()).cumsum()
    for j, n in enumerate(sizes):
        starts = {*range(0, 230 - n + 1, n), *range(230 % n, 230 - n + 1, n)}
        windows = np.array([profile[i : i + n] for i in sorted(starts)])
        t = np.arange(n)
        fits = [np.polyval(np.polyfit(t, window, 2), t) for window in windows]
        squares = ((windows - fits) ** 2).mean(-1)
        for k, moment in enumerate(q):
            mean = (
                np.log(squares).mean() / 2
                if moment == 0
                else np.log((squares ** (moment / 2)).mean()) / moment
            )
            assert log_f[k, j] == pytest.approx(mean, abs=1e-9)


@estimators
def test_strengths_are_the_derivative_of_the_exponents(estimator: MultifractalSpectrum) -> None:
    step = 1e-5
    near = [q + side * step for q in (-2.0, 0.0, 2.5) for side in (-1, 0, 1)]
    options = {"method": estimator.method, "kind": estimator.kind, "scales": estimator._scales}
    tau, alpha = MultifractalSpectrum(q=near, **options).compute(noise(512))[1:3]
    slope = (tau[2::3] - tau[::3]) / (2 * step)
    # The third derivative is of order 1, the rounding of tau 1e-14.
    torch.testing.assert_close(alpha[1::3], slope, rtol=0, atol=1e-7)


@estimators
def test_exponents_do_not_jump_at_moment_zero(estimator: MultifractalSpectrum) -> None:
    options = {"method": estimator.method, "kind": estimator.kind, "scales": estimator._scales}
    q = [-2e-6, -1e-7, 0.0, 1e-7, 2e-6]
    h = MultifractalSpectrum(q=q, **options).compute(noise(512)).h
    assert (h - h[2]).abs().max() < 1e-6


def test_the_curves_have_the_slopes_of_h() -> None:
    x = noise(3, 600)
    for estimator in ESTIMATORS[:3]:
        log_s, log_f = estimator.curve(x)
        offsets = log_s - log_s.mean()
        slope = (log_f * offsets).sum(-1) / offsets.square().sum()
        torch.testing.assert_close(slope, estimator.compute(x).h, rtol=0, atol=1e-9)


def test_a_flat_run_does_not_widen_the_spectrum() -> None:
    x = noise(2, 4096)
    x[1, 1000:1300] = x[1, 1000]
    result = MultifractalSpectrum().compute(x)
    assert result.n_dropped[0] == 0
    assert result.n_dropped[1] > 0
    # Without dropping it would be above 10: the residuals there are rounding.
    assert abs(result.width[1] - result.width[0]) < 0.3
    # Moments above 0 still see the windows.
    squares = window_squares((x - x.mean(-1, keepdim=True)).cumsum(-1), 10, 1)
    log_f = MultifractalSpectrum(q=[-1.0, 1.0], scales=[10, 20]).curve(x)[1]
    assert log_f[1, 1, 0].item() == pytest.approx(squares[1].sqrt().mean().log().item(), abs=1e-9)


def test_half_of_a_signal_may_be_flat() -> None:
    x = noise(2048)
    x[1000:] = 0.3
    result = MultifractalSpectrum(q=[-2.0, 2.0]).compute(x)
    assert result.n_dropped > 0
    assert result.h.isfinite().all()
    assert result.h.abs().max() < 1.5


@pytest.mark.parametrize("method", ["mfdfa", "leaders"])
def test_a_constant_item_is_nan_with_one_warning_and_no_gradient(method: str) -> None:
    x = noise(3, 256)
    x[1] = 0.1
    x.requires_grad_()
    estimator = MultifractalSpectrum(method=method)
    with pytest.warns(UserWarning, match="1 of 3 items are constant, or polynomials") as caught:
        result = estimator.compute(x)
    assert len(caught) == 1
    others = estimator.compute(x.detach()[[0, 2]])
    for field in FIELDS:
        part = result[field].detach()
        assert part[1].isnan().all()
        torch.testing.assert_close(part[[0, 2]], others[field], rtol=0, atol=1e-10)
    (gradient,) = torch.autograd.grad(result.h.sum() + result.width.sum(), x)
    assert gradient.isfinite().all()
    assert (gradient[1] == 0).all()
    assert (gradient[[0, 2]] != 0).any(-1).all()
    with pytest.warns(UserWarning, match="1 of 3 items"):
        cumulants = estimator.log_cumulants(x)
    assert cumulants.c1.isnan().tolist() == [False, True, False]
    assert estimator.curve(x)[1][1].isnan().all()


def test_an_empty_measure_has_no_spectrum() -> None:
    x = torch.stack([torch.zeros(64), torch.ones(64)])
    with pytest.warns(UserWarning, match="1 of 2 items have no mass"):
        result = MultifractalSpectrum(method="measure").compute(x)
    assert result.width.isnan().tolist() == [True, False]


@estimators
def test_a_batch_equals_its_items(estimator: MultifractalSpectrum) -> None:
    x = noise(2, 3, 500)
    result = estimator.compute(x)
    other = estimator.compute(x.movedim(-1, 0), dim=0)
    for field in FIELDS:
        torch.testing.assert_close(other[field], result[field], rtol=0, atol=1e-10)
        single = torch.stack([estimator.compute(row)[field] for row in x.flatten(0, 1)])
        expected = result[field].flatten(0, 1)
        torch.testing.assert_close(single, expected, rtol=0, atol=1e-10)
        half = estimator.compute(x.half())[field]
        assert half.dtype == torch.float32
        assert estimator.compute(x[:0])[field].shape == (0, *result[field].shape[1:])
    array = estimator.compute(x.numpy())
    assert all(isinstance(part, np.ndarray) for part in array)
    np.testing.assert_array_equal(array["tau"], result.tau.numpy())


def test_blocks_of_windows_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(3, 500)
    whole = MultifractalSpectrum().compute(x)
    monkeypatch.setattr("neuros_mechint.fractals._multifractal_moments._POWERS", 1000)
    monkeypatch.setattr("neuros_mechint.fractals._multifractal._BLOCK_SAMPLES", 500)
    parts = MultifractalSpectrum().compute(x)
    for field in FIELDS:
        torch.testing.assert_close(parts[field], whole[field], rtol=0, atol=1e-12)


@estimators
@settings(max_examples=10, derandomize=True, deadline=None)
@given(exponent=st.floats(-12, 12), offset=st.floats(-1e3, 1e3), seed=st.integers(0, 2**31))
def test_unit_and_offset_do_not_matter(
    estimator: MultifractalSpectrum, exponent: float, offset: float, seed: int
) -> None:
    x = noise(2, 300, seed=seed)
    moved = 10.0**exponent * (x + offset)
    result, expected = estimator.compute(moved), estimator.compute(x)
    for field in FIELDS:
        torch.testing.assert_close(result[field], expected[field], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["mfdfa", "leaders", "measure"])
def test_gradients_pass_gradcheck(method: str) -> None:
    x = noise(2, 192, seed=3)
    if method == "measure":
        x = x.exp()
    x.requires_grad_()
    estimator = MultifractalSpectrum(method=method, q=[-2.0, 0.0, 1e-9, 3.0])

    def differentiable(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (*estimator.compute(x)[1:6], *estimator.log_cumulants(x))

    assert torch.autograd.gradcheck(differentiable, (x,), fast_mode=True)


def test_gradients_stay_finite_beside_flat_runs() -> None:
    x = noise(512)
    x[100:200] = 0
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(MultifractalSpectrum().compute(x).h.sum(), x)
    assert gradient.isfinite().all()
    assert (gradient != 0).any()


# Leaders of the coarsest octaves are few: the standard deviation of c1 is .03, of c2 .01, of the
# means of 40 draws a sixth of that.
@pytest.mark.parametrize(("hurst", "bias"), [(0.2, 0.06), (0.5, 0.05), (0.8, 0.03)])
def test_leaders_of_fractional_noise_have_one_exponent(
    fgn: Callable[..., np.ndarray], hurst: float, bias: float
) -> None:
    x = fgn(4096, hurst, 40, seed=0)
    c1, c2 = MultifractalSpectrum(method="leaders").log_cumulants(x)
    assert c1.mean() == pytest.approx(hurst, abs=bias)
    assert abs(c2.mean()) <= 0.03
    path = MultifractalSpectrum(method="leaders", kind="path").log_cumulants(
        (x - x.mean(-1, keepdims=True)).cumsum(-1)
    )
    np.testing.assert_allclose(path.c1, c1, atol=1e-9)


@pytest.mark.parametrize("method", ["mfdfa", "leaders", "measure"])
def test_log_cumulants_of_a_log_normal_cascade(method: str) -> None:
    generator = torch.Generator().manual_seed(0)
    cascade = MultiplicativeCascade(kind="lognormal", sigma=0.3)
    x = cascade.generate(13, batch=60, generator=generator, dtype=torch.float64)
    c1, c2 = MultifractalSpectrum(method=method).log_cumulants(x)
    # tau = q - 1 - sigma^2 / (2 ln 2) (q^2 - q); standard errors of the means: .005 and .007,
    # and a bias of c1 of the order of .015 by the finest scales.
    assert c1.mean().item() == pytest.approx(1 + 0.045 / math.log(2), abs=0.04)
    assert c2.mean().item() == pytest.approx(-0.09 / math.log(2), abs=0.04)


def test_parabolic_drifts_do_not_move_leaders() -> None:
    x = noise(1024)
    t = torch.linspace(-1, 1, 1024, dtype=torch.float64)
    estimator = MultifractalSpectrum(method="leaders", kind="path")
    drifted = x.cumsum(0) + 300 * t.square() - 20 * t
    torch.testing.assert_close(
        estimator.compute(drifted).tau, estimator.compute(x.cumsum(0)).tau, rtol=0, atol=1e-8
    )


def test_a_leader_is_the_largest_coefficient_within_its_three_intervals() -> None:
    x = torch.zeros(1, 300, dtype=torch.float64)
    x[0, 150] = 1
    leaders = leader_octaves(x, 3)
    assert [part.shape[1] for part in leaders] == list(leader_counts(300))[:3]
    for octave, part in enumerate(leaders, start=1):
        # Interval k of the unpadded transform is centred at 2^j (k + 1 + 2.5) samples and more.
        places = (part[0] > 0).nonzero()[:, 0]
        centres = 2**octave * (places + 1 + 2.5)
        assert (centres - 150).abs().max() <= 5 * 2**octave + 8
        assert len(places) >= 5
    assert leaders[1].max() >= leaders[0].max()


def test_signals_of_noise_and_path_kind_share_a_convention() -> None:
    x = noise(1000)
    path = (x - x.mean()).cumsum(0)
    for method in ("mfdfa", "leaders"):
        noisy = MultifractalSpectrum(method=method).compute(x)
        smooth = MultifractalSpectrum(method=method, kind="path").compute(path)
        torch.testing.assert_close(smooth.tau, noisy.tau, rtol=0, atol=1e-9)


def test_parts_are_found_by_name_and_place() -> None:
    result = MultifractalSpectrum().compute(noise(200))
    assert result["tau"] is result.tau
    assert result[1] is result.tau
    assert result[:2] == (result.q, result.tau)
    with pytest.raises(KeyError, match="no part is called 'beta'; the parts are q, tau"):
        result["beta"]


@estimators
def test_repr_rebuilds_the_estimator(estimator: MultifractalSpectrum) -> None:
    options = repr(estimator).removeprefix("MultifractalSpectrum")
    arguments = ast.parse(f"f{options}", mode="eval").body
    assert isinstance(arguments, ast.Call)
    values = {word.arg: ast.literal_eval(word.value) for word in arguments.keywords}
    assert repr(MultifractalSpectrum(**values)) == repr(estimator)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "wtmm"}, "method must be one of 'mfdfa', 'measure', 'leaders', got 'wtmm'"),
        ({"kind": "auto"}, "kind must be one of"),
        ({"order": -1}, "order must be at least 0 and base at least 2"),
        ({"base": 1, "method": "measure"}, "order must be at least 0 and base at least 2"),
        ({"order": 2, "method": "leaders"}, "order is used by method 'mfdfa' only"),
        ({"base": 3}, "base is used by method 'measure' only"),
        ({"kind": "path", "method": "measure"}, "kind is used by method 'mfdfa' and 'leaders'"),
        ({"q": [1.0]}, "q must hold at least 2 different finite moments"),
        ({"q": [1.0, math.inf]}, "q must hold at least 2 different finite moments"),
        ({"scales": [8]}, "at least 2 different sizes of at least 3 samples"),
        ({"scales": [2, 8]}, "at least 2 different sizes of at least 3 samples"),
        ({"scales": [8, 24], "method": "leaders"}, "scales must be powers of 2"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"{message}|Type-check"):
        MultifractalSpectrum(**options)


@pytest.mark.parametrize(
    ("options", "n", "message"),
    [
        ({}, 43, "x needs at least 44 samples along its time axis for two scales"),
        ({"order": 12}, 59, "x needs at least 60 samples"),
        ({"scales": [8, 64]}, 63, "x needs at least 64 samples.*for a scale of 64, got 63"),
        ({"method": "leaders"}, 155, "x needs at least 156 samples"),
        ({"method": "leaders", "scales": [4, 8]}, 75, "x needs at least 76 samples"),
        ({"method": "measure"}, 63, "a number of samples that base = 2 divides"),
        ({"method": "measure", "scales": [1, 2, 4]}, 6, r"that all scales \(1, 2, 4\) divide"),
    ],
)
def test_signals_that_do_not_fit_the_scales_are_refused(
    options: dict[str, object], n: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MultifractalSpectrum(**options).compute(noise(n).abs())


def test_the_shortest_signals_are_analysed() -> None:
    assert MultifractalSpectrum().compute(noise(44)).h.isfinite().all()
    assert MultifractalSpectrum(method="leaders").compute(noise(156)).h.isfinite().all()
    assert MultifractalSpectrum(method="measure").scales(4).tolist() == [1, 2]
    with pytest.raises(ValueError, match="n needs at least 44 samples"):
        MultifractalSpectrum().scales(10)


def test_a_measure_with_negative_masses_is_refused() -> None:
    with pytest.raises(ValueError, match=r"masses of at least 0 for method 'measure', got -1"):
        MultifractalSpectrum(method="measure").compute(torch.tensor([1.0, -1.0, 0.0, 2.0]))


def test_values_that_are_not_finite_are_refused() -> None:
    x = noise(3, 200)
    x[1, 7] = math.nan
    with pytest.raises(ValueError, match="finite, got NaN or infinity in 1 of 3 items"):
        MultifractalSpectrum().compute(x)


def test_autocast_does_not_lower_the_precision() -> None:
    x = noise(2, 300).float()
    with torch.autocast("cpu", dtype=torch.bfloat16), warnings.catch_warnings():
        inside = MultifractalSpectrum().compute(x)
    torch.testing.assert_close(inside.tau, MultifractalSpectrum().compute(x).tau)
