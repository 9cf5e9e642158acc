"""DANDI, the archive of neurophysiology: the NWB files of any dandiset.

The archive's records are read through its REST interface and the files through their public
addresses, as those of the other archives. The DANDI client would do both, but it downloads by
itself and holds back zarr, which exporting uses at its newest.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from neuros_core import Modality, Recording, Species
from neuros_data.acquisition._quiet import read_quietly
from neuros_data.acquisition._s3 import fetch_bytes
from neuros_data.acquisition._settings import check_settings
from neuros_data.acquisition.source import Prepared, SessionInfo
from neuros_data.errors import NetworkError

if TYPE_CHECKING:
    from neuros_data.transfer import RemoteFile, TransferSettings

__all__ = ["Dandi", "DandiSettings"]

_PAGE = 1000
_SHA256 = "dandi:sha2-256"


@dataclass(frozen=True)
class DandiSettings:
    """Which files of which dandiset, and what they do not say themselves.

    Args:
        dandiset: Its number, six digits.
        version: Release such as `"0.220126.1855"`; empty takes the newest one, and the draft of a
            dandiset that was never released.
        paths: Patterns of the files to take, of which one must match the whole path.
        modality: What they hold; empty leaves that to the file.
        data: Path of the series to read, where a file holds several of a modality.
        species: Species; empty takes what the file says, else `other`.
        base_url: Address of the archive's interface.

    Raises:
        ValueError: When the number has other than six digits, or the modality or species is none.

    Examples:
        >>> DandiSettings("000728", paths=("sub-10/*.nwb",)).version
        ''
    """

    dandiset: str = "000021"
    version: str = ""
    paths: tuple[str, ...] = ("*.nwb",)
    modality: str = ""
    data: str = ""
    species: str = ""
    base_url: str = "https://api.dandiarchive.org/api"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d{6}", self.dandiset):
            raise ValueError(f"dandiset needs six digits such as '000021', got {self.dandiset!r}")
        if self.modality:
            Modality(self.modality)
        if self.species:
            Species(self.species)


@dataclass(frozen=True)
class Dandi:
    """Recordings of one dandiset; every NWB file is one recording, kept without loss.

    Licence and citation of a recording are those that its dandiset states; the source's are those
    of the archive, which takes data under CC0 or CC BY only.

    Args:
        settings: Which files.

    Examples:
        >>> Dandi(DandiSettings("000728")).name, Dandi().login
        ('dandi', None)

    References:
        Rübel et al. (2022), The Neurodata Without Borders ecosystem for neurophysiological data
        science, eLife 11, e78362, doi:10.7554/eLife.78362.
    """

    settings: DandiSettings = field(default_factory=DandiSettings)
    name: str = field(default="dandi", init=False)
    modality: str = field(default="any", init=False)
    species: str = field(default="any", init=False)
    licence: str = field(default="CC-BY-4.0", init=False)
    citation: str = field(
        default="Rübel et al. (2022), The Neurodata Without Borders ecosystem for "
        "neurophysiological data science, eLife 11, e78362, doi:10.7554/eLife.78362",
        init=False,
    )
    size: str = field(default="hundreds of dandisets, one of them at a time", init=False)
    login: str | None = field(default=None, init=False)

    def list(self, transfer: "TransferSettings") -> Sequence[SessionInfo]:
        """List the NWB files of the dandiset, sorted by id; one file is one recording.

        Args:
            transfer: How the records are fetched.

        Returns:
            The files that match a pattern, with their sizes and checksums.

        Raises:
            NetworkError: When the archive cannot be reached, or has no such dandiset or release.
            ValueError: When no file matches.
        """
        chosen = self.settings
        home = f"{chosen.base_url.rstrip('/')}/dandisets/{chosen.dandiset}"
        version = chosen.version or _newest(_ask(f"{home}/", transfer), home)
        release = f"{home}/versions/{quote(version)}"
        said = _terms(_ask(f"{release}/info/", transfer))
        query = urlencode({"page_size": _PAGE, "metadata": "true", "order": "path"})
        url: str | None = f"{release}/assets/?{query}"
        assets: dict[str, Mapping[str, Any]] = {}
        while url:
            page = _ask(url, transfer)
            assets |= {str(a["path"]): a for a in page.get("results", ()) if _is_wanted(a, chosen)}
            url = page.get("next")
        if not assets:
            raise ValueError(
                f"dandiset {chosen.dandiset} {version} has no NWB file that matches "
                f"{', '.join(chosen.paths)}"
            )
        about = {"dandiset": chosen.dandiset, "version": version, **said}
        short = {path: _plain(PurePosixPath(path).stem) for path in assets}
        # Files of one name in two folders go by their whole path.
        names = list(short.values())
        found = [
            _session(short[path] if names.count(short[path]) == 1 else _plain(path), asset, about)
            for path, asset in assets.items()
        ]
        return sorted(found, key=lambda info: info.id)

    def files(self, session: SessionInfo) -> "Sequence[RemoteFile]":
        """Name the one file of a session.

        Args:
            session: One of the listed sessions.

        Returns:
            Its NWB file, with the archive's checksum where it has computed one.
        """
        from neuros_data.transfer import RemoteFile

        asset = str(session.meta["asset"])
        return [
            RemoteFile(
                f"{self.settings.base_url.rstrip('/')}/assets/{asset}/download/",
                PurePosixPath(str(session.meta["path"])).name,
                sha256=str(session.meta["sha256"]) or None,
                size=int(session.meta["bytes"]),
            )
        ]

    def prepare(self, session: SessionInfo, folder: Path, settings: Any) -> Prepared:
        """Read the file as it is: spikes as events, integers as integers, tables as intervals.

        Args:
            session: The session.
            folder: Where its file lies.
            settings: `DandiSettings`.

        Returns:
            The recording; dandiset, release, licence and citation are in its provenance.

        Raises:
            TypeError: When `settings` are not `DandiSettings`.
            ValueError: When the file cannot be read, or holds several series of the modality.
            ImportError: When pynwb is not installed.
        """
        chosen = check_settings(settings, DandiSettings)
        path = folder / PurePosixPath(str(session.meta["path"])).name
        modality = Modality(chosen.modality) if chosen.modality else None
        reading = read_quietly(
            path, modality, session, species=chosen.species, data=chosen.data or None
        )
        read = reading.recording
        recording = Recording(
            read.id,
            read.subject,
            read.session,
            read.species,
            read.modalities,
            read.behaviour,
            {**read.provenance, "source": self.name, **session.meta},
        )
        return Prepared(recording, reading.quantize, reading.float64, notes=reading.notes)


def _ask(url: str, transfer: "TransferSettings") -> Mapping[str, Any]:
    text = fetch_bytes(url, transfer)
    try:
        found = json.loads(text)
    except ValueError as error:
        raise NetworkError(f"{url} did not answer in JSON: {text[:80]!r}") from error
    if not isinstance(found, Mapping):
        raise NetworkError(f"{url} needs to answer with a record, got {type(found).__name__}")
    return found


def _newest(record: Mapping[str, Any], url: str) -> str:
    released = record.get("most_recent_published_version") or record.get("draft_version")
    if not isinstance(released, Mapping):
        raise NetworkError(f"{url} names no version; check base_url")
    return str(released["version"])


def _terms(info: Mapping[str, Any]) -> dict[str, str]:
    """Title, licence and citation that a release states; what it does not state is absent."""
    told = info.get("metadata") or info
    licences = [str(name).removeprefix("spdx:") for name in told.get("license") or ()]
    found = {
        "title": str(told.get("name") or ""),
        "licence": "; ".join(licences),
        "citation": str(told.get("citation") or ""),
        "doi": str(told.get("doi") or ""),
    }
    return {name: value for name, value in found.items() if value}


def _is_wanted(asset: Mapping[str, Any], chosen: DandiSettings) -> bool:
    path = str(asset["path"])
    # NWB in zarr is a folder of thousands of objects: what is read here is a file.
    whole = path.endswith(".nwb") and not asset.get("zarr")
    return whole and any(fnmatchcase(path, pattern) for pattern in chosen.paths)


def _session(name: str, asset: Mapping[str, Any], about: Mapping[str, str]) -> SessionInfo:
    path = str(asset["path"])
    digest = (asset.get("metadata") or {}).get("digest") or {}
    return SessionInfo(
        name,
        _entity(path, "sub"),
        _entity(path, "ses"),
        {
            **about,
            "asset": str(asset["asset_id"]),
            "path": path,
            "bytes": int(asset["size"]),
            "sha256": str(digest.get(_SHA256, "")),
        },
    )


def _entity(path: str, key: str) -> str:
    """The value of `sub-` or `ses-` in a path; empty where there is none, and the file decides."""
    found = re.search(rf"(?:^|[_/]){key}-([^_/.]+)", path)
    return found[1] if found else ""


def _plain(path: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+=-]", "_", path.removesuffix(".nwb")).lstrip("._+=-") or "file"
