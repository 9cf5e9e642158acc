# %% [markdown]
# # From spikes to the cap, and a whole brain that is fitted
#
# Three scales, one chain of gradients. First two areas spike, one of them in the wake of the other;
# their spikes become field potentials, and these what a cap of electrodes sees. Which of the
# measures of coupling finds the direction, and which only finds that a cap mixes its sources? Then
# a brain of 24 regions is simulated for 40 strengths of its connections at once: where does it fall
# into step? Last, one such brain is observed, and the strength of its connections is found again
# by gradient descent through the simulation.
#
# It takes less than a minute on one core and needs no network.

# %%
import math
import time

import matplotlib as mpl
import torch

from neuros_mechint.multiscale import (
    Coherence,
    GrangerCausality,
    LFPGenerator,
    MultiScaleBridge,
    VirtualBrainInterface,
    WeightedPhaseLagIndex,
    dipole_leadfield,
)

mpl.use("Agg")
from matplotlib import pyplot as plt

STARTED = time.perf_counter()
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## Spikes
#
# Two areas of 100 neurons fire at 20 Hz on average. The rate of area A follows a rhythm of about
# 10 Hz that drifts; area B follows the same rhythm 12 ms later. Each neuron is random for itself.

# %%
RATE, SECONDS, N_UNITS, LAG = 1000, 40, 100, 12
n = RATE * SECONDS
drift = 0.05 * torch.randn(n, generator=generator).cumsum(0)
turn = 2 * math.pi * 10 / RATE * torch.arange(n) + drift
rhythm = torch.stack([torch.cos(turn), torch.cos(turn.roll(LAG))])
chance = 0.02 * (1 + 0.8 * rhythm)[:, None].expand(2, N_UNITS, n)
spikes = (torch.rand(chance.shape, generator=generator) < chance).double()
print(f"{int(spikes.sum())} spikes, {float(spikes.mean()) * RATE:.1f} Hz")

# %% [markdown]
# ## Field potential and EEG
#
# Every area has one electrode that adds up its neurons. On the scalp, 16 sensors lie on a half
# circle of 9 cm around both areas, which point outwards 3 cm left and right of the middle. The
# medium has no borders: a skull would blur the picture even more.

# %%
bridge = MultiScaleBridge(
    lfp=LFPGenerator("biexponential", 10.0, weights=torch.full((1, N_UNITS), 1.0 / N_UNITS))
)
fields = bridge.spike_to_lfp(spikes, RATE).squeeze(-2)
fields = fields - fields.mean(-1, keepdim=True)
angle = torch.linspace(0, math.pi, 16, dtype=torch.float64)
sensors = 0.09 * torch.stack([angle.cos(), torch.zeros_like(angle), angle.sin()], -1)
sources = torch.tensor([[-0.03, 0.0, 0.03], [0.03, 0.0, 0.03]], dtype=torch.float64)
gain = dipole_leadfield(sources, sources / sources.norm(dim=-1, keepdim=True), sensors)
eeg = bridge.lfp_to_eeg(1e-6 * fields, gain, average_reference=True)
print(f"EEG of {eeg.shape[0]} sensors, {float(eeg.std()) * 1e6:.1f} uV")

# %% [markdown]
# ## Who leads?
#
# Coherence says that A and B share the rhythm, phase lag that they do so with a delay, Granger
# causality that A comes first. The share of surrogates with as much is its p-value. Either area
# sees the rhythm through the noise of its own spikes, so B tells a little about A as well: the
# direction is the larger of the two numbers.
#
# One source is enough to make sensors coherent: with area A alone every pair of sensors is, for
# they see the same. The phase lag is exactly 0 there, since mixing takes no time.

# %%
at_10 = 10 * 500 // RATE
coherence = Coherence(sampling_rate=RATE, segment=500)
lag_index = WeightedPhaseLagIndex(sampling_rate=RATE, segment=500)
shared = float(coherence.compute(fields).values[0, 1, at_10])
lagged = float(lag_index.compute(fields).values[0, 1, at_10])
# Every fifth sample: 8 of them reach 40 ms into the past.
causes = GrangerCausality(8).compute(fields[:, ::5], surrogates=99, generator=generator)
b_from_a, a_from_b = float(causes.values[1, 0]), float(causes.values[0, 1])
p = float(causes.p_values[1, 0])
print(f"areas: coherence {shared:.2f}, phase lag index {lagged:.2f} at 10 Hz")
print(f"Granger causality: B from A {b_from_a:.3f} (p {p:.3f}), A from B {a_from_b:.3f}")
one_source = bridge.lfp_to_eeg(1e-6 * fields[:1], gain[:, :1])
pairs = torch.triu_indices(16, 16, 1)
mixed = coherence.compute(one_source).values[pairs[0], pairs[1], at_10].min()
mixed_lag = lag_index.compute(one_source).values[pairs[0], pairs[1]].max()
print(f"sensors, A alone: coherence at least {float(mixed):.3f}, lag at most {float(mixed_lag)}")

# %% [markdown]
# ## A brain for 40 strengths at once
#
# 24 regions lie on a ring; each one is tied to its neighbours, the less the farther they are, with
# delays of up to 10 ms. Every region turns at its own pace around 10 Hz. The order parameter is 1
# when all phases agree and near 0 when they do not.

