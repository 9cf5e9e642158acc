"""A model's activations on their way to the coders that learn from them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuros_mechint.activations import Site, run
from neuros_mechint.activations._forwards import batch_arguments
from neuros_mechint.activations.site import as_site
from neuros_mechint.sae._coder import Coder
from neuros_mechint.sae._recipe import Recipe, TrainLog
from neuros_mechint.sae._session import Session
from neuros_mechint.sae._sources import RowBuffer, SiteKey

__all__ = [
    "SAMPLE_ROWS",
    "Stream",
    "check_finite",
    "new_seed",
    "start_rows",
    "train_rows",
]

SAMPLE_ROWS = 8192
"""Rows from which the units of training and the decoder's bias are measured."""


class Group:
    """Coders that read the same sites."""

    def __init__(self, sites: list[Site], coders: Sequence[Coder], buffer: RowBuffer) -> None:
        self.sites, self.coders, self.buffer = sites, coders, buffer
        self.sessions: list[Session] = []


class Stream:
    """The model's activations on their way to the coders."""

    def __init__(
        self,
        model: nn.Module,
        coders: Mapping[SiteKey, Sequence[Coder]],
        recipe: Recipe,
        buffer_rows: int,
        generator: torch.Generator | None,
    ) -> None:
        generator = generator or torch.Generator().manual_seed(0)
        self._model, self._recipe = model, recipe
        self._groups: dict[SiteKey, Group] = {}
        for key, found in coders.items():
            sites = [as_site(model, one) for one in (key if isinstance(key, tuple) else (key,))]
            order = torch.Generator().manual_seed(new_seed(generator))
            buffer = RowBuffer(recipe.batch_size, buffer_rows, order)
            self._groups[key] = Group(sites, found, buffer)
        self._seed = new_seed(generator)
        self._sites = list(dict.fromkeys(s for g in self._groups.values() for s in g.sites))
        self.n_seen = 0
        self.finished = False

    @property
    def step(self) -> int:
        """Largest number of steps that a coder has taken."""
        sessions = [session for group in self._groups.values() for session in group.sessions]
        return max((session.step for session in sessions), default=0)

    def take(self, batch: Any, n_batches: int | None, place: str) -> None:
        """Run the model on a batch and train on what is ready."""
        # The first forward runs to its end: only then is it known that no site repeats.
        rows = _forward(self._model, batch, self._sites, stop=self.n_seen > 0, place=place)
        self.n_seen += 1
        for group in self._groups.values():
            parts = [rows[site] for site in group.sites]
            if not group.sessions:
                total = None if n_batches is None else n_batches * len(parts[0])
                self._open(group, total)
            self._pass_on(group, list(group.buffer.push(parts)))

    def finish(self) -> None:
        """Train on what the buffers still hold."""
        if self.n_seen == 0:
            raise ValueError("the dataloader gave no batch, so there is nothing to train on")
        for group in self._groups.values():
            self._pass_on(group, list(group.buffer.flush()))

    def _open(self, group: Group, total: int | None) -> None:
        group.sessions = [
            Session(coder, self._recipe, total, self._seed + number)
            for number, coder in enumerate(group.coders)
        ]

    def _pass_on(self, group: Group, batches: list[list[Tensor]]) -> None:
        for session in group.sessions:
            if batches and not session.step:
                start_rows(
                    session,
                    [torch.cat(parts)[:SAMPLE_ROWS] for parts in zip(*batches, strict=True)],
                )
        for parts in batches:
            for session in group.sessions:
                train_rows(session, parts)

    def end_epoch(self, epoch: int) -> None:
        """Tell the callbacks."""
        for group in self._groups.values():
            for session in group.sessions:
                session.end_epoch(epoch)

    def logs(self) -> dict[SiteKey, tuple[TrainLog, ...]]:
        """Logs of all coders."""
        return {
            key: tuple(session.log() for session in group.sessions)
            for key, group in self._groups.items()
        }

    def state(self) -> dict[str, Any]:
        """Everything that the next batch depends on."""
        groups = [
            {"sessions": [s.state() for s in group.sessions], "buffer": group.buffer.state()}
            for group in self._groups.values()
        ]
        return {"n_seen": self.n_seen, "groups": groups}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        self.n_seen = state["n_seen"]
        for group, saved in zip(self._groups.values(), state["groups"], strict=True):
            group.buffer.restore(saved["buffer"])
            self._open(group, None)
            for session, part in zip(group.sessions, saved["sessions"], strict=True):
                session.restore(part)


def _forward(
    model: nn.Module, batch: Any, sites: list[Site], *, stop: bool, place: str
) -> dict[Site, Tensor]:
    """Rows of every site from one forward."""
    args, kwargs = batch_arguments(model, batch)
    with torch.no_grad():
        cache = run(model, *args, capture=sites, stop=stop, **kwargs).cache
    rows = {}
    for site in sites:
        value = cache[site]
        if value.ndim < 2 or not value.is_floating_point():
            raise ValueError(
                f"site '{site}' gave {value.dtype} of shape {tuple(value.shape)} in {place}; "
                "coders need floating-point activations of shape (..., width)"
            )
        rows[site] = value.reshape(-1, value.shape[-1])
        check_finite(rows[site], f"site '{site}' in {place}")
    return rows


def train_rows(session: Session, parts: Sequence[Tensor]) -> None:
    """Take one step on a batch; labels come after the coder's own tensors."""
    n_parts = session.coder.n_parts
    session.train(*_matched(session.coder, parts[:n_parts]), *parts[n_parts:])


def start_rows(session: Session, parts: Sequence[Tensor]) -> None:
    """Measure the units of training."""
    x, y = _matched(session.coder, parts[: session.coder.n_parts])
    # Training refuses what is not finite with the index of its batch; here it only has no say.
    finite = x.isfinite().all(1) & y.isfinite().all(1)
    session.start(x[finite], y[finite])


def _matched(coder: Coder, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Input and target in the coder's data type and on its device."""
    x, y = coder.joined([part.to(coder.W_dec) for part in parts])
    wanted = sum(coder.in_widths), sum(coder.out_widths)
    if (x.shape[1], y.shape[1]) != wanted:
        raise ValueError(
            f"this {type(coder).__name__} takes rows of width {wanted[0]} and gives {wanted[1]}, "
            f"got activations of width {x.shape[1]} and {y.shape[1]}"
        )
    return x, y


def check_finite(rows: Tensor, place: str) -> None:
    """Raise when a batch holds NaN or infinity."""
    # A finite sum has finite terms; any other may just have overflowed.
    if not bool(rows.sum().isfinite()) and not bool(rows.isfinite().all()):
        n_bad = int((~rows.isfinite()).any(1).sum())
        raise ValueError(
            f"activations need finite numbers, {place} has NaN or infinity in {n_bad} of "
            f"{len(rows)} rows"
        )


def new_seed(generator: torch.Generator) -> int:
    """Start of another generator."""
    return int(torch.randint(2**62, (), generator=generator))
