"""The Brain-Wide Map of the International Brain Laboratory: spikes and behaviour of mice.

The server's records are read through its REST interface and the files through their public
addresses. The ONE client would do both, but it downloads by itself: without resuming, without
sha256, and with its own cache. What it adds, searching its cached tables, takes longer to write
than the two requests that are needed here.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuros_core import Events, Intervals, Modality, Recording, Signal, Species
from neuros_data.acquisition._alf import STRUCTURES, choose_files
from neuros_data.acquisition._alyx import ACCOUNT_VARIABLE, Alyx
from neuros_data.acquisition._ibl_behaviour import read_trials, read_wheel, read_whisker
from neuros_data.acquisition._ibl_spikes import read_spikes
from neuros_data.acquisition._settings import check_settings
from neuros_data.acquisition.source import Prepared, SessionInfo
from neuros_data.preprocessing import WheelVelocity

if TYPE_CHECKING:
    from neuros_data.transfer import RemoteFile, TransferSettings

__all__ = ["Ibl", "IblSettings"]


@dataclass(frozen=True)
class IblSettings:
    """Server, release and preparation of the Brain-Wide Map.

    Args:
        base_url: Address of the Alyx server.
        login: `"user:password"` of the public account. A password of your own does not belong
            here, because settings are written to the store's manifest: put a token of your account
            into the environment variable `NEUROS_ALYX_TOKEN`, which goes before the login.
        tag: Tag of the release; sessions with a data set of that tag are listed.
        revision: Edition of the files, such as `"2024-05-06"`: the newest one up to it. Empty
            takes what the server calls the default.
        sorter: Collection of the spike sorting.
        structures_url: Names of the Allen atlas' structures; empty names regions by number.
        qc: Units whose quality label is at least this are kept: the share of the three tests
            (refractory period, noise cut-off, amplitude) that they pass. None keeps all.
        reaction: Seconds from stimulus to first movement within which a trial is not flagged.
        wheel: How velocity is taken from the wheel's position; its 50 Hz are one sample per bin
            of 20 ms.

    Raises:
        ValueError: When `qc` or `reaction` is out of range.

    Examples:
        >>> IblSettings().base_url
        'https://openalyx.internationalbrainlab.org'
    """

    base_url: str = "https://openalyx.internationalbrainlab.org"
    login: str = "intbrainlab:international"
    tag: str = "Brainwidemap"
    revision: str = ""
    sorter: str = "pykilosort"
    structures_url: str = "https://api.brain-map.org/api/v2/structure_graph_download/1.json"
    qc: float | None = 1.0
    reaction: tuple[float, float] = (0.08, 2.0)
    wheel: WheelVelocity = field(default_factory=WheelVelocity)

    def __post_init__(self) -> None:
        if self.qc is not None and not 0 <= self.qc <= 1:
            raise ValueError(f"qc needs a share of passed tests in [0, 1] or None, got {self.qc}")
        if not 0 <= self.reaction[0] < self.reaction[1]:
            raise ValueError(f"reaction needs 0 <= shortest < longest seconds, got {self.reaction}")


@dataclass(frozen=True)
class Ibl:
    """Neuropixels recordings of mice that decide where a grating is, across the whole brain.

    Args:
        settings: Server, release and preparation.

    Examples:
        >>> Ibl().name, Ibl().login is None
        ('ibl', False)

    References:
        International Brain Laboratory (2025), A brain-wide map of neural activity during complex
        behaviour, Nature 645, 177, doi:10.1038/s41586-025-09235-0.
    """

    settings: IblSettings = field(default_factory=IblSettings)
    name: str = field(default="ibl", init=False)
    modality: str = field(default=str(Modality.SPIKE), init=False)
    species: str = field(default=str(Species.MOUSE), init=False)
    licence: str = field(default="CC-BY-4.0", init=False)
    citation: str = field(
        default="International Brain Laboratory (2025), A brain-wide map of neural activity "
        "during complex behaviour, Nature 645, 177, doi:10.1038/s41586-025-09235-0",
        init=False,
    )
    size: str = field(default="about 480 sessions, 0.2 to 1 GB each", init=False)
    login: str | None = field(
        default="the public account of the settings; where the server refuses it, a free account, "
        f"whose token goes into {ACCOUNT_VARIABLE}",
        init=False,
    )

    def list(self, transfer: "TransferSettings") -> Sequence[SessionInfo]:
        """List the sessions of the release, sorted by id.

        Args:
            transfer: Retries and timeouts.

        Returns:
            The sessions.

        Raises:
            NetworkError: When the server cannot be reached or refuses the login.
        """
        server = Alyx(self.settings.base_url, self.settings.login, transfer)
        records = server.records("sessions", tag=self.settings.tag)
        # A record that is added while the list is paged through makes another come twice.
        found = {str(info.meta["eid"]): info for info in map(_session, records)}
        times = Counter(info.id for info in found.values())
        named = (
            info if times[info.id] == 1 else replace(info, id=f"{info.id}_{info.meta['site']}")
            for info in found.values()
        )
        return sorted(named, key=lambda info: info.id)

    def files(self, session: SessionInfo) -> "Sequence[RemoteFile]":
        """Ask the server which files a session has, and name those the preparation reads.

        Args:
            session: One of the listed sessions.

        Returns:
            The files, with their sizes, mirrors and MD5; the server does not know their sha256.

        Raises:
            NetworkError: When the server cannot be reached or refuses the login.
        """
        from neuros_data.transfer import RemoteFile, TransferSettings

        settings = self.settings
        server = Alyx(settings.base_url, settings.login, TransferSettings())
        records = server.records("datasets", session=str(session.meta["eid"]))
        files = choose_files(records, sorter=settings.sorter, revision=settings.revision)
        atlas = [RemoteFile(settings.structures_url, STRUCTURES)] if settings.structures_url else []
        return [*files, *atlas]

    def prepare(self, session: SessionInfo, folder: Path, settings: Any) -> Prepared:
        """Units that pass quality control, trials, wheel speed and whisker motion energy.

        Args:
            session: The session.
            folder: Where its files lie.
            settings: `IblSettings`.

        Returns:
            The recording: spikes as events with a table (probe, cluster, label, amplitude in V,
            firing rate in Hz, depth along the probe in m, atlas region), the behaviours `trials`,
            `wheel_velocity` and `wheel_speed` in rad/s, `whisker_left` and `whisker_right`; what
            the session lacks is absent and noted.

        Raises:
            TypeError: When `settings` are not `IblSettings`.
            ValueError: When a file cannot be read, or the session has neither spikes nor trials.
        """
        chosen = check_settings(settings, IblSettings)
        trials, trial_notes = read_trials(
            folder, revision=chosen.revision, reaction=chosen.reaction
        )
        wheel, support, wheel_notes = read_wheel(
            folder,
            revision=chosen.revision,
            step=chosen.wheel,
        )
        whisker, whisker_notes = read_whisker(folder, revision=chosen.revision)
        spikes, spike_notes = read_spikes(
            folder,
            sorter=chosen.sorter,
            revision=chosen.revision,
            qc=chosen.qc,
            duration=float(trials.end.max()) if trials is not None and len(trials) else 0.0,
        )
        behaviour: dict[str, Signal | Intervals] = {**wheel, **whisker}
        if trials is not None:
            behaviour["trials"] = trials
        modalities: Mapping[Modality, Events] = {} if spikes is None else {Modality.SPIKE: spikes}
        if not modalities and not behaviour:
            raise ValueError(f"session {session.id} has neither spikes nor behaviour in {folder}")
        recording = Recording(
            session.id,
            session.subject,
            session.session,
            Species.MOUSE,
            modalities,
            behaviour,
            {"source": self.name, "licence": self.licence, **session.meta},
        )
        notes = (*spike_notes, *trial_notes, *wheel_notes, *whisker_notes)
        return Prepared(recording, support=support, notes=notes)


def _session(record: Mapping[str, Any]) -> SessionInfo:
    date, number = str(record["start_time"])[:10], int(record["number"] or 0)
    session = f"{date}_{number:03d}"
    return SessionInfo(
        f"{record['subject']}_{session}",
        str(record["subject"]),
        session,
        {"eid": str(record.get("id") or record["url"][-36:]), "site": str(record["lab"])},
    )
