"""Weights that follow statistics as they arrive, without jumps."""

import dataclasses
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from neuros_core.domains import DomainStatistics, SourceWeights

__all__: list[str] = []


@runtime_checkable
class StatisticsWeigher(Protocol):
    """Anything that fits weights to the statistics of domains."""

    def fit(self, sources: Any, target: DomainStatistics) -> SourceWeights:
        """Return the weights of `sources` that explain `target`."""
        ...


class OnlineWeigher:
    r"""Merges statistics batch by batch and moves the weights by a bounded step towards the fit.

    Each update refits on all the statistics so far and goes $w \leftarrow w + \min(1, \delta /
    \|w^* - w\|_1)\,(w^* - w)$: a step along a chord of the simplex, so the weights never leave it.
    On stationary data they reach the offline fit. The first weights are a fit themselves; a source
    that appears later starts from 0.

    Args:
        weigher: Fits statistics, such as `SourceWeigher`.
        max_step: $\delta$ in (0, 2], the largest L1 move per update.

    Raises:
        ValueError: For a step out of its range.

    Examples:
        >>> from neuros_sourceweigher import SourceWeigher
        >>> online = OnlineWeigher(SourceWeigher(metric="identity"), max_step=0.2)
        >>> a, b = DomainStatistics("a", 10, [0.0]), DomainStatistics("b", 10, [1.0])
        >>> online.update([a, b], DomainStatistics("t", 10, [0.0])).as_dict()
        {'a': 1.0, 'b': 0.0}
        >>> online.update(target=DomainStatistics("t", 90, [1.0])).as_dict()
        {'a': 0.9, 'b': 0.1}
    """

    def __init__(self, weigher: StatisticsWeigher, *, max_step: float = 0.1) -> None:
        if not 0 < max_step <= 2:
            raise ValueError(f"max_step needs a number in (0, 2], got {max_step!r}")
        self.weigher = weigher
        self.max_step = float(max_step)
        self._sources: dict[str, DomainStatistics] = {}
        self._target: DomainStatistics | None = None
        self._weights: SourceWeights | None = None

    def __repr__(self) -> str:
        return f"OnlineWeigher({self.weigher!r}, max_step={self.max_step!r})"

    @property
    def sources(self) -> tuple[DomainStatistics, ...]:
        """Statistics so far, in the order in which the sources appeared."""
        return tuple(self._sources.values())

    @property
    def target(self) -> DomainStatistics | None:
        """Statistics of the target so far."""
        return self._target

    def update(
        self,
        sources: Iterable[DomainStatistics] = (),
        target: DomainStatistics | None = None,
    ) -> SourceWeights:
        """Merge what arrived and move the weights.

        Args:
            sources: Statistics of new samples, merged by name.
            target: Statistics of new samples of the target.

        Returns:
            Weights after the move. `objective`, `gap` and the intervals are those of a fit, so
            they are kept only where the weights have reached it; the diagnosis is the fit's.
            `meta["distance"]` is the L1 distance that is left to the fit.

        Raises:
            ValueError: Before any source or target has arrived, and what merging or `fit` raise.
        """
        merged = dict(self._sources)
        for part in sources:
            merged[part.name] = merged[part.name].merge(part) if part.name in merged else part
        goal = self._target
        if target is not None:
            goal = target if goal is None else goal.merge(target)
        if not merged or goal is None:
            raise ValueError(
                f"update needs a source and a target first, got {len(merged)} sources and "
                f"{'a' if goal else 'no'} target"
            )
        fitted = self.weigher.fit(list(merged.values()), goal)
        moved = self._move(fitted)
        # Only now: an update that raises leaves everything as it was.
        self._sources, self._target, self._weights = merged, goal, moved
        return moved

    def _move(self, fitted: SourceWeights) -> SourceWeights:
        before = self._weights
        if before is None:
            return dataclasses.replace(fitted, meta={**fitted.meta, "distance": 0.0})
        start = np.array([before.as_dict().get(name, 0.0) for name in fitted.names])
        way = fitted.weights - start
        distance = float(np.abs(way).sum())
        if distance <= self.max_step:
            return dataclasses.replace(fitted, meta={**fitted.meta, "distance": 0.0})
        w = start + (self.max_step / distance) * way
        return SourceWeights(
            names=fitted.names,
            weights=np.maximum(w, 0.0),
            method=f"online({fitted.method})",
            diagnosis=fitted.diagnosis,
            meta={**fitted.meta, "distance": distance - self.max_step},
        )
