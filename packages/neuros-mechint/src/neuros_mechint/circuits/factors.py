"""Decompositions of one activity, side by side: what they explain, and how far they repeat."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint._arrays import Array, as_real, one_of
from neuros_mechint.circuits._factor_methods import METHODS, Fitted

__all__ = ["FactorComparison", "FactorDecomposition", "FactorRow", "FactorTruth"]


class FactorTruth(NamedTuple):
    """How near found factors come to true ones.

    Attributes:
        amari: Amari distance of the two sets, 0 when equal up to order and scale, at most 1.
        correlation: Mean size of the correlation of matched factors.
    """

    amari: float
    correlation: float


@dataclass(frozen=True)
class FactorRow:
    """What one method makes of activity.

    Attributes:
        method: Its name.
        factors: (factors, channels); DUNL: kernels (factors, taps).
        scores: How much of each factor acts when, (trials, time, factors); DUNL: the codes,
            (trials, time - taps + 1, channels * factors).
        r2_train: Share of variance explained of the trials it was fitted to.
        r2_held_out: That of the others.
        sparsity: Hoyer sparsity of the scores, 0 (even) to 1 (one value other than zero).
        stability: Mean correlation of factors with those of bootstrap samples of the trials.
        split_half: Mean correlation of the factors of two halves of the trials.
        seconds: Time of one fit.
    """

    method: str
    factors: Tensor
    scores: Tensor
    r2_train: float
    r2_held_out: float
    sparsity: float
    stability: float
    split_half: float
    seconds: float


@dataclass(frozen=True)
class FactorComparison:
    """One row per method."""

    rows: tuple[FactorRow, ...]

    def __getitem__(self, method: str) -> FactorRow:
        """The row of a method."""
        for row in self.rows:
            if row.method == method:
                return row
        raise KeyError(f"{method!r} is not among {', '.join(r.method for r in self.rows)}")

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Every row as a mapping, by method."""
        return {row.method: dict(vars(row)) for row in self.rows}

    def compare_to(self, truth: Array) -> dict[str, FactorTruth]:
        """Compare the factors of every method with true ones of the same length.

        Args:
            truth: (factors, channels), or (factors, taps) for DUNL.

        Returns:
            By method, those whose factors are as long as the true ones.

        Raises:
            ValueError: When no method has as many factors of this length.
        """
        true = as_real("truth", truth, axes=("factors", "channels"), at_least=(1, 2))
        found = {
            row.method: FactorTruth(
                _amari(row.factors, true.to(row.factors)), _matched(row.factors, true)
            )
            for row in self.rows
            if row.factors.shape == true.shape
        }
        if not found:
            shapes = {row.method: tuple(row.factors.shape) for row in self.rows}
            raise ValueError(
                f"truth must have the shape of some method's factors, {shapes}, got "
                f"{tuple(true.shape)}"
            )
        return found


