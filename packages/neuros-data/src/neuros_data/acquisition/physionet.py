"""EEG Motor Movement/Imagery of PhysioNet: 64 electrodes, fists and feet, moved or imagined."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Modality, Recording, Signal, Species
from neuros_data._extras import need
from neuros_data.acquisition._motor_runs import RUNS, label_trials
from neuros_data.acquisition._quiet import read_quietly
from neuros_data.acquisition._s3 import fetch_bytes
from neuros_data.acquisition._settings import check_settings
from neuros_data.acquisition.source import Prepared, SessionInfo
from neuros_data.errors import NetworkError
from neuros_data.preprocessing import (
    AverageReference,
    Bandpass,
    Notch,
    Step,
    apply_steps,
    describe_steps,
    support_seconds,
)

if TYPE_CHECKING:
    from neuros_data.transfer import RemoteFile, TransferSettings

__all__ = ["Eegmmidb", "EegmmidbSettings"]

_SUMS = "SHA256SUMS.txt"


@dataclass(frozen=True)
class EegmmidbSettings:
    """Server, choice of subjects and runs, and preparation.

    Args:
        base_url: Folder of the release on the server.
        mirrors: The same folder elsewhere.
        runs: Runs to take, of 1 to 14: 1 and 2 rest with eyes open and closed; 3, 7, 11 one fist,
            4, 8, 12 one fist imagined; 5, 9, 13 both fists or feet, 6, 10, 14 those imagined.
        exclude: Numbers of subjects that are left out. By default 88, 92 and 100, recorded at
            128 Hz, and 104, whose annotations are damaged.
        line: Frequency of the mains in Hz that is notched out; None leaves it.
        low: Lower corner of the band-pass in Hz; None filters nothing there.
        high: Upper corner in Hz; None filters nothing there.
        average_reference: Reference to the mean of all electrodes.
        montage: Montage of MNE-Python that gives the electrodes' positions; empty leaves them out.

    Raises:
        ValueError: When a run is not one of the 14, or none is asked for.

    Examples:
        >>> EegmmidbSettings(runs=(4, 8, 12)).exclude
        (88, 92, 100, 104)
    """

    base_url: str = "https://physionet.org/files/eegmmidb/1.0.0/"
    mirrors: tuple[str, ...] = ("https://physionet-open.s3.amazonaws.com/eegmmidb/1.0.0/",)
    runs: tuple[int, ...] = tuple(RUNS)
    exclude: tuple[int, ...] = (88, 92, 100, 104)
    line: float | None = 60.0
    low: float | None = 0.5
    high: float | None = 79.0
    average_reference: bool = True
    montage: str = "colin27_1005"

    def __post_init__(self) -> None:
        if not self.runs or not set(self.runs) <= set(RUNS):
            raise ValueError(f"runs needs some of 1 to 14, got {self.runs}")

    @property
    def steps(self) -> tuple[Step, ...]:
        """Steps of preparation, in order.

        Examples:
            >>> [type(step).__name__ for step in EegmmidbSettings().steps]
            ['Notch', 'Bandpass', 'AverageReference']
        """
        steps: list[Step] = []
        if self.line is not None:
            steps.append(Notch(self.line))
        if self.low is not None or self.high is not None:
            steps.append(Bandpass(self.low, self.high))
        if self.average_reference:
            steps.append(AverageReference())
        return tuple(steps)


@dataclass(frozen=True)
class Eegmmidb:
    """EEG of 109 people who move, or imagine moving, fists and feet: 14 runs each.

    Args:
        settings: Server, choice and preparation.

    Examples:
        >>> Eegmmidb().name, Eegmmidb().licence, Eegmmidb().login
        ('eeg', 'ODC-By-1.0', None)

    References:
        Schalk et al. (2004), BCI2000: a general-purpose brain-computer interface system, IEEE
        Trans. Biomed. Eng. 51, 1034, doi:10.1109/TBME.2004.827072.
        Goldberger et al. (2000), PhysioBank, PhysioToolkit, and PhysioNet, Circulation 101, e215,
        doi:10.1161/01.CIR.101.23.e215. The data: doi:10.13026/C28G6P.
    """

    settings: EegmmidbSettings = field(default_factory=EegmmidbSettings)
    name: str = field(default="eeg", init=False)
    modality: str = field(default=str(Modality.EEG), init=False)
    species: str = field(default=str(Species.HUMAN), init=False)
    licence: str = field(default="ODC-By-1.0", init=False)
    citation: str = field(
        default="Schalk et al. (2004), BCI2000: a general-purpose brain-computer interface system, "
        "IEEE Trans. Biomed. Eng. 51, 1034, doi:10.1109/TBME.2004.827072; Goldberger et al. "
        "(2000), PhysioNet, Circulation 101, e215, doi:10.1161/01.CIR.101.23.e215",
        init=False,
    )
    size: str = field(default="109 subjects, 1526 runs of 1 to 2 minutes, 3.4 GB", init=False)
    login: str | None = field(default=None, init=False)

    def list(self, transfer: "TransferSettings") -> Sequence[SessionInfo]:
        """List the runs that the settings ask for, sorted by id; one run is one recording.

        Args:
            transfer: How the list of checksums is fetched.

        Returns:
            The runs of the server's `SHA256SUMS.txt`, with the checksums.

        Raises:
            NetworkError: When the server cannot be reached, or its list names no recording.
        """
        chosen = self.settings
        url = _join(chosen.base_url, _SUMS)
        text = fetch_bytes(url, transfer).decode("utf-8", errors="replace")
        found = [info for line in text.splitlines() if (info := _session(line)) is not None]
        if not found:
            raise NetworkError(f"{url} names no recording; check base_url")
        kept = [
            info
            for info in found
            if info.meta["run"] in chosen.runs and info.meta["number"] not in chosen.exclude
        ]
        return sorted(kept, key=lambda info: info.id)

    def files(self, session: SessionInfo) -> "Sequence[RemoteFile]":
        """Name the one file of a run.

        Args:
            session: One of the listed runs.

        Returns:
            Its EDF+ file, with the server's checksum.
        """
        from neuros_data.transfer import RemoteFile

        path = str(session.meta["path"])
        return [
            RemoteFile(
                _join(self.settings.base_url, path),
                Path(path).name,
                sha256=str(session.meta["sha256"]),
                mirrors=tuple(_join(mirror, path) for mirror in self.settings.mirrors),
            )
        ]

    def prepare(self, session: SessionInfo, folder: Path, settings: Any) -> Prepared:
        """Filtered, re-referenced EEG in volts with standard names, and what was done when.

        Args:
            session: The run.
            folder: Where its file lies.
            settings: `EegmmidbSettings`.

        Returns:
            The recording: EEG at its own rate, positions of the electrodes in metres in the
            provenance (`channel_positions`, shape (channel, 3)), and the behaviour `trials` with
            the columns `label` (`rest`, `left_fist`, `right_fist`, `both_fists`, `both_feet`),
            `code` (0 to 4, in that order), `imagined` and `condition`.

        Raises:
            TypeError: When `settings` are not `EegmmidbSettings`.
            ValueError: When the file cannot be read, or a filter does not fit its rate.
            ImportError: When MNE-Python is not installed and a montage is asked for.
        """
        chosen = check_settings(settings, EegmmidbSettings)
        path = folder / Path(str(session.meta["path"])).name
        reading = read_quietly(path, Modality.EEG, session)
        raw = reading.recording.modalities.get(Modality.EEG)
        if not isinstance(raw, Signal) or raw.rate is None:
            raise ValueError(f"{path} needs EEG channels on a regular clock, found none")
        names = [standard_name(name) for name in raw.channels]
        eeg = apply_steps(
            Signal(raw.data, raw.rate, unit=raw.unit, channels=names, valid=raw.valid),
            chosen.steps,
        )
        run = int(session.meta["run"])
        trials, notes = label_trials(reading.recording.behaviour.get("annotations"), run, raw)
        positions, lost = _positions(names, chosen.montage)
        recording = Recording(
            session.id,
            session.subject,
            session.session,
            Species.HUMAN,
            {Modality.EEG: eeg},
            {"trials": trials},
            {
                "source": self.name,
                "licence": self.licence,
                "excluded_subjects": list(chosen.exclude),
                "steps": describe_steps(chosen.steps),
                **session.meta,
                **positions,
            },
        )
        return Prepared(
            recording,
            support=support_seconds(chosen.steps, raw.rate),
            notes=(*reading.notes, *notes, *lost),
        )


def standard_name(name: str) -> str:
    """Name of an electrode as the 10-05 system writes it.

    Args:
        name: As the file writes it, padded with dots.

    Returns:
        Letters in the system's case, without dots.

    Examples:
        >>> [standard_name(n) for n in ("Fc5.", "Cz..", "FP1.", "AFZ.", "T10.", "Iz..")]
        ['FC5', 'Cz', 'Fp1', 'AFz', 'T10', 'Iz']
    """
    plain = name.strip().rstrip(".").upper()
    if plain.startswith("FP"):
        plain = "Fp" + plain[2:]
    return plain[:-1] + "z" if plain.endswith("Z") else plain


def _positions(
    names: Sequence[str], montage: str
) -> tuple[dict[str, NDArray[np.float64]], tuple[str, ...]]:
    """Positions in metres, (channel, 3), NaN where the montage has none, and which those are."""
    if not montage:
        return {}, ()
    channels = need("mne.channels", "eeg", "electrode positions")
    # MNE-Python before 1.13 has the same positions under their older name.
    old = montage.replace("colin27", "standard")
    found = montage if montage in channels.get_builtin_montages() else old
    known = channels.make_standard_montage(found).get_positions()["ch_pos"]
    missing = tuple(f"electrode {n} is not in montage {montage}" for n in names if n not in known)
    nowhere = np.full(3, np.nan)
    return {"channel_positions": np.stack([known.get(n, nowhere) for n in names])}, missing


def _session(line: str) -> SessionInfo | None:
    """A line of `SHA256SUMS.txt`: checksum, white space, `S001/S001R04.edf`."""
    checksum, _, path = line.strip().partition(" ")
    path = path.strip().removeprefix("*").removeprefix("./")
    name = Path(path).name
    subject, separator, run = name.removesuffix(".edf").partition("R")
    if not (name.endswith(".edf") and separator and run.isdigit() and subject[1:].isdigit()):
        return None
    meta: dict[str, str | int | float] = {
        "path": path,
        "sha256": checksum,
        "run": int(run),
        "number": int(subject[1:]),
    }
    return SessionInfo(f"{subject}R{run}", subject, f"R{run}", meta)


def _join(folder: str, path: str) -> str:
    return f"{folder.rstrip('/')}/{path}"
