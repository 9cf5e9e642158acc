"""The edit of a sweep: a part of an activation comes from another run."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from neuros_mechint.activations._editing import EditContext, fitted

__all__ = ["Transplant"]


class Transplant:
    """Replace every call of a module, or a part of each, by the same call of another run.

    It can write into memory of the caller, which saves the many edits of a sweep two copies each.

    Args:
        calls: Values of the other run.
        part: Integers, slices and an ellipsis, an index over each value; None is all of it.
        fixed: Whether the first value stands for whatever call there is.
    """

    __slots__ = ("calls", "fixed", "part")

    def __init__(self, calls: Sequence[Tensor], part: Any = None, *, fixed: bool = False) -> None:
        self.calls, self.part, self.fixed = calls, part, fixed

    def __call__(self, value: Tensor, context: EditContext) -> Tensor:
        if self.part is None:
            return fitted("value", self._source(context), value).clone()
        changed = value.clone()
        self.write(changed, context)
        return changed

    def write(self, value: Tensor, context: EditContext) -> None:
        """Change a value in place.

        Raises:
            IndexError: When the part does not exist.
            ValueError: When the other run made fewer calls, or shape or dtype do not fit.
        """
        source = self._source(context)
        own = value if self.part is None else value[self.part]
        own.copy_(fitted("value", source if self.part is None else source[self.part], own))

    def _source(self, context: EditContext) -> Tensor:
        call = 0 if self.fixed else context.call
        if call >= len(self.calls):
            raise ValueError(
                f"site '{context.site}' was reached {len(self.calls)} times in the source run and "
                "more often in the target run"
            )
        return self.calls[call]
