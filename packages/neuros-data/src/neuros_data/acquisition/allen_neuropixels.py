"""Allen Brain Observatory, Visual Coding, Neuropixels: spikes and LFP of mouse visual areas."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Modality, Recording, Species
from neuros_data.acquisition._clock import last_second
from neuros_data.acquisition._ecephys import read_behaviour, read_units
from neuros_data.acquisition._hdf5 import open_hdf5
from neuros_data.acquisition._lfp import describe_sites, open_probe, read_lfp
from neuros_data.acquisition._s3 import (
    ALLEN_BUCKET,
    ALLEN_TERMS,
    S3Object,
    fetch_bytes,
    list_bucket,
)
from neuros_data.acquisition._settings import check_settings
from neuros_data.acquisition.source import Prepared, SessionInfo
from neuros_data.errors import NetworkError
from neuros_data.preprocessing import UnitQuality

if TYPE_CHECKING:
    from neuros_data.transfer import RemoteFile, TransferSettings

__all__ = ["AllenNeuropixels", "AllenNeuropixelsSettings"]


@dataclass(frozen=True)
class AllenNeuropixelsSettings:
    """Bucket, quality control and preparation of the Neuropixels archive.

    The thresholds are those published with the data, but for the presence ratio's, which the
    paper has at 0.9 and the archive's own client at 0.95.

    Args:
        bucket: Address of the public S3 bucket.
        prefix: Folder of the archive in it.
        units: Thresholds of presence ratio, amplitude cut-off and refractory violations.
        quality: Units carry this label; None keeps those labelled as noise, too.
        lfp: Fetch and keep the LFP, some 2 GB a probe.
        lfp_rate: Its rate in Hz; it is published at 1250 Hz.

    Raises:
        ValueError: When the rate is out of range.

    Examples:
        >>> AllenNeuropixelsSettings().units.isi_violations
        0.5
    """

    bucket: str = ALLEN_BUCKET
    prefix: str = "visual-coding-neuropixels/ecephys-cache/"
    units: UnitQuality = field(default_factory=UnitQuality)
    quality: str | None = "good"
    lfp: bool = False
    lfp_rate: float = 500.0

    def __post_init__(self) -> None:
        if not 0 < self.lfp_rate <= 1250:
            raise ValueError(f"lfp_rate needs Hz in (0, 1250], got {self.lfp_rate}")


@dataclass(frozen=True)
class AllenNeuropixels:
    """Six probes at a time in the visual system of mice that watch gratings, scenes and movies.

    Args:
        settings: Bucket, quality control and preparation.

    Examples:
        >>> AllenNeuropixels().name, AllenNeuropixels().login
        ('allen-neuropixels', None)

    References:
        Siegle et al. (2021), Survey of spiking in the mouse visual system reveals functional
        hierarchy, Nature 592, 86, doi:10.1038/s41586-020-03171-x.
    """

    settings: AllenNeuropixelsSettings = field(default_factory=AllenNeuropixelsSettings)
    name: str = field(default="allen-neuropixels", init=False)
    modality: str = field(default=f"{Modality.SPIKE}, {Modality.LFP}", init=False)
    species: str = field(default=str(Species.MOUSE), init=False)
    licence: str = field(default=ALLEN_TERMS, init=False)
    citation: str = field(
        default="Siegle et al. (2021), Survey of spiking in the mouse visual system reveals "
        "functional hierarchy, Nature 592, 86, doi:10.1038/s41586-020-03171-x",
        init=False,
    )
    size: str = field(default="58 sessions, 2 to 3 GB each, 12 GB more with LFP", init=False)
    login: str | None = field(default=None, init=False)

    def list(self, transfer: "TransferSettings") -> Sequence[SessionInfo]:
        """List the sessions, sorted by id.

        Args:
            transfer: How the listing is fetched.

        Returns:
            Sessions that are in the bucket and in its table of sessions.

        Raises:
            NetworkError: When the bucket cannot be reached, or its table is not one.
        """
        chosen = self.settings
        url = f"{chosen.bucket}/{chosen.prefix}sessions.csv"
        rows = csv.DictReader(fetch_bytes(url, transfer).decode("utf-8").splitlines())
        try:
            table = {row["id"]: row for row in rows}
            objects = list_bucket(chosen.bucket, f"{chosen.prefix}session_", transfer)
            found = [_session(row, objects) for row in table.values()]
        except KeyError as error:
            raise NetworkError(f"{url} is not a table of sessions: no column {error}") from error
        return sorted((s for s in found if s is not None), key=lambda s: s.id)

    def files(self, session: SessionInfo) -> "Sequence[RemoteFile]":
        """Name the files of one session.

        Args:
            session: One of the listed sessions.

        Returns:
            Its NWB file and, if `settings.lfp`, one more file per probe.
        """
        from neuros_data.transfer import RemoteFile

        keys = str(session.meta["keys"]).split()
        sizes = map(int, str(session.meta["bytes"]).split())
        return [
            RemoteFile(f"{self.settings.bucket}/{key}", Path(key).name, size=size)
            for key, size in zip(keys, sizes, strict=True)
            if self.settings.lfp or not key.endswith("_lfp.nwb")
        ]

    def prepare(self, session: SessionInfo, folder: Path, settings: Any) -> Prepared:
        """Units that pass quality control, stimuli, running speed, and the LFP if asked for.

        Args:
            session: The session.
            folder: Where its files lie.
            settings: `AllenNeuropixelsSettings`.

        Returns:
            The recording: spikes as events with a table (quality metrics, amplitude in V, region,
            probe, depth along it in m), the LFP in V, and the behaviours `stimuli`,
            `running_speed` in m/s, `pupil_area` in m^2 and `invalid_times`, those that there are.

        Raises:
            TypeError: When `settings` are not `AllenNeuropixelsSettings`.
            ValueError: When a file cannot be read; the message names it.
        """
        chosen = check_settings(settings, AllenNeuropixelsSettings)
        main = next(key for key in str(session.meta["keys"]).split() if _is_main(key))
        with open_hdf5(folder / Path(main).name) as file:
            behaviour, notes = read_behaviour(file)
            end = last_second(behaviour.values())
            spikes, unit_notes = read_units(file, _keeper(chosen), duration=end)
        modalities: dict[Modality, Any] = {Modality.SPIKE: spikes}
        sites: dict[str, Any] = {}
        support = 0.0
        if chosen.lfp:
            probes = [open_probe(path) for path in sorted(folder.glob("probe_*_lfp.nwb"))]
            if probes:
                modalities[Modality.LFP], support = read_lfp(probes, chosen.lfp_rate, folder)
                sites = describe_sites(probes)
            else:
                notes = (*notes, "no LFP files")
        recording = Recording(
            session.id,
            session.subject,
            session.session,
            Species.MOUSE,
            modalities,
            behaviour,
            {"source": self.name, "licence": self.licence, **session.meta, **sites},
        )
        return Prepared(recording, support=support, notes=(*unit_notes, *notes))


def _is_main(key: str) -> bool:
    return Path(key).name.startswith("session_")


def _keeper(chosen: AllenNeuropixelsSettings) -> Callable[[Mapping[str, Any]], NDArray[np.bool_]]:
    def keep(table: Mapping[str, Any]) -> NDArray[np.bool_]:
        good = chosen.units.keep(table)
        if chosen.quality is not None and "quality" in table:
            good = good & (table["quality"] == chosen.quality)
        return good

    return keep


def _session(row: Mapping[str, str], objects: Sequence[S3Object]) -> SessionInfo | None:
    """A row of the table as a session; None where the bucket has no file of it."""
    number = row["id"]
    own = [o for o in objects if f"/session_{number}/" in o.key and o.key.endswith(".nwb")]
    if not any(Path(o.key).name == f"session_{number}.nwb" for o in own):
        return None
    return SessionInfo(
        f"ecephys_{number}",
        row["specimen_id"],
        number,
        {
            "keys": " ".join(o.key for o in own),
            "bytes": " ".join(str(o.size) for o in own),
            "session_type": row["session_type"],
            "sex": row["sex"],
            "genotype": row["genotype"],
        },
    )
