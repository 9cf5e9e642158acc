"""Drawing clusters with replacement, and the quantiles of what comes out."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray

__all__ = ["as_rng", "cluster_codes", "percentile_interval", "weight_blocks"]

# Entries of one block of weights: 32 MB.
_BLOCK = 4_000_000


def as_rng(generator: np.random.Generator | torch.Generator | None) -> np.random.Generator:
    """NumPy generator that a generator of either library stands for."""
    if isinstance(generator, torch.Generator):
        seed = torch.randint(2**62, (), generator=generator, device=generator.device)
        return np.random.default_rng(int(seed))
    return np.random.default_rng(0) if generator is None else generator


def cluster_codes(clusters: Any, n_rows: int) -> list[Int[np.ndarray, "row"]]:
    """Number the clusters of every level, outermost first; the rows themselves are the last level.

    Raises:
        ValueError: When labels do not fit the rows, or there are fewer than two outermost clusters.
    """
    levels: list[NDArray[np.int64]] = []
    for name, labels in _named(clusters):
        found = np.asarray(labels)
        if found.shape != (n_rows,):
            raise ValueError(
                f"clusters needs {n_rows} labels at level {name}, one per row, got shape "
                f"{found.shape}; levels come one after the other, outermost first"
            )
        code = np.unique(found, return_inverse=True)[1]
        if levels:
            outer = levels[-1]
            code = np.unique(outer * (int(code.max()) + 1) + code, return_inverse=True)[1]
        levels.append(code.astype(np.int64))
    levels.append(np.arange(n_rows, dtype=np.int64))
    if int(levels[0].max()) < 1:
        raise ValueError(
            "clusters needs at least two outermost clusters to say how much they differ, got one; "
            "leave out that level, and the interval speaks of that cluster alone"
        )
    return levels


def weight_blocks(
    levels: Sequence[Int[np.ndarray, "row"]],
    n_bootstrap: int,
    rng: np.random.Generator,
    *,
    every: bool,
) -> Iterator[Int[np.ndarray, "draw row"]]:
    """How often each row comes in each drawn data set, some data sets at a time."""
    size = max(1, _BLOCK // len(levels[-1]))
    parents = _parents(levels)
    for start in range(0, n_bootstrap, size):
        n_draws = min(size, n_bootstrap - start)
        counts = _drawn(int(levels[0].max()) + 1, n_draws, rng)
        if every:
            for parent in parents:
                counts = _within(counts, parent, rng)
            yield counts
        else:
            yield counts[:, levels[0]]


def percentile_interval(
    samples: Float[np.ndarray, "draw"], confidence: float, n_clusters: int | None
) -> tuple[float, float]:
    """Quantiles; with the number of clusters, moved outwards as Hesterberg (2015) does."""
    from scipy.special import ndtr, stdtrit

    tail = (1 - confidence) / 2
    if n_clusters is not None:
        df = n_clusters - 1
        tail = float(ndtr(math.sqrt(n_clusters / df) * stdtrit(df, tail)))
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)


def _named(clusters: Any) -> list[tuple[Any, Any]]:
    if clusters is None:
        return []
    if isinstance(clusters, Mapping):
        return list(clusters.items())
    if hasattr(clusters, "columns"):
        return [(name, clusters[name]) for name in clusters.columns]
    several = list(clusters)
    return [(0, several)] if all(np.ndim(one) == 0 for one in several) else [*enumerate(several)]


def _parents(levels: Sequence[Int[np.ndarray, "row"]]) -> list[Int[np.ndarray, "child"]]:
    """For each level but the outermost: the cluster one level up that holds each of its own."""
    found = []
    for outer, inner in itertools.pairwise(levels):
        first = np.unique(inner, return_index=True)[1]
        found.append(outer[first])
    return found


def _drawn(n: int, n_draws: int, rng: np.random.Generator) -> Int[np.ndarray, "draw cluster"]:
    """Counts of n clusters drawn n times with replacement."""
    # Counting drawn numbers takes a tenth of the time of rng.multinomial.
    picked = rng.integers(n, size=(n_draws, n)) + n * np.arange(n_draws)[:, None]
    return np.bincount(picked.ravel(), minlength=n_draws * n).reshape(n_draws, n)


def _within(
    counts: Int[np.ndarray, "draw parent"],
    parent: Int[np.ndarray, "child"],
    rng: np.random.Generator,
) -> Int[np.ndarray, "draw child"]:
    """Draw the children of each copy of each parent: n children with replacement, n of them."""
    drawn = np.zeros((len(counts), len(parent)), dtype=np.int64)
    order = np.argsort(parent, kind="stable")
    for k, members in enumerate(np.split(order, np.cumsum(np.bincount(parent))[:-1])):
        n = len(members)
        # c copies drawing n each are one draw of c n.
        drawn[:, members] = rng.multinomial(counts[:, k] * n, np.full(n, 1 / n))
    return drawn
