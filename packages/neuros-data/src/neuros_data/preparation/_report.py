"""What came of a call, and which failures are raised."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from neuros_data.errors import DiskFullError, NetworkError
from neuros_data.preparation._task import Outcome
from neuros_data.store import Store


class SessionError(ValueError):
    """The data of a session cannot be prepared: a fault of the data, not of the call."""


@dataclass(frozen=True)
class PreparationReport:
    """What came of a call.

    Attributes:
        store: The store.
        prepared: Ids of the sessions that were prepared now.
        skipped: Ids of those that were finished before.
        failed: Those that failed, with reason and traceback.
        fetched: Ids of those whose files are there.
        notes: What the user should know.

    Examples:
        >>> import neuros_data
        >>> PreparationReport(neuros_data.load_sample(), ("a",), (), ()).ok
        True
    """

    store: Store
    prepared: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: tuple[Outcome, ...]
    fetched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether no session failed."""
        return not self.failed

    @property
    def offline(self) -> bool:
        """Whether all that failed did so for the network."""
        return bool(self.failed) and all(f.kind == "network" for f in self.failed)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "ok": self.ok,
            "path": str(self.store.path),
            "prepared": list(self.prepared),
            "skipped": list(self.skipped),
            "fetched": list(self.fetched),
            "failed": [{"session": f.id, "kind": f.kind, "error": f.error} for f in self.failed],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = [f"failed  {f.id}: {f.error}" for f in self.failed]
        lines += [f"note    {note}" for note in self.notes]
        lines.append(
            f"{self.store.path}: {len(self.prepared)} prepared, {len(self.skipped)} were finished, "
            f"{len(self.failed)} failed"
        )
        return "\n".join(lines)


def stop_at(outcomes: Iterable[Outcome], *, strict: bool) -> None:
    """Raise for a full disk, and for any failure when strict."""
    for found in outcomes:
        if found.kind == "disk":
            raise DiskFullError(found.error.partition(": ")[2])
        if found.kind and strict:
            raise _error(found)


def _error(outcome: Outcome) -> Exception:
    kind = NetworkError if outcome.kind == "network" else SessionError
    return kind(f"session {outcome.id} failed: {outcome.error}")


def settled(report: PreparationReport) -> Store:
    if report.failed and not (report.prepared or report.skipped):
        raise _error(report.failed[0])
    if report.failed:
        warnings.warn(f"{report}\nsee {report.store.path / 'failures.jsonl'}", stacklevel=3)
    return report.store
