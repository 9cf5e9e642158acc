"""The spectral dimension of graphs whose diffusion is known, and the objective on attention."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from neuros_mechint.fractals import GraphFractalityPrior
from neuros_mechint.fractals._graph_spectrum import spectral_dimension


def ring(n: int) -> torch.Tensor:
    return torch.eye(n, dtype=torch.float64).roll(1, 0)


def gasket(order: int) -> torch.Tensor:
    """Sierpinski's graph: three copies of the last one, joined at their corners."""
    edges = np.array([[0, 1], [1, 1j], [1j, 0]])
    for k in range(order):
        edges = np.concatenate([edges + shift * 2**k for shift in (0, 1, 1j)])
    ends = np.unique(edges, return_inverse=True)[1].reshape(-1, 2)
    adjacency = torch.zeros(ends.max() + 1, ends.max() + 1, dtype=torch.float64)
    adjacency[tuple(ends.T)] = 1
    return adjacency


def random_weights(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# The walk on a line has P(t) = (2 pi t)^{-1/2} (1 + 1 / 8 t + ...): its slope from t = 3 on is
# 4 % steeper at first, 2 % over the range.
def test_a_ring_has_spectral_dimension_one() -> None:
    assert spectral_dimension(ring(200)).item() == pytest.approx(1, abs=0.05)
    assert spectral_dimension(ring(200).float()).item() == pytest.approx(1, abs=0.05)


def test_a_sierpinski_graph_has_the_dimension_of_fractons() -> None:
    found = spectral_dimension(gasket(5).numpy())
    assert isinstance(found, np.ndarray)
    assert found == pytest.approx(2 * math.log(3) / math.log(5), abs=0.06)


def test_a_torus_of_three_axes_has_spectral_dimension_three() -> None:
    step = ring(7) + ring(7).T
    one = torch.eye(7, dtype=torch.float64)
    torus = sum(
        torch.kron(torch.kron(a, b), c)
        for a, b, c in [(step, one, one), (one, step, one), (one, one, step)]
    )
    times = torch.linspace(math.log(10), math.log(20), 32).exp()
    assert spectral_dimension(torus, times).item() == pytest.approx(3, abs=0.2)


def test_two_copies_of_a_graph_have_its_dimension() -> None:
    # P(t) of a disjoint union is the mean of both.
    both = torch.block_diag(ring(60), ring(60))
    torch.testing.assert_close(spectral_dimension(both), spectral_dimension(ring(60)))


def test_unit_order_and_direction_do_not_matter() -> None:
    weights = random_weights(12, 12).triu(1)
    expected = spectral_dimension(weights)
    torch.testing.assert_close(spectral_dimension(1e-30 * weights), expected)
    torch.testing.assert_close(spectral_dimension(weights.T.contiguous()), expected)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(spectral_dimension(weights[order][:, order]), expected)


def test_a_batch_is_its_items() -> None:
    weights = random_weights(2, 3, 10, 10)
    whole = spectral_dimension(weights)
    assert whole.shape == (2, 3)
    torch.testing.assert_close(spectral_dimension(weights[1, 2]), whole[1, 2], rtol=1e-10, atol=0)


def test_the_gradient_is_exact_and_finite_where_eigenvalues_coincide() -> None:
    times = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    weights = random_weights(2, 6, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: spectral_dimension(w, times), (weights,))
    # The default range moves with the graph: before and after the walk relaxes.
    assert torch.autograd.gradcheck(spectral_dimension, (weights,))
    slow = (ring(30) + 0.01 * random_weights(30, 30)).requires_grad_()
    assert torch.autograd.gradcheck(spectral_dimension, (slow,), fast_mode=True)
    for graph in (ring(20), torch.ones(20, 20, dtype=torch.float64)):
        graph.requires_grad_()
        (gradient,) = torch.autograd.grad(spectral_dimension(graph), graph)
        assert gradient.isfinite().all()


def test_a_graph_without_edges_has_no_dimension() -> None:
    graphs = torch.stack([ring(20), torch.zeros(20, 20, dtype=torch.float64)]).requires_grad_()
    with pytest.warns(UserWarning, match="1 of 2 items have no edges"):
        found = spectral_dimension(graphs)
    assert found.isnan().tolist() == [False, True]
    (gradient,) = torch.autograd.grad(found[0], graphs)
    assert gradient.isfinite().all()
    assert (gradient[1] == 0).all()


def test_half_precision_is_computed_in_float32() -> None:
    weights = random_weights(8, 8).to(torch.bfloat16)
    found = spectral_dimension(weights)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, spectral_dimension(weights.float()))


