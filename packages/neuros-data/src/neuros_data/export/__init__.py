"""A store written in the formats of others: npz, zarr, NWB and BIDS."""

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from neuros_core.errors import check_choice
from neuros_data.export._bids import export_bids
from neuros_data.export._npz import NpzOptions, export_npz
from neuros_data.export._nwb import export_nwb
from neuros_data.export._zarr import export_zarr
from neuros_data.store import Store

__all__ = ["export_store"]


_WHOLE: dict[str, Callable[[Store, Path, Sequence[str]], list[Path]]] = {
    "bids": export_bids,
    "nwb": export_nwb,
    "zarr": export_zarr,
}


def export_store(
    store: Store,
    to: str,
    folder: str | os.PathLike[str],
    *,
    window: float | None = None,
    stride: float | None = None,
    using: str | None = None,
    behaviour: Sequence[str] = (),
    bin_s: float = 0.02,
    recordings: Collection[str] | None = None,
) -> list[Path]:
    """Write recordings in another format.

    - `npz`: windows, one file for each recording, part of the split and modality:
      `x` (window, time, channel) float32, NaN where nothing valid was measured; `times`
      (window, time) in seconds of the recording; `y` (window, query, dim) with `y_times` and
      `y_names` where behaviour was asked for; `channels`, `rate`, `unit`, `subject`, `session`,
      and `meta`, a text in JSON. Spikes are counted in bins, and their exact times come along as
      `event_times` and `event_units`. `numpy.load` reads it with `allow_pickle=False`.
    - `zarr`: a group for each recording, an array for each part, integers as they are stored.
    - `nwb`: a file for each recording: time series, units, intervals.
    - `bids`: a BIDS 1.10 data set: EEG, ECoG, LFP and EMG as BrainVision files in float32, ROI time
      courses as derivatives, intervals as events. Spikes and calcium have no place in it and are
      named in the data set's README.

    Args:
        store: What to write.
        to: `"npz"`, `"zarr"`, `"nwb"` or `"bids"`.
        folder: A folder that does not exist yet, or an empty one.
        window: Seconds of a window; npz only, and needed there.
        stride: Seconds between windows; by default `window`.
        using: Saved split whose parts are written apart; by default the only one, or none.
        behaviour: Behaviours to write as `y`; npz only.
        bin_s: Seconds per bin of spike counts; npz only.
        recordings: Ids to write; by default all.

    Returns:
        The files that were written; of zarr the groups, of BIDS the folders of subjects.

    Raises:
        ValueError: An unknown format, a folder that holds something, options that the format does
            not have, or npz without a window.
        ImportError: NWB and zarr need the extras of these names.

    Examples:
        >>> import tempfile, numpy as np, neuros_data
        >>> store = neuros_data.load_sample("emg")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path, = export_store(store, "npz", folder, window=2.0)
        ...     with np.load(path) as file:
        ...         path.name, file["x"].shape, file["rate"].item()
        ('emg_bursts_emg.npz', (14, 2000, 1), 1000.0)
    """
    check_choice("to", to, ("npz", *_WHOLE))
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"an export needs an empty or absent folder, {target} holds something")
    chosen = store.files.chosen(recordings)
    if to == "npz":
        if window is None:
            raise ValueError("npz holds windows; pass window=seconds (--window)")
        target.mkdir(parents=True, exist_ok=True)
        options = NpzOptions(window, stride or window, using, tuple(behaviour), bin_s)
        return export_npz(store, target, chosen, options)
    if window is not None or stride is not None or using is not None or behaviour:
        raise ValueError(
            f"{to} holds whole recordings; window, stride, using and behaviour belong to npz"
        )
    target.mkdir(parents=True, exist_ok=True)
    return _WHOLE[to](store, target, chosen)
