"""Lesions of activations and weights, and their complete undoing."""

import math

import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.activations import run
from neuros_mechint.interventions import VirtualLesion

KINDS = ["zero", "scale", "noise", "mean"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 4))
    with torch.no_grad():
        # Bits that a comparison of numbers would not tell apart, or would never call equal.
        net[0].weight[0, 0] = -0.0
        net[0].weight[0, 1] = math.nan
        net[0].bias[0] = math.inf
    return net


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(6, 3, 4, generator=seeded(1))


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone().view(torch.int32) for name, value in model.state_dict().items()}


def assert_same_bits(model: nn.Module, before: dict[str, Tensor]) -> None:
    after = bits(model)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fraction", [1.0, 0.3])
def test_weights_return_to_the_last_bit(net: nn.Sequential, kind: str, fraction: float) -> None:
    before, objects = bits(net), [*net.parameters()]
    lesion = VirtualLesion(
        net, "", kind=kind, severity=0.7, fraction=fraction, level="weight", generator=seeded()
    )
    with lesion:
        assert lesion.applied
        changed = [not torch.equal(value, before[name]) for name, value in bits(net).items()]
        assert any(changed)
    assert_same_bits(net, before)
    assert all(a is b for a, b in zip(net.parameters(), objects, strict=True))
    assert not any(vars(parameter) for parameter in net.parameters())


def test_weights_return_after_an_exception(net: nn.Sequential) -> None:
    before = bits(net)
    lesion = VirtualLesion(net, "", level="weight")
    with pytest.raises(ZeroDivisionError), lesion:
        raise ZeroDivisionError
    assert_same_bits(net, before)
    assert not lesion.applied


def test_a_lesion_that_fails_halfway_leaves_the_weights(net: nn.Sequential) -> None:
    before = bits(net)
    lesion = VirtualLesion(net, "", kind="scale", severity=0.5, level="weight")
    read_only = net[2].bias

    def refuse_once(*_: object) -> Tensor:
        del read_only.copy_
        raise MemoryError("no memory")

    read_only.copy_ = refuse_once
    with pytest.raises(MemoryError, match="no memory"):
        lesion.apply()
    assert_same_bits(net, before)
    assert not lesion.applied


def test_tied_weights_are_hit_once_and_return() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.readout = nn.Linear(3, 5, bias=False)
            self.readout.weight = self.embed.weight
            # Another parameter over the same memory, as after an assignment to `.data`.
            self.copy = nn.Linear(5, 3, bias=False)
            self.copy.weight.data = self.embed.weight.data.mT

    model = Tied()
    before, weight = bits(model), model.embed.weight.detach().clone()
    with VirtualLesion(model, "", kind="scale", severity=0.5, level="weight"):
        assert torch.equal(model.embed.weight, weight * 0.5)
        assert model.readout.weight is model.embed.weight
    assert_same_bits(model, before)


def test_lesions_of_weights_nest(net: nn.Sequential) -> None:
    before, bias = bits(net), net[2].bias.detach().clone()
    half = VirtualLesion(net, "2", kind="scale", severity=0.5, level="weight")
    with half:
        with VirtualLesion(net, "2.bias", kind="scale", severity=-1.0, level="weight"):
            assert torch.equal(net[2].bias, bias)
        assert torch.equal(net[2].bias, bias * 0.5)
    assert_same_bits(net, before)


def test_the_optimizer_still_owns_the_same_parameters(net: nn.Sequential, inputs: Tensor) -> None:
    torch.nn.init.constant_(net[0].weight, 0.1)
    torch.nn.init.zeros_(net[0].bias)
    optimizer = torch.optim.Adam(net.parameters())
    with VirtualLesion(net, "0", level="weight"):
        net(inputs).sum().backward()
        optimizer.step()
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    assert all(a is b for a, b in zip(owned, net.parameters(), strict=True))
    before = net[2].weight.detach().clone()
    optimizer.zero_grad()
    net(inputs).sum().backward()
    optimizer.step()
    assert not torch.equal(net[2].weight, before)


def test_a_lesion_during_the_backward_pass_is_noticed(inputs: Tensor) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    out = net(inputs)
    with (
        VirtualLesion(net, "1", level="weight"),
        pytest.raises(RuntimeError, match="modified by an inplace operation"),
    ):
        out.sum().backward()


