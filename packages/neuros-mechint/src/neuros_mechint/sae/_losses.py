"""Training losses of sparse coders, term by term."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from neuros_mechint.sae._coder import Coder
from neuros_mechint.sae._dense import product_and_sums
from neuros_mechint.sae._features import (
    activate,
    decoder_norms,
    jumped,
    preactivations,
    sparse_code,
    stays_sparse,
)
from neuros_mechint.sae._sparse import SparseCode, decoded

__all__ = ["AUXK_COEFFICIENT", "Evaluation", "evaluate", "prefix_reconstructions"]

AUXK_COEFFICIENT = 1 / 32
"""Weight of the loss that revives dead features (Gao 2024, section A.2)."""


class Evaluation(NamedTuple):
    """A batch seen by a coder, in the units of training."""

    reconstruction: Tensor
    code: Tensor | SparseCode
    loss: Tensor
    terms: dict[str, Tensor]


def evaluate(
    coder: Coder,
    x: Float[Tensor, "batch n_in"],
    y: Float[Tensor, "batch n_out"],
    dead: Bool[Tensor, "feature"] | None = None,
) -> Evaluation:
    """Code a batch and score it, everything in the units of training.

    Args:
        coder: The coder.
        x: Inputs.
        y: What to reconstruct; the inputs for an autoencoder.
        dead: Features to revive by the auxiliary loss.
    """
    pre = count = None
    code: Tensor | SparseCode
    if stays_sparse(coder):
        code = sparse_code(coder, x)
    else:
        pre = preactivations(coder, x)
        if coder.activation == "jumprelu":
            code, count = jumped(coder, pre)
        else:
            code = activate(coder, pre)
    prefixes, sums = _prefixes(coder, code)
    # Bussmann 2025: every prefix of a Matryoshka dictionary answers for its own error.
    mse = torch.stack([nn.functional.mse_loss(prefix, y) for prefix in prefixes]).sum()
    terms = {"mse": mse}
    if count is not None:
        terms["sparsity"] = _count_penalty(coder, count / len(x))
    elif pre is not None:
        terms |= _penalties(coder, pre, sums, y)
    if dead is not None and bool(dead.any()):
        error = (y - prefixes[-1]).detach()
        terms["auxk"] = AUXK_COEFFICIENT * _revival(coder, x, error, dead)
    return Evaluation(prefixes[-1], code, torch.stack(list(terms.values())).sum(), terms)


def prefix_reconstructions(coder: Coder, code: Tensor | SparseCode) -> list[Tensor]:
    """Reconstructions from the first features alone; the last one is from all features."""
    return _prefixes(coder, code)[0]


def _prefixes(coder: Coder, code: Tensor | SparseCode) -> tuple[list[Tensor], Tensor]:
    """Reconstruction from each prefix, and the sum of each feature of a dense code."""
    total, start = coder.b_dec, 0
    prefixes, sums = [], []
    for end in coder.matryoshka or (coder.dictionary_size,):
        block, block_sums = _block(coder, code, start, end)
        total = total + block
        prefixes.append(total)
        sums.append(block_sums)
        start = end
    return prefixes, torch.cat(sums)


def _block(coder: Coder, code: Tensor | SparseCode, start: int, end: int) -> tuple[Tensor, Tensor]:
    if isinstance(code, SparseCode):
        values, columns = code.values, code.pattern.columns
        if coder.matryoshka:
            values = values * ((columns >= start) & (columns < end))
        return decoded(values, coder.W_dec, code.pattern), values.new_zeros(end - start)
    if not coder.matryoshka:
        return product_and_sums(code, coder.W_dec)
    return product_and_sums(code[:, start:end], coder.W_dec[start:end])


def _penalties(
    coder: Coder,
    pre: Float[Tensor, "batch feature"],
    sums: Float[Tensor, "feature"],
    y: Float[Tensor, "batch n_out"],
) -> dict[str, Tensor]:
    """Terms beside the error, of activations that a penalty makes sparse."""
    if coder.activation == "relu":
        return {"sparsity": _weighted_l1(coder, sums, len(y))}
    if coder.activation == "gated":
        # Rajamanoharan 2024a, eq. 8: the gate learns to reconstruct with the decoder held fixed.
        held, opened = product_and_sums(pre.relu(), coder.W_dec.detach())
        gate = nn.functional.mse_loss(held + coder.b_dec.detach(), y)
        return {"sparsity": _weighted_l1(coder, opened, len(y)), "gate": gate}
    return {}


def _count_penalty(coder: Coder, l0: Float[Tensor, ""]) -> Float[Tensor, ""]:
    penalty = l0 if coder.target_l0 is None else (l0 / coder.target_l0 - 1).square()
    return coder.sparsity_coefficient * penalty


def _weighted_l1(coder: Coder, sums: Float[Tensor, "feature"], n_rows: int) -> Float[Tensor, ""]:
    return coder.sparsity_coefficient / n_rows * (sums @ decoder_norms(coder))


def _revival(
    coder: Coder,
    x: Float[Tensor, "batch n_in"],
    error: Float[Tensor, "batch n_out"],
    dead: Bool[Tensor, "feature"],
) -> Float[Tensor, ""]:
    r"""Share of the error that dead features alone leave unexplained (Gao 2024, A.2).

    $\frac{\langle (e - \hat e)^2 \rangle}{\langle (e - \bar e)^2 \rangle}$ with the error $e$, its
    mean $\bar e$ over the batch and its reconstruction $\hat e$ from the $k_{aux}$ strongest dead
    features of each row, $k_{aux}$ half the width. The paper's code divides so too: a plain mean
    square, and with it the pull on the features, would fade while the error shrinks. An error
    without variance asks for nothing: the term is 0, where a division would give infinity.
    """
    which = dead.nonzero()[:, 0]
    pre = torch.addmm(coder.encoder_bias()[which], x, coder.W_enc[which].T)
    k = min(max(sum(coder.out_widths) // 2, 1), len(which))
    strongest = pre.topk(k, sorted=False)
    features = torch.zeros_like(pre).scatter(1, strongest.indices, strongest.values.relu())
    left = nn.functional.mse_loss(features @ coder.W_dec[which], error)
    variance = (error - error.mean(0)).square().mean()
    # In the units of training the data has about unit variance, so this is rounding alone.
    explainable = variance > torch.finfo(error.dtype).eps
    return left * torch.where(explainable, variance.reciprocal(), 0.0)
