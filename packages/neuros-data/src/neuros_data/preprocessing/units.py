"""Which sorted units are good enough."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Events

__all__ = ["UnitQuality"]


@dataclass(frozen=True)
class UnitQuality:
    """Thresholds of the quality metrics of sorted units; None leaves a metric out.

    The defaults are those that the Allen Institute published for its Neuropixels data. A unit
    whose metric is NaN was not measured, and is not kept.

    Args:
        presence_ratio: Share of the session in which a unit fires: more than this.
        amplitude_cutoff: Share of spikes lost below the threshold of detection: less than this.
        isi_violations: Relative rate of refractory violations: less than this.
        label: Share of quality tests passed, as the International Brain Laboratory gives it: at
            least this.

    Examples:
        >>> metrics = {"label": np.array([1.0, 0.67, np.nan])}
        >>> UnitQuality(None, None, None, label=1.0).keep(metrics).tolist()
        [True, False, False]

    References:
        Siegle et al. (2021), Survey of spiking in the mouse visual system reveals functional
        hierarchy, Nature 592, 86, doi:10.1038/s41586-020-03171-x.
    """

    presence_ratio: float | None = 0.9
    amplitude_cutoff: float | None = 0.1
    isi_violations: float | None = 0.5
    label: float | None = None

    def keep(self, table: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """Which units pass.

        Args:
            table: Columns with one value per unit.

        Returns:
            Shape (unit,).

        Raises:
            ValueError: When a metric with a threshold is not among the columns, or there is no
                threshold at all.
        """
        tests: dict[str, tuple[np.ufunc, float | None]] = {
            "presence_ratio": (np.greater, self.presence_ratio),
            "amplitude_cutoff": (np.less, self.amplitude_cutoff),
            "isi_violations": (np.less, self.isi_violations),
            "label": (np.greater_equal, self.label),
        }
        asked = {name: (how, at) for name, (how, at) in tests.items() if at is not None}
        if not asked:
            raise ValueError("quality control needs at least one threshold, got none")
        if missing := sorted(set(asked) - set(table)):
            raise ValueError(
                f"quality control needs the columns {', '.join(missing)}, the table has "
                f"{', '.join(sorted(table)) or 'none'}; set their thresholds to None"
            )
        # NaN compares False either way.
        passed = [
            compare(np.asarray(table[name], np.float64), threshold)
            for name, (compare, threshold) in asked.items()
        ]
        kept: NDArray[np.bool_] = np.logical_and.reduce(passed)
        return kept

    def apply(self, events: Events) -> Events:
        """The events of the units that pass; unit ids are numbered anew.

        Args:
            events: With the metrics in its table.

        Returns:
            Fewer units over the same time, with their names and rows of the table.

        Raises:
            ValueError: When a metric with a threshold is not in the table.

        Examples:
            >>> e = Events(np.array([0.1, 0.2, 0.3]), np.array([0, 1, 1]), 2,
            ...            table={"label": np.array([0.3, 1.0])})
            >>> good = UnitQuality(None, None, None, label=1.0).apply(e)
            >>> good.units, good.times.tolist(), good.unit_ids.tolist()
            (('1',), [0.2, 0.3], [0, 0])
        """
        kept = self.keep(events.table)
        number = np.cumsum(kept) - 1
        theirs = kept[events.unit_ids]
        return replace(
            events,
            times=events.times[theirs],
            unit_ids=number[events.unit_ids[theirs]],
            n_units=int(kept.sum()),
            units=tuple(name for name, good in zip(events.units, kept, strict=True) if good),
            table={name: np.asarray(column)[kept] for name, column in events.table.items()},
        )

    def support(self, rate: float) -> float:
        """Spikes are kept or left out; none is moved.

        Args:
            rate: Rate in Hz, which does not matter.

        Returns:
            0 seconds. The metrics themselves are of the whole session.
        """
        del rate  # events have no rate
        return 0.0
