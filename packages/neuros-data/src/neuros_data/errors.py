"""What can go wrong with data: a damaged file, an unknown format, a leak, a server, a disk."""

import errno
from pathlib import Path

__all__ = [
    "ChecksumError",
    "CorruptStoreError",
    "DiskFullError",
    "FormatVersionError",
    "HCPCredentialsError",
    "LeakageError",
    "LicenceError",
    "MissingChannelError",
    "NetworkError",
]

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class CorruptStoreError(ValueError):
    """A file of a store is missing, truncated or not what its metadata says.

    Examples:
        >>> issubclass(CorruptStoreError, ValueError)
        True
    """


class FormatVersionError(ValueError):
    """A store was written by a newer major version of the format.

    Examples:
        >>> issubclass(FormatVersionError, ValueError)
        True
    """


class LeakageError(ValueError):
    """A split lets information pass from one part to another.

    Examples:
        >>> issubclass(LeakageError, ValueError)
        True
    """


class ChecksumError(ValueError):
    """A downloaded file is not the one that was asked for, twice in a row.

    Args:
        url: Where it came from.
        expected: Its checksum, hexadecimal.
        got: The checksum of what came.
        path: Where the file was set aside.
        kind: Which checksum, `"sha256"` or `"md5"`.

    Examples:
        >>> str(ChecksumError("https://example.org/a.edf", "ab", "cd", Path("a.edf.bad")))
        'https://example.org/a.edf has sha256 cd, expected ab; it was set aside as a.edf.bad'
    """

    def __init__(self, url: str, expected: str, got: str, path: Path, kind: str = "sha256") -> None:
        super().__init__(url, expected, got, path, kind)
        self.url, self.expected, self.got, self.path = url, expected, got, path
        self.kind = kind

    def __str__(self) -> str:
        return (
            f"{self.url} has {self.kind} {self.got}, expected {self.expected}; "
            f"it was set aside as {self.path}"
        )


class NetworkError(ConnectionError):
    """A server could not be reached, or refused; what is stored already still works.

    Examples:
        >>> issubclass(NetworkError, OSError)
        True
    """


class LicenceError(PermissionError):
    """The data's licence has terms that were not accepted.

    Examples:
        >>> issubclass(LicenceError, OSError)
        True
    """


class HCPCredentialsError(LicenceError):
    """Data of the Human Connectome Project need its own account; only local files are read.

    Examples:
        >>> issubclass(HCPCredentialsError, LicenceError)
        True
    """


class MissingChannelError(ValueError):
    """A channel, modality or column that was required is not in a recording.

    Examples:
        >>> issubclass(MissingChannelError, ValueError)
        True
    """


class DiskFullError(OSError):
    """The disk (or a quota) is full; what was half written has been removed.

    Examples:
        >>> issubclass(DiskFullError, OSError)
        True
    """

    @staticmethod
    def is_cause(error: OSError) -> bool:
        """Tell whether an operating system error means that no space is left.

        Examples:
            >>> DiskFullError.is_cause(OSError(28, "No space left on device"))
            True
        """
        return error.errno in _DISK_FULL

    @classmethod
    def needing(cls, n_bytes: int, path: Path) -> "DiskFullError":
        """Build the error that says how much room is needed and where.

        Examples:
            >>> str(DiskFullError.needing(2_000_000, Path("store")))
            'no space left: store needs about 2.0 MB more; free some or choose another folder'
        """
        return cls(
            f"no space left: {path} needs about {n_bytes / 1e6:.1f} MB more; "
            "free some or choose another folder"
        )
