import math

import numpy as np
import pytest
import torch

from neuros_mechint.biophysical.adex import ADEX_REGIMES, AdExNeuron

NAMES = ("C", "g_L", "E_L", "V_T", "Delta_T", "tau_w", "a", "b", "v_reset", "v_peak", "t_ref")


def double(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def reference(neuron: AdExNeuron, current: float, duration: float) -> np.ndarray:
    """Spike times by LSODA with an event at the peak."""
    from scipy.integrate import solve_ivp

    p = {name: float(getattr(neuron, name)) for name in NAMES}
    # The event is looked for on an interpolant, which must be sane a little beyond the peak.
    most = p["v_peak"] + 5

    def slopes(_t: float, y: np.ndarray) -> list[float]:
        v, w = y
        exponential = p["Delta_T"] * math.exp((min(v, most) - p["V_T"]) / p["Delta_T"])
        leak = p["g_L"] * (exponential - (v - p["E_L"]))
        return [(leak - w + current) / p["C"], (p["a"] * (v - p["E_L"]) - w) / p["tau_w"]]

    def peak(_t: float, y: np.ndarray) -> float:
        return min(y[0], most) - p["v_peak"]

    peak.terminal, peak.direction = True, 1
    times: list[float] = []
    begin, y = 0.0, [p["E_L"], 0.0]
    while begin < duration:
        found = solve_ivp(
            slopes, (begin, duration), y, method="LSODA", rtol=1e-9, atol=1e-9, events=peak
        )
        if found.status != 1:
            break
        begin = float(found.t_events[0][0])
        times.append(begin)
        y = [p["v_reset"], found.y_events[0][0][1] + p["b"]]
    return np.array(times)


def together(names: tuple[str, ...]) -> tuple[AdExNeuron, torch.Tensor]:
    """The neurons of several regimes as units of one, and their currents."""
    regimes = [AdExNeuron.regime(name) for name in names]
    numbers = {
        each: torch.stack([getattr(regime.neuron, each) for regime in regimes]) for each in NAMES
    }
    return AdExNeuron(**numbers), torch.cat([regime.current[0] for regime in regimes])


# Slow: three neurons over 4500 recurrent steps.
@pytest.mark.slow
def test_spike_times_are_those_of_lsoda() -> None:
    names, dt, duration = ("tonic", "adapting", "bursting"), 0.01, 45.0
    neuron, current = together(names)
    out = neuron(current.expand(round(duration / dt), 3), dt)
    for k, name in enumerate(names):
        exact = reference(AdExNeuron.regime(name).neuron, float(current[k]), duration)
        at = out.spikes[:, k].nonzero().flatten().numpy()
        assert at.size == exact.size >= 3
        # The bar of 0.1 ms, and what locating the crossing gives: the very step of the spike.
        assert np.abs((at + 0.5) * dt - exact)[:8].max() <= 0.01


def test_long_steps_keep_the_spike_times() -> None:
    regime = AdExNeuron.regime("tonic")
    exact = reference(regime.neuron, 500.0, 60.0)
    at = regime.neuron(regime.current[:1].expand(240, 1), 0.25).spikes[:, 0].nonzero().flatten()
    assert np.abs((at.numpy() + 0.5) * 0.25 - exact).max() <= 0.125 + 0.01


# Slow: seven neurons over 3200 recurrent steps, the time that two bursts need.
@pytest.mark.slow
def test_each_regime_shows_its_pattern() -> None:
    assert set(ADEX_REGIMES) == {
        "tonic", "adapting", "initial_burst", "bursting", "irregular", "transient", "delayed",
    }  # fmt: skip
    neuron, current = together(ADEX_REGIMES)
    spikes = neuron(current.expand(3200, 7), 0.1).spikes
    times = {
        name: s.nonzero().flatten().numpy() * 0.1
        for name, s in zip(ADEX_REGIMES, spikes.T, strict=True)
    }
    gaps = {name: np.diff(each) for name, each in times.items()}
    tonic, adapting, first = gaps["tonic"], gaps["adapting"], gaps["initial_burst"]
    assert np.all(np.abs(tonic[5:] - 9.6) < 0.21)
    assert np.all(np.diff(adapting) > 0)
    assert adapting[-1] > 5 * adapting[0]
    assert first[0] < 5
    assert np.all(first[2:] > 8 * first[0])
    # Groups of spikes within 6 ms of one another, more than 100 ms apart.
    bursts = gaps["bursting"]
    assert np.sum(bursts > 100) == 2
    assert np.all((bursts < 6) | (bursts > 100))
    irregular = gaps["irregular"][3:]
    assert 0.3 < irregular.std() / irregular.mean() < 1
    assert np.sum(np.abs(np.diff(irregular)) > 1) > 7
    assert times["transient"].size == 1
    assert times["transient"][0] < 40
    delayed = gaps["delayed"]
    assert times["delayed"][0] > 1.5 * delayed[0]
    assert np.all(np.diff(delayed) < 0.11)


def test_a_regime_has_the_dtype_asked_for() -> None:
    regime = AdExNeuron.regime("tonic", dtype=torch.float32)
    assert regime.current.dtype == regime.state["voltage"].dtype == torch.float32
    assert regime.current.shape == (10_000, 1)
    assert (regime.dt, float(regime.current[0])) == (0.05, 500.0)


def test_the_rheobase_is_the_published_formula() -> None:
    assert float(AdExNeuron().rheobase()) == pytest.approx(627.18, abs=5e-3)
    both = AdExNeuron(a=torch.tensor([4.0, 0.5], dtype=torch.float64)).rheobase()
    assert both.tolist() == pytest.approx([627.18, 556.11], abs=5e-3)


@pytest.mark.parametrize("a", [0.5, 4.0, -11.0])
def test_rest_is_stable_up_to_the_rheobase(a: float) -> None:
    # At a rest V the current is known, and the trace and determinant of the Jacobian say whether
    # it is stable; the largest such current is the rheobase.
    neuron = AdExNeuron(a=a)
    v = np.linspace(-80, -40, 400_001)
    e = np.exp((v + 50.4) / 2)
    current = (30 + a) * (v + 70.6) - 30 * 2 * e
    steep = 30 * (e - 1) / 281
    stable = (steep - 1 / 144 < 0) & (-steep / 144 + a / 281 / 144 > 0)
    assert float(neuron.rheobase()) == pytest.approx(current[stable].max(), rel=1e-6)


# Slow: two neurons over 2400 recurrent steps, the last part of a ramp of 20 s.
@pytest.mark.slow
def test_a_slow_ramp_fires_first_at_the_rheobase() -> None:
    neuron, dt = AdExNeuron(a=torch.tensor([4.0, 0.5], dtype=torch.float64)), 0.25
    rheobase = neuron.rheobase()
    part = 0.985 + torch.arange(round(0.03 * 20_000 / dt), dtype=torch.float64) * dt / 20_000
    v = torch.full((2,), -60.0, dtype=torch.float64)
    for _ in range(50):  # Newton's method for the rest at 0.985
        e = torch.exp((v + 50.4) / 2)
        short = (30 + neuron.a) * (v + 70.6) - 60 * e - 0.985 * rheobase
        v = v - short / (30 + neuron.a - 30 * e)
    state = {"voltage": v, "w": neuron.a * (v + 70.6), "refractory": torch.zeros_like(v)}
    spikes = neuron(part[:, None] * rheobase, dt, state=state).spikes
    for k in range(2):
        assert 0.99 < float(part[int(spikes[:, k].nonzero()[0])]) < 1.02


def test_without_width_it_is_an_adapting_leaky_neuron() -> None:
    # Without adaptation the time to threshold has a closed form; w changes what follows.
    neuron = AdExNeuron(Delta_T=0.0, a=0.0, b=torch.tensor([0.0, 60.0], dtype=torch.float64))
    x = torch.full((1200, 2), 900.0, dtype=torch.float64)
    spikes = neuron(x, 0.1).spikes
    tau = 281 / 30
    period = tau * math.log(30 / (30 - 20.2))
    at = spikes[:, 0].nonzero().flatten().double()
    expected = torch.floor(torch.arange(1, at.numel() + 1) * period / 0.1)
    assert at.numel() == math.floor(120 / period)
    assert float((at - expected).abs().max()) <= 1
    slowing = spikes[:, 1].nonzero().flatten().diff()
    assert slowing[-1] > 1.2 * slowing[0]
    assert spikes[:, 1].nonzero().flatten()[0] == at[0]


def test_a_narrow_width_is_near_none() -> None:
    x = torch.full((400, 3), 900.0, dtype=torch.float64)
    widths = torch.tensor([0.0, 1e-4, 0.02], dtype=torch.float64)
    spikes = AdExNeuron(Delta_T=widths, v_peak=-40.0)(x, 0.1).spikes
    at = [each.nonzero().flatten() for each in spikes.T]
    assert at[0].numel() == 3
    assert int((at[1] - at[0]).abs().max()) <= 1
    # The exponential adds to the leak until V_T is well passed: some width / speed each spike.
    assert int((at[2] - at[0]).abs().max()) <= 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("integrator", ["rk4", "euler"])
def test_extreme_input_never_overflows(dtype: torch.dtype, integrator: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(40, 8, generator=generator, dtype=dtype) * 2 - 1) * 2e4
    x[:, 0], x[:, 1] = 1e6, -1e5
    x.requires_grad_()
    for width in (2.0, 0.05, 0.0):  # at 0.05 the exponent at the peak is 1408
        neuron = AdExNeuron(Delta_T=width, integrator=integrator, detach_reset=False, t_ref=0.3)
        trace = neuron.simulate(x, 1.0)
        (grad,) = torch.autograd.grad(trace.voltage.sum() + trace.spikes.sum(), x)
        assert bool(torch.isfinite(grad).all())
        assert float(trace.voltage.detach().max()) <= 20
        for value in (trace.spikes, *trace.states.values()):
            assert bool(torch.isfinite(value).all())
        assert trace.spikes[:, 0].sum() >= 39
        assert trace.spikes[:, 1].sum() == 0


def test_the_integrators_have_their_orders() -> None:
    def error(integrator: str, dt: float) -> float:
        # 4 ms towards threshold, without a spike.
        x = torch.full((round(4 / dt),), 600.0, dtype=torch.float64)
        fine = AdExNeuron()(torch.full((80,), 600.0, dtype=torch.float64), 0.05)
        found = AdExNeuron(integrator=integrator)(x, dt)
        assert float(found.spikes.sum()) == 0
        return abs(float(found.voltage[-1] - fine.voltage[-1]))

    assert error("rk4", 0.5) / error("rk4", 0.25) == pytest.approx(16, rel=0.3)
    assert error("euler", 0.1) / error("euler", 0.05) == pytest.approx(2, rel=0.1)


def test_a_refractory_time_is_kept_to_the_part_of_a_step() -> None:
    x = torch.full((400,), 1500.0, dtype=torch.float64)
    plain, paused = AdExNeuron(b=0.0, a=0.0), AdExNeuron(b=0.0, a=0.0, t_ref=3.33)
    at = [n.simulate(x, 0.1).spikes.nonzero().flatten().double() * 0.1 for n in (plain, paused)]
    mean = [float(each[-1] - each[0]) / (each.numel() - 1) for each in at]
    assert mean[1] - mean[0] == pytest.approx(3.33, abs=0.1 / (at[1].numel() - 1) * 2)
    trace = paused.simulate(x, 0.1)
    first = int(trace.spikes.nonzero()[0])
    assert trace.voltage[first : first + 33].tolist() == [-70.6] * 33
    assert float(trace.voltage[first + 34]) > -70.6
    # While it waits, w relaxes towards a (v_reset - E_L) without the potential.
    waiting = AdExNeuron(t_ref=50.0).simulate(x[:200], 0.1)
    w = waiting.states["w"][int(waiting.spikes.nonzero()[0]) :]
    torch.testing.assert_close(w[1:] / w[:-1], torch.full_like(w[1:], math.exp(-0.1 / 144)))


def test_a_spike_resets_the_potential_and_raises_w() -> None:
    neuron = AdExNeuron()
    state = {
        "voltage": torch.tensor([19.0, -80.0], dtype=torch.float64),
        "w": torch.tensor([10.0, 10.0], dtype=torch.float64),
        "refractory": torch.zeros(2, dtype=torch.float64),
    }
    fired, new = neuron.step(torch.zeros(2, dtype=torch.float64), state, 0.05)
    assert fired.tolist() == [1.0, 0.0]
    assert float(new["voltage"][0]) == pytest.approx(-70.6, abs=0.05)
    assert float(new["w"][0]) == pytest.approx(90.5, abs=0.05)
    assert float(new["w"][1]) == pytest.approx(10.0, abs=0.05)


def end(x: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    neuron = AdExNeuron(**dict(zip(NAMES, numbers, strict=True)))
    trace = neuron.simulate(x, 0.5)
    return torch.cat([trace.voltage, trace.states["w"] / 10])


# Slow: finite differences in 27 numbers and inputs.
@pytest.mark.slow
def test_the_gradient_through_a_spike_is_that_of_finite_differences() -> None:
    numbers = torch.tensor([200, 12, -70, -50, 2, 100, 2, 60, -58, 0, 0.7], dtype=torch.float64)
    x = torch.linspace(900, 1200, 16, dtype=torch.float64)
    v = end(x, numbers)[:16]
    assert int((v.diff() < -2).sum()) == 1
    for each in (x, numbers):
        each.requires_grad_()
    assert torch.autograd.gradcheck(end, (x, numbers), eps=1e-7, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("detach", [True, False])
def test_every_number_is_reached_by_gradients(detach: bool) -> None:
    neuron = AdExNeuron(learnable=NAMES, t_ref=0.1, detach_reset=detach)
    out = neuron(torch.full((80, 1), 2000.0, dtype=torch.float64), 0.25)
    assert float(out.spikes.detach().sum()) > 2
    for loss in (out.spikes.sum(), out.voltage.sum()):
        grads = torch.autograd.grad(loss, list(neuron.parameters()), retain_graph=True)
        assert all(bool(torch.isfinite(grad)) and float(grad) != 0 for grad in grads)


def test_a_reset_that_is_not_detached_sees_the_height_of_the_jump() -> None:
    grads = {}
    for detach in (True, False):
        x = torch.tensor([5000.0], dtype=torch.float64, requires_grad=True)
        neuron = AdExNeuron(detach_reset=detach, surrogate="straight_through")
        state = neuron.init_state((1,), dtype=torch.float64)
        state["voltage"] = state["voltage"] + 40
        fired, new = neuron.step(x, state, 0.5)
        assert float(fired.detach()) == 1
        (flow,) = torch.autograd.grad(new["voltage"], x, retain_graph=True)
        (height,) = torch.autograd.grad(fired, x)
        grads[detach] = (float(flow), float(height), float(new["voltage"].detach()))
    jump = grads[True][2] - 20.0
    assert grads[False][0] == pytest.approx(grads[True][0] + jump * grads[True][1], rel=1e-9)
    assert grads[False][0] != pytest.approx(grads[True][0], rel=1e-4)


@pytest.mark.parametrize("t_ref", [0.0, 1.3])
def test_a_run_in_two_parts_is_one_run_bit_for_bit(t_ref: float) -> None:
    neuron = AdExNeuron(t_ref=t_ref, b=torch.tensor([0.0, 80.0], dtype=torch.float64))
    x = torch.linspace(500, 2000, 160, dtype=torch.float64)[:, None].expand(160, 2)
    whole, first = neuron.simulate(x, 0.25), neuron.simulate(x[:91], 0.25)
    second = neuron.simulate(x[91:], 0.25, state=first.final_state)
    assert float(second.spikes.sum()) > 0
    assert torch.cat([first.spikes, second.spikes]).equal(whole.spikes)
    for name, value in whole.states.items():
        assert torch.cat([first.states[name], second.states[name]]).equal(value)


def test_steps_one_by_one_are_the_run() -> None:
    neuron = AdExNeuron(t_ref=0.6)
    x = torch.linspace(500, 3000, 100, dtype=torch.float64)[:, None]
    state, rows = neuron.init_state((1,), dtype=torch.float64), []
    for row in x:
        fired, state = neuron.step(row, state, 0.25)
        rows.append(fired)
    trace = neuron.simulate(x, 0.25)
    assert torch.stack(rows).equal(trace.spikes)
    assert state["voltage"].equal(trace.final_state["voltage"])


def test_a_sweep_of_parameters_is_one_call() -> None:
    x = torch.full((120, 2), 1200.0, dtype=torch.float64)
    leaks = torch.tensor([[20.0], [30.0], [45.0]], dtype=torch.float64)
    swept = AdExNeuron(g_L=leaks)(x, 0.25)
    assert swept.spikes.shape == (3, 120, 2)
    for k, leak in enumerate(leaks.flatten().tolist()):
        single = AdExNeuron(g_L=leak)(x, 0.25)
        assert swept.spikes[k].equal(single.spikes)
        torch.testing.assert_close(swept.voltage[k], single.voltage, rtol=1e-9, atol=1e-9)


def test_a_step_passes_through_vmap() -> None:
    neuron = AdExNeuron(t_ref=0.4)
    state = neuron.init_state((4,))
    x = torch.tensor([0.0, 700.0, 1e5, 1e6])
    plain = neuron.step(x, state, 0.25)
    fired, new = torch.func.vmap(lambda row, held: neuron.step(row, held, 0.25))(x, state)
    assert fired.equal(plain[0])
    assert fired.tolist() == [0, 0, 1, 1]
    assert new["voltage"].equal(plain[1]["voltage"])


def test_choices_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="name must be one of 'tonic', 'adapting', 'initial_b"):
        AdExNeuron.regime("chattering")
    with pytest.raises(ValueError, match="integrator must be one of 'rk4', 'euler', got 'heun'"):
        AdExNeuron(integrator="heun")
    with pytest.raises(ValueError, match="tau_w must be positive, got 0"):
        AdExNeuron(tau_w=0.0)
    with pytest.raises(ValueError, match="Delta_T must be at least 0, got -1"):
        AdExNeuron(Delta_T=-1.0)
    with pytest.raises(ValueError, match="v_reset must be below v_peak, got 21 and 20"):
        AdExNeuron(v_reset=21.0)
    with pytest.raises(ValueError, match=r"V_T must be below v_peak, got -50\.4 and -60"):
        AdExNeuron(v_peak=-60.0)
    with pytest.raises(ValueError, match=r"rheobase needs a above -g_L.*got a / g_L = -1"):
        AdExNeuron(a=-30.0).rheobase()
