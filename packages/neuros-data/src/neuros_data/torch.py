"""Windows as a PyTorch data set, with batch samplers that resume in the middle of an epoch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

try:
    import torch
    from torch.utils.data import Dataset, Sampler
except ImportError as error:
    raise ImportError(
        "neuros_data.torch needs PyTorch: pip install 'neuros-data[torch]'"
    ) from error

from numpy.typing import NDArray

from neuros_core import Batch
from neuros_data._trial_draws import classes_apart, draw_one_each
from neuros_data.windows import Windows

__all__ = [
    "RandomWindowSampler",
    "SequentialWindowSampler",
    "TrialSampler",
    "WindowDataset",
    "collate",
]


class WindowDataset(Dataset[Batch[Any]]):
    """One or several views as one data set; the index runs through them in order.

    With a batch sampler a whole batch is read in one pass. Pass `collate` as the loader's
    `collate_fn`.

    Args:
        views: Views built by `Store.windows`.

    Raises:
        ValueError: When there is no view.

    Examples:
        >>> import neuros_data
        >>> view = neuros_data.load_sample().windows(window=1.0, modalities=["emg"])
        >>> dataset = WindowDataset(view)
        >>> loader = torch.utils.data.DataLoader(
        ...     dataset, batch_sampler=RandomWindowSampler(dataset, 4), collate_fn=collate)
        >>> next(iter(loader))["emg"].shape
        torch.Size([4, 1000, 1])
    """

    def __init__(self, *views: Windows) -> None:
        if not views:
            raise ValueError("a data set needs at least one view, got none")
        self.views = views
        self._stops = np.cumsum([len(view) for view in views])

    def __len__(self) -> int:
        return int(self._stops[-1])

    def __getitem__(self, index: int) -> Batch[Any]:
        """Read one window, as a batch of one."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch[Any]:
        """Read a batch of NumPy arrays; all windows must be of one view.

        Raises:
            ValueError: When the windows belong to several views, whose contents differ.
            IndexError: When an index is out of range.
        """
        wanted = np.asarray(indices, np.int64)
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        if ((wanted < 0) | (wanted >= len(self))).any():
            raise IndexError(f"indices need to be below {len(self)} windows, got {list(indices)}")
        view = np.searchsorted(self._stops, wanted, side="right")
        if (view != view[0]).any():
            raise ValueError(
                f"a batch needs windows of one view, got views {sorted(set(view.tolist()))}; use "
                "RandomWindowSampler or SequentialWindowSampler as batch_sampler"
            )
        number = int(view[0])
        return self.views[number].read_batch(wanted - self._first(number))

    def _first(self, view: int) -> int:
        return int(self._stops[view]) - len(self.views[view])

    def by_trial(
        self, trials: str, column: str | None = None
    ) -> list[tuple[list[NDArray[np.int64]], list[str]]]:
        """For each recording of every view the windows inside each trial, and their classes.

        Args:
            trials: Name of the intervals that are the trials.
            column: Column of the trials that is their class.

        Raises:
            ValueError: When a recording has no such intervals, or these no such column.
        """
        found = []
        for number, view in enumerate(self.views):
            for recording_id in view.recordings:
                inside, classes = view.by_trial(recording_id, trials, column)
                found.append(([held + self._first(number) for held in inside], classes))
        return found

    def buckets(self) -> list[tuple[str, int, int]]:
        """Recording, first window and one past the last, of every recording of every view."""
        found = []
        for number, view in enumerate(self.views):
            first = self._first(number)
            for recording_id in view.recordings:
                low, high = view.range_of(recording_id)
                if high > low:
                    found.append((recording_id, first + low, first + high))
        return found


def collate(batch: Batch[Any] | Sequence[Batch[Any]]) -> Batch[torch.Tensor]:
    """Turn a batch of NumPy arrays into one of tensors.

    Args:
        batch: What `WindowDataset` returns: a batch, or a list with one batch.

    Returns:
        The same keys; floating arrays in float32, `start_time` in float64.

    Raises:
        ValueError: When a list holds several batches; only a batch sampler makes whole batches.

    Examples:
        >>> collate({"lfp": np.zeros((1, 2, 3), "float32")})["lfp"].shape
        torch.Size([1, 2, 3])
    """
    if not isinstance(batch, Mapping):
        if len(batch) != 1:
            raise ValueError(
                f"collate needs one batch, got a list of {len(batch)}; give the loader a "
                "batch_sampler instead of batch_size"
            )
        batch = batch[0]
    return {key: _to_tensor(key, value) for key, value in batch.items()}  # type: ignore[return-value]  # a TypedDict built key by key


