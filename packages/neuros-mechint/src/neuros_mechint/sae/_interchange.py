"""Coders in the folder format of SAELens (6.x): cfg.json and sae_weights.safetensors.

That format multiplies rows by `W_enc` of shape (width, feature), ours has one row per feature.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from neuros_core import RunManifest
from neuros_mechint.sae._coder import Coder

__all__ = ["read_sae_lens", "write_sae_lens"]

CoderT = TypeVar("CoderT", bound=Coder)
_Weights = dict[str, Tensor]

_CONFIG = "cfg.json"
_WEIGHTS = "sae_weights.safetensors"
# Like that library, we write the trained form of batchtopk, which is a jumprelu of one threshold.
_ARCHITECTURES = {
    "relu": "standard",
    "topk": "topk",
    "batchtopk": "jumprelu",
    "jumprelu": "jumprelu",
    "gated": "gated",
}
_NEEDED = {
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "batchtopk": ("b_enc", "topk_threshold"),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
}


def write_sae_lens(coder: Coder, folder: str | os.PathLike[str]) -> None:
    """Write a coder, folded to raw units, so that SAELens computes the same features.

    Args:
        coder: Any `SparseAutoencoder`; the prefixes of a hierarchical one are not part of the
            format.
        folder: Is made when it does not exist.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    folded = coder.folded()
    weights = {
        "W_enc": folded.W_enc.T,
        "W_dec": folded.W_dec,
        "b_dec": folded.b_dec,
        **_activation_weights(folded),
    }
    architecture = _ARCHITECTURES[coder.activation]
    origin = {"class": type(coder).__name__, **coder.config}
    config = {
        "architecture": architecture,
        "d_in": coder.W_enc.shape[1],
        "d_sae": coder.dictionary_size,
        "dtype": str(folded.W_enc.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"manifest": RunManifest.collect(kind="sparse coder", config=origin).to_dict()},
    }
    if architecture == "topk":
        config |= {"k": coder.k, "rescale_acts_by_decoder_norm": False}
    contiguous = {name: w.detach().cpu().clone().contiguous() for name, w in weights.items()}
    save_file(contiguous, place / _WEIGHTS)
    (place / _CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")


def read_sae_lens(kind: Callable[..., CoderT], folder: str | os.PathLike[str]) -> CoderT:
    """Read a coder that SAELens or `write_sae_lens` wrote, in evaluation mode.

    Args:
        kind: Class of the coder.
        folder: Holds cfg.json and sae_weights.safetensors.

    Returns:
        A coder that computes the same features, without gradient history.

    Raises:
        FileNotFoundError: When one of the files is missing.
        ValueError: When the folder is damaged, or the coder is of an architecture or takes a
            normalisation that a `SparseAutoencoder` does not have.
    """
    config, weights = _read(Path(folder))
    architecture = str(config.get("architecture", "standard"))
    _check_config(config, architecture, weights, folder)
    W_enc, W_dec, b_dec = weights["W_enc"].T, weights["W_dec"], weights["b_dec"]
    if config.get("rescale_acts_by_decoder_norm"):
        norms = W_dec.norm(dim=1)
        W_enc, W_dec = W_enc * norms[:, None], W_dec / norms[:, None]
        weights["b_enc"] = weights["b_enc"] * norms
    # We subtract the decoder's bias from the input; where they do not, it moves into the others.
    shift = torch.zeros_like(W_enc[:, 0])
    if not config.get("apply_b_dec_to_input", True):
        shift = W_enc @ b_dec
    state = {"W_enc": W_enc, "W_dec": W_dec, "b_dec": b_dec}
    state |= _read_activation(architecture, weights, shift)
    names = {"standard": "relu", "batchtopk": "batchtopk"}
    coder = kind(
        latent_dim=W_enc.shape[1],
        dictionary_size=W_enc.shape[0],
        activation=names.get(architecture, architecture),
        k=max(round(config["k"]), 1) if architecture in {"topk", "batchtopk"} else None,
    ).to(W_enc.dtype)
    coder.load_state_dict(coder.state_dict() | state)
    return coder.eval()


def _activation_weights(coder: Coder) -> _Weights:
    if coder.activation == "gated":
        return {"b_gate": coder.b_enc, "b_mag": coder.b_mag, "r_mag": coder.log_gain}
    weights: _Weights = {"b_enc": coder.b_enc}
    if coder.activation == "jumprelu":
        weights["threshold"] = coder.log_threshold.exp()
    if coder.activation == "batchtopk":
        weights["threshold"] = coder.threshold.expand(coder.dictionary_size)
    return weights


def _read_activation(architecture: str, weights: _Weights, shift: Tensor) -> _Weights:
    if architecture == "gated":
        return {
            "b_enc": weights["b_gate"] + shift,
            "b_mag": weights["b_mag"] + weights["r_mag"].exp() * shift,
            "log_gain": weights["r_mag"],
        }
    state = {"b_enc": weights["b_enc"] + shift}
    if architecture == "jumprelu":
        # A threshold of 0 or less is that of relu, and the smallest number has a logarithm.
        threshold = weights["threshold"]
        state["log_threshold"] = threshold.clamp(min=torch.finfo(threshold.dtype).tiny).log()
    if architecture == "batchtopk":
        state["threshold"] = weights["topk_threshold"].to(shift.dtype)
    return state


def _read(folder: Path) -> tuple[dict[str, Any], _Weights]:
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no SAELens coder in {folder}: {name} is missing")
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        return dict(config), load_file(folder / _WEIGHTS)
    except (TypeError, ValueError, SafetensorError) as error:
        raise ValueError(f"{folder} does not hold a whole SAELens coder: {error}") from error


def _check_config(
    config: dict[str, Any], architecture: str, weights: _Weights, folder: str | os.PathLike[str]
) -> None:
    if architecture not in _NEEDED:
        raise ValueError(
            f"the coder in {folder} is of the architecture {architecture!r}; known are "
            f"{sorted(_NEEDED)}"
        )
    normalization = config.get("normalize_activations", "none")
    if normalization not in {"none", None}:
        raise ValueError(
            f"the coder in {folder} takes activations normalised by {normalization!r}; fold the "
            "normalisation into its weights with SAELens first"
        )
    missing = [n for n in ("W_enc", "W_dec", "b_dec", *_NEEDED[architecture]) if n not in weights]
    if missing:
        raise ValueError(
            f"the coder in {folder} is of the architecture {architecture!r} and lacks {missing}; "
            f"it holds {sorted(weights)}"
        )
    if weights["W_enc"].T.shape != weights["W_dec"].shape:
        raise ValueError(
            f"the coder in {folder} has W_enc {tuple(weights['W_enc'].shape)} and W_dec "
            f"{tuple(weights['W_dec'].shape)}; one needs the transposed shape of the other"
        )
