"""What an archive must offer so that its sessions can be listed, downloaded and prepared.

A source is a small frozen dataclass. It knows where the files are and how one session becomes a
`Recording`; downloading, parallel work, splits and the store are the caller's. Packages register
theirs under the entry point group `neuros_data.sources`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from neuros_core import Recording

if TYPE_CHECKING:
    from neuros_data.format import Quantization
    from neuros_data.transfer import RemoteFile, TransferSettings

__all__ = ["Prepared", "SessionInfo", "Source", "sources"]

GROUP = "neuros_data.sources"


@dataclass(frozen=True)
class SessionInfo:
    """One session of an archive, before anything of it is downloaded.

    Args:
        id: Name of the recording that it becomes; a folder of the store is named by it.
        subject: Who was recorded.
        session: Which session of the subject.
        meta: What `Source.files` and `Source.prepare` need to know besides.

    Raises:
        ValueError: When `id` is empty.

    Examples:
        >>> SessionInfo("ibl-4ecb5d24", "CSH_ZAD_001", "2020-01-08-001").subject
        'CSH_ZAD_001'
    """

    id: str
    subject: str
    session: str
    meta: Mapping[str, str | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError(f"a session of subject {self.subject!r} needs a non-empty id")


@dataclass(frozen=True, eq=False)
class Prepared:
    """One session as it goes into the store.

    Args:
        recording: The recording.
        quantize: Modality or behaviour -> lattice of its samples, for `Store.add`.
        float64: Modalities or behaviours to keep in double precision.
        support: Seconds to either side beyond which no sample of the preparation depends on
            another: the `support` of `make_split`.
        notes: What the user should know: a data set that is absent, trials that are flagged.

    Raises:
        ValueError: When `support` is negative.

    Examples:
        >>> import numpy as np
        >>> from neuros_core import Signal
        >>> lfp = Signal(np.zeros((10, 1)), rate=10.0)
        >>> Prepared(Recording("r", "s", "1", "mouse", {"lfp": lfp}), notes=("no wheel",)).notes
        ('no wheel',)
    """

    recording: Recording
    quantize: "Mapping[str, Quantization]" = field(default_factory=dict)
    float64: frozenset[str] = frozenset()
    support: float = 0.0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.support >= 0:
            raise ValueError(f"support needs seconds >= 0, got {self.support}")


@runtime_checkable
class Source(Protocol):
    """An archive of recordings.

    Other settings than the defaults come in by `dataclasses.replace(source, settings=...)`: the
    caller does that once, before `list` and `files`, and hands the same settings to `prepare`.

    Examples:
        >>> from neuros_data.acquisition.allen_2p import Allen2P
        >>> isinstance(Allen2P(), Source)
        True
    """

    @property
    def name(self) -> str:
        """What the command line calls it."""

    @property
    def modality(self) -> str:
        """Modalities it gives, separated by commas."""

    @property
    def species(self) -> str:
        """Species of its subjects."""

    @property
    def licence(self) -> str:
        """Licence of the data, SPDX where there is an identifier."""

    @property
    def citation(self) -> str:
        """Who is to be cited."""

    @property
    def size(self) -> str:
        """Rough size of the whole archive, in words."""

    @property
    def login(self) -> str | None:
        """What account a user needs; None where the data are open."""

    @property
    def settings(self) -> Any:
        """Frozen dataclass: server addresses, release, thresholds, steps of preparation."""

    def list(self, transfer: "TransferSettings") -> Sequence[SessionInfo]:
        """List the sessions, sorted by id.

        Args:
            transfer: How the listing is fetched: retries, timeout, limits.

        Raises:
            NetworkError: When the archive cannot be reached.
        """

    def files(self, session: SessionInfo) -> "Sequence[RemoteFile]":
        """Name the files of one session; their paths lie below the session's own folder."""

    def prepare(self, session: SessionInfo, folder: Path, settings: Any) -> Prepared:
        """Turn the downloaded files of one session into a recording.

        Args:
            session: The session.
            folder: Where its files lie, under the paths that `files` gave.
            settings: As `settings`; anything else is refused.

        Raises:
            ValueError: When a file cannot be read; the message names it.
        """


def sources() -> dict[str, Source]:
    """Find the archives that installed packages offer, by name.

    Every entry point of the group `neuros_data.sources` names a `Source` object, or a class that
    makes one without arguments. An entry point is loaded when this is called, and not before.

    Returns:
        Name -> source, sorted by name.

    Raises:
        TypeError: When an entry point is not a source.
        ValueError: When two packages offer the same name.

    Examples:
        >>> isinstance(sources(), dict)
        True
    """
    found: dict[str, Source] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        if entry.name in found:
            raise ValueError(
                f"two packages offer the source {entry.name!r}, the second as {entry.value}; "
                "uninstall one of them"
            )
        loaded = entry.load()
        source = loaded() if isinstance(loaded, type) else loaded
        if not isinstance(source, Source):
            raise TypeError(
                f"entry point {entry.name} = {entry.value} needs a neuros_data Source, "
                f"got {type(source).__name__}"
            )
        found[entry.name] = source
    return found
