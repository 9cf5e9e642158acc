"""Frames of tangent vectors: moved by the linearised map and made orthogonal again."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["kaplan_yorke", "orthonormal", "random_frame"]

# Up to here a few vector operations cost less than one call of LAPACK per orbit.
_BY_HAND = 6


def orthonormal(
    frame: Float[Tensor, "k orbit state"],
) -> tuple[Float[Tensor, "k orbit state"], Float[Tensor, "k orbit"]]:
    """Orthonormal vectors of the same flag, and the logarithms of the diagonal of R."""
    if len(frame) <= _BY_HAND:
        return _gram_schmidt(frame)
    Q, R = torch.linalg.qr(frame.permute(1, 2, 0))
    lengths = R.diagonal(dim1=-2, dim2=-1).abs()
    return Q.permute(2, 0, 1).contiguous(), lengths.mT.log()


def _gram_schmidt(
    frame: Float[Tensor, "k orbit state"],
) -> tuple[Float[Tensor, "k orbit state"], Float[Tensor, "k orbit"]]:
    """Modified Gram-Schmidt: the product of the lengths is the determinant to rounding."""
    rest, done, lengths = frame, [], []
    while len(rest):
        first = rest[0]
        length = torch.linalg.vector_norm(first, dim=-1)
        unit = first / length.unsqueeze(-1)
        done.append(unit)
        lengths.append(length)
        rest = rest[1:]
        if len(rest):
            rest = rest - (rest * unit).sum(-1, keepdim=True) * unit
    return torch.stack(done), torch.stack(lengths).log()


def random_frame(
    n_vectors: int, orbits: int, n_states: int, like: Tensor
) -> Float[Tensor, "k orbit state"]:
    """One generic orthonormal frame for all orbits, the same at every call.

    The columns of a coordinate frame can be invariant under the map and never leave it.
    """
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(n_states, n_states, generator=generator, dtype=torch.float64)
    frame: Tensor = torch.linalg.qr(matrix).Q[:, :n_vectors].T.to(like)
    return frame.unsqueeze(1).expand(-1, orbits, -1).contiguous()


def kaplan_yorke(exponents: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    r"""`j + (l_1 + ... + l_j) / |l_{j+1}|` at the last j whose sum is not negative.

    When no sum turns negative the dimension is the number of exponents.
    """
    k = exponents.shape[-1]
    sums = exponents.cumsum(-1)
    j = (sums >= 0).long().cumprod(-1).sum(-1)
    before = torch.where(j > 0, sums.gather(-1, (j - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1), 0)
    after = exponents.gather(-1, j.clamp(max=k - 1).unsqueeze(-1)).squeeze(-1).abs()
    return torch.where(j < k, j + before / after.where(after > 0, 1.0), float(k))
