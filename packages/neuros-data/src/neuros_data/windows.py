"""A view of a store as equally long windows, read a batch at a time into one set of buffers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuros_core import Batch, Species
from neuros_data._behaviour import BehaviourReader, behaviour_reader, find_behaviour
from neuros_data._deal import classes_of, trials_of
from neuros_data._files import HasFiles, StoreFiles, source_of
from neuros_data._index import WindowIndex, build_index
from neuros_data._layout import Query, WindowSpec, choose_modalities, clocks_of, plan_queries
from neuros_data._readers import Affine, IrregularSignal, Reader, RegularSignal, SpikeCounts
from neuros_data.normalize import Normalizer

__all__ = ["WindowSpec", "Windows", "view_windows"]

Meta = dict[str, Any]
_READERS = 128
_EPS = 1e-9


class Windows:
    """Windows of some recordings, numbered from 0, recording after recording.

    Build one with `Store.windows`. Nothing is read before `read_batch`; the view pickles.

    Examples:
        >>> import neuros_data
        >>> view = neuros_data.load_sample().windows(
        ...     window=0.64, recordings=["grasshopper_1"], bin=0.01,
        ...     behaviour=["envelope"], behaviour_rate=100.0)
        >>> batch = view.read_batch([0, 1, 2])
        >>> batch["spike"].shape, batch["behavior"].shape
        ((3, 64, 1), (3, 64, 1))
    """

    def __init__(
        self,
        files: StoreFiles,
        spec: WindowSpec,
        *,
        recordings: tuple[str, ...],
        modalities: tuple[str, ...],
        index: WindowIndex,
        normalizer: Normalizer | None,
        sources: tuple[str, ...],
    ) -> None:
        self._files = files
        self.spec = spec
        self.recordings = recordings
        self.modalities = modalities
        self.sources = sources
        self.normalizer = normalizer
        self._index = index
        self._readers: dict[tuple[int, str], Reader] = {}
        self._true: NDArray[np.bool_] = np.ones(0, bool)
        self._query = plan_queries(files, spec, recordings)

    def __getstate__(self) -> dict[str, Any]:
        # Readers hold functions over open maps; a worker opens its own.
        return {**self.__dict__, "_readers": {}}

    def __repr__(self) -> str:
        return (
            f"Windows({len(self)} of {self.spec.window} s, {', '.join(self.modalities)}, "
            f"{len(self.recordings)} recordings)"
        )

    def __len__(self) -> int:
        return len(self._index)

    def range_of(self, recording_id: str) -> tuple[int, int]:
        """First window of a recording and one past its last.

        Examples:
            >>> import neuros_data
            >>> neuros_data.load_sample().windows(window=2.0, modalities=["ecog", "eeg"]).range_of(
            ...     "eeg_eyes_closed")
            (9, 39)
        """
        return self._index.range_of(self.recordings.index(recording_id))

    def channels(self, recording_id: str) -> dict[str, tuple[str, ...]]:
        """Channel or unit names of each modality that the recording has.

        Examples:
            >>> import neuros_data
            >>> view = neuros_data.load_sample().windows(window=1.0, modalities=["lfp"])
            >>> view.channels("ecog_lfp_grip")["lfp"]
            ('LFP_RIGHT_0', 'LFP_RIGHT_1', 'LFP_RIGHT_2')
        """
        parts = self._files.meta(recording_id)["modalities"]
        return {m: _names(parts[m]) for m in self.modalities if m in parts}

    def by_trial(
        self, recording_id: str, trials: str, column: str | None = None
    ) -> tuple[list[NDArray[np.int64]], list[str]]:
        """Windows that lie wholly inside each trial of a recording, and the classes of the trials.

        Args:
            recording_id: The recording.
            trials: Name of the intervals that are its trials.
            column: Column of the trials that is their class; None gives all the class `""`.

        Returns:
            For each trial the numbers of its windows, of which there may be none; and its class.

        Raises:
            ValueError: When the recording has no such intervals, or these no such column.

        Examples:
            >>> import neuros_data
            >>> view = neuros_data.load_sample().windows(window=2.0, modalities=["fmri"])
            >>> inside, classes = view.by_trial("fmri_event", "event")
            >>> len(inside) == len(classes)
            True
        """
        spans = trials_of(self._files, recording_id, trials)
        classes = [""] * len(spans)
        if column is not None:
            classes = classes_of(self._files, recording_id, trials, column)
        numbers = np.arange(*self.range_of(recording_id), dtype=np.int64)
        _, start = self._index.locate(numbers)
        stop = start + self.spec.window
        inside = [numbers[(start >= a - _EPS) & (stop <= b + _EPS)] for a, b in spans]
        return inside, classes

    def read_batch(self, indices: ArrayLike, *, out: Batch[Any] | None = None) -> Batch[Any]:
        """Read windows in the order given.

        Args:
            indices: Window numbers, shape (batch,); negative ones count from the end.
            out: A batch of an earlier call whose signal arrays of the right shape are reused.

        Returns:
            Signals (batch, time, channel) in float32 with `masks`, `rates`, `units`, `times`
            for irregular clocks, `behavior` with its times and mask, `species`, `source`,
            `recording_index`, `start_time`. A mask of which every entry is True may be a
            read-only view. Behaviour times are the queries' places in the window.

        Raises:
            IndexError: When a number is out of range.

        Examples:
            >>> import neuros_data
            >>> view = neuros_data.load_sample().windows(window=1.0, modalities=["ecog"])
            >>> view.read_batch([3, 0])["start_time"].tolist()
            [3.0, 0.0]
        """
        numbers, starts = self._index.locate(self._checked(indices))
        rows_of = _rows_of(numbers)
        batch: dict[str, Any] = {"masks": {}, "rates": {}, "units": {}, "times": {}}
        for modality in self.modalities:
            readers = {r: self._reader(r, modality) for r in rows_of if self._has(r, modality)}
            if readers:
                self._read_modality(
                    batch,
                    modality,
                    readers=readers,
                    rows_of=rows_of,
                    starts=starts,
                    reuse=out or {},
                )
        if self._query is not None:
            self._read_behaviour(batch, self._query, rows_of, starts)
        self._label(batch, rows_of, numbers, starts)
        return batch  # type: ignore[return-value]  # built key by key, its keys are Batch's

    def _checked(self, indices: ArrayLike) -> NDArray[np.int64]:
        wanted = np.atleast_1d(np.asarray(indices, np.int64))
        n = len(self)
        if not wanted.size:
            return wanted
        low, high = int(wanted.min()), int(wanted.max())
        if low < -n or high >= n:
            bad = low if low < -n else high
            raise IndexError(f"window {bad} is out of range, this view has {n} windows")
        return wanted if low >= 0 else np.where(wanted < 0, wanted + n, wanted)

    def _has(self, number: int, modality: str) -> bool:
        return modality in self._files.meta(self.recordings[number])["modalities"]

    def _reader(self, number: int, modality: str) -> Reader:
        reader = self._readers.pop((number, modality), None)
        if reader is None:
            reader = self._open(number, modality)
        self._readers[number, modality] = reader
        if len(self._readers) > _READERS:
            self._readers.pop(next(iter(self._readers)))
        return reader

    def _open(self, number: int, modality: str) -> Reader:
        name = self.recordings[number]
        part = self._files.meta(name)["modalities"][modality]

        def array(entry: Mapping[str, Any]) -> NDArray[Any]:
            return self._files.array(name, entry)

        if part["kind"] == "events":
            return SpikeCounts(part, array, self.spec.window, self.spec.bin or self.spec.window)
        statistics = self._statistics(name, modality)
        if part["rate"] is None:
            return IrregularSignal(part, array, self.spec.window, statistics)
        return RegularSignal(part, array, self.spec.window, statistics)

    def _statistics(self, recording_id: str, name: str) -> Affine | None:
        return None if self.normalizer is None else self.normalizer.statistics(recording_id, name)

    def _read_modality(
        self,
        batch: dict[str, Any],
        modality: str,
        *,
        readers: Mapping[int, Reader],
        rows_of: Mapping[int, NDArray[np.intp]],
        starts: NDArray[np.float64],
        reuse: Mapping[str, Any],
    ) -> None:
        shape = (
            len(starts),
            max(reader.length(starts[rows_of[r]]) for r, reader in readers.items()),
            max(len(reader.channels) for reader in readers.values()),
        )
        rates = {reader.rate for reader in readers.values()}
        whole = self._all_valid(readers, rows_of, modality, shape)
        data = _buffer(reuse.get(modality), shape)
        mask = None if whole else np.zeros(shape, bool)
        times = np.zeros(shape[:2]) if None in rates or len(rates) > 1 else None
        if not whole:
            data.fill(self.spec.fill)
        for r, reader in readers.items():
            rows = rows_of[r]
            reader.fill(starts[rows], rows, data, mask, times)
        if mask is not None:
            data[~mask] = self.spec.fill
        self._files.note_read(data.nbytes)
        batch[modality] = data
        batch["masks"][modality] = self._all_true(shape) if mask is None else mask
        if times is not None:
            batch["times"][modality] = times
        else:
            batch["rates"][modality] = rates.pop()
        names = {reader.channels for reader in readers.values()}
        if len(names) == 1:
            batch["units"][modality] = names.pop()

    def _all_true(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """One True seen as a whole mask; batches of one shape share it."""
        if self._true.shape != shape:
            self._true = np.broadcast_to(np.True_, shape)
        return self._true

    def _all_valid(
        self,
        readers: Mapping[int, Reader],
        rows_of: Mapping[int, NDArray[np.intp]],
        modality: str,
        shape: tuple[int, int, int],
    ) -> bool:
        """Whether every entry will be written and valid, so that no mask needs memory."""
        if len(readers) < len(rows_of):
            return False
        for r, reader in readers.items():
            part = self._files.meta(self.recordings[r])["modalities"][modality]
            if "valid" in part["arrays"] or (part["kind"] == "signal" and part["rate"] is None):
                return False
            if len(reader.channels) < shape[2] or reader.length(np.zeros(0)) < shape[1]:
                return False
        return True

    def _read_behaviour(
        self,
        batch: dict[str, Any],
        query: "Query",
        rows_of: Mapping[int, NDArray[np.intp]],
        starts: NDArray[np.float64],
    ) -> None:
        values = np.full((len(starts), query.n, query.dim), self.spec.fill, np.float32)
        mask = np.ones((len(starts), query.n), bool)
        for r, rows in rows_of.items():
            edges = starts[rows, None] - self.spec.lag + np.arange(query.n + 1) / query.rate
            edges = np.round(edges, 9)
            column = 0
            for name, dim in zip(self.spec.behaviour, query.dims, strict=True):
                reader = self._behaviour_reader(self.recordings[r], name)
                if reader is None:
                    mask[rows] = False
                else:
                    read, valid = reader.read(edges)
                    values[rows, :, column : column + dim] = read
                    mask[rows] &= valid
                column += dim
        values[~mask] = self.spec.fill
        batch["behavior"] = values
        batch["behavior_mask"] = mask
        middle = (np.arange(query.n) + 0.5) / query.rate
        batch["behavior_times"] = np.tile(middle, (len(starts), 1))

    def _behaviour_reader(self, recording_id: str, name: str) -> BehaviourReader | None:
        found = find_behaviour(self._files.meta(recording_id), name)
        if found is None:
            return None
        part, column = found
        statistics = self._statistics(recording_id, name)
        return behaviour_reader(
            part, column, lambda entry: self._files.array(recording_id, entry), statistics
        )

    def _label(
        self,
        batch: dict[str, Any],
        rows_of: Mapping[int, NDArray[np.intp]],
        numbers: NDArray[np.intp],
        starts: NDArray[np.float64],
    ) -> None:
        batch["species"] = np.empty(len(numbers), np.int64)
        batch["source"] = np.empty(len(numbers), np.int64)
        for r, rows in rows_of.items():
            meta = self._files.meta(self.recordings[r])
            batch["species"][rows] = Species(meta["species"]).id
            batch["source"][rows] = self.sources.index(source_of(meta))
        batch["recording_index"] = numbers.astype(np.int64)
        batch["start_time"] = starts


def _rows_of(numbers: NDArray[np.intp]) -> dict[int, NDArray[np.intp]]:
    """Rows of each recording; batches of one recording, the common case, skip the sorting."""
    if numbers.size and (numbers == numbers[0]).all():
        return {int(numbers[0]): np.arange(len(numbers))}
    return {int(r): np.flatnonzero(numbers == r) for r in np.unique(numbers)}


def _buffer(old: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if isinstance(old, np.ndarray) and old.shape == shape and old.dtype == np.float32:
        return old
    return np.empty(shape, np.float32)


def _names(part: Meta) -> tuple[str, ...]:
    return tuple(part["units"] if part["kind"] == "events" else part["channels"])


def view_windows(
    store: HasFiles,
    spec: WindowSpec,
    *,
    recordings: Sequence[str],
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    normalizer: Normalizer | None = None,
) -> Windows:
    """Lay windows over recordings; `Store.windows` is the way to call it.

    Args:
        store: The store that holds the recordings.
        spec: What a window holds.
        recordings: Their ids; those without any of the modalities are left out.
        intervals: Recording -> stretches in seconds that windows must lie inside.
        normalizer: Statistics to apply.

    Returns:
        The view.

    Raises:
        ValueError: When no recording has the modalities, or no window fits.

    Examples:
        >>> import neuros_data
        >>> spec = WindowSpec(window=1.0, stride=1.0, modalities=("emg",))
        >>> len(view_windows(neuros_data.load_sample(), spec, recordings=["emg_bursts"]))
        28
    """
    files = store.files
    modalities = choose_modalities(files, spec, recordings)
    used = tuple(r for r in recordings if set(modalities) & set(files.meta(r)["modalities"]))
    clocks = [clocks_of(files.meta(r), r, modalities, spec) for r in used]
    index = build_index(
        clocks,
        None if intervals is None else [intervals[r] for r in used],
        window=spec.window,
        stride=spec.stride,
        lag=spec.lag if spec.behaviour else 0.0,
    )
    if not len(index):
        longest = max(min(c.stop for c in mine) - max(c.start for c in mine) for mine in clocks)
        raise ValueError(
            f"no window of {spec.window} s fits: the longest recording has {longest:.3f} s"
            + ("" if intervals is None else ", less in this part of the split")
        )
    return Windows(
        files,
        spec,
        recordings=used,
        modalities=modalities,
        index=index,
        normalizer=normalizer,
        sources=tuple(sorted({source_of(files.meta(r)) for r in used})),
    )
