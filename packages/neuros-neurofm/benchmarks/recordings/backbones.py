"""Three backbones and two kinds of spike tokens, trained alike: which one reads spikes better?

Usage: python packages/neuros-neurofm/benchmarks/recordings/backbones.py [--steps N] [--seeds ...]

Every combination has the parameters of the others (the state of Mamba-2 and the feed-forward layers
of the transformer are sized for that), sees the same windows for the same number of steps, and is
chosen by the same validation blocks. A subject is a recording: models are trained on each alone.
The table is written into docs/backbones.md.
"""

import argparse
import itertools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from protocol import alternating_blocks
from torch import Generator, Tensor, nn
from tqdm import tqdm

import neuros_data
from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.datasets import synthetic_population
from neuros_neurofm.evaluation import (
    Blocks,
    Session,
    WienerDecoder,
    contiguous_blocks,
    decode,
    fit_decoder,
    r2_score,
)
from neuros_neurofm.models.mamba import MambaBackbone

BACKBONES = ("mamba2", "fractional", "transformer")
TOKENS = ("counts", "events")
WIDTH = 32
PAGE = Path(__file__).parents[4] / "docs" / "backbones.md"


class Subject(NamedTuple):
    """A recording, and the seconds that a model reads at once."""

    group: str
    session: Session
    window: float


