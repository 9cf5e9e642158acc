"""What current dipoles add to sensors in a medium without borders."""

import math

import torch
from torch import Tensor

from neuros_mechint._arrays import Array, Number, as_real
from neuros_mechint.multiscale._lfp_arguments import as_floating

__all__ = ["dipole_leadfield"]


def dipole_leadfield(
    sources: Array, orientations: Array, sensors: Array, sigma: Number = 0.3
) -> Tensor:
    r"""Potentials of current dipoles in an infinite homogeneous medium.

    $$V = \frac{p \cdot r}{4 \pi \sigma |r|^3}$$ with r from the dipole p to the sensor.

    Args:
        sources: Places of the dipoles in m, (..., sources, 3).
        orientations: Moments of the dipoles at unit strength, (..., sources, 3); unit vectors make
            the strengths moments in A m.
        sensors: Places of the sensors in m, (..., sensors, 3).
        sigma: Conductivity, S/m.

    Returns:
        Potential in V at each sensor of each dipole at unit strength, (..., sensors, sources), in
        the widest dtype of the three.

    Raises:
        TypeError: When an argument is no floating tensor or array.
        ValueError: When a shape does not fit, sigma is not positive, or a sensor lies on a dipole.

    Examples:
        A dipole of 1 nA m that points at a sensor 5 cm away:

        >>> import numpy as np
        >>> towards = np.array([[0.0, 0.0, 1.0]])
        >>> field = dipole_leadfield(np.zeros((1, 3)), towards, 0.05 * towards)
        >>> round(float(1e-9 * field) * 1e6, 4)
        0.1061

    References:
        Nunez & Srinivasan (2006). Electric Fields of the Brain. Oxford University Press.
        doi:10.1093/acprof:oso/9780195050387.001.0001
    """
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be positive and finite, in S/m, got {sigma:g}")
    place = _points("sources", sources)
    moment = _points("orientations", orientations)
    sensor = _points("sensors", sensors)
    if moment.shape != place.shape:
        raise ValueError(
            f"orientations must have the shape of sources, {tuple(place.shape)}, got "
            f"{tuple(moment.shape)}"
        )
    away = sensor.unsqueeze(-2) - place.unsqueeze(-3)
    distance: Tensor = torch.linalg.vector_norm(away, dim=-1)
    if not bool((distance > 0).all()):
        raise ValueError("a sensor lies on a dipole, where the potential has no value; move it")
    along = (away * moment.unsqueeze(-3)).sum(-1)
    return along / (4 * math.pi * sigma * distance**3)


def _points(name: str, value: Array) -> Tensor:
    points = as_real(name, as_floating(name, value), axes=(name, "coordinates"), at_least=(1, 3))
    if points.shape[-1] != 3:
        raise ValueError(f"{name} must be (..., {name}, 3), got shape {tuple(points.shape)}")
    return points
