"""A block that runs inside a training and leaves no trace in it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from neuros_mechint.activations._state import evaluating

__all__ = ["undisturbed"]


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluate a model without gradient; then all that a training depends on is as it was.

    That is the random state of Python, NumPy and torch (CPU and CUDA), the mode of every module,
    every buffer, gradient and `requires_grad`.
    """
    gradients = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    draws = _RandomState()
    try:
        with evaluating(model), torch.no_grad():
            for parameter, _, _ in gradients:
                parameter.grad = None
            yield
    finally:
        for parameter, gradient, wanted in gradients:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient
        draws.restore()


class _RandomState:
    """The state of every global random generator."""

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy = np.random.mtrand.get_state(legacy=False)
        self._cpu = torch.get_rng_state()
        # Asking for its state would start CUDA in a process that does not use it.
        cuda: Any = torch.cuda
        self._cuda = cuda.get_rng_state_all() if cuda.is_initialized() else []

    def restore(self) -> None:
        """Put all of them back."""
        random.setstate(self._python)
        np.random.mtrand.set_state(self._numpy)
        torch.set_rng_state(self._cpu)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
