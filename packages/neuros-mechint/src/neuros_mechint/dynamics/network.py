"""Linear dynamics of a connectivity: modes, transients and how well each node steers the rest."""

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from neuros_mechint._arrays import Array, Number, as_real

__all__ = ["Controllability", "ControllabilityResult", "NetworkDynamics", "NetworkDynamicsResult"]

_RADII, _ANGLES = 12, 33


@dataclass(frozen=True, eq=False)
class NetworkDynamicsResult:
    r"""Quantities of one matrix, or of a batch (...).

    Attributes:
        eigenvalues: Complex, (..., nodes), the largest modulus (continuous: real part) first.
        spectral_radius: $\max |\lambda|$.
        spectral_abscissa: $\max \mathrm{Re}\,\lambda$.
        henrici: Departure from normality.
        numerical_abscissa: Largest eigenvalue of $(W + W^T) / 2$: the fastest growth at the start.
        kreiss: Lower bound of the Kreiss constant; infinite for an unstable matrix.
        max_gain: Largest norm of the propagator, start included; infinite for an unstable matrix.
        eigenvector_condition: Condition of the eigenvectors; infinite for a defective matrix.
        balance: Excitation over inhibition, $\sum W^+ / \sum |W^-|$; infinite without inhibition.
        effective_rank: $\exp$ of the entropy of the normalised singular values.
    """

    eigenvalues: Tensor
    spectral_radius: Tensor
    spectral_abscissa: Tensor
    henrici: Tensor
    numerical_abscissa: Tensor
    kreiss: Tensor
    max_gain: Tensor
    eigenvector_condition: Tensor
    balance: Tensor
    effective_rank: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists; complex numbers become pairs.

        Returns:
            Field name -> value.

        Examples:
            >>> NetworkDynamics().compute(torch.eye(2) / 2).to_dict()["spectral_radius"]
            0.5
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            k: torch.view_as_real(v).tolist() if v.is_complex() else v.tolist()
            for k, v in values.items()
        }


class NetworkDynamics:
    r"""Describe $h_{t+1} = W h_t$, or $\dot h = W h$.

    The Henrici departure $\sqrt{\|W\|_F^2 - \sum |\lambda|^2}$ is 0 for a normal matrix. The Kreiss
    constant $\sup_{|z| > 1} (|z| - 1) \|(z - W)^{-1}\|_2$ bounds the transient gain
    $\max_t \|W^t\|_2$ from below; it is evaluated on a grid. The continuous counterparts take
    $\mathrm{Re}\,z > 0$ and $e^{W t}$.

    Args:
        continuous: Whether W is the generator of a flow.
        dt: Step at which a flow is sampled.
        n_steps: Steps over which the largest gain is looked for.

    Raises:
        ValueError: When `dt` or `n_steps` is not positive.

    Examples:
        >>> shear = torch.tensor([[0.5, 4.0], [0.0, 0.5]])
        >>> result = NetworkDynamics().compute(shear)
        >>> result.henrici, result.max_gain > 4
        (tensor(4.), tensor(True))

    References:
        Henrici, P. (1962). Bounds for iterates, inverses, spectral variation and fields of values
        of non-normal matrices. Numerische Mathematik 4, 24-40. doi:10.1007/BF01386294

        Trefethen, L. N. & Embree, M. (2005). Spectra and pseudospectra. Princeton University Press.
        doi:10.1515/9780691213101
    """

    def __init__(self, *, continuous: bool = False, dt: Number = 1.0, n_steps: int = 100) -> None:
        if not dt > 0:
            raise ValueError(f"dt must be above 0, got {dt}")
        if n_steps < 1:
            raise ValueError(f"n_steps must be at least 1, got {n_steps}")
        self.continuous = continuous
        self.dt = dt
        self.n_steps = n_steps

    def __repr__(self) -> str:
        return (
            f"NetworkDynamics(continuous={self.continuous}, dt={self.dt}, n_steps={self.n_steps})"
        )

    def compute(self, W: Array) -> NetworkDynamicsResult:
        """Analyse a connectivity.

        Args:
            W: Matrices (..., nodes, nodes); entry (i, j) acts from j on i.

        Returns:
            One value per matrix, (...).

        Raises:
            TypeError: When W is not a real tensor or array.
            ValueError: When W is not square, or holds NaN or inf.
        """
        given = _square(W)
        matrix = given.double()
        values, vectors = torch.linalg.eig(matrix)
        measure = values.real if self.continuous else values.abs()
        order = measure.argsort(dim=-1, descending=True, stable=True)
        singular = torch.linalg.svdvals(matrix)
        share = singular / singular.sum(-1, keepdim=True).clamp(min=1e-300)
        departure = matrix.square().sum((-2, -1)) - values.abs().square().sum(-1)
        edge = values.real.amax(-1) if self.continuous else values.abs().amax(-1)
        unstable = edge > (0.0 if self.continuous else 1.0)
        result = NetworkDynamicsResult(
            eigenvalues=values.gather(-1, order),
            spectral_radius=values.abs().amax(-1),
            spectral_abscissa=values.real.amax(-1),
            # Rounding of the eigenvalues leaves a difference of either sign for a normal matrix.
            henrici=_clean(departure, matrix.square().sum((-2, -1))).sqrt(),
            numerical_abscissa=torch.linalg.eigvalsh((matrix + matrix.mT) / 2).amax(-1),
            kreiss=self._kreiss(matrix, singular).masked_fill(unstable, math.inf),
            max_gain=self._gain(matrix).masked_fill(unstable, math.inf),
            eigenvector_condition=torch.linalg.cond(vectors),
            balance=matrix.clamp(min=0).sum((-2, -1)) / matrix.clamp(max=0).sum((-2, -1)).abs(),
            effective_rank=torch.special.entr(share).sum(-1).exp(),
        )
        out = {
            field.name: _as_input(getattr(result, field.name), given.dtype)
            for field in fields(result)
        }
        return NetworkDynamicsResult(**out)

    def _gain(self, matrix: Float64[Tensor, "*batch node node"]) -> Float64[Tensor, "*batch"]:
        step = torch.linalg.matrix_exp(matrix * self.dt) if self.continuous else matrix
        now = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device).expand_as(step)
        best = torch.ones(matrix.shape[:-2], dtype=matrix.dtype, device=matrix.device)
        for _ in range(self.n_steps):
            now = step @ now
            best = torch.maximum(best, torch.linalg.matrix_norm(now.nan_to_num(), 2))
        return best

    def _kreiss(
        self, matrix: Float64[Tensor, "*batch node node"], singular: Float64[Tensor, "*batch node"]
    ) -> Float64[Tensor, "*batch"]:
        n = matrix.shape[-1]
        eye = torch.eye(n, dtype=torch.complex128, device=matrix.device)
        # A real matrix looks the same from both sides of the real axis.
        turn = torch.linspace(0, 1, _ANGLES, dtype=torch.float64, device=matrix.device)
        scale = singular.amax(-1).clamp(min=1e-12)[..., None]
        best = torch.ones(matrix.shape[:-2], dtype=matrix.dtype, device=matrix.device)
        for k in range(_RADII):
            off = 10.0 ** (1 - k / 3)
            if self.continuous:
                gap, z = off * scale, torch.complex(off * scale + 0 * turn, turn * scale)
            else:
                gap = torch.full_like(scale, off)
                z = torch.polar(torch.full_like(turn, 1 + off), math.pi * turn).expand(
                    *scale.shape[:-1], -1
                )
            smallest = torch.linalg.svdvals(z[..., None, None] * eye - matrix[..., None, :, :])
            best = torch.maximum(best, (gap / smallest[..., -1].clamp(min=1e-300)).amax(-1))
        return best


