"""Dale's law: signs of columns that no optimizer breaks, balanced starts, networks that learn."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neuros_mechint.biophysical.dales_law import (
    DalesLawConstraint,
    DalesLinear,
    DalesLossRegularizer,
    EINetworkClassifier,
    RecurrentDalesNetwork,
)

SIGNED = ("abs", "relu", "softplus", "clamp")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(module: nn.Module, loss, steps: int = 200) -> None:
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


def test_the_number_of_excitatory_units_is_the_floor() -> None:
    counts = [DalesLawConstraint(n, r).n_exc for n, r in ((10, 0.7), (11, 0.5), (3, 0), (3, 1))]
    assert counts == [7, 5, 0, 3]
    law = DalesLawConstraint(5, ei_ratio=0.6)
    assert law.signs.tolist() == [1, 1, 1, -1, -1]
    assert law.n_inh == 2
    assert repr(law) == "DalesLawConstraint(5, ei_ratio=0.6)"


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.floats(0, 1))
def test_the_projection_is_the_nearest_matrix_that_obeys(seed: int, n: int, ratio: float) -> None:
    weight = torch.randn(2, 4, n, generator=seeded(seed), dtype=torch.float64)
    law = DalesLawConstraint(n, ratio)
    projected = law.apply(weight.clone())
    assert law.satisfied(projected)
    assert law.violation(projected) == 0.0
    assert torch.equal(law.apply(projected.clone()), projected)
    # Every other matrix that obeys is at least as far away.
    other = torch.rand(2, 4, n, generator=seeded(seed + 1), dtype=torch.float64) * law.signs
    assert (weight - projected).norm() <= (weight - other).norm() + 1e-12


def test_the_law_binds_columns_and_not_rows() -> None:
    law = DalesLawConstraint(2, ei_ratio=0.5)
    assert law.satisfied(torch.tensor([[1.0, -1.0], [2.0, -3.0]]))
    assert not law.satisfied(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    assert law.violation(torch.tensor([[1.0, 1.0], [-1.0, -1.0]])) == 0.5
    assert law.violation(torch.zeros(2, 2)) == 0.0


def test_the_projection_is_in_place_and_reaches_parameters() -> None:
    parameter = nn.Parameter(torch.tensor([[-1.0, 1.0]]))
    assert DalesLawConstraint(2, 0.5).apply(parameter) is parameter
    assert parameter.tolist() == [[0.0, 0.0]]


def test_the_constraint_says_which_axis_is_presynaptic() -> None:
    law = DalesLawConstraint(3)
    with pytest.raises(ValueError, match=r"last axis of weight is the presynaptic one.*3 entries"):
        law.apply(torch.zeros(3, 4))
    with pytest.raises(TypeError, match=r"weight must be a floating tensor, got torch.int64"):
        law.satisfied(torch.zeros(3, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"ei_ratio must be in \[0, 1\], got 1.2"):
        DalesLawConstraint(3, 1.2)
    with pytest.raises(ValueError, match="number of units must be at least 1, got 0"):
        DalesLawConstraint(0)


@pytest.mark.parametrize("parametrization", SIGNED)
def test_columns_keep_their_signs_under_200_steps_of_adam(parametrization: str) -> None:
    layer = DalesLinear(20, 12, parametrization=parametrization, generator=seeded())
    target = torch.randn(12, 20, generator=seeded(1))
    law = DalesLawConstraint(20)
    before = layer.weight.detach().clone()
    trained(layer, lambda: (layer.weight - target).square().sum())
    assert law.satisfied(layer.weight.detach())
    assert not torch.equal(layer.weight.detach(), before)
    # Steps of a size that no optimizer takes.
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(100 * torch.randn(parameter.shape, generator=seeded(2)))
    assert law.satisfied(layer.weight.detach())


def test_the_three_matrices_of_dann_stay_at_least_zero_under_200_steps_of_adam() -> None:
    layer = DalesLinear(20, 12, parametrization="dann", generator=seeded())
    target = torch.randn(12, 20, generator=seeded(1))
    trained(layer, lambda: (layer.weight - target).square().sum())
    parts = layer.dann_weights
    assert all(bool((part >= 0).all()) for part in parts)
    assert parts.to_interneurons.shape == (3, 20)
    product = parts.excitatory - parts.from_interneurons @ parts.to_interneurons
    torch.testing.assert_close(layer.weight, product)


@pytest.mark.parametrize("parametrization", SIGNED)
def test_training_reaches_the_nearest_matrix_that_obeys(parametrization: str) -> None:
    layer = DalesLinear(10, 6, parametrization=parametrization, generator=seeded())
    law = DalesLawConstraint(10)
    target = torch.randn(6, 10, generator=seeded(1))
    target = target.abs() * law.signs  # no entry that `relu` would have to come back from
    trained(layer, lambda: (layer.weight - target).square().sum(), steps=400)
    away = (layer.weight - target).abs().max().item()
    # A dead relu stays, and a softplus only nears zero; the others arrive.
    assert away < {"relu": 5.0, "softplus": 0.1}.get(parametrization, 0.02)


def test_a_clamped_weight_comes_back_from_the_bound_only_inwards() -> None:
    layer = DalesLinear(2, 1, 0.5, parametrization="clamp", bias=False)
    raw = next(iter(layer.parameters()))
    raw.data.fill_(-0.5)
    assert layer.weight.abs().sum().item() == 0.0
    # Descent of this loss would raise the excitatory weight and lower the inhibitory one: inside.
    (-layer.weight[0, 0] + layer.weight[0, 1]).backward()
    assert raw.grad is not None
    assert raw.grad.tolist() == [[-1.0, -1.0]]
    raw.grad = None
    (layer.weight[0, 0] - layer.weight[0, 1]).backward()
    assert raw.grad.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("parametrization", [*SIGNED, "dann"])
@pytest.mark.parametrize("ratio", [0.5, 0.8])
def test_a_first_layer_is_balanced_with_outputs_of_variance_one(
    parametrization: str, ratio: float
) -> None:
    layer = DalesLinear(
        300, 4000, ratio, parametrization=parametrization, generator=seeded(), bias=False
    )
    output = layer(torch.ones(300)).detach()
    # 4000 rows: the mean's deviation is 0.016 and the variance's 0.03; five of them.
    assert abs(output.mean().item()) < 0.08
    assert output.var().item() == pytest.approx(1, abs=0.2)


def test_a_forward_pass_is_the_linear_map_of_the_weight_and_changes_nothing() -> None:
    layer = DalesLinear(6, 3, parametrization="clamp", generator=seeded())
    before = copy.deepcopy(layer.state_dict())
    x = torch.rand(2, 5, 6, generator=seeded(1))
    torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias)
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    assert "parametrization='clamp'" in repr(layer)
    assert DalesLinear(6, 3, bias=False).bias is None


def test_a_layer_of_one_kind_of_unit_has_one_sign() -> None:
    assert bool((DalesLinear(5, 3, 1.0).weight >= 0).all())
    assert bool((DalesLinear(5, 3, 0.0).weight <= 0).all())
    alone = DalesLinear(5, 3, 1.0, parametrization="dann")
    assert alone.n_inh == 0
    assert bool((alone.weight >= 0).all())


def test_the_layer_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"parametrization must be one of .*'dann', got 'row'"):
        DalesLinear(4, 2, parametrization="row")
    with pytest.raises(ValueError, match="out_features must be at least 1, got 0"):
        DalesLinear(4, 0)
    with pytest.raises(ValueError, match="ei_ratio must be positive with 'dann'"):
        DalesLinear(4, 2, 0.0, parametrization="dann")
    with pytest.raises(
        ValueError, match=r"x must be \(\.\.\., in_features = 4\), got shape \(3,\)"
    ):
        DalesLinear(4, 2)(torch.zeros(3))
    with pytest.raises(ValueError, match="dann_weights needs parametrization='dann', got 'abs'"):
        _ = DalesLinear(4, 2).dann_weights


def test_the_penalty_is_the_mean_power_of_the_wrong_part() -> None:
    signs = torch.tensor([1.0, -1.0])
    weight = torch.tensor([[-1.0, 2.0], [3.0, -4.0]], requires_grad=True)
    loss = DalesLossRegularizer(0.5, signs=signs, p=3)(weight)
    assert loss.item() == pytest.approx(0.5 * (1 + 8) / 4)
    loss.backward()
    expected = 0.5 * torch.tensor([[-3.0, 12.0], [0.0, 0.0]]) / 4
    torch.testing.assert_close(weight.grad, expected)
    law = DalesLawConstraint(2, 0.5)
    assert DalesLossRegularizer(ei_ratio=0.5)(law.apply(weight.detach().clone())).item() == 0.0


def test_the_penalty_of_a_module_sums_over_its_matching_layers() -> None:
    a, b = nn.Linear(4, 3), nn.Linear(3, 2)
    dale = DalesLinear(4, 3)
    module = nn.Sequential(a, nn.ReLU(), b, dale)
    penalty = DalesLossRegularizer(ei_ratio=0.5)
    torch.testing.assert_close(penalty(module), penalty(a.weight) + penalty(b.weight))
    only = DalesLossRegularizer(signs=torch.tensor([1.0, 1, -1, -1]))
    torch.testing.assert_close(only(module), only(a.weight))
    assert only(nn.Sequential(dale)).item() == 0.0


def test_the_penalty_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="weight must be at least 0, got -1"):
        DalesLossRegularizer(-1)
    with pytest.raises(ValueError, match=r"p must be at least 1, got 0.5"):
        DalesLossRegularizer(p=0.5)
    with pytest.raises(ValueError, match=r"signs must be \+1 or -1"):
        DalesLossRegularizer(signs=torch.tensor([1.0, 0.0]))
    penalty = DalesLossRegularizer(signs=torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="last axis of weight is the presynaptic one"):
        penalty(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="ReLU has no linear layer of in_features 2"):
        penalty(nn.ReLU())


@pytest.mark.parametrize("parametrization", SIGNED)
def test_a_recurrent_network_starts_balanced_at_its_spectral_radius(parametrization: str) -> None:
    network = RecurrentDalesNetwork(
        3, 60, 2, parametrization=parametrization, spectral_radius=1.2, generator=seeded()
    )
    weight = network.recurrent_weight.detach()
    assert torch.linalg.eigvals(weight).abs().max().item() == pytest.approx(1.2, abs=1e-3)
    assert weight.sum(1).abs().max().item() < 1e-6
    assert weight.diagonal().abs().max().item() == 0.0
    assert DalesLawConstraint(60).satisfied(weight)


@pytest.mark.slow  # 200 steps through time
def test_a_recurrent_network_keeps_signs_and_mask_under_200_steps_of_adam() -> None:
    mask = torch.rand(20, 20, generator=seeded()) < 0.5
    for parametrization in SIGNED:
        network = RecurrentDalesNetwork(
            2, 20, 1, mask=mask, parametrization=parametrization, generator=seeded()
        )
        u = torch.randn(4, 6, 2, generator=seeded(1))

        def loss(network: nn.Module = network, u: Tensor = u) -> Tensor:
            found = network(u)
            return (found.output - 1).square().mean() + found.hidden.square().mean()

        first = loss().item()
        trained(network, loss)
        weight = network.recurrent_weight.detach()
        assert loss().item() < first
        assert DalesLawConstraint(20).satisfied(weight)
        assert weight[~mask].abs().sum().item() == 0.0
        assert bool((network.readout.weight >= 0).all())


def test_a_recurrent_network_follows_its_equation() -> None:
    network = RecurrentDalesNetwork(
        2, 10, 3, tau=50.0, dt=10.0, readout="all", self_connections=True, generator=seeded()
    )
    u = torch.randn(2, 5, 2, generator=seeded(1))
    found = network(u)
    x = torch.zeros(2, 10)
    for t in range(5):
        drive = x.relu() @ network.recurrent_weight.T + network.input(u[:, t])
        x = 0.8 * x + 0.2 * drive
        torch.testing.assert_close(found.hidden[:, t], x)
        torch.testing.assert_close(found.output[:, t], network.readout(x.relu()))
    rest = network(u[:, 2:], found.hidden[:, 1])
    assert torch.equal(rest.hidden, found.hidden[:, 2:])


def test_noise_has_the_variance_of_its_equation_and_follows_the_generator() -> None:
    network = RecurrentDalesNetwork(1, 40, 1, noise_std=0.5, generator=seeded())
    u = torch.zeros(500, 1, 1)
    first, again = (network(u, generator=seeded(3)).hidden for _ in range(2))
    assert torch.equal(first, again)
    # One step from rest: the variance is 2 alpha sigma^2 = 0.1; 20000 draws, deviation 1 %.
    assert first.var().item() == pytest.approx(0.1, rel=0.05)


def test_the_recurrent_network_names_what_is_wrong() -> None:
    with pytest.raises(
        ValueError, match=r"dt must be positive and at most tau = 100.0 ms, got 200"
    ):
        RecurrentDalesNetwork(1, 4, 1, dt=200)
    with pytest.raises(ValueError, match="noise_std must be at least 0 and spectral_radius"):
        RecurrentDalesNetwork(1, 4, 1, spectral_radius=0)
    with pytest.raises(ValueError, match="sizes must be at least 1, got 0 and 1"):
        RecurrentDalesNetwork(0, 4, 1)
    with pytest.raises(ValueError, match=r"mask must be boolean.*\(4, 4\)"):
        RecurrentDalesNetwork(1, 4, 1, mask=torch.ones(4, 4))
    with pytest.raises(ValueError, match="no cycle"):
        RecurrentDalesNetwork(1, 4, 1, mask=torch.ones(4, 4).triu(1).bool())
    with pytest.raises(ValueError, match="readout='excitatory' needs an excitatory unit"):
        RecurrentDalesNetwork(1, 4, 1, ei_ratio=0.0)
    with pytest.raises(ValueError, match=r"parametrization must be one of .*, got 'dann'"):
        RecurrentDalesNetwork(1, 4, 1, parametrization="dann")
    network = RecurrentDalesNetwork(1, 4, 1)
    with pytest.raises(ValueError, match=r"u must be \(batch, time >= 1, input_size = 1\)"):
        network(torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"h0 must be \(batch, hidden_size\) = \(2, 4\)"):
        network(torch.zeros(2, 3, 1), torch.zeros(4))


@pytest.mark.parametrize("parametrization", [*SIGNED, "dann"])
@pytest.mark.parametrize("readout", ["excitatory", "all"])
def test_a_classifier_obeys_behind_its_first_layer(parametrization: str, readout: str) -> None:
    for signed in (True, False):
        network = EINetworkClassifier(
            12, [20, 10], 3, parametrization=parametrization, readout=readout,
            signed_input=signed, generator=seeded(),
        )  # fmt: skip
        x = torch.rand(4, 12, generator=seeded(1))
        assert network(x).shape == (4, 3)
        trained(network, lambda n=network, x=x: n(x).square().mean(), steps=5)
        assert isinstance(network.hidden[0], nn.Linear) is signed
        assert DalesLossRegularizer()(nn.Sequential(*network.hidden[1:])).item() == 0.0
    if parametrization != "dann":
        assert DalesLawConstraint(20).satisfied(network.hidden[1].weight.detach())
        assert network.readout.in_features == (8 if readout == "excitatory" else 10)


def test_the_excitatory_readout_ignores_inhibitory_units() -> None:
    network = EINetworkClassifier(5, [10], 2, generator=seeded())
    with torch.no_grad():
        network.hidden[0].weight[:8] = 0
    logits = network(torch.randn(6, 5, generator=seeded(1)))
    assert bool((logits == logits[0]).all())


def test_the_classifier_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"activation must be one of .*, got 'tanh'"):
        EINetworkClassifier(4, [4], 2, activation="tanh")
    with pytest.raises(ValueError, match=r"at least one entry of hidden_sizes.*and \[\]"):
        EINetworkClassifier(4, [], 2)
    with pytest.raises(ValueError, match="readout must be one of"):
        EINetworkClassifier(4, [4], 2, readout="none")
    network = EINetworkClassifier(4, [4], 2, signed_input=False)
    with pytest.raises(ValueError, match=r"x must be \(\.\.\., in_features = 4\)"):
        network(torch.zeros(3))
    with pytest.raises(ValueError, match="x must be at least 0 with signed_input=False"):
        network(-torch.ones(4))


def accuracy(network: nn.Module, data: list[Tensor], seed: int) -> float:
    x, y, x_test, y_test = data
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    generator = seeded(seed)
    for _ in range(30):
        for rows in torch.randperm(len(x), generator=generator).split(256):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    return (network(x_test).argmax(1) == y_test).double().mean().item()


@pytest.mark.slow  # twenty trainings
def test_networks_that_obey_classify_digits_as_well_as_those_that_need_not() -> None:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels / 16, labels, test_size=0.3, random_state=0, stratify=labels)
    data = [torch.from_numpy(parts[i]) for i in (0, 2, 1, 3)]
    data[0], data[2] = data[0].float(), data[2].float()
    mean: dict[str, float] = {}
    for kind in ("plain", "dann", "softplus", "clamp"):
        scores = []
        for seed in range(5):
            torch.manual_seed(seed)
            network: nn.Module = nn.Sequential(
                nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
            )
            if kind != "plain":
                network = EINetworkClassifier(
                    64, [64, 64], 10, parametrization=kind, generator=seeded(seed)
                )
            scores.append(accuracy(network, data, seed))
        mean[kind] = sum(scores) / len(scores)
    assert mean["plain"] > 0.95
    assert mean["dann"] >= mean["plain"] - 0.01
    assert mean["softplus"] >= mean["plain"] - 0.01
    assert mean["clamp"] >= mean["plain"] - 0.03
