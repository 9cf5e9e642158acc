"""Resting-state runs of the Human Connectome Project, from where the user has put them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neuros_data.acquisition.source import SessionInfo
from neuros_data.errors import HCPCredentialsError
from neuros_data.preprocessing.fmri import MOTION

_TERMS = (
    "data of the Human Connectome Project are not downloaded by this package: every user accepts "
    "the Open Access Data Use Terms in person, with an account of their own at "
    "https://balsa.wustl.edu, and may not pass the data on. Download the preprocessed "
    "resting-state runs there and give their folder: FmriSettings(dataset='hcp', folder='.../HCP')"
)
_RESULTS = "*/MNINonLinear/Results/rfMRI_*/rfMRI_*.nii.gz"


def list_hcp(folder: str) -> Sequence[SessionInfo]:
    """The runs below a folder of subjects, sorted by id.

    Raises:
        HCPCredentialsError: When there is no folder, or no run in it.
    """
    root = Path(folder).absolute()
    if not folder or not root.is_dir():
        raise HCPCredentialsError(_TERMS if not folder else f"{folder} is no folder; {_TERMS}")
    found = [_session(path) for path in root.glob(_RESULTS) if path.name[:-7] == path.parent.name]
    if not found:
        raise HCPCredentialsError(f"{folder} holds no SUBJECT/{_RESULTS[2:]}; {_TERMS}")
    return sorted(found, key=lambda info: info.id)


def _session(path: Path) -> SessionInfo:
    subject, run = path.parents[3].name, path.parent.name
    return SessionInfo(
        f"{subject}_{run}",
        subject,
        run,
        {"volumes": str(path), "motion": str(path.with_name("Movement_Regressors.txt"))},
    )


def motion_of_hcp(path: Path) -> Mapping[str, NDArray[np.float64]]:
    """The six motion parameters, in mm and rad: the file has degrees, and their differences.

    Raises:
        ValueError: When the file has fewer than six columns.
    """
    table = np.loadtxt(path, ndmin=2)
    if table.shape[1] < len(MOTION):
        raise ValueError(f"{path} needs six columns or more, got {table.shape[1]}")
    motion = table[:, : len(MOTION)] * np.array([1.0, 1.0, 1.0, *[np.pi / 180] * 3])
    return dict(zip(MOTION, motion.T, strict=True))
