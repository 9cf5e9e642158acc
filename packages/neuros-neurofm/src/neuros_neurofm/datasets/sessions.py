"""Folders of recorded sessions: read, cut into blocks and windows, dealt out in batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from neuros_neurofm.datasets._session_batches import SessionBatches, session_loader
from neuros_neurofm.datasets._session_file import (
    read_arrays,
    read_behavior,
    read_rates,
    read_signals,
    read_species,
    read_units,
)

__all__ = [
    "RecordedSession",
    "SessionBatches",
    "TimeBlocks",
    "cut_blocks",
    "load_session",
    "load_sessions",
    "session_loader",
    "windows",
]


@dataclass(frozen=True, eq=False)
class RecordedSession:
    """One continuous recording, each stream at its own rate.

    Attributes:
        name: Name of the file without its ending.
        signals: Modality -> samples (time, channel); NaN marks what was not recorded.
        rates: Modality -> samples per second.
        units: Modality -> channel ids, of those that have them.
        behavior: (time, dim) floats with NaN where unknown, or (time,) integer labels, negative
            where unknown; None without behaviour.
        behavior_rate: Samples of the behaviour per second.
        species: Number of the species (`neuros_core.Species`), -100 where unknown.
    """

    name: str
    signals: Mapping[str, NDArray[np.float32]]
    rates: Mapping[str, float]
    units: Mapping[str, tuple[str, ...]]
    behavior: NDArray[Any] | None
    behavior_rate: float
    species: int

    @property
    def duration(self) -> float:
        """Seconds that every stream covers."""
        ends = [len(x) / self.rates[name] for name, x in self.signals.items()]
        if self.behavior is not None:
            ends.append(len(self.behavior) / self.behavior_rate)
        return min(ends)

    @property
    def labelled(self) -> bool:
        """Whether the behaviour is integer labels."""
        return self.behavior is not None and self.behavior.ndim == 1

    def restricted(self, modalities: Sequence[str]) -> "RecordedSession":
        """The session with some of its modalities only.

        Args:
            modalities: Names; those that the session does not have are left alone.

        Returns:
            The session, possibly without a signal.
        """
        signals = {name: x for name, x in self.signals.items() if name in modalities}
        return replace(self, signals=signals)

    def scaled(self, mean: NDArray[np.float32], scale: NDArray[np.float32]) -> "RecordedSession":
        """The session with its behaviour in other units.

        Args:
            mean: What is taken away, (dim,).
            scale: What the rest is divided by, (dim,).

        Returns:
            The session; one without behaviour, or with labels, as it is.
        """
        if self.behavior is None or self.labelled:
            return self
        return replace(self, behavior=(self.behavior - mean) / scale)


class TimeBlocks(NamedTuple):
    """Start and end in seconds of what is trained on, chosen by and tested on; None: not there."""

    train: tuple[float, float]
    validation: tuple[float, float] | None
    test: tuple[float, float] | None


def load_session(
    path: str | Path, *, sampling_rates: Mapping[str, float] | None = None
) -> RecordedSession:
    """Read one session from an `.npz` file.

    Arrays are named by modality, (time, channel), NaN = not recorded. Beside each `m` stand
    `rate_m` (Hz) and optionally `units_m` (ids of the channels). `behavior` is (time, dim) or
    integer labels (time,), its rate `rate_behavior`, or that of the modality with as many samples.
    `species` is a name or number of `neuros_core.Species`. Sample k of a stream is what happened
    from k / rate to (k + 1) / rate.

    Args:
        path: The file.
        sampling_rates: Hz of modalities for which the file has no rate.

    Returns:
        The session.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A damaged file, an unknown array, or values that are refused; the message names
            the file.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/monday.npz", spike=np.ones((100, 3)), rate_spike=50.0,
        ...              behavior=np.zeros((100, 2)))
        ...     session = load_session(f"{folder}/monday.npz")
        >>> session.name, session.duration, session.behavior_rate
        ('monday', 2.0, 50.0)
    """
    path = Path(path)
    arrays = read_arrays(path)
    signals = read_signals(path, arrays)
    rates = read_rates(path, arrays, sampling_rates or {}, signals)
    behavior, behavior_rate = read_behavior(path, arrays, signals, rates)
    return RecordedSession(
        name=path.stem,
        signals=signals,
        rates=rates,
        units=read_units(path, arrays, signals),
        behavior=behavior,
        behavior_rate=behavior_rate,
        species=read_species(path, arrays),
    )


def load_sessions(
    folder: str | Path,
    *,
    modalities: Sequence[str] | None = None,
    sampling_rates: Mapping[str, float] | None = None,
) -> list[RecordedSession]:
    """Read all `.npz` sessions of a folder, in the order of their names.

    Args:
        folder: Where the files lie; folders in it are not read.
        modalities: Those to keep; None keeps all.
        sampling_rates: Hz of modalities for which a file has no rate.

    Returns:
        At least one session.

    Raises:
        FileNotFoundError: There is no such folder, or no `.npz` file in it.
        ValueError: A file is refused, a session has none of the modalities or no session has one of
            them, or the sessions do not fit together: rates, ids for some only, or behaviour.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b", "a"):
        ...         np.savez(f"{folder}/{name}.npz", lfp=np.zeros((8, 2)), rate_lfp=4)
        ...     [session.name for session in load_sessions(folder)]
        ['a', 'b']
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no data folder {folder}")
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise FileNotFoundError(f"the data folder {folder} holds no .npz session")
    sessions = [load_session(path, sampling_rates=sampling_rates) for path in paths]
    if modalities is not None:
        sessions = [session.restricted(modalities) for session in sessions]
        present = {name for session in sessions for name in session.signals}
        empty = [session.name for session in sessions if not session.signals]
        if empty or set(modalities) - present:
            raise ValueError(
                f"of the modalities {list(modalities)} the folder {folder} has {sorted(present)}, "
                f"and none of them in {empty}; leave out what was not recorded"
            )
    _check_together(sessions)
    return sessions


