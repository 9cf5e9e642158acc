"""`neuros-data export`: a store in the formats of others."""

from pathlib import Path
from typing import Any

import click

from neuros_data._commands._outputs import OK, outputs, write
from neuros_data.store import open_store


@click.command("export")
@click.argument("directory", metavar="STORE", type=click.Path(path_type=Path))
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--to", required=True, type=click.Choice(["npz", "nwb", "zarr", "bids"]))
@click.option("--window", type=float, help="Seconds of a window; npz only.")
@click.option("--stride", type=float, help="Seconds between windows; npz only.")
@click.option("--using", help="Saved split whose parts are written apart; npz only.")
@click.option("--behaviour", multiple=True, help="Behaviour to write along; npz only.")
@outputs
def export_recordings(
    directory: Path,
    folder: Path | None,
    *,
    to: str,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> int:
    """Write STORE into FOLDER (by default STORE-FORMAT) as npz windows, NWB, zarr or BIDS."""
    from neuros_data.export import export_store

    target = folder or directory.with_name(f"{directory.name}-{to}")
    written = export_store(open_store(directory), to, target, **given)
    content = {"ok": True, "path": str(target), "files": [str(path) for path in written]}
    write("\n".join(str(path) for path in written), content, as_json=as_json, quiet=quiet)
    return OK
