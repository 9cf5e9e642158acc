import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.activations import run
from neuros_mechint.circuits import CircuitDiscovery


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int, n_out: int = 1) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, n_out))
    return net.double(), torch.randn(12, 4, generator=gen(seed), dtype=torch.float64)


def loss_without(net: nn.Module, x: Tensor, target: Tensor, dropped: dict[str, list[int]]) -> float:
    """Squared error with some units at their means, by hand."""
    means = {site: run(net, x, capture=[site]).cache[site].mean(0) for site in dropped}

    def fill(site: str):
        def edit(value: Tensor) -> Tensor:
            changed = value.clone()
            changed[:, dropped[site]] = means[site][dropped[site]]
            return changed

        return edit

    with torch.no_grad():
        output = run(net, x, edits={site: fill(site) for site in dropped}).output
    return (output - target).square().mean().item()


@pytest.mark.parametrize("batch_size", [1, 64, 500])
@pytest.mark.parametrize("seed", range(3))
def test_no_further_neuron_can_be_dropped(seed: int, batch_size: int) -> None:
    net, x = network(seed)
    target, tolerance = net(x).detach(), 0.02
    search = CircuitDiscovery(net, batch_size=batch_size)
    kept = search.discover_minimal_circuit(x, target, ["1", "3"], tolerance=tolerance)
    sizes = {"1": 5, "3": 4}
    dropped = {s: [i for i in range(n) if i not in kept[s]] for s, n in sizes.items()}
    assert loss_without(net, x, target, dropped) <= tolerance
    assert any(dropped.values())
    for site, unit in [(name, unit) for name in kept for unit in kept[name]]:
        further = {**dropped, site: [*dropped[site], unit]}
        assert loss_without(net, x, target, further) > tolerance


def test_the_batch_size_does_not_change_the_set() -> None:
    net, x = network(5)
    sets = [
        CircuitDiscovery(net, batch_size=n).discover_minimal_circuit(x, net(x).detach(), ["1", "3"])
        for n in (1, 40, 400)
    ]
    assert all(one == sets[0] for one in sets)


def test_a_planted_set_is_found_among_idle_neurons() -> None:
    for seed in range(10):
        net, x = network(seed)
        chosen = torch.randperm(4, generator=gen(seed))[:2]
        idle = torch.ones(4, dtype=torch.bool)
        idle[chosen] = False
        net[4].weight.data[:, idle] = 0.0
        found = CircuitDiscovery(net).discover_minimal_circuit(
            x, net(x).detach(), ["3"], tolerance=1e-9
        )
        assert found == {"3": sorted(chosen.tolist())}


def test_an_integer_target_is_compared_by_cross_entropy() -> None:
    net = nn.Sequential(nn.Identity(), nn.Linear(3, 2, bias=False))
    net[1].weight.data = torch.tensor([[4.0, 0.1, 0.0], [-4.0, 0.0, 0.0]])
    x = torch.tensor([[1.0, 1.0, 1.0], [-1.0, 1.0, 0.0]])
    found = CircuitDiscovery(net).discover_minimal_circuit(x, torch.tensor([0, 1]), ["0"])
    assert found == {"0": [0]}


def test_a_metric_is_held_at_the_target() -> None:
    net, x = network(1)
    zero = CircuitDiscovery(net, metric=lambda y: y[:, 0] * 0.0)
    assert zero.discover_minimal_circuit(x, torch.tensor(0.0), ["1"]) == {"1": []}


def test_sequences_are_averaged_over_positions() -> None:
    net = nn.Sequential(nn.Identity(), nn.Linear(2, 1, bias=False)).double()
    net[1].weight.data = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    x = torch.randn(3, 4, 2, generator=gen(), dtype=torch.float64)
    # Constant over rows and positions, so its mean is itself.
    x[..., 1] = 0.7
    found = CircuitDiscovery(net).discover_minimal_circuit(
        x, net(x).detach(), ["0"], tolerance=1e-9
    )
    assert found == {"0": [0]}


def test_what_cannot_be_searched_is_refused() -> None:
    net, x = network(0)
    search = CircuitDiscovery(net)
    target = net(x).detach()
    with pytest.raises(ValueError, match="search_method needs 'greedy', got 'random'"):
        search.discover_minimal_circuit(x, target, ["1"], search_method="random")
    with pytest.raises(ValueError, match=r"tolerance needs a number of at least 0, got -1\.0"):
        search.discover_minimal_circuit(x, target, ["1"], tolerance=-1.0)
    with pytest.raises(ValueError, match="layer_names needs at least one site, got none"):
        search.discover_minimal_circuit(x, target, [])
    with pytest.raises(
        ValueError, match=r"target_behavior has shape \(12,\), the output \(12, 1\)"
    ):
        search.discover_minimal_circuit(x, target[:, 0], ["1"])
