"""Patching on HF GPT-2 with random weights, beside nnsight on the same weights."""

import copy
import warnings

import pytest
import torch

from neuros_mechint.activations import Scale, run
from neuros_mechint.interventions import (
    AttentionPatcher,
    MLPPatcher,
    ResidualStreamPatcher,
    attribution_patching,
    logit_difference,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("transformers")
    nnsight = pytest.importorskip("nnsight")

pytestmark = [
    pytest.mark.oracle,
    # Deprecations inside the peers are not ours to fix.
    pytest.mark.filterwarnings("ignore"),
]

PEER = "nnsight"
N_LAYERS, N_HEADS, WIDTH, N_TIME = 3, 4, 32, 6
METRIC = logit_difference(3, 5)


def tokens(seed: int) -> torch.Tensor:
    return torch.randint(0, 60, (2, N_TIME), generator=torch.Generator().manual_seed(seed))


CLEAN, CORRUPTED = tokens(0), tokens(1)


@pytest.fixture(scope="module")
def traced(gpt2):
    return nnsight.NNsight(copy.deepcopy(gpt2))


def assert_equal(ours, theirs) -> None:
    assert list(ours) == pytest.approx(theirs, abs=1e-5)


@torch.no_grad()
def test_captured_values_are_those_of_a_trace(gpt2, traced) -> None:
    with traced.trace(CLEAN):
        projected = traced.transformer.h[1].attn.c_proj.input.save()
        attention = traced.transformer.h[1].attn.output[0].save()
        hidden = traced.transformer.h[2].mlp.act.output.save()
    sites = ["transformer.h.1.attn", "transformer.h.1.attn.c_proj:in", "transformer.h.2.mlp.act"]
    cache = run(gpt2, CLEAN, capture=sites).cache
    for site, value in zip(sites, (attention, projected, hidden), strict=True):
        torch.testing.assert_close(cache[site], value, rtol=0, atol=1e-5)


@torch.no_grad()
def test_an_edit_acts_as_in_a_trace(gpt2, traced) -> None:
    with traced.trace(CLEAN):
        traced.transformer.h[1].mlp.output = 3 * traced.transformer.h[1].mlp.output
        logits = traced.output.logits.save()
    ours = run(gpt2, CLEAN, edits={"transformer.h.1.mlp": Scale(3.0)}).output.logits
    torch.testing.assert_close(ours, logits, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_sweep_over_positions_equals_a_loop_of_traces(gpt2, traced) -> None:
    kept, values = [], []
    for k in range(N_LAYERS):
        with traced.trace(CLEAN):
            kept.append(traced.transformer.h[k].output.save())
    for k in range(N_LAYERS):
        for t in range(N_TIME):
            with traced.trace(CORRUPTED):
                changed = traced.transformer.h[k].output.clone()
                changed[:, t] = kept[k][:, t]
                traced.transformer.h[k].output = changed
                logits = traced.output.logits.save()
            values.append(METRIC(logits).mean().item())
    table = ResidualStreamPatcher(gpt2).systematic_patching(
        None, CLEAN, CORRUPTED, METRIC, positions=range(N_TIME)
    )
    assert_equal(table.value, values)


@torch.no_grad()
def test_a_sweep_over_heads_equals_a_loop_of_traces(gpt2, traced) -> None:
    size, values = WIDTH // N_HEADS, []
    for k in range(N_LAYERS):
        with traced.trace(CLEAN):
            kept = traced.transformer.h[k].attn.c_proj.input.save()
        for h in range(N_HEADS):
            with traced.trace(CORRUPTED):
                changed = traced.transformer.h[k].attn.c_proj.input.clone()
                changed[..., h * size : (h + 1) * size] = kept[..., h * size : (h + 1) * size]
                traced.transformer.h[k].attn.c_proj.input = changed
                logits = traced.output.logits.save()
            values.append(METRIC(logits).mean().item())
    table = AttentionPatcher(gpt2).systematic_patching(
        None, CLEAN, CORRUPTED, METRIC, heads=range(N_HEADS)
    )
    assert_equal(table.value, values)


@torch.no_grad()
def test_a_sweep_over_neurons_equals_a_loop_of_traces(gpt2, traced) -> None:
    with traced.trace(CLEAN):
        kept = traced.transformer.h[1].mlp.c_proj.input.save()
    values = []
    for neuron in range(8):
        with traced.trace(CORRUPTED):
            changed = traced.transformer.h[1].mlp.c_proj.input.clone()
            changed[..., neuron] = kept[..., neuron]
            traced.transformer.h[1].mlp.c_proj.input = changed
            logits = traced.output.logits.save()
        values.append(METRIC(logits).mean().item())
    table = MLPPatcher(gpt2).systematic_patching([1], CLEAN, CORRUPTED, METRIC, neurons=range(8))
    assert_equal(table.value, values)


def test_attribution_patching_equals_gradients_of_a_trace(gpt2, traced) -> None:
    with traced.trace(CLEAN):
        kept = traced.transformer.h[1].output.save()
    value = gradient = None
    with traced.trace(CORRUPTED):
        value = traced.transformer.h[1].output
        value.requires_grad_()
        metric = METRIC(traced.output.logits).mean()
        with metric.backward():
            gradient = value.grad.save()
        value = value.save()
    effects = ((kept - value) * gradient).sum((0, 2)).tolist()
    table = attribution_patching(gpt2, CLEAN, CORRUPTED, METRIC, ["transformer.h.1"])
    assert_equal(table.effect, effects)
