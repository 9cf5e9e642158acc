"""Cost of captures and sweeps beside TransformerLens on the same weights.

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
    builder = pytest.importorskip("transformer_lens.model_bridge.sources._bridge_builder")
    patching = pytest.importorskip("transformer_lens.patching")

pytestmark = pytest.mark.filterwarnings("ignore")
PEER = f"transformer_lens {importlib.metadata.version('transformer_lens')}"
METRIC = logit_difference(3, 5)


def tokens(n_time: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 1000, (1, n_time), generator=torch.Generator().manual_seed(seed))


def sweep(model: nn.Module, n_layers: int, n_time: int) -> list[float]:
    """Patch each position of the stream before each block, in batches."""
    sites = [f"transformer.h.{k}:in" for k in range(n_layers)]
    table = ResidualStreamPatcher(model, sites=sites).systematic_patching(
        None, tokens(n_time), tokens(n_time, seed=1), METRIC, positions=range(n_time)
    )
    return table["value"].tolist()


def bridged(model: nn.Module) -> nn.Module:
    # The bridge changes the model that it is built around.
    return builder.build_bridge_from_module(
        copy.deepcopy(model), "GPT2LMHeadModel", hf_config=model.config
    )


def test_capturing_costs_less_than_run_with_cache_of_transformer_lens(
    gpt2, shortest, report
) -> None:
    model, x = gpt2(), tokens(16)
    names = [f"transformer.h.{k}" for k in range(4)]
    bridge = bridged(model)
    wanted = [f"blocks.{k}.hook_resid_post" for k in range(4)]

    def peer() -> None:
        bridge.run_with_cache(x, names_filter=lambda name: name in wanted)

    mine, theirs = shortest(lambda: run(model, x, capture=names), peer, rounds=60)
    # The bar of the time is 0.6 of the peer's: a ratio of 1.67.
    report("capture of all blocks, GPT-2 4x128", PEER, theirs / mine, 1.67)


@pytest.mark.parametrize(
    ("n_layers", "width", "n_time", "bar", "missed"),
    [
        (
            4,
            128,
            16,
            15.0,
            "two single forwards and the modules of the batches are five sixths of it",
        ),
        (6, 256, 32, 6.0, "the products of the batches are nearly all of it"),
    ],
)
def test_a_sweep_is_faster_than_that_of_transformer_lens(
    gpt2, shortest, report, n_layers, width, n_time, bar, missed
) -> None:
    model, found = gpt2(n_layers, width), {}
    bridge = bridged(model)

    def ours() -> None:
        found["ours"] = sweep(model, n_layers, n_time)

    def peer() -> None:
        _, kept = bridge.run_with_cache(tokens(n_time))
        found["peer"] = patching.get_act_patch_resid_pre(
            bridge, tokens(n_time, seed=1), kept, lambda logits: METRIC(logits).mean()
        )

    mine, theirs = shortest(ours, peer, rounds=5)
    assert found["ours"] == pytest.approx(found["peer"].flatten().tolist(), abs=5e-6)
    what = f"sweep over {n_layers} blocks x {n_time} positions, d={width}"
    report(what, PEER, theirs / mine, bar, missed)
