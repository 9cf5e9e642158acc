"""What a lesion does to a tensor, and how weights are lesioned and put back."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Inexact, Int
from torch import Tensor, nn

from neuros_mechint.activations import EditContext, Site
from neuros_mechint.activations.site import find_module
from neuros_mechint.interventions._ablation_engine import unit_position

__all__ = [
    "LESION_KINDS",
    "ActivationEdit",
    "Damage",
    "WeightLesion",
    "chosen",
    "lesioned_parameters",
]

LESION_KINDS = ("zero", "scale", "noise", "mean")

# The lesions that act on a parameter, innermost last, noted on the parameter itself.
_LEDGER = "_neuros_mechint_lesions"


@dataclass(frozen=True)
class Damage:
    """One kind of damage at one severity."""

    kind: str
    severity: float

    def __post_init__(self) -> None:
        if self.kind in {"zero", "mean"} and not 0 <= self.severity <= 1:
            raise ValueError(
                f"severity of kind={self.kind!r} needs a number from 0 to 1, got {self.severity}"
            )
        if self.kind == "noise" and not 0 <= self.severity < math.inf:
            raise ValueError(
                f"severity of kind='noise' needs a number of at least 0, got {self.severity}"
            )
        if not math.isfinite(self.severity):
            raise ValueError(f"severity needs a finite number, got {self.severity}")

    def apply(
        self,
        value: Inexact[Tensor, "*shape"],
        mean: Callable[[], Tensor],
        noise: Callable[[], Tensor],
    ) -> Inexact[Tensor, "*shape"]:
        """Return the damaged value; mean and noise are made only where they are needed."""
        if self.kind == "zero" and self.severity == 1:
            # Not a product, which would keep NaN and infinity.
            return torch.zeros_like(value)
        if self.kind in {"zero", "scale"}:
            return value * (1 - self.severity)
        if self.kind == "mean":
            return torch.lerp(value, mean().expand_as(value), self.severity)
        return value + self.severity * noise()


def chosen(n: int, fraction: float, seed: int, what: str) -> Int[Tensor, "k"]:
    """Numbers of the affected ones of `n`, the same for the same seed; larger shares hold smaller.

    Raises:
        ValueError: When the share comes to nothing.
    """
    count = round(fraction * n)
    if count == 0:
        raise ValueError(
            f"fraction = {fraction} of the {n} {what} is less than one of them; choose at least "
            f"{1 / n:.3g}"
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[:count]


class ActivationEdit:
    """Damage some units of an activation at every forward."""

    def __init__(
        self, damage: Damage, *, fraction: float, unit_axis: int, seeds: tuple[int, int]
    ) -> None:
        self.damage, self.fraction, self.unit_axis = damage, fraction, unit_axis
        self.seed = seeds[0]
        self.generator = torch.Generator().manual_seed(seeds[1])

    def __call__(self, value: Tensor, context: EditContext) -> Tensor:
        if not (value.is_floating_point() or value.is_complex()):
            raise ValueError(
                f"a lesion at '{context.site}' needs floating-point activations, got {value.dtype}"
            )
        axis = unit_position(value, self.unit_axis)
        if self.fraction == 1:
            return self._damaged(value, axis, context)
        # Without an axis beside the batch there is one unit.
        n_units = 1 if axis is None else value.shape[axis]
        units = chosen(n_units, self.fraction, self.seed, f"units at '{context.site}'")
        if axis is None:
            return self._damaged(value, axis, context)
        units = units.to(value.device)
        damaged = self._damaged(value.index_select(axis, units), axis, context)
        return value.clone().index_copy(axis, units, damaged)

    def _damaged(self, value: Tensor, axis: int | None, context: EditContext) -> Tensor:
        def mean() -> Tensor:
            over = [k for k in range(value.ndim) if k != axis]
            if math.prod(value.shape[k] for k in over) < 2:
                raise ValueError(
                    f"kind='mean' at '{context.site}' has one row and position, whose mean is the "
                    "activation itself; run more rows, or take another kind"
                )
            return value.mean(dim=over, keepdim=True)

        def noise() -> Tensor:
            # The size of each row is its own, so that no row depends on the rest of its batch.
            rows = value.reshape(value.shape[0], -1) if value.ndim else value.reshape(1, 1)
            size = rows.abs().square().mean(-1).sqrt()
            size = size.reshape(-1, *[1] * (value.ndim - 1)) if value.ndim else size[0]
            return size * _normal(value, self.generator)

        return self.damage.apply(value, mean, noise)


class WeightLesion(AbstractContextManager[None]):
    """Damage to some entries of some parameters for the length of a `with` block."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        damage: Damage,
        *,
        fraction: float,
        seeds: tuple[int, int],
    ) -> None:
        self._parameters = parameters
        self._damage, self._fraction, self._seeds = damage, fraction, seeds
        self._originals: list[Tensor] = []

    def __enter__(self) -> None:
        masks = self._masks()
        generator = torch.Generator().manual_seed(self._seeds[1])
        # All copies come before the first change.
        self._originals = [parameter.detach().clone() for parameter in self._parameters]
        try:
            with torch.no_grad():
                for parameter, mask in zip(self._parameters, masks, strict=True):
                    damaged = self._damaged(parameter.detach(), generator)
                    parameter.copy_(damaged if mask is None else parameter.where(~mask, damaged))
        except BaseException:
            self._put_back()
            raise
        for parameter in self._parameters:
            vars(parameter).setdefault(_LEDGER, []).append(id(self))

    def __exit__(self, *_: object) -> None:
        self.require_last()
        self._put_back()
        for parameter in self._parameters:
            vars(parameter)[_LEDGER].pop()
            if not vars(parameter)[_LEDGER]:
                del vars(parameter)[_LEDGER]

    def require_last(self) -> None:
        """Refuse to be taken away before a lesion that came later.

        Raises:
            RuntimeError: When a later lesion of the same parameters is still in place.
        """
        if any(vars(parameter)[_LEDGER][-1] != id(self) for parameter in self._parameters):
            raise RuntimeError(
                "another lesion was applied to the same weights after this one; restore that one "
                "first"
            )

    def _put_back(self) -> None:
        with torch.no_grad():
            for parameter, original in zip(self._parameters, self._originals, strict=True):
                parameter.copy_(original)
        self._originals = []

    def _masks(self) -> list[Tensor | None]:
        if self._fraction == 1:
            return [None] * len(self._parameters)
        sizes = [parameter.numel() for parameter in self._parameters]
        hit = torch.zeros(sum(sizes), dtype=torch.bool)
        hit[chosen(sum(sizes), self._fraction, self._seeds[0], "weights")] = True
        return [
            part.reshape(parameter.shape).to(parameter.device)
            for part, parameter in zip(torch.split(hit, sizes), self._parameters, strict=True)
        ]

    def _damaged(self, value: Tensor, generator: torch.Generator) -> Tensor:
        size = value.abs().square().mean().sqrt()
        return self._damage.apply(value, value.mean, lambda: size * _normal(value, generator))


