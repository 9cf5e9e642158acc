"""Cost of a sweep of patches beside a loop of hand-written hooks.

One thread; both sides interleaved; the shortest of the rounds counts, which is the least disturbed.
"""

import platform

import pytest
import torch
from torch import nn

from neuros_mechint.activations import run
from neuros_mechint.interventions import (
    ActivationPatcher,
    attribution_patching,
    logit_difference,
)

pytestmark = pytest.mark.filterwarnings("ignore")
PEER = f"one hook per forward, torch {torch.__version__}, {platform.machine()}"
METRIC = logit_difference(3, 5)


def tokens(n_time: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 1000, (1, n_time), generator=torch.Generator().manual_seed(seed))


def one_hook_loop(model: nn.Module, clean: torch.Tensor, corrupted: torch.Tensor) -> list[float]:
    """Patch each position of each block with one hook and one forward each."""
    blocks, values = model.transformer.h, []
    kept = run(model, clean, capture=[f"transformer.h.{k}" for k in range(len(blocks))]).cache
    for k, block in enumerate(blocks):
        source = kept[f"transformer.h.{k}"]
        for t in range(clean.shape[1]):

            def patch(_module, _args, out, source=source, t=t):
                out = out.clone()
                out[:, t] = source[:, t]
                return out

            handle = block.register_forward_hook(patch)
            values.append(METRIC(model(corrupted).logits).mean().item())
            handle.remove()
    return values


SWEEPS = [
    (
        4,
        128,
        16,
        7.0,
        "two single forwards and the modules of the batches are five sixths of it",
    ),
    (6, 256, 32, 3.2, "the products of the batches are nearly all of it"),
]


@pytest.mark.parametrize(("n_layers", "width", "n_time", "bar", "missed"), SWEEPS)
def test_a_sweep_is_faster_than_a_loop_of_hooks(
    gpt2, shortest, report, n_layers, width, n_time, bar, missed
) -> None:
    model = gpt2(n_layers, width)
    clean, corrupted = tokens(n_time), tokens(n_time, seed=1)
    layers = [f"transformer.h.{k}" for k in range(n_layers)]
    found = {}

    def ours() -> None:
        found["ours"] = ActivationPatcher(model).systematic_patching(
            layers, clean, corrupted, METRIC, positions=range(n_time)
        )

    def loop() -> None:
        found["loop"] = one_hook_loop(model, clean, corrupted)

    mine, theirs = shortest(ours, loop, rounds=15 if n_layers < 6 else 7)
    assert found["ours"]["value"].tolist() == pytest.approx(found["loop"], abs=1e-6)
    what = f"sweep over {n_layers} blocks x {n_time} positions, d={width}"
    report(what, PEER, theirs / mine, bar, missed)


def test_attribution_patching_costs_a_few_forwards(gpt2, shortest, report) -> None:
    model, clean, corrupted = gpt2(), tokens(16), tokens(16, seed=1)
    layers = [f"transformer.h.{k}" for k in range(4)]

    def ours() -> None:
        attribution_patching(model, clean, corrupted, METRIC, layers)

    mine, theirs = shortest(ours, lambda: one_hook_loop(model, clean, corrupted), rounds=7)
    # Three forwards and a backward of two, for all 64 patches.
    report("attribution patching of 4 blocks x 16 positions, d=128", PEER, theirs / mine, 6.0)
