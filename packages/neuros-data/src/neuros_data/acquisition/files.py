"""Files of your own, prepared like those of an archive: one file is one recording."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuros_core import Modality
from neuros_data.acquisition._quiet import read_quietly
from neuros_data.acquisition._settings import check_settings
from neuros_data.acquisition.source import Prepared, SessionInfo
from neuros_data.reading._assemble import stem_of

if TYPE_CHECKING:
    from neuros_data.transfer import RemoteFile, TransferSettings

__all__ = ["LocalFiles", "LocalFilesSettings"]

_NAMED = re.compile(r"^(?:DataFile|MarkerFile)=(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class LocalFilesSettings:
    """Which files, and what they do not say themselves.

    Args:
        paths: Files of the formats that `neuros_data.read` reads, or folders of ALF files.
        modality: What they hold; empty leaves that to the file.
        subject: Who was recorded; empty takes what the file says, else its name.
        session: Which session; empty takes what the file says, else 1.
        species: Species; empty takes what the file says, else `other`.

    Raises:
        ValueError: When the modality is none.

    Examples:
        >>> LocalFilesSettings(("rat.edf",), modality="ecog").modality
        'ecog'
    """

    paths: tuple[str, ...] = ()
    modality: str = ""
    subject: str = ""
    session: str = ""
    species: str = ""

    def __post_init__(self) -> None:
        if self.modality:
            Modality(self.modality)


@dataclass(frozen=True)
class LocalFiles:
    """Recordings from files on this machine, kept without loss and not filtered.

    Args:
        settings: Which files.

    Examples:
        >>> LocalFiles().name
        'files'
    """

    settings: LocalFilesSettings = field(default_factory=LocalFilesSettings)
    name: str = field(default="files", init=False)
    modality: str = field(default="any", init=False)
    species: str = field(default="any", init=False)
    licence: str = field(default="yours to say", init=False)
    citation: str = field(default="", init=False)
    size: str = field(default="", init=False)
    login: str | None = field(default=None, init=False)

    def list(self, transfer: "TransferSettings") -> Sequence[SessionInfo]:
        """One session a path, sorted by id.

        Args:
            transfer: Nothing is fetched from the network.

        Returns:
            The sessions.

        Raises:
            FileNotFoundError: When there is nothing at a path.
            ValueError: When there is no path, or two files would have the same id.
        """
        del transfer  # the protocol's argument; the files are here
        if not self.settings.paths:
            raise ValueError("local files need paths: LocalFilesSettings(paths=(...,))")
        found: dict[str, SessionInfo] = {}
        for path in map(Path, self.settings.paths):
            if not path.exists():
                raise FileNotFoundError(f"{path} does not exist")
            info = self._session(path.absolute())
            if info.id in found:
                raise ValueError(
                    f"two files would be recording {info.id!r}: {found[info.id].meta['path']} and "
                    f"{path.absolute()}; rename one, or import them with different subjects"
                )
            found[info.id] = info
        return [found[key] for key in sorted(found)]

    def _session(self, path: Path) -> SessionInfo:
        chosen = self.settings
        stem = stem_of(path)
        parts = [part for part in (chosen.subject, chosen.session, stem) if part]
        plain = re.sub(r"[^A-Za-z0-9._+=-]", "-", "_".join(parts)).lstrip("._+=-")
        return SessionInfo(
            plain or "recording", chosen.subject, chosen.session, {"path": str(path)}
        )

    def files(self, session: SessionInfo) -> "Sequence[RemoteFile]":
        """The file and those that belong to it, in the same folder.

        Args:
            session: One of the listed sessions.

        Returns:
            Files by `file://`: the same stem with another ending, what a BrainVision header names,
            and for names as in BIDS all that begin with the same entities. Of a folder, all that
            it holds.
        """
        from neuros_data.transfer import RemoteFile

        path = Path(str(session.meta["path"]))
        root = path.parent
        return [
            RemoteFile(p.as_uri(), p.relative_to(root).as_posix(), size=p.stat().st_size)
            for p in sorted(_belonging(path))
        ]

    def prepare(self, session: SessionInfo, folder: Path, settings: Any) -> Prepared:
        """Read the file as it is: integers stay integers.

        Args:
            session: The session.
            folder: Where its files lie.
            settings: `LocalFilesSettings`.

        Returns:
            The recording, with the labels that are in the file: annotations, trials, columns.

        Raises:
            TypeError: When `settings` are not `LocalFilesSettings`.
            ValueError: When the file cannot be read.
        """
        chosen = check_settings(settings, LocalFilesSettings)
        path = folder / Path(str(session.meta["path"])).name
        modality = Modality(chosen.modality) if chosen.modality else None
        reading = read_quietly(path, modality, session, species=chosen.species)
        return Prepared(reading.recording, reading.quantize, reading.float64, notes=reading.notes)


def _belonging(path: Path) -> set[Path]:
    if path.is_dir():
        return {p for p in path.rglob("*") if p.is_file()}
    stem = stem_of(path)
    # sub-01_task-rest_eeg.edf has its events in sub-01_task-rest_events.tsv.
    begins = (
        stem.rpartition("_")[0] + "_" if stem.startswith("sub-") and "_" in stem else stem + "."
    )
    found = {p for p in path.parent.iterdir() if p.is_file() and p.name.startswith(begins)}
    if path.suffix.lower() == ".vhdr":
        named = _NAMED.findall(path.read_text(encoding="utf-8", errors="replace"))
        found |= {p for name in named if (p := path.parent / name).is_file()}
    return found | {path}
