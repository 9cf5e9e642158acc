"""Saving and loading of the model: weights, configuration, card and manifest in one folder."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from huggingface_hub import ModelCard, PyTorchModelHubMixin, hf_hub_download
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from neuros_core.manifest import RunManifest
from neuros_neurofm.models._card import card_text
from neuros_neurofm.models._options import Tokenizer
from neuros_neurofm.models._parts import NamedParts

__all__ = ["Pretrained"]

_WEIGHTS = "model.safetensors"


class Pretrained(NamedParts, PyTorchModelHubMixin, library_name="neuros-neurofm", license="mit"):
    """A model that is saved to a folder or a Hub, and loaded from one, without pickle."""

    config: dict[str, Any]
    tokenizers: nn.ModuleDict

    def generate_model_card(
        self,
        *,
        data: object = None,
        species: object = None,
        metrics: object = None,
        licence: object = None,
        limits: object = None,
    ) -> ModelCard:
        """The model card that `save_pretrained(..., model_card_kwargs={...})` writes.

        Args:
            data: What the weights were trained on.
            species: Species of the subjects.
            metrics: Scores with their protocol, text or a mapping.
            licence: Licence of the weights.
            limits: Known limits.

        Returns:
            The card; facts that are not given are marked "Not stated."
        """
        facts = {
            "data": data,
            "species": species,
            "metrics": metrics,
            "licence": licence,
            "limits": limits,
        }
        units = {
            name: len(cast("Tokenizer", tokenizer).units.ids)
            for name, tokenizer in self.tokenizers.items()
        }
        text = card_text(self.config, facts, units, self.num_parameters())
        return ModelCard(text, ignore_metadata_errors=True)

    def _save_pretrained(self, save_directory: Path) -> None:
        state: dict[str, Tensor] = {
            name: value.detach().contiguous().cpu() for name, value in self.state_dict().items()
        }
        if any(".lora_A." in name for name in state):
            raise ValueError(
                "the model has adapters; merge them first, or save them alone (`adapters`)"
            )
        weights = save_directory / _WEIGHTS
        save_file(state, weights, metadata={"format": "pt"})
        text = json.dumps(self.config, indent=2, sort_keys=True)
        (save_directory / "config.json").write_text(text + "\n")
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        manifest = RunManifest.collect(kind="model", config=self.config, model_hash=digest)
        (save_directory / "manifest.json").write_text(manifest.to_json() + "\n")

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        map_location: str = "cpu",
        **options: Any,
    ) -> "Pretrained":
        hub = {
            "revision": revision,
            "cache_dir": cache_dir,
            "force_download": force_download,
            "local_files_only": local_files_only,
            "token": token,
        }
        path = _weights_file(model_id, hub)
        model = cls(**options)
        model.to(map_location)
        model.load_state_dict(load_file(path, device=map_location), strict=True)
        return model.eval()


def _weights_file(model_id: str, hub: Mapping[str, Any]) -> Path:
    """The weights in a folder, or fetched from the Hub where `model_id` is no folder."""
    if not Path(model_id).is_dir():
        return Path(hf_hub_download(model_id, _WEIGHTS, **hub))
    path = Path(model_id) / _WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a saved model holds {_WEIGHTS}")
    return path
