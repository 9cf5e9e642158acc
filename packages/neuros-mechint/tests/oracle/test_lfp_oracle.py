"""The cortical field kernel beside tklfp, and the field of a dipole beside lfpykit."""

import sys

import numpy as np
import pytest
import torch

from neuros_mechint.multiscale import LFPGenerator, dipole_leadfield

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]


def test_the_cortical_kernel_is_that_of_tklfp() -> None:
    tklfp = pytest.importorskip("tklfp")
    sys.stdout.write(f"tklfp {tklfp.__version__}\n")
    rng = np.random.default_rng(0)
    n_units, n_times = 20, 400
    units, electrodes = rng.uniform(0, 0.4, (n_units, 3)), rng.uniform(0, 0.4, (3, 3))
    excitatory = np.arange(n_units) % 4 != 3
    spikes = (rng.random((n_units, n_times)) < 0.02).astype(float)
    which, when = np.nonzero(spikes)

    def theirs(unit_z: np.ndarray, electrode_z: np.ndarray) -> np.ndarray:
        peer = tklfp.TKLFP(
            units[:, 0], units[:, 1], unit_z, excitatory,
            np.c_[electrodes[:, :2], electrode_z],
        )  # fmt: skip
        return peer.compute(which, when.astype(float), np.arange(n_times, dtype=float)).T

    def ours(unit_z: np.ndarray, electrode_z: np.ndarray) -> np.ndarray:
        generator = LFPGenerator(
            "realistic",
            unit_positions=np.c_[units[:, :2], unit_z],
            electrode_positions=np.c_[electrodes[:, :2], electrode_z],
            excitatory=excitatory,
        )
        return generator.generate(spikes).numpy()

    # In the layer of the somata the amplitudes of both are the same.
    flat = np.zeros(n_units), np.zeros(3)
    for a, b in zip(ours(*flat), theirs(*flat), strict=True):
        assert np.corrcoef(a, b)[0, 1] >= 0.999
    # The peer's kernel is not causal: what it has before the spike is exp(-10.4^2 / 2 3.15^2).
    scale = np.abs(theirs(*flat)).max()
    assert np.abs(ours(*flat) - theirs(*flat)).max() < 0.01 * scale
    # Elsewhere its table scales each unit at each electrode: one unit at a time, and one electrode.
    generator = LFPGenerator(
        "realistic", unit_positions=units, electrode_positions=electrodes, excitatory=excitatory
    )
    for unit in (0, 3):
        alone = np.zeros_like(spikes)
        alone[unit] = spikes[unit]
        peer = tklfp.TKLFP(*units.T, excitatory, electrodes)
        times = when[which == unit].astype(float)
        found = peer.compute(np.full(len(times), unit), times, np.arange(n_times, dtype=float)).T
        for a, b in zip(generator.generate(alone).numpy(), found, strict=True):
            assert abs(np.corrcoef(a, b)[0, 1]) >= 0.999


def test_the_field_of_a_dipole_is_that_of_lfpykit() -> None:
    lfpykit = pytest.importorskip("lfpykit")
    sys.stdout.write(f"lfpykit {lfpykit.__version__}\n")
    rng = np.random.default_rng(0)
    source, moments, sensors = rng.normal(size=(1, 3)), np.eye(3), 5 * rng.normal(size=(6, 3))
    # In micrometres, nA um and mV, against metres, A m and V.
    peer = lfpykit.eegmegcalc.InfiniteVolumeConductor(sigma=0.3)
    theirs = peer.get_transformation_matrix((sensors - source) * 1e6)
    ours = dipole_leadfield(np.repeat(source, 3, 0), moments, sensors, sigma=0.3)
    # 1 nA um is 1e-15 A m, and a millivolt 1e-3 V.
    np.testing.assert_allclose(ours.numpy() * 1e-15, theirs * 1e-3, rtol=1e-10)
    assert torch.isfinite(ours).all()
