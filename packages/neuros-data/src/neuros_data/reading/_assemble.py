"""A recording from what a file's reader found: one signal a modality, one clock, samples marked."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Events, Intervals, Modality, Recording, Signal, Species
from neuros_data.format import Quantization
from neuros_data.reading._draft import Block, Draft, Options, unique_names
from neuros_data.reading._kinds import settle_kinds

Part = Signal | Events | Intervals
_MODALITIES = frozenset(str(m) for m in Modality)
_VOLTAGES = frozenset({"eeg", "ecog", "lfp", "emg"})
# Median standard deviation in volts: below is amplifier noise, above is beyond any electrode.
_LEAST, _MOST = 1e-7, 1e-2
_PROBE = 64  # samples that tell most channels from flat ones


@dataclass(frozen=True, eq=False)
class Reading:
    """A recording as `Store.add` takes it without loss.

    Args:
        recording: The recording.
        quantize: Modality or behaviour -> lattice of its samples, for those of integer files.
        float64: Modalities or behaviours to keep in double precision.
        notes: What the user should know, as warned.

    Examples:
        >>> lfp = Signal(np.zeros((10, 1)), rate=10.0)
        >>> Reading(Recording("r", "s", "1", "mouse", {"lfp": lfp})).notes
        ()
    """

    recording: Recording
    quantize: dict[str, Quantization] = field(default_factory=dict)
    float64: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who was recorded, as the caller says; empty where the file decides."""

    recording_id: str = ""
    subject: str = ""
    session: str = ""
    species: str = ""


def assemble(draft: Draft, path: Path, options: Options, identity: Identity) -> Reading:
    """Make the recording."""
    modalities: dict[str, Signal | Events | Intervals] = {}
    behaviour: dict[str, Signal | Intervals] = dict(draft.behaviour)
    quantize = dict(draft.quantize)
    for block in sorted(draft.blocks, key=lambda b: -len(b.channels)):
        for key, signal, lattice in _signals(block, options, path):
            where = _place(key, signal, modalities, behaviour, draft.notes)
            if lattice is not None:
                quantize[where] = lattice
    if draft.events is not None:
        modalities["spike"] = draft.events
    if not modalities and not behaviour:
        raise ValueError(f"{path} holds no signal, no spikes and no annotations")
    origin = _origin([*modalities.values(), *behaviour.values()])
    if origin:
        modalities = {name: _moved(part, origin) for name, part in modalities.items()}
        behaviour = {name: _moved_plain(part, origin) for name, part in behaviour.items()}
        draft.provenance["clock_origin"] = origin
    recording = Recording(
        id=identity.recording_id or draft.recording_id or _plain_id(path),
        subject=identity.subject or draft.subject or stem_of(path),
        session=identity.session or draft.session or "1",
        species=Species(identity.species or draft.species or "other"),
        modalities={Modality(name): part for name, part in modalities.items()},
        behaviour=behaviour,
        provenance={},
    )
    draft.provenance["file"] = path.name
    if draft.notes:
        draft.provenance["notes"] = list(draft.notes)
    whole = _observed_to_the_end(recording, draft.provenance)
    return Reading(whole, quantize, notes=tuple(draft.notes))


def _observed_to_the_end(recording: Recording, provenance: dict[str, Any]) -> Recording:
    """A unit that fires last before the end was observed to the end."""
    end = recording.duration
    parts = {
        name: replace(part, duration=end) if isinstance(part, Events) else part
        for name, part in recording.modalities.items()
    }
    return replace(recording, modalities=parts, provenance=provenance)


def stem_of(path: Path) -> str:
    """A file's name without its ending: a date in it has dots of its own."""
    return path.name.split(".")[0] if path.name.lower().endswith(".nii.gz") else path.stem


def _plain_id(path: Path) -> str:
    # Ids name folders of a store: letters, digits and ._+=- only.
    stem = stem_of(path)
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._+=-") else "-" for c in stem)
    return kept.lstrip("._+=-") or "recording"


def _signals(
    block: Block, options: Options, path: Path
) -> list[tuple[str, Signal, Quantization | None]]:
    kinds = settle_kinds(block.kinds, block.channels, options.modality, path.name)
    groups: dict[tuple[str, str], list[int]] = {}
    for i, (kind, unit) in enumerate(zip(kinds, block.units, strict=True)):
        # Channels of one modality share their unit; a thermometer among electrodes is no EEG.
        groups.setdefault((kind, unit), []).append(i)
    return [(kind, *_pick(block, chosen, kind, unit)) for (kind, unit), chosen in groups.items()]


