"""The parts of an Allen two-photon file (NWB 1): traces, stimuli, running, pupil."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Intervals, Signal
from neuros_data.acquisition._clock import put_on_clock
from neuros_data.acquisition._hdf5 import read_column
from neuros_data.acquisition._stimuli import join_stimuli
from neuros_data.preprocessing import DeltaF, Interpolate, Resample

PIPELINE = "processing/brain_observatory_pipeline"
_DFF = f"{PIPELINE}/DfOverF/imaging_plane_1"
_FLUORESCENCE = f"{PIPELINE}/Fluorescence"
_GAP = 1.5  # frames; what lies in a longer gap was not measured
_SERIES = {
    "running_speed": ("BehavioralTimeSeries/running_speed", "m/s", 0.01, ("speed",)),
    "pupil_position": (
        "EyeTracking/pupil_location_spherical",
        "rad",
        np.pi / 180,
        ("azimuth", "altitude"),
    ),
    "pupil_size": ("PupilTracking/pupil_size", "a.u.", 1.0, ("area",)),
}


def cell_names(file: Any) -> tuple[str, ...]:
    """Cell specimen ids, the same cell having the same one in every session of a container."""
    return tuple(map(str, read_column(file[f"{PIPELINE}/ImageSegmentation/cell_specimen_ids"])))


def read_published(file: Any) -> tuple[Signal | None, tuple[str, ...]]:
    """The published dF/F; None where the file has none."""
    if _DFF not in file:
        return None, ()
    group = file[_DFF]
    return put_on_clock(
        group["timestamps"][()],
        group["data"][()].T,
        name="dF/F",
        unit="dF/F",
        channels=cell_names(file),
    )


def compute_dff(
    file: Any, baseline: DeltaF, rate: float
) -> tuple[Signal | None, float, tuple[str, ...]]:
    """dF/F from the fluorescence of every cell and of the neuropil around it.

    Pipelines from 2.0 on demix the traces first, and keep the neuropil beside them.

    Returns:
        dF/F, the seconds to either side over which a sample depends on others, and notes.
    """
    group = file[_FLUORESCENCE]
    plane = group["imaging_plane_1"]
    demixed = group.get("imaging_plane_1_demixed_signal", plane)["data"]
    beside = group.get("imaging_plane_1_neuropil_response")
    around = plane["neuropil_traces"] if beside is None else beside["data"]
    times, names = frame_times(file), cell_names(file)
    f, notes = put_on_clock(times, demixed[()].T, name="fluorescence", unit="a.u.", channels=names)
    n, _ = put_on_clock(times, around[()].T, name="neuropil", unit="a.u.", channels=names)
    if f is None or n is None:
        return None, 0.0, notes
    if f.times is not None:
        step = float(np.median(np.diff(f.times)))
        frames = Interpolate(1 / step, longest_gap=_GAP * step)
        f, n = frames.apply(f), frames.apply(n)
    own_rate = float(f.rate or rate)
    steps = Resample(rate)
    support = baseline.support(own_rate) + steps.support(own_rate)
    notes = ("dF/F computed from the fluorescence", *notes)
    return steps.apply(baseline.apply(f, n)), support, notes


def read_behaviour(
    file: Any, frames: NDArray[np.float64]
) -> tuple[dict[str, Signal | Intervals], tuple[str, ...]]:
    """Stimuli, running speed and pupil, those that the file has.

    Args:
        file: The open file.
        frames: Time in seconds of every imaging frame; stimuli are written in frames.
    """
    behaviour: dict[str, Signal | Intervals] = {}
    notes: list[str] = []
    for name, (where, unit, factor, channels) in _SERIES.items():
        if f"{PIPELINE}/{where}" not in file:
            notes.append(f"{name} absent")
            continue
        group = file[f"{PIPELINE}/{where}"]
        data = np.asarray(group["data"][()], dtype=np.float64) * factor
        signal, said = put_on_clock(
            group["timestamps"][()], data, name=name, unit=unit, channels=channels
        )
        notes += said
        if signal is not None:
            behaviour[name] = signal
    shown = file.get("stimulus/presentation", {})
    tables = [_stimulus(name, shown[name], frames) for name in sorted(shown)]
    if tables:
        behaviour["stimuli"] = join_stimuli(tables)
    else:
        notes.append("stimuli absent")
    return behaviour, tuple(notes)


def _stimulus(name: str, group: Any, frames: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """One kind of stimulus as a table: its features, or the image that was shown."""
    span = np.asarray(group["frame_duration"][()]).astype(np.int64)
    data = np.asarray(group["data"][()])
    kind = name.removesuffix("_stimulus")
    columns: dict[str, NDArray[Any]] = {}
    if kind == "spontaneous":
        # Rows come in pairs: 1 where spontaneous activity begins, -1 where it ends.
        flat = data.ravel()
        span = np.stack([span[flat == 1, 0], span[flat == -1, 0]], axis=1)
    elif "features" in group:
        features = read_column(group["features"]).ravel()
        columns = {f: data[:, i].astype(np.float64) for i, f in enumerate(features.tolist())}
    else:
        columns = {"frame": data.reshape(len(span), -1)[:, 0].astype(np.float64)}
    last = len(frames) - 1
    return {
        "start": frames[np.clip(span[:, 0], 0, last)],
        "end": frames[np.clip(span[:, 1], 0, last)],
        "stimulus": np.full(len(span), kind),
        **columns,
    }


def frame_times(file: Any) -> NDArray[np.float64]:
    """Time in seconds of every imaging frame."""
    times: NDArray[np.float64] = file[_FLUORESCENCE]["imaging_plane_1"]["timestamps"][()]
    return times
