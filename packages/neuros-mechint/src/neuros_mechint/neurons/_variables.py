"""Variables of a data set, or given with a call, and the categories that they form."""

from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint.neurons._gathering import Gathered
from neuros_mechint.neurons._selectivity import INDICES, Index, categorise

__all__ = ["Variable", "categories_of", "checked_index", "values_of"]

Variable: TypeAlias = str | Sequence[Any] | NDArray[np.generic] | Tensor


def values_of(gathered: Gathered, variable: Variable) -> NDArray[np.generic]:
    """One value per row.

    Raises:
        KeyError: When the data set has no such variable.
        ValueError: When there is not one value per row, or a number is not finite.
    """
    if isinstance(variable, str):
        if variable not in gathered.variables:
            raise KeyError(
                f"no variable '{variable}' in the data set; it has {list(gathered.variables)}"
            )
        values = gathered.variables[variable]
    else:
        given = variable.detach().cpu() if isinstance(variable, Tensor) else variable
        values = np.asarray(given)
    n_rows = len(gathered.activations)
    if values.shape != (n_rows,):
        raise ValueError(
            f"a variable needs one value for each of {n_rows} rows, got shape {values.shape}"
        )
    if values.dtype.kind == "f" and not np.isfinite(values.astype(np.float64)).all():
        raise ValueError("a variable needs finite numbers, got NaN or infinity")
    return values


def categories_of(
    gathered: Gathered, variable: Variable, n_bins: int
) -> tuple[NDArray[np.int64], NDArray[np.generic]]:
    """Category of every row, and what the categories are.

    Raises:
        KeyError: When the data set has no such variable.
        ValueError: When they say nothing: one category, or as many as rows.
    """
    codes, categories = categorise(values_of(gathered, variable), n_bins)
    if len(categories) < 2 or len(categories) == len(codes):
        raise ValueError(
            f"selectivity needs at least 2 categories, one of them with several rows, got "
            f"{len(categories)} in {len(codes)} rows"
        )
    return codes, categories


def checked_index(index: str, codes: NDArray[np.int64], categories: NDArray[np.generic]) -> Index:
    """Refuse an index that is unknown or does not fit the variable.

    Raises:
        ValueError: Saying which.
    """
    if index not in INDICES:
        raise ValueError(f"index needs one of {INDICES}, got {index!r}")
    if index == "dprime" and np.bincount(codes).min() < 2:
        raise ValueError("dprime needs at least 2 rows in every category, got 1 in one")
    if index in {"osi", "dsi"} and categories.dtype.kind not in "iuf":
        raise ValueError(f"{index} needs a variable of angles, got {categories.dtype}")
    return cast("Index", index)
