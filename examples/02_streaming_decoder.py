# %% [markdown]
# # Decode a stream
#
# A small causal model learns two things from recordings that ship inside `neuros-data`: the sound
# envelope from the spikes of an auditory receptor, and grip force from cortical and subthalamic
# field potentials. Then the held-out stretches arrive the way they would in an experiment:
# sample by sample, with a crash in the middle, and with an electrode that falls out.
#
# It takes half a minute on one core and needs no network. The recordings are seconds long: they
# show how a stream works and rank no method.

# %%
import io
import time
from functools import partial
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import neuros_data
from neuros_data.torch import RandomWindowSampler, WindowDataset, collate
from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.evaluation import RidgeDecoder, WienerDecoder, r2_score
from neuros_neurofm.losses import BehaviorLoss
from neuros_neurofm.streaming import StepOutput, StreamingSession
from neuros_neurofm.training import MultiModalTrainer

mpl.use("Agg")
from matplotlib import pyplot as plt

STARTED = time.perf_counter()
SEED = 0
torch.set_num_threads(1)  # one row of a matrix product is too little to share

# %% [markdown]
# ## Two decoders
#
# Each task has a grid of time: one step per sample of the behaviour. A step of the spikes' grid is
# one bin of 4 ms, a step of the field potentials' is one patch of 40 samples, so that a step is
# complete the moment its last sample is there.


# %%
class Task(NamedTuple):
    """A behaviour to decode."""

    recordings: list[str]
    modalities: tuple[str, ...]
    behaviour: str
    rates: dict[str, float]  # samples per second
    step: float  # seconds per step of the grid, and between samples of the behaviour
    window: float  # seconds of a training window
    stride: float  # seconds between training windows
    lag: float  # seconds by which neural activity follows the behaviour
    epochs: int


SOUND = Task(
    ["grasshopper_1", "grasshopper_2"],
    ("spike",),
    "envelope",
    {"spike": 250.0},
    step=0.004,
    window=0.128,
    stride=0.016,
    lag=0.02,
    epochs=5,
)
GRIP = Task(
    ["ecog_lfp_grip"],
    ("ecog", "lfp"),
    "grip",
    {"ecog": 1e3, "lfp": 1e3},
    step=0.04,
    window=0.64,
    stride=0.08,
    lag=0.0,
    epochs=14,
)
store = neuros_data.load_sample()


SPLITS = {
    task.behaviour: neuros_data.make_split(
        store,
        ratios=(0.64, 0.08, 0.28),
        window=task.window,
        lag=task.lag,
        recordings=task.recordings,
    )
    for task in (SOUND, GRIP)
}
assert all(split.verify().ok for split in SPLITS.values())


def windows(task: Task, part: str, **options: Any) -> neuros_data.Windows:
    """Windows of one part; signals are z-scored with training statistics."""
    settings = {"window": task.window, "stride": task.stride, "recordings": task.recordings}
    return store.windows(
        split=part,
        using=SPLITS[task.behaviour],
        modalities=list(task.modalities),
        bin=task.step if "spike" in task.modalities else None,
        normalize="spike" not in task.modalities,
        behaviour=[task.behaviour],
        behaviour_rate=1 / task.step,
        lag=task.lag,
        **(settings | options),
    )


def stretch(task: Task, part: str, name: str) -> dict[str, Any]:
    """A whole stretch of one recording, as a batch of one row."""
    ((start, stop),) = SPLITS[task.behaviour].part(part)[name]
    seconds = int((stop - start - task.lag) / task.step + 1e-6) * task.step
    view = windows(task, part, window=seconds, stride=seconds, recordings=[name])
    return on_the_grid(view.read_batch([0]), SCALES[task.behaviour])


def on_the_grid(batch: Any, scale: tuple[float, float]) -> dict[str, Any]:
    """A batch that asks for the z-scored behaviour at the ends of the steps, as a stream does."""
    tensors = dict(collate(batch))
    del tensors["behavior_times"]
    tensors["behavior"] = (tensors["behavior"] - scale[0]) / scale[1]
    return tensors


def scale_of(task: Task) -> tuple[float, float]:
    """Mean and deviation of the behaviour over the training stretches."""
    view = windows(task, "train")
    behavior = view.read_batch(np.arange(len(view)))["behavior"]
    return float(behavior.mean()), float(behavior.std())


SCALES = {task.behaviour: scale_of(task) for task in (SOUND, GRIP)}


