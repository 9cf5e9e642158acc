"""EDF, EDF+, BDF and BDF+: integers with a scale, annotations, several rates, gaps between records.

Kemp et al. 1992, doi:10.1016/0013-4694(92)90009-7; Kemp and Olivan 2003,
doi:10.1016/S1388-2457(03)00123-8. The samples are those of MNE-Python bit for bit.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuros_core import Intervals
from neuros_data.reading._draft import Block, Draft, Options
from neuros_data.reading._edf_header import Header, read_header
from neuros_data.reading._kinds import kind_of_name

_RECORDS = 8  # records decoded at once


class Annotation(NamedTuple):
    """One annotation: seconds from the start in the header, seconds, text."""

    onset: float
    duration: float
    text: str


def read_edf(path: Path, options: Options) -> Draft:
    """Read a file of the EDF family."""
    del options  # nothing of it changes how a file of this family is read
    header = read_header(path)
    records, notes = _records(header)
    began, annotations = _annotations(header, records)
    draft = Draft(notes=[*header.notes, *notes], subject=_subject(header))
    draft.provenance["format"] = "BDF" if header.sample_bytes == 3 else "EDF"
    if header.began:
        draft.provenance["began"] = header.began
    draft.blocks = [
        _block(header, records, began, int(n), draft.notes)
        for n in np.unique(header.samples[~header.is_annotation])
        if n
    ]
    if annotations:
        origin = float(began[0]) if len(began) else 0.0
        draft.behaviour["annotations"] = _as_intervals(annotations, origin)
    return draft


def _subject(header: Header) -> str:
    """The patient code of EDF+; plain EDF has free text there, which may be a name."""
    code = header.patient.split(" ")[0]
    return code if header.reserved[:4] in {"EDF+", "BDF+"} and code not in {"", "X"} else ""


def _records(header: Header) -> tuple[NDArray[Any], list[str]]:
    """Data records as stored, (record, byte), and what their number tells."""
    found = header.path.stat().st_size - header.start
    size = header.record_bytes
    whole = found // size if size else 0
    n, notes = header.n_records, []
    if n < 0:
        n = whole
        notes.append(f"the header does not say how many records there are; {n} were found")
    if whole < n:
        raise ValueError(
            f"{header.path} is truncated: {n} records of {size} bytes need "
            f"{header.start + n * size} bytes, found {header.start + found}; fetch it again"
        )
    if found > n * size:
        notes.append(f"{found - n * size} bytes after the last record are left out")
    if not n or not size:
        return np.empty((0, size), np.uint8), notes
    data = np.fromfile(header.path, np.uint8, count=n * size, offset=header.start)
    return data.reshape(n, size), notes


def _integers(header: Header, raw: NDArray[np.uint8]) -> NDArray[Any]:
    """Bytes (record, byte) of some channels as integers (record, sample)."""
    if header.sample_bytes == 2:
        return np.ascontiguousarray(raw).view("<i2")
    n, size = raw.shape
    wide = np.zeros((n, size // 3, 4), np.uint8)
    wide[..., 1:] = raw.reshape(n, size // 3, 3)
    # The three bytes are the upper ones; shifting down keeps their sign.
    shifted: NDArray[Any] = wide.view("<i4")[..., 0] >> 8
    return shifted


def _block(
    header: Header, records: NDArray[Any], began: NDArray[np.float64], n: int, notes: list[str]
) -> Block:
    """The channels that have `n` samples in a record."""
    chosen = np.flatnonzero((header.samples == n) & ~header.is_annotation)
    rate = n / header.record_seconds if header.record_seconds > 0 else float(n)
    gain = np.array([header.units[i].factor for i in chosen])
    cal, zero = header.cal[chosen], header.zero[chosen]
    names = [header.labels[i] for i in chosen]
    times = _times(header, began, n, rate, notes)
    # One transposition for all: integers are a quarter of the bytes of samples.
    stored = _chosen_integers(header, records, chosen, n).transpose(0, 2, 1)
    counts = np.ascontiguousarray(stored).reshape(-1, len(chosen))
    return Block(
        _physical(counts, _RECORDS * n, (cal, zero, gain)),
        names,
        [kind_of_name(name) for name in names],
        [header.units[i].name for i in chosen],
        rate=rate if times is None else None,
        times=times,
        scale=cal * gain,
        offset=zero * gain,
        counts=counts,
    )


def _physical(
    counts: NDArray[Any], n: int, steps: tuple[NDArray[np.float64], ...]
) -> NDArray[np.float64]:
    """Samples (time, channel); multiplied, shifted and multiplied again in the order of MNE."""
    cal, zero, gain = steps
    out = np.empty(counts.shape)
    # Some seconds at a time stay in the cache through all three steps.
    for k in range(0, len(counts), n):
        part = out[k : k + n]
        np.multiply(counts[k : k + n], cal, out=part)
        part += zero
        part *= gain
    return out


def _chosen_integers(
    header: Header, records: NDArray[Any], chosen: NDArray[np.int64], n: int
) -> NDArray[Any]:
    """Integers (record, channel, sample); a view where the channels stand side by side."""
    ends = np.cumsum(header.samples) * header.sample_bytes
    width = n * header.sample_bytes
    shape = (len(records), len(chosen), n)
    if (np.diff(chosen) == 1).all():
        block = records[:, ends[chosen[0]] - width : ends[chosen[-1]]]
        return _integers(header, block).reshape(shape)
    parts = [_integers(header, records[:, ends[i] - width : ends[i]]) for i in chosen]
    return np.stack(parts, axis=1)


def _times(
    header: Header, began: NDArray[np.float64], n: int, rate: float, notes: list[str]
) -> NDArray[np.float64] | None:
    """Times of the samples where there are gaps between records, else None."""
    if not header.discontinuous or len(began) < 2:
        return None
    gaps = np.diff(began) - header.record_seconds
    if (np.abs(gaps) * rate < 0.5).all():
        return None
    i = int(np.abs(gaps).argmax())
    if (gaps * rate < -0.5).any():
        raise ValueError(
            f"{header.path} has records that overlap: one starts at {began[i + 1]} s, the one "
            f"before at {began[i]} s and lasts {header.record_seconds} s"
        )
    notes.append(
        f"{int((gaps * rate >= 0.5).sum())} gaps between records, times are kept; the largest is "
        f"{gaps[i]:.4g} s, after {began[i] + header.record_seconds - began[0]:.4g} s"
    )
    times: NDArray[np.float64] = ((began - began[0])[:, None] + np.arange(n) / rate).ravel()
    return times


def _annotations(
    header: Header, records: NDArray[Any]
) -> tuple[NDArray[np.float64], list[Annotation]]:
    """Start of each record in seconds (empty for plain EDF), and the annotations in it."""
    ends = np.cumsum(header.samples) * header.sample_bytes
    began: list[float] = []
    found: list[Annotation] = []
    for order, i in enumerate(np.flatnonzero(header.is_annotation)):
        width = int(header.samples[i]) * header.sample_bytes
        for k, raw in enumerate(records[:, ends[i] - width : ends[i]]):
            told = [a for tal in raw.tobytes().split(b"\x00") for a in _parse(header.path, tal)]
            if order == 0 and (not told or told[0].text):
                raise ValueError(
                    f"{header.path} is not valid EDF+: record {k} does not say when it starts"
                )
            began += [told[0].onset] * (order == 0)
            found += [a for a in told if a.text]
    return np.array(began), found


def _parse(path: Path, tal: bytes) -> list[Annotation]:
    r"""Annotations of one time-stamped list: `+onset[\x15duration]\x14text\x14text\x14`."""
    if not tal.strip(b"\x00"):
        return []
    stamp, *texts = tal.split(b"\x14")
    onset, _, duration = stamp.partition(b"\x15")
    try:
        seconds, lasting = float(onset), float(duration or 0)
    except ValueError as error:
        raise ValueError(f"{path} has an annotation without a time: {tal[:40]!r}") from error
    words = [text.decode("utf-8", errors="replace").strip() for text in texts[:-1]]
    # A list with an empty text only says when its record starts.
    return [Annotation(seconds, lasting, text) for text in words if text] or [
        Annotation(seconds, lasting, "")
    ]


def _as_intervals(annotations: list[Annotation], origin: float) -> Intervals:
    ordered = sorted(annotations, key=lambda a: a.onset)
    start = np.array([a.onset for a in ordered]) - origin
    lasting = np.array([a.duration for a in ordered])
    return Intervals(start, start + lasting, {"label": np.array([a.text for a in ordered])})
