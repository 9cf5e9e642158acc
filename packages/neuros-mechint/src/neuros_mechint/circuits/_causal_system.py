"""The full model of a causal validation: how it advances, and where it can be pushed."""

import copy
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from neuros_mechint._arrays import Array, as_real

__all__ = ["Advance", "System", "as_system", "trajectories"]


class Advance(Protocol):
    """One step of states (..., unit), with what is added before the nonlinearity."""

    def __call__(self, h: Tensor, u: Tensor, drive: Tensor | None) -> Tensor: ...


class System(NamedTuple):
    """A full model.

    Attributes:
        advance: Its step.
        weight: Recurrent weight, (unit, unit), or None when it has none that can be named.
        driven: Whether something can be added before the nonlinearity.
        rewired: The step with another recurrent weight, or None.
        dtype: What it computes in.
        n_states: Size of the state, or None when only the caller knows.
    """

    advance: Advance
    weight: Tensor | None
    driven: bool
    rewired: Callable[[Tensor, Tensor, Tensor], Tensor] | None
    dtype: torch.dtype
    n_states: int | None


def as_system(step: Any, w_rec: Array | None, dtype: torch.dtype) -> System:
    """The full model of what the caller passed.

    Raises:
        TypeError: When it is no step.
        ValueError: When a recurrent network has layers or directions beside the one.
    """
    given = None if w_rec is None else as_real("w_rec", w_rec, axes=("to", "from"), at_least=(1, 1))
    if isinstance(step, nn.RNN | nn.RNNCell):
        return _recurrent_network(step, given)
    # The package of the dynamics is loaded by the call that needs it.
    from neuros_mechint.dynamics._step import as_step

    # A copy in float64: what is computed cannot touch the caller's module.
    held = copy.deepcopy(step).double() if isinstance(step, nn.Module) else step
    plain = as_step(held)
    function: Any = getattr(held, "step", held) if isinstance(held, nn.Module) else held
    keywords = _keywords(function)
    if isinstance(step, nn.Module):
        dtype = torch.float64

    def advance(h: Tensor, u: Tensor, drive: Tensor | None) -> Tensor:
        return plain(h, u) if drive is None else function(h, u, drive=drive)

    def rewired(h: Tensor, u: Tensor, weight: Tensor) -> Tensor:
        found: Tensor = function(h, u, w_rec=weight)
        return found

    given = _own_weight(step) if given is None else given
    return System(
        advance,
        None if given is None else given.to(dtype),
        "drive" in keywords,
        rewired if "w_rec" in keywords else None,
        dtype,
        plain.n_states,
    )


def _own_weight(step: Any) -> Tensor | None:
    found = getattr(step, "w_rec", None)
    return found.detach().clone() if isinstance(found, Tensor) else None


def _keywords(function: Any) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        # What is written in C shows no signature, and takes no keywords of ours.
        return set()


def _recurrent_network(step: nn.RNN | nn.RNNCell, given: Tensor | None) -> System:
    if isinstance(step, nn.RNN) and (step.num_layers != 1 or step.bidirectional):
        raise ValueError(
            f"step must be an nn.RNN of one layer and one direction, got num_layers="
            f"{step.num_layers}, bidirectional={step.bidirectional}; pass a callable step"
        )
    if given is not None:
        raise ValueError("w_rec is for a step that is a function; an nn.RNN has its own weight")
    suffix = "_l0" if isinstance(step, nn.RNN) else ""
    # Copies in float64: what is computed cannot touch the caller's parameters.
    names = ("weight_hh", "weight_ih", "bias_hh", "bias_ih")
    held: list[Any] = [getattr(step, f"{name}{suffix}", None) for name in names]
    weight, inputs = (p.detach().double() for p in held[:2])
    biases = [None if p is None else p.detach().double() for p in held[2:]]
    phi = torch.tanh if step.nonlinearity == "tanh" else torch.relu

    def advance(h: Tensor, u: Tensor, drive: Tensor | None) -> Tensor:
        total = h @ weight.mT + u @ inputs.mT
        for term in (*biases, drive):
            total = total if term is None else total + term
        return phi(total)

    return System(
        advance, weight, driven=True, rewired=None, dtype=torch.float64, n_states=step.hidden_size
    )


def trajectories(
    advance: Callable[[Tensor, Tensor], Tensor], start: Tensor, stimuli: Tensor
) -> Tensor:
    """States (..., trial, time, unit) from the start on, one for every sample of the stimuli."""
    states = [start]
    for t in range(stimuli.shape[-2] - 1):
        states.append(advance(states[-1], stimuli[..., t, :]))
    return torch.stack(states, dim=-2)
