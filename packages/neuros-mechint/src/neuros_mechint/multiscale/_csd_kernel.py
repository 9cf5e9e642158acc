r"""Kernel current source density: Gaussian sources, width and ridge by leaving one electrode out.

Sources $\tilde b_k$ along the probe have the potentials $b_k = \int \tilde b_k(z') g(z - z') dz'$.
With $K = b^\top b$ over electrodes and $\tilde K = \tilde b^\top b$ the estimate is
$\tilde K (K + \lambda I)^{-1} \phi$ (Potworowski 2012). Lengths are in units of the spacing.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Kernels", "chosen", "estimators", "kernels"]

# Four sources a spacing, and two spacings of them beyond either end: more would put currents
# where no electrode can tell them from none.
_PER_SPACING, _BEYOND = 4, 2
# Both factors of the quadrature are analytic: at these steps it is exact to the last digits.
_STEP_OF_WIDTH, _STEP_OF_RADIUS, _REACH = 2, 6, 9


class Kernels(NamedTuple):
    """What each width makes of a probe.

    Attributes:
        values: Eigenvalues of K, (widths, channels).
        vectors: Their vectors, (widths, channels, channels).
        cross: The matrix from potentials to currents, (widths, channels, channels).
    """

    values: Tensor
    vectors: Tensor
    cross: Tensor


@lru_cache(maxsize=16)
def kernels(positions: tuple[float, ...], radius: float, widths: tuple[float, ...]) -> Kernels:
    """The kernels of all widths, kept for the geometries last used.

    Examples:
        >>> kernels((0.0, 1.0, 2.0), 2.5, (1.0,)).cross.shape
        torch.Size([1, 3, 3])
    """
    place = np.array(positions)
    low, high = place.min() - _BEYOND, place.max() + _BEYOND
    sources = np.linspace(low, high, _PER_SPACING * (place.size + 2 * _BEYOND))
    away = place[:, None] - sources[None, :]
    values, vectors, cross = [], [], []
    for width in widths:
        currents = np.exp(-0.5 * (away / width) ** 2)
        potentials = _potential(away, radius, width)
        found = np.linalg.eigh(potentials @ potentials.T)
        values.append(found.eigenvalues.clip(min=0.0))
        vectors.append(found.eigenvectors)
        cross.append(currents @ potentials.T)
    return Kernels(*(torch.from_numpy(np.stack(x)) for x in (values, vectors, cross)))


def chosen(
    moment: Float[Tensor, "*batch channel channel"], found: Kernels, ridges: Float[Tensor, "ridge"]
) -> tuple[Tensor, Tensor]:
    r"""Indices of the width and the ridge with the smallest error on electrodes left out.

    With $A = (K + \lambda I)^{-1}$ the error on electrode i is $(A \phi)_i / A_{ii}$, so that the
    second moment of the potentials is all that is needed of them.

    Examples:
        >>> found = kernels((0.0, 1.0, 2.0), 2.5, (1.0,))
        >>> [int(x) for x in chosen(torch.eye(3).double(), found, torch.ones(1).double())]
        [0, 0]
    """
    errors = []
    for values, vectors in zip(found.values, found.vectors, strict=True):
        damped = 1 / (values + ridges.unsqueeze(-1) * values.mean())
        solved = (vectors * damped.unsqueeze(-2)) @ vectors.mT
        spread = ((solved @ moment.unsqueeze(-3)) * solved).sum(-1)
        errors.append((spread / solved.diagonal(dim1=-2, dim2=-1).square()).sum(-1))
    error = torch.stack(errors, -2).flatten(-2)
    best = error.argmin(-1)
    return best // ridges.shape[0], best % ridges.shape[0]


def estimators(
    width: Tensor, ridge: Float[Tensor, "*batch"], found: Kernels
) -> Float[Tensor, "*batch channel channel"]:
    """From potentials to currents with a width, by its index, and a ridge."""
    values, vectors = found.values[width], found.vectors[width]
    damped = 1 / (values + (ridge * values.mean(-1)).unsqueeze(-1))
    return found.cross[width] @ (vectors * damped.unsqueeze(-2)) @ vectors.mT


def _potential(u: NDArray[np.float64], radius: float, width: float) -> NDArray[np.float64]:
    r"""$\int e^{-s^2 / 2 w^2} g(u - s) ds$: the root by quadrature, the kink |u| in closed form."""
    from scipy.special import erf

    step = min(width / _STEP_OF_WIDTH, radius / _STEP_OF_RADIUS)
    reach = math.ceil(_REACH * width / step)
    root = np.zeros_like(u)
    for s in np.arange(-reach, reach + 1) * step:
        root += math.exp(-0.5 * (s / width) ** 2) * np.hypot(u - s, radius)
    bell = math.sqrt(2 / math.pi) * width * np.exp(-0.5 * (u / width) ** 2)
    size = bell + u * erf(u / (width * math.sqrt(2)))
    found: NDArray[np.float64] = step * root - math.sqrt(2 * math.pi) * width * size
    return found
