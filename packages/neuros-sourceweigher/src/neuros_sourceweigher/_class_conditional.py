"""Weights of sources within each class, also for a target without labels."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from neuros_core.domains import ClassSourceWeights, DomainStatistics
from neuros_core.errors import check_choice, check_probability_vector
from neuros_sourceweigher._estimate import Matching, match, solve
from neuros_sourceweigher._moments import Moments, check_domains
from neuros_sourceweigher.simplex import solve_simplex_ls, solve_simplex_ls_batched

__all__: list[str] = []

Array = NDArray[np.float64]
Atom: TypeAlias = tuple[int, int, DomainStatistics]

_SWEEPS = 2000
# Relative gap at which weights with fixed class shares are settled.
_TOLERANCE = 1e-9


class ClassConditionalWeigher:
    r"""Joint weights of sources and classes, $P(\text{source}, \text{class})$ in the target.

    An unlabelled target is matched by one simplex problem over the K C class-conditional means of
    the sources. A labelled one gives one problem per class. Different class shares in source and
    target then no longer look like different domains.

    Args:
        metric: As in `SourceWeigher`; `"diagonal"` and `"efficient"` need `cov` of every class.
        ridge: $\rho \ge 0$, the pull towards equal weights.
        min_count: A class of a source with fewer samples counts as missing.

    Raises:
        ValueError: For a setting out of its range.

    Examples:
        >>> def part(name, mean):
        ...     return DomainStatistics(name, 100, mean)
        >>> classes = {"rest": part("rest", [0, 0, 0]), "move": part("move", [4, 0, 0])}
        >>> a = DomainStatistics("a", 200, [2, 0, 0], classes=classes)
        >>> classes = {"rest": part("rest", [0, 4, 0]), "move": part("move", [0, 0, 4])}
        >>> b = DomainStatistics("b", 200, [0, 2, 2], classes=classes)
        >>> weights = ClassConditionalWeigher().fit([a, b], part("t", [0.4, 0.8, 1.2]))
        >>> weights.classes, weights.joint.round(12).tolist()
        (('move', 'rest'), [[0.1, 0.4], [0.3, 0.2]])
    """

    def __init__(self, *, metric: str = "identity", ridge: float = 0.0, min_count: int = 2) -> None:
        check_choice("metric", metric, ("identity", "diagonal", "efficient"))
        if not 0 <= ridge < np.inf:
            raise ValueError(f"ridge needs a finite number >= 0, got {ridge!r}")
        if min_count < 1:
            raise ValueError(f"min_count needs a number >= 1, got {min_count!r}")
        self.metric = metric
        self.ridge = float(ridge)
        self.min_count = int(min_count)

    def __repr__(self) -> str:
        return (
            f"ClassConditionalWeigher(metric={self.metric!r}, ridge={self.ridge!r}, "
            f"min_count={self.min_count})"
        )

    def fit(
        self,
        sources: Sequence[DomainStatistics],
        target: DomainStatistics,
        *,
        target_priors: Mapping[str, float] | None = None,
    ) -> ClassSourceWeights:
        """Estimate joint weights; a class that a source lacks gets weight 0 there.

        Args:
            sources: Each with `classes`.
            target: With `classes` (labelled), or without.
            target_priors: Share of each class in the target, sum 1. A labelled target has its own
                counts when None; for an unlabelled one the shares are estimated when None, and
                held fixed otherwise.

        Returns:
            Joint weights (K, C) over the sources and all their classes.

        Raises:
            ValueError: For unfit domains, a class of the target that every source lacks, or priors
                of other classes.
            RuntimeError: When the solver cannot certify its result.
        """
        check_domains(sources, target)
        labels = sorted({label for source in sources for label in self._kept(source)})
        if not labels:
            raise ValueError(
                f"sources needs classes of at least min_count = {self.min_count} samples, got "
                "none; build statistics by DomainStatistics.from_samples(..., y=labels)"
            )
        priors = _priors(labels, target, target_priors)
        # One atom per class of a source: (source, class, statistics).
        atoms: list[Atom] = [
            (k, labels.index(label), source.classes[label])
            for k, source in enumerate(sources)
            for label in self._kept(source)
        ]
        joint = np.zeros((len(sources), len(labels)))
        if target.classes and priors is not None:
            parts = {int(c): target.classes[labels[c]] for c in np.flatnonzero(priors)}
            for c, rows, shares in self._shares_by_class(atoms, parts):
                joint[rows, c] = priors[c] * shares
        else:
            columns = self._columns(atoms, target)
            if priors is None:
                shares = solve(columns, self.ridge, None).weights
            else:
                classes = np.array([c for _, c, _ in atoms])
                shares = minimise_by_class(columns, classes, priors, self.ridge)
            joint[[k for k, _, _ in atoms], [c for _, c, _ in atoms]] = shares
        return ClassSourceWeights(tuple(s.name for s in sources), tuple(labels), joint)

    def _shares_by_class(
        self, atoms: Sequence[Atom], targets: Mapping[int, DomainStatistics]
    ) -> Iterator[tuple[int, list[int], Array]]:
        """Solve one problem per class; those of equally many sources are solved together."""
        members = {c: [atom for atom in atoms if atom[1] == c] for c in targets}
        for size in {len(part) for part in members.values()}:
            equal = [c for c, part in members.items() if len(part) == size]
            columns = np.stack([self._columns(members[c], targets[c]) for c in equal])
            goal = np.zeros(columns.shape[:2])
            found = solve_simplex_ls_batched(columns, goal, ridge=self.ridge).weights
            for c, shares in zip(equal, found, strict=True):
                yield c, [k for k, _, _ in members[c]], shares

    def _kept(self, source: DomainStatistics) -> list[str]:
        return [label for label, part in source.classes.items() if part.n >= self.min_count]

    def _columns(self, atoms: Sequence[Atom], target: DomainStatistics) -> Array:
        """Means (p, atoms) less that of the target, in the metric."""
        parts = tuple(part for _, _, part in atoms)
        columns = np.stack([part.mean - target.mean for part in parts], axis=1)
        how = Matching("mean", self.metric, None)
        return match(Moments(parts, target, columns, None), how, None).columns


def minimise_by_class(
    columns: Array, classes: NDArray[np.intp], priors: Array, ridge: float
) -> Array:
    r"""Minimise $\|A w\|^2 + \rho \|w - w_0\|^2$ with the weights of each class at its prior.

    Exact minimisation over one class at a time, each a simplex problem, until the gap, the sum of
    those of the classes, certifies the whole.

    Args:
        columns: (p, N) matrix A.
        classes: (N,) class of each column, 0..C-1.
        priors: (C,) sums of the classes' weights.
        ridge: The pull towards equal weights within each class.
    """
    present = np.flatnonzero(priors)
    members = {int(c): np.flatnonzero(classes == c) for c in present}
    w = np.zeros(columns.shape[1])
    for c, part in members.items():
        w[part] = priors[c] / len(part)
    even = w.copy()
    size = float(np.square(columns).sum(axis=0).max(initial=0.0)) + ridge
    gap = np.inf
    for _ in range(_SWEEPS):
        gradient = columns.T @ (columns @ w) + ridge * (w - even)
        gap = sum(
            float(gradient[part] @ w[part] - priors[c] * gradient[part].min())
            for c, part in members.items()
        )
        if gap <= _TOLERANCE * size:
            return w
        for c, part in members.items():
            others = columns @ w - columns[:, part] @ w[part]
            # Weights of the class are its prior times a point of the simplex.
            w[part] = priors[c] * (
                solve_simplex_ls(
                    priors[c] * columns[:, part],
                    -others,
                    ridge=ridge * priors[c] ** 2,
                ).weights
            )
    raise RuntimeError(
        f"the weights by class reached a gap of {gap:.3g} in {_SWEEPS} sweeps, above "
        f"{_TOLERANCE * size:.3g}; pass a ridge, or leave target_priors to be estimated"
    )


def _priors(
    labels: Sequence[str], target: DomainStatistics, given: Mapping[str, float] | None
) -> Array | None:
    """Shares (C,) of the classes in the target; None when they are to be estimated."""
    if given is None and not target.classes:
        return None
    if given is None:
        total = sum(part.n for part in target.classes.values())
        given = {label: part.n / total for label, part in target.classes.items()}
    missing = sorted(label for label, share in given.items() if share and label not in labels)
    if missing:
        raise ValueError(
            f"the target's classes need samples in some source, got none for {missing}; leave them "
            "out, or lower min_count"
        )
    lacking = sorted(k for k, share in given.items() if share and k not in target.classes)
    if target.classes and lacking:
        raise ValueError(
            f"target_priors needs classes of the labelled target, got {lacking} besides"
        )
    priors = np.array([float(given.get(label, 0.0)) for label in labels])
    check_probability_vector("target_priors", priors)
    return priors
