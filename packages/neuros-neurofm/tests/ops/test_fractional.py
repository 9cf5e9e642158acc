import math

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor

from neuros_neurofm.ops._fft_conv import causal_fft_conv
from neuros_neurofm.ops._fractional import fractional_kernel, lag_modes, power_law_modes


def number(value: float, *, grad: bool = False) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=grad)


def mode_sum(weights: Tensor, rates: Tensor, t: Tensor) -> Tensor:
    return torch.exp(-t[:, None] * rates.double()) @ weights.double()


@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.5, 0.8, 0.99])
def test_power_kernel_is_that_of_scipy(alpha: float) -> None:
    n = np.arange(1, 2049)
    expected = torch.as_tensor(n**-alpha / special.gamma(1 - alpha))
    torch.testing.assert_close(
        fractional_kernel(number(alpha), 2048, "power"), expected, rtol=1e-12, atol=0
    )
    single = fractional_kernel(alpha, 2048, "power").double()
    torch.testing.assert_close(single, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.5, 0.8, 0.99])
def test_gl_kernel_is_the_generalised_binomial_of_scipy(alpha: float) -> None:
    j = np.arange(2048)
    expected = torch.as_tensor(special.poch(1 - alpha, j[:150]) / special.gamma(j[:150] + 1))
    kernel = fractional_kernel(number(alpha), 2048)
    torch.testing.assert_close(kernel[:150], expected, rtol=1e-11, atol=0)
    # At long lags Gamma(j + nu) / Gamma(j + 1) = j^(nu-1) (1 + nu (nu-1) / 2j), by Stirling.
    nu = 1 - alpha
    late = j[1000:] ** (nu - 1) / special.gamma(nu) * (1 + nu * (nu - 1) / (2 * j[1000:]))
    torch.testing.assert_close(kernel[1000:], torch.as_tensor(late), rtol=1e-6, atol=0)


def test_gl_weights_obey_their_recursion_and_start_at_one() -> None:
    kernel = fractional_kernel(number(0.7), 500)
    j = torch.arange(1, 500, dtype=torch.float64)
    assert kernel[0] == 1
    torch.testing.assert_close(kernel[1:], kernel[:-1] * (j - 1 + 0.3) / j, rtol=1e-13, atol=0)


