# %% [markdown]
# # Quickstart: from recordings to a report
#
# Real recordings of six modalities ship inside `neuros-data`. This script prepares them, trains
# one model on all of them without labels, decodes two behaviours beside linear baselines, asks
# which subjects to train on for a new one, looks inside the model, and writes `quickstart.html`.
# It takes about a minute on two cores and needs no network.
#
# The recordings are seconds long: they show that every step runs and how to read its results;
# they rank no method.

# %%
import copy
import hashlib
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import scipy.signal
import torch
from torch.utils.data import DataLoader

import neuros_data
from neuros_core import DomainStatistics, RunManifest, SourceWeights
from neuros_data.torch import RandomWindowSampler, WindowDataset, collate
from neuros_mechint.fractals import HiguchiFractalDimension, SpectralPrior, SpectralSlope
from neuros_mechint.interventions import ActivationPatcher
from neuros_mechint.reporting import Report
from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.evaluation import (
    ARForecaster,
    RidgeDecoder,
    WienerDecoder,
    block_bootstrap,
    persistence_forecast,
)
from neuros_neurofm.losses import (
    BehaviorLoss,
    CombinedLoss,
    ForecastingLoss,
    MaskedModelingLoss,
    NeuralMasker,
    split_future,
)
from neuros_neurofm.training import DomainWeightedSampler, MultiModalTrainer
from neuros_sourceweigher import SourceWeigher

mpl.use("Agg")
from matplotlib import pyplot as plt

STARTED = time.perf_counter()
SEED = 0

# %% [markdown]
# ## Recordings, and a split that is proven
#
# Every group of recordings has the window that suits its clock; the model's grid of time divides
# each into 64 steps. A time split gives every recording a training, a validation and a test
# stretch, with a guard between them as long as a window and the label lag, and windows are cut
# inside one stretch. `verify` proves that nothing leaks.

# %%
store = neuros_data.load_sample()
SUBJECTS = [name for name in store.recordings if name.startswith("fmri_rest_NAP")]
TARGET, SOURCES = SUBJECTS[-1], SUBJECTS[:-1]
RATES = {"spike": 500.0, "lfp": 1e3, "eeg": 160.0, "fmri": 0.5, "ecog": 1e3, "emg": 1e3}


class Group(NamedTuple):
    """Recordings that share a window."""

    recordings: list[str]
    modalities: list[str]
    window: float  # seconds
    stride: float  # seconds between training windows
    lag: float = 0.0  # seconds by which neural activity follows the behaviour


GROUPS = {
    "spikes": Group(["grasshopper_1", "grasshopper_2"], ["spike"], 0.128, 0.032, lag=0.02),
    "grip": Group(["ecog_lfp_grip"], ["ecog", "lfp"], 0.64, 0.08),
    "eeg": Group(["eeg_eyes_closed"], ["eeg"], 0.8, 0.4),
    "emg": Group(["emg_bursts"], ["emg"], 0.64, 0.16),
    "fmri": Group(SUBJECTS, ["fmri"], 64.0, 16.0),
}
RATIOS = (0.64, 0.08, 0.28)  # of the three grips, two are trained on and one is left for the test
HORIZON = 4  # samples to forecast; the scans' windows hold them too
FMRI_WINDOW = GROUPS["fmri"].window + HORIZON / RATES["fmri"]
splits = {
    name: neuros_data.make_split(
        store,
        ratios=RATIOS,
        window=FMRI_WINDOW if name == "fmri" else g.window,
        lag=g.lag,
        recordings=g.recordings,
    )
    for name, g in GROUPS.items()
}
split_table = pd.DataFrame(
    {
        "recordings": [", ".join(g.recordings) for g in GROUPS.values()],
        "modalities": [" + ".join(g.modalities) for g in GROUPS.values()],
        "window (s)": [g.window for g in GROUPS.values()],
        "guard (s)": [round(split.guard, 3) for split in splits.values()],
        "leak-free": [split.verify().ok for split in splits.values()],
    },
    index=pd.Index(GROUPS, name="group"),
)
assert split_table["leak-free"].all()
print(split_table.drop(columns="recordings").to_string())


