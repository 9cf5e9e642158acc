# %% [markdown]
# # Pretrain on some sessions, fine-tune on another
#
# A lab has three recorded sessions and a fourth of which only a little is labelled. The sessions
# share what the population does and no unit. One model is trained on the three; then it meets the
# fourth: as it is, after a few labelled trials, after all of them. Beside every score stand the
# same model trained from scratch on the same trials, and ridge regression.
#
# The populations are synthetic, so the best possible score is known: what a linear read-out of the
# true rates gets. It takes less than a minute on one core and needs no network.

# %%
import time

import matplotlib as mpl
import numpy as np
import torch
from scipy.signal import lfilter

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.datasets import SyntheticSession, synthetic_population
from neuros_neurofm.evaluation import (
    Blocks,
    RidgeDecoder,
    Session,
    check_leakage,
    decode,
    few_shot_curve,
    fine_tune,
    fit_decoder,
    r2_score,
)

mpl.use("Agg")
from matplotlib import pyplot as plt

STARTED = time.perf_counter()
torch.set_num_threads(1)
N_TRAIN, N_VALIDATION, N_TEST = 80, 8, 24

# %% [markdown]
# ## Four sessions of 60 units each
#
# Sixty units fire with a state that follows the Lorenz equations, 112 trials of two seconds in
# bins of 20 ms. Trials are independent, so they can be dealt to training, validation and test
# without gaps between them. Every trial is a block: no window reaches over its border.

# %%
recorded = synthetic_population(
    4, 60, generator=torch.Generator().manual_seed(0), n_trials=N_TRAIN + N_VALIDATION + N_TEST
)


def as_session(synthetic: SyntheticSession) -> Session:
    """Trials one after the other, each a block of its own."""
    n_trials, n_times, n_units = synthetic.counts.shape
    trials = [slice(k * n_times, (k + 1) * n_times) for k in range(n_trials)]
    first_test = N_TRAIN + N_VALIDATION
    return Session(
        {"spike": synthetic.counts.numpy().reshape(-1, n_units)},
        synthetic.latents.numpy().reshape(-1, 3),
        rate=1 / synthetic.bin_s,
        blocks=Blocks(
            tuple(trials[:N_TRAIN]), tuple(trials[N_TRAIN:first_test]), tuple(trials[first_test:])
        ),
        name=f"session {synthetic.session}",
        units={"spike": synthetic.ids},
    )


*known, new = (as_session(synthetic) for synthetic in recorded)


def ridge_score(session: Session, x: np.ndarray, n_trials: int) -> float:
    """R2 on the test trials of ridge regression on `x` (time, channel)."""
    fitted = session.blocks.train[:n_trials]
    decoder = RidgeDecoder().fit([x[b] for b in fitted], [session.targets[b] for b in fitted])
    predicted = np.concatenate([decoder.predict(x[b]) for b in session.blocks.test])
    return r2_score(np.concatenate([p.targets for p in session.part("test")]), predicted)


best = ridge_score(new, recorded[3].rates.numpy().reshape(-1, 60), N_TRAIN)
print(f"a linear read-out of the true rates of the new session: R2 {best:.3f}")

# %% [markdown]
# ## Pretraining
#
# One small causal model reads all three. Its units have vectors of their own; everything else is
# shared. The validation trials choose which weights are kept.


# %%
def make_model() -> MultiModalNeuroFMX:
    """Untrained; equal at every call."""
    torch.manual_seed(0)
    return MultiModalNeuroFMX(
        64,
        1,
        50,
        64,
        modalities=("spike",),
        behavior_dim=3,
        window=2.0,
        sampling_rates={"spike": 50.0},
        perceiver_depth=1,
        popt_depth=1,
        dropout=0.0,
    )


model, scratch = make_model(), make_model()
for session in known:
    model.add_units("spike", session.units["spike"])
