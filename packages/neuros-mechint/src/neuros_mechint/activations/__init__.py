"""Sites, edits and the one mechanism that installs them on any torch module."""

from neuros_mechint.activations.batched import run_batched
from neuros_mechint.activations.cache import ActivationCache
from neuros_mechint.activations.callback import (
    AnalysisContext,
    MechIntCallback,
    TrainingHooks,
    register_analysis,
)
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
from neuros_mechint.activations.store import ActivationStore

__all__ = [
    "ActivationCache",
    "ActivationStore",
    "Add",
    "AnalysisContext",
    "BandStop",
    "Compose",
    "Edit",
    "EditContext",
    "Interpolate",
    "Leaf",
    "Mean",
    "MechIntCallback",
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
    "TrainingHooks",
    "Zero",
    "intervene",
    "register_analysis",
    "run",
    "run_batched",
    "sites",
]
