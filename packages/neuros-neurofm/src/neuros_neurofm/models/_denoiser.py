"""The network of the diffusion: attention along the latents, steered by time and condition."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from neuros_neurofm.models._layers import head_count, rotate

__all__ = ["Denoiser"]

_TIME_FEATURES = 128


class Denoiser(nn.Module):
    """Residual attention blocks whose norms are scaled, shifted and gated by time and condition.

    Positions along the latents enter by rotation, so any number of latents is taken. The last layer
    starts at 0: an untrained network answers 0. Sines of the input beside the input itself let the
    network see the fine structure of distributions in few dimensions (Tancik et al. 2020).
    """

    rotary: Tensor
    waves: Tensor

    def __init__(
        self, latent_dim: int, width: int, depth: int, n_heads: int | None, cond_dim: int | None
    ) -> None:
        super().__init__()
        heads = head_count(width, n_heads)
        self.embed = nn.Linear(latent_dim, width)
        self.ripple = nn.Linear(latent_dim, width)
        self.fold = nn.Linear(width, width)
        self.time = nn.Sequential(
            nn.Linear(_TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.cond = None if cond_dim is None else nn.Linear(cond_dim, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, latent_dim)
        # For inputs of variance 1 the sines' arguments have a standard deviation of 3.
        nn.init.normal_(self.ripple.weight, std=3 / math.sqrt(latent_dim))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        half = width // heads // 2
        rotary = 10_000.0 ** -(torch.arange(half) / half)
        waves = 10_000.0 ** -(torch.arange(_TIME_FEATURES // 2) / (_TIME_FEATURES // 2))
        self.register_buffer("rotary", rotary, persistent=False)
        self.register_buffer("waves", waves, persistent=False)

    def forward(
        self,
        x: Float[Tensor, "batch latent feature"],
        time: Float[Tensor, " batch"],
        cond: Float[Tensor, "batch cond"] | None,
    ) -> Float[Tensor, "batch latent feature"]:
        """The network's answer at `time` in [0, 1]."""
        # 1000: the range of the step number in Ho et al. 2020, for which the waves are made.
        phase = 1_000 * time[:, None] * self.waves
        steer = self.time(torch.cat([phase.cos(), phase.sin()], dim=-1))
        if self.cond is not None:
            steer = steer + self.cond(cond)
        steer = functional.silu(steer)[:, None]
        angle = torch.arange(x.shape[1], device=x.device)[:, None] * self.rotary
        cos, sin = angle.cos(), angle.sin()
        x = self.embed(x) + self.fold(self.ripple(x).sin())
        for block in self.blocks:
            x = block(x, steer, cos, sin)
        shift, scale = self.modulate(steer).chunk(2, dim=-1)
        answer: Tensor = self.out(self.norm(x) * (1 + scale) + shift)
        return answer


class _Block(nn.Module):
    """Attention over the latents and a perceptron, both behind a gate."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.modulate = nn.Linear(width, 6 * width)
        # A head's logits start at the scale that dot products of unit-variance features have.
        nn.init.normal_(self.query_key_value.weight, std=1 / math.sqrt(width))

    def forward(
        self,
        x: Float[Tensor, "batch latent width"],
        steer: Float[Tensor, "batch 1 width"],
        cos: Float[Tensor, "latent pair"],
        sin: Float[Tensor, "latent pair"],
    ) -> Float[Tensor, "batch latent width"]:
        """The latents after one block."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulate(steer).chunk(6, dim=-1)
        x = x + (1 + gate_1) * self._attend(self.norm(x) * (1 + scale_1) + shift_1, cos, sin)
        y: Tensor = x + (1 + gate_2) * self.mlp(self.norm(x) * (1 + scale_2) + shift_2)
        return y

    def _attend(
        self,
        x: Float[Tensor, "batch latent width"],
        cos: Float[Tensor, "latent pair"],
        sin: Float[Tensor, "latent pair"],
    ) -> Float[Tensor, "batch latent width"]:
        batch, n, _ = x.shape
        split = self.query_key_value(x).view(batch, n, 3, self.n_heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
        update: Tensor = self.mix(mixed.transpose(1, 2).flatten(-2))
        return update
