"""Header of an EDF, EDF+, BDF or BDF+ file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuros_data.reading._units import Unit, parse_unit

_FIELDS = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
_ANNOTATIONS = frozenset({"EDF Annotations", "BDF Annotations"})


@dataclass(frozen=True, eq=False)
class Header:
    """What stands before the first data record.

    Attributes:
        sample_bytes: 2 for EDF, 3 for BDF.
        start: Byte of the first data record.
        n_records: Data records, -1 where the recorder did not say.
        record_seconds: Seconds of one data record.
        samples: Samples of each channel in a record.
        cal: Physical units of one integer step.
        zero: Physical value of the integer 0.
    """

    path: Path
    sample_bytes: int
    patient: str
    began: str
    reserved: str
    start: int
    n_records: int
    record_seconds: float
    labels: tuple[str, ...]
    units: tuple[Unit, ...]
    samples: NDArray[np.int64]
    cal: NDArray[np.float64]
    zero: NDArray[np.float64]
    notes: tuple[str, ...]

    @property
    def record_bytes(self) -> int:
        """Size of one data record."""
        return int(self.samples.sum()) * self.sample_bytes

    @property
    def is_annotation(self) -> NDArray[np.bool_]:
        """Which channels hold annotations instead of samples."""
        return np.array([label in _ANNOTATIONS for label in self.labels], dtype=bool)

    @property
    def discontinuous(self) -> bool:
        """Whether there may be gaps between records (EDF+D, BDF+D)."""
        return self.reserved[:5] in {"EDF+D", "BDF+D"}


def read_header(path: Path) -> Header:
    """Read the header.

    Raises:
        ValueError: When the file is no EDF or BDF, or shorter than its header.
    """
    with path.open("rb") as file:
        fixed = file.read(256)
        _check_kind(path, fixed)
        n = int(_number(path, "number of signals", fixed[252:256]))
        table = file.read(n * sum(_FIELDS))
    if len(table) < n * sum(_FIELDS):
        raise ValueError(
            f"{path} is truncated: its header of {n} channels needs {256 * (n + 1)} bytes, found "
            f"{256 + len(table)}"
        )
    columns = _columns(table, n)
    units = tuple(parse_unit(text) for text in columns[2])
    cal, zero, doubtful = _steps(path, columns[3:7])
    labels = tuple(columns[0])
    told = [label for label, bad in zip(labels, doubtful, strict=True) if bad]
    lost = [f"{', '.join(told)}: no physical range in the header; raw counts are kept"]
    return Header(
        path=path,
        sample_bytes=3 if fixed[0] == 0xFF else 2,
        patient=fixed[8:88].decode("latin-1").strip(),
        began=_began(fixed),
        reserved=fixed[192:236].decode("latin-1").strip(),
        start=int(_number(path, "header size", fixed[184:192])),
        n_records=int(_number(path, "number of records", fixed[236:244])),
        record_seconds=_number(path, "record duration", fixed[244:252]),
        labels=labels,
        units=tuple(
            Unit("a.u.", 1.0) if bad else unit for unit, bad in zip(units, doubtful, strict=True)
        ),
        samples=np.array([int(_number(path, "samples per record", t)) for t in columns[8]]),
        cal=cal,
        zero=zero,
        notes=tuple(lost * bool(told)),
    )


def _check_kind(path: Path, fixed: bytes) -> None:
    if len(fixed) < 256:
        raise ValueError(f"{path} is truncated: a header needs 256 bytes, found {len(fixed)}")
    if fixed[:8].strip() != b"0" and fixed[:8] != b"\xffBIOSEMI":
        raise ValueError(f"{path} is not EDF or BDF: it begins with {fixed[:8]!r}")


def _columns(table: bytes, n: int) -> list[list[str]]:
    columns = []
    at = 0
    for width in _FIELDS:
        cells = [table[at + i * width : at + (i + 1) * width] for i in range(n)]
        columns.append([cell.decode("latin-1").strip(" \x00") for cell in cells])
        at += n * width
    return columns


def _number(path: Path, what: str, cell: str | bytes) -> float:
    text = cell.decode("latin-1") if isinstance(cell, bytes) else cell
    try:
        # Some recorders write a decimal comma.
        return float(text.strip(" \x00").replace(",", "."))
    except ValueError as error:
        raise ValueError(f"{path} has no readable {what}: {text!r}") from error


def _steps(
    path: Path, columns: list[list[str]]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    names = ("physical minimum", "physical maximum", "digital minimum", "digital maximum")
    low, high, d_low, d_high = (
        np.array([_number(path, name, cell) for cell in column])
        for name, column in zip(names, columns, strict=True)
    )
    doubtful = (high == low) | (d_high == d_low)
    spread = np.where(doubtful, 1.0, d_high - d_low)
    cal = np.where(doubtful, 1.0, (high - low) / spread)
    return cal, np.where(doubtful, 0.0, low - d_low * cal), doubtful


def _began(fixed: bytes) -> str:
    """Date and time as ISO 8601; the header's years 85 to 84 are 1985 to 2084."""
    day, month, year = (
        fixed[168:176].decode("latin-1").split(".")[:3]
        if (fixed[168:176].count(b".") == 2)
        else ("", "", "")
    )
    clock = fixed[176:184].decode("latin-1").strip().replace(".", ":")
    if not (day + month + year).isdigit():
        return ""
    century = 1900 if int(year) >= 85 else 2000
    return f"{century + int(year)}-{month}-{day}T{clock}"
