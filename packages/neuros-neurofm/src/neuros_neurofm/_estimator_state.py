"""What an estimator has learned, and the steps that make it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from neuros_neurofm._estimator_data import Recording, Scale, TargetCode, group, same_width
from neuros_neurofm._estimator_linear import leave_over, linear_of
from neuros_neurofm._estimator_objective import BehaviorContrast
from neuros_neurofm._estimator_training import (
    TimeGrid,
    add_sessions,
    build_model,
    check_settings,
    grid_of,
    options_of,
)
from neuros_neurofm._estimator_windows import Piece, WindowLoader, batch_of, moved
from neuros_neurofm.models import LinearPart, MultiModalNeuroFMX
from neuros_neurofm.models._linear_fit import silence_decoder

__all__ = ["Learned", "ReadOut", "start"]


class ReadOut(NamedTuple):
    """What the model says at the end of every sample.

    Attributes:
        latents: (time, latent_dim), 0 before the first token is complete.
        decoder: (time, width), width 0 without a decoder.
    """

    latents: NDArray[np.float32]
    decoder: NDArray[np.float64]


@dataclass(slots=True)
class Learned:
    """The state of a fitted estimator.

    Attributes:
        modality: What was recorded.
        model: The model.
        grid: How time is divided.
        code: How targets are written.
        contrast: The embedding of targets; None without them.
        seed: What all randomness follows from.
        sessions: Channels of every known session.
        scales: Level and spread of the channels of every session, but for counts.
        latest: Session of each recording of the last call that learned.
        losses: Loss of every step.
        linear: Linear part of every session that had targets; None: the model decodes alone.
    """

    modality: str
    model: MultiModalNeuroFMX
    grid: TimeGrid
    code: TargetCode
    contrast: BehaviorContrast | None
    seed: int
    sessions: dict[str, int] = field(default_factory=dict)
    scales: dict[str, Scale] = field(default_factory=dict)
    latest: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    linear: dict[str, LinearPart] | None = None

    @property
    def counts(self) -> bool:
        """Whether the channels are counts, which are not scaled."""
        return self.modality == "spike"

    @property
    def next_seed(self) -> int:
        """The seed of the next training: it follows from the first one and the steps since."""
        return (self.seed + len(self.losses)) % 2**31

    def join(
        self,
        recordings: Sequence[Recording],
        targets: Sequence[NDArray[Any] | None],
        names: Sequence[str],
    ) -> list[Piece]:
        """Take recordings in: units and scales of new sessions, and all as the model reads it.

        Raises:
            ValueError: A session with another number of channels, or targets of another kind.
        """
        widths = same_width(names, recordings)
        for name, width in widths.items():
            self._check_width(name, width)
        coded = [None if y is None else self._encode(y) for y in targets]
        if not self.counts:
            for name, parts in group(names, recordings).items():
                self.scales.setdefault(name, Scale.of(parts))
        pieces = [
            Piece(name, self._scaled(name, x), y)
            for name, x, y in zip(names, recordings, coded, strict=True)
        ]
        if self.linear is not None:
            pieces = leave_over(self.linear, self.modality, pieces, rate=self.grid.rate)
        add_sessions(self.model, self.modality, pieces, infer=bool(self.losses))
        self.sessions |= widths
        self.latest = list(names)
        return pieces

    def loader(self, pieces: Sequence[Piece], n_batches: int, batch_size: int) -> WindowLoader:
        """Random windows of the pieces, on the device of the model."""
        return WindowLoader(
            pieces,
            self.modality,
            length=self.grid.length,
            rate=self.grid.rate,
            batch_size=batch_size,
            n_batches=n_batches,
            generator=Generator().manual_seed(self.next_seed),
            device=self.device,
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.modality_vectors[self.modality].device
        return device

    def names_for(self, given: str | Sequence[str] | None, n: int) -> str | Sequence[str]:
        """The sessions that n recordings belong to when none, or one, is named.

        Raises:
            ValueError: Nothing says which.
        """
        if given is not None:
            return given
        if len(set(self.latest)) == 1:
            return self.latest[0]
        if n != len(self.latest):
            raise ValueError(
                f"X holds {n} recordings, the last fit or adapt had {len(self.latest)} of the "
                f"sessions {list(dict.fromkeys(self.latest))}; say which with sessions="
            )
        return self.latest

    def read_out(self, name: str | None, x: Recording, *, decodes: bool) -> ReadOut:
        """Run the model over a whole recording; None: its units are inferred.

        Raises:
            ValueError: An unknown session, another number of channels, an unknown scale, or a
                session that is to be decoded and has no linear part.
        """
        if name is None:
            if not self.counts:
                raise ValueError(
                    f"infer_units needs spike counts: the scale of an unknown {self.modality} "
                    "recording is learned by adapt(X)"
                )
            scaled = x.astype(np.float32)
        else:
            self._check_known(name, x.shape[1])
            scaled = self._scaled(name, x)
        piece = Piece(name or "?", scaled, None)
        batch = batch_of(self.modality, [piece], [0], len(x), self.grid.rate)
        if name is None:
            del batch["units"]
        with torch.no_grad():
            out = self.model.eval().forward_batch(moved(batch, self.device))
        latents = out.latents[0].float().cpu().numpy()
        none = np.empty((len(x), 0))
        decoder = none if out.decoder is None else out.decoder[0].double().cpu().numpy()
        if decodes and self.linear is not None:
            decoder = decoder + linear_of(self.linear, self.modality, piece)
        return ReadOut(self._held(latents, len(x)), decoder)

    def _held(self, latents: NDArray[np.float32], n: int) -> NDArray[np.float32]:
        """The latent that is known at the end of each sample."""
        samples = np.arange(n)
        patch = self.grid.patch
        index = (samples + 1) // patch - 1 if self.model.causal else samples // patch
        before = np.zeros((1, latents.shape[1]), dtype=latents.dtype)
        return np.concatenate([before, latents])[index + 1]

    def _scaled(self, name: str, x: Recording) -> NDArray[np.float32]:
        z = x if self.counts else self.scales[name].apply(x)
        return z.astype(np.float32)

    def _encode(self, y: NDArray[Any]) -> NDArray[Any]:
        if not self.code.width:
            raise ValueError("y is given, but the first fit had none; fit anew to decode")
        return self.code.encode(y)

    def _check_width(self, name: str, width: int) -> None:
        known = self.sessions.get(name, width)
        if known != width:
            raise ValueError(
                f"X has {width} features, but NeuroFMEstimator is expecting {known} features as "
                f"input for session {name!r}; adapt(X) learns a session of other units"
            )

    def _check_known(self, name: str, width: int) -> None:
        if name not in self.sessions:
            raise ValueError(
                f"session {name!r} is unknown, known are {list(self.sessions)}; adapt(X, y, "
                "sessions=...) learns it, infer_units=True reads spike counts without"
            )
        self._check_width(name, width)


def start(
    params: Mapping[str, Any],
    targets: Sequence[NDArray[Any] | None],
    seed: int,
    classes: Any = None,
) -> Learned:
    """An untrained state for these targets; torch's global generator initialises the model.

    Raises:
        TypeError: Settings of a wrong type.
        ValueError: Settings out of range, or nothing to learn.
    """
    names = ("max_steps", "batch_size", "learning_rate", "mask_ratio", "contrastive_weight")
    check_settings(**{name: params[name] for name in names})
    options = options_of(params["size"])
    modality = params["modality"]
    grid = grid_of(modality, options, params["sampling_rate"], params["window"])
    code = TargetCode.of(targets, classes)
    if not code.width and params["mask_ratio"] == 0:
        raise ValueError("without y there is nothing to learn at mask_ratio = 0; raise it")
    model = build_model(modality, options, grid, code.width)
    linear: dict[str, LinearPart] | None = None
    if params["linear_skip"]:
        if code.scale is None:
            raise ValueError("linear_skip needs continuous y; leave it out for labels or no y")
        linear = {}
        silence_decoder(model)
    labels, weight = code.classes is not None, float(params["contrastive_weight"])
    contrast = None
    if code.width and weight > 0:
        contrast = BehaviorContrast(code.width, labels=labels, weight=weight)
    return Learned(modality, model, grid, code, contrast, seed, linear=linear)
