"""Linear decoders with a penalty that only the training blocks choose."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from neuros_neurofm.evaluation._arrays import (
    Array,
    Data,
    Segments,
    as_pairs,
    as_segments,
    lag_matrix,
)

__all__ = ["RidgeDecoder", "WienerDecoder"]

_ALPHAS = tuple(float(a) for a in np.logspace(-2.0, 6.0, 17))


class WienerDecoder:
    r"""Ridge regression on the input's present and past, $\hat y_t = b + \sum_j W_j x_{t-j}$.

    Inputs are z-scored with the mean and deviation of the training data; before the start of a
    segment the input counts as its mean. One penalty $\alpha$ for all outputs minimises
    $\|Y - XW\|^2 + \alpha\|W\|^2$; it is the one with the least error, each output in units of its
    variance, on contiguous blocks of the training data that are held out in turn. `gap` samples on
    either side of a held-out block are not trained on.

    Args:
        n_lags: Samples of input per prediction, the present one included, >= 1.
        alphas: Penalties to choose from, > 0; 17 from 1e-2 to 1e6 by default.
        n_folds: Held-out blocks, >= 2.
        gap: Samples left out around a held-out block; default `n_lags - 1`, the decoder's memory.

    Raises:
        ValueError: A number out of its range.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(500, 1))
        >>> y = np.roll(x, 2)
        >>> decoder = WienerDecoder(n_lags=4).fit(x[:400], y[:400])
        >>> bool(np.abs(decoder.predict(x)[400:] - y[400:]).max() < 0.05)
        True

    References:
        Glaser, J. I. et al. (2020). Machine learning for neural decoding. eNeuro 7.
        https://doi.org/10.1523/ENEURO.0506-19.2020
    """

    def __init__(
        self,
        n_lags: int,
        *,
        alphas: Sequence[float] = _ALPHAS,
        n_folds: int = 5,
        gap: int | None = None,
    ) -> None:
        if n_lags < 1:
            raise ValueError(f"n_lags must be at least 1, got {n_lags}")
        if not len(alphas) or not all(0 < a < float("inf") for a in alphas):
            raise ValueError(f"alphas must be finite and > 0, got {list(alphas)}")
        if n_folds < 2:
            raise ValueError(f"n_folds must be at least 2, got {n_folds}")
        if gap is not None and gap < 0:
            raise ValueError(f"gap must be >= 0, got {gap}")
        self.n_lags = n_lags
        self.alphas = tuple(float(a) for a in alphas)
        self.n_folds = n_folds
        self.gap = n_lags - 1 if gap is None else gap
        self.alpha: float | None = None
        self._fit: _Fit | None = None

    def fit(self, x: Segments, y: Segments) -> "WienerDecoder":
        """Choose the penalty and fit the weights.

        Args:
            x: Input (time, channel), or a sequence of such segments.
            y: Target (time,) or (time, dim), or a sequence of such segments of equal length.

        Returns:
            This decoder; `alpha` is the chosen penalty.

        Raises:
            ValueError: Values that are not finite, lengths that differ, or too few samples.
        """
        inputs, targets = as_pairs(x, y)
        n_times = sum(map(len, inputs))
        if n_times < 2 * self.n_folds:
            raise ValueError(
                f"x needs at least 2 * n_folds = {2 * self.n_folds} samples, got {n_times}; "
                "lower n_folds or pass a longer recording"
            )
        stacked = np.concatenate(inputs)
        center, scale = stacked.mean(axis=0), _deviation(stacked)
        scored = [(part - center) / scale for part in inputs]
        design = np.concatenate([lag_matrix(part, self.n_lags) for part in scored])
        target = np.concatenate(targets)
        self.alpha = self.alphas[int(np.argmin(self._errors(design, target)))]
        weights, intercept = _Moments.of(design, target).solve(np.array([self.alpha]))
        self._fit = _Fit(center, scale, weights[0], intercept[0])
        return self

    def predict(self, x: Data) -> Array:
        """Predict the target at every sample from this sample and those before.

        Args:
            x: Input (time, channel), one segment.

        Returns:
            (time, dim).

        Raises:
            RuntimeError: The decoder was not fitted.
            ValueError: Values that are not finite, or another number of channels.
        """
        if self._fit is None:
            raise RuntimeError("the decoder is not fitted; call fit first")
        (values,) = as_segments("x", [x])
        if values.shape[1] != len(self._fit.center):
            raise ValueError(
                f"x must have the {len(self._fit.center)} channels of the fit, "
                f"got {values.shape[1]}"
            )
        design = lag_matrix((values - self._fit.center) / self._fit.scale, self.n_lags)
        return design @ self._fit.weights + self._fit.intercept

    def _errors(self, design: Array, target: Array) -> Array:
        """Sum the squared errors on the held-out blocks, one per penalty."""
        edges = np.linspace(0, len(design), self.n_folds + 1).astype(int)
        whole = _Moments.of(design, target)
        scale = _deviation(target)
        errors = np.zeros(len(self.alphas))
        for start, stop in pairwise(edges):
            low, high = max(start - self.gap, 0), min(stop + self.gap, len(design))
            train = whole.without(_Moments.of(design[low:high], target[low:high]))
            if train.n < 2:
                raise ValueError(
                    f"gap = {self.gap} leaves {train.n} samples to train on around a held-out "
                    "block; lower gap or n_folds, or pass a longer recording"
                )
            weights, intercept = train.solve(np.array(self.alphas))
            predicted = design[start:stop] @ weights + intercept[:, None]
            errors += (((predicted - target[start:stop]) / scale) ** 2).sum(axis=(1, 2))
        return errors


class RidgeDecoder(WienerDecoder):
    r"""Ridge regression on the present input alone, $\hat y_t = b + W x_t$.

    `WienerDecoder` with one lag: z-scored inputs, one penalty for all outputs, chosen on contiguous
    blocks of the training data that are held out in turn.

    Args:
        alphas: Penalties to choose from, > 0; 17 from 1e-2 to 1e6 by default.
        n_folds: Held-out blocks, >= 2.
        gap: Samples left out around a held-out block; set it to the correlation time of smoothed
            inputs.

    Raises:
        ValueError: A number out of its range.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(200, 3))
        >>> y = x @ np.array([1.0, -2.0, 0.5]) + 3.0
        >>> decoder = RidgeDecoder().fit(x, y)
        >>> decoder.alpha, decoder.predict(np.zeros((1, 3))).round(3).tolist()
        (0.01, [[3.0]])
    """

    def __init__(
        self, *, alphas: Sequence[float] = _ALPHAS, n_folds: int = 5, gap: int = 0
    ) -> None:
        super().__init__(1, alphas=alphas, n_folds=n_folds, gap=gap)


class _Fit(NamedTuple):
    center: Array
    scale: Array
    weights: Array
    intercept: Array


class _Moments(NamedTuple):
    """Sums over samples; those of a block can be taken away from those of the whole."""

    n: int
    x: Array
    y: Array
    xx: Array
    xy: Array

    @classmethod
    def of(cls, x: Array, y: Array) -> "_Moments":
        return cls(len(x), x.sum(axis=0), y.sum(axis=0), x.T @ x, x.T @ y)

    def without(self, part: "_Moments") -> "_Moments":
        return _Moments(
            self.n - part.n,
            self.x - part.x,
            self.y - part.y,
            self.xx - part.xx,
            self.xy - part.xy,
        )

    def solve(self, alphas: Array) -> tuple[Array, Array]:
        """Return weights (alpha, feature, dim) and intercepts (alpha, dim)."""
        mean_x, mean_y = self.x / self.n, self.y / self.n
        gram = self.xx - self.n * np.outer(mean_x, mean_x)
        cross = self.xy - self.n * np.outer(mean_x, mean_y)
        # One eigendecomposition serves every penalty.
        values, vectors = np.linalg.eigh(gram)
        rotated = vectors.T @ cross
        damping = np.maximum(values, 0.0)[None, :] + alphas[:, None]
        weights = vectors @ (rotated[None] / damping[:, :, None])
        return weights, mean_y - mean_x @ weights


def _deviation(x: Array) -> Array:
    # A constant channel carries nothing; any scale but 0 keeps it at 0.
    deviation: Array = x.std(axis=0)
    return np.where(deviation > 0, deviation, 1.0)
