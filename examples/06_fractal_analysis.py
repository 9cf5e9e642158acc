# %% [markdown]
# # Fractals in recordings and in a model
#
# Two questions about the recordings that ship with `neuros-data`. How rough are they, and how sure
# is that number? And a model that tells the back of a head from the front by two seconds of EEG:
# which time scales does it use, how does the roughness of its activations change while it learns,
# and does its attention follow the roughness of what it reads? With closed eyes the back of the
# head swings at 8 to 13 Hz, so the answer to the first of these is known.
#
# It takes less than a minute on one core and needs no network.

# %%
import time

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import neuros_data
from neuros_mechint import run
from neuros_mechint.fractals import (
    AttentionFractalCoupling,
    CausalScaleAblation,
    DetrendedFluctuationAnalysis,
    FractionalBrownianMotion,
    HiguchiFractalDimension,
    HurstExponent,
    LatentFDTracker,
    SpectralSlope,
    plot_fd_history,
    plot_loglog,
    plot_scale_ablation,
    plot_spectrum,
)

mpl.use("Agg")
from matplotlib import pyplot as plt

STARTED = time.perf_counter()
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
store = neuros_data.load_sample()

# %% [markdown]
# ## Rulers first
#
# Estimators are asked about signals whose answer is known: fractional Brownian motion of the length
# of the recordings. Its dimension is 2 - H, its increments have the exponent H.

# %%
N = 4096
for H in (0.3, 0.7):
    path = FractionalBrownianMotion().generate(
        N, H, batch=64, generator=generator, dtype=torch.float64
    )[:, 0]
    noise = path.diff()
    dimension = HiguchiFractalDimension().compute(path)
    alpha = DetrendedFluctuationAnalysis().compute(noise).alpha
    low, high = HurstExponent().confidence_interval(noise)
    covered = float(((low <= H) & (high >= H)).double().mean())
    print(
        f"H = {H}: dimension {dimension.mean():.2f} (2 - H = {2 - H:.1f}), DFA {alpha.mean():.2f}, "
        f"the interval of the Hurst exponent holds H in {covered:.0%} of 64 draws"
    )
    assert abs(float(dimension.mean()) - (2 - H)) < 0.02
    assert abs(float(alpha.mean()) - H) < 0.04

# %% [markdown]
# ## Five kinds of recordings
#
# A table, averaged over channels: the dimension of the signal's graph (ten samples of lag), the
# exponent of its fluctuations (windows up to a quarter of the recording), and the slope of its
# spectrum in one band. They look at different scales, so no one of them is "the" exponent: the
# muscle's bursts have a steep spectrum above 55 Hz and no memory at all over seconds.

# %%
RECORDINGS = {  # modality -> recording, band of the spectrum in Hz
    "eeg": ("eeg_eyes_closed", (2.0, 45.0)),
    "ecog": ("ecog_lfp_grip", (2.0, 45.0)),
    "lfp": ("ecog_lfp_grip", (2.0, 45.0)),
    "emg": ("emg_bursts", (55.0, 400.0)),
    "fmri": ("fmri_rest_28", (0.01, 0.2)),
}
rows = {}
for modality, (name, band) in RECORDINGS.items():
    signal = store.recordings[name].modalities[modality]
    x = torch.tensor(np.asarray(signal.data), dtype=torch.float64).T
    slope = SpectralSlope(fs=signal.rate, freq_range=band, fit="robust")
    rows[modality] = {
        "channels": len(x),
        "samples": x.shape[1],
        "rate (Hz)": round(signal.rate, 2),
        "Higuchi": float(HiguchiFractalDimension().compute(x).mean()),
        "DFA": float(DetrendedFluctuationAnalysis().compute(x).alpha.mean()),
        "beta": float(slope.compute(x).mean()),
    }
table = pd.DataFrame(rows).T
print(table.round(2).to_string())
assert table["Higuchi"].between(1.0, 2.0).all()

# %% [markdown]
# ## A model that reads two seconds of EEG
#
# Windows of single channels, standardised with the training stretch, from the back of the head and
# from its front. The model cuts a window into overlapping patches and lets one layer of attention
# compare them. The first 40 seconds are for training, the last 19 for the test.

