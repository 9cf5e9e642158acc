import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from neuros_neurofm.models import _mamba2
from neuros_neurofm.models import _mamba_kernels as kernels
from neuros_neurofm.models.mamba import MambaBlock
from neuros_neurofm.ops import ssd

without_kernels = pytest.mark.skipif(
    kernels.ssd_kernel() is not None, reason="the kernels of mamba-ssm are installed here"
)


@without_kernels
def test_asking_for_kernels_that_are_not_there_names_the_package() -> None:
    with pytest.raises(RuntimeError, match="needs the package mamba-ssm"):
        MambaBlock(12, headdim=6, backend="cuda")


def test_tensors_on_the_cpu_do_not_use_kernels() -> None:
    assert not kernels.uses_kernels("auto", torch.zeros(1))
    assert not kernels.uses_kernels("torch", torch.zeros(1))
    with pytest.raises(RuntimeError, match=r"every tensor on a CUDA device, got \['cpu'\]"):
        kernels.uses_kernels("cuda", torch.zeros(1))


@pytest.fixture
def _fresh_lookup() -> Iterator[None]:
    kernels.ssd_kernel.cache_clear()
    yield
    for name in [n for n in sys.modules if n.split(".")[0] == "mamba_ssm"]:
        del sys.modules[name]
    kernels.ssd_kernel.cache_clear()


@without_kernels
@pytest.mark.usefixtures("_fresh_lookup")
@pytest.mark.parametrize(
    "content", ["raise RuntimeError('built for another torch')", "import no_such_package", ""]
)
def test_a_broken_installation_of_the_kernels_is_survived(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "mamba_ssm"
    package.mkdir()
    (package / "__init__.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    assert MambaBlock(12, headdim=6)(torch.zeros(1, 3, 12)).shape == (1, 3, 12)
    with pytest.raises(RuntimeError, match="needs the package mamba-ssm"):
        MambaBlock(12, headdim=6, backend="cuda")


def stand_in(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    *,
    dt_softplus: bool = False,
    return_final_states: bool = False,
) -> tuple[Tensor, Tensor]:
    """What the fused scan of mamba-ssm computes, one step after the other, on any device."""
    assert D is not None
    assert z is not None
    assert initial_states is not None
    assert return_final_states
    assert dt_bias is None
    assert not dt_softplus
    per_group = x.shape[2] // B.shape[2]
    B, C = B.repeat_interleave(per_group, 2), C.repeat_interleave(per_group, 2)
    h, before, ys = initial_states, x.new_zeros(x.shape[0], dtype=torch.int32), []
    for t in range(x.shape[1]):
        if seq_idx is not None:
            assert seq_idx.dtype == torch.int32
            # The initial state belongs to sequence 0.
            h = h * (seq_idx[:, t] == before)[:, None, None, None]
            before = seq_idx[:, t]
        entered = (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        h = torch.exp(dt[:, t] * A)[..., None, None] * h + entered
        ys.append((h * C[:, t, :, None]).sum(-1) + D[:, None] * x[:, t])
    return torch.stack(ys, 1) * functional.silu(z), h


@without_kernels
@pytest.mark.usefixtures("_fresh_lookup")
@pytest.mark.parametrize("packed", [False, True])
def test_the_fused_scan_is_given_what_the_torch_path_reads(
    packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mamba_ssm" / "ops" / "triton"
    folder.mkdir(parents=True)
    lines = ["import torch", "from torch import Tensor", "from torch.nn import functional"]
    named = inspect.getsource(stand_in).replace("stand_in", "mamba_chunk_scan_combined")
    (folder / "ssd_combined.py").write_text("\n".join([*lines, named]))
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    operands = (draw(2, 11, 4, 3), draw(2, 11, 4).exp(), -draw(4).exp(), draw(2, 11, 2, 5))
    operands += (draw(2, 11, 2, 5),)
    D, z, h = draw(4), draw(2, 11, 4, 3), draw(2, 4, 3, 5)
    seq_idx = torch.tensor([[3] * 4 + [1] * 7, [0] * 10 + [1]]) if packed else None
    with pytest.raises(RuntimeError, match="kernels of mamba-ssm cannot be imported"):
        _mamba2._scan_on_kernel(operands, D=D, z=z, h=h, seq_idx=seq_idx, chunk_size=4)
    kernels.ssd_kernel.cache_clear()
    monkeypatch.syspath_prepend(tmp_path)
    fused = _mamba2._scan_on_kernel(operands, D=D, z=z, h=h, seq_idx=seq_idx, chunk_size=4)
    plain = ssd(*operands, D=D, z=z, initial_state=h, return_final_state=True, seq_idx=seq_idx)
    for theirs, ours in zip(fused, plain, strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-10, rtol=1e-10)


# The one test of the fused path: it needs a CUDA device and mamba-ssm.
@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or kernels.ssd_kernel() is None,
    reason="needs a CUDA device and the kernels of mamba-ssm",
)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 2e-2)])
def test_fused_kernels_equal_the_torch_path(
    packed: bool, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    fused = MambaBlock(128, backend="cuda").to("cuda", dtype)
    plain = MambaBlock(128, backend="torch").to("cuda", dtype)
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(2, 300, 128, device="cuda", dtype=dtype)
    seq_idx = None
    if packed:
        seq_idx = torch.tensor([[3] * 100 + [1] * 200, [0] * 299 + [1]], device="cuda")
    _, state = plain(x, return_state=True)
    ours, after = plain(x, state=state, return_state=True, seq_idx=seq_idx)
    theirs, reached = fused(x, state=state, return_state=True, seq_idx=seq_idx)
    torch.testing.assert_close(theirs, ours, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(reached.ssm, after.ssm, rtol=tolerance, atol=tolerance)
