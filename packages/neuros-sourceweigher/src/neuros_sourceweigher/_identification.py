"""Which sources the means tell apart, judged against the sampling noise of those means."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuros_core.domains import DomainStatistics

__all__: list[str] = []

Array = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)
# A direction is told from noise when its squared length is this many standard deviations above
# the mean that noise alone would give.
_SIGMAS = 3.0


class Identification(NamedTuple):
    """Condition number of the centred means, and the groups that cannot be told apart."""

    identifiable: bool
    condition: float
    ambiguous: tuple[tuple[str, ...], ...]


def identify(sources: Sequence[DomainStatistics]) -> Identification:
    r"""Find directions of weight change, of sum zero, that the means do not show.

    A unit change $v$ of the weights moves the mixture by $\sigma = \|C v\|$, with $C$ the centred
    means. Noise alone gives $\sigma^2$ the mean $\mathrm{tr} S$ and the variance
    $2\,\mathrm{tr} S^2$ with $S = \sum_k v_k^2 S_k / n_k$; a source without `cov` counts as free
    of noise.
    """
    if len(sources) == 1:
        return Identification(identifiable=True, condition=1.0, ambiguous=())
    means = np.stack([source.mean for source in sources], axis=1)
    centred = means - means.mean(axis=1, keepdims=True)
    sigma, directions = _directions(centred)
    rounding = 8 * _EPS * float(np.abs(means).max(initial=0.0)) * np.sqrt(means.size)
    hidden = [
        v
        for length, v in zip(sigma, directions, strict=True)
        if length**2 <= rounding**2 + _noise(sources, v)
    ]
    condition = float(sigma[0] / max(sigma[-1], _EPS * sigma[0])) if sigma[0] > 0 else 1 / _EPS
    groups = _groups(np.array(hidden), [source.name for source in sources]) if hidden else ()
    return Identification(not hidden, condition, groups)


def _directions(centred: Array) -> tuple[Array, Array]:
    """Singular values, falling, and right singular vectors within the changes of sum zero."""
    s = centred.shape[1]
    # A basis of sum-zero vectors: the orthogonal complement of the ones.
    basis = np.linalg.qr(np.column_stack([np.ones(s), np.eye(s)[:, : s - 1]]))[0][:, 1:]
    _, values, vt = np.linalg.svd(centred @ basis, full_matrices=True)
    sigma = np.zeros(s - 1)
    sigma[: len(values)] = values
    return sigma, vt @ basis.T


def _noise(sources: Sequence[DomainStatistics], v: Array) -> float:
    """Largest squared length that sampling noise alone is likely to give along `v`."""
    parts = [
        share**2 * source.cov / source.n
        for share, source in zip(v, sources, strict=True)
        if source.cov is not None
    ]
    if not parts:
        return 0.0
    S = np.sum(parts, axis=0)
    return float(np.trace(S) + _SIGMAS * np.sqrt(2 * np.square(S).sum()))


def _groups(hidden: Array, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Sources that a hidden direction exchanges with each other, as connected groups."""
    s = len(names)
    P = hidden.T @ hidden
    # Equal means of all s sources give off-diagonals of 1 / (s - 1) of the diagonal: half of that
    # is the cut. A source with a quarter of an even share in the directions is only noise there.
    share = P.diagonal()
    joined = np.abs(P) > 0.5 / s * np.sqrt(np.outer(share, share))
    member = share > 0.25 / s
    joined &= np.outer(member, member)
    groups: list[tuple[str, ...]] = []
    seen: set[int] = set()
    for k in np.flatnonzero(member):
        if int(k) in seen:
            continue
        group, frontier = set(), {int(k)}
        while frontier:
            group |= frontier
            reached = np.flatnonzero(joined[sorted(frontier)].any(axis=0))
            frontier = {int(i) for i in reached} - group
        seen |= group
        if len(group) > 1:
            groups.append(tuple(names[i] for i in sorted(group)))
    return tuple(groups)
