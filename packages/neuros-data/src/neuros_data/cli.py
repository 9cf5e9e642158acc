"""The command `neuros-data`: sample recordings, splits and checks from a shell."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from neuros_core import Modality
from neuros_data.check import check_store
from neuros_data.errors import (
    CorruptStoreError,
    DiskFullError,
    FormatVersionError,
    LeakageError,
)
from neuros_data.samples import copy_sample, load_sample
from neuros_data.split import make_split
from neuros_data.store import Store, open_store

__all__ = ["main"]

_OK, _FAULT, _USAGE, _DISK, _INTERRUPTED = 0, 1, 2, 4, 130
_SETTINGS = {
    # --n_blocks is accepted for --n-blocks.
    "token_normalize_func": lambda token: token.replace("_", "-"),
    "help_option_names": ["-h", "--help"],
}


def _outputs(command: Callable[..., int]) -> Callable[..., int]:
    command = click.option("--quiet", is_flag=True, help="Write nothing but errors.")(command)
    return click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")(command)


def _write(text: str, content: dict[str, Any], *, as_json: bool, quiet: bool) -> None:
    if as_json:
        click.echo(json.dumps(content, sort_keys=True))
    elif not quiet:
        click.echo(text)


@click.group(context_settings=_SETTINGS)
@click.version_option(package_name="neuros-data")
def _cli() -> None:
    """Neural recordings into training sets that do not leak."""


@_cli.command("sample")
@click.argument("directory", required=False, type=click.Path(path_type=Path))
@click.option("--modality", type=click.Choice([str(m) for m in Modality]))
@_outputs
def _sample(directory: Path | None, modality: str | None, *, as_json: bool, quiet: bool) -> int:
    """List the embedded recordings, and copy them into DIRECTORY when it is given."""
    store = (
        load_sample(modality) if directory is None else copy_sample(directory, modality=modality)
    )
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
    _write("\n".join(lines) + where, content, as_json=as_json, quiet=quiet)
    return _OK


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


@_cli.command("split")
@click.argument("directory", metavar="STORE", type=click.Path(path_type=Path))
@click.option(
    "--by",
    type=click.Choice(["time", "trial", "session", "subject", "source"]),
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
@click.option("--recording", "recordings", multiple=True, help="Only this one; may be repeated.")
@click.option("--name", help="Name of the saved split; by default what it is by.")
@_outputs
def _split(
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
    _write(text, content, as_json=as_json, quiet=quiet)
    return _OK


def _seconds(guard: str) -> float | str:
    try:
        return float(guard)
    except ValueError:
        return guard


@_cli.command("check")
@click.argument("directory", metavar="STORE", type=click.Path(path_type=Path))
@click.option("--fix", is_flag=True, help="Remove half-written recordings.")
@_outputs
def _check(directory: Path, *, fix: bool, as_json: bool, quiet: bool) -> int:
    """Read all of STORE: checksums, schema, NaN, duplicates, leaks, labels tied to time."""
    report = check_store(open_store(directory), fix=fix)
    _write(str(report), report.to_dict(), as_json=as_json, quiet=quiet)
    return _OK if report.ok else _FAULT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; by default those of the process.

    Returns:
        0 ok, 1 fault in the data, 2 usage, 4 disk full, 130 interrupted.

    Examples:
        >>> main(["sample", "--modality", "emg", "--quiet"])
        0
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return int(_cli.main(args=words, prog_name="neuros-data", standalone_mode=False) or _OK)
    except click.ClickException as error:
        error.show()
        return _USAGE
    except (click.Abort, KeyboardInterrupt):
        return _report("interrupted", _INTERRUPTED, words)
    except DiskFullError as error:
        return _report(str(error), _DISK, words)
    except (CorruptStoreError, FormatVersionError, LeakageError, OSError) as error:
        return _report(str(error), _FAULT, words)
    except (ValueError, TypeError, KeyError) as error:
        return _report(str(error.args[0] if error.args else error), _USAGE, words)


def _report(message: str, code: int, words: Sequence[str]) -> int:
    click.echo(f"neuros-data: {message}", err=True)
    if "--json" in words:
        click.echo(json.dumps({"ok": False, "error": message, "exit": code}, sort_keys=True))
    return code
