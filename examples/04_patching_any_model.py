# %% [markdown]
# # Patch any model
#
# Three models answer the same kind of question: where, and when, does a model hold what it will
# need later? A small transformer and a state-space model (Mamba) are trained to remember one token
# of a sequence, and the multimodal model of `neuros-neurofm` reads spikes and field potentials. One
# class patches all three: activations of a clean run are put into a corrupted run, one layer and
# one time step at a time, and the share of the difference that comes back is drawn.
#
# It takes less than a minute on one core and needs no network. The third model is not trained: what
# is shown there is which steps *can* matter, not what a trained model does with them.

# %%
import time

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor, nn

from neuros_mechint.activations import sites
from neuros_mechint.interventions import (
    AttentionPatcher,
    ResidualStreamPatcher,
    attribution_patching,
    logit_difference,
)
from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.models import MambaBackbone

mpl.use("Agg")
from matplotlib import pyplot as plt

STARTED = time.perf_counter()
torch.set_num_threads(1)
torch.manual_seed(0)

# %% [markdown]
# ## A task with one fact to carry
#
# Twelve tokens: digits 0 to 7, somewhere a mark, and a question mark at the end. The answer is the
# digit after the mark. Corrupted sequences differ from clean ones in that digit alone.

# %%
MARK, ASK, N_TIME = 8, 9, 12


