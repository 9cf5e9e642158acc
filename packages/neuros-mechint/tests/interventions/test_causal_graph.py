"""Causal graphs: separation, adjustment and simulation against brute force."""

import itertools
import json
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_mechint.circuits import Circuit, site_graph
from neuros_mechint.interventions import CausalGraph, PathAnalyzer
from neuros_mechint.interventions.causal_graph import build_causal_graph

CI = settings(max_examples=30, derandomize=True, deadline=None)
TRIANGLE = {("x", "m"): 2.0, ("m", "y"): 3.0, ("x", "y"): 1.0}


def random_graph(seed: int, n: int, density: float = 0.5) -> CausalGraph:
    rng = np.random.default_rng(seed)
    matrix = np.triu(rng.normal(size=(n, n)) * (rng.random((n, n)) < density), k=1)
    order = rng.permutation(n)
    return CausalGraph.from_adjacency(matrix[np.ix_(order, order)])


def undirected_paths(graph: CausalGraph, a: str, b: str) -> Iterator[tuple[str, ...]]:
    """Simple paths along edges of either direction."""
    near = {node: {v for e in graph.edges if node in e for v in e} for node in graph.nodes}

    def extend(path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if path[-1] == b:
            yield path
            return
        for node in sorted(near[path[-1]] - set(path)):
            yield from extend((*path, node))

    return extend((a,))


def is_blocked(graph: CausalGraph, path: tuple[str, ...], held: set[str]) -> bool:
    """Pearl 2009, definition 1.2.3, word by word."""
    for u, v, w in zip(path, path[1:], path[2:], strict=False):
        if (u, v) in graph.edges and (w, v) in graph.edges:
            if not ({v} | graph.descendants(v)) & held:
                return True
        elif v in held:
            return True
    return False


@CI
@given(seed=st.integers(0, 10_000), n=st.integers(3, 6))
def test_separation_is_that_of_the_definition_over_paths(seed: int, n: int) -> None:
    graph = random_graph(seed, n)
    a, b, *others = graph.nodes
    for size in range(len(others) + 1):
        for held in itertools.combinations(others, size):
            blocked = all(is_blocked(graph, p, set(held)) for p in undirected_paths(graph, a, b))
            assert graph.d_separated(a, b, held) == blocked


@CI
@given(seed=st.integers(0, 10_000), n=st.integers(2, 6))
def test_backdoor_sets_are_those_of_the_criterion_over_paths(seed: int, n: int) -> None:
    graph = random_graph(seed, n)
    x, y, *others = graph.nodes
    pool = sorted(set(others) - graph.descendants(x))
    into_x = [p for p in undirected_paths(graph, x, y) if (p[1], x) in graph.edges]
    admissible = [
        frozenset(held)
        for size in range(len(pool) + 1)
        for held in itertools.combinations(pool, size)
        if all(is_blocked(graph, path, set(held)) for path in into_x)
    ]
    assert graph.backdoor_sets(x, y, minimal=False) == admissible
    smallest = [s for s in admissible if not any(t < s for t in admissible)]
    assert graph.backdoor_sets(x, y) == smallest


def test_adjustment_over_a_backdoor_set_recovers_the_effect() -> None:
    edges = {("z", "x"): 1.5, ("z", "y"): -2.0, ("x", "y"): 0.7}
    graph = CausalGraph("xyz", edges)
    generator = torch.Generator().manual_seed(0)
    noise = {n: torch.randn(50, generator=generator, dtype=torch.float64) for n in ("x", "z")}
    # Without noise in y the regression on x and the adjustment set is exact.
    data = graph.simulate(noise=noise)
    (held,) = graph.backdoor_sets("x", "y")
    columns = torch.stack([data["x"], *(data[name] for name in sorted(held))], dim=1)
    slope = torch.linalg.lstsq(columns, data["y"][:, None]).solution[0, 0]
    assert float(slope) == pytest.approx(0.7, abs=1e-10)
    biased = torch.linalg.lstsq(data["x"][:, None], data["y"][:, None]).solution[0, 0]
    assert abs(float(biased) - 0.7) > 0.1


def test_nothing_blocks_a_confounder_that_was_not_observed() -> None:
    graph = CausalGraph("xyz", {("z", "x"): 1.0, ("z", "y"): 1.0, ("x", "y"): 1.0})
    assert graph.backdoor_sets("x", "y", candidates=[]) == []
    assert graph.backdoor_sets("x", "y", max_size=0) == []


def test_conditioning_on_the_middle_of_an_m_opens_the_path() -> None:
    edges = {("a", "x"): 1.0, ("a", "m"): 1.0, ("b", "m"): 1.0, ("b", "y"): 1.0, ("x", "y"): 1.0}
    graph = CausalGraph("abmxy", edges)
    assert graph.backdoor_sets("x", "y") == [frozenset()]
    assert frozenset("m") not in graph.backdoor_sets("x", "y", minimal=False)


@CI
@given(seed=st.integers(0, 10_000), n=st.integers(1, 7))
def test_simulation_solves_the_linear_system(seed: int, n: int) -> None:
    graph = random_graph(seed, n)
    noise = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values = graph.simulate(noise=dict(zip(graph.nodes, noise, strict=True)))
    W = torch.zeros(n, n, dtype=torch.float64)
    for (u, v), weight in graph.edges.items():
        W[graph.nodes.index(u), graph.nodes.index(v)] = weight
    solved = torch.linalg.solve(torch.eye(n, dtype=torch.float64) - W.T, noise)
    torch.testing.assert_close(torch.stack([*values.values()]), solved, atol=1e-10, rtol=1e-10)


def test_an_intervention_acts_as_the_graph_with_the_edges_cut() -> None:
    graph = random_graph(3, 6)
    noise = dict.fromkeys(graph.nodes, 1.0)
    held = graph.order[3]
    inside = graph.simulate({held: 5.0}, noise=noise)
    outside = graph.do(held).simulate(noise={**noise, held: 5.0})
    assert inside == outside
    assert float(inside[held]) == 5.0


def test_doing_several_nodes_cuts_the_edges_into_each() -> None:
    graph = CausalGraph("xmy", TRIANGLE)
    assert dict(graph.do(["m", "y"]).edges) == {}
    assert dict(graph.do("m").edges) == {("m", "y"): 3.0, ("x", "y"): 1.0}
    assert graph.do("m").nodes == graph.nodes


def test_a_name_of_several_letters_is_one_node() -> None:
    graph = CausalGraph(["in", "out"], {("in", "out"): 1.0})
    assert not graph.d_separated("in", "out")
    assert dict(graph.do("out").edges) == {}


def test_all_sources_give_the_same_graph() -> None:
    graph = CausalGraph("xmy", TRIANGLE)
    matrix = np.array([[0.0, 2.0, 1.0], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    frame = pd.DataFrame(
        [(u, v, w) for (u, v), w in TRIANGLE.items()], columns=["source", "target", "weight"]
    )
    scores = {**TRIANGLE, ("x", "dropped"): 0.1}
    circuit = SimpleNamespace(nodes=frozenset("xmy"), edges=frozenset(TRIANGLE), scores=scores)
    others = [
        CausalGraph.from_adjacency(matrix, "xmy"),
        CausalGraph.from_adjacency(torch.tensor(matrix, requires_grad=True), "xmy"),
        CausalGraph.from_frame(frame),
        CausalGraph.from_circuit(circuit),
        build_causal_graph(frame),
        build_causal_graph(circuit),
    ]
    assert all(other == graph and hash(other) == hash(graph) for other in others)
    assert graph != CausalGraph("xmy", {**TRIANGLE, ("x", "y"): 2.0})
    assert graph != "graph"
    assert repr(graph.do("y")) == "CausalGraph(['x', 'm', 'y'], {('x', 'm'): 2.0})"


def test_paths_run_through_the_blocks_of_a_circuit() -> None:
    graph = site_graph({"a": [], "b": ["b:in"]}, {"b:in": ["a"], "c:in": ["a", "b"]})
    scores = {("a", "b:in"): 2.0, ("a", "c:in"): 0.5, ("b", "c:in"): 3.0}
    circuit = Circuit(frozenset(scores), frozenset(graph.nodes), scores, graph)
    found = build_causal_graph(circuit)
    assert found == CausalGraph.from_circuit(circuit)
    assert PathAnalyzer(found).total_effect("a", "c:in") == 6.5


def test_exports_hold_every_node_and_edge() -> None:
    graph = CausalGraph(["a", "b", "lone"], {("a", "b"): 0.1})
    taken = graph.to_networkx()
    assert sorted(taken.nodes) == ["a", "b", "lone"]
    assert taken.edges["a", "b"]["weight"] == 0.1
    data = json.loads(graph.to_json())
    assert data == {
        "nodes": ["a", "b", "lone"],
        "edges": [{"source": "a", "target": "b", "weight": 0.1}],
    }


def test_names_with_special_characters_stay_inside_their_quotes() -> None:
    graph = CausalGraph(['a"b', "c\\d\ne", '<h.0:in>"&#'], {('a"b', "c\\d\ne"): 1.0})
    assert graph.to_dot().splitlines()[1:3] == ['  "a\\"b";', '  "c\\\\d\\ne";']
    assert graph.to_mermaid().splitlines()[1:4] == [
        '  n0["a#quot;b"]',
        '  n1["c\\d e"]',
        '  n2["#lt;h.0:in#gt;#quot;#amp;#num;"]',
    ]


def test_nodes_and_edges_of_a_graph_can_not_be_changed() -> None:
    graph = CausalGraph("ab", {("a", "b"): 1.0})
    with pytest.raises(TypeError, match="does not support item assignment"):
        graph.edges["a", "b"] = 2.0
    with pytest.raises(TypeError, match="does not support item assignment"):
        graph.parents("b")["a"] = 2.0


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        ("aa", {}, "node 'a' is given more than once"),
        ("a", {("a", "b"): 1.0}, r"a -> b needs both ends among nodes, \['b'\] are not"),
        ("ab", {("a", "b"): float("nan")}, "a -> b needs a finite weight, got nan"),
        ("a", {("a", "a"): 1.0}, "no cycles, got a -> a"),
        (
            "sabc",
            {("s", "a"): 1.0, ("a", "b"): 1.0, ("b", "a"): 1.0, ("b", "c"): 1.0},
            "no cycles, got (a -> b -> a|b -> a -> b)",
        ),
    ],
)
def test_what_is_no_causal_graph_is_refused(nodes: str, edges: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CausalGraph(nodes, edges)


def test_nodes_that_are_no_text_are_refused() -> None:
    names = iter(["a", 1])
    with pytest.raises(TypeError, match="nodes need to be str, got int"):
        CausalGraph(names, {})


def test_sources_that_hold_no_graph_are_refused() -> None:
    with pytest.raises(ValueError, match=r"matrix needs shape \(node, node\), got \(2, 3\)"):
        CausalGraph.from_adjacency(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="needs 2 names for the matrix, got 3"):
        CausalGraph.from_adjacency(np.zeros((2, 2)), "abc")
    frame = pd.DataFrame({"source": ["a", "a"], "target": ["b", "b"], "weight": [1.0, 2.0]})
    with pytest.raises(ValueError, match="a -> b more than once"):
        CausalGraph.from_frame(frame)
    with pytest.raises(ValueError, match=r"\['weight'\] missing; it has \['source', 'target'\]"):
        build_causal_graph(frame.drop(columns="weight"))
    with pytest.raises(TypeError, match="circuit needs nodes, edges and scores, a dict lacks one"):
        build_causal_graph({})
    unscored = SimpleNamespace(nodes={"a", "b"}, edges={("a", "b")}, scores={})
    with pytest.raises(ValueError, match="no score for the edge a -> b"):
        CausalGraph.from_circuit(unscored)


def test_questions_about_unknown_nodes_name_the_known_ones() -> None:
    graph = CausalGraph("ab", {})
    calls = [
        lambda: graph.do("c"),
        lambda: graph.parents("c"),
        lambda: graph.descendants("c"),
        lambda: graph.d_separated("a", "c"),
        lambda: graph.backdoor_sets("c", "a"),
        lambda: graph.simulate({"c": 1.0}),
        lambda: graph.simulate(noise={"c": 1.0}),
    ]
    for call in calls:
        with pytest.raises(KeyError, match="no node 'c' in the graph; it has a, b"):
            call()


def test_sets_that_overlap_and_shapes_that_do_not_fit_are_refused() -> None:
    graph = CausalGraph("ab", {})
    with pytest.raises(ValueError, match=r"must not overlap, \['a'\] do"):
        graph.d_separated("a", "b", given="a")
    with pytest.raises(ValueError, match="two nodes, got 'a' twice"):
        graph.backdoor_sets("a", "a")
    with pytest.raises(ValueError, match=r"do not broadcast: \{'a': \(2,\), 'b': \(3,\)\}"):
        graph.simulate({"a": torch.ones(2), "b": torch.ones(3)})
