"""Classify whole trials with the model: trained on top of a linear classifier, or alone."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from neuros_neurofm.evaluation._arrays import Array
from neuros_neurofm.evaluation._training import (
    BestWeights,
    Masker,
    build_optimizer,
    evaluating,
    mode_kept,
    one_cycle,
    own_dropout,
)
from neuros_neurofm.evaluation._trials import Trials
from neuros_neurofm.models import DecoderHead
from neuros_neurofm.models.multimodal_neurofmx import MultiModalNeuroFMX

__all__ = [
    "ClassifierFit",
    "TrialBatch",
    "classify",
    "fit_classifier",
    "fit_network",
    "make_batches",
    "model_logits",
    "network_logits",
    "start_at_zero",
]


# Trials per pass without gradients.
_ROWS = 256


class ClassifierFit(NamedTuple):
    """How a training went.

    Attributes:
        best_step: Optimiser steps behind the weights that the network has now.
        validation_loss: Cross-entropy of these weights on the validation trials.
        history: Pairs (step, validation loss).
    """

    best_step: int
    validation_loss: float
    history: tuple[tuple[int, float], ...]


class TrialBatch(NamedTuple):
    """Trials of one set of channels as tensors.

    Attributes:
        modality: What was recorded.
        x: (trial, time, channel).
        labels: (trial,).
        offset: Logits that the network adds to, (trial, class).
        units: Ids of the channels.
        rate: Samples per second.
    """

    modality: str
    x: Tensor
    labels: Tensor
    offset: Tensor
    units: tuple[str, ...]
    rate: float

    def take(self, which: Tensor) -> "TrialBatch":
        """Trials of an index."""
        return self._replace(x=self.x[which], labels=self.labels[which], offset=self.offset[which])


Forward: TypeAlias = Callable[[TrialBatch, Masker | None, Generator], Tensor]


def start_at_zero(model: MultiModalNeuroFMX) -> None:
    """Let the decoder begin at 0: the model then begins as the classifier that it adds to.

    Args:
        model: With a decoder; changed in place.
    """
    head = cast("DecoderHead", model.heads.get_submodule("decoder"))
    for weight in (head.out.weight, head.out.bias, head.skip.weight):
        nn.init.zeros_(weight)


def fit_classifier(
    model: MultiModalNeuroFMX,
    train: Sequence[Trials],
    validation: Sequence[Trials],
    *,
    train_offsets: Sequence[Array] | None = None,
    validation_offsets: Sequence[Array] | None = None,
    steps: int = 300,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    weight_decay: float = 0.01,
    validate_every: int = 25,
    masker: Masker | None = None,
    generator: Generator | None = None,
) -> ClassifierFit:
    """Train the decoder's logits, a mean over the grid of a trial, by the cross-entropy.

    With offsets the model learns what a linear classifier leaves: the loss is that of offset plus
    logits. The offsets of training trials must come from fits without those trials
    (`LinearClassifier.held_out`), or the model sees a classifier that is always right. Call
    `start_at_zero` before, so that step 0 is the linear classifier itself; the weights of the
    least validation loss are kept.

    Args:
        model: `behavior_dim` is the number of classes; changed in place.
        train: Trials to fit, one entry per set of channels, drawn from in turn.
        validation: Trials that choose the weights kept.
        train_offsets: Logits to add to, one array (trial, class) per entry of `train`.
        validation_offsets: Likewise for `validation`.
        steps: Optimiser steps, >= 1.
        batch_size: Trials per step, >= 1.
        learning_rate: Peak of the cycle, > 0.
        weight_decay: Of AdamW.
        validate_every: Steps between two validations, >= 1.
        masker: Augmentation of a batch in training, `(batch, generator) -> batch`.
        generator: Draws trials, augmentation and the seed of dropout; None: one seeded with 0.

    Returns:
        Which step was kept, and the validation losses.

    Raises:
        ValueError: No trials, labels beyond the classes, or offsets of another shape.
    """
    n_classes = int(model.config["behavior_dim"])
    return fit_network(
        model,
        lambda batch, mask, draws: model_logits(model, batch, mask, draws),
        make_batches(train, train_offsets, n_classes),
        make_batches(validation, validation_offsets, n_classes),
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        validate_every=validate_every,
        masker=masker,
        generator=Generator().manual_seed(0) if generator is None else generator,
    )


def classify(model: MultiModalNeuroFMX, trials: Trials, offset: Array | None = None) -> Array:
    """Logits of trials.

    Args:
        model: `behavior_dim` is the number of classes.
        trials: Of one set of channels.
        offset: Logits to add to, (trial, class).

    Returns:
        (trial, class).

    Raises:
        ValueError: Labels beyond the classes, or offsets of another shape.
    """
    n_classes = int(model.config["behavior_dim"])
    (batch,) = make_batches([trials], None if offset is None else [offset], n_classes)
    return network_logits(
        model, lambda part, mask, draws: model_logits(model, part, mask, draws), batch
    )


def fit_network(
    network: nn.Module,
    forward: Forward,
    train: Sequence[TrialBatch],
    validation: Sequence[TrialBatch],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    validate_every: int,
    masker: Masker | None,
    generator: Generator,
) -> ClassifierFit:
    """Train any network of logits; `fit_classifier` and the baselines beside it share this."""
    optimizer = build_optimizer(network, learning_rate, weight_decay)
    scheduler = one_cycle(optimizer, steps)
    best = BestWeights(network, steps)
    with own_dropout(generator), mode_kept(network):
        best.judge(0, _measure(network, forward, validation))
        for step in range(1, steps + 1):
            whole = train[step % len(train)]
            which = torch.randint(len(whole.labels), (batch_size,), generator=generator)
            batch = whole.take(which)
            network.train()
            optimizer.zero_grad()
            logits = batch.offset + forward(batch, masker, generator)
            nn.CrossEntropyLoss()(logits, batch.labels).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            if step == steps or step % validate_every == 0:
                best.judge(step, _measure(network, forward, validation))
        best.restore()
    return ClassifierFit(best.step, best.loss, tuple(best.history))


def network_logits(network: nn.Module, forward: Forward, batch: TrialBatch) -> Array:
    """Offset plus logits of all trials, without dropout or augmentation."""
    generator, n = Generator().manual_seed(0), len(batch.labels)
    with evaluating(network):
        parts = [
            forward(batch.take(torch.arange(k, min(k + _ROWS, n))), None, generator)
            for k in range(0, n, _ROWS)
        ]
    return (batch.offset + torch.cat(parts)).double().numpy()


def model_logits(
    model: MultiModalNeuroFMX, batch: TrialBatch, masker: Masker | None, generator: Generator
) -> Float[Tensor, "trial class"]:
    """Mean of the decoder over the grid of each trial."""
    given = {batch.modality: batch.x, "rates": {batch.modality: batch.rate}}
    shown = given if masker is None else dict(masker(given, generator))
    if batch.units:
        shown["units"] = {batch.modality: batch.units}
    decoder = model.forward_batch(shown).decoder
    if decoder is None:
        raise ValueError("the model has no decoder; build it with behavior_dim = classes")
    logits: Tensor = decoder.mean(dim=1)
    return logits


def _measure(network: nn.Module, forward: Forward, batches: Sequence[TrialBatch]) -> float:
    total, count = 0.0, 0
    for batch in batches:
        logits = torch.as_tensor(network_logits(network, forward, batch))
        total += float(functional.cross_entropy(logits, batch.labels, reduction="sum"))
        count += len(batch.labels)
    return total / max(count, 1)


def make_batches(
    trials: Sequence[Trials], offsets: Sequence[Array] | None, n_classes: int
) -> list[TrialBatch]:
    """Trials as tensors, with the logits to add to; none: zeros."""
    if not trials or not all(len(part.labels) for part in trials):
        raise ValueError("trials must hold at least one set, each with at least one trial")
    given = [np.zeros((len(t.labels), n_classes)) for t in trials] if offsets is None else offsets
    batches = []
    for part, offset in zip(trials, given, strict=True):
        if part.labels.max() >= n_classes:
            raise ValueError(
                f"labels reach {part.labels.max()}, the network has {n_classes} classes"
            )
        if offset.shape != (len(part.labels), n_classes):
            raise ValueError(
                f"offsets must be {(len(part.labels), n_classes)}, one row per trial, "
                f"got {offset.shape}"
            )
        batches.append(
            TrialBatch(
                part.modality,
                torch.as_tensor(part.x, dtype=torch.float32),
                torch.as_tensor(part.labels),
                torch.as_tensor(offset, dtype=torch.float32),
                part.units,
                part.rate,
            )
        )
    return batches
