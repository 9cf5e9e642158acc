import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.activations import run
from neuros_mechint.interventions import (
    ActivationPatcher,
    AttentionPatcher,
    MLPPatcher,
    ResidualStreamPatcher,
    logit_difference,
)


class Attention(nn.Module):
    n_heads = 2

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        batch, n_time, width = x.shape
        heads = self.qkv(x).reshape(batch, n_time, 3, 2, width // 2)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(batch, n_time, width))


class Scan(nn.Module):
    """A diagonal linear recurrence with a gate, as in a state-space model."""

    n_heads = 4

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.decay = nn.Parameter(torch.linspace(0.0, 2.0, width))

    def forward(self, x):
        value, gate = self.in_proj(x).chunk(2, -1)
        state, states = torch.zeros_like(value[:, 0]), []
        for t in range(value.shape[1]):
            state = self.decay.sigmoid() * state + value[:, t]
            states.append(state)
        return self.out_proj(torch.stack(states, 1) * nn.functional.silu(gate))


class Block(nn.Module):
    def __init__(self, mixer: type[nn.Module], width: int) -> None:
        super().__init__()
        self.norm, self.mixer = nn.LayerNorm(width), mixer(width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width)
        )

    def forward(self, x):
        x = x + self.mixer(self.norm(x))
        return x + self.mlp(x)


class Stack(nn.Module):
    def __init__(self, mixer: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(Block(mixer, 8) for _ in range(3))
        self.head = nn.Linear(8, 11)

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(11, 6)
        self.gru, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 11)

    def forward(self, tokens):
        return self.head(self.gru(self.embed(tokens))[0])


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(11, 8), *[Block(Attention, 8) for _ in range(2)])


def tokens(seed: int) -> Tensor:
    return torch.randint(0, 11, (2, 6), generator=torch.Generator().manual_seed(seed))


CLEAN, CORRUPTED = tokens(0), tokens(1)
METRIC = logit_difference(3, 5)
MIXERS = pytest.mark.parametrize("mixer", [Attention, Scan])


def stack(mixer: type[nn.Module]) -> Stack:
    return Stack(mixer).double().eval()


@pytest.mark.parametrize("build", [lambda: stack(Attention), lambda: stack(Scan), chain, Recurrent])
def test_the_whole_residual_stream_of_a_layer_recovers_everything(build) -> None:
    model = build().double().eval()
    sites = ["embed", "gru"] if isinstance(model, Recurrent) else None
    patcher = ResidualStreamPatcher(model, sites=sites)
    metric = METRIC if hasattr(model, "head") else lambda y: y[:, -1, 0]
    table = patcher.systematic_patching(None, CLEAN, CORRUPTED, metric)
    assert table.recovery.tolist() == pytest.approx([1.0] * len(patcher.sites), abs=1e-10)
    for k in range(len(patcher.sites)):
        output = patcher.patch_layer(k, CLEAN, CORRUPTED)
        torch.testing.assert_close(output, model(CLEAN), rtol=0, atol=1e-10)


@MIXERS
def test_every_head_at_once_is_the_output_of_the_attention(mixer) -> None:
    model = stack(mixer)
    patcher = AttentionPatcher(model)
    for layer in range(3):
        heads = [patcher.head_site(layer, h) for h in range(mixer.n_heads)]
        by_heads = patcher.patch(CLEAN, CORRUPTED, heads).output
        whole = patcher.patch(CLEAN, CORRUPTED, layer).output
        torch.testing.assert_close(by_heads, whole, rtol=0, atol=1e-10)


@MIXERS
def test_the_shares_of_all_heads_add_up_to_the_output_without_its_bias(mixer) -> None:
    model = stack(mixer)
    patcher = AttentionPatcher(model)
    sites = [patcher.head_site(1, h) for h in range(mixer.n_heads)]
    cache = run(model, CLEAN, capture=[*sites, "blocks.1.mixer"]).cache
    weight, bias = (
        model.blocks[1].mixer.out_proj if mixer is Scan else model.blocks[1].mixer.proj,
        0,
    )
    bias, weight = weight.bias, weight.weight
    shares = sum(cache[site] @ weight[:, site.index[1]].mT for site in sites)
    torch.testing.assert_close(shares, cache["blocks.1.mixer"] - bias, rtol=0, atol=1e-10)


@MIXERS
def test_a_sweep_over_heads_patches_the_input_of_the_output_projection(mixer) -> None:
    model = stack(mixer)
    patcher = AttentionPatcher(model)
    table = patcher.systematic_patching(
        [0, 2], CLEAN, CORRUPTED, METRIC, positions=[1, 5], heads=range(mixer.n_heads)
    )
    name = "out_proj" if mixer is Scan else "proj"
    assert table.layer.unique().tolist() == [f"blocks.{k}.mixer.{name}:in" for k in (0, 2)]
    size = 8 // mixer.n_heads
    for row in table.itertuples():
        index = (slice(None), row.position, slice(row.head * size, (row.head + 1) * size))
        single = patcher.patch(CLEAN, CORRUPTED, {row.layer: index}, METRIC)
        assert row.value == pytest.approx(single.patched.mean().item(), abs=1e-10)


