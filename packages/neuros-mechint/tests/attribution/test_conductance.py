"""Conductance against closed forms, chain rule and completeness at cuts."""

import pytest
import torch
from torch import nn

from neuros_mechint.attribution import Attribution, LayerConductance, NeuronConductance

TOL = {"atol": 1e-12, "rtol": 0.0}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def chain(activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 6), activation(), nn.Linear(6, 5), activation(), nn.Linear(5, 2)
    )
    return net.double().eval()


# The first derivative along a line loads torch's table of them.
@pytest.mark.slow
def test_conductance_of_two_units_in_closed_form() -> None:
    # F = h1 h2 with h1 = x^2 and h2 = x: dF = h2 dh1 + h1 dh2 = 2 x^2 dx + x^2 dx.
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Identity()

        def forward(self, x):
            return self.hidden(torch.stack([x[:, 0] ** 2, x[:, 0]], 1)).prod(1)

    x = torch.tensor([[3.0], [-1.0]], dtype=torch.float64)
    result = LayerConductance(Product(), "hidden").attribute(x, steps=2)
    torch.testing.assert_close(
        result.values, x**3 * torch.tensor([[2 / 3, 1 / 3]], dtype=x.dtype), **TOL
    )
    assert result.delta.abs().max() < 1e-12
    assert result.steps == 2


@pytest.mark.parametrize("site", ["0", "1", "2:in", "3", "4:in", "4[:, 1:]"])
def test_conductance_is_complete_at_a_cut(site: str) -> None:
    net, x, start = chain(), normal(3, 4), normal(3, 4, seed=1)
    result = LayerConductance(net, site, target=1).attribute(x, start)
    with torch.no_grad():
        change = (net(x) - net(start))[:, 1]
    torch.testing.assert_close(result.values.sum(1), change, atol=1e-9, rtol=0.0)
    assert result.delta.abs().max() < 1e-9


def test_conductance_of_the_input_layer_is_integrated_gradients() -> None:
    net, x = chain(nn.ReLU), normal(3, 4)
    flow = LayerConductance(net, "0:in", target=0).attribute(x, steps=20)
    gradients = Attribution(net, target=0).attribute(x, steps=20)
    torch.testing.assert_close(flow.values, gradients.values, **TOL)
    torch.testing.assert_close(flow.delta, gradients.delta, **TOL)


def test_half_of_a_layer_conducts_less_than_the_change() -> None:
    result = LayerConductance(chain(), "1[:, :3]", target=0).attribute(normal(3, 4))
    whole = LayerConductance(chain(), "1", target=0).attribute(normal(3, 4))
    torch.testing.assert_close(result.values, whole.values[:, :3], **TOL)
    assert result.delta.abs().min() > 1e-3


class Branches(nn.Module):
    """Convolution and matrix products by every route of torch, in place and with kwargs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(2, 3, 3, padding=1)
        self.tail = nn.Identity()
        self.weight = nn.Parameter(torch.randn(3, 4, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(4, dtype=torch.float64))
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        first = nn.functional.conv1d(x, self.conv.weight, bias=self.conv.bias, padding=1)
        rows = (torch.tanh(first) + torch.tanh(self.conv(input=x))).transpose(1, 2)
        flat = torch.addmm(self.bias, rows.flatten(0, 1), self.weight)
        # The weights depend on the input here: no rule for fixed weights may apply.
        gate = nn.functional.linear(flat[:4], flat[4:8])
        flat = flat + torch.addmm(gate[0], flat, gate)
        hidden = self.tail(flat.reshape(len(x), -1, 4))
        hidden.relu_()
        return self.attend(hidden, hidden, hidden, need_weights=False)[0].mean((1, 2))


# Torch's own rule for a product of two moving factors loads its compiler, once.
@pytest.mark.slow
def test_all_routes_through_torch_carry_the_derivative_along_the_line() -> None:
    model, x = Branches().double().eval(), normal(1, 2, 8)
    # One row and one copy per forward, since the rows of this model influence each other.
    model.train()
    cut = LayerConductance(model, "tail").attribute(x, batch_size=1)
    step, nodes = 1e-6, torch.linspace(0, 1, 5, dtype=torch.float64)
    assert cut.values.shape == (1, 8, 4)
    with torch.no_grad():
        slopes = [(model(x * (t + step)) - model(x * (t - step))) / (2 * step) for t in nodes]
    flow = LayerConductance(model, "tail").attribute(x, batch_size=1, steps=1)
    # With one node, in the middle, the conductances add up to the derivative there.
    torch.testing.assert_close(flow.values.sum((1, 2)), slopes[2], atol=1e-6, rtol=0.0)


def test_calls_and_starts_may_be_chosen() -> None:
    torch.manual_seed(0)
    shared = nn.Linear(4, 4)
    model = nn.Sequential(nn.Embedding(7, 4), shared, nn.Tanh(), shared, nn.Flatten()).double()
    x, start = torch.tensor([[1, 2], [3, 4]]), torch.zeros(1, 2, dtype=torch.long)
    both = LayerConductance(model, shared, target=5, start="0").attribute(x, start)
    assert isinstance(both.values, tuple)
    with torch.no_grad():
        change = (model(x) - model(start))[:, 5]
    for k, values in enumerate(both.values):
        torch.testing.assert_close(values.sum((1, 2)), change, atol=1e-10, rtol=0.0)
        one = LayerConductance(model, f"1@{k}", target=5, start="0").attribute(x, start)
        torch.testing.assert_close(one.values, values, **TOL)
    total = LayerConductance(model, shared, target=lambda y: y[:, 5].sum(), start="0")
    found = total.attribute(x, start)
    assert found.delta.shape == (1,)
    torch.testing.assert_close(found.values, both.values, **TOL)


def test_a_site_beside_the_path_conducts_nothing() -> None:
    class Side(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)
            self.fixed = nn.Linear(3, 3)

        def forward(self, x):
            self.unused(x)
            # This one is read but does not move along the line.
            return (self.used(x) + self.fixed(torch.ones_like(x).detach())).sum(1)

    model, x = Side().double(), normal(2, 3)
    for site in ("unused", "fixed"):
        result = LayerConductance(model, site).attribute(x)
        assert torch.equal(result.values, torch.zeros(2, 3, dtype=torch.float64))
        unit = NeuronConductance(model, site, 0).attribute(x)
        assert torch.equal(unit, torch.zeros(2, 3, dtype=torch.float64))
    constant = nn.Sequential(nn.Linear(3, 3), nn.Threshold(1e9, 0.0)).double().requires_grad_(False)

    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = constant

        def forward(self, x):
            return torch.zeros(len(x), dtype=x.dtype) * self.net(x).sum(1).detach()

    result = LayerConductance(Blind(), "net").attribute(x)
    assert torch.equal(result.values, torch.zeros(2, 3, dtype=torch.float64))


class Scaled(nn.Module):
    """The same function with and without operations in place."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 1)
        self.relu = nn.ReLU(inplace=in_place)
        self.in_place = in_place

    def forward(self, x):
        hidden = self.first(x)
        hidden = hidden.mul_(2.0) if self.in_place else hidden * 2.0
        return self.last(self.relu(hidden))


