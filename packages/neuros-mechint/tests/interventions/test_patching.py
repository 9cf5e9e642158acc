import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.activations import Site
from neuros_mechint.interventions import (
    ActivationPatcher,
    kl_divergence,
    logit_difference,
    recovery,
)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x):
        batch, n_time, width = x.shape
        heads = self.qkv(self.norm(x)).reshape(batch, n_time, 3, 2, width // 2)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(y.transpose(1, 2).reshape(batch, n_time, width))
        return x + self.mlp(x)


class Transformer(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(11, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))
        self.head = nn.Linear(width, 11)

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Loop(nn.Module):
    def __init__(self, n_steps: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.read, self.n_steps = nn.GRUCell(3, 5), nn.Linear(5, 2), n_steps

    def forward(self, x):
        h = x.new_zeros(len(x), 5)
        for t in range(min(self.n_steps, x.shape[1])):
            h = self.cell(x[:, t], h)
        return self.read(h)


def tokens(seed: int, n: int = 2) -> Tensor:
    return torch.randint(0, 11, (n, 6), generator=gen(seed))


CLEAN, CORRUPTED = tokens(0), tokens(1)
LAYERS = ["blocks.0", "blocks.1", "blocks.2"]
METRIC = logit_difference(3, 5)


def transformer(dtype: torch.dtype = torch.float64) -> Transformer:
    return Transformer().to(dtype).eval()


# The first promise of the package.
@pytest.mark.parametrize("layer", ["embed", *LAYERS, "head", ""])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_patching_a_full_layer_reproduces_the_clean_output(layer, dtype) -> None:
    model = transformer(dtype)
    patcher = ActivationPatcher(model)
    output = patcher.patch_layer(layer, CLEAN, CORRUPTED)
    torch.testing.assert_close(output, model(CLEAN), rtol=0, atol=1e-6)
    result = patcher.patch(CLEAN, CORRUPTED, [layer], METRIC)
    assert result.recovery == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("layer", ["0", "1", "2"])
def test_patching_a_full_layer_of_a_chain_reproduces_the_clean_output(layer: str) -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)).double()
    clean, corrupted = (torch.randn(6, 4, generator=gen(k), dtype=torch.float64) for k in (0, 1))
    output = ActivationPatcher(net).patch_layer(layer, clean, corrupted)
    torch.testing.assert_close(output, net(clean), rtol=0, atol=1e-12)


def test_patching_every_call_of_a_loop_reproduces_the_clean_output() -> None:
    model = Loop().double()
    clean, corrupted = (torch.randn(2, 4, 3, generator=gen(k), dtype=torch.float64) for k in (0, 1))
    patcher = ActivationPatcher(model)
    assert torch.equal(patcher.patch_layer("cell", clean, corrupted), model(clean))
    last = patcher.patch_layer("cell@3", clean, corrupted)
    assert torch.equal(last, model(clean))
    # One of two units of the last state moves the output by its share of the linear readout.
    part = patcher.patch_layer("cell@3", clean, corrupted, index=(..., 0))
    table = patcher.systematic_patching(["cell@3"], clean, corrupted, neurons=range(5))
    torch.testing.assert_close(
        torch.from_numpy(table.to_numpy()[0].copy()), (part - model(corrupted)).mean(0)
    )
    torch.testing.assert_close(
        torch.from_numpy(table.to_numpy().sum(0)), (model(clean) - model(corrupted)).mean(0)
    )


def test_a_source_with_fewer_calls_than_the_target_is_an_error() -> None:
    model = Loop(4)
    with pytest.raises(ValueError, match="site 'cell' was reached 2 times in the source run"):
        ActivationPatcher(model).patch_layer("cell", torch.ones(1, 2, 3), torch.ones(1, 4, 3))


