"""Patching on HF GPT-2 with random weights, beside TransformerLens on the same weights."""

import copy
import warnings

import pytest
import torch

from neuros_mechint.activations import run
from neuros_mechint.interventions import (
    AttentionPatcher,
    MLPPatcher,
    ResidualStreamPatcher,
    logit_difference,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("transformers")
    pytest.importorskip("transformer_lens")
    builder = pytest.importorskip("transformer_lens.model_bridge.sources._bridge_builder")

pytestmark = [
    pytest.mark.oracle,
    # Deprecations inside the peers are not ours to fix.
    pytest.mark.filterwarnings("ignore"),
]

PEER = "transformer_lens"
N_LAYERS, N_HEADS, WIDTH, N_TIME = 3, 4, 32, 6
METRIC = logit_difference(3, 5)


def tokens(seed: int) -> torch.Tensor:
    return torch.randint(0, 60, (2, N_TIME), generator=torch.Generator().manual_seed(seed))


CLEAN, CORRUPTED = tokens(0), tokens(1)


@pytest.fixture(scope="module")
def bridge(gpt2):
    # The bridge changes the model that it is built around.
    return builder.build_bridge_from_module(
        copy.deepcopy(gpt2), "GPT2LMHeadModel", hf_config=gpt2.config
    )


def looped(bridge, name: str, parts) -> list[float]:
    """Patch parts of one hook, one forward at a time."""
    _, kept = bridge.run_with_cache(CLEAN)
    values = []
    for part in parts:

        def patch(value, hook, part=part):
            value = value.clone()
            value[part] = kept[name][part]
            return value

        logits = bridge.run_with_hooks(CORRUPTED, fwd_hooks=[(name, patch)])
        values.append(METRIC(logits).mean().item())
    return values


def assert_equal(ours, theirs) -> None:
    assert list(ours) == pytest.approx(theirs, abs=1e-5)


@torch.no_grad()
def test_the_bridge_computes_the_same_logits(gpt2, bridge) -> None:
    torch.testing.assert_close(bridge(CLEAN), gpt2(CLEAN).logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_captured_values_are_those_of_its_cache(gpt2, bridge) -> None:
    _, kept = bridge.run_with_cache(CLEAN)
    sites = [f"transformer.h.{k}" for k in range(N_LAYERS)]
    cache = run(gpt2, CLEAN, capture=sites).cache
    for k, site in enumerate(sites):
        theirs = kept[f"blocks.{k}.hook_resid_post"]
        torch.testing.assert_close(cache[site], theirs, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_a_sweep_over_positions_equals_its_loop(gpt2, bridge, layer: int) -> None:
    parts = [(slice(None), t) for t in range(N_TIME)]
    table = ResidualStreamPatcher(gpt2).systematic_patching(
        layer, CLEAN, CORRUPTED, METRIC, positions=range(N_TIME)
    )
    assert_equal(table.value, looped(bridge, f"blocks.{layer}.hook_resid_post", parts))


@torch.no_grad()
def test_a_sweep_equals_its_own_patching_function(gpt2, bridge) -> None:
    patching = pytest.importorskip("transformer_lens.patching")
    _, kept = bridge.run_with_cache(CLEAN)
    theirs = patching.get_act_patch_resid_pre(
        bridge, CORRUPTED, kept, lambda logits: METRIC(logits).mean()
    )
    table = ResidualStreamPatcher(
        gpt2, sites=[f"transformer.h.{k}:in" for k in range(N_LAYERS)]
    ).systematic_patching(None, CLEAN, CORRUPTED, METRIC, positions=range(N_TIME))
    assert_equal(table.value, theirs.flatten().tolist())


@torch.no_grad()
def test_a_sweep_over_heads_equals_its_loop(gpt2, bridge) -> None:
    table = AttentionPatcher(gpt2).systematic_patching(
        [1], CLEAN, CORRUPTED, METRIC, heads=range(N_HEADS)
    )
    name = "blocks.1.attn.hook_z"
    _, kept = bridge.run_with_cache(CLEAN)
    size = WIDTH // N_HEADS
    # Older versions keep the heads side by side in the last dimension.
    parts = (
        [(..., h, slice(None)) for h in range(N_HEADS)]
        if kept[name].ndim == 4
        else [(..., slice(h * size, (h + 1) * size)) for h in range(N_HEADS)]
    )
    assert_equal(table.value, looped(bridge, name, parts))


@torch.no_grad()
def test_a_sweep_over_mlps_equals_its_loop(gpt2, bridge) -> None:
    table = MLPPatcher(gpt2).systematic_patching(None, CLEAN, CORRUPTED, METRIC)
    values = [looped(bridge, f"blocks.{k}.hook_mlp_out", [...])[0] for k in range(N_LAYERS)]
    assert_equal(table.value, values)
