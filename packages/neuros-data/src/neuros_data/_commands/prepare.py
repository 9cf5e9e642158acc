"""`neuros-data prepare`: recordings from raw files that were fetched before."""

from pathlib import Path
from typing import Any

import click

from neuros_data._commands._outputs import outputs
from neuros_data._commands._prepare_options import (
    conclude,
    configure,
    find_sources,
    names_in,
    preparing,
)


@click.command("prepare")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--config", type=click.Path(path_type=Path), help="Settings, TOML or JSON.")
@preparing
@outputs
def prepare_sources(
    names: tuple[str, ...],
    *,
    config: Path | None,
    require: str,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> int:
    """Prepare what `download --raw-only` fetched, or prepare it anew with other settings."""
    from neuros_data.preparation import run_prepare

    found = configure(find_sources(names), config, {})
    report = run_prepare(found, require=names_in(require), **given)
    return conclude(report, as_json=as_json, quiet=quiet)
