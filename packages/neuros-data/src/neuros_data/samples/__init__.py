"""Real recordings shipped with the package: spikes, ECoG, LFP, EEG, EMG and fMRI.

Origin, licence and checksum of each are in `SOURCES.md` beside them.
"""

import os
import shutil
from pathlib import Path

from neuros_core import Modality
from neuros_data._files import flush_folder
from neuros_data.errors import DiskFullError
from neuros_data.store import Store, open_store

__all__ = ["copy_sample", "load_sample"]

_PACK = Path(__file__).parent / "pack"


def load_sample(modality: str | None = None) -> Store:
    """Open the embedded recordings, without network or copying.

    The store has two saved splits: `"time"` over the fast recordings (windows up to 1 s) and
    `"time_fmri"` over the BOLD recordings (windows up to 60 s).

    Args:
        modality: Show only recordings that have it.

    Returns:
        A read-only store; `copy_sample` makes one to write to.

    Raises:
        ValueError: When no recording has the modality.

    Examples:
        >>> load_sample("spike").recordings["grasshopper_1"].modalities["spike"].times.size
        929
    """
    store = open_store(_PACK)
    if modality is None:
        return store
    wanted = str(Modality(modality))
    ids = [r for r in store.files.ids if wanted in store.files.meta(r)["modalities"]]
    if not ids:
        raise ValueError(f"the embedded recordings hold no {wanted}")
    return store.select(ids)


def copy_sample(path: str | os.PathLike[str], *, modality: str | None = None) -> Store:
    """Copy the embedded recordings into a folder of your own.

    Args:
        path: A folder that does not exist yet, or an empty one.
        modality: Copy only recordings that have it; saved splits are copied when no modality
            is chosen.

    Returns:
        The new store.

    Raises:
        ValueError: When the folder holds something, or no recording has the modality.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     list(copy_sample(folder, modality="emg").recordings)
        ['emg_bursts']
    """
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"a copy needs an empty or absent folder, {target} holds something")
    source = load_sample(modality)
    members = _members(source, whole=modality is None)
    fresh = not target.exists()
    try:
        _copy(members, target)
    except OSError as error:
        _remove(target, members, fresh=fresh)
        if DiskFullError.is_cause(error):
            n_bytes = sum((_PACK / member).stat().st_size for member in members)
            raise DiskFullError.needing(n_bytes, target) from error
        raise
    return open_store(target)


def _members(source: Store, *, whole: bool) -> list[Path]:
    """Files of the pack to copy, the manifest last: it is what makes a folder a store."""
    folders = [source.files.folder(r) for r in source.files.ids] + [_PACK / "licences"]
    if whole:
        folders.append(_PACK / "splits")
    found = sorted(path for folder in folders for path in folder.iterdir())
    return [p.relative_to(_PACK) for p in (*found, _PACK / "SOURCES.md", _PACK / "manifest.json")]


def _copy(members: list[Path], target: Path) -> None:
    (target / "splits").mkdir(parents=True)
    for member in members:
        (target / member).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_PACK / member, target / member)
    flush_folder(target)


def _remove(target: Path, members: list[Path], *, fresh: bool) -> None:
    """Take back what was copied, and the folder itself where it is ours."""
    if fresh:
        shutil.rmtree(target, ignore_errors=True)
        return
    for name in {member.parts[0] for member in members} | {"splits"}:
        if (target / name).is_dir():
            shutil.rmtree(target / name, ignore_errors=True)
        else:
            (target / name).unlink(missing_ok=True)