def test_order_one_is_the_cumulative_sum() -> None:
    x = torch.randn(2, 512, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(causal_fft_conv(x, fractional_kernel(number(0.0), 512)), x.cumsum(1))
    assert fractional_kernel(0.0, 512).eq(1).all()
    assert fractional_kernel(0.0, 512, "power").eq(1).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_orders_of_gl_kernels_add_up(dtype: torch.dtype, tolerance: float) -> None:
    first, second, both = (
        fractional_kernel(torch.tensor(1 - nu, dtype=dtype), 4096) for nu in (0.3, 0.45, 0.75)
    )
    x = torch.sin(torch.arange(4096, dtype=dtype) / 50).abs()
    twice = causal_fft_conv(causal_fft_conv(x, first, 0), second, 0)
    once = causal_fft_conv(x, both, 0)
    assert (twice - once).abs().max() <= tolerance * once.abs().max()
    kernels = causal_fft_conv(first, second, 0)
    assert (kernels - both).abs().max() <= tolerance


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("nu", [0.2, 0.5, 0.8])
def test_fractional_integral_of_a_power_is_the_known_power(power: int, nu: float) -> None:
    # The weights are a first-order rule: the error at the end is about nu (p + nu) / (2 L).
    t = torch.arange(4096, dtype=torch.float64)
    y = causal_fft_conv(t**power, fractional_kernel(number(1 - nu), 4096), 0)
    truth = math.gamma(power + 1) / math.gamma(power + 1 + nu) * t ** (power + nu)
    assert (y - truth).abs().max() <= 5e-4 * truth.max()


def test_sampled_power_law_errs_more_than_gl_weights() -> None:
    t = torch.arange(4096, dtype=torch.float64)
    truth = t**1.5 / math.gamma(2.5)
    errors = []
    for method in ("gl", "power"):
        y = causal_fft_conv(t, fractional_kernel(number(0.5), 4096, method), 0)
        errors.append(float((y - truth).abs().max() / truth.max()))
    assert errors[0] < 0.1 * errors[1]


@pytest.mark.parametrize("method", ["gl", "power"])
def test_gradcheck_of_the_exponent(method: str) -> None:
    alpha = number(0.6, grad=True)
    assert torch.autograd.gradcheck(lambda a: fractional_kernel(a, 20, method), (alpha,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_results_have_the_dtype_of_the_exponent_but_never_half(dtype: torch.dtype) -> None:
    alpha = torch.tensor(0.5, dtype=dtype)
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    results = (fractional_kernel(alpha, 5), *power_law_modes(alpha, 4, 10))
    assert {r.dtype for r in results} == {wanted}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n_modes", "bound"), [(32, 1e-5), (16, 2e-3)])
def test_modes_follow_the_power_law(n_modes: int, bound: float, dtype: torch.dtype) -> None:
    t = torch.arange(1, 10_001, dtype=torch.float64)
    for exponent in (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95):
        alpha = torch.tensor(exponent, dtype=dtype)
        weights, rates = power_law_modes(alpha, n_modes)
        assert weights.shape == rates.shape == (n_modes,)
        assert (weights >= 0).all()
        assert (rates > 0).all()
        relative = mode_sum(weights, rates, t) * t ** float(alpha) - 1
        assert relative.abs().max() <= bound


@pytest.mark.parametrize("horizon", [1, 2, 50, 100_000])
def test_modes_follow_the_power_law_over_other_horizons(horizon: int) -> None:
    t = torch.arange(1, horizon + 1, dtype=torch.float64)
    relative = mode_sum(*power_law_modes(number(0.5), horizon=horizon), t) * t**0.5 - 1
    assert relative.abs().max() <= 1e-6


@pytest.mark.parametrize("method", ["gl", "power"])
def test_gradient_of_the_modes_is_that_of_the_kernel(method: str) -> None:
    alpha = number(0.6, grad=True)
    weights, rates = lag_modes(alpha, method, 32, 1000)
    j = torch.arange(1000, dtype=torch.float64)
    probe = torch.cos(j / 30)
    (given,) = torch.autograd.grad(probe @ mode_sum(weights, rates, j), alpha)
    kernel = fractional_kernel(alpha, 1000) if method == "gl" else (j + 1) ** -alpha
    (expected,) = torch.autograd.grad(probe @ kernel, alpha)
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=0)


def test_gradient_of_the_weights_is_finite_and_changes_no_value() -> None:
    alpha = number(0.6, grad=True)
    weights, rates = power_law_modes(alpha)
    weights.sum().backward()
    assert alpha.grad is not None
    assert torch.isfinite(alpha.grad)
    assert not rates.requires_grad
    torch.testing.assert_close(weights.detach(), power_law_modes(number(0.6))[0], rtol=0, atol=0)


@pytest.mark.parametrize("alpha", [-0.1, 1.0, math.nan])
def test_exponents_out_of_range_are_refused_in_words(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha needs 0 <= alpha < 1"):
        fractional_kernel(alpha, 4)
    with pytest.raises(ValueError, match="alpha needs 0 < alpha < 1"):
        power_law_modes(alpha)


def test_a_constant_has_no_modes() -> None:
    with pytest.raises(ValueError, match=r"alpha needs 0 < alpha < 1, got 0\.0"):
        power_law_modes(0.0)


def test_other_wrong_arguments_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"method needs to be 'gl' .* got 'GL'"):
        fractional_kernel(0.5, 4, "GL")
    with pytest.raises(ValueError, match="length needs to be an integer >= 1, got 0"):
        fractional_kernel(0.5, 0)
    with pytest.raises(ValueError, match="n_modes needs to be an integer >= 1"):
        power_law_modes(0.5, 0)
    with pytest.raises(ValueError, match="horizon needs to be an integer >= 1"):
        power_law_modes(0.5, 4, 0)
    with pytest.raises(ValueError, match=r"alpha needs 0 axes \(one number\)"):
        fractional_kernel(torch.full((2,), 0.5), 4)
    with pytest.raises(TypeError, match="alpha needs a floating-point dtype"):
        power_law_modes(torch.tensor(0))
