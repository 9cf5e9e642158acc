"""Behaviour of an IBL session: trials, wheel, whisker pad."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Intervals, Signal
from neuros_data.acquisition._alf import CAMERAS, TRIALS, WHEEL, find_file, read_npy, read_table
from neuros_data.acquisition._clock import put_on_clock
from neuros_data.preprocessing import WheelVelocity

_COLUMNS = {
    "choice": "choice",
    "probabilityLeft": "probability_left",
    "feedbackType": "feedback",
    "contrastLeft": "contrast_left",
    "contrastRight": "contrast_right",
    "rewardVolume": "reward_volume",
    "stimOn_times": "stimulus_time",
    "goCue_times": "go_cue_time",
    "firstMovement_times": "first_movement_time",
    "response_times": "response_time",
    "feedback_times": "feedback_time",
}


def read_trials(
    folder: Path, *, revision: str, reaction: tuple[float, float]
) -> tuple[Intervals | None, tuple[str, ...]]:
    """The trials table; `flagged` marks trials that an analysis of choices leaves out.

    A trial is flagged when its choice is NaN, or when its first movement is not within
    `reaction` seconds of the stimulus (or is not known).
    """
    path = find_file(folder / "alf", TRIALS, revision=revision)
    if path is None:
        return None, (f"{TRIALS} absent; no trials",)
    table = read_table(path, ("intervals_0", "intervals_1", *_COLUMNS))
    if not {"intervals_0", "intervals_1"} <= set(table):
        raise ValueError(f"{path} needs the columns intervals_0 and intervals_1")
    start, end = (table[f"intervals_{i}"].astype(np.float64) for i in (0, 1))
    timed = np.isfinite(start) & np.isfinite(end) & (end >= start)
    columns = {
        new: table[old][timed].astype(np.float64) for old, new in _COLUMNS.items() if old in table
    }
    columns |= _derived(columns, int(timed.sum()))
    trials: dict[str, NDArray[Any]] = {**columns, "flagged": _flagged(columns, reaction)}
    notes = [
        f"trials: columns {', '.join(sorted(gone))} absent"
        for gone in [set(_COLUMNS) - set(table)]
        if gone
    ]
    if not timed.all():
        notes.append(f"trials: {(~timed).sum()} without start and end left out")
    notes.append(f"trials: {int(trials['flagged'].sum())} of {int(timed.sum())} flagged")
    return Intervals(start[timed], end[timed], trials), tuple(notes)


def _derived(columns: dict[str, NDArray[np.float64]], n: int) -> dict[str, NDArray[np.float64]]:
    nan = np.full(n, np.nan)
    moved = columns.get("first_movement_time", nan) - columns.get("stimulus_time", nan)
    left, right = (columns.get(f"contrast_{side}", nan) for side in CAMERAS)
    # A stimulus is on one side; the other side's contrast is NaN.
    unseen = np.isnan(left) & np.isnan(right)
    signed = np.where(unseen, np.nan, np.nan_to_num(right) - np.nan_to_num(left))
    return {"reaction_time": moved, "contrast": signed}


def _flagged(
    columns: dict[str, NDArray[np.float64]], reaction: tuple[float, float]
) -> NDArray[np.bool_]:
    time = columns["reaction_time"]
    within = (time >= reaction[0]) & (time <= reaction[1])
    choice = columns.get("choice", np.full(len(time), np.nan))
    return np.isnan(choice) | ~within


def read_wheel(
    folder: Path, *, revision: str, step: WheelVelocity
) -> tuple[dict[str, Signal | Intervals], float, tuple[str, ...]]:
    """Velocity and speed of the wheel, and the seconds to either side that a sample depends on."""
    paths = [find_file(folder / "alf", name, revision=revision) for name in WHEEL]
    times, position = (None if path is None else read_npy(path) for path in paths)
    if times is None or position is None:
        return {}, 0.0, ("wheel absent",)
    wheel, notes = put_on_clock(
        times, position, name="wheel", unit="rad", channels=("wheel",), regular=False
    )
    if wheel is None or wheel.duration < 1.0:
        return {}, 0.0, (*notes, "wheel: less than a second; left out")
    velocity = step.apply(wheel)
    speed = replace(velocity, data=np.abs(velocity.data))
    support = step.support((len(wheel.data) - 1) / wheel.duration)
    return {"wheel_velocity": velocity, "wheel_speed": speed}, support, notes


def read_whisker(
    folder: Path, *, revision: str
) -> tuple[dict[str, Signal | Intervals], tuple[str, ...]]:
    """Motion energy of the whisker pad in each camera's view, on that camera's clock."""
    found: dict[str, Signal | Intervals] = {}
    notes: list[str] = []
    for side in CAMERAS:
        name = f"whisker_{side}"
        paths = [
            find_file(folder / "alf", file, revision=revision)
            for file in (f"_ibl_{side}Camera.times.npy", f"{side}Camera.ROIMotionEnergy.npy")
        ]
        times, energy = (None if path is None else read_npy(path) for path in paths)
        if times is None or energy is None:
            notes.append(f"{name} absent")
            continue
        signal, said = put_on_clock(
            times, energy, name=name, unit="a.u.", channels=("motion_energy",)
        )
        notes += said
        if signal is not None:
            found[name] = signal
    return found, tuple(notes)
