"""A spiking network over time: what one stretch of spikes sends to the next."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.biophysical._neuron import BiophysicalNeuronBase, Run, State
from neuros_mechint.biophysical.synaptic_models import SynapticDynamics

__all__ = ["run_recurrent", "smooth"]


def run_recurrent(
    neuron: BiophysicalNeuronBase,
    drive: Float[Tensor, "*batch time unit"],
    weight: Float[Tensor, "post pre"],
    state: State,
    *,
    synapse: SynapticDynamics | None,
    dt: float,
) -> Run:
    """All steps, in stretches as long as the delay: within one, all that arrives is known.

    The state holds that of the neurons, what is under way (`pending`, time before unit), and
    that of the synapses.
    """
    p = neuron.constants(drive)
    cells = {name: state[name] for name in neuron.state_names}
    pending, held = state["pending"], state.get("synapse")
    delay = pending.shape[-2]
    parts: list[Run] = []
    for stretch in torch.split(drive, delay, dim=-2):
        n = stretch.shape[-2]
        part = neuron.run(stretch + pending[..., :n, :] @ weight.T, cells, dt, p)
        sent, cells = part.spikes, part.final_state
        if synapse is not None and held is not None:
            sent, held = _filtered(synapse, sent, held, dt)
        pending = sent if n == delay else torch.cat([pending[..., n:, :], sent], dim=-2)
        parts.append(part)
    states = {
        name: torch.cat([part.states[name] for part in parts], dim=-2)
        for name in neuron.state_names
    }
    last = {**cells, "pending": pending, **({} if held is None else {"synapse": held})}
    return Run(torch.cat([part.spikes for part in parts], dim=-2), states, last)


def _filtered(
    synapse: SynapticDynamics, spikes: Float[Tensor, "*batch time unit"], state: Tensor, dt: float
) -> tuple[Tensor, Tensor]:
    """What synapses make of a stretch of spikes, and their state after it."""
    rows: list[Tensor] = []
    for row in spikes.unbind(-2):
        g, state = synapse.step(row, state, dt)
        rows.append(g)
    return torch.stack(rows, dim=-2), state


def smooth(
    spikes: Float[Tensor, "*batch time unit"],
    start: Float[Tensor, "*batch unit"],
    tau: float,
    dt: float,
) -> Float[Tensor, "*batch time unit"]:
    """Leaky means of spikes at all times together, by doubling the span that each covers."""
    n, keep = spikes.shape[-2], math.exp(-dt / tau)
    rise = -math.expm1(-dt / tau) * spikes
    total = torch.cat([rise[..., :1, :] + (keep * start).unsqueeze(-2), rise[..., 1:, :]], dim=-2)
    for k in range((n - 1).bit_length()):
        span = 2**k
        longer = total[..., span:, :] + keep**span * total[..., :-span, :]
        total = torch.cat([total[..., :span, :], longer], dim=-2)
    return total