# %%
eeg = store.recordings["eeg_eyes_closed"].modalities["eeg"]
FS, WIDTH = eeg.rate, 320
channels = list(eeg.channels)
BACK = [c for c in channels if c[0] == "O" or c[:2] == "PO" or c == "Iz"]
FRONT = [c for c in channels if c[:2] in {"Fp", "AF"}]
chosen = [channels.index(c) for c in BACK + FRONT]
signals = torch.tensor(np.asarray(eeg.data)[:, chosen].T, dtype=torch.float32)
N_TRAIN = int(40 * FS)
mean, std = signals[:, :N_TRAIN].mean(1, keepdim=True), signals[:, :N_TRAIN].std(1, keepdim=True)
signals = (signals - mean) / std
is_back = torch.arange(len(chosen)) < len(BACK)


def draw_windows(n: int) -> tuple[Tensor, Tensor]:
    """Training windows (n, time, 1) and whether they are from the back."""
    channel = torch.randint(len(chosen), (n,), generator=generator)
    start = torch.randint(N_TRAIN - WIDTH, (n,), generator=generator)
    at = start[:, None] + torch.arange(WIDTH)
    return signals[channel[:, None], at][..., None], is_back[channel].float()


tested = signals[:, int(42 * FS) :].unfold(1, WIDTH, WIDTH)  # (channel, window, time)
test_x = tested.reshape(-1, WIDTH, 1)
test_y = is_back.repeat_interleave(tested.shape[1]).float()
test_channel = torch.arange(len(chosen)).repeat_interleave(tested.shape[1])


