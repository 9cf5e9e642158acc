# %% [markdown]
# # Learn under the constraints of biology
#
# Two networks learn a task while every neuron keeps one sign: what it sends either excites or
# inhibits, on all its targets. That is Dale's law, and it holds for columns of the weights, which
# belong to the sender. The first network spikes: 256 neurons tell which of two cues came first.
# The second has rates: it adds up noisy evidence. After every step of the optimiser the share of
# weight with the wrong sign is measured. A third network, the same but free, says what the
# constraint costs and what the law looks like when nothing enforces it.
#
# It takes less than a minute on one core and needs no network.

# %%
import time
from functools import partial

import matplotlib as mpl
import torch
from torch import nn

from neuros_mechint.biophysical import (
    DalesLawConstraint,
    RecurrentDalesNetwork,
    SpikingNeuralNetwork,
)

mpl.use("Agg")
from matplotlib import pyplot as plt

STARTED = time.perf_counter()
torch.set_num_threads(1)
N_NEURONS, N_STEPS, CUE, GAP = 256, 60, 15, 10


# %% [markdown]
# ## Which cue came first? Spikes
#
# Ten input channels carry cue A, ten cue B: Poisson spikes at 200 Hz for 15 ms. A pause of 10 ms
# lies between them, so the order has to be kept in the network.


# %%
def cues(n_trials, generator):
    """Input spikes (trial, ms, channel), and which cue came first."""
    first = torch.randint(2, (n_trials,), generator=generator)
    rate = torch.full((n_trials, N_STEPS, 20), 0.005)
    for at, cue in ((5, first), (5 + CUE + GAP, 1 - first)):
        on = torch.zeros(n_trials, 20)
        on.scatter_(1, 10 * cue[:, None] + torch.arange(10), 0.2)
        rate[:, at : at + CUE] += on[:, None]
    return (torch.rand(rate.shape, generator=generator) < rate).float(), first