def cut_blocks(
    duration: float, split: Sequence[float] = (0.6, 0.1, 0.3), *, gap: float
) -> TimeBlocks:
    """Divide a recording into contiguous blocks for training, validation and test.

    Args:
        duration: Length in seconds.
        split: Shares of the three, >= 0, of what the gaps leave; that of the training > 0.
        gap: Seconds between two blocks that belong to neither, >= 0.

    Returns:
        The blocks; None for a share of 0.

    Raises:
        ValueError: Shares that are negative or not three, or a recording shorter than its gaps.

    Examples:
        >>> cut_blocks(12.0, (0.6, 0.2, 0.2), gap=1.0)
        TimeBlocks(train=(0.0, 6.0), validation=(7.0, 9.0), test=(10.0, 12.0))
    """
    if len(split) != 3 or not all(0 <= share < np.inf for share in split) or split[0] <= 0:
        raise ValueError(
            f"split must be three shares >= 0, the first (training) > 0, got {list(split)}"
        )
    if not 0 <= gap < np.inf:
        raise ValueError(f"gap must be >= 0 s, got {gap}")
    usable = duration - gap * (sum(share > 0 for share in split) - 1)
    if usable <= 0:
        raise ValueError(
            f"a recording of {duration:g} s has no room for blocks with gaps of {gap:g} s; lower "
            "gap or record longer"
        )
    train, *others = (round(usable * share / sum(split), 9) for share in split)
    blocks: list[tuple[float, float] | None] = []
    end = train
    for share, length in zip(split[1:], others, strict=True):
        blocks.append((end + gap, end + gap + length) if share > 0 else None)
        end += gap + length if share > 0 else 0.0
    return TimeBlocks((0.0, train), *blocks)


