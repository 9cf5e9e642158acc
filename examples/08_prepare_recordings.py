# %% [markdown]
# # From a folder of files to windows that do not leak
#
# A folder as a lab leaves it: scans of five people in four formats, one of them saved a second time
# under another name, and a run whose rest trials all come first. They become one store; `check`
# says what is wrong with them; a split keeps each person, and each copy, on one side; a data card
# tells it to whoever gets the data next; and windows are read from it.
#
# The files are written from the recordings that ship with `neuros-data`. It takes less than a
# minute on one core and needs no network.

# %%
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
from scipy.io import savemat

import neuros_data
from neuros_core import Intervals, Recording, Signal, Species
from neuros_data import data_card, make_split
from neuros_data.acquisition.files import LocalFiles, LocalFilesSettings
from neuros_data.check import check_store

mpl.use("Agg")
from matplotlib import pyplot as plt

STARTED = time.perf_counter()
PARTS = {"train": "#2a6f97", "val": "#e9a23b", "test": "#a44a3f"}
inbox = Path("inbox")
inbox.mkdir(exist_ok=True)
sample = neuros_data.load_sample()
people = [name for name in sample.recordings if "NAP" in name]
regions = {name: np.asarray(sample.recordings[name].modalities["fmri"].data) for name in people}

# %% [markdown]
# ## The folder
#
# Resting-state fMRI, 94 regions, a volume every two seconds. Two people are tables of text with a
# column of times, one is an NPZ, one a MATLAB file, one an NPZ and the same again as a MATLAB file
# with another name. EDF, BDF, GDF, FIF, BrainVision, EEGLAB, NWB, NIfTI and HDF5 are read by the
# same call; some of them need an extra, which the message of the failing import names.

# %%
RATE = 0.5
REGIONS = [f"region{k:02d}" for k in range(1, 95)]


def write_table(path: Path, data: np.ndarray) -> None:
    """A column of seconds, then one for each region; nine digits bring float32 back exactly."""
    names = ["time_s", *REGIONS]
    rows = np.column_stack([np.arange(len(data)) / RATE, data])
    separator = "\t" if path.suffix == ".tsv" else ","
    np.savetxt(path, rows, "%.9g", separator, header=separator.join(names), comments="")


first, second, third, fourth, fifth = regions.values()
write_table(inbox / "anna.csv", first)
write_table(inbox / "ben.tsv", second)
np.savez(inbox / "chloe.npz", fmri=third, rate=RATE, channels=REGIONS)
savemat(inbox / "dora.mat", {"fmri": fourth, "rate": RATE, "channels": REGIONS})
np.savez(inbox / "emil.npz", fmri=fifth, rate=RATE, channels=REGIONS)
savemat(inbox / "p06.mat", {"fmri": fifth, "rate": RATE, "channels": REGIONS})
for path in sorted(inbox.iterdir()):
    recording = neuros_data.read(path, "fmri")
    signal = recording.modalities["fmri"]
    print(f"{path.name:10} {signal.data.shape} at {signal.rate} Hz, subject {recording.subject}")

# %% [markdown]
# ## Import
#
# In a shell this is `neuros-data import inbox/* --modality fmri`. Running it again changes nothing:
# files that are as they were are not prepared a second time.

# %%
files = LocalFilesSettings(
    paths=tuple(str(path) for path in sorted(inbox.iterdir())), modality="fmri", species="human"
)
store = neuros_data.download(LocalFiles(files), root="store", jobs=1, split="none")
print(f"{len(store.recordings)} recordings: {', '.join(store.recordings)}")

# %% [markdown]
# One more recording comes from a program and not from a file: a run with event codes as EEG
# amplifiers write them: a code for the class, one for the start of the stimulus, one for its end.
# Rest came first, then the other classes in turn. The signal is real, the codes are made up.

# %%
classes = ["rest"] * 8 + ["left", "right", "feet"] * 8
codes = np.array([code for name in classes for code in (name, "on", "off")])
onset = np.repeat(np.arange(32) * 0.59, 3) + np.tile([0.0, 0.1, 0.5], 32)
eeg = sample.recordings["ecog_lfp_grip"].modalities["ecog"]
run = Recording(
    "run", "frida", "1", Species.HUMAN, {"ecog": Signal(eeg.data, rate=eeg.rate)},
    {"annotations": Intervals(onset, onset, {"label": codes})},
)  # fmt: skip
if "run" not in store.recordings:
    store.add(run)

# %% [markdown]
# ## Check
#
# Every byte is read. A fault makes the store unusable; a warning is something to know. Two are
# found: the copy, by its samples and not by its name or format, and the run in which slow drift of
# the electrodes would be enough to tell rest from movement.

# %%
report = check_store(store)
print(report)
found = {warning.kind: warning for warning in report.warnings}

