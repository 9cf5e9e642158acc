import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_mechint.biophysical._neuron import BiophysicalNeuronBase
from neuros_mechint.biophysical.lif import LeakyIntegrateFireNeuron

NUMBERS = ("tau_mem", "v_threshold", "v_reset", "v_rest", "resistance")


def noise(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * 2 + 1


def stepwise(neuron: LeakyIntegrateFireNeuron, x: torch.Tensor):
    """The run by single steps, whose gradient is autograd's."""
    wide = x[:, None] if x.ndim == 1 else x
    p = neuron._constants(wide)
    return BiophysicalNeuronBase._run(neuron, wide, neuron._begin(wide, p, None), 1.0, p)


@given(
    tau=st.floats(2.0, 40.0), drive=st.floats(1.05, 5.0), v_reset=st.floats(-2.0, 0.5),
    v_rest=st.floats(-1.0, 0.9), dt=st.sampled_from([0.01, 0.1, 0.37, 1.0]),
    wait=st.integers(0, 4),
)  # fmt: skip
@settings(max_examples=30, derandomize=True, deadline=None)
def test_intervals_are_the_closed_form(tau, drive, v_reset, v_rest, dt, wait) -> None:
    neuron = LeakyIntegrateFireNeuron(tau, 1.0, v_reset, v_rest=v_rest, t_ref=wait * dt)
    target = v_rest + (drive - v_rest)

    def steps(start: float) -> float:
        return tau / dt * math.log((target - start) / (target - 1.0))

    first, later = steps(v_rest), steps(v_reset)
    # Where the threshold is met on a sample, rounding decides.
    if min(abs(first - round(first)), abs(later - round(later))) < 1e-6:
        return
    first_n, later_n = math.floor(first) + 1, math.floor(later) + 1 + wait
    n = min(first_n + 2 * later_n, 1500)
    x = torch.full((n,), drive - v_rest, dtype=torch.float64)
    found = neuron(x, dt).spikes.nonzero().flatten().tolist()
    expected = [t for t in (first_n - 1, first_n - 1 + later_n, first_n - 1 + 2 * later_n) if t < n]
    assert found == expected


def test_the_rate_is_the_closed_form_within_one_step() -> None:
    current = torch.linspace(1.1, 6.0, 12, dtype=torch.float64)
    neuron = LeakyIntegrateFireNeuron(20.0, t_ref=3.0)
    spikes = neuron(current.expand(20_000, 12), 0.1).spikes
    for k, drive in enumerate(current.tolist()):
        at = spikes[:, k].nonzero().flatten().to(torch.float64) * 0.1
        interval = float(at.diff().mean())
        assert 0 <= interval - (3.0 + 20.0 * math.log(drive / (drive - 1))) <= 0.1


def test_a_potential_below_threshold_follows_the_exponential_at_any_step() -> None:
    neuron = LeakyIntegrateFireNeuron(7.0, 5.0, -1.0, v_rest=0.5, resistance=2.0)
    t = torch.arange(1, 41, dtype=torch.float64)
    exact = 0.5 + 2.0 * (1 - torch.exp(-t / 7.0))
    for dt, every in ((1.0, 1), (0.25, 4)):
        x = torch.ones(40 * every, dtype=torch.float64)
        found = neuron(x, dt).voltage[every - 1 :: every]
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=0)


@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("t_ref", [0.0, 2.0])
@pytest.mark.parametrize("sweep", [False, True])
def test_the_gradient_by_hand_is_that_of_autograd(reset, detach, t_ref, sweep) -> None:
    if reset == "none" and t_ref:
        return
    tau = torch.tensor([[5.0], [9.0], [20.0]], dtype=torch.float64) if sweep else 9.0
    neuron = LeakyIntegrateFireNeuron(
        tau, v_reset=-0.3, v_rest=0.1, resistance=1.3, t_ref=t_ref, reset=reset, slope=3.0,
        detach_reset=detach, learnable=NUMBERS,
    )  # fmt: skip
    x = noise(40, 4).requires_grad_()
    runs = neuron.simulate(x), stepwise(neuron, x)
    weight = noise(3, 40, 4)
    assert float(runs[0].spikes.detach().sum()) > 0
    leaves = [x, *neuron.parameters()]
    grads = []
    for run in runs:
        loss = (run.spikes * weight + run.states["voltage"] * weight.cos()).sum()
        loss = loss + (run.final_state["voltage"] * weight[:, 0]).sum()
        grads.append(torch.autograd.grad(loss, leaves, materialize_grads=True))
    for name in ("voltage", "refractory"):
        torch.testing.assert_close(runs[0].states[name], runs[1].states[name], rtol=0, atol=1e-12)
    torch.testing.assert_close(runs[0].spikes, runs[1].spikes, rtol=0, atol=0)
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("which", ["spikes", "voltage", "final"])
def test_each_output_alone_has_its_gradient(which: str) -> None:
    neuron = LeakyIntegrateFireNeuron(slope=3.0, detach_reset=False, learnable=NUMBERS)
    x = noise(30, 2).requires_grad_()

    def loss(run) -> torch.Tensor:
        out = run.final_state["voltage"] if which == "final" else run.states["voltage"]
        return (run.spikes if which == "spikes" else out).square().sum()

    leaves = [x, *neuron.parameters()]
    found = torch.autograd.grad(loss(neuron.simulate(x)), leaves)
    expected = torch.autograd.grad(loss(stepwise(neuron, x)), leaves, allow_unused=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b)


