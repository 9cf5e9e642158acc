import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

RUN = runpy.run_path(str(Path(__file__).with_name("resumable_run.py")))


def everything(trainer: Any) -> dict[str, Any]:
    return {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.scheduler.state_dict(),
        "loss": trainer.loss.state_dict(),
        "history": trainer.history,
        "torch": torch.get_rng_state(),
        "numpy": np.random.mtrand.random_sample(),
    }


def assert_identical(first: Any, second: Any, where: str = "") -> None:
    assert type(first) is type(second), where
    if isinstance(first, Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key, value in first.items():
            assert_identical(value, second[key], f"{where}.{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for k, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_identical(a, b, f"{where}[{k}]")
    else:
        assert first == second, where


@pytest.fixture(scope="module")
def wreck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of runs that SIGKILL ended, each in a process of its own."""
    if not hasattr(os, "fork"):
        pytest.skip("needs a system with fork and SIGKILL")
    folder = tmp_path_factory.mktemp("wreck")
    command = [sys.executable, RUN["__file__"], str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow  # A process that loads torch and Lightning anew, and four runs.
@pytest.mark.parametrize("kind", RUN["KINDS"])
def test_a_killed_run_goes_on_as_if_it_had_not_been_killed(kind: str, wreck: Path) -> None:
    whole = RUN["build_trainer"](kind)
    whole.fit(3)
    expected = everything(whole)
    for step in RUN["KILLS"]:
        resumed = RUN["build_trainer"](kind)
        torch.manual_seed(99)
        np.random.mtrand.seed(99)
        resumed.load_checkpoint(wreck / f"{kind}_{step}.ckpt")
        assert resumed.global_step == step
        resumed.fit(3)
        assert resumed.global_step == 18
        assert_identical(everything(resumed), expected, f"killed after step {step}")


def test_a_run_resumed_between_epochs_goes_on(tmp_path: Path) -> None:
    whole = RUN["build_trainer"]("replayed")
    whole.fit(2)
    expected = everything(whole)
    first = RUN["build_trainer"]("replayed", folder=tmp_path)
    first.fit(1)
    resumed = RUN["build_trainer"]("replayed")
    resumed.load_checkpoint(tmp_path / "last.ckpt")
    torch.rand(5)
    resumed.fit(2)
    assert_identical(everything(resumed), expected)


def test_a_resumable_sampler_is_set_to_its_position_without_reading_data() -> None:
    saved: dict[str, Any] = {}

    class SaveAt:
        def on_step_end(self, trainer: Any, step: int, loss: float) -> None:
            if step == 9:
                saved.update(trainer._position.state_dict())

        def on_epoch_end(self, trainer: Any, epoch: int, metrics: Any) -> None:
            pass

    trainer = RUN["build_trainer"]("batches", [SaveAt()])
    trainer.fit(2)
    assert saved["n_used"] == 6
    loader = RUN["build_loader"]("batches")
    position = RUN["build_trainer"]("batches")._position
    position.load_state_dict(saved)
    rest = [batch["spike"] for batch in position.batches(loader, 1)]
    everything_of_epoch = RUN["build_loader"]("batches")
    everything_of_epoch.batch_sampler.set_epoch(1)
    expected = [batch["spike"] for batch in everything_of_epoch][6:]
    assert_identical(rest, expected)


@pytest.mark.parametrize("kind", ["replayed", "batches"])
def test_a_loader_that_is_too_short_for_the_position_is_refused(kind: str) -> None:
    position = RUN["build_trainer"](kind)._position
    loader = RUN["build_loader"](kind)
    next(position.batches(loader, 0))
    position.n_used = 13
    state = position.state_dict()
    position.load_state_dict(state)
    with pytest.raises(ValueError, match="13 batches into its epoch, this loader has only 12"):
        next(position.batches(loader, 0))
