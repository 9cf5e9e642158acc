r"""Demixed principal components (Kobak et al. 2016): axes of each task variable in trial averages.

With $X$ the centred averages and $X_\phi$ their marginalisation over all but the variables
$\phi$, encoder $F$ and decoder $D$ of each $\phi$ minimise
$\|X_\phi - F D X\|^2 + \mu^2 \|F D\|^2$: a reduced-rank ridge regression, solved by one singular
value decomposition.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Demixed", "best_regularizer", "demix", "marginalize"]


class Demixed(NamedTuple):
    """Components of one marginalisation.

    Attributes:
        encoder: Axes along which the neurons carry it, (neurons, components), orthonormal.
        decoder: Weights that read it out, (neurons, components).
        explained: Share of the variance of the averages in each read-out, (components,).
    """

    encoder: Tensor
    decoder: Tensor
    explained: Tensor


def marginalize(
    means: Float[Tensor, "unit *axes"],
) -> dict[tuple[int, ...], Float[Tensor, "unit *axes"]]:
    """Split averages into a part of every set of axes; the parts are orthogonal and sum to all.

    Args:
        means: Averages, one axis a variable.

    Returns:
        By the axes (0 the first variable), the part that varies with just these.

    Examples:
        >>> parts = marginalize(torch.tensor([[[1.0, 3.0], [5.0, 7.0]]]))
        >>> parts[(0,)][0, :, 0]
        tensor([-2.,  2.])
        >>> parts[(0, 1)].abs().max()
        tensor(0.)
    """
    n = means.ndim - 1
    grand = means.mean(tuple(range(1, n + 1)), keepdim=True) if n else means
    parts: dict[tuple[int, ...], Tensor] = {}
    for size in range(1, n + 1):
        for axes in itertools.combinations(range(n), size):
            others = tuple(a + 1 for a in range(n) if a not in axes)
            part = (means.mean(others, keepdim=True) if others else means) - grand
            for smaller, known in parts.items():
                if set(smaller) < set(axes):
                    part = part - known
            parts[axes] = part
    return {axes: part.expand_as(means) for axes, part in parts.items()}


def demix(
    means: Float[Tensor, "unit *axes"],
    parts: Mapping[str, Float[Tensor, "unit *axes"]],
    *,
    n_components: int,
    regularizer: float,
) -> dict[str, Demixed]:
    """Components of each part.

    Args:
        means: Averages.
        parts: Marginalisations of the centred averages, joined as wanted.
        n_components: Components of each.
        regularizer: The ridge in units of the summed variance: mu = regularizer * ||X||^2.

    Returns:
        Components by name.
    """
    X = (means - means.flatten(1).mean(1).reshape(-1, *[1] * (means.ndim - 1))).flatten(1)
    total = X.square().sum()
    mu = regularizer * total
    gram = X @ X.T + mu.square() * torch.eye(len(X)).to(X)
    # Without a ridge the Gram matrix may lack rank; then the pseudo-inverse has the least norm.
    inverse = torch.linalg.pinv(gram, hermitian=True)
    found = {}
    for name, part in parts.items():
        C = part.flatten(1) @ X.T @ inverse
        # The left vectors of C [X, mu I] are those of its square, which is of neurons only.
        values, vectors = torch.linalg.eigh(C @ gram @ C.T)
        n = min(n_components, len(values))
        encoder = vectors.flip(-1)[:, :n]
        decoder = (encoder.T @ C).T
        explained = (decoder.T @ X).square().sum(1) / total
        found[name] = Demixed(encoder, decoder, explained)
    return found


def best_regularizer(
    trials: Sequence[Float[Tensor, "trial unit *time"]],
    shape: tuple[int, ...],
    joined: Mapping[str, Sequence[tuple[int, ...]]],
    *,
    n_components: int,
    generator: torch.Generator | None,
    n_repeats: int = 5,
) -> float:
    """The regularizer whose components of the averages best predict held-out trials' averages.

    Args:
        trials: The trials of every cell, in the order of the cells.
        shape: Levels of each variable; the cells lie in that order.
        joined: Sets of axes of every part; the last axis is time where trials have one.
        n_components: Components of each part.
        generator: Draws the trial of every cell that is held out.
        n_repeats: Draws.

    Returns:
        The number of a grid from 1e-7 to 1e-3 with the least error.
    """
    grid = torch.logspace(-7, -3, 9).tolist()
    errors = torch.zeros(len(grid))
    for _ in range(n_repeats):
        held, kept = [], []
        for cell in trials:
            out = int(torch.randint(len(cell), (), generator=generator))
            held.append(cell[out])
            kept.append((cell.sum(0) - cell[out]) / (len(cell) - 1))
        train, test = (_grid_of(cells, shape) for cells in (kept, held))
        parts = join(marginalize(train), joined)
        offset = train.flatten(1).mean(1).reshape(-1, *[1] * (train.ndim - 1))
        for i, regularizer in enumerate(grid):
            components = demix(train, parts, n_components=n_components, regularizer=regularizer)
            for name, (encoder, decoder, _) in components.items():
                predicted = encoder @ (decoder.T @ (test - offset).flatten(1))
                errors[i] += (parts[name].flatten(1) - predicted).square().sum().cpu()
    return float(grid[int(errors.argmin())])


def _grid_of(cells: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Cells (unit, *time) as one tensor (unit, *shape, *time)."""
    stacked = torch.stack(list(cells))
    return stacked.reshape(*shape, *stacked.shape[1:]).movedim(len(shape), 0)


def join(
    parts: Mapping[tuple[int, ...], Tensor], joined: Mapping[str, Sequence[tuple[int, ...]]]
) -> dict[str, Tensor]:
    """Sums of the parts that belong together, by name."""
    return {
        name: sum((parts[axes] for axes in sets[1:]), parts[sets[0]])
        for name, sets in joined.items()
    }
