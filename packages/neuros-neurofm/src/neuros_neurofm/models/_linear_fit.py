"""Ridge regression on lagged input, its settings found on held-out folds of the training data."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from neuros_neurofm.models.linear_part import LinearPart

__all__ = ["LinearFit", "fit_linear_part", "silence_decoder"]

Array: TypeAlias = NDArray[np.float64]

_ALPHAS = np.logspace(-2.0, 6.0, 17)


class LinearFit(NamedTuple):
    """A linear part, and what fits that have not seen a sample predict of it.

    Attributes:
        part: Fitted on everything.
        held_out: Per block (time, dim), NaN where there is no target.
    """

    part: LinearPart
    held_out: list[Array]


def fit_linear_part(
    blocks: Sequence[Mapping[str, Array]],
    targets: Sequence[Array],
    *,
    rate: float,
    n_lags: Sequence[int],
    n_folds: int,
) -> LinearFit:
    """Choose lags and penalty by the least error on folds, then fit all blocks.

    Args:
        blocks: Stretches of one recording: modality -> (time, channel), NaN where missing.
        targets: (time, dim) of each stretch, a row with NaN where there is none.
        rate: Samples per second.
        n_lags: Numbers of samples to choose from.
        n_folds: Contiguous folds.

    Returns:
        The part and its held-out predictions.

    Raises:
        ValueError: Fewer than `2 * n_folds` samples with a target.
    """
    training = _Training.of([_beside(block) for block in blocks], targets)
    tried = [training.held_out(n, n_folds) for n in n_lags]
    errors = np.stack([own for own, _ in tried])
    best, k = divmod(int(errors.argmin()), len(_ALPHAS))
    predicted = tried[best][1][k]
    weights, intercept = training.solve(n_lags[best], float(_ALPHAS[k]))
    channels = {name: x.shape[1] for name, x in blocks[0].items()}
    part = LinearPart(
        channels,
        rate,
        torch.from_numpy(training.center),
        torch.from_numpy(training.scale),
        torch.from_numpy(weights).reshape(n_lags[best], -1, weights.shape[1]),
        torch.from_numpy(intercept),
    )
    return LinearFit(part, training.spread(predicted))


def silence_decoder(model: nn.Module) -> None:
    """Let the decoder of a model answer 0, until it has learned something."""
    head = model.get_submodule("heads.decoder")
    tensors = dict(head.named_parameters())
    with torch.no_grad():
        for name in ("out.weight", "out.bias", "skip.weight"):
            tensors[name].zero_()


class _Training(NamedTuple):
    """Training stretches.

    Attributes:
        blocks: z-scored input of each, 0 where missing.
        kept: Per stretch, which samples have a target.
        y: Targets of the kept samples, (time, dim).
        rows: Where the kept samples lie, with a gap between stretches.
        center: Mean of the input.
        scale: Its deviation.
    """

    blocks: list[Array]
    kept: list[Any]
    y: Array
    rows: Any
    center: Array
    scale: Array

    @classmethod
    def of(cls, x: Sequence[Array], y: Sequence[Array]) -> "_Training":
        seen = np.concatenate(x)
        there = np.isfinite(seen)
        n = np.maximum(there.sum(axis=0), 1)
        center = np.where(there, seen, 0.0).sum(axis=0) / n
        deviation = np.sqrt((np.where(there, seen - center, 0.0) ** 2).sum(axis=0) / n)
        scale = np.where(deviation > 0, deviation, 1.0)
        kept = [~np.isnan(part).any(axis=1) for part in y]
        # Stretches do not touch: no lag reaches from one into the next.
        starts = np.cumsum([0, *(2 * len(part) for part in y[:-1])])
        rows = np.concatenate([np.flatnonzero(k) + s for k, s in zip(kept, starts, strict=True)])
        blocks = [np.nan_to_num((part - center) / scale) for part in x]
        wanted = np.concatenate([part[k] for part, k in zip(y, kept, strict=True)])
        return cls(blocks, kept, wanted, rows, center, scale)

    def held_out(self, n_lags: int, n_folds: int) -> tuple[Array, Array]:
        """Sum of the errors of the folds, (alpha,), and predictions (alpha, time, dim)."""
        if len(self.y) < 2 * n_folds:
            raise ValueError(
                f"a linear part needs at least 2 * n_folds = {2 * n_folds} training samples with "
                f"a target, got {len(self.y)}"
            )
        design = self._design(n_lags)
        edges = np.linspace(0, len(design), n_folds + 1).astype(int)
        predicted = np.zeros((len(_ALPHAS), *self.y.shape))
        total = np.zeros(len(_ALPHAS))
        for start, stop in pairwise(edges):
            # Lags reach over the border: the rows that share samples with the fold are left out.
            far = (self.rows < self.rows[start] - n_lags) | (
                self.rows > self.rows[stop - 1] + n_lags
            )
            weights, intercept = _ridge(design[far], self.y[far], _ALPHAS)
            predicted[:, start:stop] = design[start:stop] @ weights + intercept[:, None]
            total += self._error(predicted[:, start:stop], self.y[start:stop])
        return total, predicted

    def _error(self, predicted: Array, y: Array) -> Array:
        """Sum of squares in units of the targets' deviation, (alpha,)."""
        deviation = self.y.std(axis=0)
        wrong = (predicted - y) / np.where(deviation > 0, deviation, 1.0)
        return np.asarray((wrong**2).sum(axis=(1, 2)))

    def solve(self, n_lags: int, alpha: float) -> tuple[Array, Array]:
        """Weights (lag * channel, dim) and intercept (dim,) of all samples."""
        weights, intercept = _ridge(self._design(n_lags), self.y, np.array([alpha]))
        return weights[0], intercept[0]

    def spread(self, values: Array) -> list[Array]:
        """Values of the kept samples in the shape of the stretches."""
        ends = np.cumsum([int(k.sum()) for k in self.kept])
        parts = []
        for kept, own in zip(self.kept, np.split(values, ends[:-1]), strict=True):
            part = np.full((len(kept), values.shape[1]), np.nan)
            part[kept] = own
            parts.append(part)
        return parts

    def _design(self, n_lags: int) -> Array:
        return np.concatenate(
            [_lagged(x, n_lags)[kept] for x, kept in zip(self.blocks, self.kept, strict=True)]
        )


def _beside(inputs: Mapping[str, Array]) -> Array:
    """All channels side by side, (time, channel)."""
    return np.concatenate(list(inputs.values()), axis=1)


def _lagged(x: Array, n_lags: int) -> Array:
    """Samples of now and before, (time, lag * channel), 0 before the start."""
    padded = np.concatenate([np.zeros((n_lags - 1, x.shape[1])), x])
    shifts = [padded[n_lags - 1 - j : len(padded) - j] for j in range(n_lags)]
    return np.concatenate(shifts, axis=1)


def _ridge(x: Array, y: Array, alphas: Array) -> tuple[Array, Array]:
    """Return weights (alpha, feature, dim) and intercepts (alpha, dim)."""
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    centred, target = x - mean_x, y - mean_y
    # The smaller of the two Gram matrices is decomposed; one decomposition serves all penalties.
    wide = x.shape[1] > len(x)
    values, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    rotated = vectors.T @ (target if wide else centred.T @ target)
    damping = np.maximum(values, 0.0) + alphas[:, None]
    solved = vectors @ (rotated / damping[:, :, None])
    weights = centred.T @ solved if wide else solved
    return weights, mean_y - mean_x @ weights
