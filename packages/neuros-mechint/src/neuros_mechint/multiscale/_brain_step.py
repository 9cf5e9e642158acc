"""One step of a brain: masses, an embedded model, noise, and what is sent next."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from neuros_mechint.multiscale._masses_equations import Equations, Numbers

__all__ = ["Embedding", "States", "Step"]

# The masses, and the embedded model where its state is of another size.
States = tuple[Tensor, ...]


@dataclass(frozen=True)
class Embedding:
    """A torch model at some regions.

    Attributes:
        model: Maps state (B, k, d) and coupling (B, k, c) to the derivative or the next state.
        regions: Their indices, (k,).
        mode: `derivative` or `map`.
        state_dim: Size d of a region's state.
        input_scale: Factor of the coupling.
        readout: Activity (B, k) of a state, or None where the state is one of the mass.
        start: First state (k, d) where it is not one of the mass.
    """

    model: nn.Module
    regions: Int[Tensor, " k"]
    mode: str
    state_dim: int
    input_scale: float
    readout: Callable[[Tensor], Tensor] | None
    start: Tensor | None


@dataclass(frozen=True)
class Step:
    """The map from states and delayed sums to the next states and what they send.

    Attributes:
        equations: The mass.
        dt: Step in ms.
        integrator: `heun` or `euler`.
        embedding: A model at some regions, or None.
    """

    equations: Equations
    dt: float
    integrator: str
    embedding: Embedding | None = None

    @property
    def separate(self) -> bool:
        """Whether the embedded states are kept beside those of the masses."""
        return self.embedding is not None and self.embedding.readout is not None

    def first(self, state: Tensor) -> States:
        """First states of an embedded model that are kept beside those of the masses."""
        e = self.embedding
        if e is None or not self.separate:
            return ()
        n = state.shape[-1]
        if e.start is None:
            return (state.new_zeros(e.state_dim, len(e.regions), n),)
        return (e.start.to(state).mT[..., None].expand(-1, -1, n),)

    def __call__(
        self, states: States, sums: Tensor, draw: Tensor | None, p: Numbers
    ) -> tuple[States, Tensor]:
        """The states after the step, and what they send.

        Args:
            states: States (state, region, set) before it, and embedded ones (d, k, set).
            sums: Delayed sums (source, region, set).
            draw: Normal numbers shaped as the masses, or None.
            p: Constants of the run.
        """
        x = states[0]
        coupling = p["strength"] * self.equations.couple(x, sums, p)
        shock = None if draw is None else p["noise"] * (math.sqrt(self.dt) * draw)
        new = self._advanced(
            x, lambda y: self.equations.derivative(y, coupling, p), self.equations.bound, shock
        )
        after = self._embedded((new, *states[1:]), x, coupling)
        return after, self.source(after, p)

    def source(self, states: States, p: Numbers) -> Tensor:
        """What regions of these states send, (source, region, set)."""
        sent = self.equations.source(states[0], p)
        e = self.embedding
        if e is None or e.readout is None:
            return sent
        activity = e.readout(states[1].permute(2, 1, 0)).permute(1, 0)
        return sent.index_copy(1, e.regions, self.equations.emit(activity))

    def _embedded(self, after: States, before: Tensor, coupling: Tensor) -> States:
        e = self.embedding
        if e is None:
            return after
        z = after[1] if self.separate else before.index_select(1, e.regions)
        received = e.input_scale * coupling.index_select(1, e.regions).permute(2, 1, 0)

        if e.mode == "map":
            new = _called(e.model, z, received)
        else:
            new = self._advanced(z, lambda y: _called(e.model, y, received), None, None)
        if self.separate:
            return after[0], new
        return (after[0].index_copy(1, e.regions, new),)

    def _advanced(
        self,
        x: Tensor,
        slope: Callable[[Tensor], Tensor],
        bound: Callable[[Tensor], Tensor] | None,
        shock: Tensor | None,
    ) -> Tensor:
        """Heun's method, or Euler's; noise enters both stages with the same increment."""
        first = slope(x)
        ahead = _moved(x, first, self.dt, bound, shock)
        if self.integrator == "euler":
            return ahead
        return _moved(x, slope(ahead) + first, self.dt / 2, bound, shock)


# Not inside the functions that use them: those run in every step.
def _called(model: nn.Module, z: Tensor, received: Tensor) -> Tensor:
    """What a model makes of states (d, k, set) and couplings (set, k, c)."""
    found: Tensor = model(z.permute(2, 1, 0), received)
    return found.permute(2, 1, 0)


def _moved(
    x: Tensor,
    slope: Tensor,
    part: float,
    bound: Callable[[Tensor], Tensor] | None,
    shock: Tensor | None,
) -> Tensor:
    y = torch.add(x, slope, alpha=part)
    y = y if shock is None else y + shock
    return y if bound is None else bound(y)
