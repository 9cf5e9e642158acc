"""Functions with a gradient of their own."""

from typing import Any

import torch

__all__ = ["applied"]


def applied(function: type[torch.autograd.Function], *args: object) -> Any:
    """Result of a function with a gradient of its own."""
    return function.apply(*args)  # type: ignore[no-untyped-call]  # torch's own
