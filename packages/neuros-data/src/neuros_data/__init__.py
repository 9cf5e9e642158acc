"""Neural recordings into training sets that do not leak: a store, splits with proof, windows."""

from importlib.metadata import version

from neuros_data.errors import (
    CorruptStoreError,
    DiskFullError,
    FormatVersionError,
    LeakageError,
)
from neuros_data.format import Quantization
from neuros_data.normalize import Normalizer
from neuros_data.samples import copy_sample, load_sample
from neuros_data.split import Split, SplitReport, make_folds, make_split
from neuros_data.store import Store, open_store
from neuros_data.windows import Windows

__all__ = [
    "CorruptStoreError",
    "DiskFullError",
    "FormatVersionError",
    "LeakageError",
    "Normalizer",
    "Quantization",
    "Split",
    "SplitReport",
    "Store",
    "Windows",
    "copy_sample",
    "load_sample",
    "make_folds",
    "make_split",
    "open_store",
]

__version__ = version("neuros-data")
