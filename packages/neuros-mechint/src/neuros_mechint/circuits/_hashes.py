"""Content hashes of input rows, by which held-out data is told from the data of a discovery."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from neuros_mechint.activations._container import leaves
from neuros_mechint.activations._inputs import count_rows

__all__ = ["row_hashes"]


def row_hashes(inputs: Any) -> frozenset[str]:
    """Hash every row of a model's inputs by data type, shape and numbers.

    Tensors without the batch as their first dimension belong to no row and are left out.

    Args:
        inputs: A tuple of positional arguments, a mapping or one tensor.

    Returns:
        One hexadecimal hash per distinct row.

    Examples:
        >>> import torch
        >>> first = row_hashes(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> len(first), len(first & row_hashes(torch.tensor([[3.0, 4.0]])))
        (2, 1)
    """
    n_rows = count_rows(((inputs,), {}))
    digests = [hashlib.sha256() for _ in range(n_rows)]
    for path, leaf in leaves(inputs):
        if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == n_rows:
            rows = leaf.detach().cpu().contiguous()
            for digest, row in zip(digests, rows, strict=True):
                digest.update(f"{path} {row.dtype} {tuple(row.shape)}".encode())
                digest.update(_numbers(row))
    return frozenset(digest.hexdigest() for digest in digests)


def _numbers(row: Tensor) -> bytes:
    """Bytes of a row; through uint8, since NumPy has no bfloat16."""
    return row.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
