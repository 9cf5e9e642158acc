"""Hand gestures from the muscles of the forearm: another session, and a subject never seen."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from protocol import Array, Row, Task
from trials import (
    ALONE,
    Split,
    Training,
    better,
    linear_scored,
    model_scored,
    network_scored,
    trial_row,
)

from neuros_neurofm.evaluation._trials import Trials, log_covariance

__all__ = ["GESTURES"]

# The armband samples at 200 Hz; the rows of the files repeat what it said last.
_RATE = 200.0
_WINDOW = 50
_N_CLASSES = 6
# Windows of one held gesture, which resemble each other: the block of the bootstrap.
_STRETCH = 7
_PATCH_S = 0.05
_ON_LDA = (Training(3e-3, 225, patch_s=_PATCH_S),)
_ALONE = (Training(3e-3, 300, patch_s=_PATCH_S),)


def read_session(path: Path, units: tuple[str, ...]) -> Trials:
    """Windows of 250 ms within the marked gestures; a group is the repetition of a gesture."""
    with np.load(path) as data:
        time_ms, marks = data["time_ms"], data["label"]
        rows = np.arange(time_ms[0], time_ms[-1], 1000 / _RATE)
        rows = np.searchsorted(time_ms, rows, side="right") - 1
        emg, labels = data["emg"][rows].astype(np.float64), marks[rows].astype(np.int64)
    # A session is one donning of the armband: its unlabelled amplitude is known beforehand.
    emg /= emg.std()
    edges = [0, *(np.flatnonzero(np.diff(labels)) + 1), len(labels)]
    seen = [0] * _N_CLASSES
    x, y, groups = [], [], []
    for start, stop in pairwise(edges):
        label = int(labels[start]) - 1
        if not 0 <= label < _N_CLASSES:
            continue
        for first in range(start, stop - _WINDOW + 1, _WINDOW):
            x.append(emg[first : first + _WINDOW])
            y.append(label)
            groups.append(min(seen[label], 1))
        seen[label] += 1
    return Trials("emg", np.stack(x), np.array(y), np.array(groups), _RATE, units)


def log_variance(x: Array) -> Array:
    """Log-power of every channel."""
    return np.asarray(np.log(x.var(axis=1) + 1e-6))


def waveform_lengths(x: Array) -> Array:
    """Log-covariance of the signal and of its steps: power, what is shared, and how fast it is."""
    return np.concatenate([log_covariance(x), log_covariance(np.diff(x, axis=1))], axis=1)


_FEATURES = {
    "log-variance": log_variance,
    "log-covariance": log_covariance,
    "log-covariance of signal and steps": waveform_lengths,
}


def cross_session(folder: Path) -> Split:
    """Session 1 of every subject that has two; tested on session 2 of the same subjects."""
    train, test = [], []
    for second in sorted((folder / "emg_gestures").glob("*_session2.npz")):
        subject = second.name.split("_")[0]
        units = tuple(f"{subject}/{k}" for k in range(8))
        train.append(read_session(second.with_name(f"{subject}_session1.npz"), units))
        test.append(read_session(second, units))
    return Split(train, test, _N_CLASSES, n_folds=2)


def unseen_subject(folder: Path) -> Split:
    """Every fourth subject is tested, from both sessions; the others train."""
    units = tuple(f"armband/{k}" for k in range(8))
    paths = sorted((folder / "emg_gestures").glob("*.npz"))
    subjects = sorted({path.name.split("_")[0] for path in paths})
    parts: dict[bool, list[Trials]] = {False: [], True: []}
    for path in paths:
        number = subjects.index(path.name.split("_")[0])
        trials = read_session(path, units)
        parts[number % 4 == 3].append(replace(trials, groups=np.full_like(trials.groups, number)))
    return Split([joined(parts[False])], [joined(parts[True])], _N_CLASSES)


def joined(parts: list[Trials]) -> Trials:
    """One set of trials out of several of the same channels."""
    x, labels, groups = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("x", "labels", "groups")
    )
    return replace(parts[0], x=x, labels=labels, groups=groups)


def gestures(folder: Path, seed: int) -> list[Row]:
    """Both questions, every classifier on the same trials."""
    rows = []
    splits = {
        "session 1 to session 2, same subjects": cross_session(folder),
        "unseen subjects, every fourth": unseen_subject(folder),
    }
    for name, split in splits.items():
        lda = linear_scored("LDA", split, _FEATURES, own=len(split.train) > 1)
        on_top = model_scored("neurofm on LDA", split, _ON_LDA, base=lda, seed=seed)
        alone = model_scored(ALONE, split, _ALONE, base=None, seed=seed)
        size = {"n_parameters": on_top.n_parameters, "patch_s": _PATCH_S, "steps": 200}
        fits = [
            better("neurofm", on_top, alone, split),
            alone,
            lda,
            linear_scored("LDA on power", split, {"log-variance": log_variance}),
            network_scored("gru", split, seed=seed, **size),
            network_scored("transformer", split, seed=seed, **size),
        ]
        rows += [
            trial_row("emg_gestures", name, split, fit, block=_STRETCH, seed=seed) for fit in fits
        ]
    return rows


GESTURES = Task(
    "emg_gestures",
    "6 hand gestures from 250 ms of 8 forearm electrodes (chance 0.17)",
    gestures,
)
