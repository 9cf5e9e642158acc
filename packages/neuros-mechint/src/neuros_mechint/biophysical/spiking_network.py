"""Recurrent networks of spiking neurons."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from neuros_mechint._arrays import Number, compute_dtype, one_of
from neuros_mechint.biophysical._arguments import check_dt, check_finite, floating
from neuros_mechint.biophysical._dales_weight import SignedWeight, split
from neuros_mechint.biophysical._neuron import BiophysicalNeuronBase, State
from neuros_mechint.biophysical._spiking_neurons import choose_neuron
from neuros_mechint.biophysical._spiking_run import run_recurrent, smooth
from neuros_mechint.biophysical._spiking_weights import (
    MaskedWeight,
    input_weight,
    recurrent_weight,
    wiring,
)
from neuros_mechint.biophysical.synaptic_models import SynapseKind, SynapticDynamics

__all__ = ["SNNOutput", "SNNTrace", "SpikingNeuralNetwork"]

Switch: TypeAlias = bool
# Part of the documented order of the arguments, not a flag without a name.
_OBEYED = True


class SNNOutput(NamedTuple):
    """What a spiking network does.

    Attributes:
        spikes: 0 or 1 (..., time, n_neurons); entry t is the event in (t dt, (t + 1) dt].
        voltage: Potential (..., time, n_neurons) at (t + 1) dt, after any reset.
        output: Readout (..., time, n_outputs), or None without outputs.
    """

    spikes: Tensor
    voltage: Tensor
    output: Tensor | None


class SNNTrace(NamedTuple):
    """What a spiking network does, with all states of its neurons.

    Attributes:
        spikes: 0 or 1 (..., time, n_neurons); entry t is the event in (t dt, (t + 1) dt].
        voltage: Potential (..., time, n_neurons) at (t + 1) dt, after any reset.
        output: Readout (..., time, n_outputs), or None without outputs.
        states: Every state of the neurons by name (..., time, n_neurons).
        final_state: State of the whole network after the last step, to go on from.
    """

    spikes: Tensor
    voltage: Tensor
    output: Tensor | None
    states: State
    final_state: State


class SpikingNeuralNetwork(nn.Module):
    r"""Spiking neurons, connected with each other, driven by inputs and read out.

    The current into the neurons at step t is

    $$I_t = W_{in} x_t + W_{rec}\, g_{t-d},$$

    with g the spikes, or what a synapse makes of them, and d the delay in steps. The readout is
    linear in the spikes smoothed by $e^{-t/\tau}$ with $\tau$ = 20 ms. Weights are (post, pre).

    Under Dale's law the sign of a column of $W_{rec}$ belongs to its unit and is no free number:
    the first units excite, the others inhibit, and no step of an optimizer can change that.

    First weights are drawn such that excitation and inhibition cancel in expectation and that
    `weight_scale` is the deviation of the current if all presynaptic units fire at once, or if
    the inputs have variance 1.

    Args:
        n_neurons: Number of neurons.
        neuron_type: `lif`, `izhikevich`, `hh`, `adex`, `qif`, or neurons made already.
        connectivity: Where there are recurrent weights, boolean (post, pre), or their first
            values, floating (post, pre), whose zeros stay zero. None connects all but each
            neuron with itself.
        enforce_dales: Whether recurrent weights obey Dale's law.
        n_inputs: Number of inputs; None injects currents into the neurons themselves.
        n_outputs: Number of outputs, or None.
        ei_ratio: Share of the units that excite, in [0, 1].
        synapse: `SynapticDynamics` that the spikes pass on their way to other neurons, or the
            name of its kind; None passes them on as they are.
        delay_steps: Steps from a spike to its effect on others, at least 1.
        recurrent: Whether there are recurrent weights at all.
        neuron_kwargs: Arguments of the neurons if they are given by name.
        weight_scale: Scale of the first weights; None takes one that suits the neurons (lif 5,
            izhikevich 20, hh 100, adex 10 000, qif 40, others 1).
        generator: Source of the first weights.

    Attributes:
        neuron: The neurons.
        input_weight: Weights of the inputs (n_neurons, n_inputs), or None.
        readout: Linear layer from smoothed spikes to outputs, or None.
        dale_signs: Sign of every unit (n_neurons,): 1 excites, -1 inhibits; 0 without Dale's law.

    Raises:
        TypeError: When neurons, connectivity or synapse are of no usable type.
        ValueError: When a number or a shape is out of its range, a name is unknown, or given
            weights break Dale's law.

    Examples:
        Two neurons in a ring: each spike of one fires the other after two steps.

        >>> ring = torch.tensor([[0.0, 30.0], [30.0, 0.0]])
        >>> network = SpikingNeuralNetwork(2, "lif", ring, ei_ratio=1.0, delay_steps=2)
        >>> start = torch.zeros(7, 2)
        >>> start[0, 0] = 30.0
        >>> network(start).spikes.T.int().tolist()
        [[1, 0, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0, 1]]

    References:
        Neftci, E. O., Mostafa, H., & Zenke, F. (2019). Surrogate gradient learning in spiking
        neural networks. IEEE Signal Processing Magazine, 36, 51-63.
        doi:10.1109/MSP.2019.2931595

        Song, Yang & Wang (2016), PLOS Comput. Biol. 12, e1004792.
        doi:10.1371/journal.pcbi.1004792
    """

    readout_tau: ClassVar[float] = 20.0
    dale_signs: Tensor

    def __init__(
        self,
        n_neurons: int,
        neuron_type: str | BiophysicalNeuronBase = "lif",
        connectivity: Tensor | None = None,
        enforce_dales: Switch = _OBEYED,
        *,
        n_inputs: int | None = None,
        n_outputs: int | None = None,
        ei_ratio: Number = 0.8,
        synapse: SynapticDynamics | str | None = None,
        delay_steps: int = 1,
        recurrent: bool = True,
        neuron_kwargs: Mapping[str, object] | None = None,
        weight_scale: Number | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_exc, self.n_inh = split(n_neurons, ei_ratio)
        for name, number in (("n_inputs", n_inputs), ("n_outputs", n_outputs)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1 or None, got {number}")
        if delay_steps < 1:
            raise ValueError(f"delay_steps must be at least 1, got {delay_steps}")
        self.n_neurons, self.n_inputs, self.n_outputs = n_neurons, n_inputs, n_outputs
        self.delay_steps = delay_steps
        self.neuron, scale = choose_neuron(neuron_type, neuron_kwargs, weight_scale)
        signs = torch.cat([torch.ones(self.n_exc), -torch.ones(self.n_inh)])
        self.register_buffer("dale_signs", signs if enforce_dales else torch.zeros(n_neurons))
        self.recurrent: SignedWeight | MaskedWeight | None = None
        if recurrent:
            wires = wiring(connectivity, n_neurons)
            self.recurrent = recurrent_weight(
                wires, signs, scale, generator, enforce_dales=enforce_dales
            )
        elif connectivity is not None or synapse is not None:
            raise ValueError("connectivity and synapse need recurrent=True")
        self.synapse = None if synapse is None else as_synapse(synapse)
        self.input_weight: Tensor | None = None
        if n_inputs is not None:
            self.input_weight = nn.Parameter(input_weight(n_neurons, n_inputs, scale, generator))
        self.readout: nn.Linear | None = None
        if n_outputs is not None:
            self.readout = nn.Linear(n_neurons, n_outputs)
            nn.init.zeros_(self.readout.bias)
            nn.init.normal_(self.readout.weight, std=n_neurons**-0.5, generator=generator)

    def extra_repr(self) -> str:
        """Sizes and delay, for `repr`."""
        return (
            f"{self.n_neurons}, n_inputs={self.n_inputs}, n_outputs={self.n_outputs}, "
            f"delay_steps={self.delay_steps}, enforce_dales={bool(self.dale_signs.any())}"
        )

    @property
    def recurrent_weight(self) -> Tensor:
        """The effective matrix (post, pre), signed and masked; zeros if nothing recurs."""
        if self.recurrent is None:
            return self.dale_signs.new_zeros(self.n_neurons, self.n_neurons)
        effective: Tensor = self.recurrent()
        return effective

    def forward(
        self,
        x: Tensor,
        dt: float | None = None,
        *,
        state: State | None = None,
        generator: torch.Generator | None = None,
    ) -> SNNOutput:
        """Response to an input over time.

        Args:
            x: Input (..., time, n_inputs), constant during each step; currents (..., time,
                n_neurons) without n_inputs. (time,) is one channel.
            dt: Length of a step in ms; None takes the `default_dt` of the neurons.
            state: State to begin with, the final state of another run; None begins at rest.
            generator: Draws the potentials at the start, uniform from that of rest up to the
                `v_threshold` of the neurons, or over 10 mV for models without one, so that units
                do not start in step.

        Returns:
            Spikes, potential and output in the dtype of the input.

        Raises:
            TypeError: When x is not a floating tensor.
            ValueError: When the shape of x does not fit, x holds NaN or inf, the step is not
                positive, a state does not fit, or both state and generator are given.
        """
        trace = self.simulate(x, dt, state=state, generator=generator)
        return SNNOutput(trace.spikes, trace.voltage, trace.output)

    def simulate(
        self,
        x: Tensor,
        dt: float | None = None,
        *,
        state: State | None = None,
        generator: torch.Generator | None = None,
    ) -> SNNTrace:
        """Response to an input over time, with all states of the neurons.

        Args:
            x: Input (..., time, n_inputs), constant during each step; currents (..., time,
                n_neurons) without n_inputs. (time,) is one channel.
            dt: Length of a step in ms; None takes the `default_dt` of the neurons.
            state: State to begin with, the final state of another run; None begins at rest.
            generator: Draws the potentials at the start, as in `forward`.

        Returns:
            What `forward` returns, the states of the neurons over time, and the final state.

        Raises:
            TypeError: When x is not a floating tensor.
            ValueError: When the shape of x does not fit, x holds NaN or inf, the step is not
                positive, a state does not fit, or both state and generator are given.
        """
        step = self.neuron.default_dt if dt is None else dt
        check_dt(step)
        drive = self._drive(x)
        begin = self._begin(drive, state, generator)
        if self.recurrent is None:
            cells = {name: begin[name] for name in self.neuron.state_names}
            run = self.neuron.run(drive, cells, step, self.neuron.constants(drive))
        else:
            weight = self.recurrent_weight.to(drive)
            run = run_recurrent(self.neuron, drive, weight, begin, synapse=self.synapse, dt=step)
        final, output = dict(run.final_state), None
        if self.readout is not None:
            traces = smooth(run.spikes, begin["readout"], self.readout_tau, step)
            final["readout"] = traces[..., -1, :]
            weight, bias = self.readout.weight.to(traces), self.readout.bias.to(traces)
            output = nnf.linear(traces, weight, bias).to(x.dtype)
        alone = x.ndim == 1 and run.spikes.ndim == 2 and self.n_neurons == 1

        def given(value: Tensor) -> Tensor:
            value = value.to(x.dtype)
            return value[..., 0] if alone else value

        states = {name: given(value) for name, value in run.states.items()}
        voltage = states[self.neuron.state_names[0]]
        return SNNTrace(given(run.spikes), voltage, output, states, final)

    def _drive(self, x: Tensor) -> Tensor:
        """Currents from outside, of a checked input."""
        floating("x", x)
        wide = x[:, None] if x.ndim == 1 else x
        channels = self.n_neurons if self.n_inputs is None else self.n_inputs
        if wide.ndim < 2 or wide.shape[-2] < 1 or wide.shape[-1] != channels:
            name = "n_neurons" if self.n_inputs is None else "n_inputs"
            raise ValueError(
                f"x must be (..., time >= 1, {name} = {channels}), got shape {tuple(x.shape)}"
            )
        check_finite("x", wide)
        wide = wide.to(compute_dtype(x.dtype))
        return wide if self.input_weight is None else nnf.linear(wide, self.input_weight.to(wide))

    def _begin(
        self, drive: Tensor, state: State | None, generator: torch.Generator | None
    ) -> State:
        """The state before the first step, of neurons, connections and readout."""
        names = self.neuron.state_names
        p = self.neuron.constants(drive)
        if state is None:
            begin = self.neuron.begin(drive, p, None)
            if generator is not None:
                begin[names[0]] = _scattered(begin[names[0]], p, generator)
            rest = begin[names[0]].new_zeros(begin[names[0]].shape)
            return {**begin, **{name: shape(rest) for name, shape in self._memories().items()}}
        if generator is not None:
            raise ValueError("generator draws a state to begin with; pass state or generator")
        wanted = (*names, *self._memories())
        if set(state) != set(wanted):
            raise ValueError(
                f"state must hold {', '.join(map(repr, wanted))}, got "
                f"{', '.join(map(repr, state))}; pass the final_state of a run of this network"
            )
        begin = self.neuron.begin(drive, p, {name: state[name] for name in names})
        for name, shape in self._memories().items():
            like = shape(begin[names[0]])
            if state[name].shape != like.shape:
                raise ValueError(
                    f"state[{name!r}] must be of shape {tuple(like.shape)}, got "
                    f"{tuple(state[name].shape)}"
                )
            begin[name] = state[name].to(like)
        return begin

    def _memories(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """What outlives a step beside the neurons' states, as tensors shaped by units (..., n)."""
        made: dict[str, Callable[[Tensor], Tensor]] = {}
        if self.recurrent is not None:
            made["pending"] = lambda v: v.unsqueeze(-2).repeat_interleave(self.delay_steps, -2)
        if self.synapse is not None:
            made["synapse"] = self.synapse.init_state
        if self.readout is not None:
            made["readout"] = torch.clone
        return made


def as_synapse(synapse: object) -> SynapticDynamics:
    """The synapse that is given, or that of a kind.

    Raises:
        TypeError: When it is neither.
        ValueError: When the kind is unknown.
    """
    if isinstance(synapse, SynapticDynamics):
        return synapse
    if not isinstance(synapse, str):
        raise TypeError(
            f"synapse must be a SynapticDynamics or a kind of it, got {type(synapse).__name__}"
        )
    one_of("synapse", synapse, get_args(SynapseKind))
    kind: Any = synapse
    return SynapticDynamics(kind)


def _scattered(v: Tensor, p: State, generator: torch.Generator) -> Tensor:
    """Potentials between the given ones and the threshold."""
    top = p.get("v_threshold", v + 10.0)
    part = torch.rand(v.shape, generator=generator, dtype=v.dtype, device=v.device)
    return torch.lerp(v, top.expand(v.shape), part)