def test_a_patch_of_a_position_changes_nothing_before_it() -> None:
    model = transformer()
    patched = ActivationPatcher(model).patch_layer(
        "blocks.0", CLEAN, CORRUPTED, index=(slice(None), 3)
    )
    plain = model(CORRUPTED)
    torch.testing.assert_close(patched[:, :3], plain[:, :3], rtol=0, atol=1e-12)
    assert (patched[:, 3:] - plain[:, 3:]).abs().max() > 1e-3


def test_patching_with_the_target_itself_changes_nothing() -> None:
    model = transformer()
    torch.testing.assert_close(
        ActivationPatcher(model).patch_layer("blocks.1", CORRUPTED, CORRUPTED),
        model(CORRUPTED),
        rtol=0,
        atol=0,
    )


def test_patches_may_be_one_site_several_or_sites_with_indices() -> None:
    model = transformer()
    patcher = ActivationPatcher(model)
    index = (slice(None), [1, 2])
    one = patcher.patch(CLEAN, CORRUPTED, Site("blocks.1", index=index)).output
    assert torch.equal(patcher.patch(CLEAN, CORRUPTED, {"blocks.1": index}).output, one)
    assert torch.equal(patcher.patch(CLEAN, CORRUPTED, {model.blocks[1]: index}).output, one)
    assert torch.equal(patcher.patch_layer("blocks.1", CLEAN, CORRUPTED, index), one)
    assert torch.equal(patcher.patch(CLEAN, CORRUPTED, "blocks.1[:, [1, 2]]").output, one)
    # Both writers of the residual stream after the embedding: the clean run again.
    whole = patcher.patch(CLEAN, CORRUPTED, {"embed": None, "blocks.0": None}, METRIC)
    assert whole.recovery == 1.0


def test_the_result_of_a_patch_holds_the_metric_of_all_three_runs() -> None:
    model = transformer()
    result = ActivationPatcher(model).patch(CLEAN, CORRUPTED, {"blocks.1": (0,)}, METRIC)
    assert torch.equal(result.clean, METRIC(model(CLEAN)))
    assert torch.equal(result.corrupted, METRIC(model(CORRUPTED)))
    assert torch.equal(result.patched, METRIC(result.output))
    # The first row is clean from block 1 on, the second stays corrupted.
    torch.testing.assert_close(result.patched[0], result.clean[0])
    torch.testing.assert_close(result.patched[1], result.corrupted[1])
    gained = result.patched.mean() - result.corrupted.mean()
    expected = gained / (result.clean.mean() - result.corrupted.mean())
    assert result.recovery == pytest.approx(expected.item(), abs=1e-12)
    assert ActivationPatcher(model).patch(CLEAN, CORRUPTED, ["head"]).recovery is None


def test_recovery_is_the_share_of_the_difference() -> None:
    clean, corrupted = torch.tensor([3.0, 5.0]), torch.tensor([1.0, -1.0])
    assert recovery(clean, corrupted, clean) == 1.0
    assert recovery(clean, corrupted, corrupted) == 0.0
    assert recovery(clean, corrupted, torch.tensor(1.0)) == 0.25


@pytest.mark.parametrize("clean", [1.0, 1.0 + 5e-9, float("nan")])
def test_recovery_needs_runs_that_differ_in_the_metric(clean: float) -> None:
    with pytest.raises(ValueError, match="clean and corrupted do not differ in the metric"):
        recovery(torch.tensor(clean).double(), torch.tensor(1.0).double(), torch.tensor(0.0))
    with pytest.raises(ValueError, match="clean and corrupted do not differ in the metric"):
        recovery(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0))


