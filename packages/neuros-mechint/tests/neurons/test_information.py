"""Mutual information where it is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_mechint.neurons._information import (
    _count_within,
    _nth_distance,
    adjusted_p_values,
    continuous_information,
    discrete_information,
    permutation_p_values,
    prepared,
)

CI = settings(max_examples=50, derandomize=True, deadline=None)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9])
def test_a_gaussian_pair_has_its_closed_form(rho: float) -> None:
    rng = np.random.default_rng(0)
    n = 4000
    x = rng.normal(size=(n, 2))
    y = rho * x[:, 0] + math.sqrt(1 - rho**2) * x[:, 1]
    found = continuous_information(prepared(x[:, :1], rng), prepared(y, rng))
    assert found[0] == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.03)


def test_classes_that_do_not_overlap_have_the_entropy_of_the_classes() -> None:
    rng = np.random.default_rng(1)
    y = rng.choice(3, p=[0.5, 0.25, 0.25], size=3000)
    x = 10.0 * y + rng.normal(size=3000)
    found = discrete_information(np.column_stack([x, rng.normal(size=3000)]), y)
    assert found[0] == pytest.approx(1.5 * math.log(2), abs=0.03)
    assert found[1] == pytest.approx(0.0, abs=0.03)


@CI
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), shift=st.floats(-100, 100))
def test_information_does_not_change_with_scale_and_shift(
    seed: int, scale: float, shift: float
) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(60, 1)), rng.normal(size=60)
    moved = prepared(scale * x + shift, np.random.default_rng(0))
    plain = prepared(x, np.random.default_rng(0))
    target = prepared(y, np.random.default_rng(1))
    np.testing.assert_allclose(
        continuous_information(moved, target), continuous_information(plain, target), atol=1e-6
    )


@CI
@given(
    seed=st.integers(0, 10_000),
    grid=st.booleans(),
    exact=st.booleans(),
    far=st.booleans(),
)
def test_neighbours_within_a_radius_are_counted_by_their_differences(
    seed: int, grid: bool, exact: bool, far: bool
) -> None:
    rng = np.random.default_rng(seed)
    # Far from 0, x + r rounds across the neighbour at r; near 0 the distance itself is rounded.
    x = 1e3 * far + (rng.integers(20, size=40) * 0.1 if grid else rng.normal(size=40))
    other = rng.permutation(40)
    radius = np.abs(x - x[other])
    radius = radius if exact else np.nextafter(radius, 0.0)
    counts = _count_within(x, np.argsort(x, kind="stable"), radius)
    expected = (np.abs(x[:, None] - x[None]) <= radius[:, None]).sum(1)
    np.testing.assert_array_equal(counts, expected)


@CI
@given(seed=st.integers(0, 10_000), k=st.integers(1, 5))
def test_the_nth_distance_is_that_of_sorting(seed: int, k: int) -> None:
    x = np.random.default_rng(seed).normal(size=9).round(1)
    distances = np.sort(np.abs(x[:, None] - x[None]), axis=1)
    np.testing.assert_allclose(_nth_distance(x, k), distances[:, k], rtol=0, atol=1e-15)


def test_lone_members_of_a_class_are_left_out() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(41, 1)), np.append(np.arange(40) % 2, 2)
    np.testing.assert_allclose(discrete_information(x, y), discrete_information(x[:-1], y[:-1]))
    assert discrete_information(x, np.arange(41)).tolist() == [0.0]


def test_ties_are_broken_and_a_constant_column_tells_nothing() -> None:
    rng = np.random.default_rng(3)
    coarse = rng.integers(4, size=(500, 1)).astype(float)
    x = prepared(np.column_stack([coarse, np.ones(500)]), rng)
    found = discrete_information(x, coarse[:, 0].astype(int))
    assert found[0] == pytest.approx(math.log(4), abs=0.1)
    assert found[1] == pytest.approx(0.0, abs=0.05)
    # Without noise, points that coincide are each other's neighbours at distance 0.
    assert np.isfinite(continuous_information(coarse, coarse[:, 0])).all()


def test_p_values_of_a_rank_count_the_data_itself() -> None:
    y = np.arange(10.0)

    def ends(values: np.ndarray) -> np.ndarray:
        return np.array([values[-1] - values[0], 0.0])

    p = permutation_p_values(ends, y, ends(y), 200, np.random.default_rng(0))
    # The largest difference of all comes up in one of 90 shuffles.
    assert p[0] == pytest.approx(1 / 90, abs=0.03)
    assert p[1] == 1.0


def test_false_discovery_rates_are_those_of_benjamini_and_hochberg() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.5])
    np.testing.assert_allclose(adjusted_p_values(p), [0.04, 0.16 / 3, 0.16 / 3, 0.5])
