"""Is an alignment more than chance, does it hold on other samples, and how sure is it?"""

import math
from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from neuros_mechint._bootstrap import as_rng
from neuros_mechint.alignment._folds import (
    Labels,
    cluster_codes_of,
    cluster_folds,
    contiguous_folds,
    permutation_orders,
)
from neuros_mechint.alignment._matrices import Matrix, as_pair
from neuros_mechint.alignment._procrustes import Procrustes
from neuros_mechint.alignment._validation import (
    AlignmentBootstrapResult,
    AlignmentComparison,
    AlignmentCVResult,
    PermutationResult,
)

__all__ = [
    "AlignmentBootstrapResult",
    "AlignmentCVResult",
    "AlignmentComparison",
    "AlignmentValidator",
    "PermutationResult",
]


@runtime_checkable
class _Estimator(Protocol):
    def compute(self, x: Matrix, y: Matrix) -> object: ...


@runtime_checkable
class _Permutable(Protocol):
    def compute_permuted(self, x: Matrix, y: Matrix, orders: Tensor) -> Tensor: ...


@runtime_checkable
class _Fitted(Protocol):
    def fit(self, x: Matrix, y: Matrix) -> object: ...

    def score(self, x: Matrix, y: Matrix) -> Tensor: ...


Metric: TypeAlias = _Estimator | Callable[[Tensor, Tensor], Tensor]


