"""The named sizes of the model."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["SIZES", "size_options"]

# Width and depth are those of the specification; the aggregation's width and depth bring all
# modalities and heads (unit tables excluded) to 20, 50 and 100 million parameters. `small` is made
# for streams, which run the aggregation at every step: a single wide layer needs only keys and
# values of the tokens, which a stream keeps, while deeper layers read the whole window anew.
SIZES: Final[Mapping[str, Mapping[str, int]]] = MappingProxyType(
    {
        "small": {"d_model": 256, "n_mamba_blocks": 4, "latent_dim": 832, "popt_depth": 1},
        "medium": {"d_model": 512, "n_mamba_blocks": 8, "latent_dim": 768, "popt_depth": 3},
        "large": {"d_model": 768, "n_mamba_blocks": 16, "latent_dim": 768, "popt_depth": 3},
    }
)
_FORECAST_HORIZON: Final = 10


def size_options(size: str) -> dict[str, int]:
    """The arguments of `MultiModalNeuroFMX` that make a size.

    Raises:
        ValueError: an unknown size.
    """
    if size not in SIZES:
        raise ValueError(f"size must be one of {list(SIZES)}, got {size!r}")
    return {**SIZES[size], "forecast_horizon": _FORECAST_HORIZON}
