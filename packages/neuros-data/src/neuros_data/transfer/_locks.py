"""One writer per file, across threads and processes; the lock of a dead process is free."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

_POLL = 0.05

if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def lock_file(target: Path, cancel: Event) -> Iterator[None]:
    """Hold the lock of a file while the block runs; wait for whoever holds it.

    The operating system's lock on `NAME.lock` is what counts, not that the file exists: it is
    released when its process ends, however it ends.

    Args:
        target: The file to be written.
        cancel: Ends the wait.

    Raises:
        InterruptedError: When cancelled while waiting.
    """
    path = target.with_name(f"{target.name}.lock")
    handle = _acquire(path, cancel)
    try:
        yield
    finally:
        if sys.platform == "win32":
            os.close(handle)  # an open file cannot be removed there; the next holder reuses it
        else:
            path.unlink(missing_ok=True)
            os.close(handle)


def _acquire(path: Path, cancel: Event) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if _try_lock(handle) and _is_current(handle, path):
            return handle
        os.close(handle)
        if cancel.wait(_POLL):
            raise InterruptedError(f"cancelled while waiting for {path}; run again to resume")


def _is_current(handle: int, path: Path) -> bool:
    """Whether the locked file is still the one of that name: its last holder removed it."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
