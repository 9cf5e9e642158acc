"""The terms of a linear model of conditions, and the sums of squares that each explains."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Term", "condition_of", "cross_validated", "partition", "residual", "terms_of"]

_RANK_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Term:
    """One effect: the conditions it is of and its columns, (samples, columns)."""

    conditions: tuple[str, ...]
    columns: Tensor

    @property
    def name(self) -> str:
        """The conditions, joined by a colon."""
        return ":".join(self.conditions)


def condition_of(name: str, values: object) -> tuple[Tensor, bool]:
    """The values of a condition as a tensor, and whether they are labels (coded from 0).

    Examples:
        >>> condition_of("task", ["left", "right", "left"])
        (tensor([0, 1, 0]), True)
    """
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if array.ndim not in {1, 2}:
        raise ValueError(
            f"condition {name!r} must be (trials,) or (trials, time), got shape {array.shape}"
        )
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ValueError(f"condition {name!r} holds NaN or inf; leave those trials out")
        return torch.as_tensor(array, dtype=torch.float64), False
    levels, codes = np.unique(array, return_inverse=True)
    if len(levels) < 2:
        raise ValueError(f"condition {name!r} has one level, {levels[0]!r}; it can explain nothing")
    return torch.as_tensor(codes.reshape(array.shape)), True


def terms_of(conditions: Mapping[str, tuple[Tensor, bool]], *, order: int) -> list[Term]:
    """Main effects and the interactions of up to so many conditions.

    Labels are coded to sum to zero, values are standardised, interactions are products.
    """
    mains = {name: _main(values, labels=labels) for name, (values, labels) in conditions.items()}
    terms = []
    for size in range(1, min(order, len(mains)) + 1):
        for names in itertools.combinations(mains, size):
            columns = mains[names[0]]
            for other in names[1:]:
                columns = (columns[:, :, None] * mains[other][:, None]).flatten(1)
            terms.append(Term(names, columns))
    _check_rank(terms)
    return terms


def _main(values: Tensor, *, labels: bool) -> Float[Tensor, "sample column"]:
    if not labels:
        centred = values - values.mean()
        return (centred / centred.std().clamp(min=1e-300))[:, None]
    coded = torch.nn.functional.one_hot(values).double()
    return coded[:, :-1] - coded[:, -1:]


def _check_rank(terms: Sequence[Term]) -> None:
    n = len(terms[0].columns)
    ones = torch.ones(n, 1, dtype=torch.float64)

    def rank(chosen: Sequence[Term]) -> int:
        design = torch.cat([ones, *(t.columns for t in chosen)], 1)
        sizes = design.norm(dim=0)
        values = torch.linalg.svdvals(design / torch.where(sizes > 0, sizes, 1.0))
        return int((values > _RANK_TOLERANCE * values[0]).sum())

    whole = rank(terms)
    if whole == 1 + sum(t.columns.shape[1] for t in terms):
        return
    involved = [
        term.name
        for i, term in enumerate(terms)
        if whole - rank([*terms[:i], *terms[i + 1 :]]) < term.columns.shape[1]
    ]
    raise ValueError(
        f"the effects of {', '.join(involved)} cannot be told apart in these {n} samples: they are "
        f"collinear; leave a condition out, or record trials of the missing combinations"
    )


def residual(
    terms: Sequence[Term], responses: Float[Tensor, "sample output"]
) -> Float[Tensor, " output"]:
    """Sum of squares that the terms and a mean leave."""
    design = _design(terms, len(responses)).to(responses)
    Q = torch.linalg.qr(design).Q
    left: Tensor = responses - Q @ (Q.T @ responses)
    return left.square().sum(0)


def _design(terms: Sequence[Term], n: int) -> Tensor:
    return torch.cat([torch.ones(n, 1, dtype=torch.float64), *(t.columns for t in terms)], 1)


def partition(
    terms: Sequence[Term], responses: Float[Tensor, "sample output"]
) -> tuple[dict[Term, Float[Tensor, " output"]], Float[Tensor, " output"]]:
    """Type-II sums of squares of every term, and what all leave.

    That of a term is what it adds to all terms that do not contain it. In a balanced design they
    are the marginal sums, and add up.

    Returns:
        By term, and the residual.
    """
    found = {}
    for term in terms:
        others = [t for t in terms if not set(term.conditions) <= set(t.conditions)]
        found[term] = residual(others, responses) - residual([*others, term], responses)
    return found, residual(terms, responses)


def cross_validated(
    terms: Sequence[Term],
    responses: Float[Tensor, "sample output"],
    folds: Sequence[Tensor],
) -> tuple[dict[Term, Float[Tensor, " output"]], Tensor, Tensor]:
    """The same on samples that the coefficients have not seen.

    Returns:
        By term, the residual, and the total about the mean of the other folds.
    """

    def missed(chosen: Sequence[Term]) -> Tensor:
        design, total = _design(chosen, len(responses)).to(responses), responses.new_zeros(())
        for test in folds:
            train = torch.ones(len(responses), dtype=torch.bool)
            train[test] = False
            fitted = torch.linalg.lstsq(design[train], responses[train], driver="gelsd").solution
            total = total + (responses[test] - design[test] @ fitted).square().sum(0)
        return total

    found = {}
    for term in terms:
        others = [t for t in terms if not set(term.conditions) <= set(t.conditions)]
        found[term] = missed(others) - missed([*others, term])
    return found, missed(terms), missed([])