class CausalTransformer(nn.Module):
    """Pre-norm transformer layers in which a step attends to itself and the steps before it."""

    def __init__(self, d_model: int, n_layers: int, d_feedforward: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                d_model, 4, d_feedforward, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(n_layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
        for layer in self.layers:
            x = layer(x, src_mask=mask)
        return x


def n_weights(module: nn.Module) -> int:
    """Trainable numbers."""
    return sum(p.numel() for p in module.parameters())


def make_model(backbone: str, tokens: str, subject: Subject, seed: int) -> MultiModalNeuroFMX:
    """An untrained model, whose backbone has the parameters of the fractional blocks."""
    session = subject.session
    torch.manual_seed(seed)
    model = MultiModalNeuroFMX(
        WIDTH,
        2,
        round(subject.window * session.rate / 2),
        WIDTH,
        modalities=("spike",),
        behavior_dim=session.n_targets,
        window=subject.window,
        sampling_rates={"spike": session.rate},
        spike_mode=tokens,
        perceiver_depth=1,
        popt_depth=1,
        dropout=0.0,
        ssm="fractional" if backbone == "fractional" else "mamba2",
    )
    budget = n_weights(MambaBackbone(WIDTH, 2, version="fractional", headdim=64))
    if backbone == "mamba2":
        # The default state of 64 would be a third more; 28 numbers per channel meet the budget.
        model.backbone = MambaBackbone(WIDTH, 2, d_state=28, headdim=64)
    if backbone == "transformer":
        # Attention and norms are given, the feed-forward width takes up the rest.
        bare = n_weights(CausalTransformer(WIDTH, 2, 1))
        per_unit = n_weights(CausalTransformer(WIDTH, 2, 2)) - bare
        model.backbone = CausalTransformer(WIDTH, 2, 1 + round((budget - bare) / per_unit))
    model.add_units("spike", (session.units or {})["spike"])
    return model


def synthetic_subjects() -> Iterator[Subject]:
    """Three Lorenz-driven populations of 30 units."""
    recorded = synthetic_population(3, 30, generator=Generator().manual_seed(0), n_trials=80)
    for each in recorded:
        n_trials, n_times, n_units = each.counts.shape
        trials = tuple(slice(k * n_times, (k + 1) * n_times) for k in range(n_trials))
        blocks = Blocks(trials[:48], trials[48:60], trials[60:])
        session = Session(
            {"spike": each.counts.numpy().reshape(-1, n_units)},
            each.latents.numpy().reshape(n_trials * n_times, -1),
            50.0,
            blocks,
            f"population {each.session}",
            {"spike": each.ids},
        )
        yield Subject("Lorenz populations, 3 states", session, 2.0)


def grasshopper_subjects() -> Iterator[Subject]:
    """Two auditory receptors: the envelope of the sound from the spikes of one cell."""
    store = neuros_data.load_sample("spike")
    rate = 200.0
    for name in ("grasshopper_1", "grasshopper_2"):
        recording = store.recordings[name]
        times = recording.modalities["spike"].times
        envelope = recording.behaviour["envelope"]
        n_bins = int(np.floor(recording.duration * rate))
        counts = np.histogram(times, np.arange(n_bins + 1) / rate)[0][:, None].astype(float)
        step = round(envelope.rate / rate)
        sound = np.asarray(envelope.data)[: n_bins * step, 0].reshape(n_bins, step).mean(axis=1)
        # The cell answers a few milliseconds late: the sound of 10 ms ago.
        target = np.concatenate([np.full(2, np.nan), sound[:-2]])
        blocks = contiguous_blocks(n_bins, ratios=(0.6, 0.15, 0.25), gap=64)
        units = {"spike": [name]}
        session = Session({"spike": counts}, target, rate, blocks, name, units)
        yield Subject("grasshopper receptors, sound envelope", session, 0.32)


def hippocampus_subjects(folder: Path) -> Iterator[Subject]:
    """One rat on a linear track: where it is while it runs."""
    with np.load(folder / "hippocampus_track" / "linear_track.npz") as data:
        arrays = {name: data[name] for name in data.files}
    rate = 20.0
    clock, place = arrays["position_times"], arrays["position_xy"].astype(float)
    n_bins = int((clock[-1] - clock[0]) * rate)
    edges = clock[0] + np.arange(n_bins + 1) / rate
    n_units = int(arrays["n_units"])
    counts = np.stack(
        [
            np.histogram(arrays["spike_times"][arrays["spike_units"] == unit], edges)[0]
            for unit in range(n_units)
        ],
        axis=1,
    ).astype(float)
    seen = np.isfinite(place).all(axis=1) & (place > 0).all(axis=1)
    xy = np.stack([np.interp(edges[1:], clock[seen], place[seen, k]) for k in range(2)], axis=1)
    speed = np.linalg.norm(np.gradient(xy, axis=0), axis=1) * rate
    running = np.convolve(speed, np.ones(10) / 10, "same") > 30.0  # pixels per second
    target = np.where(running[:, None], xy, np.nan)
    blocks = alternating_blocks(n_bins, n_rounds=6, gap=40)
    units = {"spike": [f"u{unit}" for unit in range(n_units)]}
    session = Session({"spike": counts}, target, rate, blocks, "linear track", units)
    yield Subject("rat hippocampus, position while running", session, 2.0)


def score(subject: Subject, predicted: np.ndarray) -> float:
    """R2 of the scored samples of the test blocks."""
    session = subject.session
    kept = np.concatenate([session.scored()[block] for block in session.blocks.test])
    truth = np.concatenate([part.targets for part in session.part("test")])
    return r2_score(truth[kept], predicted[kept])


def linear_score(subject: Subject) -> float:
    """Wiener filter over the model's window, of at most 2000 regressors."""
    session = subject.session
    x, targets, known = session.inputs["spike"], session.targets, session.scored()
    n_lags = min(round(subject.window * session.rate), 2000 // x.shape[1])
    runs = []
    for block in session.blocks.train:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], known[block], [0]])))
        runs += [block.start + edge for edge in edges.reshape(-1, 2)]
    decoder = WienerDecoder(n_lags)
    decoder.fit([x[a:b] for a, b in runs], [targets[a:b] for a, b in runs])
    return score(subject, np.concatenate([decoder.predict(x[b]) for b in session.blocks.test]))


