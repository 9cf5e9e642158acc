"""Models with a planted circuit: it is found, and random ones do worse."""

import json

import pytest
import torch
from torch import nn

from neuros_mechint.circuits import site_graph
from neuros_mechint.circuits.circuit_extraction import CircuitExtractor

PLANTED = {
    *{("input:0", "0:0"), ("input:1", "0:0"), ("input:1", "0:1")},
    *{("0:0", "2:0"), ("0:1", "2:0"), ("0:1", "2:1")},
}


@pytest.fixture
def net():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for u, v in PLANTED:
            source, target = int(u[-1]), int(v[-1])
            model[int(v[0])].weight[target, source] = 1.0
        # The rest is weak, and alive.
        for layer in (model[0], model[2]):
            layer.weight += 0.01
    return model


@pytest.fixture
def inputs():
    return torch.rand(30, 4, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.mark.parametrize("method", ["attribution", "weights", "patching"])
def test_planted_circuit_is_found_and_random_ones_are_worse(net, inputs, method):
    extractor = CircuitExtractor(
        net, method=method, threshold=0.1, generator=torch.Generator().manual_seed(0)
    )
    found = extractor.extract(inputs)
    assert found.circuit.edges == PLANTED
    assert found.faithfulness > 0.98
    assert max(found.random_faithfulness) < found.faithfulness
    assert len(found.random_faithfulness) == 20


def test_table_adjacency_and_json_tell_the_same(net, inputs):
    found = CircuitExtractor(net, n_random=2).extract(inputs)
    read = json.loads(found.to_json())
    assert len(read["edges"]) == int(found.adjacency.count_nonzero()) == len(PLANTED)
    assert sum(row["n_in"] for row in read["nodes"]) == len(PLANTED)
    kinds = found.to_networkx().edges(data="kind")
    assert {(u, v) for u, v, kind in kinds if kind == "edge"} == PLANTED


def test_pruning_keeps_what_reaches_the_target(net, inputs):
    found = CircuitExtractor(net, method="weights", threshold=0.0, n_random=1).extract(inputs)
    assert found.faithfulness == pytest.approx(1, abs=1e-5)
    pruned = found.prune(0.95)
    assert pruned.faithfulness >= 0.95
    assert len(pruned.circuit.edges) < len(found.circuit.edges)
    assert pruned.prune(pruned.faithfulness) is pruned
    with pytest.raises(ValueError, match="target_faithfulness must be at most that of the circuit"):
        pruned.prune(1.5)


def test_other_layers_keep_their_edges(net, inputs):
    found = CircuitExtractor(net, layers=["2"], n_random=1).extract(inputs)
    assert {e for e in found.circuit.edges if e[1].startswith("2:")} == {
        e for e in PLANTED if e[1].startswith("2:")
    }
    assert len(found.circuit.edges) > len(PLANTED)


def test_model_is_left_as_it_was_also_on_error(net, inputs):
    before = {k: v.clone() for k, v in net.state_dict().items()}
    CircuitExtractor(net, n_random=1).extract(inputs)
    with pytest.raises(RuntimeError):
        CircuitExtractor(net).extract(torch.ones(3, 7))
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_other_models_say_that_a_graph_is_needed_and_take_one():
    class Paths(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.strong, self.weak, self.out = nn.Identity(), nn.ReLU(), nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.strong(x) + self.weak(x - 2.9))

    x = torch.linspace(1, 3, 20)[:, None]
    with pytest.raises(ValueError, match=r"no graph fits Paths.*graph=site_graph"):
        CircuitExtractor(Paths()).extract(x)
    graph = site_graph({"strong": [], "weak": []}, {"out:in": ["strong", "weak"]})
    found = CircuitExtractor(Paths(), graph=graph, n_random=1).extract(x)
    assert found.circuit.edges == {("strong", "out:in")}
    assert found.faithfulness > 0.999


def test_bad_arguments_are_refused(net, inputs):
    with pytest.raises(ValueError, match="threshold must be from 0 to 1, got 2"):
        CircuitExtractor(net, threshold=2)
    with pytest.raises(ValueError, match="n_random must be at least 1, got 0"):
        CircuitExtractor(net, n_random=0)
    with pytest.raises(ValueError, match="layers holds '7', which has no edges; known are 0, 2"):
        CircuitExtractor(net, layers=["7"]).extract(inputs)
    with pytest.raises(ValueError, match="inputs need an output that depends on the edges"):
        CircuitExtractor(net).extract(torch.zeros(3, 4))
    assert repr(CircuitExtractor(net)).startswith(
        "CircuitExtractor(Sequential, method='attribution'"
    )