# %%
N_REGIONS = 24
place = torch.arange(N_REGIONS)
apart = (place[:, None] - place).abs()
apart = torch.minimum(apart, N_REGIONS - apart).double()
weights = torch.exp(-apart / 3) * (apart > 0)
weights = weights / weights.sum(1, keepdim=True)
brain = VirtualBrainInterface((weights, 5.0 * apart), speed=6.0)
pace = 2 * math.pi / 1000 * (10 + torch.randn(N_REGIONS, generator=generator, dtype=torch.float64))
brain.create_neural_mass_model("kuramoto", omega=pace)
start = 2 * math.pi * torch.rand(1, N_REGIONS, generator=generator, dtype=torch.float64)
strengths = torch.linspace(0, 0.04, 40, dtype=torch.float64)


def order(theta):
    """Order parameter over regions (..., region, time), mean over time."""
    return torch.polar(torch.ones_like(theta), theta).mean(-2).abs().mean(-1)


clock = time.perf_counter()
sweep = brain.simulate(2.0, coupling_strength=strengths, initial_state=start, transient=1.0)
synchrony = order(sweep["state"][:, 0])
took = time.perf_counter() - clock
print(f"{len(strengths)} brains, 3 s each, in {took:.1f} s")
print(f"order {float(synchrony[0]):.2f} without connections, {float(synchrony[-1]):.2f} at most")

# %% [markdown]
# ## The strength of a brain that was observed
#
# A brain of unknown strength is seen as the mean cosine of the phase difference of every pair of
# regions. Adam starts at twice the strength and follows the gradient through all steps of the run.

# %%
TRUTH = 0.02


def locking(found):
    """Mean cosine of the phase differences of the last 0.2 s, (region, region)."""
    theta = found["state"][0, :, -200:]
    return (theta[:, None] - theta).cos().mean(-1)


run = {"duration": 0.2, "transient": 0.3, "initial_state": pace[None] * 0}
observed = locking(brain.simulate(**run, coupling_strength=TRUTH))
fit = brain.fit(
    observed,
    loss=lambda found, target: (locking(found) - target).square().mean(),
    params=["coupling_strength"], coupling_strength=2 * TRUTH, lr=0.05, steps=25, **run,
)  # fmt: skip
recovered = float(fit.params["coupling_strength"])
print(f"strength {TRUTH} found as {recovered:.4f} from {2 * TRUTH}")

# %% [markdown]
# ## The picture

# %%
plt.rcParams.update({"font.size": 9, "axes.titlesize": 10})
INK, SOFT, BRAND, WARM = "#22252b", "#b9bcc2", "#2a6f97", "#c8553d"
figure, axes = plt.subplots(2, 3, figsize=(11, 6.2), layout="constrained")
window = slice(20_000, 20_600)
ms = torch.arange(600)
for area, colour in enumerate((BRAND, WARM)):
    unit, when = torch.nonzero(spikes[area, ::2, window], as_tuple=True)
    axes[0, 0].plot(when, unit + 50 * area, "|", color=colour, ms=2.5)
    axes[0, 1].plot(ms, fields[area, window], color=colour, label=f"area {'AB'[area]}")
axes[0, 0].set(title="Spikes of half the neurons", xlabel="ms", ylabel="neuron")
axes[0, 1].set(title="Field potentials", xlabel="ms", ylabel="a. u.", ylim=(None, 0.5))
axes[0, 1].legend(frameon=False, loc="upper right", ncols=2)
step = 3 * float(eeg.std()) * 1e6
for k in range(0, 16, 2):
    axes[0, 2].plot(ms, eeg[k, window] * 1e6 + step * k / 2, color=INK, lw=0.8)
axes[0, 2].set(title="EEG from ear to ear", xlabel="ms", ylabel="every second sensor", yticks=[])
axes[1, 0].bar([0, 1], [b_from_a, a_from_b], color=[BRAND, WARM], width=0.5)
axes[1, 0].set_xticks([0, 1], ["B from A", "A from B"])
axes[1, 0].set(title="Granger causality of the fields", ylabel="nats")
axes[1, 1].plot(strengths, synchrony, "o-", color=BRAND, ms=3)
axes[1, 1].set(title="40 brains at once", xlabel="coupling, 1/ms", ylabel="order parameter")
axes[1, 1].axvline(TRUTH, color=SOFT, lw=1)
axes[1, 2].semilogy(fit.loss.detach(), color=BRAND)
axes[1, 2].set(title=f"Strength found: {recovered:.4f}", xlabel="step", ylabel="loss")
for ax in axes.flat:
    ax.spines[["top", "right"]].set_visible(False)
figure.savefig("multiscale_modeling.png", dpi=110)
print(f"multiscale_modeling.png ({time.perf_counter() - STARTED:.0f} s)")
assert shared > 0.5
assert lagged > 0.9
assert b_from_a > 2 * a_from_b
assert p <= 0.01
assert float(mixed) > 0.999
assert float(mixed_lag) == 0
assert float(synchrony[0]) < 0.5 < 0.9 < float(synchrony[-1])
assert abs(recovered / TRUTH - 1) < 0.03