class FactorDecomposition:
    r"""Fits several decompositions of activity to the same trials and questions them alike.

    PCA, ICA and NMF write every sample as a sum of factors over channels; DUNL writes every channel
    as a sum of kernels in time. Factors of two fits are matched by the Hungarian method on the size
    of their correlations, since order and sign mean nothing.

    Args:
        n_factors: Factors of every method.
        methods: Any of "pca", "ica", "nmf" and "dunl".
        held_out: Share of trials that no fit sees.
        n_bootstrap: Bootstrap samples of the trials.
        kernel_length: Samples of a kernel (DUNL).
        generator: Source of splits, samples and starts.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> scores = torch.randn(8, 50, 2, generator=generator)
        >>> activity = scores @ torch.tensor([[1.0, 0.0, 1.0], [0.0, 2.0, 0.0]])
        >>> found = FactorDecomposition(2, methods=("pca",), generator=generator).fit(activity)
        >>> round(found["pca"].r2_held_out, 2), round(found["pca"].stability, 2)
        (1.0, 1.0)

    References:
        Amari, Cichocki & Yang (1996), NIPS 8, 757-763.
        Hoyer (2004), J. Mach. Learn. Res. 5, 1457-1469.
    """

    def __init__(
        self,
        n_factors: int,
        *,
        methods: Sequence[str] = ("pca", "ica", "nmf", "dunl"),
        held_out: float = 0.25,
        n_bootstrap: int = 5,
        kernel_length: int = 16,
        generator: torch.Generator | None = None,
    ) -> None:
        for name, count in (("n_factors", n_factors), ("n_bootstrap", n_bootstrap)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if not methods:
            raise ValueError(f"methods must name at least one of {', '.join(METHODS)}, got none")
        for method in methods:
            one_of("methods", method, tuple(METHODS))
        if not 0 < held_out < 1:
            raise ValueError(f"held_out must be between 0 and 1, got {held_out}")
        self.n_factors, self.methods, self.held_out = n_factors, tuple(methods), held_out
        self.n_bootstrap, self.kernel_length, self.generator = n_bootstrap, kernel_length, generator

    def fit(self, activity: Array) -> FactorComparison:
        """Fit and question every method.

        Args:
            activity: (trials, time, channels); at least four trials stay for fitting.

        Returns:
            One row per method.

        Raises:
            TypeError: When activity is no real tensor or array.
            ValueError: When its shape does not do, or NMF is asked of negative values.
        """
        axes = ("trials", "time", "channels")
        least_time = self.kernel_length if "dunl" in self.methods else 1
        data = as_real("activity", activity, axes=axes, at_least=(1, least_time, 1))
        if data.ndim != 3:
            raise ValueError(f"activity must be (trials, time, channels), got {tuple(data.shape)}")
        n_held = max(1, round(self.held_out * len(data)))
        if len(data) - n_held < 4:
            raise ValueError(
                f"activity must have at least 4 trials beside the {n_held} held out, got "
                f"{len(data)}"
            )
        widest = data.shape[2] if set(self.methods) - {"dunl"} else self.n_factors
        if self.n_factors > widest:
            raise ValueError(
                f"n_factors must be at most the {widest} channels, got {self.n_factors}"
            )
        if "nmf" in self.methods and float(data.min()) < 0:
            raise ValueError(
                f"nmf takes activity of at least 0, got {float(data.min()):g}; leave it out of "
                f"methods, or pass rates"
            )
        order = torch.randperm(len(data), generator=self.generator).to(data.device)
        train, test = data[order[n_held:]], data[order[:n_held]]
        return FactorComparison(tuple(self._row(method, train, test) for method in self.methods))

    def _row(self, method: str, train: Tensor, test: Tensor) -> FactorRow:
        begin = time.perf_counter()
        fitted = self._fitted(method, train)
        seconds = time.perf_counter() - begin
        scores, back = fitted.apply(train)
        drawn = [
            torch.randint(len(train), (len(train),), generator=self.generator).to(train.device)
            for _ in range(self.n_bootstrap)
        ]
        again = [self._fitted(method, train[rows]).factors for rows in drawn]
        halves = [self._fitted(method, part).factors for part in (train[::2], train[1::2])]
        return FactorRow(
            method=method,
            factors=fitted.factors,
            scores=scores,
            r2_train=_r2(train, back),
            r2_held_out=_r2(test, fitted.apply(test)[1]),
            sparsity=_hoyer(scores),
            stability=sum(_matched(fitted.factors, other) for other in again) / len(again),
            split_half=_matched(*halves),
            seconds=seconds,
        )

    def _fitted(self, method: str, activity: Tensor) -> Fitted:
        return METHODS[method](activity, self.n_factors, self.generator, self.kernel_length)


def _r2(true: Tensor, made: Tensor) -> float:
    """Share of the variance about each channel's mean."""
    about = true - true.mean((0, 1))
    return float(1 - (true - made).square().sum() / about.square().sum())


def _hoyer(scores: Float[Tensor, "trial time factor"]) -> float:
    flat = scores.flatten(0, 1).T
    root = flat.shape[1] ** 0.5
    ratio = flat.abs().sum(1) / flat.norm(dim=1).clamp(min=torch.finfo(flat.dtype).tiny)
    acts = flat.abs().amax(1) > 0
    return float(torch.where(acts, (root - ratio) / (root - 1), 1.0).mean())


def _alike(first: Tensor, second: Tensor) -> Float[Tensor, "factor factor"]:
    """Sizes of the cosines; a factor that is zero resembles none."""
    cosines = (
        torch.nn.functional.normalize(first, dim=-1)
        @ torch.nn.functional.normalize(second.to(first), dim=-1).mT
    )
    return cosines.abs()


def _matched(first: Tensor, second: Tensor) -> float:
    """Mean similarity of the best one-to-one match."""
    from scipy.optimize import linear_sum_assignment

    alike = _alike(first, second).cpu().double().numpy()
    rows, columns = linear_sum_assignment(-alike)
    return float(alike[rows, columns].mean())


def _amari(found: Float[Tensor, "factor channel"], true: Float[Tensor, "factor channel"]) -> float:
    """How far the map from true to found factors is from a scaled permutation."""
    n = len(true)
    if n == 1:
        return 0.0
    gain = (found.double() @ torch.linalg.pinv(true.double())).abs()
    rows = (gain.sum(1) / gain.amax(1) - 1).sum()
    columns = (gain.sum(0) / gain.amax(0) - 1).sum()
    return float((rows + columns) / (2 * n * (n - 1)))
