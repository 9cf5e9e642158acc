"""What every transport gives: bytes from some offset on, and what identifies them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

CHUNK = 1 << 20


class TransientError(Exception):
    """This attempt failed; another may not.

    Args:
        reason: What happened.
        wait: Seconds that the server asks to wait.
        unreachable: Whether no connection came about.
    """

    def __init__(
        self, reason: str, *, wait: float | None = None, unreachable: bool = False
    ) -> None:
        super().__init__(reason)
        self.wait, self.unreachable = wait, unreachable


class RefusedError(Exception):
    """This address will not give the file, however often it is asked."""


@dataclass(frozen=True)
class Version:
    """What tells one state of a remote file from another; empty where the server says nothing."""

    etag: str = ""
    modified: str = ""

    def agrees(self, other: "Version") -> bool:
        """Whether all that both say is the same."""
        pairs = ((self.etag, other.etag), (self.modified, other.modified))
        return all(a == b for a, b in pairs if a and b)

    def filled(self, other: "Version") -> "Version":
        """This one, with what only the other says."""
        return Version(self.etag or other.etag, self.modified or other.modified)


@dataclass(frozen=True)
class Offer:
    """What is on the disk already, to be continued."""

    offset: int
    total: int | None
    version: Version


@dataclass(frozen=True)
class Stream:
    """An open transfer: `blocks` holds the bytes from `offset` on, each at most one chunk.

    What was compressed on the way cannot be continued in the middle: `resumable` is False.
    `abort` may be called from another thread and ends a read that waits for bytes.
    """

    offset: int
    total: int | None
    version: Version
    blocks: Iterator[bytes]
    close: Callable[[], None]
    resumable: bool = True
    abort: Callable[[], None] = lambda: None


def open_local(url: str, offer: Offer | None) -> Stream:
    """Open a `file://` address."""
    parts = urlsplit(url)
    path = Path(url2pathname(unquote(parts.path)))
    try:
        found = path.stat()
        file = path.open("rb")
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}") from error
    version = Version(etag=f'"{found.st_mtime_ns}-{found.st_size}"')
    offset = 0
    if offer is not None and offer.version.etag == version.etag:
        offset = offer.offset
        file.seek(offset)
    return Stream(offset, found.st_size, version, iter(lambda: file.read(CHUNK), b""), file.close)
