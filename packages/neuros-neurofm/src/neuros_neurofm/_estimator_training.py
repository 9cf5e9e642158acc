"""Build the model of an estimator and train it through `MultiModalTrainer`."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import index
from typing import Any, Final, NamedTuple, SupportsFloat, SupportsIndex, cast

import numpy as np
import torch
from torch import Generator
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from neuros_neurofm._estimator_objective import BehaviorContrast
from neuros_neurofm._estimator_windows import Piece, WindowLoader, unit_ids
from neuros_neurofm.losses import BehaviorLoss, CombinedLoss, MaskedModelingLoss, NeuralMasker
from neuros_neurofm.models import MultiModalNeuroFMX
from neuros_neurofm.models._options import _TOKENIZERS, ALL, Tokenizer
from neuros_neurofm.models._sizes import size_options
from neuros_neurofm.tokenizers._patches import patch_size
from neuros_neurofm.training import MultiModalTrainer

__all__ = [
    "TimeGrid",
    "add_sessions",
    "build_model",
    "check_settings",
    "grid_of",
    "identify",
    "options_of",
    "run_training",
    "seed_of",
    "seeded",
]

_OWN: Final = ("behavior_dim", "modalities", "n_latents", "sampling_rates", "window")
_DEFAULT_STEPS: Final = 100
_MASKED_WEIGHT: Final = 0.1


class TimeGrid(NamedTuple):
    """How the estimator divides time.

    Attributes:
        rate: Samples per second.
        patch: Samples per token.
        n_latents: Tokens per window.
    """

    rate: float
    patch: int
    n_latents: int

    @property
    def length(self) -> int:
        """Samples per window."""
        return self.patch * self.n_latents


def check_settings(**settings: Any) -> None:
    """Counts >= 1, a rate > 0, a ratio in [0, 1) and a weight >= 0, by name.

    Raises:
        TypeError: A count that is no integer.
        ValueError: A number out of range.
    """
    for name, value in settings.items():
        if name in {"max_steps", "batch_size"}:
            if not hasattr(value, "__index__"):
                raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
            fine, needed = value >= 1, ">= 1"
        elif name == "mask_ratio":
            fine, needed = 0 <= value < 1, "in [0, 1)"
        elif name == "learning_rate":
            fine, needed = 0 < value < float("inf"), "> 0"
        else:
            fine, needed = 0 <= value < float("inf"), ">= 0"
        if not fine:
            raise ValueError(f"{name} must be {needed}, got {value}")


def options_of(size: Any) -> dict[str, Any]:
    """Options of the model; nothing is trained to forecast, so no head for it by default.

    Raises:
        TypeError: Neither a name nor a mapping.
        ValueError: An unknown size, or an option that the estimator sets.
    """
    if isinstance(size, str):
        return {**size_options(size), "forecast_horizon": 0}
    if not isinstance(size, Mapping):
        raise TypeError(
            f"size must be a name or a dict of model options, got {type(size).__name__}"
        )
    own = sorted(set(size) & set(_OWN))
    if own:
        raise ValueError(
            f"size may not set {own}: they follow from modality, sampling_rate, window and y"
        )
    return {**size_options("small"), "forecast_horizon": 0, **size}


def grid_of(
    modality: str,
    options: Mapping[str, Any],
    rate: SupportsFloat | None,
    window: SupportsFloat | None,
) -> TimeGrid:
    """Tokens and windows in samples; without a rate a sample is a unit of time and a token.

    Raises:
        ValueError: An unknown modality, a rate that is not > 0, or a window below one token.
    """
    if modality not in ALL:
        raise ValueError(f"modality must be one of {list(ALL)}, got {modality!r}")
    if rate is not None and not 0 < float(rate) < float("inf"):
        raise ValueError(f"sampling_rate must be > 0 Hz, got {rate}")
    patches = options.get("patches") or ({} if rate else {modality: 1.0})
    known = 1.0 if rate is None else float(rate)
    # Spikes: the default of SpikeTokenizer, which has no attribute for it.
    default = getattr(_TOKENIZERS[modality], "default_patch_s", 0.02)
    patch = patch_size(modality, known, patches.get(modality), default)
    if window is None:
        return TimeGrid(known, patch, _DEFAULT_STEPS)
    n_latents = round(float(window) * known / patch)
    if n_latents < 1:
        raise ValueError(
            f"window must hold at least one token of {patch / known:g}, got {window}; "
            "it counts seconds with a sampling_rate, samples without"
        )
    return TimeGrid(known, patch, n_latents)


def build_model(
    modality: str, options: Mapping[str, Any], grid: TimeGrid, behavior_dim: int
) -> MultiModalNeuroFMX:
    """A model whose grid step is one token.

    Raises:
        ValueError: Options that the model refuses.
    """
    own = {
        "modalities": (modality,),
        "behavior_dim": behavior_dim,
        "sampling_rates": {modality: grid.rate},
        "patches": {modality: grid.patch / grid.rate},
        "n_latents": grid.n_latents,
        "window": grid.length / grid.rate,
    }
    return MultiModalNeuroFMX(**{**options, **own})


def add_sessions(
    model: MultiModalNeuroFMX, modality: str, pieces: Sequence[Piece], *, infer: bool
) -> None:
    """Give the units of sessions that the model does not know vectors.

    With `infer` they start from what the units recorded. An untrained model infers nearly the same
    for all units, and noise tells them apart from the first step.
    """
    known = set(cast("Tokenizer", model.tokenizers[modality]).units.ids)
    for piece in pieces:
        ids = unit_ids(piece.session, piece.x.shape[1])
        if ids[0] in known:
            continue
        known |= set(ids)
        if not infer:
            model.add_units(modality, ids)
            continue
        device = model.modality_vectors[modality].device
        x = torch.from_numpy(piece.x)[None].to(device)
        model.add_units(modality, ids, x.nan_to_num(0.0), mask=~x.isnan())


class Recorder:
    """A `neuros_core.Callback` that keeps the loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_step_end(self, trainer: Any, step: int, loss: float) -> None:
        """Keep the loss."""
        del trainer, step
        self.losses.append(loss)

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: Mapping[str, float]) -> None:
        """Nothing is known at the end that was not before."""


