"""`read`: any file of a known format as one recording."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from neuros_core import Modality, Recording, Species
from neuros_core.errors import check_choice
from neuros_data.reading._assemble import Identity, Reading, assemble
from neuros_data.reading._bids import add_sidecars, read_sidecar
from neuros_data.reading._draft import Draft, Options, listed
from neuros_data.reading._formats import check_arguments, find_format
from neuros_data.reading._units import parse_unit


def read(
    path: str | os.PathLike[str],
    modality: str | None = None,
    *,
    subject: str | None = None,
    session: str | None = None,
    species: str | None = None,
    recording_id: str | None = None,
    data: str | None = None,
    rate: float | None = None,
    times: str | None = None,
    unit: str | None = None,
    scale: float | None = None,
    axes: str | None = None,
    behaviour: Sequence[str] | None = None,
    atlas: Any = None,
    mask: Any = None,
    repair: bool = False,
) -> Recording:
    r"""Read a recording from a file of any known format, or a folder of one.

    Formats: EDF, EDF+, BDF, BDF+, GDF, FIF, BrainVision, EEGLAB, NWB 2, NIfTI, CIFTI, CSV and TSV,
    NPZ, NPY, MAT, HDF5, OpenSignals, ALF, and through Neo those of recording systems: Axon,
    Blackrock, CED, Intan, Micromed, Neuralynx, NeuroScope, Open Ephys, Plexon, SpikeGLX, Spike2,
    TDT and more, and units sorted with Phy. A file named as BIDS names files takes subject,
    session, channel types, units, electrodes and events from the files beside it.

    Voltages are in volts, times in seconds from the recording's start. Samples that are NaN or
    infinite and channels that never change stay as they are and are marked in `valid`. A clock
    that is regular within 1 % becomes a rate; otherwise its times are kept. What a user should
    know (gaps, doubtful units, what was left out) is warned and kept in `provenance["notes"]`.

    Args:
        path: File or folder.
        modality: What is recorded where the file does not say, and what to choose where it holds
            several.
        subject: Who was recorded; by default what the file says, else its name.
        session: Which session; by default what the file says, else `"1"`.
        species: Species; by default what the file says, else `"other"`.
        recording_id: Name of the recording; by default from the file's name.
        data: Name of the array (NPZ, MAT, HDF5), series (NWB) or stream (Neo) of samples; streams
            of 5 kHz or more are read only when named.
        rate: Sampling rate in Hz, of files without a clock; it overrides one that the file has.
        times: Name of the array or column of time stamps; a name that ends in `_ms` or `_us`
            counts in these.
        unit: Unit of the samples, such as `"uV"`, where the file does not say.
        scale: Units in one step of the stored numbers.
        axes: Axes of the samples, such as `"channel time"` or `"trial time channel"`.
        behaviour: Names of the arrays or columns that are behaviour; by default (arrays) all that
            have a value a sample.
        atlas: Map of labels for NIfTI or CIFTI, a path or an image: gives the mean of each region.
        mask: Map of the voxels to read from NIfTI, a path or an image.
        repair: Sort time stamps that are out of order and leave out repeated and missing ones.

    Returns:
        The recording.

    Raises:
        FileNotFoundError: When there is nothing at `path`.
        ValueError: When the format is unknown, the file damaged, or a choice is left open; the
            message says which argument decides.
        ImportError: When the format needs an extra that is not installed.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "walk.csv"
        ...     _ = path.write_text("time_ms,Cz,Oz\n0,1.5,2\n4,2.5,3\n8,0.5,1\n")
        ...     recording = read(path, "eeg", unit="uV", species="human")
        >>> eeg = recording.modalities["eeg"]
        >>> eeg.rate, eeg.channels, eeg.unit
        (250.0, ('Cz', 'Oz'), 'V')
    """
    options = Options(
        modality=None if modality is None else _modality(modality),
        data=data,
        rate=rate,
        times=times,
        unit=unit,
        scale=scale,
        axes=axes,
        behaviour=behaviour,
        atlas=atlas,
        mask=mask,
        repair=repair,
    )
    identity = Identity(recording_id or "", subject or "", session or "", species or "")
    return read_exact(path, options, identity).recording


def _modality(name: str) -> Modality:
    check_choice("modality", name, [str(m) for m in Modality])
    return Modality(name)


def read_exact(
    path: str | os.PathLike[str], options: Options | None = None, identity: Identity | None = None
) -> Reading:
    """Read a recording together with what `Store.add` needs to keep its integers.

    Args:
        path: File or folder.
        options: How to take it; by default as `read` without arguments.
        identity: Who was recorded.

    Returns:
        The recording, the lattice of each integer signal, and the notes.

    Raises:
        FileNotFoundError: When there is nothing at `path`.
        ValueError: As `read`.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.npz"
        ...     np.savez(path, emg=np.array([[1], [3], [2]], "int8"), rate=200.0)
        ...     found = read_exact(path, Options(scale=0.5, unit="uV"))
        >>> float(found.quantize["emg"].scale[0])
        5e-07
    """
    where = Path(path)
    chosen = options or Options()
    who = identity or Identity()
    _check(chosen, who)
    known = find_format(where)
    check_arguments(known, chosen)
    sidecar = read_sidecar(where)
    draft = known.read(where, _with_sidecar(chosen, sidecar, known.name))
    add_sidecars(draft, where, sidecar)
    _settle_repetition(draft, sidecar)
    reading = assemble(draft, where, chosen, who)
    for note in reading.notes:
        warnings.warn(f"{where.name}: {note}", UserWarning, stacklevel=3)
    return reading


def _check(options: Options, identity: Identity) -> None:
    if identity.species:
        check_choice("species", identity.species, [str(s) for s in Species])
    if options.rate is not None and not 0 < options.rate < float("inf"):
        raise ValueError(f"rate needs a positive number of Hz, got {options.rate}")
    if options.scale is not None and not 0 < abs(options.scale) < float("inf"):
        raise ValueError(f"scale needs a finite number that is not 0, got {options.scale}")
    if options.rate is not None and options.times is not None:
        raise ValueError("pass rate= or times=, not both: each is a clock")
    if options.unit is not None:
        parse_unit(options.unit)


def _with_sidecar(options: Options, sidecar: dict[str, Any], kind: str) -> Options:
    """The sidecar's repetition time stands for the header's, as BIDS has it."""
    step = sidecar.get("RepetitionTime")
    if kind != "NIfTI" or options.rate is not None or not isinstance(step, int | float):
        return options
    return replace(options, rate=1.0 / step) if step > 0 else options


def _settle_repetition(draft: Draft, sidecar: dict[str, Any]) -> None:
    """Say when the rate of a signal is not that of the sidecar."""
    told = sidecar.get("SamplingFrequency")
    rates = [block.rate for block in draft.blocks if block.rate is not None]
    if not isinstance(told, int | float) or not rates or told <= 0:
        return
    if all(abs(rate / told - 1) > 0.01 for rate in rates):
        shown = listed([f"{rate:g}" for rate in rates])
        draft.notes.append(
            f"the sidecar says {told:g} Hz, the file {shown}; the file's rate is kept"
        )
