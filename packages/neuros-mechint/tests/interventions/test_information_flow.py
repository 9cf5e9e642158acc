"""Conductance at every cut of a model, from one pass."""

import pytest
import torch
from torch import nn

from neuros_mechint.activations import Site
from neuros_mechint.attribution import LayerConductance
from neuros_mechint.interventions import InformationFlow


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def chain(activation: type[nn.Module], depth: int = 5, width: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [m for _ in range(depth) for m in (nn.Linear(width, width), activation())]
    net = nn.Sequential(*layers, nn.Linear(width, 3)).double().eval()
    for parameter in net.parameters():
        parameter.data *= 2.0
    return net


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU])
@pytest.mark.parametrize("batch_size", [16, 512])
def test_every_cut_of_a_chain_carries_the_whole_change(activation, batch_size: int) -> None:
    net, x, start = chain(activation), normal(4, 10), normal(4, 10, seed=1)
    sites = [Site("0", io="input"), *(Site(str(k)) for k in range(10)), Site("10", index=(..., 1))]
    flow = InformationFlow(net, batch_size=batch_size).compute(x, start, 1, sites, steps=64)
    assert list(flow) == sites
    with torch.no_grad():
        change = (net(x) - net(start))[:, 1]
    for site, values in flow.items():
        total = values.reshape(4, -1).sum(1)
        torch.testing.assert_close(total, change, atol=1e-9, rtol=0.0, msg=str(site))


@pytest.mark.parametrize("target", [0, lambda y: y[:, 0].sum()])
def test_a_tolerance_holds_at_every_cut_of_a_model_with_kinks(target) -> None:
    net, x = chain(nn.ReLU, depth=3), normal(3, 10)
    sites = ["0:in", *(str(k) for k in range(6))]
    fixed = InformationFlow(net).compute(x, None, 0, sites)
    flow = InformationFlow(net).compute(x, None, target, sites, steps=16, tol=1e-7)
    with torch.no_grad():
        change = (net(x) - net(torch.zeros_like(x)))[:, 0]
    for site, values in flow.items():
        gaps = values.sum(1) - change
        worst = gaps.sum().abs() if callable(target) else gaps.abs().max()
        assert worst <= 1.01e-7
        assert (fixed[site].sum(1) - change).abs().max() > 1e-4
    result = LayerConductance(net, "3", target=target).attribute(x, steps=16, tol=1e-7)
    assert result.delta.abs().max() <= 1.01e-7
    assert result.steps > 100
    torch.testing.assert_close(result.values, flow[Site("3")], atol=1e-12, rtol=0.0)


def test_rows_that_are_accurate_keep_their_first_nodes() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1)).double()
    net[0].weight.data = torch.eye(2, dtype=torch.float64)
    # The first row has no kink on its line; with another baseline the second has one at 1 / 4.
    x = torch.tensor([[1.0, 2.0], [3.0, 0.0]], dtype=torch.float64)
    start = torch.tensor([[0.5, 0.5], [-1.0, 0.0]], dtype=torch.float64)
    flow = InformationFlow(net).compute(x, start, None, ["0:in", "1"], tol=1e-12)
    w = net[2].weight[0].detach()
    expected = torch.tensor([[0.5, 1.5], [3.0, 0.0]], dtype=torch.float64) * w
    for values in flow.values():
        torch.testing.assert_close(values, expected, atol=1e-12, rtol=0.0)


def test_all_sites_take_one_pass() -> None:
    class Counted(nn.Linear):
        rows = 0

        def forward(self, x):
            Counted.rows += len(x)
            return super().forward(x)

    torch.manual_seed(0)
    net = nn.Sequential(Counted(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    InformationFlow(net).compute(torch.ones(2, 4), None, None, ["0", "1", "2", "3"], steps=50)
    # 50 nodes of 2 rows, both ends, and one copy that tells which dimension is the batch.
    assert Counted.rows == 2 * (50 + 2 + 1)


def test_many_sites_agree_with_each_alone() -> None:
    net, x = chain(nn.ReLU), normal(3, 10)
    flow = InformationFlow(net).compute(x, 0.5, 2, ["1", "2:in", net[4], "7:in"], steps=16)
    for site, values in flow.items():
        alone = LayerConductance(net, site, target=2).attribute(x, 0.5, steps=16).values
        torch.testing.assert_close(values, alone, atol=1e-13, rtol=0.0)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(11, 6)
        self.shared = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.rnn = nn.GRU(6, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, tokens):
        x = self.embed(tokens)
        for _ in range(3):
            x = x + torch.tanh(self.shared(self.norm(x)))
        out, _ = self.rnn(x.transpose(0, 1))
        return self.head(out[-1])


def test_models_of_tokens_start_at_their_embedding_and_repeated_sites_have_a_key_per_call() -> None:
    model = Residual().double().eval()
    tokens, padding = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.zeros(2, 3, dtype=torch.long)
    sites = ["norm:in", "shared", "rnn", "rnn:in", "head"]
    flow = InformationFlow(model, start="embed").compute(tokens, padding, (2,), sites)
    calls = [Site("shared", call=k) for k in range(3)]
    assert [key for key in flow if key.path == "shared"] == calls
    with torch.no_grad():
        change = (model(tokens) - model(padding))[:, 2]
    # The stream before the first block and what enters and leaves the recurrent layer, time first.
    first = flow[Site("norm", io="input", call=0)]
    torch.testing.assert_close(first.sum((1, 2)), change, atol=1e-9, rtol=0.0)
    for name in ("rnn", "rnn:in"):
        values = flow[Site.parse(name)]
        assert values.shape == (3, 2, 6)
        torch.testing.assert_close(values.sum((0, 2)), change, atol=1e-9, rtol=0.0)
    # Each block adds its own conductance to what flows past it.
    before, block = flow[Site("norm", io="input", call=1)], flow[calls[1]]
    after = flow[Site("norm", io="input", call=2)]
    assert before.shape == after.shape == block.shape
    torch.testing.assert_close(after.sum((1, 2)), change, atol=1e-9, rtol=0.0)


def test_the_model_is_left_as_it_was() -> None:
    net, x = chain(nn.Tanh), normal(2, 10)
    with torch.no_grad():
        flow = InformationFlow(net).compute(x, None, 0, "1")
    assert not flow[Site("1")].requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_flow_needs_sites() -> None:
    flow = InformationFlow(nn.Identity(), batch_size=8)
    assert repr(flow) == "InformationFlow(Identity, batch_size=8)"
    with pytest.raises(ValueError, match="at least one site is needed to measure a flow, got none"):
        flow.compute(torch.ones(1, 1), None, None, [])
    with pytest.raises(KeyError, match="no module 'x'"):
        flow.compute(torch.ones(1, 1), None, None, "x")
