"""From stimuli to the activation of a unit."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_mechint.activations import Edit, Replace, Site, SiteLike, intervene
from neuros_mechint.activations._container import first_tensor
from neuros_mechint.activations._inputs import call_arguments, count_rows, tile_rows
from neuros_mechint.activations.site import as_site

__all__ = ["Reader"]

Unit = int | tuple[int, ...] | None


class Reader:
    """Activation of one or several units for a batch of stimuli.

    Args:
        model: The model.
        site: What to read; None is the model's output.
        units: Indices into each row of the value; what they leave is averaged.
        at: Site where the stimulus takes the place of the activation; None is the first argument.
        inputs: What the model reads while the stimulus is put at `at`, one row.
    """

    def __init__(
        self,
        model: nn.Module,
        site: SiteLike | None,
        units: Sequence[Unit],
        *,
        at: SiteLike | None,
        inputs: Any,
    ) -> None:
        if (at is None) != (inputs is None):
            raise ValueError(
                "at and inputs belong together: where the stimulus goes, and what the model reads "
                "meanwhile, such as tokens for an embedding"
            )
        self.model = model
        self.site = None if site is None else as_site(model, site)
        self.units = list(units)
        self.at = None if at is None else as_site(model, at)
        self.arguments = None if inputs is None else call_arguments(model, inputs)
        if self.arguments is not None and count_rows(self.arguments) != 1:
            raise ValueError(f"inputs needs one row, got {count_rows(self.arguments)}")

    def __repr__(self) -> str:
        return f"{type(self.model).__name__}, {self._place!r}, unit={self.units}"

    def like(self) -> Tensor:
        """Scalar with the data type and device of the model's parameters."""
        floats = (p for p in self.model.parameters() if p.is_floating_point())
        found = next(floats, torch.zeros(()))
        return torch.zeros((), dtype=found.dtype, device=found.device)

    def read(self, x: Float[Tensor, "stimulus *shape"]) -> Float[Tensor, "stimulus"]:
        """Activation of each stimulus: the first share of them for the first unit, and so on."""
        value = self._value(x)
        if value.ndim == 0 or len(value) != len(x):
            raise ValueError(
                f"site '{self._place}' needs one row per stimulus, {len(x)} in dimension "
                f"0, got shape {tuple(value.shape)}"
            )
        parts = value.tensor_split(len(self.units))
        return torch.cat([self._pick(part, u) for part, u in zip(parts, self.units, strict=True)])

    def _value(self, x: Tensor) -> Tensor:
        edits: dict[SiteLike, Edit] = {}
        args, kwargs = call_arguments(self.model, (x,))
        if self.at is not None and self.arguments is not None:
            edits = {self.at: Replace(x)}
            args, kwargs = tile_rows(self.arguments, 1, len(x))
        capture: list[Site] = [] if self.site is None else [self.site]
        with intervene(self.model, edits, capture=capture, detach=False) as cache:
            output = self.model(*args, **kwargs)
        return first_tensor(output) if self.site is None else cache[self.site]

    @property
    def _place(self) -> str:
        return "output" if self.site is None else str(self.site)

    def _pick(self, value: Tensor, unit: Unit) -> Tensor:
        try:
            chosen = value if unit is None else value[_index(value, unit)]
        except IndexError as error:
            raise ValueError(
                f"unit {unit!r} does not fit site '{self._place}' of shape "
                f"{tuple(value.shape)}: {error}"
            ) from None
        return chosen.flatten(1).mean(1) if chosen.ndim > 1 else chosen


def _index(value: Tensor, unit: int | tuple[int, ...]) -> Any:
    """Index of a unit: a channel of images is dimension 1, of everything else the last one."""
    if isinstance(unit, tuple):
        return (slice(None), *unit)
    if value.ndim < 2:
        raise IndexError("there is one number per row, which None reads")
    return (slice(None), unit) if value.ndim == 4 else (..., unit)
