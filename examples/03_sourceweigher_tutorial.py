# %% [markdown]
# # Which subjects to train on
#
# A decoder for a new person can learn from the people recorded before. Some of them resemble the
# new one, others mislead. This tutorial goes the whole way on real recordings: statistics of every
# subject, weights of the subjects, what the weights know about themselves, training with them, and
# a case in which they do harm and the guard limits it.
#
# With `NEUROS_RECORDINGS` set to a folder that holds `emg_gestures`, nine people make six hand
# gestures under an armband of eight electrodes. Without it, five people at rest in a scanner come
# from the recordings that ship inside `neuros-data`. Both run through the same code in less than a
# minute on one core, and everybody is the target once. So few people show how to read the results;
# they rank no method.

# %%
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader

import neuros_data
from neuros_core import DomainStatistics, SourceWeights
from neuros_neurofm.evaluation import block_bootstrap
from neuros_neurofm.losses import BehaviorLoss
from neuros_neurofm.training import (
    DomainWeightedSampler,
    FinetunePhase,
    MultiModalTrainer,
    PretrainPhase,
    ThreePhaseCurriculum,
    WeightedPhase,
    guard_weights,
)
from neuros_sourceweigher import (
    ClassifierWeigher,
    KernelMeanWeigher,
    SourceWeigher,
    leave_one_source_out,
)

mpl.use("Agg")
from matplotlib import pyplot as plt

STARTED = time.perf_counter()
SEED = 0
torch.set_num_threads(1)  # the decoder is one matrix
EPOCHS = 8

# %% [markdown]
# ## 1. The recordings
#
# A domain is one person: a stretch to learn from and a later one to be tested on. A target gives
# its first stretch without labels; where a method below needs its labels too, it says so.


# %%
class Domain(NamedTuple):
    """One person's samples in the order of time."""

    train_x: np.ndarray  # (sample, feature): what the decoder sees
    train_y: np.ndarray  # (sample,) labels, or (sample, value) numbers
    test_x: np.ndarray
    test_y: np.ndarray


class Task(NamedTuple):
    """What is decoded, and how many samples tell as much as one."""

    title: str
    domains: dict[str, Domain]
    outputs: int
    block: int  # samples that hang together: a movement, or the memory of the scan's signal
    score: str


