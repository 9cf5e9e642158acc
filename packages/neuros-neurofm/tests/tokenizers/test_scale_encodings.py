"""Wavelet scattering against its formulas, and the encoding of scales that tokens can carry."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuros_neurofm.tokenizers import LFPTokenizer, Tokens, scale_encodings
from neuros_neurofm.tokenizers._scattering_filters import gaussian, morlet, wavelets
from neuros_neurofm.tokenizers.scale_encodings import ScaleEncoding, WaveletScattering

few = settings(max_examples=20, derandomize=True, deadline=None)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def order(scattering: WaveletScattering) -> Tensor:
    return (~scattering.frequencies.isnan()).sum(1)


def directly(x: Tensor, scattering: WaveletScattering) -> Tensor:
    """The formulas on a periodic signal, every step at full resolution."""
    n, J, T = x.shape[-1], scattering.J, scattering.T
    low = torch.from_numpy(gaussian(n, 0.1 / T))
    first, second = wavelets(J, scattering.Q), wavelets(J, 1)

    def filtered(u: Tensor, response: Tensor) -> Tensor:
        return torch.fft.ifft(torch.fft.fft(u) * response)

    def averaged(u: Tensor) -> Tensor:
        return filtered(u, low).real[..., :: 2 ** int(math.log2(T))]

    u1 = [filtered(x, torch.from_numpy(morlet(n, w.xi, w.sigma))).abs() for w in first]
    u2 = [
        filtered(u, torch.from_numpy(morlet(n, w.xi, w.sigma))).abs()
        for v, u in zip(first, u1, strict=True)
        for w in second
        if w.j > v.j
    ]
    return torch.stack([averaged(u) for u in [x, *u1, *u2]])


@pytest.mark.parametrize(("J", "Q", "T"), [(4, 4, None), (5, 1, 8), (3, 8, 12), (4, 8, 1)])
@pytest.mark.parametrize("n", [2048, 8192])
def test_coefficients_over_their_gains_are_the_formulas(
    J: int, Q: int, T: int | None, n: int
) -> None:
    scattering = WaveletScattering(J, Q=Q, T=T)
    # Even about both ends: reflection and periodic continuation then agree.
    half = noise(n // 2 + 1)
    whole = torch.cat([half, half[1:-1].flip(0)])
    ours = scattering(whole) / scattering.gains[:, None]
    truth = directly(whole, scattering)
    # The two continuations differ past the ends, so outputs within reach of the ends are left out.
    # What stays is what subsampling folds: 4e-6 of a wavelet's peak, 1e-3 of a modulus.
    step = 2 ** int(math.log2(scattering.T))
    inner = slice(12 * 2**J // step, (n - 24 * 2**J) // step)
    assert inner.stop - inner.start > 10
    assert float((ours - truth)[:, inner].abs().max()) < 2e-3 * float(truth.abs().max())


@pytest.mark.parametrize("index", [2, 9, 14, 20])
def test_a_cosine_at_the_centre_of_a_wavelet_gives_one_half(index: int) -> None:
    scattering = WaveletScattering(6, Q=4)
    f = scattering.frequencies[index, 0]
    S = scattering(torch.cos(2 * torch.pi * f * torch.arange(4096)))[:, 16:48]
    S = S / scattering.gains[:, None]
    # An analytic wavelet of unit gain halves a cosine; its own negative side adds 1e-3.
    torch.testing.assert_close(S[index], torch.full_like(S[index], 0.5), atol=4e-3, rtol=0)
    assert int(S[order(scattering) == 1].mean(1).argmax()) == index - 1


def test_the_second_order_measures_the_depth_of_a_modulation() -> None:
    scattering = WaveletScattering(9, Q=1)
    frequencies = scattering.frequencies
    carrier, slow = frequencies[1, 0], frequencies[6, 0]
    path = int(((frequencies[:, 0] == carrier) & (frequencies[:, 1] == slow)).nonzero())
    t = torch.arange(2**14, dtype=torch.float64)
    x = (1 + 0.5 * torch.cos(2 * torch.pi * slow * t)) * torch.cos(2 * torch.pi * carrier * t)
    S = scattering(x)[:, 8:24] / scattering.gains[:, None]
    # |x * psi1| = (1 + cos / 2) / 2; the second wavelet halves the cosine of amplitude 1 / 4.
    assert float(S[path].mean()) == pytest.approx(0.125, rel=0.03)
    same = frequencies[:, 0] == carrier
    assert int(S.mean(1).where(same & (order(scattering) == 2), 0.0).argmax()) == path


def test_a_constant_is_all_in_order_zero() -> None:
    scattering = WaveletScattering(4)
    S = scattering(torch.full((500,), -3.0, dtype=torch.float64))
    torch.testing.assert_close(S[0], torch.full_like(S[0], -3.0))
    assert float(S[1:].abs().max()) < 1e-12


def test_a_shift_by_whole_outputs_shifts_the_coefficients() -> None:
    scattering, x = WaveletScattering(4, Q=4), torch.zeros(2048, dtype=torch.float64)
    x[900:1100] = noise(200)
    a, b = scattering(x), scattering(x.roll(5 * 16))
    torch.testing.assert_close(a[:, 20:100], b[:, 25:105], atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("n", [1024, 1040, 1100])
def test_the_interior_does_not_know_of_the_ends(n: int) -> None:
    # 1040 samples give 65 outputs, one more than a matrix product of the average holds.
    scattering, x = WaveletScattering(4, Q=2), noise(4096)
    # The pieces start where their outputs fall on outputs of the whole.
    start = 1024 - int(scattering.times(n)[0])
    part, whole = scattering(x[start : start + n]), scattering(x)
    inner = slice(24, part.shape[1] - 24)
    expected = whole[:, 64 : 64 + part.shape[1]][:, inner]
    torch.testing.assert_close(part[:, inner], expected, atol=1e-9, rtol=1e-6)


def test_a_bank_too_short_for_its_wavelets_has_all_of_them_at_the_narrowest_width() -> None:
    bank = wavelets(1, 8)
    assert [w.sigma for w in bank] == [0.05] * 7
    assert torch.isfinite(WaveletScattering(1)(noise(30))).all()


def test_a_shift_far_below_the_scale_hardly_changes_the_coefficients() -> None:
    scattering, x = WaveletScattering(7, Q=4), noise(4096)
    moved = float((scattering(x.roll(2)) - scattering(x)).norm() / scattering(x).norm())
    assert moved < 0.15
    assert moved < 0.15 * float((x.roll(2) - x).norm() / x.norm())


@pytest.mark.parametrize("n", [256, 300, 777, 1000])
def test_outputs_are_centred_at_their_times(n: int) -> None:
    scattering = WaveletScattering(4, Q=1, order=1)
    times = scattering.times(n)
    assert (times.diff() == 16).all()
    assert 0 <= int(times[0]) < 16
    for at in (n // 3, n // 2):
        x = torch.zeros(n, dtype=torch.float64)
        x[at] = 1.0
        low = scattering(x)[0]
        assert times.shape == low.shape
        assert float((low * times).sum() / low.sum()) == pytest.approx(at, abs=0.2)


@pytest.mark.parametrize(("J", "Q"), [(1, 1), (2, 2), (3, 8), (6, 8), (8, 16)])
def test_the_filter_bank_never_amplifies(J: int, Q: int) -> None:
    n = 4096
    total = gaussian(n, 0.1 / 2**J) ** 2
    for w in wavelets(J, Q):
        power = morlet(n, w.xi, w.sigma) ** 2
        total += (power + np.roll(power[::-1], 1)) / 2
    assert total.max() <= 1 + 1e-12


@few
@given(
    J=st.integers(3, 5),
    Q=st.sampled_from([1, 3, 8]),
    n=st.integers(32, 200),
    kind=st.sampled_from(["noise", "impulse", "step", "edge"]),
    seed=st.integers(0, 99),
)
def test_scattering_is_non_expansive(J: int, Q: int, n: int, kind: str, seed: int) -> None:
    x = noise(n, seed=seed)
    change = {
        "noise": noise(n, seed=seed + 1),
        "impulse": torch.eye(n, dtype=torch.float64)[seed % n],
        "step": (torch.arange(n) < seed).double(),
        "edge": torch.eye(n, dtype=torch.float64)[1],
    }[kind]
    scattering = WaveletScattering(J, Q=Q)
    moved = (scattering(x + change) - scattering(x)).norm()
    assert float(moved) <= float(change.norm()) * (1 + 1e-12)


@few
@given(a=st.floats(1e-6, 1e6), n=st.integers(16, 300))
def test_coefficients_scale_with_the_signal_and_ignore_its_sign(a: float, n: int) -> None:
    scattering, x = WaveletScattering(4, Q=2), noise(n)
    S = scattering(x)
    torch.testing.assert_close(scattering(a * x), a * S, rtol=1e-9, atol=a * 1e-12)
    torch.testing.assert_close(scattering(-x)[1:], S[1:], rtol=1e-9, atol=1e-12)
    assert float(S[1:].min()) > -1e-12


@pytest.mark.parametrize("q", [1, 4, 8])
@pytest.mark.parametrize("depth", [1, 2])
def test_paths_are_ordered_by_first_then_second_frequency(q: int, depth: int) -> None:
    scattering = WaveletScattering(6, Q=q, order=depth)
    frequencies, orders = scattering.frequencies, order(scattering)
    assert scattering(noise(64)).shape[0] == frequencies.shape[0] == scattering.gains.shape[0]
    assert orders.tolist() == sorted(orders.tolist())
    assert set(orders.tolist()) == set(range(depth + 1))
    first = frequencies[orders == 1, 0]
    assert (first.diff() < 0).all()
    pairs = frequencies[orders == 2].tolist()
    assert all(b < a for a, b in pairwise((-v, w) for v, w in pairs)) or all(
        (-a[0], -a[1]) < (-b[0], -b[1]) for a, b in pairwise(pairs)
    )
    assert all(w < v for v, w in pairs)


def test_rows_do_not_know_of_each_other_and_axes_are_free() -> None:
    scattering, x = WaveletScattering(4), noise(3, 12, 2000)
    whole = scattering(x)
    assert whole.shape == (3, 12, scattering.gains.shape[0], 125)
    torch.testing.assert_close(whole[2, 7], scattering(x[2, 7]))
    strided = scattering(x.movedim(-1, 0).contiguous().movedim(0, -1))
    torch.testing.assert_close(whole, strided)
    assert scattering(x[:0]).shape == (0, 12, scattering.gains.shape[0], 125)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_follows_the_input(dtype: torch.dtype) -> None:
    scattering, x = WaveletScattering(3, Q=2), noise(2, 100)
    S = scattering(x.to(dtype))
    assert S.dtype == dtype
    close = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 2e-2)
    torch.testing.assert_close(S.double(), scattering(x), atol=close, rtol=close)


def test_autocast_does_not_touch_the_averages() -> None:
    scattering, x = WaveletScattering(3), noise(2, 100, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = scattering(x)
    assert torch.equal(inside, scattering(x))


def test_gradients_are_those_of_finite_differences() -> None:
    scattering = WaveletScattering(2, Q=1)
    x = noise(2, 9).requires_grad_()
    assert torch.autograd.gradcheck(scattering, x)


def test_the_gradient_of_silence_is_finite() -> None:
    x = torch.zeros(2, 64, requires_grad=True)
    WaveletScattering(4)(x).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_filters_made_under_inference_mode_can_train_and_few_lengths_are_kept() -> None:
    scattering = WaveletScattering(2, Q=1)
    with torch.inference_mode():
        scattering(noise(20))
    x = noise(20).requires_grad_()
    scattering(x).square().sum().backward()
    assert x.grad is not None
    for n in range(20, 30):
        scattering(noise(n))
    assert len(scattering._plans) == 4
    assert not scattering.state_dict()
    torch.testing.assert_close(copy.deepcopy(scattering)(noise(20)), scattering(noise(20)))


def test_repr_names_the_arguments() -> None:
    assert repr(WaveletScattering(4, Q=2)) == "WaveletScattering(4, Q=2, T=16, order=2)"
    assert "patch=10 samples" in repr(ScaleEncoding(4, 3, patch=10))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"J": 0}, ValueError, "J must be >= 1, got 0"),
        ({"J": 2, "Q": 0}, ValueError, "Q must be >= 1, got 0"),
        ({"J": 2, "T": 0}, ValueError, "T must be >= 1, got 0"),
        ({"J": True}, TypeError, "J must be an int, got True"),
        ({"J": 2, "order": 3}, ValueError, "order must be 1 or 2, got 3"),
    ],
)
def test_arguments_are_checked(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        WaveletScattering(**arguments)


def test_signals_are_checked() -> None:
    scattering = WaveletScattering(4)
    with pytest.raises(
        ValueError, match=r"at least max\(2\^J, T\) = 16 samples .* got 15; lower J"
    ):
        scattering(noise(2, 15))
    with pytest.raises(ValueError, match="= 40 samples"):
        WaveletScattering(4, T=40).times(39)
    with pytest.raises(TypeError, match=r"real floating-point tensor .* got torch\.int64"):
        scattering(torch.arange(16))
    with pytest.raises(TypeError, match=r"got torch\.complex64"):
        scattering(torch.zeros(16, dtype=torch.complex64))
    with pytest.raises(ValueError, match="got a scalar"):
        scattering(torch.tensor(1.0))
    bad = noise(2, 30)
    bad[0, 3], bad[1, 4] = math.nan, math.inf
    with pytest.raises(ValueError, match="x has 2 NaN or infinite values; fill or cut"):
        scattering(bad)
    assert scattering(noise(16)).shape[-1] == 1


# ScaleEncoding


def encoding(d_model: int = 6, J: int = 3, **options: int) -> ScaleEncoding:
    torch.manual_seed(0)
    return ScaleEncoding(d_model, J, Q=2, **options).double().eval()


@pytest.mark.parametrize("patch", [None, 1, 5, 8, 50])
@pytest.mark.parametrize("n", [8, 50, 133])
def test_one_vector_per_patch_as_many_as_a_tokenizer_gives(patch: int | None, n: int) -> None:
    module = encoding(**({} if patch is None else {"patch": patch}))
    values = module(noise(2, n, 3))
    assert values.shape == (2, math.ceil(n / (patch or 8)), 6)
    assert torch.isfinite(values).all()


def test_at_the_time_of_an_output_the_encoding_is_the_projected_logarithm() -> None:
    module, x = encoding(patch=1), noise(1, 100, 1)
    z = (x - x.mean(1)) / x.std(1, correction=0)
    S = module.scattering(z[0, :, 0]) / module.scattering.gains[:, None]
    log = S.sign() * S.abs().log1p()
    at = module.scattering.times(100)
    torch.testing.assert_close(module(x)[0, at], module.project(log.T))
    between = module.project(0.75 * log[:, 3] + 0.25 * log[:, 4])
    torch.testing.assert_close(module(x)[0, at[3] + 2], between)


def test_a_patch_is_the_mean_over_its_samples() -> None:
    fine, coarse, x = encoding(patch=1), encoding(patch=7), noise(2, 66, 2)
    coarse.load_state_dict(fine.state_dict())
    means = torch.stack([part.mean(1) for part in fine(x).split(7, dim=1)], dim=1)
    torch.testing.assert_close(coarse(x), means)


def test_the_order_of_channels_and_masked_channels_do_not_matter() -> None:
    module, x = encoding(patch=5), noise(2, 60, 4)
    torch.testing.assert_close(module(x), module(x[..., [2, 0, 3, 1]]))
    wide = torch.cat([x, torch.full((2, 60, 2), math.nan)], dim=-1)
    mask = torch.tensor([True] * 4 + [False] * 2).view(1, 1, 6)
    torch.testing.assert_close(module(x), module(wide, mask=mask))


def test_units_and_offsets_of_a_channel_do_not_matter() -> None:
    module, x = encoding(patch=5), noise(2, 60, 3)
    torch.testing.assert_close(module(x), module(3e-6 * x + 2.0), rtol=1e-6, atol=1e-6)
    volts = ScaleEncoding(6, 3, patch=5)
    quiet = volts((1e-25 * x).float())
    torch.testing.assert_close(quiet, volts(x.float()), rtol=1e-4, atol=1e-5)


def test_rows_and_patches_without_samples_are_zero_and_finite() -> None:
    module, x = encoding(patch=10), noise(2, 60, 3).requires_grad_()
    mask = torch.ones(2, 60, 3, dtype=torch.bool)
    mask[1] = False
    mask[0, 20:40] = False
    values = module(x, mask=mask)
    zero = (values == 0).all(-1)
    assert zero.tolist() == [[False, False, True, True, False, False], [True] * 6]
    values.square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(module(torch.ones(1, 60, 2, dtype=torch.float64))).all()


def test_it_is_added_to_the_tokens_of_a_tokenizer() -> None:
    x = noise(2, 330, 3, dtype=torch.float32)
    tokens = LFPTokenizer(16, sampling_rate=1000.0)(x)
    module = ScaleEncoding(16, 5, patch=50)
    added = module.add_to(tokens, x)
    assert isinstance(added, Tokens)
    torch.testing.assert_close(added.values - tokens.values, module(x), atol=1e-5, rtol=1e-4)
    assert torch.equal(added.mask, tokens.mask)
    with pytest.raises(ValueError, match=r"tokens have shape \(2, 7, 16\), their encoding \(2, 11"):
        ScaleEncoding(16, 5).add_to(tokens, x)


def test_it_looks_ahead_as_its_documentation_says() -> None:
    module, x = encoding(patch=8), noise(1, 128, 1)
    later = x.clone()
    later[:, 64:] *= 3
    assert not torch.allclose(module(x)[:, 7], module(later)[:, 7])
    assert "not causal" in (ScaleEncoding.__doc__ or "").replace("**", "")


def test_arguments_of_the_encoding_are_checked() -> None:
    for arguments in ({"d_model": 0, "J": 3}, {"d_model": 4, "J": 3, "patch": 0}):
        with pytest.raises(ValueError, match="d_model and patch must be >= 1"):
            ScaleEncoding(**arguments)
    with pytest.raises(ValueError, match="scale encoding: x must have 3 axes"):
        encoding()(noise(2, 30))
    with pytest.raises(ValueError, match=r"= 8 samples .* got 7"):
        encoding()(noise(2, 7, 1))


def test_public_names_are_sorted() -> None:
    assert scale_encodings.__all__ == sorted(scale_encodings.__all__)
