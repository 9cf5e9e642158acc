"""Effects along paths against enumeration and the inverse of I - W."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_mechint.interventions import CausalGraph, PathAnalyzer

CI = settings(max_examples=50, derandomize=True, deadline=None)


def weights(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.triu(rng.normal(size=(n, n)) * (rng.random((n, n)) < 0.7), k=1)


def enumerated(matrix: np.ndarray, s: int, t: int) -> list[float]:
    """Effects of all paths from s to t: every subset of the nodes between, in order."""
    found = []
    for size in range(max(t - s, 1)):
        for between in itertools.combinations(range(s + 1, t), size):
            nodes = (s, *between, t)
            steps = [matrix[u, v] for u, v in itertools.pairwise(nodes)]
            if all(steps):
                found.append(math.prod(steps))
    return sorted(found, key=abs, reverse=True)


@CI
@given(seed=st.integers(0, 10_000), n=st.integers(2, 8), k=st.integers(1, 6))
def test_the_top_paths_are_those_of_the_enumeration(seed: int, n: int, k: int) -> None:
    matrix = weights(seed, n)
    analyzer = PathAnalyzer(CausalGraph.from_adjacency(matrix))
    found = analyzer.top_paths("0", str(n - 1), k)
    everything = enumerated(matrix, 0, n - 1)
    np.testing.assert_allclose([p.weight for p in found], everything[:k], rtol=1e-12)
    for path in found:
        steps = [matrix[int(u), int(v)] for u, v in itertools.pairwise(path.nodes)]
        assert path.weight == pytest.approx(math.prod(steps), rel=1e-12)
    assert len({path.nodes for path in found}) == len(found)
    listed = analyzer.path_effects("0", str(n - 1))
    np.testing.assert_allclose([p.weight for p in listed], everything, rtol=1e-12)


@CI
@given(seed=st.integers(0, 10_000), n=st.integers(2, 9))
def test_the_total_effect_is_an_entry_of_the_inverse(seed: int, n: int) -> None:
    matrix = weights(seed, n)
    graph = CausalGraph.from_adjacency(matrix)
    inverse = np.linalg.inv(np.eye(n) - matrix)
    total = [[PathAnalyzer(graph).total_effect(str(s), str(t)) for t in range(n)] for s in range(n)]
    np.testing.assert_allclose(total, inverse, atol=1e-10)
    raised = graph.simulate({"0": 1.0})[str(n - 1)]
    assert float(raised) == pytest.approx(inverse[0, n - 1], abs=1e-10)


def test_path_effects_add_up_to_the_total_effect() -> None:
    full = np.triu(np.random.default_rng(1).normal(size=(8, 8)), k=1)
    analyzer = PathAnalyzer(CausalGraph.from_adjacency(full))
    effects = [path.weight for path in analyzer.path_effects("0", "7")]
    assert len(effects) == 2**6
    assert sum(effects) == pytest.approx(analyzer.total_effect("0", "7"), abs=1e-10)


def test_the_top_paths_of_a_deep_graph_need_no_enumeration() -> None:
    # 30 diamonds in a row hold 2^30 paths.
    edges = {}
    for k in range(30):
        edges[f"{k}", f"{k}a"], edges[f"{k}a", f"{k + 1}"] = 1.0, 1.0
        edges[f"{k}", f"{k}b"], edges[f"{k}b", f"{k + 1}"] = 0.5, 1.0
    nodes = dict.fromkeys(name for edge in edges for name in edge)
    analyzer = PathAnalyzer(CausalGraph(nodes, edges))
    assert [path.weight for path in analyzer.top_paths("0", "30", 3)] == [1.0, 0.5, 0.5]
    assert analyzer.total_effect("0", "30") == pytest.approx(1.5**30)
    with pytest.raises(ValueError, match="1073741824 paths from '0' to '30', more than max_paths"):
        analyzer.path_effects("0", "30")


def test_there_is_one_path_of_effect_one_from_a_node_to_itself() -> None:
    analyzer = PathAnalyzer(CausalGraph("ab", {("a", "b"): 3.0}))
    assert analyzer.top_paths("a", "a", 5) == [(("a",), 1.0)]
    assert analyzer.total_effect("a", "a") == 1.0


def test_against_the_arrows_there_is_no_path() -> None:
    analyzer = PathAnalyzer(CausalGraph("ab", {("a", "b"): 3.0}))
    assert analyzer.top_paths("b", "a", 5) == analyzer.path_effects("b", "a") == []
    assert analyzer.total_effect("b", "a") == 0.0
    assert repr(analyzer) == "PathAnalyzer(2 nodes, 1 edges)"


def test_what_can_not_be_analysed_is_refused() -> None:
    analyzer = PathAnalyzer(CausalGraph("ab", {}))
    with pytest.raises(ValueError, match="k needs at least 1 path, got 0"):
        analyzer.top_paths("a", "b", 0)
    for source, sink in (("c", "a"), ("a", "c")):
        with pytest.raises(KeyError, match="no node 'c'"):
            analyzer.total_effect(source, sink)
