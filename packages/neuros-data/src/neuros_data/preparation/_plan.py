"""What a download would do, before it does anything."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuros_data.errors import DiskFullError
from neuros_data.preparation._sessions import Choice, Session
from neuros_data.store import Store


@dataclass(frozen=True)
class DownloadPlan:
    """What would be fetched, and whether it fits.

    Attributes:
        sessions: Ids of the sessions that were chosen.
        files: Files to fetch, `(path below raw/, bytes or None)`.
        bytes: Known bytes to fetch.
        unknown: Files whose size the archive does not say.
        prepared_bytes: Bytes the prepared recordings are estimated to take: those of the raw
            files, times the ratio found in the store so far.
        free_bytes: Free bytes on the disk.
        notes: What else the user should know.

    Examples:
        >>> DownloadPlan(("a",), (("x/a.edf", 10),), 10, 0, 10, 99).fits
        True
    """

    sessions: tuple[str, ...]
    files: tuple[tuple[str, int | None], ...]
    bytes: int
    unknown: int
    prepared_bytes: int
    free_bytes: int
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether what is known fits on the disk."""
        return self.bytes + self.prepared_bytes <= self.free_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "ok": self.fits,
            "sessions": list(self.sessions),
            "files": [{"path": path, "bytes": size} for path, size in self.files],
            "bytes": self.bytes,
            "unknown_sizes": self.unknown,
            "prepared_bytes": self.prepared_bytes,
            "free_bytes": self.free_bytes,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = [f"{_mb(size):>12}  {path}" for path, size in self.files]
        more = f" and {self.unknown} files of unknown size" if self.unknown else ""
        lines += [
            f"{len(self.sessions)} sessions, {len(self.files)} files: {_mb(self.bytes)}{more}",
            f"prepared recordings: about {_mb(self.prepared_bytes)}",
            f"free on the disk: {_mb(self.free_bytes)}",
            *self.notes,
        ]
        return "\n".join(lines)


def _mb(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:.1f} MB"


def plan(
    root: Path, store: Store | None, choice: Choice, pending: Sequence[Session]
) -> DownloadPlan:
    """Describe what the pending sessions need.

    Args:
        root: Folder of the store; it need not exist.
        store: The store, where there is one.
        choice: The chosen sessions.
        pending: Those that are not finished.
    """
    base = root / "raw"
    files: list[tuple[str, int | None]] = []
    raw = missing = 0
    for session in pending:
        for file in session.remote:
            path = f"{session.source.name}/{session.info.id}/{file.path}"
            raw += file.size or 0
            if not (base / path).exists():
                files.append((path, file.size))
                missing += file.size or 0
    failed = [f"{s.info.id}: {s.failure.error}" for s in choice.sessions if s.failure]
    return DownloadPlan(
        sessions=tuple(s.info.id for s in choice.sessions),
        files=tuple(files),
        bytes=missing,
        unknown=sum(size is None for _, size in files),
        prepared_bytes=round(raw * _ratio(store)),
        free_bytes=shutil.disk_usage(_existing(root)).free,
        notes=(*choice.notes, *failed),
    )


def check_room(found: DownloadPlan, root: Path) -> None:
    """Refuse to start what cannot end.

    Raises:
        DiskFullError: When what is known does not fit.
    """
    if not found.fits:
        missing = found.bytes + found.prepared_bytes - found.free_bytes
        raise DiskFullError.needing(missing, root)


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.absolute().parent)


def _ratio(store: Store | None) -> float:
    """Prepared over raw bytes of the recordings that are there; 1 without any."""
    raw = prepared = 0
    for session in {} if store is None else store.manifest.get("sessions", {}):
        if store is not None and session in store.recordings:
            files = store.manifest["sessions"][session]["files"]
            raw += sum(file["size"] for file in files)
            prepared += sum(p.stat().st_size for p in store.files.folder(session).iterdir())
    return prepared / raw if raw else 1.0
