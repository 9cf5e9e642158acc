"""Training of sparse coders: from rows at hand, or from a model while it runs."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from neuros_mechint.activations._state import evaluating
from neuros_mechint.sae._checkpoint import Checkpoint, Position
from neuros_mechint.sae._coder import Coder
from neuros_mechint.sae._recipe import Recipe, Revive, StepCallback, TrainLog
from neuros_mechint.sae._session import Session
from neuros_mechint.sae._sources import Activations, RowStore, SiteKey, as_store, parts_of
from neuros_mechint.sae._stream import (
    SAMPLE_ROWS,
    Stream,
    check_finite,
    new_seed,
    start_rows,
    train_rows,
)
from neuros_mechint.sae._supervision import Supervision

__all__ = ["MultiLayerSAETrainer", "TrainLog"]


def fit(
    coder: Coder,
    activations: Activations,
    recipe: Recipe,
    *,
    names: Sequence[str] | None,
    steps: int | None,
    num_epochs: int | None,
    generator: torch.Generator | None,
    checkpoint: str | os.PathLike[str] | None,
    checkpoint_every: int,
    supervision: Supervision | None = None,
) -> TrainLog:
    """Train a coder on rows; `SparseAutoencoder.fit` and `ConceptSAE.fit` document it."""
    if (steps is None) == (num_epochs is None) or (steps or num_epochs or 0) < 1:
        raise ValueError(
            f"fit needs either steps or num_epochs, at least 1, got steps={steps} and "
            f"num_epochs={num_epochs}"
        )
    store = as_store(activations)
    rows = recipe.batch_size * steps if steps else len(store) * (num_epochs or 0)
    settings = {**_settings([coder], recipe), "steps": steps, "num_epochs": num_epochs}
    settings |= supervision.settings() if supervision else {}
    file = Checkpoint(checkpoint, checkpoint_every, {**settings, "rows": len(store)})
    generator = generator or torch.Generator().manual_seed(0)
    session = Session(coder, recipe, rows, new_seed(generator), supervision)
    position = Position(generator)
    saved = file.read()
    if saved is None:
        start_rows(session, _sample(store, names, session, generator))
    else:
        session.restore(saved["session"])
        position.restore(saved["position"])
    with _training([coder]):
        while session.step != steps and position.epoch != num_epochs:
            for batch in position.batches(store, names, recipe.batch_size):
                parts = parts_of(batch, names, session.n_tensors)
                for part in parts[: coder.n_parts]:
                    check_finite(part, f"batch {session.step}")
                train_rows(session, parts)
                if session.step == steps:
                    break
                if file.is_due(session.step):
                    file.write(session.step, _state(session, position))
            else:
                session.end_epoch(position.epoch)
    file.write(session.step, _state(session, position))
    return session.log()


class MultiLayerSAETrainer:
    r"""Train many coders, at one or several sites, from one forward of the model per batch.

    The model runs without gradient and in evaluation mode, up to the last site. The rows of several
    forwards are mixed in a buffer before they are cut into batches; all activations are never held.

    Args:
        coders: Site -> coder or coders. A `Transcoder` has the pair (input site, target site) as
            its key, a `Crosscoder` the tuple of its sites.
        lr: Learning rate; None takes $2 \cdot 10^{-4} / \sqrt{F / 16384}$ for each coder.
        batch_size: Rows of one optimizer step.
        buffer_rows: Rows that are mixed, at least one batch.
        revive: As in `SparseAutoencoder.fit`.
        dead_after: As in `SparseAutoencoder.fit`.
        generator: Source of the order, on the CPU; None is a generator with seed 0.
        callbacks: As in `SparseAutoencoder.fit`; each coder calls them for its own steps.

    Raises:
        ValueError: When there is no coder, a coder comes twice, or a number is out of its range.

    Examples:
        >>> from neuros_mechint.sae import SparseAutoencoder
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> coders = {
        ...     "0": [SparseAutoencoder(latent_dim=4, dictionary_size=F) for F in (8, 16)],
        ...     "2": SparseAutoencoder(latent_dim=2, dictionary_size=8),
        ... }
        >>> trainer = MultiLayerSAETrainer(coders, batch_size=32)
        >>> logs = trainer.train(net, [torch.randn(64, 3) for _ in range(4)])
        >>> [log.steps for log in logs["0"]], logs["2"][0].tokens
        ([8, 8], 256)
    """

    def __init__(
        self,
        coders: Mapping[SiteKey, Coder | Sequence[Coder]],
        *,
        lr: float | None = None,
        batch_size: int = 1024,
        buffer_rows: int = 16_384,
        revive: Revive | None = None,
        dead_after: int | None = None,
        generator: torch.Generator | None = None,
        callbacks: Iterable[StepCallback] = (),
    ) -> None:
        self._recipe = Recipe(lr, revive, dead_after, batch_size, tuple(callbacks))
        self._coders = {
            key: (found,) if isinstance(found, Coder) else tuple(found)
            for key, found in coders.items()
        }
        everyone = [coder for found in self._coders.values() for coder in found]
        if not everyone or len(set(map(id, everyone))) < len(everyone):
            raise ValueError(
                f"coders needs at least one coder, each of them once, got {len(everyone)}"
            )
        self._everyone = everyone
        if buffer_rows < 1:
            raise ValueError(f"buffer_rows needs at least 1, got {buffer_rows}")
        self._buffer_rows = buffer_rows
        self._generator = generator

    def train(
        self,
        model: nn.Module,
        dataloader: Iterable[Any],
        *,
        num_epochs: int = 1,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1000,
    ) -> dict[SiteKey, tuple[TrainLog, ...]]:
        """Run the model over the data and train every coder.

        Args:
            model: Any module.
            dataloader: Batches. A tuple or list holds the positional arguments of the forward; a
                mapping whose keys are parameters of the forward holds its keyword arguments;
                anything else is the one argument. Without a length, dead features count from
                10^6 rows and the learning rate does not fall at the end.
            num_epochs: Passes over the data.
            checkpoint: File to write to and to continue from. To continue, the loader has to give
                the same batches in the same order; those that are done are drawn, not computed.
            checkpoint_every: Steps of a coder between two writes.

        Returns:
            For each key of `coders`, one log per coder.

        Raises:
            KeyError: When a path names no module.
            RuntimeError: When a site is not reached in the forward.
            ValueError: When activations are not finite or of another width than the coder, with
                the index of the batch; when the data is empty.

        Examples:
            >>> from neuros_mechint.sae import SparseAutoencoder
            >>> coder = SparseAutoencoder(latent_dim=4, dictionary_size=8)
            >>> trainer = MultiLayerSAETrainer({"": coder}, batch_size=10)
            >>> logs = trainer.train(nn.Identity(), [torch.ones(5, 2, 4)] * 3, num_epochs=2)
            >>> logs[""][0].tokens
            60
        """
        if num_epochs < 1:
            raise ValueError(f"num_epochs needs at least 1, got {num_epochs}")
        settings = {**_settings(self._everyone, self._recipe), "num_epochs": num_epochs}
        file = Checkpoint(checkpoint, checkpoint_every, settings)
        stream = Stream(model, self._coders, self._recipe, self._buffer_rows, self._generator)
        saved = file.read()
        if saved is not None:
            stream.restore(saved)
        with _training(self._everyone), evaluating(model):
            n_batches = len(dataloader) * num_epochs if isinstance(dataloader, Sized) else None
            place = 0
            for epoch in range(num_epochs):
                before = stream.n_seen
                for index, batch in enumerate(dataloader):
                    place += 1
                    if place > stream.n_seen:
                        stream.take(batch, n_batches, f"batch {index} of epoch {epoch}")
                        if file.is_due(stream.step):
                            file.write(stream.step, stream.state())
                if stream.n_seen > before:
                    stream.end_epoch(epoch + 1)
            stream.finish()
        file.write(stream.step, stream.state())
        return stream.logs()


def _sample(
    store: RowStore, names: Sequence[str] | None, session: Session, generator: torch.Generator
) -> list[Tensor]:
    """Rows from all over the data."""
    shuffle = len(store) > SAMPLE_ROWS
    first = next(store.batches(SAMPLE_ROWS, shuffle=shuffle, generator=generator, sites=names))
    return parts_of(first, names, session.n_tensors)


def _settings(coders: Iterable[Coder], recipe: Recipe) -> dict[str, Any]:
    return {
        "coders": [[type(coder).__name__, coder.config] for coder in coders],
        "lr": recipe.lr,
        "revive": recipe.revive,
        "dead_after": recipe.dead_after,
        "batch_size": recipe.batch_size,
    }


def _state(session: Session, position: Position) -> dict[str, Any]:
    return {"session": session.state(), "position": position.state()}


@contextmanager
def _training(coders: Iterable[Coder]) -> Iterator[None]:
    """Coders in training mode; they end in evaluation mode, where rows do not see each other."""
    for coder in coders:
        coder.train()
    try:
        yield
    finally:
        for coder in coders:
            coder.eval()