def train(network, draw, loss_of, n_updates, learning_rate, generator):
    """Wrong-signed share of the recurrent weights after every update."""
    law = DalesLawConstraint(network.recurrent_weight.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    wrong = []
    for _ in range(n_updates):
        x, y = draw(generator)
        loss = loss_of(network, x, y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        wrong.append(law.violation(network.recurrent_weight.detach()))
    return wrong


def order_loss(network, x, first):
    """Cross-entropy of the readout over the last 5 ms, and a price on silence and on storms."""
    found = network(x)
    rates = found.spikes.mean((0, 1))
    price = (0.02 - rates).relu().sum() + (rates - 0.2).relu().sum()
    return nn.functional.cross_entropy(found.output[:, -5:].mean(1), first) + 0.1 * price


spiking = {}
for name, obeys in (("Dale's law", True), ("free", False)):
    generator = torch.Generator().manual_seed(0)
    network = SpikingNeuralNetwork(
        N_NEURONS, "lif", enforce_dales=obeys, n_inputs=20, n_outputs=2, generator=generator,
        neuron_kwargs={"tau_mem": 20.0},
    )  # fmt: skip
    wrong = train(network, partial(cues, 32), order_loss, 45, 1e-2, generator)
    x, first = cues(500, torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = network(x)
    right = (found.output[:, -5:].mean(1).argmax(1) == first).float().mean().item()
    spiking[name] = (network, right, wrong, found)
    print(f"spiking, {name}: {right:.3f} right, largest share of wrong sign {max(wrong):.4f}")

# %% [markdown]
# ## Which side had more evidence? Rates
#
# Two channels of noise around means that differ by the evidence; the network answers after 400 ms.
# A hundred units with a time constant of 100 ms: one sample of 20 ms says little, so they have to
# add up.

# %%
N_SAMPLES, NOISE = 20, 1.0


def evidence(n_trials, generator, strength=None):
    """Samples (trial, time, side), and the stronger side: 0 is the left one."""
    if strength is None:
        strength = 0.8 * torch.rand(n_trials, generator=generator) - 0.4
    mean = 0.5 + 0.5 * torch.stack([strength, -strength], -1)
    noise = torch.randn(n_trials, N_SAMPLES, 2, generator=generator)
    return mean[:, None] + NOISE * noise, (strength < 0).long()


def choice_loss(network, u, side):
    """Cross-entropy of the two outputs over the last 100 ms."""
    return nn.functional.cross_entropy(network(u).output[:, -5:].mean(1), side)


generator = torch.Generator().manual_seed(2)
rates = RecurrentDalesNetwork(2, 100, 2, generator=generator)
wrong_rates = train(rates, partial(evidence, 128), choice_loss, 400, 1e-3, generator)
strengths = torch.linspace(-0.4, 0.4, 9)
chosen, ideal = [], []
for strength in strengths:
    u, _ = evidence(400, torch.Generator().manual_seed(3), strength.expand(400))
    with torch.no_grad():
        picked = rates(u).output[:, -5:].mean(1).argmax(1)
    chosen.append((picked == 0).float().mean().item())
    # Nothing can do better than to compare the sums of all samples.
    ideal.append((u.sum(1)[:, 0] > u.sum(1)[:, 1]).float().mean().item())
strong = abs(chosen[-1] - chosen[0])
print(f"rates: left at the strongest evidence {chosen[-1]:.2f}, right {1 - chosen[0]:.2f}")
print(f"rates: largest share of wrong sign {max(wrong_rates):.4f}")

# %% [markdown]
# ## The picture

# %%
plt.rcParams.update({"font.size": 9, "axes.titlesize": 10})
blue, red, grey = "#2a6f97", "#a44a3f", "#777777"
figure, axes = plt.subplots(1, 4, figsize=(15, 3.8), layout="constrained")
network, right, wrong, found = spiking["Dale's law"]
at, unit = torch.nonzero(found.spikes[0], as_tuple=True)
excites = unit < network.n_exc
for which, colour, label in ((excites, blue, "excite"), (~excites, red, "inhibit")):
    axes[0].scatter(at[which], unit[which], s=2, color=colour, lw=0, label=label)
for start in (5, 5 + CUE + GAP):
    axes[0].axvspan(start, start + CUE, color=grey, alpha=0.15, lw=0)
axes[0].set(title="One trial; grey: the two cues", xlabel="ms", ylabel="neuron")
axes[0].legend(frameon=False, markerscale=4, loc="upper left")
weights = network.recurrent_weight.detach()
limit = float(weights.abs().quantile(0.98))
axes[1].imshow(weights.numpy(), cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest")
axes[1].set(title="Weights after learning: one sign a column", xlabel="sender", ylabel="receiver")
for name, colour in (("Dale's law", blue), ("free", red)):
    share = [100 * each for each in spiking[name][2]]
    axes[2].plot(range(1, len(share) + 1), share, color=colour, lw=2, label=name)
axes[2].set(title="Weight of the wrong sign", xlabel="update", ylabel="% of all weight")
axes[2].legend(frameon=False)
axes[3].plot(strengths, chosen, "o-", color=blue, label="network of rates")
axes[3].plot(strengths, ideal, color=grey, lw=1, label="sum of all samples")
axes[3].set(title="Evidence is added up", xlabel="evidence for left", ylabel="chose left")
axes[3].legend(frameon=False)
for ax in (axes[0], *axes[2:]):
    ax.spines[["top", "right"]].set_visible(False)
figure.savefig("biophysical_constraints.png", dpi=110)
print(f"biophysical_constraints.png ({time.perf_counter() - STARTED:.0f} s)")
assert right >= 0.95
assert max(wrong) == max(wrong_rates) == 0.0 < max(spiking["free"][2])
assert strong > 0.8 * (ideal[-1] - ideal[0])
