"""The least-squares and quadratic solvers find the optimum and can prove it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neuros_sourceweigher import (
    _active_set,
    project_simplex,
    solve_simplex_ls,
    solve_simplex_ls_batched,
    solve_simplex_qp,
)

CI = settings(max_examples=50, derandomize=True, deadline=None)
Array = NDArray[np.float64]


def exact_gap(A: Array, c: Array, w: Array) -> float:
    """Frank-Wolfe gap in extended precision, relative to the scale of the certificate."""
    A, c, w = (np.asarray(x, dtype=np.longdouble) for x in (A, c, w))
    gradient = A.T @ (A @ w - c)
    scale = max(float(c @ c), float((A * A).sum(axis=0).max()), 1e-300) / 2
    return float(gradient @ w - gradient.min()) / scale


def check(A: Array, c: Array, w: Array) -> None:
    assert (w >= 0).all()
    assert abs(w.sum() - 1) <= 1e-14
    assert exact_gap(A, c, w) <= 1e-12


@CI
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 40))
def test_gap_holds_in_extended_precision_for_any_shape(seed: int, d: int, K: int) -> None:
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(d, K)) * 10.0 ** rng.integers(-3, 4, K)
    c = rng.normal(size=d)
    solution = solve_simplex_ls(A, c)
    check(A, c, solution.weights)
    assert solution.lower_bound == solution.objective - solution.gap
    residual = A @ solution.weights - c
    assert solution.objective == pytest.approx(0.5 * residual @ residual, rel=1e-12)
    # The lower bound is one: no point of a random sample of the simplex is below it.
    trial = A @ rng.dirichlet(np.full(K, 0.3), 50).T - c[:, None]
    assert 0.5 * np.square(trial).sum(axis=0).min() >= solution.lower_bound * (1 - 1e-12)


@CI
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.floats(0.1, 3.0))
def test_identity_matrix_gives_the_projection(seed: int, K: int, spread: float) -> None:
    v = spread * np.random.default_rng(seed).normal(size=K)
    want = project_simplex(v)
    np.testing.assert_allclose(solve_simplex_ls(np.eye(K), v).weights, want, atol=1e-14)
    np.testing.assert_allclose(solve_simplex_qp(np.eye(K), v).weights, want, atol=1e-14)


@CI
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_two_sources_have_the_clipped_closed_form(seed: int, d: int) -> None:
    A = np.random.default_rng(seed).normal(size=(d, 2))
    c = np.random.default_rng(seed + 1).normal(size=d)
    edge = A[:, 0] - A[:, 1]
    first = np.clip(edge @ (c - A[:, 1]) / (edge @ edge), 0, 1)
    for w in (solve_simplex_ls(A, c).weights, solve_simplex_qp(A.T @ A, A.T @ c).weights):
        np.testing.assert_allclose(w, [first, 1 - first], atol=1e-10)


def test_target_beyond_a_vertex_gives_the_vertex_exactly() -> None:
    A = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert solve_simplex_ls(A, np.array([3.0, -1.0])).weights.tolist() == [0.0, 1.0, 0.0]


def test_target_beyond_an_edge_gives_its_foot_on_the_edge() -> None:
    A = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    solution = solve_simplex_ls(A, np.array([2.0, 1.5]))
    np.testing.assert_allclose(solution.weights, [0.0, 0.75, 0.25], atol=1e-15)
    assert solution.objective == pytest.approx(0.5 * (1.25**2 * 2), rel=1e-14)
    assert solution.unique


@CI
@given(st.integers(0, 2**32 - 1), st.integers(2, 20))
def test_known_mixture_is_recovered(seed: int, K: int) -> None:
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(K + 3, K)) + 100 * rng.normal()
    truth = rng.dirichlet(np.full(K, 0.5))
    solution = solve_simplex_ls(A, A @ truth)
    assert np.abs(solution.weights - truth).sum() <= 1e-9
    assert solution.unique


@CI
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.booleans())
def test_order_of_columns_does_not_matter(seed: int, K: int, inside: bool) -> None:
    rng = np.random.default_rng(seed)
    d = int(rng.integers(1, 8))
    A = rng.normal(size=(d, K))
    c = A @ rng.dirichlet(np.ones(K)) if inside else 2 * rng.normal(size=d)
    order = rng.permutation(K)
    first, second = solve_simplex_ls(A, c), solve_simplex_ls(A[:, order], c)
    assert first.unique == second.unique
    np.testing.assert_allclose(
        second.weights, first.weights[order], atol=1e-9 if first.unique else 1e-6
    )


@CI
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 4))
def test_duplicates_share_their_weight_equally(seed: int, K: int, copies: int) -> None:
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(10, K))
    c = A @ rng.dirichlet(np.ones(K)) + 0.1 * rng.normal(size=10)
    single = solve_simplex_ls(A, c).weights
    doubled = solve_simplex_ls(np.tile(A, copies), c)
    np.testing.assert_allclose(
        doubled.weights.reshape(copies, K), np.tile(single / copies, (copies, 1)), atol=1e-9
    )
    assert doubled.unique == (copies == 1)


@CI
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(3, 14))
def test_on_a_face_the_answer_has_the_smallest_norm(seed: int, d: int, extra: int) -> None:
    rng = np.random.default_rng(seed)
    K = d + extra
    A = rng.normal(size=(d, K))
    truth = rng.dirichlet(np.ones(K))
    solution = solve_simplex_ls(A, A @ truth)
    w = solution.weights
    assert not solution.unique
    check(A, A @ truth, w)
    # Optimality of the norm: w = max(A^T y + t, 0) for some y, t, found by least squares.
    rows = np.vstack([A, np.ones(K)])
    y = np.linalg.lstsq(rows[:, w > 0].T, w[w > 0], rcond=None)[0]
    np.testing.assert_allclose(np.maximum(rows.T @ y, 0.0), w, atol=1e-7)


def test_prior_decides_between_equal_optima() -> None:
    A = np.array([[0.0, 1.0, 1.0]])
    near = solve_simplex_ls(A, [0.5], prior=[0.0, 0.9, 0.1])
    # The copies may be exchanged freely: (0.9 - 0.1) apart is not reachable, 0.5 apart is.
    np.testing.assert_allclose(near.weights, [0.5, 0.5, 0.0], atol=1e-12)
    np.testing.assert_allclose(
        solve_simplex_ls(A, [0.5], prior=[0.5, 0.3, 0.2]).weights, [0.5, 0.3, 0.2], atol=1e-12
    )


def test_a_face_pinned_to_one_point_counts_as_unique() -> None:
    # The origin is a vertex of the triangle, so only one weight reaches it, although the three
    # columns on the line with a fourth are dependent.
    A = np.array([[0.0, 1.0, 2.0, 3.0]])
    solution = solve_simplex_ls(A, [0.0])
    assert solution.weights.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert solution.unique


def test_a_degenerate_zero_on_the_face_is_still_found_unique() -> None:
    # All gradients vanish at the corner that the target hits, so the face has every column.
    A = np.array([[0.0, 1.0, 2.0, 0.5], [0.0, 1.0, 1.0, 3.0]])
    solution = solve_simplex_ls(A, [0.0, 0.0])
    np.testing.assert_allclose(solution.weights, [1.0, 0.0, 0.0, 0.0], atol=1e-12)
    assert solution.unique


@CI
@given(st.integers(0, 2**32 - 1), st.integers(2, 20), st.integers(1, 10))
def test_sign_matrices_with_many_ties_do_not_depend_on_the_order(seed: int, K: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    A = np.sign(rng.normal(size=(d, K)))
    c = A @ rng.dirichlet(np.full(K, 0.1))
    order = rng.permutation(K)
    first, second = solve_simplex_ls(A, c), solve_simplex_ls(A[:, order], c)
    check(A, c, first.weights)
    np.testing.assert_allclose(second.weights, first.weights[order], atol=1e-9)


@CI
@given(st.integers(0, 2**32 - 1), st.integers(2, 20), st.integers(1, 20), st.booleans())
def test_sixteen_orders_of_magnitude_keep_the_certificate(
    seed: int, K: int, d: int, by_row: bool
) -> None:
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.integers(-8, 8, (d, 1) if by_row else K)
    A, c = rng.normal(size=(d, K)) * scales, rng.normal(size=d)
    check(A, c, solve_simplex_ls(A, c).weights)
    assert solve_simplex_qp(A.T @ A, A.T @ c).weights.min() >= 0


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e-20, 1.0, 1e20, 1e150])
def test_scale_does_not_change_the_weights(scale: float) -> None:
    rng = np.random.default_rng(5)
    A, c = rng.normal(size=(6, 9)), rng.normal(size=6)
    want = solve_simplex_ls(A, c).weights
    got = solve_simplex_ls(A * scale, c * scale)
    np.testing.assert_allclose(got.weights, want, rtol=1e-9)
    assert np.isfinite(got.objective)


def test_offset_of_1e8_keeps_the_mixture() -> None:
    rng = np.random.default_rng(6)
    A = rng.integers(-8, 8, (9, 5)) + 1e8
    truth = np.array([0.5, 0.25, 0.125, 0.125, 0.0])
    w = solve_simplex_ls(A, A @ truth).weights
    # Entries near 1e8 are stored to 1.5e-8, which bounds what any solver can know of w.
    assert np.abs(w - truth).sum() <= 1e-7


def test_refinement_alone_reaches_the_optimum_from_any_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(9)
    for d, K in ((6, 12), (30, 12), (2, 12)):
        A, c = rng.normal(size=(d, K)), rng.normal(size=d)
        want = solve_simplex_ls(A, c)
        B = (A - c[:, None]) / 10
        for start in (np.full(K, 1 / K), rng.dirichlet(np.full(K, 0.3)), np.eye(K)[3]):
            found = _active_set.refine(B, start, 1e-14, 1000)
            objective = 50 * float(found.residual @ found.residual)
            assert objective == pytest.approx(want.objective, rel=1e-12, abs=1e-20)
        with monkeypatch.context() as patch:
            patch.setattr(_active_set, "nnls", _cycling)
            np.testing.assert_allclose(solve_simplex_ls(A, c).weights, want.weights, atol=1e-9)


def _cycling(*_: object, **__: object) -> None:
    raise RuntimeError("Maximum number of iterations reached.")


def test_too_few_iterations_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    monkeypatch.setattr(_active_set, "nnls", _cycling)
    with pytest.raises(RuntimeError, match="in 1 iterations, above tol's"):
        solve_simplex_ls(rng.normal(size=(6, 12)), 0.1 * rng.normal(size=6), max_iter=1)


def test_one_source_gets_everything() -> None:
    solution = solve_simplex_ls(np.array([[3.0], [4.0]]), np.array([0.0, 1.0]))
    assert solution.weights.tolist() == [1.0]
    assert solution.objective == pytest.approx(9.0)
    assert solution.unique
    assert solve_simplex_qp([[2.0]], [1.0]).weights.tolist() == [1.0]


@pytest.mark.parametrize("A", [np.empty((0, 4)), np.ones((3, 4)), np.zeros((3, 4))])
def test_indistinct_sources_get_equal_weights(A: Array) -> None:
    solution = solve_simplex_ls(A, np.arange(float(len(A))))
    assert solution.weights.tolist() == [0.25] * 4
    assert not solution.unique


def test_indistinct_sources_follow_the_prior() -> None:
    w = solve_simplex_ls(np.ones((1, 3)), [0.0], prior=[0.2, 0.3, 0.5]).weights
    np.testing.assert_allclose(w, [0.2, 0.3, 0.5], atol=1e-15)


@CI
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
def test_ridge_equals_the_appended_problem_and_the_gram_form(seed: int, ridge: float) -> None:
    rng = np.random.default_rng(seed)
    A, c, prior = rng.normal(size=(3, 6)), rng.normal(size=3), rng.dirichlet(np.ones(6))
    solution = solve_simplex_ls(A, c, ridge=ridge, prior=prior)
    w = solution.weights
    value = 0.5 * np.sum((A @ w - c) ** 2) + 0.5 * ridge * np.sum((w - prior) ** 2)
    assert solution.objective == pytest.approx(value, rel=1e-9, abs=1e-12)
    gram = solve_simplex_qp(A.T @ A, A.T @ c, ridge=ridge, prior=prior)
    # The Gram form squares the condition number, here at most 1e7.
    np.testing.assert_allclose(gram.weights, w, atol=1e-7)
    assert gram.objective + 0.5 * c @ c == pytest.approx(value, rel=1e-6, abs=1e-9)


def test_an_overwhelming_ridge_gives_the_prior() -> None:
    prior = np.array([0.7, 0.2, 0.1])
    A = np.random.default_rng(0).normal(size=(4, 3))
    w = solve_simplex_ls(A, np.ones(4), ridge=1e12, prior=prior).weights
    np.testing.assert_allclose(w, prior, atol=1e-10)


@CI
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12))
def test_gram_form_solves_any_linear_term(seed: int, K: int, rank: int) -> None:
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(rank, K))
    G, b = A.T @ A, rng.normal(size=K)
    solution = solve_simplex_qp(G, b)
    w = solution.weights
    G, b, exact = (np.asarray(x, dtype=np.longdouble) for x in (G, b, w))
    gradient = G @ exact - b
    scale = max(float(G.diagonal().max()) / 2, float(np.abs(b).max()))
    assert float(gradient @ exact - gradient.min()) <= 1e-12 * scale
    assert abs(w.sum() - 1) <= 1e-14


def test_linear_objective_picks_the_largest_entries() -> None:
    solution = solve_simplex_qp(np.zeros((4, 4)), [1.0, 3.0, 3.0, 2.0])
    np.testing.assert_allclose(solution.weights, [0.0, 0.5, 0.5, 0.0], atol=1e-12)
    assert not solution.unique
    assert solution.objective == pytest.approx(-3.0)
    assert solution.solver == "proximal"
    assert solve_simplex_qp(np.zeros((3, 3)), np.zeros(3)).weights.tolist() == pytest.approx(
        [1 / 3] * 3, abs=1e-15
    )


def test_singular_gram_with_duplicates_shares_equally() -> None:
    A = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    solution = solve_simplex_qp(A.T @ A, A.T @ np.array([0.5, 1.0]))
    np.testing.assert_allclose(solution.weights, [0.25, 0.25, 0.5], atol=1e-9)
    assert not solution.unique


# More than 400,000 entries take the gradient route: half a second, and twice that on a face.
@pytest.mark.slow
@pytest.mark.parametrize("inside", [False, True])
def test_large_problems_carry_the_same_certificate(inside: bool) -> None:
    rng = np.random.default_rng(7)
    A = rng.normal(size=(120, 9_000))
    c = A @ rng.dirichlet(np.ones(9_000)) if inside else rng.normal(size=120)
    solution = solve_simplex_ls(A, c)
    check(A, c, solution.weights)
    assert solution.solver == "gradient"
    assert solution.unique is not inside
    if inside:
        rows = np.vstack([A, np.ones(9_000)])
        w = solution.weights
        y = np.linalg.lstsq(rows[:, w > 0].T, w[w > 0], rcond=None)[0]
        np.testing.assert_allclose(np.maximum(rows.T @ y, 0.0), w, atol=1e-9)


def test_long_columns_start_from_the_gram_matrix_and_keep_every_digit() -> None:
    rng = np.random.default_rng(10)
    A = rng.normal(size=(400, 12)) + 50.0
    truth = rng.dirichlet(np.ones(12))
    solution = solve_simplex_ls(A, A @ truth)
    assert np.abs(solution.weights - truth).sum() <= 1e-9
    # Copies make the Gram matrix singular, so that its factorisation fails.
    twice = solve_simplex_ls(np.tile(A, 2), A @ truth)
    np.testing.assert_allclose(twice.weights, np.tile(truth / 2, 2), atol=1e-9)
    assert not twice.unique


def test_wide_faces_take_the_dual_route_to_the_smallest_norm() -> None:
    rng = np.random.default_rng(8)
    A = rng.normal(size=(20, 400))
    c = A @ rng.dirichlet(np.full(400, 0.02))
    w = solve_simplex_ls(A, c).weights
    check(A, c, w)
    assert 20 < (w > 0).sum() < 400
    rows = np.vstack([A, np.ones(400)])
    y = np.linalg.lstsq(rows[:, w > 0].T, w[w > 0], rcond=None)[0]
    np.testing.assert_allclose(np.maximum(rows.T @ y, 0.0), w, atol=1e-9)


@CI
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.0, 0.1])
)
def test_batch_equals_the_loop(seed: int, d: int, K: int, ridge: float) -> None:
    rng = np.random.default_rng(seed)
    A, c = rng.normal(size=(7, d, K)), rng.normal(size=(7, d))
    A[1] *= 1e150
    c[1] *= 1e150
    A[2, :, -1] = A[2, :, 0]
    c[3] = A[3] @ rng.dirichlet(np.ones(K))
    A[4], c[5] = 0.0, 0.0
    batch = solve_simplex_ls_batched(A, c, ridge=ridge)
    for i in range(7):
        single = solve_simplex_ls(A[i], c[i], ridge=ridge)
        np.testing.assert_allclose(batch.weights[i], single.weights, atol=1e-8)
        assert batch.unique[i] == single.unique
        unit = max(np.abs(A[i]).max(), np.abs(c[i]).max()) or 1.0
        assert batch.objective[i] == pytest.approx(single.objective, rel=1e-9, abs=1e-20 * unit**2)
        assert batch.lower_bound[i] == batch.objective[i] - batch.gap[i]
        if ridge == 0:
            check(A[i] / unit, c[i] / unit, batch.weights[i])


def test_an_empty_batch_is_empty() -> None:
    assert solve_simplex_ls_batched(np.empty((0, 2, 3)), np.empty((0, 2))).weights.shape == (0, 3)


def test_a_gap_above_the_tolerance_is_an_error_that_states_it() -> None:
    rng = np.random.default_rng(0)
    A, c = rng.normal(size=(40, 20)), rng.normal(size=40)
    with pytest.raises(RuntimeError, match=r"reached a gap of .* above tol's .*; raise max_iter"):
        solve_simplex_ls(A, c, tol=1e-30)
    with pytest.raises(RuntimeError, match="reached a gap"):
        solve_simplex_ls_batched(A[None], c[None], tol=1e-30)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"A": [1.0]}, ValueError, "A needs 2 axes, got 1"),
        ({"c": [1.0]}, ValueError, "c needs one entry per row of A = 2, got 1"),
        ({"A": [[np.nan, 1.0], [0.0, 1.0]]}, ValueError, "A needs finite values"),
        ({"c": [np.inf, 1.0]}, ValueError, "c needs finite values"),
        ({"A": [["x", "y"], ["z", "w"]]}, TypeError, "A needs real numbers"),
        ({"A": [[1e160, 1.0], [0.0, 1.0]]}, ValueError, "A needs entries up to 1e153"),
        ({"A": np.empty((2, 0))}, ValueError, "at least one column, got none"),
        ({"ridge": -1.0}, ValueError, "ridge needs a finite number >= 0, got -1.0"),
        ({"ridge": np.nan}, ValueError, "ridge needs a finite number >= 0, got nan"),
        ({"tol": 0.0}, ValueError, "tol needs a number > 0"),
        ({"prior": [1.0]}, ValueError, "prior needs one entry per column = 2, got 1"),
        ({"prior": [np.nan, 1.0]}, ValueError, "prior needs finite values"),
    ],
)
def test_unfit_problems_are_refused(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    problem = {"A": np.eye(2), "c": np.ones(2)} | arguments
    with pytest.raises(error, match=message):
        solve_simplex_ls(**problem)


def test_unfit_gram_matrices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"G needs shape \(2, 2\) for b of length 2, got \(3, 3\)"):
        solve_simplex_qp(np.eye(3), [0.0, 1.0])
    with pytest.raises(ValueError, match="G needs a symmetric matrix"):
        solve_simplex_qp([[1.0, 0.5], [0.0, 1.0]], [0.0, 1.0])
    with pytest.raises(ValueError, match="G needs a positive semidefinite matrix"):
        solve_simplex_qp([[1.0, 0.0], [0.0, -1e-6]], [0.0, 1.0])
    with pytest.raises(ValueError, match="G needs a positive semidefinite matrix"):
        solve_simplex_qp(-np.eye(2), [0.0, 1.0])


def test_unfit_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="A needs 3 axes"):
        solve_simplex_ls_batched(np.eye(2), np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"c needs shape \(N, d\) = \(1, 2\) like A, got \(1, 3\)"):
        solve_simplex_ls_batched(np.eye(2)[None], np.ones((1, 3)))
