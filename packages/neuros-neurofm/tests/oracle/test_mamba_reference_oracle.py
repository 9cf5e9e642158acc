"""Scans and block beside those of mamba-ssm, which import on a CPU only file by file."""

import ast
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional

from neuros_neurofm.models.mamba import MambaBlock
from neuros_neurofm.ops import selective_scan, ssd

pytestmark = pytest.mark.oracle

SPEC = importlib.util.find_spec("mamba_ssm")
if SPEC is None or not SPEC.submodule_search_locations:
    pytest.skip("needs the Python files of mamba-ssm", allow_module_level=True)


class GateNormStandIn(nn.Module):
    """The one parameter of a module that imports Triton."""

    def __init__(self, features: int, **_: object) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))


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
    vars(combined).update(mamba_chunk_scan_combined=None, mamba_split_conv1d_scan_combined=None)
    gated = types.ModuleType("mamba_ssm.ops.triton.layernorm_gated")
    vars(gated)["RMSNorm"] = GateNormStandIn
    compiled = types.ModuleType("selective_scan_cuda")
    for module in (package, norm, combined, gated, compiled):
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


class Scan(NamedTuple):
    """Which of the scan's optional inputs are given."""

    groups: int = 0
    skip: bool = True
    gate: bool = True
    bias: bool = True
    softplus: bool = True


SCANS = {
    "all": Scan(groups=2),
    "maps without groups": Scan(),
    "no gate": Scan(groups=4, gate=False),
    "no skip": Scan(skip=False),
    "plain steps": Scan(bias=False, softplus=False),
    "nothing": Scan(skip=False, gate=False, bias=False, softplus=False),
}


@pytest.mark.usefixtures("_reference")
@pytest.mark.parametrize("length", [1, 100, 2048])
@pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS)
def test_selective_scan_equals_the_reference(length: int, scan: Scan) -> None:
    reference = load("ops.selective_scan_interface", "selective_scan_ref")
    torch.manual_seed(0)
    u, z = torch.randn(2, 8, length), torch.randn(2, 8, length)
    # Steps that no softplus makes positive are positive from the start.
    delta = torch.randn(2, 8, length) if scan.softplus else torch.rand(2, 8, length)
    A = -torch.rand(8, 4) - 0.1
    shape = (2, scan.groups, 4, length) if scan.groups else (2, 4, length)
    B, C = torch.randn(shape), torch.randn(shape)
    optional = {
        "D": torch.randn(8) if scan.skip else None,
        "z": z if scan.gate else None,
        "delta_bias": torch.randn(8) if scan.bias else None,
        "delta_softplus": scan.softplus,
        "return_last_state": True,
    }
    theirs, their_state = reference(u, delta, A, B, C, **optional)
    ours, state = selective_scan(u, delta, A, B, C, **optional)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state, their_state, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("_reference")
@pytest.mark.parametrize("chunk_size", [48, 64, 300])
def test_ssd_equals_the_reference(chunk_size: int) -> None:
    reference = load("modules.ssd_minimal", "ssd_minimal_discrete")
    torch.manual_seed(0)
    x = torch.randn(2, 256, 4, 8)
    dt = functional.softplus(torch.randn(2, 256, 4) - 4)
    A = -torch.rand(4).exp()
    B, C = (torch.randn(2, 256, 2, 16) for _ in range(2))
    # The reference knows no groups: every head has maps of its own.
    B4, C4 = B.repeat_interleave(2, 2), C.repeat_interleave(2, 2)
    theirs, their_state = reference(x * dt.unsqueeze(-1), A * dt, B4, C4, 64)
    ours, state = ssd(x, dt, A, B, C, chunk_size=chunk_size, return_final_state=True)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state, their_state, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("_reference")
def test_ssd_continues_from_a_state_as_the_reference_does() -> None:
    reference = load("modules.ssd_minimal", "ssd_minimal_discrete")
    torch.manual_seed(0)
    x, h = torch.randn(2, 128, 4, 8), torch.randn(2, 4, 8, 16)
    dt = functional.softplus(torch.randn(2, 128, 4) - 4)
    A = -torch.rand(4).exp()
    B, C = (torch.randn(2, 128, 4, 16) for _ in range(2))
    theirs, their_state = reference(x * dt.unsqueeze(-1), A * dt, B, C, 64, h[:, None])
    ours, state = ssd(x, dt, A, B, C, initial_state=h, return_final_state=True)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state, their_state, atol=1e-4, rtol=1e-4)


