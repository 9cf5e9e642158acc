"""Methods that captum computes: on any site, any target, from our generator."""

import sys

import numpy as np
import pytest
import torch
from sklearn.utils import check_random_state
from torch import nn

from neuros_mechint.attribution import Attribution
from neuros_mechint.interventions import cross_entropy

# Those that give a linear model's own terms, with enough samples for the regression.
EXACT = [
    "deeplift",
    "gradient_shap",
    "feature_ablation",
    "occlusion",
    "kernel_shap",
    "shapley_value_sampling",
]
TARGETS = [1, torch.tensor([1, 1, 1]), lambda y: y[:, 1]]


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Identity(), nn.Linear(5, 3)).double()


def explainer(net: nn.Module, method: str, **options) -> Attribution:
    window = (1,) if method == "occlusion" else None
    return Attribution(net, method, window=window, **options)


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("site", [None, "1"])
@pytest.mark.parametrize("target", TARGETS, ids=["index", "tensor", "function"])
def test_captums_methods_are_exact_on_a_linear_model_at_any_site(
    gen, normal, method, site, target
) -> None:
    pytest.importorskip("captum")
    net, x, start = linear(), normal(3, 4), normal(1, 4, seed=1)
    steps = 40 if method == "kernel_shap" else 3
    result = explainer(net, method, site=site, target=target).attribute(
        x, start, steps=steps, generator=gen()
    )
    expected = Attribution(net, site=site, target=1).attribute(x, start).values
    # captum sums the values of features in single precision.
    torch.testing.assert_close(result.values, expected, atol=2e-5, rtol=0.0)
    assert result.delta.abs().max() < 2e-5
    assert result.values.dtype == torch.float64


@pytest.mark.parametrize("site", [None, "1"])
@pytest.mark.parametrize("target", TARGETS, ids=["index", "tensor", "function"])
def test_lime_ranks_the_terms_of_a_linear_model(gen, normal, site: str | None, target) -> None:
    pytest.importorskip("captum")
    net, x, start = linear(), 3 * normal(3, 4), normal(1, 4, seed=1)
    lime = explainer(net, "lime", site=site, target=target)
    values = lime.attribute(x, start, steps=200, generator=gen()).values
    expected = Attribution(net, site=site, target=1).attribute(x, start).values
    # The penalty of its lasso takes from every weight, at a factor of 0.25 in the variance.
    torch.testing.assert_close(values, expected, atol=0.1, rtol=0.1)
    strong = expected.abs() > 0.3
    assert torch.equal(values[strong].sign(), expected[strong].sign())


@pytest.mark.parametrize("batch_size", [1, 7, 500])
@pytest.mark.parametrize("method", ["lime", "kernel_shap", "occlusion"])
def test_labels_that_a_target_holds_stay_with_their_rows(
    gen, normal, chain, method: str, batch_size: int
) -> None:
    pytest.importorskip("captum")
    net, x, labels = chain(nn.Tanh, width=4), normal(3, 4), torch.tensor([0, 2, 1])

    def values(rows: slice) -> torch.Tensor:
        one = explainer(net, method, target=cross_entropy(labels[rows]))
        return one.attribute(x[rows], steps=60, batch_size=batch_size, generator=gen()).values

    # Every row alone, with the numbers that are drawn for it.
    together = values(slice(0, 3))
    assert (together[0] - values(slice(0, 1))[0]).abs().max() < 1e-5
    # The loss of a label is a component of the log-probabilities, which an index per row names.
    logs = nn.Sequential(net, nn.LogSoftmax(1))
    one = explainer(logs, method, target=labels)
    again = one.attribute(x, steps=60, batch_size=batch_size, generator=gen()).values
    torch.testing.assert_close(together, -again, atol=1e-5, rtol=1e-5)


def test_occlusion_covers_windows_of_neighbours(Function) -> None:
    pytest.importorskip("captum")
    weights = torch.tensor([1.0, 10.0, 100.0, 1000.0], dtype=torch.float64)
    model = Function(lambda x: x @ weights)
    found = Attribution(model, "occlusion", window=(2,)).attribute(torch.ones(1, 4).double())
    # Windows give 11, 110 and 1100; a number in two windows has their mean.
    expected = torch.tensor([[11.0, 60.5, 605.0, 1100.0]], dtype=torch.float64)
    torch.testing.assert_close(found.values, expected)


