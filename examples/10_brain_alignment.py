# %% [markdown]
# # Layers of a model beside a brain
#
# Five people rested in a scanner; 94 regions of each are among the recordings that ship with
# `neuros-data`. A small model learns in three of them to tell the right half of the brain from the
# left half. Then two questions in people it never saw. Do its layers move with the right
# hemisphere, and would layers of a model that learned nothing do so as well? Does its picture of
# which regions belong together reach the picture that people share?
#
# A score alone says little: slow signals resemble each other by chance, and people differ. So every
# score is printed beside its null, and where there are several people beside its noise ceiling.
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
from neuros_mechint.alignment import (
    CCA,
    CKA,
    RSA,
    AlignmentValidator,
    NoiseCeiling,
    RidgeAlignment,
)

mpl.use("Agg")
from matplotlib import pyplot as plt

STARTED = time.perf_counter()
torch.set_num_threads(1)
store = neuros_data.load_sample("fmri")
PEOPLE = [name for name in store.recordings if name.startswith("fmri_rest_NAP")]
TRAINED_ON, SEEN_LAST = PEOPLE[:3], PEOPLE[3:]

# %% [markdown]
# ## The data
#
# Regions alternate between the hemispheres. Every region is standardised within a person; the model
# reads three volumes (6 seconds) of the left regions.

# %%
PAST = 3


def halves(person: str) -> tuple[Tensor, Tensor]:
    """Left regions of the last volumes (time, 3 * 47), and right regions (time, 47)."""
    bold = torch.tensor(np.asarray(store.recordings[person].modalities["fmri"].data)).float()
    bold = (bold - bold.mean(0)) / bold.std(0)
    left, right = bold[:, 0::2], bold[:, 1::2]
    return left.unfold(0, PAST, 1).flatten(1), right[PAST - 1 :]


sides = {person: halves(person) for person in PEOPLE}
train_x = torch.cat([sides[p][0] for p in TRAINED_ON])
train_y = torch.cat([sides[p][1] for p in TRAINED_ON])
n_regions = train_y.shape[1]
print(f"{len(PEOPLE)} people, {n_regions} regions a side, {len(train_x)} volumes to train on")

# %% [markdown]
# ## The model, and one that learned nothing


