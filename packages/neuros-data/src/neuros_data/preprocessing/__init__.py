"""Steps from raw samples to those of a store: filters, rates, references, baselines, cleaning.

Every step is a frozen dataclass of its settings. `apply` gives the prepared signal, `support` the
seconds to either side over which samples depend on each other, which `make_split` keeps free
between parts of a recording.
"""

from neuros_data.preprocessing.behaviour import WheelVelocity
from neuros_data.preprocessing.calcium import DeltaF
from neuros_data.preprocessing.filters import Bandpass, Notch
from neuros_data.preprocessing.fmri import CleanBold, framewise_displacement
from neuros_data.preprocessing.reference import AverageReference
from neuros_data.preprocessing.resample import Interpolate, Resample
from neuros_data.preprocessing.step import Step, apply_steps, describe_steps, support_seconds
from neuros_data.preprocessing.units import UnitQuality

__all__ = [
    "AverageReference",
    "Bandpass",
    "CleanBold",
    "DeltaF",
    "Interpolate",
    "Notch",
    "Resample",
    "Step",
    "UnitQuality",
    "WheelVelocity",
    "apply_steps",
    "describe_steps",
    "framewise_displacement",
    "support_seconds",
]
