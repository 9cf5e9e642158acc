r"""Kernel mean matching of whole domains: weights that minimise the squared MMD, streamed."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from neuros_core.domains import SourceWeights
from neuros_core.errors import check_finite
from neuros_sourceweigher._bandwidth import median_bandwidth
from neuros_sourceweigher.simplex import solve_simplex_qp

__all__: list[str] = []

Array = NDArray[np.float64]
Kernel = Callable[[Array, Array], Array]

# Points of the pooled sample from which the median bandwidth is taken.
_POOLED = 2000
_LARGEST = 1e150


class MMDTest(NamedTuple):
    """Squared MMD between two samples, its null distribution by permutation, and the p-value."""

    mmd2: float
    p_value: float
    null: Array


class KernelMeanWeigher:
    r"""Mixture weights that minimise the squared maximum mean discrepancy to the target.

    $\min_w\; w^T G w - 2 b^T w + c$ with $G_{kl}$ the mean of $k(x, x')$ over pairs of sources k
    and l, $b_k$ that over pairs of source k and target, c that within the target. The sums run in
    blocks, so memory does not grow with the samples; time grows with their square. For large
    samples `RandomFourierMap` and `SourceWeigher(metric="identity")` approximate the same weights.

    Args:
        kernel: `"rbf"`, $\exp(-\|x - y\|^2 / 2 h^2)$, or a callable (n, d), (m, d) -> (n, m) that
            is positive semidefinite.
        bandwidth: $h > 0$, or `"median"`: the median distance of the pooled samples.
        block: Samples per side of a block.
        unbiased: Leave out pairs of a sample with itself, also from c.
        ridge: $\rho \ge 0$, adds $\rho \|w - 1/K\|^2$.

    Raises:
        ValueError: For a setting out of its range.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> sources = {"near": rng.normal(size=(300, 2)), "far": rng.normal(size=(300, 2)) + 3}
        >>> target = np.concatenate([rng.normal(size=(300, 2)), rng.normal(size=(100, 2)) + 3])
        >>> weights = KernelMeanWeigher().fit(sources, target)
        >>> round(weights["near"], 1), bool(weights.meta["mmd2"] < 0.01)
        (0.7, True)

    References:
        Gretton et al. 2012, A Kernel Two-Sample Test, JMLR 13:723-773.
        Iyer, Nath & Sarawagi 2014, Maximum Mean Discrepancy for Class Ratio Estimation, PMLR 32.
    """

    def __init__(
        self,
        *,
        kernel: str | Kernel = "rbf",
        bandwidth: float | str = "median",
        block: int = 4096,
        unbiased: bool = False,
        ridge: float = 0.0,
    ) -> None:
        if not callable(kernel) and kernel != "rbf":
            raise ValueError(f"kernel needs 'rbf' or a callable, got {kernel!r}")
        if isinstance(bandwidth, str) and bandwidth != "median":
            raise ValueError(f"bandwidth needs a number > 0 or 'median', got {bandwidth!r}")
        if not isinstance(bandwidth, str) and not 0 < bandwidth < np.inf:
            raise ValueError(f"bandwidth needs a number > 0 or 'median', got {bandwidth!r}")
        if block < 1:
            raise ValueError(f"block needs a number >= 1, got {block!r}")
        if not 0 <= ridge < np.inf:
            raise ValueError(f"ridge needs a finite number >= 0, got {ridge!r}")
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.block = int(block)
        self.unbiased = bool(unbiased)
        self.ridge = float(ridge)

    def __repr__(self) -> str:
        return (
            f"KernelMeanWeigher(kernel={self.kernel!r}, bandwidth={self.bandwidth!r}, "
            f"block={self.block}, unbiased={self.unbiased}, ridge={self.ridge!r})"
        )

    def fit(self, sources: Mapping[str, ArrayLike], target: ArrayLike) -> SourceWeights:
        """Estimate the weights of `sources` that explain `target`.

        Args:
            sources: (n_k, d) samples of each source, at least one source.
            target: (n, d) samples.

        Returns:
            Weights in the order of `sources`. `meta["mmd2"]` is the squared discrepancy reached
            (`unbiased` ones may be below zero), `objective` that plus the ridge term.

        Raises:
            ValueError: For unfit samples, or when `unbiased` leaves a matrix that is not positive
                semidefinite.
            RuntimeError: When the solver cannot certify its result.
        """
        names, samples, goal = read_samples(sources, target, 2 if self.unbiased else 1)
        kernel, bandwidth = self._kernel(samples, goal)
        K = len(samples)
        G = np.empty((K, K))
        for k in range(K):
            for other in range(k + 1):
                G[k, other] = G[other, k] = self._mean(kernel, samples[k], samples[other])
        b = np.array([self._mean(kernel, x, goal) for x in samples])
        within = self._mean(kernel, goal, goal)
        solution = solve_simplex_qp(G, b, ridge=self.ridge)
        w = solution.weights
        mmd2 = float(w @ G @ w - 2 * b @ w + within)
        return SourceWeights(
            names=names,
            weights=w,
            method="kernel-mean",
            # The solver minimises half of it, without the constant.
            objective=mmd2 + self.ridge * float(np.square(w - 1 / K).sum()),
            gap=2 * solution.gap,
            meta={
                "kernel": "rbf" if bandwidth is not None else "callable",
                "bandwidth": bandwidth,
                "unbiased": self.unbiased,
                "ridge": self.ridge,
                "unique": solution.unique,
                "mmd2": mmd2,
            },
        )

    def mmd_test(
        self,
        sources: Mapping[str, ArrayLike],
        target: ArrayLike,
        weights: SourceWeights,
        *,
        n_permutations: int = 999,
        max_points: int = 2000,
        seed: int = 0,
    ) -> MMDTest:
        r"""Test whether `target` is the mixture of `sources` with `weights`, by permutation.

        A sample of the mixture is drawn without replacement from the sources and compared with an
        equally large sample of the target; labels are permuted. Weights that were fitted to the
        same target make the test conservative.

        Args:
            sources: As in `fit`.
            target: As in `fit`.
            weights: The mixture to test.
            n_permutations: Number of permutations.
            max_points: Largest number of samples of either side.
            seed: Of the draws and permutations.

        Returns:
            Squared discrepancy of the two samples, p-value $(1 + \#\{null \ge observed\}) /
            (1 + n)$, and the null distribution (n_permutations,).

        Raises:
            ValueError: For unfit samples, other names, or fewer than 1 permutation.
        """
        names, samples, goal = read_samples(sources, target, 1)
        if set(names) != set(weights.names):
            raise ValueError(f"weights needs the sources {list(names)}, got {list(weights.names)}")
        if n_permutations < 1 or max_points < 2:
            raise ValueError(
                "n_permutations needs a number >= 1 and max_points >= 2, got "
                f"{n_permutations!r} and {max_points!r}"
            )
        kernel, _ = self._kernel(samples, goal)
        rng = np.random.default_rng(seed)
        w = np.array([weights[name] for name in names])
        mixture = _draw_mixture(samples, w, min(len(goal), max_points), rng)
        ours = goal[rng.choice(len(goal), len(mixture), replace=False)]
        pooled = np.concatenate([mixture, ours])
        n = len(mixture)
        signs = np.repeat([1.0 / n, -1.0 / n], n)
        labels = np.column_stack([signs, *(rng.permutation(signs) for _ in range(n_permutations))])
        statistics = np.zeros(n_permutations + 1)
        for i in range(0, 2 * n, self.block):
            for j in range(0, 2 * n, self.block):
                part = _checked(kernel, pooled[i : i + self.block], pooled[j : j + self.block])
                product = part @ labels[j : j + self.block]
                statistics += np.einsum("ij,ij->j", labels[i : i + self.block], product)
        null = statistics[1:]
        exceeding = int(np.count_nonzero(null >= statistics[0]))
        return MMDTest(float(statistics[0]), (1 + exceeding) / (1 + n_permutations), null)

    def _kernel(self, samples: Sequence[Array], goal: Array) -> tuple[Kernel, float | None]:
        if callable(self.kernel):
            return self.kernel, None
        if isinstance(self.bandwidth, str):
            # As many of each domain as its share of the pooled sample, without pooling it.
            domains = (*samples, goal)
            stride = max(1, sum(len(x) for x in domains) // _POOLED)
            h = median_bandwidth(np.concatenate([x[::stride] for x in domains]))
        else:
            h = float(self.bandwidth)

        def rbf(x: Array, y: Array) -> Array:
            squared = cdist(x, y, "sqeuclidean")
            squared *= -0.5 / h**2
            return np.asarray(np.exp(squared, out=squared))

        return rbf, h

    def _mean(self, kernel: Kernel, x: Array, y: Array) -> float:
        """Mean of the kernel over pairs; of one domain with itself in half of the blocks."""
        same = x is y
        total = trace = 0.0
        for i in range(0, len(x), self.block):
            for j in range(0, i + 1 if same else len(y), self.block):
                part = _checked(kernel, x[i : i + self.block], y[j : j + self.block])
                total += float(part.sum()) * (2 if same and i != j else 1)
                trace += float(np.trace(part)) if same and i == j else 0.0
        if same and self.unbiased:
            return (total - trace) / (len(x) * (len(x) - 1))
        return total / (len(x) * len(y))


def _checked(kernel: Kernel, x: Array, y: Array) -> Array:
    part = np.asarray(kernel(x, y), dtype=np.float64)
    if part.shape != (len(x), len(y)) or not np.isfinite(part).all():
        raise ValueError(
            f"kernel needs finite values of shape {(len(x), len(y))}, got shape {part.shape}"
        )
    return part


def read_samples(
    sources: Mapping[str, ArrayLike], target: ArrayLike, fewest: int
) -> tuple[tuple[str, ...], list[Array], Array]:
    """Return names, samples (n_k, d) and target (n, d), finite and of one dimension d."""
    if not sources:
        raise ValueError("sources needs at least one domain, got none")
    names = tuple(sources)
    goal = _read("target", target, fewest, None)
    d = goal.shape[1]
    return names, [_read(f"source {n!r}", x, fewest, d) for n, x in sources.items()], goal


def _read(name: str, x: ArrayLike, fewest: int, d: int | None) -> Array:
    samples = np.asarray(x, dtype=np.float64)
    if (
        samples.ndim != 2
        or len(samples) < fewest
        or not samples.shape[1]
        or d
        not in (
            None,
            samples.shape[-1],
        )
    ):
        width = "d" if d is None else str(d)
        raise ValueError(f"{name} needs shape (n, {width}) with n >= {fewest}, got {samples.shape}")
    check_finite(name, samples)
    if samples.max() > _LARGEST or samples.min() < -_LARGEST:
        raise ValueError(f"{name} needs values up to {_LARGEST:.0e}, whose squares exist; rescale")
    return samples


def _draw_mixture(samples: Sequence[Array], w: Array, size: int, rng: np.random.Generator) -> Array:
    """Sample (n, d) of the mixture without replacement, with n as near to `size` as they allow."""
    while True:
        counts = rng.multinomial(size, w / w.sum())
        short = counts > np.array([len(x) for x in samples])
        if not short.any():
            break
        size = max(1, int(0.9 * size))
    rows = [
        x[rng.choice(len(x), count, replace=False)]
        for x, count in zip(samples, counts, strict=True)
    ]
    return np.concatenate(rows)
