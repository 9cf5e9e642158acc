"""Recordings from files: EDF, BDF, GDF, FIF, BrainVision, EEGLAB, NWB, NIfTI, tables, arrays.

`read` gives a `Recording`; `read_exact` gives it with the lattice on which an integer file's
samples lie, which `Store.add` stores without loss.
"""

from neuros_data.reading._assemble import Identity, Reading
from neuros_data.reading._dispatch import read, read_exact
from neuros_data.reading._draft import Options

__all__ = ["Identity", "Options", "Reading", "read", "read_exact"]