def test_without_spikes_the_gradient_is_that_of_finite_differences() -> None:
    x = noise(12, 2) * 0.1
    number = torch.tensor([8.0, 12.0], dtype=torch.float64, requires_grad=True)

    def final(x: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        return LeakyIntegrateFireNeuron(tau).simulate(x).voltage

    assert torch.autograd.gradcheck(final, (x.requires_grad_(), number))


def test_a_long_run_without_reset_equals_the_loop() -> None:
    neuron = LeakyIntegrateFireNeuron(torch.tensor([3.0, 150.0]), reset="none", v_rest=-0.4)
    x = noise(100_000, 2)
    found = neuron.simulate(x)
    keep = torch.exp(-1.0 / torch.tensor([3.0, 150.0], dtype=torch.float64)).tolist()
    for unit in range(2):
        v, expected = -0.4, []
        for value in x[:, unit].tolist():
            target = value - 0.4
            v = target + (v - target) * keep[unit]
            expected.append(v)
        exact = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(found.voltage[:, unit], exact, rtol=0, atol=1e-9)
    assert found.spikes.equal((found.voltage > 1.0).to(torch.float64))


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_a_run_in_two_parts_is_one_run_bit_for_bit(reset: str) -> None:
    neuron = LeakyIntegrateFireNeuron(7.3, v_reset=-0.37, v_rest=0.11, t_ref=3.0, reset=reset)
    x = noise(2, 61, 5)
    whole, first = neuron.simulate(x), neuron.simulate(x[:, :23])
    second = neuron.simulate(x[:, 23:], state=first.final_state)
    assert float(second.spikes.sum()) > 0
    assert torch.cat([first.spikes, second.spikes], 1).equal(whole.spikes)
    for name, value in whole.states.items():
        assert torch.cat([first.states[name], second.states[name]], 1).equal(value)
        assert second.final_state[name].equal(whole.final_state[name])


def test_a_run_in_two_parts_without_reset_agrees_up_to_rounding() -> None:
    neuron, x = LeakyIntegrateFireNeuron(reset="none"), noise(61, 5)
    first = neuron.simulate(x[:23])
    second = neuron(x[23:], state=first.final_state)
    both = torch.cat([first.voltage, second.voltage])
    torch.testing.assert_close(both, neuron(x).voltage, rtol=0, atol=1e-14)


def test_a_soft_reset_keeps_what_is_above_threshold() -> None:
    trace = LeakyIntegrateFireNeuron(1.0, reset="soft")(torch.tensor([5.0, 0.0]))
    reached = 5 * (1 - math.exp(-1))
    assert trace.spikes.tolist() == [1.0, 0.0]
    expected = [reached - 1, (reached - 1) * math.exp(-1)]
    assert trace.voltage.tolist() == pytest.approx(expected, rel=1e-6)


def test_refractory_neurons_stay_at_reset() -> None:
    trace = LeakyIntegrateFireNeuron(1.0, v_reset=-1.0, t_ref=2.0).simulate(torch.full((6,), 9.0))
    assert trace.spikes.tolist() == [1, 0, 0, 1, 0, 0]
    assert trace.voltage.tolist() == [-1.0] * 6
    assert trace.states["refractory"].tolist() == [2, 1, 0, 2, 1, 0]


def test_numbers_that_cannot_be_are_refused() -> None:
    for given_reset, threshold in ((1.0, 1.0), (torch.tensor([0.0, 2.0]), 1.0)):
        with pytest.raises(ValueError, match="v_reset must be below v_threshold"):
            LeakyIntegrateFireNeuron(v_reset=given_reset, v_threshold=threshold)
    with pytest.raises(ValueError, match="tau_mem must be positive, got 0"):
        LeakyIntegrateFireNeuron(0.0)
    with pytest.raises(ValueError, match="t_ref must be at least 0, got -1"):
        LeakyIntegrateFireNeuron(t_ref=-1.0)
    with pytest.raises(ValueError, match="t_ref needs a reset"):
        LeakyIntegrateFireNeuron(t_ref=1.0, reset="none")
    with pytest.raises(ValueError, match="reset must be one of 'hard', 'soft', 'none', got 'zero'"):
        LeakyIntegrateFireNeuron(reset="zero")
