"""Whole brains beside The Virtual Brain, and the price of a gradient."""

import importlib
import time
import warnings

import numpy as np
import pytest
import torch

from neuros_mechint.multiscale import VirtualBrainInterface

# The peer's own dependencies.
pytestmark = pytest.mark.filterwarnings("ignore")

N_SETS, N_REGIONS = 128, 76
MEMORY = "a step is bound by memory, which other work on the machine shares"


def brain() -> VirtualBrainInterface:
    return VirtualBrainInterface(
        "random", n_regions=N_REGIONS, generator=torch.Generator().manual_seed(0)
    )


def gains(n: int, *, grad: bool = False) -> torch.Tensor:
    return torch.linspace(3.0, 3.5, n).requires_grad_(grad)


def simulated(made: VirtualBrainInterface, duration: float, A: torch.Tensor | float):
    return made.simulate(
        duration, params={"A": A}, coupling_strength=10.0, tr=10.0,
        initial_state=torch.zeros(6, N_REGIONS),
    )  # fmt: skip


def test_a_simulated_second_of_jansen_and_rit(shortest, report) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("tvb")
        lab = importlib.import_module("tvb.simulator.lab")
    made = brain()
    found = made.connectivity
    conn = lab.connectivity.Connectivity(
        weights=found.weights.numpy(), tract_lengths=found.tract_lengths.numpy(),
        centres=found.centres.numpy(), region_labels=np.array(found.labels), speed=np.array([3.0]),
    )  # fmt: skip
    theirs = lab.simulator.Simulator(
        model=lab.models.JansenRit(), connectivity=conn,
        coupling=lab.coupling.SigmoidalJansenRit(a=np.array([10.0])),
        integrator=lab.integrators.HeunDeterministic(dt=1.0), monitors=(lab.monitors.Raw(),),
    ).configure()  # fmt: skip
    sweep, single, peer = shortest(
        lambda: simulated(made, 1.0, gains(N_SETS)),
        lambda: simulated(made, 1.0, 3.25),
        lambda: theirs.run(simulation_length=1000.0),
        rounds=7,
    )
    what, name = f"Jansen-Rit, {N_REGIONS} regions, 1 s", "The Virtual Brain 2.10"
    report(f"{what}, {N_SETS} sets, per set", name, N_SETS * peer / sweep, 35.0, MEMORY)
    report(f"{what}, one set", name, peer / single, 0.5)


def test_the_way_back(report) -> None:
    made = brain()

    def timed(*, grad: bool) -> float:
        A = gains(N_SETS, grad=grad)
        start = time.perf_counter()
        found = simulated(made, 0.2, A)
        if grad:
            found["lfp"].mean().backward()
        return time.perf_counter() - start

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    both = [(timed(grad=False), timed(grad=True)) for _ in range(10)]
    torch.set_num_threads(n_threads)
    forward, back = (min(side) for side in zip(*both[1:], strict=True))
    # Forward and backward may take the time of four runs forward.
    report(
        f"whole brain, gradient of {N_SETS} sets", "4 runs forward", 4 * forward / back, 1.0, MEMORY
    )