@pytest.mark.parametrize(
    ("matrix", "times", "message"),
    [
        (torch.ones(3, 4), None, r"shape \(..., node, node\).* got \(3, 4\)"),
        (torch.ones(1, 1), None, "at least 2 nodes"),
        (torch.full((2, 3, 3), math.nan), None, "in 2 of 2 items"),
        (-torch.ones(3, 3), None, "must not be negative"),
        (torch.ones(3, 3), torch.ones(4), "at least 2 different positive"),
        (torch.ones(3, 3), torch.tensor([-1.0, 2.0]), "at least 2 different positive"),
    ],
)
def test_what_is_not_a_graph_is_refused(matrix, times, message) -> None:
    with pytest.raises(ValueError, match=message):
        spectral_dimension(matrix, times)


def test_a_list_is_not_a_graph() -> None:
    with pytest.raises(TypeError, match=r"adjacency must be a torch.Tensor|Type-check error"):
        spectral_dimension([[0, 1], [1, 0]])


SURROGATES = ["spectral", "correlation"]


def on_a_torus(side: int, n_dims: int) -> torch.Tensor:
    """Attention that falls off with the distance on a torus of `n_dims` axes."""
    axis = torch.arange(side, dtype=torch.float64)
    points = torch.cartesian_prod(*[axis] * n_dims).reshape(-1, n_dims)
    step = (points[:, None] - points).abs()
    return (-torch.minimum(step, side - step).norm(dim=-1)).exp()


def test_the_penalty_is_the_squared_distance_from_the_target() -> None:
    attention = random_weights(2, 3, 12, 12).softmax(-1)
    expected = 0.5 * (spectral_dimension(attention) - 1.2).square()
    found = GraphFractalityPrior(target_dim=1.2, weight=0.5, reduction="none")(attention)
    torch.testing.assert_close(found, expected)
    mean = GraphFractalityPrior(target_dim=1.2, weight=0.5)(attention)
    assert mean.shape == ()
    torch.testing.assert_close(mean, expected.mean())
    times = torch.linspace(math.log(2), math.log(9), 32, dtype=torch.float64).exp()
    ranged = GraphFractalityPrior(target_dim=1.2, weight=0.5, t_range=(2.0, 9.0))(attention)
    expected = 0.5 * (spectral_dimension(attention, times) - 1.2).square().mean()
    torch.testing.assert_close(ranged, expected)


# A whole number of points within a radius of a few steps is not its area.
@pytest.mark.parametrize(("n_dims", "side"), [(1, 200), (2, 20)])
def test_attention_that_falls_off_has_the_correlation_dimension_of_its_points(
    n_dims: int, side: int
) -> None:
    prior = GraphFractalityPrior(target_dim=0.0, weight=1.0, surrogate="correlation")
    found = prior(on_a_torus(side, n_dims)).sqrt().item()
    assert found == pytest.approx(n_dims, abs=0.1)


def test_correlations_follow_the_shortest_paths() -> None:
    # Only neighbours attend to each other: the distance on the ring is that of the path.
    chain = torch.eye(60, dtype=torch.float64) + math.exp(-1) * ring(60)
    chain = torch.maximum(chain, chain.T)
    radii = (2.0, 12.0)
    prior = GraphFractalityPrior(target_dim=0.0, weight=1.0, surrogate="correlation", t_range=radii)
    step = torch.arange(60, dtype=torch.float64)
    step = torch.minimum(step, 60 - step)[1:]
    log_r = torch.linspace(math.log(2), math.log(12), 32, dtype=torch.float64)
    shares = torch.sigmoid((log_r[:, None] - step.log()) / 0.1).mean(-1).log()
    slope = np.polyfit(log_r.numpy(), shares.numpy(), 1)[0]
    assert prior(chain).item() == pytest.approx(slope**2)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("t_range", [None, (0.5, 4.0)])
def test_the_gradient_passes_gradcheck(surrogate, t_range) -> None:
    attention = random_weights(2, 6, 6).requires_grad_()
    prior = GraphFractalityPrior(weight=1.0, surrogate=surrogate, t_range=t_range)
    assert torch.autograd.gradcheck(prior, (attention,))


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_gradients_are_finite_on_symmetric_graphs(surrogate) -> None:
    complete = torch.ones(20, 20, dtype=torch.float64)
    distinct = complete + torch.eye(20, dtype=torch.float64)
    for graph in (complete, distinct, ring(20), distinct + ring(20), gasket(2)):
        graph.requires_grad_()
        penalty = GraphFractalityPrior(weight=1.0, surrogate=surrogate)(graph)
        (gradient,) = torch.autograd.grad(penalty, graph)
        assert penalty.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_a_graph_without_scales_adds_nothing(surrogate) -> None:
    graphs = random_weights(3, 8, 8)
    graphs[1] = 0
    graphs.requires_grad_()
    prior = GraphFractalityPrior(weight=1.0, surrogate=surrogate, reduction="none")
    penalty = prior(graphs)
    (gradient,) = torch.autograd.grad(penalty.sum(), graphs)
    assert penalty[1] == 0
    assert (penalty[[0, 2]] > 0).all()
    assert (gradient[1] == 0).all()
    assert gradient.isfinite().all()
    if surrogate == "correlation":
        # Edges of the largest weight have length zero: every node is at the same place.
        assert prior(torch.ones(5, 5)) == 0


