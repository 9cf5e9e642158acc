import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_mechint.biophysical.quadratic_if import QuadraticIFNeuron as Neuron
from neuros_mechint.biophysical.quadratic_if import _map, _passage

RHEOBASE = 2.25  # a (v_crit - v_rest)^2 / 4
HIGH, LOW = 87.5, -12.5  # peak and reset from the middle between rest and critical potential


def double(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def period(J: float) -> float:
    """Time from reset to peak, ms, in closed form."""
    s = math.sqrt(0.04 / J)
    return 10 / math.sqrt(0.04 * J) * (math.atan(HIGH * s) - math.atan(LOW * s))


# Slow: 200 spikes of two neurons at a fine step, one step after the other.
@pytest.mark.slow
@pytest.mark.parametrize(("dt", "bar"), [(1.0, 1e-3), (0.1, 1e-4)])
def test_the_mean_interval_is_the_closed_form_at_any_step(dt: float, bar: float) -> None:
    J = torch.tensor([130.0, 150.0], dtype=torch.float64)
    n = round(203 * period(130.0) / dt)
    spikes = Neuron()((RHEOBASE + J).expand(n, 2), dt).spikes
    for k, each in enumerate(J.tolist()):
        at = spikes[:, k].nonzero().flatten()[:201]
        mean = float(at[-1] - at[0]) * dt / 200
        assert mean == pytest.approx(period(each), rel=bar)


def test_the_first_spike_and_the_potential_after_it_are_exact() -> None:
    # From rest at -65, 7.5 below the middle; the spike falls inside step 3.
    J, dt = 900.0, 1.0
    q = math.sqrt(J / 0.04)
    first = 10 / (0.04 * q) * (math.atan(HIGH / q) - math.atan(-7.5 / q))
    trace = Neuron()(double(RHEOBASE + J).expand(6), dt)
    k = math.floor(first / dt)
    assert trace.spikes.nonzero().flatten()[0] == k
    angle = 0.04 * q / 10 * ((k + 1) * dt - first)
    after = q * math.tan(angle + math.atan(LOW / q)) - 57.5
    assert float(trace.voltage[k]) == pytest.approx(after, rel=1e-12)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(
    drive=st.floats(-40, 40), start=st.floats(-120, 25), part=st.sampled_from([2, 5, 7]),
)  # fmt: skip
def test_potentials_do_not_depend_on_the_step(drive: float, start: float, part: int) -> None:
    state = {"voltage": torch.full((1,), start, dtype=torch.float64)}
    x = torch.full((4, 1), drive, dtype=torch.float64)
    coarse = Neuron().simulate(x, 1.4, state=state)
    fine = Neuron().simulate(x.repeat_interleave(part, 0), 1.4 / part, state=state)
    torch.testing.assert_close(coarse.voltage, fine.voltage[part - 1 :: part], rtol=1e-8, atol=1e-8)
    assert coarse.spikes[:, 0].equal(fine.spikes[:, 0].reshape(-1, part).sum(-1))


def test_above_one_spike_per_step_the_rate_saturates_at_one_per_step() -> None:
    J = 3000.0
    assert period(J) < 0.4
    trace = Neuron()(double(RHEOBASE + J).expand(50), 1.0)
    assert trace.spikes.sum() == 50
    assert float(trace.voltage.max()) <= 30


def test_the_rheobase_parts_rest_from_firing() -> None:
    neuron = Neuron(tau=5.0, a=torch.tensor([0.02, 0.1], dtype=torch.float64), resistance=2.0)
    rheobase = neuron.rheobase()
    torch.testing.assert_close(rheobase * 2 / neuron.a, double(56.25).expand(2))
    # Passing the middle takes pi tau / sqrt(a J) ms, about 50 and 22 steps here.
    for part, fires in ((0.98, False), (1.02, True)):
        spikes = neuron((part * rheobase).expand(120, 2), 10.0).spikes
        assert bool((spikes.sum(0) > 0).all()) is fires
        assert bool((spikes.sum(0) > 0).any()) is fires


def place(x: torch.Tensor, k: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    c, s, _ = _map(k, time)
    return (x * c + k * s) / (c - x * s)


def test_the_flow_solves_its_equation() -> None:
    # d/dt of the map is x^2 + k on both sides of k = 0 and of the border of the series.
    k = torch.tensor([-9.0, -0.3, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 0.3, 9.0], dtype=torch.float64)
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    time = torch.full((5, 9), 0.1, dtype=torch.float64, requires_grad=True)
    at = place(x, k, time)
    (speed,) = torch.autograd.grad(at.sum(), time)
    torch.testing.assert_close(speed, at.detach().square() + k, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(place(x, k, 0 * time), x + 0 * k, rtol=0, atol=0)


def test_a_passage_ends_at_the_peak() -> None:
    k = torch.tensor([-9.0, -2e-3, -1e-12, 0.0, 1e-12, 2e-3, 9.0, 400.0], dtype=torch.float64)
    for x in (3.2, 20.0, 80.0):
        start, within = torch.full_like(k, x), torch.full_like(k, 0.5)
        time = _passage(start, torch.full_like(k, HIGH), k, within)
        inside = time < within
        assert int(inside.sum()) >= 7
        end = place(start[inside], k[inside], time[inside])
        torch.testing.assert_close(end, torch.full_like(end, HIGH))


@pytest.mark.parametrize("quantity", ["voltage", "gradient"])
def test_it_is_smooth_across_rheobase(quantity: str) -> None:
    # J from -1e-2 to 1e-2 crosses both forms of the map and the series between them.
    J = torch.linspace(-1e-2, 1e-2, 401, dtype=torch.float64)
    drive = (RHEOBASE + J).requires_grad_()
    state = {"voltage": torch.full((401,), -40.0, dtype=torch.float64)}
    v = Neuron().simulate(drive.expand(4, 401), 7.0, state=state).voltage
    (slope,) = torch.autograd.grad(v[-1].sum(), drive)
    value = v[-1].detach() if quantity == "voltage" else slope
    # Third differences of a smooth function of this range are rounding alone.
    assert float(value.diff(n=3).abs().max()) < 1e-7 * float(value.abs().max())


def end(x: torch.Tensor, numbers: torch.Tensor, detach: bool) -> torch.Tensor:
    names = ("tau", "a", "v_rest", "v_crit", "v_reset", "v_peak", "resistance")
    neuron = Neuron(**dict(zip(names, numbers, strict=True)), detach_reset=detach)
    return neuron(x, 1.5).voltage


def test_the_gradient_through_spikes_is_that_of_finite_differences() -> None:
    # Two spikes fall in the run: their times move with every number, and so does what follows.
    numbers = torch.tensor([9.0, 0.05, -64, -51, -69, 29, 1.1], dtype=torch.float64)
    x = torch.linspace(60, 90, 12, dtype=torch.float64)
    assert int((end(x, numbers, True).diff() < -20).sum()) == 2
    for each in (x, numbers):
        each.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, p: end(x, p, True), (x, numbers), eps=1e-7)


def test_below_rheobase_the_gradient_is_that_of_finite_differences() -> None:
    numbers = torch.tensor([9.0, 0.05, -64, -51, -69, 29, 1.1], dtype=torch.float64)
    x = torch.tensor([-30.0, 1.0, 0.5, 2.0], dtype=torch.float64)
    for each in (x, numbers):
        each.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, p: end(x, p, True), (x, numbers))


@pytest.mark.parametrize("detach", [True, False])
def test_every_number_is_reached_by_gradients(detach: bool) -> None:
    names = ("tau", "a", "v_rest", "v_crit", "v_reset", "v_peak", "resistance")
    neuron = Neuron(learnable=names, detach_reset=detach)
    out = neuron(torch.full((40, 2), 60.0, dtype=torch.float64))
    assert float(out.spikes.detach().sum()) > 2
    for loss in (out.spikes.sum(), out.voltage.sum()):
        grads = torch.autograd.grad(loss, list(neuron.parameters()), retain_graph=True)
        assert all(bool(torch.isfinite(grad)) and float(grad) != 0 for grad in grads)


def test_a_reset_that_is_not_detached_sees_the_height_of_the_jump() -> None:
    # One step from just above the peak: y = cut after + (1 - cut) before.
    grads = {}
    for detach in (True, False):
        x = torch.tensor([400.0], dtype=torch.float64, requires_grad=True)
        state = {"voltage": torch.tensor([20.0], dtype=torch.float64)}
        fired, new = Neuron(detach_reset=detach, surrogate="straight_through").step(x, state, 1.0)
        assert float(fired.detach()) == 1
        (flow,) = torch.autograd.grad(new["voltage"], x, retain_graph=True)
        (height,) = torch.autograd.grad(fired, x)
        grads[detach] = (float(flow), float(height), float(new["voltage"].detach()))
    jump = grads[True][2] - 30.0
    assert grads[False][0] == pytest.approx(grads[True][0] + jump * grads[True][1], rel=1e-12)
    assert grads[False][0] != pytest.approx(grads[True][0], rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_input_leaves_everything_finite(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(60, 8, generator=generator, dtype=dtype) * 2 - 1) * 1e4
    x[:, 0], x[:, 1], x[:, 2], x[:, 3] = 1e6, -1e6, RHEOBASE, RHEOBASE + 1e-7
    x.requires_grad_()
    for dt in (0.01, 1.0, 20.0):
        trace = Neuron(detach_reset=False).simulate(x, dt)
        (grad,) = torch.autograd.grad(trace.voltage.sum() + trace.spikes.sum(), x)
        assert bool(torch.isfinite(trace.voltage).all())
        assert bool(torch.isfinite(grad).all())
        assert set(trace.spikes.detach().unique().tolist()) <= {0.0, 1.0}


def test_a_run_in_two_parts_is_one_run_bit_for_bit() -> None:
    neuron = Neuron(tau=torch.tensor([6.0, 10.0], dtype=torch.float64))
    x = torch.linspace(-5, 200, 80, dtype=torch.float64)[:, None].expand(80, 2)
    whole, first = neuron.simulate(x), neuron.simulate(x[:31])
    second = neuron.simulate(x[31:], state=first.final_state)
    assert float(second.spikes.sum()) > 0
    assert torch.cat([first.spikes, second.spikes]).equal(whole.spikes)
    assert torch.cat([first.voltage, second.voltage]).equal(whole.voltage)


def test_a_sweep_of_parameters_is_one_call() -> None:
    x = torch.full((30, 2), 30.0, dtype=torch.float64)
    taus = torch.tensor([[4.0], [9.0], [31.0]], dtype=torch.float64)
    swept = Neuron(tau=taus)(x)
    assert swept.spikes.shape == (3, 30, 2)
    for k, tau in enumerate(taus.flatten().tolist()):
        single = Neuron(tau=tau)(x)
        assert swept.spikes[k].equal(single.spikes)
        torch.testing.assert_close(swept.voltage[k], single.voltage, rtol=1e-12, atol=1e-12)


def test_a_step_passes_through_vmap() -> None:
    neuron = Neuron()
    state, x = neuron.init_state((4,)), torch.tensor([-9.0, 2.25, 90.0, 1e4])
    plain = neuron.step(x, state, 1.0)
    fired, new = torch.func.vmap(lambda row, held: neuron.step(row, held, 1.0))(x, state)
    assert fired.equal(plain[0])
    assert fired.tolist() == [0, 0, 0, 1]
    assert new["voltage"].equal(plain[1]["voltage"])


def test_a_neuron_at_rest_stays_there() -> None:
    trace = Neuron()(torch.zeros(20, dtype=torch.float64), 3.0)
    torch.testing.assert_close(trace.voltage, double(-65.0).expand(20), rtol=1e-12, atol=0)


def test_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="tau must be positive, got 0"):
        Neuron(tau=0.0)
    with pytest.raises(ValueError, match=r"a must be positive, got -0\.1"):
        Neuron(a=-0.1)
    with pytest.raises(ValueError, match=r"v_reset must be below v_peak, got 30\.0 and 30\.0"):
        Neuron(v_reset=30.0)
