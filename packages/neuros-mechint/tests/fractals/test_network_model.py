"""Networks whose degrees and dimension are known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import zeta

from neuros_mechint.fractals import FractalNetworkModel, GraphFractalDimension
from neuros_mechint.fractals._network_degrees import (
    draw_degrees,
    expected_degrees,
    structural_cutoff,
)


def degrees_of(network):
    if network.is_sparse:
        return np.bincount(network.indices()[0].numpy(), minlength=network.shape[0])
    return network.sum(0).long().numpy()


def exponent(degrees, k_min):
    """Maximum-likelihood exponent of a discrete power law, on a grid of 0.005."""
    kept = degrees[degrees >= k_min]
    gammas = np.arange(1.5, 4, 0.005)
    likelihood = -np.log(zeta(gammas, k_min)) - gammas * np.log(kept).mean()
    return gammas[likelihood.argmax()]


@settings(max_examples=30, derandomize=True, deadline=None)
@given(
    n=st.integers(9, 120),
    gamma=st.floats(2.05, 4.0),
    k_min=st.integers(1, 4),
    method=st.sampled_from(["configuration", "static"]),
    seed=st.integers(0, 10**6),
)
def test_networks_are_simple_and_symmetric(n, gamma, k_min, method, seed):
    model = FractalNetworkModel(n_nodes=n, gamma=gamma, k_min=k_min, method=method, seed=seed)
    network = model.generate()
    assert network.shape == (n, n)
    assert network.dtype == torch.get_default_dtype()
    assert torch.equal(network, network.T)
    assert set(network.unique().tolist()) <= {0.0, 1.0}
    assert network.diagonal().sum() == 0
    assert torch.equal(network, model.generate())


# The standard error of the exponent from 10000 degrees is (gamma - 1) / 100: 0.15 is 7 of them.
@pytest.mark.parametrize("gamma", [2.2, 2.5, 3.0])
def test_degrees_follow_the_exponent(gamma):
    network = FractalNetworkModel(n_nodes=10_000, gamma=gamma, seed=0).generate()
    assert exponent(degrees_of(network), 2) == pytest.approx(gamma, abs=0.15)


# The static model spreads its small degrees: the law is that of the tail, of about 500 nodes.
@pytest.mark.parametrize("gamma", [2.2, 2.5, 3.0])
def test_the_static_model_has_the_exponent_in_its_tail(gamma):
    model = FractalNetworkModel(n_nodes=40_000, gamma=gamma, method="static", k_min=3, seed=0)
    assert exponent(degrees_of(model.generate()), 20) == pytest.approx(gamma, abs=0.25)


def test_expected_degrees_of_the_static_model_are_met():
    model = FractalNetworkModel(n_nodes=400, gamma=3.0, method="static", k_min=4)
    generator = torch.Generator().manual_seed(0)
    mean = sum(model.generate(generator=generator).sum(0) for _ in range(200)) / 200
    expected = torch.from_numpy(expected_degrees(400, 3.0, 4)).float()
    # Away from the hubs, where repeated edges are erased: Poisson, so 200 draws of 4 to 10 leave
    # an error of at most sqrt(10 / 200) = 0.22 at each of 300 nodes, and 0.01 in their mean.
    assert (mean - expected)[100:].abs().max() <= 5 * 0.22 + 0.15
    assert abs((mean - expected)[100:].mean()) <= 0.15


def test_no_degree_exceeds_the_structural_cutoff():
    for n, gamma, k_min in [(10_000, 2.2, 2), (500, 3.0, 1), (10, 2.1, 4)]:
        cutoff = structural_cutoff(n, gamma, k_min)
        k = np.arange(k_min, cutoff + 1.0)
        mean = (k ** (1 - gamma)).sum() / (k**-gamma).sum()
        assert k_min <= cutoff <= math.sqrt(mean * n)
        longer = np.arange(k_min, cutoff + 2.0)
        mean = (longer ** (1 - gamma)).sum() / (longer**-gamma).sum()
        assert cutoff == n - 1 or cutoff + 1 > math.sqrt(mean * n)
        drawn = draw_degrees(n, gamma, k_min, np.random.default_rng(0))
        assert drawn.sum() % 2 == 0
        # One node may have one more, so that the sum is even.
        assert np.sort(drawn)[-2] <= cutoff
        assert drawn.max() <= cutoff + 1


def test_large_networks_are_sparse():
    model = FractalNetworkModel(n_nodes=4097, seed=3)
    network = model.generate()
    assert network.is_sparse
    assert network.is_coalesced()
    dense = network.to_dense()
    assert torch.equal(dense, dense.T)
    assert set(network.values().tolist()) == {1.0}
    assert dense.diagonal().sum() == 0
    assert FractalNetworkModel(n_nodes=4096, seed=3).generate().layout == torch.strided
    assert GraphFractalDimension(n_restarts=0).compute(network).n_nodes > 4000


def test_the_generator_decides():
    model = FractalNetworkModel(n_nodes=100)
    generator = torch.Generator().manual_seed(0)
    first, second = (model.generate(generator=generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, model.generate(generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(model.generate(), model.generate())
    seeded = FractalNetworkModel(n_nodes=100, seed=1)
    assert not torch.equal(seeded.generate(), FractalNetworkModel(n_nodes=100, seed=2).generate())


@pytest.mark.parametrize(("m", "generations"), [(2, 3), (3, 2), (5, 2)])
def test_the_fractal_tree_is_that_of_song_havlin_and_makse(m, generations):
    n = (2 * m + 1) ** generations + 1
    gamma = 1 + math.log(2 * m + 1) / math.log(m)
    model = FractalNetworkModel(n_nodes=n, gamma=gamma, method="shm")
    assert model.offspring == m
    assert model.degree_exponent == pytest.approx(gamma)
    assert model.box_dimension == pytest.approx(math.log(2 * m + 1) / math.log(3))
    network = model.generate()
    assert torch.equal(network, network.T)
    assert network.sum() == 2 * (n - 1)
    found = GraphFractalDimension(max_box=3).compute(network)
    assert found.n_nodes == n
    # A node of degree k gets m k offspring and gives its k edges away to them.
    assert network.sum(0).max() == m**generations
    # Each generation makes every path three times as long, and adds an offspring at both ends.
    distance = GraphFractalDimension(method="memb", n_restarts=0)
    assert distance.boxes(network, float(3**generations * 4)).max() == 0


def test_hubs_repel_in_the_fractal_tree():
    network = FractalNetworkModel(n_nodes=126, gamma=3.3, method="shm").generate()
    degree = network.sum(0)
    hubs = degree >= 4
    assert network[hubs][:, hubs].sum() == 0


def test_small_worlds_have_no_finite_box_dimension():
    for method in ("configuration", "static"):
        model = FractalNetworkModel(n_nodes=50, gamma=2.7, method=method)
        assert model.box_dimension == math.inf
        assert model.degree_exponent == 2.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 2.0}, "gamma must be above 2, where the mean degree is finite, got 2.0"),
        ({"gamma": math.nan}, "gamma must be above 2"),
        ({"k_min": 0}, "k_min must be at least 1, got 0"),
        ({"n_nodes": 4}, "n_nodes must be above 2 \\* k_min = 4, got 4"),
        ({"method": "lattice"}, "method"),
        ({"method": "shm"}, "the nearest are 12 and 122"),
        ({"method": "shm", "n_nodes": 1}, "the nearest are 2 and 12"),
        ({"method": "shm", "gamma": 4.0}, "exponents up to 3.32, got gamma = 4.0"),
        ({"method": "shm", "gamma": 2.001}, "makes .* nodes, got n_nodes = 100"),
    ],
)
def test_bad_options_are_refused(options, message):
    # A type error comes from the shape checker, which sees the options first when it is on.
    with pytest.raises((ValueError, TypeError), match=message):
        FractalNetworkModel(**{"n_nodes": 100, **options})


def test_two_sources_of_randomness_are_refused():
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="pass only one"):
        FractalNetworkModel(n_nodes=100, seed=0).generate(generator=generator)
    with pytest.raises(ValueError, match="'shm', which draws nothing"):
        FractalNetworkModel(n_nodes=12, method="shm").generate(generator=generator)


def test_repr_is_the_constructor():
    model = FractalNetworkModel(n_nodes=100, gamma=2.7, seed=3)
    assert repr(model) == (
        "FractalNetworkModel(n_nodes=100, gamma=2.7, k_min=2, method='configuration', seed=3)"
    )
