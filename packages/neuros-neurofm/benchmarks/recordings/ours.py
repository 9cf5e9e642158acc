"""The model on one or several sessions: built, trained, and chosen on their validation blocks."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from protocol import Fitted, Predict, r2, truth
from torch import Generator

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.augmentation import UnitDropout
from neuros_neurofm.evaluation import Session, decode, fit_decoder

# Parts that no decoded value passes through.
_UNUSED = ("popt.", "heads.encoder.", "heads.contrastive.")


class Setting(NamedTuple):
    """What a training may vary; a latent per sample, `window` of them."""

    window: int
    learning_rate: float = 3e-3
    steps: int = 300
    unit_dropout: float = 0.0
    weight_decay: float = 0.01
    width: int = 64
    dropout: float = 0.1

    def __str__(self) -> str:
        return (
            f"window {self.window}, rate {self.learning_rate:g}, {self.steps} steps, "
            f"unit dropout {self.unit_dropout:g}, weight decay {self.weight_decay:g}"
        )


def build(sessions: Sequence[Session], setting: Setting, *, seed: int) -> MultiModalNeuroFMX:
    """One model with a vector for every channel; signals standardised by the training blocks."""
    first = sessions[0]
    torch.manual_seed(seed)
    model = MultiModalNeuroFMX(
        setting.width,
        1,
        setting.window,
        setting.width,
        modalities=tuple(first.inputs),
        behavior_dim=first.n_targets,
        window=setting.window / first.rate,
        sampling_rates=dict.fromkeys(first.inputs, first.rate),
        patches=dict.fromkeys(first.inputs, 1 / first.rate),
        perceiver_depth=1,
        popt_depth=1,
        dropout=setting.dropout,
    )
    for session in sessions:
        add_channels(model, session, seed=seed)
    return model


def add_channels(model: MultiModalNeuroFMX, session: Session, *, seed: int) -> None:
    """Give the channels of a session vectors, and signals the scale of its training blocks."""
    generator = Generator().manual_seed(seed)
    for name, ids in (session.units or {}).items():
        model.add_units(name, ids, generator=generator)
        if name != "spike":
            seen = np.concatenate([part.inputs[name] for part in session.part("train")])
            x = torch.as_tensor(seen, dtype=torch.float32)[None]
            model.calibrate(name, x, units=ids)


def train(
    model: MultiModalNeuroFMX, sessions: Sequence[Session], setting: Setting, *, seed: int
) -> int:
    """Train in place; return the step that validation kept."""
    generator = Generator().manual_seed(seed)
    fitted = fit_decoder(
        model,
        sessions,
        steps=setting.steps,
        learning_rate=setting.learning_rate,
        weight_decay=setting.weight_decay,
        patience=setting.steps,
        masker=UnitDropout(setting.unit_dropout) if setting.unit_dropout else None,
        generator=generator,
    )
    return fitted.best_step


def size_of(model: MultiModalNeuroFMX) -> int:
    """Parameters that a decoded value passes through."""
    named = model.named_parameters()
    return sum(p.numel() for name, p in named if not name.startswith(_UNUSED))


def ours(
    sessions: Sequence[Session], settings: Sequence[Setting], *, seed: int, name: str = "neurofm"
) -> list[Fitted]:
    """Train one model per setting on all sessions; each session keeps its best setting."""
    start = time.perf_counter()
    models = []
    for setting in settings:
        model = build(sessions, setting, seed=seed)
        step = train(model, sessions, setting, seed=seed)
        models.append((setting, step, model))
    seconds = time.perf_counter() - start
    fitted = []
    for session in sessions:
        scores = [
            r2(truth(session, "validation"), decode(m, session, "validation")) for *_, m in models
        ]
        best = int(np.argmax(scores))
        setting, step, model = models[best]
        chosen = f" (of {len(settings)} settings)" if len(settings) > 1 else ""
        note = f"validation {scores[best]:.3f}: {setting}, step {step}{chosen}"
        fitted.append(Fitted(name, _decoder(model, session), size_of(model), seconds, note))
    return fitted


def _decoder(model: MultiModalNeuroFMX, session: Session) -> Predict:
    return lambda part: decode(model, session, part)