def test_a_permutation_takes_values_of_other_rows(gen, normal, Function) -> None:
    pytest.importorskip("captum")
    weights = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    model = Function(lambda x: x @ weights)
    x = normal(5, 3)
    values = Attribution(model, "feature_permutation").attribute(x, 0.0, generator=gen()).values
    taken = x - values / weights
    torch.testing.assert_close(taken.sort(0).values, x.sort(0).values, atol=1e-6, rtol=0.0)
    assert (taken - x).abs().max() > 0.1


def test_kernel_shap_and_orders_agree_on_an_interaction(gen, Function) -> None:
    pytest.importorskip("captum")
    model = Function(lambda x: x[:, 0] * x[:, 1] + x[:, 2])
    x = torch.tensor([[2.0, 3.0, 5.0]], dtype=torch.float64)
    # A product is shared equally: 3 and 3.
    expected = torch.tensor([[3.0, 3.0, 5.0]], dtype=torch.float64)
    for method, steps in {"kernel_shap": 2000, "shapley_value_sampling": 400}.items():
        values = Attribution(model, method).attribute(x, steps=steps, generator=gen()).values
        # 400 fair coins: five standard deviations of 6 / sqrt(1600) are 0.75.
        torch.testing.assert_close(values, expected, atol=0.75, rtol=0.0)


def test_deeplift_is_complete_where_gradients_are_not(normal, chain) -> None:
    pytest.importorskip("captum")
    net, x = chain(nn.ReLU), normal(3, 12)
    assert Attribution(net, "gradient_x_input", target=0).attribute(x).delta.abs().max() > 1e-3
    deep = Attribution(net, "deeplift", site="1", target=0).attribute(x)
    assert deep.delta.abs().max() < 1e-10


def test_samples_come_from_the_generator_alone(gen, normal, chain) -> None:
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


METHODS = [*EXACT, "lime", "feature_permutation"]


@pytest.mark.parametrize("method", METHODS)
def test_captums_methods_need_a_value_per_row(gen, normal, chain, method: str) -> None:
    pytest.importorskip("captum")
    net, x = chain(nn.Tanh, width=4), normal(2, 4)
    one = explainer(net, method, target=lambda y: y.sum())
    with pytest.raises(ValueError, match="a target with one value per row, got one for all rows"):
        one.attribute(x, generator=gen())


@pytest.mark.parametrize(
    "method",
    ["gradient_shap", "feature_permutation", "lime", "kernel_shap", "shapley_value_sampling"],
)
def test_methods_that_draw_need_a_generator_and_use_it_alone(
    gen, normal, chain, method: str
) -> None:
    pytest.importorskip("captum")
    one, x = Attribution(chain(nn.Tanh), method, target=0), normal(6, 12)
    before = torch.get_rng_state()
    values = [one.attribute(x, steps=8, generator=gen(seed)).values for seed in (0, 0, 1)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match=rf"'{method}' draws samples; pass generator="):
        one.attribute(x)


def test_settings_that_captum_cannot_take_are_refused(gen, normal, chain) -> None:
    pytest.importorskip("captum")
    net, x = chain(nn.Tanh), normal(2, 12)
    with pytest.raises(ValueError, match="steps needs at least 1, got 0"):
        Attribution(net, "deeplift", target=0).attribute(x, steps=0)
    with pytest.raises(ValueError, match="x needs at least 2"):
        Attribution(net, "feature_permutation", target=0).attribute(x[:1], generator=gen())
    with pytest.raises(ValueError, match=r"window belongs to 'occlusion', got \(1,\) with 'lime'"):
        Attribution(net, "lime", window=(1,))
    for window in (None, (1, 1), (0,), (13,)):
        one = Attribution(net, "occlusion", target=0, window=window)
        with pytest.raises(ValueError, match=r"needs window= .* of a row \(12,\), at most"):
            one.attribute(x)