# Rings of three and ten: unreachable pairs count as far.
def test_correlations_bear_graphs_in_pieces() -> None:
    both = torch.block_diag(on_a_torus(10, 1), on_a_torus(3, 1)).requires_grad_()
    penalty = GraphFractalityPrior(weight=1.0, surrogate="correlation")(both)
    (gradient,) = torch.autograd.grad(penalty, both)
    assert penalty.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.slow  # 300 optimiser steps
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_attention_scores_are_taken_to_the_target(surrogate) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(64, 64, generator=generator).requires_grad_()
    prior = GraphFractalityPrior(target_dim=2.0, weight=1.0, surrogate=surrogate)
    optimizer = torch.optim.Adam([scores], lr=0.05)
    start = prior(scores.softmax(-1)).item()
    for _ in range(300):
        optimizer.zero_grad()
        prior(scores.softmax(-1)).backward()
        optimizer.step()
    assert prior(scores.softmax(-1)).item() < 1e-4 < start


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_a_batch_of_attention_is_its_items(surrogate) -> None:
    attention = random_weights(2, 3, 10, 10).softmax(-1)
    prior = GraphFractalityPrior(surrogate=surrogate, reduction="none")
    whole = prior(attention)
    assert whole.shape == (2, 3)
    torch.testing.assert_close(prior(attention[1, 2]), whole[1, 2], rtol=1e-10, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_weight_zero_is_exactly_zero_without_a_graph(reduction) -> None:
    attention = torch.full((2, 4, 4), math.nan, requires_grad=True)
    zero = GraphFractalityPrior(weight=0.0, reduction=reduction)(attention)
    assert zero.shape == (() if reduction == "mean" else (2,))
    assert (zero == 0).all()
    assert zero.grad_fn is None


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_half_precision_and_autocast_are_computed_in_single_precision(surrogate) -> None:
    attention = random_weights(2, 8, 8).float().softmax(-1)
    prior = GraphFractalityPrior(surrogate=surrogate)
    half = attention.to(torch.bfloat16)
    torch.testing.assert_close(prior(half), prior(half.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = prior(attention.requires_grad_())
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside.detach(), prior(attention).detach())
    inside.backward()


@pytest.mark.slow  # a new interpreter, because a run-time shape checker cannot be traced
def test_the_prior_compiles() -> None:
    code = (
        "import torch\n"
        "from neuros_mechint.fractals import GraphFractalityPrior\n"
        "x = torch.randn(2, 6, 6).softmax(-1)\n"
        "for surrogate in ('spectral', 'correlation'):\n"
        "    prior = GraphFractalityPrior(surrogate=surrogate)\n"
        "    compiled = torch.compile(prior, backend='eager', fullgraph=False)\n"
        "    torch.testing.assert_close(compiled(x), prior(x))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_the_prior_follows_the_device(surrogate) -> None:
    attention = random_weights(2, 12, 12).softmax(-1)
    prior = GraphFractalityPrior(surrogate=surrogate)
    there = attention.cuda().requires_grad_()
    penalty = prior(there)
    assert penalty.is_cuda
    torch.testing.assert_close(penalty.cpu(), prior(attention))
    penalty.backward()
    assert there.grad.isfinite().all()


def test_the_prior_is_an_objective_on_attention() -> None:
    prior = GraphFractalityPrior(weight=0.3)
    assert (prior.name, prior.reads, prior.weight) == ("graph_fractality_prior", "attention", 0.3)
    assert list(prior.parameters()) == []
    assert repr(prior) == (
        "GraphFractalityPrior(target_dim=2.0, weight=0.3, surrogate='spectral', t_range=None, "
        "reduction='mean')"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_dim": math.inf}, "target_dim must be finite, got inf"),
        ({"weight": -1.0}, "weight must be finite and at least 0, got -1.0"),
        ({"surrogate": "boxes"}, "surrogate"),
        ({"reduction": "sum"}, "reduction"),
        ({"t_range": (3.0, 3.0)}, r"0 < low < high, got \(3.0, 3.0\)"),
    ],
)
def test_bad_options_are_refused(options, message) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        GraphFractalityPrior(**options)


def test_bad_attention_is_refused() -> None:
    # The second message is that of the shape checker, which sees the argument first when it is on.
    with pytest.raises(TypeError, match=r"torch.Tensor, got ndarray|Type-check error"):
        GraphFractalityPrior()(np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"attention needs shape .* got \(3, 4\)"):
        GraphFractalityPrior()(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="attention must not be negative"):
        GraphFractalityPrior()(-torch.ones(4, 4))
    with pytest.raises(ValueError, match=r"attention must be finite, .* 1 of 1"):
        GraphFractalityPrior()(torch.full((4, 4), math.nan))
