"""Noise ceilings: the score that a perfect model of noisy responses would reach."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint._arrays import as_real
from neuros_mechint.alignment._matrices import Matrix, one_of
from neuros_mechint.alignment._rdm_compare import RANKED, pair_scores, pair_vector, prepare, rank
from neuros_mechint.alignment.rsa import Comparison

__all__ = ["NoiseCeiling", "NoiseCeilingResult"]

CeilingMethod = Literal["rsa", "split_half", "spearman_brown", "explainable_variance"]
# Pieces of the delete-one-piece jackknife over samples.
_PIECES = 20


class NoiseCeilingResult(NamedTuple):
    """Bounds of the best score and the standard error of the lower one (`"rsa"`) or the upper one.

    Examples:
        >>> import torch
        >>> found = NoiseCeilingResult(torch.tensor(0.5), torch.tensor(0.75), torch.tensor(0.25))
        >>> {name: float(value) for name, value in found.to_dict().items()}
        {'lower': 0.5, 'upper': 0.75, 'sem': 0.25}
    """

    lower: Tensor
    upper: Tensor
    sem: Tensor

    def to_dict(self) -> dict[str, Tensor]:
        """The three tensors by name."""
        return self._asdict()


class NoiseCeiling:
    r"""The best score that the noise of the data leaves to a model.

    | `method` | `data` | lower | upper |
    |---|---|---|---|
    | `"rsa"` | matrices of subjects | a subject beside the others' mean | beside the mean of all |
    | `"split_half"` | repeats | $r$ of two halves | $\sqrt r$ |
    | `"spearman_brown"` | repeats | $r' = 2r / (1 + r)$ | $\sqrt{r'}$ |
    | `"explainable_variance"` | repeats | $EV$ of one repeat | $EV$ of the mean of all |

    For the halves the upper bound is the correlation of a perfect model with one half, for
    `"spearman_brown"` with the mean of all repeats. $EV = 1 - \mathrm{noise} / \mathrm{total}$
    variance, both without bias: the $R^2$ of a perfect model. Estimates are not clipped: below 0
    they say that the responses hold no signal. The square root of a value below 0 is 0.

    Args:
        method: Which ceiling.
        compare: For `"rsa"`: comparison of the matrices, as in `RSA`. The mean is that of ranks,
            of standardised or of unit matrices, whichever this comparison asks for.
        n_splits: For halves: how many ways to split the repeats; all of them when they are fewer.

    Examples:
        Responses without noise can be predicted in full:

        >>> import torch
        >>> signal = torch.tensor([[1.0], [3.0], [2.0], [7.0]])
        >>> ceiling = NoiseCeiling(method="explainable_variance")
        >>> ceiling.compute(torch.stack([signal, signal])).upper.tolist()
        [1.0]

    References:
        Nili et al. (2014), PLOS Comput. Biol. 10, e1003553. doi:10.1371/journal.pcbi.1003553
        Sahani & Linden (2003), NeurIPS 15, 301-308.
        Schoppe, Harper, Willmore, King & Schnupp (2016), Front. Comput. Neurosci. 10, 10.
            doi:10.3389/fncom.2016.00010
    """

    def __init__(
        self,
        *,
        method: CeilingMethod = "rsa",
        compare: Comparison = "spearman",
        n_splits: int = 100,
    ) -> None:
        one_of("method", method, get_args(CeilingMethod))
        one_of("compare", compare, get_args(Comparison))
        if n_splits < 1:
            raise ValueError(f"n_splits must be at least 1, got {n_splits}")
        self.method: CeilingMethod = method
        self.compare: Comparison = compare
        self.n_splits = n_splits

    def __repr__(self) -> str:
        return (
            f"NoiseCeiling(method={self.method!r}, compare={self.compare!r}, "
            f"n_splits={self.n_splits!r})"
        )

    def compute(
        self, data: Matrix, *, generator: torch.Generator | None = None
    ) -> NoiseCeilingResult:
        """Bounds of the best score.

        Args:
            data: For `"rsa"` the dissimilarities of every subject, (..., subjects, conditions,
                conditions); otherwise responses, (..., repeats, samples, targets).
            generator: Draws the splits when there are more than `n_splits`; None is seed 0.

        Returns:
            Lower and upper bound and a standard error: (...) for `"rsa"`, else (..., targets). The
            error is that over subjects, or a jackknife over 20 stretches of samples.

        Raises:
            TypeError: When data is not a real tensor or array.
            ValueError: When there are too few subjects, repeats or samples, matrices are not
                square, or a target does not vary.
        """
        if self.method == "rsa":
            return self._rsa(data)
        axes = ("repeats", "samples", "targets")
        x = as_real("data", data, axes=axes, at_least=(2, 3, 1))
        if bool((x == x[..., :1, :]).all(-2).any()):
            raise ValueError("a target of data is constant over the samples of a repeat; drop it")
        if self.method == "explainable_variance":
            return _jackknifed(x, _explainable)
        halves = list(self._halves(x.shape[-3], generator))
        whole = self.method == "spearman_brown"
        return _jackknifed(x, lambda part: _reliability(part, halves, whole=whole))

    def _rsa(self, data: Matrix) -> NoiseCeilingResult:
        axes = ("subjects", "conditions", "conditions")
        rdms = as_real("data", data, axes=axes, at_least=(2, 3, 3))
        n, n_conditions = rdms.shape[-3], rdms.shape[-1]
        if rdms.shape[-2] != n_conditions:
            raise ValueError(
                f"data must be (..., subjects, conditions, conditions), got {tuple(rdms.shape)}"
            )
        unit = _poolable(self.compare, rdms)
        total = unit.sum(-3, keepdim=True)
        own = prepare(self.compare, rdms)
        # A factor changes no comparison, so sums stand for means.
        others = pair_scores(self.compare, own, prepare(self.compare, total - unit))
        every = pair_scores(self.compare, own, prepare(self.compare, total).expand_as(own))
        sem = others.std(-1) / math.sqrt(n)
        return NoiseCeilingResult(others.mean(-1), every.mean(-1), sem)

    def _halves(
        self, n_repeats: int, generator: torch.Generator | None
    ) -> Iterator[tuple[list[int], list[int]]]:
        half = n_repeats // 2
        if math.comb(n_repeats, half) <= 2 * self.n_splits:
            for first in itertools.combinations(range(n_repeats), half):
                rest = [k for k in range(n_repeats) if k not in first]
                yield list(first), rest[:half]
            return
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        for _ in range(self.n_splits):
            order = torch.randperm(n_repeats, generator=generator).tolist()
            yield order[:half], order[half : 2 * half]


def _poolable(
    compare: str, rdms: Float[Tensor, "*batch subject cond cond"]
) -> Float[Tensor, "*batch subject cond cond"]:
    """Matrices on a scale on which their mean is the best common one (Nili 2014)."""
    pairs = pair_vector(rdms)
    if compare in RANKED:
        pairs = rank(pairs)
    elif compare == "pearson":
        pairs = pairs - pairs.mean(-1, keepdim=True)
    if compare not in RANKED:
        pairs = pairs / pairs.square().mean(-1, keepdim=True).sqrt()
    n = rdms.shape[-1]
    rows, columns = torch.triu_indices(n, n, offset=1, device=rdms.device)
    form = rdms.new_zeros(rdms.shape)
    form[..., rows, columns] = pairs
    return form + form.mT


def _explainable(
    x: Float[Tensor, "*batch repeat sample target"],
) -> tuple[Float[Tensor, "*batch target"], Float[Tensor, "*batch target"]]:
    """Share of the signal in the variance of one repeat and of the mean."""
    n_repeats = x.shape[-3]
    noise = x.var(-3).mean(-2)
    of_mean = x.mean(-3).var(-2)
    signal = of_mean - noise / n_repeats
    return signal / (signal + noise), signal / of_mean


def _reliability(
    x: Float[Tensor, "*batch repeat sample target"],
    halves: list[tuple[list[int], list[int]]],
    *,
    whole: bool,
) -> tuple[Float[Tensor, "*batch target"], Float[Tensor, "*batch target"]]:
    """Correlation of two halves, or of all repeats with as many others, and its root."""
    found = []
    for first, second in halves:
        a, b = (x[..., part, :, :].mean(-3) for part in (first, second))
        a, b = a - a.mean(-2, keepdim=True), b - b.mean(-2, keepdim=True)
        found.append((a * b).sum(-2) / (a.square().sum(-2) * b.square().sum(-2)).sqrt())
    r = torch.stack(found).mean(0)
    if whole:
        # Spearman-Brown for k times the length; k is 2 when the repeats are even.
        k = x.shape[-3] / len(halves[0][0])
        r = k * r / (1 + (k - 1) * r)
    return r, r.clamp(min=0).sqrt()


def _jackknifed(
    x: Float[Tensor, "*batch repeat sample target"],
    estimate: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> NoiseCeilingResult:
    """An estimate with the jackknife error of its upper bound."""
    lower, upper = estimate(x)
    pieces = torch.arange(x.shape[-2]).tensor_split(min(_PIECES, x.shape[-2] - 1))
    without = []
    for piece in pieces:
        kept = torch.ones(x.shape[-2], dtype=torch.bool)
        kept[piece] = False
        without.append(estimate(x[..., kept, :])[1])
    spread = torch.stack(without).var(0, correction=0)
    return NoiseCeilingResult(lower, upper, ((len(pieces) - 1) * spread).sqrt())
