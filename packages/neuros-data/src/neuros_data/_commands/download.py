"""`neuros-data download`: fetch, prepare and divide."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from neuros_data._commands._outputs import DISK, OK, bars, outputs, write
from neuros_data._commands._prepare_options import (
    agree,
    conclude,
    configure,
    find_sources,
    names_in,
    preparing,
)
from neuros_data.acquisition.source import Source


class _Download(click.Command):
    """Takes `--runs 4 8 12` as well as `--runs 4,8,12`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, join_runs(args))


def join_runs(words: Sequence[str]) -> list[str]:
    """Put the numbers that follow `--runs` into one word."""
    joined: list[str] = []
    inside = False
    for word in words:
        if inside and word.isdigit():
            joined[-1] += ("," if joined[-1] else "") + word
            continue
        if inside and not joined[-1]:
            joined.pop()  # no number came: the option says so itself, or takes this word
        inside = word == "--runs"
        joined += [word, ""] if inside else [word]
    return joined[:-1] if inside and not joined[-1] else joined


@click.command("download", cls=_Download)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--n", "--n-sessions", "--n-experiments", "n", type=int, help="Sessions of each.")
@click.option("--n-subjects", type=int, help="Subjects of each, with all their sessions.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides which are taken.")
@click.option("--runs", help="Runs of EEGMMIDB, such as 4 8 12.")
@click.option("--n-rois", type=int, help="Parcels of fMRI, 100 to 1000.")
@click.option("--dandiset", help="Number of a data set of DANDI, such as 000728.")
@click.option("--config", type=click.Path(path_type=Path), help="Settings, TOML or JSON.")
@click.option("--list", "listing", is_flag=True, help="List the chosen sessions and stop.")
@click.option("--dry-run", is_flag=True, help="Say what would be fetched and stop.")
@click.option("--raw-only", is_flag=True, help="Fetch and stop.")
@click.option(
    "--split",
    type=click.Choice(["auto", "none", "session", "source", "subject", "time"]),
    default="auto",
    show_default=True,
)
@click.option("--retries", type=int, help="Attempts after the first one; by default 5.")
@click.option("--licence-accept", is_flag=True, help="Accept the terms of the data.")
@preparing
@outputs
def download_sources(
    names: tuple[str, ...],
    *,
    n: int | None,
    n_subjects: int | None,
    runs: str | None,
    n_rois: int | None,
    dandiset: str | None,
    config: Path | None,
    listing: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> int:
    """Fetch, prepare and divide sessions of one archive or several; run again to go on."""
    if n is not None and n_subjects is not None:
        raise click.UsageError("--n-subjects and --n-sessions cannot both be given")
    numbers = None if runs is None else tuple(_number(word) for word in names_in(runs))
    settings = {"runs": numbers, "n_rois": n_rois, "dandiset": dandiset}
    found = configure(find_sources(names), config, settings)
    choice = {
        "n": n_subjects if n is None else n,
        "n_of": "session" if n_subjects is None else "subject",
        "seed": given.pop("seed"),
    }
    if listing or dry_run:
        return _look(found, choice, given["root"], listing=listing, as_json=as_json, quiet=quiet)
    return _run(found, {**given, **choice}, as_json=as_json, quiet=quiet)


def _number(word: str) -> int:
    if not word.isdigit():
        raise click.UsageError(f"--runs needs whole numbers, got {word!r}")
    return int(word)


def _look(
    found: Sequence[Source],
    choice: dict[str, Any],
    root: Path,
    *,
    listing: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    from neuros_data.preparation import list_sessions, plan_download

    if listing:
        sessions = list_sessions(found, **choice)
        rows = [{"id": s.id, "subject": s.subject, "session": s.session} for s in sessions]
        text = "\n".join(f"{s.id}  {s.subject}  {s.session}".rstrip() for s in sessions)
        write(text, {"ok": True, "sessions": rows}, as_json=as_json, quiet=quiet)
        return OK
    plan = plan_download(found, root=root, **choice)
    write(str(plan), plan.to_dict(), as_json=as_json, quiet=quiet)
    return OK if plan.fits else DISK


def _run(found: Sequence[Source], given: dict[str, Any], *, as_json: bool, quiet: bool) -> int:
    from neuros_data.preparation import licence_terms, run_download
    from neuros_data.transfer import TransferSettings

    require = names_in(given.pop("require"))
    retries = given.pop("retries")
    transfer = TransferSettings() if retries is None else TransferSettings(retries=retries)
    accepted = agree(licence_terms(found, given["root"]), accepted=given.pop("licence_accept"))
    report = run_download(
        found,
        require=require,
        licence_accept=accepted,
        progress=bars(quiet=quiet),
        transfer=transfer,
        **given,
    )
    return conclude(report, as_json=as_json, quiet=quiet)
