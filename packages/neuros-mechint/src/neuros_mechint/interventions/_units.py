"""Sites of units, heads and components, by their numbers or kinds."""

from collections.abc import Iterable
from dataclasses import replace
from operator import index as as_int
from typing import Any

from torch import nn

from neuros_mechint.activations import Site
from neuros_mechint.interventions import _structure

__all__ = ["COMPONENTS", "component_sites", "head_site", "unit_index"]

_PARTS: tuple[_structure.Kind, ...] = ("attention", "mlp", "embedding", "norm")
COMPONENTS = (*_PARTS, "head")


def unit_index(site: Site, units: int | Iterable[int], axis: int) -> Site:
    """Site of some units of a layer.

    Raises:
        ValueError: When the site has an index already or no unit is named.
    """
    if site.index is not None:
        raise ValueError(f"site '{site}' has an index already; name the units in it")
    numbers = [as_int(unit) for unit in units] if isinstance(units, Iterable) else as_int(units)
    if numbers == []:
        raise ValueError(f"at least one unit of '{site}' is needed, got none")
    whole = (slice(None),)
    index: tuple[Any, ...] = (
        (*whole * axis, numbers) if axis >= 0 else (..., numbers, *whole * (-axis - 1))
    )
    return replace(site, index=index)


def component_sites(model: nn.Module, kind: str, path: str) -> list[Site]:
    """Sites of all parts of a kind at or below a path.

    Raises:
        KeyError: When the path names no module.
        ValueError: When there is none.
    """
    known: dict[str, _structure.Kind] = {part: part for part in _PARTS}
    if kind not in known:
        raise ValueError("component='head' needs a head: (path, 3) or (path, [0, 3])")
    found = [
        Site(part)
        for part in _structure.parts(model, known[kind])
        if not path or part == path or part.startswith(f"{path}.")
    ]
    if not found:
        raise ValueError(f"no {kind} at or below '{path}'; name the sites without component=")
    return found


def head_site(model: nn.Module, path: str, heads: int | Iterable[int], n_heads: int | None) -> Site:
    """Site of some heads of the one attention at or below a path: what they hand to its projection.

    Raises:
        ValueError: When there is not one attention, their number is unknown or does not divide the
            width, or a head does not exist.
    """
    attention = component_sites(model, "attention", path)
    if len(attention) != 1:
        raise ValueError(f"'{path}' holds {len(attention)} attentions; name one of them")
    count = n_heads or _structure.n_heads(model)
    if count is None:
        raise ValueError(
            "the number of heads is unknown: the model has no configuration that tells; pass "
            "n_heads= at construction"
        )
    projection = _structure.output_projection(model, attention[0].path)
    width = _input_width(model.get_submodule(projection))
    if width % count:
        raise ValueError(f"'{projection}' takes {width} channels, which {count} heads do not share")
    chosen = [as_int(head) for head in heads] if isinstance(heads, Iterable) else [as_int(heads)]
    if not chosen or not all(0 <= head < count for head in chosen):
        raise ValueError(f"heads of '{path}' are 0 to {count - 1}, got {chosen}")
    size = width // count
    channels = [channel for head in chosen for channel in range(head * size, (head + 1) * size)]
    return unit_index(Site(projection, io="input"), channels, -1)


def _input_width(projection: nn.Module) -> int:
    # GPT-2's Conv1D keeps its weight as (in, out) and names neither.
    weight = projection.get_parameter("weight")
    return int(getattr(projection, "in_features", weight.shape[0]))
