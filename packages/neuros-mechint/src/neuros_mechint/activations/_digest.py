"""Digests of models, batches and rows: what tells that something is still what it was."""

import hashlib
import zlib
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from neuros_mechint.activations._container import leaves

__all__ = ["RowChecksum", "chain", "model_digest"]

_WORDS = ((8, torch.int64), (4, torch.int32), (2, torch.int16), (1, torch.int8))
_PAGE = 4096


class RowChecksum:
    """CRC-32 of the sums of all rows, taken as machine words.

    It is several times faster than a CRC of the bytes and changes with every word that changes and
    with every exchange of rows. It does not depend on the pieces in which the rows come.
    """

    def __init__(self, row_bytes: int) -> None:
        self._word = next(word for size, word in _WORDS if row_bytes % size == 0)
        self._crc = 0

    def update(self, rows: Shaped[Tensor, "rows width"]) -> None:
        """Take in more rows, contiguous and on the CPU."""
        sums = rows.view(self._word).sum(1, dtype=torch.int64)
        self._crc = zlib.crc32(sums.numpy().data, self._crc)

    def value(self) -> str:
        """Eight hexadecimal digits."""
        return f"{self._crc:08x}"


def chain(digest: str, batch: Any) -> str:
    """Digest of all batches up to this one, from the digest of those before it."""
    total = hashlib.sha256(digest.encode())
    for path, leaf in leaves(batch):
        described = _describe(leaf) if isinstance(leaf, Tensor) else repr(leaf)
        total.update(f"{path} {described}\n".encode())
    return total.hexdigest()


def _describe(leaf: Tensor) -> str:
    """Type, shape and checksum: sha256 of the numbers would cost more than storing them."""
    flat = leaf.detach().cpu().contiguous().flatten().view(torch.uint8)
    checksum = RowChecksum(_PAGE)
    n_pages = len(flat) // _PAGE
    checksum.update(flat[: n_pages * _PAGE].view(n_pages, _PAGE))
    rest = zlib.crc32(flat[n_pages * _PAGE :].numpy().data)
    return f"{leaf.dtype} {tuple(leaf.shape)} {checksum.value()} {rest:08x}"


def model_digest(model: nn.Module) -> str:
    """Return the sha256 of a model's parameters and persistent buffers with their names."""
    total = hashlib.sha256()
    for name, value in model.state_dict().items():
        flat = value.detach().cpu().contiguous().flatten()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()
