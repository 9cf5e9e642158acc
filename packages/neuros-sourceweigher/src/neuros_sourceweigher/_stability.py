"""How much the weights depend on any one source."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from neuros_core.domains import MixtureDiagnosis, SourceWeights

__all__: list[str] = []

Array = NDArray[np.float64]


@runtime_checkable
class Weigher(Protocol):
    """Anything that fits weights of sources to a target."""

    def fit(self, sources: Any, target: Any) -> SourceWeights:
        """Return the weights of `sources` that explain `target`."""
        ...


class StabilityReport(NamedTuple):
    """Weights with all sources, and without each of them.

    `change` (K,) is the total variation distance, half of the sum of absolute differences, between
    the weights with and without a source; it is at least the weight of that source. `largest`
    names the source of the largest change, `decisive` those without which the diagnosis
    (`in_hull`, `identifiable`) is another.
    """

    full: SourceWeights
    without: Mapping[str, SourceWeights]
    change: Array
    largest: str
    decisive: tuple[str, ...]


def leave_one_source_out(
    weigher: Weigher, sources: Sequence[Any] | Mapping[str, Any], target: Any
) -> StabilityReport:
    """Estimate the weights again without each source in turn.

    Args:
        weigher: Any weigher of this package whose `fit` returns `SourceWeights`.
        sources: What its `fit` takes, at least two.
        target: What its `fit` takes.

    Returns:
        Weights, changes, and the sources that decide the diagnosis.

    Raises:
        ValueError: For fewer than two sources, and what `fit` raises.

    Examples:
        >>> from neuros_core.domains import DomainStatistics
        >>> from neuros_sourceweigher import SourceWeigher
        >>> sources = [DomainStatistics(n, 9, [x]) for n, x in (("a", 0), ("b", 1), ("c", 9))]
        >>> target = DomainStatistics("t", 9, [1.0])
        >>> report = leave_one_source_out(SourceWeigher(metric="identity"), sources[:2], target)
        >>> report.full.as_dict(), report.largest, report.change.tolist()
        ({'a': 0.0, 'b': 1.0}, 'b', [0.0, 1.0])
    """
    names = list(sources) if isinstance(sources, Mapping) else [part.name for part in sources]
    if len(names) < 2:
        raise ValueError(f"sources needs two or more domains to leave one out, got {len(names)}")
    full = weigher.fit(sources, target)
    without: dict[str, SourceWeights] = {}
    change = np.empty(len(names))
    for k, name in enumerate(names):
        rest: Any
        if isinstance(sources, Mapping):
            rest = {other: part for other, part in sources.items() if other != name}
        else:
            rest = [part for part in sources if part.name != name]
        without[name] = weigher.fit(rest, target)
        left = without[name].as_dict()
        moved = [abs(full[other] - left.get(other, 0.0)) for other in names]
        change[k] = sum(moved) / 2
    said = _verdict(full.diagnosis)
    decisive = tuple(n for n in names if _verdict(without[n].diagnosis) != said)
    return StabilityReport(full, without, change, names[int(change.argmax())], decisive)


def _verdict(diagnosis: MixtureDiagnosis | None) -> tuple[bool | None, bool | None]:
    return (None, None) if diagnosis is None else (diagnosis.in_hull, diagnosis.identifiable)
