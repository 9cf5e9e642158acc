"""The objective on scaling exponents."""

import math
import subprocess
import sys

import pytest
import torch

from neuros_mechint.fractals import (
    MultifractalSmoothness,
    MultifractalSpectrum,
    MultiplicativeCascade,
)
from neuros_mechint.fractals._multifractal_prior import roughness


def latents(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_log_normal_exponents_cost_nothing() -> None:
    q = torch.linspace(-5, 5, 21, dtype=torch.float64)
    for sigma in (0.0, 0.3, 2.0):
        tau = MultiplicativeCascade(kind="lognormal", sigma=sigma).tau(q)
        assert roughness(tau, 3) <= 1e-8
        # Order 2 charges the curvature, sigma^2 / ln 2 at a step of 1 / 2.
        curvature = (sigma**2 / math.log(2) / 4) ** 2
        assert roughness(tau, 2).item() == pytest.approx(curvature, abs=1e-12)


def test_a_kink_costs() -> None:
    q = torch.linspace(-1, 1, 5, dtype=torch.float64)
    # Third differences of |q| on this grid are 1 and -1.
    assert roughness(q.abs(), 3).item() == pytest.approx(1.0, abs=1e-12)


def test_the_penalty_is_that_of_the_spectrum_of_each_channel() -> None:
    x = latents(2, 300, 3)
    spectra = MultifractalSpectrum().compute(x, dim=1)
    smooth = spectra.tau.diff(n=3, dim=-1).square().mean(-1)
    prior = MultifractalSmoothness(weight=0.5, target_width=0.7, reduction="none")
    expected = 0.5 * (smooth + (spectra.width - 0.7).square())
    torch.testing.assert_close(prior(x), expected, rtol=1e-9, atol=1e-12)
    mean = MultifractalSmoothness(weight=0.5, target_width=0.7)(x)
    torch.testing.assert_close(mean, expected.mean(), rtol=1e-9, atol=1e-12)


def test_unit_and_offset_do_not_matter() -> None:
    x = latents(2, 300, 2)
    prior = MultifractalSmoothness(weight=1.0)
    torch.testing.assert_close(prior(1e9 * x - 7e9), prior(x), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_the_gradient_passes_gradcheck(order: int) -> None:
    prior = MultifractalSmoothness(weight=100.0, target_width=0.5, order=order)
    x = latents(1, 128, 2).requires_grad_()
    assert torch.autograd.gradcheck(prior, (x,), fast_mode=True)


def test_a_constant_channel_adds_nothing_and_gets_no_gradient() -> None:
    x = latents(2, 128, 2)
    x[0, :, 1] = 3.0
    prior = MultifractalSmoothness(weight=1.0, target_width=0.5, reduction="none")
    penalty = prior(x.requires_grad_())
    assert penalty[0, 1] == 0
    (gradient,) = torch.autograd.grad(penalty.sum(), x)
    assert gradient.isfinite().all()
    assert (gradient[0, :, 1] == 0).all()
    assert (gradient[1] != 0).any(0).all()


@pytest.mark.slow  # an optimisation of 40 steps
def test_descent_reaches_the_target_width() -> None:
    x = latents(2, 256, 2).requires_grad_()
    prior = MultifractalSmoothness(weight=1.0, target_width=1.2)
    optimiser = torch.optim.Adam([x], lr=0.03)
    before = prior(x).item()
    for _ in range(40):
        optimiser.zero_grad()
        prior(x).backward()
        optimiser.step()
    width = MultifractalSpectrum().compute(x.detach(), dim=1).width
    assert before > 0.05
    assert prior(x) < before / 10
    assert width.mean().item() == pytest.approx(1.2, abs=0.1)


def test_weight_zero_is_zero_without_a_graph() -> None:
    x = latents(2, 8, 3).requires_grad_()
    zero = MultifractalSmoothness(weight=0.0)(x)
    assert zero == 0
    assert not zero.requires_grad
    assert MultifractalSmoothness(weight=0.0, reduction="none")(x).shape == (2, 3)


def test_half_precision_and_autocast_are_computed_in_single() -> None:
    x = latents(2, 128, 2)
    prior = MultifractalSmoothness(weight=1.0)
    assert prior(x.bfloat16()).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = prior(x.float())
    torch.testing.assert_close(inside, prior(x.float()))


@pytest.mark.slow  # a new interpreter, because a run-time shape checker cannot be traced
def test_the_objective_compiles() -> None:
    code = (
        "import torch\n"
        "from neuros_mechint.fractals import MultifractalSmoothness\n"
        "x = torch.randn(2, 64, 3, requires_grad=True)\n"
        "prior = MultifractalSmoothness(weight=1.0, target_width=0.5)\n"
        "found = torch.compile(prior, backend='eager', fullgraph=False)(x)\n"
        "torch.testing.assert_close(found, prior(x))\n"
        "(gradient,) = torch.autograd.grad(found, x)\n"
        "torch.testing.assert_close(gradient, torch.autograd.grad(prior(x), x)[0])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_options_are_shown() -> None:
    assert "target_width=0.5, order=2" in repr(MultifractalSmoothness(target_width=0.5, order=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "weight must be finite and at least 0"),
        ({"target_width": -0.1}, "target_width must be finite and at least 0"),
        ({"target_width": math.nan}, "target_width must be finite and at least 0"),
        ({"order": 1}, "order must be 2 or 3"),
        ({"reduction": "sum"}, "reduction must be one of"),
        ({"q": [-1.0, 0.0, 1.0]}, "q must hold more than order = 3 evenly spaced moments"),
        ({"q": [-1.0, 0.0, 1.0, 3.0]}, "q must hold more than order = 3 evenly spaced moments"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"{message}|Type-check"):
        MultifractalSmoothness(**options)


def test_bad_latents_are_refused() -> None:
    prior = MultifractalSmoothness()
    with pytest.raises(ValueError, match=r"\(batch, time, channel\), got \(5, 50\)"):
        prior(latents(5, 50))
    with pytest.raises(ValueError, match="latents needs at least 44 samples"):
        prior(latents(1, 40, 1))
    with pytest.raises(TypeError, match=r"latents must be a torch.Tensor|Type-check"):
        prior([1.0])
