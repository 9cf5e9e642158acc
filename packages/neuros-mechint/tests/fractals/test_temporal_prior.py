"""Objective on self-similarity in time."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuros_mechint.fractals import FractionalBrownianMotion, TemporalScaleInvariance


def white(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def autoregression(n: int, phi: float, batch: int) -> Tensor:
    from scipy.signal import lfilter

    steps = np.random.default_rng(0).standard_normal((batch, n + 500))
    return torch.from_numpy(lfilter([1.0], [1.0, -phi], steps)[:, 500:])


def sinusoid(n: int, period: float, batch: int) -> Tensor:
    phase = torch.rand(batch, 1, generator=torch.Generator().manual_seed(0)).double()
    return torch.sin(2 * math.pi * (torch.arange(n) / period + phase))


def test_the_penalty_is_the_bend_of_the_spread_of_block_means() -> None:
    x = np.random.default_rng(0).standard_normal(300)
    scales = (1, 3, 4, 9)
    spread = [np.std(np.lib.stride_tricks.sliding_window_view(x, s).mean(-1)) for s in scales]
    line = np.polyfit(np.log(scales), np.log(spread), 1)
    expected = np.square(np.log(spread) - np.polyval(line, np.log(scales))).mean()
    prior = TemporalScaleInvariance(scales=scales, weight=2.0)
    found = prior(torch.from_numpy(x)[None, :, None])
    assert found.item() == pytest.approx(2 * expected, rel=1e-10)


# Sampling error leaves fractional noise near 0.1 / n; the autoregression's own bend is 1e-4. So
# one sequence needs some ten thousand samples, or the batch is pooled.
@pytest.mark.parametrize(("pool", "n", "batch"), [("channel", 32768, 16), ("batch", 1024, 64)])
def test_fractional_noise_costs_a_tenth_of_what_has_a_time_scale(
    pool: str, n: int, batch: int
) -> None:
    prior = TemporalScaleInvariance(weight=1.0, pool=pool)
    generator = torch.Generator().manual_seed(0)
    noise = [
        FractionalBrownianMotion().increments(
            n, hurst, batch=batch, generator=generator, dtype=torch.float64
        )[:, 0]
        for hurst in (0.3, 0.7)
    ]
    free = max(prior(x[..., None]).item() for x in noise)
    bent = min(
        prior(x[..., None]).item() for x in (autoregression(n, 0.9, batch), sinusoid(n, 20, batch))
    )
    assert free < bent / 10


def test_the_penalty_of_noise_falls_like_one_over_the_length() -> None:
    prior = TemporalScaleInvariance(weight=1.0)
    short, long = (prior(white(256, n, 1)).item() for n in (256, 4096))
    # A ratio of 16 in law; 256 draws of each leave it 10 % of error.
    assert short / long == pytest.approx(16, rel=0.5)


def test_what_is_slow_beside_the_longest_block_costs_nothing() -> None:
    slow = TemporalScaleInvariance(weight=1.0)(sinusoid(4096, 400, 4)[..., None])
    assert slow.item() < 1e-6
    coarse = TemporalScaleInvariance(weight=1.0, scales=(10, 40, 160))
    assert coarse(sinusoid(4096, 400, 4)[..., None]).item() > 1e-3


@pytest.mark.parametrize("pool", ["channel", "batch"])
def test_the_gradient_passes_gradcheck(pool: str) -> None:
    x = white(2, 20, 2).requires_grad_()
    prior = TemporalScaleInvariance(weight=1.0, pool=pool, reduction="none")
    assert torch.autograd.gradcheck(prior, (x,))


def test_gradient_descent_takes_the_time_scale_away() -> None:
    x = autoregression(512, 0.9, 16)[..., None].requires_grad_()
    prior = TemporalScaleInvariance(weight=1.0, pool="batch")
    before = prior(x).item()
    optimizer = torch.optim.Adam([x], lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        prior(x).backward()
        optimizer.step()
    assert prior(x).item() < before / 5


@given(scale=st.sampled_from([1e-12, -1.0, 1e12]), offset=st.floats(-1e3, 1e3))
@settings(max_examples=20, derandomize=True, deadline=None)
def test_unit_and_offset_do_not_matter(scale: float, offset: float) -> None:
    x = white(3, 200, 2)
    prior = TemporalScaleInvariance(weight=1.0)
    torch.testing.assert_close(prior(scale * (x + offset)), prior(x), rtol=1e-6, atol=0)


@pytest.mark.parametrize("pool", ["channel", "batch"])
def test_a_constant_channel_adds_nothing_and_has_no_gradient(pool: str) -> None:
    x = white(2, 100, 3)
    x[:, :, 1] = 0.3
    x.requires_grad_()
    penalty = TemporalScaleInvariance(weight=1.0, pool=pool, reduction="none")(x)
    assert (penalty[..., 1] == 0).all()
    assert (penalty[..., 0] > 0).all()
    (gradient,) = torch.autograd.grad(penalty.mean(), x)
    assert gradient.isfinite().all()
    assert (gradient[..., 1] == 0).all()
    assert (gradient[..., 0] != 0).any()


def test_a_silent_item_does_not_change_the_pooled_penalty() -> None:
    x = white(3, 100, 1)
    prior = TemporalScaleInvariance(weight=1.0, pool="batch")
    expected = prior(x[:2])
    x[2] = 4.0
    torch.testing.assert_close(prior(x), expected)


def test_means_that_cancel_keep_the_penalty_finite() -> None:
    x = torch.tensor([1.0, -1.0]).repeat(50)[None, :, None].requires_grad_()
    penalty = TemporalScaleInvariance(weight=1.0)(x)
    assert 1 < penalty.item() < 1e3
    penalty.backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("reduction", "pool", "shape"),
    [("mean", "channel", ()), ("none", "channel", (2, 3)), ("none", "batch", (3,))],
)
def test_weight_zero_is_exactly_zero_without_a_graph(
    reduction: str, pool: str, shape: tuple[int, ...]
) -> None:
    x = torch.full((2, 100, 3), float("nan"), requires_grad=True)
    zero = TemporalScaleInvariance(weight=0.0, reduction=reduction, pool=pool)(x)
    assert zero.shape == shape
    assert (zero == 0).all()
    assert zero.grad_fn is None


def test_the_prior_is_an_objective_on_latents() -> None:
    prior = TemporalScaleInvariance(weight=0.3, scales=[1, 2, 4])
    assert (prior.name, prior.reads, prior.weight) == (
        "temporal_scale_invariance", "latents", 0.3,
    )  # fmt: skip
    assert repr(prior) == (
        "TemporalScaleInvariance(scales=(1, 2, 4), weight=0.3, pool='channel', reduction='mean')"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "weight must be finite and at least 0, got -1.0"),
        ({"scales": (1, 2)}, r"at least three rising lengths.*got \(1, 2\)"),
        ({"scales": (0, 2, 4)}, "at least 1 sample"),
        ({"scales": (1, 4, 4)}, "rising"),
        ({"pool": "time"}, "pool"),
        ({"reduction": "sum"}, "reduction"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        TemporalScaleInvariance(**options)


def test_bad_latents_are_refused() -> None:
    prior: Callable[[object], Tensor] = TemporalScaleInvariance()
    with pytest.raises(TypeError, match=r"torch.Tensor, got ndarray|Type-check error"):
        prior(np.zeros((2, 100, 3)))
    with pytest.raises(ValueError, match=r"\(batch, time, channel\), got \(100, 3\)"):
        prior(torch.zeros(100, 3))
    with pytest.raises(ValueError, match=r"at least 16 samples.*got 15; twice the longest block"):
        prior(torch.zeros(2, 15, 3))
    gap = white(2, 100, 3)
    gap[1, 7, 2] = float("nan")
    with pytest.raises(ValueError, match=r"latents must be finite, got NaN .* in 1 of 6 items"):
        prior(gap)
