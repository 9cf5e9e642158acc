"""Dipoles in a medium without borders: two close charges, symmetry, errors."""

import math

import numpy as np
import pytest
import torch

from neuros_mechint.multiscale import dipole_leadfield


def points(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_dipole_is_the_limit_of_two_charges() -> None:
    sources, moments, sensors = points(3, 0), points(3, 1), 5 * points(4, 2)
    found = dipole_leadfield(sources, moments, sensors, sigma=0.2)
    half = 5e-5 * moments

    def charges(place: torch.Tensor) -> torch.Tensor:
        return 1 / (4 * math.pi * 0.2 * torch.cdist(sensors, place))

    expected = (charges(sources + half) - charges(sources - half)) / 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_the_field_is_odd_and_falls_with_the_square() -> None:
    source = np.zeros((1, 3))
    up = np.array([[0.0, 0.0, 1.0]])
    heights = np.array([[0, 0, 1.0], [0, 0, 2.0], [0, 0, -1.0], [1.0, 0, 0]])
    found = dipole_leadfield(source, up, heights, sigma=1 / (4 * math.pi))
    np.testing.assert_allclose(found[:, 0].numpy(), [1, 0.25, -1, 0], atol=1e-15)


def test_a_batch_of_heads_is_a_loop_with_gradients() -> None:
    sources, moments = points(4, 0).reshape(2, 2, 3), points(4, 1).reshape(2, 2, 3)
    sensors = 5 * points(3, 2)
    together = dipole_leadfield(sources, moments, sensors)
    for k in range(2):
        torch.testing.assert_close(together[k], dipole_leadfield(sources[k], moments[k], sensors))
    inputs = tuple(x.requires_grad_() for x in (sources, moments, sensors))
    assert torch.autograd.gradcheck(dipole_leadfield, inputs)


def test_bad_arguments_are_named() -> None:
    x = points(2, 0)
    with pytest.raises(ValueError, match="sigma must be positive and finite, in S/m, got 0"):
        dipole_leadfield(x, x, x + 1, sigma=0.0)
    with pytest.raises(ValueError, match=r"orientations must have the shape of sources, \(2, 3\)"):
        dipole_leadfield(x, x[:1], x + 1)
    with pytest.raises(ValueError, match="a sensor lies on a dipole"):
        dipole_leadfield(x, x, x)
    with pytest.raises(ValueError, match=r"sources must be \(\.\.\., sources, 3\)"):
        dipole_leadfield(torch.ones(2, 4), torch.ones(2, 4), x)
    with pytest.raises(TypeError, match="sensors must be a floating tensor or array, got torch"):
        dipole_leadfield(x, x, torch.ones(2, 3, dtype=torch.int64))
