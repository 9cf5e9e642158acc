"""What a neural mass is to the simulator: functions of state, coupling and constants."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from torch import Tensor

__all__ = ["Equations", "Numbers"]

Numbers: TypeAlias = dict[str, Tensor]


class Equations(NamedTuple):
    """A neural mass. States are (state, region, set), numbers broadcast to (region, set).

    Attributes:
        name: What the model is called.
        states: Names of the state variables.
        defaults: Parameters by name.
        n_sources: How many quantities a region sends to the others.
        n_couplings: How many quantities it makes of what it receives.
        constants: Numbers that a run needs, of the parameters.
        derivative: Change of the state in 1/ms, of state, coupling and constants.
        source: What a region sends, (source, region, set).
        couple: Coupling (coupling, region, set) of the state, the delayed sums of the sources,
            and constants, before the strength.
        observe: The field potential of a state whose axes are (..., state, region, any).
        emit: What a region sends whose activity is given, (source, region, set).
        start: State of a run that is given none, (state, region).
        bound: Puts a state back where the model is defined; None where it always is.
    """

    name: str
    states: tuple[str, ...]
    defaults: Mapping[str, float]
    n_sources: int
    n_couplings: int
    constants: Callable[[Numbers], Numbers]
    derivative: Callable[[Tensor, Tensor, Numbers], Tensor]
    source: Callable[[Tensor, Numbers], Tensor]
    couple: Callable[[Tensor, Tensor, Numbers], Tensor]
    observe: Callable[[Tensor], Tensor]
    emit: Callable[[Tensor], Tensor]
    start: Callable[[Tensor], Tensor]
    bound: Callable[[Tensor], Tensor] | None = None
