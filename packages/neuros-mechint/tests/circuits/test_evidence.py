"""Validation of circuits that are planted, found by peeking, or no better than chance."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.circuits import Circuit, CircuitDiscovery, neuron_graph, site_graph
from neuros_mechint.circuits._controls import magnitude_control, random_controls
from neuros_mechint.circuits.evidence import validate_circuit

WIDTH = 8
TRUE = {("input:0", "0:1"), ("0:1", "2:2"), ("2:2", "4:0")}


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def planted(seed: int = 0) -> nn.Sequential:
    """One strong path among weak weights."""
    widths = [WIDTH, WIDTH, WIDTH, 1]
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(widths):
        linear = nn.Linear(n_in, n_out, bias=False).double()
        with torch.no_grad():
            linear.weight.copy_(0.02 * torch.randn(n_out, n_in, generator=gen(seed)).double())
        layers += [linear, nn.Tanh()]
    net = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        net[0].weight[1, 0], net[2].weight[2, 1], net[4].weight[0, 2] = 1.0, 1.0, 1.0
    return net


def rows(n: int, seed: int) -> Tensor:
    return torch.randn(n, WIDTH, generator=gen(seed), dtype=torch.float64) + 1.0


def discovered(net: nn.Module, n_edges: int = 3) -> Circuit:
    x = rows(50, 1)
    return CircuitDiscovery(net).discover(x, torch.zeros_like(x), method="eap_ig", n_edges=n_edges)


def test_a_planted_circuit_beats_every_random_one() -> None:
    circuit = discovered(planted())
    assert circuit.edges == TRUE
    x = rows(30, 2)
    evidence = validate_circuit(circuit, x, torch.zeros_like(x), n_bootstrap=200, n_controls=99)
    assert evidence.faithfulness == pytest.approx(
        circuit.faithfulness(x, torch.zeros_like(x)), abs=1e-12
    )
    assert evidence.completeness == pytest.approx(
        circuit.completeness(x, torch.zeros_like(x)), abs=1e-12
    )
    assert abs(evidence.faithfulness - 1.0) < 0.1
    assert evidence.interval[0] <= evidence.faithfulness <= evidence.interval[1]
    assert len(evidence.control_scores["random"]) == 99
    assert np.median(evidence.control_scores["random"]) < 0.1
    # The largest weights are the planted ones: that control is the circuit.
    assert evidence.control_scores["magnitude"] == pytest.approx([evidence.faithfulness])
    assert evidence.p_value == pytest.approx(2 / 101, abs=0.03)
    assert evidence.leak is None


def test_an_arbitrary_circuit_is_one_of_the_controls() -> None:
    net, x = planted(), rows(20, 3)
    circuit = discovered(net).with_edges([("input:3", "0:4"), ("0:5", "2:6"), ("2:7", "4:0")])
    evidence = validate_circuit(
        circuit, x, 0 * x, controls=["random"], n_controls=40, n_bootstrap=50
    )
    assert evidence.p_value > 0.05
    assert [*evidence.control_scores] == ["random"]
    assert abs(evidence.faithfulness) < 0.1


@pytest.mark.slow  # 60 validations
def test_p_values_of_random_circuits_are_uniform() -> None:
    # Every input reaches the output, so no two circuits are equally faithful.
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 1, bias=False))
    for p in net.parameters():
        nn.init.normal_(p, generator=gen(7))
    x = torch.randn(4, 4, generator=gen(8)) + 1.0
    found = CircuitDiscovery(net).discover(x + 1.0, 0 * x, method="exact", n_edges=12)
    values = []
    for k, edges in enumerate(random_controls(found, 60, np.random.default_rng(0))):
        evidence = validate_circuit(
            found.with_edges(edges),
            *(x, 0 * x),
            controls=["random"],
            n_controls=9,
            n_bootstrap=2,
            generator=gen(k),
        )
        values.append(evidence.p_value)
    # Uniform on 1/10 to 1: the mean of 60 has sd 0.0371, the count of 0.2 and below sd 3.1 of 12.
    # Five sds: a false alarm in 1e-6.
    p = np.array(values)
    assert abs(p.mean() - 0.55) < 5 * 0.0371
    assert (p <= 0.201).sum() < 12 + 5 * 3.1


def test_controls_have_as_many_edges_between_each_pair_of_layers() -> None:
    net = planted()
    circuit = discovered(net, n_edges=9)
    graph = circuit.graph

    def shape(edges: frozenset) -> list[tuple[int, int]]:
        return sorted((graph.layer(u), graph.layer(v)) for u, v in edges)

    rng = np.random.default_rng(0)
    drawn = random_controls(circuit, 30, rng)
    assert all(shape(edges) == shape(circuit.edges) for edges in drawn)
    assert len(set(drawn)) == 30
    assert all(edges <= set(graph.edges) for edges in drawn)
    largest = magnitude_control(circuit, rng)
    assert shape(largest) == shape(circuit.edges)
    weight = net[2].weight.detach().abs()
    first = sorted(float(weight[int(v[2:]), int(u[2:])]) for u, v in largest if v.startswith("2:"))
    expected = weight.flatten().sort().values[-len(first) :]
    np.testing.assert_allclose(first, expected, rtol=1e-12)


def test_edges_without_a_map_weigh_the_same() -> None:
    net = nn.Sequential(nn.Identity(), nn.Identity())
    graph = site_graph({"0": []}, {"1:in": ["0"]}, model=net)
    circuit = Circuit(frozenset(graph.edges), frozenset(graph.nodes), {}, graph)
    assert magnitude_control(circuit, np.random.default_rng(0)) == circuit.edges


def test_the_interval_widens_with_the_clusters() -> None:
    circuit = discovered(planted(), n_edges=3)
    generator = gen(5)
    # Within a cluster the rows share their scale, which bends the tanh differently.
    scale = torch.rand(12, 1, generator=generator, dtype=torch.float64).repeat_interleave(8, 0)
    x = rows(96, 6) * 3 * scale
    subject = np.repeat(np.arange(12), 8)
    options = {"controls": ["random"], "n_controls": 1, "n_bootstrap": 400}
    flat = validate_circuit(circuit, x, 0 * x, **options)
    nested = validate_circuit(circuit, x, 0 * x, cluster=subject, **options)
    assert nested.interval[1] - nested.interval[0] > flat.interval[1] - flat.interval[0]
    assert nested.interval != flat.interval


def labelled(net: nn.Module, x: Tensor):
    """Discovery of the input that goes with the labels: its faithfulness depends on them."""
    graph = neuron_graph(net)

    def rediscover(labels: Tensor) -> Circuit:
        together = (x * labels[:, None]).mean(0).abs()
        edges = [(f"input:{int(together.argmax())}", "0:0")]
        return Circuit(frozenset(), frozenset(), {}, graph).with_edges(edges)

    return rediscover


def test_a_leak_is_found_and_a_clean_discovery_passes() -> None:
    net = nn.Sequential(nn.Linear(80, 1, bias=False)).double()
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].weight[0, 7] = 1.0
    x = torch.randn(200, 80, generator=gen(0), dtype=torch.float64)
    labels = net(x)[:, 0].detach()
    clean = labelled(net, x)
    circuit = clean(labels)
    assert circuit.edges == {("input:7", "0:0")}
    held_out = torch.randn(10, 80, generator=gen(1), dtype=torch.float64) + 1.0

    def peeking(_labels: Tensor) -> Circuit:
        return circuit

    found = {
        name: validate_circuit(
            *(circuit, held_out, 0 * held_out),
            labels=labels,
            rediscover=rediscover,
            n_bootstrap=20,
            n_controls=60,
            n_shuffles=6,
        )
        for name, rediscover in (("clean", clean), ("peeking", peeking))
    }
    assert found["clean"].leak is False
    assert found["peeking"].leak is True
    assert all(e.p_value < 0.05 for e in found.values())
    np.testing.assert_allclose(found["peeking"].control_scores["shuffled"], np.ones(6))
    assert np.mean(found["clean"].control_scores["shuffled"]) < 0.3


def test_a_generator_fixes_all_draws() -> None:
    circuit, x = discovered(planted()), rows(20, 4)
    first, second = (
        validate_circuit(circuit, x, 0 * x, n_controls=5, n_bootstrap=20, generator=gen(9))
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.control_scores["random"], second.control_scores["random"])
    assert first.interval == second.interval


def test_rows_that_the_discovery_saw_are_refused() -> None:
    circuit = discovered(planted())
    x = torch.cat([rows(50, 1)[:3], rows(20, 2)])
    with pytest.raises(ValueError, match="3 of the clean rows were seen by the discovery"):
        validate_circuit(circuit, x, 0 * x)


def test_other_wrong_uses_are_refused() -> None:
    circuit, x = discovered(planted()), rows(20, 2)

    def validate(found: Circuit = circuit, **options):
        return validate_circuit(found, x, 0 * x, n_bootstrap=10, **options)

    with pytest.raises(ValueError, match="circuit needs at least one edge, got none"):
        validate(circuit.with_edges([]))
    with pytest.raises(ValueError, match=r"or both, got \('best',\)"):
        validate(controls=["best"])
    with pytest.raises(ValueError, match=r"or both, got \(\)"):
        validate(controls=[])
    with pytest.raises(ValueError, match=r"n_controls >= 1 .* got 0 and 10"):
        validate(n_controls=0)
    with pytest.raises(ValueError, match="needs both labels and rediscover, got one of them"):
        validate(labels=torch.zeros(3))
    with pytest.raises(ValueError, match=r"one value per row, .* got shape \(\)"):
        validate(metric=lambda y: y.mean())
    with pytest.raises(TypeError, match="rediscover needs to return a Circuit, got NoneType"):
        validate(labels=torch.zeros(3), rediscover=lambda labels: None, n_controls=2)
