"""Eigenvalues and trace of a symmetric operator of which only products are known."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["hutch_plus_plus", "lanczos"]

Product = Callable[[Tensor], Tensor]


def lanczos(
    product: Product, start: Float[Tensor, " parameter"], k: int, n_steps: int, tol: float
) -> tuple[Float[Tensor, " pair"], Float[Tensor, "pair parameter"]]:
    """The k largest eigenvalues, descending, with full reorthogonalisation."""
    n = len(start)
    basis = [start / start.norm()]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    while True:
        image = product(basis[-1])
        diagonal.append(image @ basis[-1])
        stacked = torch.stack(basis)
        # Twice is enough (Parlett): one pass leaves rounding of the size of the image.
        for _ in range(2):
            image = image - stacked.mT @ (stacked @ image)
        size = image.norm()
        values, vectors = torch.linalg.eigh(_tridiagonal(diagonal, beside))
        scale = values.abs().max()
        # The residual of a Ritz pair is the last entry of its vector times the next beta.
        residual = (size * vectors[-1, -k:]).abs().max()
        m = len(diagonal)
        lost = size <= 1e-7 * scale.clamp(min=1e-30)
        if m >= min(n, n_steps) or (m >= k and not lost and residual <= tol * scale):
            break
        # An invariant space was found: the search goes on beside it.
        following = _beside(stacked) if lost else image / size
        beside.append(torch.zeros_like(size) if lost else size)
        basis.append(following)
    kept = min(k, m)
    top = vectors[:, -kept:].flip(-1)
    return values[-kept:].flip(-1), top.mT @ torch.stack(basis)


def hutch_plus_plus(
    product: Product,
    sketch: Float[Tensor, "parameter probe"],
    probes: Float[Tensor, "parameter probe2"],
) -> Tensor:
    """Trace: exact on the range of a sketch, by random signs beside it."""

    def all_products(x: Tensor) -> Tensor:
        return torch.stack([product(column) for column in x.unbind(1)], dim=1)

    basis = torch.linalg.qr(all_products(sketch)).Q
    rest = probes - basis @ (basis.mT @ probes)
    inside = (basis * all_products(basis)).sum()
    trace: Tensor = inside + (rest * all_products(rest)).sum() / probes.shape[1]
    return trace


def _tridiagonal(diagonal: list[Tensor], beside: list[Tensor]) -> Tensor:
    matrix = torch.diag(torch.stack(diagonal))
    if beside:
        off = torch.diag(torch.stack(beside), 1)
        matrix = matrix + off + off.mT
    return matrix


def _beside(basis: Float[Tensor, "step parameter"]) -> Float[Tensor, " parameter"]:
    """A unit vector orthogonal to the basis: the axis that the basis covers least."""
    axis = int(basis.square().sum(0).argmin())
    vector = torch.zeros_like(basis[0])
    vector[axis] = 1
    for _ in range(2):
        vector = vector - basis.mT @ (basis @ vector)
    unit: Tensor = vector / vector.norm()
    return unit