def test_weights_of_each_kind_are_as_defined() -> None:
    layer = nn.Linear(50, 40)
    weight = layer.weight.detach().clone()
    damaged = {}
    for kind in KINDS:
        with VirtualLesion(
            layer, "weight", kind=kind, severity=0.25, level="weight", generator=seeded()
        ):
            damaged[kind] = layer.weight.detach().clone()
    assert torch.allclose(damaged["zero"], 0.75 * weight)
    assert torch.equal(damaged["zero"], damaged["scale"])
    assert torch.allclose(damaged["mean"], 0.75 * weight + 0.25 * weight.mean())
    noise = (damaged["noise"] - weight) / weight.square().mean().sqrt()
    # 2000 normal numbers: five standard errors of their deviation are 0.08 of it.
    assert float(noise.std()) == pytest.approx(0.25, rel=0.08)


def test_integer_parameters_are_left_alone() -> None:
    layer = nn.Linear(2, 2)
    layer.codes = nn.Parameter(torch.arange(3), requires_grad=False)
    with VirtualLesion(layer, "", level="weight"):
        assert layer.codes.tolist() == [0, 1, 2]
        assert layer.weight.abs().sum() == 0


def test_a_share_of_the_weights_is_hit_and_a_larger_one_holds_it() -> None:
    layer = nn.Linear(50, 40)
    hit = {}
    for fraction in (0.2, 0.5):
        lesion = VirtualLesion(layer, "", fraction=fraction, level="weight", generator=seeded(4))
        with lesion:
            hit[fraction] = torch.cat([p.detach().reshape(-1) == 0 for p in layer.parameters()])
        with lesion:
            again = torch.cat([p.detach().reshape(-1) == 0 for p in layer.parameters()])
        assert torch.equal(again, hit[fraction])
        assert int(hit[fraction].sum()) == round(fraction * 2040)
    assert not bool((hit[0.2] & ~hit[0.5]).any())


def test_activations_of_each_kind_are_as_defined(inputs: Tensor) -> None:
    net = nn.Sequential(nn.Identity())
    damaged = {}
    for kind in KINDS:
        with VirtualLesion(net, "0", kind=kind, severity=0.25, generator=seeded()):
            damaged[kind] = net(inputs)
    assert torch.allclose(damaged["zero"], 0.75 * inputs)
    assert torch.equal(damaged["zero"], damaged["scale"])
    assert torch.allclose(damaged["mean"], 0.75 * inputs + 0.25 * inputs.mean((0, 1)))
    scale = inputs.square().mean((1, 2), keepdim=True).sqrt()
    noise = (damaged["noise"] - inputs) / scale
    # 72 normal numbers: five standard errors of their deviation are 0.42 of it.
    assert float(noise.std()) == pytest.approx(0.25, rel=0.42)


