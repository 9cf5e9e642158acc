"""Sites, edits and the one mechanism that installs them on any torch module."""

from neuros_mechint.activations.batched import run_batched
from neuros_mechint.activations.cache import ActivationCache
from neuros_mechint.activations.edit import (
    Add,
    BandStop,
    Compose,
    Edit,
    EditContext,
    Interpolate,
    Leaf,
    Mean,
    Noise,
    ProjectOut,
    Replace,
    Resample,
    Scale,
    Splice,
    Zero,
)
from neuros_mechint.activations.intervene import Run, intervene, run
from neuros_mechint.activations.site import Site, SiteInfo, SiteLike, sites

__all__ = [
    "ActivationCache",
    "Add",
    "BandStop",
    "Compose",
    "Edit",
    "EditContext",
    "Interpolate",
    "Leaf",
    "Mean",
    "Noise",
    "ProjectOut",
    "Replace",
    "Resample",
    "Run",
    "Scale",
    "Site",
    "SiteInfo",
    "SiteLike",
    "Splice",
    "Zero",
    "intervene",
    "run",
    "run_batched",
    "sites",
]
