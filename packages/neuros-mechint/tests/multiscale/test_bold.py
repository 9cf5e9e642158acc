"""The balloon model: its reference solution, fixed point, gradients and limits."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from neuros_mechint.multiscale import BalloonWindkessel

NUMBERS = ("kappa", "gamma", "tau", "alpha", "rho", "V0", "epsilon")


def pulse(n: int, rate: float) -> torch.Tensor:
    return (torch.arange(n) < rate).double()


def reference(model: BalloonWindkessel, z: np.ndarray, rate: float) -> np.ndarray:
    """States (4, time) by an adaptive solver in the plain variables, sample after sample."""
    p = {name: float(getattr(model, name)) for name in NUMBERS}

    def slopes(_, y, drive):
        s, f, v, q = y
        extracted = (1 - (1 - p["rho"]) ** (1 / f)) / p["rho"]
        return [
            p["epsilon"] * drive - p["kappa"] * s - p["gamma"] * (f - 1),
            s,
            (f - v ** (1 / p["alpha"])) / p["tau"],
            (f * extracted - v ** (1 / p["alpha"] - 1) * q) / p["tau"],
        ]

    y, found = np.array([0.0, 1.0, 1.0, 1.0]), []
    edges = np.flatnonzero(np.diff(z, prepend=np.nan) != 0)
    for start, end in zip(edges, [*edges[1:], len(z)], strict=True):
        times = np.arange(1, end - start + 1) / rate
        run = solve_ivp(
            slopes, (0, times[-1]), y, "LSODA", times, args=(z[start],), rtol=1e-10, atol=1e-12
        )
        found.append(run.y)
        y = run.y[:, -1]
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("model", [BalloonWindkessel(), BalloonWindkessel.tvb()])
def test_a_pulse_follows_the_adaptive_solution(model: BalloonWindkessel) -> None:
    z = pulse(1000, 100.0)
    states = model.states(z, 100.0)
    expected = reference(model, z.numpy(), 100.0)
    for ours, theirs in zip(states.values(), expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-7)
    _, _, v, q = expected
    if model.coefficients == "friston":
        k = (7 * 0.34, 2.0, 2 * 0.34 - 0.2)
    else:
        k = (4.3 * 40.3 * 0.4 * 0.04, 0.5 * 25 * 0.4 * 0.04, 0.5)
    signal = float(model.V0) * (k[0] * (1 - q) + k[1] * (1 - q / v) + k[2] * (1 - v))
    bold = model(z, 100.0).numpy()
    assert np.abs(bold - signal).max() < 1e-5 * np.abs(signal).max()
    # The dip after the response.
    assert bold[700:].min() < -0.02 * bold.max()


def test_slow_samples_are_integrated_in_steps_of_their_own() -> None:
    """Five samples of a second are what 250 of 20 ms are."""
    model = BalloonWindkessel()
    z = torch.tensor([1.0, 0.0, 2.0, 0.0, -0.2], dtype=torch.float64)
    fine = model(z.repeat_interleave(50), 50.0)[49::50]
    torch.testing.assert_close(model(z, 1.0), fine, rtol=1e-12, atol=1e-15)


def test_constant_activity_has_the_flow_of_the_fixed_point() -> None:
    z = torch.tensor([0.0, 0.2, 0.6], dtype=torch.float64)
    model = BalloonWindkessel(epsilon=0.5)
    states = model.states(z[:, None].expand(3, 2250), 50.0)
    flow = 1 + 0.5 * z / 0.41
    torch.testing.assert_close(states["flow"][:, -1], flow, rtol=0, atol=1e-6)
    torch.testing.assert_close(states["volume"][:, -1], flow**0.32, rtol=0, atol=1e-5)
    assert bool((model(z[:1, None].expand(1, 50), 50.0) == 0).all())


@pytest.mark.parametrize("coefficients", ["friston", "revised"])
def test_every_number_and_the_activity_have_their_gradient(coefficients: str) -> None:
    start = torch.tensor([0.65, 0.41, 0.98, 0.32, 0.34, 0.02, 1.0], dtype=torch.float64)
    z = 3 * torch.rand(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def signal(numbers: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        named = dict(zip(NUMBERS, numbers.unbind(), strict=True))
        return BalloonWindkessel(**named, coefficients=coefficients)(z, 10.0)

    inputs = (start.requires_grad_(), z.requires_grad_())
    assert torch.autograd.gradcheck(signal, inputs, eps=1e-6, atol=1e-7, rtol=1e-5)


def test_learnable_numbers_are_parameters() -> None:
    model = BalloonWindkessel(learnable=("kappa", "tau"))
    assert sorted(name for name, _ in model.named_parameters()) == ["kappa", "tau"]
    model(torch.ones(20), 20.0).sum().backward()
    assert all(parameter.grad != 0 for parameter in model.parameters())
    assert "kappa=0.65" in repr(model)
    assert "coefficients='friston'" in repr(model)


def test_a_batch_with_numbers_of_its_own_is_a_loop() -> None:
    kappa = torch.tensor([0.5, 0.65, 0.8], dtype=torch.float64)
    z = torch.rand(3, 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    together = BalloonWindkessel(kappa=kappa)(z, 20.0)
    for k in range(3):
        alone = BalloonWindkessel(kappa=float(kappa[k]))(z[k], 20.0)
        torch.testing.assert_close(together[k], alone, rtol=0, atol=1e-14)
    # One activity, several numbers: a sweep.
    assert BalloonWindkessel(kappa=kappa)(z[0], 20.0).shape == (3, 60)
    assert repr(BalloonWindkessel(kappa=kappa)).startswith("BalloonWindkessel(kappa=(3,)")


def test_strong_inhibition_leaves_a_hundredth_of_the_flow() -> None:
    states = BalloonWindkessel().states(-5 * pulse(300, 100.0), 100.0)
    assert float(states["flow"].min()) == pytest.approx(0.01)
    assert all(bool(torch.isfinite(x).all()) for x in states.values())
    assert float(states["flow"][-1]) > 0.01


def test_half_precision_is_computed_in_single() -> None:
    z = pulse(40, 10.0)
    bold = BalloonWindkessel()(z.half(), 10.0)
    assert bold.dtype == torch.float16
    torch.testing.assert_close(bold.double(), BalloonWindkessel()(z, 10.0), rtol=2e-3, atol=1e-5)


def test_bad_arguments_are_named() -> None:
    model = BalloonWindkessel()
    with pytest.raises(TypeError, match="z must be a floating tensor or array, got torch"):
        model(torch.ones(3, dtype=torch.int64), 10.0)
    with pytest.raises(ValueError, match="sampling_rate must be positive and finite, in Hz, got 0"):
        model(torch.ones(3), 0.0)
    with pytest.raises(ValueError, match="z holds NaN or inf"):
        model(torch.tensor([1.0, math.nan]), 10.0)
    with pytest.raises(ValueError, match="time >= 1"):
        model(torch.ones(2, 0), 10.0)
    with pytest.raises(ValueError, match="too strong for the balloon; scale z"):
        model(1e6 * torch.ones(100), 10.0)
    with pytest.raises(ValueError, match="rho must be below 1, got 1"):
        BalloonWindkessel(rho=1.0)
    with pytest.raises(ValueError, match="tau must be positive, got -1"):
        BalloonWindkessel(tau=-1.0)
    with pytest.raises(TypeError, match="tau must be a float or a floating tensor, got torch"):
        BalloonWindkessel(tau=torch.tensor(1))
    with pytest.raises(ValueError, match="learnable names 'K'; the numbers here are 'kappa'"):
        BalloonWindkessel(learnable=("K",))
    with pytest.raises((ValueError, TypeError), match=r"coefficients must be one of|Type-check"):
        BalloonWindkessel(coefficients="new")
    with pytest.raises(
        ValueError, match=r"kappa of shape \(3,\) does not broadcast to the leading"
    ):
        BalloonWindkessel(kappa=torch.ones(3))(torch.ones(2, 5), 10.0)
