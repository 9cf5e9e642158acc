"""The Koopman matrix of snapshot pairs: least squares and two ways that resist noise."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

__all__ = ["forward_backward", "least_squares", "residuals", "total_least_squares"]


def least_squares(
    before: Float[Tensor, "*batch pair k"], after: Float[Tensor, "*batch pair j"], ridge: float
) -> Float[Tensor, "*batch k j"]:
    """K of `after = before K`; a ridge is relative to the mean square of the coordinates."""
    if ridge:
        gram = before.mT @ before
        size = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        shrunk: Tensor = torch.linalg.solve(gram + ridge * size * eye, before.mT @ after)
        return shrunk
    Q, R = torch.linalg.qr(before)
    diagonal = R.diagonal(dim1=-2, dim2=-1).abs()
    limit = before.shape[-2] * torch.finfo(before.dtype).eps * diagonal.amax(-1)
    if bool((diagonal.amin(-1) > limit).all()):
        solved: Tensor = torch.linalg.solve_triangular(R, Q.mT @ after, upper=True)
        return solved
    least: Tensor = torch.linalg.pinv(before) @ after
    return least


def forward_backward(
    before: Float[Tensor, "*batch pair k"], after: Float[Tensor, "*batch pair k"], ridge: float
) -> Complex[Tensor, "*batch k k"]:
    """Root of the forward matrix times the inverse of the backward one (Dawson 2016, eq. 20).

    Noise shrinks both by the same factor, which cancels. Of the two roots of each eigenvalue the
    one nearer to the forward matrix is taken.
    """
    forward = least_squares(before, after, ridge)
    backward = least_squares(after, before, ridge)
    squares, vectors = torch.linalg.eig(torch.linalg.solve(backward, forward, left=False))
    roots = squares.sqrt()
    inverse = torch.linalg.inv(vectors)
    plain = (inverse @ forward.to(vectors.dtype) @ vectors).diagonal(dim1=-2, dim2=-1)
    roots = torch.where((roots - plain).abs() <= (roots + plain).abs(), roots, -roots)
    K: Tensor = vectors @ (roots.unsqueeze(-1) * inverse)
    return K


def total_least_squares(
    before: Float[Tensor, "*batch pair k"], after: Float[Tensor, "*batch pair k"], ridge: float
) -> Float[Tensor, "*batch k k"]:
    """Least squares after both sides lose what their joint rank k leaves over (Hemati 2017)."""
    k = before.shape[-1]
    left = torch.linalg.svd(torch.cat([before, after], -1), full_matrices=False).U[..., :k]
    return least_squares(left @ (left.mT @ before), left @ (left.mT @ after), ridge)


def residuals(
    before: Float[Tensor, "*batch pair k"],
    after: Float[Tensor, "*batch pair k"],
    eigenvalues: Complex[Tensor, "*batch k"],
    functions: Complex[Tensor, "*batch k k"],
) -> Float[Tensor, "*batch k"]:
    """`|psi(y) g - lambda psi(x) g| / |psi(x) g|` of each eigenpair (Colbrook 2023, eq. 3.2)."""
    here = before.to(functions.dtype) @ functions
    gap = after.to(functions.dtype) @ functions - here * eigenvalues.unsqueeze(-2)
    size = here.norm(dim=-2)
    relative: Tensor = gap.norm(dim=-2) / size.clamp(min=torch.finfo(size.dtype).tiny)
    return relative
