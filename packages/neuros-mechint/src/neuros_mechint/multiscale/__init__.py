"""From one scale of the brain to another: coupling between areas."""

from neuros_mechint.multiscale.coupling import (
    Coherence,
    Connectivity,
    PhaseLockingValue,
    WeightedPhaseLagIndex,
)

__all__ = ["Coherence", "Connectivity", "PhaseLockingValue", "WeightedPhaseLagIndex"]
