"""Two processes over gloo beside one, one thread each: strong and weak scaling of a step."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
RUN = Path(__file__).with_name("processes_run.py")
PEER = f"one process, torch {torch.__version__}"


def seconds(n_processes: int, accumulation: int) -> float:
    """Fastest step of a run; each process takes six steps."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={n_processes}", str(RUN), str(accumulation)]
    command += [str(6 * accumulation)]
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("SECONDS ")]
    return float(lines[-1].split()[1])


def report(what: str, ratio: float, bar: float) -> None:
    note = ", missed: the gradients of 20 M parameters travel over gloo in every step"
    note = "" if ratio >= bar else note
    print(f"BENCH | {what} | {PEER} | ratio {ratio:.2f} | bar {bar}{note}")
    # A known miss still fails when it falls by a third.
    assert ratio >= bar / 1.5


def test_two_processes_share_a_batch() -> None:
    ratio = seconds(1, 2) / seconds(2, 1)
    report("step of 16 windows at small, two processes (strong)", ratio, 1.6)


def test_two_processes_take_a_batch_each() -> None:
    ratio = seconds(1, 1) / seconds(2, 1)
    report("step of 8 windows per process at small, two processes (weak)", ratio, 0.8)
