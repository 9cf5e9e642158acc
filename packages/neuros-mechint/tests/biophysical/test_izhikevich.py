import pytest
import torch

from neuros_mechint.biophysical.izhikevich import IZHIKEVICH_REGIMES, IzhikevichNeuron

# Number of spikes and their first times in ms, at the published step.
PANELS = {
    "tonic_spiking": (5, [13, 17, 31.5, 59.25, 86.75]),
    "phasic_spiking": (1, [43.75]),
    "tonic_bursting": (28, [25, 26.5, 28.25]),
    "phasic_bursting": (6, [39, 42.8, 47]),
    "mixed_mode": (6, [20, 22.75, 27.25, 67]),
    "spike_frequency_adaptation": (6, [10.25, 12.25, 15, 19.75, 42.5, 71.5]),
    "class_1": (10, [84.5, 125, 155.75]),
    "class_2": (14, [105.75, 126.5, 145.25]),
    "spike_latency": (1, [26.6]),
    "subthreshold_oscillations": (1, [26.5]),
    "resonator": (1, [338]),
    "integrator": (1, [20]),
    "rebound_spike": (1, [68]),
    "rebound_burst": (7, [68, 71, 74.2]),
    "threshold_variability": (1, [93.25]),
    "bistability": (5, [45.25, 86, 126.5, 167.25, 208]),
    "depolarizing_afterpotential": (1, [11.3]),
    "accommodation": (1, [311.5]),
    "inhibition_induced_spiking": (3, [95, 166.5, 236.5]),
    "inhibition_induced_bursting": (12, [87, 89, 91]),
}


def test_all_published_patterns_are_there() -> None:
    assert set(IZHIKEVICH_REGIMES) == set(PANELS)
    assert len(IZHIKEVICH_REGIMES) == 20


@pytest.mark.parametrize("name", PANELS)
def test_the_published_pattern_is_reproduced_to_the_sample(name: str) -> None:
    regime = IzhikevichNeuron.regime(name)
    trace = regime.neuron.simulate(regime.current, dt=regime.dt, state=regime.state)
    at = trace.spikes[:, 0].nonzero().flatten().tolist()
    count, first = PANELS[name]
    assert len(at) == count
    assert at[: len(first)] == [round(time / regime.dt) for time in first]


def test_subthreshold_oscillations_ring_on() -> None:
    regime = IzhikevichNeuron.regime("subthreshold_oscillations")
    trace = regime.neuron.simulate(regime.current, dt=regime.dt, state=regime.state)
    v = trace.voltage[int(60 / regime.dt) :, 0]
    # The rest without input: 0.04 v^2 + (5 - b) v + 140 = 0.
    rest = (-4.74 - (4.74**2 - 4 * 0.04 * 140) ** 0.5) / 0.08
    assert int((v - rest).sign().diff().ne(0).sum()) >= 5
    extremes = v.diff().sign().diff().ne(0).nonzero().flatten() + 1
    swings = (v[extremes] - rest).abs()
    assert bool((swings[1:] < swings[:-1]).all())


def test_a_regime_has_the_dtype_asked_for() -> None:
    regime = IzhikevichNeuron.regime("tonic_spiking", dtype=torch.float32)
    assert regime.current.dtype == regime.state["voltage"].dtype == torch.float32
    assert regime.current.shape == (401, 1)


def test_a_step_is_v_first_and_then_u_with_the_new_v() -> None:
    neuron = IzhikevichNeuron()
    state = {"voltage": torch.tensor([-60.0, 29.0]), "recovery": torch.tensor([-12.0, -10.0])}
    fired, new = neuron.step(torch.tensor([3.0, 0.0]), state, 0.5)
    for k, (v, u, current) in enumerate(((-60.0, -12.0, 3.0), (29.0, -10.0, 0.0))):
        risen = v + 0.5 * (0.04 * v**2 + 5 * v + 140 - u + current)
        moved = u + 0.5 * 0.02 * (0.2 * risen - u)
        after = (-65.0, moved + 8.0) if risen > 30 else (risen, moved)
        assert bool(fired[k]) == (risen > 30)
        assert (new["voltage"][k].item(), new["recovery"][k].item()) == pytest.approx(after)


def exact(scheme: str, dt: float) -> float:
    """Error of v after 8 ms without a spike, against LSODA."""
    from scipy.integrate import solve_ivp

    found = solve_ivp(
        lambda t, y: [
            0.04 * y[0] ** 2 + 5 * y[0] + 140 - y[1] + 1.0,
            0.02 * (0.2 * y[0] - y[1]),
        ],
        (0, 8), [-65.0, -13.0], method="LSODA", rtol=1e-12, atol=1e-12,
    )  # fmt: skip
    x = torch.full((round(8 / dt),), 1.0, dtype=torch.float64)
    v = IzhikevichNeuron(scheme=scheme)(x, dt).voltage
    return abs(float(v[-1]) - float(found.y[0, -1]))


