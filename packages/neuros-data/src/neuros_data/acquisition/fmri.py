"""fMRI of children and adults watching a film, and of the Human Connectome Project from a disk."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from neuros_core import Intervals, Modality, Recording, Signal, Species
from neuros_data.acquisition._development import list_development
from neuros_data.acquisition._hcp import list_hcp, motion_of_hcp
from neuros_data.acquisition._parcels import check_atlas, on_all_parcels, read_names
from neuros_data.acquisition._quiet import read_quietly
from neuros_data.acquisition._settings import check_settings
from neuros_data.acquisition._table import read_columns
from neuros_data.acquisition.source import Prepared, SessionInfo
from neuros_data.preprocessing import CleanBold

if TYPE_CHECKING:
    from neuros_data.transfer import RemoteFile, TransferSettings

__all__ = ["Fmri", "FmriSettings"]

_ATLAS = "atlas.nii.gz"
_NAMES = "atlas.txt"
_CBIG = (
    "https://raw.githubusercontent.com/ThomasYeoLab/CBIG/"
    "v0.14.3-Update_Yeo2011_Schaefer2018_labelname/stable_projects/brain_parcellation/"
    "Schaefer2018_LocalGlobal/Parcellations/MNI/"
)
_COPIED = ("age", "age_group", "child_adult", "gender", "handedness", "site")


@dataclass(frozen=True)
class FmriSettings:
    """Server, parcellation and cleaning.

    Args:
        dataset: `"development"`: 155 people aged 3 to 39 who watch a film, open to everybody;
            `"hcp"`: what you have downloaded of the Human Connectome Project.
        folder: Where the folders of the subjects lie, for `"hcp"`.
        participants_url: Table of the people.
        file_url: Address of a file, with `{key}` in place of its key.
        key_table: Path of a table of keys with the columns `participant_id`, `key_r`, `key_b`;
            empty takes the one that nilearn has.
        repetition_time: Seconds from volume to volume of `"development"`.
        n_rois: Parcels of the atlas, 100 to 1000 in steps of 100.
        networks: Networks by which the parcels are named, 7 or 17.
        resolution_mm: Voxels of the atlas, 1 or 2 mm.
        atlas_url: Folder of the atlas on its server.
        clean: Detrending, band-pass, confounds and scrubbing.

    Raises:
        ValueError: When the atlas has no such number of parcels, networks or resolution, or the
            data set is another.

    Examples:
        >>> FmriSettings(n_rois=200).clean.fd
        0.5
    """

    dataset: Literal["development", "hcp"] = "development"
    folder: str = ""
    participants_url: str = "https://osf.io/yr3av/download"
    file_url: str = "https://osf.io/download/{key}/"
    key_table: str = ""
    repetition_time: float = 2.0
    n_rois: int = 400
    networks: Literal[7, 17] = 7
    resolution_mm: Literal[1, 2] = 2
    atlas_url: str = _CBIG
    clean: CleanBold = field(default_factory=CleanBold)

    def __post_init__(self) -> None:
        check_atlas(self.n_rois, self.networks, self.resolution_mm)
        if self.dataset not in get_args(Literal["development", "hcp"]):
            raise ValueError(f"dataset needs 'development' or 'hcp', got {self.dataset!r}")
        if not self.repetition_time > 0:
            raise ValueError(f"repetition_time needs positive seconds, got {self.repetition_time}")


@dataclass(frozen=True)
class Fmri:
    """Whole-brain fMRI as the mean signals of the parcels of Schaefer et al. (2018).

    The samples are cleaned but not standardised: mean and variance are those of the training part,
    which `Normalizer.fit` takes after the split.

    Args:
        settings: Server, parcellation and cleaning.

    Examples:
        >>> Fmri().name, Fmri().login
        ('fmri', None)

    References:
        Richardson et al. (2018), Development of the social brain from age three to twelve years,
        Nature Communications 9, 1027, doi:10.1038/s41467-018-03399-2.
        Schaefer et al. (2018), Local-global parcellation of the human cerebral cortex from
        intrinsic functional connectivity MRI, Cerebral Cortex 28, 3095, doi:10.1093/cercor/bhx179.
    """

    settings: FmriSettings = field(default_factory=FmriSettings)
    name: str = field(default="fmri", init=False)
    modality: str = field(default=str(Modality.FMRI), init=False)
    species: str = field(default=str(Species.HUMAN), init=False)
    licence: str = field(
        default="development: unrestricted for non-commercial research; hcp: Open Access Data Use "
        "Terms of the Human Connectome Project",
        init=False,
    )
    citation: str = field(
        default="Richardson et al. (2018), Development of the social brain from age three to "
        "twelve years, Nature Communications 9, 1027, doi:10.1038/s41467-018-03399-2; Schaefer et "
        "al. (2018), Local-global parcellation of the human cerebral cortex, doi:10.1093/cercor/"
        "bhx179",
        init=False,
    )
    size: str = field(default="155 subjects of 168 volumes", init=False)
    login: str | None = field(default=None, init=False)

    def list(self, transfer: "TransferSettings") -> Sequence[SessionInfo]:
        """List the subjects (of `"hcp"`: the runs), sorted by id.

        Args:
            transfer: How the table of participants is fetched.

        Returns:
            One session a file of volumes.

        Raises:
            NetworkError: When the server cannot be reached or answers something else.
            HCPCredentialsError: When data of the Human Connectome Project are asked for without a
                folder that holds them.
            ImportError: When nilearn is not installed and no table of keys is given.
        """
        chosen = self.settings
        if chosen.dataset == "hcp":
            return list_hcp(chosen.folder)
        return list_development(chosen.participants_url, chosen.key_table, transfer)

    def files(self, session: SessionInfo) -> "Sequence[RemoteFile]":
        """Name the volumes, the confounds, and the atlas with the names of its parcels.

        Args:
            session: One of the listed sessions.

        Returns:
            Four files.
        """
        from neuros_data.transfer import RemoteFile

        chosen, meta = self.settings, session.meta
        if chosen.dataset == "hcp":
            volumes, confounds = (Path(str(meta[k])).as_uri() for k in ("volumes", "motion"))
        else:
            keys = (str(meta[k]) for k in ("key_volumes", "key_confounds"))
            volumes, confounds = (chosen.file_url.format(key=key) for key in keys)
        order = f"Schaefer2018_{chosen.n_rois}Parcels_{chosen.networks}Networks_order"
        image = f"{order}_FSLMNI152_{chosen.resolution_mm}mm.nii.gz"
        base = chosen.atlas_url.rstrip("/")
        return [
            RemoteFile(volumes, _volumes_name(session)),
            RemoteFile(confounds, _confounds_name(session)),
            RemoteFile(f"{base}/{image}", _ATLAS),
            RemoteFile(f"{base}/{order}.txt", _NAMES),
        ]

    def prepare(self, session: SessionInfo, folder: Path, settings: Any) -> Prepared:
        """Mean of every parcel, cleaned; a parcel without voxels is NaN and `valid=False`.

        Args:
            session: The session.
            folder: Where its files lie.
            settings: `FmriSettings`.

        Returns:
            The recording: one channel a parcel, and the behaviour `subject` with age, age group
            and what else is known of the person, over the whole recording. Its support is the
            length of the recording, since trend and confounds are fitted to all of it: split by
            subject, session or source.

        Raises:
            TypeError: When `settings` are not `FmriSettings`.
            ValueError: When a file cannot be read, a confound is absent, or too few volumes remain.
        """
        chosen = check_settings(settings, FmriSettings)
        names = read_names(folder / _NAMES, chosen.n_rois)
        reading = read_quietly(
            folder / _volumes_name(session),
            Modality.FMRI,
            session,
            rate=None if chosen.dataset == "hcp" else 1 / chosen.repetition_time,
            atlas=folder / _ATLAS,
        )
        bold = on_all_parcels(reading.recording.modalities[Modality.FMRI], names)
        clean, confounds, notes = _confounds(folder / _confounds_name(session), chosen)
        cleaned = clean.apply(bold, confounds)
        recording = Recording(
            session.id,
            session.subject,
            session.session,
            Species.HUMAN,
            {Modality.FMRI: cleaned},
            _person(session, cleaned.duration),
            {
                "source": self.name,
                "licence": self.licence,
                "atlas": f"Schaefer2018_{chosen.n_rois}Parcels_{chosen.networks}Networks",
                "steps": [{"step": "CleanBold", **asdict(clean)}],
                **session.meta,
            },
        )
        return Prepared(
            recording,
            support=cleaned.duration,
            notes=(*_said(bold, cleaned), *notes),
        )


def _confounds(
    path: Path, chosen: FmriSettings
) -> tuple[CleanBold, Mapping[str, Any], tuple[str, ...]]:
    if chosen.dataset != "hcp":
        return chosen.clean, read_columns(path), ()
    clean = replace(chosen.clean, white_matter=False, csf=False)
    left_out = chosen.clean.white_matter or chosen.clean.csf
    note = "fmri: the HCP's files have no white matter and CSF signals; they are not taken out"
    return clean, motion_of_hcp(path), (note,) if left_out else ()


def _said(bold: Signal, cleaned: Signal) -> tuple[str, ...]:
    """What is missing, and what has to be done after the split."""
    known = np.ones(cleaned.data.shape, bool) if cleaned.valid is None else cleaned.valid
    empty: NDArray[np.bool_] = ~np.asarray(known.any(axis=0))
    scrubbed = int((~known[:, ~empty].all(axis=1)).sum()) if not empty.all() else 0
    notes = ["fmri: not standardised; Normalizer.fit takes mean and variance of the training part"]
    if empty.any():
        notes.append(f"fmri: {int(empty.sum())} of {len(empty)} parcels without signal are invalid")
    if scrubbed:
        notes.append(f"fmri: {scrubbed} of {len(bold.data)} volumes left out for motion")
    return tuple(notes)


def _person(session: SessionInfo, duration: float) -> dict[str, Intervals]:
    columns = {k: np.array([session.meta[k]]) for k in _COPIED if k in session.meta}
    if not columns:
        return {}
    return {"subject": Intervals(np.zeros(1), np.array([duration]), columns)}


def _volumes_name(session: SessionInfo) -> str:
    return f"{session.id}_bold.nii.gz"


def _confounds_name(session: SessionInfo) -> str:
    return f"{session.id}_confounds.txt"
