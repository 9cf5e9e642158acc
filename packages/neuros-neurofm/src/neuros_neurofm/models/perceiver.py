"""Fusion of streams of any rate on one grid of time."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from neuros_neurofm.models._layers import feed_forward, head_count, rotary_frequencies, rotate
from neuros_neurofm.tokenizers import Tokens

__all__ = ["PerceiverIO"]

# Times are float64 seconds: the sums that make them agree to far better than a microsecond.
_TOLERANCE_S = 1e-7


class _Neighbours(NamedTuple):
    """Per latent the tokens it may see: row among the tokens of all streams, and validity."""

    rows: Tensor
    valid: Tensor


class _Angles(NamedTuple):
    """Cosine and sine of the rotary angles at some times."""

    cos: Tensor
    sin: Tensor


class PerceiverIO(nn.Module):
    r"""Latents at given times attend to the tokens of their own window.

    Every latent starts from the same learned vector and attends, layer by layer, to the tokens of
    all streams with $t - r < t_{token} \le t$ (causal) or $|t - t_{token}| \le r$; queries and keys
    are rotated by their times in seconds, so that a score depends on the seconds between token and
    latent and streams fuse by time stamp. A learned
    null token is always visible: a latent without any token is finite. Cost grows with the number
    of tokens, not with its product with the number of latents.

    Args:
        d_model: Width of tokens and latents.
        depth: Number of attention layers.
        n_heads: Heads; default one per 64 channels.
        dropout: Dropout in the perceptrons.
        causal: See tokens of the past only.

    Raises:
        ValueError: `depth` < 1, or the width does not divide into heads of even size.

    Examples:
        >>> import torch
        >>> fusion = PerceiverIO(16, depth=1)
        >>> times = torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64)
        >>> stream = Tokens(torch.randn(1, 3, 16), times, torch.ones(1, 3, dtype=torch.bool))
        >>> grid = torch.arange(1, 5, dtype=torch.float64) * 0.1
        >>> fusion([stream], grid, reach=[0.2]).shape
        torch.Size([1, 4, 16])

    References:
        Jaegle et al. (2021), Perceiver IO: a general architecture for structured inputs and
        outputs, arXiv:2107.14795. Su et al. (2021), RoFormer: enhanced transformer with rotary
        position embedding, arXiv:2104.09864.
    """

    frequencies: Tensor

    def __init__(
        self,
        d_model: int,
        depth: int = 2,
        *,
        n_heads: int | None = None,
        dropout: float = 0.0,
        causal: bool = True,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth must be >= 1, got {depth}")
        self.n_heads = head_count(d_model, n_heads)
        self.causal = causal
        self.latent = nn.Parameter(torch.randn(d_model))
        self.null = nn.Parameter(torch.randn(d_model))
        self.norm = nn.LayerNorm(d_model)
        self.attention = nn.ModuleList(
            _WindowAttention(d_model, self.n_heads) for _ in range(depth)
        )
        self.mlp = nn.ModuleList(feed_forward(d_model, dropout, expand=2) for _ in range(depth))
        frequencies = rotary_frequencies(d_model // self.n_heads)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(
        self,
        streams: Sequence[Tokens],
        grid: Tensor,
        *,
        reach: Sequence[float],
        slots: Sequence[int] | None = None,
    ) -> Tensor:
        """The latents.

        Args:
            streams: One or more token sequences of equal batch and width; each row sorted by time.
            grid: Times of the latents in seconds, (latent,).
            reach: Length of the window of each stream in seconds.
            slots: Number of tokens of each stream that a window holds at most; only the newest
                that many are seen. None: counted, which an exported program cannot do.

        Returns:
            (batch, latent, d_model).

        Raises:
            ValueError: no stream, or another number of reaches or slots than streams.
        """
        if not streams or len(streams) != len(reach):
            raise ValueError(
                f"streams needs at least one token sequence and one reach each, "
                f"got {len(streams)} streams and {len(reach)} reaches"
            )
        if slots is not None and len(slots) != len(streams):
            raise ValueError(
                f"slots needs one number per stream = {len(streams)}, got {len(slots)}"
            )
        near = self._neighbours(streams, grid, reach, slots or [None] * len(streams))
        tokens = self.norm(torch.cat([stream.values for stream in streams], dim=1))
        null = self.norm(self.null).to(tokens.dtype)
        token_angles = self._angles(torch.cat([s.times for s in streams], dim=1), tokens.dtype)
        grid_angles = self._angles(grid, tokens.dtype)
        latents = self.latent.to(tokens.dtype).expand(tokens.shape[0], grid.shape[0], -1)
        for attend, mlp in zip(self.attention, self.mlp, strict=True):
            latents = latents + attend(latents, tokens, null, near, (token_angles, grid_angles))
            latents = latents + mlp(latents)
        return latents

    def _angles(self, times: Tensor, dtype: torch.dtype) -> _Angles:
        # In float64: after an hour the angle of a 4 ms period has 6 digits before the point.
        angle = times.unsqueeze(-1) * self.frequencies.double()
        return _Angles(angle.cos().to(dtype).unsqueeze(-2), angle.sin().to(dtype).unsqueeze(-2))

    def _neighbours(
        self,
        streams: Sequence[Tokens],
        grid: Tensor,
        reach: Sequence[float],
        slots: Sequence[int | None],
    ) -> _Neighbours:
        rows, valid, offset = [], [], 0
        for stream, r, n in zip(streams, reach, slots, strict=True):
            row, inside = _window(stream.times, grid, r, causal=self.causal, slots=n)
            seen = stream.mask.gather(1, row.flatten(1)).view(row.shape)
            rows.append(row + offset)
            valid.append(inside & seen)
            offset += stream.times.shape[1]
        return _Neighbours(torch.cat(rows, -1), torch.cat(valid, -1))


def _window(
    times: Float[Tensor, "batch token"],
    grid: Float[Tensor, " latent"],
    reach: float,
    *,
    causal: bool,
    slots: int | None,
) -> tuple[Int[Tensor, "batch latent slot"], Bool[Tensor, "batch latent slot"]]:
    """Rows of the tokens in the window of each latent, newest first."""
    late = grid + (0.0 if causal else reach) + _TOLERANCE_S
    early = grid - reach + (_TOLERANCE_S if causal else -_TOLERANCE_S)
    shape = (times.shape[0], grid.shape[0])
    times = times.contiguous()
    end = torch.searchsorted(times, late.expand(shape).contiguous(), right=True)
    start = torch.searchsorted(times, early.expand(shape).contiguous(), right=True)
    if slots is None:
        slots = int((end - start).amax().clamp_min(0))
    rows = end.unsqueeze(-1) - 1 - torch.arange(slots, device=times.device)
    return rows.clamp_min(0), rows >= start.unsqueeze(-1)


class _WindowAttention(nn.Module):
    """Cross-attention of each latent to its own gathered tokens."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(d_model)
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.key_value = nn.Linear(d_model, 2 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(
        self,
        latents: Float[Tensor, "batch latent d_model"],
        tokens: Float[Tensor, "batch token d_model"],
        null: Float[Tensor, " d_model"],
        near: _Neighbours,
        angles: tuple[_Angles, _Angles],
    ) -> Float[Tensor, "batch latent d_model"]:
        """The update of the latents; `angles` are those of the tokens and of the latents."""
        batch, n, _ = latents.shape
        query = self.query(self.norm(latents)).unflatten(-1, (self.n_heads, -1))
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        key = rotate(key.unflatten(-1, (self.n_heads, -1)), *angles[0]).flatten(-2)
        null_key, null_value = self.key_value(null).view(2, self.n_heads, -1)
        start = torch.arange(batch, device=tokens.device).view(-1, 1, 1) * tokens.shape[1]
        both = torch.cat([key, value], dim=-1).flatten(0, 1)
        gathered = both.index_select(0, (near.rows + start).flatten())
        key, value = gathered.view(batch, n, -1, 2, *query.shape[2:]).unbind(3)
        scores = (rotate(query, *angles[1]).unsqueeze(2) * key).sum(-1)
        scores = scores.masked_fill(~near.valid.unsqueeze(-1), -torch.inf)
        # The null token has no time: its score is that of a token at the time of the latent.
        scores = torch.cat([scores, (query * null_key).sum(-1).unsqueeze(2)], dim=2)
        weights = (scores * query.shape[-1] ** -0.5).softmax(dim=2).to(value.dtype).unsqueeze(-1)
        mixed = (weights[:, :, :-1] * value).sum(2) + weights[:, :, -1] * null_value
        update: Tensor = self.out(mixed.flatten(-2))
        return update
