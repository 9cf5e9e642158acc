import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuros_neurofm.ops._fft_conv import _fft_length, causal_fft_conv


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def direct(x: Tensor, k: Tensor) -> Tensor:
    """Sum of the shifted inputs; time is axis 1, `k` is (lag,) or (lag, channel)."""
    k = k.reshape(k.shape[0], -1)
    y = torch.zeros_like(x)
    for j in range(min(k.shape[0], x.shape[1])):
        y[:, j:] += k[j] * x[:, : x.shape[1] - j]
    return y


@settings(max_examples=30, derandomize=True, deadline=None)
@given(length=st.integers(1, 40), lags=st.integers(1, 50), seed=st.integers(0, 99))
def test_output_is_the_direct_sum(length: int, lags: int, seed: int) -> None:
    x, k = draw(2, length, 3, seed=seed), draw(lags, seed=seed + 1)
    expected = direct(x, k)
    torch.testing.assert_close(causal_fft_conv(x, k), expected, atol=1e-11, rtol=1e-11)
    # Relative to the largest output: single outputs may cancel.
    error = (causal_fft_conv(x.float(), k.float()) - expected).abs().max()
    assert error <= 1e-5 * expected.abs().max()


def test_long_series_in_float32_is_the_direct_sum() -> None:
    x, k = draw(1, 2048, 2), draw(2048, seed=1)
    expected = direct(x, k)
    error = (causal_fft_conv(x.float(), k.float()) - expected).abs().max()
    assert error <= 1e-5 * expected.abs().max()


def test_every_series_may_have_its_own_kernel() -> None:
    x, k = draw(2, 9, 3), draw(9, 3, seed=1)
    torch.testing.assert_close(causal_fft_conv(x, k[None]), direct(x, k))


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_time_may_be_any_axis(dim: int) -> None:
    x, k = draw(5, 7, 4), draw(3, seed=1)
    expected = direct(x.movedim(dim, 0).reshape(1, x.shape[dim], -1), k)
    y = causal_fft_conv(x, k, dim)
    torch.testing.assert_close(y.movedim(dim, 0).reshape(expected.shape), expected)


def test_first_output_depends_on_the_first_input_only() -> None:
    x, k = draw(1, 16, 1), draw(16, seed=1)
    gradient = torch.func.jacrev(lambda v: causal_fft_conv(v, k)[0, 0, 0])(x).flatten()
    torch.testing.assert_close(gradient[0], k[0])
    torch.testing.assert_close(gradient[1:], torch.zeros(15, dtype=torch.float64))


@pytest.mark.parametrize("lags", [1, 4, 9])
def test_gradcheck_of_both_inputs(lags: int) -> None:
    x, k = draw(2, 6, 2).requires_grad_(), draw(lags, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(causal_fft_conv, (x, k))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_output_has_the_dtype_of_the_input_and_the_accuracy_of_float32(dtype: torch.dtype) -> None:
    x, k = draw(2, 50, 3).to(dtype), draw(50, seed=1).to(dtype)
    y = causal_fft_conv(x, k)
    assert y.dtype == dtype
    expected = direct(x.double(), k.double())
    rounding = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert (y.double() - expected).abs().max() <= max(rounding, 1e-12) * expected.abs().max()


def test_autocast_does_not_change_the_output() -> None:
    x, k = draw(2, 50, 3).float(), draw(50, seed=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = causal_fft_conv(x, k)
    torch.testing.assert_close(y, causal_fft_conv(x, k), atol=0, rtol=0)


def test_empty_series_give_an_empty_output() -> None:
    assert causal_fft_conv(torch.empty(2, 0, 3), torch.ones(4)).shape == (2, 0, 3)


def test_transform_lengths_hold_the_series_and_waste_little() -> None:
    for needed in range(1, 2_000):
        n = _fft_length(needed)
        # 4 -> 5 -> 6 -> 8: the largest step is by 4/3.
        assert needed <= n <= max(needed, needed * 4 / 3)
    assert [_fft_length(n) for n in (1, 4, 7, 9, 11, 4097)] == [1, 4, 8, 10, 12, 5120]


def test_wrong_shapes_are_refused_in_words() -> None:
    x = torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match="dim needs to be an axis of x, which has 3, got 3"):
        causal_fft_conv(x, torch.ones(2), 3)
    with pytest.raises(ValueError, match=r"k needs 3 axes \(lag,\) or those of x"):
        causal_fft_conv(x, torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"k needs at least one lag .* got \(1, 5, 2\)"):
        causal_fft_conv(x, torch.ones(1, 5, 2))
    with pytest.raises(ValueError, match="k needs at least one lag"):
        causal_fft_conv(x, torch.ones(0))


def test_integer_tensors_are_refused_in_words() -> None:
    with pytest.raises(TypeError, match="x needs a floating-point dtype"):
        causal_fft_conv(torch.ones(2, 5, 3, dtype=torch.int64), torch.ones(2))
    with pytest.raises(TypeError, match="k needs a floating-point dtype"):
        causal_fft_conv(torch.ones(2, 5, 3), torch.ones(2, dtype=torch.int64))
