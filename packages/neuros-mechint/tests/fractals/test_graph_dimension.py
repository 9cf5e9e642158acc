"""Covers of networks and their dimension, on graphs whose dimension is known."""

import itertools
import math
import subprocess
import sys

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.csgraph import shortest_path

from neuros_mechint.fractals import FractalNetworkModel, GraphFractalDimension
from neuros_mechint.fractals._graph_boxes import first_fit
from neuros_mechint.fractals._graph_distance import hop_distances

COVERS = ["greedy", "cbb", "memb", "best"]


def from_edges(edges):
    row, column = np.asarray(edges).T
    n = max(row.max(), column.max()) + 1
    one_way = sparse.coo_array((np.ones(len(row)), (row, column)), shape=(n, n)).tocsr()
    return ((one_way + one_way.T) > 0).astype(float)


def path(n):
    return from_edges([(i, i + 1) for i in range(n - 1)])


def ring(n):
    return from_edges([(i, (i + 1) % n) for i in range(n)])


def lattice(side):
    place = np.arange(side * side).reshape(side, side)
    across = np.stack([place[:, :-1].ravel(), place[:, 1:].ravel()], 1)
    down = np.stack([place[:-1].ravel(), place[1:].ravel()], 1)
    return from_edges(np.concatenate([across, down]))


def flower(u, v, generations):
    """Every edge becomes two parallel paths of u and v edges (Rozenfeld et al., 2007)."""
    edges, count = [(i, (i + 1) % (u + v)) for i in range(u + v)], u + v
    for _ in range(generations - 1):
        grown = []
        for (a, b), length in itertools.product(edges, (u, v)):
            nodes = [a, *range(count, count + length - 1), b]
            count += length - 1
            grown += itertools.pairwise(nodes)
        edges = grown
    return from_edges(edges)


def gasket(order):
    edges = np.array([[0, 1], [1, 1j], [1j, 0]])
    for k in range(order):
        edges = np.concatenate([edges + shift * 2**k for shift in (0, 1, 1j)])
    return from_edges(np.unique(edges, return_inverse=True)[1].reshape(-1, 2))


def tree():
    """The fractal tree of two offspring, five generations: 3126 nodes."""
    dense = FractalNetworkModel(n_nodes=3126, gamma=3.32, method="shm").generate()
    return sparse.csr_array(dense.numpy())


def random_graph(n, degree, seed):
    rng = np.random.default_rng(seed)
    dense = np.triu(rng.random((n, n)) < degree / n, 1)
    return (dense | dense.T).astype(float)


def dimension(graph, **options):
    return float(GraphFractalDimension(**options).compute(graph).dimension)


# The last box of a path is not full: N is rounded up, by half in the largest boxes.
@pytest.mark.parametrize("method", ["greedy", "cbb", "memb", "sandbox", "best"])
@pytest.mark.parametrize("make", [path, ring])
def test_a_line_has_dimension_one(make, method):
    n_restarts = 0 if method == "best" else 5
    found = GraphFractalDimension(method=method, n_restarts=n_restarts).compute(make(1000))
    assert found.dimension == pytest.approx(1, abs=0.06)
    assert found.is_fractal
    assert found.r2 > 0.99
    assert found.n_nodes == 1000


def test_a_path_needs_as_few_boxes_as_its_length_allows():
    found = GraphFractalDimension().compute(path(200))
    assert found.n_boxes.tolist() == [math.ceil(200 / size) for size in found.box_sizes]


def test_a_flower_of_four_half_edges_has_dimension_two():
    for method in ("greedy", "best"):
        assert dimension(flower(2, 2, 5), method=method) == pytest.approx(2, abs=0.12)


def test_a_flower_of_six_third_edges_has_its_dimension():
    exact = math.log(6) / math.log(3)
    assert dimension(flower(3, 3, 4), method="sandbox") == pytest.approx(exact, abs=0.06)


