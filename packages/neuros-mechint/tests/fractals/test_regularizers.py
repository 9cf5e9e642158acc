"""Fractal objectives."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from neuros_mechint.fractals import SpectralPrior, SpectralSlope


def white(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_the_penalty_is_the_squared_distance_of_the_periodogram_slope() -> None:
    x = white(3, 256, 2, dtype=torch.float64)
    beta = SpectralSlope(method="periodogram").compute(x, dim=1)
    found = SpectralPrior(target_beta=0.7, weight=2.0, reduction="none")(x)
    torch.testing.assert_close(found, 2 * (beta - 0.7).square())
    mean = SpectralPrior(target_beta=0.7, weight=2.0)(x)
    assert mean.shape == ()
    torch.testing.assert_close(mean, found.mean())


def test_huber_is_linear_far_from_the_target() -> None:
    x = white(3, 256, 2, dtype=torch.float64)
    beta = SpectralSlope(method="periodogram").compute(x, dim=1)
    found = SpectralPrior(target_beta=-5.0, weight=1.0, loss="huber", reduction="none")(x)
    torch.testing.assert_close(found, (beta + 5) - 0.5)


# 32 draws: the mean square error is 6.2e-4 (the Cramer-Rao bound of 1635 bins), so that 1e-3 lies
# more than two standard errors (1.5e-4 each) above it; the seed is fixed.
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0])
def test_noise_at_the_target_is_not_penalised(
    power_law_noise: Callable[..., np.ndarray], beta: float
) -> None:
    x = torch.from_numpy(power_law_noise(4096, beta, 64, seed=0))[..., None]
    assert SpectralPrior(target_beta=beta, weight=1.0)(x).item() < 1e-3
    assert SpectralPrior(target_beta=beta + 1, weight=1.0)(x).item() > 0.5


@pytest.mark.slow  # 200 optimiser steps
@pytest.mark.parametrize("target", [0.5, 1.0])
def test_gradient_descent_takes_white_noise_to_the_target(target: float) -> None:
    x = white(32, 256, 4).requires_grad_()
    prior = SpectralPrior(target_beta=target, weight=1.0)
    optimizer = torch.optim.Adam([x], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        prior(x).backward()
        optimizer.step()
    assert prior(x).item() < 1e-6
    # Another estimator sees the change too.
    beta = SpectralSlope(method="multitaper").compute(x.detach(), dim=1).mean().item()
    assert beta == pytest.approx(target, abs=0.05)


@pytest.mark.parametrize(
    "options",
    [{}, {"target_beta": 2.0}, {"loss": "huber"}, {"pool": "batch"}, {"freq_range": (0.1, 0.5)}],
    ids=repr,
)
def test_the_gradient_passes_gradcheck(options: dict[str, object]) -> None:
    x = white(2, 40, 2, dtype=torch.float64).cumsum(1).requires_grad_()
    assert torch.autograd.gradcheck(SpectralPrior(weight=1.0, **options), (x,))


@pytest.mark.parametrize("target", [1.0, 2.0])
@pytest.mark.parametrize(("scale", "offset"), [(1e-12, 0.0), (1e12, 5e14), (-3.0, 1e3)])
def test_unit_and_offset_do_not_matter(target: float, scale: float, offset: float) -> None:
    x = white(4, 300, 3, dtype=torch.float64)
    prior = SpectralPrior(target_beta=target, weight=1.0)
    torch.testing.assert_close(prior(scale * x + offset), prior(x), rtol=1e-6, atol=0)


@pytest.mark.parametrize("pool", ["channel", "batch"])
@pytest.mark.parametrize("target", [1.0, 2.0])
def test_a_constant_channel_adds_nothing_and_has_no_gradient(pool: str, target: float) -> None:
    x = white(2, 100, 3, dtype=torch.float64)
    x[:, :, 1] = 0.3
    x.requires_grad_()
    prior = SpectralPrior(target_beta=target, weight=1.0, pool=pool, reduction="none")
    penalty = prior(x)
    assert (penalty[..., 1] == 0).all()
    assert (penalty[..., 0] > 0).all()
    (gradient,) = torch.autograd.grad(penalty.mean(), x)
    assert (gradient[..., 1] == 0).all()
    assert gradient.isfinite().all()
    assert (gradient[..., 0] != 0).any()


def test_a_silent_item_does_not_change_the_pooled_spectrum() -> None:
    x = white(3, 100, 1, dtype=torch.float64)
    prior = SpectralPrior(weight=1.0, pool="batch")
    expected = prior(x[:2])
    x[2] = 4.0
    torch.testing.assert_close(prior(x), expected)


def test_pooling_the_batch_lowers_the_variance_of_the_penalty() -> None:
    x = white(64, 256, 2)
    pooled = SpectralPrior(target_beta=0.0, weight=1.0, pool="batch")(x)
    single = SpectralPrior(target_beta=0.0, weight=1.0)(x)
    assert pooled.item() < single.item() / 10


@pytest.mark.parametrize(
    ("reduction", "pool", "shape"),
    [("mean", "channel", ()), ("none", "channel", (2, 3)), ("none", "batch", (3,))],
)
def test_weight_zero_is_exactly_zero_without_a_graph(
    reduction: str, pool: str, shape: tuple[int, ...]
) -> None:
    x = torch.full((2, 100, 3), float("nan"), requires_grad=True)
    zero = SpectralPrior(weight=0.0, reduction=reduction, pool=pool)(x)
    assert zero.shape == shape
    assert (zero == 0).all()
    assert zero.grad_fn is None
    assert SpectralPrior(reduction=reduction, pool=pool)(white(2, 100, 3)).shape == shape


def test_the_prior_is_an_objective_on_latents() -> None:
    prior = SpectralPrior(weight=0.3)
    assert (prior.name, prior.reads, prior.weight) == ("spectral_prior", "latents", 0.3)
    assert list(prior.parameters()) == []


def test_repr_shows_every_option() -> None:
    assert repr(SpectralPrior(target_beta=2.0, weight=0.1)) == (
        "SpectralPrior(target_beta=2.0, weight=0.1, freq_range=None, fs=1.0, loss='squared', "
        "pool='channel', reduction='mean')"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_beta": float("nan")}, "target_beta must be finite, got nan"),
        ({"weight": -1.0}, "weight must be finite and at least 0, got -1.0"),
        ({"loss": "cubic"}, "loss"),
        ({"pool": "time"}, "pool"),
        ({"reduction": "sum"}, "reduction"),
        ({"fs": -1.0}, "fs must be a positive rate"),
        ({"freq_range": (0.0, 0.1)}, "0 < low < high"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        SpectralPrior(**options)


def test_bad_latents_are_refused() -> None:
    # The second message is that of the shape checker, which sees the argument first when it is on.
    with pytest.raises(TypeError, match=r"torch.Tensor, got ndarray|Type-check error"):
        SpectralPrior()(np.zeros((2, 100, 3)))
    with pytest.raises(ValueError, match=r"\(batch, time, channel\), got \(100, 3\)"):
        SpectralPrior()(torch.zeros(100, 3))
    with pytest.raises(ValueError, match="at least 8 frequencies"):
        SpectralPrior()(torch.zeros(2, 10, 3))
    gap = white(2, 100, 3)
    gap[1, 7, 2] = float("nan")
    with pytest.raises(ValueError, match=r"latents must be finite, got NaN .* in 1 of 6 items"):
        SpectralPrior()(gap)
