"""The compiled projection: the same points, and the same refusals, as the blocks of NumPy."""

import importlib.util
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_sourceweigher import project_simplex
from neuros_sourceweigher._compiled import WORTH_COMPILING, compiled_projection, project_rows

CI = settings(max_examples=50, derandomize=True, deadline=None)


@pytest.fixture
def fresh() -> Iterator[None]:
    """Ask anew whether the extra is there, before and after."""
    compiled_projection.cache_clear()
    yield
    compiled_projection.cache_clear()


@CI
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.sampled_from([1e-9, 1e-3, 1.0, 50.0, 1e6]),
    st.sampled_from([0.25, 1.0, 7.0]),
)
def test_rows_are_those_of_the_blocks(seed: int, K: int, spread: float, radius: float) -> None:
    v = spread * np.random.default_rng(seed).normal(size=(5, K))
    v[1, : K // 2] = v[1, 0]
    out = np.empty_like(v)
    assert project_rows(v, radius, out)
    np.testing.assert_allclose(out, project_simplex(v, radius=radius), atol=1e-13 * K * radius)


def test_huge_entries_lose_no_digits() -> None:
    v = np.array([[1e16, 1.0, 0.0], [1e300, 1e300, -1e300], [1.7e308, -1.7e308, 0.0]])
    out = np.empty_like(v)
    with np.errstate(over="ignore"):
        assert project_rows(v, 1.0, out)
    assert out.tolist() == [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_found(bad: float) -> None:
    v = np.zeros((2, 3))
    v[1, 2] = bad
    with np.errstate(invalid="ignore"):
        assert not project_rows(v, 1.0, np.empty_like(v))


# Importing and running the compiler takes seconds.
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_large_arrays_are_projected_by_compiled_code(
    dtype: type, monkeypatch: pytest.MonkeyPatch, fresh: None
) -> None:
    pytest.importorskip("numba")
    v = (3 * np.random.default_rng(0).normal(size=(WORTH_COMPILING // 16, 16))).astype(dtype)
    got = project_simplex(v)
    assert compiled_projection.cache_info().currsize == 1
    small = np.concatenate([project_simplex(part) for part in np.array_split(v, 4)])
    assert got.dtype == dtype
    np.testing.assert_allclose(got, small, atol=1e-12 if dtype is np.float64 else 1e-6)
    assert np.array_equal(project_simplex(v.copy(), out=v), got)
    v[-1, -1] = np.nan
    with pytest.raises(ValueError, match="v needs finite values, got NaN or infinity in an array"):
        project_simplex(v)


def test_without_the_extra_the_blocks_do_it(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    found: Callable[..., object] = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name: None if name == "numba" else found(name),
    )
    v = np.random.default_rng(0).normal(size=(WORTH_COMPILING // 10 + 1, 10))
    got = project_simplex(v)
    assert compiled_projection() is None
    np.testing.assert_allclose(got.sum(axis=1), 1.0, atol=1e-13)


def test_half_precision_and_integers_keep_to_the_blocks() -> None:
    v = np.ones((WORTH_COMPILING // 4 + 1, 4), np.int8)
    assert (project_simplex(v) == 0.25).all()
    assert (project_simplex(v.astype(np.float16)) == 0.25).all()
