"""Scans beside the reference functions of mamba-ssm, which import on a CPU only file by file."""

import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import functional

from neuros_neurofm.ops import selective_scan, ssd

pytestmark = pytest.mark.oracle

SPEC = importlib.util.find_spec("mamba_ssm")
if SPEC is None or not SPEC.submodule_search_locations:
    pytest.skip("needs the Python files of mamba-ssm", allow_module_level=True)


@pytest.fixture
def _reference(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Empty stand-ins for the package's `__init__` and for what only a GPU can run."""
    pytest.importorskip("einops")
    before = set(sys.modules)
    package = types.ModuleType("mamba_ssm")
    package.__path__ = list(SPEC.submodule_search_locations)
    norm = types.ModuleType("mamba_ssm.ops.triton.layer_norm")
    vars(norm)["_layer_norm_fwd"] = None
    combined = types.ModuleType("mamba_ssm.ops.triton.ssd_combined")
    vars(combined)["mamba_chunk_scan_combined"] = None
    for module in (package, norm, combined, types.ModuleType("selective_scan_cuda")):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("mamba_ssm"):
            monkeypatch.delitem(sys.modules, name, raising=False)


def load(module: str, function: str) -> Any:
    # The reference uses decorators that recent versions of PyTorch call deprecated.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return getattr(importlib.import_module(f"mamba_ssm.{module}"), function)


@pytest.mark.usefixtures("_reference")
@pytest.mark.parametrize("length", [1, 100, 2048])
def test_selective_scan_equals_the_reference(length: int) -> None:
    reference = load("ops.selective_scan_interface", "selective_scan_ref")
    torch.manual_seed(0)
    u, delta, z = (torch.randn(2, 8, length) for _ in range(3))
    A = -torch.rand(8, 4)
    B, C = (torch.randn(2, 2, 4, length) for _ in range(2))
    D, bias = torch.randn(8), torch.randn(8)
    theirs, their_state = reference(
        u, delta, A, B, C, D, z, bias, delta_softplus=True, return_last_state=True
    )
    ours, state = selective_scan(
        u,
        delta,
        A,
        B,
        C,
        D=D,
        z=z,
        delta_bias=bias,
        delta_softplus=True,
        return_last_state=True,
    )
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state, their_state, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("_reference")
def test_ssd_equals_the_reference() -> None:
    reference = load("modules.ssd_minimal", "ssd_minimal_discrete")
    torch.manual_seed(0)
    x = torch.randn(2, 256, 4, 8)
    dt = functional.softplus(torch.randn(2, 256, 4) - 4)
    A = -torch.rand(4).exp()
    B, C = (torch.randn(2, 256, 4, 16) for _ in range(2))
    theirs, their_state = reference(x * dt.unsqueeze(-1), A * dt, B, C, 64)
    ours, state = ssd(x, dt, A, B, C, chunk_size=48, return_final_state=True)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state, their_state, atol=1e-4, rtol=1e-4)
