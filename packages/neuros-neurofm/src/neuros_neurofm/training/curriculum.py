r"""From all sources alike, over the sources that resemble the target, to the target itself."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Modality
from neuros_core.domains import SourceWeights
from neuros_neurofm.training._phases import (
    ORDER,
    FinetunePhase,
    Phase,
    Plateau,
    PretrainPhase,
    WeightedPhase,
)
from neuros_neurofm.training._stages import modality_stages
from neuros_neurofm.training._trust import Number, guard, guard_weights

__all__ = [
    "FinetunePhase",
    "Plateau",
    "PretrainPhase",
    "ThreePhaseCurriculum",
    "WeightedPhase",
    "guard_weights",
    "modality_stages",
]


class ThreePhaseCurriculum:
    """Shares of the domains at every step: all sources, the weighted sources, the target.

    The shares are continuous in the step and lie on the simplex at every step. A step is whatever
    you count, optimiser steps or epochs, the same in all phases. Weights that their own diagnosis
    does not support are shrunk (`guard_weights`), with a warning.

    Draw with them, epoch by epoch: `sampler.set_weights(curriculum.weights_at(step))`; or weigh
    the losses of every batch: `domain_weighted_loss(losses, ids, curriculum.weights_at(step))`.
    Where the phase is another than before, `model.unfreeze("all")` and
    `model.freeze(*curriculum.phase_at(step).freeze)`.

    A run that is resumed sets the sampler's weights once more, for the epoch of its checkpoint;
    what a `Plateau` has seen is in `state_dict`, which you keep beside the checkpoint.

    Args:
        phases: A `PretrainPhase`, a `WeightedPhase` and a `FinetunePhase`, in this order; each may
            be left out, and the first may be the stages of `modality_stages`. Every one but the
            last has a duration.
        names: Every domain, in the order of the shares; all but the target of the `FinetunePhase`
            are sources.

    Raises:
        TypeError: A phase or weights of another type.
        ValueError: Phases out of order or without an end, or names that do not fit.

    Examples:
        >>> from neuros_core.domains import SourceWeights
        >>> estimated = SourceWeights(("a", "b"), [0.9, 0.1], "example")
        >>> curriculum = ThreePhaseCurriculum(
        ...     [
        ...         PretrainPhase(duration=100),
        ...         WeightedPhase(weights=estimated, ramp_steps=50, duration=100),
        ...         FinetunePhase(target="new", ramp_steps=10, replay=0.2, freeze=("backbone",)),
        ...     ],
        ...     names=["a", "b", "new"],
        ... )
        >>> for step in (0, 125, 150, 205, 210):
        ...     print(curriculum.phase_at(step).name, curriculum.weights_at(step).weights.round(3))
        pretrain [0.5 0.5 0. ]
        weighted [0.7 0.3 0. ]
        weighted [0.9 0.1 0. ]
        finetune [0.54 0.06 0.4 ]
        finetune [0.18 0.02 0.8 ]
    """

    def __init__(self, phases: Sequence[Phase], *, names: Sequence[str]) -> None:
        self.phases = _check_phases(phases)
        self.names = tuple(names)
        last = self.phases[-1]
        target = last.target if isinstance(last, FinetunePhase) else None
        _check_names(self.names, target)
        self._sources = tuple(name for name in self.names if name != target)
        self._begin = self._spread(SourceWeights.uniform(self._sources))
        self._goals: list[NDArray[np.float64]] = []
        for phase in self.phases:
            self._goals.append(self._goal_of(phase))
        self._starts: list[Number] = [0]
        self._follow()
        self._best = math.inf
        self._n_without = 0
        self._observed = -math.inf

    def phase_at(self, step: Number) -> Phase:
        """Return the phase that a step belongs to.

        Args:
            step: Counted from 0; fractions are allowed.

        Returns:
            The phase, with its `name` and the parts to `freeze`.

        Raises:
            ValueError: A negative step or none at all.
        """
        return self.phases[self._index_at(step)]

    def weights_at(self, step: Number) -> SourceWeights:
        """Return the shares of all domains at a step.

        Of steps after the running phase where a `Plateau` ends it, nothing is known yet: they are
        answered as if it went on.

        Args:
            step: Counted from 0; fractions are allowed.

        Returns:
            Weights over `names`.

        Raises:
            ValueError: A negative step or none at all.
        """
        index = self._index_at(step)
        phase, goal = self.phases[index], self._goals[index]
        shares = goal
        if not isinstance(phase, PretrainPhase):
            done = min((step - self._starts[index]) / phase.ramp_steps, 1.0)
            if phase.ramp == "cosine":
                done = (1 - math.cos(math.pi * done)) / 2
            before = self._goals[index - 1] if index else self._begin
            shares = (1 - done) * before + done * goal
        method = f"curriculum({phase.name})"
        return SourceWeights(self.names, shares, method, meta={"step": step})

    def visible(self, batch: Mapping[str, Any], step: Number) -> dict[str, Any]:
        """Return a new batch without the modalities that have not joined at a step.

        Args:
            batch: A `neuros_core.Batch`.
            step: Counted from 0; fractions are allowed.

        Returns:
            The batch, with neither the values of these modalities nor their entries in
            `masks`, `units` and the like; whole in a phase that names no modalities.

        Raises:
            ValueError: A negative step or none at all, or no modality of the batch has joined.
        """
        phase = self.phase_at(step)
        joined = phase.modalities if isinstance(phase, PretrainPhase) else None
        if joined is None:
            return dict(batch)
        left = [str(m) for m in Modality if m in batch and m in joined]
        if not left:
            raise ValueError(
                f"the batch has none of the modalities {list(joined)} that have joined at step "
                f"{step}, only {sorted(batch)}; leave it out"
            )
        absent = {str(m) for m in Modality} - set(left)
        return {key: _without(x, absent) for key, x in batch.items() if key not in absent}

    def observe(self, step: Number, loss: Number) -> bool:
        """Tell the loss that a `Plateau` judges, such as the validation loss of every epoch.

        It judges once the ramp of its phase is complete. In a phase of fixed length nothing
        happens.

        Args:
            step: When the loss was measured, not before the last observation.
            loss: Smaller is better.

        Returns:
            True where the phase ends with this observation; the next one starts at `step`.

        Raises:
            ValueError: A step before the last observation, or a loss that is not finite.
        """
        if not math.isfinite(loss):
            raise ValueError(f"loss must be finite to judge a plateau, got {loss}")
        index = self._index_at(step)
        if step < self._observed:
            raise ValueError(f"step must not go back below {self._observed}, got {step}")
        self._observed = step
        phase = self.phases[index]
        if not isinstance(phase.duration, Plateau):
            return False
        if loss < self._best - phase.duration.min_delta:
            self._best, self._n_without = loss, 0
        elif step >= self._starts[index] + phase.ramp_steps:
            self._n_without += 1
        if self._n_without < phase.duration.patience:
            return False
        self._best, self._n_without = math.inf, 0
        self._starts.append(step)
        self._follow()
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the starts of the phases and what the plateau has seen, as plain values."""
        return {
            "names": list(self.names),
            "phases": [phase.name for phase in self.phases],
            "starts": list(self._starts),
            "best": self._best,
            "n_without": self._n_without,
            "observed": self._observed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`, in a curriculum built like the one that wrote it.

        Args:
            state: What `state_dict` returned, in this or another process.

        Raises:
            ValueError: The state has other domains or phases.
        """
        for key, own in (
            ("names", list(self.names)),
            ("phases", [phase.name for phase in self.phases]),
        ):
            if list(state[key]) != own:
                raise ValueError(f"the state has {key} {state[key]}, this curriculum has {own}")
        self._starts = list(state["starts"])
        self._best = state["best"]
        self._n_without = state["n_without"]
        self._observed = state["observed"]

    def _index_at(self, step: Number) -> int:
        if not (math.isfinite(step) and step >= 0):
            raise ValueError(f"step must be finite and >= 0, got {step}")
        return sum(step >= start for start in self._starts) - 1

    def _follow(self) -> None:
        """Append the starts that follow from phases of fixed length."""
        for phase in self.phases[len(self._starts) - 1 : -1]:
            if not isinstance(phase.duration, int):
                return
            self._starts.append(self._starts[-1] + phase.duration)

    def _goal_of(self, phase: Phase) -> NDArray[np.float64]:
        """Shares of all domains that the phase holds or moves to, (domain,)."""
        if isinstance(phase, PretrainPhase):
            return self._spread(_tempered(self._sources, phase))
        if isinstance(phase, WeightedPhase):
            return self._spread(guard(phase.weights, phase.trust, stacklevel=4))
        before = self._goals[-1] if self._goals else self._begin
        target = np.array([float(name == phase.target) for name in self.names])
        return (1 - phase.replay) * target + phase.replay * before

    def _spread(self, weights: SourceWeights) -> NDArray[np.float64]:
        """Weights of the sources as shares of all domains."""
        if set(weights.names) != set(self._sources):
            odd = sorted(set(weights.names) ^ set(self._sources))
            raise ValueError(
                f"weights must name the sources {list(self._sources)}, only on one side: {odd}"
            )
        shares = weights.as_dict()
        return np.array([shares.get(name, 0.0) for name in self.names])


def _tempered(sources: Sequence[str], phase: PretrainPhase) -> SourceWeights:
    if phase.counts is None:
        return SourceWeights.uniform(sources)
    if set(phase.counts) != set(sources):
        odd = sorted(set(phase.counts) ^ set(sources))
        raise ValueError(f"counts must name the sources {list(sources)}, only on one side: {odd}")
    powers = np.array([float(phase.counts[name]) ** phase.alpha for name in sources])
    return SourceWeights(tuple(sources), powers / powers.sum(), "counts")


def _check_phases(phases: Sequence[Phase]) -> tuple[Phase, ...]:
    for phase in phases:
        if not isinstance(phase, ORDER):
            known = ", ".join(kind.__name__ for kind in ORDER)
            raise TypeError(f"phases must be of {known}, got {type(phase).__name__}")
    # Stages that follow one another are one pretraining.
    firsts = [*phases[:1], *(b for a, b in pairwise(phases) if not _joins(a, b))]
    places = [ORDER.index(type(phase)) for phase in firsts]
    if not places or any(b <= a for a, b in pairwise(places)):
        raise ValueError(
            "phases must be pretrain, weighted, finetune in this order, each at most once and at "
            f"least one, got {[phase.name for phase in phases]}"
        )
    endless = [phase.name for phase in phases[:-1] if phase.duration is None]
    if endless:
        raise ValueError(f"{endless} need a duration, because a phase follows")
    if phases[-1].duration is not None:
        raise ValueError(
            f"the last phase has no end, got {phases[-1].name} with duration = "
            f"{phases[-1].duration}; leave it out"
        )
    return tuple(phases)


def _joins(before: Phase, after: Phase) -> bool:
    """Whether a phase is the stage before it with further modalities and the same shares."""
    if not (isinstance(before, PretrainPhase) and isinstance(after, PretrainPhase)):
        return False
    if before.modalities is None or after.modalities is None:
        return False
    if (before.alpha, before.counts) != (after.alpha, after.counts):
        return False
    return set(before.modalities) < set(after.modalities)


def _without(x: Any, modalities: set[str]) -> Any:
    if not isinstance(x, Mapping):
        return x
    return {key: value for key, value in x.items() if key not in modalities}


def _check_names(names: tuple[str, ...], target: str | None) -> None:
    if len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"names must be unique texts, got {list(names)}")
    if target is not None and target not in names:
        raise ValueError(f"the target {target!r} must be one of the names {list(names)}")
    if not set(names) - {target}:
        raise ValueError(f"names need at least one source beside the target, got {list(names)}")
