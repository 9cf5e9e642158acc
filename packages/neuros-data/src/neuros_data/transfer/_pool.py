"""Many files at once: threads, because they wait for the network and not for the processor."""

import logging
import shutil
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from os import PathLike
from pathlib import Path
from urllib.parse import urlsplit

from neuros_data.errors import DiskFullError
from neuros_data.transfer._bars import Bars, NoBars, TerminalBars
from neuros_data.transfer._one_file import fetch_one
from neuros_data.transfer._remote import FetchedFile, RemoteFile, TransferFailure, TransferReport
from neuros_data.transfer._settings import TransferSettings
from neuros_data.transfer._transports import Transports

_LOG = logging.getLogger("neuros_data.transfer")
_PATIENCE = 1.0
_TICK = 0.1


def fetch_files(
    files: Sequence[RemoteFile],
    folder: str | PathLike[str],
    *,
    jobs: int = 4,
    settings: TransferSettings | None = None,
    progress: bool | None = None,
    cancel: threading.Event | None = None,
) -> TransferReport:
    """Fetch files into a folder, several at a time; what is there and right is left alone.

    A file is written as `NAME.part` and gets its name when it is whole and its checksum right.
    Whatever ends the process, the next call goes on from the `.part`. A file with a wrong
    checksum is set aside as `NAME.bad` and fetched once more. Two processes may ask for the same
    file: one fetches, the other waits and reuses. One failing file does not stop the others.

    Args:
        files: What to fetch; the paths differ.
        folder: Where to; made if absent.
        jobs: Files in flight at a time.
        settings: Patience and limits; None is `TransferSettings()`.
        progress: True draws bars on the standard error stream.
        cancel: When set, everything stops within two seconds and can be resumed; unfinished
            files are failures with `InterruptedError`. Ctrl-C sets it too.

    Returns:
        What is there now, and what is not with the reason.

    Raises:
        DiskFullError: When the sizes that are known do not fit, before anything is fetched.
        ValueError: When two files have the same path, or `jobs` is not positive.
        KeyboardInterrupt: On Ctrl-C, after the transfers have stopped.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     source = Path(folder) / "there.txt"
        ...     _ = source.write_text("1 2 3")
        ...     report = fetch_files([RemoteFile(source.as_uri(), "here.txt")], Path(folder) / "b")
        ...     report.files[0].path.read_text(), report.files[0].size
        ('1 2 3', 5)
    """
    root = Path(folder).absolute()
    if jobs < 1:
        raise ValueError(f"jobs needs 1 or more, got {jobs}")
    times = Counter(file.path for file in files)
    if repeated := sorted(path for path, n in times.items() if n > 1):
        raise ValueError(f"files need paths that differ, got {', '.join(repeated)} twice")
    root.mkdir(parents=True, exist_ok=True)
    _check_disk(files, root)
    stop = cancel or threading.Event()
    bars: Bars = TerminalBars(files) if progress else NoBars()
    run = _Run(files, root, Transports(settings or TransferSettings(), stop), bars)
    try:
        run.wait(min(jobs, len(files)))
    finally:
        bars.close()
    return run.report()


def _check_disk(files: Sequence[RemoteFile], root: Path) -> None:
    missing = 0
    for file in files:
        final = root / file.path
        part = final.with_name(f"{final.name}.part")
        there = next((p.stat().st_size for p in (final, part) if p.exists()), 0)
        missing += max(0, (file.size or 0) - there)
    free = shutil.disk_usage(root).free
    if missing > free:
        raise DiskFullError.needing(missing - free, root)


class _Run:
    """The files of one call, their threads and what came of each."""

    def __init__(
        self, files: Sequence[RemoteFile], root: Path, transports: Transports, bars: Bars
    ) -> None:
        self._files = files
        self._root = root
        self._transports = transports
        self._bars = bars
        self._lock = threading.Lock()
        self._queue = _by_turns(files)
        self._done: dict[int, FetchedFile | TransferFailure] = {}

    def wait(self, jobs: int) -> None:
        """Start the threads and stay until they are done, or the patience after a stop is over.

        They are daemons: a thread that hangs in a request must not hold up the end of the
        process. It writes nothing any more once it sees the stop.
        """
        stop = self._transports.cancel
        threads = [
            threading.Thread(target=self._work, args=(i,), name=f"transfer-{i}", daemon=True)
            for i in range(jobs)
        ]
        try:
            for thread in threads:
                thread.start()
            while any(t.is_alive() for t in threads) and not stop.is_set():
                _join(threads, _TICK)
        except KeyboardInterrupt:
            stop.set()
            raise
        finally:
            if stop.is_set():
                self._transports.abort()
                _join(threads, _PATIENCE)

    def _work(self, slot: int) -> None:
        while (i := self._next()) is not None:
            file = self._files[i]
            try:
                found = fetch_one(file, self._root, self._transports, self._bars.slot(slot))
            except (OSError, ValueError) as error:
                self._keep(i, TransferFailure(file, error))
            else:
                self._keep(i, found)
            self._bars.finish(slot)

    def _next(self) -> int | None:
        with self._lock:
            return None if self._transports.cancel.is_set() else next(self._queue, None)

    def _keep(self, i: int, found: FetchedFile | TransferFailure) -> None:
        with self._lock:
            self._done[i] = found

    def report(self) -> TransferReport:
        """All files, in the order asked for."""
        cut = InterruptedError("cancelled; run again to resume")
        with self._lock:
            done = [
                self._done.get(i, TransferFailure(file, cut)) for i, file in enumerate(self._files)
            ]
        return TransferReport(
            tuple(d for d in done if isinstance(d, FetchedFile)),
            tuple(d for d in done if isinstance(d, TransferFailure)),
        )


def _join(threads: Sequence[threading.Thread], seconds: float) -> None:
    end = time.monotonic() + seconds
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(0.0, end - time.monotonic()))


def _by_turns(files: Sequence[RemoteFile]) -> Iterator[int]:
    """One file of each host after the other, so that a full host does not occupy all threads."""
    hosts: defaultdict[str, list[int]] = defaultdict(list)
    for i, file in enumerate(files):
        hosts[urlsplit(file.url).netloc].append(i)
    for turn in zip_longest(*hosts.values()):
        yield from (i for i in turn if i is not None)
