"""What a tokenizer returns: one sequence of vectors with its times and its validity."""

from typing import NamedTuple

from torch import Tensor

__all__ = ["Tokens"]


class Tokens(NamedTuple):
    """Tokens of one stream, in the order of their times.

    Attributes:
        values: Token vectors, (batch, token, d_model).
        times: Seconds from the start of the window at which each token is complete, (batch, token),
            float64 and non-decreasing along the row.
        mask: False where a token rests on no valid sample, (batch, token).

    Examples:
        >>> import torch
        >>> times = torch.tensor([[0.02, 0.04]], dtype=torch.float64)
        >>> tokens = Tokens(torch.zeros(1, 2, 8), times, torch.ones(1, 2, dtype=torch.bool))
        >>> values, times, mask = tokens
        >>> values.shape
        torch.Size([1, 2, 8])
    """

    values: Tensor
    times: Tensor
    mask: Tensor