@pytest.mark.slow  # a thousand nodes in every cover
def test_sierpinskis_graph_has_its_dimension():
    exact, graph = math.log(3) / math.log(2), gasket(6)
    best = GraphFractalDimension(method="best").compute(graph)
    assert best.dimension == pytest.approx(exact, abs=0.1)
    assert dimension(graph, method="sandbox") == pytest.approx(exact, abs=0.06)
    greedy = GraphFractalDimension().compute(graph)
    assert (best.n_boxes <= greedy.n_boxes).all()
    assert (np.diff(best.n_boxes) <= 0).all()


@pytest.mark.slow  # three thousand nodes
def test_the_fractal_tree_has_its_dimension():
    exact, graph = math.log(5) / math.log(3), tree()
    assert dimension(graph, n_restarts=0) == pytest.approx(exact, abs=0.15)
    assert dimension(graph, method="sandbox") == pytest.approx(exact, abs=0.08)


def test_finite_lattices_read_low_as_documented():
    assert 1.6 <= dimension(lattice(40), n_restarts=0) <= 1.8
    assert dimension(flower(2, 4, 4)) == pytest.approx(1.9, abs=0.1)


@pytest.mark.parametrize(
    "graph",
    [
        np.ones((20, 20)),
        from_edges([(0, i) for i in range(1, 30)]),
        random_graph(500, 25, 0),
        np.zeros((5, 5)),
        np.ones((1, 1)),
    ],
    ids=["complete", "star", "random", "no edges", "one node"],
)
def test_small_worlds_have_no_dimension(graph):
    with pytest.warns(UserWarning, match="1 of 1 items are small-world, no scaling range"):
        found = GraphFractalDimension().compute(graph)
    assert math.isnan(found.dimension)
    assert not found.is_fractal
    assert found.box_sizes.shape == found.n_boxes.shape == (0,)