@pytest.mark.parametrize("site", ["first", "relu:in", "relu"])
def test_a_model_that_works_in_place_conducts_as_one_that_does_not(site: str) -> None:
    x = normal(3, 4)
    one, two = (
        LayerConductance(Scaled(in_place=flag).double(), site).attribute(x, steps=20).values
        for flag in (True, False)
    )
    torch.testing.assert_close(one, two, **TOL)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("batch_size", [1, 17, 512])
def test_shares_of_the_inputs_add_up_to_the_units_conductance(activation, batch_size) -> None:
    net, x, start = chain(activation), normal(3, 4), normal(1, 4, seed=1)
    options = {"steps": 24, "batch_size": batch_size}
    layer = LayerConductance(net, "2", target=1).attribute(x, start, **options).values
    for unit in (0, 3):
        shares = NeuronConductance(net, "2", unit, target=1).attribute(x, start, **options)
        assert shares.shape == x.shape
        torch.testing.assert_close(shares.sum(1), layer[:, unit], **TOL)


def test_the_unit_of_a_series_needs_a_whole_index() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 1)).double()
    x = normal(3, 4, 2)
    shares = NeuronConductance(model, "1", (2, 0)).attribute(x)
    layer = LayerConductance(model, "1").attribute(x).values
    torch.testing.assert_close(shares.sum((1, 2)), layer[:, 2, 0], **TOL)
    assert torch.equal(shares[:, [0, 1, 3]], torch.zeros(3, 3, 2, dtype=torch.float64))
    for unit in (0, (0, 9)):
        with pytest.raises(ValueError, match=r"needs to name one number per row of site '1'"):
            NeuronConductance(model, "1", unit).attribute(x)


def test_a_unit_of_a_repeated_site_needs_its_call() -> None:
    shared = nn.Linear(3, 3).double()
    model = nn.Sequential(shared, shared)
    with pytest.raises(ValueError, match="site '0' was reached 2 times; name one call"):
        NeuronConductance(model, "0", 0, target=0).attribute(normal(2, 3))
    shares = NeuronConductance(model, "0@1", 0, target=0).attribute(normal(2, 3))
    assert shares.abs().min() > 0


def test_a_site_without_the_batch_is_refused() -> None:
    class Positional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = nn.Embedding(5, 3)

        def forward(self, x):
            return (x[:, None] + self.place(torch.arange(5))).sum((1, 2))

    with pytest.raises(ValueError, match=r"site 'place' does not carry the batch: its shape"):
        LayerConductance(Positional().double(), "place").attribute(normal(2, 3))


def test_descriptions_name_the_site() -> None:
    net = chain()
    assert repr(LayerConductance(net, net[1])) == "LayerConductance(Sequential, '1')"
    assert repr(NeuronConductance(net, "1", 2)) == "NeuronConductance(Sequential, '1', unit=(2,))"
