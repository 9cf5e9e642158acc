import functools

import numpy as np
import pytest
import torch

from neuros_mechint.biophysical._spike_times import crossing_times
from neuros_mechint.biophysical.hodgkin_huxley import HodgkinHuxleyNeuron

REFERENCE = [1.901, 16.8226, 31.4718, 46.109, 60.7453, 75.3815, 90.0177]


def constant(current: float, duration: float, dt: float) -> torch.Tensor:
    return torch.full((round(duration / dt),), current, dtype=torch.float64)


@functools.cache
def worst(integrator: str, dt: float, n_spikes: int) -> float:
    """Largest error of the first spike times at 10 µA/cm²."""
    duration = [*REFERENCE[1:], 100.0][n_spikes - 1] - 2.0
    v = HodgkinHuxleyNeuron(integrator=integrator)(constant(10, duration, dt), dt).voltage
    times = crossing_times(v, dt).times
    assert times.shape == (n_spikes,)
    return float((times - torch.tensor(REFERENCE[:n_spikes], dtype=torch.float64)).abs().max())


# Slow: thousands of steps, which are recurrent.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("integrator", "dt", "bar"),
    [("strang", 0.025, 0.035), ("strang", 0.01, 0.007), ("rk4", 0.05, 0.002)],
)
def test_spike_times_are_within_the_bar(integrator: str, dt: float, bar: float) -> None:
    # Every period adds the same error, so of the bar on seven spikes two have two sevenths.
    assert worst(integrator, dt, 2) <= bar * 2 / 7


# Slow: as above.
@pytest.mark.slow
def test_the_errors_of_a_whole_train_are_the_known_ones() -> None:
    assert worst("strang", 0.05, 7) <= 0.15
    # Two of the seven errors of exponential Euler, as in every simulator that uses it.
    assert worst("exponential_euler", 0.05, 2) == pytest.approx(0.5445, abs=1e-3)


# Slow: as above.
@pytest.mark.slow
def test_strang_is_of_second_order() -> None:
    assert 1.8 <= np.log2(worst("strang", 0.05, 2) / worst("strang", 0.025, 2)) <= 2.3


def reference_trace(current: float, duration: float) -> float:
    """The potential at the end by LSODA, with formulas written out apart."""
    from scipy.integrate import solve_ivp

    def slopes(t: float, y: np.ndarray) -> list[float]:
        v, m, h, n = y
        am = 0.1 * (v + 40) / (1 - np.exp(-(v + 40) / 10))
        an = 0.01 * (v + 55) / (1 - np.exp(-(v + 55) / 10))
        bm, ah = 4 * np.exp(-(v + 65) / 18), 0.07 * np.exp(-(v + 65) / 20)
        bh, bn = 1 / (1 + np.exp(-(v + 35) / 10)), 0.125 * np.exp(-(v + 65) / 80)
        flow = 120 * m**3 * h * (v - 50) + 36 * n**4 * (v + 77) + 0.3 * (v + 54.387)
        return [
            current - flow, am * (1 - m) - bm * m, ah * (1 - h) - bh * h, an * (1 - n) - bn * n,
        ]  # fmt: skip

    gates = HodgkinHuxleyNeuron().steady_state(torch.tensor(-65.0, dtype=torch.float64))
    start = [-65.0, *(float(x) for x in gates)]
    found = solve_ivp(slopes, (0, duration), start, method="LSODA", rtol=1e-11, atol=1e-11)
    return float(found.y[0, -1])


def test_the_potential_converges_to_lsoda() -> None:
    exact = reference_trace(10.0, 4.0)
    for integrator, dt, bar in (("rk4", 0.02, 1e-3), ("strang", 0.02, 0.1)):
        found = HodgkinHuxleyNeuron(integrator=integrator)(constant(10, 4, dt), dt)
        assert abs(float(found.voltage[-1]) - exact) < bar


# Slow: 150 steps to rest and 260 of the fourth-order method.
@pytest.mark.slow
def test_the_rest_and_the_peak_are_the_known_ones() -> None:
    quiet = HodgkinHuxleyNeuron()(constant(0, 60, 0.4), 0.4)
    assert float(quiet.voltage[-1]) == pytest.approx(-64.9964, abs=2e-3)
    peak = HodgkinHuxleyNeuron(integrator="rk4")(constant(10, 2.6, 0.01), 0.01).voltage.max()
    assert float(peak) == pytest.approx(40.2688, abs=2e-3)


# Slow: six units over 1000 recurrent steps.
@pytest.mark.slow
def test_counts_of_spikes_grow_with_the_current() -> None:
    current = torch.tensor([5.0, 6.0, 6.5, 7.0, 10.0, 20.0], dtype=torch.float64)
    spikes = HodgkinHuxleyNeuron()(current.expand(1000, 6), 0.1).spikes
    assert spikes.sum(0).tolist() == [1, 2, 6, 6, 7, 9]


def test_rates_are_finite_where_the_formulas_are_not() -> None:
    for name, v, value, slope in (("alpha_m", -40.0, 1.0, 0.05), ("alpha_n", -55.0, 0.1, 0.005)):
        for shift in (0.0, 1e-9, -1e-5, 0.3):
            x = torch.tensor(v + shift, dtype=torch.float64, requires_grad=True)
            rate = getattr(HodgkinHuxleyNeuron().rates(x), name)
            (found,) = torch.autograd.grad(rate, x)
            scale = 0.1 if name == "alpha_n" else 1.0
            z = shift / 10
            assert float(rate.detach()) == pytest.approx(
                value + slope * shift + scale * z**2 / 12, abs=1e-6
            )
            assert float(found) == pytest.approx(slope + scale * z / 60, abs=1e-5)


