"""From rows to features and back, in the units of training."""

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.sae._activations import gated, jump
from neuros_mechint.sae._coder import Coder
from neuros_mechint.sae._selection import largest_of_batch, largest_of_rows
from neuros_mechint.sae._sparse import (
    Pattern,
    SparseCode,
    decoded,
    encoded,
    pattern_of_positions,
    pattern_of_rows,
)

__all__ = [
    "activate",
    "code_of",
    "decode_code",
    "decoder_norms",
    "jumped",
    "preactivations",
    "sparse_code",
    "stays_sparse",
]


def preactivations(coder: Coder, x: Float[Tensor, "batch n_in"]) -> Float[Tensor, "batch feature"]:
    """Affine part of the encoder."""
    return torch.addmm(coder.encoder_bias(), x, coder.W_enc.T)


def stays_sparse(coder: Coder) -> bool:
    """Whether the number of nonzero features is fixed beforehand."""
    return coder.activation == "topk" or (coder.activation == "batchtopk" and coder.training)


def sparse_code(coder: Coder, x: Float[Tensor, "batch n_in"]) -> SparseCode:
    """Features of top-k activations, without a dense gradient."""
    bias = coder.encoder_bias()
    with torch.no_grad():
        pre = torch.addmm(bias, x, coder.W_enc.T)
        values, pattern = _largest(coder, pre)
    return SparseCode(encoded(x, coder.W_enc, bias, values, pattern).relu(), pattern)


def _largest(coder: Coder, pre: Float[Tensor, "batch feature"]) -> tuple[Tensor, Pattern]:
    k, (n_rows, n_features) = coder.k or 0, pre.shape
    if coder.activation == "topk":
        columns = largest_of_rows(pre, k)
        return pre.gather(1, columns).flatten(), pattern_of_rows(columns, n_features)
    positions = largest_of_batch(pre, k * n_rows, hint=0.9 * float(coder.threshold))
    pattern = pattern_of_positions(positions, n_rows, n_features)
    return pre.view(-1).index_select(0, positions), pattern


def jumped(coder: Coder, pre: Float[Tensor, "batch feature"]) -> tuple[Tensor, Tensor]:
    """Features of the JumpReLU, and the number of active entries of the batch."""
    return jump(pre, coder.log_threshold.exp(), coder.bandwidth)


def activate(coder: Coder, pre: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch feature"]:
    """Features of dense pre-activations, which are overwritten where that is possible."""
    if coder.activation == "jumprelu":
        return jumped(coder, pre)[0]
    if coder.activation == "gated":
        # The magnitude has a bias of its own in place of the gate's.
        gain = coder.log_gain.exp()
        return gated(pre, gain, coder.b_mag - gain * coder.b_enc)
    if coder.activation == "batchtopk":
        return pre.relu() * (pre > coder.threshold)
    return pre.relu_()


def decoder_norms(coder: Coder) -> Float[Tensor, "feature"]:
    """Norm of each feature's direction, by which its activation counts in a sparsity loss."""
    parts = torch.split(coder.W_dec, list(coder.out_widths), 1)
    return torch.stack([torch.linalg.vector_norm(part, dim=1) for part in parts]).sum(0)


def decode_code(coder: Coder, code: Tensor | SparseCode) -> Float[Tensor, "batch n_out"]:
    """Reconstruct in the units of training."""
    if isinstance(code, SparseCode):
        return decoded(code.values, coder.W_dec, code.pattern) + coder.b_dec
    return torch.addmm(coder.b_dec, code, coder.W_dec)


def code_of(coder: Coder, x: Float[Tensor, "batch n_in"]) -> Tensor | SparseCode:
    """Features, in the units of training."""
    return (
        sparse_code(coder, x) if stays_sparse(coder) else activate(coder, preactivations(coder, x))
    )
