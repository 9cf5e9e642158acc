"""Cell bodies of a made movie are found where they are, and their traces are what they are."""

from dataclasses import replace

import numpy as np
import pytest

from neuros_data.samples._two_photon import TracesSettings, register, trace_cells

CENTRES = [(15, 16), (15, 45), (44, 18), (46, 47)]


def make_movie(n: int = 120, *, noise: float = 0.0, silent: bool = False) -> np.ndarray:
    """Four cells on an uneven ground; cell k is raised by 100 % in its own quarter of the time."""
    rng = np.random.default_rng(1)
    rows, columns = np.indices((60, 64))
    ground = 1000 + 5 * rows + 20 * rng.standard_normal((60, 64))
    movie = np.tile(ground, (n, 1, 1))
    for k, (row, column) in enumerate(CENTRES):
        disc = np.hypot(rows - row, columns - column) <= 4
        raised = 0.0 if silent else 1.0 * (np.arange(n) * 5 // n == k + 1)
        movie += 1500 * disc * (1 + raised * np.ones(n))[:, None, None]
    return movie + noise * rng.standard_normal(movie.shape)


def test_cells_are_found_where_they_are() -> None:
    found = trace_cells(make_movie(), 30.0, TracesSettings())
    assert sorted(map(tuple, found.centres.tolist())) == CENTRES
    assert found.dff.shape == (120, 4)
    assert found.dff.dtype == np.float32


def test_a_trace_rises_when_its_own_cell_does_and_by_as_much() -> None:
    found = trace_cells(make_movie(), 30.0, TracesSettings(share=0.0))
    for k, centre in enumerate(CENTRES):
        trace = found.dff[:, found.centres.tolist().index(list(centre))]
        own = np.arange(120) * 5 // 120 == k + 1
        # Raised by 1500 on a ground of about 1000 to 1300 below a cell of 1500.
        expected = 1500 / (1500 + 1000 + 5 * centre[0])
        np.testing.assert_allclose(trace[own], expected, rtol=0.03)
        np.testing.assert_allclose(trace[~own], 0.0, atol=0.01)


def test_a_baseline_looks_back_only() -> None:
    movie = make_movie()
    changed = movie.copy()
    # Later frames in another order: the mean image, and so the cells, stay the same.
    changed[60:] = movie[60:][::-1]
    settings = TracesSettings(largest_shift=1)
    first = trace_cells(movie, 30.0, settings)
    second = trace_cells(changed, 30.0, settings)
    np.testing.assert_array_equal(first.centres, second.centres)
    np.testing.assert_allclose(first.dff[:60], second.dff[:60], rtol=1e-5, atol=1e-6)
    assert not np.allclose(first.dff[60:], second.dff[60:])


def test_a_baseline_forgets_what_is_longer_ago_than_it_looks_back() -> None:
    movie = make_movie(silent=True)
    movie[60:] *= 1.5
    short = trace_cells(movie, 30.0, TracesSettings(seconds=0.5))
    long = trace_cells(movie, 30.0, TracesSettings())
    np.testing.assert_allclose(short.dff[-1], 0.0, atol=1e-6)
    np.testing.assert_allclose(long.dff[-1], 0.5, rtol=1e-4)


def test_the_most_prominent_cells_come_first_and_no_more_than_asked_for() -> None:
    found = trace_cells(make_movie(), 30.0, replace(TracesSettings(), most=2))
    every = trace_cells(make_movie(), 30.0, TracesSettings())
    np.testing.assert_array_equal(found.centres, every.centres[:2])


@pytest.mark.parametrize("by", [(2, 0), (-3, 1), (0, -5)])
def test_a_frame_that_moved_is_moved_back(by: tuple[int, int]) -> None:
    movie = make_movie(40, noise=5.0, silent=True).astype(np.float32)
    still = movie.copy()
    movie[7] = np.roll(movie[7], by, (0, 1))
    found = register(movie, 6)
    inside = np.s_[6:-6, 6:-6]
    np.testing.assert_array_equal(found[7][inside], still[7][inside])
    np.testing.assert_array_equal(found[8], still[8])


def test_a_movie_without_cells_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the movie of shape \(5, 40, 40\) shows no cell body"):
        trace_cells(np.full((5, 40, 40), 100.0), 30.0, TracesSettings())
