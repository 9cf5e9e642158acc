"""Trials of equal length, and the linear classifiers of their covariances and spectra."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from neuros_neurofm.evaluation._arrays import Array
from neuros_neurofm.evaluation._discriminant import SHRINKAGES, cross_entropy, solve_discriminant

__all__ = [
    "LinearClassifier",
    "Trials",
    "cross_entropy",
    "log_band_power",
    "log_covariance",
    "reference_correlation",
]

Labels: TypeAlias = NDArray[np.int64]
Features: TypeAlias = Callable[[Array], Array]

_SHARPNESS = (0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5)


@dataclass(frozen=True, slots=True, eq=False)
class Trials:
    """Stretches of a recording that carry one label each.

    Args:
        modality: What was recorded, such as `emg`.
        x: Samples, (trial, time, channel).
        labels: Class of each trial, (trial,) integers >= 0.
        groups: What must stay together in a split, such as the subject, (trial,) integers.
        rate: Samples per second.
        units: Ids of the channels; empty: unnamed channels.

    Raises:
        ValueError: Arrays that do not belong together, or samples that are not finite.
    """

    modality: str
    x: Array
    labels: Labels
    groups: Labels
    rate: float
    units: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that the arrays belong together."""
        n = len(self.x)
        if self.x.ndim != 3 or self.labels.shape != (n,) or self.groups.shape != (n,):
            raise ValueError(
                "x must be (trial, time, channel) with one label and one group per trial, got "
                f"{self.x.shape}, {self.labels.shape} and {self.groups.shape}"
            )
        if not np.isfinite(self.x).all():
            raise ValueError("x must be finite; leave trials with missing samples out")
        if n and self.labels.min() < 0:
            raise ValueError(f"labels must be >= 0, got {self.labels.min()}")

    def take(self, which: NDArray[np.bool_] | Labels) -> "Trials":
        """Trials of an index or a mask."""
        return replace(self, x=self.x[which], labels=self.labels[which], groups=self.groups[which])


def log_covariance(x: Array) -> Array:
    r"""Logarithm of each trial's covariance matrix, $\log(C + 10^{-3}\,\overline{\lambda} I)$.

    Its diagonal is about the log-power of the channels. The part above the diagonal counts
    $\sqrt 2$ times, so that distances are those of matrices.

    Args:
        x: (trial, time, channel).

    Returns:
        (trial, channel (channel + 1) / 2).

    References:
        Barachant, A. et al. (2012). Multiclass brain-computer interface classification by
        Riemannian geometry. IEEE Trans. Biomed. Eng. 59. https://doi.org/10.1109/TBME.2011.2172210
    """
    centred = x - x.mean(axis=1, keepdims=True)
    covariance = centred.transpose(0, 2, 1) @ centred / x.shape[1]
    values, vectors = np.linalg.eigh(covariance)
    floor = 1e-3 * values.mean(axis=1, keepdims=True) + 1e-12
    logs = np.log(np.maximum(values, 0.0) + floor)
    matrix = (vectors * logs[:, None]) @ vectors.transpose(0, 2, 1)
    row, column = np.triu_indices(x.shape[2])
    return np.asarray(matrix[:, row, column] * np.where(row == column, 1.0, np.sqrt(2.0)))


def log_band_power(x: Array, rate: float, bands: Sequence[tuple[float, float]]) -> Array:
    """Log-power of every channel in bands of frequency.

    Args:
        x: (trial, time, channel).
        rate: Samples per second.
        bands: Lower and upper edge of each band in Hz.

    Returns:
        (trial, band * channel).

    Raises:
        ValueError: A band without a frequency of the trials' spectrum.
    """
    window = np.hanning(x.shape[1])[:, None]
    power = np.abs(np.fft.rfft((x - x.mean(axis=1, keepdims=True)) * window, axis=1)) ** 2
    frequencies = np.fft.rfftfreq(x.shape[1], 1 / rate)
    parts = []
    for low, high in bands:
        inside = (frequencies >= low) & (frequencies <= high)
        if not inside.any():
            raise ValueError(
                f"the band {low}-{high} Hz holds no frequency of {x.shape[1]} samples at {rate} Hz"
            )
        parts.append(np.log(power[:, inside].mean(axis=1) + 1e-12))
    return np.concatenate(parts, axis=1)


