"""Which of three lights flickers at 13, 17 or 21 Hz: occipital EEG of a subject never seen."""

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
from gestures import joined
from protocol import Array, Row, Task
from trials import (
    ALONE,
    Scored,
    Split,
    Training,
    better,
    linear_scored,
    model_scored,
    network_scored,
    trial_row,
)

from neuros_neurofm.evaluation._trials import (
    Trials,
    log_band_power,
    log_covariance,
    reference_correlation,
)

__all__ = ["SSVEP"]

_RATE = 128.0
_FREQUENCIES = (13.0, 17.0, 21.0)
# The event that announces the label of the next stimulus; 33024 announces rest.
_CLASSES = {"33025": 0, "33027": 1, "33026": 2}
_START, _SECONDS = "32779", 5.0
_TRAINING = Training(1e-3, 40, width=32, patch_s=0.5, batch_size=16)
_ALONE = Training(5e-3, 80, width=32, patch_s=0.5, batch_size=16)


def read_recording(path: Path, group: int) -> Trials:
    """The 24 trials of 5 s with a flickering light, 6-50 Hz, 128 Hz; rest is left out.

    All rest trials come first in every recording: rest against light would be early against late.
    """
    import mne
    from scipy.signal import butter, resample_poly, sosfiltfilt

    raw = mne.io.read_raw_gdf(path, preload=True, verbose="ERROR")
    names = sorted(raw.ch_names)
    eeg = np.asarray(raw.get_data(picks=names)).T
    # The unit in the header is doubtful; only ratios within a recording are used.
    sections = butter(4, (6.0, 50.0), "bandpass", fs=raw.info["sfreq"], output="sos")
    eeg = sosfiltfilt(sections, eeg / eeg.std(), axis=0)
    eeg = resample_poly(eeg, 1, round(raw.info["sfreq"] / _RATE), axis=0)
    marks = [(note["description"], float(note["onset"])) for note in raw.annotations]
    n, x, labels = round(_SECONDS * _RATE), [], []
    for (announced, _), (event, onset) in pairwise(marks):
        if event == _START and announced in _CLASSES:
            first = round(onset * _RATE)
            x.append(eeg[first : first + n])
            labels.append(_CLASSES[announced])
    stacked = np.stack(x)
    stacked /= stacked.std()
    return Trials(
        "eeg", stacked, np.array(labels), np.full(len(labels), group), _RATE, tuple(names)
    )


def subjects(folder: Path) -> list[list[Path]]:
    """Recordings of each subject; subjects that share a recording are one, and it counts once.

    Subjects 3 and 7 hold the same file, byte for byte: a split between them would leak.
    """
    owners: dict[str, list[str]] = {}
    paths: dict[str, Path] = {}
    for path in sorted((folder / "eeg_ssvep").glob("*.gdf")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        owners.setdefault(digest, []).append(path.name.split("_")[0])
        paths.setdefault(digest, path)
    merged = {name: min(shared) for shared in owners.values() for name in shared if shared[1:]}
    groups: dict[str, list[Path]] = {}
    for digest, names in owners.items():
        groups.setdefault(merged.get(names[0], names[0]), []).append(paths[digest])
    return list(groups.values())


def splits(folder: Path) -> list[Split]:
    """Every subject is tested once, by what the others have taught."""
    sets = [
        joined([read_recording(path, k) for path in paths])
        for k, paths in enumerate(subjects(folder))
    ]
    return [
        Split([joined([*sets[:k], *sets[k + 1 :]])], [held_out], len(_FREQUENCIES), n_folds=3)
        for k, held_out in enumerate(sets)
    ]


def near(x: Array) -> Array:
    """Log-power within 0.3 Hz of each flicker and its double, every electrode."""
    bands = [(k * f - 0.3, k * f + 0.3) for f in _FREQUENCIES for k in (1, 2)]
    return log_band_power(x, _RATE, bands)


def correlations(x: Array) -> Array:
    """Canonical correlation with each flicker."""
    return reference_correlation(x, _RATE, _FREQUENCIES)


def canonical(split: Split) -> Scored:
    """The flicker with the largest canonical correlation; nothing is fitted."""
    test = [correlations(t.x) for t in split.test]
    held_out = [correlations(t.x) for t in split.train]
    return Scored("CCA", test, held_out, 0, 0.0, "largest canonical correlation, 2 harmonics")


_SPECTRA = {
    "log-power near the flickers": near,
    "log-covariance": log_covariance,
}
_ALL = {**_SPECTRA, "canonical correlations": correlations}


def pooled(fits: Sequence[Scored]) -> Scored:
    """One classifier over all tested subjects."""
    return Scored(
        fits[0].name,
        [logits for fit in fits for logits in fit.test],
        [],
        fits[0].n_parameters,
        sum(fit.seconds for fit in fits),
        " / ".join(fit.note for fit in fits),
    )


def ssvep(folder: Path, seed: int) -> list[Row]:
    """Every classifier, each subject left out in turn."""
    if find_spec("mne") is None:
        note = "mne is not installed; pip install 'neuros-data[eeg]' reads GDF"
        return [
            Row("eeg_ssvep", "", "neurofm", "accuracy", *[float("nan")] * 5, 0, 0.0, seed, note)
        ]
    found: dict[str, list[Scored]] = {}
    parts = splits(folder)
    for split in parts:
        spectral = linear_scored("LDA", split, _ALL)
        on_top = model_scored("neurofm on LDA", split, (_TRAINING,), base=spectral, seed=seed)
        alone = model_scored(ALONE, split, (_ALONE,), base=None, seed=seed)
        model = better("neurofm", on_top, alone, split)
        size = {"n_parameters": model.n_parameters, "patch_s": 0.5, "steps": 150, "seed": seed}
        for fit in (
            model,
            alone,
            canonical(split),
            spectral,
            linear_scored("LDA on spectra", split, _SPECTRA),
            network_scored("gru", split, learning_rates=(3e-3,), **size),
            network_scored("transformer", split, learning_rates=(3e-3,), **size),
        ):
            found.setdefault(fit.name, []).append(fit)
    whole = Split(
        parts[0].train, [test for split in parts for test in split.test], len(_FREQUENCIES)
    )
    name = "each subject left out in turn (3 and 7 as one), 3 flickers of 5 s"
    return [
        trial_row("eeg_ssvep", name, whole, pooled(fits), block=8, seed=seed)
        for fits in found.values()
    ]


SSVEP = Task(
    "eeg_ssvep", "13, 17 or 21 Hz flicker from 8 occipital electrodes (chance 0.33)", ssvep
)
