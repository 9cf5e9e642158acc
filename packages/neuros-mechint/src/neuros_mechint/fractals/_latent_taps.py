"""Signals taken from the activations of a running model, by taps that change nothing."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor, nn

from neuros_mechint.activations import Site, SiteLike
from neuros_mechint.activations._container import get_leaf
from neuros_mechint.activations._taps import Turns, find_tensor, indexed
from neuros_mechint.activations.site import as_site

__all__ = ["LayerTap", "read_layouts", "take_signals"]

Gather = Callable[[Site, Shaped[Tensor, "item time"]], None]


class LayerTap:
    """A tap that hands over signals of its site while it is open.

    Args:
        site: what it reads.
        layout: axes of the activation.
        most: most signals that it takes.
        gather: gets the site and a copy of the signals.
    """

    edits = False

    def __init__(self, site: Site, layout: str, most: int, gather: Gather) -> None:
        self.site, self.layout, self.most, self.gather = site, layout, most, gather
        self.turns = Turns(site)
        self.open = False
        self.reached = False

    def restart(self, *, due: bool) -> None:
        """Begin another forward, which is measured or not."""
        self.open = due
        self.turns = Turns(self.site)

    def __call__(self, module: nn.Module, holder: Any) -> Any:
        if not self.open or self.turns.take() is None:
            return holder
        value: Tensor = get_leaf(holder, find_tensor(module, self.site, holder))
        if self.site.index is not None:
            value = indexed(self.site, value)
        self.reached = True
        self.gather(self.site, take_signals(value.detach(), self.layout, self.most, self.site))
        return holder


def read_layouts(
    model: nn.Module, layers: Iterable[SiteLike], layout: str | Mapping[SiteLike, str]
) -> dict[Site, str]:
    """Layout of every layer.

    Args:
        model: the model of the layers.
        layers: sites.
        layout: one for all, or one per layer.

    Returns:
        Site -> layout, in the order of the layers.

    Raises:
        KeyError: when a mapping has none for a layer.
        ValueError: when a layout cannot be read.
    """
    sites = [as_site(model, like) for like in layers]
    if isinstance(layout, str):
        found = dict.fromkeys(sites, layout)
    else:
        given = {as_site(model, like): axes for like, axes in layout.items()}
        missing = [str(site) for site in sites if site not in given]
        if missing:
            raise KeyError(f"layout has no entry for the layers {missing}")
        found = {site: given[site] for site in sites}
    for axes in found.values():
        time_axis(axes)
    return found


def time_axis(layout: str) -> int:
    """Position of the axis along which an activation is a signal.

    Raises:
        ValueError: when the layout cannot be read.

    Examples:
        >>> time_axis("btc"), time_axis("bc")
        (1, 0)
    """
    # Without a time axis, the rows of a batch are what comes one after the other.
    name = "t" if "t" in layout else "b"
    if set(layout) <= set("btc") and layout.count(name) == 1:
        return layout.index(name)
    raise ValueError(
        f"layout needs the letters b, t and c with one t, such as 'btc', or 'bc' where rows are "
        f"consecutive samples, got {layout!r}"
    )


def take_signals(
    value: Shaped[Tensor, "..."], layout: str, most: int, site: Site
) -> Shaped[Tensor, "item time"]:
    """Copy some signals of an activation, always the same ones of one shape.

    Args:
        value: activation.
        layout: its axes.
        most: most signals.
        site: where it is, for the message.

    Returns:
        At most `most` signals.

    Raises:
        ValueError: when the activation has other axes than the layout.

    Examples:
        >>> take_signals(torch.arange(6).view(1, 3, 2), "btc", 8, Site("0")).tolist()
        [[0, 2, 4], [1, 3, 5]]
    """
    if value.ndim != len(layout):
        raise ValueError(
            f"layout {layout!r} needs {len(layout)} axes, got an activation of shape "
            f"{tuple(value.shape)} at '{site}'; pass layout= for it"
        )
    signals = value.movedim(time_axis(layout), -1)
    return signals[_spread(tuple(signals.shape[:-1]), most, value.device)]


@lru_cache(maxsize=64)
def _spread(
    shape: tuple[int, ...], most: int, device: torch.device
) -> tuple[Int64[Tensor, " item"], ...]:
    """Indices of at most `most` items of a grid, spread evenly over every axis."""
    n = math.prod(shape)
    # Steps of a golden share of the items: even ones would meet the same channels in every row.
    stride = max(1, round(n * (math.sqrt(5) - 1) / 2)) if n > most else 1
    while math.gcd(stride, n) > 1:
        stride += 1
    items = torch.arange(min(n, most), device=device) * stride % max(n, 1)
    return tuple(torch.unravel_index(items, shape))