def _to_tensor(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _to_tensor(key, held) for name, held in value.items()}
    if not isinstance(value, np.ndarray):
        return value
    if not value.flags.writeable:
        # A mask that is True everywhere arrives as a view of one value.
        return torch.tensor(value)
    if value.dtype == np.float64 and key != "start_time":
        value = value.astype(np.float32)
    return torch.from_numpy(value)


class _WindowSampler(Sampler[list[int]]):
    """What the samplers share: counting, sharing among processes, and resuming.

    A new iteration starts the epoch over, unless `load_state_dict` said where to continue.
    """

    def __init__(
        self,
        dataset: WindowDataset,
        batch_size: int,
        *,
        num_replicas: int,
        rank: int,
        sizes: Sequence[int] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size needs at least 1, got {batch_size}")
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank needs to be in [0, {num_replicas}), got {rank}")
        self.batch_size = batch_size
        self.num_replicas = num_replicas
        self.rank = rank
        self._buckets = dataset.buckets()
        self._epoch = 0
        self._position = 0
        self._resume = 0
        sizes = [high - low for _, low, high in self._buckets] if sizes is None else sizes
        n_batches = sum(-(-size // batch_size) for size in sizes)
        # Every process takes the same number of steps; a remainder is left out of this epoch.
        self._length = n_batches // num_replicas
        if self._length == 0:
            raise ValueError(f"{n_batches} batches cannot feed {num_replicas} processes")

    def __len__(self) -> int:
        return self._length

    def _batches(self) -> list[NDArray[np.int64]]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[list[int]]:
        self._position, self._resume = self._resume, 0
        mine = self._batches()[self.rank :: self.num_replicas][: self._length]
        while self._position < len(mine):
            self._position += 1
            yield mine[self._position - 1].tolist()
        self._position = 0
        self._epoch += 1

    def set_epoch(self, epoch: int) -> None:
        """Start an epoch from its first batch; the same epoch always has the same order."""
        self._epoch = epoch
        self._position = self._resume = 0

    def state_dict(self, *, consumed: int | None = None) -> dict[str, int]:
        """Return where the sampler stands.

        Args:
            consumed: Batches of this epoch that were trained on. Loader workers fetch ahead, so
                the sampler itself has handed out more; None takes what it handed out.
        """
        position = self._position if consumed is None else consumed
        return {"epoch": self._epoch, "position": position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from `state_dict`: the next batch is the one after the last.

        Raises:
            ValueError: When the position lies outside the epoch.
        """
        if not 0 <= state["position"] <= self._length:
            raise ValueError(
                f"position needs to be in [0, {self._length}], got {state['position']}; the state "
                "is of another data set or batch size"
            )
        self._epoch = int(state["epoch"])
        self._position = self._resume = int(state["position"])


def _chunks(numbers: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [numbers[i : i + size] for i in range(0, len(numbers), size)]


class SequentialWindowSampler(_WindowSampler):
    """Batches in order, each from one recording; every window once.

    Args:
        dataset: The data set.
        batch_size: Windows per batch; the last batch of a recording may be shorter.
        num_replicas: Processes that share the batches.
        rank: Number of this process.

    Examples:
        >>> import neuros_data
        >>> view = neuros_data.load_sample().windows(window=1.0, modalities=["emg"])
        >>> [len(b) for b in SequentialWindowSampler(WindowDataset(view), 10)]
        [10, 10, 8]
    """

    def __init__(
        self, dataset: WindowDataset, batch_size: int, *, num_replicas: int = 1, rank: int = 0
    ) -> None:
        super().__init__(dataset, batch_size, num_replicas=num_replicas, rank=rank)

    def _batches(self) -> list[NDArray[np.int64]]:
        return [
            batch
            for _, low, high in self._buckets
            for batch in _chunks(np.arange(low, high, dtype=np.int64), self.batch_size)
        ]


class RandomWindowSampler(_WindowSampler):
    """Batches in random order, each from one recording of one view.

    Without weights an epoch holds every window once. With weights it has as many batches, each of
    a recording drawn in proportion to its weight; a recording's windows come back only after all
    of them were seen.

    Args:
        dataset: The data set.
        batch_size: Windows per batch; the last batch of a recording may be shorter.
        seed: The order depends on the seed and the epoch alone.
        weights: Recording id -> non-negative weight; a missing one weighs 0.
        num_replicas: Processes that share the batches; all of them use the same seed.
        rank: Number of this process.

    Raises:
        ValueError: When a weight is negative, names no recording, or all are 0.

    Examples:
        >>> import neuros_data
        >>> view = neuros_data.load_sample().windows(window=1.0, modalities=["emg"])
        >>> sampler = RandomWindowSampler(WindowDataset(view), 10, seed=1)
        >>> sorted(i for batch in sampler for i in batch) == list(range(28))
        True
    """

    def __init__(
        self,
        dataset: WindowDataset,
        batch_size: int,
        seed: int = 0,
        weights: Mapping[str, float] | None = None,
        *,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(dataset, batch_size, num_replicas=num_replicas, rank=rank)
        self.seed = seed
        self._weights = None if weights is None else self._checked(weights)

    def _checked(self, weights: Mapping[str, float]) -> NDArray[np.float64]:
        names = [name for name, _, _ in self._buckets]
        if unknown := sorted(set(weights) - set(names)):
            raise ValueError(f"weights name recordings without windows: {unknown}")
        found = np.asarray([weights.get(name, 0.0) for name in names], np.float64)
        if not np.isfinite(found).all() or (found < 0).any() or found.sum() == 0:
            raise ValueError(f"weights need numbers >= 0 of which one is positive, got {weights}")
        shares: NDArray[np.float64] = found / found.sum()
        return shares

    def _batches(self) -> list[NDArray[np.int64]]:
        rng = np.random.default_rng([self.seed, self._epoch])
        if self._weights is None:
            batches = [b for bucket in self._buckets for b in self._shuffled(bucket, rng)]
            return [batches[i] for i in rng.permutation(len(batches))]
        total = sum(-(-(high - low) // self.batch_size) for _, low, high in self._buckets)
        waiting: dict[int, list[NDArray[np.int64]]] = {}
        batches = []
        for chosen in rng.choice(len(self._buckets), size=total, p=self._weights).tolist():
            if not waiting.get(chosen):
                waiting[chosen] = self._shuffled(self._buckets[chosen], rng)
            batches.append(waiting[chosen].pop())
        return batches

    def _shuffled(
        self, bucket: tuple[str, int, int], rng: np.random.Generator
    ) -> list[NDArray[np.int64]]:
        _, low, high = bucket
        return _chunks(low + rng.permutation(high - low), self.batch_size)


class TrialSampler(_WindowSampler):
    """Batches of one window a trial, drawn anew in every epoch, each batch from one recording.

    A trial's window is any of the data set that lies wholly inside it; trials too short for one
    are left out. With a stride below the window's length there are several to draw from.

    Args:
        dataset: The data set.
        batch_size: Windows per batch; the last batch of a recording may be shorter.
        trials: Name of the intervals that are the trials.
        balance: Column of the trials by which the classes of a recording are made equally
            frequent: trials of the rarer ones come more than once in an epoch.
        seed: The order depends on the seed and the epoch alone.
        num_replicas: Processes that share the batches; all of them use the same seed.
        rank: Number of this process.

    Raises:
        ValueError: When a recording lacks the intervals or the column, or no window lies inside a
            trial.

    Examples:
        >>> import neuros_data
        >>> view = neuros_data.load_sample().windows(window=2.0, modalities=["fmri"],
        ...                                          recordings=["fmri_event"])
        >>> sampler = TrialSampler(WindowDataset(view), 64, "event")
        >>> sum(len(batch) for batch in sampler) > 0
        True
    """

    def __init__(
        self,
        dataset: WindowDataset,
        batch_size: int,
        trials: str,
        balance: str | None = None,
        seed: int = 0,
        *,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        self.seed = seed
        self._trials = [classes_apart(*found) for found in dataset.by_trial(trials, balance)]
        sizes = [len(held) * max(map(len, held), default=0) for held in self._trials]
        if not any(sizes):
            raise ValueError(
                f"no window lies inside one of the intervals {trials!r}; make windows shorter or "
                "their stride smaller"
            )
        super().__init__(dataset, batch_size, num_replicas=num_replicas, rank=rank, sizes=sizes)

    def _batches(self) -> list[NDArray[np.int64]]:
        rng = np.random.default_rng([self.seed, self._epoch])
        batches = [
            b for held in self._trials for b in _chunks(draw_one_each(held, rng), self.batch_size)
        ]
        return [batches[i] for i in rng.permutation(len(batches))]
