"""Classifiers of trials on one split: linear, recurrent, attention, and the model."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from protocol import Array, Row
from torch import Generator, Tensor, nn

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.augmentation import AmplitudeScale, Chain, UnitDropout
from neuros_neurofm.evaluation import block_bootstrap
from neuros_neurofm.evaluation._classify import (
    TrialBatch,
    classify,
    fit_classifier,
    fit_network,
    make_batches,
    network_logits,
    start_at_zero,
)
from neuros_neurofm.evaluation._trials import LinearClassifier, Trials, cross_entropy
from neuros_neurofm.evaluation.neural_decoders import _GRU, _Transformer

# The model that was not given a linear classifier to begin with; a peer of the chosen one.
ALONE = "alone: neurofm"
# Parts that no logit passes through.
_UNUSED = ("popt.", "heads.encoder.", "heads.contrastive.")


class Scored(NamedTuple):
    """A classifier of a split: logits of the test trials, and of training trials held out.

    Attributes:
        name: Name in the table.
        test: Logits of each test set.
        held_out: Logits of each training set, from fits without these trials.
        n_parameters: Fitted numbers.
        seconds: What fitting took.
        note: What was chosen.
    """

    name: str
    test: list[Array]
    held_out: list[Array]
    n_parameters: int
    seconds: float
    note: str


class Split(NamedTuple):
    """Training sets and test sets; groups of the training sets are held out in turn."""

    train: list[Trials]
    test: list[Trials]
    n_classes: int
    n_folds: int = 3

    def folds(self) -> list[NDArray[np.int64]]:
        """Fold of every training trial, one array per set; a fold holds whole groups."""
        names = np.unique(np.concatenate([t.groups for t in self.train]))
        n = min(self.n_folds, len(names))
        return [np.searchsorted(names, t.groups) % n for t in self.train]


class Training(NamedTuple):
    """How a network is trained."""

    learning_rate: float = 1e-3
    steps: int = 200
    width: int = 48
    patch_s: float = 0.05
    batch_size: int = 32
    augmentation: float = 0.1

    def __str__(self) -> str:
        return f"rate {self.learning_rate:g}, {self.steps} steps at most, token {self.patch_s:g} s"


def accuracy(labels: Array, predicted: Array) -> float:
    """Share of trials whose label was predicted."""
    return float((labels == predicted).mean())


def linear_scored(
    name: str, split: Split, features: Mapping[str, Callable[[Array], Array]], *, own: bool = False
) -> Scored:
    """Shrunken LDA; held-out training groups choose features, and pooled or per set if `own`."""
    start = time.perf_counter()
    found = []
    for kind, feature in features.items():
        found.append((f"{kind}, all sets pooled", _pooled(split, feature)))
        if own:
            found.append((f"{kind}, each set alone", _each(split, feature)))
    labels = np.concatenate([t.labels for t in split.train])
    losses = [cross_entropy(np.concatenate(fit.held_out), labels) for _, fit in found]
    best = int(np.argmin(losses))
    setting, fit = found[best]
    chosen = f" (of {len(found)} settings)" if len(found) > 1 else ""
    note = f"held-out loss {losses[best]:.3f}: {setting}{chosen}"
    return fit._replace(name=name, seconds=time.perf_counter() - start, note=note)


def _pooled(split: Split, feature: Callable[[Array], Array]) -> Scored:
    x = np.concatenate([t.x for t in split.train])
    labels = np.concatenate([t.labels for t in split.train])
    groups = np.concatenate([t.groups for t in split.train])
    classifier = LinearClassifier(feature, split.n_classes).fit(x, labels, groups)
    ends = np.cumsum([len(t.labels) for t in split.train])[:-1]
    test = [classifier.logits(t.x) for t in split.test]
    held_out = np.split(classifier.held_out, ends)
    return Scored("", test, held_out, classifier.n_parameters, 0.0, "")


def _each(split: Split, feature: Callable[[Array], Array]) -> Scored:
    fits = [
        LinearClassifier(feature, split.n_classes).fit(t.x, t.labels, t.groups) for t in split.train
    ]
    test = [fit.logits(t.x) for fit, t in zip(fits, split.test, strict=True)]
    held_out = [fit.held_out for fit in fits]
    return Scored("", test, held_out, sum(fit.n_parameters for fit in fits), 0.0, "")


def build(split: Split, training: Training, *, seed: int) -> MultiModalNeuroFMX:
    """An untrained model with a class per decoded variable and a vector for every channel."""
    first = split.train[0]
    seconds = first.x.shape[1] / first.rate
    torch.manual_seed(seed)
    model = MultiModalNeuroFMX(
        training.width,
        1,
        max(round(seconds / training.patch_s), 1),
        training.width,
        modalities=(first.modality,),
        behavior_dim=split.n_classes,
        window=seconds,
        sampling_rates={first.modality: first.rate},
        patches={first.modality: training.patch_s},
        perceiver_depth=1,
        popt_depth=1,
    )
    generator = Generator().manual_seed(seed)
    named = {part.units: part for part in split.train}
    for units in named:
        same = [t.x for t in split.train if t.units == units]
        model.add_units(first.modality, units, generator=generator)
        x = torch.as_tensor(np.concatenate(same), dtype=torch.float32)
        model.calibrate(first.modality, x, units=units)
    return model


def model_scored(
    name: str, split: Split, trainings: Sequence[Training], *, base: Scored | None, seed: int
) -> Scored:
    """The model, one per fold that validates it; their logits are averaged.

    With `base` it begins as that linear classifier and learns what it leaves. The folds choose
    the training.
    """
    start = time.perf_counter()
    found = []
    for training in trainings:
        members = [_member(split, training, base, fold, seed) for fold in _fold_names(split)]
        found.append(_averaged(split, members))
    labels = np.concatenate([t.labels for t in split.train])
    losses = [cross_entropy(np.concatenate(fit.held_out), labels) for fit in found]
    best = int(np.argmin(losses))
    on = "alone" if base is None else f"begins as {base.name} ({base.note})"
    chosen = f" (of {len(trainings)} settings)" if len(trainings) > 1 else ""
    note = f"held-out loss {losses[best]:.3f}: {trainings[best]}{chosen}; {found[best].note}; {on}"
    return found[best]._replace(name=name, seconds=time.perf_counter() - start, note=note)


def better(name: str, a: Scored, b: Scored, split: Split) -> Scored:
    """The one with the least held-out loss, under another name; it took the time of both."""
    labels = np.concatenate([t.labels for t in split.train])
    losses = [cross_entropy(np.concatenate(s.held_out), labels) for s in (a, b)]
    best = int(np.argmin(losses))
    kept, other = (a, b)[best], (a, b)[1 - best]
    note = f"{kept.name}: {kept.note}; against {other.name}, held-out loss {losses[1 - best]:.3f}"
    return kept._replace(name=name, seconds=a.seconds + b.seconds, note=note)


class _Member(NamedTuple):
    held_out: list[Array]
    test: list[Array]
    fold: int
    step: int
    size: int


def _fold_names(split: Split) -> list[int]:
    return sorted({int(k) for fold in split.folds() for k in np.unique(fold)})


def _parts(
    split: Split, base: Scored | None, fold: int, *, held: bool
) -> tuple[list[Trials], list[Array]]:
    sets, offsets = [], []
    for k, (part, folds) in enumerate(zip(split.train, split.folds(), strict=True)):
        which = (folds == fold) == held
        if which.any():
            zeros = np.zeros((len(part.labels), split.n_classes))
            sets.append(part.take(which))
            offsets.append((zeros if base is None else base.held_out[k])[which])
    return sets, offsets


def _member(split: Split, training: Training, base: Scored | None, fold: int, seed: int) -> _Member:
    model = build(split, training, seed=seed + 100 * fold)
    if base is not None:
        start_at_zero(model)
    train, train_offsets = _parts(split, base, fold, held=False)
    held, held_offsets = _parts(split, base, fold, held=True)
    share = training.augmentation
    fit = fit_classifier(
        model,
        train,
        held,
        train_offsets=train_offsets,
        validation_offsets=held_offsets,
        steps=training.steps,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        masker=Chain([UnitDropout(share), AmplitudeScale(share)]) if share else None,
        generator=Generator().manual_seed(seed),
    )
    offsets = [None] * len(split.test) if base is None else base.test
    return _Member(
        [classify(model, t, o) for t, o in zip(held, held_offsets, strict=True)],
        [classify(model, t, o) for t, o in zip(split.test, offsets, strict=True)],
        fold,
        fit.best_step,
        sum(p.numel() for n, p in model.named_parameters() if not n.startswith(_UNUSED)),
    )


def _averaged(split: Split, members: Sequence[_Member]) -> Scored:
    held_out = [np.zeros((len(t.labels), split.n_classes)) for t in split.train]
    for member in members:
        parts = iter(member.held_out)
        for rows, folds in zip(held_out, split.folds(), strict=True):
            if (folds == member.fold).any():
                rows[folds == member.fold] = next(parts)
    test = [np.mean(sets, axis=0) for sets in zip(*(m.test for m in members), strict=True)]
    steps = ", ".join(str(m.step) for m in members)
    note = f"mean of {len(members)} folds, steps {steps}"
    if not any(m.step for m in members):
        note += " (no training helped)"
    return Scored("", test, held_out, members[0].size, 0.0, note)


def network_scored(
    architecture: str,
    split: Split,
    *,
    patch_s: float,
    n_parameters: int,
    learning_rates: Sequence[float] = (1e-3, 3e-3),
    steps: int = 200,
    seed: int = 0,
) -> Scored:
    """GRU or transformer over patches of the trial, trained and averaged as the model is."""
    start = time.perf_counter()
    found = []
    for rate in learning_rates:
        training = Training(rate, steps, patch_s=patch_s)
        members = [
            _network_member(architecture, split, training, fold, n_parameters, seed)
            for fold in _fold_names(split)
        ]
        found.append(_averaged(split, members))
    labels = np.concatenate([t.labels for t in split.train])
    losses = [cross_entropy(np.concatenate(fit.held_out), labels) for fit in found]
    best = int(np.argmin(losses))
    note = (
        f"held-out loss {losses[best]:.3f}: rate {learning_rates[best]:g} "
        f"(of {len(learning_rates)}); {found[best].note}"
    )
    name = "GRU" if architecture == "gru" else "transformer"
    return found[best]._replace(name=name, seconds=time.perf_counter() - start, note=note)


def _network_member(
    architecture: str, split: Split, training: Training, fold: int, n_parameters: int, seed: int
) -> _Member:
    first = split.train[0]
    size = round(training.patch_s * first.rate)
    torch.manual_seed(seed + 100 * fold)
    network = _sized(architecture, first.x.shape[1:], size, split.n_classes, n_parameters)
    scale = float(np.concatenate([t.x.ravel() for t in split.train]).std())

    def forward(batch: TrialBatch, _mask: object, _generator: Generator) -> Tensor:
        n = batch.x.shape[1] // size * size
        patches = (batch.x[:, :n] / scale).unflatten(1, (-1, size)).flatten(2)
        logits: Tensor = network(patches).mean(dim=1)
        return logits

    train, held = (_parts(split, None, fold, held=h)[0] for h in (False, True))
    fit = fit_network(
        network,
        forward,
        make_batches(train, None, split.n_classes),
        make_batches(held, None, split.n_classes),
        steps=training.steps,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        weight_decay=0.01,
        validate_every=25,
        masker=None,
        generator=Generator().manual_seed(seed),
    )
    scored = [
        [network_logits(network, forward, b) for b in make_batches(sets, None, split.n_classes)]
        for sets in (held, split.test)
    ]
    n_used = sum(p.numel() for p in network.parameters())
    return _Member(scored[0], scored[1], fold, fit.best_step, n_used)


def _sized(
    architecture: str, shape: tuple[int, ...], size: int, n_classes: int, n_parameters: int
) -> nn.Module:
    """The widest network with at most `n_parameters`."""
    n_patches, n_inputs = shape[0] // size, shape[1] * size
    network: nn.Module | None = None
    for width in range(4, 513, 4):
        wider = (
            _GRU(n_inputs, n_classes, width)
            if architecture == "gru"
            else _Transformer(n_inputs, n_classes, width, n_patches)
        )
        if sum(p.numel() for p in wider.parameters()) > n_parameters and network is not None:
            break
        network = wider
    if network is None:
        raise ValueError(f"no {architecture} has at most {n_parameters} parameters")
    return network


def trial_row(task: str, name: str, split: Split, scored: Scored, *, block: int, seed: int) -> Row:
    """Accuracy on the test trials with its 95 % interval over blocks of `block` trials."""
    labels = np.concatenate([t.labels for t in split.test]).astype(np.float64)
    predicted = np.concatenate(scored.test).argmax(axis=1).astype(np.float64)
    interval = block_bootstrap(
        accuracy,
        [labels, predicted],
        block_length=block,
        generator=np.random.default_rng(0),
    )
    seconds = [
        sum(t.x.shape[0] * t.x.shape[1] / t.rate for t in s) for s in (split.train, split.test)
    ]
    return Row(
        task,
        name,
        scored.name,
        "accuracy",
        interval.estimate,
        interval.low,
        interval.high,
        seconds[0],
        seconds[1],
        scored.n_parameters,
        scored.seconds,
        seed,
        scored.note,
    )
