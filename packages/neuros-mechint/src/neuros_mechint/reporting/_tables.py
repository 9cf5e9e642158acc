"""Data frames as HTML tables."""

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, SupportsFloat

from neuros_mechint.reporting._escape import escape_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check_frame", "format_number", "render_heat_map", "render_table"]

_MISSING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"


def check_frame(frame: object) -> None:
    """Refuse what is not a data frame, without importing pandas.

    Args:
        frame: what the caller passed.

    Raises:
        TypeError: if it is not a `pandas.DataFrame`.

    Examples:
        >>> import pandas as pd
        >>> check_frame(pd.DataFrame())
    """
    if not all(hasattr(frame, name) for name in ("columns", "index", "iloc", "dtypes")):
        raise TypeError(
            f"a table needs a pandas.DataFrame, got {type(frame).__name__}; "
            f"wrap it in pandas.DataFrame"
        )


def render_table(frame: "pd.DataFrame") -> str:
    """Write a data frame as a sortable table.

    Args:
        frame: any frame; its index is shown unless it is the default one.

    Returns:
        One `<table>` element.

    Examples:
        >>> import pandas as pd
        >>> "<td class=n data-v=1.5>1.500</td>" in render_table(pd.DataFrame({"x": [1.5]}))
        True
    """
    names, index = _index_columns(frame)
    columns = [_cells(frame.iloc[:, i].tolist()) for i in range(frame.shape[1])]
    labels = [_label(name) for name in frame.columns]
    heads = [f'<th scope="col">{escape_text(name)}</th>' for name in names]
    for label, cells in zip(labels, columns, strict=True):
        kind = " class=n" if cells and all(cell.startswith("<td class=n") for cell in cells) else ""
        heads.append(f'<th scope="col"{kind}>{escape_text(label)}</th>')
    body = ["".join(row) for row in zip(*index, *columns, strict=True)]
    rows = "".join(f"<tr>{row}</tr>\n" for row in body)
    return (
        f'<table class="sortable">\n<thead><tr>{"".join(heads)}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody>\n</table>"
    )


def render_heat_map(frame: "pd.DataFrame", *, corner: str) -> str:
    """Write a frame of numbers as a table whose cells are shaded by sign and size.

    Args:
        frame: numbers, rows and columns labelled.
        corner: what the rows and columns are.

    Returns:
        One `<table>` element; the strongest shade is the largest absolute value.

    Examples:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"t0": [-1.0]}, index=["mlp"])
        >>> "--s:100%" in render_heat_map(frame, corner="layer")
        True
    """
    values = [[float(value) for value in row] for row in frame.to_numpy().tolist()]
    flat = [value for row in values for value in row if math.isfinite(value)]
    largest = max(map(abs, flat), default=0.0)
    texts = iter(_format_floats([value for row in values for value in row]))
    head = "".join(f'<th scope="col">{escape_text(_label(name))}</th>' for name in frame.columns)
    rows = []
    for name, row in zip(frame.index, values, strict=True):
        cells = "".join(_heat_cell(value, next(texts), largest) for value in row)
        rows.append(f'<tr><th scope="row">{escape_text(_label(name))}</th>{cells}</tr>\n')
    return (
        f'<table class="heat">\n<thead><tr><th scope="col">{escape_text(corner)}</th>{head}</tr>'
        f"</thead>\n<tbody>\n{''.join(rows)}</tbody>\n</table>"
    )


def format_number(value: SupportsFloat) -> str:
    """Write one number: an integer in full, another with four significant digits.

    Args:
        value: any number.

    Returns:
        Text of an HTML cell.

    Examples:
        >>> format_number(12000), format_number(0.05), format_number(float("nan"))
        ('12,000', '0.05000', '\u2013')
    """
    if isinstance(value, int):
        return _sign(f"{value:,}")
    return _format_floats([float(value)])[0]


def _heat_cell(value: float, text: str, largest: float) -> str:
    if not math.isfinite(value):
        return f"<td class=na>{text}</td>"
    share = round(100 * abs(value) / largest) if largest else 0
    return f'<td class={"neg" if value < 0 else "pos"} style="--s:{share}%">{text}</td>'


def _index_columns(frame: "pd.DataFrame") -> tuple[list[str], list[list[str]]]:
    index = frame.index
    if type(index).__name__ == "RangeIndex" and index.name is None and index.nlevels == 1:
        return [], []
    names = ["" if name is None else str(name) for name in index.names]
    levels = [index.get_level_values(level) for level in range(index.nlevels)]
    cells = [
        [f'<th scope="row">{escape_text(value)}</th>' for value in level.tolist()]
        for level in levels
    ]
    return names, cells


def _label(name: Hashable) -> str:
    return " / ".join(map(str, name)) if isinstance(name, tuple) else str(name)


def _cells(values: Sequence[Any]) -> list[str]:
    """Cells of one column: numbers share their decimals, everything else is text."""
    if any(not isinstance(value, int | float | None) for value in values):
        return [f"<td>{_text(value)}</td>" for value in values]
    if any(isinstance(value, bool) for value in values):
        return [f"<td>{_text(value)}</td>" for value in values]
    if all(isinstance(value, int) for value in values):
        texts = [_sign(f"{value:,}") for value in values]
    else:
        numbers = [math.nan if value is None else float(value) for value in values]
        texts = _format_floats(numbers)
    return [
        f"<td class=n data-v={_sort_key(value)}>{text}</td>"
        for value, text in zip(values, texts, strict=True)
    ]


def _sort_key(value: SupportsFloat | None) -> str:
    if value is None or math.isnan(value):
        return "NaN"
    # The spelling of JavaScript.
    return repr(value).replace("inf", "Infinity")


def _text(value: object) -> str:
    missing = (
        value is None
        or type(value).__name__ in ("NAType", "NaTType")
        or (isinstance(value, float) and math.isnan(value))
    )
    return _MISSING if missing else escape_text(value)


def _format_floats(values: Sequence[float]) -> list[str]:
    """Four significant digits of the largest, and the same decimals for all."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if largest and not 1e-3 <= largest < 1e6:
        return [_one_float(value, ".3e", 0.0) for value in values]
    digits = 3 - math.floor(math.log10(largest)) if largest else 0
    decimals = min(max(digits, 0), 6)
    return [_one_float(value, f",.{decimals}f", 0.5 * 10.0**-decimals) for value in values]


def _one_float(value: float, style: str, smallest: float) -> str:
    if math.isnan(value):
        return _MISSING
    if math.isinf(value):
        return "\N{INFINITY}" if value > 0 else f"{_MINUS}\N{INFINITY}"
    # What would round to zero keeps its size.
    return _sign(format(value, ".1e" if 0 < abs(value) < smallest else style))


def _sign(text: str) -> str:
    return text.replace("-", _MINUS)
