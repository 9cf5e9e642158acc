"""What a file says before it is a recording: blocks of channels, events, behaviours, identities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Events, Intervals, Modality, Signal
from neuros_data.format import Quantization


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of `read` that say how to take a file; None leaves the choice to the file."""

    modality: Modality | None = None
    data: str | None = None
    rate: float | None = None
    times: str | None = None
    unit: str | None = None
    scale: float | None = None
    axes: str | None = None
    behaviour: Sequence[str] | None = None
    atlas: Any = None
    mask: Any = None
    repair: bool = False


@dataclass(slots=True, eq=False)
class Block:
    """Channels on one clock: `data` (time, channel) in SI units.

    Args:
        kinds: Per channel a modality, another kind such as `"eog"`, or `""` where the file does
            not say.
        scale: Size of one integer step per channel, None for samples that are no integers.
        offset: Value of the integer 0 per channel.
        counts: The integers (time, channel) of samples that have a scale.
    """

    data: NDArray[Any]
    channels: Sequence[str]
    kinds: Sequence[str]
    units: Sequence[str]
    rate: float | None = None
    times: NDArray[np.float64] | None = None
    start: float = 0.0
    scale: NDArray[np.float64] | None = None
    offset: NDArray[np.float64] | None = None
    valid: NDArray[np.bool_] | None = None
    counts: NDArray[Any] | None = None


@dataclass(slots=True, eq=False)
class Draft:
    """All that a format's reader found in a file."""

    blocks: list[Block] = field(default_factory=list)
    events: Events | None = None
    behaviour: dict[str, Signal | Intervals] = field(default_factory=dict)
    quantize: dict[str, Quantization] = field(default_factory=dict)
    subject: str = ""
    session: str = ""
    species: str = ""
    recording_id: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Number the names that repeat: a, b, a -> a-0, b, a-1."""
    repeated = {name for name in names if list(names).count(name) > 1} if names else set()
    seen: dict[str, int] = {}
    found = []
    for name in names:
        if name in repeated:
            seen[name] = seen.get(name, -1) + 1
            found.append(f"{name}-{seen[name]}")
        else:
            found.append(name)
    return tuple(found)


def listed(names: Sequence[str] | Mapping[str, Any], most: int = 12) -> str:
    """Names for a message, the first ones where there are many."""
    shown = ", ".join(repr(name) for name in list(names)[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