def gestures(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Log amplitude of every electrode in windows of 200 ms inside marked gestures, and labels."""
    with np.load(path) as recording:
        emg, label = recording["emg"] * 1e-2, recording["label"]  # millivolts
    x, y = [], []
    edges = np.flatnonzero(np.diff(label, prepend=255, append=255))
    for start, stop in pairwise(edges):
        if not 1 <= label[start] <= 6:
            continue
        for begin in range(start, stop - 199, 100):
            x.append(np.log(emg[begin : begin + 200].std(axis=0) + 1e-3))
            y.append(label[start] - 1)
    return np.array(x), np.array(y, dtype=np.int64)


def emg_task(folder: Path) -> Task:
    """Gestures of the first nine people who have two sessions."""
    names = sorted({f.name[:9] for f in folder.glob("*_session2.npz")})[:9]
    domains = {
        name: Domain(
            *gestures(folder / f"{name}_session1.npz"), *gestures(folder / f"{name}_session2.npz")
        )
        for name in names
        if (folder / f"{name}_session1.npz").exists()
    }
    return Task("Gesture from the armband", domains, 6, 16, "accuracy")


def scan_task() -> Task:
    """The next volume of five people at rest, in the four patterns of largest variance."""
    store = neuros_data.load_sample()
    names = [name for name in store.recordings if name.startswith("fmri_rest_NAP")]
    series = {}
    for name in names:
        bold = np.asarray(store.recordings[name].modalities["fmri"].data, dtype=float)
        early = bold[: len(bold) * 3 // 5]
        series[name] = (bold - early.mean(axis=0)) / early.std(axis=0)
    early = np.concatenate([z[: len(z) * 3 // 5] for z in series.values()])
    values, vectors = np.linalg.eigh(early.T @ early / len(early))
    patterns = vectors[:, -4:] / np.sqrt(values[-4:])
    domains = {}
    for name in names:
        z = series[name] @ patterns
        x, y = np.concatenate([z[1:-1], z[1:-1] - z[:-2]], axis=1), z[2:]
        end = len(bold) * 3 // 5 - 2
        # 20 volumes (40 s) between the stretches, longer than the signal remembers.
        domains[name] = Domain(x[:end], y[:end], x[end + 20 :], y[end + 20 :])
    return Task("Next volume of a scan", domains, 4, 10, "R2")


FOLDER = os.environ.get("NEUROS_RECORDINGS")
EMG = Path(FOLDER) / "emg_gestures" if FOLDER else None
task = emg_task(EMG) if EMG and EMG.is_dir() else scan_task()
PEOPLE = list(task.domains)
TARGET = PEOPLE[-1]  # the one that is looked at in detail
SOURCES = PEOPLE[:-1]
counts = {"learn from": "train_x", "test on": "test_x"}
table = {
    key: [len(getattr(d, part)) for d in task.domains.values()] for key, part in counts.items()
}
print(task.title)
print(pd.DataFrame(table, index=PEOPLE).to_string())

# %% [markdown]
# ## 2. Features on one scale
#
# Mean and spread of each of the eight features come from the first stretches of all people.

# %%
pooled = np.concatenate([d.train_x for d in task.domains.values()])
MEAN, SPREAD = pooled.mean(axis=0), pooled.std(axis=0)
scaled = {
    name: Domain((d.train_x - MEAN) / SPREAD, d.train_y, (d.test_x - MEAN) / SPREAD, d.test_y)
    for name, d in task.domains.items()
}

# %% [markdown]
# ## 3. What a site tells
#
# Count, mean and covariance of the features leave a site, and nothing else. Neighbouring samples
# say much the same, so `n` is the number of blocks of them. With the number of samples there, every
# interval would be too narrow and every test too sure.


# %%
def statistics(name: str) -> DomainStatistics:
    """Moments of the first stretch, with as many samples behind them as it has blocks."""
    x = scaled[name].train_x
    moments = DomainStatistics.from_samples(x, name=name, space=task.title)
    return replace(moments, n=len(x) // task.block)


told = {name: statistics(name) for name in PEOPLE}
print(f"{TARGET}: n = {told[TARGET].n} blocks, {told[TARGET].d} means and their covariance")

# %% [markdown]
# ## 4. Weights
#
# The weights are the mixture of the sources whose means and second moments come nearest to those of
# the target, each direction measured in its own noise. `gap` certifies that no other mixture comes
# nearer by more than that. The intervals are from a parametric bootstrap.

# %%
weigher = SourceWeigher(moments="mean+cov", metric="efficient", n_bootstrap=200, seed=SEED)


def weights_for(target: str) -> SourceWeights:
    """Weights of all other people."""
    return weigher.fit([told[name] for name in PEOPLE if name != target], told[target])


estimated = {name: weights_for(name) for name in PEOPLE}
weights = estimated[TARGET]
assert max(w.gap for w in estimated.values()) <= 1e-9
print(
    pd.DataFrame(
        {"weight": weights.weights, "low": weights.interval[:, 0], "high": weights.interval[:, 1]},
        index=weights.names,
    )
    .round(2)
    .to_string()
)

# %% [markdown]
# ## 5. What the weights know about themselves
#
# Three questions before they are used. Can the target be a mixture of the sources at all
# (`in_hull`)? Can the data tell the sources apart (`identifiable`, `ambiguous`)? And does the
# result hang on one source? `guard_weights` turns the first, and the width of the intervals, into
# an action: it shrinks the weights towards equal shares and says why.

# %%
diagnosis = weights.diagnosis
print(f"in the hull: {diagnosis.in_hull} (p = {diagnosis.p_value:.2g})")
print(f"identifiable: {diagnosis.identifiable}")
for group in diagnosis.ambiguous:
    print("  not told apart:", ", ".join(group))
plain = SourceWeigher(moments="mean+cov")
stability = leave_one_source_out(plain, [told[name] for name in SOURCES], told[TARGET])
print(f"leaving out {stability.largest} moves {stability.change.max():.0%} of the weight")


def guarded(target: str) -> tuple[SourceWeights, str]:
    """The weights as far as they can be trusted, and the reason where that is not all the way."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        safe = guard_weights(estimated[target])
    return safe, str(said[0].message) if said else "nothing to say"


guards = {name: guarded(name) for name in PEOPLE}
print(guards[TARGET][1])

# %% [markdown]
# ## 6. The same question, asked in other ways
#
# Means alone; all features of equal importance; the whole distribution through a kernel; a
# classifier that tells the people apart. The last two need the samples themselves. Where they
# disagree by more than the intervals of section 4, the weights depend on what one wants to match.

# %%
samples = {name: scaled[name].train_x for name in SOURCES}
sources = [told[name] for name in SOURCES]
ways = {
    "means and second moments": weights,
    "means only": SourceWeigher().fit(sources, told[TARGET]),
    "identity metric": SourceWeigher(moments="mean+cov", metric="identity").fit(
        sources, told[TARGET]
    ),
    "kernel mean": KernelMeanWeigher().fit(samples, scaled[TARGET].train_x),
    "classifier": ClassifierWeigher().fit(samples, scaled[TARGET].train_x),
}
print(pd.DataFrame({way: w.as_dict() for way, w in ways.items()}).round(2).to_string())

# %% [markdown]
# ## 7. A curriculum
#
# Training begins with all sources alike, moves over to the weighted ones, and, where the target has
# labels, ends with the target and a fifth of the sources against forgetting. A step is an epoch
# here. The shares move continuously, and one sampler draws them.


# %%
def curriculum_for(target: str, shares: SourceWeights, *, labels: bool) -> ThreePhaseCurriculum:
    """Two epochs of equal shares, a ramp to these, and the target where it has labels."""
    phases: list[Any] = [PretrainPhase(duration=2)]
    # These weights are guarded already, or on purpose not: trust=1.
    phases.append(
        WeightedPhase(weights=shares, ramp_steps=2, duration=3 if labels else None, trust=1)
    )
    if labels:
        phases.append(FinetunePhase(target=target, ramp_steps=1, replay=0.2))
    names = [*shares.names, target] if labels else shares.names
    return ThreePhaseCurriculum(phases, names=names)


shown = curriculum_for(TARGET, guards[TARGET][0], labels=True)
for epoch in range(EPOCHS):
    share = shown.weights_at(epoch)
    print(f"epoch {epoch}: {shown.phase_at(epoch).name:8} {TARGET} {share[TARGET]:.2f}")

# %% [markdown]
# ## 8. Training, and what it is compared with
#
# The decoder is small: one hidden layer over eight features, eight times from different starts; the
# mean of the eight decides. Everybody is the target once. The scores are means over all test
# samples of all targets, with intervals from blocks of neighbouring samples; `ahead` is the paired
# difference to equal shares.
#
# The intervals cover other samples of these people, not other people and not other draws of the
# training: with another `SEED` the first three rows move by about as much as they are apart. To
# claim that weights help on data of this size, repeat the whole with many seeds and more people.


# %%
class Heads(nn.Module):
    """Decoders with one hidden layer each, side by side."""

    def __init__(self, n_heads: int = 8, n_features: int = 8, n_hidden: int = 32) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(n_heads, n_features, n_hidden) / n_features**0.5)
        self.offset = nn.Parameter(torch.zeros(n_heads, 1, n_hidden))
        self.second = nn.Parameter(torch.randn(n_heads, n_hidden, task.outputs) / n_hidden**0.5)
        self.level = nn.Parameter(torch.zeros(n_heads, 1, task.outputs))

    def forward_batch(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """One query per head, (sample, head, output)."""
        hidden = torch.tanh(batch["x"] @ self.first + self.offset)
        return {"decoder": (hidden @ self.second + self.level).transpose(0, 1)}


def train(curriculum: ThreePhaseCurriculum, broken: str = "") -> Heads:
    """Train on the first stretches; the labels of `broken` follow another convention."""
    rows, ids = [], []
    for name in curriculum.names:
        x, y = scaled[name].train_x, scaled[name].train_y
        if name == broken:
            y = (y + 1) % task.outputs if y.ndim == 1 else -y
        y = y if y.ndim == 1 else y.astype(np.float32)
        pairs = zip(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y), strict=True)
        rows += [{"x": a, "behavior": b.expand(8, *b.shape)} for a, b in pairs]
        ids += [name] * len(x)
    torch.manual_seed(SEED)
    sampler = DomainWeightedSampler(
        ids,
        curriculum.weights_at(0),
        num_samples=960,
        generator=Generator().manual_seed(SEED),
        replacement=False,  # every sample of a source once before any of them again
    )
    model = Heads()
    trainer = MultiModalTrainer(
        model,
        DataLoader(rows, batch_size=64, sampler=sampler),
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        loss=BehaviorLoss(),
        device="cpu",
        progress=False,
    )
    for epoch in range(EPOCHS):
        sampler.set_weights(curriculum.weights_at(epoch))
        trainer.train_epoch()
    return model


