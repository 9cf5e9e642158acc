"""Compiled kernels: whether there is a compiler, whether it pays, and the kernels it made."""

import functools
import importlib.util
import inspect
import sys
from typing import Any

import torch

from neuros_mechint.biophysical._fused_lif import (
    Back,
    Kernel,
    Way,
    backward_kernel,
    forward_kernel,
)
from neuros_mechint.biophysical._fused_slopes import SLOPES

__all__ = ["backward_of", "forward_of", "use_fused"]

# Steps times cells from which compiling, once per process and precision, is worth its seconds.
_WORTH_COMPILING = 2**23


def use_fused(
    backend: str, device: torch.device, n_cell_steps: int, way: Way, dtype: torch.dtype
) -> bool:
    """Whether a run goes through compiled kernels.

    Raises:
        RuntimeError: When it must and cannot.
    """
    if backend == "eager":
        return False
    found, on_cpu = importlib.util.find_spec("numba") is not None, device.type == "cpu"
    if backend == "auto":
        pays = n_cell_steps >= _WORTH_COMPILING or _is_compiled(way, dtype)
        return found and on_cpu and pays
    if not found:
        raise RuntimeError(
            "backend='fused' needs numba, which is not installed; install neuros-mechint[fast], "
            "or pass backend='auto'"
        )
    if not on_cpu:
        raise RuntimeError(
            f"backend='fused' compiles for the CPU, got an input on {device}; move the input, or "
            "pass backend='auto'"
        )
    return True


def _is_compiled(way: Way, dtype: torch.dtype) -> bool:
    # Importing numba takes most of a second: who has not done so has compiled nothing.
    return "numba" in sys.modules and bool(getattr(forward_of(way, dtype), "signatures", ()))


def _jit(function: Kernel) -> Any:
    import numba

    # Division as in torch, by zero too. A checker of types may have wrapped the function.
    return numba.njit(error_model="numpy")(inspect.unwrap(function))


@functools.cache
def forward_of(way: Way, _dtype: torch.dtype) -> Kernel:
    """The compiled kernel forward."""
    made: Kernel = _jit(forward_kernel(way))
    return made


@functools.cache
def backward_of(way: Back, kind: str, _dtype: torch.dtype) -> Kernel:
    """The compiled kernel backward, with a kind of surrogate."""
    made: Kernel = _jit(backward_kernel(way, _jit(SLOPES[kind])))
    return made
