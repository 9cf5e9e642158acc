import importlib.util
import itertools

import numpy as np
import pytest
import torch

from neuros_mechint.biophysical._fused import use_fused
from neuros_mechint.biophysical._fused_lif import Back, Way, backward_kernel, forward_kernel
from neuros_mechint.biophysical._fused_slopes import SLOPES, slope_constants
from neuros_mechint.biophysical._lif_walk import FireAndReset, Rule
from neuros_mechint.biophysical.lif import LeakyIntegrateFireNeuron
from neuros_mechint.biophysical.surrogate import SURROGATES, default_slope, spike

NUMBERS = ("tau_mem", "v_threshold", "v_reset", "v_rest", "resistance")
CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * 2 + 1


@pytest.mark.parametrize("kind", SURROGATES)
def test_the_slope_of_a_number_is_the_surrogate_gradient(kind: str) -> None:
    assert set(SLOPES) == set(SURROGATES)
    x = torch.linspace(-1.3, 1.1, 25, dtype=torch.float64, requires_grad=True)
    for k in (default_slope(kind), 3.0):
        (expected,) = torch.autograd.grad(spike(x, kind, k).sum(), x)
        constants = (np.float64(c) for c in slope_constants(kind, k))
        one, constants = np.float64(1), tuple(constants)
        found = [float(SLOPES[kind](v, one, *constants)) for v in x.detach().numpy()]
        torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected)


CASES = list(itertools.product([False, True], repeat=5))


@pytest.mark.parametrize(("soft", "waits", "detached", "from_spikes", "from_voltage"), CASES)
def test_a_kernel_does_what_the_eager_walk_does(
    soft: bool, waits: bool, detached: bool, from_spikes: bool, from_voltage: bool
) -> None:
    x = noise(2, 14, 3)
    # Gains on both sides of 1/2, where the interpolation takes another form.
    gain = torch.tensor([[0.1, 0.3, 0.7], [0.2, 0.5, 0.9]], dtype=torch.float64)
    threshold, floor = torch.ones_like(gain), torch.full_like(gain, -0.2)
    left = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64) * waits
    pause = torch.full_like(gain, 2.0) * waits
    start = noise(2, 3, seed=2) * 0.2
    leaves = [y.clone().requires_grad_() for y in (x, start, gain, threshold, floor)]
    rule = Rule("soft" if soft else "hard", "fast_sigmoid", 3.0, detached)
    fired, v, counts = FireAndReset.apply(*leaves, left, pause, rule)
    to = [noise(14, 2, 3, seed=3), noise(14, 2, 3, seed=4)]
    given = [(y, g) for y, g, want in zip((fired, v), to, (from_spikes, from_voltage), strict=True)
             if want]  # fmt: skip
    expected = None
    if given:
        loss = sum((y * g).sum() for y, g in given)
        expected = torch.autograd.grad(loss, leaves)

    numbers = torch.stack([gain, threshold, floor, left, pause], 1).numpy()
    made = [np.empty((2, 14, 3)) for _ in range(3)]
    forward_kernel(Way(soft, waits))(x.numpy(), start.numpy(), numbers, tuple(made))
    assert made[0].sum() > 5
    np.testing.assert_array_equal(made[0], fired.detach().movedim(0, 1))
    np.testing.assert_allclose(made[1], v.detach().movedim(0, 1), rtol=0, atol=1e-14)
    if waits:
        np.testing.assert_array_equal(made[2], counts.movedim(0, 1))
    to_x, sums = np.empty((2, 14, 3)), np.empty((2, 4, 3))
    way = Back(soft, waits, detached, from_spikes, from_voltage)
    over_time = (x, *(torch.from_numpy(y) for y in made), *(g.movedim(0, 1) for g in to))
    backward_kernel(way, SLOPES["fast_sigmoid"])(
        tuple(y.contiguous().numpy() for y in over_time), start.numpy(), numbers,
        np.array([3.0, 0.0, 0.0]), (to_x, sums),
    )  # fmt: skip
    found = [to_x, *sums.swapaxes(0, 1)]
    for k, y in enumerate(found):
        wanted = np.zeros_like(y) if expected is None else expected[k].numpy()
        np.testing.assert_allclose(y, wanted, rtol=1e-10, atol=1e-12)


