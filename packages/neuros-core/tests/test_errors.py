"""Every check names the value, what was given and what is needed."""

import numpy as np
import pytest

from neuros_core.errors import (
    check_choice,
    check_finite,
    check_ndim,
    check_probability_vector,
    check_sorted,
    check_unique,
)


def test_good_values_pass_every_check() -> None:
    weights = np.array([[0.25, 0.75], [1.0, 0.0]])
    assert check_ndim("x", weights, 2) is None
    assert check_finite("x", weights) is None
    assert check_sorted("x", np.array([1.0, 1.0, 2.0])) is None
    assert check_sorted("x", np.array([])) is None
    assert check_unique("x", ["a", "b"]) is None
    assert check_choice("x", "a", ("a", "b")) is None
    assert check_probability_vector("x", weights) is None


def test_a_wrong_number_of_axes_is_told_with_the_shape() -> None:
    with pytest.raises(ValueError, match=r"^x needs 3 axes, got 2: shape \(1, 2\)$"):
        check_ndim("x", np.zeros((1, 2)), 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_located(bad: float) -> None:
    x = np.zeros((2, 3))
    x[1, 2] = bad
    with pytest.raises(
        ValueError, match=r"got 1 NaN or infinite of 6, the first at index \(1, 2\)"
    ):
        check_finite("x", x)


def test_the_first_step_down_is_located() -> None:
    with pytest.raises(ValueError, match=r"got 0.5 after 1.0 at index 2; sort it first"):
        check_sorted("x", np.array([0.0, 1.0, 0.5, 0.2]))


def test_repeated_names_are_listed_once_each() -> None:
    with pytest.raises(ValueError, match="got repeated: 'a', 'b'"):
        check_unique("x", ["b", "a", "b", "a", "c", "a"])


def test_an_unknown_choice_is_told_with_every_choice() -> None:
    with pytest.raises(ValueError, match="x needs one of 'a', 'b', got 'c'"):
        check_choice("x", "c", ("a", "b"))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5, 0.6], "a sum of 1.1"),
        ([[0.5, 0.5], [0.2, 0.2]], "a sum of 0.4"),
        ([1.5, -0.5], "entries >= 0, got -0.5"),
        ([np.nan, 1.0], "finite"),
    ],
)
def test_weights_off_the_simplex_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_probability_vector("w", np.array(weights))
