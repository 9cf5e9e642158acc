"""The model under its short name."""

from typing import Any

from neuros_neurofm.models.multimodal_neurofmx import MultiModalNeuroFMX

__all__ = ["NeuroFMX"]


def _neurofmx(d_model: int = 512, n_layers: int = 8, **options: Any) -> MultiModalNeuroFMX:
    """A `MultiModalNeuroFMX` of this width and depth whose latents are as wide as its tokens.

    Args:
        d_model: Width of tokens, backbone and latents.
        n_layers: Depth of the backbone, `n_mamba_blocks` of the class.
        options: Further arguments of the class.

    Returns:
        The model.

    Examples:
        >>> model = NeuroFMX(32, 1, modalities=("fmri",), sampling_rates={"fmri": 0.5})
        >>> model.config["n_mamba_blocks"], model.config["latent_dim"]
        (1, 32)
    """
    return MultiModalNeuroFMX(d_model, n_layers, **({"latent_dim": d_model} | options))


# A constructor under the name of a class.
NeuroFMX = _neurofmx