class Reader(nn.Module):
    """Patches, one layer of attention, one layer of units, and a decision."""

    def __init__(self, width: int = 24, n_heads: int = 4) -> None:
        super().__init__()
        self.signal = nn.Identity()
        self.patches = nn.Conv1d(1, width, 32, stride=8)
        self.position = nn.Parameter(0.02 * torch.randn(37, width, generator=generator))
        self.attention = nn.MultiheadAttention(width, n_heads, batch_first=True)
        self.units = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 48), nn.GELU())
        self.decision = nn.Linear(48, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(self.signal(x).mT).mT + self.position
        mixed, _ = self.attention(tokens, tokens, tokens, average_attn_weights=False)
        return self.decision(self.units(tokens + mixed).mean(1))[:, 0]


torch.manual_seed(0)
model = Reader()

# %% [markdown]
# ## Its roughness while it learns
#
# A tracker in a `with` block measures two layers at every twentieth step and changes nothing.

# %%
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
loss_of = nn.functional.binary_cross_entropy_with_logits
layouts = {"patches": "bct", "units": "btc"}
with LatentFDTracker(model, layouts, every=20, layout=layouts) as tracker:
    for _ in range(400):
        x, y = draw_windows(64)
        loss = loss_of(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
model.eval()
with torch.no_grad():
    right = float(((model(test_x) > 0) == (test_y > 0)).double().mean())
history = tracker.to_frame()
print(f"{right:.0%} of {len(test_x)} test windows right, {time.perf_counter() - STARTED:.0f} s")
print(history.groupby("layer")["mean"].agg(["first", "last"]).round(3).to_string())

# %% [markdown]
# ## Which time scales does it use?
#
# One band after the other is taken out of what the model reads, and the logit of the right answer
# is measured. Windows of one channel resemble each other, so the interval counts channels. With
# random phases the band keeps its power and loses its shape in time: if that costs nothing, the
# model asks how strong the band is, not when.

# %%
BANDS = [(1.0, 4.0), (4.0, 8.0), (8.0, 13.0), (13.0, 30.0), (30.0, 58.0)]


def margin(logit: Tensor) -> Tensor:
    """Logit of the right answer, one value per row."""
    return logit * (2 * test_y - 1)


effects = {}
for mode in ("remove", "randomise"):
    probe = CausalScaleAblation(model, "signal", bands=BANDS, fs=FS, mode=mode)
    effects[mode] = probe.run(test_x, margin, clusters=test_channel, generator=generator)
scales = effects["remove"].to_frame()[["low", "high", "delta", "ci_low", "ci_high"]]
scales["random phases"] = effects["randomise"].delta.tolist()
print(scales.round(2).to_string(index=False))
strongest = int(effects["remove"].delta.argmin())

# %% [markdown]
# ## Does attention follow roughness?
#
# For every head: the rank correlation over windows of the entropy, the spectral dimension and the
# mean distance of its attention with the dimension of the window it looks at. Channels of one
# moment are not independent, so only one channel is read from each window, another one every time;
# neighbouring windows still resemble each other, which makes the p-values a little too small.

# %%
every = signals.unfold(1, WIDTH, WIDTH // 2)  # windows of one second's stride
picked = torch.arange(every.shape[1])
read = every[(7 * picked) % len(chosen), picked][..., None]
weights = run(model, read, capture=["attention:out.1"]).cache["attention:out.1"]
coupling = AttentionFractalCoupling()
found = coupling.compute(weights, read, generator=generator)
print(f"{len(read)} windows; correlation of each head's attention with roughness (adjusted p):")
for head, (r, p) in enumerate(zip(found.correlation, found.p_value, strict=True)):
    cells = [
        f"{name} {a:+.2f} ({b:.3f})" for name, a, b in zip(coupling.descriptors, r, p, strict=True)
    ]
    print(f"  head {head}: " + ", ".join(cells))

# %% [markdown]
# ## The picture

# %%
plt.rcParams.update({"font.size": 9, "axes.titlesize": 10})
figure, axes = plt.subplots(2, 3, figsize=(11, 6.4), layout="constrained")
rear = torch.tensor(np.asarray(eeg.data)[:, [channels.index(c) for c in BACK]].T).double()
options = {"fs": FS, "freq_range": (1.0, 45.0), "method": "welch", "nperseg": 480, "fit": "ols"}
whole = SpectralSlope(**options).fit(rear)
between = SpectralSlope(**options, exclude=((7.0, 25.0),)).fit(rear)  # the law without the peaks
plot_spectrum(between._replace(freqs=whole.freqs, psd=whole.psd), ax=axes[0, 0])
axes[0, 0].set_title(f"Back of the head, eyes closed: {axes[0, 0].get_title()}")
plot_loglog(*HiguchiFractalDimension(k_max=40).curve(rear), ax=axes[0, 1])
axes[0, 1].set(title="Length of the curve: no one law", xlabel="1 / lag", ylabel="length")
places = np.arange(len(table))
axes[0, 2].bar(places, table["Higuchi"] - 1, bottom=1.0, color="#2a6f97", width=0.6)
axes[0, 2].set_xticks(places, table.index)
axes[0, 2].set(title="Roughness of five recordings", ylabel="Higuchi dimension", ylim=(1, 2.1))
axes[0, 2].spines[["top", "right"]].set_visible(False)
plot_fd_history(history, ax=axes[1, 0])
axes[1, 0].set(title="Layers while the model learns", ylabel="Higuchi dimension")
plot_scale_ablation(effects["remove"], ax=axes[1, 1])
axes[1, 1].set(title="Without a band", ylabel="change of the right logit")
image = axes[1, 2].imshow(found.correlation.numpy(), cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
axes[1, 2].set_xticks(range(3), [name.replace("_", "\n") for name in coupling.descriptors])
axes[1, 2].set_yticks(range(len(found.correlation)))
axes[1, 2].set(title="Attention and roughness", ylabel="head")
figure.colorbar(image, ax=axes[1, 2], label="rank correlation")
figure.savefig("fractal_analysis.png", dpi=110)
print(f"fractal_analysis.png ({time.perf_counter() - STARTED:.0f} s)")
assert right > 0.75
assert BANDS[strongest] == (8.0, 13.0)
assert float(effects["remove"].ci[strongest, 1]) < 0
assert float(effects["randomise"].delta.abs().max()) < 0.2 * -float(effects["remove"].delta.min())