def points(model: Heads, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Score of every sample; their mean is the accuracy, or R2 against the mean of 0."""
    with torch.no_grad():
        decoded = model.forward_batch({"x": torch.from_numpy(x.astype(np.float32))})["decoder"]
    out = decoded.mean(dim=1).numpy()
    if y.ndim == 1:
        return (out.argmax(axis=1) == y).astype(float)
    return 1 - ((y - out) ** 2).mean(axis=1) / (y**2).mean()


def tested(model: Heads, name: str) -> np.ndarray:
    """Scores on a person's later stretch."""
    return points(model, scaled[name].test_x, scaled[name].test_y)


alone = {name: train(ThreePhaseCurriculum([PretrainPhase()], names=[name])) for name in PEOPLE}
runs: dict[str, list[np.ndarray]] = {}
for name in PEOPLE:
    others = [other for other in PEOPLE if other != name]
    equal = SourceWeights.uniform(others)
    # The single source is chosen by the labels of the target's first stretch.
    first = {o: points(alone[o], scaled[name].train_x, scaled[name].train_y) for o in others}
    best = max(others, key=lambda other: first[other].mean())
    heads = {
        "equal shares": train(curriculum_for(name, equal, labels=False)),
        "weights": train(curriculum_for(name, estimated[name], labels=False)),
        "guarded weights": train(curriculum_for(name, guards[name][0], labels=False)),
        "best single source (labels)": alone[best],
        "target only (labels)": alone[name],
        "three phases (labels)": train(curriculum_for(name, guards[name][0], labels=True)),
    }
    for way, head in heads.items():
        runs.setdefault(way, []).append(tested(head, name))


def compared(scores: Mapping[str, list[np.ndarray]], with_what: str) -> pd.DataFrame:
    """Mean scores with 95 % intervals, and how far each is ahead of one of them."""
    lines = {}
    for way, parts in scores.items():
        mine, other = np.concatenate(parts), np.concatenate(scores[with_what])
        score, ahead = (
            block_bootstrap(
                np.mean, [x], block_length=task.block, generator=np.random.default_rng(SEED)
            )
            for x in (mine, mine - other)
        )
        lines[way] = [score.estimate, score.low, score.high, ahead.low, ahead.high]
    columns = [task.score, "low", "high", "ahead, low", "ahead, high"]
    return pd.DataFrame(lines, index=columns).T


def verdict(line: pd.Series) -> str:
    """What an interval of a difference allows to say."""
    low, high = line["ahead, low"], line["ahead, high"]
    return "is ahead of" if low > 0 else "is behind" if high < 0 else "cannot be told from"


table = compared(runs, "equal shares")
print(table.round(3).to_string())
for way in table.index[1:]:
    print(f"{way} {verdict(table.loc[way])} equal shares")

# %% [markdown]
# ## 9. When weights do harm
#
# Moments see the signals and not the labels. Let the labels of each target's favourite source
# follow another convention: codes of gestures are shifted by one, numbers have the opposite sign.
# Its statistics are what they were, and so are the weights: most of the training now goes to a
# source that teaches the wrong thing. The guard cannot see the convention either. It sees how
# little the data support so much weight on one source, and gives the others more.

# %%
harmed: dict[str, list[np.ndarray]] = {}
for name in PEOPLE:
    others = [other for other in PEOPLE if other != name]
    favourite = others[int(estimated[name].weights.argmax())]
    shares = {
        "weights": estimated[name],
        "guarded weights": guards[name][0],
        "equal shares": SourceWeights.uniform(others),
    }
    for way, share in shares.items():
        head = train(curriculum_for(name, share, labels=False), broken=favourite)
        harmed.setdefault(way, []).append(tested(head, name))
harm = compared(harmed, "weights")
print(harm.round(3).to_string())
print(
    f"guarded weights {verdict(harm.loc['guarded weights'])} weights when the favourite is broken"
)

# %% [markdown]
# ## 10. The picture
#
# Weights with their intervals, the shares over the epochs, and the scores.

# %%
BLUE, GREY, ORANGE = "#2a6f97", "#8d99ae", "#e07a5f"
plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")


def short(name: str) -> str:
    """A name as the axes show it."""
    return name.removeprefix("subject").removeprefix("fmri_rest_NAP_")


def draw_scores(axis: Any, scores: pd.DataFrame, title: str) -> None:
    """Scores with their intervals."""
    names = [way.replace(" (labels)", "*") for way in scores.index]
    value = scores[task.score]
    spread = np.abs(scores[["low", "high"]].sub(value, axis=0).to_numpy().T)
    colors = [{"weights": ORANGE, "guarded weights": BLUE}.get(way, GREY) for way in scores.index]
    axis.barh(names[::-1], value[::-1], xerr=spread[:, ::-1], color=colors[::-1], capsize=3)
    axis.axvline(0, color="black", lw=0.6)
    axis.set(title=title, xlabel=task.score)


place = np.arange(len(SOURCES))
safe = guards[TARGET][0].weights
errors = np.abs(weights.interval.T - weights.weights)
axes[0, 0].bar(place - 0.2, weights.weights, 0.4, yerr=errors, color=ORANGE, capsize=2)
axes[0, 0].bar(place + 0.2, safe, 0.4, color=BLUE)
axes[0, 0].axhline(1 / len(SOURCES), color="black", lw=0.8, ls="--")
axes[0, 0].set_xticks(place, [short(name) for name in SOURCES])
axes[0, 0].legend(["equal shares", "estimated, 95 %", "guarded"], frameon=False, fontsize=7)
axes[0, 0].set(title=f"Weights for {TARGET}", xlabel="source", ylim=(0, 1))
steps = np.linspace(0, EPOCHS - 1, 141)
shares = np.array([shown.weights_at(float(step)).weights for step in steps])
axes[0, 1].plot(steps, shares[:, :-1], color=GREY, lw=1)
axes[0, 1].plot(steps, shares[:, -1], color=ORANGE, lw=2)
axes[0, 1].text(EPOCHS - 1, shares[-1, -1], "target ", ha="right", va="bottom", color=ORANGE)
axes[0, 1].set(title="Shares in three phases (grey: sources)", xlabel="epoch", ylim=(0, 1))
draw_scores(axes[1, 0], table, f"{task.title}\n(* with labels of the target)")
draw_scores(axes[1, 1], harm, "Wrong labels in the favourite source")
figure.savefig("source_weights.png", dpi=110)
seconds = time.perf_counter() - STARTED
print(f"picture: {Path('source_weights.png').resolve()} ({seconds:.0f} s)")
acted = [name for name in PEOPLE if guards[name][0] is not estimated[name]]
print(f"the guard acted for {len(acted)} of {len(PEOPLE)} targets")
assert acted, "no weights had a wide interval or a target out of the hull"
assert harm.loc["guarded weights", "ahead, high"] > 0, "the guard made things worse"