def lesioned_parameters(model: nn.Module, site: Site) -> list[nn.Parameter]:
    """Parameters below a module path, or the one that the path names; tied ones once.

    Raises:
        KeyError: When the path names neither.
        ValueError: When the site is more than a path, or there is no floating-point parameter.
    """
    if site != Site(site.path):
        raise ValueError(
            f"level='weight' needs the path of a module or parameter, got the site '{site}'; leave "
            "side, key, call and index out"
        )
    parent, _, name = site.path.rpartition(".")
    holder = model if not parent else _module_or_none(model, parent)
    named = None if holder is None else vars(holder)["_parameters"].get(name)
    found = [*find_module(model, site).parameters()] if named is None else [named]
    distinct: dict[Any, nn.Parameter] = {}
    for parameter in found:
        if parameter.is_floating_point() or parameter.is_complex():
            # Tied weights may be one parameter, or several over the same memory.
            memory = parameter.untyped_storage().data_ptr(), parameter.storage_offset()
            distinct.setdefault((*memory, parameter.numel()), parameter)
    if not distinct:
        raise ValueError(
            f"'{site}' has no floating-point parameters to lesion; take its activation"
        )
    return [*distinct.values()]


def _module_or_none(model: nn.Module, path: str) -> nn.Module | None:
    return dict(model.named_modules(remove_duplicate=False)).get(path)


def _normal(value: Tensor, generator: torch.Generator) -> Tensor:
    # On the CPU, so that a lesion is the same on every device.
    drawn = torch.randn(value.shape, generator=generator, dtype=value.dtype)
    return drawn.to(value.device)
