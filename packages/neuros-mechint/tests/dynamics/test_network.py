"""Connectivities whose modes, transients and controllability are known."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_mechint.dynamics.network import Controllability, NetworkDynamics


def matrix(n, seed, scale=0.9):
    drawn = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn * scale / torch.linalg.eigvals(drawn).abs().max()


@settings(max_examples=20, derandomize=True, deadline=None)
@given(n=st.integers(2, 8), seed=st.integers(0, 1000))
def test_henrici_departure_of_a_normal_matrix_is_zero(n, seed):
    drawn = matrix(n, seed)
    rotation = torch.linalg.qr(drawn).Q
    for normal in (drawn + drawn.T, drawn - drawn.T, 0.7 * rotation):
        assert float(NetworkDynamics().compute(normal).henrici) <= 1e-8


def test_shear_has_the_gain_and_bounds_of_its_powers():
    shear = torch.tensor([[0.9, 5.0], [0.0, 0.5]], dtype=torch.float64)
    result = NetworkDynamics().compute(shear)
    powers = [np.linalg.norm(np.linalg.matrix_power(shear.numpy(), t), 2) for t in range(100)]
    assert float(result.max_gain) == pytest.approx(max(powers))
    assert 1 < float(result.kreiss) <= float(result.max_gain)
    assert float(result.henrici) == pytest.approx(5)
    assert result.eigenvalues.real.tolist() == pytest.approx([0.9, 0.5])
    assert float(result.balance) == math.inf


def test_flow_starts_to_grow_with_its_numerical_abscissa():
    flow = torch.tensor([[-1.0, 6.0], [0.0, -2.0]], dtype=torch.float64)
    result = NetworkDynamics(continuous=True, dt=0.01).compute(flow)
    growth = np.log(np.linalg.norm(scipy.linalg.expm(1e-6 * flow.numpy()), 2)) / 1e-6
    assert float(result.numerical_abscissa) == pytest.approx(growth, rel=1e-4)
    assert float(result.spectral_abscissa) == pytest.approx(-1)
    assert 1 < float(result.kreiss) <= float(result.max_gain) * 1.001


def test_unstable_matrix_has_no_largest_gain():
    result = NetworkDynamics().compute(2 * torch.eye(3))
    assert float(result.max_gain) == math.inf
    assert float(result.kreiss) == math.inf
    assert float(result.effective_rank) == pytest.approx(3)


def test_batch_is_that_of_each_matrix():
    many = torch.stack([matrix(5, k) for k in range(3)]).view(3, 1, 5, 5)
    together = NetworkDynamics().compute(many.numpy()).to_dict()
    for k in range(3):
        for name, value in NetworkDynamics().compute(many[k, 0]).to_dict().items():
            np.testing.assert_allclose(together[name][k][0], value, rtol=1e-8)


def test_average_controllability_is_the_trace_of_the_gramian_of_scipy():
    W = matrix(6, 0)
    result = Controllability().compute(W)
    for k in range(6):
        b = np.eye(6)[:, k : k + 1]
        gramian = scipy.linalg.solve_discrete_lyapunov(W.numpy(), b @ b.T)
        assert float(result.average[k]) == pytest.approx(np.trace(gramian), abs=1e-8)


def test_modal_controllability_of_a_symmetric_matrix_is_a_diagonal():
    W = matrix(6, 1)
    W = 0.9 * (W + W.T) / torch.linalg.matrix_norm(W + W.T, 2)
    expected = torch.eye(6, dtype=torch.float64) - W @ W
    torch.testing.assert_close(Controllability().compute(W).modal, expected.diagonal())


def test_unstable_matrix_needs_to_be_normalized():
    with pytest.raises(ValueError, match="W must be stable, its spectral radius is 2"):
        Controllability().compute(2 * torch.eye(2))
    result = Controllability(normalize=True).compute(2 * torch.eye(2))
    assert result.average.tolist() == pytest.approx([9 / 5] * 2)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"W must be square, got shape \(2, 3\)"):
        NetworkDynamics().compute(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="dt must be above 0, got 0"):
        NetworkDynamics(dt=0)
    with pytest.raises(ValueError, match="n_steps must be at least 1, got 0"):
        NetworkDynamics(n_steps=0)


def test_reprs_state_the_configuration():
    assert repr(NetworkDynamics()) == "NetworkDynamics(continuous=False, dt=1.0, n_steps=100)"
    assert repr(Controllability()) == "Controllability(normalize=False)"
