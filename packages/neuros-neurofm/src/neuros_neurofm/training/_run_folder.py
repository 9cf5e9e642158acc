"""The folder of a run: what lies beside its checkpoints, and the model in it."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuros_neurofm._cli import write_text
from neuros_neurofm.models import LinearPart, MultiModalNeuroFMX
from neuros_neurofm.models._linear_file import read_linear_parts
from neuros_neurofm.training._checkpoint_file import load_weights

__all__: list[str] = []

CONFIG = "config.yaml"
LAST = "last.ckpt"
BEST = "best.ckpt"
MODEL = "model"
_RUN = "run.json"


class BehaviorScale(NamedTuple):
    """Mean and deviation that a behaviour was z-scored with, per dimension."""

    mean: list[float]
    deviation: list[float]

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Both as arrays."""
        return np.array(self.mean, np.float32), np.array(self.deviation, np.float32)


class SavedModel(NamedTuple):
    """A model that decodes in the behaviour's own units, and how its data were cut.

    Attributes:
        model: In eval mode.
        protocol: `split`, `gap`, `window`, `modalities` and `sampling_rates` of its run; empty for
            a model that was saved alone.
        source: The file or folder of the weights.
        linear: Linear parts beside the model, by session; its decoder says what they leave over.
    """

    model: MultiModalNeuroFMX
    protocol: Mapping[str, Any]
    source: Path
    linear: Mapping[str, LinearPart] = MappingProxyType({})


def write_run(
    folder: Path,
    model: MultiModalNeuroFMX,
    scale: BehaviorScale | None,
    protocol: Mapping[str, Any],
) -> None:
    """Write what a checkpoint needs to become a model again."""
    content = {
        "model": model.config,
        "behavior": None if scale is None else scale._asdict(),
        "protocol": dict(protocol),
    }
    write_text(folder / _RUN, json.dumps(content, indent=2, sort_keys=True) + "\n")


def load_model(path: str | Path, *, adds_linear: bool = False) -> SavedModel:
    """The model of a run's folder, of one of its checkpoints, or of `save_pretrained`.

    Of a folder the best checkpoint is taken, or the last where there was no validation. A model
    beside linear parts decodes what they leave over, so it is only for a caller that adds them.

    Raises:
        FileNotFoundError: There is no such file or folder, or no model in it.
        ValueError: The checkpoint is damaged or does not belong to its folder, or there are linear
            parts and the caller does not add them.
    """
    path = Path(path)
    if (path / "model.safetensors").is_file():
        linear, _ = read_linear_parts(path)
        if linear and not adds_linear:
            raise ValueError(
                f"{path} holds a LinearSkipDecoder of the sessions {list(linear)}; its model alone "
                "decodes only what the linear parts leave over, so load it with "
                "LinearSkipDecoder.from_pretrained, or use neurofm-serve or neurofm-stream"
            )
        return SavedModel(_pretrained(path), {}, path, linear)
    checkpoint = next((p for p in (path / BEST, path / LAST) if p.is_file()), path)
    if not checkpoint.is_file() or not (checkpoint.parent / _RUN).is_file():
        raise FileNotFoundError(
            f"{path} is neither a checkpoint in the folder of a run (with {_RUN}), nor such a "
            "folder, nor one that save_pretrained wrote"
        )
    run = json.loads((checkpoint.parent / _RUN).read_text(encoding="utf-8"))
    model = MultiModalNeuroFMX(**run["model"])
    load_weights(model, checkpoint)
    if run["behavior"] is not None:
        unscale_decoder(model, BehaviorScale(**run["behavior"]))
    return SavedModel(model.eval(), run["protocol"], checkpoint)


def unscale_decoder(model: MultiModalNeuroFMX, scale: BehaviorScale) -> None:
    """Let a decoder of z-scores answer in the behaviour's own units."""
    head: Any = model.heads["decoder"]
    weight: Tensor = head.out.weight
    mean, deviation = (torch.as_tensor(x).to(weight) for x in scale.arrays())
    with torch.no_grad():
        head.out.weight.mul_(deviation[:, None])
        head.skip.weight.mul_(deviation[:, None])
        head.out.bias.mul_(deviation).add_(mean)


def _pretrained(path: Path) -> MultiModalNeuroFMX:
    try:
        return MultiModalNeuroFMX.from_pretrained(path, local_files_only=True)
    except Exception as error:
        # Damaged weights fail in the exception types of safetensors, json and torch.
        raise ValueError(f"the saved model {path} cannot be read ({error})") from error
