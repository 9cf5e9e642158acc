"""A signal as a BrainVision file: a header, markers and multiplexed float32."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neuros_core import Signal

# A comma separates the fields of a header line and is written as \1 inside a name.
_COMMA = "\\1"
_MICROVOLT = 1e6


def write_brainvision(path: Path, signal: Signal, markers: Sequence[tuple[int, int, str]]) -> None:
    """Write `path` (.vhdr) with its `.eeg` and `.vmrk` beside it.

    Volts are written as microvolts, which is what readers expect; other units stay. Samples that
    are not valid are NaN.

    Args:
        path: Of the header.
        signal: On a regular clock.
        markers: First sample, length in samples and description of each.
    """
    scale, unit = (_MICROVOLT, "µV") if signal.unit == "V" else (1.0, signal.unit)
    values = np.asarray(signal.data, np.float64) * scale
    if signal.valid is not None:
        values = np.where(signal.valid, values, np.nan)
    data, marks = path.with_suffix(".eeg"), path.with_suffix(".vmrk")
    values.astype("<f4").tofile(data)
    channels = "\n".join(
        f"Ch{k}={name.replace(',', _COMMA)},,1,{unit}" for k, name in enumerate(signal.channels, 1)
    )
    path.write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n\n"
        "[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={data.name}\nMarkerFile={marks.name}\n"
        "DataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
        f"NumberOfChannels={len(signal.channels)}\n"
        f"SamplingInterval={1e6 / float(signal.rate or 1.0):.12g}\n\n"
        "[Binary Infos]\nBinaryFormat=IEEE_FLOAT_32\n\n"
        f"[Channel Infos]\n{channels}\n",
        encoding="utf-8",
    )
    lines = [
        f"Mk{k}=Comment,{text.replace(',', _COMMA)},{first + 1},{length},0"
        for k, (first, length, text) in enumerate(markers, 2)
    ]
    marks.write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n\n"
        f"[Common Infos]\nCodepage=UTF-8\nDataFile={data.name}\n\n"
        "[Marker Infos]\nMk1=New Segment,,1,1,0\n" + "".join(f"{line}\n" for line in lines),
        encoding="utf-8",
    )
