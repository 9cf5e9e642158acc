"""Surrogate gradients and spikes beside snntorch and spikingjelly."""

import math
import warnings

import pytest
import torch

from neuros_mechint.biophysical import LeakyIntegrateFireNeuron, spike

pytestmark = pytest.mark.oracle


def snntorch():
    return pytest.importorskip("snntorch")


def spikingjelly():
    pytest.importorskip("spikingjelly")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from spikingjelly.activation_based import functional, neuron, surrogate

    return functional, neuron, surrogate


def slope_of(fire, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(fire(x).sum(), x)
    return found


DISTANCES = torch.linspace(-2.0, 2.0, 1601)


@pytest.mark.parametrize(
    ("kind", "slope"),
    [
        ("fast_sigmoid", 25.0),
        ("fast_sigmoid", 5.0),
        ("sigmoid", 25.0),
        ("atan", 2.0),
        ("atan", 7.0),
    ],
)
def test_surrogates_are_those_of_snntorch(kind: str, slope: float) -> None:
    theirs = getattr(snntorch().surrogate, kind)(slope)
    found = slope_of(lambda x: spike(x, kind, slope), DISTANCES)
    torch.testing.assert_close(found, slope_of(theirs, DISTANCES), rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize(
    ("kind", "name", "slope"), [("sigmoid", "Sigmoid", 4.0), ("atan", "ATan", 2.0)]
)
def test_surrogates_are_those_of_spikingjelly(kind: str, name: str, slope: float) -> None:
    _, _, surrogate = spikingjelly()
    theirs, x = getattr(surrogate, name)(alpha=slope), DISTANCES.double()
    found = slope_of(lambda x: spike(x, kind, slope), x)
    # In float64: its sigmoid loses the digits of 1 - sigmoid, three of them here in float32.
    torch.testing.assert_close(found, slope_of(theirs, x), rtol=1e-12, atol=0)


def drive() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(200, 50, generator=generator, dtype=torch.float64) * 2 + 1


@pytest.mark.parametrize("tau", [5.0, 20.0])
def test_spikes_and_potentials_are_those_of_snntorch(tau: float) -> None:
    x, beta = drive(), math.exp(-1 / tau)
    # Its reset is that of the spike before, one step late, unless told otherwise.
    cell = snntorch().Leaky(beta=beta, reset_mechanism="zero", reset_delay=False)
    v, spikes, potentials = torch.zeros(50, dtype=torch.float64), [], []
    for row in x:
        fired, v = cell((1 - beta) * row, v)
        spikes.append(fired)
        potentials.append(v)
    ours = LeakyIntegrateFireNeuron(tau)(x)
    assert ours.spikes.equal(torch.stack(spikes).to(torch.float64))
    # Its decay is kept in float32.
    torch.testing.assert_close(ours.voltage, torch.stack(potentials), rtol=0, atol=1e-6)


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_spikes_and_potentials_are_those_of_spikingjelly(reset: str) -> None:
    functional, neuron, surrogate = spikingjelly()
    # Its step is of Euler: the time constant that decays as much in one step.
    x, tau = drive(), 8.0
    node = neuron.LIFNode(
        tau=1 / -math.expm1(-1 / tau), v_reset=0.0 if reset == "hard" else None, step_mode="m",
        store_v_seq=True, surrogate_function=surrogate.Sigmoid(),
    )  # fmt: skip
    functional.reset_net(node)
    theirs = node(x)
    ours = LeakyIntegrateFireNeuron(tau, reset=reset)(x)
    assert ours.spikes.equal(theirs)
    torch.testing.assert_close(ours.voltage, node.v_seq, rtol=0, atol=1e-10)
