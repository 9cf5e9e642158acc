"""Known formats: how each is recognised, what reads it, and which arguments it takes."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from neuros_data.reading._alf import is_alf, read_alf
from neuros_data.reading._array_files import read_hdf5, read_mat, read_npy, read_npz
from neuros_data.reading._draft import Draft, Options
from neuros_data.reading._edf import read_edf
from neuros_data.reading._mne import read_brainvision, read_eeglab, read_fif, read_gdf
from neuros_data.reading._neo import SUFFIXES, read_neo, system_of
from neuros_data.reading._nifti import read_nifti
from neuros_data.reading._nwb import read_nwb
from neuros_data.reading._opensignals import is_opensignals, read_opensignals
from neuros_data.reading._tables import read_table

_ARRAYS = frozenset(
    {"modality", "data", "rate", "times", "unit", "scale", "axes", "behaviour", "repair"}
)


@dataclass(frozen=True)
class Format:
    """A format, its suffixes, its reader and the arguments of `read` that it takes."""

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path, Options], Draft]
    takes: frozenset[str]


FORMATS = (
    Format("EDF", (".edf",), read_edf, frozenset({"modality"})),
    Format("BDF", (".bdf",), read_edf, frozenset({"modality"})),
    Format("GDF", (".gdf",), read_gdf, frozenset({"modality"})),
    Format("FIF", (".fif", ".fif.gz"), read_fif, frozenset({"modality"})),
    Format("BrainVision", (".vhdr",), read_brainvision, frozenset({"modality"})),
    Format("EEGLAB", (".set",), read_eeglab, frozenset({"modality"})),
    Format("NWB", (".nwb",), read_nwb, frozenset({"modality", "data", "repair"})),
    Format(
        "NIfTI",
        (".nii", ".nii.gz"),
        read_nifti,
        frozenset({"modality", "rate", "atlas", "mask"}),
    ),
    Format("table", (".csv", ".tsv", ".txt"), read_table, _ARRAYS - {"data", "axes"}),
    Format("NPZ", (".npz",), read_npz, _ARRAYS),
    Format("NPY", (".npy",), read_npy, _ARRAYS),
    Format("MAT", (".mat",), read_mat, _ARRAYS),
    Format("HDF5", (".h5", ".hdf5"), read_hdf5, _ARRAYS),
    Format("electrophysiology", SUFFIXES, read_neo, frozenset({"modality", "data"})),
    Format("OpenSignals", (), read_opensignals, frozenset({"modality"})),
    Format("ALF", (), read_alf, frozenset({"repair"})),
)
# Files that belong to another, which is the one to read.
_PARTNERS = {".eeg": ".vhdr", ".vmrk": ".vhdr", ".fdt": ".set"}


def known_formats() -> str:
    """Every format with its suffixes, for messages."""
    shown = [f"{f.name} ({', '.join(f.suffixes)})" for f in FORMATS if f.suffixes]
    folders = "folders of ALF, SpikeGLX, Open Ephys, Neuralynx, TDT and Phy"
    return ", ".join([*shown, "OpenSignals (.h5)", folders])


def find_format(path: Path) -> Format:
    """The format of a file or folder.

    Raises:
        FileNotFoundError: When there is nothing at `path`.
        ValueError: When the format is not known; the message lists those that are.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir():
        return _format_of_folder(path)
    name = path.name.lower()
    for known in FORMATS:
        if name.endswith(known.suffixes):
            return _named("OpenSignals") if _is_opensignals(known, path) else known
    partner = _PARTNERS.get(path.suffix.lower())
    if partner is not None:
        raise ValueError(
            f"{path} holds the samples of a recording whose header is "
            f"{path.with_suffix(partner).name}; pass that file"
        )
    raise ValueError(f"{path} is of no known format. Known formats: {known_formats()}")


def _format_of_folder(path: Path) -> Format:
    # Sorted spikes that lie beside ALF files are those of ALF.
    if is_alf(path):
        return _named("ALF")
    if system_of(path):
        return _named("electrophysiology")
    raise ValueError(
        f"{path} is a folder without object.attribute.npy files; pass one of its files, or a "
        f"folder of ALF. Known formats: {known_formats()}"
    )


def _named(name: str) -> Format:
    return next(f for f in FORMATS if f.name == name)


def _is_opensignals(known: Format, path: Path) -> bool:
    return known.name == "HDF5" and is_opensignals(path)


def check_arguments(known: Format, options: Options) -> None:
    """Raise when an argument was given that has no meaning for the format.

    Raises:
        ValueError: Naming the argument and those that the format takes.
    """
    plain = Options()
    for item in fields(options):
        given = getattr(options, item.name)
        if given is not getattr(plain, item.name) and item.name not in known.takes:
            raise ValueError(
                f"{item.name}= has no meaning for {known.name}; it takes "
                f"{', '.join(sorted(known.takes)) or 'no such argument'}"
            )