def train(task: Task) -> MultiModalNeuroFMX:
    """A causal model that decodes the behaviour at every step of its grid."""
    torch.manual_seed(SEED)
    model = MultiModalNeuroFMX(
        64,
        2,
        round(task.window / task.step),
        64,
        modalities=task.modalities,
        behavior_dim=1,
        window=task.window,
        sampling_rates=task.rates,
        patches=dict.fromkeys(task.modalities, task.step),
        perceiver_depth=1,
        popt_depth=1,
    )
    view = windows(task, "train")
    for name in task.recordings:
        for modality, ids in view.channels(name).items():
            new = [i for i in ids if i not in model.tokenizers[modality].units.ids]
            model.add_units(modality, new)
            if modality != "spike":  # the level of a band's power tells grip from rest
                model.calibrate(modality, stretch(task, "train", name)[modality], units=ids)
    dataset = WindowDataset(view)
    sampler = RandomWindowSampler(dataset, batch_size=16, seed=SEED)
    to_batch = partial(on_the_grid, scale=SCALES[task.behaviour])
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=to_batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=task.epochs * len(loader), pct_start=0.2
    )
    trainer = MultiModalTrainer(
        model, loader, optimizer=optimizer, scheduler=schedule, loss=BehaviorLoss(), seed=SEED
    )
    trainer.fit(task.epochs)
    return model.eval()


# %% [markdown]
# ## Sample by sample
#
# The session gets one sample at a time and returns a step as soon as it is complete. What it
# returns is what the model gives when it is shown the whole stretch at once.


# %%
def samples_of(task: Task, batch: dict[str, Any], start: int, stop: int) -> dict[str, Tensor]:
    """The samples of some steps."""
    per_step = {m: round(task.rates[m] * task.step) for m in task.modalities}
    return {m: batch[m][:, start * n : stop * n] for m, n in per_step.items()}


def decoder_of(steps: list[StepOutput]) -> np.ndarray:
    """The decoded behaviour, one value per step."""
    return torch.cat([step.decoder for step in steps], 1).flatten().numpy()


sound = train(SOUND)
print(f"trained on {SOUND.behaviour}, {time.perf_counter() - STARTED:.0f} s")
truths, offline, streamed, seconds = [], [], [], []
for name in SOUND.recordings:
    batch = stretch(SOUND, "test", name)
    with torch.no_grad():
        offline.append(sound.forward_batch(batch).decoder.flatten().numpy())
    session, steps = StreamingSession(sound), []
    for k in range(batch["spike"].shape[1]):
        began = time.perf_counter()
        steps += session.push({"spike": batch["spike"][:, k : k + 1]}, units=batch["units"])
        seconds.append(time.perf_counter() - began)
    streamed.append(decoder_of(steps))
    truths.append(batch["behavior"].flatten().numpy())
difference = max(np.abs(a - b).max() for a, b in zip(offline, streamed, strict=True))
latency_ms = 1e3 * np.asarray(seconds)
print(
    f"{len(seconds)} bins of {1e3 * SOUND.step:.0f} ms: stream and whole stretch differ by at most "
    f"{difference:.1e}"
)
print(
    f"one bin takes {np.median(latency_ms):.1f} ms (median) and "
    f"{np.percentile(latency_ms, 99):.1f} ms (99th percentile) of this machine"
)
assert difference < 1e-4

# %% [markdown]
# ## Is it any good?
#
# Ridge sees the present bin, Wiener the last 128 ms as well, as long as the model's window
# of training; all are scored on the same bins of the same test stretches.


# %%
def linear(task: Task, decoder: Any) -> np.ndarray:
    """Predictions of a linear decoder of the counts on the test stretches."""
    data = {
        part: [stretch(task, part, name) for name in task.recordings] for part in ("train", "test")
    }
    x, y = (
        [np.asarray(batch[key][0], float) for batch in data["train"]]
        for key in ("spike", "behavior")
    )
    decoder.fit(x, y)
    parts = [decoder.predict(np.asarray(batch["spike"][0], float)) for batch in data["test"]]
    return np.concatenate([part[:, 0] for part in parts])


bins = round(SOUND.window / SOUND.step)
truth = np.concatenate(truths)
predictions = {
    "stream": np.concatenate(streamed),
    "ridge": linear(SOUND, RidgeDecoder(gap=bins)),
    "Wiener": linear(SOUND, WienerDecoder(bins)),
}
scores = {name: float(r2_score(truth, values)) for name, values in predictions.items()}
print("R2 of the sound envelope:", {name: round(score, 2) for name, score in scores.items()})

# %% [markdown]
# ## A crash
#
# At 1.0 s the state is written as plain tensors, and some time later the process dies. A new one
# loads the state, is given the samples since then, and goes on with the same bits.

# %%
session, batch = StreamingSession(sound), stretch(SOUND, "test", SOUND.recordings[0])
session.push(samples_of(SOUND, batch, 0, 250), units=batch["units"])
file = io.BytesIO()
torch.save(session.state_dict(), file)
kept_bytes = file.tell()
undisturbed = decoder_of(session.push(samples_of(SOUND, batch, 250, 500)))

file.seek(0)
resumed = StreamingSession(sound)
resumed.load_state_dict(torch.load(file, weights_only=True))
again = decoder_of(resumed.push(samples_of(SOUND, batch, 250, 500)))
print(
    f"resumed at 1.0 s from {kept_bytes / 1024:.0f} KiB, same bits: {(undisturbed == again).all()}"
)
assert (undisturbed == again).all()

