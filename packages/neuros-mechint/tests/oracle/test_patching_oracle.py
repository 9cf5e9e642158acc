"""Patching on HF GPT-2 with random weights, beside hand-written hooks."""

import warnings

import pytest
import torch

from neuros_mechint.activations import Replace, Site, intervene, run, run_batched, sites
from neuros_mechint.interventions import (
    ActivationPatcher,
    AttentionPatcher,
    MLPPatcher,
    ResidualStreamPatcher,
    logit_difference,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.oracle,
    # Deprecations inside the peers are not ours to fix.
    pytest.mark.filterwarnings("ignore"),
]

N_LAYERS, N_HEADS, WIDTH, N_TIME = 3, 4, 32, 8
BLOCKS = [f"transformer.h.{k}" for k in range(N_LAYERS)]
METRIC = logit_difference(3, 5)


def tokens(seed: int) -> torch.Tensor:
    return torch.randint(0, 60, (2, N_TIME), generator=torch.Generator().manual_seed(seed))


CLEAN, CORRUPTED = tokens(0), tokens(1)


def hooked_sweep(model: torch.nn.Module) -> list[float]:
    """Patch positions of block outputs, one hook and one forward at a time."""
    blocks, values = model.transformer.h, []
    kept: dict[int, torch.Tensor] = {}

    def tensor(out):
        return out[0] if isinstance(out, tuple) else out

    for k, block in enumerate(blocks):
        handle = block.register_forward_hook(
            lambda _m, _a, out, k=k: kept.__setitem__(k, tensor(out).clone())
        )
        model(CLEAN)
        handle.remove()
    for k, block in enumerate(blocks):
        for t in range(N_TIME):

            def patch(_m, _a, out, k=k, t=t):
                changed = tensor(out).clone()
                changed[:, t] = kept[k][:, t]
                return (changed, *out[1:]) if isinstance(out, tuple) else changed

            handle = block.register_forward_hook(patch)
            values.append(METRIC(model(CORRUPTED)).mean().item())
            handle.remove()
    return values


def our_sweep(model: torch.nn.Module) -> list[float]:
    table = ActivationPatcher(model).systematic_patching(
        BLOCKS, CLEAN, CORRUPTED, METRIC, positions=range(N_TIME)
    )
    return table["value"].tolist()


@torch.no_grad()
def test_a_sweep_equals_a_loop_of_hand_written_hooks(gpt2) -> None:
    assert our_sweep(gpt2) == pytest.approx(hooked_sweep(gpt2), abs=1e-5)


@torch.no_grad()
def test_full_layer_patching_reproduces_the_clean_output(gpt2) -> None:
    for block in BLOCKS:
        output = ActivationPatcher(gpt2).patch_layer(block, CLEAN, CORRUPTED)
        torch.testing.assert_close(output.logits, gpt2(CLEAN).logits, rtol=0, atol=1e-6)
        assert isinstance(output, type(gpt2(CLEAN)))


class TupleBlock(torch.nn.Module):
    """A block as it was before version 5: it returns a tuple."""

    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *args, **kwargs):
        return (self.block(*args, **kwargs), "cache")


class TupleStack(torch.nn.Module):
    def __init__(self, blocks) -> None:
        super().__init__()
        self.h = torch.nn.ModuleList(TupleBlock(block) for block in blocks)

    def forward(self, x):
        for block in self.h:
            x = block(x)[0]
        return x


class TensorStack(torch.nn.Module):
    def __init__(self, blocks) -> None:
        super().__init__()
        self.h = torch.nn.ModuleList(blocks)

    def forward(self, x):
        for block in self.h:
            out = block(x)
            x = out[0] if isinstance(out, tuple) else out
        return x


@torch.no_grad()
def test_blocks_that_return_tuples_and_tensors_have_one_name(gpt2) -> None:
    x = torch.randn(2, N_TIME, WIDTH, generator=torch.Generator().manual_seed(0))
    other = torch.randn(2, N_TIME, WIDTH, generator=torch.Generator().manual_seed(1))
    stacks = [TensorStack(gpt2.transformer.h), TupleStack(gpt2.transformer.h)]
    tables = [
        ActivationPatcher(s).systematic_patching(
            ["h.0", "h.1"], x, other, lambda y: y[:, -1, 0], positions=range(N_TIME)
        )
        for s in stacks
    ]
    assert (tables[0].value - tables[1].value).abs().max() < 1e-6


@torch.no_grad()
def test_members_of_model_outputs_and_keyword_only_calls_are_sites(gpt2) -> None:
    result = run(
        gpt2,
        input_ids=CLEAN,
        edits={":out.logits[..., 0]": lambda z: z + 100},
        capture=["transformer.h.1.attn:in.hidden_states", ":in.input_ids", "transformer:out.0"],
    )
    plain = gpt2(CLEAN)
    assert type(result.output) is type(plain)
    torch.testing.assert_close(result.output.logits[..., 0], plain.logits[..., 0] + 100)
    assert torch.equal(result.output["logits"][..., 1:], plain.logits[..., 1:])
    assert torch.equal(result.cache[":in.input_ids"], CLEAN)
    assert result.cache["transformer.h.1.attn:in.hidden_states"].shape == (2, N_TIME, WIDTH)
    assert result.output.past_key_values.get_seq_length() == N_TIME


