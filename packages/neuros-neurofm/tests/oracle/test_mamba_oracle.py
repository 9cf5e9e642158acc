"""Mamba blocks beside the mixers of transformers, at equal weights."""

from typing import Any

import pytest
import torch

from neuros_neurofm.models.mamba import MambaBlock

pytestmark = pytest.mark.oracle

# Importing the peer and its configuration classes alone takes seconds.
transformers = pytest.importorskip("transformers")


def make_first_mixer() -> Any:
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    config = MambaConfig(
        hidden_size=32, state_size=16, conv_kernel=4, expand=2, num_hidden_layers=1
    )
    return MambaMixer(config, 0)


def make_mixer(ngroups: int = 1) -> Any:
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = Mamba2Config(
        hidden_size=32,
        state_size=16,
        conv_kernel=4,
        expand=2,
        head_dim=16,
        num_heads=4,
        n_groups=ngroups,
        chunk_size=16,
        use_bias=False,
        use_conv_bias=True,
        num_hidden_layers=1,
        layer_norm_epsilon=1e-5,
    )
    return Mamba2Mixer(config, 0)


@pytest.mark.parametrize("ngroups", [1, 2])
@pytest.mark.parametrize("length", [5, 64, 75])
def test_block_equals_the_mixer_of_transformers(ngroups: int, length: int) -> None:
    torch.manual_seed(0)
    mixer = make_mixer(ngroups)
    torch.nn.init.normal_(mixer.norm.weight)
    torch.nn.init.normal_(mixer.D)
    block = MambaBlock(32, d_state=16, headdim=16, ngroups=ngroups)
    block.load_state_dict(mixer.state_dict(), strict=True)
    mixer.load_state_dict(block.state_dict(), strict=True)
    assert_same_outputs_and_gradients(block, mixer, torch.randn(3, length, 32))


@pytest.mark.parametrize("length", [5, 75])
def test_version_1_equals_the_mixer_of_transformers(length: int) -> None:
    torch.manual_seed(0)
    mixer = make_first_mixer()
    torch.nn.init.normal_(mixer.D)
    torch.nn.init.normal_(mixer.x_proj.weight, std=0.2)
    block = MambaBlock(32, version=1)
    block.load_state_dict(mixer.state_dict(), strict=True)
    mixer.load_state_dict(block.state_dict(), strict=True)
    assert_same_outputs_and_gradients(block, mixer, torch.randn(3, length, 32))


def assert_same_outputs_and_gradients(
    block: MambaBlock, mixer: torch.nn.Module, x: torch.Tensor
) -> None:
    grads, outs = [], []
    for module in (mixer, block):
        y = module(x)
        y.square().sum().backward()
        outs.append(y)
        grads.append({name: p.grad for name, p in module.named_parameters()})
    torch.testing.assert_close(outs[1], outs[0], atol=1e-4, rtol=1e-4)
    for name, theirs in grads[0].items():
        scale = float(theirs.abs().max())
        torch.testing.assert_close(grads[1][name], theirs, atol=1e-4 * scale, rtol=1e-4)