def interval(values: np.ndarray) -> str:
    """Mean over subjects and seeds; 95 % interval from subjects drawn with replacement."""
    by_subject = values.mean(axis=1)
    if len(by_subject) == 1:
        return f"{by_subject[0]:.3f}"
    if len(by_subject) < 3:
        return f"{by_subject.mean():.3f} ({by_subject.min():.3f} to {by_subject.max():.3f})"
    draws = np.random.default_rng(0).integers(len(by_subject), size=(2000, len(by_subject)))
    low, high = np.quantile(by_subject[draws].mean(axis=1), [0.025, 0.975])
    return f"{by_subject.mean():.3f} [{low:.3f}, {high:.3f}]"


def table(subjects: Sequence[Subject], steps: int, seeds: Sequence[int]) -> list[str]:
    """Train everything and write one row per combination."""
    choices = list(itertools.product(BACKBONES, TOKENS))
    scores = np.full((len(choices), len(subjects), len(seeds)), np.nan)
    seconds = np.zeros(len(choices))
    sizes = []
    work = list(itertools.product(enumerate(choices), enumerate(subjects), enumerate(seeds)))
    for (c, choice), (s, subject), (k, seed) in tqdm(work, disable=not sys.stderr.isatty()):
        model = make_model(*choice, subject, seed)
        if s == k == 0:
            sizes.append(n_weights(model.backbone))
        start = time.perf_counter()
        fit_decoder(
            model,
            subject.session,
            steps=steps,
            batch_size=16,
            learning_rate=4e-3,
            validate_every=max(steps // 6, 1),
            generator=Generator().manual_seed(seed),
        )
        seconds[c] += time.perf_counter() - start
        scores[c, s, k] = score(subject, decode(model, subject.session))
    groups = list(dict.fromkeys(subject.group for subject in subjects))
    members = {g: [i for i, subject in enumerate(subjects) if subject.group == g] for g in groups}
    lines = [
        "| backbone | tokens | parameters | "
        + " | ".join(groups)
        + " | minus Mamba-2, counts | s |",
        "|---|---|---|" + "---|" * (len(groups) + 2),
    ]
    for c, (backbone, tokens) in enumerate(choices):
        cells = [interval(scores[c, members[group]]) for group in groups]
        gain = "-" if c == 0 else interval(scores[c] - scores[0])
        runs = len(subjects) * len(seeds)
        lines.append(
            f"| {backbone} | {tokens} | {sizes[c]} | {' | '.join(cells)} | {gain} "
            f"| {seconds[c] / runs:.0f} |"
        )
    linear = {g: np.array([[linear_score(subjects[i])] for i in members[g]]) for g in groups}
    cells = [interval(linear[group]) for group in groups]
    return [*lines, f"| Wiener filter | counts | | {' | '.join(cells)} | | |"]


def main() -> int:
    """Run the comparison and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    settings = parser.parse_args()
    torch.set_num_threads(1)
    subjects = [*synthetic_subjects(), *grasshopper_subjects()]
    folder = os.environ.get("NEUROS_RECORDINGS")
    if folder:
        subjects += hippocampus_subjects(Path(folder))
    rows = table(subjects, settings.steps, settings.seeds)
    text = [
        "# Backbones and tokens",
        "",
        "Written by packages/neuros-neurofm/benchmarks/recordings/backbones.py; not by hand.",
        "",
        f"R2 on test blocks. {len(settings.seeds)} seeds a recording, {settings.steps} steps of 16",
        "windows each, width 32, two layers, one thread, the weights of the least validation loss.",
        "Brackets: 95 % interval from recordings drawn with replacement; round brackets: both of",
        "two recordings. The last but one column: mean paired difference over all recordings;",
        "an interval that holds 0 shows no difference.",
        "",
        *rows,
        "",
        "- `mamba2` and `fractional`: `MultiModalNeuroFMX(ssm=...)`, the former with a state of 28",
        "  for equal size. `transformer`: causal layers in the backbone's place, for this page.",
        "- `counts`: one token per bin. `events`: one token per spike.",
        "- Wiener filter: ridge regression on the counts of as many lags as the window has bins.",
    ]
    PAGE.write_text("\n".join(text) + "\n")
    print("\n".join(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
