"""Which sources the means tell apart, judged against the sampling noise of those means."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__: list[str] = []

Array = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)
# A direction is told from noise when its squared length is this many standard deviations above
# the mean that noise alone would give.
_SIGMAS = 3.0


class Noise(NamedTuple):
    """Sampling noise of the columns: mean squared length of each, and how it is spread."""

    squared: Array  # (K,)
    freedom: float | None  # degrees of freedom; None: no direction has more than unit noise

    def limit(self, mean: Array, largest: Array) -> Array:
        """Largest squared length that noise alone is likely to give a sum of columns.

        Args:
            mean: Its mean, the sum of `squared` times squared factors.
            largest: The largest squared factor.
        """
        if self.freedom is not None:
            return mean * (1 + _SIGMAS * float(np.sqrt(2 / self.freedom)))
        # The variance is twice the sum of squared eigenvalues, which is at most the largest times
        # their sum; the largest is bounded by the factors and by the sum.
        return np.asarray(mean + _SIGMAS * np.sqrt(2 * np.minimum(largest, mean) * mean))


class Identification(NamedTuple):
    """Condition number of the centred means, and the groups that cannot be told apart."""

    identifiable: bool
    condition: float
    ambiguous: tuple[tuple[str, ...], ...]


def identify(columns: Array, w: Array, noise: Noise, names: Sequence[str]) -> Identification:
    r"""Find directions of weight change, of sum zero, that the means do not show.

    A unit change $v$ of the weights moves the mixture by $\sigma = \|C v\|$, with $C$ the centred
    means of the support. Noise alone gives $\sigma^2$ a mean and a variance that `noise` knows.
    A source outside the support belongs to a group when noise hides its difference to one of the
    support, or to the mixture: of two copies the optimum usually picks one by chance.

    Args:
        columns: (p, K) feature means in the metric, the target's at the origin.
        w: (K,) the weights.
        noise: Of the columns.
        names: The K sources.
    """
    support = np.flatnonzero(w > 0)
    inside = columns[:, support]
    groups: list[set[int]] = []
    condition = 1.0
    if len(support) > 1:
        reduced = _sum_zero_part(inside - inside.mean(axis=1, keepdims=True))
        sigma = np.linalg.svd(reduced, compute_uv=False)
        smallest = float(sigma[-1]) if len(sigma) == len(support) - 1 else 0.0
        condition = float(sigma[0] / max(smallest, _EPS * sigma[0])) if sigma[0] > 0 else 1 / _EPS
        rounding = 8 * _EPS * float(np.abs(inside).max(initial=0.0)) * np.sqrt(inside.size)
        hidden = _hidden(
            reduced, smallest, rounding, noise._replace(squared=noise.squared[support])
        )
        exchanged = _groups(hidden) if len(hidden) else []
        groups = [{int(support[i]) for i in group} for group in exchanged]
        # A hidden direction without a group would go unsaid: then the whole support is one.
        groups = groups if groups or not len(hidden) else [set(support.tolist())]
    groups = _merged(groups + _twins(columns, w, support, noise))
    named = tuple(tuple(names[k] for k in sorted(group)) for group in sorted(groups, key=min))
    return Identification(not named, condition, named)


@functools.lru_cache(maxsize=16)
def _sum_zero_basis(s: int) -> Array:
    """Orthonormal basis (s, s - 1) of the vectors of sum zero."""
    basis = np.linalg.qr(np.column_stack([np.ones(s), np.eye(s)[:, : s - 1]]))[0][:, 1:]
    basis.flags.writeable = False
    return np.asarray(basis)


def _sum_zero_part(centred: Array) -> Array:
    """Centred columns (p, s) on the changes of sum zero, reduced to at most s - 1 rows."""
    part = centred @ _sum_zero_basis(centred.shape[1])
    return np.asarray(np.linalg.qr(part, mode="r")) if len(part) > part.shape[1] else part


def _hidden(reduced: Array, smallest: float, rounding: float, noise: Noise) -> Array:
    """Unit changes (h, s) of sum zero whose effect noise or rounding hides."""
    s = reduced.shape[1] + 1
    # The largest limit that any direction can have; beyond it the vectors need not be known.
    worst = noise.limit(noise.squared.max(keepdims=True), np.ones(1))[0]
    if smallest**2 > rounding**2 + worst:
        return np.empty((0, s))
    _, values, vt = np.linalg.svd(reduced, full_matrices=len(reduced) < s - 1)
    sigma = np.zeros(s - 1)
    sigma[: len(values)] = values
    directions = vt @ _sum_zero_basis(s).T
    squares = np.square(directions)
    limit = noise.limit(squares @ noise.squared, squares.max(axis=1))
    return np.asarray(directions[np.square(sigma) <= rounding**2 + limit])


def _groups(hidden: Array) -> list[set[int]]:
    """Sources that a hidden direction exchanges with each other, as connected groups."""
    s = hidden.shape[1]
    P = hidden.T @ hidden
    # Equal means of all s sources give off-diagonals of 1 / (s - 1) of the diagonal: half of that
    # is the cut. A source with a quarter of an even share in the directions is only noise there.
    share = P.diagonal()
    joined = np.abs(P) > 0.5 / s * np.sqrt(np.outer(share, share))
    member = share > 0.25 / s
    joined &= np.outer(member, member)
    linked = [set(np.flatnonzero(joined[k]).tolist()) for k in np.flatnonzero(member)]
    return [group for group in _merged(linked) if len(group) > 1]


def _twins(columns: Array, w: Array, support: NDArray[np.intp], noise: Noise) -> list[set[int]]:
    """Groups of a source outside the support with what noise hides its difference to."""
    outside = np.flatnonzero((w <= 0) & (noise.squared > 0))
    inside = columns[:, support]
    # One column per model: each source of the support, and their mixture.
    models = np.column_stack([inside, inside @ w[support]])
    squared = np.append(noise.squared[support], np.square(w[support]) @ noise.squared[support])
    one = np.ones(len(squared))
    groups: list[set[int]] = []
    for k in outside:
        distances = np.square(models - columns[:, [k]]).sum(axis=0)
        close = distances <= noise.limit(squared + noise.squared[k], one)
        if close[:-1].any():
            groups.append({int(k), *support[close[:-1]].tolist()})
        if close[-1]:
            groups.append({int(k), *support.tolist()})
    return groups


def _merged(groups: list[set[int]]) -> list[set[int]]:
    """Unions of the groups that share a member."""
    merged: list[set[int]] = []
    for group in groups:
        apart = [other for other in merged if not other & group]
        merged = [*apart, group.union(*(other for other in merged if other & group))]
    return merged
