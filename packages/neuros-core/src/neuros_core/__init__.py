"""The thin types that the neurOS packages exchange: recordings, batches, domains, protocols."""

from neuros_core.domains import (
    ClassSourceWeights,
    DomainStatistics,
    MixtureDiagnosis,
    SourceWeights,
)
from neuros_core.manifest import RunManifest
from neuros_core.modality import Modality, Species
from neuros_core.protocols import Callback, HasActivations, Objective
from neuros_core.recording import Batch, Events, Intervals, Recording, Signal

__all__ = [
    "Batch",
    "Callback",
    "ClassSourceWeights",
    "DomainStatistics",
    "Events",
    "HasActivations",
    "Intervals",
    "MixtureDiagnosis",
    "Modality",
    "Objective",
    "Recording",
    "RunManifest",
    "Signal",
    "SourceWeights",
    "Species",
    "__version__",
]


def __getattr__(name: str) -> str:
    """Read the version when it is asked for: importing the reader costs a quarter of NumPy."""
    if name == "__version__":
        from importlib.metadata import version

        return version("neuros-core")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
