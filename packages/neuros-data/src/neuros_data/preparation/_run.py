"""The way of sessions through a call: pending, fetched, prepared, written down."""

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from neuros_data.acquisition.source import Source
from neuros_data.errors import DiskFullError
from neuros_data.preparation._dask import run_on_dask
from neuros_data.preparation._divide import divide
from neuros_data.preparation._identity import RawFile, code_version
from neuros_data.preparation._ledger import (
    RawLedger,
    note_provenance,
    open_or_create,
    write_failures,
    write_manifest,
)
from neuros_data.preparation._report import PreparationReport, stop_at
from neuros_data.preparation._request import Work
from neuros_data.preparation._sessions import (
    Choice,
    Session,
    is_finished,
    keep_fetched,
    name_files,
    raw_path,
    recall_files,
)
from neuros_data.preparation._task import WORK, Outcome, Task
from neuros_data.preparation._workers import LocalPool
from neuros_data.store import Store, open_store
from neuros_data.transfer import TransferSettings, fetch_files
from neuros_data.transfer._locks import lock_file
from neuros_data.transfer._partial import hash_file

_FETCHES = 8


@contextmanager
def held(root: str | os.PathLike[str]) -> Iterator[Store]:
    """The store, for one call at a time; what a killed call left half-written is removed."""
    where = Path(root).absolute()
    where.mkdir(parents=True, exist_ok=True)
    with lock_file(where / "manifest.json", threading.Event()):
        shutil.rmtree(where / WORK, ignore_errors=True)
        try:
            yield open_or_create(where)
        finally:
            shutil.rmtree(where / WORK, ignore_errors=True)


def pending_sessions(store: Store, choice: Choice, *, force: bool) -> list[Session]:
    """Sessions that are not finished; those whose files cannot be named stay in the choice."""
    name_files(choice.sessions)
    sound = [s for s in choice.sessions if s.failure is None]
    recall_files(store, sound)
    return [s for s in sound if force or not (s.raw and is_finished(store, s))]


def fetch_raw(
    root: Path,
    sessions: Sequence[Session],
    work: Work,
    transfer: TransferSettings,
    *,
    progress: bool | None,
) -> None:
    wanted = [replace(f, path=raw_path(s, f)) for s in sessions for f in s.remote]
    if not wanted:
        return
    report = fetch_files(
        wanted,
        root / "raw",
        jobs=min(work.jobs, _FETCHES) if work.jobs > 1 else 1,
        settings=transfer,
        progress=progress,
    )
    keep_fetched(root, sessions, wanted, report)


def fetched_before(root: Path, source: Source) -> Iterator[Session]:
    ledger = RawLedger(root, source.name)
    if not ledger.sessions:
        raise ValueError(
            f"{root} has no raw files of {source.name!r}; "
            f"fetch them first with download({source.name!r}, raw_only=True)"
        )
    for info, files in (ledger.sessions[name] for name in sorted(ledger.sessions)):
        session = Session(source, info)
        try:
            session.raw = tuple(_as_it_is(file, session.folder(root)) for file in files)
        except OSError as error:
            session.raw = files
            session.failure = Outcome.of_error(info.id, source.name, error)
        yield session


def _as_it_is(file: RawFile, folder: Path) -> RawFile:
    """A raw file with the checksum it has now."""
    if file.unchanged(folder):
        return file
    path = folder / file.path
    stat = path.stat()
    return replace(file, sha256=hash_file(path), size=stat.st_size, modified_ns=stat.st_mtime_ns)


def finish(
    store: Store,
    choice: Choice,
    pending: Sequence[Session],
    work: Work,
    *,
    accepted: Any,
    split: str,
) -> PreparationReport:
    """Prepare what is there and write down what came of it, also when it is interrupted."""
    root = store.path
    ready = [s for s in pending if s.failure is None]
    outcomes = [s.failure for s in choice.sessions if s.failure is not None]
    stop_at(outcomes, strict=work.strict)
    try:
        outcomes += _prepared(root, ready, work)
    finally:
        store = _write_down(store, choice, accepted)
    failed = tuple(sorted((o for o in outcomes if o.kind), key=lambda o: o.id))
    prepared = tuple(sorted(o.id for o in outcomes if not o.kind))
    write_failures(root, failed, store.recordings)
    stop_at(failed, strict=work.strict)
    skipped = {s.info.id for s in choice.sessions} - {s.info.id for s in pending}
    notes = [*choice.notes]
    if prepared or not store.splits:
        notes += divide(store, split)
    return PreparationReport(
        store=open_store(root),
        prepared=prepared,
        skipped=tuple(sorted(skipped & set(store.recordings))),
        failed=failed,
        fetched=tuple(sorted(s.info.id for s in choice.sessions if s.raw and not s.failure)),
        notes=tuple(notes),
    )


def _prepared(root: Path, sessions: Sequence[Session], work: Work) -> Iterator[Outcome]:
    codes = {s.source.name: code_version(s.source) for s in sessions}
    tasks = [
        Task(s.source, s.info, root, s.raw, codes[s.source.name], work.require) for s in sessions
    ]
    if not tasks:
        return
    files = {task.info.id: task.files for task in tasks}
    with closing(_executor(tasks, work)) as outcomes:
        for outcome in outcomes:
            if not outcome.kind:
                note_provenance(root, outcome, files[outcome.id], codes[outcome.source])
            yield outcome
            if outcome.kind == "disk" or (outcome.kind and work.strict):
                return


def _executor(tasks: Sequence[Task], work: Work) -> Any:
    name, _, address = work.executor.partition(":")
    if name == "dask":
        return run_on_dask(tasks, work.jobs, address)
    return LocalPool(tasks, work.jobs).run()


def _write_down(store: Store, choice: Choice, accepted: Any) -> Store:
    try:
        return write_manifest(store, accepted=accepted, selections=choice.selections)
    except OSError as error:
        # On a full disk the manifest stays as it was, which is one of a valid store.
        if not DiskFullError.is_cause(error):
            raise
        return open_store(store.path)
