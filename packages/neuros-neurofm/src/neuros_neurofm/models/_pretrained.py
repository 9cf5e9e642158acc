"""The files of a saved model: weights, configuration, card and manifest."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from neuros_core.manifest import RunManifest

__all__ = ["card_text", "load_weights", "weights_file", "write_model"]

WEIGHTS = "model.safetensors"


def write_model(model: nn.Module, config: Mapping[str, Any], folder: Path) -> None:
    """Writes weights (with unit ids inside), configuration and manifest."""
    state: dict[str, Tensor] = {
        name: value.detach().contiguous().cpu() for name, value in model.state_dict().items()
    }
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    manifest = RunManifest.collect(kind="model", config=config, model_hash=digest)
    (folder / "manifest.json").write_text(manifest.to_json() + "\n")


def weights_file(
    model_id: str,
    *,
    revision: str | None,
    cache_dir: str | Path | None,
    force_download: bool,
    local_files_only: bool,
    token: str | bool | None,
) -> Path:
    """The weights in a folder, or fetched from the Hub where `model_id` is no folder."""
    if Path(model_id).is_dir():
        return Path(model_id) / WEIGHTS
    return Path(
        hf_hub_download(
            model_id,
            WEIGHTS,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
    )


def load_weights(model: nn.Module, path: Path, device: str) -> None:
    """Loads every weight; names must agree exactly.

    Raises:
        FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a saved model holds {WEIGHTS}")
    model.to(device)
    model.load_state_dict(load_file(path, device=device), strict=True)


def card_text(
    config: Mapping[str, Any], facts: Mapping[str, object], units: Mapping[str, int], n: int
) -> str:
    """The model card, Markdown with a YAML head; facts that nobody gave are said to be missing."""
    rows = {
        "Data": facts.get("data"),
        "Species": facts.get("species"),
        "Metrics": facts.get("metrics"),
        "Licence": facts.get("licence"),
        "Limits": facts.get("limits"),
    }
    named = [f"- {name}: {units[name]} named units" for name in config["modalities"]]
    lines = ["---", "library_name: neuros-neurofm", "tags:", "- neuroscience", "---", ""]
    lines += ["# MultiModalNeuroFMX", "", f"{n:,} parameters.", "", "## Modalities", "", *named]
    for title, value in rows.items():
        lines += ["", f"## {title}", "", _markdown(value)]
    lines += ["", "## Configuration", "", "```json"]
    lines += [json.dumps(config, indent=2, sort_keys=True), "```", ""]
    return "\n".join(lines)


def _markdown(value: object) -> str:
    if value is None:
        return "Not stated."
    if isinstance(value, Mapping):
        return "\n".join(f"- {key}: {item}" for key, item in value.items())
    return str(value)