def windows(
    session: RecordedSession,
    block: tuple[float, float] | None = None,
    *,
    window: float,
    stride: float | None = None,
    index: int = 0,
) -> list[dict[str, Any]]:
    """Cut windows, as `training.collate` takes them.

    Args:
        session: The recording.
        block: Start and end in seconds; None: all of it.
        window: Length in seconds.
        stride: Seconds from one window to the next; None: `window`.
        index: Number of the session, which the samples carry as `recording_index`.

    Returns:
        Samples with `rates`, `units` and `masks` (where there is NaN) and, where known, `behavior`
        with the ends of its bins as `behavior_times`; none where the block is too short.

    Raises:
        ValueError: A window or stride that is not > 0, or a window without a sample of a stream.

    Examples:
        >>> session = RecordedSession(
        ...     "s", {"lfp": np.zeros((40, 2), np.float32)}, {"lfp": 10.0}, {}, None, 0.0, -100)
        >>> [sample["start_time"] for sample in windows(session, (1.0, 4.0), window=1.5)]
        [1.0, 2.5]
    """
    stride = window if stride is None else stride
    if not (window > 0 and stride > 0):
        raise ValueError(f"window and stride must be > 0 s, got {window} and {stride}")
    lengths = {name: round(window * rate) for name, rate in session.rates.items()}
    too_slow = [name for name in session.signals if lengths[name] < 1]
    if too_slow:
        raise ValueError(
            f"a window of {window:g} s holds no sample of {', '.join(too_slow)} in session "
            f"{session.name}; choose a longer window"
        )
    begin, end = (0.0, session.duration) if block is None else block
    n_windows = int(np.floor((end - begin - window) / stride + 1e-6)) + 1
    starts = [begin + k * stride for k in range(max(n_windows, 0))]
    samples = [_window(session, start, window, index) for start in starts]
    # Rounding to the nearest sample may reach over the end of a stream by one.
    return [s for s in samples if all(len(s[m]) == lengths[m] for m in session.signals)]


def _window(session: RecordedSession, start: float, window: float, index: int) -> dict[str, Any]:
    sample: dict[str, Any] = {
        "rates": dict(session.rates),
        "recording_index": index,
        "start_time": start,
        "species": session.species,
    }
    masks = {}
    for name, x in session.signals.items():
        values = torch.from_numpy(_part(x, session.rates[name], start, window))
        masks[name] = ~values.isnan()
        sample[name] = values.nan_to_num(0.0)
    if not all(bool(mask.all()) for mask in masks.values()):
        sample["masks"] = masks
    units = {name: ids for name, ids in session.units.items() if name in session.signals}
    if units:
        sample["units"] = units
    if session.behavior is not None:
        sample |= _behavior(session.behavior, session.behavior_rate, start, window)
    return sample


def _part(x: NDArray[Any], rate: float, start: float, window: float) -> NDArray[Any]:
    first = round(start * rate)
    return x[first : first + round(window * rate)]


def _behavior(behavior: NDArray[Any], rate: float, start: float, window: float) -> dict[str, Any]:
    values = torch.from_numpy(_part(behavior, rate, start, window))
    known = values >= 0 if values.ndim == 1 else ~values.isnan().any(dim=1)
    return {
        "behavior": values.clamp(min=0) if values.ndim == 1 else values.nan_to_num(0.0),
        "behavior_mask": known,
        "behavior_times": torch.arange(1, len(values) + 1) / rate,
    }


def _check_together(sessions: Sequence[RecordedSession]) -> None:
    for name in sorted({m for session in sessions for m in session.signals}):
        having = [session for session in sessions if name in session.signals]
        rates = sorted({session.rates[name] for session in having})
        if len(rates) > 1:
            raise ValueError(
                f"{name} must have one rate in all sessions, got {rates} Hz; resample some"
            )
        without = [session.name for session in having if name not in session.units]
        if without and len(without) < len(having):
            raise ValueError(
                f"units_{name} must be in every session or in none, it is missing in {without}"
            )
    kinds = {
        (s.labelled, None if s.labelled else s.behavior.shape[1])
        for s in sessions
        if s.behavior is not None
    }
    if len(kinds) > 1:
        raise ValueError(
            "behavior must have the same dimensions in all sessions, or be labels in all, got "
            f"{[None if s.behavior is None else s.behavior.shape for s in sessions]}"
        )
