"""Current source density: matrices by quadrature, known currents, batches, gradients, errors."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.interpolate import CubicSpline
from torch import Tensor

from neuros_mechint.multiscale import CurrentSourceDensity
from neuros_mechint.multiscale import _csd_matrices as matrices

H, DIAMETER, SIGMA, N = 1e-4, 5e-4, 0.3, 24
INVERSES = ("delta", "step", "spline")


def disc(u: float, radius: float) -> float:
    return math.sqrt(u * u + radius**2) - abs(u)


def forward(places: np.ndarray, seed: int, n_times: int) -> tuple[Tensor, Tensor]:
    """Currents of four Gaussians inside the probe, and their potentials by quadrature."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0.3e-3 + 0.4e-3, 2.0e-3 - 0.4e-3, (n_times, 4))
    width = rng.uniform(1.5e-4, 2.2e-4, (n_times, 4))
    size = rng.standard_normal((n_times, 4))

    def currents(z: np.ndarray) -> np.ndarray:
        return (size * np.exp(-0.5 * ((z[:, None, None] - centre) / width) ** 2)).sum(-1)

    fine = np.arange(-1.5e-3, 3.8e-3, 1e-6)
    u = np.abs(places[:, None] - fine)
    kernel = (np.hypot(u, DIAMETER / 2) - u) * 1e-6 / (2 * SIGMA)
    return torch.from_numpy(currents(places)), torch.from_numpy(kernel @ currents(fine))


@pytest.fixture(scope="module")
def known() -> tuple[Tensor, Tensor]:
    return forward(H * np.arange(N), 0, 100)


