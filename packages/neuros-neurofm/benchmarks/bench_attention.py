"""Training time of a Mamba-2 block beside causal attention, by length."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from neuros_neurofm.models.mamba import MambaBlock

D_MODEL = 256


class AttentionBlock(nn.Module):
    """Causal self-attention and a feed-forward part of four times the width: 12 d^2 weights."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, -1)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(x)))


def training(module: nn.Module, x: Tensor) -> Callable[[], object]:
    x = x.clone().requires_grad_()

    def run() -> None:
        module.zero_grad()
        module(x).sum().backward()

    return run


@pytest.mark.parametrize(("n_blocks", "length"), [(1, 2048), (2, 8192)])
def test_training_is_faster_than_attention(
    n_blocks: int, length: int, fastest: Any, report: Any
) -> None:
    attention = AttentionBlock(D_MODEL)
    ours = nn.Sequential(*(MambaBlock(D_MODEL) for _ in range(n_blocks)))
    x = torch.randn(1, length, D_MODEL)
    seconds = fastest({"ours": training(ours, x), "attention": training(attention, x)})
    sizes = [sum(p.numel() for p in m.parameters()) for m in (ours, attention)]
    equal = "equal width" if n_blocks == 1 else f"parameters {sizes[0] / sizes[1]:.2f} to 1"
    what = f"{n_blocks} Mamba-2 block(s), forward + backward, L={length}"
    report(what, f"causal attention, {equal}", seconds["ours"] / seconds["attention"], 1.0)
