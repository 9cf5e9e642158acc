"""Losses whose curvature is known, and models that come back bit by bit."""

import contextlib
import copy

import pytest
import torch
from torch import nn

from neuros_mechint.dynamics.landscape import LossLandscape


@pytest.fixture
def mlp():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).double()


@pytest.fixture
def loss():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    return lambda model: (model(x) - y).square().mean()


def exact_hessian(model, loss):
    parameters = dict(model.named_parameters())
    flat = torch.cat([p.detach().reshape(-1) for p in parameters.values()])

    def at(vector):
        parts = vector.split([p.numel() for p in parameters.values()])
        named = {k: v.view_as(p) for (k, p), v in zip(parameters.items(), parts, strict=True)}
        return loss(lambda x: torch.func.functional_call(model, named, (x,)))

    return torch.autograd.functional.hessian(at, flat)


def test_largest_eigenvalues_are_those_of_the_exact_hessian(mlp, loss):
    hessian = exact_hessian(mlp, loss)
    values, vectors = LossLandscape(mlp, loss).hessian_spectrum(
        5, generator=torch.Generator().manual_seed(1)
    )
    exact = torch.linalg.eigvalsh(hessian).flip(0)[:5]
    torch.testing.assert_close(values, exact, atol=1e-4, rtol=0)
    torch.testing.assert_close(vectors @ hessian, values[:, None] * vectors, atol=1e-4, rtol=0)


def test_whole_spectrum_of_a_repeated_eigenvalue_is_found():
    model = nn.Linear(4, 1, bias=False).double()
    scale = torch.tensor([2.0, 2.0, -1.0, 0.0], dtype=torch.float64)
    bowl = LossLandscape(model, lambda m: (m.weight.square() * scale).sum() / 2)
    torch.testing.assert_close(
        bowl.hessian_spectrum(4).eigenvalues, scale.sort(descending=True).values
    )


def test_trace_is_exact_for_a_low_rank_and_close_for_a_network(mlp, loss):
    trace = exact_hessian(mlp, loss).trace()
    generator = torch.Generator().manual_seed(0)
    found = LossLandscape(mlp, loss).hessian_trace(n_products=60, generator=generator)
    assert float(found) == pytest.approx(float(trace), rel=0.05)
    every = LossLandscape(mlp, loss).hessian_trace(n_products=114, generator=generator)
    assert float(every) == pytest.approx(float(trace), rel=1e-6)


def test_loss_that_is_linear_has_no_curvature():
    flat = LossLandscape(nn.Linear(2, 1), lambda m: m.weight.sum())
    assert float(flat.hessian_trace()) == 0
    assert flat.hessian_spectrum(1).eigenvalues.tolist() == [0.0]


def test_path_between_two_minima_rises_by_the_barrier():
    model = nn.Linear(1, 1, bias=False)
    double_well = LossLandscape(model, lambda m: (m.weight.square() - 1).square().sum())
    a, b = {"weight": torch.tensor([[-1.0]])}, {"weight": torch.tensor([[1.0]])}
    path = double_well.interpolate(a, b, n=5)
    assert path.losses.tolist() == pytest.approx([0, 0.5625, 1, 0.5625, 0])
    assert float(double_well.barrier(a, b)) == pytest.approx(1)
    assert path.to_dict()["alphas"] == [0, 0.25, 0.5, 0.75, 1]


def test_plane_has_the_model_in_its_middle_and_keeps_filter_norms(mlp, loss):
    landscape = LossLandscape(mlp, loss)
    plane = landscape.plane(5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(plane.losses[2, 2], loss(mlp).detach())
    for direction in plane.directions:
        norms = direction["0.weight"].norm(dim=1)
        torch.testing.assert_close(norms, mlp[0].weight.detach().norm(dim=1))
        assert not direction["0.bias"].any()
    free = landscape.plane(3, radius=0.5, filter_normalize=False)
    assert free.alphas.tolist() == [-0.5, 0, 0.5]
    whole = torch.cat([d.reshape(-1) for d in free.directions[0].values()]).norm()
    torch.testing.assert_close(
        whole, nn.utils.parameters_to_vector(mlp.parameters()).norm().detach()
    )


@pytest.mark.parametrize("fails", [False, True])
def test_model_comes_back_bit_by_bit(fails):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model[0].weight.requires_grad_(False)
    model[2].weight.grad = torch.ones_like(model[2].weight)
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))

    def loss(m):
        # In training mode the forward has moved the statistics of the norm by then.
        value = m(x).square().mean()
        if fails:
            raise RuntimeError("the loss failed")
        return value

    landscape = LossLandscape(model, loss)
    for call in (
        lambda: landscape.plane(3),
        lambda: landscape.interpolate(before, before),
        lambda: landscape.hessian_spectrum(1),
        landscape.hessian_trace,
    ):
        expected = pytest.raises(RuntimeError, match="the loss failed")
        with expected if fails else contextlib.nullcontext():
            call()
        after = model.state_dict()
        assert all(torch.equal(before[k], after[k]) for k in before)
        assert not model[0].weight.requires_grad
        assert torch.equal(model[2].weight.grad, torch.ones_like(model[2].weight))
        assert model[0].bias.grad is None
        assert model.training


def test_bad_arguments_are_refused(mlp, loss):
    landscape = LossLandscape(mlp, loss)
    theta = mlp.state_dict()
    with pytest.raises(ValueError, match="model needs parameters, Tanh has none"):
        LossLandscape(nn.Tanh(), loss)
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        landscape.interpolate(theta, theta, n=1)
    with pytest.raises(ValueError, match="plane needs n >= 2 and radius > 0, got n=1"):
        landscape.plane(1)
    with pytest.raises(ValueError, match=r"theta_a lacks the parameter '0\.weight'"):
        landscape.interpolate({}, theta)
    with pytest.raises(ValueError, match=r"theta_b\['0.bias'\] has shape \(1,\), the model needs"):
        landscape.interpolate(theta, {**theta, "0.bias": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"theta_a\['0.bias'\] holds NaN or inf"):
        landscape.interpolate({**theta, "0.bias": torch.full((6,), torch.nan)}, theta)
    with pytest.raises((TypeError, ValueError), match=r"theta_a must map names|Type-check"):
        landscape.barrier(torch.zeros(3), theta)
    with pytest.raises(ValueError, match="k must be between 1 and 38"):
        landscape.hessian_spectrum(39)
    with pytest.raises(ValueError, match="n_products must be at least 3, got 2"):
        landscape.hessian_trace(n_products=2)
    with pytest.raises(ValueError, match=r"loss_fn must return a scalar tensor, got \(2, 2\)"):
        LossLandscape(mlp, lambda _: torch.ones(2, 2)).hessian_trace()
    assert repr(landscape) == "LossLandscape(Sequential)"
