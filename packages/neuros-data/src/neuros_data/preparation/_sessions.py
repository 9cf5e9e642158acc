"""Which sessions a call is about, their files, and which of them are finished already."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from neuros_data._assign import sha_order
from neuros_data.acquisition.source import SessionInfo, Source
from neuros_data.preparation._identity import RawFile, code_version, config_of, preparation_key
from neuros_data.preparation._ledger import RawLedger
from neuros_data.preparation._task import Outcome, raw_folder
from neuros_data.store import Store
from neuros_data.transfer import RemoteFile, TransferReport, TransferSettings
from neuros_data.transfer._partial import hash_file

_AT_ONCE = 8


@dataclass
class Session:
    """One session of one source on its way through a call."""

    source: Source
    info: SessionInfo
    remote: tuple[RemoteFile, ...] = ()
    raw: tuple[RawFile, ...] = ()
    failure: Outcome | None = None

    def folder(self, root: Path) -> Path:
        """Where its files lie."""
        return raw_folder(root, self.source.name, self.info.id)


@dataclass
class Choice:
    """The sessions of a call, and how they were chosen."""

    sessions: list[Session] = field(default_factory=list)
    selections: dict[str, dict[str, object]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def choose_sessions(
    sources: Sequence[Source], *, n: int | None, n_of: str, seed: int, transfer: TransferSettings
) -> Choice:
    """List every source and take `n` of each: sorted by id, then shuffled by the seed.

    Raises:
        ValueError: When two sources give the same id.
        NetworkError: When an archive cannot be listed.
    """
    choice = Choice()
    taken: dict[str, str] = {}
    for source in sources:
        listed = sorted(source.list(transfer), key=lambda info: info.id)
        chosen, available = _first(listed, n, n_of, seed)
        if n is not None and available < n:
            choice.notes.append(
                f"{source.name} has {available} {n_of}s, {n} were asked for: all are taken"
            )
        for info in chosen:
            if info.id in taken:
                raise ValueError(
                    f"{taken[info.id]!r} and {source.name!r} both have a session {info.id!r}; "
                    "download them into two stores"
                )
            taken[info.id] = source.name
            choice.sessions.append(Session(source, info))
        choice.selections[source.name] = {
            "n": n,
            "of": n_of,
            "seed": seed,
            "available": available,
            "chosen": [info.id for info in chosen],
        }
    return choice


def _first(
    infos: Sequence[SessionInfo], n: int | None, n_of: str, seed: int
) -> tuple[list[SessionInfo], int]:
    keys = {info.id: info.subject if n_of == "subject" else info.id for info in infos}
    groups = sorted(set(keys.values()))
    kept = set(groups if n is None else sha_order(groups, seed)[:n])
    return [info for info in infos if keys[info.id] in kept], len(groups)


def name_files(sessions: Sequence[Session]) -> None:
    """Ask the sources for the files of each session, several at a time."""

    def ask(session: Session) -> None:
        try:
            session.remote = tuple(map(_with_checksum, session.source.files(session.info)))
        except (OSError, ValueError) as error:
            session.failure = Outcome.of_error(session.info.id, session.source.name, error)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(ask, sessions))


def _with_checksum(file: RemoteFile) -> RemoteFile:
    """A file on this machine can change under its name, so its checksum is taken now."""
    if file.sha256 is not None or urlsplit(file.url).scheme != "file":
        return file
    path = Path(url2pathname(urlsplit(file.url).path))
    return replace(file, sha256=hash_file(path)) if path.is_file() else file


def is_finished(store: Store, session: Session) -> bool:
    """Whether the store's recording is what these files, settings and code would give."""
    name = session.info.id
    if name not in store.recordings:
        return False
    made: Mapping[str, object] = store.files.meta(name)["provenance"].get("preparation", {})
    return made.get("key") == preparation_key(
        session.raw, config_of(session.source), code_version(session.source)
    )


def recall_files(store: Store, sessions: Iterable[Session]) -> None:
    """Fill in the raw files that were fetched before and are as they were."""
    ledgers: dict[str, RawLedger] = {}
    for session in sessions:
        name = session.source.name
        ledger = ledgers.setdefault(name, RawLedger(store.path, name))
        _, files = ledger.sessions.get(session.info.id, (None, ()))
        if files and _same_files(session, files, store.path):
            session.raw = files


def _same_files(session: Session, files: Sequence[RawFile], root: Path) -> bool:
    known = {file.path: file for file in files}
    if set(known) != {file.path for file in session.remote}:
        return False
    folder = session.folder(root)
    # A user may delete raw files to make room: what is finished stays finished.
    gone = not any((folder / file.path).exists() for file in files)
    for file in session.remote:
        had = known[file.path]
        if file.sha256 not in {None, had.sha256} or file.size not in {None, had.size}:
            return False
        # Files that were fetched before their MD5 was known are read again and held against it.
        if file.md5 not in {None, had.md5}:
            return False
        if file.url != had.url or not (gone or had.unchanged(folder)):
            return False
    return True


def keep_fetched(
    root: Path, sessions: Sequence[Session], wanted: Sequence[RemoteFile], report: TransferReport
) -> None:
    """Give the sessions what was fetched, note it in the ledgers, and mark what failed."""
    base = root / "raw"
    asked = {file.path: file for file in wanted}
    got = {file.path.relative_to(base).as_posix(): file for file in report.files}
    errors = {failure.file.path: failure.error for failure in report.failures}
    ledgers: dict[str, RawLedger] = {}
    for session in sessions:
        name = session.source.name
        paths = [raw_path(session, file) for file in session.remote]
        failed = [errors[path] for path in paths if path in errors]
        if failed:
            session.failure = Outcome.of_error(session.info.id, name, failed[0])
            continue
        session.raw = tuple(
            RawFile.of(asked[path], got[path], file.path)
            for path, file in zip(paths, session.remote, strict=True)
        )
        ledger = ledgers.setdefault(name, RawLedger(root, name))
        ledger.add(session.info, session.raw)
    for ledger in ledgers.values():
        ledger.save()


def raw_path(session: Session, file: RemoteFile) -> str:
    """Where a file goes below the folder of raw files."""
    return f"{session.source.name}/{session.info.id}/{file.path}"
