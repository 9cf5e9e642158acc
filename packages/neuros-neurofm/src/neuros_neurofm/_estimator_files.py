"""An estimator in a folder: the model's weights, and what belongs to it, without pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from neuros_neurofm._estimator_data import Scale, TargetCode
from neuros_neurofm._estimator_objective import BehaviorContrast
from neuros_neurofm._estimator_state import Learned
from neuros_neurofm._estimator_training import TimeGrid
from neuros_neurofm.models import MultiModalNeuroFMX
from neuros_neurofm.models._linear_file import LINEAR_FILE, read_linear_parts, write_linear_parts

__all__ = ["read_folder", "write_folder"]

_FORMAT = 1
_STATE, _ARRAYS, _MODEL = "estimator.json", "estimator.safetensors", "model"


def write_folder(folder: Path, params: Mapping[str, Any], learned: Learned) -> None:
    """Write everything that a fitted estimator is.

    Raises:
        FileExistsError: The folder holds something else.
        TypeError: A parameter that JSON cannot hold.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / _STATE).exists():
        raise FileExistsError(
            f"{folder} holds files that are no saved estimator; choose another folder"
        )
    code, contrast, random_state = learned.code, learned.contrast, params["random_state"]
    state = {
        "format": _FORMAT,
        # A generator is no data; the seed that was drawn from it is kept beside.
        "params": {
            **params,
            "random_state": random_state if isinstance(random_state, int) else None,
        },
        "modality": learned.modality,
        "grid": list(learned.grid),
        "seed": learned.seed,
        "sessions": learned.sessions,
        "latest": learned.latest,
        "losses": learned.losses,
        "code": {
            "classes": None if code.classes is None else code.classes.tolist(),
            "dtype": None if code.classes is None else code.classes.dtype.str,
            "flat": code.flat,
        },
        "contrast": None
        if contrast is None
        else {"width": code.width, "labels": contrast.labels, "weight": contrast.weight},
    }
    text = json.dumps(state, indent=2)
    arrays = {f"scale/{name}": _pair(scale) for name, scale in learned.scales.items()}
    if code.scale is not None:
        arrays["target"] = _pair(code.scale)
    if contrast is not None:
        weights = contrast.state_dict()
        arrays |= {f"contrast/{name}": v.detach().cpu() for name, v in weights.items()}
    folder.mkdir(parents=True, exist_ok=True)
    learned.model.save_pretrained(folder / _MODEL)
    (folder / _MODEL / LINEAR_FILE).unlink(missing_ok=True)
    if learned.linear is not None:
        write_linear_parts(folder / _MODEL, learned.linear)
    save_file(arrays, folder / _ARRAYS)
    (folder / _STATE).write_text(text + "\n")


def read_folder(folder: Path, device: str) -> tuple[dict[str, Any], Learned]:
    """The parameters and the state that `write_folder` wrote.

    Raises:
        FileNotFoundError: There is no saved estimator.
        ValueError: One of another format.
    """
    if not (folder / _STATE).is_file():
        raise FileNotFoundError(f"{folder / _STATE} does not exist; save(folder) writes it")
    state: dict[str, Any] = json.loads((folder / _STATE).read_text())
    if state.get("format") != _FORMAT:
        raise ValueError(
            f"{folder} is of format {state.get('format')}, this version reads {_FORMAT}; "
            "update neuros-neurofm"
        )
    arrays = load_file(folder / _ARRAYS)
    contrast = None
    if state["contrast"] is not None:
        contrast = BehaviorContrast(**state["contrast"])
        contrast.load_state_dict(_under("contrast/", arrays))
    learned = Learned(
        state["modality"],
        MultiModalNeuroFMX.from_pretrained(folder / _MODEL).to(device).eval(),
        TimeGrid(*state["grid"]),
        _code(state["code"], arrays.get("target")),
        contrast,
        state["seed"],
        sessions=state["sessions"],
        scales={name: _scale(pair) for name, pair in _under("scale/", arrays).items()},
        latest=state["latest"],
        losses=state["losses"],
        linear=read_linear_parts(folder / _MODEL)[0] if state["params"]["linear_skip"] else None,
    )
    return state["params"], learned


def _under(prefix: str, arrays: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _code(stored: Mapping[str, Any], target: torch.Tensor | None) -> TargetCode:
    classes = stored["classes"]
    return TargetCode(
        None if classes is None else np.array(classes, dtype=stored["dtype"]),
        None if target is None else _scale(target),
        flat=stored["flat"],
    )


def _pair(scale: Scale) -> torch.Tensor:
    return torch.from_numpy(np.stack([scale.mean, scale.std]))


def _scale(pair: torch.Tensor) -> Scale:
    mean, std = pair.double().numpy()
    return Scale(mean, std)
