import math

import numpy as np
import pytest
import torch
from torch import nn

from neuros_mechint.circuits import Circuit, CircuitDiscovery, neuron_graph, residual_graph


def weighted(*weights: float) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(len(weights), 1, bias=False))
    net[0].weight.data = torch.tensor([weights])
    return net


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(2, 4), torch.zeros(2, 4)


def edge(k: int) -> tuple[str, str]:
    return f"input:{k}", "0:0"


def found(*weights: float, **options) -> Circuit:
    return CircuitDiscovery(weighted(*weights)).discover(*pair(), method="exact", **options)


def test_scores_of_a_circuit_are_shares_of_the_metric() -> None:
    circuit = found(4.0, 3.0, 2.0, 1.0, n_edges=2)
    assert circuit.edges == {edge(0), edge(1)}
    assert repr(circuit) == "Circuit(2 of 4 edges, 3 nodes)"
    assert circuit.faithfulness(*pair()) == pytest.approx(0.7)
    assert circuit.completeness(*pair()) == pytest.approx(0.7)
    assert circuit.minimality(*pair()) == pytest.approx(0.3)


def test_another_metric_can_be_given_for_other_inputs() -> None:
    circuit = found(4.0, 3.0, 2.0, 1.0, n_edges=1)
    assert circuit.faithfulness(*pair(), metric=lambda y: y[:, 0].square()) == pytest.approx(0.16)


def test_a_backup_makes_a_circuit_incomplete() -> None:
    net = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Hardtanh(), nn.Linear(1, 1, bias=False))
    for layer in (net[0], net[2]):
        nn.init.ones_(layer.weight)
    graph = neuron_graph(net)
    empty = Circuit(frozenset(), frozenset(), {}, graph)
    circuit = empty.with_edges([("input:0", "0:0"), ("0:0", "2:0")])
    assert circuit.faithfulness(*pair()) == 1.0
    assert empty.with_edges([("input:0", "0:0")]).completeness(*pair()) == 0.0
    both = circuit.with_edges([*circuit.edges, ("input:1", "0:0")])
    assert both.minimality(*pair()) == 0.0


@pytest.mark.parametrize(("ablation", "base"), [("zero", 0.0), ("mean", 2.0), ("resample", None)])
def test_ablated_edges_carry_what_the_ablation_says(ablation: str, base: float | None) -> None:
    net = weighted(1.0, 0.0)
    clean, corrupted = torch.tensor([[5.0, 0], [7.0, 0]]), torch.tensor([[1.0, 0], [3.0, 0]])
    search = CircuitDiscovery(net, metric=lambda y: y[:, 0].square(), ablation=ablation)
    score = search.discover(clean, corrupted, method="exact", n_edges=1).scores[edge(0)]
    ablated = [1.0, 3.0] if base is None else [base, base]
    assert score == pytest.approx(sum(a * a for a in ablated) / 2 - (25 + 49) / 2)


def test_circuits_are_equal_when_their_edges_are() -> None:
    one, other = found(4.0, 3.0, 2.0, 1.0, n_edges=2), found(9.0, 8.0, 2.0, 1.0, n_edges=2)
    assert one == other
    assert hash(one) == hash(other)
    assert one != one.with_edges([edge(3)])
    assert one != one.edges


def test_the_curve_of_perfect_scores_has_area_one_and_of_equal_scores_half() -> None:
    circuit = found(4.0, 3.0, 2.0, 1.0, n_edges=2)
    curve = circuit.roc([edge(0), edge(1)])
    assert curve.area == 1.0
    assert curve.thresholds.tolist() == [math.inf, 4.0, 3.0, 2.0, 1.0]
    np.testing.assert_allclose(curve.true_positive_rate, [0, 0.5, 1, 1, 1])
    np.testing.assert_allclose(curve.false_positive_rate, [0, 0, 0, 0.5, 1])
    assert circuit.roc([edge(2), edge(3)]).area == 0.0
    assert found(1.0, 1.0, 1.0, 1.0, n_edges=2).roc([edge(0)]).area == 0.5


def test_true_edges_have_to_be_some_of_the_graph() -> None:
    circuit = found(4.0, 3.0, 2.0, 1.0, n_edges=2)
    with pytest.raises(ValueError, match="needs some but not all of the 4 edges, got 0"):
        circuit.roc([])
    with pytest.raises(ValueError, match="the graph has no edge a -> b"):
        circuit.roc([("a", "b")])


def test_inner_steps_connect_the_drawn_circuit() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.mlp = nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 4))

        def forward(self, x):
            return x + self.mlp(self.norm(x))

    graph = residual_graph(nn.Sequential(Block(), Block()))
    edges = {("embedding", "0.norm"): 2.0, ("0.mlp", "1"): 3.0}
    circuit = Circuit(frozenset(), frozenset(), edges, graph).with_edges(edges)
    drawn = circuit.to_networkx()
    assert drawn.edges["0.norm", "0.mlp"] == {"score": 1.0, "kind": "inside"}
    assert drawn.edges["0.mlp", "1"] == {"score": 3.0, "kind": "edge"}
    assert circuit.to_causal_graph().descendants("embedding") == {"0.norm", "0.mlp", "1"}


def test_circuits_without_edges_or_scores_or_effects_are_refused() -> None:
    empty = found(4.0, 3.0, 2.0, 1.0, n_edges=2).with_edges([])
    with pytest.raises(ValueError, match="minimality needs a circuit with at least one edge"):
        empty.minimality(*pair())
    with pytest.raises(ValueError, match="do not differ in the metric"):
        empty.faithfulness(pair()[0], pair()[0])
    bare = Circuit(frozenset(), frozenset(), {}, empty.graph).with_edges([edge(0)])
    with pytest.raises(ValueError, match="the edge input:0 -> 0:0 of the circuit has no score"):
        bare.to_causal_graph()