# %% [markdown]
# ## Split
#
# By subject: all that belongs to a person goes to one part, and a copy goes with its original,
# whatever the file calls its subject. Means and standard deviations are those of the training part
# and saved with the split. `verify` proves it from the samples. Beside it stands what a
# split by file name does, which is how the copy ends up on the other side.

# %%
scans = [name for name in store.recordings if name != "run"]
split = make_split(store, "subject", (0.6, 0.2, 0.2), seed=1, window=20.0, recordings=scans)
normalizer = neuros_data.Normalizer.fit(store, split="train", using=split)
split = split.with_normalizer(normalizer)
proof = split.verify()
print(proof)
split.save(store, "subject")
part_of = {name: part for part, names in split.parts.items() for name in names}
by_name = dict.fromkeys(scans, "train") | {"p06": "test", "ben": "val"}

# %% [markdown]
# ## Windows
#
# Windows are cut after the split, inside its parts. How far is each
# test window from the training window most like it? A model that has seen the answer needs no
# skill: with the split by file name the distance is zero. With the split by subject it is large,
# because people differ in the mean of their regions.

# %%


def windows_of(names: list[str]) -> np.ndarray:
    """Windows of 20 s without overlap, (window, time x region)."""
    view = store.windows(window=20.0, modalities=["fmri"], recordings=names, normalize=normalizer)
    batch = view.read_batch(np.arange(len(view)))["fmri"]
    return batch.reshape(len(batch), -1)


def nearest(parts: dict[str, str]) -> np.ndarray:
    """Root-mean-square distance of each test window to its nearest training window."""
    known = windows_of([name for name in scans if parts[name] == "train"])
    asked = windows_of([name for name in scans if parts[name] == "test"])
    return np.array([np.sqrt(((known - x) ** 2).mean(axis=1).min()) for x in asked])


leaky, clean = nearest(by_name), nearest(part_of)
print(f"nearest training window: {leaky.max():.3f} by file name, {clean.min():.3f} by subject")
train = store.windows(
    window=20.0, split="train", using="subject", modalities=["fmri"], normalize=True
)
batch = train.read_batch(np.random.default_rng(0).permutation(len(train))[:8])
x = batch["fmri"]
print(f"{len(train)} training windows; a batch {x.shape}, {x.dtype}")
everything = train.read_batch(np.arange(len(train)))["fmri"]
print(f"mean {everything.mean():+.3f}, standard deviation {everything.std():.3f}")

# %% [markdown]
# ## The data card
#
# One page for whoever gets the data next: who and what, labels and their balance, what is missing,
# the split with its proof, the two warnings, and how well the next sample can be guessed without a
# model. `card.save("card.html")` is one page with figures that loads nothing from elsewhere.

# %%
card = data_card(store)
card.save("card.md")
page = card.save("card.html")
print(f"{page.name}: {page.stat().st_size / 1e3:.0f} kB, {len(card.sections)} sections")
print("\n".join(str(card).splitlines()[:12]))

# %% [markdown]
# ## The picture

# %%
plt.rcParams.update({"font.size": 9, "axes.titlesize": 10})
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
for row, name in enumerate(scans):
    trace = np.asarray(store.recordings[name].modalities["fmri"].data)[:, 0]
    scaled = (trace - trace.mean()) / (6 * trace.std())
    left.plot(np.arange(len(trace)) / RATE, row + scaled, lw=0.7, color=PARTS[part_of[name]])
left.set_yticks(range(len(scans)), scans)
left.set(title="A part for each person, copies together", xlabel="time (s)")
for part, colour in PARTS.items():
    left.plot([], [], color=colour, label=part)
left.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))
names = ["off", "on", "feet", "right", "left", "rest"]
for row, name in enumerate(names):
    colour = PARTS["test"] if name == "rest" else "#777777"
    middle.plot(onset[codes == name], np.full((codes == name).sum(), row), "|", ms=9, color=colour)
middle.set_yticks(range(len(names)), names)
middle.set(title="Rest comes first: time tells the class", xlabel="time (s)")
bins = np.linspace(0, 1.05 * max(leaky.max(), clean.max()), 40)
right.hist(leaky, bins, color=PARTS["test"], label="split by file name")
right.hist(clean, bins, color=PARTS["train"], label="split by subject")
right.set(
    title="The nearest training window of a test window",
    xlabel="root-mean-square distance (standard deviations)",
    ylabel="test windows",
)
right.legend(frameon=False)
for axes in (left, middle, right):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig("prepare_recordings.png", dpi=110)
print(f"prepare_recordings.png ({time.perf_counter() - STARTED:.0f} s)")
assert report.ok
assert found["duplicate"].where == "emil, p06"
assert "rest" in found["label"].message
assert proof.ok
assert part_of["emil"] == part_of["p06"]
assert leaky.max() == 0.0 < clean.min()
assert abs(float(everything.mean())) < 0.01
