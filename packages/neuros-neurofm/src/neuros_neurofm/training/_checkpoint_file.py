"""One checkpoint file: written whole or not at all, read without running code from it."""

import contextlib
import os
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuros_core import RunManifest

SCHEMA = 1
_KIND = "neuros-neurofm checkpoint"
_PLAIN = (Tensor, bool, int, float, str, bytes, type(None))


def write_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write `content` under `path`, which holds the old file until the new one is on the disk.

    Raises:
        TypeError: The content holds something that could not be loaded safely.
        OSError: The file could not be written, such as on a full disk; the old one stays.
    """
    path = Path(path)
    payload = {"kind": _KIND, "schema": SCHEMA} | content
    for where, value in _leaves(payload, ""):
        if type(value) not in _PLAIN and not isinstance(value, Tensor):
            raise TypeError(
                f"a checkpoint holds tensors and plain values, got {type(value).__name__} at "
                f"{where}; it could not be loaded without running code"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:
        # torch's zip writer turns the OSError of a full disk into a RuntimeError.
        raise OSError(
            f"could not write the checkpoint {path}: {error}; what was there before is unchanged"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read what `write_checkpoint` wrote, onto the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated, damaged, no checkpoint of this package, or of a newer
            schema.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    payload = _load(path)
    if not isinstance(payload, dict) or payload.get("kind") != _KIND:
        raise ValueError(f"{path} is not a {_KIND}; pass a file that save_checkpoint wrote")
    if payload["schema"] > SCHEMA:
        raise ValueError(
            f"the checkpoint {path} has schema {payload['schema']}, the newest known here is "
            f"{SCHEMA}; upgrade neuros-neurofm"
        )
    return payload


def load_weights(model: nn.Module, path: str | Path) -> RunManifest:
    """Load the model of a checkpoint, and nothing else of its run.

    For a run with another number of processes, or one that fine-tunes.

    Args:
        model: Built like the one that was trained; changed in place.
        path: What `MultiModalTrainer.save_checkpoint` wrote.

    Returns:
        The manifest of the run that wrote it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or of a newer schema, or holds another model.

    Examples:
        >>> import tempfile
        >>> from neuros_neurofm import MultiModalNeuroFMX
        >>> from neuros_neurofm.training import MultiModalTrainer
        >>> model = MultiModalNeuroFMX(16, 1, 4, 8, modalities=("lfp",))
        >>> other = MultiModalNeuroFMX(16, 1, 4, 8, modalities=("lfp",))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     MultiModalTrainer(model, []).save_checkpoint(f"{folder}/run.ckpt")
        ...     manifest = load_weights(other, f"{folder}/run.ckpt")
        >>> bool((model.to_latent[1].weight == other.to_latent[1].weight).all())
        True
    """
    content = read_checkpoint(path)
    try:
        model.load_state_dict(content["model"])
    except RuntimeError as error:
        raise ValueError(
            f"the checkpoint {path} holds another model ({error}); build the one that its manifest "
            "names"
        ) from error
    return RunManifest.from_dict(content["manifest"])


def _load(path: Path) -> Any:
    try:
        _check_sums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged archive or pickle fails in a dozen exception types.
        raise ValueError(
            f"the checkpoint {path} is truncated, damaged or not safe to load ({error}); "
            "use an earlier one"
        ) from error


def _check_sums(path: Path) -> None:
    # torch reads past a flipped bit; the checksums of the zip archive show it.
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if type(value) in (dict, OrderedDict, Counter):
        for key, part in value.items():
            yield from _leaves(part, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, part in enumerate(value):
            yield from _leaves(part, f"{where}[{index}]")
    else:
        yield where, value


def _sync_folder(folder: Path) -> None:
    # The rename itself survives a power cut only once the folder is on the disk; a system that
    # cannot open folders (Windows) orders the two writes by itself.
    with contextlib.suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
