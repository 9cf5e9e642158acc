"""What the generators of random signals share: sizes, shapes, lengths that transform fast."""

from torch import Tensor

__all__ = ["fast_length", "read_batch", "shaped"]


def read_batch(n_samples: int, n_dims: int, batch: int | None) -> int:
    """Check the sizes of a draw.

    Args:
        n_samples: samples of a signal.
        n_dims: coordinates of a signal.
        batch: number of signals; None for a single one.

    Returns:
        The number of rows to draw.

    Raises:
        ValueError: if one of them is below 1.

    Examples:
        >>> read_batch(10, 2, 3)
        6
    """
    for name, size in (("n_samples", n_samples), ("n_dims", n_dims), ("batch", batch)):
        if size is not None and size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    return n_dims * (batch or 1)


def shaped(rows: Tensor, n_dims: int, batch: int | None) -> Tensor:
    """Give rows `(batch * n_dims, time)` the shape that the sizes ask for.

    Args:
        rows: the draw.
        n_dims: coordinates of a signal.
        batch: number of signals; None for a single one.

    Returns:
        `(time,)`, `(n_dims, time)` or `(batch, n_dims, time)`.

    Examples:
        >>> import torch
        >>> shaped(torch.zeros(1, 4), 1, None).shape
        torch.Size([4])
    """
    if batch is not None:
        return rows.view(batch, n_dims, -1)
    return rows if n_dims > 1 else rows[0]


def fast_length(n: int) -> int:
    """Return the smallest number >= n without a prime factor above 5.

    Args:
        n: at least 1.

    Returns:
        A length that the fast Fourier transform takes apart completely.

    Examples:
        >>> fast_length(1021), fast_length(1024)
        (1024, 1024)
    """
    best = 1 << (n - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            # The smallest power of two that reaches n from here.
            quotient = -(-n // three)
            best = min(best, three << max(quotient - 1, 0).bit_length())
            three *= 3
        five *= 5
    return best
