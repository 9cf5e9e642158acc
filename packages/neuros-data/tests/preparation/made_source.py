"""A source of small files on this machine, importable by worker processes."""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from neuros_core import Recording, Signal, Species
from neuros_data.acquisition.source import Prepared, SessionInfo
from neuros_data.errors import NetworkError
from neuros_data.transfer import RemoteFile, TransferSettings


@dataclass(frozen=True)
class MadeSettings:
    """Where the files are, and what goes wrong."""

    archive: str = ""
    gain: float = 1.0
    kills: str = ""
    url: str = "http://127.0.0.1:9/a.txt"  # nothing listens there: refused at once
    listed: bool = True
    visits: str = ""
    runs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Made:
    """Text files of numbers, one a session; `a-1.txt` is session 1 of subject a."""

    settings: MadeSettings = field(default_factory=MadeSettings)
    name: str = "made"
    modality: str = "lfp"
    species: str = "rat"
    licence: str = "CC0-1.0"
    citation: str = "Nobody (2026)"
    size: str = "tiny"
    login: str | None = None

    def list(self, transfer: TransferSettings) -> Sequence[SessionInfo]:
        if not self.settings.listed:
            raise NetworkError("the archive cannot be listed")
        found = sorted(Path(self.settings.archive).glob("*.txt"))
        return [SessionInfo(p.stem, *p.stem.split("-"), {"k": i}) for i, p in enumerate(found)]

    def files(self, session: SessionInfo) -> Sequence[RemoteFile]:
        path = Path(self.settings.archive) / f"{session.id}.txt"
        if session.subject == "remote":
            return [RemoteFile(self.settings.url, "a.txt")]
        return [RemoteFile(path.as_uri(), "a.txt", size=path.stat().st_size)]

    def prepare(self, session: SessionInfo, folder: Path, settings: Any) -> Prepared:
        if settings.visits:
            with Path(settings.visits).open("a") as visits:
                visits.write(f"{os.getpid()} {self.name}\n")
        if session.id == settings.kills:
            _die_once(Path(settings.archive) / "died")
        if f"always {session.id}" == settings.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        values = np.array([float(word) for word in (folder / "a.txt").read_text().split()])
        sys.stdout.write("a library that prints\n")  # must not come between the answers
        data = values[:, None] * np.linspace(1, 2, 4) * settings.gain
        recording = Recording(
            session.id,
            session.subject,
            session.session,
            Species.RAT,
            {"lfp": Signal(data, rate=10.0, unit="V", channels=("p", "q", "r", "s"))},
            provenance={
                "torch": "torch" in sys.modules,
                "threads": os.environ.get("OMP_NUM_THREADS", ""),
            },
        )
        return Prepared(recording, support=0.5, notes=(f"{len(values)} values",))


def _die_once(mark: Path) -> None:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
