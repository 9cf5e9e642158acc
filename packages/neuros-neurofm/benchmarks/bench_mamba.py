"""Time of one Mamba block beside its peers."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
import torch
from torch import nn

from neuros_neurofm.models import FractionalMambaBlock
from neuros_neurofm.models.mamba import MambaBlock

BATCH, LENGTH, D_MODEL = 8, 512, 256


def second_mixer() -> nn.Module:
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = Mamba2Config(
        hidden_size=D_MODEL,
        state_size=64,
        conv_kernel=4,
        expand=2,
        head_dim=64,
        num_heads=8,
        n_groups=1,
        chunk_size=64,
        use_bias=False,
        use_conv_bias=True,
        num_hidden_layers=1,
        layer_norm_epsilon=1e-5,
    )
    return Mamba2Mixer(config, 0)


def first_mixer() -> nn.Module:
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    config = MambaConfig(
        hidden_size=D_MODEL, state_size=16, conv_kernel=4, expand=2, num_hidden_layers=1
    )
    return MambaMixer(config, 0)


def mambapy_block() -> nn.Module:
    mamba = pytest.importorskip("mambapy.mamba")
    return mamba.MambaBlock(mamba.MambaConfig(d_model=D_MODEL, n_layers=1, pscan=True))


def loaded(block: MambaBlock, mixer: nn.Module) -> MambaBlock:
    block.load_state_dict(mixer.state_dict(), strict=True)
    return block


def both(sides: list[Callable[[], object]]) -> Callable[[], object]:
    return lambda: [run() for run in sides]


def floor_of(block: MambaBlock, side_of: Any, batch: int, length: int) -> Callable[[], object]:
    """The block's own two Linear layers alone."""
    wide = torch.randn(batch, length, block.in_proj.out_features)
    inner = torch.randn(batch, length, block.out_proj.in_features)
    x, grad = torch.randn(batch, length, D_MODEL), torch.randn(batch, length, D_MODEL)
    return both([side_of(block.in_proj, x, wide), side_of(block.out_proj, inner, grad)])


def test_second_version(side_of: Any, fastest: Any, report: Any) -> None:
    pytest.importorskip("transformers")
    mixer, mamba = second_mixer(), mambapy_block()
    block = loaded(MambaBlock(D_MODEL), mixer)
    x, grad = torch.randn(BATCH, LENGTH, D_MODEL), torch.randn(BATCH, LENGTH, D_MODEL)
    seconds = fastest(
        {
            "ours": side_of(block, x, grad),
            "floor": floor_of(block, side_of, BATCH, LENGTH),
            "mixer": side_of(mixer, x, grad),
            "mambapy": side_of(mamba, x, grad),
        }
    )
    what = f"Mamba-2 block, {side_of.what}, L={LENGTH}"
    report(what, "its own two Linear layers", seconds["ours"] / seconds["floor"], 2.1)
    peer = f"transformers {version('transformers')} Mamba2Mixer"
    report(what, peer, seconds["ours"] / seconds["mixer"], 0.66 if side_of.training else 0.62)
    report(what, f"mambapy {version('mambapy')}", seconds["ours"] / seconds["mambapy"], 0.13)


def test_first_version(side_of: Any, fastest: Any, report: Any) -> None:
    pytest.importorskip("transformers")
    mixer, mamba = first_mixer(), mambapy_block()
    block = loaded(MambaBlock(D_MODEL, version=1), mixer)
    x, grad = torch.randn(BATCH, LENGTH, D_MODEL), torch.randn(BATCH, LENGTH, D_MODEL)
    sides = {"ours": side_of(block, x, grad), "mambapy": side_of(mamba, x, grad)}
    if not side_of.training:
        sides["mixer"] = side_of(mixer, x, grad)
    seconds = fastest(sides)
    what = f"Mamba-1 block, {side_of.what}, L={LENGTH}"
    bar = 0.33 if side_of.training else 0.24
    report(what, f"mambapy {version('mambapy')}", seconds["ours"] / seconds["mambapy"], bar)
    peer = f"transformers {version('transformers')} MambaMixer"
    if not side_of.training:
        report(what, peer, seconds["ours"] / seconds["mixer"], 0.5)
        return
    # The mixer keeps every state of its loop over time for the backward pass.
    x, grad = x[:, :128], grad[:, :128]
    seconds = fastest({"ours": side_of(block, x, grad), "mixer": side_of(mixer, x, grad)})
    what = f"Mamba-1 block, {side_of.what}, L=128"
    report(what, peer, seconds["ours"] / seconds["mixer"], 0.05)


def test_step_of_a_stream(fastest: Any, report: Any) -> None:
    peer, x = mambapy_block(), torch.randn(1, D_MODEL)
    cache = (None, torch.zeros(1, 2 * D_MODEL, 3))

    def steps(step: Callable[..., Any], reached: Any) -> Callable[[], object]:
        def run() -> None:
            after = reached
            with torch.inference_mode():
                for _ in range(100):
                    _, after = step(x, after)

        return run

    blocks = {number: MambaBlock(D_MODEL, version=number) for number in (1, 2)}
    sides = {str(number): steps(b.step, b.init_state(1)) for number, b in blocks.items()}
    seconds = fastest({**sides, "peer": steps(peer.step, cache)}, at_least=15)
    name = f"mambapy {version('mambapy')}"
    for number, missed in (
        (1, "half of a step is the call of some 35 small operations"),
        (2, "45 small operations, and a state 4 x the peer's"),
    ):
        what = f"Mamba-{number} block, one step of a stream, batch 1"
        report(what, name, seconds[str(number)] / seconds["peer"], 0.6, missed=missed)


def test_time_per_sample_does_not_grow_with_length(side_of: Any, fastest: Any, report: Any) -> None:
    block, sides = MambaBlock(D_MODEL), {}
    for length in (1024, 4096):
        # The same number of samples in both, so that the ratio of times is that per sample.
        batch = 8192 // length
        x, grad = torch.randn(batch, length, D_MODEL), torch.randn(batch, length, D_MODEL)
        sides[f"ours {length}"] = side_of(block, x, grad)
        sides[f"floor {length}"] = floor_of(block, side_of, batch, length)
    seconds = fastest(sides)
    long, short = (seconds[f"ours {n}"] / seconds[f"floor {n}"] for n in (4096, 1024))
    what = f"Mamba-2 block, {side_of.what}, per sample in units of its Linear layers"
    report(what, "L=4096 over L=1024", long / short, 1.25)


def test_fractional_block(fastest: Any, report: Any) -> None:
    x = torch.randn(2, 4096, D_MODEL)
    fractional, second = FractionalMambaBlock(D_MODEL), MambaBlock(D_MODEL)

    def forward(module: nn.Module) -> Callable[[], object]:
        def run() -> None:
            with torch.inference_mode():
                module(x)

        return run

    seconds = fastest({"ours": forward(fractional), "second": forward(second)})
    report(
        "FractionalMambaBlock, inference, L=4096",
        "Mamba-2 block",
        seconds["ours"] / seconds["second"],
        1.5,
    )
