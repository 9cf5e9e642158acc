"""GDF, FIF, BrainVision and EEGLAB, through MNE-Python."""

import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from neuros_core import Intervals
from neuros_data._extras import need
from neuros_data.reading._draft import Block, Draft, Options
from neuros_data.reading._kinds import kind_of_name, kind_of_type
from neuros_data.reading._mne_counts import counts_of, counts_of_gdf
from neuros_data.reading._units import parse_unit

# Bytes of a sample by the type code of GDF 2.
_GDF_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 8, 8: 8, 16: 4, 17: 8, 279: 3, 535: 3}


def read_gdf(path: Path, options: Options) -> Draft:
    """Read a GDF file."""
    _check_gdf_size(path)
    return _read(path, options, "GDF", lambda mne: mne.io.read_raw_gdf, typed=False)


def read_fif(path: Path, options: Options) -> Draft:
    """Read the raw data of a FIF file."""
    return _read(path, options, "FIF", lambda mne: mne.io.read_raw_fif, typed=True)


def read_brainvision(path: Path, options: Options) -> Draft:
    """Read a BrainVision header and the files it names."""
    return _read(path, options, "BrainVision", lambda mne: mne.io.read_raw_brainvision, typed=False)


def read_eeglab(path: Path, options: Options) -> Draft:
    """Read a continuous EEGLAB set."""
    return _read(path, options, "EEGLAB", lambda mne: mne.io.read_raw_eeglab, typed=False)


def _read(
    path: Path,
    options: Options,
    kind: str,
    reader: Callable[[Any], Callable[..., Any]],
    *,
    typed: bool,
) -> Draft:
    del options  # nothing of it changes how a file of this family is read
    mne = need("mne", "eeg", f"reading {kind}")
    draft = Draft()
    draft.provenance["format"] = kind
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            raw = reader(mne)(path, preload=False, verbose="error")
            data = raw.get_data()
        except Exception as error:
            raise ValueError(
                f"{path} ({path.stat().st_size} bytes) cannot be read as {kind}: {error}"
            ) from error
    draft.notes += [str(w.message) for w in heard if w.category is RuntimeWarning]
    types = raw.get_channel_types()
    counts = counts_of_gdf(path, data.T) if kind == "GDF" else counts_of(raw, data.T)
    draft.blocks = [
        Block(
            data.T,
            list(raw.ch_names),
            [_kind(t, name, typed=typed) for t, name in zip(types, raw.ch_names, strict=True)],
            [_unit(t) for t in types],
            rate=float(raw.info["sfreq"]),
            scale=None if counts is None else counts.scale,
            offset=None if counts is None else counts.offset,
            counts=None if counts is None else counts.values,
        )
    ]
    if len(raw.annotations):
        draft.behaviour["annotations"] = _annotations(raw)
    if raw.info["meas_date"] is not None:
        draft.provenance["began"] = raw.info["meas_date"].isoformat()
    return draft


def _kind(kind: str, name: str, *, typed: bool) -> str:
    # All but FIF call a channel "eeg" when they do not know better.
    return kind_of_name(name) if kind == "eeg" and not typed else kind_of_type(kind)


def _unit(kind: str) -> str:
    if kind in {"mag", "grad"}:
        return "T" if kind == "mag" else "T/m"
    return "a.u." if kind in {"stim", "misc", "syst"} else parse_unit("V").name


def _annotations(raw: Any) -> Intervals:
    """Annotations in seconds from the first sample."""
    found = raw.annotations
    # MNE counts onsets from the device's start, `first_time` before the first sample of the file.
    start = np.asarray(found.onset, np.float64) - raw.first_time
    start = start[order := np.argsort(start, kind="stable")]
    end = start + np.asarray(found.duration, np.float64)[order]
    labels = np.array([str(text) for text in found.description])
    return Intervals(start, end, {"label": labels[order]})


def _check_gdf_size(path: Path) -> None:
    """Compare the size with what the header of GDF 2 says.

    Raises:
        ValueError: When the file is no GDF or shorter than its header says.
    """
    with path.open("rb") as file:
        fixed = file.read(256)
        if fixed[:3] != b"GDF":
            raise ValueError(f"{path} is not GDF: it begins with {fixed[:8]!r}")
        if len(fixed) < 256:
            raise ValueError(f"{path} is truncated: a header needs 256 bytes, found {len(fixed)}")
        if float(fixed[4:8]) < 1.9:
            return
        n_channels = struct.unpack("<H", fixed[252:254])[0]
        table = file.read(256 * n_channels)
    (blocks,) = struct.unpack("<H", fixed[184:186])
    (n_records,) = struct.unpack("<q", fixed[236:244])
    samples = np.frombuffer(table, "<i4", n_channels, offset=216 * n_channels)
    codes = np.frombuffer(table, "<i4", n_channels, offset=220 * n_channels)
    size = sum(int(s) * _GDF_BYTES.get(int(c), 0) for s, c in zip(samples, codes, strict=True))
    needed = 256 * blocks + n_records * size
    found = path.stat().st_size
    if n_records > 0 and found < needed:
        raise ValueError(
            f"{path} is truncated: {n_records} records of {size} bytes need {needed} bytes, found "
            f"{found}; fetch it again"
        )
