"""Motifs: exact counts, null graphs that keep what they promise, honest p values."""

import math

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_mechint.circuits._motif_census import NAMES, canonical_codes, signed_census
from neuros_mechint.circuits._motif_nulls import erdos_nulls, swapped_nulls
from neuros_mechint.circuits.motifs import MotifFinder


def random_graph(n, density, seed):
    generator = torch.Generator().manual_seed(seed)
    graph = (torch.rand(n, n, generator=generator) < density).float()
    return graph.fill_diagonal_(0) * (1 - 2 * (torch.rand(n, n, generator=generator) < 0.3).float())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=20, derandomize=True, deadline=None)
@given(n=st.integers(3, 25), density=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_counts_are_the_triadic_census_of_networkx(n, density, seed):
    graph = random_graph(n, density, seed)
    census = nx.triadic_census(
        nx.from_numpy_array(graph.ne(0).numpy().astype(int), create_using=nx.DiGraph)
    )
    counts = MotifFinder(n_null=1, n_swaps=1, generator=seeded()).find(graph).counts
    assert counts.tolist() == [census[name] for name in NAMES]


def test_diagonal_is_ignored():
    graph = random_graph(12, 0.3, 0)
    looped = graph + torch.eye(12)
    first, second = (MotifFinder(n_null=3, generator=seeded()).find(x) for x in (graph, looped))
    assert torch.equal(first.counts, second.counts)
    assert torch.equal(first.p, second.p)


def test_batch_counts_are_those_of_each_graph():
    graphs = torch.stack([random_graph(15, d, 1) for d in (0.1, 0.3, 0.6)]).view(3, 1, 15, 15)
    together = MotifFinder(n_null=5, generator=seeded()).find(graphs.numpy())
    assert together.z.shape == (3, 1, 16)
    for k in range(3):
        alone = MotifFinder(n_null=5, generator=seeded()).find(graphs[k, 0])
        assert torch.equal(together.counts[k, 0], alone.counts)


def test_same_generator_state_gives_the_same_result():
    graph = random_graph(20, 0.2, 2)
    first, second = (MotifFinder(n_null=20, generator=seeded(5)).find(graph) for _ in range(2))
    assert torch.equal(first.null_mean, second.null_mean)


@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("density", [0.05, 0.4, 0.8])
def test_rewiring_keeps_every_degree(density, reciprocal):
    weights = torch.stack([random_graph(30, density, k) for k in (0, 1)]).repeat(3, 1, 1)
    edges, negative = weights != 0, weights < 0
    drawn, signs = swapped_nulls(edges, negative, 4, seeded(), reciprocal=reciprocal)
    assert torch.equal(drawn.sum(-1), edges.sum(-1))
    assert torch.equal(drawn.sum(-2), edges.sum(-2))
    assert not drawn.diagonal(dim1=-2, dim2=-1).any()
    # The sign belongs to the node that sends.
    assert torch.equal(signs.sum(-1), negative.sum(-1))
    assert not (signs & ~drawn).any()
    assert not torch.equal(drawn, edges)
    if reciprocal:
        assert torch.equal((drawn & drawn.mT).sum(-1), (edges & edges.mT).sum(-1))


def test_rewired_graphs_are_all_equally_likely():
    # Four nodes of one edge out and one in: the nine derangements of four.
    cycle = torch.eye(4).roll(1, 0).bool().expand(4500, 4, 4)
    drawn, _ = swapped_nulls(cycle, torch.zeros_like(cycle), 10, seeded(), reciprocal=False)
    _, counts = drawn.flatten(1).unique(dim=0, return_counts=True)
    assert len(counts) == 9
    # Chi-square with eight degrees of freedom: above 42.7 with probability 1e-6.
    assert float(((counts - 500.0) ** 2 / 500).sum()) < 42.7


def test_erdos_nulls_keep_the_number_of_edges_and_of_negative_ones():
    weights = random_graph(20, 0.3, 3).repeat(5, 1, 1)
    drawn, signs = erdos_nulls(weights != 0, weights < 0, seeded())
    assert (drawn.sum((-2, -1)) == weights[0].ne(0).sum()).all()
    assert (signs.sum((-2, -1)) == weights[0].lt(0).sum()).all()
    assert not (signs & ~drawn).any()
    assert not drawn.diagonal(dim1=-2, dim2=-1).any()


def test_planted_feed_forward_loops_are_found():
    n = 60
    graph = torch.zeros(n, n)
    for k in range(0, n, 3):
        graph[k, k + 1] = graph[k, k + 2] = graph[k + 1, k + 2] = 1
    for k in range(n):
        graph[k, (7 * k + 3) % n] = 1
    result = MotifFinder(n_null=99, generator=seeded()).find(graph.fill_diagonal_(0))
    where = NAMES.index("030T")
    assert result.z[where] > 5
    assert result.p[where] == 1 / 100
    assert result.q[where] < 0.05
    assert float(result.significance_profile.norm()) == pytest.approx(1)


@pytest.mark.slow  # hundreds of nulls of many graphs: the distribution of p is what is tested
@pytest.mark.parametrize("null", ["degree", "degree_reciprocal", "erdos"])
def test_p_values_of_random_graphs_are_uniform(null):
    graphs = torch.stack([random_graph(14, 0.25, 100 + k).abs() for k in range(100)])
    result = MotifFinder(null=null, n_null=19, n_swaps=3, generator=seeded(1)).find(graphs)
    p = result.p[:, NAMES.index("021C")]
    # Binomial(100, 0.1) above 28 and Binomial(100, 0.5) below 26 are less likely than 1e-6 each.
    assert int((p <= 0.1).sum()) <= 28
    assert int((p > 0.5).sum()) >= 26


def test_signed_counts_split_the_whole():
    graph = random_graph(20, 0.3, 4)
    signed = MotifFinder(signed=True, n_null=2, generator=seeded()).find(graph)
    whole = MotifFinder(n_null=2, generator=seeded()).find(graph)
    assert signed.counts.shape == (3, 16)
    assert torch.equal(signed.counts.sum(0), whole.counts)
    edges = (graph != 0)[None]
    every = signed_census(edges, edges)[0]
    assert torch.equal(every[1, 1:], whole.counts[1:])
    assert every[0].sum() == 0


def test_four_nodes_in_a_ring_are_one_kind():
    codes, names = canonical_codes()
    assert len(codes) == 4096
    assert len(names) == 218
    ring = torch.eye(4).roll(1, 0)
    result = MotifFinder(size=4, n_samples=50, n_null=3, generator=seeded()).find(ring)
    assert int(result.counts.count_nonzero()) == 1
    assert float(result.counts.sum()) == pytest.approx(1)


def test_sampled_counts_estimate_all_sets_of_four():
    graph = random_graph(10, 0.4, 5)
    finder = MotifFinder(size=4, n_samples=2000, n_null=2, generator=seeded())
    assert float(finder.find(graph).counts.sum()) == pytest.approx(math.comb(10, 4))


def test_graph_that_no_swap_can_change_is_its_own_null():
    result = MotifFinder(n_null=5, generator=seeded()).find(np.ones((5, 5)))
    assert result.z.abs().sum() == 0
    assert (result.p == 1).all()
    assert result.significance_profile.abs().sum() == 0
    assert result.to_dict()["counts"][15] == 10


def test_empty_graph_has_only_empty_triads():
    result = MotifFinder(null="degree_reciprocal", n_null=2).find(torch.zeros(4, 4))
    assert result.counts.tolist() == [4] + [0] * 15


def test_count_that_no_null_ever_varies_from_has_an_infinite_z():
    # One pair of mutual edges never forms when both are single in every null of two draws.
    graph = torch.zeros(40, 40)
    graph[0, 1] = graph[1, 0] = 1
    result = MotifFinder(null="erdos", n_null=3, generator=seeded()).find(graph)
    assert result.z[NAMES.index("102")] == math.inf


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"size": 5}, "size must be 3 or 4, got 5"),
        ({"null": "none"}, "null must be one of 'degree'|Type-check"),
        ({"n_null": 0}, "n_null must be at least 1, got 0"),
        ({"n_swaps": 0}, "n_swaps must be at least 1, got 0"),
        ({"size": 4, "signed": True}, "signed=True needs size=3"),
    ],
)
def test_settings_out_of_range_are_refused(settings_, message):
    with pytest.raises((ValueError, TypeError), match=message):
        MotifFinder(**settings_)


def test_adjacency_must_be_square():
    with pytest.raises(ValueError, match=r"adjacency must be square, got shape \(3, 4\)"):
        MotifFinder().find(torch.zeros(3, 4))


def test_repr_states_the_configuration():
    assert repr(MotifFinder(n_null=7)).startswith("MotifFinder(size=3, null='degree', n_null=7")
