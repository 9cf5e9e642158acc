"""The loaders of a run, and what the model must know of the data."""

import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from torch import Generator

from neuros_neurofm.datasets.sessions import (
    RecordedSession,
    TimeBlocks,
    cut_blocks,
    load_sessions,
    session_loader,
    windows,
)
from neuros_neurofm.models._options import ordered
from neuros_neurofm.training._run_folder import BehaviorScale
from neuros_neurofm.training._train_options import TrainOptions

__all__: list[str] = []

Loader: TypeAlias = Iterable[Mapping[str, Any]]


class RunData(NamedTuple):
    """What is trained on.

    Attributes:
        train: Batches to train on.
        validation: Batches that choose the checkpoint, or None.
        modalities: Those of the model.
        sampling_rates: Hz per modality.
        units: Modality -> ids of all sessions.
        behavior_dim: Decoded variables or classes.
        scale: What the behaviour was divided by, or None.
    """

    train: Loader
    validation: Loader | None
    modalities: tuple[str, ...]
    sampling_rates: dict[str, float]
    units: dict[str, tuple[str, ...]]
    behavior_dim: int
    scale: BehaviorScale | None


def load_data(options: TrainOptions) -> RunData:
    """Read what `data_dir` or `data` names.

    Raises:
        ValueError: Neither or both are given, or the data do not fit the options.
        FileNotFoundError: There is no such folder, or nothing in it.
        ImportError: There is no such module.
    """
    wanted = None if options.modalities is None else ordered(options.modalities)
    if (options.data_dir is None) == (options.data is None):
        raise ValueError("give the data by one of --data_dir FOLDER and --data module:function")
    if options.data is not None:
        return _from_function(options, options.data, wanted)
    sessions = load_sessions(
        str(options.data_dir), modalities=wanted, sampling_rates=options.sampling_rates
    )
    if options.use_domain_adversarial:
        _check_species(sessions, options.n_domains)
    gap = options.window if options.gap is None else options.gap
    blocks = [_blocks(s, options.split, gap) for s in sessions]
    scale = _scale(sessions, blocks)
    if scale is not None:
        sessions = [s.scaled(*scale.arrays()) for s in sessions]
    found = ordered([m for s in sessions for m in s.signals])
    validation = _samples(sessions, [b.validation for b in blocks], options)
    if options.split[1] and not validation:
        raise ValueError(
            f"no window of {options.window:g} s fits into a validation block; choose a shorter "
            "window, or a split without validation, such as [0.7, 0, 0.3]"
        )
    return RunData(
        train=session_loader(
            _samples(sessions, [b.train for b in blocks], options),
            options.batch_size,
            generator=Generator().manual_seed(options.seed),
            num_workers=options.num_workers,
        ),
        validation=session_loader(validation, options.batch_size) if validation else None,
        modalities=found,
        sampling_rates={m: s.rates[m] for s in sessions for m in s.signals},
        units={m: _ids(sessions, m) for m in found if _ids(sessions, m)},
        behavior_dim=_behavior_dim(sessions, options.behavior_dim),
        scale=scale,
    )


def _from_function(options: TrainOptions, source: str, wanted: tuple[str, ...] | None) -> RunData:
    module_name, _, name = source.partition(":")
    if not module_name or not name or wanted is None:
        raise ValueError(
            f"--data needs module:function, and --modalities beside it, got {source!r} and {wanted}"
        )
    # As `python -m` does: the module may lie where the command is run.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    function = getattr(importlib.import_module(module_name), name, None)
    if function is None:
        raise ValueError(f"the module {module_name} has no function {name}")
    loaders = function()
    if not isinstance(loaders, tuple) or len(loaders) != 2:
        raise TypeError(
            f"{source} must return (train_loader, val_loader), got {type(loaders).__name__}"
        )
    train, validation = loaders
    rates = {m: rate for m, rate in options.sampling_rates.items() if m in wanted}
    return RunData(train, validation, wanted, rates, {}, options.behavior_dim or 0, None)


def _samples(
    sessions: Sequence[RecordedSession],
    blocks: Sequence[tuple[float, float] | None],
    options: TrainOptions,
) -> list[dict[str, Any]]:
    return [
        sample
        for index, (session, block) in enumerate(zip(sessions, blocks, strict=True))
        if block is not None
        for sample in windows(
            session, block, window=options.window, stride=options.stride, index=index
        )
    ]


def _blocks(session: RecordedSession, split: Sequence[float], gap: float) -> TimeBlocks:
    try:
        return cut_blocks(session.duration, split, gap=gap)
    except ValueError as error:
        raise ValueError(f"session {session.name}: {error}") from error


def _scale(
    sessions: Sequence[RecordedSession], blocks: Sequence[TimeBlocks]
) -> BehaviorScale | None:
    """Mean and deviation of a continuous behaviour on the training blocks."""
    parts = [
        s.behavior[: round(b.train[1] * s.behavior_rate)]
        for s, b in zip(sessions, blocks, strict=True)
        if s.behavior is not None and not s.labelled
    ]
    if not parts:
        return None
    values = np.concatenate(parts).astype(np.float64)
    if np.isnan(values).all(axis=0).any():
        raise ValueError("a dimension of behavior is NaN in all training blocks; remove it")
    deviation = np.nanstd(values, axis=0)
    # A constant dimension has nothing to be scaled by.
    scale = np.where(deviation > 0, deviation, 1.0)
    return BehaviorScale(np.nanmean(values, axis=0).tolist(), scale.tolist())


def _ids(sessions: Sequence[RecordedSession], modality: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(u for s in sessions for u in s.units.get(modality, ())))


def _behavior_dim(sessions: Sequence[RecordedSession], given: int | None) -> int:
    behaviors = [s.behavior for s in sessions if s.behavior is not None]
    if given is not None or not behaviors:
        return given or 0
    if behaviors[0].ndim == 1:
        return int(max(y.max() for y in behaviors)) + 1
    return int(behaviors[0].shape[1])


def _check_species(sessions: Sequence[RecordedSession], n_domains: int) -> None:
    known = {s.species for s in sessions if s.species >= 0}
    if len(known) < 2 or max(known) >= n_domains:
        raise ValueError(
            f"use_domain_adversarial needs sessions of at least two species numbered below "
            f"n_domains = {n_domains}, the data have {sorted(known)}; add `species` to the files"
        )
