"""Integrated gradients against closed forms and the axioms; every kind of site and input."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neuros_mechint.attribution import Attribution

REPRODUCIBLE = settings(max_examples=10, derandomize=True, deadline=None)
SMOOTH = {"tanh": nn.Tanh, "gelu": nn.GELU, "softplus": nn.Softplus}


# Completeness ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMOOTH)
def test_attributions_of_a_smooth_model_add_up_to_the_change_of_the_output(
    normal, chain, rise, name: str
) -> None:
    net, x, start = chain(SMOOTH[name]), normal(4, 12), normal(4, 12, seed=1)
    result = Attribution(net, target=1).attribute(x, start, steps=64)
    assert result.values.shape == x.shape
    assert result.steps == 64
    # delta is measured with the model's own outputs, and so is this.
    torch.testing.assert_close(result.values.sum(1), rise(net, x, start, 1), atol=1e-10, rtol=0.0)
    assert result.delta.shape == (4,)
    assert result.delta.abs().max() <= 1e-10


def test_few_nodes_leave_the_gap_that_delta_reports(normal, chain, rise) -> None:
    net, x = chain(nn.Tanh), 4 * normal(2, 12)
    result = Attribution(net, target=0).attribute(x, steps=3)
    found = result.values.sum(1) - rise(net, x, torch.zeros_like(x), 0)
    assert found.abs().min() > 1e-6
    torch.testing.assert_close(result.delta, found, atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("tol", [1e-6, 1e-10])
def test_a_model_with_kinks_reaches_the_tolerance_where_fixed_nodes_do_not(
    normal, chain, rise, tol: float
) -> None:
    net, x = chain(nn.ReLU, width=24, depth=4), 3 * normal(3, 24)
    fixed = Attribution(net, target=2).attribute(x, steps=50)
    refined = Attribution(net, target=2).attribute(x, tol=tol)
    assert fixed.delta.abs().max() > 1e-4
    found = refined.values.sum(1) - rise(net, x, torch.zeros_like(x), 2)
    assert found.abs().max() <= tol
    assert refined.delta.abs().max() <= tol
    assert fixed.steps < refined.steps < 5000


def test_refined_attributions_are_those_of_very_many_nodes(normal, chain) -> None:
    net, x = chain(nn.ReLU, depth=2), normal(2, 12)
    refined = Attribution(net, target=0).attribute(x, tol=1e-9).values
    # The error of n nodes at a kink falls as 1 / n.
    many = Attribution(net, target=0).attribute(x, steps=500).values
    torch.testing.assert_close(refined, many, atol=1e-2, rtol=0.0)
    assert (refined - many).abs().max() > 1e-9


def test_a_kink_is_found_where_it_is(Function) -> None:
    # F = relu(x1 - 0.3 s) on the line t (1, s): slope 0 until t (1 - 0.3 * ...) crosses zero.
    model = Function(lambda x: torch.relu(x[:, 0] + x[:, 1] - 0.3))
    x = torch.tensor([[1.0, 0.5], [0.1, 0.1]], dtype=torch.float64)
    result = Attribution(model).attribute(x, tol=1e-12)
    # The gradient is 1 beyond t = 0.3 / 1.5 = 0.2, so the integral is 0.8.
    expected = torch.tensor([[0.8, 0.4], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(result.values, expected, atol=1e-12, rtol=0.0)


def test_rows_that_are_accurate_keep_their_first_attributions(Function) -> None:
    model = Function(lambda x: torch.relu(x[:, 0] - 0.3) + x[:, 1] ** 2)
    x = torch.tensor([[0.2, 1.0], [1.0, 1.0]], dtype=torch.float64)
    result = Attribution(model).attribute(x, tol=1e-9)
    expected = torch.tensor([[0.0, 1.0], [0.7, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(result.values, expected, atol=1e-9, rtol=0.0)


def test_a_tolerance_that_a_smooth_model_meets_early_costs_few_points(normal, chain) -> None:
    result = Attribution(chain(nn.Tanh), target=0).attribute(0.1 * normal(2, 12), tol=1e-6)
    assert result.steps == 8


def test_running_out_of_points_is_a_warning_with_the_gap(normal, chain) -> None:
    net, x = chain(nn.ReLU, width=24, depth=4), 3 * normal(1, 24)
    with pytest.warns(RuntimeWarning, match=r"the gap of \S+ is above tol=1e-12 after \d+ points"):
        result = Attribution(net, target=2).attribute(x, tol=1e-12, steps=16, max_steps=150)
    assert result.delta.abs().max() > 1e-12
    assert result.steps < 150


def test_single_precision_ends_at_its_rounding(normal, chain) -> None:
    net, x = chain(nn.ReLU).float(), normal(2, 12).float()
    result = Attribution(net, target=0).attribute(x, tol=1e-4)
    assert result.values.dtype == torch.float32
    assert result.delta.abs().max() <= 1e-4


@REPRODUCIBLE
@given(degree=st.integers(1, 9), seed=st.integers(0, 1000))
def test_polynomials_are_integrated_exactly(normal, Function, degree: int, seed: int) -> None:
    c, x = normal(degree, 2, seed=seed), normal(3, 2, seed=seed + 1)
    powers = torch.arange(1, degree + 1, dtype=torch.float64)[:, None]
    model = Function(lambda x: (c * x[:, None] ** powers).sum((1, 2)))
    # n nodes are exact up to degree 2 n - 1, the gradient has degree - 1. Each variable's share of
    # a sum of functions of one variable is that function's change.
    result = Attribution(model).attribute(x, steps=(degree + 1) // 2)
    expected = (c * x[:, None] ** powers).sum(1)
    torch.testing.assert_close(result.values, expected, atol=1e-10, rtol=1e-10)


# The other axioms ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_x_input"])
@pytest.mark.parametrize("tol", [None, 1e-9])
def test_an_input_that_is_not_read_gets_exactly_zero(
    normal, chain, Function, method: str, tol: float | None
) -> None:
    inner = chain(nn.ReLU, width=6)
    model = Function(lambda x: inner(x[:, :6]))
    x = normal(3, 9)
    tol = tol if method == "integrated_gradients" else None
    values = Attribution(model, method, target=0).attribute(x, normal(3, 9, seed=1), tol=tol).values
    assert torch.equal(values[:, 6:], torch.zeros(3, 3, dtype=torch.float64))
    assert values[:, :6].abs().min() > 0


def test_a_model_that_ignores_its_input_attributes_nothing(normal, Function) -> None:
    model = Function(lambda x: torch.ones(len(x), dtype=x.dtype))
    result = Attribution(model).attribute(normal(2, 3))
    assert torch.equal(result.values, torch.zeros(2, 3, dtype=torch.float64))
    assert torch.equal(result.delta, torch.zeros(2, dtype=torch.float64))


def test_two_implementations_of_one_function_agree(normal, Function) -> None:
    first, second = nn.Linear(5, 7).double(), nn.Linear(7, 4).double()
    merged = nn.Linear(5, 4).double()
    merged.weight.data = second.weight.data @ first.weight.data
    merged.bias.data = second.weight.data @ first.bias.data + second.bias.data
    x = normal(3, 5)
    # tanh(y) = 2 sigmoid(2 y) - 1, through other operations and another number of layers.
    one = nn.Sequential(first, second, nn.Tanh())
    two = nn.Sequential(merged, Function(lambda y: 2 * torch.sigmoid(2 * y) - 1))
    values = [Attribution(model, target=3).attribute(x).values for model in (one, two)]
    torch.testing.assert_close(values[0], values[1], atol=1e-12, rtol=0.0)


@REPRODUCIBLE
@given(a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_attributions_are_linear_in_the_model(normal, chain, Function, a: float, b: float) -> None:
    one, two, x = chain(nn.Tanh), chain(nn.GELU, seed=1), normal(2, 12)
    both = Function(lambda x: a * one(x) + b * two(x))
    parts = [Attribution(m, target=1).attribute(x, steps=16).values for m in (one, two, both)]
    torch.testing.assert_close(parts[2], a * parts[0] + b * parts[1], atol=1e-12, rtol=1e-12)


def test_inputs_that_play_the_same_part_get_the_same(Function) -> None:
    model = Function(lambda x: torch.tanh(x[:, 0] * x[:, 1] + x[:, 0] + x[:, 1]) * x[:, 2])
    x = torch.tensor([[0.7, 0.7, 2.0]], dtype=torch.float64)
    values = Attribution(model).attribute(x).values[0]
    assert values[0] == pytest.approx(values[1].item(), abs=1e-15)
    assert values[0] != pytest.approx(values[2].item(), abs=1e-3)


def test_gradient_x_input_is_the_gradient_times_the_input(normal, chain) -> None:
    net, x = chain(nn.Tanh), normal(3, 12)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(leaf)[:, 0].sum(), leaf)
    result = Attribution(net, "gradient_x_input", target=0).attribute(x)
    torch.testing.assert_close(result.values, gradient * x)
    assert result.steps == 1
    other = normal(3, 12, seed=1)
    shifted = Attribution(net, "gradient_x_input", target=0).attribute(x, other).values
    torch.testing.assert_close(shifted, gradient * (x - other))


def test_gradient_x_input_at_a_site_starts_from_zero_there(normal, chain) -> None:
    net, x = chain(nn.Tanh), normal(3, 12)
    with torch.no_grad():
        hidden = net[:2](x)
    leaf = hidden.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net[2:](leaf)[:, 0].sum(), leaf)
    found = Attribution(net, "gradient_x_input", site="1", target=0).attribute(x).values
    torch.testing.assert_close(found, gradient * hidden)
    with torch.no_grad():
        start = net[:2](torch.ones_like(x))
    found = Attribution(net, "gradient_x_input", site="1", target=0).attribute(x, 1.0).values
    torch.testing.assert_close(found, gradient * (hidden - start))


# What is left behind ---------------------------------------------------------------------------


class Careless(nn.Module):
    """Changes its input and its hidden values in place, and counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.relu = nn.Linear(4, 6), nn.ReLU(inplace=True)
        self.second = nn.Linear(6, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        x += 1.0
        return self.second(self.relu(self.first(x)))


@pytest.mark.parametrize("site", [None, "first", "relu:in"])
def test_models_that_work_in_place_are_attributed_and_left_as_they_were(
    normal, Function, site
) -> None:
    model = Careless().double().eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = copy.deepcopy(model.state_dict())
    x = normal(2, 4)
    kept = x.clone()
    with torch.no_grad():
        result = Attribution(model, site=site, target=0).attribute(x.clone(), tol=1e-9)
    assert result.delta.abs().max() <= 1e-9
    assert not result.values.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    clean = nn.Sequential(Function(lambda x: x + 1.0), model.first, nn.ReLU(), model.second)
    if site is None:
        expected = Attribution(clean, target=0).attribute(kept, tol=1e-9).values
        torch.testing.assert_close(result.values, expected, atol=1e-8, rtol=0.0)
