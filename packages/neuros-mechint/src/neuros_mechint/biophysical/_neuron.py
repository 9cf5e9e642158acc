"""What every neuron model shares: parameters, checks, the run over time, its results."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_mechint._arrays import compute_dtype
from neuros_mechint._numbers import NumberOrTensor, hold_numbers, joint_shape, shown_numbers
from neuros_mechint.biophysical._arguments import check_dt, check_finite, floating
from neuros_mechint.biophysical.surrogate import Surrogate, check_surrogate, spike

__all__ = ["BiophysicalNeuronBase", "NeuronOutput", "NeuronTrace", "Parameter", "Run", "State"]

Parameter: TypeAlias = NumberOrTensor
State: TypeAlias = dict[str, Tensor]


class NeuronOutput(NamedTuple):
    """What a neuron does.

    Attributes:
        spikes: 0 or 1 (..., time, n); entry t is the event in (t dt, (t + 1) dt].
        voltage: Potential (..., time, n) at (t + 1) dt, after any reset.
    """

    spikes: Tensor
    voltage: Tensor


class NeuronTrace(NamedTuple):
    """What a neuron does, with all its states.

    Attributes:
        spikes: 0 or 1 (..., time, n); entry t is the event in (t dt, (t + 1) dt].
        voltage: Potential (..., time, n) at (t + 1) dt, after any reset.
        states: Every state by name (..., time, n).
        final_state: State after the last step (..., n), to go on from.
    """

    spikes: Tensor
    voltage: Tensor
    states: State
    final_state: State


class Run(NamedTuple):
    """Spikes and states over time, and the state after it."""

    spikes: Tensor
    states: State
    final_state: State


class BiophysicalNeuronBase(nn.Module, ABC):
    """Neurons that share a model, each with parameters of its own if wanted.

    A model names its states and says what one step does; running over time, checks of the input,
    heterogeneous parameters and their gradients come from here. Every number may be a float or a
    tensor that broadcasts to (..., n): one call runs a whole sweep of parameters.

    Attributes:
        state_names: Names of the states, the potential first.
        default_dt: Step in ms where none is given.
    """

    state_names: ClassVar[tuple[str, ...]] = ("voltage",)
    default_dt: ClassVar[float] = 1.0

    def __init__(
        self,
        numbers: Mapping[str, Parameter],
        *,
        surrogate: Surrogate,
        slope: float | None,
        detach_reset: bool,
        learnable: Sequence[str],
    ) -> None:
        super().__init__()
        check_surrogate(surrogate, slope)
        self.surrogate, self.slope, self.detach_reset = surrogate, slope, detach_reset
        self.number_names = tuple(numbers)
        hold_numbers(self, numbers, learnable)

    def extra_repr(self) -> str:
        """Numbers of the model, for printing."""
        return shown_numbers(self, self.number_names)

    @abstractmethod
    def _start(self, p: State) -> State:
        """The state to begin with, of the parameters in the dtype to compute in."""

    @abstractmethod
    def _step(self, current: Tensor, state: State, dt: float, p: State) -> tuple[Tensor, State]:
        """Spikes and state after one step of constant current."""

    def init_state(
        self,
        shape: Sequence[int],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> State:
        """The state to begin with.

        Args:
            shape: Shape of the units (..., n); heterogeneous parameters must broadcast to it.
            dtype: Dtype of the state.
            device: Device of the state.

        Returns:
            A tensor of that shape for each name in `state_names`.
        """
        like = torch.zeros((), dtype=dtype, device=device)
        start = self._start(self._numbers(like))
        return {name: start[name].expand(tuple(shape)).clone() for name in self.state_names}

    def step(self, current: Tensor, state: State, dt: float) -> tuple[Tensor, State]:
        """One step.

        Args:
            current: Input of the step (..., n).
            state: State before it, as `init_state` makes it.
            dt: Length of the step, ms.

        Returns:
            Spikes (..., n) and the state after the step.
        """
        wide = current.to(compute_dtype(current.dtype))
        spikes, new = self._step(wide, state, dt, self._constants(wide))
        return spikes.to(current.dtype), new

    def forward(
        self, input_current: Tensor, dt: float | None = None, *, state: State | None = None
    ) -> NeuronOutput:
        """Spikes and potential of an input over time.

        Args:
            input_current: Input (..., time, n), constant during each step; (time,) is one unit.
            dt: Length of a step in ms; None takes `default_dt`.
            state: State to begin with; None begins at `init_state`.

        Returns:
            Spikes and potential (..., time, n) in the dtype of the input.

        Raises:
            TypeError: When the input is not a floating tensor.
            ValueError: When the input is empty in time or holds NaN or inf, the step is not
                positive, or a state or parameter does not fit the input.
        """
        trace = self.simulate(input_current, dt, state=state)
        return NeuronOutput(trace.spikes, trace.voltage)

    def simulate(
        self, input_current: Tensor, dt: float | None = None, *, state: State | None = None
    ) -> NeuronTrace:
        """Spikes and all states of an input over time.

        Args:
            input_current: Input (..., time, n), constant during each step; (time,) is one unit.
            dt: Length of a step in ms; None takes `default_dt`.
            state: State to begin with; None begins at `init_state`.

        Returns:
            Spikes, potential, states and the final state. A run that goes on from the final
            state of another gives what one long run gives.

        Raises:
            TypeError: When the input is not a floating tensor.
            ValueError: When the input is empty in time or holds NaN or inf, the step is not
                positive, or a state or parameter does not fit the input.
        """
        step = self.default_dt if dt is None else dt
        check_dt(step)
        current = _checked(input_current)
        wide = current.to(compute_dtype(current.dtype))
        p = self._constants(wide)
        begin = self._begin(wide, p, state)
        run = self._run(wide, begin, step, p)
        alone = input_current.ndim == 1 and run.spikes.ndim == 2 and run.spikes.shape[-1] == 1

        def given(x: Tensor) -> Tensor:
            x = x.to(input_current.dtype)
            return x[..., 0] if alone else x

        states = {name: given(x) for name, x in run.states.items()}
        return NeuronTrace(given(run.spikes), states[self.state_names[0]], states, run.final_state)

    def constants(self, like: Tensor) -> State:
        """The numbers of a run, for `begin` and `run`.

        Args:
            like: Tensor whose dtype and device the run has.
        """
        return self._constants(like)

    def begin(self, current: Tensor, numbers: State, state: State | None = None) -> State:
        """The state before the first step, in the shape of input and numbers together.

        Args:
            current: Input (..., time, n).
            numbers: What `constants` made.
            state: State to begin with; None begins at `init_state`.

        Raises:
            ValueError: When the state does not fit.
        """
        return self._begin(current, numbers, state)

    def run(self, current: Tensor, state: State, dt: float, numbers: State) -> Run:
        """Part of a run, unchecked: what a network calls between the arrivals of spikes.

        Args:
            current: Input (..., time, n) in the dtype to compute in.
            state: State before it, from `begin` or the run before.
            dt: Length of a step, ms.
            numbers: What `constants` made.

        Returns:
            Spikes, states over time, and the state after it.
        """
        if current.shape[-2] > 1:
            return self._run(current, state, dt, numbers)
        fired, state = self._step(current.squeeze(-2), state, dt, numbers)
        over_time = {name: x.unsqueeze(-2) for name, x in state.items()}
        return Run(fired.unsqueeze(-2), over_time, state)

    def _numbers(self, like: Tensor) -> State:
        """The parameters in the dtype and on the device of a tensor."""
        return {name: getattr(self, name).to(like) for name in self.number_names}

    def _constants(self, like: Tensor) -> State:
        """The numbers of a run; a model adds what it derives from them once."""
        return self._numbers(like)

    def _begin(self, current: Tensor, p: State, state: State | None) -> State:
        """The state before the first step, in the shape of input and parameters together."""
        row = torch.Size((*current.shape[:-2], current.shape[-1]))
        shape = joint_shape(
            row, {name: p[name] for name in self.number_names}, "the units (..., n)"
        )
        if state is None:
            state = self._start(p)
        elif set(state) != set(self.state_names):
            raise ValueError(
                f"state must hold {', '.join(map(repr, self.state_names))}, "
                f"got {', '.join(map(repr, state))}; pass the final_state of a run"
            )
        return {name: _fitted(name, state[name], shape, current) for name in self.state_names}

    def _run(
        self, current: Float[Tensor, "*batch time unit"], state: State, dt: float, p: State
    ) -> Run:
        """All steps in order: the recursion has resets or products of states."""
        spikes: list[Tensor] = []
        states: list[State] = []
        # Indexing would leave a full-size zero tensor for every step on the way back.
        for row in current.unbind(-2):
            fired, state = self._step(row, state, dt, p)
            spikes.append(fired)
            states.append(state)
        over_time = {
            name: torch.stack([each[name] for each in states], dim=-2) for name in self.state_names
        }
        return Run(torch.stack(spikes, dim=-2), over_time, state)

    def _fire(self, above: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes of a distance to threshold, and the same for the reset."""
        fired = spike(above, self.surrogate, self.slope)
        return fired, fired.detach() if self.detach_reset else fired