def test_a_total_lesion_is_exactly_zero_even_of_nan() -> None:
    net = nn.Sequential(nn.Identity())
    with VirtualLesion(net, "0"):
        assert torch.equal(net(torch.tensor([[math.nan, math.inf]])), torch.zeros(1, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_severity_of_zero_changes_nothing(kind: str, inputs: Tensor) -> None:
    net = nn.Sequential(nn.Identity())
    with VirtualLesion(net, "0", kind=kind, severity=0.0, generator=seeded()):
        assert torch.equal(net(inputs), inputs)


def test_a_share_of_the_units_is_hit_in_every_forward(inputs: Tensor) -> None:
    net = nn.Sequential(nn.Linear(4, 20), nn.Identity())
    lesion = VirtualLesion(net, "1", fraction=0.25, generator=seeded())
    silent = []
    for _ in range(2):
        with lesion:
            silent += [(net(inputs) == 0).all((0, 1)), (net(inputs[:2]) == 0).all((0, 1))]
    assert int(silent[0].sum()) == 5
    assert all(torch.equal(silent[0], other) for other in silent)
    with VirtualLesion(net, "1", fraction=0.5, unit_axis=0, generator=seeded()):
        assert int((net(inputs) == 0).all((1, 2)).sum()) == 3


def test_an_activation_without_units_is_hit_as_a_whole() -> None:
    net = nn.Sequential(nn.Flatten(0))
    x = torch.randn(5, 1, generator=seeded())
    with VirtualLesion(net, "0", fraction=0.9, generator=seeded()):
        assert torch.equal(net(x), torch.zeros(5))
    with VirtualLesion(net, "0", kind="noise", generator=seeded()):
        assert not torch.equal(net(x), x[:, 0])


def test_a_scalar_activation_is_damaged() -> None:
    class Total(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum()

    net = nn.Sequential(Total())
    with VirtualLesion(net, "0", kind="noise", generator=seeded()):
        assert net(torch.ones(2)).item() != 2.0


def test_noise_is_the_same_in_every_application_and_differs_between_forwards(
    inputs: Tensor,
) -> None:
    net = nn.Sequential(nn.Identity())
    lesion = VirtualLesion(net, "0", kind="noise", generator=seeded())
    with lesion:
        first, second = net(inputs), net(inputs)
    with lesion:
        assert torch.equal(net(inputs), first)
    assert not torch.equal(first, second)
    other = VirtualLesion(net, "0", kind="noise", generator=seeded(1))
    with other:
        assert not torch.equal(net(inputs), first)


def test_the_size_of_the_noise_belongs_to_the_row(inputs: Tensor) -> None:
    net = nn.Sequential(nn.Identity())
    lesion = VirtualLesion(net, "0", kind="noise", generator=seeded())
    gain = torch.logspace(-3, 2, 6)[:, None, None]
    with lesion:
        noise = net(inputs) - inputs
    with lesion:
        scaled = net(inputs * gain) - inputs * gain
    assert torch.allclose(scaled, noise * gain, rtol=1e-3, atol=1e-6)


def test_lesions_of_activations_nest_in_any_order(inputs: Tensor) -> None:
    net = nn.Sequential(nn.Identity())
    half = VirtualLesion(net, "0", kind="scale", severity=0.5)
    third = VirtualLesion(net, "0", kind="scale", severity=2 / 3)
    half.apply()
    third.apply()
    assert torch.allclose(net(inputs), inputs / 6)
    half.restore()
    assert torch.allclose(net(inputs), inputs / 3)
    third.restore()
    assert torch.equal(net(inputs), inputs)
    assert not net[0]._forward_hooks


def test_a_lesion_of_one_part_of_a_site_leaves_the_rest(inputs: Tensor) -> None:
    net = nn.Sequential(nn.Identity())
    with VirtualLesion(net, "0[..., :2]"):
        out = net(inputs)
    assert torch.equal(out[..., :2], torch.zeros(6, 3, 2))
    assert torch.equal(out[..., 2:], inputs[..., 2:])


def test_doses_are_measured_on_the_output_or_on_the_model(inputs: Tensor) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(3), nn.Linear(4, 1))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    doses = [0.0, 0.5, 1.0]
    for level in ("activation", "weight"):
        lesion = VirtualLesion(net, "0", level=level)
        table = lesion.dose_response(doses, lambda y: y.square().mean((1, 2)), inputs=inputs)
        assert list(table) == ["severity", "value", "effect", "relative_change"]
        assert table["severity"].tolist() == doses
        assert table["effect"][0] == 0.0

        def score(model: nn.Module) -> float:
            with torch.no_grad():
                return float(model(inputs).square().mean())

        on_model = lesion.dose_response(doses, score)
        assert on_model["value"].tolist() == pytest.approx(table["value"].tolist(), abs=1e-6)
        healthy = score(net)
        assert table["value"][0] == pytest.approx(healthy, abs=1e-6)
        net.load_state_dict(before)
    silenced = run(net, inputs, edits={"0": torch.zeros_like}).output.square().mean()
    net.load_state_dict(before)
    table = VirtualLesion(net, "0").dose_response(doses, lambda y: y.square().mean(), inputs=inputs)
    assert table["value"][2] == pytest.approx(silenced.item(), abs=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_doses_share_units_and_noise(inputs: Tensor) -> None:
    net = nn.Sequential(nn.Linear(4, 20), nn.Identity())
    lesion = VirtualLesion(net, "1", kind="noise", fraction=0.5, generator=seeded())
    clean = net(inputs).detach()
    shift = lesion.dose_response([0.5, 1.0], lambda y: (y - clean).abs().mean(), inputs=inputs)
    # The same noise at half the size moves the output half as far.
    assert shift["value"][0] == pytest.approx(shift["value"][1] / 2, rel=1e-5)


def test_what_is_no_lesion_is_refused(net: nn.Sequential) -> None:
    with pytest.raises(ValueError, match="kind needs one of zero, scale, noise, mean, got 'cut'"):
        VirtualLesion(net, "0", kind="cut")
    with pytest.raises(ValueError, match="level needs one of activation, weight, got 'unit'"):
        VirtualLesion(net, "0", level="unit")
    for fraction in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="fraction needs a share above 0 and up to 1"):
            VirtualLesion(net, "0", fraction=fraction)
    with pytest.raises(ValueError, match="unit_axis belongs to level='activation'"):
        VirtualLesion(net, "0", level="weight", unit_axis=1)
    for arguments in ({"kind": "noise"}, {"fraction": 0.5}):
        with pytest.raises(ValueError, match="is drawn and needs a generator"):
            VirtualLesion(net, "0", **arguments)
    for kind in ("zero", "mean"):
        with pytest.raises(ValueError, match=f"kind='{kind}' needs a number from 0 to 1, got 1.5"):
            VirtualLesion(net, "0", kind=kind, severity=1.5)
    with pytest.raises(ValueError, match=r"kind='noise' needs a number of at least 0, got -1.0"):
        VirtualLesion(net, "0", kind="noise", severity=-1.0, generator=seeded())
    with pytest.raises(ValueError, match="severity needs a finite number, got inf"):
        VirtualLesion(net, "0", kind="scale", severity=math.inf)
    with pytest.raises(KeyError, match=r"no module '0.weight'"):
        VirtualLesion(net, "0.weight")
    with pytest.raises(KeyError, match=r"no module 'x.y'"):
        VirtualLesion(net, "x.y", level="weight")
    with pytest.raises(ValueError, match=r"needs the path of a module or parameter, got .*'0:in'"):
        VirtualLesion(net, "0:in", level="weight")
    with pytest.raises(ValueError, match="'1' has no floating-point parameters to lesion"):
        VirtualLesion(net, "1", level="weight")


def test_what_a_forward_cannot_lesion_is_refused(inputs: Tensor) -> None:
    net = nn.Sequential(nn.Identity())
    with (
        pytest.raises(ValueError, match=r"needs floating-point activations, got torch.int64"),
        VirtualLesion(net, "0"),
    ):
        net(inputs.long())
    with (
        pytest.raises(ValueError, match="one row and position, whose mean is the activation"),
        VirtualLesion(net, "0", kind="mean"),
    ):
        net(inputs[:1, 0])
    with (
        pytest.raises(
            ValueError, match=r"0.1 of the 4 units at '0' is less than one .* least 0.25"
        ),
        VirtualLesion(net, "0", fraction=0.1, generator=seeded()),
    ):
        net(inputs)
    assert torch.equal(net(inputs), inputs)


def test_a_lesion_is_in_place_once_and_taken_away_once(net: nn.Sequential) -> None:
    lesion = VirtualLesion(net, "0", level="weight")
    assert repr(lesion) == (
        "VirtualLesion(Sequential, '0', kind='zero', severity=1.0, fraction=1.0, level='weight')"
    )
    with pytest.raises(RuntimeError, match="is not in place; apply it first"):
        lesion.restore()
    lesion.apply()
    with pytest.raises(RuntimeError, match="is in place already; restore it first"):
        lesion.apply()
    with pytest.raises(RuntimeError, match="restore it before a dose-response curve"):
        lesion.dose_response([0.5], lambda _: 0.0)
    lesion.restore()
    with pytest.raises(TypeError, match="metric needs to return a tensor or a number, got str"):
        lesion.dose_response([0.5], lambda _: "good")


def test_lesions_of_the_same_weights_are_taken_away_in_reverse(net: nn.Sequential) -> None:
    before = bits(net)
    outer = VirtualLesion(net, "2", level="weight")
    inner = VirtualLesion(net, "2.weight", kind="scale", severity=-1.0, level="weight")
    outer.apply()
    inner.apply()
    with pytest.raises(RuntimeError, match="restore that one first"):
        outer.restore()
    assert outer.applied
    inner.restore()
    outer.restore()
    assert_same_bits(net, before)


def test_a_lesion_that_met_nothing_is_an_error(net: nn.Sequential) -> None:
    lesion = VirtualLesion(net, "0")
    lesion.apply()
    with pytest.raises(RuntimeError, match="site '0' was never reached"):
        lesion.restore()
    assert not lesion.applied
    assert not net[0]._forward_hooks
