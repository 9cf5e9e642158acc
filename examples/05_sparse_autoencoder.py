# %% [markdown]
# # Take a model's activations apart
#
# A small model has to pass twenty kinds of events through ten units, so that it lays them over
# each other: no unit means one event. Two sparse autoencoders are trained on those units from one
# forward, scored, and read: which event does each feature stand for, and what happens to the
# output when the feature goes? Here the answer is known, which is what makes it an example.
#
# It takes less than half a minute on one core and needs no network.

# %%
import shutil
import time
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import torch
from torch import Tensor, nn

from neuros_mechint import ActivationStore, Splice, run
from neuros_mechint.sae import (
    ConceptSAE,
    FeatureAnalyzer,
    MultiLayerSAETrainer,
    SAEVisualizer,
    SparseAutoencoder,
    evaluate_sae,
    interpret_features,
    mmcs,
)

mpl.use("Agg")
from matplotlib import pyplot as plt

STARTED = time.perf_counter()
N_EVENTS, WIDTH = 20, 10
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## A model in superposition
#
# Events are rare and between 0.5 and 1 in size. The model learns to give back what came in.


# %%
def draw_events(n: int) -> Tensor:
    """Rows of twenty events, each present in four of a hundred rows."""
    present = torch.rand(n, N_EVENTS, generator=generator) < 0.04
    return present * (0.5 + 0.5 * torch.rand(n, N_EVENTS, generator=generator))


class Bottleneck(nn.Module):
    """Twenty events through ten units."""

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.Linear(N_EVENTS, WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, N_EVENTS)
        with torch.no_grad():  # every event starts with a direction and with its readout
            directions = torch.randn(WIDTH, N_EVENTS, generator=generator)
            self.units.weight.copy_(nn.functional.normalize(directions, dim=0))
            self.out.weight.copy_(self.units.weight.T)

    def forward(self, events: Tensor) -> Tensor:
        return self.out(self.units(events)).relu()


model = Bottleneck()
optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
for _ in range(1500):
    events = draw_events(512)
    loss = (model(events) - events).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.eval()
true_directions = model.units.weight.detach().T  # one row per event
print(f"model trained, loss {loss.item():.5f}, {time.perf_counter() - STARTED:.0f} s")

# %% [markdown]
# ## Two coders from one forward
#
# Both read the output of `units`. The trainer runs the model once per batch for all coders.

# %%
batches = [draw_events(4096) for _ in range(100)]
coders = {
    "topk": SparseAutoencoder(
        latent_dim=WIDTH, dictionary_size=2 * N_EVENTS, activation="topk", k=3, generator=generator
    ),
    "relu": SparseAutoencoder(
        latent_dim=WIDTH, dictionary_size=2 * N_EVENTS, sparsity_coefficient=0.02,
        generator=generator,
    ),
}  # fmt: skip
trainer = MultiLayerSAETrainer(
    {"units": list(coders.values())},
    lr=3e-3,
    batch_size=512,
    revive="resample",
    generator=generator,
)
logs = trainer.train(model, batches, num_epochs=3)
print(f"{[log.steps for log in logs['units']]} steps, {time.perf_counter() - STARTED:.0f} s")

# %% [markdown]
# ## Held-out scores
#
# The activations of new events go to disk once and are read by every evaluation. Loss recovered
# asks the model: 1 when it works as well on reconstructions, 0 when it might as well get nothing.

# %%
held_out = [draw_events(2048) for _ in range(8)]
shutil.rmtree("activations", ignore_errors=True)
store = ActivationStore.collect(model, held_out, ["units"], "activations", shard_size=4096)


def error(output: Tensor, batch: Tensor) -> Tensor:
    """Squared error of the model's output, one value per row."""
    return (output - batch).square().sum(-1)


scores = {
    name: evaluate_sae(coder, held_out, model, "units", error) for name, coder in coders.items()
}
for name, score in scores.items():
    found = mmcs(true_directions, coders[name].dictionary)
    print(
        f"{name}: L0 {score.l0:.2f}, variance explained {score.explained_variance:.3f}, loss "
        f"recovered {score.loss_recovered:.3f}, cosine with the true directions {found:.3f}"
    )
best = max(coders, key=lambda name: mmcs(true_directions, coders[name].dictionary))
coder = coders[best]

# %% [markdown]
# ## What a feature stands for
#
# For every event, the feature whose direction is nearest. Its strongest inputs hold the event, and
# one unit of the feature changes the output of that event most.

