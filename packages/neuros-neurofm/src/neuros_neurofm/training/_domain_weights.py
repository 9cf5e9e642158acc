"""Read weights of domains, with or without names and classes, and what they belong to."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from neuros_core.domains import ClassSourceWeights, SourceWeights

__all__: list[str] = []


Weights: TypeAlias = SourceWeights | ClassSourceWeights | ArrayLike
Shares: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]
Names: TypeAlias = tuple[Sequence[str] | None, Sequence[str] | None]


def read_simplex(name: str, weights: Weights) -> Shares:
    """Numbers on the simplex, (domain,) or (domain, class)."""
    values: object = weights
    if isinstance(weights, ClassSourceWeights):
        values = weights.joint
    elif isinstance(weights, SourceWeights):
        values = weights.weights
    w = np.array(values, dtype=np.float64)
    if w.ndim not in (1, 2) or not w.size:
        raise ValueError(f"{name} must be (domain,) or (domain, class), got shape {w.shape}")
    if not (np.isfinite(w).all() and (w >= 0).all() and abs(w.sum() - 1.0) <= 1e-6):
        raise ValueError(
            f"{name} must be finite, >= 0 and sum to 1 within 1e-6, got {w.tolist()} "
            f"with sum {w.sum()}"
        )
    return w


def names_of(weights: Weights | None) -> Names:
    """Names of the domains and of the classes, None where the weights have none."""
    return getattr(weights, "names", None), getattr(weights, "classes", None)


def check_same(what: str, w: Shares, names: Names, wanted: Shares, known: Names) -> None:
    """Weights of other domains, or in another order, would be read as something else."""
    if w.shape != wanted.shape:
        raise ValueError(
            f"{what} has shape {w.shape}, weights have {wanted.shape}; they must be equal"
        )
    for ours, theirs in zip(names, known, strict=True):
        if ours is not None and theirs is not None and list(ours) != list(theirs):
            raise ValueError(
                f"{what} has the names {list(ours)}, the weights have {list(theirs)}; they must "
                "be equal and in the same order"
            )


def places(cells: Iterable[Any], w: Shares) -> str:
    """Domains, or pairs of domain and class, as a message names them."""
    pairs = [tuple(int(i) for i in cell) for cell in cells]
    return f"domains {[k for (k,) in pairs]}" if w.ndim == 1 else f"(domain, class) {pairs}"


def cells_of(
    domain_ids: ArrayLike,
    class_ids: ArrayLike | None,
    weights: Weights,
    shape: tuple[int, ...],
) -> Indices:
    """Index of every sample's weight in the row of all weights, (sample,)."""
    if (len(shape) == 2) != (class_ids is not None):
        raise ValueError(
            f"weights with {len(shape)} axes "
            f"{'need' if len(shape) == 2 else 'have no use for'} class_ids"
        )
    names, labels = names_of(weights)
    domains = _index("domain_ids", domain_ids, names, shape[0])
    if class_ids is None:
        return domains
    classes = _index("class_ids", class_ids, labels, shape[1])
    if len(classes) != len(domains):
        raise ValueError(f"got {len(domains)} domain ids and {len(classes)} class ids")
    return domains * shape[1] + classes


def _index(name: str, ids: ArrayLike, names: Sequence[str] | None, n: int) -> Indices:
    array = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if array.ndim != 1:
        raise ValueError(f"{name} must be (sample,), got shape {array.shape}")
    if array.dtype.kind in "US" and names is not None:
        place = {str(key): k for k, key in enumerate(names)}
        unknown = sorted({str(key) for key in array} - place.keys())
        if unknown:
            raise ValueError(f"{name} {unknown} have no weight; known are {list(place)}")
        return np.array([place[str(key)] for key in array], dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, or names where the weights have names")
    if array.size and not 0 <= array.min() <= array.max() < n:
        raise ValueError(
            f"{name} must lie in [0, {n}), got [{array.min()}, {array.max()}]; "
            "give every domain a weight"
        )
    return array.astype(np.int64)
