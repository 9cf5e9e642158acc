"""`neuros-data split`: parts that share no data."""

from pathlib import Path

import click

from neuros_data._commands._outputs import OK, outputs, write
from neuros_data.split import make_split
from neuros_data.store import open_store


@click.command("split")
@click.argument("directory", metavar="STORE", type=click.Path(path_type=Path))
@click.option(
    "--by",
    type=click.Choice(["time", "trial", "session", "subject", "source", "site"]),
    default="time",
    show_default=True,
)
@click.option("--ratios", nargs=3, type=float, default=(80.0, 10.0, 10.0), show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--guard", default="auto", show_default=True, help="Seconds between parts, or auto.")
@click.option("--window", type=float, help="Length in seconds of the windows to be cut.")
@click.option("--lag", type=float, default=0.0, show_default=True, help="Label lag in seconds.")
@click.option("--n-blocks", type=int, default=1, show_default=True)
@click.option("--trials", help="Name of the intervals that are the trials.")
@click.option(
    "--stratify", help="What each part gets in proportion: a column of the trials, or a key."
)
@click.option("--recording", "recordings", multiple=True, help="Only this one; may be repeated.")
@click.option("--name", help="Name of the saved split; by default what it is by.")
@outputs
def split_store(
    directory: Path,
    *,
    by: str,
    ratios: tuple[float, float, float],
    seed: int,
    guard: str,
    window: float | None,
    lag: float,
    n_blocks: int,
    trials: str | None,
    stratify: str | None,
    recordings: tuple[str, ...],
    name: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Divide STORE into train, val and test, prove that nothing leaks, and save the split."""
    store = open_store(directory)
    split = make_split(
        store,
        by=by,
        ratios=ratios,
        seed=seed,
        guard=_seconds(guard),
        window=window,
        lag=lag,
        n_blocks=n_blocks,
        trials=trials,
        stratify=stratify,
        recordings=recordings or None,
    )
    split.save(store, name or by)
    report = split.verify()
    shares = {part: round(share, 4) for part, share in split.realised().items()}
    text = "\n".join(
        [
            f"saved split {name or by!r} in {directory}",
            "  ".join(f"{part} {share:.1%}" for part, share in shares.items())
            + f"  guard {split.guard:g} s",
            str(report),
        ]
    )
    content = {
        "ok": report.ok,
        "name": name or by,
        "guard": split.guard,
        "shares": shares,
        "report": report.to_dict(),
    }
    write(text, content, as_json=as_json, quiet=quiet)
    return OK


def _seconds(guard: str) -> float | str:
    try:
        return float(guard)
    except ValueError:
        return guard
