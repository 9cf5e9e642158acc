import functools

import pytest
import torch

from neuros_mechint.biophysical._neuron import BiophysicalNeuronBase
from neuros_mechint.biophysical.adex import AdExNeuron
from neuros_mechint.biophysical.fit import FitResult, _check, fit_neuron
from neuros_mechint.biophysical.hodgkin_huxley import HodgkinHuxleyNeuron
from neuros_mechint.biophysical.izhikevich import IzhikevichNeuron
from neuros_mechint.biophysical.lif import LeakyIntegrateFireNeuron
from neuros_mechint.biophysical.quadratic_if import QuadraticIFNeuron

TRUE = {"g_Na": 120.0, "g_K": 36.0, "g_L": 0.3}


@functools.cache
def recording() -> tuple[torch.Tensor, torch.Tensor]:
    """Input and potential of 30 ms, with two spikes."""
    current = torch.full((300,), 10.0, dtype=torch.float64)
    out = HodgkinHuxleyNeuron()(current, 0.1)
    assert out.spikes.sum() == 2
    return current, out.voltage


def error(neuron: BiophysicalNeuronBase, true: dict[str, float]) -> float:
    return max(abs(float(getattr(neuron, name)) / value - 1) for name, value in true.items())


# Slow: each iteration is a run of 300 steps, and there are about seven.
@pytest.mark.slow
@pytest.mark.parametrize("factors", [(0.8, 1.2, 1.2), (1.2, 0.8, 1.2)])
def test_conductances_a_fifth_off_are_recovered(factors: tuple[float, ...]) -> None:
    current, target = recording()
    start = {name: v * f for (name, v), f in zip(TRUE.items(), factors, strict=True)}
    neuron = HodgkinHuxleyNeuron(**start)
    fit = fit_neuron(neuron, current, target, dt=0.1, steps=20)
    assert error(fit.neuron, TRUE) < 1e-6
    assert fit.history.numel() - 1 <= 12
    assert bool((fit.history.diff() <= 0).all())
    assert fit.loss.equal(fit.history[-1])
    assert error(neuron, start) == 0
    out = fit.neuron(current, 0.1).voltage
    assert float((out - target).square().mean()) == pytest.approx(float(fit.loss), abs=1e-12)


CASES = [
    (LeakyIntegrateFireNeuron, {"tau_mem": 10.0, "resistance": 1.0}, 1.8, 0.1, 300),
    (QuadraticIFNeuron, {"tau": 10.0, "resistance": 1.0}, 40.0, 0.5, 60),
    (AdExNeuron, {"C": 281.0, "g_L": 30.0}, 1500.0, 0.25, 80),
    (IzhikevichNeuron, {"b": 0.2, "d": 8.0}, 14.0, 0.25, 160),
]


# Slow: the most nonlinear of them take some fifteen runs over time each.
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "true", "drive", "dt", "n"), CASES)
def test_numbers_of_every_neuron_are_recovered(
    kind: type[BiophysicalNeuronBase], true: dict[str, float], drive: float, dt: float, n: int
) -> None:
    current = torch.full((n,), drive, dtype=torch.float64)
    out = kind(**true)(current, dt)
    assert out.spikes.sum() >= 2
    for factors in ((0.8, 1.2), (1.2, 0.8)):
        start = {name: v * f for (name, v), f in zip(true.items(), factors, strict=True)}
        fit = fit_neuron(kind(**start), current, out.voltage, params=tuple(true), dt=dt, steps=20)
        assert error(fit.neuron, true) < 1e-3


def subthreshold(**numbers: float) -> tuple[torch.Tensor, torch.Tensor, LeakyIntegrateFireNeuron]:
    generator = torch.Generator().manual_seed(1)
    current = torch.rand(80, generator=generator, dtype=torch.float64)
    neuron = LeakyIntegrateFireNeuron(**numbers)
    return current, neuron(current, 0.5).voltage, neuron


