"""Run a model over whole blocks of sessions, and train it on windows of their training blocks."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from neuros_neurofm.evaluation._arrays import Array
from neuros_neurofm.evaluation._batches import Scale, WindowSampler, block_batches
from neuros_neurofm.evaluation._training import (
    BestWeights,
    Masker,
    Objective,
    TrainingLoss,
    build_optimizer,
    evaluating,
    mode_kept,
    one_cycle,
    own_dropout,
    z_scored,
)
from neuros_neurofm.evaluation.session import Session
from neuros_neurofm.losses import BehaviorLoss, CombinedLoss
from neuros_neurofm.models.multimodal_neurofmx import MultiModalNeuroFMX, NeuroFMXOutput

__all__ = ["DecoderFit", "decode", "fit_decoder", "run_blocks"]


class DecoderFit(NamedTuple):
    """How a training went.

    Attributes:
        best_step: Optimiser steps behind the weights that the model has now.
        validation_loss: Loss of these weights on the validation blocks; NaN without such blocks.
        history: Pairs (step, validation loss).
    """

    best_step: int
    validation_loss: float
    history: tuple[tuple[int, float], ...]


def decode(model: MultiModalNeuroFMX, session: Session, part: str = "test") -> Array:
    """Decode the behaviour at the end of every sample of the blocks of one part.

    Each block is one pass that begins at the block's first sample: nothing from outside the block
    reaches it. A block longer than the model's window gets more latents of the same step.

    Args:
        model: With a decoder, a window in seconds and the rates of its modalities.
        session: The recording; modalities that the model lacks are left out.
        part: `train`, `validation` or `test`.

    Returns:
        (time, dim), the blocks one after the other; for labels (time, class) logits.

    Raises:
        ValueError: A part without blocks, a model without a decoder or a window, or rates that
            differ.

    Examples:
        >>> import numpy as np
        >>> from neuros_neurofm.evaluation import Session, contiguous_blocks
        >>> model = MultiModalNeuroFMX(
        ...     16, 1, 8, 8, modalities=("spike",), window=0.16, sampling_rates={"spike": 50.0})
        >>> session = Session({"spike": np.ones((100, 3))}, None, 50.0,
        ...                   contiguous_blocks(100, gap=5))
        >>> decode(model, session).shape
        (27, 2)
    """
    if "decoder" not in model.heads:
        raise ValueError("the model has no decoder; build it with behavior_dim >= 1")
    outputs = run_blocks(model, session, part)
    rows = [output.decoder[0] for output in outputs if output.decoder is not None]
    return torch.cat(rows).double().cpu().numpy()


def run_blocks(
    model: MultiModalNeuroFMX,
    session: Session,
    part: str = "test",
    *,
    visible: Mapping[str, NDArray[np.bool_]] | None = None,
) -> list[NeuroFMXOutput]:
    """Run the model, in eval mode and without gradients, over each block of one part.

    Args:
        model: With a window in seconds and the rates of its modalities.
        session: The recording.
        part: `train`, `validation` or `test`.
        visible: Modality -> which channels the model may see, (channel,); the others are zero and
            masked.

    Returns:
        One output of one row per block, the decoder asked at the end of every sample.

    Raises:
        ValueError: A part without blocks, a model without a window, or rates that differ.
    """
    batches = block_batches(model, session, part)
    for name, seen in (visible or {}).items():
        for batch in batches:
            keep = torch.as_tensor(seen, dtype=torch.bool, device=batch[name].device)
            # The values go too, so that no statistic can read what the mask hides.
            batch[name] = batch[name].masked_fill(~keep, 0.0)
            batch.setdefault("masks", {})[name] = keep.expand(batch[name].shape)
    with evaluating(model):
        return [model.forward_batch(batch) for batch in batches]


def fit_decoder(
    model: MultiModalNeuroFMX,
    sessions: Session | Sequence[Session],
    *,
    steps: int = 300,
    batch_size: int = 16,
    learning_rate: float = 3e-3,
    weight_decay: float = 0.01,
    validate_every: int = 25,
    patience: int = 8,
    objectives: Sequence[Objective] = (),
    masker: Masker | None = None,
    generator: Generator | None = None,
) -> DecoderFit:
    """Train a model on windows of training blocks; validation blocks choose the weights kept.

    AdamW over the parameters that require a gradient, with a learning rate that rises over the
    first fifth of the steps and falls by a cosine. Every step draws windows from one training
    block, the sessions in turn, blocks and starts at random. Every `validate_every` steps the loss
    on the whole validation blocks is measured; at the end the model has the weights of its least.
    Without validation blocks the last weights are kept.

    Continuous targets are z-scored with mean and deviation of the training blocks, and the
    decoder's last layers carry the scale afterwards: the model decodes in the targets' own units.
    The training begins with the decoder as it is, or with its output read as z-scores, whichever is
    nearer to the targets of the first batch of each session. Channels should have vectors of their
    own (`model.add_units`) before this.

    Args:
        model: Changed in place; freeze what must not be trained.
        sessions: One session, or several whose targets have the same meaning.
        steps: Optimiser steps at most, >= 1.
        batch_size: Windows per step, >= 1.
        learning_rate: Peak of the cycle, > 0.
        weight_decay: Of AdamW.
        validate_every: Steps between two validations, >= 1.
        patience: Validations without a lower loss that end the training, >= 1.
        objectives: Added to the `BehaviorLoss` (of the z-scored targets); the only objectives
            where no session has targets.
        masker: Hides a part of each batch, `(batch, generator) -> batch`, for objectives that fill
            it in.
        generator: Draws windows, masks and the seed of dropout; None: one seeded with 0.

    Returns:
        Which step was kept, and the validation losses.

    Raises:
        ValueError: A number out of range, no session, nothing to learn, targets of different kinds
            or widths, or what `decode` refuses.
        FloatingPointError: A loss that is not finite.

    Examples:
        >>> import numpy as np
        >>> from neuros_neurofm.evaluation import Session, contiguous_blocks
        >>> model = MultiModalNeuroFMX(
        ...     16, 1, 8, 8, modalities=("spike",), behavior_dim=1, window=0.16,
        ...     sampling_rates={"spike": 50.0})
        >>> session = Session({"spike": np.ones((100, 3))}, np.arange(100.0), 50.0,
        ...                   contiguous_blocks(100, gap=5))
        >>> fit = fit_decoder(model, session, steps=2, validate_every=1)
        >>> [step for step, _ in fit.history]
        [0, 1, 2]

    References:
        Loshchilov, I. and Hutter, F. (2019). Decoupled weight decay regularization. ICLR.
        https://doi.org/10.48550/arXiv.1711.05101
    """
    recordings = [sessions] if isinstance(sessions, Session) else list(sessions)
    _check_numbers(
        steps=steps, batch_size=batch_size, validate_every=validate_every, patience=patience
    )
    _check_kinds(model, recordings)
    generator = Generator().manual_seed(0) if generator is None else generator
    scale = Scale.of(recordings)
    sampler = WindowSampler(
        model, recordings, scale=scale, batch_size=batch_size, generator=generator
    )
    loss = TrainingLoss(model, _objective(recordings, objectives), masker, generator)
    validation = [
        batch
        for session in recordings
        if session.blocks.validation
        for batch in block_batches(model, session, "validation", scale=scale)
    ]
    optimizer = build_optimizer(model, learning_rate, weight_decay)
    scheduler = one_cycle(optimizer, steps)
    best = BestWeights(model, patience)
    with own_dropout(generator), z_scored(model, scale, loss, sampler), mode_kept(model):
        best.judge(0, loss.measure(validation))
        for step in range(1, steps + 1):
            loss.update(sampler.draw(step), optimizer)
            scheduler.step()
            if step == steps or step % validate_every == 0:
                best.judge(step, loss.measure(validation))
            if best.over:
                break
        best.restore()
    return DecoderFit(best.step, best.loss, tuple(best.history))


def _objective(sessions: Sequence[Session], extra: Sequence[Objective]) -> CombinedLoss:
    own = [BehaviorLoss()] if any(s.targets is not None for s in sessions) else []
    if not own and not extra:
        raise ValueError(
            "no session has targets; give them targets, or objectives such as MaskedModelingLoss"
        )
    return CombinedLoss([*own, *extra])


def _check_numbers(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")


def _check_kinds(model: MultiModalNeuroFMX, sessions: Sequence[Session]) -> None:
    if not sessions:
        raise ValueError("sessions must hold at least one session, got none")
    given = [s for s in sessions if s.targets is not None]
    kinds = {"labels" if s.labelled else f"{s.n_targets} variables" for s in given}
    if len(kinds) > 1:
        raise ValueError(
            f"the targets of all sessions must have one kind and width, got {sorted(kinds)}"
        )
    if given and "decoder" not in model.heads:
        raise ValueError("the model has no decoder; build it with behavior_dim >= 1")
    width = model.config["behavior_dim"]
    wide = [s for s in given if not s.labelled and s.n_targets != width]
    if wide:
        raise ValueError(
            f"the targets have {wide[0].n_targets} variables, the model decodes {width}; "
            "build it with the behavior_dim of the targets"
        )