class ControllabilityResult(NamedTuple):
    """How well each node steers the network.

    Attributes:
        average: Energy that an impulse at the node leaves in the network, (..., nodes).
        modal: Reach of the node into fast modes, (..., nodes).
    """

    average: Tensor
    modal: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists.

        Returns:
            Field name -> value.

        Examples:
            >>> Controllability().compute(torch.zeros(1, 1)).to_dict()
            {'average': [1.0], 'modal': [1.0]}
        """
        return {"average": self.average.tolist(), "modal": self.modal.tolist()}


class Controllability:
    r"""Average and modal controllability of $h_{t+1} = W h_t + e_i u_t$.

    Average: the trace of the Gramian of input at node i, $\sum_t \|W^t e_i\|^2$. Modal:
    $\sum_j (1 - |\lambda_j|^2) |v_{ij}|^2$ with eigenvectors of length 1.

    Args:
        normalize: Whether W is first divided by 1 + its largest singular value.

    Examples:
        >>> result = Controllability().compute(torch.tensor([[0.5, 0.0], [0.0, 0.0]]))
        >>> result.average, result.modal
        (tensor([1.3333, 1.0000]), tensor([0.7500, 1.0000]))

    References:
        Gu, S. et al. (2015). Controllability of structural brain networks. Nature Communications 6,
        8414. doi:10.1038/ncomms9414
    """

    def __init__(self, *, normalize: bool = False) -> None:
        self.normalize = normalize

    def __repr__(self) -> str:
        return f"Controllability(normalize={self.normalize})"

    def compute(self, W: Array) -> ControllabilityResult:
        """Measure every node.

        Args:
            W: Matrices (..., nodes, nodes); entry (i, j) acts from j on i.

        Returns:
            Average and modal controllability, (..., nodes).

        Raises:
            TypeError: When W is not a real tensor or array.
            ValueError: When W is not square, holds NaN or inf, or is unstable.
        """
        given = _square(W)
        matrix = given.double()
        if self.normalize:
            matrix = matrix / (1 + torch.linalg.matrix_norm(matrix, 2))[..., None, None]
        values, vectors = torch.linalg.eig(matrix)
        radius = float(values.abs().max())
        if radius >= 1:
            raise ValueError(
                f"W must be stable, its spectral radius is {radius:.4g}, needs to be below 1; pass "
                "normalize=True to divide it by 1 + its largest singular value"
            )
        # X = sum (W^T)^t W^t by doubling: k steps add 2^k terms.
        gramian = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        gramian, power = gramian.expand_as(matrix), matrix
        while float(power.abs().max()) > 1e-18:
            gramian = gramian + power.mT @ gramian @ power
            power = power @ power
        modal = ((1 - values.abs().square())[..., None, :] * vectors.abs().square()).sum(-1)
        average = gramian.diagonal(dim1=-2, dim2=-1)
        return ControllabilityResult(average.to(given.dtype), modal.to(given.dtype))


def _square(W: Array) -> Tensor:
    matrix = as_real("W", W, axes=("nodes", "nodes"), at_least=(1, 1))
    if matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"W must be square, got shape {tuple(matrix.shape)}")
    return matrix


def _clean(
    value: Float64[Tensor, "*batch"], scale: Float64[Tensor, "*batch"]
) -> Float64[Tensor, "*batch"]:
    return torch.where(value > 1e-13 * scale, value, torch.zeros_like(value))


def _as_input(value: Tensor, dtype: torch.dtype) -> Tensor:
    if value.is_complex():
        return value.to(torch.complex128 if dtype == torch.float64 else torch.complex64)
    return value.to(dtype)