def test_a_binary_tree_is_not_fractal():
    # Boxes become fewer exponentially. Its diameter is 18.
    graph = from_edges([((i - 1) // 2, i) for i in range(1, 1023)])
    found = GraphFractalDimension().compute(graph)
    assert len(found.box_sizes) >= 4
    assert not found.is_fractal


@pytest.mark.parametrize("method", COVERS)
@pytest.mark.parametrize("make", [lambda: random_graph(80, 3, 1), lambda: gasket(3).toarray()])
def test_boxes_share_out_the_nodes_and_keep_their_size(make, method):
    graph = make()
    distance = shortest_path(sparse.csr_array(graph), unweighted=True)
    for size in (1.0, 2.0, 3.0, 5.0):
        box_of = GraphFractalDimension(method=method).boxes(graph, size)
        kept = np.flatnonzero(box_of >= 0)
        assert np.isfinite(distance[np.ix_(kept, kept)]).all()
        together = box_of[:, None] == box_of[kept]
        together[box_of < 0] = False
        assert distance[:, kept][together].max() < size
        n_boxes = box_of.max() + 1
        assert np.unique(box_of[kept]).tolist() == list(range(n_boxes))
        ball = (distance[np.ix_(kept, kept)] < size).sum(1).max()
        assert math.ceil(len(kept) / ball) <= n_boxes <= len(kept)
        if size == 1:
            assert n_boxes == len(kept)


@settings(max_examples=30, derandomize=True, deadline=None)
@given(n=st.integers(5, 90), degree=st.floats(1.0, 12.0), seed=st.integers(0, 10**6))
def test_distances_are_those_of_breadth_first_searches(n, degree, seed):
    dense = random_graph(n, degree, seed) + path(n).toarray()
    graph = sparse.csr_array((dense > 0).astype(float))
    expected = shortest_path(graph, unweighted=True)
    found = hop_distances(graph)
    assert found.dtype == np.int16
    assert np.array_equal(found, expected)


def test_long_graphs_and_many_neighbours_have_the_same_distances(monkeypatch):
    graph = lattice(30)
    assert np.array_equal(hop_distances(graph), shortest_path(graph, unweighted=True))
    monkeypatch.setattr("neuros_mechint.fractals._graph_distance._MANY_STEPS", 10**6)
    monkeypatch.setattr("neuros_mechint.fractals._graph_distance._GATHERED_WORDS", 1000)
    assert np.array_equal(hop_distances(graph), shortest_path(graph, unweighted=True))


@settings(max_examples=20, derandomize=True, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_the_nodes_hardly_matters(seed):
    order = np.random.default_rng(seed).permutation(123)
    graph = gasket(4).toarray()
    moved = dimension(graph[order][:, order], method="sandbox")
    assert moved == pytest.approx(dimension(graph, method="sandbox"), rel=1e-12)


def test_every_kind_of_graph_gives_the_same_result():
    dense = gasket(3).toarray()
    expected = GraphFractalDimension().compute(dense)
    assert isinstance(expected.dimension, np.ndarray)
    tensor = torch.from_numpy(dense)
    graph = nx.from_numpy_array(dense)
    for same in (sparse.csc_array(dense), sparse.coo_matrix(dense), graph, nx.MultiGraph(graph)):
        found = GraphFractalDimension().compute(same)
        assert found.n_boxes.tolist() == expected.n_boxes.tolist()
    kinds = [tensor, tensor.to(torch.bfloat16), tensor.bool(), tensor.to_sparse_coo()]
    for same in kinds:
        found = GraphFractalDimension().compute(same)
        assert found.n_boxes.tolist() == expected.n_boxes.tolist()
        assert found.is_fractal.dtype == torch.bool
        wide = same.dtype == torch.float64
        assert found.dimension.dtype == (torch.float64 if wide else torch.float32)
    as_array = GraphFractalDimension().compute(dense.astype(np.int32))
    assert as_array.dimension == pytest.approx(expected.dimension, rel=1e-6)


def test_a_batch_is_its_items():
    graphs = np.stack([gasket(3).toarray(), ring(42).toarray()])
    whole = GraphFractalDimension().compute(np.stack([graphs, graphs[::-1]]))
    assert whole.dimension.shape == whole.is_fractal.shape == whole.n_nodes.shape == (2, 2)
    assert whole.box_sizes.shape == whole.n_boxes.shape
    for k in range(2):
        one = GraphFractalDimension().compute(graphs[k])
        assert whole.dimension[0, k] == whole.dimension[1, 1 - k] == one.dimension
        sizes = whole.box_sizes[0, k]
        assert sizes[~np.isnan(sizes)].tolist() == one.box_sizes.tolist()
    empty = GraphFractalDimension().compute(graphs[:0])
    assert empty.dimension.shape == (0,)


def test_only_the_small_world_of_a_batch_has_no_dimension():
    graphs = torch.stack([torch.ones(42, 42), torch.from_numpy(ring(42).toarray()).float()])
    with pytest.warns(UserWarning, match="1 of 2 items"):
        found = GraphFractalDimension().compute(graphs)
    assert found.dimension.isnan().tolist() == [True, False]


def test_loops_and_small_components_do_not_count():
    dense = sparse.block_diag([ring(20), ring(60), path(3)]).toarray() + 4 * np.eye(83)
    found = GraphFractalDimension().compute(dense)
    assert found.n_nodes == 60
    assert found.dimension == GraphFractalDimension().compute(ring(60)).dimension
    box_of = GraphFractalDimension().boxes(torch.from_numpy(dense), 3.0)
    assert (box_of >= 0).nonzero().ravel().tolist() == list(range(20, 80))


def test_a_directed_graph_takes_both_directions_with_a_warning():
    one_way = np.triu(ring(60).toarray())
    with pytest.warns(UserWarning, match="1 of 1 items are directed"):
        found = GraphFractalDimension().compute(one_way)
    assert found.dimension == GraphFractalDimension().compute(ring(60)).dimension
    unequal = np.where(np.tri(60, dtype=bool), 1.0, 2.0) * ring(60).toarray()
    with pytest.warns(UserWarning, match="directed"):
        GraphFractalDimension().compute(unequal)


def near_a_ring(n, seed=0):
    """Weights that fall with the distance on a ring, and a little noise: all positive."""
    away = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    noise = np.random.default_rng(seed).random((n, n))
    return np.exp(-np.minimum(away, n - away)) + 1e-3 * (noise + noise.T)


def test_a_dense_matrix_is_cut_where_it_would_fall_apart():
    weights = near_a_ring(60)
    found = GraphFractalDimension().compute(weights)
    assert found.n_nodes >= 57
    assert found.dimension == pytest.approx(1, abs=0.15)
    # The largest cut at which 95 % hang together: brute force over all weights.
    spans = []
    for cut in np.unique(weights):
        _, labels = sparse.csgraph.connected_components(weights >= cut)
        if np.bincount(labels).max() >= 57:
            spans.append(cut)
    cut = GraphFractalDimension(threshold=spans[-1]).compute(weights)
    assert cut.n_boxes.tolist() == found.n_boxes.tolist()
    assert cut.n_nodes == found.n_nodes
    assert GraphFractalDimension(threshold=0.9 * spans[-1]).compute(weights).n_nodes == 60


def test_lengths_of_edges_give_the_dimension_of_weighted_graphs():
    x = np.random.default_rng(0).random((400, 2))
    apart = np.linalg.norm(x[:, None] - x, axis=-1)
    weights = np.divide(1, apart, out=np.zeros_like(apart), where=apart > 0)
    for method, low, high in [("greedy", 1.3, 2.1), ("sandbox", 1.5, 2.1), ("memb", 1.3, 2.2)]:
        found = GraphFractalDimension(weighted="distance", method=method).compute(weights)
        assert low <= found.dimension <= high
        shown = GraphFractalDimension(weighted="distance", method=method).compute(1e9 * weights)
        assert shown.dimension == pytest.approx(found.dimension, rel=1e-9)
    pairs = apart[np.triu_indices(400, 1)]
    ends = np.percentile(pairs, [5, 95])
    assert found.box_sizes[[0, -1]] == pytest.approx(ends)
    box_of = GraphFractalDimension(weighted="distance", n_restarts=0).boxes(weights, 0.2)
    assert apart[box_of[:, None] == box_of].max() < 0.2


def test_a_ring_of_lengths_has_dimension_one():
    found = GraphFractalDimension(weighted="distance", method="sandbox").compute(3 * ring(100))
    assert found.dimension == pytest.approx(1, abs=0.06)
    assert found.is_fractal
    with pytest.warns(UserWarning, match="all their distances are equal"):
        same = GraphFractalDimension(weighted="distance").compute(np.ones((20, 20)))
    assert math.isnan(same.dimension)


def test_sizes_may_be_chosen():
    found = GraphFractalDimension(min_box=1, max_box=4, n_restarts=0).compute(path(60))
    assert found.box_sizes.tolist() == [1, 2, 3, 4]
    assert found.n_boxes.tolist() == [60, 30, 20, 15]
    odd = GraphFractalDimension(method="memb", max_box=7).compute(path(60))
    assert odd.box_sizes.tolist() == [3, 5, 7]
    beyond = GraphFractalDimension(min_box=80, max_box=90, n_restarts=0).compute(path(60))
    assert set(beyond.n_boxes.tolist()) == {1.0}
    assert math.isnan(beyond.r2)
    short = GraphFractalDimension().compute(path(6))
    assert short.box_sizes.tolist() == [2, 3]
    assert not short.is_fractal


def test_the_curve_is_what_the_line_goes_through():
    graph = torch.from_numpy(gasket(3).toarray())
    log_size, log_count = GraphFractalDimension().curve(graph)
    slope = np.polyfit(log_size.numpy(), log_count.numpy(), 1)[0]
    assert dimension(graph) == pytest.approx(-slope)
    assert isinstance(GraphFractalDimension().curve(graph.numpy())[0], np.ndarray)


def test_two_calls_agree():
    graph = random_graph(120, 3, 2)
    for method in COVERS:
        first, second = (GraphFractalDimension(method=method).compute(graph) for _ in range(2))
        assert first.n_boxes.tolist() == second.n_boxes.tolist()


def test_one_box_after_the_other_is_first_fit():
    graph = random_graph(60, 4, 3)
    distance = hop_distances(sparse.csr_array(graph + path(60).toarray() > 0).astype(float))
    order = np.random.default_rng(0).permutation(60)
    for size, found in zip((2, 3, 4), first_fit(distance, order, (2.0, 3.0, 4.0)), strict=True):
        boxes = []
        for node in order:
            fits = (b for b in boxes if (distance[node, b] < size).all())
            box = next(fits, None)
            if box is None:
                boxes.append(box := [])
            box.append(node)
        expected = np.empty(60, int)
        for k, box in enumerate(boxes):
            expected[box] = k
        assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "guess"}, "method"),
        ({"weighted": "yes"}, "weighted"),
        ({"min_box": 0}, "min_box must be at least 1, got 0"),
        ({"max_box": 2}, "2 sizes between min_box = 2 and max_box = 2"),
        ({"method": "memb", "max_box": 4}, r"\(odd ones\)"),
        ({"n_restarts": -1}, "n_restarts must be at least 0"),
        ({"threshold": 0.0}, "threshold must be a positive weight"),
        ({"weighted": "distance", "max_box": 9}, "leave them out"),
    ],
)
def test_bad_options_are_refused(options, message):
    # A type error comes from the shape checker, which sees the options first when it is on.
    with pytest.raises((ValueError, TypeError), match=message):
        GraphFractalDimension(**options)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (np.ones(4), r"shape \(..., node, node\), got \(4,\)"),
        (np.ones((3, 4)), r"got \(3, 4\)"),
        (sparse.csr_array(np.ones((3, 4))), r"got \(3, 4\)"),
        (np.full((2, 3, 3), math.nan), "in 2 of 2 items"),
        (sparse.csr_array(np.full((3, 3), math.inf)), "in 1 of 1 items"),
        (-np.ones((3, 3)), "take its absolute value first"),
        (-sparse.csr_array(np.ones((3, 3))), "take its absolute value first"),
        (nx.Graph(), "at least 1 node"),
        (torch.ones(2, 3, 3).to_sparse_coo(), "pass the graphs of a batch one by one"),
    ],
)
def test_what_is_not_a_graph_is_refused(graph, message):
    with pytest.raises(ValueError, match=message):
        GraphFractalDimension().compute(graph)


def test_boxes_of_nothing_are_refused():
    with pytest.raises(TypeError, match="adjacency must be"):
        GraphFractalDimension().compute([[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="makes no boxes"):
        GraphFractalDimension(method="sandbox").boxes(path(9), 2.0)
    with pytest.raises(ValueError, match="one graph"):
        GraphFractalDimension().boxes(np.ones((2, 3, 3)), 2.0)
    with pytest.raises(ValueError, match="size must be positive"):
        GraphFractalDimension().boxes(path(9), 0.5)
    with pytest.raises(ValueError, match="size must be positive"):
        GraphFractalDimension(weighted="distance").boxes(path(9), 0.0)


@pytest.mark.slow  # a new interpreter
def test_scipy_and_networkx_wait_for_the_call():
    code = (
        "import sys, numpy\n"
        "from neuros_mechint.fractals import FractalNetworkModel, GraphFractalDimension\n"
        "FractalNetworkModel(n_nodes=50).generate()\n"
        "assert 'scipy' not in sys.modules and 'networkx' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