# Slow: two kernels are compiled.
@pytest.mark.slow
@pytest.mark.parametrize("which", ["both", "spikes"])
def test_fused_is_eager_through_the_compiler(which: str) -> None:
    pytest.importorskip("numba")
    tau = torch.tensor([[1.2], [9.0], [20.0]], dtype=torch.float64)
    x = noise(2, 1, 40, 4).requires_grad_()
    weight = noise(2, 3, 40, 4, seed=2)
    runs, grads = [], []
    for backend in ("eager", "fused"):
        neuron = LeakyIntegrateFireNeuron(
            tau, v_reset=-0.3, v_rest=0.1, resistance=1.3, t_ref=2.0, slope=3.0,
            detach_reset=False, learnable=NUMBERS, backend=backend,
        )  # fmt: skip
        run = neuron.simulate(x)
        loss = (run.spikes * weight).sum()
        if which == "both":
            loss = loss + (run.voltage * weight.cos()).sum() + run.final_state["voltage"].sum()
        runs.append(run)
        grads.append(torch.autograd.grad(loss, [x, *neuron.parameters()]))
    assert runs[0].spikes.equal(runs[1].spikes)
    assert float(runs[0].spikes.detach().sum()) > 20
    for name, value in runs[0].states.items():
        torch.testing.assert_close(runs[1].states[name], value, rtol=0, atol=1e-10)
    for found, expected in zip(grads[1], grads[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


# Slow: a kernel is compiled.
@pytest.mark.slow
def test_auto_takes_what_is_compiled_and_one_unit_runs_too() -> None:
    pytest.importorskip("numba")
    x, way = noise(60), Way(soft=True, waits=False)
    neuron = LeakyIntegrateFireNeuron(reset="soft", backend="fused")
    eager = LeakyIntegrateFireNeuron(reset="soft", backend="eager")
    fused = neuron.simulate(x)
    assert fused.spikes.shape == (60,)
    assert fused.spikes.equal(eager(x).spikes)
    torch.testing.assert_close(fused.voltage, eager(x).voltage, rtol=0, atol=1e-10)
    rest = neuron(x[23:], state=neuron.simulate(x[:23]).final_state)
    assert rest.spikes.equal(fused.spikes[23:])
    assert rest.voltage.equal(fused.voltage[23:])
    assert use_fused("auto", CPU, 10, way, torch.float64)
    assert not use_fused("auto", CPU, 10, way, torch.float32)


def test_auto_is_eager_where_compiling_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    way = Way(soft=True, waits=True)
    assert not use_fused("auto", CPU, 2**23 - 1, way, torch.float64)
    assert not use_fused("auto", torch.device("meta"), 2**23, way, torch.float64)
    assert not use_fused("eager", CPU, 2**23, way, torch.float64)
    assert use_fused("auto", CPU, 2**23, way, torch.float64) is (
        importlib.util.find_spec("numba") is not None
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert not use_fused("auto", CPU, 2**23, way, torch.float64)


def test_what_cannot_be_fused_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in ({"reset": "none"}, {"surrogate": torch.ones_like}):
        with pytest.raises(ValueError, match="backend='fused' needs reset='hard' or 'soft' and a"):
            LeakyIntegrateFireNeuron(backend="fused", **arguments)
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'eager', 'fused', got"):
        LeakyIntegrateFireNeuron(backend="cuda")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(
        RuntimeError, match=r"numba, which is not .* install neuros-mechint\[fast\]"
    ):
        LeakyIntegrateFireNeuron(backend="fused")(torch.ones(3))
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    with pytest.raises(RuntimeError, match="compiles for the CPU, got an input on meta"):
        use_fused("fused", torch.device("meta"), 1, Way(soft=True, waits=True), torch.float32)
