"""What can go wrong with a store: a damaged file, an unknown format, a leak, a full disk."""

import errno
from pathlib import Path

__all__ = ["CorruptStoreError", "DiskFullError", "FormatVersionError", "LeakageError"]

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