# Sweeps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_a_sweep_over_positions_equals_single_patches(dtype, tolerance) -> None:
    model = transformer(dtype)
    patcher = ActivationPatcher(model)
    table = patcher.systematic_patching(LAYERS, CLEAN, CORRUPTED, METRIC, positions=range(6))
    assert list(table.columns) == ["layer", "position", "value", "effect", "recovery"]
    assert len(table) == 18
    base = METRIC(model(CORRUPTED)).mean().item()
    for row in table.itertuples():
        index = (slice(None), row.position)
        single = patcher.patch(CLEAN, CORRUPTED, {row.layer: index}, METRIC)
        assert row.value == pytest.approx(single.patched.mean().item(), abs=tolerance)
        assert row.effect == pytest.approx(row.value - base, abs=tolerance)
        assert row.recovery == pytest.approx(single.recovery, abs=1e2 * tolerance)
    # At the last layer only the last position reaches the metric, and it restores everything.
    last = table[table.layer == "blocks.2"].recovery.tolist()
    assert last == pytest.approx([0.0] * 5 + [1.0], abs=1e2 * tolerance)


def test_a_sweep_over_layers_restores_everything() -> None:
    table = ActivationPatcher(transformer()).systematic_patching(LAYERS, CLEAN, CORRUPTED, METRIC)
    assert list(table.columns) == ["layer", "value", "effect", "recovery"]
    assert table.layer.tolist() == LAYERS
    assert table.recovery.tolist() == pytest.approx([1.0] * 3, abs=1e-10)


def test_a_sweep_over_neurons_and_positions_equals_single_patches() -> None:
    patcher = ActivationPatcher(transformer(), batch_size=9)
    table = patcher.systematic_patching(
        "blocks.1.mlp.1", CLEAN, CORRUPTED, METRIC, positions=[4, -1], neurons=[0, 7, 15]
    )
    assert list(table.columns[:3]) == ["layer", "position", "neuron"]
    assert len(table) == 6
    for row in table.itertuples():
        index = (slice(None), row.position, row.neuron)
        single = patcher.patch(CLEAN, CORRUPTED, {row.layer: index}, METRIC)
        assert row.value == pytest.approx(single.patched.mean().item(), abs=1e-10)


def test_heads_are_equal_parts_of_the_projections_input() -> None:
    patcher = ActivationPatcher(transformer(), n_heads=2)
    sites = ["blocks.0.project:in", "blocks.2.project:in"]
    table = patcher.systematic_patching(sites, CLEAN, CORRUPTED, METRIC, heads=[0, 1])
    assert table["head"].tolist() == [0, 1, 0, 1]
    for row in table.itertuples():
        index = (..., slice(4 * row.head, 4 * row.head + 4))
        single = patcher.patch(CLEAN, CORRUPTED, {row.layer: index}, METRIC)
        assert row.value == pytest.approx(single.patched.mean().item(), abs=1e-10)
    placed = patcher.systematic_patching(
        sites[1], CLEAN, CORRUPTED, METRIC, positions=[5], heads=[1]
    )
    assert list(placed.columns[:3]) == ["layer", "position", "head"]
    last = patcher.patch(CLEAN, CORRUPTED, {sites[1]: (slice(None), 5, slice(4, 8))}, METRIC)
    assert placed.value[0] == pytest.approx(last.patched.mean().item(), abs=1e-10)


def test_a_sweep_without_a_metric_gives_the_differences_of_the_output() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    clean, corrupted = (torch.randn(5, 3, generator=gen(k), dtype=torch.float64) for k in (0, 1))
    patcher = ActivationPatcher(net)
    table = patcher.systematic_patching(["0", "1"], clean, corrupted)
    expected = (net(clean) - net(corrupted)).mean(0)
    assert table.index.tolist() == ["0", "1"]
    assert table.columns.tolist() == [0, 1]
    for row in table.to_numpy():
        torch.testing.assert_close(torch.from_numpy(row.copy()), expected)
    parts = patcher.systematic_patching(["1"], clean, corrupted, neurons=range(4))
    assert parts.index.names == ["layer", "neuron"]
    torch.testing.assert_close(torch.from_numpy(parts.to_numpy().sum(0)), expected)


def test_dimensions_of_a_longer_output_become_levels_of_the_columns() -> None:
    model = transformer()
    table = ActivationPatcher(model).systematic_patching(["blocks.2"], CLEAN, CORRUPTED)
    expected = (model(CLEAN) - model(CORRUPTED)).mean(0)
    assert table.shape == (1, 66)
    assert table[(4, 7)].item() == pytest.approx(expected[4, 7].item(), abs=1e-12)


