"""How patient, how parallel, and where wheels are kept."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TransferSettings:
    r"""How `fetch_files` waits, retries and shares the line.

    Before retry $k$ it waits $\min(b\,2^k, w)\,(1 + j)/2$ seconds with $j$ in [0, 1) from the
    address, so that many clients do not come back at the same moment; a server's `Retry-After`
    goes before that.

    Args:
        retries: Attempts after the first one; one that brought a new chunk starts the count anew.
        backoff: Seconds $b$ of the first wait.
        longest_wait: Most seconds $w$ of one wait; a server that asks for more is given up.
        connect_timeout: Seconds for a connection.
        read_timeout: Seconds without a byte after which a connection counts as dropped.
        per_host: Most requests at a time to one host.
        cache: Folder of downloaded wheels; None is the user's cache folder.

    Raises:
        ValueError: When a number is out of range.

    Examples:
        >>> TransferSettings(retries=2).per_host
        8
    """

    retries: int = 5
    backoff: float = 0.5
    longest_wait: float = 120.0
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    per_host: int = 8
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ValueError(f"retries needs 0 or more, got {self.retries}")
        if self.per_host < 1:
            raise ValueError(f"per_host needs 1 or more, got {self.per_host}")
        for name in ("backoff", "longest_wait", "connect_timeout", "read_timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"{name} needs a positive number of seconds, got {getattr(self, name)}"
                )

    @property
    def wheels(self) -> Path:
        """Folder in which downloaded wheels stay."""
        return (self.cache or _user_cache()) / "wheels"


def _user_cache() -> Path:
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "neuros-data"
