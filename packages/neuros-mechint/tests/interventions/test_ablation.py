"""Ablations of layers, neurons and components, one by one and from coarse to fine."""

import math

import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.activations import Replace, Site, run
from neuros_mechint.interventions import (
    AblationResult,
    AblationStudy,
    ComponentAblation,
    LayerAblation,
    NeuronAblation,
    logit_difference,
)

METRIC = logit_difference(1, 0)


class Attention(nn.Module):
    """Two heads of width 3 that mix positions evenly."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv_proj = nn.Linear(6, 6)
        self.out_proj = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(self.qkv_proj(x).cumsum(1))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.attention = Attention()
        self.mlp = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.mlp(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.readout = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.readout(x)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval().double()


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def other() -> Tensor:
    return torch.randn(9, 7, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def mean_metric(output: Tensor) -> float:
    return float(METRIC(output).detach().mean())


def patched(net: nn.Module, x: Tensor, site: Site | str, value: Tensor) -> float:
    return mean_metric(run(net, x, edits={site: Replace(value)}).output)


def captured(net: nn.Module, x: Tensor, site: str) -> Tensor:
    return run(net, x, capture=[site]).cache[site]


def test_every_kind_equals_a_replacement_by_hand(net: Net, inputs: Tensor, other: Tensor) -> None:
    site = "blocks.0.mlp"
    value, reference = captured(net, inputs, site), captured(net, other, site)
    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    by_hand = {
        "zero": torch.zeros_like(value),
        "mean": reference.mean((0, 1)).expand_as(value),
        "identity": captured(net, inputs, f"{site}:in"),
        "resample": reference[order[:5]],
    }
    ablation = LayerAblation(net, generator=generator)
    for kind, expected in by_hand.items():
        result = ablation.ablate(inputs, site, METRIC, kind, other)
        assert result.name == site
        assert result.baseline == pytest.approx(mean_metric(net(inputs)), abs=1e-12)
        assert result.ablated == pytest.approx(patched(net, inputs, site, expected), abs=1e-12)
        assert result.delta == result.ablated - result.baseline
        assert result.relative_change == result.delta / abs(result.baseline)


def test_without_a_reference_the_inputs_are_it(net: Net, inputs: Tensor) -> None:
    ablation = LayerAblation(net)
    given = ablation.ablate(inputs, "embed", METRIC, "mean", inputs)
    assert ablation.ablate(inputs, "embed", METRIC, "mean") == given


def test_skipping_a_layer_of_equal_input_and_output_changes_nothing(inputs: Tensor) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.ReLU(inplace=True)).double()
    result = LayerAblation(net).ablate(inputs, "2", METRIC, "identity")
    assert result.delta == 0.0


def test_an_in_place_module_does_not_reach_its_remembered_input(inputs: Tensor) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True)).double()
    result = LayerAblation(net).ablate(inputs, "1", METRIC, "identity")
    assert result.ablated == pytest.approx(mean_metric(net[0](inputs)), abs=1e-12)


def test_the_relative_change_of_a_baseline_of_zero_is_nan(inputs: Tensor) -> None:
    net = nn.Sequential(nn.Identity())
    result = LayerAblation(net).ablate(inputs, "0", lambda y: (y * 0).sum())
    assert result.delta == 0.0
    assert math.isnan(result.relative_change)


def test_a_mean_over_a_channel_axis_keeps_that_axis(inputs: Tensor) -> None:
    net = nn.Sequential(nn.Conv1d(7, 3, 1), nn.Identity()).double()
    value = captured(net, inputs, "0")
    expected = value.mean((0, 2), keepdim=True).expand_as(value)
    result = LayerAblation(net, unit_axis=1).ablate(inputs, "0", METRIC, "mean")
    assert result.ablated == pytest.approx(patched(net, inputs, "0", expected), abs=1e-12)


def test_a_layer_without_positions_or_units_has_one_mean(inputs: Tensor) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(28, 1), nn.Flatten(0)).double()
    value = captured(net, inputs, "2")
    result = LayerAblation(net).ablate(inputs, "2", lambda y: y.square(), "mean")
    assert result.ablated == pytest.approx(float(value.mean()) ** 2, abs=1e-12)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(self.cell(x))


def test_a_module_called_twice_is_ablated_at_both_calls(inputs: Tensor, other: Tensor) -> None:
    net = Twice().double()
    first, second = run(net, other, capture=["cell"]).cache.calls("cell")
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))[:5]
    ablation = LayerAblation(net, generator=torch.Generator().manual_seed(3))
    both = ablation.ablate(inputs, "cell", METRIC, "resample", other)
    assert both.ablated == pytest.approx(mean_metric(second[order]), abs=1e-12)
    pooled = ablation.ablate(inputs, "cell", METRIC, "mean", other)
    mean = torch.cat([first, second]).mean((0, 1))
    assert pooled.ablated == pytest.approx(mean_metric(mean[None]), abs=1e-12)
    skipped = ablation.ablate(inputs, "cell", METRIC, "identity")
    assert skipped.ablated == pytest.approx(mean_metric(inputs), abs=1e-12)


def test_one_call_of_a_module_is_ablated_alone(inputs: Tensor, other: Tensor) -> None:
    net = Twice().double()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))[:5]
    ablation = LayerAblation(net, generator=torch.Generator().manual_seed(3))
    result = ablation.ablate(inputs, "cell@1", METRIC, "resample", other)
    assert result.ablated == pytest.approx(mean_metric(net(other)[order]), abs=1e-12)
    skipped = ablation.ablate(inputs, "cell@0", METRIC, "identity")
    assert skipped.ablated == pytest.approx(mean_metric(net.cell(inputs)), abs=1e-12)


def test_neurons_are_ablated_singly_and_together(net: Net, inputs: Tensor, other: Tensor) -> None:
    site, ablation = "blocks.1", NeuronAblation(net)
    mean = captured(net, other, site).mean((0, 1))
    for units in (2, [1, 4], range(6)):
        for kind in ("zero", "mean"):
            value = captured(net, inputs, site).clone()
            chosen = [units] if isinstance(units, int) else list(units)
            value[..., chosen] = 0.0 if kind == "zero" else mean[chosen]
            result = ablation.ablate(inputs, (site, units), METRIC, kind, other)
            assert result.ablated == pytest.approx(patched(net, inputs, site, value), abs=1e-12)


def test_neurons_of_another_axis_and_of_a_written_index_are_the_same(inputs: Tensor) -> None:
    net = nn.Sequential(nn.Conv1d(7, 3, 1)).double()
    by_axis = NeuronAblation(net, unit_axis=1).ablate(inputs, ("0", 2), METRIC)
    assert by_axis == NeuronAblation(net, unit_axis=-2).ablate(inputs, ("0", 2), METRIC)._replace(
        name=by_axis.name
    )
    assert by_axis[1:] == NeuronAblation(net).ablate(inputs, "0[:, 2]", METRIC)[1:]
    assert by_axis.name == "0[:, 2]"


def test_a_component_is_a_group_of_sites_removed_together(net: Net, inputs: Tensor) -> None:
    edits = {f"blocks.{k}.mlp": torch.zeros_like for k in range(2)}
    expected = mean_metric(run(net, inputs, edits=edits).output)
    result = ComponentAblation(net).ablate(inputs, [*edits], METRIC)
    assert result.name == "blocks.0.mlp + blocks.1.mlp"
    assert result.ablated == pytest.approx(expected, abs=1e-12)
    found = ComponentAblation(net, component="mlp")
    assert found.ablate(inputs, "", METRIC) == result
    alone = found.ablate(inputs, net.blocks[1], METRIC)
    assert alone == LayerAblation(net).ablate(inputs, "blocks.1.mlp", METRIC)


def test_parts_of_one_site_are_removed_together(net: Net, inputs: Tensor) -> None:
    grouped = ComponentAblation(net).ablate(inputs, ["embed[..., 0]", "embed[..., 3]"], METRIC)
    assert grouped[1:] == NeuronAblation(net).ablate(inputs, ("embed", [0, 3]), METRIC)[1:]


def test_several_sites_are_resampled_from_the_same_rows(inputs: Tensor, other: Tensor) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Identity(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) - self.b(x)

    ablation = ComponentAblation(Pair(), generator=torch.Generator().manual_seed(0))
    result = ablation.ablate(inputs, ["a", "b"], lambda y: y.abs().sum(), "resample", other)
    assert result.ablated == 0.0
    one = ablation.ablate(inputs, "a", lambda y: y.abs().sum(), "resample", other)
    assert one.ablated > 1.0


def test_all_heads_together_are_the_attention_without_its_bias(net: Net, inputs: Tensor) -> None:
    heads = ComponentAblation(net, component="head", n_heads=2)
    result = heads.ablate(inputs, ("blocks.0", [0, 1]), METRIC)
    bias = net.blocks[0].attention.out_proj.bias.detach().expand(5, 7, 6)
    expected = patched(net, inputs, "blocks.0.attention", bias)
    assert result.ablated == pytest.approx(expected, abs=1e-12)
    value = captured(net, inputs, "blocks.0.attention.out_proj:in").clone()
    value[..., 3:] = 0.0
    site = "blocks.0.attention.out_proj:in"
    one = heads.ablate(inputs, ("blocks.0.attention", 1), METRIC)
    assert one.ablated == pytest.approx(patched(net, inputs, site, value), abs=1e-12)


def test_a_study_equals_brute_force_over_its_nodes(net: Net, inputs: Tensor, other: Tensor) -> None:
    for kind in ("zero", "mean"):
        study = AblationStudy(net, batch_size=40)
        layers = ["embed", "blocks.0", "blocks.1"]
        table = study.hierarchical_ablation(
            inputs, layers, METRIC, top_k=2, kind=kind, reference=other
        )
        for result in table.results:
            value = captured(net, inputs, result.name.split("[")[0]).clone()
            site = Site.parse(result.name)
            index = ... if site.index is None else site.index
            mean = captured(net, other, site.path).mean((0, 1)).expand_as(value)
            value[index] = 0.0 if kind == "zero" else mean[index]
            expected = patched(net, inputs, site.path, value)
            assert result.ablated == pytest.approx(expected, abs=1e-10), result.name


def test_a_study_descends_into_the_worst(net: Net, inputs: Tensor) -> None:
    layers = ["embed", "blocks.0", "blocks.1"]
    table = AblationStudy(net).hierarchical_ablation(inputs, layers, METRIC, top_k=2)
    frame = table.to_dataframe()
    assert list(frame) == [
        "level",
        "parent",
        "name",
        "baseline",
        "ablated",
        "delta",
        "relative_change",
    ]
    assert len(table) == len(frame)
    ranked = frame[frame.level == "layer"].sort_values("delta", key=abs, ascending=False)
    worst = list(ranked.name[:2])
    components = frame[frame.level == "component"]
    assert set(components.parent) == {name for name in worst if name.startswith("blocks")}
    assert [n.rsplit(".")[-1] for n in components.name[:3]] == ["norm", "attention", "mlp"]
    leaves = frame[(frame.level == "layer") & (frame.name == "embed") & frame.name.isin(worst)]
    pool = {r.name: abs(r.delta) for r in [*components.itertuples(), *leaves.itertuples()]}
    divided = sorted(pool, key=pool.__getitem__, reverse=True)[:2]
    neurons = frame[frame.level == "neuron"]
    assert list(dict.fromkeys(neurons.parent)) == divided
    assert len(neurons) == 12


def test_a_study_reaches_into_containers_and_past_what_gives_no_tensor(inputs: Tensor) -> None:
    class Wordless(nn.Module):
        def forward(self, x: Tensor) -> None:
            return None

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tied = self.paths = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
            self.quiet = Wordless()

        def forward(self, x: Tensor) -> Tensor:
            self.quiet(x)
            return self.paths[0](x) + self.paths[1](x)

    net = nn.Sequential(Layer(), nn.Flatten(0)).double()
    study = AblationStudy(net)
    table = study.hierarchical_ablation(inputs, ["0", "1"], lambda y: y.square(), top_k=9)
    names = [result.name for result in table.results[:4]]
    assert names == ["0", "1", "0.tied.0", "0.tied.1"]
    # The flat layer has no units, the two paths have four each.
    assert table.levels.count("neuron") == 8


def test_a_study_is_readable_as_a_page(net: Net, inputs: Tensor) -> None:
    table = AblationStudy(net).hierarchical_ablation(inputs, ["embed"], METRIC, top_k=1)
    page = table.to_html()
    assert page.count("<tr>") == 1 + len(table)
    assert "embed[..., 5]" in page


def test_a_nan_effect_is_ranked_last() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.log()

    net = nn.Sequential(nn.Identity(), Root(), nn.Identity())
    x = torch.tensor([[2.0, 3.0]])
    table = AblationStudy(net).hierarchical_ablation(
        x, ["0", "2"], lambda y: y.sum(-1) * 0, top_k=1
    )
    assert math.isnan(table.results[0].delta)
    assert set(table.parents[2:]) == {"2"}


def test_the_model_is_left_as_it_was(inputs: Tensor) -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(7), nn.Linear(6, 3)).double().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    AblationStudy(net).hierarchical_ablation(inputs, ["0", "1"], METRIC, kind="mean")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())


def test_results_are_shown_by_their_model(net: Net) -> None:
    assert repr(LayerAblation(net)) == "LayerAblation(Net)"
    assert repr(NeuronAblation(net, unit_axis=1)) == "NeuronAblation(Net, unit_axis=1)"
    assert repr(ComponentAblation(net)) == "ComponentAblation(Net, component=None)"
    assert repr(AblationStudy(net)) == "AblationStudy(Net)"
    assert AblationResult.compare("x", baseline=-2.0, ablated=-3.0).relative_change == -0.5


def test_what_cannot_be_ablated_is_refused(net: Net, inputs: Tensor, other: Tensor) -> None:
    layer = LayerAblation(net)
    with pytest.raises(ValueError, match="kind needs one of zero, mean, identity, resample"):
        layer.ablate(inputs, "embed", METRIC, "remove")
    with pytest.raises(ValueError, match="batch_size needs at least 1 row, got 0"):
        LayerAblation(net, batch_size=0)
    with pytest.raises(ValueError, match=r"'embed' takes .5, 7, 4. .* and returns .5, 7, 6."):
        layer.ablate(inputs, "embed", METRIC, "identity")
    with pytest.raises(ValueError, match="'embed:in' is an input already"):
        layer.ablate(inputs, "embed:in", METRIC, "identity")
    with pytest.raises(ValueError, match="needs a generator; pass generator= at construction"):
        layer.ablate(inputs, "embed", METRIC, "resample")
    drawing = LayerAblation(net, generator=torch.Generator())
    with pytest.raises(ValueError, match="at least the 9 rows of the activation at 'embed', got 5"):
        drawing.ablate(other, "embed", METRIC, "resample", inputs)
    with pytest.raises(ValueError, match=r"unit_axis = 3 is no axis .* shape .5, 7, 6."):
        LayerAblation(net, unit_axis=3).ablate(inputs, "embed", METRIC, "mean")
    with pytest.raises(TypeError, match="metric needs to return a tensor, got float"):
        layer.ablate(inputs, "embed", lambda _: 1.0)
    with pytest.raises(KeyError, match="no module 'embedding'"):
        layer.ablate(inputs, "embedding", METRIC)


def test_a_run_with_more_calls_than_the_reference_is_refused() -> None:
    class Repeats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(x.shape[1]):
                x = self.cell(x)
            return x

    ablation = LayerAblation(Repeats(), generator=torch.Generator())
    with pytest.raises(ValueError, match="'cell' was reached 1 times for the reference"):
        ablation.ablate(torch.ones(2, 3), "cell", METRIC, "resample", torch.ones(2, 1))


def test_neurons_that_are_not_there_are_refused(net: Net, inputs: Tensor) -> None:
    neuron = NeuronAblation(net)
    with pytest.raises(ValueError, match=r"needs units of 'embed', such as .'embed', 3."):
        neuron.ablate(inputs, "embed", METRIC)
    with pytest.raises(ValueError, match="at least one unit of 'embed' is needed"):
        neuron.ablate(inputs, ("embed", []), METRIC)
    with pytest.raises(ValueError, match="has an index already"):
        neuron.ablate(inputs, ("embed[0]", 1), METRIC)
    with pytest.raises(IndexError, match=r"site 'embed.*the index does not fit shape"):
        neuron.ablate(inputs, ("embed", 6), METRIC)


def test_components_that_are_not_there_are_refused(net: Net, inputs: Tensor) -> None:
    with pytest.raises(ValueError, match="component needs one of attention, mlp"):
        ComponentAblation(net, component="brain")
    with pytest.raises(ValueError, match="at least one site is needed to ablate"):
        ComponentAblation(net).ablate(inputs, [], METRIC)
    with pytest.raises(ValueError, match="no mlp at or below 'embed'"):
        ComponentAblation(net, component="mlp").ablate(inputs, "embed", METRIC)
    with pytest.raises(KeyError, match="no module 'block'"):
        ComponentAblation(net, component="mlp").ablate(inputs, "block", METRIC)
    heads = ComponentAblation(net, component="head", n_heads=4)
    with pytest.raises(ValueError, match=r"needs a head: .path, 3."):
        heads.ablate(inputs, "blocks.0", METRIC)
    with pytest.raises(ValueError, match="takes 6 channels, which 4 heads do not share"):
        heads.ablate(inputs, ("blocks.0", 0), METRIC)
    with pytest.raises(ValueError, match="'' holds 2 attentions; name one of them"):
        heads.ablate(inputs, ("", 0), METRIC)
    with pytest.raises(ValueError, match="the number of heads is unknown"):
        ComponentAblation(net, component="head").ablate(inputs, ("blocks.0", 0), METRIC)
    heads = ComponentAblation(net, component="head", n_heads=2)
    with pytest.raises(ValueError, match=r"heads of 'blocks.0' are 0 to 1, got \[2\]"):
        heads.ablate(inputs, ("blocks.0", 2), METRIC)


def test_a_study_refuses_what_it_cannot_divide(net: Net, inputs: Tensor) -> None:
    study = AblationStudy(net)
    with pytest.raises(ValueError, match="top_k needs at least 1, got 0"):
        study.hierarchical_ablation(inputs, ["embed"], METRIC, top_k=0)
    with pytest.raises(ValueError, match="at least one layer is needed, got none"):
        study.hierarchical_ablation(inputs, [], METRIC)
    with pytest.raises(ValueError, match=r"layer 'embed\[0\]' has an index"):
        study.hierarchical_ablation(inputs, ["embed[0]"], METRIC)
