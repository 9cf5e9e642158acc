import re

import pytest
import torch
from torch import Tensor

from neuros_mechint import biophysical
from neuros_mechint.biophysical import spiking_nets
from neuros_mechint.biophysical._spiking_neurons import NEURONS, choose_neuron
from neuros_mechint.biophysical._spiking_weights import wiring
from neuros_mechint.biophysical.izhikevich import IzhikevichNeuron
from neuros_mechint.biophysical.lif import LeakyIntegrateFireNeuron
from neuros_mechint.biophysical.spiking_network import SpikingNeuralNetwork, as_synapse
from neuros_mechint.biophysical.synaptic_models import SynapticDynamics

TYPES = tuple(NEURONS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(n: int = 12, kind="lif", *args, **kwargs) -> SpikingNeuralNetwork:
    kwargs.setdefault("generator", seeded())
    return SpikingNeuralNetwork(n, kind, *args, **kwargs)


def noise(*shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return scale * torch.randn(*shape, generator=seeded(1), dtype=dtype)


def by_hand(network: SpikingNeuralNetwork, x: Tensor, dt: float) -> tuple[Tensor, Tensor]:
    """Spikes and potential of one trial, step after step, from the formula of the currents."""
    inputs = x if network.input_weight is None else x @ network.input_weight.to(x).T
    weight, neuron = network.recurrent_weight.to(x), network.neuron
    state = neuron.init_state((network.n_neurons,), dtype=x.dtype)
    spikes: list[Tensor] = []
    voltage: list[Tensor] = []
    for t, row in enumerate(inputs):
        at = t - network.delay_steps
        current = row + weight @ spikes[at] if at >= 0 else row
        fired, state = neuron.step(current, state, dt)
        spikes.append(fired)
        voltage.append(state["voltage"])
    return torch.stack(spikes), torch.stack(voltage)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("delay", [1, 3])
def test_the_current_is_input_plus_delayed_spikes_through_the_weights(kind, delay) -> None:
    network = made(10, kind, n_inputs=3, delay_steps=delay, weight_scale=NEURONS[kind].scale * 3)
    x = noise(2, 40, 3)
    dt = {"hh": 0.05, "adex": 0.2}.get(kind, 0.5)
    out = network(x, dt)
    for trial in range(2):
        spikes, voltage = by_hand(network, x[trial], dt)
        assert out.spikes[trial].equal(spikes)
        torch.testing.assert_close(out.voltage[trial], voltage, rtol=1e-9, atol=1e-9)
    if kind in ("lif", "izhikevich"):
        assert float(out.spikes.detach().sum()) > 5


@pytest.mark.parametrize("kind", ["exponential", "NMDA", "alpha"])
@pytest.mark.parametrize("delay", [1, 3])
def test_a_synapse_is_what_the_spikes_pass_on_their_way(kind: str, delay: int) -> None:
    network = made(10, n_inputs=3, delay_steps=delay, synapse=kind, weight_scale=9.0)
    x = noise(2, 40, 3)
    trace = network.simulate(x)
    assert float(trace.spikes.detach().sum()) > 20
    g = SynapticDynamics(kind)(trace.spikes)
    late = torch.cat([torch.zeros(2, delay, 10), g[:, :-delay]], dim=1)
    current = x @ network.input_weight.double().T + late @ network.recurrent_weight.double().T
    again = LeakyIntegrateFireNeuron()(current)
    assert again.spikes.equal(trace.spikes)
    torch.testing.assert_close(again.voltage, trace.voltage, rtol=0, atol=1e-10)
    first = network.simulate(x[:, :17])
    second = network.simulate(x[:, 17:], state=first.final_state)
    assert torch.cat([first.spikes, second.spikes], 1).equal(trace.spikes)


def test_time_constants_of_synapses_learn() -> None:
    synapse = SynapticDynamics("exponential", learnable=("tau",))
    network = made(10, synapse=synapse)
    assert network.synapse is synapse
    torch.autograd.backward(network(noise(40, 10, scale=5.0)).voltage.square().sum())
    assert float(synapse.tau.grad.abs()) > 0


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_active_at_its_own_scale(kind: str) -> None:
    network = made(40, kind, n_inputs=5)
    dt = {"hh": 0.05, "adex": 0.1}.get(kind, network.neuron.default_dt)
    spikes = network(noise(300, 5, dtype=torch.float32), dt).spikes
    rate_hz = float(spikes.detach().mean()) / dt * 1000
    assert 1 < rate_hz < 300


def test_neurons_may_be_given_and_may_have_arguments() -> None:
    tau = torch.linspace(5.0, 30.0, 4)
    network = made(4, neuron_kwargs={"tau_mem": tau, "learnable": ("tau_mem",)})
    assert "neuron.tau_mem" in dict(network.named_parameters())
    neuron = IzhikevichNeuron(d=2.0)
    assert made(4, neuron).neuron is neuron
    assert made(4, neuron).recurrent_weight.equal(made(4, "izhikevich").recurrent_weight)
    x = noise(2, 30, 4, scale=20.0)
    assert made(4, neuron)(x).spikes.equal(
        made(4, "izhikevich", neuron_kwargs={"d": 2.0})(x).spikes
    )


def test_without_recurrence_the_network_is_its_neurons() -> None:
    network, x = made(6, recurrent=False), noise(3, 50, 6, scale=3.0)
    own = LeakyIntegrateFireNeuron()(x)
    assert network(x).spikes.equal(own.spikes)
    assert network(x).voltage.equal(own.voltage)
    assert network(x).output is None
    assert not network.recurrent_weight.any()


def test_a_boolean_connectivity_is_kept_and_no_unit_drives_itself_unless_told() -> None:
    mask = torch.rand(20, 20, generator=seeded()) < 0.2
    assert made(20, connectivity=mask).recurrent_weight.ne(0).equal(mask)
    assert not made(20).recurrent_weight.diagonal().any()
    assert int(made(20).recurrent_weight.ne(0).sum()) == 20 * 19
    looped = torch.eye(20, dtype=torch.bool)
    assert bool(made(20, connectivity=looped).recurrent_weight.diagonal().ne(0).all())


def test_a_row_sum_has_the_scale_as_deviation_however_few_connections_there_are() -> None:
    for share in (0.1, 0.5, 1.0):
        mask = torch.rand(600, 600, generator=seeded()) < share
        rows = made(600, connectivity=mask, weight_scale=7.0).recurrent_weight.detach().sum(1)
        # 600 rows: the standard error of a deviation is 3 %.
        assert float(rows.std()) == pytest.approx(7.0, rel=0.15)
        assert abs(float(rows.mean())) < 5 * 7.0 / 600**0.5


def test_given_weights_are_the_first_weights() -> None:
    signs = torch.tensor([1.0, 1.0, 1.0, -1.0])
    weight = torch.rand(4, 4, generator=seeded()) * signs
    weight[1, 2] = 0.0
    network = made(4, "lif", weight)
    assert network.dale_signs.equal(signs)
    assert network.recurrent_weight.equal(weight)
    free = -weight
    network = made(4, "lif", free, False)
    assert network.recurrent_weight.equal(free)
    assert network.dale_signs.tolist() == [0.0] * 4


# Slow: two hundred steps of an optimizer.
@pytest.mark.slow
@pytest.mark.parametrize("enforce", [True, False])
def test_after_200_steps_signs_and_structure_are_what_they_were(enforce: bool) -> None:
    mask = torch.rand(20, 20, generator=seeded()) < 0.5
    network = made(20, "lif", mask, enforce)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    x, before = noise(2, 20, dtype=torch.float32) * 9, network.recurrent_weight.detach()
    for _ in range(200):
        optimizer.zero_grad()
        out = network(x)
        torch.autograd.backward(out.voltage[1].square().sum())
        optimizer.step()
    weight = network.recurrent_weight.detach()
    assert not weight[~mask].any()
    assert float((weight - before).abs().max()) > 1
    kept = bool((weight * torch.tensor([1.0] * 16 + [-1.0] * 4) >= 0).all())
    assert kept is enforce


@pytest.mark.parametrize("delay", [1, 4])
def test_what_comes_later_changes_nothing_before(delay: int) -> None:
    network = made(15, n_inputs=3, n_outputs=2, delay_steps=delay)
    x = noise(2, 40, 3)
    changed = x.clone()
    changed[:, 23] += 50.0
    first, second = network(x), network(changed)
    for a, b in zip(first, second, strict=True):
        assert a[:, :23].equal(b[:, :23])
        assert not a[:, 23:].equal(b[:, 23:])


def test_the_same_seed_makes_the_same_network() -> None:
    def numbers(seed: int) -> list[Tensor]:
        return list(made(9, n_inputs=2, n_outputs=3, generator=seeded(seed)).parameters())

    assert all(a.equal(b) for a, b in zip(numbers(3), numbers(3), strict=True))
    assert not any(
        a.equal(b) for a, b in zip(numbers(3), numbers(4), strict=True) if a.shape != (3,)
    )


@pytest.mark.parametrize("delay", [1, 5])
def test_a_run_in_two_parts_is_one_run(delay: int) -> None:
    network = made(12, n_inputs=3, n_outputs=2, delay_steps=delay, neuron_kwargs={"t_ref": 2.0})
    x = noise(2, 43, 3)
    whole, first = network.simulate(x), network.simulate(x[:, :17])
    second = network.simulate(x[:, 17:], state=first.final_state)
    assert float(second.spikes.detach().sum()) > 10
    assert torch.cat([first.spikes, second.spikes], 1).equal(whole.spikes)
    pairs = [(first.voltage, second.voltage, whole.voltage)]
    pairs += [(first.output, second.output, whole.output)]
    pairs += [(first.states[k], second.states[k], v) for k, v in whole.states.items()]
    for a, b, both in pairs:
        torch.testing.assert_close(torch.cat([a, b], 1), both, rtol=0, atol=1e-12)
    for name, value in whole.final_state.items():
        torch.testing.assert_close(second.final_state[name], value, rtol=0, atol=1e-12)


def test_the_output_is_linear_in_smoothed_spikes() -> None:
    network, x = made(5, n_outputs=2, recurrent=False), noise(60, 5, scale=4.0)
    out = network(x, 0.5)
    keep, trace, rows = torch.exp(torch.tensor(-0.5 / 20.0, dtype=torch.float64)), 0.0, []
    for row in out.spikes:
        trace = keep * trace + (1 - keep) * row
        rows.append(trace)
    expected = torch.stack(rows) @ network.readout.weight.double().T + network.readout.bias
    torch.testing.assert_close(out.output, expected, rtol=1e-12, atol=1e-12)


def test_gradients_reach_every_parameter_and_the_input() -> None:
    network = made(10, n_inputs=3, n_outputs=2, neuron_kwargs={"learnable": ("tau_mem",)})
    x = noise(4, 30, 3).requires_grad_()
    leaves = [x, *network.parameters()]
    for grad in torch.autograd.grad(network(x).output.square().sum(), leaves):
        assert bool(torch.isfinite(grad).all())
        assert bool(grad.any())


def test_the_gradient_of_a_subthreshold_potential_in_an_input_weight_is_exact() -> None:
    network, x = made(3, n_inputs=2, weight_scale=0.1, recurrent=False).double(), noise(9, 2)
    assert float(network(x).spikes.detach().sum()) == 0
    torch.autograd.backward(network(x).voltage[-1, 1])
    keep = torch.exp(torch.tensor(-0.1, dtype=torch.float64))
    powers = keep ** torch.arange(8, -1, -1, dtype=torch.float64)
    expected = ((1 - keep) * powers[:, None] * x).sum(0)
    torch.testing.assert_close(network.input_weight.grad[1], expected, rtol=1e-10, atol=0)


def test_a_generator_scatters_the_potentials_at_the_start() -> None:
    network, x = made(2000), torch.zeros(1, 2000, dtype=torch.float64)
    voltage = network(x, generator=seeded(5)).voltage[0].detach()
    keep = torch.exp(torch.tensor(-0.1)).item()
    assert voltage.equal(network(x, generator=seeded(5)).voltage[0])
    assert 0 <= float(voltage.min()) < 0.01
    assert 0.99 * keep < float(voltage.max()) <= keep
    quiet = made(500, "izhikevich")(x[:, :500], generator=seeded(5), dt=1e-6).voltage.detach()
    assert -65 <= float(quiet.min()) < -64.9
    assert -55.1 < float(quiet.max()) <= -54.99


def test_shapes_and_dtypes_follow_the_input() -> None:
    network = made(6, n_inputs=2, n_outputs=3, delay_steps=2)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        out = network(torch.ones(2, 5, 7, 2, dtype=dtype))
        assert out.spikes.shape == out.voltage.shape == (2, 5, 7, 6)
        assert out.output.shape == (2, 5, 7, 3)
        assert out.spikes.dtype == out.voltage.dtype == out.output.dtype == dtype
    assert network(torch.ones(7, 2)).output.shape == (7, 3)
    assert made(6, n_inputs=1)(torch.ones(7)).spikes.shape == (7, 6)
    alone = made(1, n_outputs=1).simulate(torch.full((9,), 2.0))
    assert alone.spikes.shape == alone.states["voltage"].shape == (9,)
    assert alone.output.shape == (9, 1)


def test_a_sweep_of_neurons_is_one_call() -> None:
    taus, x = torch.tensor([[5.0], [12.0]], dtype=torch.float64), noise(40, 3)
    swept = made(8, neuron_kwargs={"tau_mem": taus}, n_inputs=3)(x)
    assert swept.spikes.shape == (2, 40, 8)
    for k in range(2):
        single = made(8, neuron_kwargs={"tau_mem": taus[k]}, n_inputs=3)(x)
        assert swept.spikes[k].equal(single.spikes)


def test_the_documented_module_holds_networks_and_surrogates() -> None:
    assert spiking_nets.SpikingNeuralNetwork is SpikingNeuralNetwork
    assert spiking_nets.SurrogateGradient is biophysical.SurrogateGradient
    assert all(hasattr(spiking_nets, name) for name in spiking_nets.__all__)


def test_the_printed_form_says_sizes() -> None:
    text = repr(made(7, n_inputs=2, delay_steps=3))
    assert "7, n_inputs=2, n_outputs=None, delay_steps=3, enforce_dales=True" in text
    assert "tau_mem=10" in text


def trials(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two pulses, the class being which channel comes first; both have the same sums."""
    label = torch.randint(2, (n,), generator=generator)
    first = torch.randint(2, 8, (n,), generator=generator)
    second = first + torch.randint(8, 14, (n,), generator=generator)
    time = torch.arange(40)
    on = [torch.where(label == channel, first, second)[:, None] for channel in (0, 1)]
    x = torch.stack([((time >= t) & (time < t + 4)).float() for t in on], dim=-1)
    return x + 0.1 * torch.randn(x.shape, generator=generator), label


@pytest.mark.slow  # twenty steps of training 256 recurrent units
def test_256_units_learn_which_pulse_came_first() -> None:
    generator = seeded()
    network = made(256, n_inputs=2, n_outputs=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)

    def score(x: Tensor) -> Tensor:
        return 10 * network(x).output[:, -5:].mean(1)

    x, label = trials(300, generator)
    with torch.no_grad():
        first = float((score(x).argmax(1) == label).float().mean())
    # Asked for the opposite of what its random weights say, the network has to learn.
    flip = int(first > 0.5)
    for _ in range(20):
        optimizer.zero_grad()
        batch, target = trials(64, generator)
        loss = torch.nn.functional.cross_entropy(score(batch), target ^ flip)
        torch.autograd.backward(loss)
        optimizer.step()
    with torch.no_grad():
        accuracy = float((score(x).argmax(1) == label ^ flip).float().mean())
    assert accuracy >= 0.95


WRONG = [
    (ValueError, "the number of units must be at least 1, got 0", {"n": 0}),
    (ValueError, "ei_ratio must be in [0, 1], got 1.5", {"ei_ratio": 1.5}),
    (ValueError, "n_inputs must be at least 1 or None, got 0", {"n_inputs": 0}),
    (ValueError, "n_outputs must be at least 1 or None, got 0", {"n_outputs": 0}),
    (ValueError, "delay_steps must be at least 1, got 0", {"delay_steps": 0}),
    (ValueError, "weight_scale must be positive and finite, got 0", {"weight_scale": 0}),
    (ValueError, "neuron_type must be one of 'lif', 'izhikevich', 'hh'", {"kind": "relu"}),
    (
        ValueError, "neuron_kwargs are for a neuron_type given by name",
        {"kind": LeakyIntegrateFireNeuron(), "neuron_kwargs": {"tau_mem": 3.0}},
    ),
    (TypeError, "boolean or floating, got torch.int32", {"connectivity": torch.ones(12, 12).int()}),
    (
        ValueError, "connectivity must be (post, pre) = (12, 12), got (12, 3)",
        {"connectivity": torch.ones(12, 3)},
    ),
    (ValueError, "connectivity holds NaN", {"connectivity": torch.full((12, 12), torch.inf)}),
    (
        ValueError, "connectivity and synapse need recurrent=True",
        {"recurrent": False, "connectivity": torch.ones(12, 12, dtype=torch.bool)},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "arguments"), WRONG)
def test_networks_that_cannot_be_are_refused(error, message, arguments) -> None:
    with pytest.raises(error, match=re.escape(message)):
        made(**arguments)


def test_what_is_no_neuron_and_no_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match=r"neuron_type must be a name or a Biophys.*, got int"):
        choose_neuron(3, None, None)
    with pytest.raises(TypeError, match="boolean or floating tensor, got list"):
        wiring([[1.0]], 1)
    with pytest.raises(TypeError, match=r"synapse must be a SynapticDynamics or .*, got int"):
        as_synapse(3)
    with pytest.raises(ValueError, match="synapse must be one of 'exponential', 'alpha'"):
        as_synapse("glycine")


def test_a_column_that_breaks_the_law_is_named() -> None:
    weight = torch.ones(5, 5)
    weight[:, 4] = -1.0
    weight[3, 2] = -0.5
    with pytest.raises(ValueError, match="column 2 of connectivity breaks Dale's law: unit 2 exci"):
        made(5, "lif", weight)
    with pytest.raises(ValueError, match="column 4 of connectivity breaks Dale's law: unit 4 inhi"):
        made(5, "lif", torch.ones(5, 5))


def test_inputs_that_cannot_be_are_refused() -> None:
    network = made(4, n_inputs=2)
    with pytest.raises(TypeError, match="x must be a floating tensor, got torch"):
        network(torch.zeros(3, 2, dtype=torch.int64))
    for shape in ((3, 4), (0, 2), ()):
        with pytest.raises(ValueError, match=r"x must be \(..., time >= 1, n_inputs = 2\), got"):
            network(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"x must be \(..., time >= 1, n_neurons = 4\), got"):
        made(4)(torch.zeros(3, 2))
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="x holds NaN or inf"):
        network(x + torch.nan)
    with pytest.raises(ValueError, match="dt must be positive and finite"):
        network(x, 0.0)
    with pytest.raises(ValueError, match="state must hold 'voltage', 'refractory', 'pending', got"):
        network(x, state={"voltage": torch.zeros(4)})
    state = network.simulate(x).final_state
    with pytest.raises(ValueError, match="pass state or generator"):
        network(x, state=state, generator=seeded())
    with pytest.raises(ValueError, match=r"state\['pending'\] must be of shape \(1, 4\), got \(2,"):
        network(x, state={**state, "pending": torch.zeros(2, 4)})
