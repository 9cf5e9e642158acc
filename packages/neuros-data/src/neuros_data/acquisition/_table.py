"""Small text tables with a header."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_MISSING = frozenset({"", "n/a", "na", "nan", "none"})


def read_rows(text: str, delimiter: str) -> list[dict[str, str]]:
    r"""Rows of a table by the names of its columns.

    Examples:
        >>> read_rows("a,b\n1,2\n", ",")
        [{'a': '1', 'b': '2'}]
    """
    rows = csv.DictReader(text.splitlines(), delimiter=delimiter)
    return [{str(k): str(v or "") for k, v in row.items() if k is not None} for row in rows]


def read_columns(path: Path) -> Mapping[str, NDArray[np.float64]]:
    """Columns of numbers of a tab-separated file; `n/a` is NaN, columns of text are left out.

    Raises:
        ValueError: When the file has no rows.
    """
    rows = read_rows(path.read_text(encoding="utf-8", errors="replace"), "\t")
    if not rows:
        raise ValueError(f"{path} needs a header and rows, found none; fetch it again")
    columns: dict[str, NDArray[np.float64]] = {}
    for name in rows[0]:
        numbers = [_number(row.get(name, "")) for row in rows]
        if None not in numbers:
            columns[name] = np.array(numbers, dtype=np.float64)
    return columns


def _number(text: str) -> float | None:
    if text.strip().lower() in _MISSING:
        return float("nan")
    try:
        return float(text)
    except ValueError:
        return None
