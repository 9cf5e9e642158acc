"""Traces that decay by a constant factor per step, all steps together."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["decayed", "latest", "shifted"]

# Steps that one product of matrices takes together.
_CHUNK = 32


def decayed(
    x: Float[Tensor, "*batch time unit"], rate: Float[Tensor, ""]
) -> Float[Tensor, "*batch time unit"]:
    r"""$h_t = e^{-r} h_{t-1} + x_t$ from $h = 0$.

    Chunks are products with a triangular matrix; what goes from chunk to chunk is the same
    recursion on their ends. All terms are added with their own factor, so rounding does not add up
    over time, and no entry depends on a later one.

    Args:
        x: What is added in every step.
        rate: Decay per step r.

    Examples:
        >>> decayed(torch.tensor([[1.0], [0.0], [1.0]]), torch.tensor(2.0).log()).squeeze()
        tensor([1.0000, 0.5000, 1.2500])
    """
    n_times = x.shape[-2]
    size = min(n_times, _CHUNK)
    steps = torch.arange(size, dtype=x.dtype, device=x.device)
    lags = (steps[:, None] - steps).clamp(min=0)
    factors = (-rate * lags).exp().tril()
    if n_times <= _CHUNK:
        return factors @ x
    n_chunks = -(-n_times // _CHUNK)
    padded = functional.pad(x, (0, 0, 0, n_chunks * _CHUNK - n_times))
    own = factors @ torch.unflatten(padded, -2, (n_chunks, _CHUNK))
    ends = decayed(own[..., -1, :], rate * _CHUNK)
    before = functional.pad(ends[..., :-1, :], (0, 0, 1, 0))
    carried = (-rate * (steps + 1)).exp()[:, None] * before.unsqueeze(-2)
    return (own + carried).flatten(-3, -2)[..., :n_times, :]


def latest(
    spikes: Float[Tensor, "*batch time unit"], rate: Float[Tensor, ""]
) -> Float[Tensor, "*batch time unit"]:
    r"""$e^{-r \Delta}$ of the steps since the last spike, that of the step itself included."""
    steps = torch.arange(spikes.shape[-2], dtype=spikes.dtype, device=spikes.device)[:, None]
    last = torch.where(spikes > 0, steps, -torch.inf).cummax(dim=-2).values
    return (-rate * (steps - last)).exp()


def shifted(x: Float[Tensor, "*batch time unit"]) -> Float[Tensor, "*batch time unit"]:
    """The values of the step before, 0 in the first."""
    return functional.pad(x[..., :-1, :], (0, 0, 1, 0))
