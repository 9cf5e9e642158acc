"""`neuros-data sample`: real recordings at once."""

from pathlib import Path
from typing import Any

import click

from neuros_core import Modality
from neuros_data._commands._outputs import OK, bars, outputs, write
from neuros_data.samples import copy_sample, load_sample
from neuros_data.store import Store


@click.command("sample")
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--modality", type=click.Choice([str(m) for m in Modality]))
@click.option("--full", is_flag=True, help="Fetch the larger ones into DIRECTORY too.")
@click.option("--licence-accept", is_flag=True, help="Accept the terms of the data.")
@outputs
def list_sample(
    directory: Path | None,
    modality: str | None,
    *,
    full: bool,
    licence_accept: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """List the embedded recordings, and copy them into DIRECTORY when it is given."""
    if full:
        if directory is None or modality is not None:
            raise click.UsageError("--full needs DIRECTORY and takes no --modality")
        store = _fetch_full(directory, licence_accept=licence_accept, quiet=quiet)
    elif directory is None:
        store = load_sample(modality)
    else:
        store = copy_sample(directory, modality=modality)
    rows = [row for name in store.recordings for row in _rows(store, name)]
    header = {
        "recording": "recording",
        "modality": "modality",
        "channels": "channels",
        "rate_hz": "rate",
        "seconds": "seconds",
    }
    lines = [
        f"{r['recording']:<18} {r['modality']:<8} {r['channels']!s:>8} {r['rate_hz']!s:>8} "
        f"{r['seconds']!s:>9}"
        for r in (header, *rows)
    ]
    where = "" if directory is None else f"\ncopied to {directory}"
    content = {"ok": True, "path": str(store.path), "recordings": rows}
    write("\n".join(lines) + where, content, as_json=as_json, quiet=quiet)
    return OK


def _rows(store: Store, recording_id: str) -> list[dict[str, Any]]:
    meta = store.files.meta(recording_id)
    return [
        {
            "recording": recording_id,
            "modality": name,
            "channels": part.get("n_units", len(part.get("channels", ()))),
            "rate_hz": round(part["rate"], 4) if part.get("rate") else "events",
            "seconds": round(meta["duration"], 3),
        }
        for name, part in meta["modalities"].items()
    ]


def _fetch_full(directory: Path, *, licence_accept: bool, quiet: bool) -> Store:
    """Everything: the terms are asked for before anything is copied."""
    from neuros_data.samples._full import fetch_full_sample

    full = fetch_full_sample
    if not (directory / "manifest.json").exists():
        if not licence_accept:
            return full(directory, licence_accept=False, progress=False)
        copy_sample(directory)
    return full(directory, licence_accept=licence_accept, progress=bars(quiet=quiet))
