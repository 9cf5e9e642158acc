"""Cost of captures and sweeps beside nnsight on the same weights.

One thread; both sides interleaved; the shortest of the rounds counts, which is the least disturbed.
"""

import copy
import importlib.metadata
import warnings

import pytest
import torch
from torch import nn

from neuros_mechint.activations import run
from neuros_mechint.interventions import ResidualStreamPatcher, logit_difference

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("transformers")
    nnsight = pytest.importorskip("nnsight")

pytestmark = pytest.mark.filterwarnings("ignore")
PEER = f"nnsight {importlib.metadata.version('nnsight')}"
METRIC = logit_difference(3, 5)


def tokens(n_time: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 1000, (1, n_time), generator=torch.Generator().manual_seed(seed))


def sweep(model: nn.Module, n_time: int) -> list[float]:
    """Patch each position of the stream after each block, in batches."""
    table = ResidualStreamPatcher(model).systematic_patching(
        None, tokens(n_time), tokens(n_time, seed=1), METRIC, positions=range(n_time)
    )
    return table["value"].tolist()


def test_capturing_costs_less_than_a_trace_of_nnsight(gpt2, shortest, report) -> None:
    model, x = gpt2(), tokens(16)
    names = [f"transformer.h.{k}" for k in range(4)]
    traced = nnsight.NNsight(copy.deepcopy(model))

    def peer() -> None:
        with traced.trace(x):
            for block in traced.transformer.h:
                block.output.save()

    mine, theirs = shortest(lambda: run(model, x, capture=names), peer, rounds=60)
    # The bar of the time is 0.9 of the peer's: a ratio of 1.11.
    report("capture of all blocks, GPT-2 4x128", PEER, theirs / mine, 1.11)


def looped(traced: nn.Module, n_time: int) -> list[float]:
    """Patch each position of the stream after each block, one trace at a time."""
    values = []
    for block in traced.transformer.h:
        with traced.trace(tokens(n_time)):
            kept = block.output.save()
        for t in range(n_time):
            with traced.trace(tokens(n_time, seed=1)):
                changed = block.output.clone()
                changed[:, t] = kept[:, t]
                block.output = changed
                logits = traced.output.logits.save()
            values.append(METRIC(logits).mean().item())
    return values


@pytest.mark.parametrize(
    ("n_layers", "width", "n_time", "bar", "missed"),
    [
        (
            4,
            128,
            16,
            8.0,
            "two single forwards and the modules of the batches are five sixths of it",
        ),
        (6, 256, 32, 3.6, "the products of the batches are nearly all of it"),
    ],
)
def test_a_sweep_is_faster_than_a_loop_of_traces_of_nnsight(
    gpt2, shortest, report, n_layers, width, n_time, bar, missed
) -> None:
    model, found = gpt2(n_layers, width), {}
    traced = nnsight.NNsight(copy.deepcopy(model))

    def ours() -> None:
        found["ours"] = sweep(model, n_time)

    def peer() -> None:
        found["peer"] = looped(traced, n_time)

    mine, theirs = shortest(ours, peer, rounds=7)
    assert found["ours"] == pytest.approx(found["peer"], abs=1e-6)
    what = f"sweep over {n_layers} blocks x {n_time} positions, d={width}"
    report(what, PEER, theirs / mine, bar, missed)
