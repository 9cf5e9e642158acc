"""Fitting conductances by Levenberg and Marquardt's method beside Adam, on one recording."""

from collections.abc import Callable

import torch

from neuros_mechint.biophysical import HodgkinHuxleyNeuron, fit_neuron

TRUE = {"g_Na": 120.0, "g_K": 36.0, "g_L": 0.3}


def test_conductances_of_a_fifth_off(report: Callable[..., None]) -> None:
    """30 ms with two spikes at dt 0.1 ms, from conductances 20 % low, high and high."""
    current = torch.full((300,), 10.0, dtype=torch.float64)
    target = HodgkinHuxleyNeuron()(current, 0.1).voltage
    errors = []
    for method, steps in (("lm", 20), ("adam", 60)):
        start = HodgkinHuxleyNeuron(0.8 * 120, 1.2 * 36, 1.2 * 0.3)
        fit = fit_neuron(start, current, target, dt=0.1, steps=steps, method=method)
        worst = max(abs(float(getattr(fit.neuron, k)) / v - 1) for k, v in TRUE.items())
        errors.append(max(worst, 1e-6))
        print(f"{method}: {fit.history.numel() - 1} iterations, worst error {worst:.1e}")
    assert errors[0] < 1e-3
    what = "HH conductances 20 % off, 20 iterations of LM, worst error left"
    report(what, f"Adam, 60 iterations, torch {torch.__version__}", errors[1] / errors[0], 1000.0)