def view_of(name: str, part: str, **options: Any) -> neuros_data.Windows:
    """Windows of one group in one part; signals are z-scored with training statistics."""
    group = GROUPS[name]
    settings = {
        "window": group.window,
        "stride": group.stride,
        "recordings": group.recordings,
        "bin": 1 / RATES["spike"] if "spike" in group.modalities else None,
        "normalize": "spike" not in group.modalities,
        "lag": group.lag,
    }
    return store.windows(
        split=part, using=splits[name], modalities=group.modalities, **{**settings, **options}
    )


# %% [markdown]
# ## Pretraining without labels
#
# A quarter of the time of every window is hidden, and the model fills it in: Poisson likelihood
# for spikes, Gaussian for signals. `SpectralPrior` comes from another package and pulls the
# latents' power spectrum towards 1/f; it is one more element of the list of objectives.


# %%
def train(
    model: MultiModalNeuroFMX, loader: DataLoader, loss: Any, epochs: int, masker: Any = None
) -> list[dict[str, float]]:
    """Train with one cycle of the learning rate; the history of the losses."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=epochs * len(loader), pct_start=0.2
    )
    trainer = MultiModalTrainer(
        model, loader, optimizer=optimizer, scheduler=schedule, loss=loss, masker=masker, seed=SEED
    )
    return trainer.fit(epochs)


torch.manual_seed(SEED)
CONFIG = {
    "d_model": 64,
    "n_mamba_blocks": 2,
    "n_latents": 64,
    "latent_dim": 64,
    "modalities": tuple(RATES),
    "behavior_dim": 1,
    "popt_depth": 1,
    "sampling_rates": RATES,
    "patches": {"spike": 1 / RATES["spike"]},
    "forecast_horizon": HORIZON,
}
untrained = MultiModalNeuroFMX(**CONFIG)
for name, group in GROUPS.items():
    every = view_of(name, "train")
    named = {m: i for r in group.recordings for m, i in every.channels(r).items()}
    for modality, ids in named.items():
        untrained.add_units(modality, ids)
        if modality in ("ecog", "lfp"):  # the level of a band's power tells grip from rest
            recorded = collate(every.read_batch(np.arange(len(every))))[modality]
            untrained.calibrate(modality, recorded, units=ids)
model = copy.deepcopy(untrained)
views = [view_of(name, "train") for name in GROUPS if name != "fmri"]
views.append(view_of("fmri", "train", recordings=SOURCES))
dataset = WindowDataset(*views)
sampler = RandomWindowSampler(dataset, batch_size=8, seed=SEED)
loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate)
objectives = CombinedLoss([MaskedModelingLoss(), SpectralPrior(target_beta=1.0, weight=0.01)])
history = train(model, loader, objectives, 4, NeuralMasker("temporal", 0.25))
assert history[-1]["masked_modeling"] < history[0]["masked_modeling"]
model.save_pretrained("quickstart-model")
pretrained = MultiModalNeuroFMX.from_pretrained("quickstart-model")
print(f"pretrained on {len(dataset)} windows of {len(RATES)} modalities")

# %% [markdown]
# ## Decoding beside baselines
#
# Two behaviours: the sound envelope from the spikes of one auditory receptor, and grip from
# cortical and subthalamic field potentials. Ridge sees the present features, Wiener their past
# as well; both choose their penalty on training blocks, and all are scored on the same samples
# of the same test stretch. The field potentials' features are log powers in five bands.


# %%
class Task(NamedTuple):
    """A behaviour to decode."""

    group: str
    behaviour: str
    rate: float  # queries per second
    stride: float  # seconds; each prediction comes from the last stride of its window
    epochs: int
    title: str


TASKS = [
    Task("spikes", "envelope", 500.0, 0.016, 5, "Sound envelope from spikes"),
    Task("grip", "grip", 25.0, 0.04, 3, "Grip from ECoG + LFP"),
]
BANDS = ((4, 8), (8, 13), (13, 30), (30, 60), (60, 150))  # Hz


def standardised(batch: Any, mean: float, std: float) -> Mapping[str, Any]:
    """A batch of tensors whose behaviour has mean 0 and variance 1 over the training part."""
    tensors = collate(batch)
    return {**tensors, "behavior": (tensors["behavior"] - mean) / std}


def predict(
    net: MultiModalNeuroFMX, view: neuros_data.Windows, task: Task, to_batch: Any
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Behaviour and prediction of every recording, from the last stride of every window."""
    n_last = round(task.stride * task.rate)
    truths, predictions = [], []
    for name in view.recordings:
        rows = np.arange(*view.range_of(name))
        batch = to_batch(view.read_batch(rows))
        with torch.no_grad():
            decoded = net.eval().forward_batch(batch).decoder
        truths.append(batch["behavior"][:, -n_last:].reshape(-1).numpy())
        predictions.append(decoded[:, -n_last:].reshape(-1).numpy())
    return truths, predictions


