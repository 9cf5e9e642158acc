"""Whole brains beside The Virtual Brain."""

import math
import sys
import warnings

import pytest
import torch

from neuros_mechint.multiscale import VirtualBrainInterface

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("tvb.simulator.lab")
pytest.importorskip("tvb_data")

PEER = "tvb-library"
pytestmark = [
    pytest.mark.oracle,
    # The peer's own dependencies.
    pytest.mark.filterwarnings("ignore"),
]


def compared(
    model: str, dt: float, strength: float, *, duration: float = 1.0, **params: object
) -> float:
    """Largest difference of all states at all steps."""
    brain = VirtualBrainInterface("tvb76")
    made = brain.create_neural_mass_model(model, **params)
    shape = (len(made["state_variables"]), len(brain.connectivity.labels))
    state = 0.1 * torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, theirs = (
        brain.simulate(
            duration, dt, initial_state=state, coupling_strength=strength, tr=10.0, engine=engine
        )["state"]
        for engine in ("torch", "tvb")
    )
    apart = float((ours - theirs).abs().max())
    sys.stdout.write(f"{model}, dt {dt}: largest difference {apart:.1e}\n")
    assert ours.shape == (*shape, round(duration / dt))
    return apart


# The peer keeps its history in 32 bits, which bounds how close two runs can be.
@pytest.mark.parametrize("dt", [0.001, 0.0005])
def test_jansen_and_rit_is_that_of_the_virtual_brain(dt: float) -> None:
    assert compared("jansen-rit", dt, 10.0) < 1e-5


def test_wilson_and_cowan_is_that_of_the_virtual_brain() -> None:
    assert compared("wilson-cowan", 0.001, 1 / 256, P=1.0) < 1e-5


def test_kuramoto_is_that_of_the_virtual_brain() -> None:
    omega = torch.linspace(0.05, 0.07, 76, dtype=torch.float64)
    assert compared("kuramoto", 0.001, 0.001, omega=omega) < 1e-5


def test_montbrio_is_that_of_the_virtual_brain() -> None:
    assert compared("montbrio", 0.001, 0.1, duration=0.3) < 1e-5


def test_hopf_is_that_of_the_virtual_brain() -> None:
    assert compared("hopf", 0.001, 0.002) < 1e-5


@pytest.mark.parametrize(("name", "n"), [("desikan", 68), ("tvb76", 76), ("hagmann66", 66)])
def test_named_connectomes_are_those_of_tvb_data(name: str, n: int) -> None:
    from tvb.datatypes.connectivity import Connectivity

    found = VirtualBrainInterface(name).connectivity
    theirs = Connectivity.from_file(f"connectivity_{n}.zip")
    torch.testing.assert_close(found.weights, torch.from_numpy(theirs.weights))
    torch.testing.assert_close(found.tract_lengths, torch.from_numpy(theirs.tract_lengths))
    assert list(found.labels) == list(theirs.region_labels)
    assert found.centres is not None
    torch.testing.assert_close(found.centres, torch.from_numpy(theirs.centres))


def test_sweeps_noise_and_euler_run_in_the_virtual_brain() -> None:
    brain = VirtualBrainInterface("tvb76", speed=math.inf)
    brain.create_neural_mass_model("kuramoto", omega=0.0)
    found = [
        brain.simulate(
            0.1, noise=torch.tensor([0.05, 0.1], dtype=torch.float64), coupling_strength=0.0,
            integrator="euler", initial_state=torch.zeros(1, 76, dtype=torch.float64),
            engine=engine, record_every=10,
        )["state"]
        for engine in ("torch", "tvb")
    ]  # fmt: skip
    assert found[0].shape == found[1].shape == (2, 1, 76, 10)
    for states in found:
        # Deviations of sigma sqrt(100), each estimated from 76 regions to 8 %; six of those.
        spread = states[:, 0, :, -1].std(-1)
        torch.testing.assert_close(
            spread, torch.tensor([0.5, 1.0], dtype=torch.float64), rtol=0.5, atol=0
        )


def test_numbers_of_the_coupling_may_not_differ_between_regions_there() -> None:
    brain = VirtualBrainInterface("tvb76")
    brain.create_neural_mass_model("jansen-rit", midpoint=torch.full((76,), 6.0))
    with pytest.raises(ValueError, match="engine='tvb' takes midpoint as one number"):
        brain.simulate(0.01, engine="tvb")
