import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from neuros_neurofm.models import _mamba_kernels as kernels
from neuros_neurofm.models.mamba import MambaBlock

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


# The one test of the fused path: it needs a CUDA device and mamba-ssm.
@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or kernels.ssd_kernel() is None,
    reason="needs a CUDA device and the kernels of mamba-ssm",
)
@pytest.mark.parametrize("packed", [False, True])
def test_fused_kernels_equal_the_torch_path(packed: bool) -> None:
    torch.manual_seed(0)
    fused = MambaBlock(128, backend="cuda").cuda()
    plain = MambaBlock(128, backend="torch").cuda()
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(2, 300, 128, device="cuda")
    seq_idx = None
    if packed:
        seq_idx = torch.tensor([[3] * 100 + [1] * 200, [0] * 299 + [1]], device="cuda")
    _, state = plain(x, return_state=True)
    ours, after = plain(x, state=state, return_state=True, seq_idx=seq_idx)
    theirs, reached = fused(x, state=state, return_state=True, seq_idx=seq_idx)
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(reached.ssm, after.ssm, rtol=1e-3, atol=1e-3)