fit = fit_decoder(
    model, known, steps=200, batch_size=8, validate_every=100, learning_rate=3e-3,
    generator=torch.Generator().manual_seed(0),
)  # fmt: skip
print(f"kept step {fit.best_step}, {time.perf_counter() - STARTED:.0f} s")
for session in known:
    truth = np.concatenate([p.targets for p in session.part("test")])
    print(f"  {session.name}: R2 {r2_score(truth, decode(model, session)):.3f}")

# %% [markdown]
# ## A session it has never seen
#
# The curve: a copy of the model gets vectors for the 60 new units from the first labelled trials;
# `fine_tune` trains these vectors alone, then everything, and the copy is scored on the same test
# trials every time. Ten per cent are eight trials, 16 seconds. The copy that starts untrained
# goes the same way.

# %%
learners: list[MultiModalNeuroFMX] = []


def learn(learner: MultiModalNeuroFMX, session: Session) -> None:
    """Fine-tune a copy, and keep it for the picture."""
    fine_tune(learner, session, unit_steps=40, steps=40, batch_size=8, validate_every=40)
    learners.append(learner)


curve = few_shot_curve(
    model,
    new,
    (0.1, 1.0),
    generator=np.random.default_rng(0),
    fit=learn,
    n_bootstrap=200,
    scratch=scratch,
)
smooth = [lfilter([1 - k], [1, -k], new.inputs["spike"], axis=0) for k in np.exp([-1 / 3, -1 / 6])]
ridge = [
    max(ridge_score(new, x, round(share * N_TRAIN)) for x in smooth) for share in curve.fractions
]
print("labelled     pretrained              from scratch   ridge   retained")
for k, share in enumerate(curve.fractions):
    seconds = curve.n_samples[k] / new.rate
    print(
        f"{share:4.0%} {seconds:5.0f} s  {curve.scores[k]:.3f} [{curve.low[k]:.3f}, "
        f"{curve.high[k]:.3f}]   {curve.scratch.scores[k]:12.3f}   {ridge[k]:.3f}   "
        f"{curve.retention[k]:6.0%}"
    )

# %% [markdown]
# ## Did anything leak?
#
# `check_leakage` tries to make the model show it: does a later sample change an earlier output,
# does a hidden channel, do two parts hold the same window?

# %%
report = check_leakage(model, known[0], generator=np.random.default_rng(0))
print(report)

# %% [markdown]
# ## The picture
#
# Without a label the decoded state can come out upside down: the Lorenz system is its own mirror
# image, $(x, y, z) \to (-x, -y, z)$, and activity alone does not say which wing is which.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
left.fill_between(curve.fractions, curve.low, curve.high, color="#2a6f97", alpha=0.2, lw=0)
left.plot(curve.fractions, curve.scores, "o-", color="#2a6f97", label="pretrained")
left.plot(curve.fractions, curve.scratch.scores, "s--", color="#a44a3f", label="from scratch")
left.plot(curve.fractions, ridge, "^:", color="#777777", label="ridge, smoothed counts")
left.axhline(best, color="black", lw=0.8)
left.text(1.0, best, "true rates", ha="right", va="bottom", fontsize=8)
left.set(
    xscale="log",
    xlabel="share of the new session that is labelled",
    ylabel="R2 on its test trials",
    title="A session with unknown units",
)
left.legend(frameon=False)
trial, seconds = new.blocks.test[0], np.arange(100) / new.rate
right.plot(seconds, new.targets[trial][:, 0], color="black", label="true state")
right.plot(seconds, decode(learners[0], new)[:100, 0], color="#2a6f97", label="after 8 trials")
right.plot(seconds, decode(model, new)[:100, 0], color="#2a6f97", ls=":", label="no label used")
right.set(xlabel="time (s)", ylabel="x of the Lorenz system", title="One test trial")
right.set_ylim(-2.6, 1.2)
right.legend(frameon=False, loc="lower right", ncols=3)
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig("pretrain_finetune.png", dpi=110)
print(f"pretrain_finetune.png ({time.perf_counter() - STARTED:.0f} s)")
assert report.passed
assert curve.retention[0] >= 0.8
assert (curve.scores > curve.scratch.scores).all()
