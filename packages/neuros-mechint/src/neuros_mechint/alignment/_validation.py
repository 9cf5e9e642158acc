"""What a validation of an alignment gives back."""

from typing import NamedTuple

from torch import Tensor

__all__ = [
    "AlignmentBootstrapResult",
    "AlignmentCVResult",
    "AlignmentComparison",
    "PermutationResult",
]


class PermutationResult(NamedTuple):
    """Statistic, its p-value, and the statistics of the permuted samples, (permutations, ...).

    Examples:
        >>> import torch
        >>> null = torch.tensor([1.0, 3.0])
        >>> float(PermutationResult(torch.tensor(2.0), torch.tensor(0.5), null).z)
        0.0
    """

    statistic: Tensor
    p_value: Tensor
    null: Tensor

    @property
    def z(self) -> Tensor:
        """Distance of the statistic from the mean of the null, in standard deviations of it."""
        return (self.statistic - self.null.mean(0)) / self.null.std(0)

    def to_dict(self) -> dict[str, Tensor]:
        """The three tensors by name."""
        return self._asdict()


class AlignmentCVResult(NamedTuple):
    """Score of every fold, (folds, ...), with mean and standard error over folds.

    Examples:
        >>> import torch
        >>> ones = torch.ones(2)
        >>> sorted(AlignmentCVResult(ones, ones.mean(), ones.std()).to_dict())
        ['mean', 'scores', 'sem']
    """

    scores: Tensor
    mean: Tensor
    sem: Tensor

    def to_dict(self) -> dict[str, Tensor]:
        """The three tensors by name."""
        return self._asdict()


class AlignmentBootstrapResult(NamedTuple):
    """Statistic, its interval, and the statistics of the drawn samples, (draws, ...).

    Examples:
        >>> import torch
        >>> half = torch.tensor(0.5)
        >>> sorted(AlignmentBootstrapResult(half, half, half, half.expand(3)).to_dict())
        ['high', 'low', 'samples', 'statistic']
    """

    statistic: Tensor
    low: Tensor
    high: Tensor
    samples: Tensor

    def to_dict(self) -> dict[str, Tensor]:
        """The four tensors by name."""
        return self._asdict()


class AlignmentComparison(NamedTuple):
    """Alignment of a less that of b with the same y: difference, interval, two-sided p-value.

    Examples:
        >>> import torch
        >>> zero = torch.tensor(0.0)
        >>> sorted(AlignmentComparison(zero, zero, zero, zero + 1).to_dict())
        ['difference', 'high', 'low', 'p_value']
    """

    difference: Tensor
    low: Tensor
    high: Tensor
    p_value: Tensor

    def to_dict(self) -> dict[str, Tensor]:
        """The four tensors by name."""
        return self._asdict()