def test_rates_are_smooth_across_the_series() -> None:
    x = torch.tensor([-40.2, -40.2 + 1e-12, -39.8], dtype=torch.float64)
    direct = 0.1 * (x + 40) / (1 - torch.exp(-(x + 40) / 10))
    torch.testing.assert_close(HodgkinHuxleyNeuron().rates(x).alpha_m, direct, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rates_far_away_are_finite_with_their_gradients(dtype: torch.dtype) -> None:
    x = torch.tensor([-990.0, 990.0], dtype=dtype, requires_grad=True)
    rates = HodgkinHuxleyNeuron().rates(x)
    (found,) = torch.autograd.grad(sum(r.sum() for r in rates), x)
    assert bool(torch.isfinite(torch.stack(rates)).all())
    assert bool(torch.isfinite(found).all())


def test_wild_input_at_a_large_step_stays_bounded() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(500, 20, generator=generator, dtype=torch.float64) * 300 - 100
    trace = HodgkinHuxleyNeuron().simulate(x, 1.0)
    assert float(trace.voltage.abs().max()) < 1000
    for name in ("m", "h", "n"):
        assert 0 <= float(trace.states[name].min()) <= float(trace.states[name].max()) <= 1


def test_warmth_makes_the_gates_faster_by_q10() -> None:
    x = constant(0, 2, 0.02)
    start = HodgkinHuxleyNeuron().init_state((1,), dtype=torch.float64)
    start["voltage"] = start["voltage"] + 20
    # Capacitance and conductances scaled alike leave the speed of the potential; scaled by phi it
    # is time itself that runs faster.
    warm = HodgkinHuxleyNeuron(temperature=16.3).simulate(x, 0.02 / 3, state=start)
    cold = HodgkinHuxleyNeuron(C_m=3.0).simulate(x, 0.02, state=start)
    torch.testing.assert_close(warm.voltage, cold.voltage, rtol=1e-12, atol=0)


def test_a_spike_is_one_upward_crossing() -> None:
    trace = HodgkinHuxleyNeuron()(constant(10, 25, 0.05), 0.05)
    v = torch.cat([torch.tensor([-65.0], dtype=torch.float64), trace.voltage])
    assert trace.spikes.equal(((v[:-1] < 0) & (v[1:] >= 0)).to(torch.float64))
    assert trace.spikes.sum().item() == 2


def test_a_potential_on_the_threshold_has_crossed_it() -> None:
    neuron = HodgkinHuxleyNeuron()
    old, new = torch.tensor([-1.0, 0.0, -1.0]), torch.tensor([0.0, 1.0, -0.5], requires_grad=True)
    found = neuron._crossed(old, new, torch.tensor(0.0))
    assert found.tolist() == [1.0, 0.0, 0.0]
    (slope,) = torch.autograd.grad(found.sum(), new)
    assert slope.tolist() == pytest.approx([1.0, 0.0, (1 + 12.5) ** -2])


@pytest.mark.parametrize("integrator", ["strang", "exponential_euler", "rk4"])
def test_a_run_in_two_parts_is_one_run_bit_for_bit(integrator: str) -> None:
    neuron = HodgkinHuxleyNeuron(
        torch.tensor([110.0, 120.0], dtype=torch.float64), integrator=integrator
    )
    x = torch.linspace(5, 20, 100, dtype=torch.float64)[:, None].expand(100, 2)
    whole, first = neuron.simulate(x), neuron.simulate(x[:41])
    second = neuron.simulate(x[41:], state=first.final_state)
    assert torch.cat([first.spikes, second.spikes]).equal(whole.spikes)
    for name, value in whole.states.items():
        assert torch.cat([first.states[name], second.states[name]]).equal(value)


def final_voltage(g_Na: torch.Tensor, integrator: str, n: int = 300) -> torch.Tensor:
    x = torch.full((n, g_Na.shape[-1]), 10.0, dtype=torch.float64)
    return HodgkinHuxleyNeuron(g_Na, integrator=integrator)(x, 0.05).voltage[-1]


@pytest.mark.parametrize("integrator", ["strang", "exponential_euler"])
def test_the_gradient_in_a_conductance_is_that_of_finite_differences(integrator: str) -> None:
    # 15 ms with a spike; both sides of the difference are units of one run.
    g = torch.tensor([120.0], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(final_voltage(g, integrator).sum(), g)
    with torch.no_grad():
        sides = final_voltage(
            torch.tensor([120 + 1e-3, 120 - 1e-3], dtype=torch.float64), integrator
        )
    assert float(found) == pytest.approx(float(sides[0] - sides[1]) / 2e-3, rel=1e-5)


def test_every_number_is_reached_by_gradients() -> None:
    names = (
        "g_Na", "g_K", "g_L", "E_Na", "E_K", "E_L", "C_m", "temperature", "q10", "spike_threshold",
    )  # fmt: skip
    neuron = HodgkinHuxleyNeuron(learnable=names, temperature=8.0, surrogate="atan", slope=None)
    out = neuron(constant(10, 5, 0.05), 0.05)
    grads = torch.autograd.grad(out.spikes.sum() + out.voltage[-1], list(neuron.parameters()))
    assert all(bool(torch.isfinite(grad)) and float(grad) != 0 for grad in grads)


def test_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="g_Na must be at least 0, got -1"):
        HodgkinHuxleyNeuron(-1.0)
    with pytest.raises(ValueError, match="g_L must be positive, got 0"):
        HodgkinHuxleyNeuron(g_L=0.0)
    with pytest.raises(ValueError, match="integrator must be one of 'strang', 'exponential_euler'"):
        HodgkinHuxleyNeuron(integrator="euler")
