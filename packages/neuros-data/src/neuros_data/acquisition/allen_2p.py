"""Allen Brain Observatory, Visual Coding, two-photon: calcium traces of mouse visual cortex.

The files are NWB 1, which current NWB libraries do not read: they are read as plain HDF5.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuros_core import Modality, Recording, Species
from neuros_data.acquisition._hdf5 import open_hdf5, read_text
from neuros_data.acquisition._ophys import (
    compute_dff,
    frame_times,
    read_behaviour,
    read_published,
)
from neuros_data.acquisition._s3 import ALLEN_BUCKET, ALLEN_TERMS, fetch_bytes, list_bucket
from neuros_data.acquisition._settings import check_settings
from neuros_data.acquisition.source import Prepared, SessionInfo
from neuros_data.errors import NetworkError
from neuros_data.preprocessing import DeltaF

if TYPE_CHECKING:
    from neuros_data.transfer import RemoteFile, TransferSettings

__all__ = ["Allen2P", "Allen2PSettings"]

_TABLE = "ophys_experiments.json"
_DATA = "ophys_experiment_data/"
_METADATA = {
    "session_type": "general/session_type",
    "targeted_structure": "general/optophysiology/imaging_plane_1/location",
    "imaging_depth": "general/optophysiology/imaging_plane_1/imaging depth",
    "indicator": "general/optophysiology/imaging_plane_1/indicator",
    "genotype": "general/subject/genotype",
    "age": "general/subject/age",
    "sex": "general/subject/sex",
}


@dataclass(frozen=True)
class Allen2PSettings:
    """Bucket and preparation of the two-photon archive.

    Args:
        bucket: Address of the public S3 bucket.
        prefix: Folder of the archive in it.
        published: Take the published dF/F where a file has it; False computes it from the
            fluorescence in every file.
        calcium: How dF/F is computed where it is not taken: neuropil share, causal baseline.
        rate: Rate in Hz of a computed dF/F; a published one keeps its own.

    Raises:
        ValueError: When the rate is not positive.

    Examples:
        >>> Allen2PSettings().prefix
        'visual-coding-2p/'
    """

    bucket: str = ALLEN_BUCKET
    prefix: str = "visual-coding-2p/"
    published: bool = True
    calcium: DeltaF = field(default_factory=DeltaF)
    rate: float = 30.0

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"rate needs a positive number of Hz, got {self.rate}")


@dataclass(frozen=True)
class Allen2P:
    """Two-photon imaging of mice that watch gratings, scenes and movies, some 1500 sessions.

    Args:
        settings: Bucket and preparation.

    Examples:
        >>> Allen2P().name, Allen2P().login
        ('allen-2p', None)

    References:
        de Vries et al. (2020), A large-scale standardized physiological survey reveals functional
        organization of the mouse visual cortex, Nature Neuroscience 23, 138,
        doi:10.1038/s41593-019-0550-9.
    """

    settings: Allen2PSettings = field(default_factory=Allen2PSettings)
    name: str = field(default="allen-2p", init=False)
    modality: str = field(default=str(Modality.CALCIUM), init=False)
    species: str = field(default=str(Species.MOUSE), init=False)
    licence: str = field(default=ALLEN_TERMS, init=False)
    citation: str = field(
        default="de Vries et al. (2020), A large-scale standardized physiological survey reveals "
        "functional organization of the mouse visual cortex, Nature Neuroscience 23, 138, "
        "doi:10.1038/s41593-019-0550-9",
        init=False,
    )
    size: str = field(default="about 1500 sessions, 0.1 to 1 GB each", init=False)
    login: str | None = field(default=None, init=False)

    def list(self, transfer: "TransferSettings") -> Sequence[SessionInfo]:
        """List the imaging sessions, sorted by id.

        Args:
            transfer: How the listing is fetched.

        Returns:
            Sessions that are in the bucket and in its table of experiments.

        Raises:
            NetworkError: When the bucket cannot be reached, or its table is not one.
        """
        chosen = self.settings
        url = f"{chosen.bucket}/{chosen.prefix}{_TABLE}"
        try:
            table = {int(e["id"]): e for e in json.loads(fetch_bytes(url, transfer))}
            found = [
                _session(table[number], o.key, o.size)
                for o in list_bucket(chosen.bucket, chosen.prefix + _DATA, transfer)
                if (number := _number(o.key)) in table
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise NetworkError(f"{url} is not a table of experiments: {error!r}") from error
        return sorted(found, key=lambda s: s.id)

    def files(self, session: SessionInfo) -> "Sequence[RemoteFile]":
        """Name the one file of a session.

        Args:
            session: One of the listed sessions.

        Returns:
            Its NWB file.
        """
        from neuros_data.transfer import RemoteFile

        key = str(session.meta["key"])
        url = f"{self.settings.bucket}/{key}"
        return [RemoteFile(url, Path(key).name, size=int(session.meta["bytes"]))]

    def prepare(self, session: SessionInfo, folder: Path, settings: Any) -> Prepared:
        """dF/F of every cell, stimuli, running speed and pupil.

        Args:
            session: The session.
            folder: Where its file lies.
            settings: `Allen2PSettings`.

        Returns:
            The recording: dF/F with one channel per cell, named by its cell specimen id, and the
            behaviours `stimuli`, `running_speed` in m/s, `pupil_position` in rad and `pupil_size`
            in square pixels, those that the file has.

        Raises:
            TypeError: When `settings` are not `Allen2PSettings`.
            ValueError: When the file cannot be read; the message names it.
        """
        chosen = check_settings(settings, Allen2PSettings)
        path = folder / Path(str(session.meta["key"])).name
        with open_hdf5(path) as file:
            traces, notes = read_published(file) if chosen.published else (None, ())
            support = 0.0
            if traces is None:
                traces, support, said = compute_dff(file, chosen.calcium, chosen.rate)
                notes = (*notes, *said)
            if traces is None:
                raise ValueError(f"no usable traces: {'; '.join(notes)}")
            behaviour, other_notes = read_behaviour(file, frame_times(file))
            metadata = {name: read_text(file, where) for name, where in _METADATA.items()}
        recording = Recording(
            session.id,
            session.subject,
            session.session,
            Species.MOUSE,
            {Modality.CALCIUM: traces},
            behaviour,
            {"source": self.name, "licence": self.licence, **session.meta, **metadata},
        )
        return Prepared(recording, support=support, notes=(*notes, *other_notes))


def _number(key: str) -> int | None:
    path = Path(key)
    return int(path.stem) if path.suffix == ".nwb" and path.stem.isdecimal() else None


def _session(experiment: Mapping[str, Any], key: str, size: int) -> SessionInfo:
    number = str(experiment["id"])
    return SessionInfo(
        f"ophys_{number}",
        str(experiment["specimen"]["donor"]["external_donor_name"]),
        number,
        {
            "key": key,
            "bytes": size,
            "container": int(experiment["experiment_container_id"]),
            "session_type": str(experiment["stimulus_name"]),
        },
    )
