"""Ratios of CPU time to peers that solve the same problems, in one thread."""

import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import pytest
from scipy.optimize import minimize, nnls

from neuros_sourceweigher import project_simplex, solve_simplex_ls, solve_simplex_ls_batched


def ratio(
    ours: Callable[[], object], theirs: Callable[[], object], *, rounds: int = 7, repeat: int = 1
) -> float:
    """Median CPU time of ours over that of theirs, interleaved."""
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(rounds + 1):
        for side, call in zip(times, (ours, theirs), strict=True):
            start = time.thread_time()
            for _ in range(repeat):
                call()
            # The first round warms caches and allocators.
            if round_:
                side.append(time.thread_time() - start)
    return statistics.median(times[0]) / statistics.median(times[1])


def report(what: str, peer: str, got: float, bar: float, *, missed: str = "") -> None:
    """Print one row and hold the bar; `missed` says why a bar is known not to be reached."""
    note = "" if got <= bar else f", missed: {missed}"
    print(f"BENCH | {what} | {peer} | ratio {got:.2f} | bar {bar}{note}")
    # A known miss still fails when it grows to four times the bar.
    assert got <= (4 * bar if missed else bar)


def problem(K: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(K)
    return rng.normal(size=(d, K)), rng.normal(size=d)


def quadprog_solver(A: np.ndarray, c: np.ndarray) -> Callable[[], object]:
    quadprog = pytest.importorskip("quadprog")
    K = A.shape[1]
    constraints = np.column_stack([np.ones(K), np.eye(K)])
    bounds = np.r_[1.0, np.zeros(K)]

    def solve() -> object:
        # It takes only positive definite matrices, hence a ridge.
        G = A.T @ A + 1e-9 * np.eye(K)
        return quadprog.solve_qp(G, A.T @ c, constraints, bounds, 1)

    return solve


def test_projection_against_pot(monkeypatch: pytest.MonkeyPatch) -> None:
    ot = pytest.importorskip("ot")
    monkeypatch.setattr("neuros_sourceweigher._projection.compiled_projection", lambda: None)
    v = np.random.default_rng(0).normal(size=(100_000, 64))
    transposed = np.ascontiguousarray(v.T)
    got = ratio(lambda: project_simplex(v), lambda: ot.utils.proj_simplex(transposed))
    report("project_simplex 100000x64", f"POT {ot.__version__}", got, 0.75)


@pytest.mark.parametrize(
    ("shape", "bar"), [((100_000, 64), 0.35), ((1000, 1000), 0.08), ((10, 100_000), 0.08)]
)
def test_compiled_projection_against_pot_and_a_sort(shape: tuple[int, int], bar: float) -> None:
    ot = pytest.importorskip("ot")
    numba = pytest.importorskip("numba")
    v = np.random.default_rng(0).normal(size=shape)
    transposed = np.ascontiguousarray(v.T)
    what = f"project_simplex [fast] numba {numba.__version__} {shape[0]}x{shape[1]}"
    got = ratio(lambda: project_simplex(v), lambda: ot.utils.proj_simplex(transposed), repeat=4)
    report(what, f"POT {ot.__version__}", got, bar)
    got = ratio(lambda: project_simplex(v), lambda: np.sort(v, axis=-1))
    report(what, f"one sort numpy {version('numpy')}", got, 2.0)


def test_projection_against_pot_on_torch() -> None:
    ot = pytest.importorskip("ot")
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    v = torch.randn(100_000, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    transposed = v.T.contiguous()
    got = ratio(lambda: project_simplex(v), lambda: ot.utils.proj_simplex(transposed))
    report("project_simplex torch 100000x64", f"POT on torch {ot.__version__}", got, 1.0)


@pytest.mark.parametrize(
    ("K", "d", "bar", "repeat", "missed"),
    [
        (16, 64, 1.5, 100, "quadprog's whole solve takes as long as one call of SciPy's nnls"),
        (64, 512, 1.5, 10, "1.4 to 2.3 from run to run, the start by nnls is most of it"),
        (200, 512, 0.8, 1, ""),
    ],
)
def test_least_squares_against_quadprog(
    K: int, d: int, bar: float, repeat: int, missed: str
) -> None:
    A, c = problem(K, d)
    got = ratio(lambda: solve_simplex_ls(A, c), quadprog_solver(A, c), repeat=repeat)
    peer = f"quadprog {version('quadprog')}"
    report(f"solve_simplex_ls K={K} d={d}", peer, got, bar, missed=missed)


# quadprog takes 0.8 s a call.
@pytest.mark.slow
def test_least_squares_with_more_columns_than_rows_against_quadprog() -> None:
    A, c = problem(600, 512)
    got = ratio(lambda: solve_simplex_ls(A, c), quadprog_solver(A, c))
    report("solve_simplex_ls K=600 d=512", f"quadprog {version('quadprog')}", got, 0.15)


# SLSQP takes seconds a call.
@pytest.mark.slow
def test_least_squares_against_slsqp() -> None:
    A, c = problem(200, 512)
    K = A.shape[1]

    def slsqp() -> object:
        return minimize(
            lambda w: 0.5 * np.sum((A @ w - c) ** 2),
            np.full(K, 1 / K),
            jac=lambda w: A.T @ (A @ w - c),
            method="SLSQP",
            bounds=[(0, None)] * K,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
            options={"ftol": 1e-14, "maxiter": 1000},
        )

    got = ratio(lambda: solve_simplex_ls(A, c), slsqp, rounds=7)
    report("solve_simplex_ls K=200 d=512", f"SLSQP scipy {version('scipy')}", got, 0.01)


def test_least_squares_against_one_nnls() -> None:
    A, c = problem(1000, 512)
    B = A - c[:, None]
    B /= np.sqrt(np.square(B).sum(axis=0).mean())
    stacked, target = np.vstack([B, np.ones(1000)]), np.r_[np.zeros(512), 1.0]
    got = ratio(lambda: solve_simplex_ls(A, c), lambda: nnls(stacked, target, maxiter=10_000))
    report("solve_simplex_ls K=1000 d=512", f"nnls scipy {version('scipy')}", got, 1.5)


# Ten thousand columns of 512 rows: half a second a call.
@pytest.mark.slow
def test_least_squares_against_products_with_the_matrix() -> None:
    A, c = problem(10_000, 512)
    w = np.full(10_000, 1e-4)
    got = ratio(lambda: solve_simplex_ls(A, c), lambda: A.T @ (A @ w))
    report("solve_simplex_ls K=10000 d=512", f"A.T @ (A @ w) numpy {version('numpy')}", got, 300)


# A thousand single solves a round.
@pytest.mark.slow
def test_batch_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    A, c = rng.normal(size=(1000, 64, 16)), rng.normal(size=(1000, 64))

    def loop() -> object:
        return [solve_simplex_ls(a, t) for a, t in zip(A, c, strict=True)]

    got = ratio(lambda: solve_simplex_ls_batched(A, c), loop)
    report("solve_simplex_ls_batched 1000x(64,16)", "loop", got, 0.5)
