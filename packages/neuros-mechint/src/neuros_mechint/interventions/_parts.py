"""What of a layer a sweep patches separately: positions, neurons, heads."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from neuros_mechint.activations import Site

__all__ = ["Parts"]


class Parts:
    """What of each layer is patched separately."""

    def __init__(
        self,
        positions: Iterable[int] | None,
        neurons: Iterable[int] | None,
        heads: Iterable[int] | None,
        n_heads: int | None,
    ) -> None:
        if heads is not None and neurons is not None:
            raise ValueError("heads and neurons divide the same dimension; give one of them")
        if heads is not None and n_heads is None:
            raise ValueError(
                "heads needs the number of heads: ActivationPatcher(model, n_heads=...)"
            )
        given = {"position": positions, "neuron": neurons, "head": heads}
        self.axes = {name: [*which] for name, which in given.items() if which is not None}
        self.n_heads = n_heads

    def of(self, site: Site, value: Tensor) -> Iterator[tuple[dict[str, int], Any]]:
        """Labels and tensor indices of the parts of one layer; one part, None, without axes."""
        if not self.axes:
            yield {}, None
            return
        if site.index is not None:
            raise ValueError(f"site '{site}' has an index and cannot be divided further")
        self._check(site, value)
        for numbers in itertools.product(*self.axes.values()):
            label = dict(zip(self.axes, numbers, strict=True))
            yield label, self._index(label, value.shape[-1])

    def _index(self, label: Mapping[str, int], width: int) -> Any:
        last: Any = slice(None)
        if "neuron" in label:
            last = label["neuron"]
        elif "head" in label:
            size = width // (self.n_heads or 1)
            last = slice(label["head"] * size, (label["head"] + 1) * size)
        if "position" not in label:
            return (..., last)
        head = (slice(None), label["position"])
        return head if last == slice(None) else (*head, ..., last)

    def _check(self, site: Site, value: Tensor) -> None:
        width = value.shape[-1] if value.ndim > 1 else 0
        limits = {
            "position": value.shape[1] if value.ndim > 2 else 0,
            "neuron": width,
            "head": self.n_heads or 0,
        }
        for name, numbers in self.axes.items():
            # A head counted from the end would give an empty slice.
            wrong = [
                n
                for n in numbers
                if not (0 if name == "head" else -limits[name]) <= n < limits[name]
            ]
            if wrong:
                raise ValueError(
                    f"{name} {wrong[0]} does not exist at site '{site}' with shape "
                    f"{tuple(value.shape)}, which has {limits[name]}"
                )
        if "head" in self.axes and width % (self.n_heads or 1):
            raise ValueError(
                f"site '{site}' has width {width}, which {self.n_heads} heads do not divide"
            )
