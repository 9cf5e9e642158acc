"""Tokenizers and heads per modality, and the checks of the model's configuration."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, TypeAlias

from torch import nn

from neuros_core.modality import Modality
from neuros_neurofm.models.heads import ContrastiveHead, DecoderHead, EncoderHead, ForecastHead
from neuros_neurofm.tokenizers import (
    CalciumTokenizer,
    ECoGTokenizer,
    EEGTokenizer,
    EMGTokenizer,
    LFPTokenizer,
    SpikeTokenizer,
    fMRITokenizer,
)

__all__ = [
    "ALL",
    "Tokenizer",
    "build_heads",
    "build_tokenizers",
    "check_rates",
    "check_sizes",
    "ordered",
    "ssm_version",
]

_UNIT_DIM = 64

Tokenizer: TypeAlias = (
    SpikeTokenizer
    | LFPTokenizer
    | CalciumTokenizer
    | EEGTokenizer
    | fMRITokenizer
    | ECoGTokenizer
    | EMGTokenizer
)
_TOKENIZERS: dict[str, type[Tokenizer]] = {
    "spike": SpikeTokenizer,
    "lfp": LFPTokenizer,
    "calcium": CalciumTokenizer,
    "eeg": EEGTokenizer,
    "fmri": fMRITokenizer,
    "ecog": ECoGTokenizer,
    "emg": EMGTokenizer,
}
ALL = tuple(modality.value for modality in Modality)


def ordered(modalities: Sequence[str]) -> tuple[str, ...]:
    """The modalities in their fixed order.

    Raises:
        ValueError: none, or an unknown one.
    """
    unknown = [name for name in modalities if name not in ALL]
    if unknown or not modalities or isinstance(modalities, str):
        raise ValueError(
            f"modalities must be a non-empty sequence out of {list(ALL)}, got {modalities!r}"
        )
    return tuple(name for name in ALL if name in modalities)


def check_rates(
    what: str, values: Mapping[str, float] | None, modalities: Sequence[str]
) -> dict[str, float]:
    """Positive values per modality of the model.

    Raises:
        ValueError: another modality, or a value that is not > 0.
    """
    for name, value in (values or {}).items():
        if name not in modalities:
            raise ValueError(f"{what} names {name!r}, but the modalities are {list(modalities)}")
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{what}[{name!r}] must be > 0, got {value}")
    return {str(name): float(value) for name, value in (values or {}).items()}


def check_sizes(
    *,
    sizes: Mapping[str, int],
    probabilities: Mapping[str, float],
    window: float | None,
    non_negative: Mapping[str, int],
) -> None:
    """Sizes >= 1, counts >= 0, probabilities in [0, 1) and a window > 0.

    Raises:
        ValueError: any of them outside its range.
    """
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    for name, value in non_negative.items():
        if value < 0:
            raise ValueError(f"{name} must be >= 0, got {value}")
    for name, p in probabilities.items():
        if not 0.0 <= p < 1.0:
            raise ValueError(f"{name} must be a probability in [0, 1), got {p}")
    if window is not None and not (math.isfinite(window) and window > 0):
        raise ValueError(f"window must be > 0 s, got {window}")


def ssm_version(ssm: str) -> int | Literal["fractional"]:
    """Version of the blocks of the backbone.

    Raises:
        ValueError: an unknown name.
    """
    versions: dict[str, int | Literal["fractional"]] = {
        "mamba2": 2,
        "mamba": 1,
        "fractional": "fractional",
    }
    if ssm not in versions:
        raise ValueError(f"ssm must be one of {list(versions)}, got {ssm!r}")
    return versions[ssm]


def build_tokenizers(
    modalities: Sequence[str],
    d_model: int,
    *,
    rates: Mapping[str, float],
    patches: Mapping[str, float],
    dropout: float,
    spike_mode: Literal["counts", "events"],
) -> nn.ModuleDict:
    """One tokenizer per modality.

    Raises:
        ValueError: an unknown mode, or events without spikes.
    """
    if spike_mode != "counts" and "spike" not in modalities:
        raise ValueError(
            f"spike_mode = {spike_mode!r} needs 'spike' among the modalities, got {modalities}"
        )
    tokenizers: dict[str, nn.Module] = {}
    for name in modalities:
        build = partial(SpikeTokenizer, mode=spike_mode) if name == "spike" else _TOKENIZERS[name]
        tokenizers[name] = build(
            d_model,
            sampling_rate=rates.get(name),
            patch=patches.get(name),
            dropout=dropout,
            unit_dim=_UNIT_DIM,
        )
    return nn.ModuleDict(tokenizers)


def build_heads(
    modalities: Sequence[str], latent_dim: int, *, behavior_dim: int, horizon: int
) -> nn.ModuleDict:
    """The read-outs; decoder and forecast only where they have something to predict."""
    heads: dict[str, nn.Module] = {
        "encoder": nn.ModuleDict({m: EncoderHead(latent_dim, _UNIT_DIM) for m in modalities}),
        "contrastive": ContrastiveHead(latent_dim),
    }
    if behavior_dim:
        heads["decoder"] = DecoderHead(latent_dim, behavior_dim)
    if horizon:
        heads["forecast"] = nn.ModuleDict(
            {m: ForecastHead(latent_dim, _UNIT_DIM, horizon=horizon) for m in modalities}
        )
    return nn.ModuleDict(heads)
