"""The files of a store: listing, lazily opened arrays, and appends that happen whole or not at all.

Picklable and safe under fork and spawn: what travels is the path; maps are opened where they are
used and the least recently used ones are dropped.
"""

import mmap
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from neuros_core import Recording
from neuros_data._recording_io import Meta, read_recording, write_recording
from neuros_data.errors import CorruptStoreError, DiskFullError
from neuros_data.format import Quantization, check_schema, open_array, read_json, write_json

_OPEN_ARRAYS = 128
# Maps of more bytes than this hand their pages back, every so many bytes that were read: a window
# of 64 KB can make 2 MB resident, as the kernel maps what it has read ahead.
_RESIDENT, _READ_BETWEEN = 256 << 20, 8 << 20
_OPEN_METAS = 1024
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")
_PARTIAL = ".partial"


@runtime_checkable
class HasFiles(Protocol):
    """Anything that stands on a store's files, such as `neuros_data.Store`."""

    @property
    def files(self) -> "StoreFiles": ...


class StoreFiles:
    """The folder of a store, or of some of its recordings."""

    def __init__(self, root: Path, selection: frozenset[str] | None = None) -> None:
        self.root = root
        self.selection = selection
        self._ids: tuple[str, ...] | None = None
        self._metas: dict[str, Meta] = {}
        self._arrays: dict[tuple[str, str], NDArray[Any]] = {}
        self._read = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "selection": self.selection}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["root"], state["selection"])  # type: ignore[misc]  # rebuild empty caches

    @property
    def ids(self) -> tuple[str, ...]:
        """Recordings in alphabetical order, as listed when first asked for."""
        if self._ids is None:
            with os.scandir(self.root / "recordings") as entries:
                names = sorted(e.name for e in entries if not e.name.startswith("."))
            chosen = self.selection
            self._ids = tuple(n for n in names if chosen is None or n in chosen)
        return self._ids

    def require(self, recording_id: str) -> None:
        if recording_id not in self.ids:
            raise KeyError(
                f"no recording {recording_id!r} in {self.root}; it has {shorten(self.ids)}"
            )

    def chosen(self, recordings: Collection[str] | None) -> tuple[str, ...]:
        """The given recordings in the store's order; all when None."""
        if recordings is None:
            return self.ids
        if isinstance(recordings, str):
            raise TypeError(f"recordings needs a list of ids, got the text {recordings!r}")
        for name in recordings:
            self.require(name)
        wanted = set(recordings)
        return tuple(name for name in self.ids if name in wanted)

    def folder(self, recording_id: str) -> Path:
        return self.root / "recordings" / recording_id

    def meta(self, recording_id: str) -> Meta:
        """Contents of `meta.json`; the last ones read stay in memory."""
        meta = self._metas.pop(recording_id, None)
        if meta is None:
            path = self.folder(recording_id) / "meta.json"
            meta = read_json(path)
            check_schema(meta.get("schema", "1.0"), path)
            if missing := {"id", "modalities", "behaviour"} - meta.keys():
                raise CorruptStoreError(f"{path} lacks {', '.join(sorted(missing))}")
        self._metas[recording_id] = meta
        if len(self._metas) > _OPEN_METAS:
            self._metas.pop(next(iter(self._metas)), None)
        return meta

    def array(self, recording_id: str, entry: Mapping[str, Any]) -> NDArray[Any]:
        """Memory map of one array; the last ones used stay open."""
        key = (recording_id, entry["file"])
        # Taken out and put back, so that the oldest key is the least recently used one.
        opened = self._arrays.pop(key, None)
        if opened is None:
            opened = open_array(self.folder(recording_id), entry)
        self._arrays[key] = opened
        if len(self._arrays) > _OPEN_ARRAYS:
            self._arrays.pop(next(iter(self._arrays)), None)
        return opened

    def note_read(self, n_bytes: int) -> None:
        """Count what was read, and hand mapped pages back now and then.

        They stay in the system's page cache; only this process lets go of them.
        """
        self._read += n_bytes
        if self._read < _READ_BETWEEN:
            return
        self._read = 0
        arrays = list(self._arrays.values())
        if sum(array.nbytes for array in arrays) > _RESIDENT:
            for array in arrays:
                _release(array)

    def recording(self, recording_id: str) -> Recording:
        self.require(recording_id)
        meta = self.meta(recording_id)
        return read_recording(meta, lambda entry: self.array(recording_id, entry))

    def add(
        self,
        recording: Recording,
        *,
        quantization: Mapping[str, Quantization],
        float64: Collection[str],
    ) -> None:
        """Write into a hidden folder, flush it, then rename it: readers see all or nothing."""
        if not _ID.fullmatch(recording.id):
            raise ValueError(
                "a recording's id names its folder and needs letters, digits and ._+=- only, "
                f"got {recording.id!r}"
            )
        final = self.folder(recording.id)
        if final.exists():
            raise ValueError(f"{self.root} already has a recording {recording.id!r}")
        known = {str(m) for m in recording.modalities} | set(recording.behaviour)
        if unknown := sorted({*quantization, *float64} - known):
            raise ValueError(f"recording {recording.id!r} has no {unknown}; it has {sorted(known)}")
        partial = final.with_name(f".{recording.id}.{os.getpid()}{_PARTIAL}")
        try:
            partial.mkdir()
            write_recording(
                partial, recording, quantization=quantization, float64=frozenset(float64)
            )
            flush_folder(partial)
            partial.rename(final)
            flush_folder(final.parent)
        except OSError as error:
            if DiskFullError.is_cause(error):
                raise DiskFullError.needing(_bytes_of(recording), self.root) from error
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._ids = None

    def partials(self) -> list[Path]:
        """Folders that an interrupted append left behind."""
        return sorted((self.root / "recordings").glob(f".*{_PARTIAL}"))

    @property
    def split_names(self) -> tuple[str, ...]:
        return tuple(
            sorted(p.stem for p in (self.root / "splits").glob("*.json") if p.name[0] != ".")
        )

    def read_split(self, name: str) -> dict[str, Any]:
        if name not in self.split_names:
            raise KeyError(f"no split {name!r} in {self.root}; it has {shorten(self.split_names)}")
        return read_json(self.root / "splits" / f"{name}.json")

    def write_split(self, name: str, content: Mapping[str, Any]) -> None:
        if not _ID.fullmatch(name):
            raise ValueError(f"a split's name needs letters, digits and ._+=- only, got {name!r}")
        (self.root / "splits").mkdir(exist_ok=True)
        write_json(self.root / "splits" / f"{name}.json", content)


def _release(array: NDArray[Any]) -> None:
    """Drop the resident pages of a map; an empty array has none, and not every system can."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)


def source_of(meta: Meta) -> str:
    """Source data set of a recording, as its provenance names it."""
    return str(meta["provenance"].get("source", ""))


def shorten(names: Collection[str], limit: int = 12) -> str:
    """Names for an error message, cut after `limit`."""
    shown = ", ".join(list(names)[:limit]) or "none"
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def flush_folder(folder: Path) -> None:
    """Make a rename durable; a folder cannot be opened for that on every system."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _bytes_of(recording: Recording) -> int:
    total = 0
    for part in (*recording.modalities.values(), *recording.behaviour.values()):
        for name in ("data", "times", "unit_ids", "start", "end", "valid"):
            total += getattr(getattr(part, name, None), "nbytes", 0)
    return total
