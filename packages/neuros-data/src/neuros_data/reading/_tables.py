"""CSV and TSV: one row a sample, one column a channel, a time column or a rate."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Signal
from neuros_data.reading._assemble import mark_valid
from neuros_data.reading._clock import Clock, settle_clock
from neuros_data.reading._draft import Block, Draft, Options, listed, unique_names
from neuros_data.reading._kinds import kind_of_name
from neuros_data.reading._roles import bare
from neuros_data.reading._runs import runs_of
from neuros_data.reading._units import parse_unit, seconds_of_name

_TIME = frozenset({"time", "times", "t", "timestamp", "timestamps", "seconds"})
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-nan"})
_SEPARATORS = (",", "\t", ";", " ")


def read_table_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header (made up where the first row is numbers) and cells of a table of text.

    Raises:
        ValueError: When the file is empty, not text, or a row has another number of cells.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a table of text in UTF-8: {error}") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty; a table needs a row of names and a row of values")
    separator = _separator(path, lines[0])
    rows = [
        [cell.strip() for cell in row]
        for row in csv.reader(lines, delimiter=separator, skipinitialspace=separator == " ")
    ]
    width = len(rows[0])
    for i, row in enumerate(rows):
        if len(row) != width:
            raise ValueError(
                f"{path} has {len(row)} cells in row {i + 1}, expected {width} as in its first "
                "row; it may be truncated there"
            )
    if all(_number(cell) is not None for cell in rows[0]):
        return [str(i) for i in range(width)], rows
    return list(unique_names(rows[0])), rows[1:]


def _separator(path: Path, line: str) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    return max(_SEPARATORS, key=line.count)


def _number(cell: str) -> float | None:
    if cell.lower() in _MISSING:
        return float("nan")
    try:
        return float(cell)
    except ValueError:
        return None


def column_of(cells: list[str]) -> NDArray[Any]:
    """Numbers (missing ones NaN), or text where a cell is no number."""
    numbers = [_number(cell) for cell in cells]
    if all(n is not None for n in numbers):
        return np.array(numbers, dtype=np.float64)
    return np.array(cells)


def read_table(path: Path, options: Options) -> Draft:
    """Read a table of signals."""
    header, rows = read_table_rows(path)
    if not rows:
        raise ValueError(f"{path} has a row of names and no row of values")
    columns = {name: column_of([r[i] for r in rows]) for i, name in enumerate(header)}
    draft = Draft(provenance={"format": "table"})
    time_name = _time_column(columns, options, path)
    clock = _clock(columns, time_name, options, path)
    draft.notes += clock.notes
    kept = {
        name: values if clock.keep is None else values[clock.keep]
        for name, values in columns.items()
        if name != time_name
    }
    for name in _behaviours(kept, options, path):
        draft.behaviour[name] = _behaviour(name, kept.pop(name), clock)
    if not kept:
        raise ValueError(f"{path} has no column of numbers besides time and behaviour")
    draft.blocks.append(_block(kept, clock, options))
    return draft


def _time_column(columns: dict[str, NDArray[Any]], options: Options, path: Path) -> str | None:
    if options.times is not None:
        if options.times not in columns:
            raise ValueError(
                f"{path} has no column {options.times!r}; it has {listed(columns, 40)}"
            )
        return options.times
    found = [n for n in columns if bare(n.split(" ")[0].split("(")[0]) in _TIME]
    return found[0] if found else None


def _clock(
    columns: dict[str, NDArray[Any]], time_name: str | None, options: Options, path: Path
) -> Clock:
    if options.rate is not None:
        return Clock(options.rate, None, 0.0, None, ())
    if time_name is None:
        raise ValueError(
            f"{path} has no time column (called time, t or timestamp) and no rate; pass rate= in "
            f"Hz or times= one of its columns: {listed(columns)}"
        )
    stamps = columns[time_name]
    if stamps.dtype.kind == "U":
        raise ValueError(
            f"{path}: column {time_name!r} holds {str(stamps[0])!r}, times need numbers; pass "
            "rate= in Hz instead"
        )
    return settle_clock(stamps * seconds_of_name(time_name), path.name, repair=options.repair)


def _behaviours(kept: dict[str, NDArray[Any]], options: Options, path: Path) -> list[str]:
    asked = list(options.behaviour or ())
    unknown = [name for name in asked if name not in kept]
    if unknown:
        raise ValueError(f"{path} has no column {unknown[0]!r}; it has {listed(kept, 40)}")
    # Text is no sample: it labels stretches of time.
    return asked + [n for n, v in kept.items() if v.dtype.kind == "U" and n not in asked]


def _behaviour(name: str, values: NDArray[Any], clock: Clock) -> Any:
    if values.dtype.kind == "U":
        return runs_of(values, clock)
    table = values[:, None]
    return Signal(
        table,
        rate=clock.rate,
        times=clock.times,
        start=clock.start,
        channels=(name,),
        valid=mark_valid(table, flat=False),
    )


def _block(kept: dict[str, NDArray[Any]], clock: Clock, options: Options) -> Block:
    unit = parse_unit(options.unit or "")
    names = list(kept)
    factor = unit.factor * (1.0 if options.scale is None else options.scale)
    data = np.stack(list(kept.values()), axis=1)
    return Block(
        data if factor == 1.0 else data * factor,
        names,
        # The caller's word stands: a table's column `EMG1` of an fMRI set is no muscle.
        ["" if options.modality else kind_of_name(name) for name in names],
        [unit.name] * len(names),
        rate=clock.rate,
        times=clock.times,
        start=clock.start,
    )