def error(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


def estimate(method: str, lfp: Tensor) -> Tensor:
    return CurrentSourceDensity(method, sigma=SIGMA, diameter=DIAMETER).compute_csd(lfp, H)


@pytest.mark.parametrize("radius", [0.4, 2.5])
def test_step_matrix_is_its_integral(radius: float) -> None:
    found = matrices.step(6, radius)
    for j in range(6):
        # The kink of |u| lies at 0: the integral is cut there.
        expected = sum(
            quad(disc, a, b, args=(radius,), epsabs=1e-14)[0]
            for a, b in [(j - 0.5, max(j - 0.5, 0)), (max(j - 0.5, 0), j + 0.5)]
        )
        assert found[0, j] == pytest.approx(expected, abs=1e-13)
        assert found[j, 0] == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("radius", [0.4, 2.5])
def test_spline_matrix_is_the_integral_of_a_natural_spline(radius: float) -> None:
    n = 4
    found = matrices.spline(n, radius)
    for k in range(n):
        curve = CubicSpline(np.arange(n + 2), np.eye(n + 2)[k + 1], bc_type="natural")
        for j in range(n):
            expected = sum(
                quad(
                    lambda s, j=j, curve=curve: curve(s) * disc(j + 1 - s, radius),
                    a,
                    a + 1,
                    epsabs=1e-13,
                )[0]
                for a in range(n + 1)
            )
            assert found[j, k] == pytest.approx(expected, abs=1e-12)


def test_a_long_probe_keeps_its_digits() -> None:
    """Constant currents on 384 electrodes: what the spline gives is the integral of its curve."""
    n, radius = 384, 12.5
    curve = CubicSpline(np.arange(n + 2), np.r_[0, np.ones(n), 0], bc_type="natural")
    nodes, weights = np.polynomial.legendre.leggauss(12)
    s = (np.arange(n + 1)[:, None] + 0.5 * (nodes + 1)).ravel()
    u = np.abs(100 - s)
    expected = float((np.tile(weights / 2, n + 1) * curve(s) * (np.hypot(u, radius) - u)).sum())
    # Powers of distances up to 384 leave 8 of 16 digits.
    assert matrices.spline(n, radius)[99].sum() == pytest.approx(expected, rel=1e-8)


def test_delta_matrix_is_that_of_the_formula() -> None:
    lfp = torch.eye(5, dtype=torch.float64)
    weights = CurrentSourceDensity("delta", sigma=0.2, diameter=3e-4).compute_csd(lfp, 5e-5)
    z = 5e-5 * np.arange(5)
    u = np.abs(z[:, None] - z)
    expected = 5e-5 / (2 * 0.2) * (np.sqrt(u**2 + 1.5e-4**2) - u)
    np.testing.assert_allclose(weights.numpy() @ expected, np.eye(5), atol=1e-12)


def test_standard_is_the_second_difference() -> None:
    lfp = torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inner = -0.4 * (lfp[:, 2:] - 2 * lfp[:, 1:-1] + lfp[:, :-2]) / 1e-8
    valid = CurrentSourceDensity(sigma=0.4, edges="valid").compute_csd(lfp, 1e-4)
    torch.testing.assert_close(valid, inner, rtol=1e-12, atol=1e-4)
    whole = CurrentSourceDensity(sigma=0.4).compute_csd(lfp, 1e-4)
    torch.testing.assert_close(whole[:, 1:-1], inner, rtol=1e-12, atol=1e-4)
    torch.testing.assert_close(
        whole[:, 0], -0.4 * (lfp[:, 1] - lfp[:, 0]) / 1e-8, rtol=1e-12, atol=1e-4
    )


def test_currents_of_finite_width_come_back(known: tuple[Tensor, Tensor]) -> None:
    true, lfp = known
    found = {m: error(estimate(m, lfp), true) for m in ("standard", *INVERSES, "kcsd")}
    bars = {"delta": 0.05, "step": 0.015, "spline": 0.002, "kcsd": 0.002}
    assert all(found[method] <= bar for method, bar in bars.items()), found
    # A second difference takes discs for planes: wrong whatever the sampling.
    assert 0.4 < found["standard"] < 1.0


@pytest.mark.parametrize("noise", [0.01, 0.02, 0.05])
def test_under_noise_the_kernel_has_a_third_of_the_error(
    known: tuple[Tensor, Tensor], noise: float
) -> None:
    true, lfp = known
    draws = torch.randn(lfp.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noisy = lfp + noise * lfp.std() * draws
    kernel, spline = (error(estimate(m, noisy), true) for m in ("kcsd", "spline"))
    assert kernel <= spline / 3
    assert kernel < 0.2


def test_kernel_takes_electrodes_at_any_depths_in_any_order() -> None:
    rng = np.random.default_rng(2)
    places = H * (np.arange(N) + rng.uniform(-0.3, 0.3, N))
    places = places[rng.permutation(N)]
    true, lfp = forward(places, 0, 50)
    found = CurrentSourceDensity("kcsd", positions=places).compute_csd(lfp)
    assert error(found, true) < 0.01


def test_kernel_chooses_as_a_refit_without_each_electrode_does(
    known: tuple[Tensor, Tensor],
) -> None:
    """The closed form of leaving one out, beside leaving one out."""
    lfp = (
        known[1][::2, :5]
        + 1e-3
        * torch.randn(12, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        * known[1].std()
    )
    widths, ridges = np.array([1e-4, 3e-4]), np.array([1e-6, 1e-3, 1e-1])
    errors = np.zeros((2, 3))
    z = 2 * np.arange(12.0) * H
    source = np.linspace(z[0] - 4 * H, z[-1] + 4 * H, 64)
    for i, width in enumerate(widths):
        fine = np.arange(-3e-3, 5.5e-3, 1e-5)
        u = np.abs(z[:, None] - fine)
        shape = np.exp(-0.5 * ((fine - source[:, None]) / width) ** 2)
        b = (np.hypot(u, DIAMETER / 2) - u) @ shape.T
        kernel = b @ b.T
        for j, ridge in enumerate(ridges):
            for out in range(12):
                kept = np.arange(12) != out
                matrix = kernel[np.ix_(kept, kept)] + ridge * np.trace(kernel) / 12 * np.eye(11)
                guess = kernel[out, kept] @ np.linalg.solve(matrix, lfp.numpy()[kept])
                errors[i, j] += ((guess - lfp.numpy()[out]) ** 2).sum()
    best = np.unravel_index(errors.argmin(), errors.shape)
    choice = CurrentSourceDensity("kcsd", widths=widths, ridges=ridges).choose(lfp, 2 * H)
    assert float(choice.width) == pytest.approx(widths[best[0]])
    assert float(choice.ridge) == pytest.approx(ridges[best[1]])
    # The runner-up is far enough for the difference of quadratures not to matter.
    assert np.sort(errors.ravel())[1] > 1.05 * errors.min()


@pytest.mark.parametrize("method", ["standard", *INVERSES, "kcsd"])
def test_a_batch_is_a_loop(method: str) -> None:
    x = torch.randn(2, 3, 12, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x.cumsum(-2)
    x[0] += 10 * torch.linspace(0, 6, 12, dtype=torch.float64).sin()[:, None]
    together = estimate(method, x)
    alone = torch.stack([torch.stack([estimate(method, y) for y in row]) for row in x])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10 * float(alone.abs().max()))


@pytest.mark.parametrize("method", ["standard", *INVERSES, "kcsd"])
def test_the_gradient_is_the_transposed_matrix(method: str) -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # In mV and mm the numbers are of one size, as gradcheck wants.
    csd = CurrentSourceDensity(method, diameter=5.0)
    assert torch.autograd.gradcheck(lambda y: csd.compute_csd(y, 1.0), x.requires_grad_())


@settings(max_examples=20, derandomize=True, deadline=None)
@given(
    method=st.sampled_from(["standard", *INVERSES]),
    scale=st.floats(0.1, 10.0),
    n=st.integers(3, 12),
)
def test_lengths_and_conductivity_only_scale_the_currents(
    method: str, scale: float, n: int
) -> None:
    lfp = torch.eye(n, dtype=torch.float64)
    one = CurrentSourceDensity(method, sigma=1.0, diameter=5.0).compute_csd(lfp, 1.0)
    other = CurrentSourceDensity(method, sigma=scale, diameter=5.0 * scale).compute_csd(lfp, scale)
    torch.testing.assert_close(other * scale, one, rtol=1e-9, atol=1e-9)


def test_the_filter_averages_neighbours() -> None:
    lfp = torch.eye(5, dtype=torch.float64)
    plain = CurrentSourceDensity("delta").compute_csd(lfp, H)
    soft = CurrentSourceDensity("delta", filter_sigma=1.5e-4).compute_csd(lfp, H)
    apart = np.arange(5.0)[:, None] - np.arange(5.0)
    weight = np.exp(-0.5 * (apart / 1.5) ** 2)
    expected = weight / weight.sum(1, keepdims=True) @ plain.numpy()
    np.testing.assert_allclose(soft.numpy(), expected, rtol=1e-10)
    valid = CurrentSourceDensity(edges="valid", filter_sigma=1e-4).compute_csd(lfp, H)
    assert valid.shape == (3, 5)
    kernel = CurrentSourceDensity("kcsd", filter_sigma=1e-4, widths=np.array([1e-4]))
    assert kernel.compute_csd(lfp, H).shape == (5, 5)


@pytest.mark.parametrize("method", ["standard", "spline", "kcsd"])
def test_dtype_and_arrays_are_kept(method: str, known: tuple[Tensor, Tensor]) -> None:
    lfp = known[1][:, :20] / known[1].std()
    exact = estimate(method, lfp)
    single = estimate(method, lfp.float())
    assert single.dtype == torch.float32
    # The inverse amplifies the rounding of the input by its condition, below 100.
    assert error(single.double(), exact) < 1e-4
    half = CurrentSourceDensity(method, diameter=5.0).compute_csd(lfp.half(), 1.0)
    assert half.dtype == torch.float16
    assert torch.equal(estimate(method, lfp), estimate(method, lfp.numpy()))


def test_silence_has_no_currents() -> None:
    lfp = torch.zeros(5, 4)
    for method in ("standard", *INVERSES, "kcsd"):
        assert not estimate(method, lfp).any()


def test_the_constructor_names_bad_arguments() -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"sigma": 0.0}, "sigma must be positive and finite, in S/m, got 0"),
        ({"diameter": -1.0}, "diameter must be positive and finite, in m, got -1"),
        ({"filter_sigma": math.inf}, "filter_sigma must be positive and finite, in m"),
        ({"method": "step", "edges": "valid"}, "edges belong to method 'standard'"),
        ({"positions": np.arange(4.0)}, "positions belong to method 'kcsd'"),
        ({"method": "kcsd", "positions": np.zeros(4)}, "positions must differ"),
        ({"method": "kcsd", "widths": np.zeros(1)}, "widths must be positive, got 0"),
        ({"method": "kcsd", "ridges": np.ones((2, 2))}, "ridges must be one row of numbers"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            CurrentSourceDensity(**arguments)
    with pytest.raises((ValueError, TypeError), match=r"method must be one of|Type-check"):
        CurrentSourceDensity("laplace")


def test_bad_calls_are_named() -> None:
    csd, kernel = CurrentSourceDensity(), CurrentSourceDensity("kcsd", positions=np.arange(4.0))
    with pytest.raises(TypeError, match="lfp must be a floating tensor or array, got torch"):
        csd.compute_csd(torch.ones(4, 5, dtype=torch.int64), H)
    with pytest.raises(ValueError, match="channels >= 3"):
        csd.compute_csd(torch.ones(2, 5), H)
    with pytest.raises(ValueError, match="lfp holds NaN or inf"):
        csd.compute_csd(torch.full((4, 5), math.nan), H)
    with pytest.raises(ValueError, match="electrode_spacing is needed, in m"):
        csd.compute_csd(torch.ones(4, 5))
    with pytest.raises(ValueError, match="electrode_spacing must be positive and finite, in m"):
        csd.compute_csd(torch.ones(4, 5), 0.0)
    with pytest.raises(ValueError, match="give electrode_spacing or positions, not both"):
        kernel.compute_csd(torch.ones(4, 5), H)
    with pytest.raises(ValueError, match="lfp has 5 channels, but there are 4 positions"):
        kernel.compute_csd(torch.ones(5, 5))
    with pytest.raises(ValueError, match="only method 'kcsd' chooses a kernel, got 'standard'"):
        csd.choose(torch.ones(4, 5), H)


def test_repr_says_what_matters() -> None:
    assert repr(CurrentSourceDensity()) == (
        "CurrentSourceDensity('standard', sigma=0.3, edges='vaknin')"
    )
    shown = repr(CurrentSourceDensity("kcsd", positions=np.arange(4.0), filter_sigma=1e-4))
    assert shown == (
        "CurrentSourceDensity('kcsd', sigma=0.3, diameter=0.0005, filter_sigma=0.0001, "
        "positions=(4,))"
    )


def test_one_sample_is_enough_and_nothing_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bool(torch.isfinite(estimate("kcsd", torch.rand(8, 1))).all())
