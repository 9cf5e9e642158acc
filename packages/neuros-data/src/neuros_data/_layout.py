"""What a window holds, and where in a recording windows may lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neuros_core import Modality
from neuros_data._behaviour import dimension, find_behaviour
from neuros_data._files import StoreFiles, shorten
from neuros_data._index import Clock

Meta = dict[str, Any]


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """What a window holds; `Store.windows` explains every field.

    Attributes:
        window: Length in seconds.
        stride: Seconds between starts.
        modalities: Names in the order asked for; None for all.
        bin: Width of a spike bin in seconds.
        behaviour: Names of behaviours.
        behaviour_rate: Queries per second.
        lag: Seconds by which neural activity follows behaviour.
        fill: Value where a mask is False.

    Examples:
        >>> WindowSpec(window=1.0, stride=0.5).behaviour
        ()
    """

    window: float
    stride: float
    modalities: tuple[str, ...] | None = None
    bin: float | None = None
    behaviour: tuple[str, ...] = ()
    behaviour_rate: float | None = None
    lag: float = 0.0
    fill: float = 0.0

    def __post_init__(self) -> None:
        for name in ("window", "stride", "bin", "behaviour_rate"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} needs a positive number, got {value}")
        if not np.isfinite(self.lag):
            raise ValueError(f"lag needs a finite number of seconds, got {self.lag}")
        if self.bin is not None:
            ratio = self.window / self.bin
            if ratio < 0.5 or abs(ratio - round(ratio)) > 1e-6:
                raise ValueError(
                    f"window needs a whole number of bins, got {self.window} s of "
                    f"{self.bin} s: {ratio:.3f}"
                )


@dataclass(frozen=True)
class Query:
    """Queries per window, their rate, and the dimensions of each behaviour."""

    n: int
    rate: float
    dims: tuple[int, ...]

    @property
    def dim(self) -> int:
        return sum(self.dims)


def plan_queries(files: StoreFiles, spec: WindowSpec, recordings: Sequence[str]) -> Query | None:
    """Number and rate of a window's queries; None when no behaviour is asked for."""
    if not spec.behaviour:
        return None
    dims, rates = [], []
    for name in spec.behaviour:
        parts = [f for r in recordings if (f := find_behaviour(files.meta(r), name)) is not None]
        if not parts:
            known = sorted({b for r in recordings for b in files.meta(r)["behaviour"]})
            raise ValueError(f"no recording has a behaviour {name!r}; they have {shorten(known)}")
        sizes = {dimension(part) for part, _ in parts}
        if len(sizes) > 1:
            raise ValueError(f"behaviour {name!r} has {sorted(sizes)} channels; read them apart")
        dims.append(sizes.pop())
        rates += [part["rate"] for part, _ in parts if part.get("rate")]
    rate = spec.behaviour_rate or next(iter(rates), None)
    if rate is None:
        raise ValueError("behaviour without a rate of its own needs behaviour_rate, got None")
    if rates and rate > min(rates) * (1 + 1e-9):
        raise ValueError(
            f"behaviour_rate needs at most the recorded rate {min(rates)} Hz, got {rate}: a block "
            "mean needs a sample in every block"
        )
    n = round(spec.window * rate)
    if n < 1:
        raise ValueError(f"a window of {spec.window} s holds no query at {rate} Hz; lengthen it")
    return Query(n, float(rate), tuple(dims))


def choose_modalities(
    files: StoreFiles, spec: WindowSpec, recordings: Sequence[str]
) -> tuple[str, ...]:
    """Modalities asked for, or all there are, in the order of `Modality`."""
    present = {m for r in recordings for m in files.meta(r)["modalities"]}
    if spec.modalities is None:
        asked = tuple(str(m) for m in Modality if m in present)
    else:
        asked = tuple(str(Modality(m)) for m in spec.modalities)
    if absent := [m for m in asked if m not in present] or not asked:
        raise ValueError(f"no recording has {absent}; they have {sorted(present)}")
    return asked


def clocks_of(
    meta: Meta, recording_id: str, modalities: Sequence[str], spec: WindowSpec
) -> list[Clock]:
    """Extent and rate of each modality asked for that a recording has."""
    parts = meta["modalities"]
    return [_clock(parts[m], f"{m} of {recording_id!r}", spec) for m in modalities if m in parts]


def _clock(part: Meta, what: str, spec: WindowSpec) -> Clock:
    if part["kind"] == "intervals":
        raise ValueError(f"{what} is made of intervals; only signals and events have windows")
    if part["kind"] == "events":
        if spec.bin is None:
            raise ValueError(f"{what} is made of events and needs bin, the width of a count in s")
        return Clock(0.0, part["duration"], None)
    if part["rate"] is None:
        return Clock(0.0, part["stop"], None)
    if round(spec.window * part["rate"]) < 1:
        raise ValueError(
            f"a window of {spec.window} s holds no sample of {what} at {part['rate']} Hz; "
            "lengthen it or leave the modality out"
        )
    return Clock(part["start"], part["stop"], part["rate"])
