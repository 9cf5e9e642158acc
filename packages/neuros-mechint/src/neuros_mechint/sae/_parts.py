"""Batches of rows that belong together, from tensors, a store or a model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from neuros_mechint.activations import ActivationStore, SiteLike
from neuros_mechint.sae._plan import Parts, Plan
from neuros_mechint.sae._rows import pieces, row_batches

__all__ = ["part_batches", "rows_of"]


def rows_of(values: Iterable[Tensor]) -> Parts:
    """Activations (..., width) as rows; the same row of each belongs together."""
    parts = tuple(value.reshape(-1, value.shape[-1]) for value in values)
    if len({len(part) for part in parts}) > 1:
        raise ValueError(
            f"the sites of one coder need the same number of rows, got {[len(p) for p in parts]}"
        )
    return parts


def part_batches(
    data: Any, plan: Plan, sites: Sequence[SiteLike], batch_size: int
) -> Iterator[Parts]:
    """Yield rows in the order of the data, one tensor for each part of the coder."""
    if plan.n_parts == 1:
        for rows in row_batches(data, sites[0] if sites else None, batch_size):
            yield (rows,)
    elif isinstance(data, ActivationStore):
        for batch in data.batches(batch_size, sites=_stored(data, plan, sites)):
            yield tuple(batch.values())
    elif sites and not plan.names:
        raise ValueError("site= needs a model, or a store of activations as data")
    else:
        whole = isinstance(data, Mapping) or (
            isinstance(data, tuple) and all(isinstance(part, Tensor) for part in data)
        )
        for given in [data] if whole else data:
            cuts = (pieces(part, batch_size) for part in rows_of(_parts(given, plan)))
            yield from zip(*cuts, strict=True)


def _stored(store: ActivationStore, plan: Plan, sites: Sequence[SiteLike]) -> Sequence[SiteLike]:
    if len(sites) != plan.n_parts:
        raise ValueError(
            f"this coder reads {plan.n_parts} sites, name them with site=(...), in its order; the "
            f"store holds {[str(site) for site in store.sites]}"
        )
    return sites


def _parts(given: Any, plan: Plan) -> list[Tensor]:
    """Tensors of one batch in the order in which the coder takes them."""
    needed = f"the sites {list(plan.names)} by name" if plan.names else f"{plan.n_parts} tensors"
    found: list[Any] = []
    if plan.names and isinstance(given, Mapping):
        found = [given.get(name) for name in plan.names]
    elif not plan.names and isinstance(given, (tuple, list)):
        found = list(given)
    fits = all(isinstance(part, Tensor) and part.ndim >= 2 for part in found)
    if len(found) != plan.n_parts or not fits:
        raise ValueError(
            f"data needs batches of {needed}, each of shape (..., width), got {_told(given)}"
        )
    return found


def _told(given: Any) -> str:
    if isinstance(given, Mapping):
        return str({name: _told(part) for name, part in given.items()})
    if isinstance(given, (tuple, list)):
        return str([_told(part) for part in given])
    return str(tuple(given.shape)) if isinstance(given, Tensor) else type(given).__name__