def objectives_of(model: MultiModalNeuroFMX, mask_ratio: float) -> list[Any]:
    """Fill in what is hidden; decode where the model can."""
    decodes = "decoder" in model.heads
    # Beside decoding, filling in at full weight takes the first steps for itself.
    weight = _MASKED_WEIGHT if decodes else 1.0
    masked = [MaskedModelingLoss(weight=weight)] if mask_ratio > 0 else []
    return [*masked, *([BehaviorLoss()] if decodes else [])]


def run_training(
    model: MultiModalNeuroFMX,
    loader: WindowLoader,
    contrast: BehaviorContrast | None,
    *,
    mask_ratio: float,
    learning_rate: float,
    device: str,
    seed: int,
    progress: bool,
) -> list[float]:
    """Train once through the loader; the loss of every step, fewer where it was interrupted."""
    objectives = objectives_of(model, mask_ratio)
    if contrast is not None:
        objectives.append(contrast)
    recorder = Recorder()
    trainer = MultiModalTrainer(
        model,
        loader,
        optimizer=lambda parameters: AdamW(parameters, lr=learning_rate),
        scheduler=lambda optimizer: OneCycleLR(
            optimizer, learning_rate, total_steps=max(len(loader), 2)
        ),
        loss=CombinedLoss(objectives),
        masker=NeuralMasker("random", mask_ratio) if mask_ratio > 0 else None,
        device=device,
        callbacks=[recorder],
        seed=seed,
        progress=progress,
    )
    try:
        trainer.fit(1)
    except KeyboardInterrupt:
        if not recorder.losses:
            raise
        warn_interrupted(len(recorder.losses), len(loader))
    finally:
        model.eval()
    return recorder.losses


def identify(
    model: MultiModalNeuroFMX,
    loader: WindowLoader,
    *,
    mask_ratio: float,
    learning_rate: float,
    seed: int,
    progress: bool,
) -> list[float]:
    """Learn the vectors of the loader's units; everything else stands."""
    try:
        return model.identify_units(
            loader,
            len(loader),
            learning_rate=learning_rate,
            loss=CombinedLoss(objectives_of(model, mask_ratio)),
            masker=NeuralMasker("random", mask_ratio) if mask_ratio > 0 else None,
            generator=Generator().manual_seed(seed),
            progress=progress,
        )
    except KeyboardInterrupt:
        n_done = loader.n_drawn - 1
        if n_done < 1:
            raise
        warn_interrupted(n_done, len(loader))
        return []


def warn_interrupted(n: int, planned: int) -> None:
    """Say what an interrupted training leaves behind."""
    warnings.warn(
        f"interrupted after {n} of {planned} steps; the estimator keeps what it has learned, "
        "partial_fit goes on from there",
        UserWarning,
        stacklevel=4,
    )


def seed_of(random_state: Any) -> int:
    """An integer from a seed or a generator of torch or NumPy; None: a new one each time.

    Raises:
        TypeError: Anything else.
    """
    if random_state is None:
        return Generator().seed() % 2**31
    if isinstance(random_state, Generator):
        return int(torch.randint(2**31, (), generator=random_state))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    if isinstance(random_state, SupportsIndex):
        return index(random_state)
    raise TypeError(
        f"random_state must be an int, a generator of torch or NumPy, or None, "
        f"got {type(random_state).__name__}"
    )


@contextmanager
def seeded(seed: int) -> Iterator[int]:
    """Run with torch's global generators at a seed, and put them back."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield seed
