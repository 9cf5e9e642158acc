"""Aggregation of an unordered set of tokens into one vector."""

from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from neuros_neurofm.models._layers import feed_forward, head_count

__all__ = ["PopT"]


class PopT(nn.Module):
    """Population transformer: a learned [CLS] and a set of tokens attend to each other.

    The tokens carry no order: the class vector is invariant and the tokens are equivariant under
    permutation. Masked tokens are not seen and return 0.

    Args:
        d_model: Width of the tokens.
        depth: Number of layers.
        n_heads: Heads; default one per 64 channels.
        dropout: Dropout in the perceptrons.
        with_coords: Whether tokens may have positions.

    Raises:
        ValueError: `depth` < 1, or the width does not divide into heads of even size.

    Examples:
        >>> import torch
        >>> popt = PopT(16, depth=2).eval()
        >>> tokens = torch.randn(2, 5, 16)
        >>> cls, mixed = popt(tokens)
        >>> torch.allclose(cls, popt(tokens.flip(1))[0], atol=1e-5), mixed.shape
        (True, torch.Size([2, 5, 16]))

    References:
        Chau et al. (2025), Population Transformer: learning population-level representations of
        neural activity, ICLR, arXiv:2406.03044.
    """

    def __init__(
        self,
        d_model: int,
        depth: int = 4,
        *,
        n_heads: int | None = None,
        dropout: float = 0.0,
        with_coords: bool = True,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth must be >= 1, got {depth}")
        self.d_model = d_model
        self.cls = nn.Parameter(torch.randn(d_model))
        self.place = nn.Linear(6 * _N_OCTAVES, d_model, bias=False) if with_coords else None
        heads = head_count(d_model, n_heads)
        self.attention = nn.ModuleList(_SetAttention(d_model, heads) for _ in range(depth))
        self.mlp = nn.ModuleList(feed_forward(d_model, dropout, expand=4) for _ in range(depth))
        self.norm = nn.LayerNorm(d_model)

    def forward(
        self, tokens: Tensor, coords: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The class vector and the tokens after mixing.

        Args:
            tokens: (batch, token, d_model), any number of tokens, also 0.
            coords: Positions in metres, (batch, token, 3).
            mask: True = valid, (batch, token).

        Returns:
            Class vector (batch, d_model) and tokens (batch, token, d_model).

        Raises:
            ValueError: wrong shapes.
        """
        x, keys = self._prepare(tokens, coords, mask)
        for attend, mlp in zip(self.attention, self.mlp, strict=True):
            x = x + attend(x, x, keys)
            x = x + mlp(x)
        x = self.norm(x)
        return x[:, 0], x[:, 1:] * keys[:, 1:].unsqueeze(-1)

    def aggregate(
        self, tokens: Tensor, coords: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The class vector alone: `forward(...)[0]` without the last layer of the tokens.

        Args:
            tokens: As in `forward`.
            coords: As in `forward`.
            mask: As in `forward`.

        Returns:
            (batch, d_model).
        """
        x, keep = self._prepare(tokens, coords, mask)
        return self._class_vector(x, keep, None)

    def first_read(self, tokens: Tensor | None) -> Tensor:
        """Keys and values of the first layer: what a stream keeps of each token it has seen.

        Args:
            tokens: (batch, token, d_model), without positions; None: the class token.

        Returns:
            (batch, token, 2 * d_model), (1, 1, 2 * d_model) for the class token.
        """
        given = self.cls.view(1, 1, -1) if tokens is None else tokens
        return cast("_SetAttention", self.attention[0]).read(given)

    def aggregate_read(self, tokens: Tensor, read: Tensor, mask: Tensor) -> Tensor:
        """`aggregate` of tokens whose keys and values of the first layer are known.

        Args:
            tokens: As in `forward`.
            read: `first_read` of the class token, then of each token, (batch, token + 1,
                2 * d_model).
            mask: As in `forward`.

        Returns:
            (batch, d_model).
        """
        x, keep = self._prepare(tokens, None, mask)
        return self._class_vector(x, keep, read)

    def _class_vector(
        self,
        x: Float[Tensor, "batch token d_model"],
        keep: Bool[Tensor, "batch token"],
        read: Float[Tensor, "batch token both"] | None,
    ) -> Float[Tensor, "batch d_model"]:
        last = len(self.mlp) - 1
        for i, (attend, mlp) in enumerate(zip(self.attention, self.mlp, strict=True)):
            query = x[:, :1] if i == last else x
            x = query + attend(query, x, keep, read if i == 0 else None)
            x = x + mlp(x)
        cls: Tensor = self.norm(x)[:, 0]
        return cls

    def _prepare(
        self, tokens: Tensor, coords: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if tokens.ndim != 3 or tokens.shape[-1] != self.d_model:
            raise ValueError(
                f"tokens must be (batch, token, {self.d_model}), got {tuple(tokens.shape)}"
            )
        if mask is not None and mask.shape != tokens.shape[:2]:
            raise ValueError(
                f"mask must be (batch, token) = {tuple(tokens.shape[:2])}, got {tuple(mask.shape)}"
            )
        keep = tokens.new_ones(tokens.shape[:2], dtype=torch.bool) if mask is None else mask
        # 0 x NaN is NaN: masked tokens are replaced, not weighted.
        x = tokens.masked_fill(~keep.unsqueeze(-1), 0.0)
        if coords is not None:
            x = x + self._place(coords, keep).to(x.dtype)
        cls = self.cls.to(x.dtype).expand(x.shape[0], 1, -1)
        return torch.cat([cls, x], dim=1), functional.pad(keep, (1, 0), value=True)

    def _place(
        self, coords: Tensor, keep: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch token d_model"]:
        if self.place is None:
            raise ValueError("this PopT was built without coordinates (with_coords=False)")
        if coords.shape != (*keep.shape, 3):
            raise ValueError(
                f"coords must be (batch, token, 3) metres for {tuple(keep.shape)} tokens, "
                f"got {tuple(coords.shape)}"
            )
        known = torch.where(keep.unsqueeze(-1), coords, torch.zeros_like(coords))
        placed: Tensor = self.place(_fourier(known).to(self.place.weight.dtype))
        return placed


_N_OCTAVES = 8


def _fourier(coords: Float[Tensor, "batch token 3"]) -> Float[Tensor, "batch token feature"]:
    # Wavelengths 0.4 m (a head) down to 3 mm.
    waves = 2 * torch.pi / 0.4 * 2.0 ** torch.arange(_N_OCTAVES, device=coords.device)
    angle = (coords.unsqueeze(-1) * waves).flatten(-2)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class _SetAttention(nn.Module):
    """Pre-normalised attention of queries to a masked set."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(d_model)
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.key_value = nn.Linear(d_model, 2 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def read(
        self, tokens: Float[Tensor, "batch token d_model"]
    ) -> Float[Tensor, "batch token both"]:
        """Keys and values of the tokens, side by side."""
        read: Tensor = self.key_value(self.norm(tokens))
        return read

    def forward(
        self,
        query: Float[Tensor, "batch query d_model"],
        tokens: Float[Tensor, "batch token d_model"],
        keep: Bool[Tensor, "batch token"],
        read: Float[Tensor, "batch token both"] | None = None,
    ) -> Float[Tensor, "batch query d_model"]:
        """The update of the queries; `read` is that of the tokens, where it is known."""
        batch, n, _ = query.shape
        q = self.query(self.norm(query)).view(batch, n, self.n_heads, -1).transpose(1, 2)
        key_value = self.read(tokens) if read is None else read
        k, v = key_value.view(batch, tokens.shape[1], 2, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=keep[:, None, None])
        update: Tensor = self.out(mixed.transpose(1, 2).flatten(-2))
        return update
