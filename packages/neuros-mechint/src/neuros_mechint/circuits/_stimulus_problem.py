"""The problem that stimuli solve: objective, penalties, prior, constraint, diversity."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.activations._state import preserved
from neuros_mechint.circuits._stimulus_reader import Reader
from neuros_mechint.circuits._stimulus_search import Found, search
from neuros_mechint.circuits._stimulus_terms import (
    Blur,
    Box,
    Constraint,
    Maximize,
    Naturalistic,
    NonNegative,
)

__all__ = ["Objective", "Problem", "Regularizer", "Stimulus"]

Objective = Callable[[Tensor], Tensor]
Regularizer = Callable[[Tensor], Tensor] | Blur | Naturalistic

# Relative length of the last step at which a search has come to rest.
_REST = 1e-9
_START_STD = 0.1
# Repulsion alone gets stuck between two stimuli of one basin; of so many independent searches per
# stimulus the best different ones start the joint search.
_STARTS_PER_STIMULUS = 8
# Without a constraint, a stimulus beyond this is on its way to infinity.
_UNBOUNDED = 1e8


class Stimulus(NamedTuple):
    """What an optimisation found.

    Attributes:
        x: The stimuli, shape (n_stimuli, ...).
        activation: Activation for each of them, shape (n_stimuli,).
        history: Activation at the start and after every step, shape (steps + 1, n_stimuli); shorter
            when the search came to rest before.
    """

    x: Tensor
    activation: Tensor
    history: Tensor


def _first_stimuli(
    reader: Reader,
    shape: Sequence[int],
    n_rows: int,
    generator: torch.Generator | None,
    start: Tensor | None,
) -> Tensor:
    """First stimuli: given ones, or weak white noise.

    Raises:
        ValueError: When neither is possible.
    """
    if not shape or any(size < 1 for size in shape):
        raise ValueError(f"shape needs positive sizes of one stimulus, got {tuple(shape)}")
    if start is not None:
        try:
            return start.detach().expand(n_rows, *shape).clone()
        except RuntimeError:
            raise ValueError(
                f"start of shape {tuple(start.shape)} does not fit {n_rows} stimuli of shape "
                f"{tuple(shape)}"
            ) from None
    if generator is None:
        raise ValueError("pass generator=torch.Generator() for a random start, or start=")
    like = reader.like()
    noise = torch.randn(
        n_rows, *shape, generator=generator, dtype=like.dtype, device=generator.device
    )
    return _START_STD * noise.to(like.device)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Everything that is asked of the stimuli.

    Attributes:
        reader: Gives the activation.
        objective: What of the activation is maximised; None is the activation itself.
        regularizers: Penalties, at most one `Naturalistic`, blurs.
        constraint: Set of allowed stimuli, None for all.
        n_stimuli: Number of stimuli per unit.
        diversity: Weight of the squared cosines between the stimuli of one unit.
        steps: Most steps.

    Raises:
        ValueError: When the settings do not fit each other.
    """

    reader: Reader
    objective: Objective | None
    regularizers: Sequence[Regularizer]
    constraint: Constraint | None
    n_stimuli: int
    diversity: float
    steps: int

    def __post_init__(self) -> None:
        if self.n_stimuli < 1 or self.steps < 1:
            raise ValueError(
                f"n_stimuli and steps need at least 1, got {self.n_stimuli} and {self.steps}"
            )
        if not self.diversity >= 0 or (self.diversity > 0 and self.n_stimuli == 1):
            raise ValueError(
                f"diversity needs a number of at least 0 and n_stimuli of at least 2, got "
                f"{self.diversity} and {self.n_stimuli}"
            )
        if len(self._priors()) > 1:
            raise ValueError("one Naturalistic can hold at a time, got several")
        if self._priors() and isinstance(self.constraint, (Box, NonNegative)):
            raise ValueError(
                f"Naturalistic moves the coordinates of a filter, in which {self.constraint} is no "
                "simple set; use NormBall, or TotalVariation and Blur in place of Naturalistic"
            )

    def solve(
        self, shape: Sequence[int], generator: torch.Generator | None, start: Tensor | None
    ) -> Stimulus:
        """Search from some first stimuli."""
        n_rows = self.n_stimuli * len(self.reader.units)
        explored = start is None and self.diversity > 0
        n_starts = n_rows * (_STARTS_PER_STIMULUS if explored else 1)
        z = _first_stimuli(self.reader, shape, n_starts, generator, start)
        with preserved(self.reader.model):
            if explored:
                z = self._different(self._search(z, 1).x.flatten(0, 1))
            # Stimuli that repel each other are one problem, others are independent ones.
            found = self._search(z, self.n_stimuli if self.diversity else 1)
            with torch.no_grad():
                x = self._stimuli(found.x.flatten(0, 1))
                activation = self.reader.read(x)
        if self.constraint is None and bool(x.abs().max() > _UNBOUNDED):
            raise ValueError(
                "the stimulus grows without bound; give constraint=NormBall(r) or Box(low, high), "
                "or penalise it with L2(weight)"
            )
        return Stimulus(x, activation, torch.stack(found.history))

    def _search(self, start: Float[Tensor, "stimulus *shape"], size: int) -> Found:
        """Search jointly for every `size` stimuli."""

        def objective(z: Tensor) -> tuple[Tensor, Tensor]:
            x = self._stimuli(z.flatten(0, 1))
            gain, activation = self._gain(x)
            gain = gain.reshape(-1, size).sum(1)
            if size > 1:
                gain = gain - self.diversity * _likeness(x, size)
            return -gain, activation

        return search(
            objective,
            start.reshape(-1, size, *start.shape[1:]),
            self._project,
            steps=self.steps,
            tolerance=_REST,
            disturb=self._blur,
        )

    @torch.no_grad()
    def _different(self, z: Float[Tensor, "stimulus *shape"]) -> Float[Tensor, "chosen *shape"]:
        """Choose good stimuli that are unlike each other, one after the other, for every unit."""
        x = self._stimuli(z)
        gain, _ = self._gain(x)
        chosen = []
        for rows in torch.arange(len(z), device=z.device).tensor_split(len(self.reader.units)):
            unit = torch.nn.functional.normalize(x[rows].flatten(1), dim=1)
            score = gain[rows].clone()
            for _ in range(self.n_stimuli):
                best = int(score.argmax())
                chosen.append(z[rows[best]])
                score = score - self.diversity * (unit @ unit[best]).square()
                score[best] = -torch.inf
        return torch.stack(chosen)

    def _gain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Objective minus penalties, and the activation itself."""
        activation = self.reader.read(x)
        return (self.objective or Maximize())(activation) - self._penalty(x), activation

    def _blur(self, z: Tensor, step: int) -> Tensor | None:
        due = [b for b in self.regularizers if isinstance(b, Blur) and step % b.every == 0]
        for blur in due:
            z = blur.apply(z.flatten(0, 1)).reshape(z.shape)
        return z if due else None

    def _priors(self) -> list[Naturalistic]:
        return [prior for prior in self.regularizers if isinstance(prior, Naturalistic)]

    def _stimuli(self, z: Tensor) -> Tensor:
        for prior in self._priors():
            return prior.shape_spectrum(z)
        return z

    def _penalty(self, x: Tensor) -> Tensor:
        total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for term in self.regularizers:
            if not isinstance(term, (Blur, Naturalistic)):
                total = total + term(x)
        return total

    def _project(self, z: Tensor) -> Tensor:
        if self.constraint is None:
            return z
        return self.constraint.project(z.flatten(0, 1)).reshape(z.shape)


def _likeness(x: Float[Tensor, "stimulus *shape"], size: int) -> Float[Tensor, "problem"]:
    """Sum of the squared cosines between the stimuli of each problem."""
    rows = x.reshape(-1, size, x[0].numel())
    unit = torch.nn.functional.normalize(rows, dim=-1)
    cosines = unit @ unit.mT
    # Squared, so that the penalty rests where stimuli are orthogonal and not where they oppose.
    pairs: Tensor = cosines.triu(1).square().sum((-2, -1))
    return pairs
