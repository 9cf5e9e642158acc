"""Recordings as a BIDS data set."""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuros_core import Intervals, Recording, Signal
from neuros_data.export._brainvision import write_brainvision
from neuros_data.store import Store

_VERSION = "1.10.0"
# Modality -> folder, suffix and type of its channels in BIDS.
_SIGNALS = {
    "eeg": ("eeg", "eeg", "EEG"),
    "ecog": ("ieeg", "ieeg", "ECOG"),
    "lfp": ("ieeg", "ieeg", "SEEG"),
    "emg": ("emg", "emg", "EMG"),
}


def export_bids(store: Store, folder: Path, recordings: Sequence[str]) -> list[Path]:
    """Write a data set; what BIDS has no place for is named in its README."""
    _write_json(
        folder / "dataset_description.json",
        {
            "Name": store.manifest.get("source") or store.path.name,
            "BIDSVersion": _VERSION,
            "DatasetType": "raw",
            "License": store.manifest.get("licence", ""),
            "GeneratedBy": [{"Name": "neuros-data"}],
        },
    )
    subjects: dict[str, str] = {}
    left_out: list[str] = []
    for name in recordings:
        recording = store.recordings[name]
        subjects[_label(recording.subject)] = str(recording.species)
        left_out += _write_recording(folder, recording)
    rows = [[f"sub-{subject}", species] for subject, species in sorted(subjects.items())]
    _write_table(folder / "participants.tsv", ["participant_id", "species"], rows)
    lines = [f"{len(recordings)} recordings, written by neuros-data.", ""]
    if left_out:
        lines += ["Without a place in BIDS, and so left out:", ""]
        lines += [f"- {what}" for what in left_out]
    (folder / "README").write_text("\n".join(lines) + "\n", encoding="utf-8")
    homes = [folder / f"sub-{subject}" for subject in sorted(subjects)]
    return [home for home in homes if home.is_dir()]


def _label(text: str) -> str:
    """BIDS labels hold letters and digits only."""
    return re.sub(r"[^0-9A-Za-z]", "", text) or "unknown"


def _write_recording(folder: Path, recording: Recording) -> list[str]:
    subject, session = _label(recording.subject), _label(recording.session)
    home = folder / f"sub-{subject}" / f"ses-{session}"
    # Two recordings of one session differ by their id, which the acquisition label keeps.
    stem = f"sub-{subject}_ses-{session}_task-unknown_acq-{_label(recording.id)}"
    left_out = []
    for modality, part in recording.modalities.items():
        name = str(modality)
        if name in _SIGNALS and isinstance(part, Signal) and part.rate is not None:
            _write_signal(home, stem, name, part, recording.behaviour)
        elif name == "fmri" and isinstance(part, Signal):
            derived = folder / "derivatives" / "neuros-data" / f"sub-{subject}" / "func"
            _write_regions(derived, stem, part)
        else:
            left_out.append(f"{recording.id}: {name}")
    left_out += [
        f"{recording.id}: behaviour {name}"
        for name, part in recording.behaviour.items()
        if not isinstance(part, Intervals)
    ]
    return left_out


def _write_signal(
    home: Path,
    stem: str,
    modality: str,
    signal: Signal,
    behaviour: Mapping[str, Signal | Intervals],
) -> None:
    kind, suffix, channel_type = _SIGNALS[modality]
    folder = home / kind
    folder.mkdir(parents=True, exist_ok=True)
    # ECoG and LFP of one recording share a folder and a suffix: the run label tells them apart.
    stem = f"{stem}_run-{2 if modality == 'lfp' else 1}" if kind == "ieeg" else stem
    rate = float(signal.rate or 1.0)
    events = sorted(_events(behaviour, signal.start))
    markers = [(round(on * rate), max(round(dur * rate), 1), text) for on, dur, text in events]
    write_brainvision(folder / f"{stem}_{suffix}.vhdr", signal, markers)
    volts = signal.unit == "V"
    rows = [
        [name, channel_type, "uV" if volts else signal.unit, rate, _status(signal, k)]
        for k, name in enumerate(signal.channels)
    ]
    header = ["name", "type", "units", "sampling_frequency", "status"]
    _write_table(folder / f"{stem}_channels.tsv", header, rows)
    if events:
        rows = [[f"{on:.6f}", f"{dur:.6f}", text] for on, dur, text in events]
        _write_table(folder / f"{stem}_events.tsv", ["onset", "duration", "trial_type"], rows)
    about = {
        "TaskName": "unknown",
        "SamplingFrequency": rate,
        "PowerLineFrequency": "n/a",
        "SoftwareFilters": "n/a",
        "RecordingDuration": len(signal.data) / rate,
        "RecordingType": "continuous",
        f"{channel_type}ChannelCount": len(signal.channels),
        f"{suffix if suffix == 'ieeg' else suffix.upper()}Reference": "n/a",
    }
    if suffix == "ieeg":
        about["iEEGReference"] = about.pop("ieegReference")
    _write_json(folder / f"{stem}_{suffix}.json", about)


def _status(signal: Signal, channel: int) -> str:
    bad = signal.valid is not None and not np.asarray(signal.valid)[:, channel].any()
    return "bad" if bad else "good"


def _events(
    behaviour: Mapping[str, Signal | Intervals], start: float
) -> Iterator[tuple[float, float, str]]:
    """Onset and duration in seconds, and what it is: the intervals' name and their values."""
    for name, part in behaviour.items():
        if isinstance(part, Intervals):
            for k in range(len(part)):
                cells = [f"{column}={values[k]}" for column, values in part.columns.items()]
                text = "/".join([name, *cells])
                yield float(part.start[k]) - start, float(part.end[k] - part.start[k]), text


def _write_regions(folder: Path, stem: str, signal: Signal) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    values = np.asarray(signal.data, np.float64)
    if signal.valid is not None:
        values = np.where(signal.valid, values, np.nan)
    rows = [["n/a" if np.isnan(v) else repr(float(v)) for v in row] for row in values]
    _write_table(folder / f"{stem}_timeseries.tsv", list(signal.channels), rows)
    period = None if signal.rate is None else 1.0 / signal.rate
    _write_json(
        folder / f"{stem}_timeseries.json",
        {"RepetitionTime": period, "SamplingFrequency": signal.rate, "Units": signal.unit},
    )


def _write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
