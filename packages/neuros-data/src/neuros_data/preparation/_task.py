"""One session from its files to the store: what a worker does, the same on every executor."""

import logging
import os
import shutil
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuros_core import Events, Recording, Signal
from neuros_data._files import StoreFiles, flush_folder
from neuros_data.acquisition.source import Prepared, SessionInfo, Source
from neuros_data.errors import DiskFullError, MissingChannelError, NetworkError
from neuros_data.preparation._identity import RawFile, config_of, preparation_key
from neuros_data.preparation._worker import load

# The traceback goes into failures.jsonl; it is shown to those who ask for logs.
_LOG = logging.getLogger("neuros_data.preparation")
_LOG.addHandler(logging.NullHandler())
WORK = ".work"


@dataclass(frozen=True)
class Task:
    """What is needed to prepare one session; small, picklable, safe to run twice."""

    source: Source
    info: SessionInfo
    root: Path
    files: tuple[RawFile, ...]
    code: str
    require: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the session's files lie."""
        return raw_folder(self.root, self.source.name, self.info.id)


@dataclass(frozen=True)
class Outcome:
    """What came of a session: never arrays.

    Attributes:
        id: The session.
        source: Its source.
        kind: Empty when all is well; else `"data"`, `"disk"` or `"network"`.
        error: What went wrong, one line.
        trace: The traceback.
        notes: What the user should know.
    """

    id: str
    source: str
    kind: str = ""
    error: str = ""
    trace: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def of_error(cls, session: str, source: str, error: Exception) -> "Outcome":
        """The record of a failure."""
        kind = "data"
        if isinstance(error, DiskFullError):
            kind = "disk"
        elif isinstance(error, NetworkError):
            kind = "network"
        text = "".join(traceback.format_exception(error))
        return cls(session, source, kind, f"{type(error).__name__}: {error}", text)


def raw_folder(root: Path, source: str, session: str) -> Path:
    """Folder of the raw files of one session."""
    return root / "raw" / source / session


def run_pickled(content: bytes) -> Outcome:
    """Unpickle a task and run it; a source that cannot be found is a failure like others."""
    try:
        task: Task = load(content)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        return Outcome.of_error("", "", error)
    return run_task(task)


def run_task(task: Task) -> Outcome:
    """Prepare a session and put it into the store; a failure is a result, not an exception."""
    try:
        made = task.source.prepare(task.info, task.folder, task.source.settings)
        _check(task, made)
        _put(task, made)
    except Exception as error:  # noqa: BLE001  # whatever a source raises is the outcome
        _LOG.exception("%s failed", task.info.id)
        if isinstance(error, OSError) and DiskFullError.is_cause(error):
            error = DiskFullError(f"no space left while preparing {task.info.id}: {error}")
        return Outcome.of_error(task.info.id, task.source.name, error)
    return Outcome(task.info.id, task.source.name, notes=tuple(made.notes))


def _check(task: Task, made: Prepared) -> None:
    if made.recording.id != task.info.id:
        raise ValueError(
            f"source {task.source.name!r} needs to give session {task.info.id!r} that id, "
            f"got a recording {made.recording.id!r}"
        )
    present = _names(made.recording)
    if missing := [name for name in task.require if name not in present]:
        raise MissingChannelError(
            f"{task.info.id} lacks {', '.join(missing)}; it has {', '.join(sorted(present))}"
        )


def _names(recording: Recording) -> set[str]:
    """Modalities, behaviours, channels, and columns of intervals and of units."""
    names = {str(m) for m in recording.modalities} | set(recording.behaviour)
    for part in (*recording.modalities.values(), *recording.behaviour.values()):
        if isinstance(part, Signal):
            names |= set(part.channels)
        elif isinstance(part, Events):
            names |= set(part.table)
        else:
            names |= set(part.columns)
    return names


def provenance_of(task: Task, made: Prepared) -> dict[str, Any]:
    """What is kept inside the recording: no time stamps, so that equal work gives equal bytes."""
    config = config_of(task.source)
    given = made.recording.provenance
    return {
        "source": task.source.name,
        "licence": task.source.licence,
        "citation": task.source.citation,
        **given,
        "support_s": max(float(made.support), float(given.get("support_s", 0.0))),
        "preparation": {
            "key": preparation_key(task.files, config, task.code),
            "source": task.source.name,
            "config": config,
            "code": task.code,
            "files": [file.identity() for file in task.files],
            "notes": list(made.notes),
        },
    }


def _put(task: Task, made: Prepared) -> None:
    """Write beside the store, then rename: the store holds the old one or the new one, whole."""
    recording = replace(made.recording, provenance=provenance_of(task, made))
    work = task.root / WORK / f"{task.info.id}.{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    try:
        (work / "recordings").mkdir(parents=True)
        aside = StoreFiles(work)
        aside.add(recording, quantization=made.quantize, float64=made.float64)
        final = task.root / "recordings" / recording.id
        if final.exists():
            final.rename(work / "replaced")
        aside.folder(recording.id).rename(final)
        flush_folder(final.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
