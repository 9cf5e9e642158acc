"""The projection onto the simplex meets its optimality conditions, for NumPy and for torch."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from neuros_sourceweigher import project_simplex

CI = settings(max_examples=50, derandomize=True, deadline=None)

HARD = [
    ([1e16, 1.0, 0.0], [1.0, 0.0, 0.0]),
    ([1e300, 1e300, -1e300], [0.5, 0.5, 0.0]),
    ([1.7e308, -1.7e308], [1.0, 0.0]),
    ([-1.7e308, -1.7e308, -1.7e308, -1.7e308], [0.25] * 4),
    ([0.0], [1.0]),
    ([0.5, 0.5, -7.0], [0.5, 0.5, 0.0]),
    ([0.25, 0.75], [0.25, 0.75]),
    ([1.0, 0.5, -2.0], [0.75, 0.25, 0.0]),
]


def check_optimal(v: NDArray[np.floating], w: NDArray[np.floating], radius: float) -> None:
    """Sum, sign and one threshold on the whole support, below which everything else lies."""
    K = v.shape[-1]
    v, w = v.reshape(-1, K).astype(np.longdouble), w.reshape(-1, K).astype(np.longdouble)
    assert (w >= 0).all()
    assert np.abs(w.sum(axis=1) - radius).max() <= 1e-12 * K * radius
    for row, weights in zip(v, w, strict=True):
        support = weights > 0
        theta = (row - weights)[support]
        scale = max(1.0, float(np.ptp(row)), radius)
        assert np.ptp(theta) <= 1e-12 * scale
        assert (row[~support] <= theta.max() + 1e-12 * scale).all()


@CI
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 70),
    st.sampled_from([1e-8, 1.0, 1e6]),
    st.sampled_from([1e-3, 1.0, 50.0]),
)
def test_projection_meets_the_optimality_conditions(
    seed: int, K: int, spread: float, radius: float
) -> None:
    rng = np.random.default_rng(seed)
    v = spread * rng.normal(size=(4, 3, K)).round(2)
    check_optimal(v, project_simplex(v, radius=radius), radius)


@pytest.mark.parametrize(("v", "want"), HARD)
def test_huge_differences_lose_nothing(v: list[float], want: list[float]) -> None:
    assert project_simplex(np.array(v)).tolist() == want


@CI
@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_ties_permutations_and_shifts_are_respected(seed: int, K: int) -> None:
    rng = np.random.default_rng(seed)
    v = rng.integers(0, 4, K) / 8
    w = project_simplex(v)
    for value in np.unique(v):
        assert len(set(w[v == value].tolist())) == 1
    order = rng.permutation(K)
    np.testing.assert_allclose(project_simplex(v[order]), w[order], atol=1e-15)
    np.testing.assert_allclose(project_simplex(v + 3.0), w, atol=1e-15)
    np.testing.assert_allclose(project_simplex(w), w, atol=1e-15)


def test_rows_beyond_the_sort_give_the_same_as_a_sorted_row() -> None:
    rng = np.random.default_rng(1)
    v = 1e-4 * rng.normal(size=(2, 70_000))
    v[1] *= 1e4
    w = project_simplex(v)
    check_optimal(v, w, 1.0)
    assert (w[0] > 0).sum() > 1_000
    np.testing.assert_allclose(project_simplex(np.r_[1e16, np.zeros(70_000)])[:2], [1.0, 0.0])
    with pytest.raises(ValueError, match="v needs finite values"):
        project_simplex(np.r_[np.nan, np.zeros(70_000)])


def test_dtypes_are_kept_and_integers_are_computed_in_float64() -> None:
    v = np.array([[0.5, 0.25, -1.0]])
    for dtype, atol in ((np.float16, 1e-3), (np.float32, 1e-6), (np.float64, 1e-15)):
        w = project_simplex(v.astype(dtype))
        assert w.dtype == dtype
        np.testing.assert_allclose(w, [[0.625, 0.375, 0.0]], atol=atol)
    w = project_simplex([3, 2, 2])
    assert w.dtype == np.float64
    assert w.tolist() == [1.0, 0.0, 0.0]


def test_out_may_be_the_input_or_a_strided_view() -> None:
    v = np.random.default_rng(0).normal(size=(6, 5, 4))
    want = project_simplex(v)
    strided = np.empty((6, 5, 8))[..., ::2]
    assert project_simplex(v, out=strided) is strided
    np.testing.assert_array_equal(strided, want)
    assert project_simplex(v, out=v) is v
    np.testing.assert_array_equal(v, want)
    swapped = np.asfortranarray(want)
    np.testing.assert_array_equal(project_simplex(want, out=swapped), project_simplex(want))


def test_no_rows_give_no_rows() -> None:
    assert project_simplex(np.empty((0, 3))).shape == (0, 3)


@pytest.mark.parametrize(
    ("v", "radius", "error", "message"),
    [
        ([np.nan, 1.0], 1.0, ValueError, "v needs finite values"),
        ([np.inf, 1.0], 1.0, ValueError, "v needs finite values"),
        ([-np.inf, 1.0], 1.0, ValueError, "v needs finite values"),
        ([], 1.0, ValueError, "v needs at least one entry along its last axis"),
        (1.0, 1.0, ValueError, "v needs at least one entry along its last axis"),
        ([1.0], 0.0, ValueError, "radius needs a finite number > 0, at most 1e300, got 0.0"),
        ([1.0], np.inf, ValueError, "radius needs a finite number > 0, at most 1e300, got inf"),
        ([1j], 1.0, TypeError, "v needs real numbers, got dtype complex128"),
    ],
)
def test_unfit_input_is_refused(
    v: object, radius: float, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        project_simplex(np.array(v), radius=radius)


def test_unfit_out_is_refused() -> None:
    with pytest.raises(ValueError, match=r"out needs shape \(2,\) and dtype float64"):
        project_simplex(np.zeros(2), out=np.zeros(3))
    with pytest.raises(ValueError, match="and float32"):
        project_simplex(np.zeros(2), out=np.zeros(2, np.float32))


# With the extra `[fast]` the larger array is the first that is compiled for.
@pytest.mark.slow
@pytest.mark.parametrize("rows", [7_000, 20_000])
def test_memory_beyond_the_output_is_bounded(rows: int) -> None:
    v = np.random.default_rng(0).normal(size=(rows, 64))
    project_simplex(v)
    tracemalloc.start()
    w = project_simplex(v)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= w.nbytes + 8 * 2**20


class TestTorch:
    torch = None

    @pytest.fixture(autouse=True)
    def _torch(self) -> None:
        type(self).torch = pytest.importorskip("torch")

    def test_tensor_equals_array_and_keeps_its_dtype(self) -> None:
        torch = self.torch
        v = torch.randn(3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        w = project_simplex(v, radius=2.0)
        np.testing.assert_allclose(w.numpy(), project_simplex(v.numpy(), radius=2.0), atol=1e-15)
        for dtype, atol in ((torch.float32, 1e-6), (torch.float16, 1e-2), (torch.bfloat16, 3e-2)):
            got = project_simplex(v.to(dtype))
            assert got.dtype == dtype
            np.testing.assert_allclose(
                got.double().numpy(), project_simplex(v.to(dtype).double().numpy()), atol=atol
            )
        assert project_simplex(torch.tensor([3, 2])).tolist() == [1.0, 0.0]
        assert project_simplex(torch.empty(0, 3)).shape == (0, 3)

    @pytest.mark.parametrize(("v", "want"), HARD)
    @pytest.mark.parametrize("requires_grad", [False, True])
    def test_huge_differences_lose_nothing(
        self, v: list[float], want: list[float], requires_grad: bool
    ) -> None:
        x = self.torch.tensor(v, dtype=self.torch.float64, requires_grad=requires_grad)
        assert project_simplex(x).tolist() == want

    # The first gradcheck of a process imports much of torch.
    @pytest.mark.slow
    def test_jacobian_is_exact(self) -> None:
        torch = self.torch
        v = torch.tensor([0.9, 0.4, 0.35, -1.0], dtype=torch.float64, requires_grad=True)
        J = torch.autograd.functional.jacobian(project_simplex, v)
        want = torch.zeros(4, 4, dtype=torch.float64)
        want[:3, :3] = torch.eye(3, dtype=torch.float64) - 1 / 3
        torch.testing.assert_close(J, want, atol=1e-15, rtol=0)
        x = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        x.requires_grad_()
        assert torch.autograd.gradcheck(project_simplex, (x,))
        assert torch.autograd.gradgradcheck(project_simplex, (x,))

    def test_gradient_of_half_precision_arrives_in_half_precision(self) -> None:
        v = self.torch.tensor([0.5, 0.25, -1.0], dtype=self.torch.float16, requires_grad=True)
        project_simplex(v)[0].backward()
        assert v.grad.dtype == self.torch.float16
        assert v.grad.tolist() == [0.5, -0.5, 0.0]

    def test_ties_stay_equal_bit_for_bit(self) -> None:
        v = self.torch.tensor([0.3, 0.1, 0.3, 0.1, 0.1], dtype=self.torch.float64)
        for x in (v, v.clone().requires_grad_()):
            w = project_simplex(x).tolist()
            assert w[0] == w[2]
            assert w[1] == w[3] == w[4]

    def test_other_device_route_equals_the_cpu_route(self) -> None:
        from neuros_sourceweigher._projection import _torch_cut

        torch = self.torch
        u = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        u = (u - u.amax(-1, keepdim=True)).clamp_min(-1.0)
        w = (u - _torch_cut(u, 1.0)).clamp_min(0)
        torch.testing.assert_close(w, project_simplex(u), atol=1e-15, rtol=0)

    def test_out_is_filled(self) -> None:
        torch = self.torch
        out = torch.empty(2, dtype=torch.float64)
        assert project_simplex(torch.tensor([5.0, 1.0], dtype=torch.float64), out=out) is out
        assert out.tolist() == [1.0, 0.0]

    def test_unfit_tensors_are_refused(self) -> None:
        torch = self.torch
        with pytest.raises(ValueError, match="v needs finite values"):
            project_simplex(torch.tensor([float("nan"), 1.0]))
        with pytest.raises(ValueError, match="v needs at least one entry"):
            project_simplex(torch.empty(3, 0))
        with pytest.raises(TypeError, match="v needs real numbers, got dtype"):
            project_simplex(torch.tensor([1j]))
        with pytest.raises(ValueError, match=r"out needs shape \(2,\)"):
            project_simplex(torch.zeros(2), out=torch.zeros(3))


def test_a_large_radius_does_not_overflow_and_a_larger_one_is_refused() -> None:
    v = np.array([1.797e308, 0.0, 0.0, 4.7e16])
    np.testing.assert_array_equal(project_simplex(v, radius=1e300), [1e300, 0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="radius needs a finite number > 0, at most 1e300, got"):
        project_simplex(v, radius=5e307)