def sequences(n: int, at: Tensor | int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens (n, 12) and answers (n,), with the mark at the given positions."""
    tokens = torch.randint(0, 8, (n, N_TIME), generator=generator)
    rows = torch.arange(n)
    tokens[rows, at] = MARK
    tokens[:, -1] = ASK
    return tokens, tokens[rows, torch.as_tensor(at) + 1]


class Block(nn.Module):
    """Causal attention and an MLP, each added to the residual stream."""

    n_heads = 2

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(width), Attention(width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm(x))
        return x + self.mlp(x)


class Attention(nn.Module):
    """Two heads of causal attention with an output projection."""

    n_heads = 2

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """The shape of GPT-2 with three blocks."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(10, width), nn.Embedding(N_TIME, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position.weight
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Scan(nn.Module):
    """Three Mamba blocks between an embedding and a readout.

    Each is a backbone of one block, so that the stream between two blocks leaves a module.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, width)
        self.blocks = nn.Sequential(
            *(MambaBackbone(width, 1, d_state=16, headdim=16) for _ in range(3))
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(tokens))))


def train(model: nn.Module, steps: int) -> nn.Module:
    """Train until the last position answers; the mark is anywhere before it."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        at = torch.randint(0, N_TIME - 2, (64,), generator=generator)
        tokens, answers = sequences(64, at, generator)
        loss = nn.functional.cross_entropy(model(tokens)[:, -1], answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokens, answers = sequences(500, 3, generator)
    right = (model(tokens)[:, -1].argmax(-1) == answers).double().mean().item()
    print(f"{type(model).__name__}: {right:.0%} right, {time.perf_counter() - STARTED:.0f} s")
    return model.eval()


transformer, scan = train(Transformer(), 200), train(Scan(), 160)

# %% [markdown]
# ## Where is the digit?
#
# The mark is at step 3, so the digit is at step 4. Before the first block, step 4 carries all of
# the difference; after the last one, the last step has to. In between, the picture shows which
# block moved it. The patcher finds the blocks of both models by their structure: attention and
# scan need no code of their own.

# %%
clean, right = sequences(32, 3, torch.Generator().manual_seed(2))
corrupted = clean.clone()
wrong = (right + 1 + torch.arange(32) % 7) % 8
corrupted[:, 4] = wrong
metric = logit_difference(right, wrong)


def carried(patcher: ResidualStreamPatcher) -> np.ndarray:
    """Share of the difference that each layer (rows) holds at each step (columns)."""
    table = patcher.systematic_patching(None, clean, corrupted, metric, positions=range(N_TIME))
    return table["recovery"].to_numpy().reshape(-1, N_TIME)


def with_entry(model: nn.Module) -> ResidualStreamPatcher:
    """The stream where it enters the first block, and after every block."""
    after = ResidualStreamPatcher(model).sites
    return ResidualStreamPatcher(model, sites=["blocks.0:in", *after])


of_transformer, of_scan = carried(with_entry(transformer)), carried(with_entry(scan))
for name, held in {"transformer": of_transformer, "Mamba": of_scan}.items():
    print(name, "holds the digit at step 4:", [f"{x:.2f}" for x in held[:, 4].tolist()])
    print(name, "holds it at the last step:", [f"{x:.2f}" for x in held[:, -1].tolist()])

# %% [markdown]
# Which head moved it? Heads are parts of the input of the output projection; the patcher finds them
# by the structure of the model. Attribution patching estimates all of them from three forwards
# and one backward.

# %%
attention = AttentionPatcher(transformer)
heads = attention.systematic_patching(None, clean, corrupted, metric, heads=[0, 1])
estimate = attribution_patching(
    transformer, clean, corrupted, metric, heads["layer"].unique(), heads=[0, 1], n_heads=2
)
heads["estimate"] = estimate["recovery"]
print(heads[["layer", "head", "recovery", "estimate"]].round(2).to_string(index=False))

# %% [markdown]
# ## Spikes and field potentials
#
# The input of this model is a dict of modalities. Clean and corrupted windows differ in the field
# potential of the second half. All that the decoder knows goes through the fused tokens, and later
# through the output of the backbone, so that patching all steps of either restores everything. What
# one Mamba block writes is a part of that. Along the steps of the scan nothing comes back before
# the difference begins, because the model is causal.

# %%
N_STEPS = 10
model = MultiModalNeuroFMX(
    32,
    2,
    N_STEPS,
    16,
    modalities=("spike", "lfp"),
    behavior_dim=1,
    window=0.4,
    sampling_rates={"spike": 250.0, "lfp": 250.0},
    patches={"spike": 0.04, "lfp": 0.04},
    perceiver_depth=1,
    popt_depth=1,
).eval()
generator = torch.Generator().manual_seed(3)
spikes = torch.poisson(torch.full((4, 100, 6), 0.3), generator=generator)
lfp = torch.randn(4, 100, 3, generator=generator)
changed = lfp.clone()
changed[:, 50:] += torch.sin(torch.arange(50) / 2.0)[None, :, None]
recorded = {"spike": spikes, "lfp": lfp}, {"spike": spikes, "lfp": changed}
print([site.name for site in sites(model, "backbone.mamba_*") if site.name.count(".") == 1])


def decoded(out: dict[str, Tensor]) -> Tensor:
    return out["decoder"].double().mean((1, 2))


stream = ResidualStreamPatcher(model, sites=["fusion", "backbone"])
whole = stream.systematic_patching(None, *recorded, decoded)
written = AttentionPatcher(
    model, sites=["fusion", "backbone.mamba_0", "backbone.mamba_1", "backbone"]
)
steps = written.systematic_patching(None, *recorded, decoded, positions=range(N_STEPS))
of_recording = steps["recovery"].to_numpy().reshape(-1, N_STEPS)
print("all steps of the fused tokens, of the backbone:", whole["recovery"].round(6).tolist())

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
panels = {
    "Transformer: digit at step 4": of_transformer,
    "Mamba: digit at step 4": of_scan,
    "NeuroFMX: LFP differs from step 5 on": of_recording,
}
for axis, (title, held) in zip(axes, panels.items(), strict=True):
    image = axis.imshow(held, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", origin="lower")
    axis.set(title=title, xlabel="time step", ylabel="blocks passed", yticks=range(len(held)))
axes[2].set(ylabel="", yticklabels=["fused", "block 1", "block 2", "stream"])
figure.colorbar(image, ax=axes, label="share of the difference that is restored")
figure.savefig("patching_any_model.png", dpi=110)
print(f"picture: patching_any_model.png, {time.perf_counter() - STARTED:.0f} s")

# %%
for held in (of_transformer, of_scan):
    # The stream starts at the digit and ends at the question, and nothing else is read there.
    assert abs(held[0, 4] - 1) < 1e-4
    assert abs(held[-1, -1] - 1) < 1e-4
    assert abs(np.delete(held[0], 4)).max() < 1e-4
assert abs(whole["recovery"] - 1).max() < 1e-4
assert abs(of_recording[:, : N_STEPS // 2]).max() < 1e-4
assert abs(of_recording[:, N_STEPS // 2 :]).max() > 0.01
