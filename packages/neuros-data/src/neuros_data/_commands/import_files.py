"""`neuros-data import`: recordings from files of one's own."""

from pathlib import Path
from typing import Any

import click

from neuros_core import Modality, Species
from neuros_data._commands._outputs import outputs
from neuros_data._commands._prepare_options import conclude, names_in, preparing


@click.command("import")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--modality", type=click.Choice([str(m) for m in Modality]), default=None)
@click.option("--subject", default="", help="Who was recorded, where the files do not say.")
@click.option("--session", default="", help="Which session, where the files do not say.")
@click.option("--species", type=click.Choice([str(s) for s in Species]), default=None)
@preparing
@outputs
def import_files(
    paths: tuple[str, ...],
    *,
    modality: str | None,
    subject: str,
    session: str,
    species: str | None,
    require: str,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> int:
    """Put local files into a store, without loss: EDF, GDF, NWB, NIfTI, CSV, NPZ, MAT and more."""
    from neuros_data.acquisition.files import LocalFiles, LocalFilesSettings
    from neuros_data.preparation import run_download

    settings = LocalFilesSettings(
        paths=tuple(str(Path(path).absolute()) for path in paths),
        modality=modality or "",
        subject=subject,
        session=session,
        species=species or "",
    )
    source = LocalFiles(settings)
    report = run_download(source, require=names_in(require), split="none", **given)
    return conclude(report, as_json=as_json, quiet=quiet)