def reference_correlation(
    x: Array, rate: float, frequencies: Sequence[float], *, n_harmonics: int = 2
) -> Array:
    """Largest canonical correlation of each trial with sines and cosines of each frequency.

    Args:
        x: (trial, time, channel).
        rate: Samples per second.
        frequencies: Of the references, in Hz.
        n_harmonics: Multiples of each frequency among the references, >= 1.

    Returns:
        (trial, frequency), in [0, 1].

    References:
        Lin, Z. et al. (2006). Frequency recognition based on canonical correlation analysis for
        SSVEP-based BCIs. IEEE Trans. Biomed. Eng. 53. https://doi.org/10.1109/TBME.2006.886577
    """
    seconds = np.arange(x.shape[1]) / rate
    basis, _ = np.linalg.qr(x - x.mean(axis=1, keepdims=True))
    columns = []
    for frequency in frequencies:
        angles = 2 * np.pi * frequency * seconds[:, None] * np.arange(1, n_harmonics + 1)
        waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        reference, _ = np.linalg.qr(waves - waves.mean(axis=0))
        columns.append(np.linalg.norm(basis.transpose(0, 2, 1) @ reference, ord=2, axis=(1, 2)))
    return np.stack(columns, axis=1)


class LinearClassifier:
    r"""Linear discriminant analysis whose covariance is drawn towards a multiple of the identity.

    $\Sigma_\lambda = (1 - \lambda) S + \lambda\, \tfrac{\mathrm{tr} S}{d} I$ over z-scored
    features. The shrinkage $\lambda$, and a factor on the logits that makes them as sure as they
    should be, have the least cross-entropy on groups that are held out in turn.

    Args:
        features: (trial, time, channel) -> (trial, feature).
        n_classes: Number of classes.
        n_folds: At most as many folds; every fold holds whole groups.

    Attributes:
        held_out: Logits of the training trials, each from a fit without its group.
        shrinkage: The chosen shrinkage.

    References:
        Ledoit, O. and Wolf, M. (2004). A well-conditioned estimator for large-dimensional
        covariance matrices. J. Multivariate Anal. 88. https://doi.org/10.1016/S0047-259X(03)00096-4
    """

    def __init__(self, features: Features, n_classes: int, *, n_folds: int = 5) -> None:
        self.features = features
        self.n_classes = n_classes
        self.n_folds = n_folds
        self.held_out: Array = np.zeros((0, n_classes))
        self.shrinkage = 0.0
        self.loss = float("nan")
        self._sharpness = 1.0
        self._weights: tuple[Array, Array] | None = None

    def fit(self, x: Array, labels: Labels, groups: Labels) -> "LinearClassifier":
        """Choose shrinkage and sharpness on held-out groups, and fit on all trials.

        Args:
            x: (trial, time, channel).
            labels: (trial,); every class must be there without any one fold.
            groups: (trial,).

        Returns:
            This classifier.

        Raises:
            ValueError: A single group, or a fold without which a class has no trial.
        """
        values = self.features(x)
        names = np.unique(groups)
        if len(names) < 2:
            raise ValueError("groups must hold at least two groups, to hold one out")
        folds = np.searchsorted(names, groups) % min(self.n_folds, len(names))
        best = np.inf
        for shrinkage in SHRINKAGES:
            logits = np.zeros((len(values), self.n_classes))
            for fold in np.unique(folds):
                out = folds == fold
                weights = self._solve(values[~out], labels[~out], shrinkage)
                logits[out] = values[out] @ weights[0] + weights[1]
            losses = [cross_entropy(k * logits, labels) for k in _SHARPNESS]
            if min(losses) < best:
                best = min(losses)
                self.shrinkage, self._sharpness = shrinkage, _SHARPNESS[int(np.argmin(losses))]
                self.held_out = self._sharpness * logits
        self.loss = best
        self._weights = self._solve(values, labels, self.shrinkage)
        return self

    def logits(self, x: Array) -> Array:
        """Logits of new trials.

        Args:
            x: (trial, time, channel).

        Returns:
            (trial, class).

        Raises:
            RuntimeError: The classifier was not fitted.
        """
        if self._weights is None:
            raise RuntimeError("the classifier is not fitted; call fit first")
        return np.asarray(
            self._sharpness * (self.features(x) @ self._weights[0] + self._weights[1])
        )

    @property
    def n_parameters(self) -> int:
        """Fitted numbers."""
        return 0 if self._weights is None else sum(w.size for w in self._weights)

    def _solve(self, values: Array, labels: Labels, shrinkage: float) -> tuple[Array, Array]:
        counts = np.bincount(labels, minlength=self.n_classes)
        if (counts == 0).any():
            raise ValueError(
                f"every class needs trials outside a held-out fold, got {counts.tolist()}"
            )
        return solve_discriminant(values, labels, shrinkage)