def test_a_divergence_from_the_clean_run_is_a_metric() -> None:
    model = transformer()
    metric = kl_divergence(model(CLEAN))
    table = ActivationPatcher(model).systematic_patching(LAYERS, CLEAN, CORRUPTED, metric)
    assert table.value.abs().max() < 1e-12
    assert table.recovery.tolist() == pytest.approx([1.0] * 3)


def test_a_metric_may_give_one_number_for_all_rows() -> None:
    model = transformer()
    table = ActivationPatcher(model).systematic_patching(
        LAYERS, CLEAN, CORRUPTED, lambda z: METRIC(z).mean()
    )
    assert table.recovery.tolist() == pytest.approx([1.0] * 3)


class Modalities(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encode = nn.ModuleDict({"spike": nn.Linear(2, 3), "lfp": nn.Linear(4, 3)})
        self.read = nn.Linear(3, 1)

    def forward(self, inputs, *, units=None):
        hidden = sum(self.encode[name](value) for name, value in inputs.items())
        return {"latents": hidden.tanh(), "decoder": self.read(hidden.tanh()).mean(1)}


def test_models_with_dict_inputs_are_patched_along_time() -> None:
    model = Modalities().double().eval()
    clean, corrupted = (
        {
            "spike": torch.randn(2, 4, 2, generator=gen(k), dtype=torch.float64),
            "lfp": torch.randn(2, 4, 4, generator=gen(k + 9), dtype=torch.float64),
        }
        for k in (0, 1)
    )

    def metric(out):
        return out["decoder"][:, 0]

    table = ActivationPatcher(model).systematic_patching(
        ["read:in"], clean, corrupted, metric, positions=range(4)
    )
    # The readout averages over time: the shares of the positions add up to the whole.
    assert table.recovery.sum() == pytest.approx(1.0, abs=1e-10)
    whole = ActivationPatcher(model).patch(clean, corrupted, ["encode.spike", "encode.lfp"], metric)
    assert whole.recovery == 1.0


def test_inputs_may_be_positional_or_keyword_arguments() -> None:
    model = transformer()
    patcher = ActivationPatcher(model)
    plain = patcher.patch_layer("blocks.0", CLEAN, CORRUPTED)
    assert torch.equal(patcher.patch_layer("blocks.0", (CLEAN,), {"tokens": CORRUPTED}), plain)


# What is left behind ----------------------------------------------------------------------------


class Stateful(nn.Module):
    """Changes a buffer in every forward and draws random numbers in train mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(4, 2)

    def forward(self, x):
        if x.shape[-1] != 3:
            raise OSError("broken")
        return self.last(self.drop(self.norm(self.first(x))))


def everything(model: nn.Module) -> dict:
    return {name: copy.copy(vars(module)) for name, module in model.named_modules()}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("call", ["patch", "patch_layer", "sweep", "raises", "raises in sweep"])
def test_a_model_is_left_as_it_was(call: str, train: bool) -> None:
    model = Stateful().train(train)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, tensors = everything(model), copy.deepcopy(model.state_dict())
    clean, corrupted = torch.randn(4, 3, generator=gen(0)), torch.randn(4, 3, generator=gen(1))
    patcher = ActivationPatcher(model)

    def metric(y):
        return y[:, 0]

    if call == "patch":
        patcher.patch(clean, corrupted, ["norm"], metric)
    elif call == "patch_layer":
        patcher.patch_layer("first", clean, corrupted)
    elif call == "sweep":
        patcher.systematic_patching(["first", "norm"], clean, corrupted, metric, neurons=range(4))
    elif call == "raises":
        with pytest.raises(OSError, match="broken"):
            patcher.patch(clean, corrupted[:, :2], ["norm"])
    else:
        with pytest.raises(ValueError, match="does not fit the activation's shape"):
            patcher.systematic_patching(["norm"], clean[:3], corrupted, metric, neurons=[1])
    assert everything(model) == before
    assert all(torch.equal(a, tensors[name]) for name, a in model.state_dict().items())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert model.training is train


def test_a_sweep_needs_no_graph() -> None:
    model = transformer()
    table = ActivationPatcher(model).systematic_patching(LAYERS, CLEAN, CORRUPTED, METRIC)
    assert table.value.notna().all()
    assert torch.is_grad_enabled()
    assert ActivationPatcher(model).patch_layer("head", CLEAN, CORRUPTED).requires_grad is False
    assert ActivationPatcher(model).patch_layer("embed", CLEAN, CORRUPTED).requires_grad


# Errors -----------------------------------------------------------------------------------------


def test_settings_without_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="n_heads needs at least 1, got 0"):
        ActivationPatcher(nn.Identity(), n_heads=0)
    with pytest.raises(ValueError, match="batch_size needs at least 1 row, got 0"):
        ActivationPatcher(nn.Identity(), batch_size=0)
    text = repr(ActivationPatcher(nn.Identity(), n_heads=2))
    assert text == "ActivationPatcher(Identity, n_heads=2, batch_size=64)"


@pytest.mark.parametrize(
    ("layers", "options", "error", "message"),
    [
        ([], {}, ValueError, "at least one site is needed to patch, got none"),
        (["blocks.9"], {}, KeyError, "no module 'blocks.9' in Transformer"),
        (["blocks.0"], {"heads": [0]}, ValueError, r"ActivationPatcher\(model, n_heads=...\)"),
        (["blocks.0"], {"heads": [0], "neurons": [0]}, ValueError, "divide the same dimension"),
        (["blocks.0"], {"neurons": [8]}, ValueError, r"neuron 8 does not exist .* which has 8"),
        (["blocks.0"], {"positions": [-7]}, ValueError, "position -7 does not exist at site"),
        (["blocks.0[:, 1]"], {"neurons": [0]}, ValueError, "has an index and cannot be divided"),
    ],
)
def test_a_sweep_refuses_what_does_not_exist(layers, options, error, message) -> None:
    with pytest.raises(error, match=message):
        ActivationPatcher(transformer()).systematic_patching(
            layers, CLEAN, CORRUPTED, METRIC, **options
        )


@pytest.mark.parametrize(
    ("n_heads", "head", "message"),
    [
        (3, 0, "width 8, which 3 heads do not divide"),
        (2, 2, "head 2 does"),
        (2, -1, "head -1 does"),
    ],
)
def test_heads_have_to_divide_the_width_and_exist(n_heads, head, message) -> None:
    with pytest.raises(ValueError, match=message):
        ActivationPatcher(transformer(), n_heads=n_heads).systematic_patching(
            ["blocks.0"], CLEAN, CORRUPTED, METRIC, heads=[head]
        )


def test_runs_of_different_shape_are_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"value has shape \(2, 6, 8\).* shape \(2, 4, 8\)"):
        ActivationPatcher(transformer()).patch_layer("blocks.0", CLEAN, CORRUPTED[:, :4])


def test_a_metric_needs_to_return_a_tensor() -> None:
    with pytest.raises(TypeError, match=r"metric needs to return a tensor, got float|Type-check"):
        ActivationPatcher(transformer()).patch(CLEAN, CORRUPTED, ["head"], lambda _: 1.0)


def test_equal_runs_have_no_recovery() -> None:
    with pytest.raises(ValueError, match="do not differ in the metric"):
        ActivationPatcher(transformer()).systematic_patching(LAYERS, CLEAN, CLEAN, METRIC)


# A fresh interpreter has to import torch.
@pytest.mark.slow
def test_importing_the_patcher_loads_no_table_or_plotting_library() -> None:
    code = (
        "import sys, neuros_mechint.interventions; "
        "names = 'pandas scipy sklearn lightning matplotlib transformers captum'.split(); "
        "print(sorted(set(names) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
