"""How fast a store gives windows, beside a copy of the same bytes in memory."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuros_data.store import Store
from neuros_data.windows import Windows

_BATCH, _BATCHES, _ROUNDS = 64, 20, 5


class StoreSpeed(NamedTuple):
    """Windows per second.

    Attributes:
        modality: What was read.
        window: Seconds.
        windows_per_s: From the store, in random order, in batches of 64.
        copies_per_s: Windows of the same shape copied from an array in memory.
        ratio: The first over the second.
    """

    modality: str
    window: float
    windows_per_s: float
    copies_per_s: float
    ratio: float


def bench_store(store: Store, *, window: float = 1.0, seed: int = 0) -> list[StoreSpeed]:
    """Measure random windows of every modality, once the page cache is warm.

    Args:
        store: What to read.
        window: Seconds of a window; modalities without a recording that long are left out.
        seed: Of the order.

    Returns:
        One entry per modality.

    Raises:
        ValueError: When no modality has a window of that length.

    Examples:
        >>> import neuros_data
        >>> [speed.modality for speed in bench_store(neuros_data.load_sample("lfp"))]
        ['ecog', 'lfp']
    """
    metas = (store.files.meta(name) for name in store.files.ids)
    modalities = sorted({m for meta in metas for m in meta["modalities"]})
    found = []
    for modality in modalities:
        try:
            view = store.windows(window=window, modalities=[modality], bin=window / 50)
        except ValueError as error:
            if "no window" not in str(error) and "no sample" not in str(error):
                raise
            continue
        order = np.random.default_rng(seed).integers(len(view), size=(_BATCHES, _BATCH))
        ours = min(_seconds(view, order) for _ in range(_ROUNDS))
        batch: Mapping[str, Any] = view.read_batch(order[0])
        copied = min(_copy_seconds(batch[modality]) for _ in range(_ROUNDS))
        n = order.size
        found.append(StoreSpeed(modality, window, n / ours, n / copied, copied / ours))
    if not found:
        raise ValueError(f"no recording has a window of {window} s; pass a shorter one")
    return found


def _seconds(view: Windows, order: NDArray[np.int64]) -> float:
    reused = view.read_batch(order[0])
    start = time.perf_counter()
    for indices in order:
        view.read_batch(indices, out=reused)
    return time.perf_counter() - start


def _copy_seconds(batch: NDArray[Any]) -> float:
    """Copy as many windows as are read, one at a time, from arrays in memory."""
    target = np.empty_like(batch)
    sources = [batch.copy() for _ in range(4)]
    start = time.perf_counter()
    for k in range(_BATCHES):
        source = sources[k % len(sources)]
        for row in range(len(batch)):
            target[row] = source[row]
    return time.perf_counter() - start
