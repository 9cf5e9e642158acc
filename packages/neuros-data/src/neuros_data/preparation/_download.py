"""`download`: from an archive to a store."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuros_data.preparation._ledger import accept_licences, check_terms, store_at
from neuros_data.preparation._plan import check_room, plan
from neuros_data.preparation._report import PreparationReport, settled
from neuros_data.preparation._request import Named, check_request, find_sources
from neuros_data.preparation._run import fetch_raw, finish, held, pending_sessions
from neuros_data.preparation._sessions import choose_sessions, is_finished
from neuros_data.store import Store
from neuros_data.transfer import TransferSettings


def download(
    source: Named | Sequence[Named],
    n: int | None = None,
    *,
    root: str | os.PathLike[str] = "store",
    jobs: int | None = None,
    seed: int = 0,
    n_of: str = "session",
    settings: Any = None,
    raw_only: bool = False,
    split: str = "auto",
    progress: bool | None = None,
    executor: str = "local",
    licence_accept: bool = False,
    require: Sequence[str] = (),
    strict: bool = False,
    force: bool = False,
    transfer: TransferSettings | None = None,
) -> Store:
    r"""Fetch sessions of archives, prepare them, and divide the store.

    Run it again to go on: bytes that are there are not fetched again, and recordings whose files,
    settings and code are the same are left alone.

    Args:
        source: Name of a source, a `Source`, or several: all share the fetches and the workers.
        n: How many of each source; None takes all. Sorted by id, then shuffled by the seed.
        root: Folder of the store.
        jobs: Worker processes; by default as many as there are processors.
        seed: Decides which `n` are taken.
        n_of: What `n` counts, `"session"` or `"subject"`.
        settings: Settings of the source in place of its own; for one source only.
        raw_only: True fetches and stops.
        split: How the store is divided afterwards: `"auto"` by subject where there are three, else
            by session, else by time; `"none"` leaves it whole.
        progress: True draws bars on the standard error stream.
        executor: `"local"`, `"dask"`, or `"dask:"` with a scheduler's address or file.
        licence_accept: True accepts the terms of sources that have some; asked once a store.
        require: Modalities, behaviours, channels or columns without which a session fails.
        strict: True raises at the first session that fails.
        force: True prepares again what is finished.
        transfer: Patience and limits of the fetches.

    Returns:
        The store. Sessions that failed are warned of and listed in its `failures.jsonl`.

    Raises:
        KeyError: When there is no such source.
        LicenceError: When terms are not accepted.
        NetworkError: When an archive cannot be listed, or nothing could be fetched.
        DiskFullError: When the disk is full, or what is known would not fit.
        ValueError: When an argument is out of range, or no session could be prepared.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from neuros_data.acquisition.files import LocalFiles, LocalFilesSettings
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "walk.csv"
        ...     _ = path.write_text("time_s,Cz,Oz\n0,1.5,2\n0.5,2.5,3\n1,0.5,1\n")
        ...     here = LocalFiles(LocalFilesSettings(paths=(str(path),), modality="eeg"))
        ...     store = download(here, root=folder + "/store", split="none")
        ...     list(store.recordings)
        ['walk']
    """
    report = run_download(
        source,
        n,
        root=root,
        jobs=jobs,
        seed=seed,
        n_of=n_of,
        settings=settings,
        raw_only=raw_only,
        split=split,
        progress=progress,
        executor=executor,
        licence_accept=licence_accept,
        require=require,
        strict=strict,
        force=force,
        transfer=transfer,
    )
    return settled(report)


def run_download(
    source: Named | Sequence[Named],
    n: int | None = None,
    *,
    root: str | os.PathLike[str] = "store",
    jobs: int | None = None,
    seed: int = 0,
    n_of: str = "session",
    settings: Any = None,
    raw_only: bool = False,
    split: str = "auto",
    progress: bool | None = None,
    executor: str = "local",
    licence_accept: bool = False,
    require: Sequence[str] = (),
    strict: bool = False,
    force: bool = False,
    transfer: TransferSettings | None = None,
) -> PreparationReport:
    """`download`, with a report of what was prepared, skipped and failed.

    Args:
        source: As `download`.
        n: As `download`.
        root: As `download`.
        jobs: As `download`.
        seed: As `download`.
        n_of: As `download`.
        settings: As `download`.
        raw_only: As `download`.
        split: As `download`.
        progress: As `download`.
        executor: As `download`.
        licence_accept: As `download`.
        require: As `download`.
        strict: As `download`.
        force: As `download`.
        transfer: As `download`.

    Returns:
        The report; sessions that failed are in it and not raised, unless `strict`.

    Raises:
        DiskFullError: As `download`.
        NetworkError: When an archive cannot be listed.
    """
    chosen = find_sources(source, settings)
    work = check_request(
        n=n,
        n_of=n_of,
        jobs=jobs,
        executor=executor,
        split=split,
        require=require,
        strict=strict,
        force=force,
    )
    how = transfer or TransferSettings()
    # Before there is a folder: terms that are refused and a listing that fails leave none behind.
    check_terms(store_at(Path(root)), chosen, accepted=licence_accept)
    choice = choose_sessions(chosen, n=n, n_of=n_of, seed=seed, transfer=how)
    with held(root) as store:
        accepted = accept_licences(store, chosen, accepted=licence_accept)
        pending = pending_sessions(store, choice, force=force)
        check_room(plan(store.path, store, choice, pending), store.path)
        fetch_raw(store.path, pending, work, how, progress=progress)
        # What only looked changed by its time stamp has been read again and found equal.
        pending = [s for s in pending if force or s.failure or not is_finished(store, s)]
        return finish(
            store, choice, [] if raw_only else pending, work, accepted=accepted, split=split
        )
