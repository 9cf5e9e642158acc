"""One file: reuse it, resume it, try again, try a mirror, check it, name it."""

import hashlib
import logging
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from neuros_data.errors import ChecksumError, DiskFullError, NetworkError
from neuros_data.transfer._bars import Bar
from neuros_data.transfer._locks import lock_file
from neuros_data.transfer._partial import Partial, hash_file, md5_file
from neuros_data.transfer._remote import FetchedFile, RemoteFile
from neuros_data.transfer._streams import CHUNK, RefusedError, Stream, TransientError
from neuros_data.transfer._transports import Transports

_LOG = logging.getLogger("neuros_data.transfer")


def fetch_one(file: RemoteFile, folder: Path, transports: Transports, bar: Bar) -> FetchedFile:
    """Make sure that a file is there, whole.

    Raises:
        NetworkError: When no address gave it.
        ChecksumError: When it came wrong twice.
        DiskFullError: When there is no room; what was received of it is removed.
        InterruptedError: When cancelled.
    """
    final = folder / file.path
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(final, transports.cancel):
            return _stored(file, final, bar) or _Download(file, final, transports, bar).run()
    except OSError as error:
        if DiskFullError.is_cause(error):
            raise DiskFullError.needing(file.size or CHUNK, final) from error
        raise


def _stored(file: RemoteFile, final: Path, bar: Bar) -> FetchedFile | None:
    """The file that is there already; a wrong one is set aside."""
    if not final.exists():
        return None
    size, sha256 = final.stat().st_size, hash_file(final)
    same_md5 = file.md5 is None or file.md5 == md5_file(final)
    if file.sha256 in {None, sha256} and file.size in {None, size} and same_md5:
        bar.begin(file.name, size, size)
        at = datetime.fromtimestamp(final.stat().st_mtime, UTC)
        return FetchedFile(final, file.url, sha256, size, _iso(at), reused=True)
    _LOG.warning("%s is not the file expected; set aside as .bad and fetched again", final)
    final.replace(final.with_name(f"{final.name}.bad"))
    return None


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


@dataclass
class _Download:
    file: RemoteFile
    final: Path
    transports: Transports
    bar: Bar

    def __post_init__(self) -> None:
        sums = {"sha256": self.file.sha256, "md5": self.file.md5}
        self._sums = {kind: known for kind, known in sums.items() if known is not None}
        self.partial = Partial(
            self.final, checked=bool(self._sums), with_md5=self.file.md5 is not None
        )
        self._total = self.file.size

    def run(self) -> FetchedFile:
        """Fetch, and once more if what came is wrong."""
        try:
            turn = 0
            while True:
                url = self._from_any(turn)
                fault = self._fault(url)
                if fault is None:
                    sha256, size = self.partial.sha256, self.partial.size
                    self.partial.finish()
                    now = _iso(datetime.now(UTC))
                    return FetchedFile(self.final, url, sha256, size, now, reused=False)
                _LOG.warning("%s came wrong; set aside as %s", url, self.partial.bad)
                self.partial.quarantine()
                if turn == 1:
                    raise fault
                turn = 1
        except OSError as error:
            if DiskFullError.is_cause(error):
                missing = (self._total or self.partial.size + CHUNK) - self.partial.size
                self.partial.discard()
                raise DiskFullError.needing(missing, self.final) from error
            raise
        finally:
            self.partial.close()

    def _fault(self, url: str) -> Exception | None:
        """Why what was received is not the file asked for, as far as that is known."""
        for kind, expected in self._sums.items():
            if (got := self.partial.checksum(kind)) != expected:
                return ChecksumError(url, expected, got, self.partial.bad, kind)
        if self.file.size in {None, self.partial.size}:
            return None
        return NetworkError(
            f"{url} sent {self.partial.size} bytes, {self.file.size} were expected; "
            f"it was set aside as {self.partial.bad}"
        )

    def _from_any(self, turn: int) -> str:
        """Receive from the first address that gives a file; the second turn begins one further."""
        urls = self.file.urls
        reasons = []
        for i in range(len(urls)):
            url = urls[(i + turn) % len(urls)]
            try:
                self._from_one(url)
            except RefusedError as error:
                _LOG.warning("%s", error)
                reasons.append(f"{error}")
            else:
                return url
        raise NetworkError(
            f"{'; '.join(reasons)}; try again later, or put the file at {self.final}"
        )

    def _from_one(self, url: str) -> None:
        """Receive all of a file, over as many attempts as it takes or is allowed."""
        settings = self.transports.settings
        best, failed = self.partial.size, 0
        while (error := self._attempt(url)) is not None:
            if self.partial.size >= best + CHUNK:
                best, failed = self.partial.size, 0
            wait = error.wait if error.wait is not None else self._backoff(url, failed)
            if failed == settings.retries or wait > settings.longest_wait:
                if error.unreachable:
                    self.transports.give_up(url, f"{error}")
                raise RefusedError(f"{error} ({self._tries(failed, error)})")
            failed += 1
            _LOG.info("%s; again in %.1f s", error, wait)
            if self.transports.cancel.wait(wait):
                raise InterruptedError(f"cancelled {url}; run again to resume")

    def _tries(self, failed: int, error: TransientError) -> str:
        if error.wait is not None and error.wait > self.transports.settings.longest_wait:
            return f"asks to wait {error.wait:.0f} s"
        return f"{failed + 1} attempts"

    def _backoff(self, url: str, failed: int) -> float:
        """Exponential, and scattered by the address so that many do not return at one moment."""
        settings = self.transports.settings
        word = hashlib.sha256(f"{url} {failed}".encode()).digest()
        jitter = int.from_bytes(word[:4], "big") / 2**32
        return min(settings.backoff * 2.0**failed, settings.longest_wait) * (1 + jitter) / 2

    def _attempt(self, url: str) -> TransientError | None:
        """One request; what went wrong with it if another may help."""
        try:
            with self.transports.open(url, self.partial.offer(url)) as stream:
                self._receive(url, stream)
        except TransientError as error:
            # A server that promises more than it has: the checksum knows better.
            return None if self._is_whole() else error
        return None

    def _receive(self, url: str, stream: Stream) -> None:
        self._total = self.file.size if self.file.size is not None else stream.total
        self._check_disk()
        self.partial.begin(url, stream)
        self.bar.begin(self.file.name, stream.offset, self._total)
        for block in stream.blocks:
            if self.transports.cancel.is_set():
                raise InterruptedError(f"cancelled {url}; run again to resume")
            self.partial.write(block)
            self.bar.advance(len(block))
            if self.file.size is not None and self.partial.size > self.file.size:
                return  # more than it should be: no need to see how much more
        if self._total is not None and self.partial.size < self._total:
            raise TransientError(f"{url} ended after {self.partial.size} of {self._total} bytes")

    def _is_whole(self) -> bool:
        """Whether what is known of the file says so; nothing known says nothing."""
        known = bool(self._sums) or self.file.size is not None
        return known and self.partial.received and self._fault(self.file.url) is None

    def _check_disk(self) -> None:
        """Room for the rest, before any of it is written."""
        missing = (self._total or 0) - self.partial.size
        free = shutil.disk_usage(self.final.parent).free
        if missing > free:
            raise DiskFullError.needing(missing - free, self.final)
