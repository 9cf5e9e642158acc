"""Detrended fluctuation analysis against its definition and the law of its input."""

import math

import numpy as np
import pytest
import torch

from neuros_mechint.fractals import DetrendedFluctuationAnalysis, FractionalBrownianMotion
from neuros_mechint.fractals._dfa_expectation import corrected, expected_squares


def noise(n, H=0.5, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    motion = FractionalBrownianMotion()
    return motion.increments(n, H, batch=batch, generator=generator, dtype=torch.float64)[:, 0]


def by_definition(x, n, order, *, overlap=False, two_sided=True):
    """F^2(n) by a polynomial fit in every window."""
    y = np.cumsum(x - x.mean())
    starts = list(range(0, len(y) - n + 1, n // 2 if overlap else n))
    if overlap and starts[-1] != len(y) - n:
        starts.append(len(y) - n)
    if two_sided and not overlap and len(y) % n:
        starts += list(range(len(y) % n, len(y) - n + 1, n))
    t = np.linspace(-1, 1, n)
    windows = [y[s : s + n] for s in starts]
    left = [w - np.polyval(np.polyfit(t, w, order), t) for w in windows]
    return float(np.mean([np.mean(r**2) for r in left]))


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(
    "options", [{}, {"two_sided": False}, {"overlap": True}], ids=["both", "forward", "overlap"]
)
def test_fluctuations_are_the_residuals_of_polynomial_fits(order, options):
    x = noise(205, 0.7)[0]
    sizes = [5, 8, 41, 60]
    got = DetrendedFluctuationAnalysis(scales=sizes, order=order, **options).compute(x)
    expected = [math.sqrt(by_definition(x.numpy(), n, order, **options)) for n in sizes]
    np.testing.assert_allclose(got.fluctuations.numpy(), expected, rtol=1e-9)
    slope = np.polyfit(np.log(sizes), np.log(expected), 1)[0]
    assert abs(got.alpha.item() - slope) <= 1e-9


@pytest.mark.parametrize(
    ("H", "plain", "corrected_bar"), [(0.2, 0.030, 0.023), (0.5, 0.045, 0.037), (0.8, 0.060, 0.047)]
)
def test_noise_gives_its_exponent(H, plain, corrected_bar):
    x = noise(1024, H, 400)
    error = DetrendedFluctuationAnalysis().compute(x).alpha - H
    assert error.square().mean().sqrt() <= plain
    better = DetrendedFluctuationAnalysis(bias_correction=True, min_window=4).compute(x).alpha - H
    assert better.mean().abs() <= 0.012
    assert better.square().mean().sqrt() <= corrected_bar


def test_a_path_has_one_more_and_is_not_corrected():
    x = noise(2048, 0.6, 8).cumsum(-1)
    plain = DetrendedFluctuationAnalysis(min_window=4).compute(x).alpha
    assert abs(plain.mean() - 1.6) < 0.1
    same = DetrendedFluctuationAnalysis(min_window=4, bias_correction=True).compute(x).alpha
    assert torch.equal(same, plain)


def test_the_expected_fluctuation_is_the_mean_over_draws():
    x = noise(64, 0.3, 20_000)
    squares = DetrendedFluctuationAnalysis(scales=[8, 16, 32]).compute(x).fluctuations.square()
    expected = expected_squares((8, 16, 32), 1, torch.tensor([0.3], dtype=torch.float64))[0]
    # The mean of the whole signal is taken away first, which a line in each window does anyway.
    assert (squares.mean(0) / expected - 1).abs().max() < 0.01


def test_the_correction_undoes_the_expected_slope():
    sizes = (4, 6, 9, 14, 20)
    H = torch.tensor([0.15, 0.5, 0.85], dtype=torch.float64)
    logs = expected_squares(sizes, 2, H).log().numpy() / 2
    slopes = [np.polyfit(np.log(sizes), row, 1)[0] for row in logs]
    assert (corrected(torch.tensor(slopes), sizes, 2) - H).abs().max() < 1e-5


@pytest.mark.parametrize("scale", [1e-12, 3.0, 1e12])
def test_unit_and_offset_do_not_matter(scale):
    x = noise(300, 0.4, 3)
    dfa = DetrendedFluctuationAnalysis()
    torch.testing.assert_close(
        dfa.compute(scale * (x + 1e3)).alpha, dfa.compute(x).alpha, rtol=1e-6, atol=0
    )


def test_a_batch_is_its_items_along_any_axis():
    x = noise(130, 0.5, 6).reshape(2, 3, 130)
    dfa = DetrendedFluctuationAnalysis(bias_correction=True)
    whole = dfa.compute(x)
    moved = dfa.compute(x.movedim(-1, 1), dim=1)
    torch.testing.assert_close(moved.alpha, whole.alpha, rtol=1e-10, atol=0)
    for i in range(2):
        item = dfa.compute(x[i, 1])
        torch.testing.assert_close(item.alpha, whole.alpha[i, 1], rtol=1e-10, atol=0)
        torch.testing.assert_close(item.fluctuations, whole.fluctuations[i, 1], rtol=1e-10, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_types_follow_the_input(dtype):
    x = noise(200)[0]
    got = DetrendedFluctuationAnalysis().compute(x.to(dtype))
    assert got.alpha.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert abs(got.alpha - DetrendedFluctuationAnalysis().compute(x).alpha) < 5e-3
    array = DetrendedFluctuationAnalysis().compute(x.numpy())
    assert isinstance(array.alpha, np.ndarray)
    assert isinstance(array.fluctuations, np.ndarray)


def test_a_constant_signal_alone_has_no_value_and_no_gradient():
    x = noise(100, 0.5, 3)
    x[1] = 0.1
    x.requires_grad_()
    with pytest.warns(UserWarning, match="1 of 3 items are constant, or polynomials"):
        alpha = DetrendedFluctuationAnalysis().compute(x).alpha
    assert alpha.isnan().tolist() == [False, True, False]
    alpha[[0, 2]].sum().backward()
    assert bool((x.grad[1] == 0).all())
    assert bool(x.grad.isfinite().all())


@pytest.mark.parametrize("options", [{}, {"overlap": True}, {"bias_correction": True}])
def test_gradients_are_those_of_the_definition(options):
    dfa = DetrendedFluctuationAnalysis(scales=[4, 7, 12], **options)
    x = noise(40, 0.5, 2).requires_grad_()
    assert torch.autograd.gradcheck(dfa.compute, x)


def test_the_curve_holds_the_points_of_the_line():
    dfa = DetrendedFluctuationAnalysis(scales=[5, 10, 20, 40])
    x = noise(400, 0.5, 2)
    log_n, log_f = dfa.curve(x)
    torch.testing.assert_close(log_f.exp(), dfa.compute(x).fluctuations)
    slope = np.polyfit(log_n.numpy(), log_f.numpy().T, 1)[0]
    np.testing.assert_allclose(dfa.compute(x).alpha.numpy(), slope)


def test_default_windows_are_spaced_in_the_logarithm():
    sizes = DetrendedFluctuationAnalysis().scales(1000)
    assert (sizes[0].item(), sizes[-1].item(), len(sizes)) == (10, 250, 16)
    ratios = sizes[1:] / sizes[:-1]
    assert ratios.min() > 1.1
    assert ratios.max() < 1.35
    assert "min_window=10" in repr(DetrendedFluctuationAnalysis())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DetrendedFluctuationAnalysis(min_window=2), "order \\+ 2 = 3 samples, got order"),
        (lambda: DetrendedFluctuationAnalysis(order=-1), "order must be at least 0"),
        (
            lambda: DetrendedFluctuationAnalysis(scales=[8, 8]),
            "at least 2 different windows, got 1",
        ),
        (lambda: DetrendedFluctuationAnalysis(n_windows=1), "at least 2 different windows, got 1"),
        (
            lambda: DetrendedFluctuationAnalysis().compute(torch.zeros(39)),
            "got 39 samples with windows",
        ),
        (
            lambda: DetrendedFluctuationAnalysis(scales=[8, 64]).compute(torch.zeros(60)),
            "got 60 samples with windows",
        ),
        (
            lambda: DetrendedFluctuationAnalysis().compute(torch.full((100,), math.inf)),
            "NaN or infinity in 1 of 1 items",
        ),
    ],
)
def test_unfit_settings_and_signals_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