# %%
directions = nn.functional.normalize(true_directions, dim=1)
cosines = directions @ nn.functional.normalize(coder.dictionary.detach(), dim=1).T
feature_of = cosines.argmax(1).tolist()
reports = interpret_features(coder, feature_of, model, held_out, 8, site="units", readout="out")
right_inputs = [
    all(x[event] > 0 for x in report.top_inputs) for event, report in enumerate(reports)
]
right_outputs = [int(report.readout.argmax()) == event for event, report in enumerate(reports)]
print(f"{sum(right_inputs)} of {N_EVENTS} features: every strongest input holds the event")
print(f"{sum(right_outputs)} of {N_EVENTS} features: the event's output changes most")

# %% [markdown]
# ## What a feature does
#
# Spliced in with its error kept, the coder leaves the output as it was, and the features become
# places where gradients arrive and single values can be removed.

# %%
events = draw_events(256)
with torch.no_grad():
    spliced = run(model, events, edits={"units": Splice(coder, keep_error=True)}).output
    moved = float((spliced - model(events)).abs().max())
analyzer = FeatureAnalyzer(coder, model, "units")


def effect_on(event: int) -> pd.DataFrame:
    """What the mean output of one event loses with each feature."""
    return analyzer.ablate(events, lambda output: output[:, event])


target = 0
attributed = analyzer.attribute(events, lambda output: output[:, target])
ablated = effect_on(target)
print(f"the splice moves the output by at most {moved:.1e}")
print(f"event {target}: attribution names feature {attributed.feature[0]}, ablation "
      f"{ablated.feature[0]}, the nearest direction {feature_of[target]}")  # fmt: skip
largest = [int(effect_on(event).feature[0]) for event in range(N_EVENTS)]
same = sum(a == b for a, b in zip(largest, feature_of, strict=True))
print(f"{same} of {N_EVENTS} events: removing the nearest feature hurts most")

# %% [markdown]
# ## Named concepts
#
# A `ConceptSAE` is trained without labels and then told, on a few of them, which feature is which.

# %%
concept_coder = ConceptSAE(
    latent_dim=WIDTH, levels=[N_EVENTS, 2 * N_EVENTS], activation="topk", k=3,
    concepts=[f"event {k}" for k in range(N_EVENTS)], generator=generator,
)  # fmt: skip
concept_coder.fit(
    store, steps=1500, batch_size=512, lr=3e-3, revive="resample", generator=generator
)
labelled = draw_events(2000)
with torch.no_grad():
    alignment = concept_coder.align(
        concept_coder.encode(model.units(labelled)), (labelled > 0).long()
    )
    fresh = draw_events(2000)
    told = concept_coder.concept_score(model.units(fresh)) > 0.5
agreement = float((told == (fresh > 0)).double().mean())
print(f"aligned features detect their events with an area of {float(alignment.auc.mean()):.3f}")

# %% [markdown]
# ## The picture and the page

# %%
plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
units = nn.functional.normalize(true_directions, dim=1)
axes[0].imshow((units @ units.T).numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
axes[0].set(title="Events share directions, in opposite pairs", xlabel="event", ylabel="event")
axes[1].imshow(cosines[:, feature_of].numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
axes[1].set(title="Each has a feature", xlabel="feature of event", ylabel="event")
effects = torch.zeros(N_EVENTS, N_EVENTS)
for event in range(N_EVENTS):
    by_feature = effect_on(event).set_index("feature")["effect"]
    effects[event] = torch.tensor([float(by_feature.get(k, 0.0)) for k in feature_of])
image = axes[2].imshow(-effects.numpy(), cmap="Blues", vmin=0)
axes[2].set(title="Output lost with a feature", xlabel="feature of event", ylabel="output")
for ax in axes:
    ax.set(xticks=range(0, N_EVENTS, 5), yticks=range(0, N_EVENTS, 5))
figure.colorbar(image, ax=axes[2])
figure.savefig("sparse_autoencoder.png", dpi=110)

page = SAEVisualizer(coder).dashboard(
    Path("sparse_autoencoder.html"),
    reports,
    data=store,
    metrics=scores[best],
    outputs=[f"event {k}" for k in range(N_EVENTS)],
    title=f"Features of twenty events ({best})",
)
print(f"{page}, sparse_autoencoder.png ({time.perf_counter() - STARTED:.0f} s)")
assert moved < 1e-5
assert mmcs(true_directions, coder.dictionary) > 0.95
assert agreement > 0.98
assert same >= 18