# %% [markdown]
# ## A modality that leaves
#
# Grip is decoded from cortex (ECoG) and subthalamic nucleus (LFP) together. In the middle of the
# one grip of the test stretch the LFP amplifier is unplugged. `leave` says so, and the stream goes
# on with the cortex alone: the same as the model gives for the whole stretch with the rest of the
# LFP masked. Ridge sees the logarithm of each channel's variance in the present step. With two
# grips to learn from and one to be tested on, these scores say little about either.

# %%
grip = train(GRIP)
print(f"trained on {GRIP.behaviour}, {time.perf_counter() - STARTED:.0f} s")
batch = stretch(GRIP, "test", "ecog_lfp_grip")
n_steps = batch["behavior"].shape[1]
unplugged = round(1.0 / GRIP.step)
session, steps = StreamingSession(grip), []
for k in range(n_steps):
    chunk = samples_of(GRIP, batch, k, k + 1)
    if k == unplugged:
        steps += session.leave("lfp")
    if k >= unplugged:
        del chunk["lfp"]
    steps += session.push(chunk, units={m: batch["units"][m] for m in chunk})
masks = {"lfp": torch.arange(batch["lfp"].shape[1]) < unplugged * 40}
with torch.no_grad():
    inputs = {m: batch[m] for m in GRIP.modalities}
    whole = grip(inputs, units=batch["units"]).decoder.flatten().numpy()
    masked = grip(
        inputs, units=batch["units"], masks={"lfp": masks["lfp"].view(1, -1, 1)}
    ).decoder.flatten()
left = float(np.abs(decoder_of(steps) - masked.numpy()).max())


def log_powers(batch: dict[str, Any]) -> np.ndarray:
    """Logarithm of the variance of each channel in each step, (step, channel)."""
    x = torch.cat([batch[m][0] for m in GRIP.modalities], -1)
    return np.log(x.unflatten(0, (-1, 40)).var(1).numpy() + 1e-6).astype(float)


train_batch = stretch(GRIP, "train", "ecog_lfp_grip")
ridge = RidgeDecoder(gap=round(GRIP.window / GRIP.step))
ridge.fit([log_powers(train_batch)], [train_batch["behavior"][0].numpy().astype(float)])
grip_truth = batch["behavior"].flatten().numpy()
grip_scores = {
    "both throughout": float(r2_score(grip_truth, whole)),
    "LFP for 1 s": float(r2_score(grip_truth, decoder_of(steps))),
    "ridge": float(r2_score(grip_truth, ridge.predict(log_powers(batch))[:, 0])),
}
print(f"after the LFP has left the stream differs from the masked stretch by at most {left:.1e}")
print("R2 of grip:", {name: round(score, 2) for name, score in grip_scores.items()})

# %% [markdown]
# ## The picture

# %%
BLUE, GREY, ORANGE = "#2a6f97", "#8d99ae", "#e07a5f"
plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
figure, axes = plt.subplots(3, 1, figsize=(8, 7), layout="constrained")
shown = slice(0, 250)
at = SOUND.step * np.arange(1, 251)
axes[0].plot(at, truths[0][shown], color="black", lw=1, label="recorded")
axes[0].plot(at, predictions["Wiener"][shown], color=ORANGE, lw=1, label="Wiener")
axes[0].plot(at, streamed[0][shown], color=BLUE, lw=1, label="stream")
title = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
axes[0].set(title=f"Sound envelope from spikes; R2: {title}", xlabel="seconds of the test stretch")
axes[0].legend(frameon=False, fontsize=7, loc="upper right")
axes[1].hist(latency_ms, bins=np.linspace(0, np.percentile(latency_ms, 99.5), 60), color=BLUE)
axes[1].axvline(1e3 * SOUND.step, color=GREY, ls="--", lw=1)
axes[1].set(title="Time per bin (dashed: length of a bin)", xlabel="ms", ylabel="bins")
at = GRIP.step * np.arange(1, n_steps + 1)
axes[2].plot(at, grip_truth, color="black", lw=1, label="recorded")
axes[2].plot(at, whole, color=ORANGE, lw=1, label="ECoG + LFP throughout")
axes[2].plot(at, decoder_of(steps), color=BLUE, lw=1, label="stream")
axes[2].axvline(unplugged * GRIP.step, color=GREY, ls="--", lw=1)
title = ", ".join(f"{name} {score:.2f}" for name, score in grip_scores.items())
axes[2].set(title=f"Grip, the LFP leaves at the dashed line; R2: {title}")
axes[2].set_xlabel("seconds of the test stretch")
axes[2].legend(frameon=False, fontsize=7, loc="upper right")
figure.savefig("streaming_decoder.png", dpi=110)
print(f"streaming_decoder.png ({time.perf_counter() - STARTED:.0f} s)")
assert left < 1e-4