@MIXERS
def test_patching_a_position_of_a_scan_or_attention_moves_what_follows_it_only(mixer) -> None:
    model = stack(mixer)
    table = AttentionPatcher(model).systematic_patching([0], CLEAN, CORRUPTED, positions=[3])
    moved = table.iloc[0].to_numpy().reshape(6, 11)
    assert abs(moved[:3]).max() < 1e-12
    assert abs(moved[3:]).max() > 1e-4


def test_a_sweep_over_neurons_of_an_mlp_patches_its_hidden_units() -> None:
    model = stack(Attention)
    patcher = MLPPatcher(model)
    assert [str(site) for site in patcher.sites] == [f"blocks.{k}.mlp" for k in range(3)]
    table = patcher.systematic_patching([2], CLEAN, CORRUPTED, METRIC, neurons=range(12))
    assert table.layer.unique().tolist() == ["blocks.2.mlp.3:in"]
    single = patcher.patch(CLEAN, CORRUPTED, {"blocks.2.mlp.3:in": (..., 7)}, METRIC)
    assert table.value[7] == pytest.approx(single.patched.mean().item(), abs=1e-10)
    # The last MLP reaches the metric through linear maps: its units add up to all of it.
    whole = patcher.systematic_patching([2], CLEAN, CORRUPTED, METRIC)
    assert table.effect.sum() == pytest.approx(whole.effect[0], abs=1e-10)


def test_heads_of_a_multilayer_recurrence_are_given_by_hand() -> None:
    model = Recurrent().double().eval()
    patcher = AttentionPatcher(model, sites=["head:in"], n_heads=4)
    table = patcher.systematic_patching(None, CLEAN, CORRUPTED, METRIC, heads=range(4))
    # The readout is linear: the parts of its input add up.
    assert table.recovery.sum() == pytest.approx(1.0, abs=1e-10)
    assert str(patcher.head_site("head:in", 3)) == "head:in[..., 6:8]"


def test_all_own_sites_together_are_patched_without_naming_them() -> None:
    model = stack(Attention)
    patcher = MLPPatcher(model)
    names = [f"blocks.{k}.mlp" for k in range(3)]
    together = ActivationPatcher(model).patch(CLEAN, CORRUPTED, names).output
    assert torch.equal(patcher.patch(CLEAN, CORRUPTED, None).output, together)
    assert torch.equal(
        patcher.patch(CLEAN, CORRUPTED, {0: None, 1: None, -1: None}).output, together
    )


def test_a_patcher_tells_its_sites() -> None:
    text = repr(ResidualStreamPatcher(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))))
    assert (
        text == "ResidualStreamPatcher(Sequential, sites=['0', '1'], n_heads=None, batch_size=64)"
    )


@pytest.mark.parametrize(
    ("patcher", "message"),
    [
        (ResidualStreamPatcher, r"no repeated blocks in GRU.*sites=\[...\]"),
        (AttentionPatcher, r"no attention in GRU.*sites=\[...\]"),
        (MLPPatcher, r"no mlp in GRU.*sites=\[...\]"),
    ],
)
def test_a_model_without_the_part_is_refused_with_the_way_out(patcher, message) -> None:
    with pytest.raises(ValueError, match=message):
        patcher(nn.GRU(3, 4))


def test_what_a_patcher_does_not_have_is_an_error() -> None:
    model = stack(Attention)
    patcher = AttentionPatcher(model)
    with pytest.raises(ValueError, match="layer 3 does not exist: this AttentionPatcher has 3"):
        patcher.patch_layer(3, CLEAN, CORRUPTED)
    with pytest.raises(ValueError, match=r"has 0 sites of its own; give them with sites=\[...\]"):
        ActivationPatcher(model).patch_layer(0, CLEAN, CORRUPTED)
    with pytest.raises(ValueError, match="at least one site is needed to patch, got none"):
        ActivationPatcher(model).patch(CLEAN, CORRUPTED, None)
    with pytest.raises(ValueError, match=r"head 2 of 2 does not exist .* of width 8"):
        patcher.head_site(0, 2)
    with pytest.raises(ValueError, match="head 0 of 3 does not exist"):
        AttentionPatcher(model, n_heads=3).head_site(0, 0)
    with pytest.raises(ValueError, match=r"number of heads is not known; give it with n_heads"):
        AttentionPatcher(nn.Sequential(nn.Linear(2, 2)), sites=["0:in"]).head_site(0, 0)
