"""Change points: when a series, such as a training curve, enters another phase."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from neuros_mechint._arrays import Array, Number, as_real, one_of
from neuros_mechint.dynamics._change_costs import cost_of, noise_variance
from neuros_mechint.dynamics._change_search import binary_segmentation, pruned_partition

__all__ = ["PhaseTransitionDetector", "PhaseTransitions"]

Method = Literal["pelt", "binseg"]
Change = Literal["mean", "slope", "variance"]
# Parameters that one more change adds, and the price of each in units of log n.
_PRICE = {"mean": 3.0, "slope": 4.0, "variance": 4.0}


@dataclass(frozen=True, eq=False)
class PhaseTransitions:
    """Where a series changes.

    Attributes:
        mask: True at the first sample after every change, (..., time).
        p: Permutation p value at every change, NaN elsewhere, (..., time). It takes the changes
            before and after as given: uniform without a change where these were not searched for in
            the same series, so also for an only change; smaller beside changes that are noise too.
        penalty: What a change had to gain, (...).
    """

    mask: Tensor
    p: Tensor
    penalty: Tensor

    @property
    def indices(self) -> list[Any]:
        """First sample after every change: a list, nested as the batch is."""
        return _nested(self.mask)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists.

        Returns:
            Indices, the p value of each, and the penalty.

        Examples:
            >>> step = torch.cat([torch.zeros(10), torch.ones(10)])
            >>> PhaseTransitionDetector(penalty=0.1).compute(step).to_dict()["indices"]
            [10]
        """
        kept = self.p.flatten()[self.mask.flatten()].tolist()
        return {"indices": self.indices, "p": kept, "penalty": self.penalty.tolist()}


