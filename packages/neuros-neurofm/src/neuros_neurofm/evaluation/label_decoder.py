"""Linear decoders of labels, with a penalty that only the training blocks choose."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neuros_neurofm.evaluation._arrays import (
    Array,
    Data,
    Segments,
    as_pairs,
    as_segments,
    lag_matrix,
)
from neuros_neurofm.evaluation._discriminant import (
    SHRINKAGES,
    cross_entropy,
    solve_discriminant,
    solve_logistic,
)

__all__ = ["LabelDecoder"]

Labels: TypeAlias = NDArray[np.int64]
Solve: TypeAlias = Callable[[Array, Labels, float], tuple[Array, Array]]

# Solver of each method, and the penalties to choose from.
_METHODS: dict[str, tuple[Solve, tuple[float, ...]]] = {
    "lda": (solve_discriminant, SHRINKAGES),
    "logistic": (solve_logistic, (1e-3, 1e-2, 1e-1, 1.0)),
}
# The logit of a class that no training sample has: finite, so that logits can be averaged.
_NEVER = -1e9


class LabelDecoder:
    r"""Linear classifier of every sample from the input's present and past.

    `lda`: linear discriminant analysis whose covariance is shrunk towards a multiple of the
    identity, $\Sigma_\lambda = (1-\lambda) S + \lambda\, \tfrac{\mathrm{tr} S}{d} I$. `logistic`:
    multinomial logistic regression that minimises the mean cross-entropy plus
    $\tfrac{\lambda}{2}\|W\|^2$. Inputs are z-scored with the training data. The penalty $\lambda$
    has the least cross-entropy on contiguous blocks of the training data that are held out in turn;
    `gap` samples on either side of a held-out block are not trained on.

    Args:
        method: `lda` or `logistic`.
        n_lags: Samples of input per prediction, the present one included, >= 1.
        n_folds: Held-out blocks, >= 2.
        gap: Samples left out around a held-out block; default `n_lags - 1`, the decoder's memory.

    Raises:
        ValueError: An unknown method, or a number out of its range.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(400, 2))
        >>> y = np.eye(2)[(x[:, 0] > x[:, 1]).astype(int)]
        >>> decoder = LabelDecoder("lda").fit(x[:300], y[:300])
        >>> bool((decoder.predict(x[300:]).argmax(1) == y[300:].argmax(1)).mean() > 0.95)
        True

    References:
        Ledoit, O. and Wolf, M. (2004). A well-conditioned estimator for large-dimensional
        covariance matrices. J. Multivariate Anal. 88. https://doi.org/10.1016/S0047-259X(03)00096-4
    """

    def __init__(
        self, method: str, *, n_lags: int = 1, n_folds: int = 3, gap: int | None = None
    ) -> None:
        if method not in _METHODS:
            raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {method!r}")
        if n_lags < 1:
            raise ValueError(f"n_lags must be at least 1, got {n_lags}")
        if n_folds < 2:
            raise ValueError(f"n_folds must be at least 2, got {n_folds}")
        if gap is not None and gap < 0:
            raise ValueError(f"gap must be >= 0, got {gap}")
        self.method = method
        self.n_lags = n_lags
        self.n_folds = n_folds
        self.gap = n_lags - 1 if gap is None else gap
        self.penalty: float | None = None
        self._fit: _Fit | None = None

    def fit(self, x: Segments, y: Segments) -> "LabelDecoder":
        """Choose the penalty and fit the weights.

        Args:
            x: Input (time, channel), or a sequence of such segments.
            y: Rows (time, class) of one 1 and else 0, or a sequence of such segments of equal
                length. A class without any sample is never the answer.

        Returns:
            This decoder; `penalty` is the chosen one.

        Raises:
            ValueError: Values that are not finite, lengths that differ, other rows, or too few
                samples.
        """
        inputs, targets = as_pairs(x, y)
        rows = np.concatenate(targets)
        if not (np.isin(rows, (0.0, 1.0)).all() and (rows.sum(axis=1) == 1).all()):
            raise ValueError(
                "y must be (time, class), each row one 1 and else 0, got shape "
                f"{rows.shape} and rows such as {rows[:2].tolist()}"
            )
        if len(rows) < 2 * self.n_folds:
            raise ValueError(
                f"x needs at least 2 * n_folds = {2 * self.n_folds} samples, got {len(rows)}; "
                "lower n_folds or pass a longer recording"
            )
        design = np.concatenate([lag_matrix(part, self.n_lags) for part in inputs])
        labels, n_classes = rows.argmax(axis=1).astype(np.int64), rows.shape[1]
        solve, penalties = _METHODS[self.method]
        losses = [self._held_out(design, labels, solve, penalty) for penalty in penalties]
        self.penalty = penalties[int(np.argmin(losses))]
        present, index = np.unique(labels, return_inverse=True)
        weights = np.zeros((design.shape[1], n_classes))
        offset = np.full(n_classes, _NEVER)
        weights[:, present], offset[present] = solve(design, index, self.penalty)
        self._fit = _Fit(inputs[0].shape[1], weights, offset)
        return self

    def predict(self, x: Data) -> Array:
        """Logits of the classes at every sample from this sample and those before.

        Args:
            x: Input (time, channel), one segment.

        Returns:
            (time, class).

        Raises:
            RuntimeError: The decoder was not fitted.
            ValueError: Values that are not finite, or another number of channels.
        """
        if self._fit is None:
            raise RuntimeError("the decoder is not fitted; call fit first")
        (values,) = as_segments("x", [x])
        if values.shape[1] != self._fit.n_channels:
            raise ValueError(
                f"x must have the {self._fit.n_channels} channels of the fit, got {values.shape[1]}"
            )
        return lag_matrix(values, self.n_lags) @ self._fit.weights + self._fit.offset

    def _held_out(self, design: Array, labels: Labels, solve: Solve, penalty: float) -> float:
        """Cross-entropy on the held-out blocks, summed over samples of classes that were fitted."""
        edges = np.linspace(0, len(design), self.n_folds + 1).astype(int)
        total, every = 0.0, np.arange(len(design))
        for start, stop in pairwise(edges):
            kept = every[(every < start - self.gap) | (every >= stop + self.gap)]
            if len(kept) < 2:
                raise ValueError(
                    f"gap = {self.gap} leaves {len(kept)} samples to train on around a held-out "
                    "block; lower gap or n_folds, or pass a longer recording"
                )
            present, index = np.unique(labels[kept], return_inverse=True)
            scored = every[start:stop][np.isin(labels[start:stop], present)]
            if len(scored):
                weights, offset = solve(design[kept], index, penalty)
                wanted = np.searchsorted(present, labels[scored])
                logits = design[scored] @ weights + offset
                total += len(scored) * cross_entropy(logits, wanted)
        return total


class _Fit(NamedTuple):
    n_channels: int
    weights: Array
    offset: Array