class AlignmentValidator:
    r"""Null, held-out score, interval and comparison of any alignment.

    Samples that resemble their neighbours carry less evidence than their number says. Two ways to
    say so, which every method takes: `groups`, one label per sample (a session, a subject, a film),
    and `block`, how many neighbouring samples move together. Folds never split a group or a block;
    permutations move samples within their group, as whole blocks; draws take whole groups or
    blocks with replacement.

    Args:
        metric: An object with `compute(x, y)`, or a function of two matrices. With
            `compute_permuted`, as all classes here have, 1000 permutations cost a few evaluations.
        n_perm: Permutations.
        cv: Folds.
        n_boot: Draws of the bootstrap.
        confidence: Of the intervals.
        block: Neighbouring samples that move together; None when samples are independent.
        smaller_is_closer: Whether the metric is a distance; None is True for `Procrustes`.

    Examples:
        >>> import torch
        >>> from neuros_mechint.alignment import CKA
        >>> x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
        >>> AlignmentValidator(CKA(), n_perm=99).permutation_test(x, x).p_value
        tensor(0.0100, dtype=torch.float64)

    References:
        Phipson & Smyth (2010), Stat. Appl. Genet. Mol. Biol. 9, 39. doi:10.2202/1544-6115.1585
        Künsch (1989), Ann. Stat. 17, 1217-1241. doi:10.1214/aos/1176347265
        Davison & Hinkley (1997), Bootstrap Methods and their Application, section 5.2.
    """

    def __init__(
        self,
        metric: Metric,
        *,
        n_perm: int = 1000,
        cv: int = 5,
        n_boot: int = 1000,
        confidence: float = 0.95,
        block: int | None = None,
        smaller_is_closer: bool | None = None,
    ) -> None:
        if not isinstance(metric, _Estimator) and not callable(metric):
            raise TypeError(
                f"metric must have compute(x, y) or be a function, got {type(metric).__name__}"
            )
        low = {"n_perm": (n_perm, 1), "cv": (cv, 2), "n_boot": (n_boot, 2), "block": (block, 1)}
        for name, (value, least) in low.items():
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
        self.metric: object = metric
        self.n_perm = n_perm
        self.cv = cv
        self.n_boot = n_boot
        self.confidence = confidence
        self.block = block
        distance = isinstance(metric, Procrustes)
        self.smaller_is_closer = distance if smaller_is_closer is None else smaller_is_closer

    def __repr__(self) -> str:
        return (
            f"AlignmentValidator({self.metric!r}, n_perm={self.n_perm!r}, cv={self.cv!r}, "
            f"n_boot={self.n_boot!r}, confidence={self.confidence!r}, block={self.block!r}, "
            f"smaller_is_closer={self.smaller_is_closer!r})"
        )

    def permutation_test(
        self,
        x: Matrix,
        y: Matrix,
        *,
        groups: Labels | None = None,
        generator: torch.Generator | None = None,
    ) -> PermutationResult:
        r"""Is the alignment closer than when the samples of y are re-ordered?

        $p = (1 + \#\{\mathrm{null} \ge \mathrm{statistic}\}) / (1 + n)$, so it is never 0. It asks
        about any dependence between the sides; blocks must be longer than the samples remember.

        Args:
            x: First representation, (..., samples, features_x).
            y: Second representation, (..., samples, features_y), of the same samples.
            groups: One label per sample; samples change places within their group only.
            generator: Draws the orders, the same for every batch item; None is seed 0.

        Returns:
            Statistic and p-value (...), null (permutations, ...).

        Raises:
            TypeError: When x or y is not a real tensor or array.
            ValueError: When nothing can change places, or the metric refuses the input.
        """
        first, second = as_pair(x, y)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        orders = permutation_orders(
            first.shape[-2], self.n_perm, groups=groups, block=self.block, generator=generator
        )
        with torch.no_grad():
            statistic = self._value(first, second)
            null = self._null(first, second, orders)
        # The same order of samples can come out with another rounding.
        slack = 1e3 * torch.finfo(null.dtype).eps * statistic.abs().clamp(min=1)
        at_least = (
            null <= statistic + slack if self.smaller_is_closer else null >= statistic - slack
        )
        p_value = (1 + at_least.sum(0)).to(null.dtype) / (1 + len(null))
        return PermutationResult(statistic, p_value, null)

    def cross_validate(
        self, x: Matrix, y: Matrix, *, groups: Labels | None = None
    ) -> AlignmentCVResult:
        """Score of samples that were held out.

        A metric with `fit` and `score` is fitted to the other folds; one without parameters is
        evaluated within each fold. Folds are stretches of neighbouring samples, or whole groups.

        Args:
            x: First representation, (..., samples, features_x).
            y: Second representation, (..., samples, features_y), of the same samples.
            groups: One label per sample; no group is in two folds.

        Returns:
            Scores (folds, ...), mean and standard error over folds (...).

        Raises:
            TypeError: When x or y is not a real tensor or array.
            ValueError: When there are fewer samples, groups or blocks than folds.
        """
        first, second = as_pair(x, y)
        scores = []
        with torch.no_grad():
            for train, test in self._folds(first.shape[-2], groups):
                held = first[..., test, :], second[..., test, :]
                if isinstance(self.metric, _Fitted):
                    self.metric.fit(first[..., train, :], second[..., train, :])
                    scores.append(self.metric.score(*held))
                else:
                    scores.append(self._value(*held))
        found = torch.stack(scores)
        return AlignmentCVResult(found, found.mean(0), found.std(0) / math.sqrt(len(found)))

    def bootstrap(
        self,
        x: Matrix,
        y: Matrix,
        *,
        groups: Labels | None = None,
        generator: torch.Generator | None = None,
    ) -> AlignmentBootstrapResult:
        """Interval of the alignment over draws of the samples.

        A drawn sample can come twice and is its own best match, which raises most metrics; the
        basic interval (Davison & Hinkley 1997), the statistic less the quantiles of the draws'
        excess, takes that away to first order.

        Args:
            x: First representation, (..., samples, features_x).
            y: Second representation, (..., samples, features_y), of the same samples.
            groups: One label per sample; whole groups are drawn.
            generator: Draws the samples; None is seed 0.

        Returns:
            Statistic, low and high (...), samples (draws, ...).

        Raises:
            TypeError: When x or y is not a real tensor or array.
            ValueError: When there are fewer than two groups or blocks.
        """
        first, second = as_pair(x, y)
        draws = self._draws(first.shape[-2], groups, generator)
        with torch.no_grad():
            statistic = self._value(first, second)
            drawn = [self._value(first[..., k, :], second[..., k, :]) for k in draws]
        samples = torch.stack(drawn)
        low, high = self._interval(statistic, samples)
        return AlignmentBootstrapResult(statistic, low, high, samples)

    def compare(
        self,
        a: Matrix,
        b: Matrix,
        y: Matrix,
        *,
        groups: Labels | None = None,
        generator: torch.Generator | None = None,
    ) -> AlignmentComparison:
        """Is a better aligned with y than b is? Both are evaluated on the same draws.

        Args:
            a: First candidate, (..., samples, features_a).
            b: Second candidate, (..., samples, features_b), of the same samples.
            y: What they are aligned with, (..., samples, features_y).
            groups: One label per sample; whole groups are drawn.
            generator: Draws the samples; None is seed 0.

        Returns:
            Difference, its basic interval, and the two-sided p-value of no difference, (...).

        Raises:
            TypeError: When a side is not a real tensor or array.
            ValueError: When the samples differ, or there are fewer than two groups or blocks.
        """
        first, target = as_pair(a, y)
        other, _ = as_pair(b, target)
        draws = self._draws(target.shape[-2], groups, generator)
        with torch.no_grad():
            difference = self._value(first, target) - self._value(other, target)
            drawn = []
            for k in draws:
                truth = target[..., k, :]
                one, two = (self._value(z[..., k, :], truth) for z in (first, other))
                drawn.append(one - two)
        samples = torch.stack(drawn)
        low, high = self._interval(difference, samples)
        # Recentred draws stand for the null of no difference.
        extreme = ((samples - samples.mean(0)).abs() >= difference.abs()).sum(0)
        p_value = (1 + extreme).to(samples.dtype) / (1 + len(samples))
        return AlignmentComparison(difference, low, high, p_value)

    def _value(self, x: Tensor, y: Tensor) -> Tensor:
        found = self.metric.compute(x, y) if isinstance(self.metric, _Estimator) else None
        found = self.metric(x, y) if found is None and callable(self.metric) else found
        value = getattr(found, "distance", found)
        if not isinstance(value, Tensor):
            raise TypeError(f"metric must give a tensor, got {type(value).__name__}")
        return value

    def _null(self, x: Tensor, y: Tensor, orders: Tensor) -> Tensor:
        if isinstance(self.metric, _Permutable):
            return self.metric.compute_permuted(x, y, orders)
        moved = [self._value(x, y[..., order, :]) for order in orders.to(y.device)]
        return torch.stack(moved)

    def _folds(self, n_samples: int, groups: Labels | None) -> list[tuple[Tensor, Tensor]]:
        # Blocks within a group stay with it.
        codes = cluster_codes_of(n_samples, groups, None)
        if codes is not None:
            tests = cluster_folds(codes, self.cv)
        elif self.block is not None:
            n_blocks = -(-n_samples // self.block)
            spans = contiguous_folds(n_blocks, self.cv)
            at = torch.arange(n_samples) // self.block
            tests = [torch.isin(at, span).nonzero()[:, 0] for span in spans]
        else:
            tests = contiguous_folds(n_samples, self.cv)
        if min(len(test) for test in tests) < 2:
            raise ValueError(
                f"cv={self.cv} folds of {n_samples} samples leave a fold with fewer than 2; "
                "lower cv or the block"
            )
        every = torch.arange(n_samples)
        return [(every[~torch.isin(every, test)], test) for test in tests]

    def _draws(
        self, n_samples: int, groups: Labels | None, generator: torch.Generator | None
    ) -> list[Tensor]:
        codes = cluster_codes_of(n_samples, groups, self.block)
        codes = torch.arange(n_samples) if codes is None else codes
        members = [(codes == code).nonzero()[:, 0] for code in range(int(codes.max()) + 1)]
        if len(members) < 2:
            raise ValueError(
                "a bootstrap needs at least two groups or blocks to draw from, got one; pass finer "
                "groups or a smaller block"
            )
        rng = as_rng(generator)
        picks = rng.integers(len(members), size=(self.n_boot, len(members)))
        # A draw of one cluster alone says nothing about the alignment.
        lone = (picks == picks[:, :1]).all(1)
        picks[lone, 0] = (picks[lone, 0] + 1) % len(members)
        return [torch.cat([members[k] for k in pick]) for pick in picks.tolist()]

    def _interval(self, statistic: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        tail = (1 - self.confidence) / 2
        at = torch.tensor([tail, 1 - tail], dtype=samples.dtype, device=samples.device)
        low, high = samples.quantile(at, dim=0)
        return 2 * statistic - high, 2 * statistic - low