def features(batch: Mapping[str, Any], rate: float) -> np.ndarray:
    """What the linear baselines see, (time, feature) at the behaviour's rate."""
    if "spike" in batch:
        return np.asarray(batch["spike"][0], float)
    signals = np.concatenate([batch["ecog"][0], batch["lfp"][0]], axis=1)
    step = round(RATES["lfp"] / rate)
    smoothing = np.exp(-1 / (0.1 * RATES["lfp"]))  # a causal 100 ms average of the power
    powers = []
    for band in BANDS:
        filtered = scipy.signal.sosfilt(
            scipy.signal.butter(4, band, "bandpass", fs=RATES["lfp"], output="sos"), signals, axis=0
        )
        power = scipy.signal.lfilter([1 - smoothing], [1, -smoothing], filtered**2, axis=0)
        powers.append(np.log(power[step - 1 :: step] + 1e-6))
    return np.concatenate(powers, axis=1)


def stretches(
    task: Task, part: str, options: dict[str, Any], mean: float, std: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Features and behaviour of every recording's whole stretch."""
    xs, ys = [], []
    for name in GROUPS[task.group].recordings:
        ((start, stop),) = splits[task.group].part(part)[name]
        bins = int((stop - start - GROUPS[task.group].lag) * task.rate + 1e-6)
        window = bins / task.rate
        view = view_of(task.group, part, window=window, stride=window, recordings=[name], **options)
        batch = view.read_batch([0])
        xs.append(features(batch, task.rate))
        ys.append((batch["behavior"][0] - mean) / std)
    return xs, ys


class Decoded(NamedTuple):
    """What one task gave."""

    truth: np.ndarray
    predictions: dict[str, np.ndarray]
    scores: pd.DataFrame
    verdict: str


def compare(truth: np.ndarray, predictions: dict[str, np.ndarray], block: int) -> pd.DataFrame:
    """R2 of every decoder with its 95 % interval, and the model's paired difference."""
    ours = predictions["NeuroFMX"]
    # A resample may hold no movement at all, so every resample keeps the stretch's own variance.
    variance = truth.var()

    def score_of(y: np.ndarray, prediction: np.ndarray) -> float:
        return float(1 - ((y - prediction) ** 2).mean() / variance)

    rows = []
    for name, prediction in predictions.items():
        generator = np.random.default_rng(SEED)
        score = block_bootstrap(
            score_of, [truth, prediction], block_length=block, generator=generator
        )
        generator = np.random.default_rng(SEED)
        ahead = block_bootstrap(
            lambda y, a, b: score_of(y, a) - score_of(y, b),
            [truth, ours, prediction],
            block_length=block,
            generator=generator,
        )
        rows.append((name, score.estimate, score.low, score.high, ahead.low, ahead.high))
    columns = ["decoder", "R2", "low", "high", "model ahead, low", "model ahead, high"]
    return pd.DataFrame(rows, columns=columns).set_index("decoder")


def verdict_of(scores: pd.DataFrame) -> str:
    """One honest sentence on the model and its best baseline."""
    best = scores["R2"].drop("NeuroFMX").idxmax()
    low, high = scores.loc[best, ["model ahead, low", "model ahead, high"]]
    word = "is ahead of" if low > 0 else "loses to" if high < 0 else "cannot be told from"
    ours, theirs = scores.loc["NeuroFMX", "R2"], scores.loc[best, "R2"]
    return (
        f"the model (R2 {ours:.2f}) {word} the best baseline, {best} (R2 {theirs:.2f}); "
        f"difference {low:+.2f} to {high:+.2f}"
    )


def decode(task: Task) -> tuple[MultiModalNeuroFMX, Decoded]:
    """Fine-tune the pretrained model on one task, and fit the baselines on the same stretch."""
    options = {"behaviour": [task.behaviour], "behaviour_rate": task.rate}
    view = view_of(task.group, "train", stride=task.stride, **options)
    behavior = view.read_batch(np.arange(len(view)))["behavior"]
    mean, std = float(behavior.mean()), float(behavior.std())
    to_batch = partial(standardised, mean=mean, std=std)
    dataset = WindowDataset(view)
    sampler = RandomWindowSampler(dataset, batch_size=16, seed=SEED)
    net = copy.deepcopy(pretrained)
    train(
        net,
        DataLoader(dataset, batch_sampler=sampler, collate_fn=to_batch),
        BehaviorLoss(),
        task.epochs,
    )
    test = view_of(task.group, "test", stride=task.stride, **options)
    truths, ours = predict(net, test, task, to_batch)
    predictions = {"NeuroFMX": np.concatenate(ours)}
    x, y = stretches(task, "train", options, mean, std)
    x_test, _ = stretches(task, "test", options, mean, std)
    window = GROUPS[task.group].window
    first = round((window - task.stride) * task.rate)
    linear = {
        "ridge": RidgeDecoder(gap=round(window * task.rate)),
        "Wiener": WienerDecoder(round(window * task.rate)),
    }
    for name, decoder in linear.items():
        decoder.fit(x, y)
        parts = [
            decoder.predict(part)[first : first + len(truth), 0]
            for part, truth in zip(x_test, truths, strict=True)
        ]
        predictions[name] = np.concatenate(parts)
    truth = np.concatenate(truths)
    scores = compare(truth, predictions, block=round(0.5 * task.rate))
    return net, Decoded(truth, predictions, scores, verdict_of(scores))


decoders, decoded = {}, {}
for task in TASKS:
    decoders[task.group], decoded[task.group] = decode(task)
    print(f"{task.title}: {decoded[task.group].verdict}")

# %% [markdown]
# ## Which subjects to train on?
#
# Five subjects at rest; the last is the target and was never trained on. The pretrained latents of
# every subject are reduced to moments, and `SourceWeigher` finds the mixture of sources whose
# moments are nearest to the target's. Then the model is fine-tuned twice on the sources, with
# these weights and with equal ones, and forecasts the target's test stretch.


# %%
def fmri_view(part: str, subjects: list[str], stride: float) -> neuros_data.Windows:
    """Windows with the horizon behind them."""
    return view_of("fmri", part, window=FMRI_WINDOW, stride=stride, recordings=subjects)


def whole(view: neuros_data.Windows) -> dict[str, Any]:
    """All windows of a view, the horizon cut off."""
    return split_future(collate(view.read_batch(np.arange(len(view)))), HORIZON)


def statistics(subject: str) -> DomainStatistics:
    """Moments of the latents over the subject's training stretch; no labels are involved."""
    with torch.no_grad():
        latents = pretrained.eval().forward_batch(whole(fmri_view("train", [subject], 8.0))).latents
    return DomainStatistics.from_samples(
        latents.flatten(0, 1).numpy(), name=subject, space="latents"
    )


weights = SourceWeigher(metric="identity").fit([statistics(s) for s in SOURCES], statistics(TARGET))
print("source weights:", {name: round(w, 2) for name, w in weights.as_dict().items()})

test = whole(fmri_view("test", [TARGET], 2.0))
future = test["future"]["fmri"].numpy()
past = test["fmri"].numpy()
training = fmri_view("train", SOURCES, 4.0)
sources_of = np.concatenate(
    [[i] * np.ptp(training.range_of(name)) for i, name in enumerate(training.recordings)]
)


def fine_tune(shares: SourceWeights) -> np.ndarray:
    """Fine-tune on the sources in these proportions; the forecasts of the target's test."""
    dataset = WindowDataset(training)
    draw = DomainWeightedSampler(
        sources_of, shares, num_samples=192, generator=torch.Generator().manual_seed(SEED)
    )
    loader = DataLoader(dataset, batch_size=8, sampler=draw, collate_fn=collate)
    net = copy.deepcopy(pretrained)
    train(
        net,
        loader,
        ForecastingLoss(HORIZON),
        2,
        masker=lambda batch, _: split_future(batch, HORIZON),
    )
    with torch.no_grad():
        return net.eval().forward_batch(test).forecast["fmri"].numpy()


def training_stretch(subject: str) -> np.ndarray:
    """The subject's whole training stretch, (volume, region)."""
    ((start, stop),) = splits["fmri"].part("train")[subject]
    window = int((stop - start) * RATES["fmri"]) / RATES["fmri"]
    view = view_of("fmri", "train", window=window, stride=window, recordings=[subject])
    return np.asarray(view.read_batch([0])["fmri"][0], float)


autoregression = ARForecaster(max_order=4).fit([training_stretch(s) for s in SOURCES])
forecasts = {
    "weighted sources": fine_tune(weights),
    "equal sources": fine_tune(SourceWeights.uniform(weights.names)),
    "persistence": persistence_forecast(past, HORIZON),
    "AR": autoregression.forecast(past, HORIZON),
    "mean": np.zeros_like(future),
}


def forecast_score(truth: np.ndarray, prediction: np.ndarray) -> float:
    """R2 over windows, horizon and regions; 0 is the training mean."""
    return float(1 - ((truth - prediction) ** 2).mean() / (truth**2).mean())


rows = []
for name, prediction in forecasts.items():
    score, ahead = (
        block_bootstrap(f, [future, forecasts["weighted sources"], prediction], **settings)
        for settings in [{"block_length": 12, "generator": np.random.default_rng(SEED)}]
        for f in (
            lambda y, _, p: forecast_score(y, p),
            lambda y, w, p: forecast_score(y, w) - forecast_score(y, p),
        )
    )
    steps = [forecast_score(future[:, h], prediction[:, h]) for h in range(HORIZON)]
    rows.append((name, score.estimate, score.low, score.high, ahead.low, ahead.high, *steps))
forecast_table = pd.DataFrame(
    rows,
    columns=["forecast", "R2", "low", "high", "weighted ahead, low", "weighted ahead, high"]
    + [f"R2 at {2 * (h + 1)} s" for h in range(HORIZON)],
).set_index("forecast")
gain = forecast_table.loc["equal sources", ["weighted ahead, low", "weighted ahead, high"]]
word = "helps" if gain.iloc[0] > 0 else "hurts" if gain.iloc[1] < 0 else "makes no clear difference"
best = forecast_table["R2"].idxmax()
memory = [(x[1:] * x[:-1]).mean() / (x**2).mean() for x in map(training_stretch, SUBJECTS)]
predictable = (
    f"the lag-1 autocorrelation is {memory[-1]:.2f} in the target and {min(memory[:-1]):.2f} to "
    f"{max(memory[:-1]):.2f} in the sources, so what forecasts them does not forecast it"
)
forecast_verdict = (
    f"weighting the sources {word} (R2 {gain.iloc[0]:+.3f} to {gain.iloc[1]:+.3f} against equal "
    f"shares); the best forecast is {best} (R2 {forecast_table['R2'].max():.2f}); {predictable}"
)
print(f"Forecast of a new subject: {forecast_verdict}")

# %% [markdown]
# ## Inside the model
#
# Activation patching: put activations of a window with grip into the run of a window at rest, one
# grid position of one layer at a time. Recovery is the share of the difference in decoded grip
# that comes back. Then the latents' spectral slope and Higuchi dimension, before and after
# training.

# %%
grip = decoders["grip"].eval()
view = view_of("grip", "test", stride=0.08, behaviour=["grip"], behaviour_rate=25.0)
batch = collate(view.read_batch(np.arange(len(view))))
strength = batch["behavior"][:, -4:, 0].mean(1)
pick = {"clean": int(strength.argmax()), "corrupted": int(strength.argmin())}
clean, corrupted = (
    {name: batch[name][row : row + 1] for name in GROUPS["grip"].modalities}
    for row in pick.values()
)
LAYERS = ["fusion", "backbone.mamba_0", "backbone.mamba_1", "to_latent"]
POSITIONS = range(3, 64, 4)
patcher = ActivationPatcher(grip)
patched = patcher.systematic_patching(
    LAYERS,
    clean,
    corrupted,
    metric=lambda out: out.decoder[:, -4:, 0].mean(1),
    positions=POSITIONS,
)
complete = patcher.systematic_patching(
    ["to_latent"], clean, corrupted, metric=lambda out: out.decoder[:, -4:, 0].mean(1)
)
assert abs(complete["recovery"].item() - 1) < 1e-3  # the last layer carries the whole difference

rows = []
for name, group in GROUPS.items():
    part = view_of(name, "train", stride=group.window)
    windows = collate(part.read_batch(np.arange(min(len(part), 8))))
    for state, net in (("untrained", untrained), ("pretrained", pretrained)):
        with torch.no_grad():
            latents = net.eval().forward_batch(windows).latents
        slope = SpectralSlope(method="multitaper").compute(latents, dim=1).mean()
        dimension = HiguchiFractalDimension(k_max=8).compute(latents, dim=1).mean()
        rows.append((name, state, float(slope), float(dimension)))
fractal_table = pd.DataFrame(
    rows, columns=["latents of", "model", "spectral slope", "Higuchi dimension"]
)

# %% [markdown]
# ## The report
#
# One HTML file with the tables, the pictures and the provenance; it opens without a network.


# %%
BLUE, GREY, ORANGE = "#2a6f97", "#8d99ae", "#e07a5f"
plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


def draw_recordings() -> plt.Figure:
    """One stretch of every modality."""
    figure, axes = plt.subplots(6, 1, figsize=(8, 6.4), layout="constrained")
    shown = [("spikes", "spike", 4), ("grip", "ecog", 4), ("grip", "lfp", 4)]
    shown += [("eeg", "eeg", 4), ("emg", "emg", 4), ("fmri", "fmri", 4)]
    for axis, (name, modality, count) in zip(axes, shown, strict=True):
        window = GROUPS[name].window * (4 if modality == "spike" else 2)
        part = view_of(name, "train", window=window, stride=window)
        x = part.read_batch([0])[modality][0][:, :count]
        seconds = np.arange(len(x)) / RATES[modality]
        if modality == "spike":
            axis.vlines(seconds[x[:, 0] > 0], 0, 1, color=BLUE, lw=0.8)
        else:
            axis.plot(seconds, x - 4 * np.arange(x.shape[1]), lw=0.6, color=BLUE)
        axis.set(ylabel=modality, yticks=[], xlim=(0, window))
    axes[-1].set_xlabel("seconds")
    return figure


def draw_decoding(axes: Any) -> None:
    """Behaviour and predictions on the test stretch, and the scores with their intervals."""
    for row, task in enumerate(TASKS):
        result = decoded[task.group]
        shown = slice(0, round((0.5 if task.group == "spikes" else 4.5) * task.rate))
        seconds = np.arange(len(result.truth[shown])) / task.rate
        axes[row, 0].plot(seconds, result.truth[shown], color="black", lw=1, label="recorded")
        best = result.scores["R2"].drop("NeuroFMX").idxmax()
        for name, color in ((best, ORANGE), ("NeuroFMX", BLUE)):
            axes[row, 0].plot(seconds, result.predictions[name][shown], color, lw=1, label=name)
        axes[row, 0].set(title=task.title, xlabel="seconds of the test stretch", ylabel="z-score")
        axes[row, 0].legend(frameon=False, fontsize=7, loc="upper right")
        scores = result.scores
        colors = [BLUE, *[ORANGE if name == best else GREY for name in scores.index[1:]]]
        spread = np.abs(scores[["low", "high"]].sub(scores["R2"], axis=0).to_numpy().T)
        axes[row, 1].bar(scores.index, scores["R2"], yerr=spread, color=colors, capsize=3)
        axes[row, 1].axhline(0, color="black", lw=0.6)
        axes[row, 1].set(title="R2, 95 % interval")


def draw_weights(axes: Any) -> None:
    """Source weights, and the forecast by horizon."""
    names = [name.removeprefix("fmri_rest_") for name in weights.names]
    axes[0].bar(names, weights.weights, color=BLUE)
    axes[0].axhline(1 / len(names), color=GREY, lw=1, ls="--")
    axes[0].set(title=f"Source weights for {TARGET.removeprefix('fmri_rest_')}", ylim=(0, 1))
    colors = dict(zip(forecasts, (BLUE, "#61a5c2", GREY, ORANGE, "black"), strict=True))
    ahead = 2 * np.arange(1, HORIZON + 1)
    for name, color in colors.items():
        axes[1].plot(ahead, forecast_table.loc[name].to_numpy()[5:], "o-", color=color, label=name)
    axes[1].set(
        title="Forecast of the new subject", xlabel="seconds ahead", ylabel="R2", xticks=ahead
    )
    axes[1].legend(frameon=False, fontsize=7)


def draw_patching(axis: Any) -> None:
    """Recovery by layer and position."""
    table = patched.pivot_table(index="layer", columns="position", values="recovery", sort=False)
    limit = max(1.0, float(np.abs(table.to_numpy()).max()))
    image = axis.imshow(table, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    step_ms = 1e3 * GROUPS["grip"].window / 64
    axis.set_xticks(range(len(table.columns)), [f"{step_ms * (p + 1):.0f}" for p in table.columns])
    axis.set_yticks(range(len(table.index)), table.index)
    axis.set(title="Recovery of decoded grip, one patch each", xlabel="ms into the window")
    axis.figure.colorbar(image, ax=axis, label="recovery")


def figure_of(draw: Any, rows: int, columns: int, size: tuple[float, float]) -> plt.Figure:
    """A new figure, drawn."""
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained")
    draw(axes)
    return figure


overview, axes = plt.subplots(3, 2, figsize=(9, 8), layout="constrained", width_ratios=(5, 2))
draw_decoding(axes[:2])
draw_patching(axes[2, 0])
axes[2, 1].bar(
    [name.removeprefix("fmri_rest_NAP_") for name in weights.names], weights.weights, color=BLUE
)
axes[2, 1].set(title="Source weights", xlabel="subject")
overview.savefig("quickstart.png", dpi=110)

model_hash = hashlib.sha256(Path("quickstart-model/model.safetensors").read_bytes()).hexdigest()
manifest = RunManifest.collect(
    kind="report", config=CONFIG, seed=SEED, data_hash=store.content_hash, model_hash=model_hash
)
report = Report("neurOS quickstart", provenance=manifest)
report.add_text(
    "Real recordings of six modalities, one model, two decoding tasks and a forecast beside their "
    "baselines, and a look inside. The recordings are seconds long: they show how to read the "
    "results and rank no method."
)
verdicts = {task.title: decoded[task.group].verdict for task in TASKS}
verdicts["Forecast of a new subject"] = forecast_verdict
for title, verdict in verdicts.items():
    report.add_text(f"{title}: {verdict}.")
report.add_heading("Recordings and splits")
report.add_figure(draw_recordings(), caption="A stretch of every embedded modality, z-scored.")
report.add_table(split_table, caption="Every split was proven free of leaks by Split.verify().")
report.add_heading("Pretraining")
report.add_table(
    pd.DataFrame(history, index=pd.RangeIndex(1, len(history) + 1, name="epoch")),
    caption="Loss per epoch: negative log-likelihood of hidden samples, and the spectral prior.",
)
report.add_heading("Decoding")
report.add_figure(
    figure_of(draw_decoding, 2, 2, (9, 5.5)), caption="Test stretches, the model and its baselines."
)
for task in TASKS:
    caption = f"{task.title}: 1 - error / variance of the test stretch, moving-block bootstrap."
    report.add_table(decoded[task.group].scores.round(3), caption=caption)
report.add_heading("Source weights and forecast")
report.add_figure(
    figure_of(draw_weights, 1, 2, (9, 3)),
    caption="Weights on the simplex (dashed: equal shares) and R2 by seconds ahead.",
)
report.add_table(forecast_table.round(3), caption="Forecasts of a subject never trained on.")
report.add_heading("Inside the model")
report.add_figure(
    figure_of(draw_patching, 1, 1, (8, 2.6)),
    caption="A window with grip patched into a window at rest.",
)
report.add_patching(patched, caption="The same, in numbers.")
report.add_table(fractal_table.round(2), caption="Latents over the grid of time.")
report.save("quickstart.html")

# %%
seconds = time.perf_counter() - STARTED
print("\nSummary")
for title, verdict in verdicts.items():
    print(f"  {title}: {verdict}")
print(f"  source weights: {', '.join(f'{n} {w:.2f}' for n, w in weights.as_dict().items())}")
print(f"  report: {Path('quickstart.html').resolve()} ({seconds:.0f} s)")
assert weights.gap <= 1e-9
