"""The model under its short name."""

from collections.abc import Mapping, Sequence

from neuros_neurofm.models._options import ALL
from neuros_neurofm.models.multimodal_neurofmx import MultiModalNeuroFMX

__all__ = ["NeuroFMX"]


def _neurofmx(
    d_model: int = 512,
    n_layers: int = 8,
    *,
    modalities: Sequence[str] = ALL,
    behavior_dim: int = 2,
    window: float | None = None,
    sampling_rates: Mapping[str, float] | None = None,
) -> MultiModalNeuroFMX:
    """A `MultiModalNeuroFMX` of this width and depth whose latents are as wide as its tokens.

    Args:
        d_model: Width of tokens, backbone and latents.
        n_layers: Depth of the backbone.
        modalities: As in `MultiModalNeuroFMX`.
        behavior_dim: As in `MultiModalNeuroFMX`.
        window: As in `MultiModalNeuroFMX`.
        sampling_rates: As in `MultiModalNeuroFMX`.

    Returns:
        The model.

    Examples:
        >>> model = NeuroFMX(32, 1, modalities=("fmri",), sampling_rates={"fmri": 0.5})
        >>> model.config["n_mamba_blocks"], model.config["latent_dim"]
        (1, 32)
    """
    return MultiModalNeuroFMX(
        d_model,
        n_layers,
        latent_dim=d_model,
        modalities=modalities,
        behavior_dim=behavior_dim,
        window=window,
        sampling_rates=sampling_rates,
    )


# A constructor under the name of a class.
NeuroFMX = _neurofmx
