"""Counterfactual inputs against the geometry of linear classifiers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor, nn

from neuros_mechint.interventions import CounterfactualSearch

CI = settings(max_examples=25, derandomize=True, deadline=None)


def linear(width: int, n_classes: int, seed: int) -> nn.Linear:
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(width, n_classes).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(n_classes, width, generator=generator))
        layer.bias.copy_(torch.randn(n_classes, generator=generator))
    return layer


def points(n: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randn(n, width, generator=generator, dtype=torch.float64)


@CI
@given(seed=st.integers(0, 10_000), width=st.integers(1, 20), one_logit=st.booleans())
def test_the_distance_to_a_plane_is_that_of_geometry(
    seed: int, width: int, one_logit: bool
) -> None:
    layer = linear(width, 1 if one_logit else 2, seed)
    x = points(6, width, seed)
    w = layer.weight[0] if one_logit else layer.weight[1] - layer.weight[0]
    b = layer.bias[0] if one_logit else layer.bias[1] - layer.bias[0]
    side = (x @ w + b).detach()
    distance = side.abs() / w.detach().norm()
    target = (side < 0).long()
    found = CounterfactualSearch(layer).find(x, target)
    assert bool(found.valid.all())
    reached = found.delta.norm(dim=-1)
    assert bool((reached <= 1.05 * distance).all())
    assert bool((reached >= distance * (1 - 1e-9)).all())
    torch.testing.assert_close(found.x, x + found.delta)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("box", [None, (-1.5, 1.5)])
def test_among_several_classes_the_change_is_that_of_the_quadratic_program(
    seed: int, box: tuple[float, float] | None
) -> None:
    layer = linear(3, 5, seed)
    x = points(1, 3, seed).clamp(-1.5, 1.5)
    W, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    target = 2
    solved = minimize(
        lambda d: 0.5 * d @ d,
        x0=[0.1, 0.1, 0.1],
        jac=lambda d: d,
        bounds=None if box is None else [(box[0] - v, box[1] - v) for v in x[0].tolist()],
        constraints=[
            {
                "type": "ineq",
                "fun": lambda d, c=c: (W[target] - W[c]) @ (x[0].numpy() + d) + b[target] - b[c],
            }
            for c in range(5)
            if c != target
        ],
        options={"ftol": 1e-9, "maxiter": 500},
    )
    found = CounterfactualSearch(layer).find(x, target, box=box)
    logits = W @ (x[0].numpy() + solved.x) + b
    feasible = logits[target] >= logits.max() - 1e-6
    assert bool(found.valid) == feasible
    if feasible:
        assert float(found.delta.norm()) <= 1.05 * math.sqrt(2 * solved.fun) + 1e-12
    if box is not None:
        assert float(found.x.abs().max()) <= 1.5


def test_the_l1_term_changes_one_entry_alone() -> None:
    layer = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 3.0, 2.0]]))
    x = torch.tensor([[-1.0, -1.0, -1.0]], dtype=torch.float64)
    dense = CounterfactualSearch(layer).find(x, 1)
    sparse = CounterfactualSearch(layer).find(x, 1, l1=10.0)
    # With l1 large, the entry with the largest slope pays all: 6 / 3.
    torch.testing.assert_close(
        sparse.delta, torch.tensor([[0.0, 2.0, 0.0]], dtype=torch.float64), atol=1e-3, rtol=0.0
    )
    assert float(sparse.delta.abs().sum()) < float(dense.delta.abs().sum())
    assert float(dense.delta.norm()) < float(sparse.delta.norm())
    assert bool(sparse.valid)
    assert bool(dense.valid)


def test_rows_that_have_the_target_stay_and_the_rest_does_not_depend_on_them() -> None:
    layer = linear(4, 3, 0)
    x = points(8, 4, 0)
    there = layer(x).argmax(-1)
    found = CounterfactualSearch(layer).find(x, there)
    assert bool((found.delta == 0).all())
    assert bool(found.valid.all())
    search = CounterfactualSearch(layer, n_rivals=1)
    together = search.find(x, 1)
    alone = torch.cat([search.find(row, 1).x for row in x[:, None]])
    torch.testing.assert_close(together.x, alone, atol=1e-6, rtol=0.0)
    assert bool(together.valid.all())


def test_a_curved_boundary_is_reached_near_its_nearest_point() -> None:
    class Circle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).square().sum(-1) - 1.0

    x = 0.5 * nn.functional.normalize(points(20, 4, 3)).view(20, 2, 2)
    found = CounterfactualSearch(Circle()).find(x, 1)
    assert bool(found.valid.all())
    assert found.x.shape == x.shape
    assert float(found.delta.flatten(1).norm(dim=-1).max()) <= 0.5 * 1.05


def test_a_network_says_the_target_at_every_valid_row() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.BatchNorm1d(32), nn.Linear(32, 4)).eval()
    x = torch.randn(30, 5)
    found = CounterfactualSearch(net).find(x, 3)
    assert torch.equal(net(found.x).argmax(-1) == 3, found.valid)
    assert float(found.valid.float().mean()) > 0.9
    assert all(parameter.grad is None for parameter in net.parameters())


def test_where_nothing_can_change_the_answer_the_result_says_so() -> None:
    class Deaf(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x[:, 0] * 0 + 1.0, x[:, 0] * 0], dim=-1)

    found = CounterfactualSearch(Deaf()).find(torch.ones(2, 3), 1)
    assert found.valid.tolist() == [False, False]
    assert bool(found.x.isfinite().all())
    boxed = CounterfactualSearch(linear(2, 1, 1)).find(
        torch.zeros(1, 2).double(), 0, box=(0.0, 0.0)
    )
    assert bool(boxed.valid) == bool(linear(2, 1, 1).bias < 0)


def test_wrong_uses_are_refused() -> None:
    search = CounterfactualSearch(linear(2, 3, 0))
    x = points(2, 2, 0)
    assert repr(search) == "CounterfactualSearch(Linear, n_rivals=10)"
    with pytest.raises(ValueError, match="n_rivals needs at least 1 class, got 0"):
        CounterfactualSearch(nn.Identity(), n_rivals=0)
    with pytest.raises(TypeError, match="x needs floating-point inputs"):
        search.find(x.long(), 0)
    with pytest.raises(ValueError, match=r"max_steps >= 1 and l1 >= 0 are needed, got 0 and 0.0"):
        search.find(x, 0, max_steps=0)
    with pytest.raises(ValueError, match=r"max_steps >= 1 and l1 >= 0 are needed, got 50 and -1.0"):
        search.find(x, 0, l1=-1.0)
    with pytest.raises(ValueError, match="x needs to lie inside the box"):
        search.find(x + 5.0, 0, box=(0.0, 1.0))
    with pytest.raises(ValueError, match="target needs classes from 0 to 2, got 3"):
        search.find(x, 3)
    with pytest.raises(ValueError, match=r"target needs a class or one per row, got torch.int64"):
        search.find(x, torch.tensor([1, 2, 0]))
    with pytest.raises(ValueError, match=r"logits \(batch, class\), got \(2, 2, 1\) for 2 rows"):
        CounterfactualSearch(nn.Identity()).find(x[..., None], 0)
