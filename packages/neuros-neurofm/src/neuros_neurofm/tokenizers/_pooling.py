"""A set of channels becomes one token: any number of them, in any order."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ChannelPool"]


class ChannelPool(nn.Module):
    r"""Attention over the channels of each patch, linear in their number.

    $v_c = f_c \odot (1 + G u_c) + S u_c$ with the feature $f_c$ and the unit vector $u_c$;
    head $m$ returns $\sqrt{n} \sum_c \mathrm{softmax}_c(w_m \cdot v_c)\, v_c$. The factor
    $\sqrt{n}$ keeps the size of a sum of $n$ independent channels. The unit vector multiplies
    the feature, so that the pool can be any linear read-out of the population.
    """

    def __init__(self, width: int, unit_dim: int, d_model: int, *, n_heads: int = 4) -> None:
        super().__init__()
        self.gain = nn.Linear(unit_dim, width, bias=False)
        self.shift = nn.Linear(unit_dim, width, bias=False)
        self.score = nn.Linear(width, n_heads, bias=False)
        self.out = nn.Linear(n_heads * width, d_model)

    def forward(
        self,
        features: Float[Tensor, "batch patch channel width"],
        units: Float[Tensor, "#batch #patch channel unit"],
        valid: Bool[Tensor, "batch patch channel"],
    ) -> Float[Tensor, "batch patch d_model"]:
        """One vector per patch; 0 where no channel is valid."""
        # One product for both maps, the 1 as its bias.
        both = torch.cat([self.gain.weight, self.shift.weight])
        one = both.new_zeros(2, self.gain.out_features)
        one[0] = 1.0
        gain, shift = functional.linear(units, both, one.flatten()).chunk(2, -1)
        values = torch.addcmul(shift, features, gain)
        scores = self.score(values).masked_fill(~valid.unsqueeze(-1), -torch.inf)
        # A patch without any valid channel would be softmax of -inf only.
        weights = scores.softmax(dim=2).masked_fill(~valid.unsqueeze(-1), 0.0)
        # Masked features are finite, so a weight of exactly 0 removes them exactly.
        pooled = weights.transpose(-1, -2) @ values
        n = valid.sum(-1).to(features.dtype).sqrt()
        token: Tensor = self.out(pooled.flatten(-2) * n.unsqueeze(-1))
        return token.masked_fill(~valid.any(-1, keepdim=True), 0.0)
