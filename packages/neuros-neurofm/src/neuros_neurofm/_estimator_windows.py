"""Batches of windows, drawn at random from recordings of any length."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Generator, Tensor

__all__ = ["Piece", "WindowLoader", "batch_of", "moved", "unit_ids"]


class Piece(NamedTuple):
    """One recording as the model takes it.

    Attributes:
        session: Name of its session.
        x: (time, channel), NaN where missing.
        y: (time, dim) numbers with NaN where missing, (time,) indices of labels, or None.
    """

    session: str
    x: NDArray[np.float32]
    y: NDArray[Any] | None


def unit_ids(session: str, n: int) -> tuple[str, ...]:
    """Ids of the channels of a session."""
    return tuple(f"{session}/u{k}" for k in range(n))


def batch_of(
    modality: str, pieces: Sequence[Piece], starts: Sequence[int], length: int, rate: float
) -> dict[str, Any]:
    """Windows of one session as a `neuros_core.Batch`; shorter recordings are masked to the end.

    Targets are asked for at the end of every sample.
    """
    first = pieces[0]
    x = np.full((len(pieces), length, first.x.shape[1]), np.nan, dtype=np.float32)
    for row, (piece, start) in enumerate(zip(pieces, starts, strict=True)):
        part = piece.x[start : start + length]
        x[row, : len(part)] = part
    samples = torch.from_numpy(x)
    valid = ~samples.isnan()
    ends = torch.arange(1, length + 1, dtype=torch.float64) / rate
    batch: dict[str, Any] = {
        modality: samples.nan_to_num(0.0),
        "units": {modality: unit_ids(first.session, x.shape[2])},
        "rates": {modality: rate},
        "behavior_times": ends.repeat(len(pieces), 1),
    }
    if not bool(valid.all()):
        batch["masks"] = {modality: valid}
    if any(piece.y is not None for piece in pieces):
        batch |= _targets(pieces, starts, length)
    return batch


def _targets(pieces: Sequence[Piece], starts: Sequence[int], length: int) -> dict[str, Tensor]:
    known = next(piece.y for piece in pieces if piece.y is not None)
    y = np.zeros((len(pieces), length, *known.shape[1:]), dtype=known.dtype)
    mask = np.zeros((len(pieces), length), dtype=bool)
    for row, (piece, start) in enumerate(zip(pieces, starts, strict=True)):
        if piece.y is None:
            continue
        part = piece.y[start : start + length]
        there = np.isfinite(part).reshape(len(part), -1).all(axis=1)
        y[row, : len(part)][there] = part[there]
        mask[row, : len(part)] = there
    target = torch.from_numpy(y)
    if target.is_floating_point():
        target = target.float()
    return {"behavior": target, "behavior_mask": torch.from_numpy(mask)}


def moved(batch: Mapping[str, Any], device: torch.device | str) -> dict[str, Any]:
    """The batch with its tensors on a device."""

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device)
        return {k: move(v) for k, v in value.items()} if isinstance(value, dict) else value

    return {name: move(value) for name, value in batch.items()}


class WindowLoader:
    """Yields `n_batches` batches, each of one session, with windows that start anywhere.

    A session is drawn as often as it has windows, a recording in it likewise.

    Args:
        pieces: The recordings.
        modality: What they are.
        length: Samples per window.
        rate: Samples per second.
        batch_size: Windows per batch.
        n_batches: Batches per pass.
        generator: What the draws come from.
        device: Where the batches lie.

    Attributes:
        n_drawn: Batches drawn so far.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        modality: str,
        *,
        length: int,
        rate: float,
        batch_size: int,
        n_batches: int,
        generator: Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        self._modality = modality
        self._length = length
        self._rate = rate
        self._batch_size = batch_size
        self._n_batches = n_batches
        self._generator = generator
        self._device = device
        self.n_drawn = 0
        self._sessions: dict[str, list[Piece]] = {}
        for piece in pieces:
            self._sessions.setdefault(piece.session, []).append(piece)

    def __len__(self) -> int:
        return self._n_batches

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        sessions = list(self._sessions.values())
        shares = [self._shares(pieces) for pieces in sessions]
        of_session = torch.stack([share.sum() for share in shares])
        for k in self._draw(of_session, self._n_batches):
            pieces = [sessions[k][i] for i in self._draw(shares[k], self._batch_size)]
            length = min(self._length, max(len(piece.x) for piece in pieces))
            starts = [self._start(len(piece.x) - length) for piece in pieces]
            batch = batch_of(self._modality, pieces, starts, length, self._rate)
            self.n_drawn += 1
            yield moved(batch, self._device)

    def _shares(self, pieces: Sequence[Piece]) -> Float[Tensor, " piece"]:
        return torch.tensor([max(len(piece.x) / self._length, 1.0) for piece in pieces])

    def _draw(self, shares: Float[Tensor, " option"], n: int) -> list[int]:
        drawn: list[int] = torch.multinomial(
            shares, n, replacement=True, generator=self._generator
        ).tolist()
        return drawn

    def _start(self, room: int) -> int:
        if room <= 0:
            return 0
        return int(torch.randint(room + 1, (), generator=self._generator))
