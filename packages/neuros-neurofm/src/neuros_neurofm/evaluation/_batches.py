"""Batches of a session's blocks, as the model and the losses read them."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from neuros_neurofm.evaluation._arrays import Array
from neuros_neurofm.evaluation.session import Session
from neuros_neurofm.models.multimodal_neurofmx import MultiModalNeuroFMX

Batch: TypeAlias = dict[str, Any]


class Scale(NamedTuple):
    """Mean and deviation of continuous targets over training blocks; None for labels or nothing."""

    center: Array | None
    deviation: Array | None

    @classmethod
    def of(cls, sessions: Sequence[Session]) -> "Scale":
        """Measure the targets of all training blocks together."""
        rows = [
            session.targets[block][session.scored()[block]]
            for session in sessions
            if session.targets is not None and not session.labelled
            for block in session.blocks.train
        ]
        if not rows:
            return cls(None, None)
        stacked = np.concatenate(rows)
        if not len(stacked):
            raise ValueError("no sample of the training blocks has a target; all are NaN")
        deviation = stacked.std(axis=0)
        return cls(stacked.mean(axis=0), np.where(deviation > 0, deviation, 1.0))

    def apply(self, targets: NDArray[Any]) -> NDArray[Any]:
        """Z-score continuous targets; labels stay."""
        if self.center is None or self.deviation is None:
            return targets
        return np.asarray((targets - self.center) / self.deviation)


OWN_UNITS = Scale(None, None)


def window_samples(model: MultiModalNeuroFMX, session: Session) -> int:
    """Count the samples of the session in one window of the model.

    Raises:
        ValueError: A model without a window or without a rate of a modality, or no common modality.
    """
    names = shared_modalities(model, session)
    missing = [name for name in names if name not in model.sampling_rates]
    if model.window is None or missing:
        raise ValueError(
            "blocks of any length need a fixed step of time; build the model with window=seconds "
            f"and sampling_rates={{...: Hz}} (window is {model.window}, no rate of {missing})"
        )
    return max(round(model.window * session.rate), 1)


def shared_modalities(model: MultiModalNeuroFMX, session: Session) -> list[str]:
    """List the modalities that both have, in the model's order.

    Raises:
        ValueError: There is none.
    """
    names = [name for name in model.modalities if name in session.inputs]
    if not names:
        raise ValueError(
            f"the model reads {list(model.modalities)}, the session {session.name!r} has "
            f"{list(session.inputs)}; they need a common modality"
        )
    return names


def block_batches(
    model: MultiModalNeuroFMX, session: Session, part: str, *, scale: Scale = OWN_UNITS
) -> list[Batch]:
    """Make one batch of one row of each block of a part.

    Raises:
        ValueError: A part without blocks, or a model without a fixed step of time.
    """
    window_samples(model, session)
    blocks = session.part(part)
    if not blocks:
        raise ValueError(f"the session {session.name!r} has no {part} block; give it one")
    source = BatchSource(model, session, scale)
    return [source.rows([b.block.start], b.block.stop - b.block.start) for b in blocks]


class BatchSource:
    """A session as tensors on the model's device, cut into rows of equal length."""

    def __init__(self, model: MultiModalNeuroFMX, session: Session, scale: Scale) -> None:
        self.device = model.fusion.latent.device
        self.session = session
        self.inputs = {
            name: torch.as_tensor(session.inputs[name], dtype=torch.float32, device=self.device)
            for name in shared_modalities(model, session)
        }
        self.scored = torch.as_tensor(session.scored(), device=self.device)
        self.targets: Tensor | None = None
        if session.targets is not None:
            values = scale.apply(session.targets)
            dtype = torch.int64 if session.labelled else torch.float32
            kept = torch.as_tensor(np.nan_to_num(values), dtype=dtype, device=self.device)
            self.targets = kept.clamp(min=0) if session.labelled else kept

    def rows(self, starts: Sequence[int], length: int) -> Batch:
        """Cut one row of `length` samples at each start; the decoder is asked at every end."""
        at = torch.as_tensor(starts, device=self.device)[:, None]
        index = at + torch.arange(length, device=self.device)
        units = self.session.units or {}
        ends = torch.arange(1, length + 1, dtype=torch.float64, device=self.device)
        batch: Batch = {name: x[index] for name, x in self.inputs.items()}
        batch["units"] = {name: ids for name, ids in units.items() if name in self.inputs}
        batch["rates"] = dict.fromkeys(self.inputs, self.session.rate)
        batch["behavior_times"] = (ends / self.session.rate).expand(len(starts), -1)
        if self.targets is not None:
            batch["behavior"] = self.targets[index]
            batch["behavior_mask"] = self.scored[index]
        return batch


class WindowSampler:
    """Random windows of the training blocks, the sessions in turn."""

    def __init__(
        self,
        model: MultiModalNeuroFMX,
        sessions: Sequence[Session],
        *,
        scale: Scale,
        batch_size: int,
        generator: Generator,
    ) -> None:
        self.sources = [BatchSource(model, session, scale) for session in sessions]
        self.lengths = [window_samples(model, session) for session in sessions]
        self.batch_size = batch_size
        self.generator = generator

    def draw(self, turn: int) -> Batch:
        """Draw a batch of windows of one session, each inside a block of its own.

        One block, long ones more often, sets the length: the model's window, or less where the
        block is shorter. The windows lie anywhere in the blocks that are at least as long.
        """
        which = turn % len(self.sources)
        source = self.sources[which]
        blocks = source.session.blocks.train
        sizes = torch.tensor([block.stop - block.start for block in blocks])
        first = int(torch.multinomial(sizes.double(), 1, generator=self.generator))
        length = min(self.lengths[which], int(sizes[first]))
        # Window k of all: which block holds it, and where it starts there.
        ends = (sizes - length + 1).clamp(min=0).cumsum(0)
        drawn = torch.randint(int(ends[-1]), (self.batch_size,), generator=self.generator)
        index = torch.searchsorted(ends, drawn, right=True)
        starts = torch.tensor([block.start for block in blocks])
        before = torch.cat([ends.new_zeros(1), ends[:-1]])
        return source.rows((starts[index] + drawn - before[index]).tolist(), length)
