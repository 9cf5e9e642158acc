"""Choice between the optional CUDA kernels and the operations in pure PyTorch."""

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from torch import Tensor

__all__: list[str] = []

_BACKENDS = ("auto", "torch", "cuda")
_SCAN = "mamba_ssm.ops.triton.ssd_combined"


@functools.cache
def ssd_kernel() -> Callable[..., Any] | None:
    """The fused scan of `mamba-ssm`, or None where it cannot be imported."""
    if importlib.util.find_spec("mamba_ssm") is None:
        return None
    # An installation whose compiled part does not fit this torch fails in other ways than
    # ImportError; whatever it raises, the operations in PyTorch are there.
    try:
        module = importlib.import_module(_SCAN)
    except (ImportError, OSError, RuntimeError, AttributeError, NameError):
        return None
    kernel: Callable[..., Any] | None = getattr(module, "mamba_chunk_scan_combined", None)
    return kernel


def check_backend(backend: str, version: int | str) -> None:
    """Raise for an unknown backend, or for "cuda" where it cannot be had."""
    if backend not in _BACKENDS:
        raise ValueError(f"backend needs to be one of {_BACKENDS}, got {backend!r}")
    if backend == "cuda" and version != 2:
        raise ValueError(
            f"backend='cuda' needs version=2, got version={version!r}; use backend='auto'"
        )
    if backend == "cuda" and ssd_kernel() is None:
        raise RuntimeError(
            "backend='cuda' needs the package mamba-ssm with its compiled kernels, which cannot "
            "be imported here; install neuros-neurofm[cuda] on a machine with nvcc, or use "
            "backend='auto'"
        )


def uses_kernels(backend: str, *tensors: Tensor) -> bool:
    """Whether these tensors go through the kernels."""
    if backend == "torch":
        return False
    on_cuda = all(x.is_cuda for x in tensors)
    if backend == "cuda" and not on_cuda:
        raise RuntimeError(
            f"backend='cuda' needs every tensor on a CUDA device, got "
            f"{sorted({str(x.device) for x in tensors})}; move them, or use backend='auto'"
        )
    return on_cuda and ssd_kernel() is not None
