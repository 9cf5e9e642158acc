"""Parts of a split as stretches of seconds per recording, and the samples that lie in them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
Intervals = Mapping[str, Sequence[Interval]]


@runtime_checkable
class HasParts(Protocol):
    """Anything that says which seconds of which recordings a part holds, such as a `Split`."""

    @property
    def by(self) -> str: ...

    def part(self, name: str) -> Intervals: ...


def parts_from_dict(content: Mapping[str, Any]) -> dict[str, dict[str, tuple[Interval, ...]]]:
    """Parts as JSON holds them, with tuples for lists."""
    return {
        part: {r: tuple((float(a), float(b)) for a, b in found) for r, found in held.items()}
        for part, held in content["parts"].items()
    }


def sample_range(
    part: Mapping[str, Any],
    interval: Interval,
    array: Callable[[Mapping[str, Any]], NDArray[Any]],
) -> tuple[int, int]:
    """First sample at or after the interval's start, and the first at or after its end."""
    arrays = part["arrays"]
    if "times" in arrays:
        clock = array(arrays["times"])
        low, high = np.searchsorted(clock, interval)
        return int(low), int(high)
    n = arrays["data"]["shape"][0]
    # 1e-6 of a sample absorbs the rounding of start * rate.
    at = [(t - part["start"]) * part["rate"] - 1e-6 for t in interval]
    low, high = (int(min(max(np.ceil(x), 0), n)) for x in at)
    return low, high
