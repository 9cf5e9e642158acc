"""A folder of recordings that opens at once, reads lazily and grows one recording at a time."""

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuros_core import Recording, RunManifest
from neuros_data._files import StoreFiles, shorten
from neuros_data.errors import CorruptStoreError
from neuros_data.format import SCHEMA, Quantization, check_schema, read_json, write_json
from neuros_data.normalize import Normalizer
from neuros_data.split import Split
from neuros_data.windows import Windows, WindowSpec, view_windows

__all__ = ["Recordings", "Store", "open_store"]


@dataclass(frozen=True)
class Recordings(Mapping[str, Recording]):
    """Recordings by id, each read from disk when it is asked for.

    Examples:
        >>> import neuros_data
        >>> recordings = neuros_data.load_sample().recordings
        >>> len(recordings), "emg_bursts" in recordings
        (12, True)
    """

    files: StoreFiles

    def __getitem__(self, recording_id: str) -> Recording:
        return self.files.recording(recording_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files.ids)

    def __len__(self) -> int:
        return len(self.files.ids)

    def __contains__(self, recording_id: object) -> bool:
        return recording_id in self.files.ids


class Store:
    """Recordings on disk, with splits and fast windows.

    Use `open_store` for an existing folder and `Store.create` for a new one. A store holds paths
    and caches only: it pickles, and works in forked and spawned workers.

    Args:
        files: The store's files.
        manifest: Contents of `manifest.json`.

    Examples:
        >>> import neuros_data
        >>> store = neuros_data.load_sample()
        >>> store.recordings["eeg_eyes_closed"].modalities["eeg"].data.shape
        (9760, 64)
    """

    def __init__(self, files: StoreFiles, manifest: Mapping[str, Any]) -> None:
        self.files = files
        self.manifest = manifest

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {len(self.files.ids)} recordings)"

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        source: str = "",
        licence: str = "",
        run: RunManifest | None = None,
    ) -> "Store":
        """Start an empty store.

        Args:
            path: A folder that does not exist yet, or an empty one.
            source: Where the recordings come from.
            licence: Their licence, SPDX where there is an identifier.
            run: What made the store; by default the versions of the running process.

        Raises:
            ValueError: When the folder holds something.

        Examples:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     len(Store.create(folder).recordings)
            0
        """
        root = Path(path)
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise ValueError(f"a new store needs an empty or absent folder, {root} holds something")
        (root / "recordings").mkdir(parents=True)
        (root / "splits").mkdir()
        manifest = {
            "format": "neuros-store",
            "schema": ".".join(map(str, SCHEMA)),
            "source": source,
            "licence": licence,
            "run": (run or RunManifest.collect(kind="store")).to_dict(),
        }
        write_json(root / "manifest.json", manifest)
        return cls(StoreFiles(root), manifest)

    @property
    def path(self) -> Path:
        """Folder of the store."""
        return self.files.root

    @property
    def recordings(self) -> Recordings:
        """Recordings by id; each is read when asked for and its arrays stay memory maps.

        Integer signals with a scale are decoded into float32 in memory; `windows` decodes only
        what it reads.
        """
        return Recordings(self.files)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the saved splits."""
        return self.files.split_names

    @property
    def content_hash(self) -> str:
        """Hash over the ids and checksums of all arrays, for a run manifest's `data_hash`."""
        digest = hashlib.sha256()
        for name in self.files.ids:
            meta = self.files.meta(name)
            for part in (*meta["modalities"].values(), *meta["behaviour"].values()):
                for entry in part["arrays"].values():
                    digest.update(f"{name}/{entry['file']}:{entry['sha256']}\n".encode())
        return digest.hexdigest()

    def add(
        self,
        recording: Recording,
        *,
        quantize: Mapping[str, Quantization] | None = None,
        float64: Collection[str] = (),
    ) -> None:
        """Append one recording; readers see it whole or not at all.

        Floats are stored as float32, integers as int16 or int32, samples that are NaN, infinite
        or marked invalid stay in place and are marked in a validity array.

        Args:
            recording: The recording; its id names a folder.
            quantize: Modality or behaviour -> lattice on which its samples lie; they are then
                stored as integers, without loss.
            float64: Modalities or behaviours to keep in double precision.

        Raises:
            ValueError: When the id is taken or unusable, or a lattice does not fit.
            DiskFullError: When the disk is full; nothing of the recording is left behind.

        Examples:
            >>> import tempfile
            >>> import numpy as np
            >>> from neuros_core import Signal
            >>> lfp = Signal(np.zeros((10, 1)), rate=10.0)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     store = Store.create(folder)
            ...     store.add(Recording("r1", "s1", "1", "rat", {"lfp": lfp}))
            ...     list(store.recordings)
            ['r1']
        """
        self.files.add(recording, quantization=quantize or {}, float64=float64)

    def select(self, recordings: Collection[str]) -> "Store":
        """The same store seen through some of its recordings.

        Raises:
            KeyError: When an id is not in the store.

        Examples:
            >>> import neuros_data
            >>> list(neuros_data.load_sample().select(["emg_bursts"]).recordings)
            ['emg_bursts']
        """
        return Store(StoreFiles(self.path, frozenset(self.files.chosen(recordings))), self.manifest)

    def split(self, name: str) -> Split:
        """Load a saved split.

        Raises:
            KeyError: When there is no split of that name; the message lists those there are.

        Examples:
            >>> import neuros_data
            >>> neuros_data.load_sample().split("time").by
            'time'
        """
        return Split.from_dict(self.files.read_split(name), self)

    def windows(
        self,
        *,
        window: float,
        split: str | None = None,
        using: Split | str | None = None,
        stride: float | None = None,
        modalities: Sequence[str] | None = None,
        recordings: Collection[str] | None = None,
        bin: float | None = None,  # noqa: A002  # the field's word for the width of a count
        normalize: Normalizer | bool = False,
        behaviour: Sequence[str] = (),
        behaviour_rate: float | None = None,
        lag: float = 0.0,
        fill: float = 0.0,
    ) -> Windows:
        """Cut recordings into windows that lie wholly inside one part of a split.

        Args:
            window: Length in seconds, the same for every modality at its own rate.
            split: Part to read, such as `"train"`; None reads everything.
            using: The split or its saved name; None takes the only saved one.
            stride: Seconds between starts of windows; by default `window`, without overlap.
            modalities: Which to read; by default all that the recordings have.
            recordings: Which to read; by default all with one of the modalities (and, with a
                split, with data in that part).
            bin: Width in seconds of a spike count's bin.
            normalize: A fitted `Normalizer`; True takes the one saved in the split, or fits one
                on its training part.
            behaviour: Names of behaviours to read along; a column of labelled intervals is
                written `"name.column"`.
            behaviour_rate: Queries per second; each is the mean over its block of samples. By
                default the rate of the first behaviour.
            lag: Seconds by which neural activity follows behaviour: the query at time t of the
                window is paired with the behaviour at t - lag. A movement that follows its
                neural activity has a negative lag.
            fill: Value at entries whose mask is False (not measured, or padding).

        Returns:
            A view that knows its length and reads batches.

        Raises:
            ValueError: When the arguments do not fit each other or the recordings.
            KeyError: When a recording or a split does not exist.

        Examples:
            >>> import neuros_data
            >>> store = neuros_data.load_sample()
            >>> view = store.windows(window=1.0, modalities=["eeg"])
            >>> len(view), view.read_batch([0, 5])["eeg"].shape
            (61, (2, 160, 64))
        """
        chosen = self._split_for(split, using)
        spec = WindowSpec(
            window=window,
            stride=window if stride is None else stride,
            modalities=None if modalities is None else tuple(modalities),
            bin=bin,
            behaviour=tuple(behaviour),
            behaviour_rate=behaviour_rate,
            lag=lag,
            fill=fill,
        )
        intervals = None
        if split is not None and chosen is not None:
            intervals = chosen.part(split)
            recordings = self._in_part(recordings, intervals, split)
        return view_windows(
            self,
            spec,
            recordings=self.files.chosen(recordings),
            intervals=intervals,
            normalizer=self._normalizer(chosen, normalize=normalize),
        )

    def _split_for(self, split: str | None, using: Split | str | None) -> Split | None:
        if isinstance(using, Split):
            return using
        if using is not None:
            return self.split(using)
        if split is None:
            return None
        if len(self.splits) != 1:
            raise ValueError(
                f"split={split!r} needs `using` (a Split or a saved name); this store has saved: "
                f"{shorten(self.splits)}"
            )
        return self.split(self.splits[0])

    def _in_part(
        self,
        recordings: Collection[str] | None,
        intervals: Mapping[str, Sequence[tuple[float, float]]],
        part: str,
    ) -> list[str]:
        asked = self.files.chosen(recordings)
        present = [name for name in asked if name in intervals]
        if not present:
            raise ValueError(
                f"part {part!r} holds nothing of {shorten(asked)}; it holds "
                f"{shorten(sorted(intervals))}"
            )
        return present

    def _normalizer(
        self, split: Split | None, *, normalize: Normalizer | bool
    ) -> Normalizer | None:
        if isinstance(normalize, Normalizer):
            return normalize
        if not normalize:
            return None
        if split is None:
            raise ValueError("normalize=True needs a split, whose training part it is fitted on")
        return split.normalizer or Normalizer.fit(self, split="train", using=split)


def open_store(path: str | os.PathLike[str]) -> Store:
    """Open a store for reading and appending.

    Args:
        path: Its folder.

    Raises:
        CorruptStoreError: When the folder is not a store.
        FormatVersionError: When a newer major version of the format wrote it.

    Examples:
        >>> import neuros_data
        >>> open_store(neuros_data.load_sample().path)  # doctest: +ELLIPSIS
        Store('...', 12 recordings)
    """
    root = Path(path)
    if not root.is_dir():
        raise CorruptStoreError(f"{root} is not a folder; a store is a folder with manifest.json")
    manifest = read_json(root / "manifest.json")
    if manifest.get("format") != "neuros-store":
        raise CorruptStoreError(f"{root / 'manifest.json'} does not describe a store")
    check_schema(manifest["schema"], root / "manifest.json")
    return Store(StoreFiles(root), manifest)