@pytest.fixture
def reference_mamba(_reference: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The reference's block of version 1, its scan replaced by the reference scan."""
    block = load("modules.mamba_simple", "Mamba")
    module = sys.modules[block.__module__]
    reference = load("ops.selective_scan_interface", "selective_scan_ref")
    for name, value in {
        "selective_scan_fn": reference,
        "causal_conv1d_fn": None,
        "causal_conv1d_update": None,
        "selective_state_update": None,
    }.items():
        monkeypatch.setattr(module, name, value)
    return block


def same_weights(reference: nn.Module, block: MambaBlock) -> None:
    """Draw what starts as a constant anew, then load both ways, strictly."""
    nn.init.normal_(reference.D)
    nn.init.normal_(reference.x_proj.weight, std=0.2)
    block.load_state_dict(reference.state_dict(), strict=True)
    for parameter in reference.parameters():
        nn.init.zeros_(parameter)
    reference.load_state_dict(block.state_dict(), strict=True)


@pytest.mark.parametrize("length", [5, 300])
def test_block_of_version_1_equals_the_reference(reference_mamba: Any, length: int) -> None:
    torch.manual_seed(0)
    reference, block = reference_mamba(32), MambaBlock(32, version=1)
    same_weights(reference, block)
    x = torch.randn(2, length, 32)
    grads, outs = [], []
    for module in (reference, block):
        y = module(x)
        y.square().sum().backward()
        outs.append(y.detach())
        grads.append({name: p.grad for name, p in module.named_parameters()})
    torch.testing.assert_close(outs[1], outs[0], atol=1e-4, rtol=1e-4)
    for name, theirs in grads[0].items():
        scale = float(theirs.abs().max())
        torch.testing.assert_close(grads[1][name], theirs, atol=1e-4 * scale, rtol=1e-4)


def test_step_of_version_1_equals_the_reference(reference_mamba: Any) -> None:
    torch.manual_seed(0)
    reference, block = reference_mamba(32), MambaBlock(32, version=1)
    same_weights(reference, block)
    x = torch.randn(2, 20, 32)
    conv, ssm = reference.allocate_inference_cache(2, 20)
    state = block.init_state(2)
    with torch.no_grad():
        for x_t in x.unbind(1):
            theirs, conv, ssm = reference.step(x_t[:, None], conv, ssm)
            ours, state = block.step(x_t, state)
            torch.testing.assert_close(ours, theirs[:, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state.ssm, ssm, atol=1e-4, rtol=1e-4)
    # The reference keeps the current sample too.
    torch.testing.assert_close(state.conv, conv[..., 1:], atol=1e-4, rtol=1e-4)


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


@pytest.mark.parametrize("sizes", [{}, {"d_state": 32, "expand": 4, "d_conv": 3}])
def test_state_dict_of_version_1_is_that_of_the_reference(
    reference_mamba: Any, sizes: dict[str, int]
) -> None:
    assert shapes(MambaBlock(48, version=1, **sizes)) == shapes(reference_mamba(48, **sizes))


@pytest.mark.usefixtures("_reference")
@pytest.mark.parametrize("sizes", [{}, {"headdim": 32, "ngroups": 2, "expand": 4, "d_conv": 3}])
def test_state_dict_of_version_2_is_that_of_the_reference(sizes: dict[str, int]) -> None:
    reference = load("modules.mamba2", "Mamba2")(128, d_state=64, **sizes)
    assert shapes(MambaBlock(128, **sizes)) == shapes(reference)


def test_fused_scan_still_takes_the_arguments_it_is_given() -> None:
    source = Path(SPEC.submodule_search_locations[0], "ops", "triton", "ssd_combined.py")
    definition = next(
        node
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "mamba_chunk_scan_combined"
    )
    names = [argument.arg for argument in definition.args.args]
    assert names[:6] == ["x", "dt", "A", "B", "C", "chunk_size"]
    assert {"D", "z", "initial_states", "seq_idx", "return_final_states"} <= set(names)


def test_reference_is_the_version_that_the_comparison_was_written_for() -> None:
    assert version("mamba-ssm") == "2.3.2.post1"
