"""Two processes over gloo, beside one process with the same global batches."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from neuros_neurofm.training import load_weights
from neuros_neurofm.training._checkpoint_file import read_checkpoint

RUN = runpy.run_path(str(Path(__file__).with_name("distributed_run.py")))

pytestmark = [
    pytest.mark.slow,  # Two processes that load torch and Lightning anew.
    pytest.mark.skipif(
        not torch.distributed.is_available() or sys.platform == "win32",
        reason="needs gloo and torchrun",
    ),
]


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote."""
    folder = tmp_path_factory.mktemp(request.param)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [RUN["__file__"], str(folder), request.param]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def alone() -> tuple[Any, list[dict[str, float]]]:
    """One process that accumulates what two processes read side by side."""
    trainer = RUN["behaviour_trainer"](gradient_accumulation_steps=2)
    return trainer.model, trainer.fit(2)


# The sum over two processes is that of two accumulated batches; sharding adds in another order.
def test_two_processes_train_like_one(folder: Path, alone: Any) -> None:
    expected = alone[0].state_dict()
    state = read_checkpoint(folder / "behaviour.ckpt")["model"]
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=1e-6, atol=1e-6, msg=name)


def test_losses_and_validation_count_every_sample_once(folder: Path, alone: Any) -> None:
    for rank in (0, 1):
        history = torch.load(folder / f"history_{rank}.pt")["history"]
        assert history == [pytest.approx(epoch, rel=1e-6) for epoch in alone[1]]


def test_two_processes_resume_to_the_bit(folder: Path) -> None:
    whole, rest = (read_checkpoint(folder / name) for name in ("whole.ckpt", "rest.ckpt"))
    assert whole["progress"] == rest["progress"]
    assert whole["updates"] == rest["updates"]
    for name, value in whole["model"].items():
        assert torch.equal(value, rest["model"][name]), name


def test_a_run_of_two_processes_is_not_resumed_by_one(folder: Path) -> None:
    trainer = RUN["shuffled_trainer"]()
    with pytest.raises(ValueError, match=r"is of a run of 2 processes, this one has 1; go on with"):
        trainer.load_checkpoint(folder / "middle.ckpt")


def test_one_process_loads_the_weights_of_two(folder: Path) -> None:
    model = RUN["model"]()
    manifest = load_weights(model, folder / "behaviour.ckpt")
    assert manifest.config["processes"] == 2
    state = read_checkpoint(folder / "behaviour.ckpt")["model"]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