class PhaseTransitionDetector:
    r"""Find changes of the mean, the slope or the variance of a series.

    The segmentation minimises the costs of its segments plus a penalty per change; a cost is the
    sum of squares about the mean or the line, or $n \log \hat\sigma^2$. `"pelt"` finds the minimum,
    `"binseg"` splits greedily. The penalty `"bic"` is $3 \hat\sigma^2 \log n$ for means, the
    modified criterion of Zhang and Siegmund, and $4 \hat\sigma^2 \log n$ for lines and variances,
    with the noise $\hat\sigma$ from differences of the series: it holds for white noise.

    `"pelt"` advances all series of a batch together. `"binseg"` and the p values take one series
    after the other, since each has its own segments; the shuffles of a change are one tensor.

    Args:
        method: `"pelt"` or `"binseg"`.
        change: `"mean"`, `"slope"` (mean and slope) or `"variance"` about a segment's own mean.
        penalty: `"bic"`, or what a change has to gain in the units of the cost.
        min_size: Fewest samples between changes.
        n_permutations: Shuffles behind every p value: samples of the two segments beside a change
            (about one line for slopes) trade places, and the best split of every shuffle is taken.
        generator: Source of the shuffles; None takes the one of torch.

    Raises:
        ValueError: When a setting is out of range.

    Examples:
        >>> step = torch.cat([torch.zeros(30), torch.ones(30)])
        >>> noise = 0.1 * torch.sin(40 * torch.arange(60.0))
        >>> PhaseTransitionDetector().compute(step + noise).indices
        [30]

    References:
        Killick, R., Fearnhead, P. & Eckley, I. A. (2012). Optimal detection of changepoints with a
        linear computational cost. Journal of the American Statistical Association 107, 1590-1598.
        doi:10.1080/01621459.2012.737745

        Zhang, N. R. & Siegmund, D. O. (2007). A modified Bayes information criterion with
        applications to the analysis of comparative genomic hybridization data. Biometrics 63,
        22-32. doi:10.1111/j.1541-0420.2006.00662.x
    """

    def __init__(
        self,
        *,
        method: Method = "pelt",
        change: Change = "mean",
        penalty: Number | Literal["bic"] = "bic",
        min_size: int = 5,
        n_permutations: int = 199,
        generator: torch.Generator | None = None,
    ) -> None:
        one_of("method", method, get_args(Method))
        one_of("change", change, get_args(Change))
        if isinstance(penalty, str):
            one_of("penalty", penalty, ("bic",))
        elif not penalty > 0:
            raise ValueError(f"penalty must be 'bic' or above 0, got {penalty}")
        least = {"mean": 1, "slope": 3, "variance": 2}[change]
        if min_size < least:
            raise ValueError(f"min_size must be at least {least} for {change!r}, got {min_size}")
        if n_permutations < 1:
            raise ValueError(f"n_permutations must be at least 1, got {n_permutations}")
        self.method: Method = method
        self.change: Change = change
        self.penalty = penalty
        self.min_size = min_size
        self.n_permutations = n_permutations
        self.generator = generator

    def __repr__(self) -> str:
        return (
            f"PhaseTransitionDetector(method={self.method!r}, change={self.change!r}, "
            f"penalty={self.penalty!r}, min_size={self.min_size})"
        )

    def compute(self, series: Array) -> PhaseTransitions:
        """Find the changes.

        Args:
            series: Values (..., time).

        Returns:
            A mask of the changes and the p value of each.

        Raises:
            TypeError: When the series is not a real tensor or array.
            ValueError: When it is shorter than two segments, or holds NaN or inf.
        """
        given = as_real("series", series, axes=("time",), at_least=(max(4, 2 * self.min_size),))
        n = given.shape[-1]
        rows = given.reshape(-1, n).double()
        penalty = self._penalty(rows)
        search = pruned_partition if self.method == "pelt" else binary_segmentation
        found = search(cost_of(rows, self.change), penalty, n, self.min_size)
        mask = torch.zeros(rows.shape, dtype=torch.bool, device=rows.device)
        p = torch.full_like(rows, torch.nan)
        for k, points in enumerate(found):
            ends = [0, *points, n]
            for j, point in enumerate(points):
                mask[k, point] = True
                p[k, point] = self._p_value(rows[k, ends[j] : ends[j + 2]], point - ends[j])
        lead = given.shape[:-1]
        return PhaseTransitions(mask.view(given.shape), p.view(given.shape), penalty.view(lead))

    def _penalty(self, rows: Float64[Tensor, "series time"]) -> Float64[Tensor, "series"]:
        if not isinstance(self.penalty, str):
            return torch.full_like(rows[:, 0], float(self.penalty))
        noise = noise_variance(rows, self.change)
        # Rounding alone must not look like a change of a series without noise.
        floor = 1e-20 + 1e-12 * rows.square().mean(-1)
        price = _PRICE[self.change] * math.log(rows.shape[-1])
        return price * torch.maximum(noise, floor)

    def _p_value(self, values: Float64[Tensor, " time"], point: int) -> float:
        n = len(values)
        if self.change == "slope":
            time = torch.arange(n, dtype=values.dtype, device=values.device)
            time = time - time.mean()
            values = values - values.mean() - time * (time @ values) / (time @ time)
        drawn = torch.rand(self.n_permutations, n, generator=self.generator, device=values.device)
        every = torch.cat([values[None], values[drawn.argsort(dim=1)]])
        cost = cost_of(every, self.change)
        middle = torch.arange(self.min_size, n - self.min_size + 1, device=values.device)
        low, high = torch.zeros_like(middle), torch.full_like(middle, n)
        after = cost(low, middle) + cost(middle, high)
        gain = cost(low[:1], high[:1]) - after
        beyond = gain[1:].amax(1) >= gain[0, point - self.min_size]
        return (1 + int(beyond.sum())) / (1 + self.n_permutations)


def _nested(mask: Tensor) -> list[Any]:
    if mask.ndim == 1:
        return [int(k) for k in mask.nonzero()[:, 0]]
    return [_nested(row) for row in mask]
