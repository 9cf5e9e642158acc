"""Drift of a representation over checkpoints."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint._arrays import Array, Number, as_real, one_of
from neuros_mechint.alignment import CKA, Procrustes
from neuros_mechint.alignment._matrices import centered

__all__ = ["DriftResult", "RepresentationDrift"]

Metric = Literal["cka", "procrustes", "subspace"]


@dataclass(frozen=True, eq=False)
class DriftResult:
    """How far representations are from each other.

    Attributes:
        distances: Distance of every two checkpoints, (..., checkpoints, checkpoints).
        speed: Distance of successive checkpoints, (..., checkpoints - 1).
        onset: First checkpoint from which on the distance to the first one stays above the
            threshold, (...); -1 where there is none.
    """

    distances: Tensor
    speed: Tensor
    onset: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists.

        Returns:
            Field name -> value.

        Examples:
            >>> x = torch.eye(3).expand(2, 3, 3)
            >>> RepresentationDrift().compute(x).to_dict()["onset"]
            -1
        """
        return {name: value.tolist() for name, value in vars(self).items()}


class RepresentationDrift:
    r"""Distances of the representations of the same samples at every checkpoint.

    `"cka"` is 1 - CKA with a linear kernel; `"procrustes"` the angular distance in units of a
    right angle; `"subspace"` $1 - \|U_i^T U_j\|_F^2 / d$ of the d leading principal axes over
    samples. All are 0 for equal shapes, at most 1, and ignore rotations of the features.

    Args:
        metric: `"cka"`, `"procrustes"` or `"subspace"`.
        threshold: Distance from the first checkpoint that counts as drift.
        n_components: d of `"subspace"`, at most the smaller of features and samples - 1.

    Raises:
        ValueError: When a setting is out of range.

    Examples:
        >>> first = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
        >>> result = RepresentationDrift().compute(torch.stack([first, first, first.roll(1, 0)]))
        >>> result.onset, result.speed
        (tensor(2), tensor([0.0000, 0.7500]))

    References:
        Kornblith, S., Norouzi, M., Lee, H. & Hinton, G. (2019). Similarity of neural network
        representations revisited. ICML 36. arXiv:1905.00414
    """

    def __init__(
        self, *, metric: Metric = "cka", threshold: Number = 0.1, n_components: int = 2
    ) -> None:
        one_of("metric", metric, get_args(Metric))
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must be between 0 and 1, got {threshold}")
        if n_components < 1:
            raise ValueError(f"n_components must be at least 1, got {n_components}")
        self.metric: Metric = metric
        self.threshold = threshold
        self.n_components = n_components

    def __repr__(self) -> str:
        return (
            f"RepresentationDrift(metric={self.metric!r}, threshold={self.threshold}, "
            f"n_components={self.n_components})"
        )

    def compute(self, reps: Array) -> DriftResult:
        """Compare all checkpoints.

        Args:
            reps: Representations (..., checkpoints, samples, features).

        Returns:
            Distances, speed and onset.

        Raises:
            TypeError: When the representations are not a real tensor or array.
            ValueError: When an axis is too short, a checkpoint is constant over samples, they hold
                NaN or inf, or there are fewer than `n_components` axes.
        """
        axes = ("checkpoints", "samples", "features")
        x = as_real("reps", reps, axes=axes, at_least=(2, 2, 1))
        distances = self._distances(x).clamp(min=0)
        # The distance of a checkpoint from itself is 0 but for rounding.
        distances = distances - torch.diag_embed(distances.diagonal(dim1=-2, dim2=-1))
        speed = distances.diagonal(offset=1, dim1=-2, dim2=-1)
        near = distances[..., 0, :] <= self.threshold
        n = near.shape[-1]
        place = torch.arange(n, device=x.device)
        onset = torch.where(near, place, torch.zeros_like(place)).amax(-1) + 1
        onset = torch.where(onset < n, onset, torch.full_like(onset, -1))
        return DriftResult(distances, speed, onset)

    def _distances(
        self, x: Float[Tensor, "*batch checkpoint sample feature"]
    ) -> Float[Tensor, "*batch checkpoint checkpoint"]:
        if self.metric == "cka":
            every = x.unbind(-3)
            return 1 - CKA().compute_matrix(every, every)
        if self.metric == "procrustes":
            shape = (*x.shape[:-3], x.shape[-3], x.shape[-3], *x.shape[-2:])
            first, second = x.unsqueeze(-3).expand(shape), x.unsqueeze(-4).expand(shape)
            return Procrustes().compute(first, second).distance / (torch.pi / 2)
        most = min(x.shape[-1], x.shape[-2] - 1)
        if self.n_components > most:
            raise ValueError(
                f"reps has {most} principal axes, n_components={self.n_components} needs more; "
                "lower n_components"
            )
        axes = torch.linalg.svd(centered(x), full_matrices=False).U[..., : self.n_components]
        overlap = torch.einsum("...isa,...jsb->...ijab", axes, axes)
        return 1 - overlap.square().sum((-2, -1)) / self.n_components
