"""Peak extra memory of training one Mamba-1 block beside mambapy's, each in its own process."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

# What a process holds before the measured pass is subtracted; the warm-up on a short sequence loads
# whatever the first call loads. The peak is that of the address space (`VmHWM`): `ru_maxrss` starts
# at what the parent held when it forked.
SCRIPT = """
import sys, torch
torch.set_num_threads(1)
torch.manual_seed(0)
if sys.argv[1] == "ours":
    from neuros_neurofm.models.mamba import MambaBlock
    block = MambaBlock(256, version=1)
else:
    from mambapy.mamba import MambaBlock, MambaConfig
    block = MambaBlock(MambaConfig(d_model=256, n_layers=1, pscan=True))

def train(length):
    block.zero_grad()
    x = torch.randn(8, length, 256, requires_grad=True)
    block(x).square().sum().backward()

def kib(name):
    return int(open("/proc/self/status").read().split(name)[1].split()[0])

train(8)
before = kib("VmRSS:")
train(1024)
print(kib("VmHWM:") - before)
"""


def extra_kib(side: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, side], capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_peak_extra_memory_of_training(report: Any) -> None:
    pytest.importorskip("mambapy")
    ours, theirs = extra_kib("ours"), extra_kib("mambapy")
    what = f"Mamba-1 block, forward + backward, L=1024, peak extra memory ({ours // 1024} MiB)"
    report(what, f"mambapy {version('mambapy')}", ours / theirs, 0.15)