def test_rk4_is_of_order_four_and_euler_of_order_one() -> None:
    assert exact("rk4", 0.5) / exact("rk4", 0.25) == pytest.approx(16, rel=0.2)
    assert exact("rk4", 0.1) < 1e-6
    assert exact("euler", 0.1) / exact("euler", 0.05) == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("scheme", ["euler", "rk4"])
def test_substeps_are_shorter_steps(scheme: str) -> None:
    x = torch.full((100,), 10.0, dtype=torch.float64)
    fine = IzhikevichNeuron(scheme=scheme).simulate(x.repeat_interleave(4), 0.125)
    coarse = IzhikevichNeuron(scheme=scheme, substeps=4).simulate(x, 0.5)
    assert coarse.voltage.equal(fine.voltage[3::4])
    assert coarse.spikes.equal(fine.spikes.reshape(-1, 4).amax(-1))
    assert 0 < float(coarse.spikes.sum()) < 100


@pytest.mark.parametrize("scheme", ["euler", "rk4"])
@pytest.mark.parametrize("recovery", ["linear", "accommodation"])
def test_a_run_in_two_parts_is_one_run_bit_for_bit(scheme: str, recovery: str) -> None:
    neuron = IzhikevichNeuron(
        torch.tensor([0.02, 0.1], dtype=torch.float64), scheme=scheme, recovery=recovery,
    )  # fmt: skip
    x = torch.linspace(5, 25, 160, dtype=torch.float64)[:, None].expand(160, 2)
    whole, first = neuron.simulate(x), neuron.simulate(x[:61])
    second = neuron.simulate(x[61:], state=first.final_state)
    assert torch.cat([first.spikes, second.spikes]).equal(whole.spikes)
    assert float(second.spikes.sum()) > 0
    for name, value in whole.states.items():
        assert torch.cat([first.states[name], second.states[name]]).equal(value)


@pytest.mark.parametrize("scheme", ["euler", "rk4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_input_leaves_everything_finite(scheme: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(300, 8, generator=generator, dtype=dtype) * 2 - 1) * 1e4
    x[:, 0], x[:, 1] = 1e4, -1e4
    x.requires_grad_()
    trace = IzhikevichNeuron(scheme=scheme).simulate(x, 1.0)
    for value in (trace.spikes, *trace.states.values()):
        assert bool(torch.isfinite(value).all())
    assert set(trace.spikes.detach().unique().tolist()) <= {0.0, 1.0}


def test_every_number_is_reached_by_gradients() -> None:
    names = ("a", "b", "c", "d", "v_peak")
    for detach in (True, False):
        neuron = IzhikevichNeuron(learnable=names, detach_reset=detach)
        x = torch.full((120, 2), 12.0, dtype=torch.float64)
        trace = neuron(x)
        assert float(trace.spikes.detach().sum()) > 0
        loss = trace.spikes.sum() + trace.voltage.sum()
        for grad in torch.autograd.grad(loss, list(neuron.parameters())):
            assert bool(torch.isfinite(grad).all())
            assert float(grad.abs()) > 0


def test_the_gradient_without_spikes_is_that_of_finite_differences() -> None:
    x = torch.linspace(0, 3, 12, dtype=torch.float64, requires_grad=True)
    a = torch.tensor(0.03, dtype=torch.float64, requires_grad=True)
    for scheme in ("euler", "rk4"):
        assert torch.autograd.gradcheck(
            lambda x, a, s=scheme: IzhikevichNeuron(a, scheme=s)(x).voltage, (x, a)
        )


def test_choices_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="name must be one of 'tonic_spiking', 'phasic_spiking'"):
        IzhikevichNeuron.regime("chattering")
    with pytest.raises(ValueError, match="recovery must be one of 'linear', 'accommodation'"):
        IzhikevichNeuron(recovery="fast")
    with pytest.raises(ValueError, match="scheme must be one of 'euler', 'rk4', got 'heun'"):
        IzhikevichNeuron(scheme="heun")
    with pytest.raises(ValueError, match="substeps must be at least 1, got 0"):
        IzhikevichNeuron(substeps=0)
    with pytest.raises(ValueError, match="c must be below v_peak, got 30"):
        IzhikevichNeuron(c=30.0)
