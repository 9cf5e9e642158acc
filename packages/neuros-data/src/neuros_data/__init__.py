"""Neural recordings into training sets that do not leak: a store, splits with proof, windows."""

from importlib.metadata import version

from neuros_data.acquisition.source import Source
from neuros_data.card import DataCard, data_card
from neuros_data.errors import (
    ChecksumError,
    CorruptStoreError,
    DiskFullError,
    FormatVersionError,
    HCPCredentialsError,
    LeakageError,
    LicenceError,
    MissingChannelError,
    NetworkError,
)
from neuros_data.export import export_store
from neuros_data.format import Quantization
from neuros_data.normalize import Normalizer
from neuros_data.preparation import download
from neuros_data.reading import read
from neuros_data.samples import copy_sample, load_sample
from neuros_data.split import Split, SplitReport, make_folds, make_split
from neuros_data.store import Store, open_store
from neuros_data.windows import Windows

__all__ = [
    "ChecksumError",
    "CorruptStoreError",
    "DataCard",
    "DiskFullError",
    "FormatVersionError",
    "HCPCredentialsError",
    "LeakageError",
    "LicenceError",
    "MissingChannelError",
    "NetworkError",
    "Normalizer",
    "Quantization",
    "Source",
    "Split",
    "SplitReport",
    "Store",
    "Windows",
    "copy_sample",
    "data_card",
    "download",
    "export_store",
    "load_sample",
    "make_folds",
    "make_split",
    "open_store",
    "read",
]

__version__ = version("neuros-data")
