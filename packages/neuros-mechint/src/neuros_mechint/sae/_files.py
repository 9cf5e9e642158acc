"""Coders on disk: parameters as safetensors, arguments and origin as JSON."""

import json
import os
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from neuros_core import RunManifest
from neuros_mechint.sae._coder import Coder

__all__ = ["load_coder", "save_coder"]

CoderT = TypeVar("CoderT", bound=Coder)


def save_coder(coder: Coder, folder: str | os.PathLike[str]) -> None:
    """Write a coder, folded to raw units."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    kind, config = type(coder).__name__, coder.config
    manifest = RunManifest.collect(kind="sparse coder", config={"class": kind, **config})
    # On the CPU and without shared memory, as the format wants it.
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in coder.folded().state_dict().items()
    }
    save_file(tensors, place / "coder.safetensors")
    text = {"class": kind, "config": config, "manifest": manifest.to_dict()}
    (place / "coder.json").write_text(json.dumps(text, indent=2, sort_keys=True), encoding="utf-8")


def load_coder(kind: type[CoderT], folder: str | os.PathLike[str]) -> CoderT:
    """Read a coder that `save_coder` wrote, in evaluation mode."""
    place = Path(folder)
    if not (place / "coder.json").is_file():
        raise FileNotFoundError(f"no sparse coder in {folder}: coder.json is missing")
    try:
        text: dict[str, Any] = json.loads((place / "coder.json").read_text(encoding="utf-8"))
        name, config = text["class"], text["config"]
        tensors = load_file(place / "coder.safetensors")
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise ValueError(f"{folder} does not hold a whole sparse coder: {error}") from error
    if name != kind.__name__:
        raise ValueError(f"{folder} holds a {name}, not a {kind.__name__}; call {name}.load")
    coder = kind(**config).to(tensors["W_enc"].dtype)
    coder.load_state_dict(tensors)
    return coder.eval()
