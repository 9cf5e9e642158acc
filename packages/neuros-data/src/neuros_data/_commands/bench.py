"""`neuros-data bench`: how fast a store gives windows."""

from pathlib import Path

import click

from neuros_data._commands._outputs import OK, outputs, write
from neuros_data.store import open_store


@click.command("bench")
@click.argument("directory", metavar="STORE", type=click.Path(path_type=Path))
@click.option("--window", type=float, default=1.0, show_default=True, help="Seconds.")
@outputs
def bench_windows(directory: Path, *, window: float, as_json: bool, quiet: bool) -> int:
    """Measure random windows of STORE beside copies of the same windows in memory."""
    from neuros_data._bench_store import bench_store

    speeds = bench_store(open_store(directory), window=window)
    lines = [
        f"{s.modality:<10} {s.windows_per_s:>12,.0f} windows/s  {s.copies_per_s:>12,.0f} copies/s"
        f"  ratio {s.ratio:.2f}"
        for s in speeds
    ]
    content = {"ok": True, "speeds": [s._asdict() for s in speeds]}
    write("\n".join(lines), content, as_json=as_json, quiet=quiet)
    return OK
