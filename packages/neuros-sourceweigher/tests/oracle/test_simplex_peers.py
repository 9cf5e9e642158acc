"""The same problems beside POT, quadprog and SciPy."""

import sys
from importlib.metadata import version

import numpy as np
import pytest
from scipy.optimize import minimize

from neuros_sourceweigher import project_simplex, solve_simplex_ls

pytestmark = pytest.mark.oracle

# SciPy's general solver takes seconds at K = 60, so the wider shapes are left to quadprog.
SMALL = [(3, 2), (10, 8), (8, 20), (40, 30)]
SHAPES = [*SMALL, (64, 16), (200, 120), (100, 200)]


@pytest.mark.parametrize("spread", [1e-3, 1.0, 999.0])
@pytest.mark.parametrize("K", [1, 2, 17, 300])
def test_projection_equals_pot(spread: float, K: int) -> None:
    ot = pytest.importorskip("ot")
    sys.stdout.write(f"POT {ot.__version__}\n")
    v = np.random.default_rng(K).uniform(-spread, spread, size=(50, K))
    want = ot.utils.proj_simplex(v.T).T
    np.testing.assert_allclose(project_simplex(v), want, atol=1e-12)


@pytest.mark.parametrize(("d", "K"), SHAPES)
def test_objective_is_not_above_quadprog(d: int, K: int) -> None:
    quadprog = pytest.importorskip("quadprog")
    sys.stdout.write(f"quadprog {version('quadprog')}\n")
    rng = np.random.default_rng(d + K)
    A, c = rng.normal(size=(d, K)), rng.normal(size=d)
    # It needs a positive definite matrix: the smallest ridge that it takes.
    G = A.T @ A + 1e-9 * np.eye(K)
    constraints = np.column_stack([np.ones(K), np.eye(K)])
    bounds = np.r_[1.0, np.zeros(K)]
    w = np.maximum(quadprog.solve_qp(G, A.T @ c, constraints, bounds, 1)[0], 0)
    w /= w.sum()
    theirs = 0.5 * np.sum((A @ w - c) ** 2)
    assert solve_simplex_ls(A, c).objective <= theirs * (1 + 1e-10)


@pytest.mark.parametrize(("d", "K"), SMALL)
def test_objective_is_not_above_slsqp(d: int, K: int) -> None:
    rng = np.random.default_rng(d + K)
    A, c = rng.normal(size=(d, K)), rng.normal(size=d)
    found = minimize(
        lambda w: 0.5 * np.sum((A @ w - c) ** 2),
        np.full(K, 1 / K),
        jac=lambda w: A.T @ (A @ w - c),
        method="SLSQP",
        bounds=[(0, None)] * K,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    w = np.maximum(found.x, 0)
    w /= w.sum()
    theirs = 0.5 * np.sum((A @ w - c) ** 2)
    ours = solve_simplex_ls(A, c).objective
    assert ours <= theirs * (1 + 1e-10) + 1e-20
    assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-8)
