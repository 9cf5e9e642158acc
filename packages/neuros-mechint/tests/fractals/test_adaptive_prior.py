"""Objective on the exponent of latents with a learned target."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from neuros_mechint.fractals import AdaptiveFractalPrior, SpectralPrior


def white(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def descend(prior: AdaptiveFractalPrior, x: Tensor, steps: int = 80) -> None:
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.2)
    for _ in range(steps):
        optimizer.zero_grad()
        prior(x).backward()
        optimizer.step()


def exponents(x: Tensor, *, steep: bool) -> Tensor:
    """Exponents as `SpectralPrior` has them: the root of its penalty for a target far below."""
    far = 1.5 if steep else -20.0
    if steep:
        # The difference is measured above 1 only, so the sign comes from a second target.
        near, farther = (
            SpectralPrior(target_beta=t, weight=1.0, reduction="none")(x) for t in (far, far + 1)
        )
        return far + (near - farther + 1) / 2
    return far + SpectralPrior(target_beta=far, weight=1.0, reduction="none")(x).sqrt()


def test_the_value_is_the_gaussian_likelihood_of_the_exponents() -> None:
    x = white(3, 256, 2)
    prior = AdaptiveFractalPrior(init_beta=0.8, prior_weight=0.5, weight=2.0, reduction="none")
    with torch.no_grad():
        prior.position.fill_(-2.0)
        prior.log_variance.fill_(-1.0)
    # Cramer-Rao bound of bins 4 to 102.
    z = np.log(np.arange(4, 103))
    variance = np.exp(-1.0) + 1 / np.square(z - z.mean()).sum()
    beta = 3 / (1 + np.exp(2.0))
    gap = (exponents(x, steep=False) - beta).square()
    expected = gap / (2 * variance) + np.log(variance) / 2 + 0.5 * (beta - 0.8) ** 2
    torch.testing.assert_close(prior(x), 2 * expected, rtol=1e-6, atol=1e-6)
    prior.reduction = "mean"
    torch.testing.assert_close(prior(x), 2 * expected.mean(), rtol=1e-6, atol=1e-6)


def test_a_fixed_variance_is_a_plain_square() -> None:
    x = white(3, 256, 2)
    prior = AdaptiveFractalPrior(log_var=False, prior_weight=0.0, weight=1.0)
    assert [name for name, _ in prior.named_parameters()] == ["position"]
    torch.testing.assert_close(prior(x), SpectralPrior(target_beta=1.0, weight=0.5)(x))


@pytest.mark.parametrize("beta", [0.4, 1.0, 2.5])
def test_a_free_target_converges_to_the_exponent_of_the_data(
    power_law_noise: Callable[..., np.ndarray], beta: float
) -> None:
    x = torch.from_numpy(power_law_noise(1024, beta, 16, seed=0))[..., None]
    prior = AdaptiveFractalPrior(init_beta=1.5, prior_weight=0.0, weight=1.0)
    descend(prior, x)
    assert prior.beta.item() == pytest.approx(beta, abs=0.1)


@pytest.mark.parametrize("log_var", [True, False])
def test_a_held_target_rests_between_its_first_value_and_the_data(
    power_law_noise: Callable[..., np.ndarray], *, log_var: bool
) -> None:
    x = torch.from_numpy(power_law_noise(512, 2.0, 8, seed=0))[..., None]
    held = AdaptiveFractalPrior(init_beta=1.2, prior_weight=2.0, log_var=log_var, weight=1.0)
    descend(held, x, 150)
    z = np.log(np.arange(4, 205))
    floor = 1 / np.square(z - z.mean()).sum()
    v = held.log_variance.exp().item() + floor if log_var else 1.0
    data = exponents(x, steep=True).mean().item()
    assert 1.25 < held.beta.item() < data - 0.01
    rest = (data + 2 * 2.0 * v * 1.2) / (1 + 2 * 2.0 * v)
    assert held.beta.item() == pytest.approx(rest, abs=0.01)


def test_the_target_stays_within_its_bounds() -> None:
    prior = AdaptiveFractalPrior(bounds=(0.5, 1.5), prior_weight=0.0, weight=1.0)
    walk = white(8, 256, 1).cumsum(1)
    optimizer = torch.optim.SGD(prior.parameters(), lr=1e4)
    for _ in range(3):
        optimizer.zero_grad()
        prior(walk).backward()
        optimizer.step()
        assert 0.5 <= prior.beta.item() <= 1.5
    assert prior.beta.item() > 1.4


def test_the_likelihood_of_latents_trained_along_is_bounded() -> None:
    x = white(4, 256, 2).requires_grad_()
    prior = AdaptiveFractalPrior(weight=1.0, prior_weight=0.0)
    optimizer = torch.optim.Adam([x, *prior.parameters()], lr=0.1)
    for _ in range(80):
        optimizer.zero_grad()
        value = prior(x)
        value.backward()
        optimizer.step()
    z = np.log(np.arange(4, 103))
    bound = -0.5 * np.log(np.square(z - z.mean()).sum())
    assert bound < value.item() < 0.6 * bound


@pytest.mark.parametrize("log_var", [True, False])
def test_the_gradient_passes_gradcheck(*, log_var: bool) -> None:
    x = white(1, 40, 2).requires_grad_()
    # Off the target 1, where the measured spectrum changes.
    prior = AdaptiveFractalPrior(init_beta=0.8, weight=1.0, log_var=log_var).double()
    assert torch.autograd.gradcheck(prior, (x,))
    leaves = tuple(p.detach().requires_grad_() for p in prior.parameters())
    names = [name for name, _ in prior.named_parameters()]

    def of_parameters(*values: Tensor) -> Tensor:
        return torch.func.functional_call(prior, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(of_parameters, leaves)


def test_unit_and_offset_do_not_matter() -> None:
    x = white(3, 200, 2)
    prior = AdaptiveFractalPrior(weight=1.0)
    torch.testing.assert_close(prior(1e12 * x - 5e14), prior(x), rtol=1e-6, atol=0)


def test_a_constant_channel_adds_nothing_and_has_no_gradient() -> None:
    x = white(2, 100, 3)
    x[:, :, 1] = 0.3
    x.requires_grad_()
    value = AdaptiveFractalPrior(weight=1.0, reduction="none")(x)
    assert (value[:, 1] == 0).all()
    (gradient,) = torch.autograd.grad(value.mean(), x)
    assert gradient.isfinite().all()
    assert (gradient[..., 1] == 0).all()
    assert (gradient[..., 0] != 0).any()


def test_weight_zero_is_exactly_zero_without_a_graph() -> None:
    x = torch.full((2, 100, 3), float("nan"), requires_grad=True)
    for reduction, shape in (("mean", ()), ("none", (2, 3))):
        zero = AdaptiveFractalPrior(weight=0.0, reduction=reduction)(x)
        assert zero.shape == shape
        assert (zero == 0).all()
        assert zero.grad_fn is None


def test_the_prior_is_an_objective_on_latents() -> None:
    prior = AdaptiveFractalPrior(weight=0.3)
    assert (prior.name, prior.reads, prior.weight) == ("adaptive_fractal_prior", "latents", 0.3)
    assert repr(prior) == (
        "AdaptiveFractalPrior(init_beta=1.0, bounds=(0.0, 3.0), prior_weight=0.1, log_var=True, "
        "weight=0.3, freq_range=None, fs=1.0, reduction='mean')"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_beta": 3.0}, "strictly between finite bounds, got 3.0"),
        ({"bounds": (0.0, float("inf"))}, "finite bounds"),
        ({"weight": -1.0}, "weight must be finite and at least 0, got -1.0"),
        ({"prior_weight": -1.0}, "prior_weight must be finite and at least 0, got -1.0"),
        ({"reduction": "sum"}, "reduction"),
        ({"fs": 0.0}, "fs must be a positive rate"),
        ({"freq_range": (0.2, 0.1)}, "0 < low < high"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        AdaptiveFractalPrior(**options)


def test_bad_latents_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(batch, time, channel\), got \(100, 3\)"):
        AdaptiveFractalPrior()(torch.zeros(100, 3))
    with pytest.raises(ValueError, match="at least 8 frequencies"):
        AdaptiveFractalPrior()(torch.zeros(2, 10, 3))
