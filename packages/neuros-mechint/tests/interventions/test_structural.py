"""Structural causal models against closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_mechint.interventions import StructuralCausalModel

CI = settings(max_examples=50, derandomize=True, deadline=None)
F64 = torch.float64


def chain(a: float = 2.0, b: float = 3.0, c: float = 1.0) -> StructuralCausalModel:
    equations = {
        "y": lambda x, m: c * x + b * m,
        "m": lambda x: a * x,
        "x": lambda: 0.0,
    }
    return StructuralCausalModel(equations, {"x": 1.0, "m": 0.5, "y": 2.0})


@CI
@given(st.lists(st.floats(-3, 3), min_size=7, max_size=7))
def test_a_linear_counterfactual_is_that_of_the_closed_form(numbers: list[float]) -> None:
    a, b, c, x, m, y, x_cf = numbers
    found = chain(a, b, c).counterfactual({"x": x, "m": m, "y": y}, {"x": x_cf})
    u_m, u_y = m - a * x, y - c * x - b * m
    m_cf = a * x_cf + u_m
    assert float(found["x"]) == x_cf
    assert float(found["m"]) == pytest.approx(m_cf, abs=1e-10)
    assert float(found["y"]) == pytest.approx(c * x_cf + b * m_cf + u_y, abs=1e-10)


@CI
@given(st.lists(st.floats(-2, 2), min_size=5, max_size=5))
def test_a_counterfactual_from_partial_evidence_is_the_conditional_mean(numbers: list) -> None:
    a, b, c, y, x_cf = numbers
    b += math.copysign(0.1, b)
    found = chain(a, b, c).counterfactual({"y": y}, {"x": x_cf})
    # y = (c + ab) u_x + b u_m + u_y, so E[u | y] = cov(u, y) / var(y) * y.
    direct = torch.tensor([c + a * b, b, 1.0], dtype=F64)
    variances = torch.tensor([1.0, 0.25, 4.0], dtype=F64)
    u = variances * direct / (variances * direct.square()).sum() * y
    m_cf = a * x_cf + float(u[1])
    assert float(found["m"]) == pytest.approx(m_cf, abs=1e-10)
    assert float(found["y"]) == pytest.approx(c * x_cf + b * m_cf + float(u[2]), abs=1e-10)


def test_nothing_observed_leaves_the_mean_of_the_intervention() -> None:
    found = chain().counterfactual({}, {"x": 1.5})
    assert {name: float(value) for name, value in found.items()} == {"y": 10.5, "m": 3.0, "x": 1.5}


def test_setting_what_was_observed_changes_nothing() -> None:
    model = StructuralCausalModel(
        {"x": lambda: 0.0, "y": lambda x: x.sin(), "z": lambda x, y: x * y.exp()},
        {"x": 1.0, "z": lambda n, generator: torch.rand(n, generator=generator, dtype=F64)},
    )
    data = model.sample(20, torch.Generator().manual_seed(0))
    same = model.counterfactual({"x": data["x"], "z": data["z"]}, {"x": data["x"]})
    torch.testing.assert_close(same, data, atol=1e-10, rtol=0.0)


def test_a_nonlinear_counterfactual_keeps_the_noise_of_each_case() -> None:
    model = StructuralCausalModel(
        {"x": lambda: 1.0, "y": lambda x: x.square()}, {"x": 1.0, "y": 3.0}
    )
    x, y = torch.tensor([1.0, -2.0], dtype=F64), torch.tensor([5.0, 0.0], dtype=F64)
    found = model.counterfactual({"x": x, "y": y}, {"x": 3.0})
    torch.testing.assert_close(found["y"], 9.0 + (y - x.square()), atol=1e-10, rtol=0.0)


def test_samples_have_the_moments_of_the_equations() -> None:
    n = 200_000
    data = chain(2.0, 3.0, 1.0).sample(n, torch.Generator().manual_seed(0))
    # var(y) = 7^2 + 3^2 / 4 + 4; six standard errors fail by chance once in 5e8.
    variance = 49.0 + 2.25 + 4.0
    assert float(data["y"].mean()) == pytest.approx(0.0, abs=6 * math.sqrt(variance / n))
    assert float(data["y"].var()) == pytest.approx(variance, abs=6 * variance * math.sqrt(2 / n))
    done = chain().do({"m": 1.0}).sample(n, torch.Generator().manual_seed(0))
    assert bool((done["m"] == 1.0).all())
    assert float(done["y"].mean()) == pytest.approx(3.0, abs=6 * math.sqrt(5 / n))


def test_interventions_on_interventions_compose() -> None:
    model = chain().do({"x": 1.0}).do({"m": 5.0})
    data = model.sample(3, torch.Generator().manual_seed(1))
    assert data["x"].tolist() == [1.0] * 3
    assert data["m"].tolist() == [5.0] * 3
    given = {"x": 1.0, "m": 5.0, "y": 18.0}
    # Of y = x + 3 m + u the noise is 2.
    assert float(model.counterfactual(given, {"m": 0.0})["y"]) == pytest.approx(3.0, abs=1e-10)


def test_a_parameter_with_a_default_is_no_parent() -> None:
    equations = {"x": lambda: 2.0, **{f"y{k}": lambda x, k=k: k * x for k in range(3)}}
    model = StructuralCausalModel(equations, {"y1": 0.0})
    assert model.parents["y2"] == ("x",)
    assert not model.noise
    assert float(model.sample(1, torch.Generator())["y2"]) == 4.0
    assert repr(chain()) == "StructuralCausalModel(y(x, m); m(x); x())"


@pytest.mark.parametrize(
    ("equations", "noise", "message"),
    [
        ({"y": lambda x: x}, {}, "equation of 'y' reads 'x', which has no equation"),
        ({"y": lambda *x: x[0]}, {}, r"equation of 'y' needs named parents, got \*x"),
        ({"x": lambda: 0.0}, {"y": 1.0}, "noise is given for 'y', which has no equation"),
        ({"x": lambda: 0.0}, {"x": -1.0}, "noise of 'x' needs a standard deviation >= 0, got -1.0"),
        ({"x": lambda y: y, "y": lambda x: x}, {}, "no cycles, got"),
    ],
)
def test_equations_that_make_no_model_are_refused(
    equations: dict, noise: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        StructuralCausalModel(equations, noise)


def test_evidence_that_can_not_be_used_is_refused() -> None:
    square = {"x": lambda: 0.0, "y": lambda x: x.square(), "z": lambda y: 2.0 * y}
    for equation in (lambda x: x.square(), lambda x: x.relu(), lambda x: x.abs()):
        bent = StructuralCausalModel({**square, "y": equation}, {"x": 1.0, "y": 1.0})
        with pytest.raises(ValueError, match="equations are not affine"):
            bent.counterfactual({"y": 1.0}, {"x": 0.0})
    uniform = StructuralCausalModel(square, {"x": lambda n, g: torch.rand(n, generator=g)})
    with pytest.raises(ValueError, match=r"noise is not Gaussian, \['x'\] missing"):
        uniform.counterfactual({"z": 1.0}, {"x": 0.0})
    exact = StructuralCausalModel(square, {"x": 1.0})
    with pytest.raises(ValueError, match=r"probability zero: nothing makes 'z' 3.0, the equations"):
        exact.counterfactual({"x": 1.0, "z": 3.0}, {"x": 0.0})
    twice = {"x": lambda: 0.0, "y": lambda x: 1.0 * x, "z": lambda x: 1.0 * x}
    copied = StructuralCausalModel(twice, {"x": 1.0})
    with pytest.raises(ValueError, match=r"probability zero: nothing makes 'y' 0.0"):
        copied.counterfactual({"y": 0.0, "z": 1.0}, {"x": 0.0})


def test_other_wrong_uses_are_refused() -> None:
    model = chain()
    with pytest.raises(KeyError, match="no variable 'w' in the model; it has"):
        model.do({"w": 1.0})
    with pytest.raises(KeyError, match="no variable 'w' in the model; it has"):
        model.counterfactual({"w": 1.0}, {})
    with pytest.raises(ValueError, match="n_samples needs at least 1, got 0"):
        model.sample(0, torch.Generator())
    with pytest.raises(ValueError, match=r"'y' needs shape \(2,\).*gives \(1, 2\)"):
        model.do({"x": torch.ones(1, 2)}).sample(2, torch.Generator())
    odd = StructuralCausalModel({"x": lambda: 0.0}, {"x": lambda _n, _g: torch.ones(3)})
    with pytest.raises(ValueError, match=r"needs shape \(2,\), its function gave \(3,\)"):
        odd.sample(2, torch.Generator())
