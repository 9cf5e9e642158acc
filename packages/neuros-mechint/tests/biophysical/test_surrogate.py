import math

import pytest
import torch

from neuros_mechint.biophysical.surrogate import SURROGATES, SurrogateGradient, spike

KINDS = {
    "fast_sigmoid": (25.0, lambda x, k: (1 + k * abs(x)) ** -2),
    "sigmoid": (25.0, lambda x, k: k * math.exp(-k * x) / (1 + math.exp(-k * x)) ** 2),
    "atan": (2.0, lambda x, k: k / 2 / (1 + (math.pi * k * x / 2) ** 2)),
    "triangle": (1.0, lambda x, k: k * max(0.0, 1 - k * abs(x))),
    "gaussian": (2.0, lambda x, k: k / math.sqrt(2 * math.pi) * math.exp(-((k * x) ** 2) / 2)),
    "boxcar": (1.0, lambda x, k: k / 2 * (abs(k * x) <= 1)),
    "straight_through": (1.0, lambda x, k: 1.0),
}


def slope_at(x: torch.Tensor, kind: str, slope: float | None = None) -> torch.Tensor:
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(spike(x, kind, slope).sum(), x)
    return found


def test_every_kind_is_listed() -> None:
    assert set(SURROGATES) == set(KINDS)


@pytest.mark.parametrize("kind", SURROGATES)
def test_a_spike_is_one_above_zero_and_zero_at_zero(kind: str) -> None:
    x = torch.tensor([-1.0, -1e-30, 0.0, 1e-30, 2.0], dtype=torch.float64)
    assert spike(x, kind).tolist() == [0, 0, 0, 1, 1]
    assert spike(x.to(torch.bfloat16), kind).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", SURROGATES)
@pytest.mark.parametrize("slope", [None, 3.0])
def test_the_gradient_is_the_formula(kind: str, slope: float | None) -> None:
    default, formula = KINDS[kind]
    x = torch.linspace(-0.7, 0.9, 33)
    expected = [formula(v, slope or default) for v in x.tolist()]
    torch.testing.assert_close(slope_at(x, kind, slope), torch.tensor(expected), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", sorted(set(SURROGATES) - {"fast_sigmoid", "straight_through"}))
def test_the_surrogate_integrates_to_one(kind: str) -> None:
    # x = tan(s) carries the heavy tail of atan to a finite interval.
    s = torch.linspace(-math.pi / 2, math.pi / 2, 2_000_002, dtype=torch.float64)[1:-1]
    g = slope_at(torch.tan(s), kind) / torch.cos(s).square()
    assert float(torch.trapezoid(g, s)) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("kind", SURROGATES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_gradient_of_large_distances_is_finite(kind: str, dtype: torch.dtype) -> None:
    x = torch.tensor([-1e6, -1e3, 1e3, 1e6], dtype=torch.float64).clamp(-6e4, 6e4)
    x = x.to(dtype) if dtype == torch.float16 else torch.tensor([-1e6, 1e6], dtype=dtype)
    assert bool(torch.isfinite(slope_at(x, kind)).all())


@pytest.mark.parametrize("kind", SURROGATES)
def test_the_gradient_has_a_gradient(kind: str) -> None:
    x = torch.tensor([-0.31, -0.02, 0.05, 0.4], dtype=torch.float64, requires_grad=True)

    def g(x: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(spike(x, kind).sum(), x, create_graph=True)[0]

    if kind in ("boxcar", "straight_through"):
        assert not g(x).requires_grad or float(torch.autograd.grad(g(x).sum(), x)[0].sum()) == 0
    else:
        assert torch.autograd.gradcheck(g, (x,))


def test_a_function_serves_as_surrogate() -> None:
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    (found,) = torch.autograd.grad(spike(x, lambda x: x.square()).sum(), x)
    assert found.tolist() == [1.0, 4.0]


def test_apply_takes_names_and_its_own_slope() -> None:
    x = torch.tensor([0.04], requires_grad=True)
    for made, expected in (
        (SurrogateGradient.apply(x), 0.25),
        (SurrogateGradient.apply(x, "triangle", 2.0), 2 * (1 - 0.08)),
        (SurrogateGradient.apply(x, kind="boxcar", slope=None), 0.5),
    ):
        assert torch.autograd.grad(made.sum(), x)[0].item() == pytest.approx(expected)


def test_spikes_pass_through_vmap() -> None:
    x = torch.tensor([-0.1, 0.0, 0.2], dtype=torch.float64)
    plain = slope_at(x, "atan")
    mapped = torch.func.vmap(torch.func.grad(lambda v: spike(v, "atan").sum()))(x)
    torch.testing.assert_close(mapped, plain, rtol=0, atol=0)


def test_wrong_arguments_are_refused() -> None:
    x = torch.zeros(2)
    with pytest.raises(ValueError, match="surrogate must be one of 'fast_sigmoid', 'sigmoid'"):
        spike(x, "relu")
    with pytest.raises(ValueError, match="slope must be positive and finite, got 0"):
        spike(x, "atan", 0.0)
    with pytest.raises(TypeError, match="x must be a floating tensor, got torch"):
        spike(torch.zeros(2, dtype=torch.int64))
