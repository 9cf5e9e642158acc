"""The one call of custom gradients that torch leaves without types."""

from typing import Any

from torch.autograd import Function

__all__: list[str] = []


def apply(function: type[Function], *args: object) -> Any:
    """Run a function with gradients of its own."""
    return function.apply(*args)  # type: ignore[no-untyped-call]  # torch leaves it untyped