def fixed_or_reset(fired: Tensor, v: Tensor, reset: Tensor) -> Tensor:
    """The reset value where a spike fell, else the potential, exactly in both cases."""
    return v * (1 - fired) + reset * fired


def rk4(
    derivative: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]],
    y: tuple[Tensor, ...],
    h: float,
) -> tuple[Tensor, ...]:
    """One step of the classical Runge-Kutta method of order 4."""

    def ahead(k: tuple[Tensor, ...], part: float) -> tuple[Tensor, ...]:
        return tuple(a + part * h * b for a, b in zip(y, k, strict=True))

    k1 = derivative(y)
    k2 = derivative(ahead(k1, 0.5))
    k3 = derivative(ahead(k2, 0.5))
    k4 = derivative(ahead(k3, 1.0))
    return tuple(
        a + h / 6 * (b + 2 * c + 2 * d + e) for a, b, c, d, e in zip(y, k1, k2, k3, k4, strict=True)
    )


def _checked(current: Tensor) -> Tensor:
    floating("input_current", current)
    x = current[:, None] if current.ndim == 1 else current
    if x.ndim < 2 or x.shape[-2] < 1:
        raise ValueError(
            "input_current must be (..., time >= 1, n) or (time >= 1,), "
            f"got shape {tuple(current.shape)}"
        )
    check_finite("input_current", x)
    return x


def _fitted(name: str, value: Tensor, shape: torch.Size, like: Tensor) -> Tensor:
    try:
        return value.to(like).expand(shape)
    except RuntimeError as error:
        raise ValueError(
            f"state[{name!r}] of shape {tuple(value.shape)} does not broadcast to the units "
            f"(..., n) = {tuple(shape)}"
        ) from error
