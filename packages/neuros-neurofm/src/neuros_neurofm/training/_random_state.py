"""The random number generators of the process, as something a checkpoint can hold."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def random_state() -> dict[str, Any]:
    """Take the states of Python's, NumPy's and torch's global generators."""
    return {
        "python": random.getstate(),
        "numpy": _to_tensors(np.random.mtrand.get_state(legacy=False)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` took."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.mtrand.set_state(_to_arrays(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put the random state and the model's mode back on leaving."""
    before, training = random_state(), model.training
    try:
        yield
    finally:
        set_random_state(before)
        model.train(training)


def _to_tensors(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _to_tensors(value) for key, value in state.items()}
    return torch.from_numpy(state) if isinstance(state, np.ndarray) else state


def _to_arrays(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _to_arrays(value) for key, value in state.items()}
    return state.numpy() if isinstance(state, Tensor) else state
