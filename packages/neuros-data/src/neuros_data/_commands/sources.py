"""`neuros-data sources`: which archives there are."""

import click

from neuros_data._commands._outputs import OK, outputs, write

_COLUMNS = ("name", "modality", "species", "size", "licence", "login")


@click.command("sources")
@outputs
def list_sources(*, as_json: bool, quiet: bool) -> int:
    """List the archives: name, modality, species, size, licence, login needed."""
    from neuros_data.acquisition.source import sources

    rows = [{c: getattr(source, c) for c in _COLUMNS} for source in sources().values()]
    cells = [_COLUMNS, *(tuple(str(row[c] or "none") for c in _COLUMNS) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    write("\n".join(lines), {"ok": True, "sources": rows}, as_json=as_json, quiet=quiet)
    return OK