def _pick(
    block: Block, chosen: Sequence[int], kind: str, unit: str
) -> tuple[Signal, Quantization | None]:
    whole = len(chosen) == len(block.channels)
    data = block.data if whole else block.data[:, chosen]
    given = None if block.valid is None else block.valid[:, chosen]
    lattice = None
    if block.scale is not None and block.offset is not None:
        counts = block.counts if whole or block.counts is None else block.counts[:, chosen]
        lattice = Quantization(block.scale[chosen], block.offset[chosen], counts=counts)
    signal = Signal(
        data,
        rate=block.rate,
        times=block.times,
        unit=unit,
        channels=unique_names([block.channels[i] for i in chosen]),
        valid=mark_valid(data, given, flat=kind in _MODALITIES and kind != "spike"),
        start=block.start,
    )
    return signal, lattice


def mark_valid(
    data: NDArray[Any], given: NDArray[np.bool_] | None = None, *, flat: bool = True
) -> NDArray[np.bool_] | None:
    """Mark what was not measured: NaN, infinite, and (with `flat`) channels that never change."""
    valid = given
    if data.dtype.kind == "f" and not np.isfinite(data.sum()):
        finite = np.isfinite(data)
        valid = finite if valid is None else valid & finite
    if flat and len(data) > 1:
        suspects = np.flatnonzero((data[:_PROBE] == data[0]).all(axis=0))
        dead = suspects[(data[:, suspects] == data[0, suspects]).all(axis=0)]
        if dead.size:
            valid = np.ones(data.shape, bool) if valid is None else valid.copy()
            valid[:, dead] = False
    return None if valid is None or bool(valid.all()) else valid


def _place(
    key: str,
    signal: Signal,
    modalities: dict[str, Signal | Events | Intervals],
    behaviour: dict[str, Signal | Intervals],
    notes: list[str],
) -> str:
    """File a signal under its modality; a second of the same modality becomes a behaviour."""
    if key in _MODALITIES and key not in modalities:
        modalities[key] = signal
        if key in _VOLTAGES:
            _doubt_amplitude(key, signal, notes)
        return key
    name = key
    if key in _MODALITIES:
        clock = "irregular" if signal.rate is None else f"{signal.rate:g} Hz"
        name = f"{key} ({clock}, {signal.unit})"
        notes.append(
            f"{key}: {len(signal.channels)} channels of another rate or unit are kept as behaviour "
            f"{name!r}"
        )
    while name in behaviour:
        name += "+"
    behaviour[name] = signal
    return name


def _doubt_amplitude(key: str, signal: Signal, notes: list[str]) -> None:
    if signal.unit != "V" or not len(signal.data):
        return
    # A stretch from the middle tells the order of magnitude at little cost.
    middle = len(signal.data) // 2
    stretch = np.asarray(signal.data[max(0, middle - 4096) : middle + 4096], np.float64)
    spread = np.std(np.where(np.isfinite(stretch), stretch, 0.0), axis=0)
    typical = float(np.median(spread[spread > 0])) if (spread > 0).any() else 0.0
    if typical and not _LEAST <= typical <= _MOST:
        notes.append(
            f"{key}: the median standard deviation of a channel is {typical:.2g} V, expected "
            f"{_LEAST:g} to {_MOST:g} V; the unit in the header is doubtful"
        )


def _origin(parts: Sequence[Part]) -> float:
    """What to subtract so that times count from the recording's start; 0 where they do already."""
    starts = [s for part in parts if (s := _first(part)) is not None]
    if not starts:
        return 0.0
    first, last = min(starts), max(_last(part) for part in parts)
    # Later than the recording is long: the clock counts from something else.
    return first if first < 0 or first > last - first > 0 else 0.0


def _first(part: Part) -> float | None:
    if isinstance(part, Signal):
        if part.times is None:
            return part.start
        return float(part.times[0]) if len(part.times) else None
    values = part.times if isinstance(part, Events) else part.start
    return float(values.min()) if len(values) else None


def _last(part: Part) -> float:
    if isinstance(part, Signal):
        if part.times is None:
            return part.start + part.duration
        return float(part.times[-1]) if len(part.times) else 0.0
    if isinstance(part, Events):
        return float(part.duration or 0.0)
    return float(part.end.max(initial=0.0))


def _moved(part: Part, origin: float) -> Part:
    if isinstance(part, Events):
        duration = None if part.duration is None else part.duration - origin
        times = part.times - origin
        last = float(times[-1]) if len(times) else 0.0
        return replace(part, times=times, duration=max(duration or 0.0, last))
    return _moved_plain(part, origin)


def _moved_plain(part: Signal | Intervals, origin: float) -> Signal | Intervals:
    if isinstance(part, Intervals):
        return replace(part, start=part.start - origin, end=part.end - origin)
    if part.times is not None:
        return replace(part, times=part.times - origin)
    return replace(part, start=part.start - origin)
