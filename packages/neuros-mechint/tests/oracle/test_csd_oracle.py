"""Current source density beside elephant."""

import numpy as np
import pytest

from neuros_mechint.multiscale import CurrentSourceDensity
from neuros_mechint.multiscale import _csd_matrices as matrices

PEER = "elephant"

pytestmark = [
    pytest.mark.oracle,
    # Deprecated calls of the peer's own dependencies.
    pytest.mark.filterwarnings("ignore"),
]

pq = pytest.importorskip("quantities")
icsd = pytest.importorskip("elephant.current_source_density_src.icsd")

H = 1e-4


def lfp(n: int = 8) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 5))


def depths(n: int = 8) -> object:
    # The peer cuts what lies above depth 0, so that the probe starts a spacing below it.
    return H * (1 + np.arange(n)) * pq.m


def test_standard_is_that_of_elephant() -> None:
    ours = CurrentSourceDensity().compute_csd(lfp(), H).numpy()
    peer = icsd.StandardCSD(lfp() * pq.V, depths(), sigma=0.3 * pq.S / pq.m)
    # It divides by h once and calls the result A/m^2.
    theirs = peer.get_csd().magnitude / H
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_delta_is_that_of_elephant() -> None:
    ours = CurrentSourceDensity("delta").compute_csd(lfp(), H).numpy()
    peer = icsd.DeltaiCSD(
        lfp() * pq.V, depths(), diam=5e-4 * pq.m, sigma=0.3 * pq.S / pq.m,
        sigma_top=0.3 * pq.S / pq.m,
    )  # fmt: skip
    np.testing.assert_allclose(ours, peer.get_csd().magnitude / H, rtol=1e-6)


def test_step_is_that_of_elephant() -> None:
    ours = CurrentSourceDensity("step").compute_csd(lfp(), H).numpy()
    peer = icsd.StepiCSD(
        lfp() * pq.V, depths(), diam=5e-4 * pq.m, h=H * pq.m, sigma=0.3 * pq.S / pq.m,
        sigma_top=0.3 * pq.S / pq.m, tol=1e-14,
    )  # fmt: skip
    np.testing.assert_allclose(ours, peer.get_csd().magnitude, rtol=1e-6)
    matrix = matrices.step(8, 2.5) * H**2 / (2 * 0.3)
    np.testing.assert_allclose(matrix, peer.f_matrix.magnitude, rtol=2.5e-14 / 1e-2, atol=0)