@torch.no_grad()
def test_generation_keeps_every_step(gpt2) -> None:
    with intervene(gpt2, capture=["transformer.h.0"]) as cache:
        gpt2.generate(CLEAN[:1], max_new_tokens=4, do_sample=False, pad_token_id=0)
    shapes = [tuple(t.shape) for t in cache.calls("transformer.h.0")]
    assert shapes == [(1, N_TIME, WIDTH)] + [(1, 1, WIDTH)] * 3


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False])
def test_batched_runs_equal_single_runs_at_every_module(gpt2, use_cache: bool) -> None:
    cell = (slice(None), 2)
    names = [info.name for info in sites(gpt2, "transformer.h.*", CLEAN) if info.calls]
    values = run(gpt2, CLEAN, capture=names).cache
    edit_sets = [
        {Site(name, index=cell): Replace(values[name][cell])}
        for name in names
        if values[name].ndim == 3
    ]
    inputs = {"input_ids": CORRUPTED, "use_cache": use_cache}
    outputs = run_batched(gpt2, inputs, edit_sets, batch_size=32)
    for output, edits in zip(outputs, edit_sets, strict=True):
        expected = run(gpt2, edits=edits, **inputs).output.logits
        torch.testing.assert_close(output.logits, expected, rtol=0, atol=1e-5)


def llama() -> torch.nn.Module:
    config = transformers.LlamaConfig(
        num_hidden_layers=2, hidden_size=16, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=24, vocab_size=60, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def neox() -> torch.nn.Module:
    config = transformers.GPTNeoXConfig(
        num_hidden_layers=2, hidden_size=16, num_attention_heads=4, intermediate_size=24,
        vocab_size=60, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPTNeoXForCausalLM(config)


def mamba() -> torch.nn.Module:
    config = transformers.MambaConfig(
        num_hidden_layers=2, hidden_size=16, state_size=4, vocab_size=60, use_mambapy=False
    )
    return transformers.MambaForCausalLM(config)


ARCHITECTURES = {"llama": llama, "neox": neox, "mamba": mamba}


@pytest.fixture(params=ARCHITECTURES)
def architecture(request) -> torch.nn.Module:
    torch.manual_seed(0)
    model = ARCHITECTURES[request.param]().eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def test_the_streams_of_other_architectures_are_found_by_structure(architecture) -> None:
    table = ResidualStreamPatcher(architecture).systematic_patching(
        None, CLEAN, CORRUPTED, METRIC, positions=range(N_TIME)
    )
    by_layer = table.groupby("layer", sort=False).recovery
    # At the last block nothing but the last position reaches the metric.
    assert by_layer.last().iloc[-1] == pytest.approx(1.0, abs=1e-6)
    assert by_layer.apply(lambda part: part.iloc[:-1].abs().max()).iloc[-1] < 1e-6
    whole = ResidualStreamPatcher(architecture).systematic_patching(None, CLEAN, CORRUPTED, METRIC)
    assert whole.recovery.tolist() == pytest.approx([1.0, 1.0], abs=1e-6)


@torch.no_grad()
def test_the_heads_of_other_architectures_make_up_their_mixers(architecture) -> None:
    n_heads = None if hasattr(architecture.config, "num_attention_heads") else 4
    patcher = AttentionPatcher(architecture, n_heads=n_heads)
    assert patcher.n_heads == 4
    for layer in range(2):
        heads = [patcher.head_site(layer, h) for h in range(4)]
        by_heads = patcher.patch(CLEAN, CORRUPTED, heads).output.logits
        whole = patcher.patch(CLEAN, CORRUPTED, layer).output.logits
        torch.testing.assert_close(by_heads, whole, rtol=0, atol=1e-10)


@torch.no_grad()
def test_the_hidden_units_of_gpt2_make_up_its_mlps(gpt2) -> None:
    patcher = MLPPatcher(gpt2)
    for layer in range(N_LAYERS):
        hidden = patcher.patch(CLEAN, CORRUPTED, f"transformer.h.{layer}.mlp.c_proj:in").output
        whole = patcher.patch(CLEAN, CORRUPTED, layer).output
        torch.testing.assert_close(hidden.logits, whole.logits, rtol=0, atol=1e-5)
    table = patcher.systematic_patching([2], CLEAN, CORRUPTED, METRIC, neurons=[0, 127])
    assert table.layer.unique().tolist() == ["transformer.h.2.mlp.c_proj:in"]