# %%
def make_model() -> nn.Sequential:
    """Two hidden layers; the same random start every time."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(PAST * n_regions, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh(),
        nn.Linear(32, n_regions),
    )  # fmt: skip


untrained, model = make_model().eval(), make_model()
generator = torch.Generator().manual_seed(0)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
for _ in range(400):
    rows = torch.randint(len(train_x), (128,), generator=generator)
    noisy = train_x[rows] + 0.5 * torch.randn(128, PAST * n_regions, generator=generator)
    loss = (model(noisy) - train_y[rows]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.eval()
person = SEEN_LAST[-1]
x, y = sides[person]
with torch.no_grad():
    unseen = 1 - float((model(x) - y).square().mean() / y.square().mean())
print(f"R2 {1 - float(loss.detach()):.2f} in training, {unseen:.2f} in {person}, never seen")

# %% [markdown]
# ## Do its layers move with the right hemisphere?
#
# Rows are the volumes of a person the model never saw, so nothing here was fitted to them by the
# model. Neighbouring volumes resemble each other: the null re-orders blocks of 20 volumes, 40
# seconds. For comparison the p-value that forgets this is printed as well.
#
# CKA is the unbiased estimate. The canonical correlations and the ridge regression have parameters:
# what counts is their score on stretches of the recording that were not fitted. A resting brain
# does nothing twice, so there is no noise ceiling of single regions here: the R2 of the ridge is of
# all the variance, noise included.

# %%
LAYERS = {"hidden 1": "1", "hidden 2": "3", "output": "4"}
BLOCK = 20
cka = CKA(estimator="unbiased")
ridge = RidgeAlignment(alphas=(10.0, 100.0, 1e3, 1e4))


def activations(net: nn.Module) -> dict[str, Tensor]:
    """Activations of every layer, (time, units)."""
    cache = run(net, x, capture=[f"{site}:out" for site in LAYERS.values()]).cache
    return {name: cache[f"{site}:out"].double() for name, site in LAYERS.items()}


held_out = AlignmentValidator(CCA(5, reg=0.1), cv=5, block=BLOCK)


def mean_held_out(a: Tensor, b: Tensor) -> Tensor:
    """Mean canonical correlation of the volumes that were not fitted."""
    return held_out.cross_validate(a, b).mean


rows = []
for which, net in (("trained", model), ("untrained", untrained)):
    for layer, found in activations(net).items():
        for name, metric in (("CKA", cka), ("ridge R2", ridge)):
            test = AlignmentValidator(metric, n_perm=299, block=BLOCK).permutation_test(found, y)
            rows.append(
                {
                    "model": which,
                    "layer": layer,
                    "metric": name,
                    "score": float(test.statistic),
                    "null": float(test.null.mean()),
                    "null 95 %": float(test.null.quantile(0.95)),
                    "p": float(test.p_value),
                }
            )
        null = AlignmentValidator(mean_held_out, n_perm=99, block=BLOCK).permutation_test(found, y)
        rows.append(
            {
                "model": which,
                "layer": layer,
                "metric": "CCA held out",
                "score": float(null.statistic),
                "null": float(null.null.mean()),
                "null 95 %": float(null.null.quantile(0.95)),
                "p": float(null.p_value),
            }
        )
table = pd.DataFrame(rows).set_index(["metric", "model", "layer"]).sort_index()
print(table.round(3).to_string())

# %% [markdown]
# The right hemisphere of somebody else, recorded on another day, must not fit the model's output
# for this person. Single volumes as the unit of chance see an alignment all the same.

# %%
other = sides[SEEN_LAST[0]][1]
strangers = {}
for block in (None, BLOCK):
    validator = AlignmentValidator(cka, n_perm=999, block=block)
    stranger = validator.permutation_test(activations(model)["output"], other)
    strangers[block] = float(stranger.p_value)
print("CKA of the output with the brain of somebody else:")
print(f"  p {strangers[None]:.3f} with single volumes, {strangers[BLOCK]:.3f} with blocks")

# %% [markdown]
# ## Which is closer, the trained model or the other?
#
# Both are evaluated on the same draws of blocks.

# %%
compared = AlignmentValidator(cka, n_boot=299, block=BLOCK).compare(
    activations(model)["hidden 2"], activations(untrained)["hidden 2"], y
)
print(
    f"CKA of hidden 2, trained less untrained: {float(compared.difference):+.3f}, "
    f"95 % [{float(compared.low):+.3f}, {float(compared.high):+.3f}], "
    f"p {float(compared.p_value):.3f}"
)

# %% [markdown]
# ## Does it know which regions belong together?
#
# Now the conditions are the right regions, and the dissimilarity of two is one less the correlation
# of their signals. The matrix of one person predicts that of another only so far: the noise ceiling
# is the score of a person with the mean of the others (lower) and of all (upper). The model's
# matrix comes from the rows of its last layer, the weights with which each region is read out. The
# null re-orders the regions.

# %%
rsa = RSA(distance="correlation", compare="rho_a")
brains = torch.stack([rsa.rdm(sides[person][1].T) for person in PEOPLE])
ceiling = NoiseCeiling(compare="rho_a").compute(brains)
shared = {}
for which, net in (("trained", model), ("untrained", untrained)):
    rdm = rsa.rdm(net[4].weight.detach())
    unseen_people = brains[3:]
    scores = rsa.compare_rdms(rdm.expand_as(unseen_people), unseen_people)
    orders = torch.stack([torch.randperm(n_regions, generator=generator) for _ in range(999)])
    moved = torch.stack([rdm[order][:, order] for order in orders])
    null = torch.stack([rsa.compare_rdms(moved, one.expand_as(moved)) for one in unseen_people])
    null = null.mean(0)
    p = (1 + int((null >= scores.mean()).sum())) / 1000
    shared[which] = (float(scores.mean()), null, p)
    print(
        f"{which:>9}: rank correlation {float(scores.mean()):+.3f} with people never seen, null "
        f"{float(null.mean()):+.3f} +- {float(null.std()):.3f}, p {p:.3f}"
    )
print(f"noise ceiling {float(ceiling.lower):.3f} to {float(ceiling.upper):.3f} over 5 people")

# %% [markdown]
# ## The picture

# %%
plt.rcParams.update({"font.size": 9, "axes.titlesize": 10})
INK, SOFT, BRAND = "#22252b", "#b9bcc2", "#2a6f97"
figure, axes = plt.subplots(2, 3, figsize=(11, 6.2), layout="constrained")
for ax, metric in zip(axes[0], ["CKA", "CCA held out", "ridge R2"], strict=True):
    for which, colour in (("trained", BRAND), ("untrained", SOFT)):
        part = table.loc[(metric, which)].loc[list(LAYERS)]
        ax.plot(part["score"].tolist(), "o-", color=colour, label=which)
    ax.fill_between(range(3), 0, part["null 95 %"], color=INK, alpha=0.25, lw=0, label="null, 95 %")
    ax.set_xticks(range(3), list(LAYERS))
    ax.set(title=f"{metric} with the right hemisphere", ylabel=metric)
    ax.set_ylim(min(0.0, ax.get_ylim()[0]), None)
    ax.spines[["top", "right"]].set_visible(False)
axes[0, 0].legend(frameon=False)
pictures = [(brains[3:].mean(0), "Regions of two people never seen")]
pictures.append((rsa.rdm(model[4].weight.detach()), "Regions in the model's last layer"))
for ax, (matrix, title) in zip(axes[1], pictures, strict=False):
    image = ax.imshow(matrix.numpy(), cmap="viridis", vmin=0, vmax=1.4)
    ax.set(title=title, xlabel="region", ylabel="region")
    figure.colorbar(image, ax=ax, label="1 - correlation", shrink=0.8)
ax = axes[1, 2]
ax.axhspan(float(ceiling.lower), float(ceiling.upper), color=SOFT, alpha=0.6, lw=0)
ax.text(1.45, float(ceiling.upper) + 0.01, "noise ceiling", ha="right", color=INK)
for place, (which, (score, null, p)) in enumerate(shared.items()):
    ax.bar(place, score, color=BRAND if which == "trained" else SOFT, width=0.5)
    ax.plot([place - 0.3, place + 0.3], [float(null.quantile(0.95))] * 2, color=INK)
    ax.text(place, score + 0.02, f"p = {p:.3f}", ha="center")
ax.set_xticks(range(2), list(shared))
ax.set(title="Regions beside people never seen", ylabel="rank correlation", ylim=(-0.02, 0.9))
ax.spines[["top", "right"]].set_visible(False)
figure.savefig("brain_alignment.png", dpi=110)
print(f"brain_alignment.png ({time.perf_counter() - STARTED:.0f} s)")
assert bool((table["score"] > table["null 95 %"]).all())
assert bool((table.xs("trained", level="model")["p"] <= 0.01).all())
assert strangers[BLOCK] > 0.05
assert float(compared.low) > 0
assert float(ceiling.lower) > shared["trained"][0] > shared["untrained"][0] + 0.2
assert shared["trained"][2] <= 0.01