def test_adam_comes_close_where_nothing_spikes() -> None:
    current, target, _ = subthreshold()
    start = LeakyIntegrateFireNeuron(8.0, resistance=1.2)
    fit = fit_neuron(
        start, current, target, params=("tau_mem", "resistance"), dt=0.5, steps=120, method="adam"
    )
    assert error(fit.neuron, {"tau_mem": 10.0, "resistance": 1.0}) < 0.05
    assert fit.history.numel() == 121
    assert bool((fit.history.diff() <= 0).all())
    assert float(fit.loss) < 1e-3 * float(fit.history[0])


def test_a_negative_number_keeps_its_sign() -> None:
    current, target, _ = subthreshold(v_rest=-0.5)
    start = LeakyIntegrateFireNeuron(v_rest=-0.8)
    fit = fit_neuron(start, current, target, params=("v_rest",), dt=0.5)
    assert float(fit.neuron.v_rest) == pytest.approx(-0.5, rel=1e-8)


def test_each_unit_may_have_its_own_number_and_channels_their_batch() -> None:
    true = torch.tensor([6.0, 14.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    current = torch.rand(3, 60, 2, generator=generator, dtype=torch.float64)
    target = LeakyIntegrateFireNeuron(true)(current, 0.5).voltage
    start = LeakyIntegrateFireNeuron(torch.nn.Parameter(torch.tensor([9.0, 9.0])), learnable=())
    fit = fit_neuron(start, current, target, params=("tau_mem", "resistance"), dt=0.5)
    assert isinstance(fit, FitResult)
    # The numbers keep their dtype and stay parameters.
    assert isinstance(fit.neuron.tau_mem, torch.nn.Parameter)
    torch.testing.assert_close(fit.neuron.tau_mem.detach(), true.float())
    assert start.tau_mem.tolist() == [9.0, 9.0]


def test_a_fit_of_single_precision_is_computed_in_double() -> None:
    current, target, _ = subthreshold(resistance=1.3)
    fit = fit_neuron(
        LeakyIntegrateFireNeuron(), current.float(), target.float(), params=("resistance",), dt=0.5
    )
    assert fit.loss.dtype == torch.float64
    assert float(fit.neuron.resistance) == pytest.approx(1.3, rel=1e-5)


@pytest.mark.parametrize("method", ["lm", "adam"])
def test_bounds_are_kept(method: str) -> None:
    current, target, _ = subthreshold(resistance=1.3)
    fit = fit_neuron(
        LeakyIntegrateFireNeuron(), current, target, params=("resistance", "tau_mem"), dt=0.5,
        bounds={"resistance": (0.9, 1.1)}, method=method, steps=30,
    )  # fmt: skip
    assert float(fit.neuron.resistance) == pytest.approx(1.1, rel=1e-9)


def test_several_starts_run_together_and_the_best_is_kept() -> None:
    current, target, _ = subthreshold(tau_mem=30.0)
    draw = torch.Generator().manual_seed(0)
    fits = [
        fit_neuron(
            LeakyIntegrateFireNeuron(2.0), current, target, params=("tau_mem",), dt=0.5, steps=1,
            n_starts=n, generator=draw, bounds={"tau_mem": (1.0, 60.0)},
        )
        for n in (1, 20)
    ]  # fmt: skip
    assert float(fits[1].loss) < 0.1 * float(fits[0].loss)


def test_starts_come_from_the_generator_alone() -> None:
    current, target, _ = subthreshold(tau_mem=30.0)

    def once() -> FitResult:
        return fit_neuron(
            LeakyIntegrateFireNeuron(2.0), current, target, params=("tau_mem",), dt=0.5, steps=1,
            n_starts=3, generator=torch.Generator().manual_seed(4),
        )  # fmt: skip

    state = torch.get_rng_state()
    assert once().history.equal(once().history)
    assert torch.get_rng_state().equal(state)


def test_a_number_without_effect_stays_where_it_is() -> None:
    current, target, _ = subthreshold(resistance=1.3)
    fit = fit_neuron(
        LeakyIntegrateFireNeuron(v_threshold=5.0), current, target,
        params=("resistance", "v_threshold"), dt=0.5,
    )  # fmt: skip
    assert float(fit.neuron.v_threshold) == pytest.approx(5.0, rel=1e-9)
    assert float(fit.neuron.resistance) == pytest.approx(1.3, rel=1e-9)


def test_noise_leaves_a_fit_as_good_as_the_truth() -> None:
    current, target, true = subthreshold()
    generator = torch.Generator().manual_seed(3)
    noisy = target + 0.02 * torch.randn(80, generator=generator, dtype=torch.float64)
    fit = fit_neuron(
        LeakyIntegrateFireNeuron(8.0, resistance=1.2), current, noisy,
        params=("tau_mem", "resistance"), dt=0.5,
    )  # fmt: skip
    assert float(fit.loss) <= float((true(current, 0.5).voltage - noisy).square().mean())


def test_numbers_with_a_graph_are_copied() -> None:
    current, target, _ = subthreshold()
    drive = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    neuron = LeakyIntegrateFireNeuron(resistance=drive.exp())
    fit = fit_neuron(neuron, current, target, params=("resistance",), dt=0.5)
    assert float(fit.neuron.resistance) == pytest.approx(1.0, rel=1e-9)
    assert not fit.neuron.resistance.requires_grad


def test_arguments_that_cannot_be_are_refused() -> None:
    x = torch.ones(20, dtype=torch.float64)
    lif = LeakyIntegrateFireNeuron()

    def fit(
        current: torch.Tensor = x,
        target: torch.Tensor = x,
        params: tuple[str, ...] = ("tau_mem",),
        dt: float = 1.0,
        **more: object,
    ) -> FitResult:
        return fit_neuron(lif, current, target, params=params, dt=dt, **more)

    with pytest.raises(TypeError, match="neuron must be a BiophysicalNeuronBase, got Linear"):
        _check(torch.nn.Linear(1, 1), x, x, 1.0)
    with pytest.raises(TypeError, match=r"current must be a floating tensor, got torch\.int64"):
        fit(current=torch.ones(20, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"target_voltage must be a floating tensor, got torch\.i"):
        fit(target=torch.ones(20, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"alike and not empty, got shapes \(20,\) and \(19,\)"):
        fit(target=x[1:])
    with pytest.raises(ValueError, match="alike and not empty"):
        fit(current=x[:0], target=x[:0])
    with pytest.raises(ValueError, match="target_voltage holds NaN or inf; leave those"):
        fit(target=x * torch.nan)
    with pytest.raises(ValueError, match="dt must be positive and finite, in ms, got 0"):
        fit(dt=0.0)
    with pytest.raises(ValueError, match="params names 'g_Na', 'g_K'; the numbers of LeakyIntegr"):
        fit(params=("g_Na", "g_K"))
    with pytest.raises(ValueError, match="params names nothing; the numbers of Leaky"):
        fit(params=())
    with pytest.raises(ValueError, match="v_rest is 0, which has no logarithm"):
        fit(params=("v_rest",))
    with pytest.raises(ValueError, match="method must be one of 'lm', 'adam', got 'sgd'"):
        fit(method="sgd")
    for name in ("steps", "n_starts"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            fit(**{name: 0})
    with pytest.raises(ValueError, match="a name in bounds must be one of 'tau_mem', got 'v_rest'"):
        fit(bounds={"v_rest": (1.0, 2.0)})
    for ends in ((11.0, 20.0), (-1.0, 20.0), (20.0, 1.0)):
        with pytest.raises(ValueError, match="bounds of tau_mem must hold the number to begin"):
            fit(bounds={"tau_mem": ends})
