"""Tensors of any number of axes and in raw units, as they come from outside."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from neuros_mechint.sae._coder import Coder
from neuros_mechint.sae._features import code_of, decode_code
from neuros_mechint.sae._losses import evaluate
from neuros_mechint.sae._sparse import SparseCode

__all__ = ["SAEOutput", "checked_rows", "coded", "decoded_from", "features_of", "strongest_of"]


class SAEOutput(NamedTuple):
    """What a coder makes of a batch.

    Attributes:
        reconstruction: Shape of the input (of the target for a transcoder), in its unit.
        features: Shape (..., feature), in the unit of the reconstruction.
        loss: Training loss, the sum of `terms`; a scalar in the units of training.
        terms: The parts of the loss by name.
    """

    reconstruction: Tensor
    features: Tensor
    loss: Tensor
    terms: dict[str, Tensor]


def coded(coder: Coder, x: Tensor, y: Tensor) -> SAEOutput:
    """Features, reconstruction and loss; an autoencoder is given the same tensor twice."""
    rows = targets = coder.scaled_input(checked_rows(coder, x, "x", coder.in_widths))
    if not coder.autoencodes:
        targets = coder.scaled_output(checked_rows(coder, y, "y", coder.out_widths))
    if x.shape[:-1] != y.shape[:-1]:
        raise ValueError(f"x {tuple(x.shape)} and y {tuple(y.shape)} need the same rows")
    result = evaluate(coder, rows, targets)
    code = result.code.dense() if isinstance(result.code, SparseCode) else result.code
    return SAEOutput(
        coder.raw_output(result.reconstruction).reshape(y.shape).to(y.dtype),
        (code / coder.feature_scale).reshape(*x.shape[:-1], -1),
        result.loss,
        result.terms,
    )


def features_of(coder: Coder, x: Tensor, name: str) -> Tensor:
    """Features of activations, in raw units."""
    code = code_of(coder, coder.scaled_input(checked_rows(coder, x, name, coder.in_widths)))
    dense = code.dense() if isinstance(code, SparseCode) else code
    return (dense / coder.feature_scale).reshape(*x.shape[:-1], coder.dictionary_size)


def strongest_of(coder: Coder, x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Largest features of activations and their indices, falling."""
    rows = coder.scaled_input(checked_rows(coder, x, name, coder.in_widths))
    code = code_of(coder, rows)
    if isinstance(code, SparseCode) and coder.activation == "topk":
        values, order = code.values.view(len(rows), -1).sort(descending=True)
        columns = code.pattern.columns.view_as(values).gather(1, order)
    else:
        dense = code.dense() if isinstance(code, SparseCode) else code
        most = int(dense.count_nonzero(1).max()) if len(rows) else 0
        values, columns = dense.topk(most)
    shape = (*x.shape[:-1], values.shape[1])
    return (values / coder.feature_scale).reshape(shape), columns.reshape(shape)


def decoded_from(coder: Coder, f: Tensor) -> Tensor:
    """Reconstruction from features, in raw units."""
    rows = checked_rows(coder, f, "f", [coder.dictionary_size])
    found = coder.raw_output(decode_code(coder, rows * coder.feature_scale))
    return found.reshape(*f.shape[:-1], sum(coder.out_widths))


def checked_rows(coder: Coder, x: Any, name: str, widths: Sequence[int]) -> Tensor:
    """Rows of a tensor from outside, checked."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} needs to be a floating-point tensor, got {kind}")
    if x.ndim == 0 or x.shape[-1] != sum(widths):
        raise ValueError(
            f"{name} needs shape (..., {sum(widths)}) for this {type(coder).__name__}, got "
            f"{tuple(x.shape)}"
        )
    rows: Tensor = x.reshape(-1, x.shape[-1]).to(coder.W_enc.dtype)
    return rows
