"""`neuros-data check`: everything that can be wrong with a store."""

from pathlib import Path

import click

from neuros_data._commands._outputs import FAULT, OK, outputs, write
from neuros_data.check import check_store
from neuros_data.store import open_store


@click.command("check")
@click.argument("directory", metavar="STORE", type=click.Path(path_type=Path))
@click.option("--fix", is_flag=True, help="Remove half-written recordings.")
@outputs
def check_recordings(directory: Path, *, fix: bool, as_json: bool, quiet: bool) -> int:
    """Read all of STORE: checksums, schema, NaN, duplicates, leaks, labels tied to time."""
    report = check_store(open_store(directory), fix=fix)
    write(str(report), report.to_dict(), as_json=as_json, quiet=quiet)
    return OK if report.ok else FAULT
