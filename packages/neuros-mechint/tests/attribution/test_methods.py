"""Integrated gradients against closed forms and the axioms; every kind of site and input."""

import copy
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils import check_random_state
from torch import nn

from neuros_mechint.activations import Site
from neuros_mechint.attribution import Attribution
from neuros_mechint.interventions import cross_entropy

REPRODUCIBLE = settings(max_examples=10, derandomize=True, deadline=None)
SMOOTH = {"tanh": nn.Tanh, "gelu": nn.GELU, "softplus": nn.Softplus}


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


def chain(activation: type[nn.Module], width: int = 12, depth: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
    net = nn.Sequential(*layers, nn.Linear(width, 3)).double()
    for parameter in net.parameters():
        parameter.data *= 2.0
    return net.eval()


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


def rise(model: nn.Module, x: torch.Tensor, start: torch.Tensor, target: int) -> torch.Tensor:
    with torch.no_grad():
        return (model(x) - model(start))[:, target]


# Completeness ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMOOTH)
def test_attributions_of_a_smooth_model_add_up_to_the_change_of_the_output(name: str) -> None:
    net, x, start = chain(SMOOTH[name]), normal(4, 12), normal(4, 12, seed=1)
    result = Attribution(net, target=1).attribute(x, start, steps=64)
    assert result.values.shape == x.shape
    assert result.steps == 64
    # delta is measured with the model's own outputs, and so is this.
    torch.testing.assert_close(result.values.sum(1), rise(net, x, start, 1), atol=1e-10, rtol=0.0)
    assert result.delta.shape == (4,)
    assert result.delta.abs().max() <= 1e-10


def test_few_nodes_leave_the_gap_that_delta_reports() -> None:
    net, x = chain(nn.Tanh), 4 * normal(2, 12)
    result = Attribution(net, target=0).attribute(x, steps=3)
    found = result.values.sum(1) - rise(net, x, torch.zeros_like(x), 0)
    assert found.abs().min() > 1e-6
    torch.testing.assert_close(result.delta, found, atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("tol", [1e-6, 1e-10])
def test_a_model_with_kinks_reaches_the_tolerance_where_fixed_nodes_do_not(tol: float) -> None:
    net, x = chain(nn.ReLU, width=24, depth=4), 3 * normal(3, 24)
    fixed = Attribution(net, target=2).attribute(x, steps=50)
    refined = Attribution(net, target=2).attribute(x, tol=tol)
    assert fixed.delta.abs().max() > 1e-4
    found = refined.values.sum(1) - rise(net, x, torch.zeros_like(x), 2)
    assert found.abs().max() <= tol
    assert refined.delta.abs().max() <= tol
    assert fixed.steps < refined.steps < 5000


def test_refined_attributions_are_those_of_very_many_nodes() -> None:
    net, x = chain(nn.ReLU, depth=2), normal(2, 12)
    refined = Attribution(net, target=0).attribute(x, tol=1e-9).values
    # The error of n nodes at a kink falls as 1 / n.
    many = Attribution(net, target=0).attribute(x, steps=500).values
    torch.testing.assert_close(refined, many, atol=1e-2, rtol=0.0)
    assert (refined - many).abs().max() > 1e-9


def test_a_kink_is_found_where_it_is() -> None:
    # F = relu(x1 - 0.3 s) on the line t (1, s): slope 0 until t (1 - 0.3 * ...) crosses zero.
    model = Function(lambda x: torch.relu(x[:, 0] + x[:, 1] - 0.3))
    x = torch.tensor([[1.0, 0.5], [0.1, 0.1]], dtype=torch.float64)
    result = Attribution(model).attribute(x, tol=1e-12)
    # The gradient is 1 beyond t = 0.3 / 1.5 = 0.2, so the integral is 0.8.
    expected = torch.tensor([[0.8, 0.4], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(result.values, expected, atol=1e-12, rtol=0.0)


def test_rows_that_are_accurate_keep_their_first_attributions() -> None:
    model = Function(lambda x: torch.relu(x[:, 0] - 0.3) + x[:, 1] ** 2)
    x = torch.tensor([[0.2, 1.0], [1.0, 1.0]], dtype=torch.float64)
    result = Attribution(model).attribute(x, tol=1e-9)
    expected = torch.tensor([[0.0, 1.0], [0.7, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(result.values, expected, atol=1e-9, rtol=0.0)


def test_a_tolerance_that_a_smooth_model_meets_early_costs_few_points() -> None:
    result = Attribution(chain(nn.Tanh), target=0).attribute(0.1 * normal(2, 12), tol=1e-6)
    assert result.steps == 8


def test_running_out_of_points_is_a_warning_with_the_gap() -> None:
    net, x = chain(nn.ReLU, width=24, depth=4), 3 * normal(1, 24)
    with pytest.warns(RuntimeWarning, match=r"the gap of \S+ is above tol=1e-12 after \d+ points"):
        result = Attribution(net, target=2).attribute(x, tol=1e-12, steps=16, max_steps=150)
    assert result.delta.abs().max() > 1e-12
    assert result.steps < 150


def test_single_precision_ends_at_its_rounding() -> None:
    net, x = chain(nn.ReLU).float(), normal(2, 12).float()
    result = Attribution(net, target=0).attribute(x, tol=1e-4)
    assert result.values.dtype == torch.float32
    assert result.delta.abs().max() <= 1e-4


@REPRODUCIBLE
@given(degree=st.integers(1, 9), seed=st.integers(0, 1000))
def test_polynomials_are_integrated_exactly(degree: int, seed: int) -> None:
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
def test_an_input_that_is_not_read_gets_exactly_zero(method: str, tol: float | None) -> None:
    inner = chain(nn.ReLU, width=6)
    model = Function(lambda x: inner(x[:, :6]))
    x = normal(3, 9)
    tol = tol if method == "integrated_gradients" else None
    values = Attribution(model, method, target=0).attribute(x, normal(3, 9, seed=1), tol=tol).values
    assert torch.equal(values[:, 6:], torch.zeros(3, 3, dtype=torch.float64))
    assert values[:, :6].abs().min() > 0


def test_a_model_that_ignores_its_input_attributes_nothing() -> None:
    model = Function(lambda x: torch.ones(len(x), dtype=x.dtype))
    result = Attribution(model).attribute(normal(2, 3))
    assert torch.equal(result.values, torch.zeros(2, 3, dtype=torch.float64))
    assert torch.equal(result.delta, torch.zeros(2, dtype=torch.float64))


def test_two_implementations_of_one_function_agree() -> None:
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
def test_attributions_are_linear_in_the_model(a: float, b: float) -> None:
    one, two, x = chain(nn.Tanh), chain(nn.GELU, seed=1), normal(2, 12)
    both = Function(lambda x: a * one(x) + b * two(x))
    parts = [Attribution(m, target=1).attribute(x, steps=16).values for m in (one, two, both)]
    torch.testing.assert_close(parts[2], a * parts[0] + b * parts[1], atol=1e-12, rtol=1e-12)


def test_inputs_that_play_the_same_part_get_the_same() -> None:
    model = Function(lambda x: torch.tanh(x[:, 0] * x[:, 1] + x[:, 0] + x[:, 1]) * x[:, 2])
    x = torch.tensor([[0.7, 0.7, 2.0]], dtype=torch.float64)
    values = Attribution(model).attribute(x).values[0]
    assert values[0] == pytest.approx(values[1].item(), abs=1e-15)
    assert values[0] != pytest.approx(values[2].item(), abs=1e-3)


# Inputs, targets, baselines --------------------------------------------------------------------


def test_every_way_to_name_a_target_gives_the_same() -> None:
    net, x = chain(nn.Tanh), normal(3, 12)
    rows = torch.tensor([2, 2, 2])
    expected = Attribution(net, target=2).attribute(x, steps=16).values
    column = nn.Sequential(net, Function(lambda y: y[:, 2:]))
    single = nn.Sequential(net, Function(lambda y: y[:, 2]))
    for model, target in (
        (net, (2,)),
        (net, rows),
        (net, lambda y: y[:, 2]),
        (net, lambda y: y[:, 2:3]),
        (column, None),
        (single, None),
        (Function(lambda x: {"logits": net(x)}), 2),
        (Function(lambda x: {"logits": net(x)}), lambda out: out["logits"][:, 2]),
    ):
        values = Attribution(model, target=target).attribute(x, steps=16, batch_size=13).values
        torch.testing.assert_close(values, expected, atol=1e-13, rtol=0.0)


def test_a_tensor_of_targets_names_one_per_row() -> None:
    net, x = chain(nn.Tanh), normal(3, 12)
    both = Attribution(net, target=torch.tensor([0, 2, 1])).attribute(x).values
    for row, target in enumerate([0, 2, 1]):
        one = Attribution(net, target=target).attribute(x[row : row + 1]).values[0]
        torch.testing.assert_close(both[row], one, atol=1e-13, rtol=0.0)


@pytest.mark.parametrize("tol", [None, 1e-3])
def test_a_target_function_may_hold_a_label_per_row(tol: float | None) -> None:
    net, x = chain(nn.ReLU), normal(3, 12)
    labels = torch.tensor([0, 2, 1])
    result = Attribution(net, target=cross_entropy(labels)).attribute(x, tol=tol)
    alone = [
        Attribution(net, target=cross_entropy(labels[k : k + 1])).attribute(x[k : k + 1], tol=tol)
        for k in range(3)
    ]
    expected = torch.cat([one.values for one in alone])
    slack = 1e-2 if tol else 1e-13
    torch.testing.assert_close(result.values, expected, atol=slack, rtol=0.0)


@pytest.mark.parametrize("tol", [None, 1e-8])
def test_a_target_of_all_rows_has_one_gap(tol: float | None) -> None:
    net, x = chain(nn.ReLU), normal(3, 12)
    result = Attribution(net, target=lambda y: y[:, 0].sum()).attribute(x, tol=tol, steps=200)
    single = Attribution(net, target=0).attribute(x, tol=tol, steps=200)
    assert result.delta.shape == (1,)
    # The gaps of the rows cancel in their sum, so that less of each row is resolved.
    slack = 1e-3 if tol else 1e-13
    torch.testing.assert_close(result.values, single.values, atol=slack, rtol=0.0)
    torch.testing.assert_close(result.delta, single.delta.sum(0, keepdim=True), atol=3e-8, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 5, 64, 10_000])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    net, x = chain(nn.ReLU, depth=2), normal(3, 12)
    expected = Attribution(net, target=0).attribute(x, tol=1e-3, steps=8)
    found = Attribution(net, target=0).attribute(x, tol=1e-3, steps=8, batch_size=batch_size)
    assert expected.steps > 32
    torch.testing.assert_close(found.values, expected.values, atol=1e-12, rtol=0.0)
    assert found.steps == expected.steps


def test_baselines_may_be_numbers_rows_or_whole_inputs() -> None:
    net, x = chain(nn.Tanh), normal(3, 12)
    whole = torch.full_like(x, 0.5)
    expected = Attribution(net, target=0).attribute(x, whole).values
    for baseline in (0.5, whole[:1], whole[0]):
        values = Attribution(net, target=0).attribute(x, baseline).values
        assert torch.equal(values, expected)


def test_inputs_in_containers_come_back_in_containers() -> None:
    net = chain(nn.Tanh, width=4)

    def forward(a, mask, *, b=None):
        return net(a * mask[:, None] + (0.0 if b is None else b))

    model = Function(forward)
    model.forward = forward
    a, b = normal(2, 4), normal(2, 4, seed=1)
    mask = torch.tensor([1, 1])
    expected = Attribution(net, target=0).attribute(a).values
    positional = Attribution(model, target=0).attribute((a, mask)).values
    assert isinstance(positional, tuple)
    assert positional[1] is None
    torch.testing.assert_close(positional[0], expected)
    named = Attribution(model, target=0).attribute({"a": a, "mask": mask, "b": b})
    assert set(named.values) == {"a", "mask", "b"}
    assert named.values["mask"] is None
    total = named.values["a"].sum(1) + named.values["b"].sum(1)
    torch.testing.assert_close(total, rise(net, a + b, torch.zeros_like(a), 0))
    # A dictionary of modalities is one argument.
    lookup = Function(lambda inputs: net(inputs["lfp"] + inputs["spike"]))
    modal = Attribution(lookup, target=0).attribute({"lfp": a, "spike": b}).values
    torch.testing.assert_close(modal["lfp"], named.values["a"])


# Sites -----------------------------------------------------------------------------------------


def test_at_a_cut_a_site_gets_what_the_rest_of_the_model_gives_its_input() -> None:
    net, x = chain(nn.Tanh), normal(3, 12)
    start = normal(1, 12, seed=1)
    result = Attribution(net, site="2:in", target=1).attribute(x, start)
    with torch.no_grad():
        ends = [net[:2](value) for value in (start.expand(3, -1), x)]
    rest = Attribution(net[2:], target=1).attribute(ends[1], ends[0]).values
    torch.testing.assert_close(result.values, rest, atol=1e-13, rtol=0.0)
    torch.testing.assert_close(result.values.sum(1), rise(net, x, start, 1), atol=1e-10, rtol=0)
    for site in (net[1], Site("1"), "1"):
        same = Attribution(net, site=site, target=1).attribute(x, start).values
        assert torch.equal(same, result.values)


def test_a_site_with_an_index_moves_that_part_only() -> None:
    net, x = chain(nn.Tanh), normal(3, 12)
    whole = Attribution(net, site="1", target=0).attribute(x)
    part = Attribution(net, site="1[:, 2:5]", target=0).attribute(x)
    assert part.values.shape == (3, 3)
    assert part.delta.abs().max() < 1e-10
    # What the rest of the layer does is that of the input all along the line.
    with torch.no_grad():
        hidden = net[:2](x)
        low = hidden.clone()
        low[:, 2:5] = net[:2](torch.zeros_like(x))[:, 2:5]
        expected = (net[2:](hidden) - net[2:](low))[:, 0]
    torch.testing.assert_close(part.values.sum(1), expected, atol=1e-10, rtol=0.0)
    assert (part.values - whole.values[:, 2:5]).abs().max() > 1e-6


class Recurrent(nn.Module):
    """Kwargs only, tuple outputs, one cell called at every time step, an LSTM with time first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.Linear(6, 4)
        self.lstm = nn.LSTM(4, 3)
        self.read = nn.Linear(3, 2)

    def forward(self, *, series):
        state, states = series.new_zeros(len(series), 4), []
        for value in series.unbind(1):
            state = torch.tanh(self.cell(torch.cat([value, state], 1)))
            states.append(state)
        out, _ = self.lstm(torch.stack(states))
        return self.read(out[-1]), "extra"


@pytest.mark.parametrize("site", ["lstm", "lstm:out.0", "lstm:in", "read", "cell@4"])
def test_sites_in_tuples_with_time_first_and_keyword_inputs_are_complete(site: str) -> None:
    model = Recurrent().double().eval()
    x, start = ({"series": normal(3, 5, 2, seed=k)} for k in (0, 1))
    result = Attribution(model, site=site, target=1).attribute(x, start)
    # An LSTM that is seen after its last step or before its first one is a cut of the model.
    if site != "cell@4":
        with torch.no_grad():
            change = (model(**x)[0] - model(**start)[0])[:, 1]
        per_row = result.values.sum((0, 2)) if site.startswith("lstm") else result.values.sum(1)
        torch.testing.assert_close(per_row, change, atol=1e-10, rtol=0.0)
    assert result.delta.abs().max() < 1e-10


def test_all_calls_of_a_site_move_together() -> None:
    model = Recurrent().double().eval()
    x = {"series": normal(3, 5, 2)}
    result = Attribution(model, site="cell", target=0).attribute(x)
    assert isinstance(result.values, tuple)
    assert [tuple(v.shape) for v in result.values] == [(3, 4)] * 5
    with torch.no_grad():
        change = (model(**x)[0] - model(series=torch.zeros_like(x["series"]))[0])[:, 0]
    total = sum(values.sum(1) for values in result.values)
    torch.testing.assert_close(total, change, atol=1e-10, rtol=0.0)


def test_tokens_are_attributed_at_their_embedding() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 5), nn.Tanh()).double()
    x, padding = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.zeros(1, 3, dtype=torch.long)
    result = Attribution(model, site="0", target=3).attribute(x, padding)
    assert result.values.shape == (2, 3, 4)
    torch.testing.assert_close(
        result.values.sum((1, 2)), rise(model, x, padding.expand(2, -1), 3), atol=1e-10, rtol=0.0
    )


def test_gradient_x_input_is_the_gradient_times_the_input() -> None:
    net, x = chain(nn.Tanh), normal(3, 12)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(leaf)[:, 0].sum(), leaf)
    result = Attribution(net, "gradient_x_input", target=0).attribute(x)
    torch.testing.assert_close(result.values, gradient * x)
    assert result.steps == 1
    other = normal(3, 12, seed=1)
    shifted = Attribution(net, "gradient_x_input", target=0).attribute(x, other).values
    torch.testing.assert_close(shifted, gradient * (x - other))


def test_gradient_x_input_at_a_site_starts_from_zero_there() -> None:
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
def test_models_that_work_in_place_are_attributed_and_left_as_they_were(site) -> None:
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


# Captum ----------------------------------------------------------------------------------------

CAPTUM = ["deeplift", "gradient_shap", "feature_ablation", "shapley_value_sampling"]


@pytest.mark.parametrize("method", CAPTUM)
@pytest.mark.parametrize("site", [None, "1"])
@pytest.mark.parametrize("target", [1, torch.tensor([1, 1, 1]), lambda y: y[:, 1]])
def test_captums_methods_are_exact_on_a_linear_model_at_any_site(method, site, target) -> None:
    pytest.importorskip("captum")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Identity(), nn.Linear(5, 3)).double()
    x, start = normal(3, 4), normal(1, 4, seed=1)
    explainer = Attribution(net, method, site=site, target=target)
    result = explainer.attribute(x, start, steps=3, generator=gen())
    expected = Attribution(net, site=site, target=1).attribute(x, start).values
    # captum sums the values of features in single precision.
    torch.testing.assert_close(result.values, expected, atol=1e-6, rtol=0.0)
    assert result.delta.abs().max() < 1e-6
    assert result.values.dtype == torch.float64


def test_deeplift_is_complete_where_gradients_are_not() -> None:
    pytest.importorskip("captum")
    net, x = chain(nn.ReLU), normal(3, 12)
    assert Attribution(net, "gradient_x_input", target=0).attribute(x).delta.abs().max() > 1e-3
    deep = Attribution(net, "deeplift", site="1", target=0).attribute(x)
    assert deep.delta.abs().max() < 1e-10


def test_samples_come_from_the_generator_alone() -> None:
    pytest.importorskip("captum")
    explainer, x = Attribution(chain(nn.Tanh), "gradient_shap", target=0), normal(2, 12)
    torch_state, numpy_state = torch.get_rng_state(), check_random_state(None).get_state()[1]
    one, two, other = (
        explainer.attribute(x, steps=4, generator=gen(seed)).values for seed in (0, 0, 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(check_random_state(None).get_state()[1], numpy_state)
    with pytest.raises(ValueError, match=r"'gradient_shap' draws samples; pass generator="):
        explainer.attribute(x)


def test_without_captum_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match=r"neuros-mechint\[attribution\]"):
        Attribution(nn.Linear(2, 1), "deeplift").attribute(torch.ones(1, 2))


def test_captums_methods_need_a_value_per_row_and_samples() -> None:
    pytest.importorskip("captum")
    net, x = chain(nn.Tanh), normal(2, 12)
    with pytest.raises(ValueError, match="a target with one value per row, got one for all rows"):
        Attribution(net, "feature_ablation", target=lambda y: y.sum()).attribute(x)
    with pytest.raises(ValueError, match="steps needs at least 1, got 0"):
        Attribution(net, "deeplift", target=0).attribute(x, steps=0)


# Errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"target": None}, {}, r"target None leaves shape \(3,\) of each row of the output"),
        ({"target": 7}, {}, r"target 7 does not fit the output of shape \(4, 3\)"),
        ({"target": torch.tensor([0])}, {}, "one index per row for an output of 2 rows"),
        ({"target": lambda y: y}, {}, r"a scalar or one value per row, \(2,\), got shape \(2, 3\)"),
        ({"target": 0}, {"steps": 0}, "steps needs at least 1 node, got 0"),
        ({"target": 0}, {"tol": 0.0}, "tol needs a positive number"),
        ({"target": 0}, {"batch_size": 0}, "batch_size needs at least 1 row, got 0"),
        ({"target": 0}, {"baseline": torch.zeros(2, 12)}, r"convert it with .to\(torch.float64\)"),
        ({"target": 0}, {"baseline": normal(2, 5)}, r"baseline of shape \(2, 5\) does not fit x"),
        ({"target": 0}, {"baseline": (normal(2, 12),)}, "baseline needs the form of x, a Tensor"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(options, call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Attribution(chain(nn.Tanh), **options).attribute(normal(2, 12), **call)


def test_methods_and_metrics_of_the_wrong_kind_are_refused() -> None:
    # With type checks at run time, those come first.
    wrong = r"method needs one of .*, got 'saliency'|Type-check"
    with pytest.raises((ValueError, TypeError), match=wrong):
        Attribution(nn.Identity(), "saliency")
    with pytest.raises(TypeError, match=r"target needs to return a tensor, got float|Type-check"):
        Attribution(chain(nn.Tanh), target=lambda _: 1.0).attribute(normal(2, 12))
    with pytest.raises(ValueError, match="tol belongs to integrated gradients, got tol"):
        Attribution(nn.Identity(), "gradient_x_input").attribute(normal(2, 1), tol=1e-3)
    assert repr(Attribution(nn.Identity(), site="0")) == (
        "Attribution(Identity, 'integrated_gradients', site='0')"
    )


def test_integers_need_a_site_and_a_baseline() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 5))
    x = torch.tensor([[1, 2, 3]])
    with pytest.raises(ValueError, match=r"x holds no floating-point tensor .* name a site"):
        Attribution(model, target=0).attribute(x, x)
    with pytest.raises(ValueError, match="give a baseline in the form of x"):
        Attribution(model, target=0, site="0").attribute(x)
    with pytest.raises(ValueError, match=r"site '0:in' holds torch.int64"):
        Attribution(model, target=0, site="0:in").attribute(x, torch.zeros_like(x))


class Growing(nn.Module):
    """Calls its layer as often as the input is long, or as its value says."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.bias = nn.Identity()

    def forward(self, x):
        n = 1 + int(x.abs().max() > 1)
        for _ in range(n):
            x = self.layer(x)
        for _ in range(1 + int(x.abs().max() > 1)):
            x = self.bias(x)
        return (x * self.bias(torch.ones(x.shape[-1], dtype=x.dtype))).sum(1)


def test_sites_that_differ_between_the_runs_or_lack_the_batch_are_refused() -> None:
    model, big, small = Growing(), torch.full((2, 3), 2.0), torch.full((2, 3), 0.5)
    with pytest.raises(ValueError, match=r"shapes .* for x and .* for the baseline"):
        Attribution(model, site="layer").attribute(big, small)
    with pytest.raises(ValueError, match=r"site 'bias@1' does not carry the batch"):
        Attribution(model, site="bias@1").attribute(small, 0.1)
    with pytest.raises(ValueError, match="the output needs one row per input row, 4"):
        Attribution(Function(lambda x: x.sum(0))).attribute(big)


def test_a_number_of_calls_that_changes_along_the_line_is_refused() -> None:
    class Jumpy(Growing):
        def forward(self, x):
            rows = self.layer(x)
            # Both copies at the ends together have more rows than either alone.
            for _ in range(len(x) - 1 if self.more else 3 - len(x)):
                rows = self.layer(rows)
            return rows.sum(1)

    model, x = Jumpy(), torch.ones(2, 3)
    model.more = True
    with pytest.raises(ValueError, match="reached more often on the line than the 2 times"):
        Attribution(model, site="layer").attribute(x)
    model.more = False
    with pytest.raises(ValueError, match="was reached 1 times on the line and 2 times at its ends"):
        Attribution(model, site="layer").attribute(x)
