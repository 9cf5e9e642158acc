import subprocess
import sys

import pytest
import torch

from neuros_mechint.biophysical._arguments import floating
from neuros_mechint.biophysical.lif import LeakyIntegrateFireNeuron as Neuron


def test_one_unit_comes_back_without_a_unit_axis() -> None:
    trace = Neuron().simulate(torch.full((9,), 2.0))
    assert trace.spikes.shape == trace.voltage.shape == trace.states["voltage"].shape == (9,)
    assert trace.final_state["voltage"].shape == (1,)


def test_a_sweep_of_parameters_is_one_call() -> None:
    x = torch.full((50, 2), 2.0, dtype=torch.float64)
    taus = torch.tensor([[4.0], [9.0], [31.0]], dtype=torch.float64)
    swept = Neuron(taus)(x)
    assert swept.spikes.shape == (3, 50, 2)
    for k, tau in enumerate(taus.flatten().tolist()):
        single = Neuron(tau)(x)
        assert swept.spikes[k].equal(single.spikes)
        torch.testing.assert_close(swept.voltage[k], single.voltage, rtol=1e-12, atol=1e-12)
    assert Neuron(taus[:, 0])(x[:, 0]).spikes.shape == (50, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_output_has_the_dtype_of_the_input(dtype: torch.dtype) -> None:
    neuron = Neuron()
    out = neuron(torch.full((50, 2), 2.0, dtype=dtype))
    assert out.spikes.dtype == out.voltage.dtype == dtype
    assert out.spikes.equal(neuron(torch.full((50, 2), 2.0)).spikes.to(dtype))


def test_learnable_names_become_parameters_and_tensors_keep_their_graph() -> None:
    neuron = Neuron(learnable=("tau_mem", "v_threshold"))
    assert {name for name, _ in neuron.named_parameters()} == {"tau_mem", "v_threshold"}
    drive = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    out = Neuron(resistance=drive.exp(), v_threshold=100.0)(torch.ones(5, dtype=torch.float64))
    (slope,) = torch.autograd.grad(out.voltage[-1], drive)
    assert slope.item() == pytest.approx(out.voltage[-1].item())
    own = torch.nn.Parameter(torch.tensor(3.0))
    assert Neuron(own).tau_mem is own
    assert "tau_mem=10" in repr(neuron)
    assert "tau_mem=(2,)" in repr(Neuron(torch.ones(2)))


def test_steps_one_by_one_are_the_run() -> None:
    neuron = Neuron(v_rest=0.2, resistance=1.7, t_ref=2.0)
    x = torch.linspace(0, 4, 60, dtype=torch.float64).reshape(20, 3)
    state, rows = neuron.init_state((3,), dtype=torch.float64), []
    for row in x:
        fired, state = neuron.step(row, state, 1.0)
        rows.append(fired)
    trace = neuron.simulate(x)
    assert torch.stack(rows).equal(trace.spikes)
    assert state["voltage"].equal(trace.final_state["voltage"])


def test_a_step_passes_through_vmap() -> None:
    neuron = Neuron()
    state, x = neuron.init_state((4,)), torch.tensor([0.0, 5.0, 20.0, 30.0])
    plain = neuron.step(x, state, 1.0)
    fired, new = torch.func.vmap(lambda row, held: neuron.step(row, held, 1.0))(x, state)
    assert fired.equal(plain[0])
    assert new["voltage"].equal(plain[1]["voltage"])


COMPILED = """
import torch
from neuros_mechint.biophysical._arguments import floating
from neuros_mechint.biophysical.lif import LeakyIntegrateFireNeuron
neuron = LeakyIntegrateFireNeuron()
state, x = neuron.init_state((4,)), torch.tensor([0.0, 5.0, 20.0, 30.0], requires_grad=True)
grads = []
for step in (neuron.step, torch.compile(neuron.step, backend="eager", fullgraph=True)):
    fired, new = step(x, state, 1.0)
    grads.append(torch.autograd.grad((fired + new["voltage"]).sum(), x)[0])
assert fired.tolist() == [0.0, 0.0, 1.0, 1.0]
assert grads[0].equal(grads[1]) and float(grads[0].min()) > 0
"""


# Slow: a fresh interpreter, since the compiler cannot trace the shape checks of the tests.
@pytest.mark.slow
def test_a_step_passes_through_the_compiler() -> None:
    subprocess.run([sys.executable, "-c", COMPILED], check=True, timeout=120)


def test_inputs_that_cannot_be_are_refused() -> None:
    neuron, x = Neuron(), torch.zeros(4, 2)
    with pytest.raises(TypeError, match="input_current must be a floating tensor, got torch"):
        neuron(torch.zeros(4, dtype=torch.int64))
    for wrong in (torch.zeros(()), torch.zeros(0), torch.zeros(0, 3)):
        with pytest.raises(ValueError, match=r"input_current must be \(..., time >= 1, n\)"):
            neuron(wrong)
    with pytest.raises(ValueError, match="input_current holds NaN or inf"):
        neuron(torch.tensor([1.0, torch.inf]))
    for dt in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="dt must be positive and finite, in ms, got"):
            neuron(x, dt)
    with pytest.raises(ValueError, match="state must hold 'voltage', 'refractory', got 'v'"):
        neuron(x, state={"v": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"state\['voltage'\] of shape \(3,\) does not broadcast"):
        neuron(x, state={"voltage": torch.zeros(3), "refractory": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"tau_mem of shape \(3,\) does not broadcast"):
        Neuron(torch.ones(3))(x)


def test_what_is_no_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match="x must be a floating tensor, got list"):
        floating("x", [1.0])


def test_numbers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="learnable names 'tau'; the numbers here are 'tau_mem'"):
        Neuron(learnable=("tau",))
    with pytest.raises(TypeError, match="floating tensor, got torch"):
        Neuron(torch.tensor(3))
    with pytest.raises(ValueError, match="v_rest must be finite, got nan"):
        Neuron(v_rest=float("nan"))
    with pytest.raises(ValueError, match="surrogate must be one of"):
        Neuron(surrogate="step")
    with pytest.raises(ValueError, match="tau_mem must be positive, got -2"):
        Neuron(torch.tensor([1.0, -2.0], requires_grad=True))
